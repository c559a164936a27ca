"""`FastLip`: the Jacobian by one interval sweep from the outputs back to the input (Weng et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.arithmetic.rounding import down, up
from jacobound.budget import checkpoint
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, size
from jacobound.jacobian.tangents import facts_for
from jacobound.method import (
    About,
    Facts,
    JacobianEnclosure,
    JacobianMethod,
    OutputMethod,
    Query,
    output_method,
)
from jacobound.operators.base import LinearOperator, positions, unit_rows
from jacobound.relaxation.ranges import CROWN
from jacobound.results.kinds import Status


@dataclass(frozen=True)
class FastLip(JacobianMethod):
    """Certified Jacobian bounds by interval arithmetic on the chain rule; exact through the last hidden layer.

    Args:
        preactivation: how the ranges of the nodes are found.
    """

    about: ClassVar[About] = About("any network and region, all norms", "Weng et al., ICML 2018")

    preactivation: OutputMethod = field(default_factory=CROWN)

    def __post_init__(self) -> None:
        object.__setattr__(self, "preactivation", output_method(self.preactivation))

    def enclose(self, query: Query) -> JacobianEnclosure:
        gates, ranges = facts_for(query, query.graph, self.preactivation)
        graph, slopes = gates.graph, gates.slopes
        return by_intervals(graph, slopes, ranges, interval_adjoints(graph, slopes)).over(len(query.domain))


def by_intervals(
    graph: Graph,
    slopes: Facts,
    ranges: Facts,
    adjoints: Facts,
    status: Status = Status.CERTIFIED,
) -> JacobianEnclosure:
    """What the interval adjoints alone say of the Jacobian."""
    entries = adjoints[graph.input].map(lambda end: end.flatten(2))
    return JacobianEnclosure(entries, partial(interval_dot, x=entries), adjoints, slopes, ranges, status, graph=graph)


def interval_adjoints(
    graph: Graph,
    slopes: Facts,
    known: Facts | None = None,
    behind: Interval | None = None,
) -> dict[Node, Interval]:
    """Enclosures of the derivative of every output with respect to every node, by the interval chain rule.

    This is Fast-Lip in one formula: starting from the exact weights of the last layer, ``adjoint(source) +=
    operator^T adjoint(node)`` and ``adjoint(source) += slope * adjoint(node)``.

    Args:
        graph: with a one-axis output.
        slopes: derivative range of every elementwise node, (N, *node shape).
        known: further enclosures (N, outputs, *node shape) to intersect with on the way.
        behind: enclosure of what the graph's own output is multiplied by, (N, outputs, *output shape); the unit
            matrix when None.

    Returns:
        For every node an interval of shape (N, outputs, *node shape); (1, ...) where all sets have the same.
    """
    count, output = size(graph.output), graph.output
    unit = Interval.exact(unit_rows(count, graph.example).reshape(1, count, *output.shape))
    found: dict[Node, Interval] = {output: unit if behind is None else behind}
    choices = {node: node.choice for node in graph.nodes if isinstance(node, Affine) and node.choice is not None}
    settled = {(reader, choice.source) for node, choice in choices.items() for reader in (node, choice.gate.source)}
    for node in reversed(graph.nodes):
        checkpoint()
        if known is not None and node in known:
            found[node] = found[node].intersect(known[node])
        if isinstance(node, Elementwise):
            _add(found, node.source, times_slope(slopes[node].map(lambda end: end.unsqueeze(1)), found[node]))
        elif isinstance(node, Affine):
            if node in choices:
                gate = slopes[choices[node].gate].map(lambda end: end.unsqueeze(1))
                _add(found, choices[node].source, choices[node].adjoint(gate, found[node]))
            for operator, source in node.terms:
                if (node, source) in settled:
                    continue  # the choice speaks for this path
                if node is output and behind is None:
                    image = _transposed_rows(operator, count)
                else:
                    image = operator.transpose().enclose(found[node])
                _add(found, source, image)
    return found


def _transposed_rows(operator: LinearOperator, count: int) -> Interval:
    """Rows of the last weight: known exactly, but for what is uncertain in the weights themselves."""
    rows = operator.transpose().columns(positions(count, operator.example()))
    exact = rows.reshape(1, count, *operator.in_shape)
    extra = operator.transpose().uncertainty(unit_rows(count, exact).reshape(1, count, *operator.out_shape))
    return Interval.exact(exact) if extra is None else Interval(down(exact - extra), up(exact + extra))


def times_slope(slope: Interval, derivative: Interval) -> Interval:
    """slope * derivative; exact where the slope is 0 or 1, so that stable neurons add no width."""
    product = slope * derivative
    passes = (slope.lower == slope.upper) & ((slope.lower == 0) | (slope.lower == 1))
    return Interval(
        torch.where(passes, _gate(derivative.lower, slope.lower), product.lower),
        torch.where(passes, _gate(derivative.upper, slope.upper), product.upper),
    )


def _gate(x: Tensor, slope: Tensor) -> Tensor:
    """x where the slope is 1, an exact 0 where it is 0 (also for an infinite x)."""
    return torch.where(slope == 0, 0.0, x)


def _add(found: dict[Node, Interval], node: Node, image: Interval) -> None:
    found[node] = found[node] + image if node in found else image
