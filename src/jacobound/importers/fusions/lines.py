"""Nodes as lines of other nodes: ``factor core + shift`` the same numbers in every entry, exact or between ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Node
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Identity, Scale

Range = tuple[Fraction, Fraction]
"""The two ends between which a real constant lies; equal when it is known exactly."""

ONE: Range = (Fraction(1), Fraction(1))
ZERO: Range = (Fraction(0), Fraction(0))
LONGEST_CHAIN = 16


@dataclass(frozen=True, eq=False)
class Line:
    """A node as ``factor core + shift``, with the same two numbers in every entry."""

    core: Node
    factor: Range = ONE
    shift: Range = ZERO


def lines_of(node: Node) -> list[Line]:
    """The node as a line of itself, of what it was made of by factors and shifts, and so on."""
    found = [Line(node)]
    while len(found) < LONGEST_CHAIN:
        line = found[-1]
        step = line_step(line.core)
        if step is None:
            break
        shift = plus(times(line.factor, step.shift), line.shift)
        found.append(Line(step.core, times(line.factor, step.factor), shift))
    return found


def line_step(node: Node) -> Line | None:
    """An affine node with one number as factor and one as shift."""
    if not isinstance(node, Affine) or len(node.terms) != 1:
        return None
    line, shift = line_of(*node.terms[0]), one_number(node.bias, None)
    return None if line is None or shift is None else Line(line.core, line.factor, shift)


def line_of(operator: LinearOperator, source: Node) -> Line | None:
    """One term of an affine node, when its operator is one factor for all entries."""
    if operator.in_shape != operator.out_shape:
        return None
    if isinstance(operator, Identity):
        return Line(source)
    factor = one_number(operator.factor, operator.radius) if isinstance(operator, Scale) else None
    return None if factor is None else Line(source, factor)


def one_number(values: Tensor | None, radius: Tensor | None) -> Range | None:
    """The one number that all entries hold (None: zero); None when they differ."""
    if values is None:
        return ZERO
    found = []
    for tensor in (values, torch.zeros_like(values) if radius is None else radius):
        first = tensor.flatten()[:1]
        if not bool((tensor == first).all()):
            return None
        found.append(Fraction(first.item()))
    return found[0] - found[1], found[0] + found[1]


def common_lines(left: Node, right: Node) -> tuple[Line, Line] | None:
    """Two nodes as lines of the nearest node that both are lines of."""
    known = {line.core: line for line in reversed(lines_of(left))}
    return next(((known[line.core], line) for line in lines_of(right) if line.core in known), None)


def kind_of(node: Elementwise) -> tuple[str, tuple[Fraction, ...]]:
    """Name and numbers of an activation; a number in a name is a float, unless it is written as a ratio."""
    kind, _, numbers = node.activation.name.partition(":")
    parts = [part for part in numbers.split(",") if part]
    try:
        return kind, tuple(Fraction(part) if "/" in part else Fraction(float(part)) for part in parts)
    except (ValueError, OverflowError):  # words, or infinite ends
        return node.activation.name, ()


def line_node(node: Node, factor: Range, shift: float, name: str, like: Tensor) -> Node | None:
    """``factor node + shift``; None when the factor is beyond the range of floats."""
    if factor == ONE and not shift:
        return node
    low, high = outward_float(factor[0], -math.inf), outward_float(factor[1], math.inf)
    if not (math.isfinite(low) and math.isfinite(high)) or low * high <= 0:
        return None
    if low == high:
        scale = Scale(like.new_full(node.shape, low))
    else:
        middle, radius = Interval(like.new_full(node.shape, low), like.new_full(node.shape, high)).midpoint_and_radius()
        scale = Scale(middle, radius)
    operator = Identity(node.shape, node.shape, like) if factor == ONE else scale
    return Affine(((operator, node),), like.new_full(node.shape, shift) if shift else None, name)


def example_of(node: Node) -> Tensor:
    """A float64 number on the device of the weights before a node."""
    while node.sources:
        if isinstance(node, Affine):
            return node.terms[0][0].example().new_zeros((), dtype=torch.float64)
        node = node.sources[0]
    return torch.zeros((), dtype=torch.float64)


def nearest_float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return 0.0 if value else math.inf  # is never equal to the value, so that it counts as no float


def outward_float(value: Fraction, direction: float) -> float:
    try:
        nearest = float(value)
    except OverflowError:
        return math.inf
    inside = Fraction(nearest) > value if direction < 0 else Fraction(nearest) < value
    return math.nextafter(nearest, direction) if inside else nearest


def fixed(value: Fraction | int) -> Range:
    return Fraction(value), Fraction(value)


def is_exact(*ranges: Range) -> bool:
    return all(low == high for low, high in ranges)


def negative(x: Range) -> Range:
    return -x[1], -x[0]


def plus(x: Range, y: Range) -> Range:
    return x[0] + y[0], x[1] + y[1]


def times(x: Range, y: Range) -> Range:
    ends = [a * b for a in x for b in y]
    return min(ends), max(ends)


def inverse(x: Range) -> Range:
    """1 / x for a range without zero."""
    return 1 / x[1], 1 / x[0]
