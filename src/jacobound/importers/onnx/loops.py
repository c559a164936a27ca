"""ONNX's Loop and Scan with a number of steps that the file tells: their bodies once for every step.

What goes on for as long as values of the network say so is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Final

import numpy as np
import torch
from onnx import GraphProto, NodeProto
from torch import Tensor

from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.importers.lowering.recurrent import MOST_STEPS
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.onnx.model.evaluate import describe
from jacobound.importers.onnx.operations.call import Traced, Value, point_shape

Body = Callable[[GraphProto, Mapping[str, Value]], tuple[Value, ...]]
"""Runs an inner graph with values for its inputs."""

OLDEST_SCAN: Final = 9
"""The first opset in which Scan knows nothing of batches."""


def loop(
    node: NodeProto, inputs: Sequence[Value | None], body: GraphProto, run: Body, steps: AffineSteps
) -> list[Value]:
    """The last values that are carried along, and what all steps give, put one behind the other.

    Raises:
        UnsupportedOpError: when the number of steps depends on the network's input, or there are too many.
        InvalidModelError: when the body does not fit.
    """
    most, going = inputs[0], inputs[1] if len(inputs) > 1 else None
    if isinstance(most, Traced) or isinstance(going, Traced):
        raise UnsupportedOpError("How often its body is run depends on the network's input.")
    limit = MOST_STEPS + 1 if most is None else int(np.ravel(most)[0])
    goes_on = going is None or bool(np.ravel(going)[0])
    carried: list[Value] = [_given(node, value) for value in inputs[2:]]
    count = len(body.output) - 1 - len(carried)
    if count < 0 or len(body.input) != 2 + len(carried):
        raise InvalidModelError(f"{describe(node)}: its body does not fit its inputs; export it again")
    rows: list[list[Value]] = [[] for _ in range(count)]
    done = 0
    while done < limit and goes_on:
        if done == MOST_STEPS:
            raise UnsupportedOpError(f"It takes over {MOST_STEPS} steps.")
        given = [np.array(done, dtype=np.int64), np.array(True), *carried]
        found = run(body, dict(zip((entry.name for entry in body.input), given, strict=True)))
        condition, carried = found[0], list(found[1 : 1 + len(carried)])
        if isinstance(condition, Traced):
            raise UnsupportedOpError("Whether it goes on depends on the network's input.")
        goes_on = bool(np.ravel(condition)[0])
        for row, value in zip(rows, found[1 + len(carried) :], strict=True):
            row.append(value)
        done += 1
    names = list(node.output[len(carried) :])
    return [*carried, *(_stacked(row, 0, steps, name) for row, name in zip(rows, names, strict=False))]


def scan(
    node: NodeProto,
    inputs: Sequence[Value | None],
    given: Mapping[str, object],
    version: int,
    body: GraphProto,
    run: Body,
    steps: AffineSteps,
) -> list[Value]:
    """The last states, and what all steps give, each along its axis.

    Raises:
        UnsupportedOpError: for opset 8, or too many steps.
        InvalidModelError: when the body or the axes do not fit.
    """
    if version < OLDEST_SCAN:
        raise UnsupportedOpError("Scan of opset 8 works on batches of its own; export it for opset 9 or later.")
    count = int(given.get("num_scan_inputs", 0))  # type: ignore[call-overload]
    values: list[Value] = [_given(node, value) for value in inputs]
    states, sequences = values[: len(values) - count], values[len(values) - count :]
    kept = len(body.output) - len(states)
    axes = _numbers(node, given, "scan_input_axes", count)
    backwards = _numbers(node, given, "scan_input_directions", count)
    out_axes = _numbers(node, given, "scan_output_axes", kept)
    out_backwards = _numbers(node, given, "scan_output_directions", kept)
    lengths = {
        value.shape[axis]
        for value, axis in zip(sequences, axes, strict=True)
        if -len(value.shape) <= axis < len(value.shape)
    }
    if count < 1 or kept < 0 or len(lengths) != 1 or len(body.input) != len(values):
        raise InvalidModelError(f"{describe(node)}: its body or its axes do not fit its inputs; export it again")
    length = lengths.pop()
    if not 0 < length <= MOST_STEPS:
        raise UnsupportedOpError(f"It takes {length} steps; 1 to {MOST_STEPS} can be unrolled.")
    rows: list[list[Value]] = [[] for _ in range(kept)]
    for k in range(length):
        parts = [
            _part(value, axis, length - 1 - k if back else k, steps, f"{node.output[0]}.step{k}")
            for value, axis, back in zip(sequences, axes, backwards, strict=True)
        ]
        found = run(body, dict(zip((entry.name for entry in body.input), [*states, *parts], strict=True)))
        states = list(found[: len(states)])
        for row, value in zip(rows, found[len(states) :], strict=True):
            row.append(value)
    results = [
        _stacked(row[::-1] if back else row, axis, steps, name)
        for row, axis, back, name in zip(rows, out_axes, out_backwards, node.output[len(states) :], strict=False)
    ]
    return [*states, *results]


def _given(node: NodeProto, value: Value | None) -> Value:
    if value is None:
        raise InvalidModelError(f"{describe(node)}: one of its inputs is left out; export it again")
    return value


def _numbers(node: NodeProto, given: Mapping[str, object], name: str, count: int) -> list[int]:
    """A list attribute; zeros when it is left out."""
    found = [int(entry) for entry in given.get(name) or [0] * count]  # type: ignore[attr-defined]
    if len(found) != count:
        raise InvalidModelError(f"{describe(node)}: {name} has {len(found)} entries where there are {count}")
    return found


def _part(value: Value, axis: int, k: int, steps: AffineSteps, name: str) -> Value:
    """One entry along an axis."""
    if not isinstance(value, Traced):
        return np.take(value, k, axis)
    shape = tuple(n for place, n in enumerate(value.shape) if place != axis % len(value.shape))
    node = steps.move(value.node, lambda x: x.reshape(value.shape).select(axis, k).reshape(point_shape(shape)), name)
    return Traced(node, shape, value.dtype)


def _stacked(row: Sequence[Value], axis: int, steps: AffineSteps, name: str) -> Value:
    """Values of one shape side by side along a new axis."""
    if not row:
        raise UnsupportedOpError("It takes no step, so that its results have no entries.")
    if len({tuple(value.shape) for value in row}) > 1:
        raise UnsupportedOpError("Its steps give results of different shapes.")
    inner = tuple(row[0].shape)
    traced = next((value for value in row if isinstance(value, Traced)), None)
    if traced is None:
        return np.stack([value for value in row if not isinstance(value, Traced)], axis)
    sources = [value.node if isinstance(value, Traced) else torch.tensor(value).double() for value in row]

    def stack(*codes: Tensor) -> Tensor:
        whole = torch.stack([code.reshape(inner) for code in codes], axis)
        return whole.reshape(point_shape(tuple(whole.shape)))

    place = axis % (len(inner) + 1)
    shape = (*inner[:place], len(row), *inner[place:])
    node = steps.rearrange(sources, stack, name)
    if isinstance(node, Tensor) or prod(node.shape) != prod(shape):
        raise UnsupportedOpError(f"Its result '{name}' has no entries.")
    return Traced(node, shape, traced.dtype)
