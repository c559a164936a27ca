"""Products with constant matrices in traced modules: linear layers, matmul and its kin, einsum, contractions."""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.steps import MIXED
from jacobound.importers.torch.operations.call import PRODUCT, Call, Value, is_node

PER_POINT = "A constant is different for each point of the batch."


def linear(call: Call) -> Node:
    bias = call.argument(2, "bias")
    if is_node(bias):
        raise UnsupportedOpError("Its bias depends on the input.")
    weight = call.weight(call.args[1])
    _require_axes(call, call.args[0], 1)
    return call.steps.dense(call.args[0], weight, None if bias is None else call.operand(bias), call.name)


def matmul(call: Call) -> Node:
    """A product of vectors, matrices or stacks of matrices."""
    return _matmul(call, call.args[0], call.args[1], call.name)


def _matmul(call: Call, left: Value, right: Value, name: str) -> Node:
    if is_node(left) and is_node(right):
        return call.steps.matrix_product(left, right, name)
    node, constant = (left, right) if is_node(left) else (right, left)
    weight = _for_one_point(call, call.weight(constant), call.rank(node))
    _require_axes(call, node, 1 if is_node(left) or not call.front else 2)
    if is_node(left):
        if weight.dim() == 2:
            return call.steps.dense(node, weight.T.contiguous(), None, name)
        return call.steps.matmul(node, weight, name)
    return call.steps.matmul(weight, node, name)


def chain(call: Call) -> Node:
    """A product of several matrices one of which is a node; its neighbours are multiplied on one by one."""
    factors = list(call.args[0])
    places = [place for place, factor in enumerate(factors) if is_node(factor)]
    if len(places) != 1:
        raise UnsupportedOpError(PRODUCT)
    node = factors[places[0]]
    for k, factor in enumerate(factors[places[0] + 1 :]):
        node = _matmul(call, node, factor, f"{call.name}.right{k}")
    for k, factor in enumerate(reversed(factors[: places[0]])):
        node = _matmul(call, factor, node, f"{call.name}.left{k}")
    return node


def add_product(call: Call) -> Node:
    """addmm, addmv, baddbmm: ``beta * start + alpha * left @ right``."""
    start, left, right = call.args[:3]
    beta, alpha = call.kwargs.get("beta", 1), call.kwargs.get("alpha", 1)
    weight_like = isinstance(right, Tensor) and right.dim() == 2
    if is_node(left) and weight_like and beta == alpha == 1 and not is_node(start):
        _require_axes(call, left, 1)
        return call.steps.dense(left, call.weight(right).T.contiguous(), call.operand(start), call.name)
    terms: list[tuple[float, Node]] = []
    bias = None
    if is_node(left) or is_node(right):
        terms.append((call.number(alpha), call.node(_matmul(call, left, right, f"{call.name}.product"))))
    else:
        bias = call.operand(torch.matmul(left, right) * alpha)
    if beta != 0 and is_node(start):
        terms.append((call.number(beta), call.node(start)))
    elif beta != 0:
        bias = call.addend(start * beta)
    return call.steps.add(terms, bias, call.name)


def vecdot(call: Call) -> Node:
    """The scalar product along one axis, with a constant."""
    left, right = call.args[:2]
    if is_node(left) and is_node(right):
        axis = call.axis(call.argument(2, "dim", -1), call.rank(left))
        return call.steps.sum(call.steps.product(left, right, f"{call.name}.terms"), [axis], False, call.name)
    node, constant = (left, right) if is_node(left) else (right, left)
    full = torch.broadcast_shapes(_shape(call, node), tuple(constant.shape))
    node = call.steps.expand(node, call.point(full), f"{call.name}.expand")
    factor = call.steps.constant(call.weight(constant), node.shape)
    axis = call.axis(call.argument(2, "dim", -1), len(full))
    return call.steps.sum(call.steps.scale(node, factor, f"{call.name}.terms"), [axis], False, call.name)


def einsum(call: Call) -> Node:
    equation, operands = call.args[0], call.args[1]
    return einsum_of(call, equation, operands, call.name)


def tensordot(call: Call) -> Node:
    left, right = call.args[0], call.args[1]
    return _contract(call, left, right, call.args[2], call.args[3])


def inner(call: Call) -> Node:
    return _contract(call, call.args[0], call.args[1], [-1], [-1])


def outer(call: Call) -> Node:
    return _contract(call, call.args[0], call.args[1], [], [])


def _contract(call: Call, left: Value, right: Value, over_left: Sequence[int], over_right: Sequence[int]) -> Node:
    """Sum over pairs of axes; the axes that are left stand in order, those of `left` first."""
    ranks = call.rank(left), call.rank(right)
    letters = iter(string.ascii_letters)
    first = [next(letters) for _ in range(ranks[0])]
    second = [next(letters) for _ in range(ranks[1])]
    pairs = [(a % max(ranks[0], 1), b % max(ranks[1], 1)) for a, b in zip(over_left, over_right, strict=True)]
    for a, b in pairs:
        second[b] = first[a]
    kept = [letter for k, letter in enumerate(first) if k not in {a for a, _ in pairs}]
    kept += [letter for k, letter in enumerate(second) if k not in {b for _, b in pairs}]
    return einsum_of(call, f"{''.join(first)},{''.join(second)}->{''.join(kept)}", [left, right], call.name)


def einsum_of(call: Call, equation: str, operands: Sequence[Value], name: str) -> Node:
    """numpy's einsum of nodes and constants; of several nodes one after the other."""
    nodes = [operand for operand in operands if is_node(operand)]
    if len(nodes) == len(operands) == 2:
        return call.steps.contraction(equation, nodes[0], nodes[1], name)
    if len(nodes) == 1:
        values = [value if is_node(value) else call.weight(value) for value in operands]
        return call.steps.einsum(equation, values, name)
    before, arrow, result = equation.replace(" ", "").partition("->")
    if "..." in equation or not arrow:
        raise UnsupportedOpError(f"{PRODUCT} Of more than two operands, write all axes of the equation out.")
    terms = sorted(zip(before.split(","), operands, strict=True), key=lambda term: not is_node(term[1]))
    (labels, found), rest = terms[0], terms[1:]
    for k, (other, operand) in enumerate(rest):
        needed = set(result).union(*(term for term, _ in rest[k + 1 :]))
        kept = result if k == len(rest) - 1 else "".join(one for one in dict.fromkeys(labels + other) if one in needed)
        label = name if k == len(rest) - 1 else f"{name}.{k}"
        found, labels = einsum_of(call, f"{labels},{other}->{kept}", [found, operand], label), kept
    return found


def _for_one_point(call: Call, constant: Tensor, rank: int) -> Tensor:
    """A constant factor of a matrix product without its batch axis, when the node in the product has `rank` axes."""
    if not call.front or constant.dim() < max(rank, 3):
        if call.front and constant.dim() > 2 and rank < 3:
            raise UnsupportedOpError(MIXED)
        return constant
    if constant.dim() > rank:
        raise UnsupportedOpError(MIXED)
    if not torch.equal(constant, constant[:1].expand_as(constant)):
        raise UnsupportedOpError(PER_POINT)
    return constant[0]


def _require_axes(call: Call, node: Node, axes: int) -> None:
    """Refuse a product over `axes` trailing axes that would reach the batch axis."""
    if len(node.shape) < axes:
        raise UnsupportedOpError(MIXED if call.front else "Its argument has too few axes.")


def _shape(call: Call, node: Node) -> tuple[int, ...]:
    return node.shape if call.steps.batch is None else (call.steps.batch, *node.shape)
