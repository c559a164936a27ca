"""One ONNX operation: checked against its definition, evaluated when it is constant, lowered to nodes otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import onnx
from onnx import GraphProto, NodeProto

from jacobound.activations import onnx_builder
from jacobound.errors import InvalidModelError, ShapeError, UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.common import unsupported
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.onnx.bodies import body_of
from jacobound.importers.onnx.loops import loop, scan
from jacobound.importers.onnx.model.evaluate import FOLDABLE, attributes, describe, evaluate, result_shapes
from jacobound.importers.onnx.model.names import branches, outer_names
from jacobound.importers.onnx.model.safety import BYTES, array, check_numbers, wrong_type
from jacobound.importers.onnx.operations.call import Call, Traced, Value
from jacobound.importers.onnx.operations.refusals import advice, refuse_by_name
from jacobound.importers.onnx.operations.stretches import Stretches, on_stretches
from jacobound.importers.onnx.operations.table import LOWERINGS, activation

MOST_FOLDED = 2**32  # multiplications of constants with each other
MOST_ENTRIES = 2**26  # of all results together; VGG-16 has 2^25
# What the checker refuses because a later opset gave it another form.
SUPERSEDED = tuple(("GroupNormalization", version) for version in (18, 19, 20))
STANDARD = "Export the network with the standard ONNX operations only."


@dataclass(eq=False)
class Place:
    """What all operations of a model share.

    Args:
        version: of the operator set.
        steps: builds the nodes.
        open_batch: the input's axis 0 has no fixed length, so that it holds a batch.
        entries: of all results so far.
        folded: multiplications of constants with each other so far.
        made: for the nodes so far the operation that each is the result of.
    """

    version: int
    steps: AffineSteps
    open_batch: bool
    entries: int = 0
    folded: int = 0
    made: dict[Node, Call] = field(default_factory=dict)

    def hold(self, shape: tuple[int, ...]) -> None:
        """Count a result, and refuse what would take hours."""
        self.entries += prod(shape)
        if self.entries > MOST_ENTRIES:
            raise InvalidModelError(
                f"the results of all operations have more than {MOST_ENTRIES} entries together; "
                "nothing of that size is imported"
            )

    def fold(self, products: int) -> None:
        """Count products of constants, and refuse what a small file makes of little."""
        self.folded += products
        if self.folded > MOST_FOLDED:
            raise InvalidModelError(
                f"its constants are multiplied over {MOST_FOLDED} times; store the result in the file"
            )


def check_node(node: NodeProto, position: int, version: int, made: Collection[str]) -> None:
    """Refuse operations that ONNX does not define, or whose attributes or inputs are not as it defines them.

    Args:
        node: the operation.
        position: in the file.
        version: of the operator set.
        made: the tensors that exist before it.
    """
    where = f"position {position}"
    if node.domain not in ("", "ai.onnx"):
        raise unsupported(describe(node), where, f"It is from the domain '{node.domain}'.", STANDARD)
    if not onnx.defs.has(node.op_type, version, ""):
        raise unsupported(describe(node), where, f"ONNX opset {version} has no such operation.", STANDARD)
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = onnx.IR_VERSION, {"": version}
    plain = NodeProto()
    plain.CopyFrom(node)
    plain.domain = ""
    try:
        # It knows no names from outside of an inner graph; those are checked when used.
        if not branches(node) and (node.op_type, version) not in SUPERSEDED:
            onnx.checker.check_node(plain, context)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InvalidModelError(f"{describe(node)} at {where}: {reason}; export the model again") from error
    if branches(node):
        _check_branching(node, where, onnx.defs.get_schema(node.op_type, version, ""))
    for name in outer_names(node):
        if name not in made:
            raise InvalidModelError(
                f"{describe(node)} at {where} reads '{name}', which nothing before it gives; the file is damaged"
            )
    for name in node.output:
        if name and name in made:
            raise InvalidModelError(f"{describe(node)} at {where}: '{name}' exists already; the file is damaged")


def _check_branching(node: NodeProto, where: str, schema: onnx.defs.OpSchema) -> None:
    """What the checker would say of an operation with inner graphs, whose outer names it does not know."""
    for attribute in node.attribute:
        definition = schema.attributes.get(attribute.name)
        held = {field.name for field, _ in attribute.ListFields()} - {"name", "type", "doc_string"}
        if definition is None or int(definition.type) != attribute.type or len(held) > 1:  # type: ignore[call-overload]
            raise InvalidModelError(
                f"{describe(node)} at {where}: attribute '{attribute.name}' is not what it takes; export it again"
            )
    given = {attribute.name for attribute in node.attribute}
    missing = [name for name, definition in schema.attributes.items() if definition.required and name not in given]
    if missing or not schema.min_input <= len(node.input) <= schema.max_input:
        raise InvalidModelError(
            f"{describe(node)} at {where}: it lacks {missing or 'inputs, or has too many'}; export the model again"
        )


def run_node(node: NodeProto, position: int, place: Place, values: dict[str, Value]) -> None:
    """Add the results of a checked operation to the values."""
    inputs = tuple(values[name] if name else None for name in node.input)
    if node.op_type == "If" and isinstance(inputs[0], np.ndarray):
        results = _taken_branch(node, position, place, values, inputs[0])
    elif node.op_type in ("Loop", "Scan") and not any(isinstance(value, Stretches) for value in inputs):
        results = _repeated(node, position, place, values, inputs)
    else:
        results = _results(node, position, place, inputs)
    for name, value in zip(node.output, results, strict=False):
        if name:
            place.hold(value.shape)
            values[name] = value


def _taken_branch(
    node: NodeProto, position: int, place: Place, values: dict[str, Value], condition: np.ndarray
) -> tuple[Value, ...]:
    """The results of an If whose condition does not depend on the network's input."""
    branches = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
    branch = branches.get("then_branch" if bool(condition.all()) else "else_branch")
    if branch is None or condition.size != 1 or len(branch.output) != len(node.output):
        raise InvalidModelError(f"{describe(node)} at position {position}: its branches do not fit; export it again")
    return _inside(node, branch, position, place, values)


