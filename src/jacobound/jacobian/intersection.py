"""`Intersection`: the Jacobian bounds of several methods at once; entry by entry the narrowest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.budget import OutOfTimeError
from jacobound.errors import InvalidOptionError
from jacobound.graph.graph import Graph
from jacobound.method import JacobianEnclosure, JacobianMethod, OutputMethod, Query
from jacobound.relaxation.ranges import CROWN
from jacobound.results.kinds import Status


@dataclass(frozen=True, init=False)
class Intersection(JacobianMethod):
    """Certified Jacobian bounds as the intersection of those of several methods, which share the ranges of the neurons.

    A method that runs out of time is left out, unless it is the only one.

    Args:
        methods: at least one.
        preactivation: how the ranges of the nodes are found.
    """

    methods: tuple[JacobianMethod, ...]
    preactivation: OutputMethod

    def __init__(self, *methods: JacobianMethod, preactivation: OutputMethod | None = None) -> None:
        if not methods:
            raise InvalidOptionError("an intersection needs at least one method")
        object.__setattr__(self, "methods", methods)
        object.__setattr__(self, "preactivation", CROWN() if preactivation is None else preactivation)

    def __repr__(self) -> str:
        return f"Intersection({', '.join(map(repr, self.methods))})"

    def enclose(self, query: Query) -> JacobianEnclosure:
        graph, budget = query.graph.with_affine_output(), query.budget
        asked = replace(query, graph=graph, ranges=query.ranges_by(self.preactivation, graph))
        found: list[JacobianEnclosure] = []
        for k, method in enumerate(self.methods):
            share = budget.within(budget.remaining / (len(self.methods) - k))
            try:
                found.append(method.enclose(replace(asked, budget=share)))
            except OutOfTimeError:
                if not found:
                    raise
                found[0] = replace(found[0], status=Status.TIME_LIMIT)
        return intersected(found)

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory for each set in bytes."""
        return max(method.bytes_per_set(graph) for method in self.methods)


def intersected(found: Sequence[JacobianEnclosure]) -> JacobianEnclosure:
    """What several enclosures of one Jacobian know together; derivatives by inner nodes are those of the first."""
    first = found[0]
    if len(found) == 1:
        return first
    across = [one.across for one in found if one.across is not None]
    known = [one.rows for one in found if one.rows is not None]

    def rows(p: float) -> Tensor:
        return torch.stack([bound(p) for bound in known]).amin(0)

    statuses = [one.status for one in found if one.status is not Status.CERTIFIED]
    return replace(
        first,
        entries=reduce(Interval.intersect, [one.entries for one in found]),
        along=_narrowest([one.along for one in found]),
        status=statuses[0] if statuses else Status.CERTIFIED,
        across=_narrowest(across) if across else None,
        rows=rows if known else None,
    )


def _narrowest(bounds: Sequence[Callable[[Tensor], Interval]]) -> Callable[[Tensor], Interval]:
    """Sums in given directions by all that bound them."""
    return lambda directions: reduce(Interval.intersect, [bound(directions) for bound in bounds])
