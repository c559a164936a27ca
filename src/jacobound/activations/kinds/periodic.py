"""Sine and cosine: an interval is moved by a multiple of 2 pi to where the pieces of three periods are."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Final

import torch
from torch import Tensor

from jacobound.activations.calculus.numbers import irrational, number
from jacobound.activations.calculus.pieces import Piece, Turn
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.arithmetic.intervals import Interval

PI: Final = Fraction("3.14159265358979323846264338327950288419716939937510")
"""Less than pi by at most 1e-50."""

REACH: Final = 9.4247
"""Pieces are stated up to ±3 pi, and three times pi is a little larger."""


def sin() -> Activation:
    """The sine, in radians."""
    return _wave("sin", torch.sin, Interval.sin, Interval.cos, (torch.sin, torch.cos), 0)


def cos() -> Activation:
    """The cosine, in radians."""

    def derivative(x: Interval) -> Interval:
        return -x.sin()

    return _wave("cos", torch.cos, Interval.cos, derivative, (torch.cos, lambda z: -torch.sin(z)), 1)


def _wave(
    name: str,
    plain: Callable[[Tensor], Tensor],
    value: Callable[[Interval], Interval],
    derivative: Callable[[Interval], Interval],
    parts: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
    quarter: int,
) -> Activation:
    """A wave that bends upwards left of its inflection at `quarter` quarters of 2 pi, and downwards right of it."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height = parts[0](z)
        return height, parts[1](z), -height

    halves = range(-2, 3) if quarter == 0 else range(-3, 3)
    breaks = tuple(_multiple(Fraction(2 * half + quarter, 2)) for half in halves)
    # Odd halves of a period right of the sine's zeros (and of the cosine's first one) lie below the axis.
    above = [(half + quarter) % 2 == 0 for half in (halves[0] - 1, *halves)]
    pieces = tuple(Piece("concave" if up else "convex", value, derivative, jet=jet) for up in above)
    turns = tuple(_multiple(Fraction(2 * half + 1 - quarter, 2)) for half in range(-3, 4))
    return Activation(name, plain, pieces, breaks=breaks, turns=turns, reduce=reduced)


def _multiple(factor: Fraction) -> Turn:
    """A multiple of pi as a turn."""
    return 0.0 if factor == 0 else irrational(float(PI * factor))


def reduced(x: Interval) -> tuple[Interval, Interval]:
    """An interval minus a multiple of 2 pi, and that multiple; the whole line where that gives more than two periods.

    The multiple is k (c + r) with whole k. c has so few digits that k c is exact, and what it lacks of 2 pi is tiny.
    """
    dtype, digits = x.lower.dtype, 30 if x.lower.dtype == torch.float64 else 12
    largest = 2.0 ** ((53 if dtype == torch.float64 else 24) - digits)
    coarse = Fraction(math.floor(2 * PI * 2 ** (digits - 3)), 2 ** (digits - 3))
    rest = irrational(float(2 * PI - coarse))
    middle = x.lower * 0.5 + x.upper * 0.5  # NaN and infinite ones are not near
    turns = (middle / (2 * math.pi)).round()
    near = turns.abs() <= largest
    turns = torch.where(near, turns, 0.0)
    whole, small = turns * float(coarse), Interval.exact(turns) * number(rest, middle)
    moved = (x - whole) - small
    still = turns == 0  # nothing to subtract, nothing to round
    lower = torch.where(still, x.lower, moved.lower)
    upper = torch.where(still, x.upper, moved.upper)
    shift = small + whole
    good = near & (lower >= -REACH) & (upper <= REACH)
    return (
        Interval(torch.where(good, lower, -torch.inf), torch.where(good, upper, torch.inf)),
        Interval(*(torch.where(still | ~good, 0.0, end) for end in (shift.lower, shift.upper))),
    )


def _spellings(name: str, build: Callable[[], Activation]) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}.default": build, f"aten.{name}_.default": build}


register(Family("sin", sin, _spellings("sin", sin), {"Sin": sin}))
register(Family("cos", cos, _spellings("cos", cos), {"Cos": cos}))
