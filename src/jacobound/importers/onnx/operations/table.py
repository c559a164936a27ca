"""How each ONNX operation becomes nodes: one small function per operation or family, and the table of all.

Every function gets a `Call` whose inputs are constants or values of the network (at least one of these), and returns
the results. A refusal is an `UnsupportedOpError` with the reason only; `importers/onnx/file.py` adds the place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor

from jacobound.activations import onnx_builder
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Affine, Node
from jacobound.importers.fusions.bells import elementwise
from jacobound.importers.onnx.model.evaluate import evaluate
from jacobound.importers.onnx.model.safety import element_type
from jacobound.importers.onnx.operations.call import Call, Traced, Value, point_shape
from jacobound.importers.onnx.operations.products import divide, einsum, gemm, matmul, multiply, power
from jacobound.importers.onnx.operations.recurrent import RECURRENT
from jacobound.importers.onnx.operations.reduce import REDUCTIONS, extreme, mean_of_several, running_sum
from jacobound.importers.onnx.operations.resize import resize
from jacobound.importers.onnx.operations.stretches import COMPARISONS, compare
from jacobound.importers.onnx.operations.vectors import VECTORS
from jacobound.importers.onnx.operations.windows import average_pool, convolution, max_pool, transposed_convolution

Lowering = Callable[[Call], tuple[Value, ...]]


def _moves(*data: int) -> Lowering:
    """Data movement: the operation itself is run on positions. `data` are the inputs that are moved; none: all."""

    def lower(call: Call) -> tuple[Value, ...]:
        moved = [k for k in range(len(call.inputs)) if (k in data or not data) and call.inputs[k] is not None]
        for position in range(len(call.inputs)):
            if position not in moved:
                call.constant(position)  # refuses positions that depend on the network's input
        return tuple(_moved(call, moved, call.proto, output) for output in range(len(call.proto.output)))

    return lower


def _moved(call: Call, moved: list[int], proto: NodeProto, output: int) -> Value:
    sources: list[Node | Tensor] = []
    shapes: list[tuple[int, ...]] = []
    taken = call.addend if proto.op_type == "Where" else call.needed
    for position in moved:
        value = call.inputs[position]
        constant = None if isinstance(value, Traced) else taken(position)
        sources.append(call.traced(position).node if constant is None else constant)
        shapes.append(call.traced(position).shape if constant is None else tuple(constant.shape))

    def function(*codes: Tensor) -> Tensor:
        arrays = [None if isinstance(value, Traced) else value for value in call.inputs]
        for position, code, shape in zip(moved, codes, shapes, strict=True):
            arrays[position] = code.reshape(shape).numpy()
        found = evaluate(proto, call.version, arrays)[output]
        return torch.tensor(found.astype(np.int64)).reshape(point_shape(found.shape))

    name, shape = call.proto.output[output], call.shapes[output]
    if 0 in shape:  # which depends on nothing
        return np.zeros(shape, call.dtype)
    node = call.steps.rearrange(sources, function, name)
    if isinstance(node, Tensor) and node.numel() == prod(shape):
        return node.reshape(shape).numpy().astype(call.dtype)
    if isinstance(node, Tensor) or node.shape != point_shape(shape):
        raise UnsupportedOpError(f"Its result would have shape {tuple(node.shape)}, where ONNX says {shape}.")
    return Traced(node, shape, call.dtype)


def _pad(call: Call) -> tuple[Value, ...]:
    """Negative pads crop first. Before opset 11 the number is an attribute; it is moved like an input, by its code."""
    value, pads = call.traced(), _all_pads(call)
    kept = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(value.shape, pads, strict=True))
    amounts = np.array([max(0, a) for a, _ in pads] + [max(0, b) for _, b in pads], dtype=np.int64)
    mode = call.text("mode", ("constant", "reflect", "edge", "wrap"))
    number = torch.zeros((), dtype=torch.float64)
    if mode == "constant":
        given = call.weight(2) if call.version >= 11 else None
        number += float(call.number("value")) if given is None else given.reshape(())
    if mode != "constant" and any(part.stop <= part.start for part in kept):
        raise UnsupportedOpError("Nothing of its input is left to be repeated.")

    def function(codes: Tensor, *code: Tensor) -> Tensor:
        array, pairs = codes.reshape(value.shape).numpy()[kept], list(zip(*np.split(amounts, 2), strict=True))
        constant = {"constant_values": int(code[0]) if code else 0} if mode == "constant" else {}
        found = np.pad(array, pairs, mode=mode, **constant)  # type: ignore[call-overload]
        return torch.tensor(found).reshape(point_shape(found.shape))

    node = call.steps.rearrange([value.node, number] if number else [value.node], function, call.name)
    if not isinstance(node, Tensor):
        return call.result(node)
    if node.numel() != prod(call.shape):
        raise UnsupportedOpError(f"Its result would have shape {tuple(node.shape)}, where ONNX says {call.shape}.")
    return (node.reshape(call.shape).numpy().astype(call.dtype),)


def _all_pads(call: Call) -> list[tuple[int, int]]:
    """Pads of every axis, in front and behind."""
    value = call.traced()
    listed = call.constant(1) if call.version >= 11 else np.array(call.attributes.get("pads", ()), dtype=np.int64)
    axes = call.constant(3) if call.version >= 18 else None
    rank = len(value.shape)
    named = list(range(rank)) if axes is None else [int(axis) % rank for axis in np.ravel(axes)]
    if listed is None or listed.size != 2 * len(named):
        raise UnsupportedOpError(f"Its pads do not fit the {len(named)} axes.")
    pads = [(0, 0)] * rank
    for axis, before, after in zip(named, *np.split(np.ravel(listed), 2), strict=True):
        pads[axis] = (int(before), int(after))
    return pads


def _add(signs: tuple[float, ...]) -> Lowering:
    """Sums and differences of values and constants; `signs` is repeated for further inputs."""

    def lower(call: Call) -> tuple[Value, ...]:
        factors: dict[Node, float] = {}
        bias: Tensor | None = None
        for position, value in enumerate(call.inputs):
            sign = signs[min(position, len(signs) - 1)]
            if isinstance(value, Traced):
                node = call.widened(value)
                factors[node] = factors.get(node, 0.0) + sign
            else:
                if bias is not None:
                    raise UnsupportedOpError("It adds two constants, whose sum would be rounded.")
                constant = call.needed(position) if sign < 0 else call.addend(position)
                bias = sign * call.spread(constant, call.shape)
        node, factor = next(iter(factors.items()))
        if len(factors) == 1 and factor == 1 and bias is not None and isinstance(node, Affine) and node.bias is None:
            return call.result(Affine(node.terms, bias, call.name))  # MatMul then Add is one affine map
        return call.result(call.steps.add([(factor, node) for node, factor in factors.items()], bias, call.name))

    return lower


def _negate(call: Call) -> tuple[Value, ...]:
    return call.result(call.steps.add([(-1.0, call.traced().node)], None, call.name))


def _batch_norm(call: Call) -> tuple[Value, ...]:
    value = call.traced()
    if call.flag("training_mode") or len([name for name in call.proto.output if name]) > 1:
        raise UnsupportedOpError(
            "It normalises by the statistics of the batch (training mode); export after model.eval()."
        )
    if int(call.number("spatial", 1)) != 1 or len(value.shape) < 2 or value.shape[0] != 1:
        raise UnsupportedOpError(f"Only statistics per channel, of a batch of one, are understood, not {value.shape}.")
    gamma, beta, mean, variance = (call.needed(position) for position in (1, 2, 3, 4))
    for parameter in (gamma, beta, mean, variance):
        if tuple(parameter.shape) != value.shape[1:2]:
            raise UnsupportedOpError(f"Its parameters have shape {tuple(parameter.shape)}; {value.shape[1:2]} fits.")
    epsilon = float(call.number("epsilon"))
    return call.result(call.steps.batch_norm(value.node, mean, variance, gamma, beta, epsilon, call.name))


def _dropout(call: Call) -> tuple[Value, ...]:
    training = call.constant(2)
    if training is not None and bool(np.any(training)):
        raise UnsupportedOpError("It drops at random (training mode); export after model.eval().")
    return (call.traced(),)


def _cast(call: Call) -> tuple[Value, ...]:
    """Between float32 and float64 nothing happens: nodes stand for real numbers."""
    value, number = call.traced(), int(call.number("to"))
    return (Traced(value.node, value.shape, _float(value, number)),)


def _cast_like(call: Call) -> tuple[Value, ...]:
    """A value of the network or a constant in the element type of another one."""
    value, like = call.get(0), call.get(1)
    if value is None or like is None:
        raise UnsupportedOpError("One of its inputs is missing.")
    if not isinstance(value, Traced):
        return (value.astype(like.dtype),)
    return (Traced(value.node, value.shape, _float(value, helper.np_dtype_to_tensor_dtype(like.dtype))),)


def _float(value: Traced, number: int) -> np.dtype:
    """float32 or float64 as the type that values of the network are cast to."""
    known: dict[int, np.dtype] = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.DOUBLE: np.dtype(np.float64)}
    if number not in known:
        raise UnsupportedOpError(f"It rounds values of the network from {value.dtype} to {element_type(number)}.")
    return known[number]


def _shape(call: Call) -> tuple[Value, ...]:
    shape = call.traced().shape
    stop = call.attributes.get("end")
    end = len(shape) if stop is None else int(call.number("end"))
    return (np.array(shape[int(call.number("start")) : end], dtype=np.int64),)


def _size(call: Call) -> tuple[Value, ...]:
    return (np.array(prod(call.traced().shape), dtype=np.int64),)


def activation(call: Call) -> tuple[Value, ...]:
    """An activation of the registry, with its constant inputs in the shape of the node."""
    value, build = call.traced(), onnx_builder(call.proto.op_type)
    if build is None:
        raise UnsupportedOpError("It is neither affine nor a known activation.")
    parameters = []
    for position in range(1, len(call.inputs)):
        weight = call.weight(position)
        if weight is not None:
            call.fits(weight, value.shape)
            if weight.dim() == len(value.shape) > len(value.node.shape):
                weight = weight[0]  # the axis of the batch
        parameters.append(weight)
    try:
        found = build(*parameters, **call.attributes)
    except TypeError as error:
        raise UnsupportedOpError(f"Its attributes {dict(call.attributes)} are not all understood.") from error
    return call.result(elementwise(found, value.node, call.name, call.steps.like))


def _where(call: Call) -> tuple[Value, ...]:
    """One of two values by a constant condition; all of one is that one."""
    condition = call.constant(0)
    value = None
    if condition is not None and condition.size and condition.all() == condition.any():
        value = call.get(1 if condition.all() else 2)
    if isinstance(value, Traced):
        return call.result(call.widened(value))
    if isinstance(value, np.ndarray) and not np.isneginf(value).any():
        return (np.broadcast_to(value, call.shape).astype(call.dtype),)
    return _moves(1, 2)(call)


def _scatter(call: Call) -> tuple[Value, ...]:
    """Data and updates are moved; the places are constant."""
    call.text("reduction", ("none",))
    return _moves(0, 2)(call)


MOVEMENTS = (
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Slice",
    "Gather",
    "GatherElements",
    "GatherND",
    "Expand",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
    "Split",
    "Trilu",
    "Identity",
)

LOWERINGS: Mapping[str, Lowering] = {
    **dict.fromkeys(MOVEMENTS, _moves(0)),
    **REDUCTIONS,
    **VECTORS,
    **RECURRENT,
    "Concat": _moves(),
    "Where": _where,
    **dict.fromkeys((*COMPARISONS, "Sign"), compare),
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Pad": _pad,
    "Add": _add((1.0,)),
    "Sum": _add((1.0,)),
    "Sub": _add((1.0, -1.0)),
    "Mean": mean_of_several,
    "Max": extreme(largest=True),
    "Min": extreme(largest=False),
    "Neg": _negate,
    "Mul": multiply,
    "Div": divide,
    "Pow": power,
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    "CumSum": running_sum,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "AveragePool": average_pool,
    "MaxPool": max_pool,
    "Resize": resize,
    "Upsample": resize,
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Shape": _shape,
    "Size": _size,
}
