"""The bound methods, one final class each; what is exported here is offered, documented and tested.

Command line, `jacobound methods`, the table of `docs/choosing.md` and the soundness tests ask `every` for them.
"""

from __future__ import annotations

from typing import TypeVar

from jacobound.certificates.convolutional import FourierSDP
from jacobound.certificates.eclipse import ECLipsE
from jacobound.certificates.lipsdp import LipSDP
from jacobound.constants.autolip import AutoLip
from jacobound.constants.pairs.seqlip import GreedySeqLip, SeqLip
from jacobound.jacobian.affine.linear_slopes import LinearSlopes
from jacobound.jacobian.fastlip import FastLip
from jacobound.jacobian.recursion.parts import Backward, Both, Chord, Constant, Forward, ForwardShifted
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.lower_ends.sampling import Sampling
from jacobound.method import Budget
from jacobound.methods.best import Best
from jacobound.relaxation.ranges import CROWN, IBP, AlphaCROWN, FastLin, SinglePrecision
from jacobound.splitting.neurons import SplitNeurons
from jacobound.splitting.split import Split

__all__ = [
    "CROWN",
    "IBP",
    "AlphaCROWN",
    "AutoLip",
    "Backward",
    "Best",
    "Both",
    "Budget",
    "Chord",
    "Constant",
    "ECLipsE",
    "FastLin",
    "FastLip",
    "Forward",
    "ForwardShifted",
    "FourierSDP",
    "GreedySeqLip",
    "LinearSlopes",
    "LipSDP",
    "RecurJac",
    "Sampling",
    "SeqLip",
    "SinglePrecision",
    "Split",
    "SplitNeurons",
]

Kind = TypeVar("Kind")


def every(kind: type[Kind]) -> tuple[type[Kind], ...]:
    """The exported classes of one kind, such as `OutputMethod` or `Method`, in the order of `__all__`."""
    exported = (globals()[name] for name in __all__)
    return tuple(one for one in exported if issubclass(one, kind))
