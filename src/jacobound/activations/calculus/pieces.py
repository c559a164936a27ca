"""A real function as pieces of one curvature, and what follows from that alone: its range and its derivative's range.

A break or turn that is not a float is given by two floats around it. The pieces then stop at the lower one and start
again at the upper one; the zone between the two is evaluated as one interval with the formulas of both neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from jacobound.activations.calculus.numbers import Real, float_ends, number, scaled
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unrounded

Turn = float | tuple[float, float] | Tensor
"""A point where something changes: a float, two floats around a number that is none, or one point per neuron."""

Bound = float | Tensor

Jet = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Piece:
    """One stretch of a function on which it is linear, convex or concave.

    Args:
        curvature: of the function on this piece.
        value: enclosure of the function; called with degenerate or nearly degenerate intervals, ends may be infinite.
        derivative: enclosure of the derivative, which is monotone on the piece; finite where its limit is.
        line: (slope, offset) of a linear piece when both are exact floats or tensors; then nothing is ever rounded.
        jet: plain value, slope and curvature at once, for the choice of slopes; never used for bounds. When it is
            missing, `Piece.plain` makes one of the enclosures, which takes longer.
    """

    curvature: Literal["linear", "convex", "concave"]
    value: Callable[[Interval], Interval]
    derivative: Callable[[Interval], Interval]
    line: tuple[Bound, Bound] | None = None
    jet: Jet | None = None

    def plain(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, slope and curvature at points of the piece, as plain numbers."""
        if self.jet is not None:
            return self.jet(z)
        step = 1e-4 * (1 + z.abs())
        with unrounded():
            value = self.value(Interval.exact(z)).lower
            before, here, after = (self.derivative(Interval.exact(one)).lower for one in (z - step, z, z + step))
        return value, here, (after - before) / (2 * step)

    def slope(self, z: Tensor) -> Tensor:
        """The derivative at points of the piece, as plain numbers."""
        if self.jet is not None:
            return self.jet(z)[1]
        with unrounded():
            return self.derivative(Interval.exact(z)).lower


class Curve(Protocol):
    """What the functions of this package need to know of an activation."""

    @property
    def value(self) -> Callable[[Tensor], Tensor]: ...
    @property
    def pieces(self) -> tuple[Piece, ...]: ...
    @property
    def breaks(self) -> tuple[Turn, ...]: ...
    @property
    def turns(self) -> tuple[Turn, ...]: ...
    @property
    def increasing(self) -> bool: ...


def linear_piece(slope: Real | Tensor, offset: Real | Tensor = 0.0) -> Piece:
    """The piece ``slope z + offset``; its line is exact when both are floats or tensors."""

    def value(x: Interval) -> Interval:
        constant = Interval.exact(offset) if isinstance(offset, Tensor) else number(offset, x.lower)
        if isinstance(slope, float) and slope == 0.0:
            return constant.map(lambda end: end.expand_as(x.lower))
        through_zero = scaled(x, slope)
        return through_zero if isinstance(offset, float) and offset == 0.0 else through_zero + constant

    def derivative(x: Interval) -> Interval:
        found = Interval.exact(slope) if isinstance(slope, Tensor) else number(slope, x.lower)
        return found.map(lambda end: end.expand_as(x.lower))

    exact = isinstance(slope, float | Tensor) and isinstance(offset, float | Tensor)
    return Piece("linear", value, derivative, (slope, offset) if exact else None)  # type: ignore[arg-type]


def exact_line(piece: Piece, like: Tensor) -> tuple[Bound, Bound] | None:
    """The piece's line, if its numbers exist in the dtype of `like` (0.01 is no float32)."""
    if piece.line is None:
        return None
    for end in piece.line:
        if isinstance(end, float) and float_ends(end, like.dtype)[0] != float_ends(end, like.dtype)[1]:
            return None
    return piece.line


def tidy(x: Interval) -> Interval:
    """NaN at either end becomes the whole line, crossed ends are swapped: the safe reading of a damaged interval."""
    return Interval.safe(torch.minimum(x.lower, x.upper), torch.maximum(x.lower, x.upper))


def turn_ends(turn: Turn, like: Tensor) -> tuple[Bound, Bound]:
    """The two floats of `like`'s dtype around a turn (twice the same when it is a float there)."""
    return (turn, turn) if isinstance(turn, Tensor) else float_ends(turn, like.dtype)


def extents(curve: Curve, like: Tensor) -> tuple[tuple[Bound, Bound], ...]:
    """First and last point of every piece, zones left out."""
    zones = [turn_ends(turn, like) for turn in curve.breaks]
    starts = [-math.inf, *(high for _, high in zones)]
    return tuple(zip(starts, [*(low for low, _ in zones), math.inf], strict=True))


def zones(curve: Curve, like: Tensor) -> Iterator[tuple[Piece, Piece, float, float]]:
    """For every break that is not a float: its two neighbours and the two floats around it."""
    for turn, left, right in zip(curve.breaks, curve.pieces[:-1], curve.pieces[1:], strict=True):
        low, high = turn_ends(turn, like)
        if isinstance(low, float) and isinstance(high, float) and low < high:
            yield left, right, low, high


def clip(x: Tensor, low: Bound, high: Bound) -> Tensor:
    """`x` moved into [low, high]."""
    if isinstance(low, Tensor) or low > -math.inf:
        x = x.clamp(min=low)  # type: ignore[arg-type]
    if isinstance(high, Tensor) or high < math.inf:
        x = x.clamp(max=high)  # type: ignore[arg-type]
    return x


