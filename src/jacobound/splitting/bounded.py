"""What is bounded over every part, in one form: `Bounded`, and the questions that find it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.errors import InvalidRegionError, UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.inputs.domains import Domain
from jacobound.jacobian.fastlip import FastLip
from jacobound.method import Budget, JacobianEnclosure, JacobianMethod, Method, Query, is_unstable
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
    """

    values: Interval
    gains: Tensor
    settled: Tensor

    def __getitem__(self, parts: Tensor) -> Bounded:
        return Bounded(self.values[parts], self.gains[parts], self.settled[parts])

    @staticmethod
    def joined(runs: list[Bounded]) -> Bounded:
        """All parts side by side."""
        lower, upper = (torch.cat([getattr(one.values, end) for one in runs]) for end in ("lower", "upper"))
        return Bounded(
            Interval(lower, upper), torch.cat([one.gains for one in runs]), torch.cat([one.settled for one in runs])
        )


class Quantity(ABC):
    """What is asked of a method about every part."""

    graph: Graph

    @abstractmethod
    def over(self, domain: Domain, budget: Budget) -> Bounded:
        """Bounds over the sets of a domain."""

    @abstractmethod
    def bytes_each(self) -> int:
        """Working memory for one part, in bytes."""


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

    def over(self, domain: Domain, budget: Budget) -> Bounded:
        query = Query(self.graph, domain, budget, self.norm)
        if isinstance(self.method, JacobianMethod):
            enclosure = self.method.enclose(query)
            value, settled = norm_of(enclosure, query).value, _is_settled(enclosure, len(domain))
        else:
            found = self.method.constants(query)
            value, settled = found.upper, torch.zeros(len(domain), dtype=torch.bool, device=domain.box.lower.device)
            enclosure = found.enclosure or _by_intervals(query)
        gains = _gains(self.graph, enclosure, domain)
        value = value.nan_to_num(nan=torch.inf).expand(len(domain)).unsqueeze(1)
        return Bounded(Interval(torch.zeros_like(value), value), gains, settled)

    def bytes_each(self) -> int:
        return self.method.bytes_per_set(self.graph) + influence_bytes(self.graph)


@dataclass(eq=False)
class Entries(Quantity):
    """Every entry of the Jacobian.

    Args:
        method: encloses the Jacobian.
        graph: of affine and elementwise nodes.
    """

    method: JacobianMethod
    graph: Graph

    def over(self, domain: Domain, budget: Budget) -> Bounded:
        enclosure = self.method.enclose(Query(self.graph, domain, budget)).over(len(domain))
        values = enclosure.entries.map(lambda end: end.flatten(1))
        gains = _gains(self.graph, enclosure, domain)
        return Bounded(values, gains, _is_settled(enclosure, len(domain)))

    def bytes_each(self) -> int:
        return self.method.bytes_per_set(self.graph) + influence_bytes(self.graph)


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
