"""ONNX's RNN, GRU and LSTM: every direction, activation, limit and layout of them, unrolled over their steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.activations.calculus.numbers import as_float32
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.recurrent import Cell, GruCell, LstmCell, Response, RnnCell, State
from jacobound.importers.onnx.operations.call import Call, Traced, Value

DEFAULTS: Final[Mapping[str, tuple[str, ...]]] = {
    "RNN": ("Tanh",),
    "GRU": ("Sigmoid", "Tanh"),
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
}
GATES: Final[Mapping[str, tuple[int, ...]]] = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 1, 3)}
"""Where the gates of our cells stand among ONNX's: GRU's are z, r, n, LSTM's i, o, f, c."""
RESPONSES: Final[Mapping[str, tuple[float | None, float | None]]] = {
    "affine": (1.0, 0.0),
    "relu": (None, None),
    "leakyrelu": (as_float32(0.01), None),
    "tanh": (None, None),
    "scaledtanh": (1.0, 1.0),
    "sigmoid": (None, None),
    "hardsigmoid": (as_float32(0.2), 0.5),
    "elu": (1.0, None),
    "softsign": (None, None),
    "softplus": (None, None),
}
"""Activations by their names in small letters, with what alpha and beta are when they are left out; None: not used."""


@dataclass(frozen=True, eq=False)
class _Layout:
    """How a call's tensors are laid out.

    Args:
        first: whether the batch stands first in all of them (layout 1).
        steps, lead, size: lengths of the sequence, the batch and the state.
        directions: 1 or 2.
        reverse: whether the first direction is the backward one.
        length: steps that are taken; what is behind is padding.
    """

    first: bool
    steps: int
    lead: int
    size: int
    directions: int
    reverse: bool
    length: int


def recurrent(call: Call) -> tuple[Value, ...]:
    """All steps of all directions: every output, the last one, and for LSTM the last memory."""
    kind, steps = call.proto.op_type, call.steps
    layout = _layout(call)
    responses = list(_responses(call, layout.directions))
    each = len(DEFAULTS[kind])
    sequence = _sequence(call, layout)
    states = [_states(call, layout, 5 + k) for k in range(2 if kind == "LSTM" else 1)]
    rows: list[list[Node]] = []
    lasts: list[tuple[Node, ...]] = []
    for direction in range(layout.directions):
        cell = _cell(call, direction, responses[direction * each : (direction + 1) * each])
        weight, bias = _rows(kind, call.needed(1)[direction]), _bias(call, direction, 0)
        order = list(range(layout.length))
        back = layout.reverse or direction == 1
        label = call.proto.output[0] or next(filter(None, call.proto.output))
        name = f"{label}.reverse" if back else f"{label}.forward"
        start = [state[direction] for state in states]
        outputs, last = steps.unrolled(sequence, weight, bias, cell, start, order[:: -1 if back else 1], name)
        rows.append(outputs[:: -1 if back else 1])
        lasts.append(last)
    results: list[Value] = [np.zeros(())] * len(call.proto.output)
    for k, name in enumerate(call.proto.output):
        if name and k == 0:
            nodes = [node for row in rows for node in row]
            results[0] = _result(call, 0, nodes, lambda *codes: _stacked(codes, layout))
        elif name:
            axis = 1 if layout.first else 0
            nodes = [last[k - 1] for last in lasts]
            results[k] = _result(call, k, nodes, lambda *codes, axis=axis: torch.stack(codes, axis))
    return tuple(results)


def _result(call: Call, k: int, nodes: Sequence[Node], stack: Callable[..., Tensor]) -> Value:
    node = call.steps.stacked(nodes, stack, call.proto.output[k])
    return call.shaped(node, k)


def _stacked(codes: Sequence[Tensor], layout: _Layout) -> Tensor:
    """(steps, directions, batch, size), or the batch in front; steps that are not taken hold zeros."""
    rows = [torch.stack(tuple(codes[d * layout.length : (d + 1) * layout.length])) for d in range(layout.directions)]
    whole = torch.stack(rows, 1)
    missing = whole.new_zeros(layout.steps - layout.length, *whole.shape[1:])
    whole = torch.cat((whole, missing))
    return whole.permute(2, 0, 1, 3) if layout.first else whole


def _layout(call: Call) -> _Layout:
    first = bool(call.number("layout", 0))
    value = call.get(0)
    assert value is not None
    shape, recurrent_shape = tuple(value.shape), tuple(call.needed(2).shape)
    if len(shape) != 3 or len(recurrent_shape) != 3:
        raise UnsupportedOpError(f"Its input has shape {shape} and its recurrent weights {recurrent_shape}.")
    direction = call.text("direction", ("forward", "reverse", "bidirectional"))
    directions = 2 if direction == "bidirectional" else 1
    steps, lead = (shape[1], shape[0]) if first else shape[:2]
    size, gates = recurrent_shape[2], len(GATES[call.proto.op_type])
    wanted = (directions, gates * size, shape[2])
    if tuple(call.needed(1).shape) != wanted or recurrent_shape != (directions, gates * size, size):
        raise UnsupportedOpError(
            f"Its weights have shapes {tuple(call.needed(1).shape)} and {recurrent_shape}; {wanted} and "
            f"{(directions, gates * size, size)} fit."
        )
    if int(call.number("hidden_size", size)) != size:
        raise UnsupportedOpError(f"Its hidden_size is {call.number('hidden_size')}; its weights have {size}.")
    lengths = call.constant(4)
    length = steps
    if lengths is not None and lengths.size:
        found = {int(one) for one in np.ravel(lengths)}
        if len(found) != 1 or not 0 < min(found) <= steps:
            raise UnsupportedOpError(f"Its sequence_lens are {sorted(found)}; one length for all is understood.")
        length = found.pop()
    return _Layout(first, steps, lead, size, directions, direction == "reverse", length)


