"""GELU's approximation by tanh, with a cubic factor that is the one stored in a model instead of 0.044715."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from jacobound.activations.calculus import formulas
from jacobound.activations.calculus.numbers import irrational
from jacobound.activations.calculus.pieces import Piece
from jacobound.activations.kinds.base import Activation
from jacobound.errors import UnsupportedOpError

FARTHEST = Fraction(1, 10**6)  # of the factor from 0.044715
INFLECTION, MINIMUM = 1.4185040087908284, -0.7524614220710163  # for 0.044715
DRIFT = Fraction(5, 2)  # how far both may move, relative to the change of the factor; truly 2.12 and 0.92


def gelu_by_tanh(low: float, high: float) -> Activation:
    """z (1 + tanh(sqrt(2 / pi) (z + c z^3))) / 2 for a number c between `low` and `high`.

    Like GELU it is concave, convex, concave, and falls up to one point; where exactly is known up to a multiple of the
    distance of c from 0.044715, and the few floats in between are treated as an interval.

    Args:
        low, high: two floats around c, close to 0.044715.

    Raises:
        UnsupportedOpError: when c is farther than 1e-6 from 0.044715, so that it is no approximation of GELU.
    """
    apart = max(abs(Fraction(end) - formulas.CUBIC) for end in (low, high))
    if apart > FARTHEST:
        raise UnsupportedOpError(
            f"z (1 + tanh(...)) with a cubic factor between {low} and {high} is no GELU, whose factor is 0.044715"
        )
    cubic, middle = (low, high), (low + high) / 2

    def plain(z: Tensor) -> Tensor:
        return z * torch.sigmoid(1.5957691216057308 * (z + middle * z**3))

    pieces = tuple(
        Piece(curvature, lambda x: formulas.tanh_gelu(x, cubic), lambda x: formulas.tanh_gelu_derivative(x, cubic))
        for curvature in ("concave", "convex", "concave")
    )
    inflection = _around(INFLECTION, apart)
    return Activation(
        f"gelu_tanh:{low!r},{high!r}",
        plain,
        pieces,
        breaks=((-inflection[1], -inflection[0]), inflection),
        turns=(_around(MINIMUM, apart),),
        rebuild=partial(gelu_by_tanh, low, high),
    )


def _around(nearest: float, apart: Fraction) -> tuple[float, float]:
    """Two floats around a point that moves with the factor."""
    (low, high), drift = irrational(nearest), float(DRIFT * apart)
    return math.nextafter(low - drift, -math.inf), math.nextafter(high + drift, math.inf)
