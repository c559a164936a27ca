"""`LipschitzMethod`: bounds a constant without going through the entries of the Jacobian; and what it returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import inflate
from jacobound.errors import ShapeError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Node, size
from jacobound.inputs.domains import Domain
from jacobound.method import Budget, OutputMethod, ranges_bytes
from jacobound.operators.norms import LITTLE_WORK, PRODUCTS
from jacobound.results.kinds import Status

# The part of a call's time that the cheap norms of all layers may take together.
LITTLE_PART = 0.3


@dataclass(frozen=True, eq=False)
class ConstantBound:
    """What a Lipschitz method knows of one set.

    Args:
        value: upper bound of ``sup ||J||_{p->q}``, 0-d float64, certified when the status is; inf when nothing was
            proved.
        status: `Status.CERTIFIED`, or why the bound is looser than the method could do.
        details: constants of the parts that the value was made of, by name.
        certificates: what proves each part, in the same order; empty for methods that need none.
        slopes: derivative range of every elementwise node that was used, each of the node's shape.
        ranges: the enclosures of the nodes' values, each of the node's shape.
    """

    value: Tensor
    status: Status
    details: Mapping[str, Tensor]
    certificates: tuple[Any, ...]
    slopes: Mapping[Node, Interval]
    ranges: Mapping[Node, Interval]


class LipschitzMethod(ABC):
    """Bounds a Lipschitz constant over a domain without going through the entries of the Jacobian."""

    @abstractmethod
    def constant(
        self,
        graph: Graph,
        domain: Domain,
        norm: tuple[float, float],
        budget: Budget,
        ranges: Mapping[Node, Interval] | None = None,
    ) -> ConstantBound:
        """A certified constant of the graph over a domain of one set.

        Args:
            graph: may hold `Vector` nodes.
            norm: (p, q), each 1, 2 or inf: ``||f(x) - f(y)||_q <= value ||x - y||_p``.
            ranges: known enclosures of the nodes of ``graph.lowered()``, each of the node's shape, in place of the
                method's own pre-activation bounds.
        """

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory for each set in bytes, as of `OutputMethod`; sets are taken one by one."""
        return ranges_bytes(graph)


def ranges_of_one(method: OutputMethod, graph: Graph, domain: Domain, budget: Budget) -> Mapping[Node, Interval]:
    """Enclosures of the nodes over a domain of one set, each of the node's shape.

    Raises:
        ShapeError: when the domain has several sets.
    """
    if len(domain) != 1:
        raise ShapeError(f"a constant is bounded for one set at a time, not for {len(domain)}; take them one by one")
    found = method.ranges(graph, domain, budget, with_output=False)
    return {node: x[0] for node, x in found.items()}


def little_work(graph: Graph, budget: Budget) -> int:
    """Products for the certificate of one norm, so that those of all layers take a part of a call's time together."""
    layers = sum(len(node.terms) for node in graph.nodes if isinstance(node, Affine))
    if math.isinf(budget.of_call):
        return LITTLE_WORK
    return max(1, min(LITTLE_WORK, int(LITTLE_PART * budget.of_call * PRODUCTS / max(1, layers))))


def conversion(graph: Graph, known: tuple[float, float], wanted: tuple[float, float]) -> float:
    """The factor from a constant for one pair of norms to one for another, rounded up to a float.

    ``||x||_a <= n^(1/a - 1/b) ||x||_b`` for a <= b, and ``||x||_a <= ||x||_b`` for a >= b.
    """
    before = size(graph.input) ** max(0.0, 1 / known[0] - 1 / wanted[0])
    after = size(graph.output) ** max(0.0, 1 / wanted[1] - 1 / known[1])
    return float(inflate(torch.tensor(before * after, dtype=torch.float64), 16)) if before * after > 1 else 1.0
