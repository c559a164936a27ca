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


def secant_ranges(graph: Graph, near: Facts, far: Facts) -> Facts:
    """The ratios ``(f(y) - f(z)) / (y - z)`` that every elementwise node can have, from the ranges of z and of y.

    With them in place of derivatives a product of the chain rule is ``(F(y) - F(x)) / (y - x)`` itself: for every two
    inputs x and y there is a matrix J of such a product with ``F(y) - F(x) = J (y - x)``.

    Args:
        near: enclosures of the nodes over the sets of x, (N or 1, *node shape).
        far: over those of y, (N, *node shape).

    Raises:
        InvalidRegionError: when a range leaves the domain of the activation.
    """
    found = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            node.activation.require(far[node.source], node.name)
            shape = far[node.source].shape
            before = near[node.source].map(lambda end, shape=shape: end.expand(shape))
            found[node] = node.activation.secant_range(before, far[node.source])
    return found


def is_unstable(slope: Interval) -> Tensor:
    """Mask of the neurons with more than one possible slope (NaN counts as unstable)."""
    return ~(slope.lower == slope.upper)


def flat_indices(mask: Tensor) -> Tensor:
    """Flat positions of the true entries."""
    return mask.flatten().nonzero().squeeze(1).to(torch.int64)
