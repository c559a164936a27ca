"""Products of two values of the network that are one function of one value: ``x sigmoid(x)`` is SiLU, ``x x`` a square.

Models spell many activations as products. Every rewriting here is an identity of real functions with the constants as
they are stored: ``x (1 + erf(c x)) / 2`` is ``gelu(s x) / s`` with ``s = sqrt(2) c`` whatever c is, and where s is no
float it is enclosed (a `Scale` with a radius). So a constant such as float32's 0.70710677 is never taken for another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.graph import Affine, Elementwise, Node
from jacobound.intervals import Interval
from jacobound.operator_kinds import Identity, Scale

Range = tuple[Fraction, Fraction]
"""The two ends between which a real constant lies; equal when it is known exactly."""

ONE: Range = (Fraction(1), Fraction(1))
ZERO: Range = (Fraction(0), Fraction(0))
ROOT_TWO: Range = (Fraction(math.nextafter(math.sqrt(2.0), 0.0)), Fraction(math.nextafter(math.sqrt(2.0), 2.0)))
LONGEST_CHAIN = 16


@dataclass(frozen=True, eq=False)
class Line:
    """A node as ``factor core + shift``, with the same two numbers in every entry."""

    core: Node
    factor: Range = ONE
    shift: Range = ZERO


@dataclass(frozen=True, eq=False)
class Gate:
    """A product ``(k a) (factor f(source) + shift)`` with ``source = s a + t``.

    Args:
        numbers: those in the name of the activation f.
        left: the first factor, ``k a``.
        a: a node.
        s, t: None when the source is no line of a.
    """

    factor: Range
    shift: Range
    numbers: tuple[Fraction, ...]
    left: Node
    source: Node
    a: Node
    k: Range = ONE
    s: Range | None = None
    t: Range | None = None

    @property
    def through_zero(self) -> Range | None:
        """s, when the source is exactly ``s a``."""
        return self.s if self.t == ZERO else None

    def fused(self, name: str, outer: Range, inner: Range) -> Fused:
        """The product as ``k outer f(inner a) / inner``."""
        return Fused(name, _times(self.k, outer), inner, self.a)

    def behind(self, source: Node) -> Gate:
        """The same with the argument of an inner function as source."""
        return _gate(self.factor, self.shift, self.numbers, self.left, source)


@dataclass(frozen=True, eq=False)
class Fused:
    """The product is ``outer * activation(inner * value) / inner``."""

    activation: str
    outer: Range
    inner: Range
    value: Node


def product(left: Node, right: Node, name: str, like: Tensor | None = None) -> Node | None:
    """The product of two nodes of one shape, entry by entry, as a function of one node.

    Recognised, with factors and signs in between: squares and other products of two lines in one value, x^3, SiLU by
    sigmoid, tanh or exp, Mish, exact GELU by erf, hard swish by hard sigmoid or clipping, softsign by |x|.

    Args:
        left, right: the two factors.
        name: of the resulting node.
        like: any tensor on the model's device; None for that of the nodes before.

    Returns:
        A node with exactly the product's values for all inputs, or None when the product is none of these.
    """
    if left.shape != right.shape:
        return None
    like = _example(left) if like is None else like
    found = _quadratic(left, right, name, like)
    if found is None:
        found = _gated(left, right, name, like)
    return _gated(right, left, name, like) if found is None else found


def _quadratic(left: Node, right: Node, name: str, like: Tensor) -> Node | None:
    """``(p w + q) (r w + t)`` by completing the square."""
    lines = _in_common(left, right)
    if lines is None:
        return None
    (p, q), (r, t) = ((line.factor, line.shift) for line in lines)
    if q == ZERO and t == ZERO:
        outer = _times(p, r)
        return _moved(_square(lines[0].core, name if outer == ONE else f"{name}.square"), outer, 0.0, name, like)
    if not (_exact(p, q, r, t) and p[0] and r[0]):
        return None
    ratio, apart = r[0] / p[0], t[0] * p[0] / r[0] - q[0]  # right = ratio (left + apart)
    half, rest = apart / 2, -ratio * apart * apart / 4
    if Fraction(_nearest(half)) != half or Fraction(_nearest(rest)) != rest:
        return None
    centred = _moved(left, ONE, float(half), f"{name}.centre", like)
    if centred is None:
        return None
    return _moved(_square(centred, f"{name}.square"), _fixed(ratio), float(rest), name, like)


def _square(node: Node, name: str) -> Node:
    return Elementwise(activation("square"), node, name)


def _gated(left: Node, right: Node, name: str, like: Tensor) -> Node | None:
    """`left` times a line of an activation of a line of `left`."""
    line = _lines(right)[-1]
    if not isinstance(line.core, Elementwise) or line.factor[0] * line.factor[1] <= 0:
        return None
    kind, numbers = _kind(line.core)
    if kind not in GATES:
        return None
    fused = GATES[kind](_gate(line.factor, line.shift, numbers, left, line.core.source))
    if fused is None or fused.inner[0] * fused.inner[1] <= 0:
        return None
    outer = _times(fused.outer, _inverse(fused.inner))
    inner = _moved(fused.value, fused.inner, 0.0, f"{name}.argument", like)
    if inner is None:
        return None
    made = Elementwise(activation(fused.activation), inner, name if outer == ONE else f"{name}.{fused.activation}")
    return _moved(made, outer, 0.0, name, like)


def _gate(factor: Range, shift: Range, numbers: tuple[Fraction, ...], left: Node, source: Node) -> Gate:
    """A gate with the node a that `left` is a multiple of and `source` a line of, if there is one."""
    lines = _in_common(left, source)
    if lines is None:
        return Gate(factor, shift, numbers, left, source, left)
    (p, q), (r, t) = ((line.factor, line.shift) for line in lines)
    if q == ZERO:
        return Gate(factor, shift, numbers, left, source, lines[0].core, p, r, t)
    if not (_exact(p, q, r, t) and p[0]):
        return Gate(factor, shift, numbers, left, source, left)
    ratio, rest = r[0] / p[0], t[0] - r[0] * q[0] / p[0]
    return Gate(factor, shift, numbers, left, source, left, ONE, _fixed(ratio), _fixed(rest))


def _by_sigmoid(gate: Gate) -> Fused | None:
    """``a sigmoid(s a)``, and with ``1 - sigmoid(z) = sigmoid(-z)``."""
    s = gate.through_zero
    if s is not None and gate.shift == ZERO:
        return gate.fused("silu", gate.factor, s)
    if s is not None and _exact(gate.shift) and gate.factor == _negative(gate.shift):
        return gate.fused("silu", gate.shift, _negative(s))
    return None


def _by_tanh(gate: Gate) -> Fused | None:
    """``1 + tanh(z) = 2 sigmoid(2 z)``, and Mish."""
    if gate.shift == ZERO:
        return _mish(gate)
    s, sign = gate.through_zero, _sign_of_unit(gate)
    if s is None or sign is None:
        return None
    return gate.fused("silu", _times(gate.shift, _fixed(2)), _times(s, _fixed(2 * sign)))


def _mish(gate: Gate) -> Fused | None:
    """``a tanh(softplus(s a))``."""
    inner = gate.source
    if not isinstance(inner, Elementwise) or _kind(inner) != ("softplus", ()):
        return None
    gate = gate.behind(inner.source)
    return None if gate.through_zero is None else gate.fused("mish", gate.factor, gate.through_zero)


def _by_erf(gate: Gate) -> Fused | None:
    """``a (1 + erf(s a)) = 2 a Phi(sqrt(2) s a)``."""
    s, sign = gate.through_zero, _sign_of_unit(gate)
    if s is None or sign is None:
        return None
    return gate.fused("gelu", _times(gate.shift, _fixed(2)), _times(_times(s, _fixed(sign)), ROOT_TWO))


def _by_hard_sigmoid(gate: Gate) -> Fused | None:
    alpha, beta = gate.numbers if len(gate.numbers) == 2 else (Fraction(0), Fraction(0))
    return _hard(gate, alpha, beta, Fraction(1))


def _by_clip(gate: Gate) -> Fused | None:
    """``min(max(z, 0), h) = h min(max(z / h, 0), 1)``."""
    low, high = gate.numbers if len(gate.numbers) == 2 else (Fraction(-1), Fraction(0))
    return _hard(gate, 1 / high, Fraction(0), high) if low == 0 < high else None


def _hard(gate: Gate, alpha: Fraction, beta: Fraction, height: Fraction) -> Fused | None:
    """``height a min(max(alpha (s a + t) + beta, 0), 1)`` is hard swish when the middle step is at 1/2."""
    if gate.shift != ZERO or gate.s is None or gate.t is None or alpha <= 0 or not _exact(gate.t):
        return None
    if alpha * gate.t[0] + beta != Fraction(1, 2):
        return None
    return gate.fused("hard_swish", _times(gate.factor, _fixed(height)), _times(gate.s, _fixed(6 * alpha)))


def _by_reciprocal(gate: Gate) -> Fused | None:
    """``a / (m + n |s a|)`` and ``a / (m + m exp(s a))``."""
    line = _lines(gate.source)[-1]
    if gate.shift != ZERO or not isinstance(line.core, Elementwise) or not _exact(line.factor, line.shift):
        return None
    gate, n, m = gate.behind(line.core.source), line.factor[0], line.shift[0]
    s, kind = gate.through_zero, _kind(line.core)[0]
    if s is None or not (m > 0 and n > 0):
        return None
    outer = _times(gate.factor, _fixed(1 / m))
    if kind == "abs":
        return gate.fused("softsign", outer, _times(s if s[0] > 0 else _negative(s), _fixed(n / m)))
    return gate.fused("silu", outer, _negative(s)) if kind == "exp" and m == n else None


GATES: Mapping[str, Callable[[Gate], Fused | None]] = {
    "sigmoid": _by_sigmoid,
    "tanh": _by_tanh,
    "erf": _by_erf,
    "hard_sigmoid": _by_hard_sigmoid,
    "clip": _by_clip,
    "reciprocal": _by_reciprocal,
}


def _sign_of_unit(gate: Gate) -> int | None:
    """The sign in ``shift (1 ± f)``; None when it has another form."""
    if not _exact(gate.factor, gate.shift) or abs(gate.factor[0]) != abs(gate.shift[0]):
        return None
    return 1 if gate.factor == gate.shift else -1


def _lines(node: Node) -> list[Line]:
    """The node as a line of itself, of what it was made of by factors and shifts, and so on."""
    found = [Line(node)]
    while len(found) < LONGEST_CHAIN:
        line = found[-1]
        step = _step(line.core)
        if step is None:
            break
        shift = _plus(_times(line.factor, step.shift), line.shift)
        found.append(Line(step.core, _times(line.factor, step.factor), shift))
    return found


def _step(node: Node) -> Line | None:
    """An affine node with one number as factor and one as shift."""
    if not isinstance(node, Affine) or len(node.terms) != 1:
        return None
    (operator, source), shift = node.terms[0], _uniform(node.bias, None)
    if shift is None or source.shape != node.shape:
        return None
    if isinstance(operator, Identity):
        return Line(source, ONE, shift)
    factor = _uniform(operator.factor, operator.radius) if isinstance(operator, Scale) else None
    return None if factor is None else Line(source, factor, shift)


def _uniform(values: Tensor | None, radius: Tensor | None) -> Range | None:
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


def _in_common(left: Node, right: Node) -> tuple[Line, Line] | None:
    """Two nodes as lines of the nearest node that both are lines of."""
    known = {line.core: line for line in reversed(_lines(left))}
    return next(((known[line.core], line) for line in _lines(right) if line.core in known), None)


def _kind(node: Elementwise) -> tuple[str, tuple[Fraction, ...]]:
    """Name and numbers of an activation; a number in a name is a float, unless it is written as a ratio."""
    kind, _, numbers = node.activation.name.partition(":")
    parts = [part for part in numbers.split(",") if part]
    try:
        return kind, tuple(Fraction(part) if "/" in part else Fraction(float(part)) for part in parts)
    except (ValueError, OverflowError):  # words, or infinite ends
        return node.activation.name, ()


def _moved(node: Node, factor: Range, shift: float, name: str, like: Tensor) -> Node | None:
    """``factor node + shift``; None when the factor is beyond the range of floats."""
    if factor == ONE and not shift:
        return node
    low, high = _outward(factor[0], -math.inf), _outward(factor[1], math.inf)
    if not (math.isfinite(low) and math.isfinite(high)) or low * high <= 0:
        return None
    if low == high:
        scale = Scale(like.new_full(node.shape, low))
    else:
        middle, radius = Interval(like.new_full(node.shape, low), like.new_full(node.shape, high)).midpoint_and_radius()
        scale = Scale(middle, radius)
    operator = Identity(node.shape, node.shape, like) if factor == ONE else scale
    return Affine(((operator, node),), like.new_full(node.shape, shift) if shift else None, name)


def _example(node: Node) -> Tensor:
    """A float64 number on the device of the weights before a node."""
    while node.sources:
        if isinstance(node, Affine):
            return node.terms[0][0].example().new_zeros((), dtype=torch.float64)
        node = node.sources[0]
    return torch.zeros((), dtype=torch.float64)


def _nearest(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return 0.0 if value else math.inf  # is never equal to the value, so that it counts as no float


def _outward(value: Fraction, direction: float) -> float:
    try:
        nearest = float(value)
    except OverflowError:
        return math.inf
    inside = Fraction(nearest) > value if direction < 0 else Fraction(nearest) < value
    return math.nextafter(nearest, direction) if inside else nearest


def _fixed(value: Fraction | int) -> Range:
    return Fraction(value), Fraction(value)


def _exact(*ranges: Range) -> bool:
    return all(low == high for low, high in ranges)


def _negative(x: Range) -> Range:
    return -x[1], -x[0]


def _plus(x: Range, y: Range) -> Range:
    return x[0] + y[0], x[1] + y[1]


def _times(x: Range, y: Range) -> Range:
    ends = [a * b for a in x for b in y]
    return min(ends), max(ends)


def _inverse(x: Range) -> Range:
    """1 / x for a range without zero."""
    return 1 / x[1], 1 / x[0]
