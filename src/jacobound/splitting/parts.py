"""Parts of one set: halves that cover it, and which of them meet its ball."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import down, inflate, tiny, unit, up
from jacobound.inputs.domains import Domain


def middle_of(parts: Interval) -> Tensor:
    """A float between the ends of every coordinate, of shape (parts, n)."""
    middle = parts.lower / 2 + parts.upper / 2
    return torch.minimum(torch.maximum(middle, parts.lower), parts.upper)


def splittable(parts: Interval) -> Tensor:
    """Coordinates with a float strictly between finite ends, bool (parts, n)."""
    middle = middle_of(parts)
    finite = parts.lower.isfinite() & parts.upper.isfinite()
    return finite & (parts.lower < middle) & (middle < parts.upper)


def halves(parts: Interval, along: Tensor) -> Interval:
    """Both halves of every part, shape (2 parts, n): the left ones first.

    They share the float at which they meet, so together they are the part, without rounding.

    Args:
        parts: boxes (parts, n).
        along: the coordinate that is halved, (parts,).
    """
    along = along.unsqueeze(1)
    middle = middle_of(parts).gather(1, along)
    left, right = parts.upper.scatter(1, along, middle), parts.lower.scatter(1, along, middle)
    return Interval(torch.cat((parts.lower, right)), torch.cat((left, parts.upper)))


def over(parts: Interval, whole: Domain) -> Domain:
    """The parts (n flattened coordinates each) of one set as a domain, each within the set's ball."""
    shape, count = whole.box.shape[1:], len(parts.lower)
    box = parts.map(lambda end: end.reshape(count, *shape))
    if whole.centre is None or whole.radius is None:
        return Domain(box)
    return Domain(box, whole.centre.expand(count, *shape), whole.radius.expand(count), whole.p, whole.scale)


def may_meet(parts: Interval, whole: Domain) -> Tensor:
    """Which parts are not certain to lie outside of the set's ball, bool (parts,).

    The distance of a box from the centre is that of its nearest point, which is found coordinate by coordinate; it is
    rounded down at every step, so no part is left out that has a point in common with the ball.
    """
    if whole.centre is None or whole.radius is None:
        return torch.ones_like(parts.lower[:, 0], dtype=torch.bool)
    centre = whole.centre.flatten(1)
    away = torch.maximum(down(parts.lower - centre), down(centre - parts.upper)).clamp(min=0.0)
    if whole.scale is not None:
        scale = whole.scale.flatten()
        away = torch.where(scale > 0, down(away / torch.where(scale > 0, scale, 1.0)), 0.0).clamp(min=0.0)
    # `vector_norm_upper` is above the norm by a few roundings of each term at most.
    share = 1 / inflate(torch.ones_like(centre[0, :1]), 8 * away.shape[1] + 64)
    least = down(vector_norm_upper(away, whole.p, dim=1) * down(share))
    normal = least.isfinite() & (least > tiny(least.dtype) / unit(least.dtype) ** 2)
    return ~(normal & (least > up(whole.radius)))
