"""Operations of torch that are a few others together: distances, deviations, products along an axis, cross products."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.steps import MIXED
from jacobound.importers.torch.operations.arithmetic import activate
from jacobound.importers.torch.operations.call import Call, Value, is_node
from jacobound.importers.torch.operations.products import einsum_of


def bilinear(call: Call) -> Node:
    """``x1' W_o x2 + b_o`` over the last axes."""
    left, right, weight = call.args[:3]
    lead = string.ascii_lowercase[: call.rank(left if is_node(left) else right) - 1]
    found = einsum_of(call, f"{lead}y,xyz,{lead}z->{lead}x", [left, weight, right], f"{call.name}.form")
    bias = call.argument(3, "bias")
    return call.steps.add([(1.0, found)], None if bias is None else call.operand(bias), call.name)


def cosine_similarity(call: Call) -> Node:
    """The scalar product of two normalised vectors."""
    one, two = _broadcast(call, call.args[:2])
    axis = call.axis(call.argument(2, "dim", 1), len(one.shape) + call.front)
    eps = float(call.argument(3, "eps", 1e-8))
    one, two = (call.steps.normalize(x, [axis], eps, f"{call.name}.unit{k}") for k, x in enumerate((one, two)))
    return call.steps.sum(call.steps.product(one, two, f"{call.name}.terms"), [axis], False, call.name)


def cdist(call: Call) -> Node:
    """Distances of all rows of one matrix from all rows of another one, of order 1, 2 or infinity."""
    order = float(call.argument(2, "p", 2.0))
    one, two = call.args[:2]
    if len(call.shape) == 1:  # the rows of the first matrix are the points themselves
        if is_node(two):
            raise UnsupportedOpError(MIXED)
        row = call.steps.move(one, lambda x: x.unsqueeze(-2), f"{call.name}.row")
        found = [(1.0, row), (-1.0, call.steps.constant_node(call.weight(two), one, f"{call.name}.constant"))]
        shape = (call.shape[0], one.shape[-1])
        sides = [(sign, call.steps.expand(node, shape, f"{call.name}.wide{sign}")) for sign, node in found]
        return _norm(call, call.steps.add(sides, None, f"{call.name}.differences"), order)
    rows, columns = call.shape[-2:]
    sides = []
    for sign, value, place in ((1.0, one, -2), (-1.0, two, -3)):
        node = value if is_node(value) else _held(call, value)
        wide = call.steps.move(node, lambda x, place=place: x.unsqueeze(place), f"{call.name}.side{place}")
        shape = (*call.shape[:-2], rows, columns, node.shape[-1])
        sides.append((sign, call.steps.expand(wide, shape, f"{call.name}.wide{place}")))
    return _norm(call, call.steps.add(sides, None, f"{call.name}.differences"), order)


def pairwise_distance(call: Call) -> Node:
    """``||x1 - x2 + eps||`` along the last axis."""
    one, two = _broadcast(call, call.args[:2])
    order, eps = float(call.argument(2, "p", 2.0)), float(call.argument(3, "eps", 1e-6))
    shift = call.steps.like.new_full(one.shape, call.number(eps))
    apart = call.steps.add([(1.0, one), (-1.0, two)], shift, f"{call.name}.differences")
    return _norm(call, apart, order, bool(call.argument(4, "keepdim", False)))


def _norm(call: Call, node: Node, order: float, keep: bool = False) -> Node:
    """Along the last axis."""
    if order not in (1.0, 2.0, math.inf):
        raise UnsupportedOpError(f"Only distances of order 1, 2 and infinity are understood, not {order}.")
    if order == 2.0:
        return call.steps.length(node, [-1], keep, call.name)
    sizes = activate(call, "aten.abs.default", node, name=f"{call.name}.abs")
    return (call.steps.sum if order == 1.0 else call.steps.maximum_over)(sizes, [-1], keep, call.name)


def deviation(call: Call) -> Value:
    """Variance or standard deviation along axes, with or without the mean beside it."""
    node, kind = call.args[0], call.op.split(".")[1]
    rank, dims = call.rank(node), call.argument(1, "dim")
    correction = call.kwargs.get("correction", 1)
    if call.op.endswith(".default"):
        dims, correction = None, int(call.argument(1, "unbiased", True))
    elif call.op.endswith(".dim"):
        correction = int(call.argument(2, "unbiased", True))
    keep = bool(call.argument(3, "keepdim", False))
    dims = [dims] if isinstance(dims, int) else dims
    axes = [call.axis(dim, rank) for dim in (dims or range(rank))]
    steps, name = call.steps, call.name
    count = math.prod(node.shape[axis] for axis in axes)
    divisor = count - (1 if correction is None else float(correction))
    if divisor <= 0:
        raise UnsupportedOpError(f"It divides by {divisor:g}, the number of entries less the correction.")
    mean = steps.mean(node, axes, True, f"{name}.mean")
    centred = steps.add([(1.0, node), (-1.0, steps.expand(mean, node.shape, f"{name}.means"))], None, f"{name}.centred")
    if kind.startswith("std"):
        length = steps.length(centred, axes, keep, f"{name}.length")
        root = Interval.exact(steps.like.new_full(length.shape, float(divisor))).sqrt().reciprocal()
        found = steps.scale(length, root, name)
    else:
        squares = activate(call, "aten.square.default", centred, name=f"{name}.squares")
        found = steps.divide(steps.sum(squares, axes, keep, f"{name}.sum"), float(divisor), name)
    return [found, steps.mean(node, axes, keep, f"{name}.beside")] if "mean" in kind else found


