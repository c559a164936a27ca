"""The bound methods, one final class each."""

from __future__ import annotations

from jacobound.certificates.eclipse import ECLipsE
from jacobound.certificates.lipsdp import LipSDP
from jacobound.constants.autolip import AutoLip
from jacobound.constants.pairs.seqlip import SeqLip
from jacobound.jacobian.affine.linear_slopes import LinearSlopes
from jacobound.jacobian.fastlip import FastLip
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.lower_ends.sampling import Sampling
from jacobound.method import Budget
from jacobound.methods.best import Best
from jacobound.relaxation.ranges import CROWN, IBP, FastLin, SinglePrecision

__all__ = [
    "CROWN",
    "IBP",
    "AutoLip",
    "Best",
    "Budget",
    "ECLipsE",
    "FastLin",
    "FastLip",
    "LinearSlopes",
    "LipSDP",
    "RecurJac",
    "Sampling",
    "SeqLip",
    "SinglePrecision",
]
