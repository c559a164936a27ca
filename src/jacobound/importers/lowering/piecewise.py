"""Functions of one value that are written with comparisons: continuous ones are put together from their pieces.

A comparison of a value h with a number is true or false on each side of a point; what is made from it has one form on
each stretch. Where all forms are lines in h the whole is a sum of kinks; otherwise it is the sum of each form at h
moved into its stretch, less its values at the points between, which is the same as soon as neighbours meet there. That
they do is proved with fractions; what jumps stays refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from torch import Tensor

from jacobound.activations import activation
from jacobound.activations.kinds.clipped import clip
from jacobound.arithmetic.intervals import Interval
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Affine, Elementwise, Node
from jacobound.importers.fusions.lines import (
    ZERO,
    Range,
    fixed,
    is_exact,
    kind_of,
    line_of,
    lines_of,
    negative,
    one_number,
    outward_float,
    plus,
    times,
)
from jacobound.importers.lowering.steps import AffineSteps

Value = Any
"""A node, a constant tensor, a number, or values on stretches of another node."""

JUMPS: Final = (
    "It compares values that depend on the input, and what is made from that jumps, or is not seen to be continuous. "
    "Write relu, clamp, maximum or minimum instead of masks."
)
KNOWN: Final[Mapping[str, tuple[Fraction, Fraction]]] = {
    **{
        name: (Fraction(0), Fraction(0))
        for name in (
            "tanh",
            "sin",
            "erf",
            "arctan",
            "arsinh",
            "expm1",
            "log1p",
            "silu",
            "gelu",
            "mish",
            "tanh_shrink",
            "wave",
        )
    },
    "exp": (Fraction(0), Fraction(1)),
    "cos": (Fraction(0), Fraction(1)),
    "bell": (Fraction(0), Fraction(1)),
    "sigmoid": (Fraction(0), Fraction(1, 2)),
    "log": (Fraction(1), Fraction(0)),
}
"""Activations that have an exact value at one point: the point and the value."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """A value that has another form on each stretch of a node.

    Args:
        base: the node h.
        breaks: points between the stretches, floats, ascending.
        values: one more: nodes of h, or constants.
        error: what to raise when nothing continuous is made from it, with the place of the comparison.
    """

    base: Node
    breaks: tuple[float, ...]
    values: tuple[Value, ...]
    error: Exception | None = None

    def on(self, low: float) -> Value:
        """The form on the stretch that begins at a point."""
        return self.values[sum(one <= low for one in self.breaks)]


def sides(node: Node, value: Callable[[float], Tensor]) -> Pieces:
    """The values on both sides of zero of a node, by what the node is a line of, or the size of a line."""
    line = lines_of(node)[-1]
    if not is_exact(line.factor, line.shift) or not line.factor[0]:
        raise UnsupportedOpError(JUMPS)
    point, rising = -line.shift[0] / line.factor[0], 1.0 if line.factor[0] > 0 else -1.0
    core = line.core
    if isinstance(core, Elementwise) and kind_of(core)[0] == "abs" and point > 0:
        inner = lines_of(core.source)[-1]
        if not is_exact(inner.factor, inner.shift) or not inner.factor[0]:
            raise UnsupportedOpError(JUMPS)
        ends = sorted((side * point - inner.shift[0]) / inner.factor[0] for side in (-1, 1))
        outside, inside = value(rising), value(-rising)
        return Pieces(inner.core, tuple(_float(end) for end in ends), (outside, inside, outside))
    return Pieces(core, (_float(point),), (value(-rising), value(rising)))


def _float(point: Fraction) -> float:
    found = float(point)
    if Fraction(found) != point:
        raise UnsupportedOpError(f"{JUMPS} (It changes at a point that is no float.)")
    return found


def piecewise(found: Sequence[Pieces], evaluate: Callable[[float], Value], steps: AffineSteps, name: str) -> Value:
    """The result of an operation on values with pieces: a node when it is continuous, pieces otherwise.

    Args:
        evaluate: the result on the stretch that begins at a point.
    """
    base, breaks = divided([(one.base, one.breaks) for one in found])
    whole = Pieces(base, breaks, tuple(evaluate(start) for start in (-math.inf, *breaks)), found[0].error)
    if not any(isinstance(value, Node) for value in whole.values) or any(
        isinstance(v, list | Pieces) for v in whole.values
    ):
        return whole
    made = together(whole, steps, name)
    return whole if made is None else made


def divided(found: Sequence[tuple[Node, tuple[float, ...]]]) -> tuple[Node, tuple[float, ...]]:
    """The node and all points between stretches of several values that have stretches.

    Raises:
        UnsupportedOpError: when they are stretches of several nodes.
    """
    base = found[0][0]
    if any(other is not base for other, _ in found):
        raise UnsupportedOpError(f"{JUMPS} (It compares several values.)")
    return base, tuple(sorted({point for _, points in found for point in points}))


def together(whole: Pieces, steps: AffineSteps, name: str) -> Node | None:
    """The continuous function of some pieces; None when they do not meet, or are no functions of h alone."""
    chosen = _larger_or_smaller(whole, steps, name)
    if chosen is not None:
        return chosen
    lines = [_line(value, whole.base) for value in whole.values]
    known = [line for line in lines if line is not None]
    if len(known) == len(lines):
        return _kinks(whole, known, steps, name)
    total: list[Node] = []
    shift = Fraction(0)
    ends = (-math.inf, *whole.breaks, math.inf)
    for k, value in enumerate(whole.values):
        meets = [_at(value, whole.base, Fraction(end)) for end in ends[k : k + 2] if math.isfinite(end)]
        if None in meets:
            return None
        if k:
            before = _at(whole.values[k - 1], whole.base, Fraction(ends[k]))
            if before is None or before != meets[0]:
                return None
            shift -= meets[0]  # type: ignore[operator]
        moved = Elementwise(clip(ends[k], ends[k + 1]), whole.base, f"{name}.at{k}")
        if not isinstance(value, Node):
            shift += meets[0]  # type: ignore[operator]
            continue
        copy = _on(value, whole.base, moved)
        if copy is None:
            return None
        total.append(copy)
    if Fraction(float(shift)) != shift:
        return None
    return steps.add([(1.0, node) for node in total], steps.like.new_full(whole.base.shape, float(shift)), name)


def _larger_or_smaller(whole: Pieces, steps: AffineSteps, name: str) -> Node | None:
    """One of two values by the sign of their difference: their maximum or minimum."""
    base = whole.base
    if whole.breaks != (0.0,) or not isinstance(base, Affine) or base.bias is not None or len(base.terms) != 2:
        return None
    lines = [line_of(*term) for term in base.terms]
    signs = {line.core: line.factor for line in lines if line is not None}
    below, above = whole.values
    if not isinstance(below, Node) or not isinstance(above, Node) or set(signs) != {below, above}:
        return None
    if signs[above] == fixed(1) and signs[below] == fixed(-1):
        return steps.maximum([below, above], name)
    if signs[above] == fixed(-1) and signs[below] == fixed(1):
        return steps.minimum([below, above], name)
    return None


def _kinks(whole: Pieces, lines: Sequence[tuple[Range, Range]], steps: AffineSteps, name: str) -> Node | None:
    """Lines that meet: the first one and a kink at each point between."""
    for point, (p, q), (r, t) in zip(whole.breaks, lines, lines[1:], strict=False):
        one, two = (plus(times(a, fixed(Fraction(point))), b) for a, b in ((p, q), (r, t)))
        if not is_exact(one, two) or one != two:
            return None
    (slope, shift), terms = lines[0], []
    if not is_exact(shift) or Fraction(float(shift[0])) != shift[0]:
        return None
    if slope != ZERO:
        terms.append((1.0, _scaled(whole.base, slope, steps, f"{name}.line")))
    for k, (point, (p, _), (r, _)) in enumerate(zip(whole.breaks, lines, lines[1:], strict=False)):
        change = plus(r, negative(p))
        if change != ZERO:
            behind = steps.add([(1.0, whole.base)], steps.like.new_full(whole.base.shape, -point), f"{name}.behind{k}")
            kink = Elementwise(activation("relu"), behind, f"{name}.kink{k}")
            terms.append((1.0, _scaled(kink, change, steps, f"{name}.change{k}")))
    if not terms:
        return None
    return steps.add(terms, steps.like.new_full(whole.base.shape, float(shift[0])), name)


def _scaled(node: Node, factor: Range, steps: AffineSteps, name: str) -> Node:
    low, high = outward_float(factor[0], -math.inf), outward_float(factor[1], math.inf)
    if low == high == 1.0:
        return node
    full = (steps.like.new_full(node.shape, end) for end in (low, high))
    return steps.scale(node, Interval(*full), name)


def _line(value: Value, base: Node) -> tuple[Range, Range] | None:
    """A form as ``factor h + shift``."""
    if not isinstance(value, Node):
        number = _constant(value)
        return None if number is None else (ZERO, fixed(number))
    return next(((line.factor, line.shift) for line in lines_of(value) if line.core is base), None)


def _constant(value: Value) -> Fraction | None:
    """The one number that a constant holds."""
    if isinstance(value, bool | int | float):
        return Fraction(value)
    if not isinstance(value, Tensor) or not value.numel():
        return None
    first = value.flatten()[0]
    return Fraction(float(first)) if bool((value == first).all()) and math.isfinite(float(first)) else None


def _at(value: Value, base: Node, point: Fraction) -> Fraction | None:
    """The exact value of a form at a point; None when it is not known, or no function of h alone."""
    if not isinstance(value, Node):
        return _constant(value)
    if value is base:
        return point
    if isinstance(value, Elementwise):
        inner = _at(value.source, base, point)
        return None if inner is None else _activated(value, inner)
    if not isinstance(value, Affine) or value.choice is not None:
        return None
    total = one_number(value.bias, None)
    for operator, source in value.terms:
        line, inner = line_of(operator, source), _at(source, base, point)
        if line is None or inner is None or total is None:
            return None
        total = plus(total, times(line.factor, fixed(inner)))
    return total[0] if total is not None and is_exact(total) else None


def _activated(node: Elementwise, point: Fraction) -> Fraction | None:
    """The exact value of an activation at a point."""
    kind, _ = kind_of(node)
    if kind in KNOWN and point == KNOWN[kind][0]:
        return KNOWN[kind][1]
    if kind == "square":
        return point * point
    if kind == "sqrt" and point >= 0:
        root = Fraction(math.isqrt(point.numerator), math.isqrt(point.denominator))
        return root if root * root == point else None
    breaks = node.activation.breaks
    if not all(isinstance(one, float) for one in breaks):
        return None
    piece = node.activation.pieces[sum(Fraction(one) < point for one in breaks)]  # type: ignore[arg-type]
    if piece.line is None or not all(isinstance(one, float) for one in piece.line):
        return None
    slope, offset = (Fraction(one) for one in piece.line)  # type: ignore[arg-type]
    return slope * point + offset


def _on(value: Node, base: Node, moved: Node) -> Node | None:
    """A form on another node in the place of h; None when it is no function of h alone, entry by entry."""
    if value is base:
        return moved
    if isinstance(value, Elementwise):
        source = _on(value.source, base, moved)
        return None if source is None else Elementwise(value.activation, source, value.name)
    if not isinstance(value, Affine) or value.choice is not None:
        return None
    terms = []
    for operator, source in value.terms:
        other = _on(source, base, moved) if line_of(operator, source) is not None else None
        if other is None:
            return None
        terms.append((operator, other))
    return Affine(tuple(terms), value.bias, value.name)
