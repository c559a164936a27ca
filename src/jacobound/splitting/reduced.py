"""A network over one set with its stable neurons multiplied out: inputs, unstable neurons and outputs are left.

Where the slope of a neuron is known over the set, the neuron is affine there, so every argument of an unstable neuron,
and every output, is affine in the input and in the values of the unstable neurons before it:

    z = P x + Q y + c,      out = R x + S y + d,      y = activation(z).

The matrices are those of the unstable core, with middle and radius; the constants follow from the values at one point
of the set, ``c = z(x0) - P x0 - Q y(x0)``, enclosed. Their radius is carried by a node that is 1 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.activations import Activation
from jacobound.arithmetic.intervals import Interval
from jacobound.certificates.dense.matrices import SdpCore, whole_core
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.domains import Domain
from jacobound.jacobian.tangents import reached_slopes
from jacobound.lower_ends.inner_sets import InnerSets
from jacobound.method import Budget, Facts, derivative_ranges, flat_indices, is_unstable
from jacobound.operators.kinds import UncertainDense
from jacobound.relaxation.ranges import IBP


@dataclass(frozen=True, eq=False)
class Reduced:
    """A network of affine maps and activations that is another one on one set.

    Args:
        graph: its input is the other's, flattened.
        domain: the set, flattened.
        arguments: the nodes that activations read, in order.
        ranges: enclosures of those nodes over the set, (1, neurons).
    """

    graph: Graph
    domain: Domain
    arguments: tuple[Node, ...]
    ranges: Facts


def flattened(domain: Domain) -> Domain:
    """The sets as sets of vectors in float64 on the CPU."""

    domain = domain.to(torch.float64).on("cpu")
    box = domain.box.map(lambda end: end.flatten(1))
    if domain.centre is None or domain.radius is None:
        return Domain(box)
    scale = None if domain.scale is None else domain.scale.flatten()
    return Domain(box, domain.centre.flatten(1), domain.radius, domain.p, scale)


def is_reducible(graph: Graph) -> bool:
    """Whether a network consists of affine maps and activations alone, in real numbers."""
    return graph.execution is None and all(isinstance(node, Input | Affine | Elementwise) for node in graph.nodes)


def reduced(graph: Graph, domain: Domain, ranges: Facts, budget: Budget) -> Reduced | None:
    """The network over one set without its stable neurons; None where no point is certain, or something overflows.

    Args:
        graph: of affine maps and activations, in float64 on the CPU, with an affine output.
        domain: the set.
        ranges: enclosures of what activations read, (1, *node shape).
    """
    inner = InnerSets(domain)
    point = inner.anchor
    if not bool(inner.holds(point.unsqueeze(1)).all()):
        return None
    slopes = reached_slopes(graph, derivative_ranges(graph, ranges))
    gates: dict[Node, Interval] = {}
    for node, slope in slopes.items():
        unstable = is_unstable(slope)
        gates[node] = Interval(torch.where(unstable, -1.0, slope.lower), torch.where(unstable, 1.0, slope.upper))[0]
    core = whole_core(graph, gates)
    if not core.is_finite:
        return None
    values = IBP().ranges(graph, Domain(Interval.exact(point)), budget)
    known = {node: values[node].intersect(ranges[node]) if node in ranges else values[node] for node in values}
    blocks = {node: flat_indices(is_unstable(slope)) for node, slope in slopes.items()}
    return _Builder(graph, flattened(domain), core, known, {n: b for n, b in blocks.items() if len(b)}, ranges).build()


class _Builder:
    """Puts the nodes together; lives for one call."""

    def __init__(
        self,
        graph: Graph,
        domain: Domain,
        core: SdpCore,
        values: Facts,
        blocks: Mapping[Node, Tensor],
        ranges: Facts,
    ) -> None:
        self._graph, self._domain, self._core = graph, domain, core
        self._values, self._blocks, self._ranges = values, blocks, ranges
        self._input = Input((core.inputs,))
        nothing = core.matrix.new_zeros(1, core.inputs)
        zero = UncertainDense(nothing, nothing)
        self._finite = True
        self._one = Affine(((zero, self._input),), core.matrix.new_ones(1), "one")

    def build(self) -> Reduced | None:
        core, found = self._core, dict[Elementwise, Elementwise]()
        arguments: dict[Node, Interval] = {}
        row = core.outputs
        for node, entries in self._blocks.items():
            assert isinstance(node, Elementwise)
            there = self._values[node.source].map(lambda end, entries=entries: end.flatten()[entries])
            affine = self._affine(slice(row, row + len(entries)), there, found, f"before {node.name}")
            found[node] = Elementwise(_part(node.activation, entries, node.shape), affine, node.name)
            known = self._ranges[node.source]
            arguments[affine] = known.map(lambda end, entries=entries: end.flatten(1)[:, entries])
            row += len(entries)
        there = self._values[self._graph.output].map(torch.Tensor.flatten)
        output = self._affine(slice(0, core.outputs), there, found, "output")
        if not self._finite:
            return None
        graph = Graph(output)
        read = [node for node in arguments if node in graph.consumers]  # what no output depends on is left out
        return Reduced(graph, self._domain, tuple(read), {node: arguments[node] for node in read})

    def _affine(self, rows: slice, there: Interval, before: Mapping[Elementwise, Elementwise], name: str) -> Affine:
        """Some rows of the core, and the constants that their values at the point leave."""
        core = self._core
        terms: list[tuple[UncertainDense, Node]] = [(self._operator(rows, slice(0, core.inputs)), self._input)]
        at = [Interval.exact(self._point)]
        column = core.inputs
        for node, entries in self._blocks.items():
            if node not in before:
                break
            operator = self._operator(rows, slice(column, column + len(entries)))
            if bool((operator.weight != 0).any() or (operator.radius != 0).any()):
                terms.append((operator, before[node]))  # type: ignore[index]
                at.append(self._values[node].map(lambda end, entries=entries: end.flatten()[entries]))
            column += len(entries)
        constant = there
        for (operator, _), value in zip(terms, at, strict=True):
            constant = constant - operator.enclose(value)
        middle, radius = constant.midpoint_and_radius()
        self._finite &= bool(radius.isfinite().all())
        if bool((radius > 0).any()):
            doubt = radius.nan_to_num(nan=0.0, posinf=0.0).unsqueeze(1)
            terms.append((UncertainDense(torch.zeros_like(doubt), doubt), self._one))
        return Affine(tuple(terms), middle, name)

    def _operator(self, rows: slice, columns: slice) -> UncertainDense:
        return UncertainDense(
            self._core.matrix[rows, columns].contiguous(), self._core.radius[rows, columns].contiguous()
        )

    @property
    def _point(self) -> Tensor:
        return self._values[self._graph.input].lower.flatten()


def _part(activation: Activation, entries: Tensor, shape: tuple[int, ...]) -> Activation:
    """An activation on some flat entries of a node; parameters of single neurons go with them."""
    if not activation.parameters or activation.rebuild is None:
        return activation
    return activation.rebuild(*(one.expand(shape).flatten()[entries] for one in activation.parameters))
