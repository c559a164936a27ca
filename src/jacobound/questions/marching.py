"""Theorem 2 of RecurJac as one outward march over growing balls, for all targets of several points at once.

Along the segment from x to a point at distance r the margin falls at rate L(r) at most, where L(r) is its Lipschitz
constant over the ball of radius r. L only grows, so constants over the larger ball (right end points) bound the
integral, and a step that the margin does not survive as a whole is credited in part: with m left, m / L of its width.
A step from the ball of radius r' needs no more than a constant of the increments between points of the two balls
(ours): never larger, and from the centre, where r' = 0, about as good as the integral over the step itself. Where a
lower bound of the margin over the ball itself is at hand (from linear bounds), the march goes on from the larger of the
two, which dominates both arguments (ours). Source: Zhang, Zhang, Hsieh, AAAI 2019, Theorem 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import down, up
from jacobound.questions.common import where_defined

GROWTH = 2.0  # steps grow by this factor at most
LONGEST = 2.0  # of a step, as a share of the largest possible radius over the number of steps
SHORTEST = 0.25  # of a step, as a share of the radius so far over the number of steps
FIRST = 0.025  # of the first step, as a share of the horizon: increments from the centre allow a long one
WASTED = 0.5  # a step is too long when it may cost a target this share of its radius, over the number of steps
RETREATS = 4  # such steps of each point at most
PROMISING = 3e-3  # a target goes on while its radius may still grow by this share


@dataclass(frozen=True, eq=False)
class Bounds:
    """What is known of K margins over n balls, float64, shape (n, K).

    Args:
        margin: certified lower bounds of the margins over the balls.
        constant: certified constants of the increments of the margins, from points of smaller balls around the same
            centres to those of these balls.
    """

    margin: Tensor
    constant: Tensor


Evaluate = Callable[[Tensor, Tensor, Tensor, Tensor], Bounds]
"""From points (n,), radii of the smaller balls (n,), of the larger ones (n,) and rows (k,) to bounds (n, k)."""


class March:
    """The state of a march for N points and K targets; lives for one call. All tensors float64, (N, K) or (N,).

    Args:
        start: bounds over balls of radius 0.
        joined: whether margins over the balls count as well as the integral.
        retreats: how many steps of each point may be taken back because they were much too long.
        wasted: share of its radius that a step may cost a target before it counts as too long.
    """

    def __init__(self, start: Bounds, joined: bool, retreats: int = 0, wasted: float = inf) -> None:
        self._margin, self._constant, self._joined = start.margin, start.constant, joined
        self._growth, self._wasted = torch.zeros_like(start.constant), wasted
        self._at = start.margin.new_zeros(len(start.margin))
        self._step, self._cap = torch.full_like(self._at, inf), torch.full_like(self._at, inf)
        self._retreats = torch.full_like(self._at, retreats, dtype=torch.int64)
        self._integral, self._best = start.margin.clone(), start.margin.clone()
        zero = torch.zeros_like(start.margin)
        self.lemma, self.theorem, self.ranges, self.combined = (zero.clone() for _ in range(4))
        self.refused = torch.full_like(zero, inf)

    @property
    def left(self) -> Tensor:
        """What is certified of the margin where the march stands; it goes on while this is positive."""
        return self._best if self._joined else self._integral

    @property
    def active(self) -> Tensor:
        """Which targets are worth another step: what is left may still move them noticeably."""
        return (self.left > 0) & (self.left > PROMISING * self._constant * self._at.unsqueeze(1))

    @property
    def at(self) -> Tensor:
        """How far each point has come, shape (N,)."""
        return self._at

    def next_radii(self, steps: int) -> Tensor:
        """Radii (N,) for the next step, so that about so many steps lose the same share of the margin each.

        A free choice. A step of width d loses about ``L (exp(g d) - 1) d`` against the exact integral, where g is the
        rate at which log L grows.
        """
        active, horizon = self.active, self.left / self._constant
        tolerated = 4.0 / steps**2 * self._margin * self._growth / self._constant
        width = torch.log1p(tolerated.sqrt()) / self._growth
        width = torch.where(self._growth > 0, width, inf)
        if not bool(self._step.isfinite().any()):  # nothing is known of the growth yet
            width = FIRST * horizon
        width = torch.where(active, width, inf).amin(1)
        width = torch.maximum(torch.minimum(width, GROWTH * self._step), SHORTEST / steps * self._at)
        longest = torch.where(active, horizon, 0.0).amax(1)  # no target can last longer
        width = torch.minimum(width, LONGEST / steps * (self._at + longest)).minimum(self._cap)
        return self._at + torch.minimum(width, longest)

    def advance(self, which: Tensor, radii: Tensor, rows: Tensor, bounds: Bounds) -> None:
        """One step outward for some points, with bounds of some targets over the larger balls.

        A step that was much too long is credited in part, but not taken: a shorter one follows.
        """
        place = which.unsqueeze(1), rows
        near, far, constant = self._at[which].unsqueeze(1), radii.unsqueeze(1), bounds.constant
        width = up(far - near)
        wasted, shorter = self._too_long(place, width, constant, (bounds.margin > 0) & self._joined)
        taken = ~wasted | (self._retreats[which] <= 0)
        for left, reached in ((self._integral, self.theorem), (self._best, self.combined)):
            reach = torch.minimum(far, down(near + lasting_for(left[place], constant)))
            reached[place] = torch.maximum(reached[place], torch.where(left[place] > 0, reach, 0.0))
            left[place] = torch.where(taken.unsqueeze(1), down(left[place] - up(constant * width)), left[place])
        lemma = torch.minimum(far, lasting_for(self._margin[place], constant))
        # The centre lies in every smaller ball, so these constants bound its own increments too.
        self.lemma[place] = torch.maximum(self.lemma[place], torch.where(self._margin[place] > 0, lemma, 0.0))
        if self._joined:
            held = bounds.margin > 0
            self._best[place] = torch.maximum(self._best[place], bounds.margin)
            self.ranges[place] = torch.where(held, torch.maximum(self.ranges[place], far), self.ranges[place])
            self.combined[place] = torch.maximum(self.combined[place], self.ranges[place])
            self.refused[place] = torch.where(held, inf, torch.minimum(self.refused[place], far))
        grown = (constant / self._constant[place]).log() / (far - near)
        self._growth[place] = torch.where(grown.isfinite(), grown.clamp(min=0.0), 0.0)
        self._constant[place] = torch.where(taken.unsqueeze(1), constant, self._constant[place])
        self._cap[which] = torch.where(taken, inf, shorter)
        self._retreats[which] -= (~taken).to(self._retreats.dtype)
        self._step[which] = torch.where(taken, radii - self._at[which], self._step[which])
        self._at[which] = torch.where(taken, radii, self._at[which])

    def _too_long(
        self, place: tuple[Tensor, Tensor], width: Tensor, constant: Tensor, held: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Whether a step ends some target far before its true end, and the width of a better one; (n,)."""
        left, near = self.left[place], self._at[place[0]]
        credited = torch.where(held, width, torch.minimum(left / constant, width))
        possible = torch.minimum(left / self._constant[place], width)  # with the constant of the last step
        lost = torch.where(left > 0, (possible - credited) / (near + credited), 0.0).nan_to_num(nan=0.0)
        worst, which = lost.max(1, keepdim=True)
        # The true end lies between the two.
        ends = credited.gather(1, which), possible.gather(1, which)
        between = torch.where(ends[0] > 0, (ends[0] * ends[1]).clamp(min=0.0).sqrt(), 0.5 * ends[1])
        return (worst > self._wasted).squeeze(1), between.squeeze(1)


def lasting_for(left: Tensor, constant: Tensor) -> Tensor:
    """How far a margin lasts, strictly: it is still positive there. Infinite where the constant is 0."""
    return torch.where(constant > 0, down(down(left / constant)), inf)


def march(
    evaluate: Evaluate, start: Bounds, joined: bool, steps: int, largest: float, over: Callable[[], bool]
) -> March:
    """March until no margin is left, the largest radius is reached, or time is over."""
    state = March(start, joined, RETREATS, WASTED / steps)
    taken = 0
    while not over() and taken < 20 * steps:
        active = state.active & (state.at < largest).unsqueeze(1)
        which, rows = active.any(1).nonzero().squeeze(1), active.any(0).nonzero().squeeze(1)
        if not len(which):
            break
        radii = state.next_radii(steps)[which].clamp(max=largest)
        for part, found in where_defined(evaluate, which, (state.at[which], radii), rows):
            # Over a ball that leaves the domain of a function nothing is known.
            nothing = state.left.new_full((1, len(rows)), inf)
            state.advance(which[part], radii[part], rows, Bounds(-nothing, nothing) if found is None else found)
        taken += 1
    return state
