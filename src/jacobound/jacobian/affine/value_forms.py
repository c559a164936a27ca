"""Affine forms of nodes that are neither affine nor elementwise: products, and functions with parallel planes."""

from __future__ import annotations

from collections.abc import Mapping

from jacobound.activations.lines.offsets import Lines
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Node, Product, Vector
from jacobound.jacobian.affine.forms import Forms, Symbols
from jacobound.operators.kinds import Dense


def forms_of(
    symbols: Symbols, node: Product | Vector, values: Mapping[Node, Forms], ranges: Mapping[Node, Interval], first: int
) -> tuple[Forms, int]:
    """Forms of a node's values from those of its sources, and the number of the symbol after them.

    Args:
        ranges: enclosures of the nodes' values, (N, *node shape).
        first: number of the next new symbol.
    """
    if isinstance(node, Product):
        one, two = (_lifted(values[source]) for source in node.sources)
        found, first = symbols.product(one, two, first)
        return Forms(found.centre.squeeze(1), found.linear.squeeze(1), found.error.squeeze(1)), first
    argument = values[node.source]
    known = symbols.range(argument).intersect(ranges[node.source].map(lambda end: end.flatten(1)))
    planes = node.function.parallel_planes(known.reshape(len(known.lower), *node.source.shape))
    if planes is None:
        return symbols.between_lines(*_anything(node, ranges), first)
    slope = planes.slopes[0][0].flatten(1)
    zero = slope.new_zeros(slope.shape)
    scaled, first = symbols.between_lines(argument, Lines(slope, zero, slope, zero), first)
    length = node.source.shape[-1]
    summed = symbols.image(Dense(slope.new_ones(1, length), node.source.shape[:-1]), scaled)
    lower, upper = planes.lower.flatten(1), planes.upper.flatten(1)
    one = lower.new_ones(lower.shape)
    return symbols.between_lines(summed, Lines(one, lower, one, upper), first)


def _lifted(forms: Forms) -> Forms:
    """These forms with an axis for outputs."""
    return Forms(forms.centre.unsqueeze(1), forms.linear.unsqueeze(1), forms.error.unsqueeze(1))


def _anything(node: Vector, ranges: Mapping[Node, Interval]) -> tuple[Forms, Lines]:
    """Numbers of which nothing but a range is known."""
    known = ranges[node].map(lambda end: end.flatten(1))
    nothing = Forms.constant(Interval.exact(known.lower.new_zeros(known.shape)))
    zero = known.lower.new_zeros(known.shape)
    return nothing, Lines(zero, known.lower, zero, known.upper)
