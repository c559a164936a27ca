"""`IBP`: interval propagation, node by node (Gowal et al. 2018); dual norms where a node is affine in the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jacobound.arithmetic.intervals import Interval
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node
from jacobound.inputs.domains import Domain
from jacobound.method import Budget, OutputMethod
from jacobound.relaxation.sweep import propagate


@dataclass(frozen=True)
class IBP(OutputMethod):
    """Certified ranges of all nodes by intervals; cheapest and loosest."""

    def ranges(
        self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True
    ) -> Mapping[Node, Interval]:
        return propagate(graph, domain, budget, None, with_output)
