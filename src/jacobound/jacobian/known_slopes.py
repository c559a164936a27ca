"""Slopes that are known but for rounding: their middle is the slope, and what it misses is one more defect.

At a point every slope of a smooth activation is an interval a few units wide. Were such a neuron uncertain like any
other, each of them would be a column and a row of its own, and sums over all of them grow with every layer; as one
known slope m it is linear, and ``(slope - m) t`` is one more rounding of the tangent t behind it, at most r |t|.
Source: this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Node
from jacobound.method import Facts

NARROW = 1e-9
"""A slope is known whose half width is at most so many times its middle: far above rounding, far below uncertainty."""


@dataclass(frozen=True, eq=False)
class KnownSlopes:
    """Slopes of which the narrow ones are single numbers, and by how much these may be wrong.

    Args:
        ranges: derivative ranges; lower and upper are the same float where a slope is known.
        defects: how far the slopes themselves may lie from that float, of the same shape; nodes without are left out.
    """

    ranges: Facts
    defects: Mapping[Node, Tensor]

    @staticmethod
    def of(slopes: Facts) -> KnownSlopes:
        """Of derivative ranges of elementwise nodes of any shape."""
        ranges: dict[Node, Interval] = {}
        defects: dict[Node, Tensor] = {}
        for node, slope in slopes.items():
            middle, half = middle_slopes(slope)
            narrow = (half > 0) & (half <= NARROW * middle.abs())
            ranges[node] = slope
            if bool(narrow.any()):
                ranges[node] = slope.map(lambda end, narrow=narrow, middle=middle: torch.where(narrow, middle, end))
                defects[node] = torch.where(narrow, half, 0.0)
        return KnownSlopes(ranges, defects)


def middle_slopes(slope: Interval) -> tuple[Tensor, Tensor]:
    """Floats m and r with ``[lower, upper]`` inside ``[m - r, m + r]``; r is 0 where there is one slope."""
    middle, half = slope.midpoint_and_radius()
    known = slope.lower == slope.upper
    middle = torch.where(known, slope.lower, middle)
    half = torch.where(known, 0.0, half)
    usable = torch.isfinite(middle) & torch.isfinite(half) & (slope.lower <= slope.upper)
    return torch.where(usable, middle, 0.0), torch.where(usable, half, torch.inf)
