"""What ONNX itself defines an operation to be made of: the fallback for operations without a rule of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, helper

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx.model.functions import Inserter

Kind = tuple[np.dtype, tuple[int, ...]]


def body_of(node: NodeProto, version: int, kinds: Sequence[Kind | None]) -> tuple[int, list[NodeProto]] | None:
    """The operations that an operation stands for, and the opset that they are written in; None when it has no body.

    Args:
        node: the operation.
        version: of the operator set of the model.
        kinds: element type and shape of each input; None where an optional one is left out.
    """
    schema: Any = onnx.defs.get_schema(node.op_type, version, "")  # whose stubs do not know all of it
    found: FunctionProto | None = None
    if schema.has_context_dependent_function:
        opsets = [one for one in schema.context_dependent_function_opset_versions if one <= version]
        types = [
            helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(kind[0]), kind[1]).SerializeToString()
            if kind is not None
            else onnx.TypeProto().SerializeToString()
            for kind in kinds
        ]
        data = (
            schema.get_context_dependent_function_with_opset_version(max(opsets), node.SerializeToString(), types)
            if opsets
            else b""
        )
        found = FunctionProto.FromString(data) if data else None
    elif schema.has_function:
        opsets = [one for one in schema.function_opset_versions if one <= version]
        whole = schema.get_function_with_opset_version(max(opsets)) if opsets else None
        found = FunctionProto.FromString(whole) if isinstance(whole, bytes) else whole
    if found is None or not found.node:
        return None
    own = {entry.domain: entry.version for entry in found.opset_import}
    return own.get("", version), _inserted(node, found, schema.attributes)


def _inserted(
    node: NodeProto, function: FunctionProto, defaults: Mapping[str, onnx.defs.OpSchema.Attribute]
) -> list[NodeProto]:
    """The body with the names and attributes of a call."""
    call = NodeProto()
    call.CopyFrom(node)
    given = {attribute.name for attribute in node.attribute}
    call.attribute.extend(
        one.default_value for name, one in defaults.items() if name not in given and one.default_value.type
    )
    whole = FunctionProto()
    whole.CopyFrom(function)
    whole.attribute.extend(name for name in defaults if name not in function.attribute)
    try:
        return Inserter({}, f"the definition of {node.op_type}").body(call, whole)
    except InvalidModelError:
        return []
