"""One sweep over the graph that encloses every node: by intervals, and by linear bounds where that can help.

`IBP`, `FastLin` and `CROWN` are this sweep with no lines, parallel lines and the best lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from jacobound.activations.kinds.base import Activation, Lines
from jacobound.arithmetic.intervals import Interval, concatenated
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.inputs.domains import Domain, Owners
from jacobound.method import Budget, Facts
from jacobound.relaxation.elementwise import Relaxation
from jacobound.relaxation.linear_bounds import BackwardPass
from jacobound.relaxation.noise import noise_of, widened
from jacobound.relaxation.planes import PlaneRelaxation, planes_of, range_of
from jacobound.relaxation.row_slopes import ChoiceBook, SlopeSearch

LinesOf = Callable[[Activation, Interval], Lines]

# The part of the time that is left which the search for slopes of rows may take: others come behind.
OF_SEARCH = 0.5


def propagate(
    graph: Graph,
    domain: Domain,
    budget: Budget,
    lines_of: LinesOf | None,
    with_output: bool,
    known: Mapping[Node, Interval] | None = None,
    search: SlopeSearch | None = None,
) -> dict[Node, Interval]:
    """Enclose all nodes in topological order.

    Args:
        lines_of: lines for an activation on an interval; None uses intervals alone, except that a node which is
            affine in the input is bounded by dual norms.
        with_output: whether the output node is worth tightening.
        known: certified enclosures of some nodes, (N, *node shape): they narrow the nodes, and what comes behind them.
        search: for better slopes of rows whose bounds still matter; None for none.

    Returns:
        Certified interval of every node, of shape (N, *node shape) for a domain of N sets.
    """
    return _Sweep(graph, domain, budget, lines_of, with_output, known, search).run()


@dataclass(frozen=True, eq=False)
class Propagated:
    """What a sweep found.

    Args:
        ranges: certified interval of every node, (N, *node shape).
        empty: sets that are certainly empty, bool (N,): two certified enclosures of one entry have no point in common.
        backward: the pass behind the linear bounds, for further rows.
        reachable: the nodes that it can start from.
    """

    ranges: Facts
    empty: Tensor
    backward: BackwardPass
    reachable: frozenset[Node]


def propagated(graph: Graph, domain: Domain, budget: Budget, lines_of: LinesOf | None, known: Facts) -> Propagated:
    """`propagate` without its output node, and with what stands behind it."""
    sweep = _Sweep(graph, domain, budget, lines_of, False, known)
    return Propagated(sweep.run(), sweep.empty, sweep.backward, frozenset(sweep.reachable))


class _Sweep:
    """The sweep; lives for one call."""

    def __init__(
        self,
        graph: Graph,
        domain: Domain,
        budget: Budget,
        lines_of: LinesOf | None,
        with_output: bool,
        known: Mapping[Node, Interval] | None = None,
        search: SlopeSearch | None = None,
    ) -> None:
        self._graph, self._domain, self._budget, self._known = graph, domain, budget, known or {}
        self._lines_of, self._with_output = lines_of, with_output
        self._ranges: dict[Node, Interval] = {}
        self._relaxations: dict[Node, Relaxation] = {}
        self._planes: dict[Node, PlaneRelaxation] = {}
        self._noise: dict[Node, Tensor] = {}
        self.backward = BackwardPass(graph, domain, self._ranges, self._relaxations, self._noise, self._planes)
        self.empty = torch.zeros(len(domain), dtype=torch.bool, device=graph.device)
        self._read_as_factors, self.reachable = _read_as_factors(graph), set[Node]()
        self._search, self._choices = search, ChoiceBook(self._ranges, self._relaxations)
        self._of_search = budget.within(OF_SEARCH * budget.remaining)

    def run(self) -> dict[Node, Interval]:
        reachable = self.reachable  # nodes that a backward pass can start from
        bounded = bool(self._domain.bounded.any())
        for done, node in enumerate(self._graph.nodes):
            self._budget.tell(done, len(self._graph.nodes), "ranges")
            if isinstance(node, Input):
                self._set(node, self._domain.box)
                reachable.add(node)
            elif isinstance(node, Affine):
                self._set(node, self._enclose(node))
                if bounded and all(source in reachable for source in node.sources):
                    reachable.add(node)
                    self._tighten(done, node)
            elif isinstance(node, Elementwise):
                argument = self._ranges[node.source]
                node.activation.require(argument, node.name)
                self._set(node, node.activation.range(argument))
                if self._lines_of is not None and node.source in reachable:
                    lines = self._lines_of(node.activation, argument)
                    self._relaxations[node] = Relaxation(lines, argument.magnitude(), self._noise.get(node))
                    reachable.add(node)
            else:
                self._set(node, range_of(node, self._ranges))
                planes = None
                if self._lines_of is not None and bounded and all(source in reachable for source in node.sources):
                    planes = planes_of(node, self._ranges)
                if planes is not None:  # else behind such a node intervals alone go on
                    sizes = tuple(self._ranges[source].magnitude() for source in node.sources)
                    self._planes[node] = PlaneRelaxation(planes, sizes)
                    reachable.add(node)
                    self._tighten(done, node)
        return self._ranges

    def _set(self, node: Node, found: Interval) -> None:
        """Record the range of a node, with what a function beside it knows and the noise of its execution if any."""
        beside = getattr(node, "beside", None)
        if beside is not None:
            found = found.intersect(beside.function.range(self._ranges[beside.source]))
        if node in self._known:
            known = self._known[node]
            self.empty = self.empty | apart(found, known).flatten(1).any(1)
            found = found.intersect(known)
        self._ranges[node] = found
        noise = noise_of(self._graph, node, self._ranges)
        if noise is not None:
            self._noise[node] = noise
            self._ranges[node] = widened(found, noise)

    def _enclose(self, node: Affine) -> Interval:
        """Interval image of an affine node."""
        images = [operator.enclose(self._ranges[source]) for operator, source in node.terms]
        total = sum(images[1:], images[0])
        total = total if node.bias is None else total + node.bias
        execution = self._graph.execution
        if node.choice is None or (execution is not None and node in execution.nodes):
            return total  # an engine that computes the terms one by one rounds them
        return total.intersect(node.choice.range(self._ranges[node.choice.source]))

    def _tighten(self, done: int, node: Node) -> None:
        """Intersect a node's interval with linear bounds, for the entries where that can change anything later."""
        wanted = self._worthwhile(node).flatten(1) & self._domain.bounded.unsqueeze(1)
        sets, rows = wanted.nonzero(as_tuple=True)
        if not len(rows) or self._budget.is_over:
            return
        enclose = self.backward.enclose
        self._narrow(done, node, sets, rows, partial(enclose, node), self.backward.bytes_per_row(node), 1.0)
        if self._search is not None:
            self._improve(done, node, self._search)

    def _improve(self, done: int, node: Node, search: SlopeSearch) -> None:
        """Slopes of their own for the entries whose range still matters."""
        wanted = self._worthwhile(node).flatten(1) & self._domain.bounded.unsqueeze(1)
        sets, rows = wanted.nonzero(as_tuple=True)
        if not len(rows) or self._of_search.is_over:
            return
        choices, budget = self._choices.before(node), self._of_search
        if not choices.choices:
            return

        def bounds(rows: Tensor, owners: Owners) -> Interval:
            return search.bounds(self.backward, node, rows, owners, choices, budget)

        needed = self.backward.bytes_per_row(node) * 2 + choices.bytes_per_row()
        self._narrow(done, node, sets, rows, bounds, needed, 3.0 * search.steps, budget)

    def _narrow(
        self,
        done: int,
        node: Node,
        sets: Tensor,
        rows: Tensor,
        bounds: Callable[[Tensor, Owners], Interval],
        bytes_each: int,
        passes: float,
        limit: Budget | None = None,
    ) -> None:
        """Intersect entries of a node with bounds that are found for as many rows as fit, while there is time."""
        pieces, each, limit = [], passes * self.backward.products_per_row(node), limit or self._budget
        for chunk in self._budget.chunks(len(rows), bytes_each, each):
            if pieces and limit.is_over:
                rows, sets = rows[: chunk.start], sets[: chunk.start]
                break
            owners = Owners.of(sets[chunk], len(self._domain))
            pieces.append(bounds(rows[chunk], owners))
            self._budget.tell(done + chunk.stop / len(rows), len(self._graph.nodes), "ranges")
        known, place = self._ranges[node], sets * size(node) + rows
        flat = known.reshape(known.lower.numel())
        better = concatenated(pieces, 0)
        self.empty[sets[apart(better, flat[place])]] = True
        better = better.intersect(flat[place])
        lower, upper = flat.lower.index_copy(0, place, better.lower), flat.upper.index_copy(0, place, better.upper)
        self._ranges[node] = Interval(lower, upper).reshape(*known.shape)

    def _worthwhile(self, node: Node) -> Tensor:
        """Entries whose tighter range can change a line, a slope or a later interval."""
        every = torch.ones_like(self._ranges[node].lower, dtype=torch.bool)
        first = all(isinstance(source, Input) for source in node.sources)
        whole = self._domain.centre is None and self._domain.half_spaces is None
        if isinstance(node, Affine) and first and len(node.terms) == 1 and whole:
            return ~every  # on a box the interval image of one operator is exact already, up to rounding
        if node is self._graph.output and self._with_output:
            return every
        readers = [reader for reader in self._graph.consumers[node] if isinstance(reader, Elementwise)]
        if first and readers:
            return every  # dual norms cost little, and intervals of later layers start from here
        wanted = ~every
        for reader in readers:
            wanted |= ~reader.activation.settled(self._ranges[node])
        if node in self._read_as_factors:
            known = self._ranges[node]
            wanted |= ~(known.lower >= known.upper)
        return wanted


def apart(one: Interval, other: Interval) -> Tensor:
    """Entries in which two enclosures have no point in common, so that they can not both enclose something."""
    return (one.lower > other.upper) | (other.lower > one.upper)


def _read_as_factors(graph: Graph) -> frozenset[Node]:
    """Nodes whose entries a product or a function of vectors reads, perhaps moved; not those that only move them."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        moves = isinstance(node, Affine) and node in found and _moves(node)
        if moves or not isinstance(node, Input | Affine | Elementwise):
            found.update(node.sources)
    return frozenset(node for node in found if not (isinstance(node, Affine) and _moves(node)))


def _moves(node: Affine) -> bool:
    """Whether every entry of a node is an entry of its source."""
    return len(node.terms) == 1 and node.bias is None and node.terms[0][0].terms == 0
