"""Models with functions of their own: every call is replaced by what it stands for, after counting what comes out.

A call gives its function inputs and attributes; attributes that it leaves out have the function's default, and what
refers to one without default is left out as well. What engines read differently is refused by name: functions that
have the name of a built-in operation, and functions written for another definition of an operation than the model's.
Source: https://onnx.ai/onnx/repo-docs/IR.html, section Functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx.model.names import all_nodes, branches, outer_names

MOST_NODES = 100_000
MOST_BYTES = 1 << 28  # of the operations that calls are replaced by
DEEPEST = 64  # inner graphs inside each other
ENGINES = ("com.microsoft", "com.ms", "org.pytorch")  # whose operations an engine defines itself
AGAIN = "export it without functions"

Key = tuple[str, str, str]


def inlined(model: ModelProto, subject: str) -> ModelProto:
    """The model without functions of its own; the model itself when it has none.

    Raises:
        InvalidModelError: when functions call each other in a circle, would become too many operations, have the name
            of a built-in operation, are for another version of it, or are called with what they do not take.
    """
    if not model.functions:
        return model
    functions: dict[Key, FunctionProto] = {}
    for function in model.functions:
        if _key(function) in functions:
            raise InvalidModelError(f"{subject}: defines the function '{function.name}' twice; the file is damaged")
        functions[_key(function)] = function
    called = _called(model, functions)
    for key in called:
        _check_definition(functions[key], model, subject)
    _check_growth(model, {key: functions[key] for key in called}, subject)
    taken = {entry.name for entry in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    taken.update(name for node in all_nodes(model.graph.node) for name in (*node.input, *node.output))
    flat = ModelProto()
    flat.CopyFrom(model)
    del flat.functions[:]
    del flat.graph.node[:]
    flat.graph.node.extend(Inserter(functions, subject, taken).all(model.graph.node, 0))
    return flat


def _called(model: ModelProto, functions: Mapping[Key, FunctionProto]) -> list[Key]:
    """The functions that the model calls, directly or through others."""
    found: dict[Key, None] = {}
    waiting = [_key(node) for node in all_nodes(model.graph.node)]
    while waiting:
        key = waiting.pop()
        if key in functions and key not in found:
            found[key] = None
            waiting.extend(_key(node) for node in all_nodes(functions[key].node))
    return list(found)


def _check_definition(function: FunctionProto, model: ModelProto, subject: str) -> None:
    """Refuse what engines read differently, and what is no function."""
    called = f"{subject}: its function '{function.name}'"
    domain = _plain(function.domain)
    if domain == "" or onnx.defs.has(function.name, domain):
        raise InvalidModelError(
            f"{called} has the name and domain ('{function.domain}') of a built-in operation; engines differ in which "
            f"of the two is called. Give it a domain of its own, or {AGAIN}"
        )
    if any(domain == engine or domain.startswith(f"{engine}.") for engine in ENGINES):
        raise InvalidModelError(
            f"{called} is in the domain '{domain}', whose operations an engine defines itself. Give it a domain of its "
            f"own, or {AGAIN}"
        )
    versions = {_plain(entry.domain): entry.version for entry in model.opset_import}
    own = {entry.domain: entry.version for entry in function.opset_import}  # by the very names that its calls have
    if domain not in versions:
        raise InvalidModelError(f"{called} is in the domain '{domain}', which the model does not import; {AGAIN}")
    for node in all_nodes(function.node):
        if node.domain not in own:
            raise InvalidModelError(f"{called} calls '{node.op_type}' of a domain that it does not import; {AGAIN}")
        mine = own[node.domain]
        theirs = versions.get("", mine) if _plain(node.domain) == "" else mine
        if mine != theirs and _definition(node.op_type, mine) != _definition(node.op_type, theirs):
            raise InvalidModelError(
                f"{called} calls '{node.op_type}' as ONNX opset {mine} defines it, the model uses opset {theirs}, "
                f"which defines it anew; export both for one opset, or {AGAIN}"
            )
    _check_names(function, called)


def _check_names(function: FunctionProto, called: str) -> None:
    """Refuse functions that read what they are not given, or give what they do not make."""
    made = set(function.input)
    for node in function.node:
        missing = outer_names(node) - made
        if missing:
            raise InvalidModelError(f"{called} reads '{sorted(missing)[0]}' before it has it; {AGAIN}")
        made.update(node.output)
    for name in function.output:
        if name not in made or name in function.input:
            raise InvalidModelError(f"{called} does not compute its output '{name}'; {AGAIN}")
    named = [entry.name for entry in function.attribute_proto]
    known = {*function.attribute, *named}
    if len(set(named)) < len(named) or "" in (*function.input, *function.output):
        raise InvalidModelError(f"{called} has two defaults for one attribute, or inputs without names; {AGAIN}")
    for node in all_nodes(function.node):
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.ref_attr_name not in known:
                raise InvalidModelError(
                    f"{called}: '{attribute.name}' of '{node.op_type}' refers to '{attribute.ref_attr_name}', which is "
                    f"no attribute of the function; {AGAIN}"
                )


def _definition(operation: str, version: int) -> object:
    """Inputs, outputs and attributes of an operation as a version defines them; None when it knows none.

    Between versions that agree in these only the element types that are taken differ.
    """
    if not 0 < version <= onnx.defs.onnx_opset_version() or not onnx.defs.has(operation, version, ""):
        return None
    schema = onnx.defs.get_schema(operation, version, "")
    sides = [[(formal.option, formal.is_homogeneous) for formal in side] for side in (schema.inputs, schema.outputs)]
    given = {
        name: (definition.type, definition.required, definition.default_value.SerializeToString())
        for name, definition in schema.attributes.items()
    }
    return sides, given


@dataclass(eq=False)
class Inserter:
    """Puts bodies in the place of calls, with names that are used nowhere else.

    Args:
        functions: by domain, name and overload.
        subject: the file, for messages.
        taken: names in use.
    """

    functions: Mapping[Key, FunctionProto]
    subject: str
    taken: set[str] = field(default_factory=set)

    def all(self, nodes: Iterable[NodeProto], depth: int) -> list[NodeProto]:
        """The operations without calls, also inside of inner graphs."""
        if depth > DEEPEST:
            raise InvalidModelError(
                f"{self.subject}: with its functions inserted, graphs are nested over {DEEPEST} deep"
            )
        found: list[NodeProto] = []
        waiting = list(nodes)[::-1]
        while waiting:
            node = waiting.pop()
            function = self.functions.get(_key(node))
            if function is not None:
                waiting.extend(self.body(node, function)[::-1])
                continue
            if branches(node):
                whole = node
                node = NodeProto()
                node.CopyFrom(whole)
                for graph in branches(node):
                    inner = self.all(graph.node, depth + 1)
                    del graph.node[:]
                    graph.node.extend(inner)
            found.append(node)
        return found

    def body(self, call: NodeProto, function: FunctionProto) -> list[NodeProto]:
        """The operations that a call stands for, one level deep."""
        given = self.attributes(call, function)
        names: dict[str, str] = {"": ""}
        label = call.name or next(filter(None, call.output), function.name)
        for kind, of_function, of_call in (
            ("inputs", function.input, call.input),
            ("outputs", function.output, call.output),
        ):
            if len(of_call) > len(of_function):
                raise self.wrong(call, f"has {len(of_call)} {kind}, the function {len(of_function)}")
        names.update(dict.fromkeys(function.input, ""))
        names.update(zip(function.input, call.input, strict=False))
        names.update({one: other for one, other in zip(function.output, call.output, strict=False) if other})
        return [self.copied(node, names, label, given) for node in function.node]

    def attributes(self, call: NodeProto, function: FunctionProto) -> dict[str, AttributeProto]:
        """What a call gives, and the defaults of the rest."""
        given = {entry.name: entry for entry in function.attribute_proto}
        if len({attribute.name for attribute in call.attribute}) < len(call.attribute):
            raise self.wrong(call, "gives one attribute twice")
        for attribute in call.attribute:
            if attribute.name not in (*function.attribute, *given):
                raise self.wrong(call, f"gives the attribute '{attribute.name}', which the function does not have")
            given[attribute.name] = attribute
        return given

    def copied(
        self, node: NodeProto, names: dict[str, str], label: str, given: Mapping[str, AttributeProto]
    ) -> NodeProto:
        """An operation of a body with the names and attributes of a call; `names` learns what the operation makes."""
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.name:
            copy.name = f"{label}/{node.name}"
        del copy.input[:], copy.output[:], copy.attribute[:]
        copy.input.extend(names.get(name, name) for name in node.input)
        copy.output.extend(self.named(name, names, label) for name in node.output)
        for attribute in node.attribute:
            found = AttributeProto()
            if not attribute.ref_attr_name:
                found.CopyFrom(attribute)
            elif attribute.ref_attr_name in given:
                source = given[attribute.ref_attr_name]
                if attribute.type not in (AttributeProto.UNDEFINED, source.type):
                    raise self.wrong(node, f"takes '{source.name}' of a call for '{attribute.name}', of another type")
                found.CopyFrom(source)
                found.name = attribute.name
            else:
                continue
            copy.attribute.append(found)
        for graph in branches(copy):
            self.rename(graph, dict(names), label, given)
        return copy

    def rename(self, graph: GraphProto, names: dict[str, str], label: str, given: Mapping[str, AttributeProto]) -> None:
        """Renaming inside an inner graph, whose own names are new ones too."""
        for entry in (*graph.input, *graph.initializer):
            names.pop(entry.name, None)
            entry.name = self.named(entry.name, names, label)
        inner = [self.copied(node, names, label, given) for node in graph.node]
        del graph.node[:]
        graph.node.extend(inner)
        for entry in graph.output:
            entry.name = names.get(entry.name, entry.name)

    def named(self, name: str, names: dict[str, str], label: str) -> str:
        """What a tensor of a body is called in the model."""
        if name not in names:
            found, count = f"{label}/{name}", 1
            while found in self.taken:
                count += 1
                found = f"{label}/{name}#{count}"
            self.taken.add(found)
            names[name] = found
        return names[name]

    def wrong(self, node: NodeProto, reason: str) -> InvalidModelError:
        return InvalidModelError(
            f"{self.subject}: '{node.op_type}' (output '{next(iter(node.output), '')}') {reason}; the file is damaged"
        )


def _check_growth(model: ModelProto, functions: Mapping[Key, FunctionProto], subject: str) -> None:
    """Refuse circles, and what would be too large, by adding up sizes from the innermost functions outward."""
    sizes: dict[Key, tuple[int, int]] = {}  # operations and bytes when everything inside is inserted
    active: set[Key] = set()
    stack: list[tuple[Key, bool]] = [(key, False) for key in functions]
    while stack:
        key, ready = stack.pop()
        if key in sizes:
            continue
        inside = [found for found in map(_key, all_nodes(functions[key].node)) if found in functions]
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


def _total(nodes: Iterable[NodeProto], sizes: Mapping[Key, tuple[int, int]]) -> tuple[int, int]:
    count = size = 0
    for node in nodes:
        count, size = count + 1, size + node.ByteSize()
    for node in all_nodes(nodes):
        more = sizes.get(_key(node), (0, 0))
        count, size = count + more[0], size + more[1]
    return count, size


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _key(thing: NodeProto | FunctionProto) -> Key:
    name = thing.op_type if isinstance(thing, NodeProto) else thing.name
    return _plain(thing.domain), name, thing.overload
