"""The network of the transposed derivative: the same recursion on it gives RecurJac's forward versions.

The Jacobian of a reversed graph is the transpose of the original's: operators are transposed, every activation keeps
its slopes, and what several nodes read becomes a sum. Biases and values mean nothing there; only slopes do.
Source: RecurJac (AAAI 2019), "forward" bounds with shift 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from jacobound.graph import Affine, Elementwise, Graph, Input, Node
from jacobound.intervals import Interval, interval_dot
from jacobound.methods.base import Budget, Deferred, JacobianEnclosure
from jacobound.methods.fastlip import interval_adjoints
from jacobound.methods.product_relaxation import ProductRelaxation
from jacobound.methods.recursion import recur
from jacobound.operator_kinds import Identity
from jacobound.operators import LinearOperator
from jacobound.results import Status

Slopes = Mapping[Node, Interval]


def reversed_graph(graph: Graph, slopes: Slopes) -> tuple[Graph, Slopes]:
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
        mirrored[node] = terms[0][1] if alone else Affine(tuple(terms), name=node.name)
    backwards = Graph(mirrored[graph.input], frozenset((*mirrored.values(), *their_slopes)))
    return backwards.with_affine_output(), their_slopes


def tail(graph: Graph, start: Elementwise, slopes: Slopes) -> tuple[Graph, Slopes]:
    """The part of a graph behind a node that all paths cross, as a network of that node."""
    copies: dict[Node, Node] = {start: Input(start.shape, start.name)}
    their_slopes: dict[Node, Interval] = {}
    for node in graph.nodes[graph.nodes.index(start) + 1 :]:
        if isinstance(node, Affine):
            copies[node] = Affine(tuple((o, copies[source]) for o, source in node.terms), node.bias, node.name)
        elif isinstance(node, Elementwise):
            copies[node] = Elementwise(node.activation, copies[node.source], node.name)
            their_slopes[copies[node]] = slopes[node]
    return Graph(copies[graph.output], frozenset(copies.values())), their_slopes


def forward(
    graph: Graph, slopes: Slopes, ranges: Slopes, relax: ProductRelaxation, budget: Budget
) -> JacobianEnclosure:
    """RecurJac-F0: the recursion from the input to the outputs, by the reversed graph."""
    backwards, their_slopes = reversed_graph(graph, slopes)
    found = recur(backwards, their_slopes, {}, relax, budget)
    entries = found.entries.map(lambda end: end.T.contiguous())

    def along(directions: Tensor) -> Interval:
        """Each direction becomes one more affine node behind the reversed graph; output j matters for direction j."""
        merged = recur(backwards.with_rows(directions), their_slopes, {}, relax, budget)
        return merged.entries.map(torch.diagonal).intersect(interval_dot(directions, entries))

    def adjoints() -> Mapping[Node, Interval]:
        known: dict[Node, Interval] = {graph.input: entries.map(lambda end: end.reshape(-1, *graph.in_shape))}
        return interval_adjoints(graph, slopes, known)

    return JacobianEnclosure(entries, along, Deferred(adjoints), slopes, ranges, found.status)


def forward_shifted(
    graph: Graph, slopes: Slopes, ranges: Slopes, relax: ProductRelaxation, budget: Budget
) -> JacobianEnclosure:
    """RecurJac-F1: F0 behind the first activation that all paths cross, and one interval step through it."""
    if not graph.crossings:
        return forward(graph, slopes, ranges, relax, budget)
    first = graph.crossings[0]
    behind = forward(*tail(graph, first, slopes), {}, relax, budget)
    matrix = behind.entries.map(lambda end: end.reshape(-1, *first.shape))
    head = interval_adjoints(Graph(first, frozenset(graph.nodes)), slopes, behind=matrix)
    entries = head[graph.input].map(lambda end: end.flatten(1))

    def adjoints() -> Mapping[Node, Interval]:
        return interval_adjoints(graph, slopes, {first: matrix})

    along = partial(interval_dot, x=entries)
    return JacobianEnclosure(entries, along, Deferred(adjoints), slopes, ranges, behind.status)


def both(graph: Graph, slopes: Slopes, ranges: Slopes, relax: ProductRelaxation, budget: Budget) -> JacobianEnclosure:
    """Backward and forward, entry by entry the narrower (neither dominates the other)."""
    one, other = recur(graph, slopes, ranges, relax, budget), forward(graph, slopes, ranges, relax, budget)
    entries = one.entries.intersect(other.entries)

    def along(directions: Tensor) -> Interval:
        return one.along(directions).intersect(other.along(directions))

    def adjoints() -> Mapping[Node, Interval]:
        known = {node: one.adjoints[node].intersect(other.adjoints[node]) for node in graph.nodes}
        return interval_adjoints(graph, slopes, known)

    status = one.status if one.status is not Status.CERTIFIED else other.status
    return JacobianEnclosure(entries, along, Deferred(adjoints), slopes, ranges, status)
