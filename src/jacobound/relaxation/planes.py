"""Ranges and planes of nodes that are neither affine nor elementwise: products, and functions that know their own.

Over a box ``x in [a, b], y in [c, d]`` the product lies between planes of the slopes ``(c + d) / 2`` in x and
``(a + b) / 2`` in y: the mean of the two planes of McCormick (Math. Programming 10, 1976) below, and of those above.
Slopes are free floats: ``x y - k x - h y`` is bilinear, so its extremes lie at the four corners, whatever k and h are,
and the offsets are the smallest and the largest of these numbers, rounded outward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import gamma, inflate, underflow, unit
from jacobound.graph.nodes import Node, Planes, Product, Vector


def range_of(node: Product | Vector, ranges: Mapping[Node, Interval]) -> Interval:
    """Certified range of a node from those of its sources, (N, *node shape)."""
    if isinstance(node, Product):
        return ranges[node.first] * ranges[node.second]
    return node.function.range(ranges[node.source])


def planes_of(node: Product | Vector, ranges: Mapping[Node, Interval]) -> Planes | None:
    """Linear functions of its sources below and above a node; None where none are known."""
    if isinstance(node, Product):
        return product_planes(ranges[node.first], ranges[node.second])
    return node.function.planes(ranges[node.source])


def product_planes(x: Interval, y: Interval) -> Planes:
    """The planes of one pair of slopes below and above ``x y``; the whole line where a factor is unbounded."""
    steep, other = y.midpoint_and_radius()[0], x.midpoint_and_radius()[0]
    corners = [
        Interval.exact(one) * two - Interval.exact(steep) * one - Interval.exact(other) * two
        for one in (x.lower, x.upper)
        for two in (y.lower, y.upper)
    ]
    finite = torch.isfinite(x.lower) & torch.isfinite(x.upper) & torch.isfinite(y.lower) & torch.isfinite(y.upper)
    lower = torch.stack([corner.lower for corner in corners]).amin(0)
    upper = torch.stack([corner.upper for corner in corners]).amax(0)
    offsets = torch.where(finite, lower, -torch.inf), torch.where(finite, upper, torch.inf)
    return Planes(((steep, steep), (other, other)), *offsets)


@dataclass(frozen=True, eq=False)
class PlaneRelaxation:
    """The planes of one node of several sources, or of rows of its source, with what the backward pass asks of them.

    Args:
        planes: valid planes, of shape (N, *node shape).
        magnitudes: bounds of the sources, (N, *source shape) each.
    """

    planes: Planes
    magnitudes: tuple[Tensor, ...]

    @cached_property
    def lower(self) -> Tensor:
        return self.planes.lower.flatten(1)

    @cached_property
    def upper(self) -> Tensor:
        return self.planes.upper.flatten(1)

    @cached_property
    def slopes(self) -> tuple[tuple[Tensor, Tensor, bool, int], ...]:
        """For every source: slopes below and above, flattened; whether they are the same; entries per row read."""
        found = []
        for below, above in self.planes.slopes:
            length = below[0].numel() // self.planes.lower[0].numel()
            found.append((below.flatten(1), above.flatten(1), bool((below == above).all()), length))
        return tuple(found)

    @cached_property
    def slack(self) -> tuple[Tensor, Tensor]:
        """The rounding error per unit coefficient, (N, size), and what underflow adds whatever they are, (N,)."""
        offsets = torch.maximum(self.lower.abs(), self.upper.abs())
        total, floor = offsets * gamma(offsets.shape[1] + 3, offsets), underflow(offsets.shape[1], offsets)
        floor, longest = offsets.new_full((len(offsets),), float(floor)), 1
        for (below, above, _, length), magnitude in zip(self.slopes, self.magnitudes, strict=True):
            products = torch.maximum(below.abs(), above.abs()) * magnitude.flatten(1) * (2 * unit(below.dtype))
            total = total + products.reshape(*offsets.shape, length).sum(-1)
            floor = floor + magnitude.flatten(1).sum(1) * underflow(2, below)
            longest += length
        return inflate(total, longest + 4), inflate(floor, longest + offsets.shape[1])
