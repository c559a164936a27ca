"""The best two lines around any function: tangents and chords that are lowest (highest) at the middle of an interval.

The upper line touches the function at one point left of the middle and at one right of it, or at the middle itself.
A contact is an end of the interval, a break, or a point of a concave piece where the line from the other contact is
tangent. For a fixed contact on one side the best one on the other side is found; because the slope is stationary
there, taking turns converges quadratically. The lower line is the upper one of the function upside down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import Curve, clip, extents, overlaps, tidy, turn_ends
from jacobound.activations.lines.contacts import (
    NOISE,
    Arc,
    curved,
    falling_root,
    guesses,
    jets,
    signs,
    slope_at,
    tangent_points,
    within,
)
from jacobound.activations.lines.offsets import Slopes
from jacobound.arithmetic.intervals import Interval

ROUNDS = 12


@torch.no_grad()
def envelope(curve: Curve, x: Interval) -> Slopes:
    """The slopes that minimise the distance of the lines at the middle, for any function."""
    x = tidy(x)
    bounded = torch.isfinite(x.lower) & torch.isfinite(x.upper)
    x = x.map(lambda end: torch.where(bounded, end, 0.0))
    search = _Search.over(curve, x)
    first = search.step(search.middle.expand(2, *x.shape), search.middle.expand(2, *x.shape))
    slope, at_middle = search.through_middle(first)
    known = first
    for _ in range(ROUNDS):
        found = search.step(known.right, known.left, known)
        moved = torch.maximum((found.left - known.left).abs(), (found.right - known.right).abs())
        known = found
        if bool((at_middle | (moved <= 1e-5 * (x.upper - x.lower))).all()):
            break
    bridge = (known.right_height - known.left_height) / (known.right - known.left)
    slope = torch.where(at_middle, slope, bridge).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    least, most = _steepness(curve, x)
    upper, lower = torch.minimum(torch.maximum(slope, least), most)
    return Slopes(lower, upper, tangent_points(curve, x, lower, upper, search.near(known, at_middle)))


@dataclass(frozen=True, eq=False)
class _Contacts:
    """Points where the two lines touch on both sides of the middle; tensors of shape (2, *interval), upper line first.

    Args:
        left, right: points.
        left_height, right_height: the function there.
        left_slope, right_slope: slope from them to the points that they were sought from.
        touching: where every curved piece on every side is touched, shape (2 * curved pieces, *interval).
    """

    left: Tensor
    right: Tensor
    left_height: Tensor
    right_height: Tensor
    left_slope: Tensor
    right_slope: Tensor
    touching: Tensor


@dataclass(frozen=True, eq=False)
class _Search:
    """What all steps share; curved pieces count twice, first left of the middle, then right of it.

    Args:
        fixed: ends and breaks left and right of the middle, shapes (k, *interval), and the function there.
    """

    curve: Curve
    middle: Tensor
    middle_height: Tensor
    arcs: list[Arc]
    first: Tensor
    last: Tensor
    start: Tensor
    fixed: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]

    @staticmethod
    def over(curve: Curve, x: Interval) -> _Search:
        middle = x.lower * 0.5 + x.upper * 0.5
        sides = (Interval(x.lower, middle), Interval(middle, x.upper))
        arcs, fixed = curved(curve, middle), []
        for side, end in zip(sides, (x.lower, x.upper), strict=True):
            breaks = [turn_ends(turn, middle)[0] for turn in curve.breaks]
            inside = [torch.minimum(torch.maximum(torch.zeros_like(end) + z, side.lower), side.upper) for z in breaks]
            points = torch.stack([end, *inside])
            fixed.append((points, curve.value(points)))
        empty = middle.new_zeros(0, *middle.shape)
        ends = [within(arcs, side) for side in sides] if arcs else [(empty, empty)] * 2
        first, last = (torch.cat(parts) for parts in zip(*ends, strict=True))
        start = guesses(arcs * 2, first, last) if arcs else empty
        return _Search(curve, middle, curve.value(middle), arcs, first, last, start, (fixed[0], fixed[1]))

    def step(self, right: Tensor, left: Tensor, before: _Contacts | None = None) -> _Contacts:
        """The best left contacts for lines through the points `right`, and the best right ones for those of `left`."""
        anchors, heights = (right, left), (self.curve.value(right), self.curve.value(left))
        touching, levels, steepness = self._touch(anchors, heights, before)
        results, count = [], len(self.arcs)
        for side, (anchor, height) in enumerate(zip(anchors, heights, strict=True)):
            (points, values), here = self.fixed[side], slice(side * count, (side + 1) * count)
            slopes = torch.full_like(points, torch.nan)
            if count:
                points, values = torch.cat([points, touching[here]]), torch.cat([values, levels[here]])
                slopes = torch.cat([slopes, steepness[here]])
            found = [self._best(points, values, slopes, anchor[k], height[k], side, k) for k in (0, 1)]
            results.append([torch.stack(pair) for pair in zip(*found, strict=True)])
        (a, a_height, a_slope), (b, b_height, b_slope) = results
        return _Contacts(a, b, a_height, b_height, a_slope, b_slope, touching)

    def _best(
        self, points: Tensor, values: Tensor, slopes: Tensor, anchor: Tensor, height: Tensor, side: int, line: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The contact that no other candidate lies beyond, its height, and the slope to it.

        A piece that ends at the anchor has its own slope there; a break or an end that is the anchor itself has none.
        """
        lowest = (side == 0) == (line == 0)
        slopes = torch.where(points == anchor, slopes, (values - height) / (points - anchor))
        usable = self._usable(side, line, anchor) & (slopes == slopes)
        slopes = torch.where(usable, slopes, torch.inf if lowest else -torch.inf)
        slope, index = (slopes.min if lowest else slopes.max)(0, keepdim=True)
        return points.gather(0, index)[0], values.gather(0, index)[0], slope[0]

    def _usable(self, side: int, line: int, like: Tensor) -> Tensor:
        """Which candidates of a side may carry a line: ends and breaks, and pieces of the line's curvature."""
        count, kind = len(self.arcs), ("concave", "convex")[line]
        here = slice(side * count, (side + 1) * count)
        right_kind = [piece.curvature == kind for _, piece, _, _ in self.arcs]
        mask = torch.tensor(right_kind, dtype=torch.bool, device=like.device).reshape(-1, *[1] * like.dim())
        always = torch.ones_like(self.fixed[side][0], dtype=torch.bool)
        return torch.cat([always, mask & (self.last[here] > self.first[here])])

    def _touch(
        self, anchors: Sequence[Tensor], heights: Sequence[Tensor], before: _Contacts | None
    ) -> tuple[Tensor, ...]:
        """Points of all pieces where a line through the anchor of their side is tangent; value and slope there."""
        arcs = self.arcs * 2
        if not arcs:
            return self.first, self.first, self.first
        lines = [0 if piece.curvature == "concave" else 1 for _, piece, _, _ in self.arcs]
        at = torch.stack([anchor[k] for anchor in anchors for k in lines])
        level = torch.stack([height[k] for height in heights for k in lines])
        sign = signs(arcs, self.middle)
        turned = sign * torch.where(torch.arange(len(arcs), device=sign.device) < len(lines), 1.0, -1.0).reshape(
            sign.shape
        ).to(sign)

        def excess(z: Tensor) -> tuple[Tensor, Tensor]:
            value, slope, bend = jets(arcs, z)
            return (slope * (at - z) - (level - value)) * turned, bend * (at - z) * turned

        start = self.start if before is None else before.touching
        noise = NOISE * torch.finfo(level.dtype).eps * level.abs()
        # A piece that ends at the anchor is touched there; without this the search would meet a double root.
        meets = (self.first == at) | (self.last == at)
        first, last = (torch.where(meets, at, end) for end in (self.first, self.last))
        found = falling_root(excess, first, last, start, noise)
        return found, *jets(arcs, found)[:2]

    def through_middle(self, found: _Contacts) -> tuple[Tensor, Tensor]:
        """Slopes of lines that touch at the middle, and where such lines are valid; shape (2, *interval) both."""
        slope = slope_at(self.curve, self.middle)
        slopes, valid = [], []
        for line, sign in enumerate((1.0, -1.0)):
            most, least = sign * found.left_slope[line], sign * found.right_slope[line]
            slopes.append(sign * torch.minimum(torch.maximum(sign * slope, least), most))
            valid.append(least <= most)
        return torch.stack(slopes), torch.stack(valid)

    def near(self, known: _Contacts, at_middle: Tensor) -> Tensor | None:
        """For every curved piece a point close to where its line touches."""
        found = []
        for _, piece, start, end in self.arcs:
            line = 0 if piece.curvature == "concave" else 1
            left, right = known.left[line], known.right[line]
            guess = torch.where((left >= start) & (left <= end), left, right)
            found.append(clip(torch.where(at_middle[line], self.middle, guess), start, end))
        return torch.stack(found) if found else None


def _steepness(curve: Curve, x: Interval) -> tuple[Tensor, Tensor]:
    """Smallest and largest slope on an interval, as plain numbers: in a tiny one a chord is only noise."""
    least, most = torch.full_like(x.lower, torch.inf), torch.full_like(x.lower, -torch.inf)
    for piece, (start, end) in zip(curve.pieces, extents(curve, x.lower), strict=True):
        met = overlaps(x, start, end)
        slopes = piece.slope(torch.stack([clip(x.lower, start, end), clip(x.upper, start, end)]))
        least = torch.where(met, torch.minimum(least, slopes.amin(0)), least)
        most = torch.where(met, torch.maximum(most, slopes.amax(0)), most)
    return least, most
