"""How each ONNX operation becomes nodes: one small function per operation or family, and the table of all.

Every function gets a `Call` whose inputs are constants or values of the network (at least one of these), and returns
the results. A refusal is an `UnsupportedOpError` with the reason only; `onnx.py` adds the place.
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
from jacobound.graph import Affine, Elementwise, Node
from jacobound.importers.onnx_call import Call, Traced, Value, point_shape
from jacobound.importers.onnx_evaluate import evaluate
from jacobound.importers.onnx_safety import element_type
from jacobound.importers.onnx_windows import average_pool, convolution

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
    for position in moved:
        value = call.inputs[position]
        constant = None if isinstance(value, Traced) else call.needed(position)
        sources.append(call.traced(position).node if constant is None else constant)
        shapes.append(call.traced(position).shape if constant is None else tuple(constant.shape))

    def function(*codes: Tensor) -> Tensor:
        arrays = [None if isinstance(value, Traced) else value for value in call.inputs]
        for position, code, shape in zip(moved, codes, shapes, strict=True):
            arrays[position] = code.reshape(shape).numpy()
        found = evaluate(proto, call.version, arrays)[output]
        return torch.tensor(found.astype(np.int64)).reshape(point_shape(found.shape))

    name, shape = call.proto.output[output], call.shapes[output]
    if 0 in shape:
        raise UnsupportedOpError(f"Its result '{name}' has shape {shape} and no entries.")
    node = call.steps.rearrange(sources, function, name)
    if isinstance(node, Tensor):
        return node.reshape(shape).numpy().astype(call.dtype)
    if node.shape != point_shape(shape):
        raise UnsupportedOpError(f"Its result would have shape {node.shape}, where ONNX says {shape}.")
    return Traced(node, shape, call.dtype)


def _pad(call: Call) -> tuple[Value, ...]:
    """Before opset 11 the padded number is an attribute; it is moved like an input by writing its code there."""
    pads = call.constant(1) if call.version >= 11 else np.array(call.attributes.get("pads", ()))
    if pads is None or (pads < 0).any():
        raise UnsupportedOpError("Negative pads are not understood; a Slice says the same.")
    if call.version >= 11 or not call.number("value"):
        return _moves(0, 2)(call)
    value = call.traced()
    number = torch.full((1,), float(call.number("value")), dtype=torch.float64)

    def function(codes: Tensor, code: Tensor) -> Tensor:
        kept = {name: entry for name, entry in call.attributes.items() if name != "value"}
        node = helper.make_node("Pad", call.proto.input, call.proto.output, value=float(code), **kept)  # type: ignore[arg-type]
        found = evaluate(node, call.version, [codes.reshape(value.shape).numpy()])[0]
        return torch.tensor(found.astype(np.int64)).reshape(point_shape(found.shape))

    node = call.steps.rearrange([value.node, number], function, call.name)
    if isinstance(node, Tensor):
        raise UnsupportedOpError("Nothing of its input is left in the result.")
    return call.result(node)


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
                bias = sign * call.spread(call.needed(position), call.shape)
        node, factor = next(iter(factors.items()))
        if len(factors) == 1 and factor == 1 and bias is not None and isinstance(node, Affine) and node.bias is None:
            return call.result(Affine(node.terms, bias, call.name))  # MatMul then Add is one affine map
        return call.result(call.steps.add([(factor, node) for node, factor in factors.items()], bias, call.name))

    return lower


def _multiply(call: Call) -> tuple[Value, ...]:
    values = [value for value in call.inputs if isinstance(value, Traced)]
    if len(values) > 1:
        raise UnsupportedOpError("It multiplies two values that both depend on the network's input.")
    position = 1 if isinstance(call.inputs[0], Traced) else 0
    factor = call.spread(call.needed(position), call.shape)
    node = call.widened(values[0])
    return call.result(node if bool((factor == 1).all()) else call.steps.scale(node, factor, call.name))


def _divide(call: Call) -> tuple[Value, ...]:
    if not isinstance(call.inputs[0], Traced):
        raise UnsupportedOpError("It divides by a value that depends on the network's input.")
    divisor = call.spread(call.needed(1), call.shape)
    node = call.widened(call.traced())
    return call.result(node if bool((divisor == 1).all()) else call.steps.divide(node, divisor, call.name))


def _negate(call: Call) -> tuple[Value, ...]:
    return call.result(call.steps.add([(-1.0, call.traced().node)], None, call.name))


def _gemm(call: Call) -> tuple[Value, ...]:
    """alpha A' B' + beta C."""
    a, b = call.get(0), call.get(1)
    alpha, beta = float(call.number("alpha", 1.0)), float(call.number("beta", 1.0))
    constant = call.weight(2)
    bias = None if constant is None or beta == 0 else call.spread(_scaled(constant, beta, "beta"), call.shape)
    if isinstance(a, Traced) and isinstance(b, Traced):
        raise UnsupportedOpError("It multiplies two values that both depend on the network's input.")
    if isinstance(a, Traced):
        if call.flag("transA") and a.shape[0] == 1:
            raise UnsupportedOpError("transA=1 moves the batch axis away from the front.")
        weight = call.needed(1) if call.flag("transB") else call.needed(1).T
        value = _transposed(call, a, "transA") if call.flag("transA") else a
    else:  # (A' B')^T = B'^T A'^T
        weight = call.needed(0).T if call.flag("transA") else call.needed(0)
        value = call.traced(1) if call.flag("transB") else _transposed(call, call.traced(1), "transB")
    if bias is not None and not isinstance(a, Traced):
        bias = bias.reshape(call.shape).T
    node = _product(call, value, _scaled(weight, alpha, "alpha").contiguous(), bias, call.name)
    if not isinstance(a, Traced):
        return call.result(_swapped(call, node, (call.shape[1], call.shape[0])))
    return call.result(node)


def _scaled(weight: Tensor, factor: float, name: str) -> Tensor:
    """A weight times a number: float32 numbers have an exact product in float64; otherwise powers of two only."""
    product = weight * factor
    single = bool((weight.float().double() == weight).all()) and float(np.float32(factor)) == factor
    if factor in (0.0, 1.0) or single or (abs(np.frexp(factor)[0]) == 0.5 and torch.equal(product / factor, weight)):
        return product
    raise UnsupportedOpError(f"The product of a float64 weight with {name}={factor} would be rounded.")


def _product(call: Call, value: Traced, weight: Tensor, bias: Tensor | None, name: str) -> Node:
    """A matrix (out, in) on the last axis of a value; the bias has the shape of the result."""
    lead = value.shape[:-1]
    lead = lead[1:] if lead[:1] == (1,) else lead
    source = call.steps.reshape(value.node, (*lead, value.shape[-1]), f"{name}.rows")
    return call.steps.dense(source, weight, None if bias is None else bias.reshape(*lead, weight.shape[0]), name)


def _swapped(call: Call, node: Node, shape: tuple[int, ...]) -> Node:
    """A node whose entries stand for an ONNX tensor of `shape`, with the last two axes exchanged."""
    return call.steps.move(node, lambda x: x.reshape(shape).transpose(-1, -2).contiguous(), f"{call.name}.transpose")


def _transposed(call: Call, value: Traced, name: str) -> Traced:
    shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
    return Traced(_swapped(call, value.node, value.shape), shape, value.dtype)


def _matmul(call: Call) -> tuple[Value, ...]:
    """Matrix times value, or value times matrix; axes of length one in front of the matrix change nothing."""
    a, b = call.get(0), call.get(1)
    if isinstance(a, Traced) and isinstance(b, Traced):
        raise UnsupportedOpError("It multiplies two values that both depend on the network's input.")
    weight = call.needed(1 if isinstance(a, Traced) else 0)
    if prod(weight.shape[:-2]) != 1:
        raise UnsupportedOpError(f"Its constant has shape {tuple(weight.shape)}: a stack of matrices.")
    weight = weight.reshape(weight.shape[-2:])
    if isinstance(a, Traced):
        matrix = weight.reshape(-1, 1) if weight.dim() == 1 else weight
        return call.result(_product(call, a, matrix.T.contiguous(), None, call.name))
    value = call.traced(1)
    matrix = weight.reshape(1, -1) if weight.dim() == 1 else weight
    if len(value.shape) == 1:
        return call.result(_product(call, value, matrix, None, call.name))
    node = _product(call, _transposed(call, value, "columns"), matrix, None, call.name)
    return call.result(_swapped(call, node, (*value.shape[:-2], value.shape[-1], len(matrix))))


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


def _reduce(mean: bool) -> Lowering:
    """Sums or means over axes other than the batch."""

    def lower(call: Call) -> tuple[Value, ...]:
        value = call.traced()
        rank = len(value.shape)
        listed = call.constant(1) if len(call.inputs) > 1 else call.attributes.get("axes")
        given = [] if listed is None else [int(axis) % rank for axis in np.ravel(np.asarray(listed))]
        if not given and call.flag("noop_with_empty_axes"):
            return call.result(value.node)
        axes = sorted(set(given or range(rank)))
        if call.proto.op_type == "GlobalAveragePool":
            axes = list(range(2, rank))
        dropped = len(value.shape) - len(value.node.shape)
        if not axes or axes[0] < dropped:
            raise UnsupportedOpError("It takes a sum or mean over the batch axis.")
        step = call.steps.mean if mean else call.steps.sum
        return call.result(step(value.node, [axis - dropped for axis in axes], True, call.name))

    return lower


def _dropout(call: Call) -> tuple[Value, ...]:
    training = call.constant(2)
    if training is not None and bool(np.any(training)):
        raise UnsupportedOpError("It drops at random (training mode); export after model.eval().")
    return (call.traced(),)


def _cast(call: Call) -> tuple[Value, ...]:
    value, number = call.traced(), int(call.number("to"))
    known: dict[int, np.dtype] = {TensorProto.FLOAT: np.dtype(np.float32), TensorProto.DOUBLE: np.dtype(np.float64)}
    target = known.get(number)
    if target is None or target not in (value.dtype, np.dtype(np.float64)):
        raise UnsupportedOpError(f"It rounds values of the network from {value.dtype} to {element_type(number)}.")
    return (Traced(value.node, value.shape, target),)


def _shape(call: Call) -> tuple[Value, ...]:
    shape = call.traced().shape
    stop = call.attributes.get("end")
    end = len(shape) if stop is None else int(call.number("end"))
    return (np.array(shape[int(call.number("start")) : end], dtype=np.int64),)


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
    return call.result(Elementwise(found, value.node, call.name))


LOWERINGS: Mapping[str, Lowering] = {
    **dict.fromkeys(
        (
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
            "Identity",
        ),
        _moves(0),
    ),
    "Concat": _moves(),
    "Where": _moves(1, 2),
    "Pad": _pad,
    "Add": _add((1.0,)),
    "Sum": _add((1.0,)),
    "Sub": _add((1.0, -1.0)),
    "Neg": _negate,
    "Mul": _multiply,
    "Div": _divide,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": convolution,
    "AveragePool": average_pool,
    "GlobalAveragePool": _reduce(mean=True),
    "ReduceMean": _reduce(mean=True),
    "ReduceSum": _reduce(mean=False),
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "Cast": _cast,
    "Shape": _shape,
}
