"""What products of norms need to know of a set: slopes of activations, enclosures of what functions of vectors read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from jacobound.arithmetic.intervals import Interval
from jacobound.constants.lipschitz_method import ranges_of_one
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Elementwise, Node, Vector
from jacobound.inputs.domains import Domain
from jacobound.method import Budget, OutputMethod, derivative_ranges
from jacobound.relaxation.crown import CROWN
from jacobound.relaxation.ibp import IBP


@dataclass(frozen=True, eq=False)
class Enclosures:
    """Facts about the nodes of a graph over one set.

    Args:
        ranges, slopes: of the nodes of ``graph.lowered()``, each of the node's shape.
        of_activations: slopes of the elementwise nodes of the graph itself.
        of_arguments: enclosure of the source of every `Vector` node of the graph, float64 on the CPU.
    """

    ranges: Mapping[Node, Interval]
    slopes: Mapping[Node, Interval]
    of_activations: Mapping[Node, Interval]
    of_arguments: Mapping[Vector, Interval]

    @staticmethod
    def of(
        graph: Graph,
        domain: Domain,
        preactivation: OutputMethod | None,
        budget: Budget,
        ranges: Mapping[Node, Interval] | None = None,
    ) -> Enclosures:
        """By a method for ranges; None takes CROWN on bounded sets and intervals elsewhere.

        Args:
            ranges: known enclosures of the nodes of ``graph.lowered()``, each of the node's shape; not read when they
                are those of other nodes (of ``graph.expanded()``, where that differs).

        Raises:
            InvalidRegionError: when a node has no constant over the set; names it and what to do.
        """
        lowered = graph.lowered()
        if ranges is None or not all(node in ranges for node in lowered.nodes):
            method = preactivation or (CROWN() if bool(domain.bounded.all()) else IBP())
            ranges = ranges_of_one(method, lowered, domain, budget)
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
        return Enclosures(ranges, slopes, activations, arguments)
