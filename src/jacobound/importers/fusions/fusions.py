"""Products of two values of the network that are one function of one value: ``x sigmoid(x)`` is SiLU, ``x x`` a square.

Models spell many activations as products. Every rewriting here is an identity of real functions with the constants as
they are stored: ``x (1 + erf(c x)) / 2`` is ``gelu(s x) / s`` with ``s = sqrt(2) c`` whatever c is, and where s is no
float it is enclosed (a `Scale` with a radius). So a constant such as float32's 0.70710677 is never taken for another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from jacobound.activations import Activation, activation
from jacobound.activations.kinds.tanh_gelu import gelu_by_tanh
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Affine, Elementwise, Node
from jacobound.importers.fusions.bells import root
from jacobound.importers.fusions.lines import (
    ONE,
    ZERO,
    Range,
    common_lines,
    example_of,
    fixed,
    inverse,
    is_exact,
    kind_of,
    line_node,
    line_of,
    lines_of,
    nearest_float,
    negative,
    outward_float,
    plus,
    times,
)


def _irrational(nearest: float) -> Range:
    """A number of which `nearest` is off by less than one unit in the last place."""
    return Fraction(math.nextafter(nearest, -math.inf)), Fraction(math.nextafter(nearest, math.inf))


ROOT_TWO = _irrational(1.4142135623730951)
ROOT_HALF_PI = _irrational(1.2533141373155003)


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

    def fused(self, made: str | Activation, outer: Range, inner: Range) -> Fused:
        """The product as ``k outer f(inner a) / inner``."""
        return Fused(activation(made) if isinstance(made, str) else made, times(self.k, outer), inner, self.a)

    def behind(self, source: Node) -> Gate:
        """This gate with the argument of an inner function as source."""
        return _gate(self.factor, self.shift, self.numbers, self.left, source)


@dataclass(frozen=True, eq=False)
class Fused:
    """The product is ``outer * activation(inner * value) / inner``."""

    activation: Activation
    outer: Range
    inner: Range
    value: Node


def product(left: Node, right: Node, name: str, like: Tensor | None = None) -> Node | None:
    """The product of two nodes of one shape, entry by entry, as a function of one node.

    Recognised, with factors and signs in between: squares and other products of two lines in one value, x^3, SiLU by
    sigmoid, tanh or exp, Mish, exact GELU by erf, hard swish by hard sigmoid or clipping, softsign by |x|,
    ``x exp(-x^2)``, ``x / sqrt(1 + x^2)``.

    Args:
        left, right: the two factors.
        name: of the resulting node.
        like: any tensor on the model's device; None for that of the nodes before.

    Returns:
        A node with exactly the product's values for all inputs, or None when the product is none of these.
    """
    if left.shape != right.shape:
        return None
    like = example_of(left) if like is None else like
    found = _quadratic(left, right, name, like)
    if found is None:
        found = _gated(left, right, name, like)
    return _gated(right, left, name, like) if found is None else found


def _quadratic(left: Node, right: Node, name: str, like: Tensor) -> Node | None:
    """``(p w + q) (r w + t)`` by completing the square."""
    lines = common_lines(left, right)
    if lines is None:
        return None
    (p, q), (r, t) = ((line.factor, line.shift) for line in lines)
    if q == ZERO and t == ZERO:
        outer = times(p, r)
        return line_node(_square(lines[0].core, name if outer == ONE else f"{name}.square"), outer, 0.0, name, like)
    if not (is_exact(p, q, r, t) and p[0] and r[0]):
        return None
    ratio, apart = r[0] / p[0], t[0] * p[0] / r[0] - q[0]  # right = ratio (left + apart)
    half, rest = apart / 2, -ratio * apart * apart / 4
    if Fraction(nearest_float(half)) != half or Fraction(nearest_float(rest)) != rest:
        return None
    centred = line_node(left, ONE, float(half), f"{name}.centre", like)
    if centred is None:
        return None
    return line_node(_square(centred, f"{name}.square"), fixed(ratio), float(rest), name, like)


def _square(node: Node, name: str) -> Node:
    return Elementwise(activation("square"), node, name)


def _gated(left: Node, right: Node, name: str, like: Tensor) -> Node | None:
    """`left` times a line of an activation of a line of `left`."""
    line = lines_of(right)[-1]
    if not isinstance(line.core, Elementwise) or line.factor[0] * line.factor[1] <= 0:
        return None
    kind, numbers = kind_of(line.core)
    if kind not in GATES:
        return None
    fused = GATES[kind](_gate(line.factor, line.shift, numbers, left, line.core.source))
    if fused is None or fused.inner[0] * fused.inner[1] <= 0:
        return None
    outer = times(fused.outer, inverse(fused.inner))
    inner = line_node(fused.value, fused.inner, 0.0, f"{name}.argument", like)
    if inner is None:
        return None
    kind = fused.activation.name.partition(":")[0]
    made = Elementwise(fused.activation, inner, name if outer == ONE else f"{name}.{kind}")
    return line_node(made, outer, 0.0, name, like)


def _gate(factor: Range, shift: Range, numbers: tuple[Fraction, ...], left: Node, source: Node) -> Gate:
    """A gate with the node a that `left` is a multiple of and `source` a line of, if there is one."""
    lines = common_lines(left, source)
    if lines is None:
        return Gate(factor, shift, numbers, left, source, left)
    (p, q), (r, t) = ((line.factor, line.shift) for line in lines)
    if q == ZERO:
        return Gate(factor, shift, numbers, left, source, lines[0].core, p, r, t)
    if not (is_exact(p, q, r, t) and p[0]):
        return Gate(factor, shift, numbers, left, source, left)
    ratio, rest = r[0] / p[0], t[0] - r[0] * q[0] / p[0]
    return Gate(factor, shift, numbers, left, source, left, ONE, fixed(ratio), fixed(rest))


def _by_sigmoid(gate: Gate) -> Fused | None:
    """``a sigmoid(s a)``, and with ``1 - sigmoid(z) = sigmoid(-z)``."""
    s = gate.through_zero
    if s is not None and gate.shift == ZERO:
        return gate.fused("silu", gate.factor, s)
    if s is not None and is_exact(gate.shift) and gate.factor == negative(gate.shift):
        return gate.fused("silu", gate.shift, negative(s))
    return None


def _by_tanh(gate: Gate) -> Fused | None:
    """``1 + tanh(z) = 2 sigmoid(2 z)``, and Mish."""
    if gate.shift == ZERO:
        return _mish(gate)
    s, sign = gate.through_zero, _sign_of_unit(gate)
    if sign is None:
        return None
    if s is None:
        return _by_cubic(gate, sign)
    return gate.fused("silu", times(gate.shift, fixed(2)), times(s, fixed(2 * sign)))


def _by_cubic(gate: Gate, sign: int) -> Fused | None:
    """``a (1 + tanh(k (a + c a^3)))`` with ``s = k sqrt(pi / 2)`` as inner factor, and c / s^2 as cubic factor."""
    found = _odd_cubic(gate)
    if found is None or found[1][0] * found[1][1] <= 0:
        return None
    gate, first, third = found
    inner = times(times(first, fixed(sign)), ROOT_HALF_PI)
    cubic = times(third, times(inverse(first), inverse(times(inner, inner))))
    try:
        made = gelu_by_tanh(outward_float(cubic[0], -math.inf), outward_float(cubic[1], math.inf))
    except UnsupportedOpError:
        return None
    return gate.fused(made, times(gate.shift, fixed(2)), inner)


def _odd_cubic(gate: Gate) -> tuple[Gate, Range, Range] | None:
    """The source as ``first a + third a^3``, with the gate of that a."""
    line, first, third = lines_of(gate.source)[-1], ZERO, ZERO
    if line.shift != ZERO or not isinstance(line.core, Affine) or line.core.bias is not None:
        return None
    found: Gate | None = None
    for operator, source in line.core.terms:
        term = line_of(operator, source)
        if term is None:
            return None
        inner = lines_of(source)[-1]
        cube = isinstance(inner.core, Elementwise) and kind_of(inner.core) == ("power", (Fraction(3),))
        here = gate.behind(inner.core.source if cube and isinstance(inner.core, Elementwise) else source)
        s = here.through_zero
        if s is None or (cube and inner.shift != ZERO) or (found is not None and here.a is not found.a):
            return None
        found, factor = here, times(line.factor, term.factor)
        if cube:
            third = plus(third, times(times(factor, inner.factor), times(s, times(s, s))))
        else:
            first = plus(first, times(factor, s))
    return None if found is None else (found, first, third)


def _mish(gate: Gate) -> Fused | None:
    """``a tanh(softplus(s a))``."""
    inner = gate.source
    if not isinstance(inner, Elementwise) or kind_of(inner) != ("softplus", ()):
        return None
    gate = gate.behind(inner.source)
    return None if gate.through_zero is None else gate.fused("mish", gate.factor, gate.through_zero)


def _by_erf(gate: Gate) -> Fused | None:
    """``a (1 + erf(s a)) = 2 a Phi(sqrt(2) s a)``."""
    s, sign = gate.through_zero, _sign_of_unit(gate)
    if s is None or sign is None:
        return None
    return gate.fused("gelu", times(gate.shift, fixed(2)), times(times(s, fixed(sign)), ROOT_TWO))


def _by_hard_sigmoid(gate: Gate) -> Fused | None:
    alpha, beta = gate.numbers if len(gate.numbers) == 2 else (Fraction(0), Fraction(0))
    return _hard(gate, alpha, beta, Fraction(1))


def _by_clip(gate: Gate) -> Fused | None:
    """``min(max(z, 0), h) = h min(max(z / h, 0), 1)``."""
    low, high = gate.numbers if len(gate.numbers) == 2 else (Fraction(-1), Fraction(0))
    return _hard(gate, 1 / high, Fraction(0), high) if low == 0 < high else None


def _hard(gate: Gate, alpha: Fraction, beta: Fraction, height: Fraction) -> Fused | None:
    """``height a min(max(alpha (s a + t) + beta, 0), 1)`` is hard swish when the middle step is at 1/2."""
    if gate.shift != ZERO or gate.s is None or gate.t is None or alpha <= 0 or not is_exact(gate.t):
        return None
    if alpha * gate.t[0] + beta != Fraction(1, 2):
        return None
    return gate.fused("hard_swish", times(gate.factor, fixed(height)), times(gate.s, fixed(6 * alpha)))


def _by_reciprocal(gate: Gate) -> Fused | None:
    """``a / (m + n |s a|)`` and ``a / (m + m exp(s a))``."""
    line = lines_of(gate.source)[-1]
    if gate.shift != ZERO or not isinstance(line.core, Elementwise) or not is_exact(line.factor, line.shift):
        return None
    gate, n, m = gate.behind(line.core.source), line.factor[0], line.shift[0]
    s, kind = gate.through_zero, kind_of(line.core)[0]
    if kind == "sqrt":
        return _by_root(replace(gate, factor=times(gate.factor, fixed(1 / n)))) if n and not m else None
    if s is None or not (m > 0 and n > 0):
        return None
    outer = times(gate.factor, fixed(1 / m))
    if kind == "abs":
        return gate.fused("softsign", outer, times(s if s[0] > 0 else negative(s), fixed(n / m)))
    return gate.fused("silu", outer, negative(s)) if kind == "exp" and m == n else None


def _by_root(gate: Gate) -> Fused | None:
    """``a / sqrt(m + n (s a)^2)``."""
    line = lines_of(gate.source)[-1]
    if gate.shift != ZERO or not isinstance(line.core, Elementwise) or not is_exact(line.factor, line.shift):
        return None
    gate, n, m = gate.behind(line.core.source), line.factor[0], line.shift[0]
    s = gate.through_zero
    if s is None or s[0] * s[1] <= 0 or not (m > 0 and n > 0):
        return None
    if kind_of(line.core) not in (("square", ()), ("power", (Fraction(2),))):
        return None
    inner = times(s if s[0] > 0 else negative(s), root(fixed(n / m)))
    return gate.fused("algebraic", times(gate.factor, inverse(root(fixed(m)))), inner)


def _by_bell(gate: Gate) -> Fused | None:
    """``a exp(-(s a)^2)``."""
    s = gate.through_zero
    if gate.shift != ZERO or s is None:
        return None
    return gate.fused("wave", gate.factor, s if s[0] > 0 else negative(s))


def _by_square(gate: Gate) -> Fused | None:
    """``a (s a)^2``."""
    if gate.shift != ZERO or gate.through_zero is None:
        return None
    return gate.fused("power:3", times(gate.factor, times(gate.through_zero, gate.through_zero)), ONE)


GATES: Mapping[str, Callable[[Gate], Fused | None]] = {
    "sigmoid": _by_sigmoid,
    "tanh": _by_tanh,
    "erf": _by_erf,
    "hard_sigmoid": _by_hard_sigmoid,
    "clip": _by_clip,
    "reciprocal": _by_reciprocal,
    "rsqrt": _by_root,
    "bell": _by_bell,
    "square": _by_square,
}


def _sign_of_unit(gate: Gate) -> int | None:
    """The sign in ``shift (1 ± f)``; None when it has another form."""
    if not is_exact(gate.factor, gate.shift) or abs(gate.factor[0]) != abs(gate.shift[0]):
        return None
    return 1 if gate.factor == gate.shift else -1