def touches(x: Interval, low: Bound, high: Bound) -> Tensor:
    """Whether the closed interval meets [low, high] in at least one point (never for an empty [low, high])."""
    return (x.lower <= high) & (x.upper >= low) & (low <= high)


def overlaps(x: Interval, low: Bound, high: Bound) -> Tensor:
    """Whether the interval shares more than an end with [low, high], or is a single point of it."""
    return touches(x, low, high) & (((x.lower < high) & (x.upper > low)) | (x.lower == x.upper))


def choose(mask: Tensor, yes: Interval, no: Interval) -> Interval:
    """`yes` where the mask holds, else `no`."""
    return Interval(torch.where(mask, yes.lower, no.lower), torch.where(mask, yes.upper, no.upper))


def evaluate(curve: Curve, points: Tensor) -> Interval:
    """Enclosure of the function at exact points (which may be infinite)."""
    first, *others = curve.pieces
    if all(piece.value == first.value for piece in others):
        return first.value(Interval.exact(points))
    cuts = [turn_ends(turn, points) for turn in curve.breaks]
    found = first.value(Interval.exact(clip(points, -math.inf, cuts[0][1])))
    for k, piece in enumerate(others):
        low, high = cuts[k]
        last = cuts[k + 1][1] if k + 1 < len(cuts) else math.inf
        here = piece.value(Interval.exact(clip(points, low, last)))
        if low is not high and low != high:
            inside, both = (points >= low) & (points <= high), found.hull(here)
            found = choose(inside, both, found)
        found = choose(points > high, here, found)
    return found


def _image_at(curve: Curve, turn: Turn, like: Tensor) -> Interval:
    """Enclosure of the function over the few floats around a turn."""
    low, high = (end if isinstance(end, Tensor) else like.new_tensor(end) for end in turn_ends(turn, like))
    around = Interval(low, high)
    lower, upper = torch.full_like(low, math.inf), torch.full_like(low, -math.inf)
    cuts = [turn_ends(one, like) for one in curve.breaks]
    starts, ends = [-math.inf, *(cut[0] for cut in cuts)], [*(cut[1] for cut in cuts), math.inf]
    for piece, start, end in zip(curve.pieces, starts, ends, strict=True):
        met = touches(around, start, end)
        here = piece.value(around.map(lambda x, start=start, end=end: clip(x, start, end)))
        lower = torch.where(met, torch.minimum(lower, here.lower), lower)
        upper = torch.where(met, torch.maximum(upper, here.upper), upper)
    return Interval(lower, upper)


def value_range(curve: Curve, x: Interval) -> Interval:
    """Enclosure of the function's values on `x`: from its ends, and from the turns that lie inside."""
    x = tidy(x)
    ends = evaluate(curve, torch.stack([x.lower, x.upper]))
    if not curve.turns:
        first, last = (0, 1) if curve.increasing else (1, 0)
        return Interval.safe(ends.lower[first], ends.upper[last])
    lower, upper = ends.lower.amin(0), ends.upper.amax(0)
    for turn in curve.turns:
        met = touches(x, *turn_ends(turn, x.lower))
        here = _image_at(curve, turn, x.lower)
        lower = torch.where(met, torch.minimum(lower, here.lower), lower)
        upper = torch.where(met, torch.maximum(upper, here.upper), upper)
    return Interval.safe(lower, upper)


def derivative_range(curve: Curve, x: Interval) -> Interval:
    """Enclosure of all slopes of the function on `x`: hull over the pieces met of the derivative at the clipped ends.

    An interval that only ends at a kink does not see the piece beyond it; a single point at a kink sees both.
    """
    x = tidy(x)
    lower, upper = torch.full_like(x.lower, math.inf), torch.full_like(x.lower, -math.inf)
    for piece, (start, end) in zip(curve.pieces, extents(curve, x.lower), strict=True):
        met, line = overlaps(x, start, end), exact_line(piece, x.lower)
        if line is not None:
            smallest = largest = line[0]
        else:
            ends = torch.stack([clip(x.lower, start, end), clip(x.upper, start, end)])
            here = piece.derivative(Interval.exact(ends))
            smallest, largest = here.lower.amin(0), here.upper.amax(0)
        lower = torch.where(met, clip(lower, -math.inf, smallest), lower)
        upper = torch.where(met, clip(upper, largest, math.inf), upper)
    for left, right, start, end in zones(curve, x.lower):
        met, around = overlaps(x, start, end), number((start, end), x.lower)
        here = left.derivative(around).hull(right.derivative(around))
        lower = torch.where(met, torch.minimum(lower, here.lower), lower)
        upper = torch.where(met, torch.maximum(upper, here.upper), upper)
    return Interval.safe(lower, upper)


def settled(curve: Curve, x: Interval) -> Tensor:
    """Bool mask: the interval lies in one exactly linear piece, so tighter bounds of it would change nothing."""
    found = torch.zeros_like(x.lower, dtype=torch.bool)
    for piece, (start, end) in zip(curve.pieces, extents(curve, x.lower), strict=True):
        if exact_line(piece, x.lower) is not None:
            found = found | ((x.lower >= start) & (x.upper <= end) & (x.lower <= x.upper))
    return found
