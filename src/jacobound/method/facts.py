"""`Facts`: what is known of the nodes of a graph over N sets, and the slopes that follow from ranges."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.budget import checkpoint
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Elementwise, Node

Facts = Mapping[Node, Interval]
"""Certified intervals by node: of its values, of its derivatives, or of derivatives by it."""


def derivative_ranges(graph: Graph, ranges: Facts) -> Facts:
    """The slopes that every elementwise node can have, from the range of its argument.

    Raises:
        InvalidRegionError: when that range leaves the domain of the activation.
    """
    found = {}
    for node in graph.nodes:
        checkpoint()
        if isinstance(node, Elementwise):
            node.activation.require(ranges[node.source], node.name)
            found[node] = node.activation.derivative_range(ranges[node.source])
    return found


def is_unstable(slope: Interval) -> Tensor:
    """Mask of the neurons with more than one possible slope (NaN counts as unstable)."""
    return ~(slope.lower == slope.upper)


def flat_indices(mask: Tensor) -> Tensor:
    """Flat positions of the true entries."""
    return mask.flatten().nonzero().squeeze(1).to(torch.int64)
