"""What rounding adds when a network is run: noise at every node of a graph with an `execution`.

An executed node holds its exact function of the executed sources plus noise; the ranges of an executed graph enclose
the executed values, so the noise is known when a node is reached (`relaxed`, `linear_bounds`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import inflate, up
from jacobound.graph.execution import FOLDED, FUNCTION_UNITS, Executed
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node
from jacobound.method import Facts


def noise_of(graph: Graph, node: Node, ranges: Facts) -> Tensor | None:
    """Bound of the rounding of one executed node, (N, *node shape); None when it is exact.

    Args:
        graph: with or without an `execution`.
        ranges: enclosures of the executed values of the sources, and of the node itself without its own noise.
    """
    execution = graph.execution
    if execution is None or node not in execution.nodes:
        return None
    engine = execution.arithmetic
    if isinstance(node, Affine):
        return _noise_of_sums(engine, node, ranges)
    if isinstance(node, Elementwise):
        return _noise_of_function(engine, node, ranges)
    size = ranges[node].magnitude()
    return _within(engine, size, inflate(size * engine.unit, 2) + engine.tiny)


def _noise_of_sums(engine: Executed, node: Affine, ranges: Facts) -> Tensor | None:
    if len(node.terms) == 1 and node.bias is None and node.terms[0][0].terms == 0:
        return None  # data movement
    size = torch.zeros_like(ranges[node].lower)
    products = sum(operator.terms for operator, _ in node.terms) + len(node.terms) + 1
    for operator, source in node.terms:
        size = size + operator.abs().apply(ranges[source].magnitude())
    size = inflate(size if node.bias is None else size + node.bias.abs(), products)
    share = engine.share(products)
    return _within(engine, up(size * (1 + share)), inflate(size * share, 2) + (products + FOLDED) * engine.tiny)


def _noise_of_function(engine: Executed, node: Elementwise, ranges: Facts) -> Tensor | None:
    if all(piece.line is not None and _is_exact(engine, *piece.line) for piece in node.activation.pieces):
        return None
    argument, value = ranges[node.source].magnitude(), ranges[node].magnitude()
    size = torch.maximum(argument, value).clamp(min=1.0)
    noise = inflate(size * (2 * FUNCTION_UNITS * engine.unit), 2) + engine.tiny
    return _within(engine, torch.maximum(argument, up(value + noise)), noise)


def _is_exact(engine: Executed, slope: float | Tensor, offset: float | Tensor) -> bool:
    """A piece that only passes its argument on, or is a constant of the engine's dtype."""
    if isinstance(slope, Tensor) or isinstance(offset, Tensor):
        return False
    return (slope == 1 and offset == 0) or (slope == 0 and engine.holds(offset))


def _within(engine: Executed, size: Tensor, noise: Tensor) -> Tensor:
    """Noise without bound where a number of that size can overflow in the engine."""
    return torch.where(size < engine.largest, noise, torch.inf)


def widened(x: Interval, noise: Tensor | None) -> Interval:
    """The interval with noise on both sides."""
    return x if noise is None else Interval.outward(x.lower - noise, x.upper + noise)