def cross(call: Call) -> Node:
    """The cross product along an axis of three entries."""
    one, two = _broadcast(call, call.args[:2])
    dim = call.argument(2, "dim")
    rank = len(one.shape) + call.front
    if dim is None and call.op == "aten.cross.default":
        full = call.full_shape
        dim = full.index(3) if 3 in full else 0
    place = (-1 if dim is None else dim) % rank
    call.axis(place, rank)
    parts = [
        call.steps.move(x, lambda t, shift=shift: t.roll(shift, place), f"{call.name}.{side}{-shift}")
        for side, x in (("left", one), ("right", two))
        for shift in (-1, -2)
    ]
    first = call.steps.product(parts[0], parts[3], f"{call.name}.first")
    second = call.steps.product(parts[1], parts[2], f"{call.name}.second")
    return call.steps.add([(1.0, first), (-1.0, second)], None, call.name)


def pair(call: Call) -> Node:
    """hypot and logaddexp: a function of two numbers that is one of a row of two."""
    one, two = _broadcast(call, call.args[:2])
    both = call.steps.stacked([one, two], lambda *parts: torch.stack(parts, -1), f"{call.name}.both")
    return (call.steps.length if "hypot" in call.op else call.steps.logsumexp)(both, [-1], False, call.name)


def angle(call: Call) -> Node:
    """``atan2(y, x) = 2 arctan(y / (sqrt(x^2 + y^2) + x))``, away from the half line where it jumps."""
    y, x = _broadcast(call, call.args[:2])
    both = call.steps.stacked([x, y], lambda *parts: torch.stack(parts, -1), f"{call.name}.both")
    length = call.steps.length(both, [-1], False, f"{call.name}.length")
    below = call.steps.add([(1.0, length), (1.0, x)], None, f"{call.name}.below")
    inverse = activate(call, "aten.reciprocal.default", below, name=f"{call.name}.inverse")
    half = activate(call, "aten.atan.default", call.steps.product(y, inverse, f"{call.name}.tangent"))
    return call.steps.add([(2.0, half)], None, call.name)


def product_over(call: Call) -> Node:
    """The product of all entries along an axis, in pairs of pairs."""
    node, steps = call.args[0], call.steps
    rank = call.rank(node)
    if call.op.endswith(".default"):
        if call.front:
            call.axis(0, rank)  # refuses the batch
        node, place = steps.reshape(node, (math.prod(node.shape),), f"{call.name}.flat"), 0
        keep = False
    else:
        place, keep = call.axis(call.args[1], rank), bool(call.argument(2, "keepdim", False))
    front = place + call.front
    node = steps.product_over(node, place, call.name)
    return node if keep else steps.move(node, lambda x: x.squeeze(front), call.name)


def running_product(call: Call) -> Node:
    """Products of all entries up to each along an axis."""
    node, steps = call.args[0], call.steps
    front = call.axis(call.args[1], call.rank(node)) + call.front
    parts = [
        steps.move(node, lambda x, k=k: x.narrow(front, k, 1), f"{call.name}.entry{k}")
        for k in range(node.shape[front - call.front])
    ]
    rows = parts[:1]
    for k, part in enumerate(parts[1:], 1):
        rows.append(steps.product(rows[-1], part, f"{call.name}.up{k}"))
    return steps.stacked(rows, lambda *found: torch.cat(found, front), call.name)


def logit(call: Call) -> Node:
    """``log x - log(1 - x)``, with x limited to [eps, 1 - eps]."""
    node, eps = call.args[0], call.argument(1, "eps")
    if eps is not None:
        node = activate(call, "aten.clamp.default", node, float(eps), 1 - float(eps), name=f"{call.name}.limited")
    rest = call.steps.complement(node, f"{call.name}.rest")
    above, below = (
        activate(call, "aten.log.default", x, name=f"{call.name}.{side}")
        for side, x in (("log", node), ("rest_log", rest))
    )
    return call.steps.add([(1.0, above), (-1.0, below)], None, call.name)


def hyperbolic(call: Call) -> Node:
    """cosh and sinh by exponentials."""
    up = activate(call, "aten.exp.default", call.args[0], name=f"{call.name}.rising")
    minus = call.steps.add([(-1.0, call.args[0])], None, f"{call.name}.minus")
    down = activate(call, "aten.exp.default", minus, name=f"{call.name}.falling")
    return call.steps.add([(0.5, up), (0.5 if "cosh" in call.op else -0.5, down)], None, call.name)


def _broadcast(call: Call, values: Sequence[Value]) -> list[Node]:
    """Two values as nodes of the shape to which both broadcast."""
    front = () if call.steps.batch is None else (call.steps.batch,)
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else (*front, *x.shape) for x in values]
    shape = call.point(tuple(torch.broadcast_shapes(*shapes)))
    nodes = [x if is_node(x) else _held(call, x) for x in values]
    return [call.steps.expand(node, shape, f"{call.name}.wide{k}") for k, node in enumerate(nodes)]


def _held(call: Call, value: Tensor) -> Node:
    """A constant as a node, so that no function of it rounds."""
    beside = next(x for x in call.args if is_node(x))
    given = call.weight(value)
    if call.front and given.dim() == call.rank(beside):
        if not torch.equal(given, given[:1].expand_as(given)):
            raise UnsupportedOpError("A constant is different for each point of the batch.")
        given = given[0]
    return call.steps.constant_node(given.contiguous(), beside, f"{call.name}.constant")
