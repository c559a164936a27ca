"""Best first search over branches, which can be stopped at any moment.

At every moment the open branches and those that are held cover the set, so the largest of their bounds holds: what was
proved by then is the answer. A branch is never looser than the one it came from. Branches that can not matter any
more, and the least urgent ones where memory is short, are *held*: only the largest of their bounds is kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.budget import Budget, OutOfTimeError, stopping
from jacobound.inputs.domains import Domain
from jacobound.splitting.branches import Branch, Sweeps, Swept, is_empty
from jacobound.splitting.interior import deepest_of
from jacobound.splitting.tree import OF_PARTS, End, Limits

# Branches that are bounded together when a search begins.
FEWEST = 16
# Branches in which a lower end is looked for together.
PROBED = 4


class Sought(ABC):
    """What is bounded over every branch: a number whose largest value over the set is sought."""

    @abstractmethod
    def over(self, sweeps: Sweeps, swept: Swept, budget: Budget) -> tuple[Tensor, Tensor]:
        """Certified upper bounds over the branches of a sweep that are alive, and what splitting neurons may gain.

        Returns:
            Shapes (alive,) and (alive, neurons).
        """

    @abstractmethod
    def attained(self, points: Tensor, upper: float, budget: Budget, climbs: bool = False) -> float:
        """The largest lower end that is proved so far, after points (k, inputs) were looked at.

        Args:
            climbs: whether a search goes on from there.
        """

    @abstractmethod
    def bytes_each(self, sweeps: Sweeps) -> int:
        """Working memory for one branch, in bytes."""


@dataclass(eq=False)
class BestFirst:
    """One search; lives for one call.

    Args:
        sweeps: bounds the arguments of neurons over branches.
        sought: what is bounded.
        limits: when it stops.
        known: a certified upper bound over the whole set.
        lower: a lower end that is proved already.
        boxes: parts of the set to begin with, which cover it, (inputs,); None for the set itself.

    Attributes:
        bounded: how many branches were bounded.
        held: the largest bound of those that are not split any more.
    """

    sweeps: Sweeps
    sought: Sought
    limits: Limits
    known: float
    lower: float = 0.0
    boxes: Sequence[Interval | None] = (None,)

    def run(self, budget: Budget) -> End:
        """Split until nothing is left to gain, or a limit is met."""
        self.bounded, self.held, self.stuck, self._steps = 0, -inf, False, 0
        self.open = [Branch(self.sweeps.root, (), (), self.known, box) for box in self.boxes]
        over_time = stopping(budget, tell=lambda: self._tell(budget))
        try:
            if budget.is_over:
                return End.TIME
            self._replace(self._bounded(self.open, budget), self.open)
            while True:
                self._hold(budget)
                chosen = self._chosen()
                if not chosen:
                    return End.SETTLED if self.stuck else End.CLOSED
                if self.bounded >= self.limits.most:
                    return End.PARTS
                if over_time():
                    return End.TIME
                self._probe(chosen, budget)
                children = [child for one in chosen for child in one.children()]
                self._replace(self._bounded(children, budget), chosen)
        except OutOfTimeError:
            return End.TIME

    @property
    def upper(self) -> float:
        """What holds over the whole set."""
        return max([self.held, *(one.bound for one in self.open)]) if self.open or self.held > -inf else self.known

    @property
    def _enough(self) -> float:
        """A bound that a branch need not fall below."""
        return self.lower * (1 + self.limits.gap) if self.lower > 0 else self.lower

    def _replace(self, found: list[Branch], parents: Sequence[Branch]) -> None:
        """New branches in place of those that they cover, in one step."""
        gone = set(map(id, parents))
        self.open = [*(one for one in self.open if id(one) not in gone), *found]

    def _bounded(self, branches: Sequence[Branch], budget: Budget) -> list[Branch]:
        """What is left of some branches: those that are not empty, with bounds, and with what to split next."""
        quiet, found = replace(budget, progress=None), list[Branch]()
        for some in budget.chunks(len(branches), self.sought.bytes_each(self.sweeps)):
            found += self._bounded_together(branches[some], quiet)
        self.bounded += len(branches)
        return found

    def _bounded_together(self, branches: Sequence[Branch], budget: Budget) -> list[Branch]:
        sweeps = self.sweeps
        swept = sweeps.over(branches, budget)
        if not len(swept.alive):
            return []
        values, gains = self.sought.over(sweeps, swept, budget)
        ranges, unstable = sweeps.arguments(swept.ranges, swept.alive), sweeps.unstable(swept.ranges, swept.alive)
        at = sweeps.split_points(ranges)
        able = unstable & ~at.isnan()
        which = torch.where(able, gains, -1.0).argmax(1)
        forms = sweeps.forms(swept, swept.alive, which)
        found = []
        for k, place in enumerate(swept.alive.tolist()):
            before, neuron = branches[place], int(which[k])
            bound = float(values[k].nan_to_num(nan=inf, posinf=inf))
            one = replace(before, ranges=ranges[k], bound=min(before.bound, bound), settled=not bool(unstable[k].any()))
            if bool(able[k].any()):
                one = replace(one, neuron=neuron, at=float(at[k, neuron]), forms=forms[k])
            found.append((place, one))
        return self._without_leaves(swept, sorted(found, key=lambda pair: -pair[1].bound), budget)

    def _without_leaves(self, swept: Swept, found: list[tuple[int, Branch]], budget: Budget) -> list[Branch]:
        """Branches that go on; a leaf leaves its point, or is dropped when it is proved empty."""
        going = []
        for place, one in found:
            if one.settled and one.bound > self._enough and self._is_done(swept, place, one, budget):
                continue
            going.append(one)
        return going

    def _is_done(self, swept: Swept, place: int, leaf: Branch, budget: Budget) -> bool:
        """Look for a point of a leaf, which proves a lower end; true when the leaf is certainly empty instead."""
        cut = self.sweeps.pieces(swept, place)
        domain = swept.domain[place : place + 1]
        there = deepest_of(domain, cut.normals[0], cut.limits[0])
        if there.depth > 0:
            self.lower = max(self.lower, self.sought.attained(there.point.unsqueeze(0), self.upper, budget))
            return False
        return is_empty(domain, cut, there.multipliers)

    def _probe(self, branches: Sequence[Branch], budget: Budget) -> None:
        """Look for lower ends in the middle of the loosest branches, more and more rarely."""
        self._steps += 1
        if self._steps & (self._steps - 1):  # 1, 2, 4, 8, ...
            return
        points = []
        for one in branches[:PROBED]:
            if one.normals:
                set_of = (
                    self.sweeps.reduction.domain
                    if one.box is None
                    else Domain(one.box.map(lambda end: end.unsqueeze(0)))
                )
                points.append(deepest_of(set_of, torch.stack(one.normals), torch.stack(one.limits)).point)
        if points:
            self.lower = max(self.lower, self.sought.attained(torch.stack(points), self.upper, budget, climbs=True))

    def _chosen(self) -> list[Branch]:
        """The branches to split next, the loosest ones; all others that end are held."""
        enough = self._enough
        going = [one for one in self.open if one.bound > enough and one.neuron is not None]
        stuck = max([one.bound for one in self.open if one.bound > enough and one.neuron is None], default=-inf)
        self.stuck = stuck > enough or self.held > enough
        going = [one for one in going if one.bound > max(stuck, self.held)]
        # Few at first, because what is found changes what comes next; later many, which cost less each.
        room = min(self.limits.together, max(FEWEST, self.bounded // 4)) // 2
        return sorted(going, key=lambda one: -one.bound)[: max(1, room)]

    def _hold(self, budget: Budget) -> None:
        """Keep of the branches that end only their largest bound, and of the least urgent ones beyond the memory."""
        enough = self._enough
        ending = [one.bound for one in self.open if one.bound <= enough or one.neuron is None]
        going = [one for one in self.open if one.bound > enough and one.neuron is not None]
        each = 8 * (4 * len(self.sweeps.root.lower) + 4 * self.sweeps.reduction.domain.box.lower.shape[1]) + 2000
        capacity = max(2 * self.limits.together, int(OF_PARTS * budget.memory / each))
        if len(going) > capacity:
            going.sort(key=lambda one: -one.bound)
            ending += [one.bound for one in going[capacity:]]
            going = going[:capacity]
        self.held, self.open = max([self.held, *ending]), going

    def _tell(self, budget: Budget) -> None:
        """Progress: how many branches, and the bracket so far."""
        if budget.progress is None:
            budget.tell(0, 1, "branches")
            return
        upper = self.upper
        gap = f"{upper / self.lower - 1:.2e}" if self.lower > 0 else "open"
        total = self.limits.most if self.limits.most < inf else max(1, 2 * self.bounded)
        told = f"{self.bounded} branches, {len(self.open)} open; upper {upper:.6g}, lower {self.lower:.6g}, gap {gap}"
        budget.tell(min(self.bounded, total), total, told)
