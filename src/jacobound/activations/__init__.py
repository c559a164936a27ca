"""Elementwise activations: one short entry per function, everything else derived from its pieces and turns."""

from __future__ import annotations

from jacobound.activations.kinds import clipped as clipped
from jacobound.activations.kinds import exponentials as exponentials
from jacobound.activations.kinds import gated as gated
from jacobound.activations.kinds import periodic as periodic
from jacobound.activations.kinds import piecewise as piecewise
from jacobound.activations.kinds import powers as powers
from jacobound.activations.kinds import sigmoidal as sigmoidal
from jacobound.activations.kinds import smooth as smooth
from jacobound.activations.kinds import waves as waves
from jacobound.activations.kinds.base import (
    Activation,
    Family,
    Lines,
    Piece,
    Slopes,
    Stretch,
    Turn,
    activation,
    families,
    onnx_builder,
    register,
    torch_builder,
)

__all__ = [
    "Activation",
    "Family",
    "Lines",
    "Piece",
    "Slopes",
    "Stretch",
    "Turn",
    "activation",
    "families",
    "onnx_builder",
    "register",
    "torch_builder",
]
