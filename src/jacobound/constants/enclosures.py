"""What products of norms need to know of a set: slopes of activations, enclosures of what functions of vectors read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from jacobound.arithmetic.intervals import Interval
from jacobound.graph.derivative import Derivative, derivative
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Elementwise, Product, Vector
from jacobound.method import Facts, OutputMethod, Query, derivative_ranges, facts_of_one
from jacobound.relaxation.ranges import usual_ranges


@dataclass(frozen=True, eq=False)
class Enclosures:
    """Facts about the nodes of a graph over one set.

    Args:
        graph: whose norms are multiplied: the network itself or, where it multiplies values, its network of gates.
        ranges, slopes: of the nodes of ``graph.lowered()``, each of the node's shape.
        of_activations: slopes of the elementwise nodes of the graph itself.
        of_arguments: enclosure of the source of every `Vector` node of the graph, float64 on the CPU.
    """

    graph: Graph
    ranges: Facts
    slopes: Facts
    of_activations: Facts
    of_arguments: Mapping[Vector, Interval]

    @staticmethod
    def of(query: Query, preactivation: OutputMethod | None) -> Enclosures:
        """What a query about one set knows, else by a method for ranges; None takes `usual_ranges`.

        Raises:
            InvalidRegionError: when a node has no constant over the set; names it and what to do.
        """
        graph = query.graph
        if query.slopes is not None:  # gates as they are
            slopes = facts_of_one(query.slopes)
            return Enclosures(graph, {}, slopes, slopes, {})
        if any(isinstance(node, Product) for node in graph.nodes):
            return _of_gates(query, preactivation)
        lowered = graph.lowered()
        ranges = facts_of_one(query.ranges_by(preactivation or usual_ranges(query.domain), lowered))
        slopes = derivative_ranges(lowered, ranges)
        stand_in = {node: node for node in graph.nodes} if lowered is graph else graph.expansion
        activations, arguments = {}, {}
        for node in graph.nodes:
            if isinstance(node, Elementwise):
                activations[node] = slopes[stand_in[node]]
            elif isinstance(node, Vector):
                known = ranges[stand_in[node.source]].reshape(*node.source.shape)
                arguments[node] = known.map(lambda end: end.to("cpu", torch.float64))
                node.function.require(arguments[node], node.name)
        return Enclosures(graph, ranges, slopes, activations, arguments)


def gates_of_one(query: Query, graph: Graph, preactivation: OutputMethod) -> tuple[Derivative, Facts, Facts]:
    """The network of gates of a query about one set, what is known of the ranges, and the ranges of that set.

    Args:
        graph: the form of the query's graph that a method works on.
        preactivation: how ranges are found that are not known.
    """
    if query.slopes is not None:  # gates as they are: their nodes hold derivatives, whose values are nobody's question
        return Derivative(graph, facts_of_one(query.slopes), {}, {}), query.ranges or {}, {}
    known = query.ranges_by(preactivation, graph)
    ranges = facts_of_one(known)
    return derivative(graph, ranges), known, ranges


def _of_gates(query: Query, preactivation: OutputMethod | None) -> Enclosures:
    """What is known of the network of gates: products of norms over it are ``sup|y| L_x + sup|x| L_y``."""
    graph = query.graph.expanded()
    ranges = facts_of_one(query.ranges_by(preactivation or usual_ranges(query.domain), graph))
    gates = derivative(graph, ranges)
    return Enclosures(gates.graph, ranges, gates.slopes, gates.slopes, {})
