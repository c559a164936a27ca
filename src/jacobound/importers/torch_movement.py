"""Data movement in traced modules: the operation itself is run on tensors of positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph import Node
from jacobound.importers.torch_call import Call, Value, is_node, leaves, map_values


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
        found = [leaf for leaf in leaves(argument) if is_node(leaf) or isinstance(leaf, Tensor)]
        if position not in indices:
            sources.extend(found)
        elif any(is_node(leaf) for leaf in found):
            raise UnsupportedOpError("Which entries it takes depends on the input.")

    def run(*codes: Tensor) -> Any:
        remaining = iter(codes)

        def replace(leaf: Value) -> Value:
            return next(remaining) if is_node(leaf) or isinstance(leaf, Tensor) else leaf

        args = [
            argument if position in indices else map_values(argument, replace)
            for position, argument in enumerate(call.args)
        ]
        return call.target(*args, **call.kwargs)

    if not isinstance(call.result, (list, tuple)):
        return _with_batch(call, call.steps.rearrange(sources, run, call.name))
    return [
        _with_batch(call, call.steps.rearrange(sources, lambda *codes, k=k: run(*codes)[k], f"{call.name}.{k}"))
        for k in range(len(call.result))
    ]


def move(call: Call) -> Value:
    """All arguments are data."""
    return movement(call, frozenset())


def take(call: Call) -> Value:
    """index_select and gather: the third argument says which entries."""
    return movement(call, frozenset({2}))


def index(call: Call) -> Value:
    return movement(call, frozenset({1}))


def put(call: Call) -> Value:
    """index_put: entries at constant places are replaced."""
    if call.argument(3, "accumulate", False):
        raise UnsupportedOpError("It adds into entries, perhaps several times into one.")
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
    return _with_batch(call, call.steps.rearrange(sources, lambda a, b: torch.where(mask, a, b), call.name))


def pad(call: Call) -> Value:
    """Padding by a number, a reflection, a copy of the border, or the other end."""
    amounts = call.args[1]
    constant = call.op == "aten.constant_pad_nd.default"
    mode = "constant" if constant else call.argument(2, "mode", "constant")
    if mode != "constant":
        # Some of these kernels know no integers; positions are exact in float64.
        return _with_batch(
            call,
            call.steps.rearrange(
                [call.args[0]], lambda x: torch.nn.functional.pad(x.double(), amounts, mode).long(), call.name
            ),
        )
    value = call.argument(2 if constant else 3, "value", 0) or 0
    filler = torch.tensor([float(value)], dtype=call.result.dtype, device=call.result.device)
    return _with_batch(
        call,
        call.steps.rearrange(
            [call.args[0], filler],
            lambda x, code: torch.nn.functional.pad(x, amounts, value=int(code) if value else 0),
            call.name,
        ),
    )


def resize(call: Call) -> Value:
    """Nearest-neighbour resizing copies entries; its kernels know no integers."""
    return _with_batch(
        call,
        call.steps.rearrange(
            [call.args[0]], lambda x: call.target(x.double(), *call.args[1:], **call.kwargs).long(), call.name
        ),
    )


def _with_batch(call: Call, value: Node | Tensor) -> Node | Tensor:
    """A constant that a movement left is given back the way the model holds it."""
    if not isinstance(value, Tensor) or not call.front:
        return value
    return value.expand(call.steps.batch or 1, *value.shape)
