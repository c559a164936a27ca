"""Padding and resizing in traced modules by copies of entries: reflection, nearest neighbours, unfolding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.importers.torch.operations.call import Call, Value
from jacobound.importers.torch.operations.movement import with_batch


def pad(call: Call) -> Value:
    """Padding by a number, a reflection, a copy of the border, or the other end."""
    amounts = call.args[1]
    constant = call.op == "aten.constant_pad_nd.default"
    mode = "constant" if constant else call.argument(2, "mode", "constant")
    if mode != "constant":
        return _by_positions(call, lambda x: torch.nn.functional.pad(x, amounts, mode))
    value = call.argument(2 if constant else 3, "value", 0) or 0
    filler = torch.tensor([float(value)], dtype=call.result.dtype, device=call.result.device)
    return with_batch(
        call,
        call.steps.rearrange(
            [call.args[0], filler],
            lambda x, code: torch.nn.functional.pad(x, amounts, value=int(code) if value else 0),
            call.name,
        ),
    )


def copy_entries(call: Call) -> Value:
    """Nearest-neighbour resizing, reflection and replication, unfolding: the operation only copies entries."""
    return _by_positions(call, lambda x: call.target(x, *call.args[1:], **call.kwargs))


def _by_positions(call: Call, function: Callable[[Tensor], Tensor]) -> Value:
    """Positions from a kernel that knows no integers, computed in float64, where they are exact."""
    return with_batch(call, call.steps.rearrange([call.args[0]], lambda x: function(x.double()).long(), call.name))
