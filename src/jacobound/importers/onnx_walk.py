"""From a checked ONNX model to a `Graph`: what the chosen output needs, and one walk over it in file order."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from jacobound.errors import InvalidModelError, ShapeError, UnsupportedOpError
from jacobound.graph import Graph, Input
from jacobound.importers.common import unsupported
from jacobound.importers.onnx_call import Call, Traced, Value
from jacobound.importers.onnx_evaluate import FOLDABLE, attributes, describe, evaluate, result_shapes
from jacobound.importers.onnx_ops import LOWERINGS, activation
from jacobound.importers.onnx_safety import (
    BYTES,
    FLOATS,
    LARGEST_RESULT,
    array,
    check_finite,
    check_size,
    element_type,
    opset,
    wrong_type,
)
from jacobound.importers.steps import AffineSteps

# What to do about operations that are refused, where it is not obvious.
ADVICE: Mapping[str, str] = {
    **dict.fromkeys(
        ("MaxPool", "GlobalMaxPool", "Max", "Min"),
        "Use average pooling or strided convolutions in its place.",
    ),
    **dict.fromkeys(("If", "Loop", "Scan"), "Export the network without control flow (by tracing it)."),
    **dict.fromkeys(
        (
            "QuantizeLinear",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "QLinearConv",
            "QLinearMatMul",
            "ConvInteger",
            "MatMulInteger",
        ),
        "Export the unquantised float32 network.",
    ),
    **dict.fromkeys(("Mul", "Div", "MatMul", "Gemm", "Pow"), "Rewrite the network with products by constants only."),
}


@dataclass(frozen=True, eq=False)
class Program:
    """The part of a model that its output depends on.

    Args:
        version: of the operator set.
        input: the only input.
        nodes: with their positions in the file, in file order.
        weights: the stored tensors in use, by name.
        output: name of the tensor that is the result.
    """

    version: int
    ir_version: int
    input: ValueInfoProto
    nodes: tuple[tuple[int, NodeProto], ...]
    weights: Mapping[str, TensorProto]
    output: str


def select(model: ModelProto, until: str | None) -> Program:
    """The operations that one output needs, all of them known to ONNX and well-formed.

    Raises:
        InvalidModelError: when the file contradicts itself, or has not one input and one output.
        UnsupportedOpError: when an operation is from another domain or unknown.
    """
    version = opset(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    output = _output(model, until)
    wanted, nodes, made = {output}, [], set(weights)
    for position, node in reversed(list(enumerate(model.graph.node))):
        if wanted.intersection(node.output):
            nodes.append((position, node))
            wanted.update(name for name in node.input if name)
    nodes.reverse()
    inputs = [entry for entry in model.graph.input if entry.name not in weights and entry.name in wanted]
    if len(inputs) != 1:
        names = ", ".join(f"'{entry.name}'" for entry in inputs) or "the output depends on none"
        raise InvalidModelError(
            f"the model has {len(inputs)} inputs ({names}); a network with one input is needed. "
            "Store the others in the file as constants"
        )
    made.add(inputs[0].name)
    for position, node in nodes:
        _check_node(node, position, version, made)
        made.update(name for name in node.output if name)
    used = {name: tensor for name, tensor in weights.items() if name in wanted}
    return Program(version, model.ir_version, inputs[0], tuple(nodes), used, output)


def _output(model: ModelProto, until: str | None) -> str:
    declared = [entry.name for entry in model.graph.output]
    if until is None:
        if len(declared) != 1:
            raise InvalidModelError(
                f"the model has {len(declared)} outputs ({', '.join(map(repr, declared))}); "
                "choose one with from_onnx(path, until='NAME')"
            )
        return declared[0]
    tensors = {name: name for node in model.graph.node for name in node.output if name}
    nodes = {node.name: node.output[0] for node in model.graph.node if node.name and node.output}
    names = nodes | tensors  # a tensor comes before a node of the same name
    if until not in names:
        near = difflib.get_close_matches(until, names, n=3, cutoff=0.3) or list(names)[-3:]
        raise InvalidModelError(
            f"the model has no tensor or node '{until}' to be cut at; it has {', '.join(map(repr, near))}, ..."
        )
    return names[until]


def _check_node(node: NodeProto, position: int, version: int, made: set[str]) -> None:
    """Refuse operations that ONNX does not define, or whose attributes or inputs are not as it defines them."""
    if node.domain not in ("", "ai.onnx"):
        raise unsupported(
            describe(node),
            f"position {position}",
            f"It is from the domain '{node.domain}'.",
            "Export the network with the standard ONNX operations only.",
        )
    if not onnx.defs.has(node.op_type, version, ""):
        raise unsupported(
            describe(node),
            f"position {position}",
            f"ONNX opset {version} has no such operation.",
            "Export the network with the standard ONNX operations only.",
        )
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = onnx.IR_VERSION, {"": version}
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.domain = ""
    try:
        onnx.checker.check_node(plain, context)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InvalidModelError(f"{describe(node)} at position {position}: {reason}; export the model again") from error
    for name in node.input:
        if name and name not in made:
            raise InvalidModelError(
                f"{describe(node)} at position {position} reads '{name}', which nothing before it "
                "gives; the file is damaged"
            )
    for name in node.output:
        if name and name in made:
            raise InvalidModelError(
                f"{describe(node)} at position {position}: '{name}' exists already; the file is damaged"
            )


def walk(program: Program) -> Graph:
    """The graph of a program, for a batch of one."""
    like = torch.zeros((), dtype=torch.float64)
    steps = AffineSteps(like, batch=None)
    values: dict[str, Value] = {name: array(tensor, name) for name, tensor in program.weights.items()}
    values[program.input.name] = _input(program.input)
    for position, node in program.nodes:
        inputs = tuple(values[name] if name else None for name in node.input)
        results = _results(node, position, program.version, inputs, steps)
        for name, value in zip(node.output, results, strict=False):
            if name:
                values[name] = value
    output = values.get(program.output)
    if not isinstance(output, Traced):
        raise InvalidModelError(f"'{program.output}' does not depend on the input; choose another output")
    return Graph(output.node)


def _input(entry: ValueInfoProto) -> Traced:
    """The input for a batch of one point."""
    kind: TypeProto.Tensor = entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or kind.elem_type not in FLOATS:
        raise InvalidModelError(
            f"input '{entry.name}' holds {element_type(kind.elem_type)}; networks of FLOAT or DOUBLE inputs are "
            "understood: export the float32 model"
        )
    lengths = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    shown = [
        dim.dim_param or "?" if length is None else length for dim, length in zip(kind.shape.dim, lengths, strict=True)
    ]
    advice = "export it with a batch axis in front (a dynamic axis 0, or an example with one point)"
    if not lengths:
        raise InvalidModelError(f"input '{entry.name}' declares no shape or is a single number; {advice}")
    if lengths[0] not in (None, 1):
        raise InvalidModelError(
            f"input '{entry.name}' has shape {shown}: a batch of {lengths[0]} or no batch; {advice}"
        )
    point = tuple(length for length in lengths[1:] if length is not None)
    if len(point) < len(lengths) - 1:
        raise InvalidModelError(
            f"input '{entry.name}' has shape {shown}: only axis 0 may be left open; "
            "export it with the other lengths fixed"
        )
    check_size(point, f"input '{entry.name}'", LARGEST_RESULT)
    if 0 in point:
        raise InvalidModelError(f"input '{entry.name}' has shape {shown} and no entries")
    dtype = np.dtype(np.float32 if kind.elem_type == TensorProto.FLOAT else np.float64)
    return Traced(Input(point, entry.name), (1, *point), dtype)


def _results(
    node: NodeProto, position: int, version: int, inputs: tuple[Value | None, ...], steps: AffineSteps
) -> tuple[Value, ...]:
    """The results of one operation, as nodes or constants."""
    constant = tuple(None if isinstance(value, Traced) else value for value in inputs)
    try:
        if not any(isinstance(value, Traced) for value in inputs):
            return _folded(node, version, constant)
        if node.op_type not in LOWERINGS:
            _refuse_by_name(node)
        types = [None if value is None else (value.dtype, tuple(value.shape)) for value in inputs]
        shapes = result_shapes(node, version, types, constant)
        if any(name and shape is None for name, shape in zip(node.output, shapes, strict=True)):
            raise UnsupportedOpError("The shape of its result is not known.")
        known = tuple(shape or () for shape in shapes)
        call = Call(node, version, attributes(node, version), inputs, known, steps)
        results = LOWERINGS.get(node.op_type, activation)(call)
        if any(node.output[len(results) :]):
            raise UnsupportedOpError(f"Only its first {len(results)} results are understood.")
        return results
    except (UnsupportedOpError, ShapeError) as error:
        reason = str(error) if str(error).endswith(".") else f"{error}."
        raise unsupported(describe(node), f"position {position}", reason, _advice(node, inputs)) from error


def _refuse_by_name(node: NodeProto) -> None:
    """Reasons that are better than "neither affine nor a known activation"."""
    if node.op_type in ("Softmax", "LogSoftmax"):
        raise UnsupportedOpError("It mixes all outputs, and is not elementwise; its input holds the logits.")
    if node.op_type in ("MaxPool", "GlobalMaxPool", "Max", "Min"):
        raise UnsupportedOpError("The largest of several values is not yet understood.")


def _advice(node: NodeProto, inputs: tuple[Value | None, ...]) -> str:
    before = next((name for name, value in zip(node.input, inputs, strict=True) if isinstance(value, Traced)), None)
    cut = f"cut the network before it with from_onnx(path, until='{before}')"
    if before is None:
        return "Evaluate it before exporting, so that the file holds its result."
    if node.op_type in ("Softmax", "LogSoftmax"):
        return f"To bound the logits, {cut}."
    advice = ADVICE.get(node.op_type)
    return f"{advice} Or {cut}." if advice else f"Replace it, or {cut}."


def _folded(node: NodeProto, version: int, inputs: tuple[np.ndarray | None, ...]) -> tuple[np.ndarray, ...]:
    """The results of an operation on constants; they count as weights."""
    if node.op_type == "Constant":
        results = (_stored(node),)
    elif node.op_type in FOLDABLE:
        types = [None if value is None else (value.dtype, value.shape) for value in inputs]
        if None in result_shapes(node, version, types, inputs):
            raise UnsupportedOpError("The size of its result depends on values.")
        results = evaluate(node, version, inputs)
    else:
        raise UnsupportedOpError("It stands between constants, and is not among the operations evaluated there.")
    allowed = {onnx.helper.tensor_dtype_to_np_dtype(number) for number in BYTES}
    for name, value in zip(node.output, results, strict=False):
        if value.dtype not in allowed:
            raise InvalidModelError(wrong_type(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype)))
        check_finite(value, name)
    return results


def _stored(node: NodeProto) -> np.ndarray:
    """The value of a Constant."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        return array(attribute.t, node.output[0])
    if attribute.name in ("value_float", "value_floats"):
        return np.array(onnx.helper.get_attribute_value(attribute), dtype=np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(onnx.helper.get_attribute_value(attribute), dtype=np.int64)
    raise UnsupportedOpError(f"A constant given as '{attribute.name}' is not understood.")
