"""Comparisons of torch: which side of a point a value lies on, until what is made from that is continuous."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from jacobound.importers.lowering.piecewise import Pieces, sides
from jacobound.importers.torch.operations.call import Call, is_node

COMPARISONS: Final[Mapping[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("gt", "ge", "greater", "greater_equal"), lambda side: side > 0),
    **dict.fromkeys(("lt", "le", "less", "less_equal"), lambda side: side < 0),
}


def compare(call: Call) -> Pieces:
    """A comparison of a node with a number, or the sign of a node."""
    kind = call.op.split(".")[1]
    if kind in ("sign", "sgn"):
        return sides(call.args[0], lambda side: torch.tensor(float(side), dtype=call.result.dtype))
    left, right = call.args[:2]
    terms = [(sign, call.node(x)) for sign, x in ((1.0, left), (-1.0, right)) if is_node(x)]
    bias = None
    for sign, x in ((1.0, left), (-1.0, right)):
        if not is_node(x):
            given = torch.as_tensor(x, dtype=None if isinstance(x, Tensor) else torch.float64)
            bias = sign * call.steps.constant(given.double(), call.shape)
    apart = call.steps.add(terms, bias, f"{call.name}.difference")
    return sides(apart, lambda side: torch.tensor(COMPARISONS[kind](side)))
