"""Which sets go through the recursion together, and how what was found for groups of sets is put back in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node
from jacobound.jacobian.core import core_bytes
from jacobound.method import Budget, Deferred, Facts, JacobianEnclosure, sets_worth
from jacobound.operators.base import positions
from jacobound.results.kinds import Status

# Padding may multiply the work of a group by no more than this.
PADDING = 1.5


def grouped(graph: Graph, counts: Tensor, budget: Budget) -> list[Tensor]:
    """Groups of sets with lists of unstable neurons of similar length, which fit the memory together.

    Args:
        counts: unstable neurons of every elementwise node over every set, shape (nodes, N), on the CPU.

    Returns:
        The sets of each group; a single group holds all of them in their order.
    """
    sets = counts.shape[1]
    if sets == 1:
        return [torch.zeros(1, dtype=torch.int64)]
    totals, together = counts.sum(0), sets_worth(graph)
    alone = [core_bytes(graph, int(total)) for total in totals]
    groups: list[list[int]] = []
    longest = counts[:, 0]
    for one in totals.argsort(stable=True).tolist():
        padded = torch.maximum(longest, counts[:, one])
        if groups:
            each, members = core_bytes(graph, int(padded.sum())), [*groups[-1], one]
            enough = len(members) > together
            wasteful = len(members) * each > PADDING * sum(alone[k] for k in members)
            if not enough and not wasteful and budget.fits(len(members) * each):
                groups[-1], longest = members, padded
                continue
        groups.append([one])
        longest = counts[:, one]
    if len(groups) == 1:
        return [torch.arange(sets)]
    return [positions(sum(map(len, groups)), graph.example)[group] for group in groups]


def only(found: Facts, sets: Tensor) -> dict[Node, Interval]:
    """Intervals (N or 1, *rest) of nodes for some of the sets."""
    return {node: x[sets] if len(x.lower) > 1 else x for node, x in found.items()}


def one_by_one(found: Facts, sets: int) -> Iterator[dict[Node, Interval]]:
    """Intervals (N, *rest) of nodes for every single set, (1, *rest)."""
    for k in range(sets):
        yield {node: x[k : k + 1] for node, x in found.items()}


def joined(
    graph: Graph,
    groups: Sequence[Tensor],
    parts: Sequence[JacobianEnclosure],
    slopes: Facts,
    ranges: Facts,
) -> JacobianEnclosure:
    """One enclosure for all sets from those of groups of them."""

    def along(directions: Tensor) -> Interval:
        pairs = zip(groups, parts, strict=True)
        return put_back(groups, [part.along(directions[sets]) for sets, part in pairs])

    def adjoints() -> Facts:
        return {node: put_back(groups, [part.adjoints[node] for part in parts]) for node in graph.nodes}

    def across(directions: Tensor) -> Interval:
        pairs = zip(groups, parts, strict=True)
        return put_back(groups, [part.across(directions[sets]) for sets, part in pairs if part.across is not None])

    entries = put_back(groups, [part.entries for part in parts])
    status = next((part.status for part in parts if part.status is not Status.CERTIFIED), Status.CERTIFIED)
    merges = all(part.across is not None for part in parts)
    return JacobianEnclosure(entries, along, Deferred(adjoints), slopes, ranges, status, across if merges else None)


def put_back(groups: Sequence[Tensor], found: Sequence[Interval]) -> Interval:
    """Intervals (n or 1, *rest) of groups of sets in the order of the sets, (N, *rest)."""
    order = torch.cat(list(groups)).argsort()

    def ends(parts: Sequence[Tensor]) -> Tensor:
        full = [part.expand(len(sets), *part.shape[1:]) for sets, part in zip(groups, parts, strict=True)]
        return torch.cat(full)[order]

    return Interval(ends([one.lower for one in found]), ends([one.upper for one in found]))
