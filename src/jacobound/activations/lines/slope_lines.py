"""Two parallel lines around the *derivative* of a function on an interval, for any function made of pieces.

All that is known of a derivative is that it is monotone on each piece. So it is sampled at many points, and between two
of them it lies between its values there: with a slope k the lines need ``max (d_i, d_i+1) - min (k t_i, k t_i+1)`` over
all steps, which is off by one step's rise. The slope k is a choice and need not be rigorous; offsets are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jacobound.activations.calculus.numbers import number
from jacobound.activations.calculus.pieces import (
    Curve,
    clip,
    derivative_range,
    exact_line,
    extents,
    overlaps,
    tidy,
    zones,
)
from jacobound.activations.lines.offsets import Lines
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, unrounded, up

STEPS = 512
"""How many parts an interval is cut into: the lines are farther apart than they need be by twice that part of the
derivative's rise."""

COARSE = 32
"""How many parts are looked at to choose the slope."""

ROUNDS = 24
RATIO = (math.sqrt(5) - 1) / 2


def slope_lines(curve: Curve, x: Interval) -> Lines:
    """Certified parallel lines around the derivative on `x`; constants where the interval or its slopes are not finite.

    At a kink both one-sided derivatives lie between the lines, unless the interval only ends there.
    """
    x = tidy(x)
    constants, slope = derivative_range(curve, x), _fitted(curve, x)
    lower, upper = _offsets(curve, x, slope)
    # Over an unbounded interval and for unbounded slopes an offset is infinite; rounding may leave nothing of the gain
    # of a line on a tiny interval, or where the derivative is one number.
    gained = upper - lower < constants.upper - constants.lower
    good = (slope != 0) & torch.isfinite(lower) & torch.isfinite(upper) & gained
    slope = torch.where(good, slope, 0.0)
    return Lines(
        slope,
        torch.where(good, lower, constants.lower),
        slope,
        torch.where(good, upper, constants.upper),
    )


def _grid(x: Interval, steps: int) -> Tensor:
    """Points from end to end, the ends exactly, shape (steps + 1, *interval)."""
    share = x.lower.new_full((steps + 1,), 1 / steps).cumsum(0).reshape(-1, *[1] * x.lower.dim()) - 1 / steps
    inner = x.lower * (1 - share) + x.upper * share
    points = torch.minimum(torch.maximum(inner, x.lower), x.upper)
    points[0], points[-1] = x.lower, x.upper
    return points


@torch.no_grad()
def _fitted(curve: Curve, x: Interval) -> Tensor:
    """The slope for which the lines around a few samples of the derivative are closest; golden sections."""
    points = _grid(x, COARSE)
    with unrounded():
        found = derivative_range(curve, Interval.exact(points))
    values = found.lower * 0.5 + found.upper * 0.5
    rises = (values[1:] - values[:-1]) / (points[1:] - points[:-1])
    rises = torch.where(torch.isfinite(rises), rises, 0.0)
    low, high = rises.amin(0), rises.amax(0)

    def width(slope: Tensor) -> Tensor:
        rest = values - slope * points
        return rest.amax(0) - rest.amin(0)

    for _ in range(ROUNDS):
        left, right = high - RATIO * (high - low), low + RATIO * (high - low)
        better = width(left) <= width(right)
        low, high = torch.where(better, low, left), torch.where(better, right, high)
    return low * 0.5 + high * 0.5


def _offsets(curve: Curve, x: Interval, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Lower bound of min s'(z) - slope z and upper bound of max s'(z) - slope z; not finite where an end is not."""
    lower, upper = torch.full_like(x.lower, math.inf), torch.full_like(x.lower, -math.inf)
    points = _grid(x, STEPS)
    for piece, (start, end) in zip(curve.pieces, extents(curve, x.lower), strict=True):
        met, line = overlaps(x, start, end), exact_line(piece, x.lower)
        if line is None:
            here = clip(points, start, end)
            least, most = _monotone_offsets(piece.derivative(Interval.exact(here)), here, slope)
        else:  # one number on the whole piece: two points say all
            here = torch.stack([clip(x.lower, start, end), clip(x.upper, start, end)])
            rises = torch.stack([slope * here[0], slope * here[1]])
            least, most = down(line[0] - up(rises).amax(0)), up(line[0] - down(rises).amin(0))
        lower = torch.where(met, torch.minimum(lower, least), lower)
        upper = torch.where(met, torch.maximum(upper, most), upper)
    for left, right, start, end in zones(curve, x.lower):
        met, around = overlaps(x, start, end), number((start, end), x.lower)
        rest = left.derivative(around).hull(right.derivative(around)) - around * Interval.exact(slope)
        lower = torch.where(met, torch.minimum(lower, rest.lower), lower)
        upper = torch.where(met, torch.maximum(upper, rest.upper), upper)
    return lower, upper


def _monotone_offsets(values: Interval, points: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds of `_offsets` on a piece, from enclosures of the derivative at points on the way from end to end."""
    rises = slope * points
    least, most = torch.minimum(values.lower[1:], values.lower[:-1]), torch.maximum(values.upper[1:], values.upper[:-1])
    above, below = up(torch.maximum(rises[1:], rises[:-1])), down(torch.minimum(rises[1:], rises[:-1]))
    return down(least - above).amin(0), up(most - below).amax(0)
