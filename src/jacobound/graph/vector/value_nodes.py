"""Small nodes that functions of vectors are lowered to: entries, sums and copies of rows, squares, products."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Product, Vector
from jacobound.graph.units import divided_by
from jacobound.operators.base import positions
from jacobound.operators.kinds import Dense, Identity, Scale, Select

# Above so many entries a product of matrices is not written out: no method would come to its end with it.
MOST_PRODUCTS = 1 << 22


def entries(node: Node, index: Tensor, like: Tensor, name: str) -> Node:
    """``node.flat[index]``; read from the node that holds the entries where nodes before only moved them.

    Args:
        index: flat positions, of the shape of the result.
    """
    while isinstance(node, Affine) and node.bias is None and node.beside is None:
        found = _moved_by_one_term(node, index)
        if found is None:
            break
        node, index = found
    if tuple(index.shape) == node.shape and torch.equal(index.flatten(), positions(index.numel(), index)):
        return node
    return Affine(((Select(index, node.shape, like), node),), None, name)


def _moved_by_one_term(node: Affine, index: Tensor) -> tuple[Node, Tensor] | None:
    """Where entries of a node lie in one of its sources, when it only moves entries and all come from that one."""
    places = []
    for operator, source in node.terms:
        if isinstance(operator, Identity):
            places.append((source, index))
        elif isinstance(operator, Select):
            places.append((source, operator.index.flatten()[index]))
        else:
            return None
    given = [(source, place) for source, place in places if bool((place >= 0).any())]
    return given[0] if len(given) == 1 and bool((given[0][1] >= 0).all()) else None


def everything(node: Node, like: Tensor, start: int = 0, shape: tuple[int, ...] | None = None) -> Tensor:
    """Flat positions of entries of a node from a start on, in a shape."""
    shape = node.shape if shape is None else shape
    return (start + torch.arange(prod(shape), device=like.device)).reshape(shape)


def same(node: Node, like: Tensor, shape: tuple[int, ...] | None = None) -> tuple[Identity, Node]:
    """The term of a node itself, perhaps in another shape."""
    return Identity(node.shape, node.shape if shape is None else shape, like), node


def minus(node: Node, like: Tensor) -> tuple[Scale, Node]:
    """The term of a node's negative."""
    return Scale(like.new_full(node.shape, -1.0)), node


def row_sums(node: Node, like: Tensor, name: str, beside: Vector | None = None) -> Affine:
    """The sum of every row, (*rows, n) to (*rows, 1)."""
    return Affine(((Dense(like.new_ones(1, node.shape[-1]), node.shape[:-1]), node),), None, name, None, beside)


def row_means(node: Node, like: Tensor, name: str) -> Affine:
    """The mean of every row, (*rows, n) to (*rows, 1)."""
    total = row_sums(node, like, f"{name}.total")
    return Affine(((divided_by(float(node.shape[-1]), like, total.shape, "a count"), total),), None, name)


def spread_rows(node: Node, length: int, like: Tensor, name: str, allowed: Tensor | None = None) -> Affine:
    """One number for every row copied along it, (*rows, 1) to (*rows, length); 0 where nothing is allowed."""
    index = everything(node, like).expand(*node.shape[:-1], length)
    index = index if allowed is None else torch.where(allowed, index, -1)
    return Affine(((Select(index.contiguous(), node.shape, like), node),), None, name)


def where_allowed(node: Node, allowed: Tensor | None, like: Tensor) -> tuple[Identity | Select, Node]:
    """The term of a node's entries that are allowed, 0 elsewhere."""
    if allowed is None:
        return same(node, like)
    return Select(torch.where(allowed, everything(node, like), -1), node.shape, like), node


def less_copies(node: Node, number: Node, like: Tensor, name: str, allowed: Tensor | None = None) -> tuple[tuple, ...]:
    """The terms of ``node - number``, one number for every row; 0 where nothing is allowed."""
    copied = spread_rows(number, node.shape[-1], like, f"{name}.spread", allowed)
    return (where_allowed(node, allowed, like), minus(copied, like))


def source_beside(node: Node) -> Node:
    """What the function beside a node is a function of."""
    assert not isinstance(node, Vector | Input) and node.beside is not None
    return node.beside.source


def squared(node: Node, name: str) -> Elementwise:
    """The squares of a node's entries."""
    return Elementwise(activation("square"), node, name)


def plus_number(node: Affine, number: float, like: Tensor, name: str) -> Affine:
    """``node + number``, exactly: as many floats are added as the dtype needs for it."""
    left = number
    while left:
        part = like.new_tensor(left)
        node = Affine((same(node, like),), part.expand(node.shape).clone(), name)
        left -= float(part)
    return node


def matrix_products(
    left: Node, rows: Tensor, right: Node, columns: Tensor, like: Tensor, name: str, beside: Vector | None = None
) -> Affine:
    """``sum_k left.flat[rows[..., i, k]] right.flat[columns[..., j, k]]``, shape (*lead, m, n).

    Args:
        rows, columns: flat positions, (*lead, m, k) and (*lead, n, k).
    """
    m, n = rows.shape[-2], columns.shape[-2]
    first = rows.unsqueeze(-2).expand(*rows.shape[:-1], n, rows.shape[-1])
    second = columns.unsqueeze(-3).expand(*columns.shape[:-2], m, n, columns.shape[-1])
    one = entries(left, first.contiguous(), like, f"{name}.left")
    two = entries(right, second.contiguous(), like, f"{name}.right")
    total = row_sums(Product(one, two, f"{name}.products"), like, f"{name}.sums")
    return Affine((same(total, like, total.shape[:-1]),), None, name, None, beside)
