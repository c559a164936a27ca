"""Equal nodes as one node, and a product of a node with itself as its square: correlations that no bound sees.

Two nodes are equal when kind, parameters and sources are; that is a rule about the graph, so it holds for every input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.graph.copies import moved_beside, on_sources
from jacobound.graph.nodes import Affine, Elementwise, Node, Product, Vector
from jacobound.operators.base import LinearOperator


def merged(nodes: Sequence[Node], device: torch.device) -> dict[Node, Node]:
    """For every node the one that stands for it and all its equals.

    Args:
        nodes: every node after its sources.
    """
    first: dict[Hashable, Node] = {}
    moved: dict[Node, Node] = {}
    operators: dict[LinearOperator, bytes] = {}
    for node in nodes:
        copy = on_sources(node, moved, device)
        if isinstance(copy, Product) and copy.first is copy.second:
            copy = Elementwise(activation("square"), copy.first, copy.name, moved_beside(node, moved))  # type: ignore[arg-type]
        key = _key(copy, operators)
        moved[node] = copy if key is None else first.setdefault(key, copy)
    return moved


def _key(node: Node, operators: dict[LinearOperator, bytes]) -> Hashable | None:
    """What equal nodes have in common; None for a node that is taken to be equal to no other."""
    if isinstance(node, Affine):
        if node.choice is not None:
            return None
        terms = tuple((_digest(operator, operators), source) for operator, source in node.terms)
        return "affine", terms, None if node.bias is None else _bytes(node.bias), node.shape
    if isinstance(node, Elementwise):
        return "elementwise", node.activation.name, tuple(map(_bytes, node.activation.parameters)), node.source
    if isinstance(node, Product):
        return "product", frozenset((node.first, node.second))
    if isinstance(node, Vector):
        return "vector", node.function.structure(), node.source
    return None


def _digest(operator: LinearOperator, known: dict[LinearOperator, bytes]) -> bytes:
    if operator not in known:
        digest = hashlib.sha256(operator.structure())
        for parameter in operator.parameters():
            digest.update(repr(tuple(parameter.shape)).encode() + _bytes(parameter))
        known[operator] = digest.digest()
    return known[operator]


def _bytes(x: Tensor) -> bytes:
    return x.detach().to("cpu", torch.float64).contiguous().numpy().tobytes()
