"""Comparisons of ONNX models: values that have another form on each stretch of one value, until they are continuous."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.piecewise import JUMPS, Pieces, divided, sides, together
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.onnx.operations.call import Call, Traced, Value, point_shape

COMPARISONS: dict[str, Callable[[float], bool]] = {
    "Greater": lambda side: side > 0,
    "GreaterOrEqual": lambda side: side > 0,
    "Less": lambda side: side < 0,
    "LessOrEqual": lambda side: side < 0,
}


@dataclass(frozen=True, eq=False)
class Stretches:
    """A tensor of another form on each stretch of a node.

    Args:
        base: the node.
        breaks: points between the stretches, floats, ascending.
        values: one more.
        shape, dtype: of the ONNX tensor.
        name: of the comparison's result, for messages.
    """

    base: Node
    breaks: tuple[float, ...]
    values: tuple[Value, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    name: str

    def on(self, low: float) -> Value:
        """The form on the stretch that begins at a point."""
        return self.values[sum(one <= low for one in self.breaks)]

    @property
    def refusal(self) -> UnsupportedOpError:
        return UnsupportedOpError(f"{JUMPS} (The comparison gives '{self.name}'.)")


def compare(call: Call) -> tuple[Value, ...]:
    """A comparison of a value with a constant or with another value, or the sign of a value."""
    kind, shape = call.proto.op_type, call.shape
    if kind == "Sign":
        node: Node = call.traced().node
    else:
        signs = zip((1.0, -1.0), range(2), strict=True)
        terms, bias = [], None
        for sign, position in signs:
            value = call.get(position)
            if isinstance(value, Traced):
                terms.append((sign, call.widened(value)))
            else:
                bias = sign * call.spread(call.needed(position), shape)
        node = call.steps.add(terms, bias, f"{call.name}.difference")

    def on_side(side: float) -> Tensor:
        return torch.tensor(side if kind == "Sign" else COMPARISONS[kind](side))

    dtype = np.dtype(call.dtype if kind == "Sign" else bool)
    found = sides(node, on_side)
    values = tuple(np.full(shape, one.item(), dtype) for one in found.values)
    return (Stretches(found.base, found.breaks, values, shape, dtype, call.name),)  # type: ignore[return-value]


def on_stretches(
    inputs: Sequence[Value | Stretches | None],
    run: Callable[[tuple[Value | None, ...]], tuple[Value, ...]],
    steps: AffineSteps,
    name: str,
) -> tuple[Value, ...]:
    """The results of an operation on every stretch: nodes where they are continuous, else values on stretches.

    Args:
        run: the operation on inputs without stretches.
    """
    found = [value for value in inputs if isinstance(value, Stretches)]
    base, breaks = divided([(one.base, one.breaks) for one in found])
    runs = [
        run(tuple(value.on(start) if isinstance(value, Stretches) else value for value in inputs))
        for start in (-math.inf, *breaks)
    ]
    results: list[Value] = []
    for values in zip(*runs, strict=True):
        one = next((value for value in values if isinstance(value, Traced)), None)
        first = values[0]
        if any(isinstance(value, Stretches) for value in values):
            raise found[0].refusal
        if one is not None:
            made = together(Pieces(base, breaks, tuple(map(_plain, values))), steps, name)
            if made is not None:
                results.append(Traced(steps.reshape(made, point_shape(one.shape), name), one.shape, one.dtype))
                continue
        whole = Stretches(base, breaks, values, tuple(first.shape), first.dtype, found[0].name)
        results.append(whole)  # type: ignore[arg-type]
    return tuple(results)


def _plain(value: Value) -> Node | Tensor:
    return value.node if isinstance(value, Traced) else torch.tensor(value)
