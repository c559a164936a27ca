"""Names of tensors in ONNX graphs: what an operation reads, and an order in which nothing is read before it is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx import GraphProto, ModelProto, NodeProto

from jacobound.errors import InvalidModelError

LONG = "ai.onnx"


def branches(node: NodeProto) -> list[GraphProto]:
    """The inner graphs of an operation."""
    return [graph for a in node.attribute for graph in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The operations, also those of inner graphs (a file nests 100 deep at most)."""
    for node in nodes:
        yield node
        for graph in branches(node):
            yield from all_nodes(graph.node)


def outer_names(node: NodeProto) -> set[str]:
    """The tensors that an operation reads, also those that its inner graphs read from outside."""
    return {name for name in node.input if name}.union(*(_read_by(graph) for graph in branches(node)))


def _read_by(graph: GraphProto) -> set[str]:
    read = {entry.name for entry in graph.output}.union(*(outer_names(node) for node in graph.node))
    own = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    return read - own - {entry.name for entry in graph.input}


def needed(nodes: Sequence[NodeProto], output: str) -> list[int]:
    """Positions of the operations that a tensor depends on, in any order of the file."""
    makers: dict[str, list[int]] = {}
    for k, node in enumerate(nodes):
        for name in node.output:
            makers.setdefault(name, []).append(k)
    found: set[int] = set()
    waiting = [output]
    seen = {"", output}
    while waiting:
        for k in makers.get(waiting.pop(), ()):
            if k not in found:
                found.add(k)
                more = outer_names(nodes[k]) - seen
                seen |= more
                waiting.extend(more)
    return sorted(found)


def in_order(model: ModelProto, subject: str) -> ModelProto:
    """The model with each operation behind what it reads, also inside of inner graphs; itself if it is so.

    ONNX wants files sorted, and engines sort them. The default domain, which has two names, gets its short one.

    Raises:
        InvalidModelError: when operations wait for each other in a circle.
    """
    named = any(node.domain == LONG for node in all_nodes(model.graph.node))
    named = named or any(entry.domain == LONG for entry in model.opset_import)
    if _is_sorted(model.graph, subject) and not named:
        return model
    found = ModelProto()
    found.CopyFrom(model)
    _sort(found.graph, subject)
    for thing in (*all_nodes(found.graph.node), *found.opset_import):
        thing.domain = "" if thing.domain == LONG else thing.domain
    return found


def _is_sorted(graph: GraphProto, subject: str) -> bool:
    nodes = list(graph.node)
    alone = _order(nodes, subject) == list(range(len(nodes)))
    return alone and all(_is_sorted(inner, subject) for node in nodes for inner in branches(node))


def _sort(graph: GraphProto, subject: str) -> None:
    nodes = [NodeProto.FromString(graph.node[k].SerializeToString()) for k in _order(list(graph.node), subject)]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        for inner in branches(node):
            _sort(inner, subject)


def _order(nodes: Sequence[NodeProto], subject: str) -> list[int]:
    """Positions in an order that keeps that of the file where it can."""
    maker = {name: k for k, node in reversed(list(enumerate(nodes))) for name in node.output if name}
    needs = [{maker[name] for name in outer_names(node) if name in maker} for node in nodes]
    order: list[int] = []
    done, waiting = set[int](), set[int]()
    for start in range(len(nodes)):
        stack = [(start, False)]
        while stack:
            k, ready = stack.pop()
            if k in done:
                continue
            if ready:
                done.add(k)
                order.append(k)
                continue
            if k in waiting:
                names = ", ".join(f"'{nodes[j].output[0]}'" for j in sorted(waiting - done) if nodes[j].output)
                raise InvalidModelError(f"{subject}: the operations for {names} wait for each other in a circle")
            waiting.add(k)
            stack.append((k, True))
            stack.extend((need, False) for need in sorted(needs[k] - done, reverse=True))
    return order
