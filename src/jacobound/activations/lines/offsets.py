"""Two lines around a function on an interval: slopes may be any floats, offsets are bounded rigorously.

With a slope k the offsets must satisfy ``t_upper >= max s(z) - k z`` and ``t_lower <= min s(z) - k z`` on the interval.
On each piece the extremes sit at its ends, or, for the maximum on a concave piece and the minimum on a convex one,
below or above the tangent at any point t:  s(z) - k z <= s(t) - k t + (s'(t) - k)(z - t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.activations.calculus.numbers import number
from jacobound.activations.calculus.pieces import (
    Bound,
    Curve,
    Piece,
    clip,
    exact_line,
    extents,
    tidy,
    touches,
    value_range,
    zones,
)
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, rigorous, up


@dataclass(frozen=True, eq=False)
class Slopes:
    """A choice that decides tightness only; every finite choice gives valid lines.

    Args:
        lower: slope of the line below, shape of the interval.
        upper: slope of the line above.
        points: for each piece where its tangent is taken (upper line on concave pieces, lower line on convex ones);
            None on linear pieces.
    """

    lower: Tensor
    upper: Tensor
    points: tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class Lines:
    """Certified on the interval, entry by entry: lower_slope z + lower_offset <= s(z) <= upper_slope z + upper_offset.

    An offset may be infinite where the function is unbounded on the interval; nothing is ever NaN.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


def enclosing_lines(curve: Curve, x: Interval, slopes: Slopes) -> Lines:
    """Certified lines with the given slopes; constants where the interval or an offset is not finite.

    Where the interval lies in one exactly linear piece both lines are that piece, without any rounding.
    """
    x = tidy(x)
    bounded = torch.isfinite(x.lower) & torch.isfinite(x.upper)
    inside = Interval(torch.where(bounded, x.lower, 0.0), torch.where(bounded, x.upper, 0.0))
    lower_slope = torch.where(torch.isfinite(slopes.lower) & bounded, slopes.lower, 0.0)
    upper_slope = torch.where(torch.isfinite(slopes.upper) & bounded, slopes.upper, 0.0)
    lower, upper = _offsets(curve, inside, lower_slope, upper_slope, slopes.points)
    good = bounded & torch.isfinite(lower) & torch.isfinite(upper)
    if not bool(good.all()):
        constants = value_range(curve, x)
        lower, upper = torch.where(good, lower, constants.lower), torch.where(good, upper, constants.upper)
        lower_slope, upper_slope = torch.where(good, lower_slope, 0.0), torch.where(good, upper_slope, 0.0)
    for piece, (start, end) in zip(curve.pieces, extents(curve, x.lower), strict=True):
        line = exact_line(piece, x.lower)
        if line is not None:
            settled = (x.lower >= start) & (x.upper <= end)
            lower_slope, upper_slope = (torch.where(settled, line[0], k) for k in (lower_slope, upper_slope))
            lower, upper = torch.where(settled, line[1], lower), torch.where(settled, line[1], upper)
    return Lines(lower_slope, lower, upper_slope, upper)


def shifted(lines: Lines, shift: Interval) -> Lines:
    """Lines in z of a function of z - shift, from its lines in z - shift; exact where the shift is zero."""
    found = []
    for slope, offset, side in (
        (lines.lower_slope, lines.lower_offset, "lower"),
        (lines.upper_slope, lines.upper_offset, "upper"),
    ):
        moved = getattr(Interval.exact(offset) - shift * Interval.exact(slope), side)
        found += [slope, torch.where((shift.magnitude() == 0) | (slope == 0), offset, moved)]
    return Lines(*found)


