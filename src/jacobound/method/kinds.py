"""`Method`: what bounds constants; from enclosures of the Jacobian (`JacobianMethod`) or past them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch

from jacobound.arithmetic.rounding import up
from jacobound.budget import OutOfTimeError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.method.about import About
from jacobound.method.candidates import Candidates, Norm, of_enclosure, unstable_neurons, worst
from jacobound.method.enclosure import ConstantBound, JacobianEnclosure
from jacobound.method.query import Query, ranges_bytes
from jacobound.results.kinds import Candidate, Status


class Method(ABC):
    """Bounds the Lipschitz constants of a network over N sets; Jacobian methods, others, and the best of several."""

    bounds: ClassVar[str] = "constants"
    about: ClassVar[About]

    @abstractmethod
    def constants(self, query: Query) -> Candidates:
        """Everything that the method knows of the constant of every set, by name; its own stands under its class."""

    @property
    def is_certified(self) -> bool:
        """Whether answers hold with rounding included; estimates never take part in `Best`."""
        return self.about.certified

    def form(self, graph: Graph) -> Graph:
        """The form of a graph that the method works on."""
        return graph.lowered()

    def norm_for(self, norm: Norm) -> Norm:
        """The pair of norms that the method can bound where a constant for `norm` is wanted; the same, but for few."""
        return norm

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory for each set in bytes: a cautious estimate."""
        return ranges_bytes(graph)


class JacobianMethod(Method):
    """Encloses the Jacobian over each of N sets, entry by entry; constants are norms of what it encloses."""

    bounds: ClassVar[str] = "Jacobian, constants"

    @abstractmethod
    def enclose(self, query: Query) -> JacobianEnclosure:
        """Bounds of the derivative of every (flattened) output with respect to every (flattened) input."""

    def constants(self, query: Query) -> Candidates:
        """The norm of the enclosure, and products of norms with it."""
        began, asked = query.budget.spent, replace(query, graph=self.form(query.graph))
        return of_enclosure(self.enclose(asked), type(self).__name__, asked, began)

    def form(self, graph: Graph) -> Graph:
        """Affine and elementwise nodes alone."""
        return graph.expanded()

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory that `enclose` needs for each set, in bytes: a cautious estimate."""
        sizes, outputs = [size(node) for node in graph.nodes], size(graph.output)
        adjoints = outputs * (2 * sum(sizes) + 16 * max(sizes)) * graph.example.element_size()
        return ranges_bytes(graph) + adjoints


class LipschitzMethod(Method):
    """Bounds a constant without going through the entries of the Jacobian, for one set at a time."""

    @abstractmethod
    def constant(self, query: Query) -> ConstantBound:
        """The constant of a query about one set; its graph may hold `Vector` nodes."""

    def constants(self, query: Query) -> Candidates:
        """Constants of the sets one by one; the time that is left is shared by those that are left."""
        budget, sets, like = query.budget, len(query.domain), query.graph.example
        started, found = budget.spent, list[ConstantBound]()
        for k in range(sets):
            try:
                found.append(self.constant(query.of_set(k, budget.within(budget.remaining / (sets - k)))))
            except OutOfTimeError:
                if not found:
                    raise
                nothing = torch.full_like(found[0].value, math.inf)
                found += [replace(found[0], value=nothing, status=Status.TIME_LIMIT, certificates=())] * (sets - k)
                break
        values = torch.stack([one.value for one in found])
        moved = values.to(like)
        moved = torch.where(moved.to(values) < values, up(moved).to(values), moved.to(values)).to(like)
        status, certificates = worst([one.status for one in found]), tuple(one.certificates for one in found)
        note = "; ".join(dict.fromkeys(one.note for one in found if one.note))
        one = Candidate(moved, status, budget.spent - started, certificates if any(certificates) else (), note)
        slopes = [{node: slope[None] for node, slope in one.slopes.items()} for one in found]
        return Candidates({type(self).__name__: one}, torch.cat([unstable_neurons(slope, 1) for slope in slopes]))
