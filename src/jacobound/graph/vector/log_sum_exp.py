"""Enclosures around ``log sum_j exp(x_j)`` of rows: its values, its derivatives (softmax), planes below and above.

With p = softmax at the middle m of a box and half widths rho the function is convex, so that its tangent plane at m
lies below it. Above, the second-order remainder of that plane is half a variance under weights that are shares
somewhere in the box: at most ``sum_j pmax_j rho_j^2 / 2``, and, as half the variance of numbers in an interval of
length w is at most ``w^2 / 8`` (Popoviciu), at most ``(rho_1 + rho_2)^2 / 8`` with the two largest half widths. On wide
boxes the tangent of log over chords of exp is lower. Slopes are free floats, offsets are bounded for them.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.arithmetic.rounding import down, inflate, up
from jacobound.graph.nodes import Planes


def row_total(x: Interval) -> Interval:
    """Enclosure of the sums along the last axis, which stays with length 1."""
    return interval_dot(x.lower.new_ones(()).expand(x.shape), x)[..., None]


def softmax_range(x: Interval, allowed: Tensor | None = None) -> Interval:
    """Enclosure of softmax along the last axis: a share is largest with its own entry high and all others low.

    Args:
        x: any shape; ends may be infinite.
        allowed: bool mask that broadcasts to x, with an entry in every row; other entries have the share 0.
    """
    open_ = torch.ones_like(x.lower, dtype=torch.bool) if allowed is None else allowed
    shift = x.upper.masked_fill(~open_, -inf).amax(-1, keepdim=True)
    known = torch.isfinite(shift)
    shift = torch.where(known, shift, 0.0)
    low, high = ((Interval.exact(end) - shift).exp() for end in (x.lower, x.upper))
    low, high = (one.map(lambda end: torch.where(open_, end, 0.0)) for one in (low, high))
    least, most = ((row_total(one) - one).clamp(lower=0.0) for one in (low, high))
    upper = (Interval.exact(high.upper) / (Interval.exact(high.upper) + Interval.exact(least.lower))).upper
    lower = (Interval.exact(low.lower) / (Interval.exact(low.lower) + Interval.exact(most.upper))).lower
    found = Interval.safe(torch.where(known, lower, 0.0), torch.where(known, upper, 1.0)).clamp(0.0, 1.0)
    return found.map(lambda end: torch.where(open_, end, 0.0))


def log_sum_exp(x: Tensor, allowed: Tensor | None = None) -> Interval:
    """Enclosure at a point of the extended reals; shape (..., 1)."""
    shift = (x if allowed is None else torch.where(allowed, x, -inf)).amax(-1, keepdim=True)
    shift = torch.where(torch.isfinite(shift), shift, 0.0)
    powers = (Interval.exact(x) - shift).exp()
    if allowed is not None:
        powers = powers.map(lambda end: torch.where(allowed, end, 0.0))
    return row_total(powers).log() + shift


def log_sum_exp_planes(x: Interval, allowed: Tensor | None = None) -> Planes:
    """The tangent plane below and the lower of two planes above over boxes.

    Args:
        x: shape (N, *rows, n); where a row is unbounded so are the offsets.

    Returns:
        Offsets of shape (N, *rows, 1).
    """
    tangent = tangent_planes(x, allowed)
    known, low, high = _bounded(x, allowed)
    middle = low * 0.5 + high * 0.5
    slope, above = tangent.slopes[0][1], tangent.upper
    chord, other = _over_chords(low, high, middle, known)
    better = (_at(slope, above, middle) <= _at(chord, other, middle)) | ~torch.isfinite(above)
    return Planes(
        ((slope, torch.where(better, slope, torch.where(known, chord, 0.0))),),
        tangent.lower,
        torch.where(better, above, other).nan_to_num(nan=inf, posinf=inf, neginf=inf),
    )


def tangent_planes(x: Interval, allowed: Tensor | None = None) -> Planes:
    """The tangent plane at the middle, and the same plane above by a remainder; shapes as in `log_sum_exp_planes`."""
    known, low, high = _bounded(x, allowed)
    middle, half = Interval(low, high).midpoint_and_radius()
    open_ = torch.ones_like(known) if allowed is None else allowed.expand(x.shape)
    shares = softmax_range(Interval.exact(middle), open_)
    slope = torch.where(known, shares.midpoint_and_radius()[0], 0.0).clamp(min=0.0)
    value = log_sum_exp(middle, open_) - row_total(Interval.exact(slope) * Interval.exact(middle))
    strayed = _sum_up(up((Interval.exact(slope) - shares).magnitude() * half))
    most = softmax_range(Interval(low, high), open_).upper
    above = up(up(value.upper + strayed) + _remainder(most, half))
    finite = (known | ~open_).all(-1, keepdim=True)
    return Planes(
        ((slope, slope),),
        torch.where(finite, down(value.lower - strayed), -inf).nan_to_num(nan=-inf, posinf=-inf, neginf=-inf),
        torch.where(finite, above, inf).nan_to_num(nan=inf, posinf=inf, neginf=inf),
    )


def _bounded(x: Interval, allowed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Entries that are allowed, in rows without unbounded ones, and the ends of the rows with 0 for the others."""
    open_ = torch.ones_like(x.lower, dtype=torch.bool) if allowed is None else allowed.expand(x.shape)
    known = ((torch.isfinite(x.lower) & torch.isfinite(x.upper)) | ~open_).all(-1, keepdim=True) & open_
    return known, torch.where(known, x.lower, 0.0), torch.where(known, x.upper, 0.0)


