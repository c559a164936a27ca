"""The slopes of chords: from known points of a function to all points around them.

Along a ray the derivative at the far end may be anything that occurs on the way, but the chord's slope is its mean.
Where the derivative first rises and then falls, the mean over [y, z] is smallest at the far end of a side or for the
shortest chords: moving y away from z the mean follows the derivative up and, once that has fallen below it, down for
good. The mirrored claim holds where the derivative first falls and then rises; convex and concave functions are both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import Curve, evaluate, overlaps, turn_ends
from jacobound.arithmetic.intervals import Interval

Slopes = Callable[[Interval], Interval]
"""Encloses the derivative on an interval."""


def secants(curve: Curve, near: Interval, far: Interval, slopes: Slopes) -> Interval:
    """Enclosure of ``(f(y) - f(z)) / (y - z)`` for all z in `near` and y in `far`, which holds `near`."""
    around = slopes(near)
    below, above = Interval(far.lower, near.upper), Interval(near.lower, far.upper)
    found = [
        _one_side(curve, side, end, near, around, slopes) for side, end in ((below, far.lower), (above, far.upper))
    ]
    return found[0].hull(found[1])


def _one_side(curve: Curve, side: Interval, end: Tensor, near: Interval, around: Interval, slopes: Slopes) -> Interval:
    """Chords from z in `near` to y between z and one end of the side."""
    found, (peak, dip) = slopes(side), one_bend(curve, side)
    longest = [chord(curve, end, z, slopes) for z in (near.lower, near.upper)]
    least = torch.minimum(around.lower, torch.minimum(longest[0].lower, longest[1].lower))
    most = torch.maximum(around.upper, torch.maximum(longest[0].upper, longest[1].upper))
    lower = torch.where(peak, torch.maximum(found.lower, least), found.lower)
    return Interval(lower, torch.where(dip, torch.minimum(found.upper, most), found.upper))


def chord(curve: Curve, y: Tensor, z: Tensor, slopes: Slopes) -> Interval:
    """Enclosure of the slope of the chord between two exact points; of the derivative where they are one."""
    rise = evaluate(curve, y) - evaluate(curve, z)
    found = rise / (Interval.exact(y) - z)
    return slopes(Interval(torch.minimum(y, z), torch.maximum(y, z))).intersect(Interval.safe(found.lower, found.upper))


def one_bend(curve: Curve, x: Interval) -> tuple[Tensor, Tensor]:
    """Masks of the intervals on which the derivative rises, then falls, and of those on which it falls, then rises."""
    rose, fell = (torch.zeros_like(x.lower, dtype=torch.bool) for _ in range(2))
    peak, dip = ~rose, ~fell
    met_before = rose
    cuts = [turn_ends(turn, x.lower) for turn in curve.breaks]
    for k, piece in enumerate(curve.pieces):
        start, end = (cuts[k - 1][0] if k else -torch.inf), (cuts[k][1] if k < len(cuts) else torch.inf)
        met = overlaps(x, start, end)
        steps = [(met & (piece.curvature == "convex"), met & (piece.curvature == "concave"))]
        if k:
            inside, (rises, falls) = met & met_before, _jump(curve, k, x.lower)
            steps.insert(0, (inside & rises, inside & falls))
        for rising, falling in steps:
            peak, dip = peak & ~(fell & rising), dip & ~(rose & falling)
            rose, fell = rose | rising, fell | falling
        met_before = met
    return peak, dip


def _jump(curve: Curve, place: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the derivative may rise, and may fall, from one piece to the next."""
    ends = turn_ends(curve.breaks[place - 1], like)
    around = Interval(*((end if isinstance(end, Tensor) else like.new_tensor(end)).expand_as(like) for end in ends))
    left, right = (piece.derivative(around) for piece in curve.pieces[place - 1 : place + 1])
    return right.upper > left.lower, right.lower < left.upper
