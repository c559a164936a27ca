"""Elementwise activations: one short entry per function, everything else derived from its pieces and turns."""

from __future__ import annotations

from jacobound.activations import clipped as clipped
from jacobound.activations import exponentials as exponentials
from jacobound.activations import gated as gated
from jacobound.activations import periodic as periodic
from jacobound.activations import piecewise as piecewise
from jacobound.activations import powers as powers
from jacobound.activations import sigmoidal as sigmoidal
from jacobound.activations import smooth as smooth
from jacobound.activations.base import (
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
