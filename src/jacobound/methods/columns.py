"""`InColumns`: constants for changes of some inputs alone, while the others are anything that the region allows.

That is the largest norm of some columns of the Jacobian. In the network of gates they are the derivative of a network
that reads these inputs alone, so every method that takes gates bounds them as it bounds whole Jacobians; enclosures of
entries are cut to these columns; and no norm of columns is above that of the whole matrix, which is what is left for
methods that take neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.budget import OutOfTimeError
from jacobound.certificates.lipsdp import LipSDP
from jacobound.constants.autolip import AutoLip
from jacobound.errors import JacoboundError
from jacobound.graph.copies import on_sources
from jacobound.graph.derivative import derivative
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Input, Node, Product, Vector, size
from jacobound.inputs.domains import Domain
from jacobound.jacobian.affine.linear_slopes import LinearSlopes, smooth
from jacobound.jacobian.fastlip import FastLip
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.method import About, Facts, JacobianMethod, Method, Query
from jacobound.method.candidates import Candidates, Norm, of_enclosure
from jacobound.methods.best import Best
from jacobound.operators.kinds import Select
from jacobound.relaxation.ranges import usual_ranges


def in_columns(method: Method, columns: Tensor, graph: Graph, bounded: bool) -> Method:
    """A method for the constants of some columns; of `Best` every part, and a choice of its own for these.

    Args:
        columns: flat places of the inputs, int64.
        bounded: whether all sets of the region are.
    """
    if not isinstance(method, Best):
        return InColumns(method, columns)
    parts = method.methods or _own_choice(graph, bounded)
    return Best(*(InColumns(part, columns) for part in parts))


def _own_choice(graph: Graph, bounded: bool) -> tuple[Method, ...]:
    """What is asked where the user named nothing; cheap methods first."""
    if not graph.expands:
        return (AutoLip(),)
    entries: JacobianMethod = RecurJac() if bounded else FastLip()
    forms = (LinearSlopes(),) if bounded and smooth(graph.expanded()) else ()
    return (AutoLip(), entries, *forms, LipSDP())


def reading(graph: Graph, columns: Tensor) -> tuple[Graph, dict[Node, Node]]:
    """A network of affine maps and gates as one that reads some inputs, with 0 in place of the others.

    Returns:
        The network, whose input is flat, and for every node the one that stands for it.
    """
    index = torch.full((size(graph.input),), -1, device=graph.device)
    index[columns] = torch.arange(len(columns), device=graph.device)
    shape = (len(columns),)
    spread = Select(index.reshape(graph.in_shape), shape, graph.example)
    moved: dict[Node, Node] = {graph.input: Affine(((spread, Input(shape, graph.input.name)),), None, "columns")}
    for node in graph.nodes:
        if node is not graph.input:
            moved[node] = on_sources(node, moved, graph.device)
    return Graph(moved[graph.output], frozenset(moved.values())), moved


@dataclass(frozen=True, eq=False, repr=False)
class InColumns(Method):
    """The constants of a method for changes of some inputs alone.

    Args:
        method: how constants are found; not `Best`.
        columns: flat places of the inputs, int64.
    """

    about: ClassVar[About] = About("changes of some inputs", "jacobound")

    method: Method
    columns: Tensor

    def __repr__(self) -> str:
        return f"{self.method!r} in {len(self.columns)} columns"

    @property
    def is_certified(self) -> bool:
        return self.method.is_certified

    def form(self, graph: Graph) -> Graph:
        return self.method.form(graph)

    def norm_for(self, norm: Norm) -> Norm:
        return self.method.norm_for(norm)

    def bytes_per_set(self, graph: Graph) -> int:
        return self.method.bytes_per_set(graph)

    def constants(self, query: Query) -> Candidates:
        """Norms of the columns of an enclosure; else of the network of gates, and of the whole Jacobian."""
        if isinstance(self.method, JacobianMethod):
            return self._of_entries(self.method, query)
        multiplies = any(isinstance(node, Vector | Product) for node in query.graph.nodes)
        own = query if not multiplies else replace(query, budget=query.budget.within(0.6 * query.budget.remaining))
        columns = self._of_gates(own) if query.graph.expands else None
        if columns is not None and not multiplies:
            return columns
        try:
            whole = self.method.constants(query)
        except (JacoboundError, OutOfTimeError):
            if columns is None:
                raise
            return columns
        known = {f"{name} of all inputs": replace(one, certificates=()) for name, one in whole.known.items()}
        return replace(whole, known=known if columns is None else {**columns.known, **known}, enclosure=None)

    def _of_entries(self, method: JacobianMethod, query: Query) -> Candidates:
        began, graph, columns = query.budget.spent, method.form(query.graph), self.columns
        found = method.enclose(replace(query, graph=graph)).over(len(query.domain))
        narrow, moved = reading(found.graph or graph, columns)

        def along(directions: Tensor) -> Interval:
            whole = torch.zeros_like(found.entries.lower)
            whole[..., columns] = directions
            return found.along(whole)

        def across(directions: Tensor) -> Interval:
            assert found.across is not None
            whole = torch.zeros_like(found.entries.lower)
            whole[..., columns] = directions
            return found.across(whole).map(lambda end: end[..., columns])

        own = replace(
            found,
            entries=found.entries.map(lambda end: end[..., columns]),
            along=along,
            across=None if found.across is None else across,
            adjoints=_moved(found.adjoints, moved),
            slopes=_moved(found.slopes, moved),
            graph=narrow,
        )
        return of_enclosure(own, type(method).__name__, replace(query, graph=narrow), began)

    def _of_gates(self, query: Query) -> Candidates | None:
        """The constants of the network of gates behind the columns; None where the method says nothing of it."""
        graph, domain = query.graph.expanded(), query.domain
        gates = derivative(graph, query.ranges_by(usual_ranges(domain), graph))
        narrow, moved = reading(gates.graph, self.columns)
        part = Domain(domain.box.map(lambda end: end.flatten(1)[:, self.columns]))
        asked = replace(query, graph=narrow, domain=part, ranges={}, slopes=_moved(gates.slopes, moved))
        found = self.method.constants(asked)
        return replace(found, known={name: replace(one, certificates=()) for name, one in found.known.items()})


def _moved(facts: Facts, moved: dict[Node, Node]) -> Facts:
    """Facts about the nodes that stand for those of another network; the input's are left out."""
    return {moved[node]: known for node, known in facts.items() if node in moved and not isinstance(node, Input)}
