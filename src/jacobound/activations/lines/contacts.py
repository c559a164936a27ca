"""Where lines touch the curved pieces of a function, by a safeguarded Newton method on plain numbers.

Nothing here has to be rigorous. Concave pieces are taken as they are and convex ones upside down, so that every
search is for the root of a decreasing function; all pieces are searched at once, stacked along the first axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import Bound, Curve, Piece, clip, extents
from jacobound.arithmetic.intervals import Interval

STEPS = 60
CLOSE = 1e-7
NOISE = 8.0

Arc = tuple[int, Piece, Bound, Bound]
"""A curved piece: its place among all pieces, itself, its first and last point."""


def curved(curve: Curve, like: Tensor) -> list[Arc]:
    """The pieces that are not linear."""
    found = enumerate(zip(curve.pieces, extents(curve, like), strict=True))
    return [(k, piece, *ends) for k, (piece, ends) in found if piece.curvature != "linear"]


def signs(arcs: Sequence[Arc], like: Tensor) -> Tensor:
    """+1 for concave and -1 for convex pieces, shape (pieces, 1, ...)."""
    found = [1.0 if piece.curvature == "concave" else -1.0 for _, piece, _, _ in arcs]
    return like.new_tensor(found).reshape(-1, *[1] * like.dim())


def jets(arcs: Sequence[Arc], z: Tensor) -> tuple[Tensor, ...]:
    """Value, slope and curvature of each piece at its points, shape (pieces, *interval); equal formulas run once."""
    groups = [[piece for _, piece, _, _ in group] for _, group in itertools.groupby(arcs, lambda arc: id(arc[1].jet))]
    starts = [0, *itertools.accumulate(len(group) for group in groups)]
    found = [
        group[0].plain(z[first:last])
        if group[0].jet is not None or len(group) == 1
        else tuple(torch.stack(part) for part in zip(*map(Piece.plain, group, z[first:last]), strict=True))
        for group, (first, last) in zip(groups, itertools.pairwise(starts), strict=True)
    ]
    return found[0] if len(found) == 1 else tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def slope_at(curve: Curve, z: Tensor) -> Tensor:
    """The derivative at `z`, as a plain number; at a kink that of the right-hand piece."""
    found = torch.zeros_like(z)
    for piece, (start, end) in zip(curve.pieces, extents(curve, z), strict=True):
        found = torch.where(z >= start, piece.slope(clip(z, start, end)), found)
    return found


def tangent_points(
    curve: Curve, x: Interval, lower: Tensor, upper: Tensor, near: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """For each curved piece the point where the derivative equals the slope of the line that may touch it.

    Args:
        lower, upper: slopes of the two lines.
        near: guesses, shape (curved pieces, *interval).
    """
    found: list[Tensor | None] = [None] * len(curve.pieces)
    arcs = curved(curve, x.lower)
    if not arcs:
        return tuple(found)
    sign, first, last = signs(arcs, x.lower), *within(arcs, x)
    k = torch.stack([upper if piece.curvature == "concave" else lower for _, piece, _, _ in arcs]) * sign

    def excess(z: Tensor) -> tuple[Tensor, Tensor]:
        _, slope, bend = jets(arcs, z)
        return slope * sign - k, bend * sign

    start = guesses(arcs, first, last) if near is None else near
    roots = falling_root(excess, first, last, start, NOISE * torch.finfo(k.dtype).eps * k.abs())
    for (place, *_), root in zip(arcs, roots, strict=True):
        found[place] = root
    return tuple(found)


def within(arcs: Sequence[Arc], x: Interval) -> tuple[Tensor, Tensor]:
    """First and last point of every piece inside an interval; the same point twice where they do not meet."""
    ends = [(clip(x.lower, start, end), clip(x.upper, start, end)) for _, _, start, end in arcs]
    return torch.stack([first for first, _ in ends]), torch.stack([last for _, last in ends])


def guesses(arcs: Sequence[Arc], first: Tensor, last: Tensor) -> Tensor:
    """Where a search may start: the middle, and on an unbounded piece not far from the break at its other end."""
    found = []
    for (_, _, start, end), low, high in zip(arcs, first, last, strict=True):
        guess = low * 0.5 + high * 0.5
        if isinstance(end, float) and isinstance(start, float) and (abs(start) < 1e300) != (abs(end) < 1e300):
            guess = torch.full_like(guess, start + 1.0 if abs(start) < 1e300 else end - 1.0)
        found.append(guess)
    return torch.stack(found)


def falling_root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], first: Tensor, last: Tensor, start: Tensor, noise: Tensor
) -> Tensor:
    """Root of a decreasing function, given with its derivative; an end where there is none between.

    Newton's method, and a bisection wherever it would leave the bracket or does not halve its steps. It ends where
    the function is small beside its range on the bracket, or below `noise`.
    """
    highest, lowest = function(first)[0], function(last)[0]
    enough = noise + CLOSE * (highest - lowest)
    at_first, at_last = highest <= 0, lowest >= 0
    low, high, before = first, last, last - first
    z = torch.minimum(torch.maximum(start, first), last)
    settled = at_first | at_last | ~(before > 0)
    for _ in range(STEPS):
        value, derivative = function(z)
        settled = settled | ~(value.abs() > enough)  # also where it is not a number
        if bool(settled.all()):
            break
        low, high = torch.where(value >= 0, z, low), torch.where(value <= 0, z, high)
        step = -value / derivative
        after = z + step
        sound = (after >= low) & (after <= high) & (step.abs() <= 0.5 * before)
        after = torch.where(sound, after, low + (high - low) * 0.5)
        before, z = (after - z).abs(), torch.where(settled, z, after)
    return torch.where(at_first, first, torch.where(at_last, last, z))
