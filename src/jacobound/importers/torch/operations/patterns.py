"""Sums and quotients of two values of the network that are one activation, as torch spells some of its layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jacobound.activations import torch_builder
from jacobound.graph.nodes import Elementwise, Node
from jacobound.importers.fusions.fusions import product


def difference(terms: Sequence[tuple[float, Node]], bias: Tensor | None, name: str) -> Node | None:
    """``x - tanh(x)`` as tanhshrink and ``x - min(max(x, -l), l)`` as softshrink; None when it is neither.

    The difference of the two nodes is the same function, but its bounds would treat the two as independent.
    """
    if bias is not None or len(terms) != 2 or sorted(factor for factor, _ in terms) != [-1.0, 1.0]:
        return None
    (_, taken), (_, whole) = sorted(terms, key=lambda term: term[0])
    if not isinstance(taken, Elementwise) or taken.source is not whole:
        return None
    kind, _, numbers = taken.activation.name.partition(":")
    limits = [float(part) for part in numbers.split(",") if part] if kind == "clip" else []
    if kind == "tanh":
        return _activation("aten.tanhshrink.default", whole, name)
    if len(limits) == 2 and limits[1] == -limits[0] and limits[1] >= 0:
        return _activation("aten.softshrink.default", whole, name, limits[1])
    return None


def quotient(top: Node, bottom: Node, name: str, like: Tensor) -> Node | None:
    """A quotient of two nodes as a product with the reciprocal: softsign, SiLU by exp; None when it is neither."""
    inverse = _activation("aten.reciprocal.default", bottom, f"{name}.reciprocal")
    return None if inverse is None else product(top, inverse, name, like)


def _activation(op: str, source: Node, name: str, *numbers: float) -> Node | None:
    builder = torch_builder(op)
    return None if builder is None else Elementwise(builder(*numbers), source, name)