def _offsets(
    curve: Curve, x: Interval, lower_slope: Tensor, upper_slope: Tensor, points: tuple[Tensor | None, ...]
) -> tuple[Tensor, Tensor]:
    """Lower bound of min s(z) - lower_slope z and upper bound of max s(z) - upper_slope z, for finite intervals."""
    lower, upper = torch.full_like(x.lower, math.inf), torch.full_like(x.lower, -math.inf)
    for piece, (start, end), point in zip(curve.pieces, extents(curve, x.lower), points, strict=True):
        met = touches(x, start, end)
        ends = torch.stack([clip(x.lower, start, end), clip(x.upper, start, end)])
        least, most = _piece_offsets(piece, ends, lower_slope, upper_slope, point)
        lower = torch.where(met, torch.minimum(lower, least), lower)
        upper = torch.where(met, torch.maximum(upper, most), upper)
    for left, right, start, end in zones(curve, x.lower):
        met, around = touches(x, start, end), number((start, end), x.lower)
        here = left.value(around).hull(right.value(around))
        least, most = (here - around * Interval.exact(k) for k in (lower_slope, upper_slope))
        lower = torch.where(met, torch.minimum(lower, least.lower), lower)
        upper = torch.where(met, torch.maximum(upper, most.upper), upper)
    return lower, upper


def _piece_offsets(
    piece: Piece, ends: Tensor, lower_slope: Tensor, upper_slope: Tensor, point: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The bounds of `_offsets` on one piece between two points of it.

    Args:
        ends: shape (2, *interval): first and last point.
    """
    line = exact_line(piece, ends)
    if line is not None:
        slope, offset = line
        return -_line_top(-slope, -offset, -lower_slope, ends), _line_top(slope, offset, upper_slope, ends)
    if point is None:
        values = piece.value(Interval.exact(ends))
        return _lowest(values, lower_slope, ends), _highest(values, upper_slope, ends)
    point = torch.minimum(torch.maximum(point, ends[0]), ends[1])
    values = piece.value(Interval.exact(torch.cat([ends, point[None]])))
    tangent, derivative, values = values[2], piece.derivative(Interval.exact(point)), values[:2]
    if piece.curvature == "concave":
        return _lowest(values, lower_slope, ends), _tangent_top(tangent, derivative, upper_slope, point, ends)
    return -_tangent_top(-tangent, -derivative, -lower_slope, point, ends), _highest(values, upper_slope, ends)


def _highest(values: Interval, k: Tensor, z: Tensor) -> Tensor:
    """Upper bound of ``value - k z`` over the first axis."""
    return up(values.upper + up(-k * z)).amax(0)


def _lowest(values: Interval, k: Tensor, z: Tensor) -> Tensor:
    """Lower bound of ``value - k z`` over the first axis."""
    return -_highest(-values, -k, z)


def _tangent_top(value: Interval, derivative: Interval, k: Tensor, point: Tensor, ends: Tensor) -> Tensor:
    """Upper bound of ``value(point) - k point + (derivative - k)(z - point)`` for z between the ends.

    The last term is zero at z = point, so only a positive slope towards the right end and a negative one towards
    the left end count.
    """
    right = up(up(derivative.upper - k).clamp(min=0.0) * up(ends[1] - point))
    left = up(up(k - derivative.lower).clamp(min=0.0) * up(point - ends[0]))
    return up(up(value.upper + up(-k * point)) + torch.maximum(left, right))


def _line_top(slope: Bound, offset: Bound, k: Tensor, z: Tensor) -> Tensor:
    """Upper bound of ``slope z + offset - k z`` over the first axis; exact where slope equals k or z is zero."""
    rise = slope - k
    climb = up(torch.maximum(up(rise) * z, down(rise) * z))
    if rigorous():
        # The sign of (slope - k) z is known without rounding, so the widening never has to cross zero.
        falling = ((slope <= k) & (z >= 0)) | ((slope >= k) & (z <= 0))
        climb = torch.where(falling, climb.clamp(max=0.0), climb)
    climb = climb.amax(0)
    return climb if isinstance(offset, float) and offset == 0.0 else up(climb + offset)
