"""From a checked ONNX model to a `Graph`: what the chosen output needs, and one walk over it in file order."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Input
from jacobound.importers.lowering.infinities import InfiniteError, without_infinities
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.onnx.model.names import needed, outer_names
from jacobound.importers.onnx.model.safety import (
    FLOATS,
    LARGEST_RESULT,
    File,
    array,
    check_size,
    check_work,
    element_type,
    opset,
)
from jacobound.importers.onnx.node import Place, check_node, run_node
from jacobound.importers.onnx.operations.call import Traced, Value, point_shape
from jacobound.importers.onnx.operations.stretches import Stretches
from jacobound.jacobian.recursion.operations import products


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
    input: ValueInfoProto
    nodes: tuple[tuple[int, NodeProto], ...]
    weights: Mapping[str, TensorProto]
    output: str


def select(file: File, until: str | None) -> Program:
    """The operations that one output needs, all of them known to ONNX and well-formed.

    Raises:
        InvalidModelError: when the file contradicts itself, or has not one input and one output.
        UnsupportedOpError: when an operation is from another domain or unknown.
    """
    model = file.flat
    version = opset(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    output = output_name(model, until)
    kept = needed(model.graph.node, output)
    nodes = [(position, model.graph.node[position]) for position in kept]
    wanted = {output}.union(*(outer_names(node) for _, node in nodes))
    inputs = [entry for entry in model.graph.input if entry.name not in weights and entry.name in wanted]
    if len(inputs) != 1:
        raise InvalidModelError(_inputs(model, output, [entry.name for entry in inputs]))
    made = {*weights, inputs[0].name}
    for position, node in nodes:
        check_node(node, position, version, made)
        made.update(name for name in node.output if name)
    if until is None:
        _check_rest(model, version, kept)
    used = {name: tensor for name, tensor in weights.items() if name in wanted}
    return Program(version, inputs[0], tuple(nodes), used, output)


def _check_rest(model: ModelProto, version: int, kept: Sequence[int]) -> None:
    """Refuse a file that no engine loads for operations that the output does not need."""
    made = {entry.name for entry in (*model.graph.initializer, *model.graph.input)}
    for position, node in enumerate(model.graph.node):
        if position not in kept:
            check_node(node, position, version, made)
        made.update(name for name in node.output if name)


def _inputs(model: ModelProto, output: str, found: Sequence[str]) -> str:
    """Why there is not one input."""
    names = ", ".join(map(repr, found))
    if found:
        return (
            f"the model has {len(found)} inputs ({names}), not all of FLOAT or all of DOUBLE, or with lengths "
            "that are left open; store those that are not to vary in the file as constants"
        )
    stored = {tensor.name for tensor in model.graph.initializer}
    declared = [entry.name for entry in model.graph.input]
    fixed = ", ".join(repr(name) for name in declared if name in stored)
    given = ", ".join(map(repr, declared)) or "none is declared"
    why = f"; for {fixed} the file stores values, which makes them constants" if fixed else ""
    return (
        f"the output '{output}' depends on none of the model's inputs ({given}){why}. Choose another output with "
        "from_onnx(path, until='NAME'), or export the model again"
    )


def output_name(model: ModelProto, until: str | None) -> str:
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


def walk(program: Program, variance_floor: float | None = None) -> Graph:
    """The graph of a program, for one point; `variance_floor` is what the user claims about normalisations."""
    first = _input(program.input)
    steps = AffineSteps(torch.zeros((), dtype=torch.float64), None, variance_floor)
    place = Place(program.version, steps, open_batch=open_batch(program))
    values: dict[str, Value] = {name: array(tensor, name) for name, tensor in program.weights.items()}
    values[program.input.name] = first
    for position, node in program.nodes:
        run_node(node, position, place, values)
    output = values.get(program.output)
    if isinstance(output, Stretches):
        raise output.refusal
    if not isinstance(output, Traced):
        raise InvalidModelError(f"'{program.output}' does not depend on the input; choose another output")
    try:
        graph = Graph(without_infinities(output.node, steps.like))
    except InfiniteError as error:
        raise UnsupportedOpError(
            f"'{error.origin.name}' has entries that are minus infinity, as masks do: {error} Softmax, maxima and "
            "activations with a limit there understand them; elsewhere put a large negative number in their place"
        ) from error
    terms = (operator for node in graph.nodes if isinstance(node, Affine) for operator, _ in node.terms)
    check_work(sum(products(operator) for operator in terms), "the network")
    return graph


def input_shape(program: Program) -> tuple[int, ...]:
    """The shape of the input tensor for one point, as the file's own operations see it."""
    return _input(program.input).shape


def open_batch(program: Program) -> bool:
    """Whether the input's axis 0 has no fixed length, so that it holds a batch."""
    return _lengths(program.input)[:1] == [None]


def _lengths(entry: ValueInfoProto) -> list[int | None]:
    """Lengths of the input's axes; None where one is left open (also written as 0 or -1)."""
    dims = entry.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]


def _input(entry: ValueInfoProto) -> Traced:
    """The input for one point: axis 0 is the batch if it is open or 1."""
    kind: TypeProto.Tensor = entry.type.tensor_type
    if not entry.type.HasField("tensor_type") or kind.elem_type not in FLOATS:
        raise InvalidModelError(
            f"input '{entry.name}' holds {element_type(kind.elem_type)}; networks of FLOAT or DOUBLE inputs are "
            "understood: export the float32 model"
        )
    lengths = _lengths(entry)
    shown = [
        dim.dim_param or dim.dim_value or "?" if length is None else length
        for dim, length in zip(kind.shape.dim, lengths, strict=True)
    ]
    if not lengths:
        raise InvalidModelError(
            f"input '{entry.name}' declares no shape or is a single number; "
            "export it with a batch axis in front (a dynamic axis 0, or an example with one point)"
        )
    shape = (lengths[0] or 1, *(length for length in lengths[1:] if length is not None))
    if len(shape) < len(lengths):
        raise InvalidModelError(
            f"input '{entry.name}' has shape {shown}: only axis 0 may be left open; "
            "export it with the other lengths fixed"
        )
    check_size(shape, f"input '{entry.name}'", LARGEST_RESULT)
    dtype = np.dtype(np.float32 if kind.elem_type == TensorProto.FLOAT else np.float64)
    return Traced(Input(point_shape(shape), entry.name), shape, dtype)
