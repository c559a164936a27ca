"""What all questions share: points with balls around them, runs of them that fit the memory, and a bisection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import TypeVar

import torch
from torch import Tensor

from jacobound.asking import sets_together
from jacobound.checks import real, whole
from jacobound.errors import InvalidOptionError, InvalidRegionError
from jacobound.given import no_scale_given
from jacobound.graph.graph import Graph
from jacobound.inputs.radii import Radii
from jacobound.inputs.regions import Ball, Balls, Clip, Points, Region
from jacobound.method import Budget

HALVINGS = 60  # of a radius that fails, before it counts as 0
DOUBLINGS = 60  # of a radius that is verified, before it counts as large enough
MOST = 200  # tries per question
NOTHING = 1e-30  # bounds of a derivative that is exactly 0 may reach this far, because they cover underflow


Answer = TypeVar("Answer")


def around_points(graph: Graph, region: Ball) -> tuple[Balls, tuple[int, ...]]:
    """Balls of any radius around the points of a ball of radius 0, and how the points were arranged.

    Raises:
        ShapeError, InvalidRegionError: when the points do not fit the network or do not lie inside `clip`.
    """
    balls, lead = region.balls(graph)
    points = balls.points
    balls.domain(torch.arange(len(points), device=points.device), points.new_zeros(len(points)))
    return balls, lead


def points_given(
    asked: str,
    x: Points | Region,
    p: float | None,
    clip: Clip | None,
    largest: float | None,
    usual: tuple[float, float],
) -> tuple[Ball, float]:
    """Points as balls of radius 0, and the largest radius that is of interest.

    Args:
        asked: the question, for messages.
        x: points, or one ball whose centre, norm and clip are meant; its radius is the largest that is of interest.
        p, clip, largest: as given beside points; None beside a ball, which holds them.
        usual: the norm and the largest radius where nothing else is said.

    Raises:
        InvalidRegionError: when a region is no ball around points with one radius.
        InvalidOptionError: when something is given twice, or the ball has units of its own.
    """
    if not isinstance(x, Region):
        return Ball(x, 0.0, usual[0] if p is None else p, clip), usual[1] if largest is None else largest
    if not isinstance(x, Ball) or isinstance(x.radius, tuple | Radii):
        raise InvalidRegionError(f"{asked} grows balls around points: give the points, or Ball(points, largest radius)")
    no_scale_given(x.scale, asked)
    twice = [f"{name}=" for name, value in (("p", p), ("clip", clip), ("largest", largest)) if value is not None]
    if twice:
        raise InvalidOptionError(f"the ball holds its own p, clip and largest radius; leave out {', '.join(twice)}=")
    return Ball(x.center, 0.0, x.p, x.clip), x.radii[0]


def runs(count: int, graph: Graph, bytes_each: int, budget: Budget) -> Iterator[slice]:
    """Slices of so many sets that are worth working on together and fit the memory."""
    step = sets_together(count, graph, bytes_each, budget)
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))


def check_tolerance(tolerance: float, largest: float) -> tuple[float, float]:
    """Refuse what no bisection can work with.

    Raises:
        InvalidOptionError: when it is that.
    """
    found = real(tolerance, "tolerance"), real(largest, "largest")
    if not 0 < found[0] < 1 or not 0 < found[1] < inf:
        raise InvalidOptionError(
            f"a search needs 0 < tolerance < 1 and a finite largest > 0, not {tolerance} and {largest}"
        )
    return found


def check_steps(steps: int) -> int:
    """Refuse a march without steps."""
    return whole(steps, "steps of the integral", 1)


@dataclass(eq=False)
class _Brackets:
    """Brackets of N x K radii, with the scores at their ends; lives for one search. All tensors float64, (N, K)."""

    low: Tensor
    high: Tensor
    low_score: Tensor
    high_score: Tensor

    def put(self, which: Tensor, radii: Tensor, scores: Tensor) -> None:
        """What was found at one radius of each of some points."""
        tried, held = radii.unsqueeze(1), scores > 0
        low, high = self.low[which], self.high[which]
        rises, falls = held & (tried > low), (scores <= 0) & (tried > low) & (tried < high)
        self.low_score[which] = torch.where(rises, scores, self.low_score[which])
        self.low[which] = torch.where(rises, tried, low)
        self.high_score[which] = torch.where(falls, scores, self.high_score[which])
        self.high[which] = torch.where(falls, tried, high)
        # A radius above a refused one was verified: what is verified need not be monotone.
        self.high = torch.where(self.high <= self.low, inf, self.high)

    def wanted(self, start: Tensor, largest: float, tolerance: float, halve: bool) -> tuple[Tensor, Tensor]:
        """Which questions are open, and the radius that each would like to try next."""
        low, high, first = self.low, self.high, start.unsqueeze(1)
        rising, falling = high.isinf(), low == 0
        above = torch.maximum(first, 2 * low).clamp(max=largest)
        # Where the score would vanish if it were linear, then a little to the side that is farther away.
        share = self.low_score / (self.low_score - self.high_score)
        root = low + (high - low) * share.clamp(0.05, 0.95)
        aside = torch.where(root - low > high - root, -0.4, 0.4) * tolerance * high
        inside = torch.where(share.isfinite() & (not halve), root + aside, (low + high) / 2)
        between = torch.where((low < inside) & (inside < high), inside, (low + high) / 2)
        wanted = torch.where(rising, above, torch.where(falling, high / 4, between))
        smallest, huge = first * 2.0**-HALVINGS, first * 2.0**DOUBLINGS
        done = torch.where(rising, (low >= largest) | (low >= huge), high - low <= tolerance * high)
        return ~(done | (falling & (high < smallest))), wanted


def largest_verified(
    check: Callable[[Tensor, Tensor, Tensor], Tensor],
    columns: int,
    first: Tensor,
    largest: float,
    tolerance: float,
    over: Callable[[], bool],
    known: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The largest verified radius of N points and K questions about each, by interpolation and bisection.

    One check answers several questions, so every step tries the radius that the least decided one of each point asks
    for. What is verified need not be monotone in the radius; the result is the largest radius that was verified.

    Args:
        check: from points (n,), one radius for each (n,), float64, and questions (k,) to scores (n, k), float64; a
            positive one verifies. Its size only steers the search.
        columns: K.
        first: radii (N,) to begin with, float64 and positive.
        largest: no larger radius is tried.
        tolerance: relative width at which a bracket is narrow enough.
        over: asked before every step; true ends the search.
        known: radii (N, K) that are verified (0 for none), and that are not (inf for none), from before.

    Returns:
        Radii (N, K); 0 where none was verified.
    """
    zero = torch.zeros(len(first), columns, dtype=torch.float64, device=first.device)
    low, high = known if known is not None else (zero, torch.full_like(zero, inf))
    brackets = _Brackets(low.clone(), high.clone(), torch.full_like(zero, torch.nan), torch.full_like(zero, torch.nan))
    start, undefined = first.clamp(max=largest), False
    for tries in range(MOST * columns):
        open_ones, wanted = brackets.wanted(start, largest, tolerance, tries % 4 == 3)
        which, asked = open_ones.any(1).nonzero().squeeze(1), open_ones.any(0).nonzero().squeeze(1)
        if not len(which) or over():
            break
        gap = torch.where(brackets.high.isinf(), 2.0, 1 - brackets.low / brackets.high)
        doubtful = torch.where(open_ones, gap, -1.0)[which].argmax(1, keepdim=True)
        radii = wanted[which].gather(1, doubtful).squeeze(1)
        scores = torch.full((len(which), columns), torch.nan, dtype=torch.float64, device=first.device)
        for part, found in where_defined(check, which, (radii,), asked):
            undefined |= found is None
            scores[part, asked] = -1.0 if found is None else found
        brackets.put(which, radii, scores)
    nothing = (brackets.low <= 0).all(1).nonzero().squeeze(1)
    if undefined and len(nothing):  # a point that is outside of a function's domain has no radius, not even 0
        check(nothing, zero[nothing, 0], torch.arange(columns, device=first.device))
    return brackets.low


def where_defined(
    ask: Callable[..., Answer], which: Tensor, radii: tuple[Tensor, ...], rows: Tensor
) -> Iterator[tuple[slice, Answer | None]]:
    """Answers for several points over balls; None for a point whose ball leaves the domain of a function.

    Args:
        ask: from points (n,), one or more radii (n,) and questions (k,) to an answer.

    Yields:
        Which of the points, and the answer for them.
    """
    try:
        yield slice(0, len(which)), ask(which, *radii, rows)
    except InvalidRegionError:
        for k in range(len(which)):
            one = slice(k, k + 1)
            try:
                yield one, ask(which[one], *(radius[one] for radius in radii), rows)
            except InvalidRegionError:
                yield one, None
