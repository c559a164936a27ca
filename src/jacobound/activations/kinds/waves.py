"""Functions of one number that models write as products with its square: bells, their waves, the algebraic step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.activations.calculus import formulas
from jacobound.activations.calculus.numbers import irrational
from jacobound.activations.calculus.pieces import Piece, Turn
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.arithmetic.intervals import Interval

FAR = 1e3
"""exp(-FAR^2) is below the smallest float of both dtypes; beyond, the functions here and their slopes fade to zero."""

LEVEL = 1e10
"""Beyond, ``z / sqrt(1 + z^2)`` is between its value here and 1; its square is a float of both dtypes."""


def bell() -> Activation:
    """e^(-z^2): convex, concave between its inflections at 1 / sqrt 2, convex."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = torch.exp(-z * z)
        return value, -2 * z * value, (4 * z * z - 2) * value

    return Activation(
        "bell",
        lambda z: torch.exp(-z * z),
        tuple(Piece(curvature, _bell, _bell_slope, jet=jet) for curvature in ("convex", "concave", "convex")),
        breaks=_opposite(irrational(math.sqrt(0.5))),
        turns=(0.0,),
    )


def wave() -> Activation:
    """z e^(-z^2): its curvature has the sign of ``z (2 z^2 - 3)``, it turns at 1 / sqrt 2."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = torch.exp(-z * z)
        return z * value, (1 - 2 * z * z) * value, (4 * z * z - 6) * z * value

    first, last = _opposite(irrational(math.sqrt(1.5)))
    curvatures = ("concave", "convex", "concave", "convex")
    return Activation(
        "wave",
        lambda z: z * torch.exp(-z * z),
        tuple(Piece(curvature, _wave, _wave_slope, jet=jet) for curvature in curvatures),
        breaks=(first, 0.0, last),
        turns=_opposite(irrational(math.sqrt(0.5))),
    )


def algebraic() -> Activation:
    """z / sqrt(1 + z^2), S-shaped: rises from -1 to 1."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        root = torch.rsqrt(1 + z * z)
        return z * root, root**3, -3 * z * root**5

    return Activation(
        "algebraic",
        lambda z: z * torch.rsqrt(1 + z * z),
        tuple(Piece(curvature, _algebraic, _algebraic_slope, jet=jet) for curvature in ("convex", "concave")),
        breaks=(0.0,),
    )


def _opposite(point: tuple[float, float]) -> tuple[Turn, Turn]:
    return (-point[1], -point[0]), point


def _odd(x: Interval, part: Callable[[Interval], Interval]) -> Interval:
    """An odd function of which `part` is the one of sizes: zero at zero."""
    right, left = part(x.clamp(lower=0.0)), part(Interval(-x.upper, -x.lower).clamp(lower=0.0))
    return right - left


def _near(x: Interval) -> Interval:
    """Moved to where nothing overflows: what lies beyond is between zero and the value there, which encloses both."""
    return x.clamp(-FAR, FAR)


def _bell(x: Interval) -> Interval:
    far = formulas.size(_near(x))
    square = (far * far).clamp(lower=0.0)
    return Interval(-square.upper, -square.lower).exp().clamp(0.0, 1.0)


def _wave(x: Interval) -> Interval:
    return _odd(_near(x), lambda far: (far * _bell(far)).clamp(lower=0.0))


def _bell_slope(x: Interval) -> Interval:
    return _wave(x) * -2.0


def _wave_slope(x: Interval) -> Interval:
    far = formulas.size(_near(x))
    return (far * far * -2.0 + 1.0) * _bell(far)


def _algebraic(x: Interval) -> Interval:
    def part(far: Interval) -> Interval:
        low, high = (_step(end.clamp(max=LEVEL)) for end in (far.lower, far.upper))
        return Interval(low.lower, torch.where(far.upper > LEVEL, 1.0, high.upper)).clamp(0.0, 1.0)

    return _odd(x, part)


def _step(z: Tensor) -> Interval:
    """At points from 0 to `LEVEL`."""
    exact = Interval.exact(z)
    return exact * formulas.root_reciprocal(exact * exact + 1.0)


def _algebraic_slope(x: Interval) -> Interval:
    found = formulas.cauchy(x)
    return (found * found.sqrt()).clamp(0.0, 1.0)


register(Family("bell", bell))
register(Family("wave", wave))
register(Family("algebraic", algebraic))
