"""Whether the element types of a model fit the definitions of its operations: what an engine refuses to load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx.model.evaluate import KNOWN_VALUES, describe
from jacobound.importers.onnx.model.names import branches

VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic


def check_types(model: ModelProto, subject: str) -> None:
    """Refuse a model without functions of its own whose tensors do not have the types that its operations take.

    Declared element types count, and declared shapes do not: engines compute them anew.

    Raises:
        InvalidModelError: with the operation.
    """
    plain = _without_shapes(model)
    try:
        found = onnx.shape_inference.infer_shapes(plain, check_type=True, strict_mode=True)
    except Exception as error:  # the errors of the C++ code share no base
        raise InvalidModelError(
            f"{subject}: its types or shapes do not fit ({_told(error)}); export it again"
        ) from error
    _check_names(model, subject)
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    types = {entry.name: entry.type for entry in (*found.graph.value_info, *found.graph.input, *found.graph.output)}
    for tensor in found.graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, None)
    for node in found.graph.node:
        if node.domain in ("", "ai.onnx") and not branches(node) and onnx.defs.has(node.op_type, version, ""):
            _check(node, onnx.defs.get_schema(node.op_type, version, ""), types, subject)


def _check_names(model: ModelProto, subject: str) -> None:
    """Refuse operations of one name, and stored inputs of another shape than they are declared with."""
    names = [node.name for node in model.graph.node if node.name]
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise InvalidModelError(f"{subject}: two operations are called '{twice}'; export it again")
    lengths = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape.dim
        known = [dim.dim_value for dim in dims] if all(dim.HasField("dim_value") for dim in dims) else None
        if known and entry.name in lengths and known != lengths[entry.name]:
            raise InvalidModelError(
                f"{subject}: input '{entry.name}' is declared with shape {known}, its stored value has "
                f"{lengths[entry.name]}; export it again"
            )


def _without_shapes(model: ModelProto) -> ModelProto:
    """The model without declared shapes inside, and with long weights as inputs of their type and shape."""
    plain = ModelProto()
    plain.CopyFrom(model)
    for entry in (*plain.graph.value_info, *plain.graph.output):
        if entry.type.HasField("tensor_type"):
            entry.type.tensor_type.ClearField("shape")
    known = {entry.name for entry in plain.graph.input}
    stored = list(plain.graph.initializer)
    del plain.graph.initializer[:]
    for tensor in stored:
        if tensor.name not in known:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            plain.graph.input.append(info)
        if len(tensor.dims) <= 1 and sum(tensor.dims) <= KNOWN_VALUES:
            plain.graph.initializer.append(tensor)
    return plain


def _check(node: NodeProto, schema: onnx.defs.OpSchema, types: Mapping[str, TypeProto], subject: str) -> None:
    allowed = {entry.type_param_str: set(entry.allowed_type_strs) for entry in schema.type_constraints}
    bound: dict[str, str] = {}
    for name, variable, mixed in _formal(node, schema):
        given = _text(types.get(name))
        if not name or given is None:
            continue
        if given not in allowed.get(variable, {variable}):
            raise InvalidModelError(
                f"{subject}: {describe(node)}: '{name}' is {given}, which it does not take; export it again"
            )
        if not mixed and bound.setdefault(variable, given) != given:
            raise InvalidModelError(
                f"{subject}: {describe(node)}: '{name}' is {given}, where another of its tensors is {bound[variable]}; "
                "export it again"
            )


def _formal(node: NodeProto, schema: onnx.defs.OpSchema) -> Iterator[tuple[str, str, bool]]:
    """Tensors of an operation with the type variable of each, and whether several may stand for different types."""
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for k, name in enumerate(names):
            if formals and (k < len(formals) or formals[-1].option == VARIADIC):
                formal = formals[min(k, len(formals) - 1)]
                yield name, formal.type_str, formal.option == VARIADIC and not formal.is_homogeneous


def _text(kind: TypeProto | None) -> str | None:
    """A tensor's type as the definitions write it; None when it is not known."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.elem_type:
        return None
    return f"tensor({TensorProto.DataType.Name(kind.tensor_type.elem_type).lower()})"


def _told(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
