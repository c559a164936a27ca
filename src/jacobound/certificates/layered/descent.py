"""Multipliers by L-BFGS on smoothed largest eigenvalues, with a number that the optimum is not below.

The smoothing is lowered step by step; every stage begins where the one before ended. A stage ends where steps gain
little of what smoothing still costs, the search where its best value is near the largest lower end that was met.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol

from torch import Tensor

SMOOTHING = (0.1, 0.03, 0.01, 0.003, 1e-3, 3e-4, 1e-4, 3e-5)
STEPS = 300  # at most, for each smoothing
MEMORY = 30  # pairs that L-BFGS remembers
LONGEST = 1.0  # change of a logarithm in one step
STALLED = 3e-5  # a step that gains less than this share of the smoothing ends a stage

Over = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is known of multipliers.

    Args:
        value: logarithm of the squared constant that they prove; inf where they prove nothing.
        smooth: the smoothed value that is descended.
        gradient: its derivative; None where there is none.
        least: a number that the smallest value is not below, up to rounding: what a feasible point of the dual
            problem says.
    """

    value: float
    smooth: float
    gradient: Tensor | None
    least: float = -inf


class Objective(Protocol):
    """What is descended."""

    def evaluate(self, at: Tensor, smoothing: float) -> Evaluation:
        """The evaluation of logarithms of multipliers."""
        ...


@dataclass(frozen=True, eq=False)
class Descended:
    """Where a search ended.

    Args:
        value: logarithm of the squared constant.
        at: logarithms of the multipliers that prove it.
        least: the smallest value is not below it.
    """

    value: float
    at: Tensor
    least: float


@dataclass(frozen=True, eq=False)
class Ends:
    """When a search is to end, in logarithms of the squared constant.

    Args:
        tolerance: distance of the best value from the lower end.
        enough: value that is small enough.
        least: a lower end that is known already.
    """

    tolerance: float
    enough: float = -inf
    least: float = -inf


def descended(objective: Objective, exact: Objective, start: tuple[float, Tensor], over: Over, ends: Ends) -> Descended:
    """The best multipliers that were met, however early the search ends.

    Args:
        objective: perhaps in single precision, enough to steer by.
        exact: the same, for when that is too coarse.
        start: value and logarithms of multipliers.
        over: asked before every evaluation; true ends the search.
    """
    if not len(start[1]):
        return Descended(*start, ends.least)
    search = _Descent(objective, start, over, ends)
    for smoothing in SMOOTHING:
        if not search.run(smoothing) and objective is not exact:
            search.objective = exact
            search.run(smoothing)
        if search.ended:
            break
    return Descended(*search.best, search.least)


class _Descent:
    """L-BFGS with backtracking; lives for one search."""

    def __init__(self, objective: Objective, start: tuple[float, Tensor], over: Over, ends: Ends) -> None:
        self.objective, self._over, self._ends = objective, over, ends
        self.best, self.least = start, ends.least
        self._at = start[1]

    def _evaluate(self, at: Tensor, smoothing: float) -> Evaluation:
        found = self.objective.evaluate(at, smoothing)
        if found.value < self.best[0]:
            self.best = found.value, at
        self.least = max(self.least, found.least)
        return found

    @property
    def ended(self) -> bool:
        near = self.best[0] - self.least <= self._ends.tolerance
        return near or self.best[0] <= self._ends.enough or self._over()

    def _stepped(self, direction: Tensor, value: float, rate: float, smoothing: float) -> tuple[float, Evaluation]:
        """Length of a step that gains enough and what is there; the last one tried when none does."""
        length = min(1.0, LONGEST / float(direction.abs().max())) / 0.4
        there = Evaluation(inf, inf, None)
        for _ in range(10):
            length *= 0.4
            there = self._evaluate(self._at + length * direction, smoothing)
            if there.smooth <= value + 1e-4 * length * rate or self.ended:
                break
        return length, there

    def run(self, smoothing: float) -> bool:
        """L-BFGS until it gains little, or is to end; False when no step gained anything."""
        here = self._evaluate(self._at, smoothing)
        pairs: list[tuple[Tensor, Tensor]] = []
        for _ in range(STEPS):
            if here.gradient is None or self.ended:
                return here.gradient is not None
            direction = _direction(here.gradient, pairs)
            rate = float(direction @ here.gradient)
            if not rate < 0:
                return False
            length, there = self._stepped(direction, here.smooth, rate, smoothing)
            if there.gradient is None or not there.smooth < here.smooth:
                return self.ended
            moved, turn, gained = length * direction, there.gradient - here.gradient, here.smooth - there.smooth
            if float(moved @ turn) > 1e-12 * float(moved.norm() * turn.norm()):
                pairs = [*pairs[1 - MEMORY :], (moved, turn)]
            self._at, here = self._at + moved, there
            if gained < STALLED * smoothing:
                return True
        return True


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion."""
    found, factors = gradient.clone(), []
    for moved, turn in reversed(pairs):
        factors.append(float(moved @ found) / float(moved @ turn))
        found -= factors[-1] * turn
    if pairs:
        moved, turn = pairs[-1]
        found *= float(moved @ turn) / float(turn @ turn)
    else:
        found *= 0.3 / max(float(gradient.abs().max()), 1e-300)
    for (moved, turn), factor in zip(pairs, reversed(factors), strict=True):
        found += moved * (factor - float(turn @ found) / float(moved @ turn))
    return -found