def _sequence(call: Call, layout: _Layout) -> Node:
    """The input as a node (steps, batch, features)."""
    value = call.get(0)
    if isinstance(value, Traced):
        node = call.full(value)
        return call.steps.move(node, lambda x: x.transpose(0, 1), f"{call.name}.sequence") if layout.first else node
    beside = next(one for one in call.inputs if isinstance(one, Traced))
    constant = call.needed(0)
    constant = constant.transpose(0, 1) if layout.first else constant
    return call.steps.constant_node(constant.contiguous(), beside.node, f"{call.name}.sequence")


def _states(call: Call, layout: _Layout, position: int) -> list[State]:
    """The initial states of each direction, of shape (batch, size)."""
    value, axis = call.get(position), 1 if layout.first else 0
    if value is None:
        return [None] * layout.directions
    expected = (layout.directions, layout.lead, layout.size)
    if sorted(value.shape) != sorted(expected) or value.shape[axis] != layout.directions:
        raise UnsupportedOpError(f"Its initial state has shape {tuple(value.shape)}; {expected} fits.")
    if isinstance(value, Traced):
        node = call.full(value)
        return [
            call.steps.move(node, lambda x, k=k: x.select(axis, k), f"{call.name}.state{position}.{k}")
            for k in range(layout.directions)
        ]
    return [part.contiguous() for part in call.needed(position).unbind(axis)]


def _rows(kind: str, rows: Tensor) -> Tensor:
    """Rows of all gates in the order of our cells."""
    parts = rows.chunk(len(GATES[kind]))
    return torch.cat([parts[k] for k in GATES[kind]])


def _bias(call: Call, direction: int, half: int) -> Tensor | None:
    """The bias of the inputs (0) or of the state (1)."""
    bias = call.weight(3)
    return None if bias is None else _rows(call.proto.op_type, bias[direction].chunk(2)[half])


def _cell(call: Call, direction: int, responses: Sequence[Response]) -> Cell:
    kind, clip = call.proto.op_type, call.attributes.get("clip")
    limit = None if clip is None else call.number("clip")
    if limit is not None and not 0 < limit < math.inf:
        raise UnsupportedOpError(f"Its clip is {limit}; a positive number is understood.")
    matrix, bias = _rows(kind, call.needed(2)[direction]), _bias(call, direction, 1)
    if kind == "RNN":
        return RnnCell(matrix, bias, limit, responses[0])
    if kind == "GRU":
        return GruCell(matrix, bias, limit, *responses, behind=bool(call.number("linear_before_reset", 0)))
    peepholes = call.weight(7)
    if peepholes is not None:
        enter, leave, forget = peepholes[direction].chunk(3)
        peepholes = torch.stack((enter, forget, leave))
    return LstmCell(matrix, bias, limit, *responses, peepholes=peepholes, coupled=bool(call.number("input_forget", 0)))


def _responses(call: Call, directions: int) -> Iterator[Response]:
    """The activations; those that take alpha and beta take the next ones of the lists."""
    defaults = DEFAULTS[call.proto.op_type] * directions
    own = any(attribute.name == "activations" for attribute in call.proto.attribute)  # that of RNN has two by default
    given = call.attributes["activations"] if own else defaults
    names = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in given]  # type: ignore[attr-defined]
    if len(names) != len(defaults):
        raise UnsupportedOpError(f"It has {len(names)} activations where there are {len(defaults)}.")
    alphas, betas = (iter(call.attributes.get(f"activation_{key}") or ()) for key in ("alpha", "beta"))  # type: ignore[call-overload]
    for name in names:
        key = name.lower()
        if key not in RESPONSES:
            why = "jumps" if key == "thresholdedrelu" else "is not understood"
            raise UnsupportedOpError(f"Its activation '{name}' {why}.")
        alpha, beta = RESPONSES[key]
        alpha = None if alpha is None else float(next(alphas, alpha))
        beta = None if beta is None else float(next(betas, beta))
        yield _response(key, alpha, beta)


def _response(key: str, alpha: float | None, beta: float | None) -> Response:
    if key == "affine":
        return Response(None, 1.0, alpha or 0.0, beta or 0.0)
    if key == "scaledtanh":
        return Response(activation("tanh"), beta or 0.0, alpha or 0.0)
    name = {"leakyrelu": "leaky_relu", "hardsigmoid": "hard_sigmoid"}.get(key, key)
    numbers = ",".join(repr(one) for one in (alpha, beta) if one is not None)
    return Response(activation(f"{name}:{numbers}" if numbers else name))


RECURRENT: Final[Mapping[str, Callable[[Call], tuple[Value, ...]]]] = {
    "RNN": recurrent,
    "GRU": recurrent,
    "LSTM": recurrent,
}
