"""Exponentials and logarithms: exp, expm1, log, log1p. They are steep without limit, the logarithms at their end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.activations.calculus import formulas
from jacobound.activations.calculus.pieces import Piece
from jacobound.activations.calculus.stretches import POSITIVE, Stretch
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.activations.lines.rules import bent
from jacobound.arithmetic.intervals import Interval


def exp() -> Activation:
    """e^z; infinite bounds where it overflows."""
    return Activation("exp", torch.exp, (Piece("convex", formulas.exp, formulas.exp),), choose=bent(True))


def expm1() -> Activation:
    """e^z - 1, accurate near zero."""
    return Activation("expm1", torch.expm1, (Piece("convex", formulas.expm1, formulas.exp),), choose=bent(True))


def log() -> Activation:
    """The natural logarithm of positive numbers."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return z.log(), 1 / z, -1 / (z * z)

    piece = Piece("concave", Interval.log, formulas.positive_reciprocal, jet=jet)
    return Activation("log", torch.log, (piece,), choose=bent(False), domain=POSITIVE)


def log1p() -> Activation:
    """log(1 + z) for z > -1, accurate near zero."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = 1 / (1 + z)
        return z.log1p(), slope, -slope * slope

    piece = Piece("concave", Interval.log1p, lambda x: formulas.positive_reciprocal(x + 1.0), jet=jet)
    return Activation("log1p", torch.log1p, (piece,), choose=bent(False), domain=(Stretch(-1.0),))


def _spellings(name: str, build: Callable[[], Activation]) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}.default": build, f"aten.{name}_.default": build}


register(Family("exp", exp, _spellings("exp", exp), {"Exp": exp}))
register(Family("expm1", expm1, _spellings("expm1", expm1) | {"aten.special_expm1.default": expm1}))
register(Family("log", log, _spellings("log", log), {"Log": log}))
register(Family("log1p", log1p, _spellings("log1p", log1p) | {"aten.special_log1p.default": log1p}))
