"""The bound methods, one final class each."""

from __future__ import annotations

from jacobound.methods.autolip import AutoLip
from jacobound.methods.base import Budget
from jacobound.methods.best import Best
from jacobound.methods.crown import CROWN, FastLin
from jacobound.methods.eclipse import ECLipsE
from jacobound.methods.fastlip import FastLip
from jacobound.methods.ibp import IBP
from jacobound.methods.linear_slopes import LinearSlopes
from jacobound.methods.lipsdp import LipSDP
from jacobound.methods.recurjac import RecurJac
from jacobound.methods.sampling import Sampling
from jacobound.methods.seqlip import SeqLip
from jacobound.methods.single_precision import SinglePrecision

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
