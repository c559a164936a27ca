"""Running single ONNX operations on arrays, with the size of every result known before it is computed.

Three uses: what does not depend on the network's input is evaluated once; data movement is run on positions instead
of values; and the shape of every result comes from the operator's own definition, not from ours.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx.model.safety import LARGEST_RESULT, check_size

# Deterministic operations without control flow: what may stand between stored constants and their use.
# fmt: off
FOLDABLE = frozenset((
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape",
    "Cos", "CumSum", "DepthToSpace", "Div", "Equal", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Gemm", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log",
    "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad", "Pow", "Range",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sign", "Sin",
    "Size", "Slice", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu",
    "Unsqueeze", "Where", "Xor",
))
# fmt: on
KNOWN_VALUES = 4096  # constants up to this length are shown to shape inference (shapes, axes, repeats)
KEEPING_SHAPE = (
    "GroupNormalization",
    "MeanVarianceNormalization",
)  # of whose one result ONNX's shape inference says nothing


def result_shapes(
    node: NodeProto,
    version: int,
    types: Sequence[tuple[np.dtype, tuple[int, ...]] | None],
    known: Sequence[np.ndarray | None],
) -> tuple[tuple[int, ...] | None, ...]:
    """The shape of each result by ONNX's own shape inference; None where it depends on values.

    Args:
        node: the operation.
        version: of the operator set.
        types: element type and shape of each input; None where an optional one is left out.
        known: the value of each input that is constant.

    Raises:
        InvalidModelError: when the inputs do not fit the operation or a result is too large.
    """
    _check_equation(node)
    _check_split(node)
    if node.op_type in KEEPING_SHAPE:
        return (types[0][1] if types and types[0] is not None else None,) * len(node.output)
    described: dict[str, TypeProto] = {}
    values: dict[str, TensorProto] = {}
    for name, kind, value in zip(node.input, types, known, strict=True):
        if kind is not None:
            described[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(kind[0]), kind[1])
        if value is not None and value.size <= KNOWN_VALUES:
            values[name] = numpy_helper.from_array(value)
    schema = onnx.defs.get_schema(node.op_type, version, "")
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, node, described, values, opset_imports=[helper.make_opsetid("", version)]
        )
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        ValueError,
        RuntimeError,
    ) as error:
        raise InvalidModelError(f"{describe(node)}: its inputs do not fit ({_short(error)})") from error
    shapes = tuple(_known_shape(found.get(name)) for name in node.output)
    limit = max(LARGEST_RESULT, sum(value.size for value in known if value is not None))
    for name, shape in zip(node.output, shapes, strict=True):
        if shape is not None:
            check_size(shape, f"the result '{name}' of {describe(node)}", limit)
    return shapes


def evaluate(node: NodeProto, version: int, arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
    """The results of one operation on arrays, by the reference evaluator of the `onnx` package.

    Raises:
        InvalidModelError: when it can not be computed.
    """
    given = [array for array in arrays if array is not None]
    if node.op_type == "GatherElements" and len(given) == 2:  # that of onnx takes for ever
        return (_gathered(node, *given),)
    node = copy.deepcopy(node)
    results = [name or f"unused result {k}" for k, name in enumerate(node.output)]
    feeds = {name: array for name, array in zip(node.input, arrays, strict=True) if array is not None}
    del node.output[:]
    node.output.extend(results)
    graph = helper.make_graph(
        [node],
        "one operation",
        [helper.make_empty_tensor_value_info(name) for name in feeds],
        [helper.make_empty_tensor_value_info(name) for name in results],
    )
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(graph, opsets={"": version}).run(None, feeds)
    except Exception as error:  # whatever a foreign file makes the evaluator stumble over
        raise InvalidModelError(f"{describe(node)}: can not be evaluated ({_short(error)})") from error
    return tuple(np.asarray(array) for array in found)


def _gathered(node: NodeProto, data: np.ndarray, index: np.ndarray) -> np.ndarray:
    """GatherElements: along one axis the entry that the index names; along the others as far as the index goes."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    try:
        axis = axis % data.ndim
        kept = tuple(slice(None) if k == axis else slice(0, n) for k, n in enumerate(index.shape))
        length = data.shape[axis]
        if index.size and not -length <= index.min() <= index.max() < length:
            raise ValueError(f"an index is outside of the {length} entries")
        return np.take_along_axis(data[kept], index % max(length, 1), axis)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise InvalidModelError(f"{describe(node)}: can not be evaluated ({_short(error)})") from error


def describe(node: NodeProto) -> str:
    """What an operation is called in messages."""
    name = f"node '{node.name}', " if node.name else ""
    return f"Op '{node.op_type}' ({name}output '{next(iter(node.output), '')}')"


def attributes(node: NodeProto, version: int) -> Mapping[str, object]:
    """The attributes of an operation with the defaults of its definition filled in; texts as str."""
    schema = onnx.defs.get_schema(node.op_type, version, "")
    found: dict[str, object] = {}
    for name, definition in schema.attributes.items():
        if definition.default_value.type:
            found[name] = helper.get_attribute_value(definition.default_value)
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise InvalidModelError(f"{describe(node)}: attribute '{attribute.name}' refers to a function's argument")
        value = helper.get_attribute_value(attribute)
        if any(
            math.isnan(entry) for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, float)
        ):
            raise InvalidModelError(
                f"{describe(node)}: attribute '{attribute.name}' is NaN, which is no finite number; check the file"
            )
        found[attribute.name] = value
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in found.items()
    }


def _known_shape(kind: TypeProto | None) -> tuple[int, ...] | None:
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _check_split(node: NodeProto) -> None:
    """Refuse a Split with other outputs than it promises: ONNX's shape inference would end the process."""
    promised = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "num_outputs"), None)
    if node.op_type == "Split" and promised is not None and promised != len(node.output):
        raise InvalidModelError(f"{describe(node)}: it has {len(node.output)} outputs, not {promised}; export it again")


def _check_equation(node: NodeProto) -> None:
    """Refuse an Einsum whose equation is none, before ONNX's shape inference sees it: some keep it busy for ever."""
    if node.op_type != "Einsum":
        return
    given = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "equation"), b"")
    equation = given.decode(errors="replace").replace(" ", "") if isinstance(given, bytes) else ""
    term = r"[A-Za-z]*(?:\.\.\.)?[A-Za-z]*"
    if not re.fullmatch(rf"{term}(?:,{term}){{{len(node.input) - 1}}}(?:->{term})?", equation):
        raise InvalidModelError(
            f"{describe(node)}: the equation {equation[:60]!r} does not fit {len(node.input)} inputs; export it again"
        )


def _short(error: Exception) -> str:
    """The first line of a foreign message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