def _repeated(
    node: NodeProto, position: int, place: Place, values: dict[str, Value], inputs: tuple[Value | None, ...]
) -> tuple[Value, ...]:
    """The results of a Loop or a Scan, step by step."""
    given = attributes(node, place.version)
    body = given.get("body")
    assert isinstance(body, GraphProto)  # its definition says so

    def run(graph: GraphProto, own: Mapping[str, Value]) -> tuple[Value, ...]:
        return _inside(node, graph, position, place, {**values, **own})

    try:
        if node.op_type == "Loop":
            return tuple(loop(node, inputs, body, run, place.steps))
        return tuple(scan(node, inputs, given, place.version, body, run, place.steps))
    except (UnsupportedOpError, ShapeError) as error:
        if str(error).startswith("Op '"):
            raise  # of an operation inside
        raise unsupported(
            describe(node), f"position {position}", str(error), advice(node, _cut(node, inputs))
        ) from error


def _inside(
    node: NodeProto, graph: GraphProto, position: int, place: Place, values: Mapping[str, Value]
) -> tuple[Value, ...]:
    """The results of an inner graph, which sees the values around it."""
    scope = {**values, **{tensor.name: array(tensor, tensor.name) for tensor in graph.initializer}}
    for inner in graph.node:
        check_node(inner, position, place.version, scope)
        run_node(inner, position, place, scope)
    missing = [entry.name for entry in graph.output if entry.name not in scope]
    if missing:
        raise InvalidModelError(f"{describe(node)} at position {position}: nothing gives '{missing[0]}'")
    return tuple(scope[entry.name] for entry in graph.output)


def _results(node: NodeProto, position: int, place: Place, inputs: tuple[Value | None, ...]) -> tuple[Value, ...]:
    """The results of one operation, as nodes or constants."""
    try:
        return _lowered(node, position, place, inputs)
    except (UnsupportedOpError, ShapeError) as error:
        reason = str(error) if str(error).endswith(".") else f"{error}."
        raise unsupported(describe(node), f"position {position}", reason, advice(node, _cut(node, inputs))) from error