def _sum_up(x: Tensor) -> Tensor:
    """Rounded-up sums of non-negative numbers of every row."""
    return inflate(x.sum(-1, keepdim=True), x.shape[-1] + 1)


def _remainder(most: Tensor, half: Tensor) -> Tensor:
    """Bound of half the variance of ``x - m`` under shares of at most `most`; shape (..., 1)."""
    weighted = up(_sum_up(up(most * up(half * half))) * 0.5)
    widest = half.topk(min(2, half.shape[-1]), -1).values
    spread = up(widest.sum(-1, keepdim=True))
    return torch.minimum(weighted, up(up(spread * spread) * 0.125))


def _over_chords(low: Tensor, high: Tensor, middle: Tensor, open_: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes k and offsets with ``log sum exp(x) <= k x + offset``, by the tangent of log at some s > 0.

    ``log S <= log s - 1 + S / s``, and every ``exp(x_j) / s - k_j x_j`` is convex: largest at an end.
    """
    shift = torch.where(open_, middle, -inf).amax(-1, keepdim=True)
    shift = torch.where(torch.isfinite(shift), shift, 0.0)
    ends = [(Interval.exact(end) - shift).exp() for end in (low, high)]
    run = high - low
    rise = (ends[1].upper - ends[0].lower) / torch.where(run > 0, run, 1.0)
    steep = torch.where(run > 0, rise, ends[1].upper)
    at_middle = torch.where(open_, ends[0].upper + steep * (middle - low), 0.0).sum(-1, keepdim=True)
    base = torch.where((at_middle > 0) & torch.isfinite(at_middle), at_middle, 1.0)
    slope = torch.where(open_, steep / base, 0.0).nan_to_num(nan=0.0, posinf=0.0)
    inverse = Interval.exact(base).reciprocal().map(lambda end: end.expand(low.shape))
    weight = Interval.exact(slope)
    over = [(one * inverse - weight * end).upper for one, end in zip(ends, (low, high), strict=True)]
    most = torch.where(open_, torch.maximum(*over), 0.0)
    return slope, (row_total(Interval.exact(most)) + Interval.exact(base).log() - 1.0 + shift).upper


def _at(slope: Tensor, offset: Tensor, x: Tensor) -> Tensor:
    """A plane at a point, in plain arithmetic."""
    return (slope * x).sum(-1, keepdim=True) + offset
