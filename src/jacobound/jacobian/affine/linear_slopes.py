"""`LinearSlopes`: the Jacobian as a linear function of the input, from linear enclosures of all slopes.

Methods that know the slope of every neuron as an interval let each one take its worst value for itself. For smooth
activations slopes are functions of the input, and to first order linear ones: `activations.slope_lines` encloses the
derivative of an activation between two parallel lines over the range of its argument. The argument is a linear form of
the input (`forms`), so the slope is one, and so is the Jacobian after the chain rule. What linear forms can not express
is of second order in the radius. The method is ours; Shi et al. (NeurIPS 2022) bound the same products by planes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.activations.kinds.base import Lines
from jacobound.activations.lines.slope_lines import STEPS
from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.graph.derivative import Derivative, derivative
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian.affine.forms import Forms, Symbols
from jacobound.jacobian.affine.scaled_sums import scaled_row_norms
from jacobound.jacobian.affine.value_forms import forms_of
from jacobound.jacobian.fastlip import by_intervals, interval_adjoints
from jacobound.jacobian.tangents import facts_for
from jacobound.method import (
    About,
    Budget,
    Facts,
    JacobianEnclosure,
    JacobianMethod,
    OutputMethod,
    Query,
    is_unstable,
    output_method,
)
from jacobound.operators.base import unit_rows
from jacobound.relaxation.ranges import CROWN
from jacobound.results.kinds import Status


@dataclass(frozen=True)
class LinearSlopes(JacobianMethod):
    """Certified Jacobian bounds from linear forms of all slopes; tightest for smooth activations on small regions.

    Where slopes change little over the region it is far tighter than methods that know each slope as an interval
    alone, and its error falls with the square of the radius; on large regions it is looser. Kinks do no harm but gain
    nothing. Memory grows with inputs times (inputs + three times the unstable neurons, once more for every output);
    without it, on unbounded sets, for executed semantics and for slopes that are no derivatives it is `FastLip`.

    Args:
        preactivation: how the ranges of the nodes are found.
    """

    about: ClassVar[About] = About(
        "any network and bounded region, all norms; for smooth activations on small regions", "jacobound"
    )

    preactivation: OutputMethod = field(default_factory=CROWN)

    def __post_init__(self) -> None:
        object.__setattr__(self, "preactivation", output_method(self.preactivation))

    def enclose(self, query: Query) -> JacobianEnclosure:
        graph, domain, budget = query.graph.with_affine_output(), query.domain, query.budget
        found, ranges = facts_for(query, graph, self.preactivation)
        gates, known = found.graph, found.slopes
        adjoints = interval_adjoints(gates, known)
        chain = partial(by_intervals, gates, known, ranges, adjoints)
        fits = budget.fits(len(domain) * forms_bytes(gates, known))
        if not fits or budget.is_over:
            return chain(Status.TIME_LIMIT if fits else Status.MEMORY_LIMIT).over(len(domain))
        if graph.execution is not None or query.slopes is not None:
            return chain().over(len(domain))
        symbols = Symbols.of(domain)
        sweeps = Sweeps(graph, symbols, known, ranges, budget, found)
        jacobian = sweeps.jacobian()
        if jacobian is None:
            return chain(Status.TIME_LIMIT).over(len(domain))
        entries = symbols.range(jacobian).intersect(adjoints[gates.input].map(lambda end: end.flatten(2)))

        def along(directions: Tensor) -> Interval:
            found = symbols.range(symbols.dot(jacobian, directions)).map(lambda end: end.squeeze(2))
            return found.intersect(interval_dot(directions, entries))

        rows = partial(scaled_row_norms, symbols, jacobian, budget)
        narrow = sweeps.narrowed
        return JacobianEnclosure(entries, along, adjoints, narrow, ranges, rows=rows, graph=gates).over(len(domain))

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory for each set in bytes, all neurons counted as unstable."""
        neurons = sum(size(node) for node in graph.nodes if isinstance(node, Elementwise))
        return super().bytes_per_set(graph) + _bytes(graph, neurons)


