"""A model of several inputs as one of a single input: their entries side by side, in the order of the file."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from jacobound.importers.onnx.model.names import all_nodes, needed, outer_names
from jacobound.importers.onnx.model.safety import FLOATS, LARGEST_RESULT, File, check_size
from jacobound.importers.onnx.walk import output_name


def side_by_side(file: File, until: str | None) -> File:
    """The file with one input of shape (batch, total) in the place of those that its output needs; itself for one.

    Axis 0 stays open where it is open in all inputs. What can not be joined (integers, lengths that are open) is left,
    to be refused by name.
    """
    entries = _varying(file.flat, until)
    kinds = {entry.type.tensor_type.elem_type for entry in entries}
    lengths = [_lengths(entry) for entry in entries]
    fixed = all(own and None not in own[1:] for own in lengths)
    if len(entries) < 2 or len(kinds) != 1 or not kinds <= {*FLOATS} or not fixed:
        return file
    batched = all(own[0] is None for own in lengths)
    shapes = [(own[0] or 1, *(length or 1 for length in own[1:])) for own in lengths]
    for entry, shape in zip(entries, shapes, strict=True):
        check_size(shape, f"input '{entry.name}'", LARGEST_RESULT)
    total = sum(prod(shape) for shape in shapes)
    name = "|".join(entry.name for entry in entries)
    joined = helper.make_tensor_value_info(name, kinds.pop(), ["batch" if batched else 1, total])
    made = [_joined(model, entries, shapes, joined, batched) for model in (file.model, file.flat)]
    return replace(file, data=made[0].SerializeToString(), model=made[0], flat=made[1])


def _varying(model: ModelProto, until: str | None) -> list[ValueInfoProto]:
    """The inputs without stored values that the output needs."""
    output = output_name(model, until)
    kept = needed(model.graph.node, output)
    wanted = {output}.union(*(outer_names(model.graph.node[k]) for k in kept))
    stored = {tensor.name for tensor in model.graph.initializer}
    return [entry for entry in model.graph.input if entry.name in wanted and entry.name not in stored]


def _lengths(entry: ValueInfoProto) -> list[int | None]:
    dims = entry.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]


def _joined(
    model: ModelProto,
    entries: list[ValueInfoProto],
    shapes: list[tuple[int, ...]],
    joined: ValueInfoProto,
    batched: bool,
) -> ModelProto:
    """A model whose inputs are taken out of one."""
    found = ModelProto()
    found.CopyFrom(model)
    taken = {name for node in all_nodes(model.graph.node) for name in (*node.input, *node.output)}
    first: list[NodeProto] = []
    start = 0
    for entry, shape in zip(entries, shapes, strict=True):
        label = f"{joined.name}/{entry.name}"
        while any(name.startswith(label) for name in taken):
            label += "#"
        places = np.arange(start, start + prod(shape))
        start += len(places)
        goal = np.array([-1, *shape[1:]] if batched else shape, dtype=np.int64)
        for name, value in ((f"{label}/places", places), (f"{label}/shape", goal)):
            first.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        first.append(helper.make_node("Gather", [joined.name, f"{label}/places"], [f"{label}/row"], axis=1))
        first.append(helper.make_node("Reshape", [f"{label}/row", f"{label}/shape"], [entry.name]))
    _replaced(found.graph, first, joined, {entry.name for entry in entries})
    return found


def _replaced(graph: GraphProto, first: list[NodeProto], joined: ValueInfoProto, gone: set[str]) -> None:
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    kept = [entry for entry in graph.input if entry.name not in gone]
    inputs = [ValueInfoProto.FromString(entry.SerializeToString()) for entry in (joined, *kept)]
    del graph.node[:], graph.input[:]
    graph.node.extend([*first, *nodes])
    graph.input.extend(inputs)
