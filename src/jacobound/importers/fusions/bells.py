"""Exponentials of squares: ``exp(-k (s a + t)^2)`` is ``bell(sqrt(k) (s a + t))``, of bounded slopes."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

from torch import Tensor

from jacobound.activations import Activation, activation
from jacobound.graph.nodes import Elementwise, Node
from jacobound.importers.fusions.lines import ZERO, Range, example_of, kind_of, line_node, lines_of, negative


def elementwise(function: Activation, source: Node, name: str, like: Tensor | None = None) -> Node:
    """An activation of a node, as a function of what the node was made of where that one is known to be tamer.

    Args:
        function: the activation.
        source: its argument.
        name: of the resulting node.
        like: any tensor on the model's device; None for that of the nodes before.
    """
    plain = Elementwise(function, source, name)
    if function.name != "exp":
        return plain
    line = lines_of(source)[-1]
    if line.shift != ZERO or line.factor[1] >= 0 or not isinstance(line.core, Elementwise):
        return plain
    if kind_of(line.core) not in (("square", ()), ("power", (Fraction(2),))):
        return plain
    inside, like = line.core.source, example_of(source) if like is None else like
    inner = line_node(inside, root(negative(line.factor)), 0.0, f"{name}.argument", like)
    return plain if inner is None else Elementwise(activation("bell"), inner, name)


def root(x: Range) -> Range:
    """Square roots of positive numbers, outward where they are no ratio."""
    return _root(x[0], 0), _root(x[1], 1)


def _root(x: Fraction, more: int) -> Fraction:
    places = 100 + max(0, x.denominator.bit_length() - x.numerator.bit_length())
    whole = x * 4**places
    below = isqrt(whole.numerator // whole.denominator)
    return Fraction(below + (more if below * below != whole else 0), 2**places)
