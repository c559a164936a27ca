"""The network of the transposed derivative: the same recursion on it gives RecurJac's forward versions.

The Jacobian of a reversed graph is the transpose of the original's: operators are transposed, every activation keeps
its slopes, and what several nodes read becomes a sum. Biases and values mean nothing there; only slopes do.
Source: RecurJac (AAAI 2019), "forward" bounds with shift 0 and 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, concatenated, interval_dot
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian.fastlip import interval_adjoints, times_slope
from jacobound.jacobian.recursion.groups import one_by_one
from jacobound.jacobian.recursion.operations import interval_operations, recursion_operations
from jacobound.jacobian.recursion.product_lines import ProductRelaxation
from jacobound.jacobian.recursion.recursion import recur, sums_across
from jacobound.method import Budget, Deferred, Facts, JacobianEnclosure
from jacobound.operators.base import LinearOperator, positions
from jacobound.operators.kinds import Identity, Select


def reversed_graph(graph: Graph, slopes: Facts) -> tuple[Graph, Facts]:
    """The graph from the outputs back to the input, and the slopes of its activations."""
    mirrored: dict[Node, Node] = {}
    their_slopes: dict[Node, Interval] = {}
    for node in reversed(graph.nodes):
        if node is graph.output:
            mirrored[node] = Input(node.shape, node.name)
            continue
        terms: list[tuple[LinearOperator, Node]] = []
        for reader in graph.consumers[node]:
            if isinstance(reader, Elementwise):
                gate = Elementwise(reader.activation, mirrored[reader], reader.name)
                their_slopes[gate] = slopes[reader]
                terms.append((Identity(node.shape, node.shape, graph.example), gate))
            elif isinstance(reader, Affine):
                terms.extend(
                    (operator.transpose(), mirrored[reader]) for operator, source in reader.terms if source is node
                )
        alone = len(terms) == 1 and terms[0][1].shape == node.shape and isinstance(terms[0][0], Identity)
        # The last node stays affine, as derivatives start there; it may be the only one that knows the dtype.
        keep = node is graph.input or not alone
        mirrored[node] = Affine(tuple(terms), name=node.name) if keep else terms[0][1]
    return Graph(mirrored[graph.input], frozenset((*mirrored.values(), *their_slopes))), their_slopes


def tail(graph: Graph, start: Elementwise, slopes: Facts, entries: Tensor | None = None) -> tuple[Graph, Facts]:
    """The part of a graph behind a node, as a network of that node; what does not depend on the node is left out.

    The derivative is that of the outputs with respect to the node. Values agree where all paths cross the node.

    Args:
        entries: flat positions of the node that become the input; None for the node as it is.
    """
    copies: dict[Node, Node] = {start: Input(start.shape, start.name)}
    if entries is not None:
        index = entries.new_full((size(start),), -1)
        index[entries] = positions(len(entries), entries)
        spread = Select(index.reshape(start.shape), (len(entries),), graph.example)
        copies[start] = Affine(((spread, Input((len(entries),), start.name)),), name=start.name)
    their_slopes: dict[Node, Interval] = {}
    for node in graph.nodes[graph.nodes.index(start) + 1 :]:
        if isinstance(node, Affine):
            terms = tuple((operator, copies[source]) for operator, source in node.terms if source in copies)
            if terms:
                copies[node] = Affine(terms, node.bias, node.name)
        elif isinstance(node, Elementwise) and node.source in copies:
            copies[node] = Elementwise(node.activation, copies[node.source], node.name)
            their_slopes[copies[node]] = slopes[node]
    return Graph(copies[graph.output], frozenset(copies.values())), their_slopes


def operations(graph: Graph, slopes: Facts) -> dict[str, float]:
    """Counted multiplications and additions of every direction, by name; rounding work is left out.

    Args:
        graph: with an affine last node.
        slopes: derivative range of every elementwise node over one set, (1, *node shape).
    """
    found = {"backward": recursion_operations(graph, slopes)}
    found["forward"] = recursion_operations(*reversed_graph(graph, slopes))
    found["forward-shifted"] = found["forward"]
    if graph.crossings:
        first = graph.crossings[0]
        head = graph.nodes[: graph.nodes.index(first)]
        step = interval_operations(head, size(graph.output))
        found["forward-shifted"] = recursion_operations(*reversed_graph(*tail(graph, first, slopes))) + step
    return found


def forward(graph: Graph, slopes: Facts, ranges: Facts, relax: ProductRelaxation, budget: Budget) -> JacobianEnclosure:
    """RecurJac-F0: the recursion from the input to the outputs, by the reversed graph."""
    backwards, their_slopes = reversed_graph(graph, slopes)
    found = recur(backwards, their_slopes, {}, relax, budget)
    entries = found.entries.map(lambda end: end.mT.contiguous())

    def along(directions: Tensor) -> Interval:
        """Each direction becomes one more affine node behind the reversed graph; output j matters for direction j."""
        sums = []
        for own, rows in zip(one_by_one(their_slopes, len(directions)), directions, strict=True):
            merged = recur(backwards.with_rows(rows), own, {}, relax, budget).entries
            sums.append(merged.map(lambda end: torch.diagonal(end, dim1=1, dim2=2)))
        return concatenated(sums, 0).intersect(interval_dot(directions, entries))

    def across(directions: Tensor) -> Interval:
        """Cheap here: one vector for every input, pushed through the reversed graph."""
        turned = directions.mT.contiguous()
        return found.along(turned).intersect(interval_dot(turned, found.entries))

    def adjoints() -> Facts:
        return interval_adjoints(graph, slopes, {graph.input: _shaped(entries, graph.in_shape)})

    return JacobianEnclosure(entries, along, Deferred(adjoints), slopes, ranges, found.status, across)


def _shaped(entries: Interval, shape: tuple[int, ...]) -> Interval:
    """(N, outputs, size) as (N, outputs, *shape)."""
    return entries.map(lambda end: end.reshape(*end.shape[:2], *shape))


def forward_shifted(
    graph: Graph, slopes: Facts, ranges: Facts, relax: ProductRelaxation, budget: Budget
) -> JacobianEnclosure:
    """RecurJac-F1: F0 behind the first activation that all paths cross, and one interval step through it."""
    if not graph.crossings:
        return forward(graph, slopes, ranges, relax, budget)
    first = graph.crossings[0]
    behind = forward(*tail(graph, first, slopes), {}, relax, budget)
    matrix = _shaped(behind.entries, first.shape)
    head = Graph(first, frozenset(graph.nodes))
    entries = interval_adjoints(head, slopes, behind=matrix)[graph.input].map(lambda end: end.flatten(2))
    passed = times_slope(slopes[first].map(lambda end: end.unsqueeze(1)), matrix)

    def along(directions: Tensor) -> Interval:
        """The interval step with one column in place of all: ``W^1 u`` where the first layer is W^1."""
        before = interval_tangents(head, slopes, directions)[first.source]
        products = (passed * before).map(lambda end: end.flatten(2))
        whole = interval_dot(torch.ones_like(products.lower), products)
        return whole.intersect(interval_dot(directions, entries))

    def across(directions: Tensor) -> Interval:
        def rows(merged: Graph, own: Facts) -> Interval:
            return forward_shifted(merged, own, {}, relax, budget).entries

        return sums_across(graph, slopes, entries, directions, rows, budget)

    def adjoints() -> Facts:
        return interval_adjoints(graph, slopes, {first: matrix})

    return JacobianEnclosure(entries, along, Deferred(adjoints), slopes, ranges, behind.status, across)


def interval_tangents(graph: Graph, slopes: Facts, directions: Tensor) -> dict[Node, Interval]:
    """Enclosures of every node's derivative along input directions, by the interval chain rule.

    Args:
        directions: exact floats, shape (N, vectors, inputs).

    Returns:
        For every node an interval of shape (N, vectors, *node shape).
    """
    found: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            found[node] = Interval.exact(directions.reshape(*directions.shape[:2], *node.shape))
        elif isinstance(node, Elementwise):
            found[node] = times_slope(slopes[node].map(lambda end: end.unsqueeze(1)), found[node.source])
        elif isinstance(node, Affine):
            images = [operator.enclose(found[source]) for operator, source in node.terms]
            found[node] = sum(images[1:], images[0])
    return found
