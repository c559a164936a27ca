"""`Derivative`: the derivative of a network as a network of affine maps and gates, of whose slopes a range is known.

A product is two gates: ``d(x y) = y dx + x dy`` is the sum of two elementwise maps of tangents, whose slopes are the
values of the other factor. An activation is a gate with the range of its derivative, log-sum-exp a sum of gates with
shares as slopes, and functions such as softmax and normalisations state gates of their own where fewer or tighter ones
than those of their steps are known (`VectorFunction.derivative`). For every point of the set there is one choice of
slopes, each within its range, with which the network of gates is the Jacobian (chain rule). So whatever bounds the
products of slopes from these ranges bounds the Jacobian, and knows nothing of products.

Increments between a point z of a smaller set and any y of a larger one have the same form: slopes of chords in place of
derivatives, and ``y1 y2 - z1 z2 = y2 (y1 - z1) + z1 (y2 - z2)``: one gate with the range of a factor over the larger
set, one with that over the smaller set, which is a number where that is a point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from jacobound.activations import activation
from jacobound.activations.kinds.base import Activation
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Gates, Input, Node, Product, Vector, VectorFunction
from jacobound.operators.kinds import Identity

Ranges = Mapping[Node, Interval]


@dataclass(frozen=True, eq=False)
class Derivative:
    """A network of gates.

    Args:
        graph: affine and elementwise nodes; the network itself where it has no others.
        slopes: for every elementwise node certified ranges of its slopes, (N, *node shape).
        factors: for gates whose slopes are values of a node of the network, that node.
        activations: for gates that stand for an activation, its node in the network.
        ties: gates that scale whole rows, with their length: by ``m I + r D`` with any ``||D||_2 <= 1`` per row, where
            ``[m - r, m + r]`` is the range of slopes, one for the row. Only certificates with one multiplier per row
            can use it; what takes such a gate entry by entry bounds something else.
    """

    graph: Graph
    slopes: Ranges
    factors: Mapping[Node, Node]
    activations: Mapping[Node, Elementwise]
    ties: Mapping[Node, int] = field(default_factory=dict)


def derivative(graph: Graph, ranges: Ranges) -> Derivative:
    """The derivative over sets.

    Args:
        graph: as `Graph.expanded` gives it.
        ranges: certified enclosures of the nodes' values, (N, *node shape).

    Raises:
        InvalidRegionError: when a range leaves the domain of an activation.
    """
    return _of_activations(graph, ranges, by_rows=False)


def derivative_by_rows(graph: Graph, ranges: Ranges) -> Derivative | None:
    """As `derivative`, with tied gates for functions of rows whose Jacobians are symmetric; None where there are none.

    A symmetric S with ``0 <= S <= c I`` is ``c/2 I + c/2 D`` with ``||D||_2 <= 1``: softmax and normalisations are one
    gate with the slopes [0, c]. On the whole space that is far tighter than two gates for every entry.

    Raises:
        InvalidRegionError: when a range leaves the domain of an activation.
    """
    if all(_known(node) is None for node in graph.nodes):
        return None  # before any slope is looked for
    found = _of_activations(graph, ranges, by_rows=True)
    return found if found.ties else None


def _known(node: Node) -> Vector | None:
    """The function of whole vectors that a node is, or has the values of."""
    return node if isinstance(node, Vector) else getattr(node, "beside", None)


def _of_activations(graph: Graph, ranges: Ranges, by_rows: bool) -> Derivative:
    """The network of gates whose slopes are the derivatives of the activations."""

    def slope(node: Elementwise) -> Interval:
        return node.activation.derivative_range(ranges[node.source])

    return _Builder(graph, ranges, slope, None, by_rows=by_rows).build()


def increments(graph: Graph, near: Ranges, far: Ranges) -> Derivative:
    """The increments from points of some sets to those of larger ones around them: ``f(y) - f(z) = J (y - z)``.

    The slope of an activation is a ratio ``(f(y) - f(z)) / (y - z)`` of its argument's values; for every two inputs
    there is one choice of slopes with which the network of gates is J.

    Args:
        near: certified enclosures over the smaller sets, (N or 1, *node shape).
        far: over the larger ones, (N, *node shape).

    Raises:
        InvalidRegionError: when a range leaves the domain of an activation.
    """

    def slope(node: Elementwise) -> Interval:
        shape = far[node.source].shape
        before = near[node.source].map(lambda end: end.expand(shape))
        return node.activation.secant_range(before, far[node.source])

    return _Builder(graph, far, slope, near).build()


@dataclass(eq=False)
class _Builder(Gates):
    """The gates of one network; lives for one call.

    Args:
        slope: the slopes that an activation can have.
        near: enclosures over the smaller sets, for increments.
        by_rows: whether functions of rows with symmetric Jacobians are one tied gate.
    """

    graph: Graph
    ranges: Ranges
    slope: Callable[[Elementwise], Interval]
    near: Ranges | None
    by_rows: bool = False
    tangents: dict[Node, Node] = field(default_factory=dict)
    slopes: dict[Node, Callable[[], Interval]] = field(default_factory=dict)
    factors: dict[Node, Node] = field(default_factory=dict)
    activations: dict[Node, Elementwise] = field(default_factory=dict)
    standing: dict[tuple[bytes, Node], Node] = field(default_factory=dict)
    ties: dict[Node, int] = field(default_factory=dict)
    gates: Activation = field(default_factory=lambda: activation("identity"))

    def build(self) -> Derivative:
        for node in self.graph.nodes:
            beside = getattr(node, "beside", None)
            if beside is not None:
                self.standing.setdefault((beside.function.structure(), beside.source), node)
        for node in self.graph.nodes:
            self.tangents[node] = self._of(node)
        last = self.tangents[self.graph.output]
        whole = self.graph if last is self.graph.output else Graph(last, frozenset(self.tangents.values()))
        gates = [node for node in whole.nodes if isinstance(node, Elementwise)]
        return Derivative(
            whole,
            {gate: self.slopes[gate]() for gate in gates},
            {gate: self.factors[gate] for gate in gates if gate in self.factors},
            {gate: self.activations[gate] for gate in gates if gate in self.activations},
            {gate: self.ties[gate] for gate in gates if gate in self.ties},
        )

    def _of(self, node: Node) -> Node:
        """The tangent of a node."""
        stated, known = None, _known(node)
        if known is not None:
            function = known.function
            tied = self._tied(node, known) if self.by_rows else None
            if tied is not None:
                return tied
            stated = (function.derivative if self.near is None else function.increment)(node, self)
        if stated is not None:
            return stated
        if isinstance(node, Affine):
            return self._affine(node)
        if isinstance(node, Elementwise):
            return self._elementwise(node)
        if isinstance(node, Product):
            other = self.gate_within(self.tangents[node.second], (self.near or self.ranges)[node.first])
            if self.near is None:
                self.factors[other] = node.first
            same = Identity(node.shape, node.shape, self.graph.example)
            return Affine(((same, self.gate(self.tangents[node.first], node.second)), (same, other)), None, node.name)
        assert isinstance(node, Input), "expand the graph first"  # skipping a node would lose a term
        return node

    def _tied(self, node: Node, known: Vector) -> Node | None:
        """One gate for every row of a function whose Jacobian is symmetric."""
        curvature = known.function.curvature(node, self.ranges)
        if curvature is None or not bool(torch.isfinite(curvature).all()):
            return None
        behind = self.tangents[known.source]
        most = curvature.unsqueeze(-1).expand(*curvature.shape, node.shape[-1])
        gate = self.gate_within(behind, Interval(torch.zeros_like(most), most))
        self.ties[gate] = node.shape[-1]
        return gate

    def _affine(self, node: Affine) -> Node:
        if node.beside is None and all(self.tangents[source] is source for source in node.sources):
            return node
        terms = tuple((operator, self.tangents[source]) for operator, source in node.terms)
        choice = None
        if node.choice is not None:
            gate = self.tangents[node.choice.gate]
            assert isinstance(gate, Elementwise)
            choice = node.choice.rebuilt(self.tangents[node.choice.source], gate, self.graph.device)
        return Affine(terms, None, node.name, choice)

    def _elementwise(self, node: Elementwise) -> Node:
        behind = self.tangents[node.source]
        same = behind is node.source and node.beside is None
        gate = node if same else Elementwise(node.activation, behind, node.name)

        def slope() -> Interval:
            node.activation.require(self.ranges[node.source], node.name)
            return self.slope(node)

        self.slopes[gate], self.activations[gate] = slope, node
        return gate

    def tangent(self, node: Node) -> Node:
        return self.tangents[node]

    def gate(self, tangent: Node, factor: Node) -> Node:
        made = self.gate_within(tangent, self.ranges[factor])
        if self.near is None:
            self.factors[made] = factor
        return made

    def gate_within(self, tangent: Node, slope: Interval) -> Node:
        made = Elementwise(self.gates, tangent, f"{tangent.name}.gate")
        lead = slope.shape[: slope.lower.dim() - len(tangent.shape)]
        self.slopes[made] = lambda: slope.map(lambda end: end.expand(*lead, *tangent.shape))
        return made

    def standing_for(self, function: VectorFunction, source: Node) -> Node | None:
        return self.standing.get((function.structure(), source))
