"""How many sets are worth working on together, by the products of one evaluation of the network."""

from __future__ import annotations

from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine

# Products in one evaluation of the network, over all sets that go together, beyond which more sets do not pay.
SHARED_PRODUCTS = 1 << 22
SHARED_PRODUCTS_ACCELERATOR = 1 << 34


def sets_worth(graph: Graph) -> int:
    """How many sets are worth working on together.

    Sharing saves the overhead of small operations. Sets of a large network gain nothing on a CPU, and lose that each
    leaves its own dead neurons out of the matrix products.
    """
    shared = SHARED_PRODUCTS if graph.device.type == "cpu" else SHARED_PRODUCTS_ACCELERATOR
    return max(1, shared // max(1, products_of(graph)))


def products_of(graph: Graph) -> int:
    """Multiplications of one evaluation of a network; entries that only move count as one."""
    operators = (operator for node in graph.nodes if isinstance(node, Affine) for operator, _ in node.terms)
    return sum(operator.out_size * max(1, operator.terms) for operator in operators)
