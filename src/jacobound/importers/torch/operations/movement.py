"""Data movement in traced modules: the operation itself is run on tensors of positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.steps import MIXED
from jacobound.importers.torch.operations.call import Call, Turned, Value, is_node, leaves, map_values
from jacobound.importers.torch.operations.scatter import add_into


def like(call: Call) -> Tensor:
    """zeros_like, new_full and their kin look at the shape of a node only."""
    blank = torch.zeros((), dtype=call.result.dtype, device=call.result.device)
    front = () if call.steps.batch is None else (call.steps.batch,)

    def stand_in(value: Value) -> Value:
        return blank.expand((*front, *value.shape)) if is_node(value) else value

    return call.target(*map_values(list(call.args), stand_in), **call.kwargs)


def movement(call: Call, indices: frozenset[int]) -> Value:
    """Any data movement; the tensors at the positions `indices` say where to look and are no data."""
    sources: list[Value] = []
    for position, argument in enumerate(call.args):
        found = [leaf for leaf in leaves(argument) if is_node(leaf) or isinstance(leaf, Tensor | Turned)]
        if position not in indices:
            sources.extend(part for leaf in found for part in (leaf.sources if isinstance(leaf, Turned) else (leaf,)))
        elif any(is_node(leaf) for leaf in found):
            raise UnsupportedOpError("Which entries it takes depends on the input.")

    # Tensors of positions lie in memory as they come, which view does not take.
    views = call.op in ("aten.view.default", "aten._unsafe_view.default")
    target = torch.ops.aten.reshape.default if views else call.target

    def run(*codes: Tensor) -> Any:
        remaining = iter(codes)

        def replace(leaf: Value) -> Value:
            if isinstance(leaf, Turned):
                return leaf.run(*[next(remaining) for _ in leaf.sources])
            return next(remaining) if is_node(leaf) or isinstance(leaf, Tensor) else leaf

        args = [
            argument if position in indices else map_values(argument, replace)
            for position, argument in enumerate(call.args)
        ]
        return target(*args, **call.kwargs)

    if not isinstance(call.result, (list, tuple)):
        return _rearranged(call, sources, run, call.name, call.result)
    return [
        _rearranged(call, sources, lambda *codes, k=k: run(*codes)[k], f"{call.name}.{k}", call.result[k])
        for k in range(len(call.result))
    ]


def _rearranged(call: Call, sources: list[Value], run: Callable[..., Any], name: str, result: Tensor) -> Value:
    """The moved value; one that waits for its points to come back to the front where they are moved elsewhere."""
    try:
        return with_batch(call, call.steps.rearrange(sources, run, name))
    except UnsupportedOpError as error:
        if str(error) != MIXED:
            raise
        return Turned(tuple(sources), run, error, tuple(result.shape))


def move(call: Call) -> Value:
    """All arguments are data."""
    return movement(call, frozenset())


def take(call: Call) -> Value:
    """index_select, gather, scatter and index_copy: the third argument says which entries."""
    return movement(call, frozenset({2}))


def index(call: Call) -> Value:
    """index, take_along_dim, take: the second argument says which entries."""
    return movement(call, frozenset({1}))


def put_number(call: Call) -> Value:
    """scatter and index_fill of a number: the same as of a tensor that holds it everywhere."""
    start, dim, places, value = call.args[:4]
    if is_node(places):
        raise UnsupportedOpError("Which entries it changes depends on the input.")
    filler = torch.full((1,), value, dtype=call.result.dtype, device=call.result.device)

    def run(x: Tensor, code: Tensor) -> Tensor:
        if "index_fill" in call.op:
            return x.index_fill(dim, places, int(code))
        return x.scatter(dim, places, code.expand(places.shape))

    return with_batch(call, call.steps.rearrange([start, filler], run, call.name))


def put(call: Call) -> Value:
    """index_put: entries at constant places are replaced."""
    if call.argument(3, "accumulate", False):
        return add_into(call)
    return movement(call, frozenset({1}))


def where(call: Call) -> Value:
    """A choice by a constant mask; masked_fill is the same with its arguments in another order."""
    mask, chosen, other = call.args[:3]
    if "masked_fill" in call.op:
        mask, chosen, other = chosen, other, mask
    if is_node(mask):
        raise UnsupportedOpError("Which entries it takes depends on the input.")
    sources = [
        value
        if is_node(value) or isinstance(value, Tensor)
        else torch.tensor(value, dtype=call.result.dtype, device=call.result.device)
        for value in (chosen, other)
    ]
    return with_batch(call, call.steps.rearrange(sources, lambda a, b: torch.where(mask, a, b), call.name))


def with_batch(call: Call, value: Node | Tensor) -> Node | Tensor:
    """A constant that a movement left is given back the way the model holds it."""
    if not isinstance(value, Tensor) or not call.front:
        return value
    return value.expand(call.steps.batch or 1, *value.shape)
