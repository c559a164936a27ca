"""Models with functions of their own: every call is replaced by what it stands for, after counting what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx.inliner
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from jacobound.errors import InvalidModelError

MOST_NODES = 100_000
MOST_BYTES = 1 << 28  # of the operations that calls are replaced by

Key = tuple[str, str, str]


def inlined(model: ModelProto, subject: str) -> ModelProto:
    """The model without functions of its own.

    Raises:
        InvalidModelError: when functions call each other in a circle, would become too many operations, or can not be
            inserted.
    """
    if not model.functions:
        return model
    functions: dict[Key, FunctionProto] = {}
    for function in model.functions:
        if _key(function) in functions:
            raise InvalidModelError(f"{subject}: defines the function '{function.name}' twice; the file is damaged")
        functions[_key(function)] = function
    _check_growth(model, functions, subject)
    try:
        flat = onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # the errors of the C++ code share no base
        raise InvalidModelError(
            f"{subject}: its own functions can not be inserted ({str(error)[:300]}); export it without functions"
        ) from error
    if flat.functions:
        names = ", ".join(f"'{function.name}'" for function in list(flat.functions)[:5])
        raise InvalidModelError(
            f"{subject}: its functions {names} are for another ONNX opset and can not be inserted; "
            "export it without functions"
        )
    return flat


def _check_growth(model: ModelProto, functions: dict[Key, FunctionProto], subject: str) -> None:
    """Refuse circles, and what would be too large, by adding up sizes from the innermost functions outward."""
    sizes: dict[Key, tuple[int, int]] = {}  # operations and bytes when everything inside is inserted
    active: set[Key] = set()
    stack: list[tuple[Key, bool]] = [(key, False) for key in functions]
    while stack:
        key, ready = stack.pop()
        if key in sizes:
            continue
        inside = [found for found in map(_key, _all_nodes(functions[key].node)) if found in functions]
        if ready:
            active.discard(key)
            sizes[key] = _total(functions[key].node, sizes)
        else:
            if key in active:
                raise InvalidModelError(f"{subject}: its function '{key[1]}' calls itself; the file is damaged")
            active.add(key)
            stack.append((key, True))
            stack.extend((found, False) for found in inside)
    count, size = _total(model.graph.node, sizes)
    if count > MOST_NODES or size - sum(node.ByteSize() for node in model.graph.node) > MOST_BYTES:
        raise InvalidModelError(
            f"{subject}: with its functions inserted it has {count} operations of {size} bytes; that is too much"
        )


def _total(nodes: Iterable[NodeProto], sizes: dict[Key, tuple[int, int]]) -> tuple[int, int]:
    count = size = 0
    for node in nodes:
        count, size = count + 1, size + node.ByteSize()
    for node in _all_nodes(nodes):
        more = sizes.get(_key(node), (0, 0))
        count, size = count + more[0], size + more[1]
    return count, size


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The operations, also those of inner graphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            inner: list[GraphProto] = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            for graph in inner:
                yield from _all_nodes(graph.node)


def _key(thing: NodeProto | FunctionProto) -> Key:
    name = thing.op_type if isinstance(thing, NodeProto) else thing.name
    return ("" if thing.domain == "ai.onnx" else thing.domain), name, thing.overload
