"""The best way to cover a chain of layers by pairs and single layers, each bounded on its own.

A layer between neurons is either whole, as one side of a pair or alone, or split into two factors that belong to the
pairs on its two sides. The smallest product is the shortest path over the states "up to here" and "up to the middle
of this layer". Pairs are expensive: each starts with a value that it attains, and only those on the shortest path are
bounded until that path holds certified values alone. No other path can then be shorter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import up
from jacobound.constants.pairs.dual import Pair
from jacobound.constants.pairs.layers import Layer, View


@dataclass(frozen=True)
class Edge:
    """One pair of a chain: layers `number` and `number + 1`, and which of them are split."""

    number: int
    right_split: bool
    left_split: bool


@dataclass(frozen=True, eq=False)
class Stretch:
    """A chain of layers with neurons between them.

    Args:
        layers: the first is applied first; at least one.
        slopes: of the neurons between, one fewer, flattened; float64 on the CPU.
    """

    layers: tuple[Layer, ...]
    slopes: tuple[Interval, ...]

    def views(self, edge: Edge) -> tuple[View, View]:
        """The matrices A and B of a pair."""
        first, second = self.layers[edge.number], self.layers[edge.number + 1]
        left = second.split[1] if edge.left_split else second.as_left
        right = first.split[0] if edge.right_split else first.as_right
        return left, right

    def pair(self, edge: Edge) -> Pair:
        left, right = self.views(edge)
        slopes = self.slopes[edge.number]
        return Pair(left.matrix, right.matrix, slopes.lower, slopes.upper)

    def steepest(self, number: int) -> Tensor:
        """The largest slope of the neurons behind a layer."""
        return self.slopes[number].magnitude().amax()

    def edges(self) -> list[Edge]:
        """All pairs. The last layer is never split; the first one gains nothing by it."""
        last = len(self.layers) - 2
        return [
            Edge(number, right, left)
            for number in range(last + 1)
            for right in ((False, True) if number else (False,))
            for left in ((False, True) if number < last else (False,))
        ]


@dataclass(frozen=True, eq=False)
class State:
    """A bound of everything up to a layer (or to its middle), and the pairs it is made of."""

    value: Tensor
    edges: tuple[Edge, ...] = ()


@dataclass(frozen=True, eq=False)
class _Walk:
    """The states of one pass over a chain, given a value for every pair."""

    chain: Stretch
    values: Mapping[Edge, float]
    entering: list[State] = field(default_factory=list)
    halves: list[State | None] = field(default_factory=list)

    def run(self) -> State:
        """The smallest product for the whole chain."""
        layers = self.chain.layers
        state = State(torch.ones((), dtype=torch.float64))
        for number, layer in enumerate(layers):
            if number:
                state = State(up(self.chain.steepest(number - 1) * state.value), state.edges)
            self.entering.append(state)
            found = [State(up(layer.norm * state.value), state.edges), *self._by_pairs(number, False)]
            self.halves.append(_least(self._by_pairs(number, True)))
            best = _least(found)
            assert best is not None
            state = best
        return state

    def _by_pairs(self, number: int, left_split: bool) -> list[State]:
        """States at a layer (at its middle) that end with a pair."""
        found = []
        for right_split in (False, True):
            edge = Edge(number - 1, right_split, left_split)
            if not self.values.get(edge, math.inf) < math.inf:
                continue  # no such pair, or nothing is known of it: its matrices need not be made
            start = self.halves[number - 1] if right_split else self.entering[number - 1]
            if start is not None:
                found.append(State(self._over(edge, start), (*start.edges, edge)))
        return found

    def _over(self, edge: Edge, start: State) -> Tensor:
        """The bound behind a pair, with what its matrices miss of the layers they stand for.

        ``||map_2 D map_1 X|| <= f_A ||A D map_1 X|| + e_A beta ||map_1 X||`` and
        ``||A D map_1 X|| <= f_B ||A D B|| ||R X|| + e_B beta ||A|| ||X||``, where R is the other half or the identity.
        """
        left, right = self.chain.views(edge)
        steepest, before = self.chain.steepest(edge.number), self.entering[edge.number].value
        value = torch.tensor(self.values[edge], dtype=torch.float64)
        main = up(up(up(left.factor * right.factor) * value) * start.value)
        missed_right = up(up(left.factor * left.size) * up(up(steepest * right.error) * before))
        if edge.left_split:
            return up(main + missed_right)  # its error is added where the other half is used
        missed_left = up(up(left.error * steepest) * up(self.chain.layers[edge.number].norm * before))
        return up(up(main + missed_right) + missed_left)


def _least(states: list[State]) -> State | None:
    return min(states, key=lambda state: float(state.value)) if states else None


Bound = Callable[[Edge], float]


def shortest(chain: Stretch, guess: Bound, bound: Bound) -> State:
    """The smallest certified product over all ways to cover the chain.

    Args:
        guess: a number that the bound of a pair is not expected to be below.
        bound: certified bound of a pair.

    Returns:
        The value, for the norm of the whole chain, and the pairs it uses.
    """
    values = {edge: guess(edge) for edge in chain.edges()}
    known: set[Edge] = set()
    while True:
        state = _Walk(chain, values).run()
        unknown = [edge for edge in state.edges if edge not in known]
        if not unknown:
            return state
        for edge in unknown:
            values[edge] = bound(edge)
            known.add(edge)