def _lowered(node: NodeProto, position: int, place: Place, inputs: tuple[Value | None, ...]) -> tuple[Value, ...]:
    """This node with errors that hold the reason only."""
    if any(isinstance(value, Stretches) for value in inputs):
        return on_stretches(inputs, lambda own: _lowered(node, position, place, own), place.steps, node.output[0])
    constant = tuple(None if isinstance(value, Traced) else value for value in inputs)
    if not any(isinstance(value, Traced) for value in inputs) and node.op_type in ("Constant", *FOLDABLE):
        return _folded(node, place, constant)
    types = [None if value is None else (value.dtype, tuple(value.shape)) for value in inputs]
    if node.op_type not in LOWERINGS and onnx_builder(node.op_type) is None:
        body = body_of(node, place.version, types)
        if body is not None:
            return _of_body(node, position, place, inputs, *body)
    if not any(isinstance(value, Traced) for value in inputs):
        return _folded(node, place, constant)
    if node.op_type not in LOWERINGS:
        refuse_by_name(node)
    shapes = result_shapes(node, place.version, types, constant)
    if any(name and shape is None for name, shape in zip(node.output, shapes, strict=True)):
        raise UnsupportedOpError("The shape of its result is not known.")
    known = tuple(shape or () for shape in shapes)
    given = attributes(node, place.version)
    call = Call(node, place.version, given, inputs, known, place.steps, place.open_batch, place.made)
    results = LOWERINGS.get(node.op_type, activation)(call)
    if any(node.output[len(results) :]):
        raise UnsupportedOpError(f"Only its first {len(results)} results are understood.")
    for value in results:
        if isinstance(value, Traced):
            place.made.setdefault(value.node, call)
    return results


def _of_body(
    node: NodeProto,
    position: int,
    place: Place,
    inputs: tuple[Value | None, ...],
    version: int,
    body: list[NodeProto],
) -> tuple[Value, ...]:
    """The results of an operation by its definition in ONNX, whose operations may be of another version."""
    values: dict[str, Value] = {
        name: value for name, value in zip(node.input, inputs, strict=True) if name and value is not None
    }
    inside = replace(place, version=version)
    for inner in body:
        given = tuple(values[name] if name else None for name in inner.input)
        try:
            if inner.op_type == "If" and isinstance(given[0], np.ndarray):
                results = _taken_branch(inner, position, inside, values, given[0])
            else:
                results = _lowered(inner, position, inside, given)
        except (UnsupportedOpError, ShapeError) as error:
            raise UnsupportedOpError(
                f"ONNX defines it by other operations, of which {inner.op_type}: {error}"
            ) from error
        for name, value in zip(inner.output, results, strict=False):
            if name:
                inside.hold(value.shape)
                values[name] = value
    place.entries, place.folded = inside.entries, inside.folded
    if any(name and name not in values for name in node.output):
        raise UnsupportedOpError("Not all of its results are defined.")
    return tuple(values.get(name, np.zeros(())) for name in node.output)


def _cut(node: NodeProto, inputs: tuple[Value | None, ...]) -> str | None:
    """The tensor before which the network could be cut."""
    return next((name for name, value in zip(node.input, inputs, strict=True) if isinstance(value, Traced)), None)


def _folded(node: NodeProto, place: Place, inputs: tuple[np.ndarray | None, ...]) -> tuple[np.ndarray, ...]:
    """The results of an operation on constants; they count as weights."""
    if node.op_type == "Constant":
        results = (_stored(node),)
    elif node.op_type in FOLDABLE:
        types = [None if value is None else (value.dtype, value.shape) for value in inputs]
        shapes = result_shapes(node, place.version, types, inputs)
        if None in shapes and node.op_type != "NonZero":  # which gives at most its input's size times its axes
            raise UnsupportedOpError("The size of its result depends on values.")
        if node.op_type in ("MatMul", "Gemm") and inputs[0] is not None and shapes[0] is not None:
            place.fold(prod(shapes[0]) * max(inputs[0].shape, default=1))
        results = evaluate(node, place.version, inputs)
    else:
        refuse_by_name(node)
        raise UnsupportedOpError("It stands between constants, and is not among the operations evaluated there.")
    allowed = {onnx.helper.tensor_dtype_to_np_dtype(number) for number in BYTES}
    for name, value in zip(node.output, results, strict=False):
        if value.dtype not in allowed:
            raise InvalidModelError(wrong_type(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype)))
        check_numbers(value, name)
    return results


def _stored(node: NodeProto) -> np.ndarray:
    """The value of a Constant."""
    if len(node.attribute) != 1:
        raise InvalidModelError(f"{describe(node)}: a constant has one value, this one {len(node.attribute)}")
    attribute = node.attribute[0]
    if attribute.name == "value":
        return array(attribute.t, node.output[0])
    if attribute.name in ("value_float", "value_floats"):
        return np.array(onnx.helper.get_attribute_value(attribute), dtype=np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(onnx.helper.get_attribute_value(attribute), dtype=np.int64)
    raise UnsupportedOpError(f"A constant given as '{attribute.name}' is not understood.")