def smooth(graph: Graph) -> bool:
    """Whether some slope depends on the input other than by jumps, so that linear forms of it say more."""
    if any(not isinstance(node, Input | Affine | Elementwise) for node in graph.nodes):
        return True
    return any(
        piece.curvature != "linear"
        for node in graph.nodes
        if isinstance(node, Elementwise)
        for piece in node.activation.pieces
    )


def forms_bytes(graph: Graph, slopes: Facts) -> int:
    """Estimate of the memory that the forms of one set need, in bytes."""
    neurons = sum(int(is_unstable(slope).flatten(1).any(0).sum()) for slope in slopes.values())
    return _bytes(graph, neurons)


def _bytes(graph: Graph, neurons: int) -> int:
    widest = max(size(node) for node in graph.nodes)
    symbols = size(graph.input) + 3 * neurons
    kept = 2 * sum(size(node) for node in graph.nodes if isinstance(node, Elementwise))
    entries = symbols * (kept + 4 * widest * (1 + size(graph.output))) + 8 * STEPS * widest
    return entries * graph.example.element_size()


class Sweeps:
    """Forms of the values, from the input on, and of the derivatives, back to it; lives for one call.

    Args:
        slopes: derivative range of every gate, (N, *node shape).
        ranges: enclosures of the nodes' values, (N, *node shape).
        gates: the network of the derivative.

    Attributes:
        narrowed: the slopes, intersected with the ranges of their forms.
    """

    def __init__(
        self,
        graph: Graph,
        symbols: Symbols,
        slopes: Facts,
        ranges: Facts,
        budget: Budget,
        gates: Derivative | None = None,
    ) -> None:
        self._graph, self._symbols, self._budget = graph, symbols, budget
        self._slopes, self._ranges = slopes, ranges
        self._gates = derivative(graph, ranges) if gates is None else gates
        self._next = size(graph.input)
        self._steepness: dict[Node, Forms] = {}  # of gates
        self._factors: dict[Node, Forms] = {}  # of values that are slopes
        self._gate_of = {node: gate for gate, node in self._gates.activations.items()}
        self._wanted = frozenset(self._gates.factors.values())
        self.narrowed = dict(slopes)

    def jacobian(self) -> Forms | None:
        """Forms of the derivatives of every output by every input, (N, outputs, inputs); None when time is over."""
        self._forward()
        return self._backward()

    def _forward(self) -> None:
        """Forms of all values, and of the slopes of all gates."""
        values: dict[Node, Forms] = {}
        unread = {node: len(readers) for node, readers in self._graph.consumers.items()}
        for done, node in enumerate(self._graph.nodes):
            self._budget.tell(done, 2 * len(self._graph.nodes), "linear slopes")
            if self._budget.is_over:
                return
            if node is self._graph.output and isinstance(node, Affine):
                break
            if not unread[node] and node is not self._graph.output:
                continue  # kept in the graph for its range alone
            if isinstance(node, Input):
                values[node] = self._symbols.input()
            elif isinstance(node, Affine):
                values[node] = self._affine(node, values)
            elif isinstance(node, Elementwise):
                values[node] = self._elementwise(node, values[node.source])
            else:
                found = forms_of(self._symbols, node, values, self._ranges, self._next)
                values[node], self._next = found
            if node in self._wanted:
                self._factors[node] = values[node]
            for source in dict.fromkeys(node.sources):
                unread[source] -= 1
                if not unread[source]:
                    del values[source]
        for gate, node in self._gates.factors.items():
            self._steepness[gate] = self._slope(gate, self._factors[node])

    def _slope(self, gate: Node, forms: Forms) -> Forms:
        """Forms of a gate's slopes: constants where they are known."""
        slope = self._slopes[gate].map(lambda end: end.flatten(1))
        known = slope.lower == slope.upper
        linear = torch.where(known.unsqueeze(-2), 0.0, forms.linear)
        found = Forms(torch.where(known, slope.lower, forms.centre), linear, torch.where(known, 0.0, forms.error))
        self._narrow(gate, found)
        return found

    def _narrow(self, gate: Node, forms: Forms) -> None:
        slope = self._slopes[gate]
        self.narrowed[gate] = slope.intersect(self._symbols.range(forms).reshape(*slope.shape))

    def _affine(self, node: Affine, values: Mapping[Node, Forms]) -> Forms:
        found: Forms | None = None
        for operator, source in node.terms:
            image = self._symbols.image(operator, values[source])
            found = image if found is None else self._symbols.sum(found, image)
        assert found is not None
        if node.bias is None:
            return found
        return self._symbols.sum(found, Forms.constant(Interval.exact(node.bias.flatten().unsqueeze(0))))

    def _elementwise(self, node: Elementwise, argument: Forms) -> Forms:
        """Forms of the values of a node; those of its slopes are kept."""
        known = self._symbols.range(argument).intersect(self._ranges[node.source].map(lambda end: end.flatten(1)))
        here = known.reshape(len(known.lower), *node.shape)
        gate = self._gate_of.get(node)
        if gate is not None:
            slope = self._slopes[gate].map(lambda end: end.flatten(1))
            lines = _known_or(slope, _flat(node.activation.slope_lines(here)))
            self._steepness[gate], self._next = self._symbols.between_lines(argument, lines, self._next)
            self._narrow(gate, self._steepness[gate])
        lines = _flat(node.activation.parallel_lines(here))
        values, self._next = self._symbols.between_lines(argument, lines, self._next)
        return values

    def _backward(self) -> Forms | None:
        """Forms of the derivatives of the outputs with respect to the input, by the chain rule."""
        graph, count = self._gates.graph, size(self._graph.output)
        rows = Interval.exact(unit_rows(count, graph.example).unsqueeze(0))
        found: dict[Node, Forms] = {graph.output: Forms.constant(rows)}
        for done, node in enumerate(reversed(graph.nodes)):
            self._budget.tell(len(graph.nodes) + done, 2 * len(graph.nodes), "linear slopes")
            if isinstance(node, Input) or self._budget.is_over:
                break
            behind = found.pop(node)
            if isinstance(node, Elementwise):
                steepness = self._steepness.pop(node, None)
                if steepness is None:  # slopes of which nothing but a range is known
                    steepness = Forms.constant(self._slopes[node].map(lambda end: end.flatten(1)))
                shared = Forms(*(x.unsqueeze(1) for x in (steepness.centre, steepness.linear, steepness.error)))
                images = [(node.source, self._product(shared, behind))]
            else:
                assert isinstance(node, Affine), "expand the graph first"
                images = [
                    (source, self._symbols.image(operator.transpose(), behind)) for operator, source in node.terms
                ]
            for source, image in images:
                found[source] = self._symbols.sum(found[source], image) if source in found else image
        return None if self._budget.is_over else found[graph.input]

    def _product(self, slope: Forms, behind: Forms) -> Forms:
        found, self._next = self._symbols.product(slope, behind, self._next)
        return found


def _flat(lines: Lines) -> Lines:
    """Lines for flattened entries, (N, entries)."""
    ends = (lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset)
    return Lines(*(end.flatten(1) for end in ends))


def _known_or(slope: Interval, lines: Lines) -> Lines:
    """A slope that is one number (also the 0 of neurons that no derivative reaches) as a constant, else the lines."""
    known = slope.lower == slope.upper
    gradient = torch.where(known, 0.0, lines.upper_slope)
    return Lines(
        gradient,
        torch.where(known, slope.lower, lines.lower_offset),
        gradient,
        torch.where(known, slope.upper, lines.upper_offset),
    )
