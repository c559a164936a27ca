"""What methods answer: `JacobianEnclosure` for N sets, `ConstantBound` for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node
from jacobound.method.facts import Facts
from jacobound.results.kinds import Status

# Bounds of entries that differ by no more than this part of the largest one differ by rounding.
SETTLED = 1e-9


class Deferred(Mapping[Node, Interval]):
    """Intervals of nodes that are found when one of them is first asked for."""

    def __init__(self, find: Callable[[], Facts]) -> None:
        self._find = find

    @cached_property
    def _found(self) -> Facts:
        return self._find()

    def __getitem__(self, node: Node) -> Interval:
        return self._found[node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True, eq=False)
class JacobianEnclosure:
    """What a Jacobian method knows, for each of N sets: entries, and sums of entries.

    Args:
        entries: interval of shape (N, outputs, inputs), the last two flattened; certified.
        along: for directions u of shape (N, outputs, inputs), exact floats, a certified interval of shape (N, outputs)
            that holds ``sum_k J[j, k] u[n, j, k]`` for every Jacobian over the n-th set.
        adjoints: enclosures of the derivative of each output with respect to each node, (N, outputs, *node shape).
        slopes: derivative range of every elementwise node, (N, *node shape).
        ranges: the enclosures of the nodes' values that were used, (N, *node shape).
        status: `Status.CERTIFIED`, or why the bound of some set is looser than the method could do.
        across: the same for columns: for exact floats u of shape (N, outputs, inputs) a certified interval of shape
            (N, inputs) that holds ``sum_j J[j, k] u[n, j, k]``; None when it knows no more than the entries do.
        rows: for p = 2 and inf certified upper bounds of the dual l_p norm of every row, shape (N, outputs), that may
            be infinite; None when it knows no more than the entries and `along` do.
        graph: the network of affine maps and gates that adjoints and slopes are about; None for the one in question.
    """

    entries: Interval
    along: Callable[[Tensor], Interval]
    adjoints: Facts
    slopes: Facts
    ranges: Facts
    status: Status = Status.CERTIFIED
    across: Callable[[Tensor], Interval] | None = None
    rows: Callable[[float], Tensor] | None = None
    graph: Graph | None = None

    def over(self, sets: int) -> JacobianEnclosure:
        """This enclosure with entries written out for every set, where the derivative is the same for all of them."""
        if len(self.entries.lower) == sets:
            return self
        return replace(self, entries=self.entries.map(lambda end: end.expand(sets, -1, -1)))

    def settles(self, p: float, q: float) -> bool:
        """Whether the Jacobian is known up to rounding, and with it its norm from l_p to l_q.

        Only where norms of matrices are computed and not estimated. A hint: it decides what else is asked.
        """
        width = (self.entries.upper - self.entries.lower).flatten(1).amax(1)
        largest = torch.maximum(self.entries.lower.abs(), self.entries.upper.abs()).flatten(1).amax(1)
        return (p == 1 or q == inf or p == q == 2) and bool((width <= SETTLED * largest).all())


@dataclass(frozen=True, eq=False)
class ConstantBound:
    """What a Lipschitz method knows of one set.

    Args:
        value: upper bound of ``sup ||J||_{p->q}``, 0-d float64, certified when the status is; inf when nothing was
            proved.
        status: `Status.CERTIFIED`, or why the bound is looser than the method could do.
        details: constants of the parts that the value was made of, by name.
        certificates: what proves each part, in the same order; empty for methods that need none.
        slopes: derivative range of every elementwise node that was used, each of the node's shape.
        ranges: the enclosures of the nodes' values, each of the node's shape.
        note: what is known of its distance from the best that the method could do; empty for nothing.
    """

    value: Tensor
    status: Status
    details: Mapping[str, Tensor]
    certificates: tuple[Any, ...]
    slopes: Facts
    ranges: Facts
    note: str = ""
