"""Operations that add entries into places that constants name: fold, scatter_add, index_add, index_put.

Each source entry goes to one place. The places are found by running the opposite operation, which reads, on a tensor
of positions; entries that meet in one place become terms of one sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Affine, Node
from jacobound.importers.lowering.steps import MIXED
from jacobound.importers.torch.operations.call import Call, Value, is_node
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Select


def fold(call: Call) -> Node:
    """col2im: overlapping windows are added up."""
    kernel, dilation, padding, stride = call.args[2:6]
    # The kernels of the opposite operation know no integers; positions are exact in float64.
    places = torch.ops.aten.im2col.default(_codes(call).double(), kernel, dilation, padding, stride).long()
    return _added(call, None, call.args[0], places)


def scatter_add(call: Call) -> Node:
    start, dim, index, source = call.args[:4]
    corner = tuple(slice(0, length) for length in _constant(index).shape)  # it reads that much of its source
    part = call.steps.move(source, lambda x: x[corner], f"{call.name}.part") if is_node(source) else source[corner]
    return _added(call, start, part, _codes(call).gather(dim, index))


def scatter_reduce(call: Call) -> Node:
    """Sums, largest and smallest entries of those that go to one place."""
    start, dim, index, source, kind = call.args[:5]
    include = bool(call.argument(5, "include_self", True))
    if kind == "sum" and include:
        return scatter_add(call.retarget("aten.scatter_add.default", start, dim, index, source))
    if kind in ("sum", "mean"):
        return _of_own(call, include, kind == "mean")
    if kind not in ("amax", "amin"):
        raise UnsupportedOpError("Only 'sum', 'mean', 'amax' and 'amin' are understood.")
    corner = tuple(slice(0, length) for length in _constant(index).shape)
    beside = source if is_node(source) else start
    steps, front = call.steps, call.front

    def held(value: Value, name: str) -> Node:
        if is_node(value):
            return value
        return steps.constant_node(steps.constant(call.weight(value), call.point(tuple(value.shape))), beside, name)

    base, part = held(start, f"{call.name}.start"), held(source, f"{call.name}.source")
    part = steps.move(part, lambda x: x[corner], f"{call.name}.part")
    places = _of_one_point(_codes(call).gather(dim, index) - 1, torch.Size(call.shape).numel(), call)
    count = torch.Size(call.shape).numel()
    both = steps.stacked(
        [base, part], lambda *xs: torch.cat([x.flatten(front) for x in xs], front), f"{call.name}.both"
    )
    own = torch.arange(count, device=places.device).reshape(call.shape)
    layers = [torch.where(x >= 0, x + count, -1) for x in _layers(places, call.shape)]
    if not include and layers:  # what something goes to is that alone
        own = torch.where(layers[0] >= 0, -1, own)
    windows = torch.stack([own, *layers])
    return steps.largest_of(both, windows, kind == "amin", call.name)


def _of_own(call: Call, include: bool, mean: bool) -> Node:
    """Sums, or means, of what goes to a place, with or without what was there."""
    start, dim, index, source = call.args[:4]
    steps, shape = call.steps, call.shape
    places = _of_one_point(_codes(call).gather(dim, _constant(index)) - 1, torch.Size(shape).numel(), call)
    layers = _layers(places, shape)
    met = sum(((layer >= 0).double() for layer in layers), torch.zeros(shape, dtype=torch.float64))
    if not include:
        kept = (met == 0).double()
        if is_node(start):
            start = steps.scale(start, kept, f"{call.name}.kept")
        else:
            start = call.weight(start) * (kept if not call.front else kept.unsqueeze(0))
    found = scatter_add(call.retarget("aten.scatter_add.default", start, dim, index, source))
    return steps.divide(found, (met + include).clamp(min=1.0), call.name) if mean else found


def index_add(call: Call) -> Node:
    start, dim, index, source = call.args[:4]
    alpha = call.kwargs.get("alpha", 1)
    if alpha != 1 and is_node(source):
        factor = call.steps.like.new_full(source.shape, call.number(alpha))
        source = call.steps.scale(source, factor, f"{call.name}.scaled")
    elif alpha != 1:
        source = source * alpha
    return _added(call, start, source, _codes(call).index_select(dim, _constant(index)))


def add_into(call: Call) -> Node:
    """index_put with accumulation."""
    start, indices, values = call.args[:3]
    for index in indices:
        _constant(index)
    places = torch.ops.aten.index.Tensor(_codes(call), indices)
    full = tuple(places.shape)
    if is_node(values):
        values = call.steps.move(values, lambda x: x.broadcast_to(full), f"{call.name}.values")
    return _added(call, start, values, places)


def _constant(index: Value) -> Value:
    if is_node(index):
        raise UnsupportedOpError("Where it adds depends on the input.")
    return index


def _codes(call: Call) -> Tensor:
    """1, 2, ... in the shape of the result, as the model holds it; 0 stands for nowhere."""
    shape = torch.Size(call.full_shape)
    return 1 + torch.arange(shape.numel(), device=call.steps.like.device).reshape(shape)


def _added(call: Call, start: Value, source: Value, codes: Tensor) -> Node:
    """`start` (None: zeros) with each entry of `source` added at its place, given by codes."""
    places = _of_one_point(codes - 1, torch.Size(call.shape).numel(), call)
    layers = _layers(places, call.shape)
    if not layers:
        raise UnsupportedOpError("Nothing is added.")
    if not is_node(source):
        return call.steps.add([(1.0, start)], _constants(call, source, places, layers), call.name)
    like = call.steps.like
    terms: list[tuple[LinearOperator, Node]] = [(Select(index, source.shape, like), source) for index in layers]
    if is_node(start):
        moved: Node = Affine(tuple(terms), None, f"{call.name}.moved")
        return call.steps.add([(1.0, start), (1.0, moved)], None, call.name)
    return Affine(tuple(terms), None if start is None else call.operand(start), call.name)


def _constants(call: Call, source: Value, places: Tensor, layers: list[Tensor]) -> Tensor:
    """Constants that are added, in the shape of the result."""
    if len(layers) > 1:
        raise UnsupportedOpError("It adds several constants into one entry; add them up beforehand.")
    values = call.steps.constant(call.weight(source), tuple(places.shape)).flatten()
    return torch.where(layers[0] >= 0, values[layers[0].clamp(min=0)], 0.0)


def _of_one_point(places: Tensor, total: int, call: Call) -> Tensor:
    """The places of point 0, after checking that the points of a batch do not meet."""
    if not call.front:
        return places
    offsets = total * torch.arange(len(places), device=places.device).reshape(-1, *(1 for _ in places.shape[1:]))
    expected = torch.where(places[:1] >= 0, places[:1] + offsets, -1)
    if len(places) != call.steps.batch or bool((places[0] >= total).any()) or not torch.equal(places, expected):
        raise UnsupportedOpError(MIXED)
    return places[0]


def _layers(places: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """Index tensors of the result's shape: the k-th holds for each entry the k-th source that is added there."""
    flat = places.flatten()
    sources = torch.nonzero(flat >= 0).flatten()
    sources = sources[torch.argsort(flat[sources], stable=True)]
    goals = flat[sources]
    first = torch.searchsorted(goals, goals)
    turn = torch.arange(len(goals), device=goals.device) - first  # how many sources of the same place came before
    found = []
    for k in range(int(turn.max()) + 1 if len(turn) else 0):
        index = torch.full((torch.Size(shape).numel(),), -1, dtype=torch.long, device=flat.device)
        index[goals[turn == k]] = sources[turn == k]
        found.append(index.reshape(shape))
    return found
