"""What methods are expected to cost, counted by operations: hints for a plan, no promises."""

from __future__ import annotations

from math import isfinite

import torch

from jacobound.budget import PRODUCTS, Budget
from jacobound.errors import InvalidRegionError
from jacobound.graph.derivative import derivative
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, size
from jacobound.jacobian.recursion.groups import only
from jacobound.jacobian.recursion.operations import interval_operations, recursion_operations
from jacobound.method import Facts, is_unstable
from jacobound.splitting.homogeneous import is_homogeneous
from jacobound.splitting.reduced import is_reducible

# What is expected to take less than this part of a call's time comes to its end however slow the machine is.
CHEAP = 0.15
# What a step of the recursion from one block to another takes at least.
SECONDS_OF_A_PAIR = 1e-3
# Operations for one entry of an interval that an activation passes back.
OF_AN_INTERVAL = 60.0


def is_gated(graph: Graph) -> bool:
    """Whether there are nodes with several slopes for each entry: products, log-sum-exp."""
    return any(not isinstance(node, Input | Affine | Elementwise) for node in graph.nodes)


def entries_are_hopeful(graph: Graph, sets: int, budget: Budget) -> bool:
    """Whether a sweep of intervals for all outputs, with which bounds of entries begin, may end in time."""
    if not isfinite(budget.of_call):
        return True
    outputs, entries = size(graph.output), sum(size(node) for node in graph.nodes)
    operations = sets * (interval_operations(graph.nodes, outputs) + OF_AN_INTERVAL * outputs * entries)
    return operations <= budget.remaining * PRODUCTS


def recursion_is_cheap(expanded: Graph, ranges: Facts, sets: int, budget: Budget) -> bool:
    """Whether the recursion is sure to take a small part of the time.

    Args:
        expanded: the network of affine maps, activations and products.
        ranges: of its nodes, for all sets.
    """
    try:
        gates = derivative(expanded.with_affine_output(), ranges)
    except InvalidRegionError:
        return False
    graph, slopes = gates.graph, gates.slopes
    # Counted for the set with the most unstable neurons.
    unstable = torch.stack([is_unstable(slope).flatten(1).sum(1) for slope in slopes.values()] or [torch.zeros(1)])
    widest = unstable.sum(0).argmax().reshape(1)
    operations = sets * recursion_operations(graph, only(slopes, widest))
    if is_gated(expanded):  # many small blocks, of which every pair is a step
        operations += sets * SECONDS_OF_A_PAIR * PRODUCTS * len(slopes) ** 2 / 2
    return operations <= CHEAP * budget.of_call * PRODUCTS


def few_bend_everywhere(graph: Graph, most: int) -> bool:
    """Whether at most so many neurons bend, and at 0 alone: then all rays of the whole space are bounded at once."""
    graph = graph.expanded() if graph.expands else graph
    neurons = sum(size(node) for node in graph.nodes if isinstance(node, Elementwise))
    return neurons <= most and not graph.assumptions and is_reducible(graph) and is_homogeneous(graph)
