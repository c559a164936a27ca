"""Recurrent layers in traced modules: `nn.RNN`, `nn.LSTM`, `nn.GRU` of any depth and direction, and their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.recurrent import Cell, GruCell, LstmCell, Response, RnnCell, State
from jacobound.importers.lowering.steps import MIXED
from jacobound.importers.torch.operations.call import TRAINING, Call, Turned, Value, is_node

PACKED: Final = (
    "Its sequences are packed (pack_padded_sequence), with lengths of their own for each point. Give the layer the "
    "padded tensor itself, all of one length."
)


@dataclass(frozen=True, eq=False)
class _Weights:
    """Of one layer in one direction, float64."""

    inputs: Tensor
    recurrent: Tensor
    input_bias: Tensor | None
    recurrent_bias: Tensor | None
    projection: Tensor | None


def layers(call: Call) -> Value:
    """A recurrent layer over a whole sequence: its outputs and its last states."""
    kind = call.op.split(".")[1]
    if not isinstance(call.args[2], list):
        raise UnsupportedOpError(PACKED)
    data, given, flat, biased, depth, dropout, train, both, batch_first = call.args
    if train and dropout and depth > 1:
        raise InvalidModelError(f"'{call.name}' draws random numbers to drop entries: {TRAINING}")
    sequence = _sequence(call, data, batch_first)
    directions = 2 if both else 1
    states = given if isinstance(given, list) else [given]
    weights = _weights(call, kind, flat, biased, depth * directions)
    lasts: list[tuple[Node, ...]] = []
    count, front = sequence.shape[0], call.front
    for layer in range(depth):
        rows: list[list[Node]] = []
        for direction in range(directions):
            k = layer * directions + direction
            name = f"{call.name}.layer{layer}{'.reverse' if direction else ''}"
            order = list(range(count))[:: -1 if direction else 1]
            start = [_state(call, state, k, sequence.shape[1:-1]) for state in states]
            cell = _cell(kind, weights[k])
            outputs, last = call.steps.unrolled(
                sequence, weights[k].inputs, weights[k].input_bias, cell, start, order, name
            )
            rows.append(outputs[:: -1 if direction else 1])
            lasts.append(last)

        def side_by_side(*parts: Tensor) -> Tensor:
            found = [torch.stack(parts[d * count : (d + 1) * count], front) for d in range(directions)]
            return torch.cat(found, -1)

        name = call.name if layer == depth - 1 else f"{call.name}.layer{layer}"
        sequence = call.steps.stacked([node for row in rows for node in row], side_by_side, name)
    results: list[Value] = [_as_given(call, 0, [sequence], lambda x: _turned(x, call, batch_first))]
    for place in range(len(states)):
        results.append(_as_given(call, 1 + place, [last[place] for last in lasts], lambda *xs: torch.stack(xs, 0)))
    return results


def cell(call: Call) -> Value:
    """One step of a recurrent layer."""
    kind = call.op.split(".")[1].removesuffix("_cell")
    data, given = call.args[:2]
    matrices = [call.weight(call.args[k], "weight") for k in (2, 3)]
    biases = [call.optional(call.argument(4 + k, name), "bias") for k, name in enumerate(("b_ih", "b_hh"))]
    if isinstance(data, Turned):
        raise data.error
    if not is_node(data):
        raise UnsupportedOpError("Its input is a constant, and only its state depends on the network's input.")
    states = [_one_state(call, state) for state in (given if isinstance(given, list) else [given])]
    weights = _ordered(kind, matrices, biases, None)
    inputs = call.steps.dense(data, weights.inputs, weights.input_bias, f"{call.name}.inputs")
    found = _cell(kind, weights).step(call.steps, inputs, states, call.name)
    return list(found) if kind == "lstm" else found[0]


def _sequence(call: Call, data: Value, batch_first: bool) -> Node:
    """The input as a node (steps, *lead, features)."""
    if isinstance(data, Turned):
        if batch_first:
            raise data.error
        found = call.steps.rearrange(data.sources, lambda *xs: data.run(*xs).transpose(0, 1), f"{call.name}.sequence")
        assert not isinstance(found, Tensor)
        return found
    if not is_node(data):
        raise UnsupportedOpError("Its input is a constant, and only its state depends on the network's input.")
    if call.front and not batch_first:
        raise UnsupportedOpError(
            f"{MIXED} Its first axis is that of the steps: build it with batch_first=True, or swap the first two axes "
            "in front of it."
        )
    if call.front:
        return data
    return call.steps.move(data, lambda x: x.transpose(0, 1), f"{call.name}.sequence") if batch_first else data


def _turned(x: Tensor, call: Call, batch_first: bool) -> Tensor:
    """A sequence (points, steps, features), or (steps, lead, features) without points, as the layer gives it."""
    return x if batch_first == bool(call.front) else x.transpose(0, 1)


def _as_given(call: Call, which: int, nodes: Sequence[Node], run: Callable[..., Tensor]) -> Value:
    """A result whose points stand where the layer puts them."""
    try:
        return call.steps.stacked(nodes, run, call.name)
    except UnsupportedOpError as error:
        if str(error) != MIXED:
            raise
        return Turned(tuple(nodes), run, error, tuple(call.result[which].shape))


def _state(call: Call, given: Value, place: int, lead: tuple[int, ...]) -> State:
    """The initial state of one layer and direction out of (layers * directions, points, length)."""
    if isinstance(given, Tensor):
        return _constant(call, given[place], (*lead, given.shape[-1]))
    if isinstance(given, Turned):
        sources, run = given.sources, given.run
    else:
        sources, run = (given,), lambda x: x
    found = call.steps.rearrange(sources, lambda *xs: run(*xs)[place], f"{call.name}.state{place}")
    return _constant(call, found, tuple(found.shape)) if isinstance(found, Tensor) else found


def _one_state(call: Call, given: Value) -> State:
    if isinstance(given, Turned):
        raise given.error
    return given if is_node(given) else _constant(call, given, call.point(tuple(given.shape)))


def _constant(call: Call, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    return call.steps.constant(call.weight(value, "state"), shape)


def _weights(call: Call, kind: str, flat: Sequence[Value], biased: bool, count: int) -> list[_Weights]:
    """The flat list of a layer's parameters, in torch's order."""
    each = len(flat) // count
    found = []
    for k in range(count):
        own = [call.weight(value) for value in flat[k * each : (k + 1) * each]]
        biases = own[2:4] if biased else [None, None]
        projection = own[-1] if each == (5 if biased else 3) else None
        found.append(_ordered(kind, own[:2], biases, projection))
    return found


def _ordered(
    kind: str, matrices: Sequence[Tensor], biases: Sequence[Tensor | None], projection: Tensor | None
) -> _Weights:
    """Weights with an LSTM's gates i, f, g, o as i, f, o, g."""

    def rows(given: Tensor) -> Tensor:
        if kind != "lstm":
            return given
        enter, forget, new, leave = given.chunk(4)
        return torch.cat((enter, forget, leave, new))

    first, second = (None if bias is None else rows(bias) for bias in biases)
    return _Weights(rows(matrices[0]), rows(matrices[1]), first, second, projection)


def _cell(kind: str, weights: _Weights) -> Cell:
    """The step of a layer."""
    sigmoid, tanh = Response(activation("sigmoid")), Response(activation("tanh"))
    if kind == "gru":
        return GruCell(weights.recurrent, weights.recurrent_bias, None, sigmoid, tanh, True)
    if kind == "lstm":
        return LstmCell(weights.recurrent, weights.recurrent_bias, None, sigmoid, tanh, tanh, None, weights.projection)
    return RnnCell(
        weights.recurrent, weights.recurrent_bias, None, Response(activation("relu")) if "relu" in kind else tanh
    )
