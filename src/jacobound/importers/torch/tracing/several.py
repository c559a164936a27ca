"""A module of several tensors as a module of one: the inputs of a point side by side, each as one row of numbers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from jacobound.errors import ShapeError
from jacobound.importers.torch.tracing.function import FunctionModule

INNER = "inner"
"""Under which name the module itself is a part of the other one."""


class SeveralInputs(nn.Module):
    """Takes rows (points, total), or one row (total,), apart into the inputs of a module.

    Args:
        inner: the module.
        shapes: of its inputs, without batch axis.
        keys: names of the arguments that they are passed as; None to pass them by position.
    """

    def __init__(self, inner: nn.Module, shapes: tuple[tuple[int, ...], ...], keys: tuple[str, ...] | None) -> None:
        super().__init__()
        self.inner, self.shapes, self.keys = inner, shapes, keys
        self.training = inner.training

    def forward(self, x: Tensor) -> Any:
        rows = x.split([prod(shape) for shape in self.shapes], -1)
        parts = [row.reshape(*row.shape[:-1], *shape) for row, shape in zip(rows, self.shapes, strict=True)]
        return self.inner(*parts) if self.keys is None else self.inner(**dict(zip(self.keys, parts, strict=True)))


def is_several(example: object) -> bool:
    """Whether an example is a tuple or a dictionary of tensors."""
    values = list(example.values()) if isinstance(example, Mapping) else example
    return (
        isinstance(values, list | tuple)
        and isinstance(example, tuple | Mapping)
        and any(isinstance(value, Tensor) or hasattr(value, "__array__") for value in values)
    )


def side_by_side(
    module: nn.Module, parts: list[Tensor], keys: tuple[str, ...] | None, batched: bool
) -> tuple[SeveralInputs, Tensor, str]:
    """The module of one input, its example, and the name of that input: those of the arguments in their order.

    Raises:
        ShapeError: when the inputs have batches of different lengths.
    """
    shapes = tuple(tuple(part.shape[1:] if batched else part.shape) for part in parts)
    if batched and len({len(part) for part in parts}) > 1:
        lengths = ", ".join(str(len(part)) for part in parts)
        raise ShapeError(f"the inputs of the example are batches of {lengths} points; give as many points for each")
    flat = [part.flatten(1) if batched else part.flatten() for part in parts]
    names = keys or _parameters(module, len(parts))
    made = type(type(module).__name__, (SeveralInputs,), {})(module, shapes, keys)
    return made, torch.cat(flat, -1), "|".join(names)


def inner_name(module: nn.Module, until: str | None) -> str | None:
    """`until` as the name of a submodule of the module of one input."""
    if until is None or not isinstance(module, SeveralInputs):
        return until
    path = until.rpartition("#")[0] or until
    return f"{INNER}.{until}" if path in dict(module.inner.named_modules()) else until


def _parameters(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of the first arguments."""
    called = module.function if isinstance(module, FunctionModule) else module.forward
    try:
        found = [
            one.name for one in inspect.signature(called).parameters.values() if one.kind <= one.POSITIONAL_OR_KEYWORD
        ]
    except (TypeError, ValueError):
        found = []
    return tuple(found[:count]) if len(found) >= count else tuple(f"input{k}" for k in range(count))
