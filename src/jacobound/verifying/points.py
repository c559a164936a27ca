"""Points that violate a property: descent in plain arithmetic, proof by enclosures of the outputs there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.budget import Budget, checkpoint
from jacobound.graph.nodes import size
from jacobound.inputs.domains import Domain
from jacobound.inputs.properties import Case
from jacobound.relaxation.ranges import IBP
from jacobound.verifying.target import Target

STARTS = 64  # random points of a descent, over all alternatives
STEPS = 40
TOGETHER = 1 << 24  # numbers that a descent holds at once
PROVED = 8  # points that are proved together


@dataclass(frozen=True, eq=False)
class ProvedPoint:
    """A point of a case, and what is proved there.

    Args:
        place: the point of the set, flattened, in float64: no width but where the set holds no float.
        case: its number.
        sides: enclosure of the left sides, (C,).
        margin: certified upper bound of how far it is from being a violation, the least over the alternatives.
        violates: whether all inequalities of an alternative are proved to hold.
    """

    place: Interval
    case: int
    sides: Interval
    margin: float
    violates: bool


class PointSearch:
    """The best point so far; lives for one search."""

    def __init__(self, target: Target, cases: list[Case]) -> None:
        self._target, self._cases = target, cases
        self._generator = torch.Generator().manual_seed(0)
        self._lower, self._upper = (
            torch.stack([torch.as_tensor(end).flatten() for end in ends]).to(target.row.device)
            for ends in ([case.box.lower for case in cases], [case.box.upper for case in cases])
        )
        self.least = math.inf  # in plain arithmetic
        self.best: ProvedPoint | None = None

    @property
    def violation(self) -> ProvedPoint | None:
        """A proved one."""
        return self.best if self.best is not None and self.best.violates else None

    def look(self, points: Tensor, case: Tensor) -> Tensor:
        """Evaluate points (P, inputs) of cases (P,), and prove what may be a violation; their margins, (P,)."""
        margins = self._plain(points, case)[0].amin(1)
        better = (margins < self.least).nonzero().squeeze(1)
        if len(better):
            order = better[margins[better].argsort()[:PROVED]]
            self.least = float(margins[order[0]])
            if self.best is None or self.least <= 0 or self.least < self.best.margin:
                self._prove(points[order], case[order])
        return margins

    def start(self, budget: Budget) -> None:
        """Descend from random points and the middles of all cases."""
        target, cases = self._target, len(self._cases)
        alternatives = len(target.case_of)
        wide = self._lower.shape[1] * max(1, sum(map(size, target.double.nodes)) // max(1, self._lower.shape[1]))
        count = max(1, min(max(1, STARTS // alternatives), TOGETHER // (wide * alternatives)))
        chosen = torch.arange(alternatives, device=target.case_of.device)[: max(1, TOGETHER // wide)].repeat(count)
        case = target.case_of[chosen]
        low, high = self._lower[case], self._upper[case]
        share = torch.rand(low.shape, generator=self._generator, dtype=torch.float64).to(low)
        share[:cases] = 0.5
        self.descend(low + share * (high - low), case, chosen, STEPS, budget)

    def descend(self, points: Tensor, case: Tensor, alternative: Tensor, steps: int, budget: Budget) -> None:
        """Steps against the sign of the gradient of the margin of an alternative of each point."""
        low, high = self._lower[case], self._upper[case]
        width = high - low
        for step in range(steps):
            if budget.is_over or self.violation is not None:
                return
            checkpoint()
            x = points.detach().requires_grad_()
            with torch.enable_grad():
                margins = self._plain(x, case, detach=False)[1]
                chosen = margins.gather(1, alternative.unsqueeze(1)).sum()
                (gradient,) = torch.autograd.grad(chosen, x, allow_unused=True, materialize_grads=True)
            self.look(points, case)
            # The first half at random lengths, so that some starts pass over ridges; then shorter and shorter.
            length = 0.3 * 0.01 ** (step / max(1, steps - 1))
            moved = points - length * width * gradient.sign()
            points = torch.minimum(torch.maximum(moved, low), high)
        self.look(points, case)

    def _plain(self, points: Tensor, case: Tensor, detach: bool = True) -> tuple[Tensor, Tensor]:
        """Margins (P, A) in plain arithmetic: infinite for alternatives of other cases, and for all."""
        target = self._target
        shape = target.double.in_shape
        rows = target.double(points.reshape(-1, *shape)).flatten(1)
        sides = rows[:, target.row] * target.sign - target.above
        margins = sides[:, target.members].amax(2)
        margins = margins.detach() if detach else margins
        return torch.where(target.own(case), margins.nan_to_num(nan=math.inf), math.inf), margins

    def _prove(self, points: Tensor, case: Tensor) -> None:
        """Enclose the left sides at points, rounded to float32 where that is as good."""
        kept = torch.cat((points.to(torch.float32).to(torch.float64), points))
        which = torch.cat((case, case))
        shape, places = self._target.double.in_shape, zip(kept, which.tolist(), strict=True)
        ends = [self._cases[k].enclosing(x.reshape(shape).cpu()) for x, k in places]
        lower, upper = (torch.stack([pair[side] for pair in ends]).to(kept) for side in (0, 1))
        ranges = IBP().ranges(self._target.double, Domain(Interval(lower, upper)), Budget())
        rows = ranges[self._target.double.output].map(lambda end: end.flatten(1))
        sides = self._target.sides(rows)
        own = self._target.own(which)
        met = self._target.met(sides.upper)[:, self._target.members].all(2) & own
        margins = torch.where(own, self._target.margins(sides).upper, math.inf).amin(1)
        for k in range(len(which)):
            place = Interval(lower[k].flatten(), upper[k].flatten())
            found = ProvedPoint(place, int(which[k]), sides[k], float(margins[k]), bool(met[k].any()))
            if self.best is None or (found.violates, -found.margin) > (self.best.violates, -self.best.margin):
                self.best = found
