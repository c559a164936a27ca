"""What is bounded over every part, in one form: `Bounded`, and the questions that find it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, concatenated
from jacobound.errors import InvalidRegionError, UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.inputs.domains import Domain
from jacobound.jacobian.fastlip import FastLip
from jacobound.method import (
    Budget,
    Facts,
    JacobianEnclosure,
    JacobianMethod,
    Method,
    OutputMethod,
    Query,
    is_unstable,
)
from jacobound.method.candidates import norm_of
from jacobound.relaxation.ranges import CROWN, IBP
from jacobound.results.kinds import Status
from jacobound.splitting.influence import influence, influence_bytes


@dataclass(frozen=True, eq=False)
class Bounded:
    """Certified bounds of some quantities over parts of a set, and how to go on.

    Args:
        values: for each part an interval that holds every value of the quantities there, (parts, quantities).
        gains: what halving each input may gain, (parts, inputs); a hint.
        settled: parts whose bounds splitting can not tighten, bool (parts,).
        ranges: certified enclosures of nodes over the parts, (parts, *node shape), that hold over all parts of theirs.
    """

    values: Interval
    gains: Tensor
    settled: Tensor
    ranges: Facts = field(default_factory=dict)

    def __getitem__(self, parts: Tensor) -> Bounded:
        return Bounded(self.values[parts], self.gains[parts], self.settled[parts], self.ranges_of(parts))

    def ranges_of(self, parts: Tensor | slice) -> Facts:
        """What is known of the nodes over some of the parts."""
        return {node: x[parts] for node, x in self.ranges.items()}

    @staticmethod
    def joined(runs: list[Bounded]) -> Bounded:
        """All parts side by side."""
        runs = [one for one in runs if len(one.settled)] or runs[:1]
        shared = [node for node in runs[0].ranges if all(node in one.ranges for one in runs)]
        return Bounded(
            concatenated([one.values for one in runs], 0),
            torch.cat([one.gains for one in runs]),
            torch.cat([one.settled for one in runs]),
            {node: concatenated([one.ranges[node] for one in runs], 0) for node in shared},
        )


class Quantity(ABC):
    """What is asked of a method about every part."""

    graph: Graph

    @property
    @abstractmethod
    def asked(self) -> Method:
        """The method that is asked about every part."""

    @abstractmethod
    def over(self, domain: Domain, budget: Budget, known: Facts) -> Bounded:
        """Bounds over the sets of a domain.

        Args:
            known: enclosures of nodes over these sets, from the parts that they come from.
        """

    def bytes_each(self) -> int:
        """Working memory for one part, in bytes."""
        return self.asked.bytes_per_set(self.graph) + influence_bytes(self.graph)

    def bytes_kept(self) -> int:
        """Memory for what is kept of one part, in bytes."""
        return 16 * sum(size(node) for node in _read(self.graph))

    def ranges(self, domain: Domain, budget: Budget, known: Facts) -> Facts | None:
        """Enclosures of nodes over the parts, nowhere looser than over their parents; None where methods find them.

        Linear bounds over a half may be looser than over the whole, because lines are chosen anew.
        """
        preactivation = getattr(self.asked, "preactivation", None)
        if not isinstance(preactivation, OutputMethod) or self.graph.execution is not None:
            return None
        found = preactivation.ranges_within(self.graph, domain, budget, known)
        return {node: found[node] for node in _read(self.graph)}


@dataclass(eq=False)
class Constants(Quantity):
    """The Lipschitz constant of each part; it counts from 0.

    Args:
        method: bounds the constants.
        graph: in the form of the method.
        norm: (p, q).
    """

    method: Method
    graph: Graph
    norm: tuple[float, float]

    @property
    def asked(self) -> Method:
        return self.method

    def over(self, domain: Domain, budget: Budget, known: Facts) -> Bounded:
        ranges = self.ranges(domain, budget, known)
        query = Query(self.graph, domain, budget, self.norm, ranges)
        if isinstance(self.method, JacobianMethod):
            enclosure = self.method.enclose(query)
            value, settled = norm_of(enclosure, query).value, _is_settled(enclosure, len(domain))
        else:
            found = self.method.constants(query)
            value, settled = found.upper, torch.zeros(len(domain), dtype=torch.bool, device=domain.box.lower.device)
            enclosure = found.enclosure or _by_intervals(query)
        gains = _gains(self.graph, enclosure, domain)
        value = value.nan_to_num(nan=torch.inf, posinf=torch.inf).expand(len(domain)).unsqueeze(1)
        return Bounded(Interval(torch.zeros_like(value), value), gains, settled, ranges or {})


@dataclass(eq=False)
class Entries(Quantity):
    """Every entry of the Jacobian.

    Args:
        method: encloses the Jacobian.
        graph: of affine and elementwise nodes.
    """

    method: JacobianMethod
    graph: Graph

    @property
    def asked(self) -> Method:
        return self.method

    def over(self, domain: Domain, budget: Budget, known: Facts) -> Bounded:
        ranges = self.ranges(domain, budget, known)
        enclosure = self.method.enclose(Query(self.graph, domain, budget, ranges=ranges)).over(len(domain))
        values = enclosure.entries.map(lambda end: end.flatten(1))
        gains = _gains(self.graph, enclosure, domain)
        return Bounded(values, gains, _is_settled(enclosure, len(domain)), ranges or {})


def _read(graph: Graph) -> list[Node]:
    """The nodes whose ranges methods ask for: what activations read; all where gates of products read factors too."""
    if any(not isinstance(node, Input | Affine | Elementwise) or _has_function(node) for node in graph.nodes):
        return list(graph.nodes)
    readers = (node for node in graph.nodes if not isinstance(node, Input | Affine))
    return list(dict.fromkeys(source for node in readers for source in node.sources))


def _has_function(node: Node) -> bool:
    return getattr(node, "beside", None) is not None


def _is_settled(enclosure: JacobianEnclosure, sets: int) -> Tensor:
    """Whether all slopes are known: the Jacobian is one matrix over the part, and its bounds are as good as exact."""
    counts = [is_unstable(slope).flatten(1).any(1).expand(sets) for slope in enclosure.slopes.values()]
    device = enclosure.entries.lower.device
    whole = enclosure.status in (Status.CERTIFIED, Status.NOT_RIGOROUS)
    known = ~torch.stack(counts).any(0) if counts else torch.ones(sets, dtype=torch.bool, device=device)
    return known & whole


def _by_intervals(query: Query) -> JacobianEnclosure | None:
    """What intervals know of the Jacobian, as a hint for methods that do not look at it; None where nothing does."""
    if not query.graph.expands:
        return None
    try:
        ranges = CROWN() if bool(query.domain.bounded.all()) else IBP()
        return FastLip(ranges).enclose(replace(query, graph=query.graph.expanded()))
    except (InvalidRegionError, UnsupportedOpError):
        return None


def _gains(graph: Graph, enclosure: JacobianEnclosure | None, domain: Domain) -> Tensor:
    """The influence of each input; the widths of the part where nothing is known."""
    width = (domain.box.upper - domain.box.lower).flatten(1)
    if enclosure is None:
        return width
    gates = enclosure.graph or (graph.expanded() if graph.expands else graph)
    return influence(gates, enclosure, domain)
