"""`FastLin` and `CROWN`: linear bounds by backward substitution; they differ only in the lines they choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jacobound.activations.kinds.base import Activation
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node
from jacobound.inputs.domains import Domain
from jacobound.method import Budget, OutputMethod
from jacobound.relaxation.sweep import propagate


@dataclass(frozen=True)
class FastLin(OutputMethod):
    """Certified ranges with one slope above and below every activation (Weng et al. 2018): half the price of CROWN."""

    def ranges(
        self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True
    ) -> Mapping[Node, Interval]:
        return propagate(graph, domain, budget, Activation.parallel_lines, with_output)


@dataclass(frozen=True)
class CROWN(OutputMethod):
    """Certified ranges with the line nearest to the activation on each side (Zhang et al. 2018), intersected with IBP.

    Lower slopes of ReLU-like activations adapt (1 where u >= -l, else the slope at the left); S-shaped activations
    get exact tangents. Only neurons that intervals have not shown stable are bounded this way.
    """

    def ranges(
        self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True
    ) -> Mapping[Node, Interval]:
        return propagate(graph, domain, budget, Activation.lines, with_output)
