"""Backward substitution through one elementwise node: by the lines of its sets, and by lines that rows have themselves.

Both give what the coefficients become, what is added to the constants, and a bound of what rounding made of the two. A
computed product of a coefficient and a slope *is* the new coefficient; what it misses is counted with the argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jacobound.activations.kinds.base import Lines
from jacobound.arithmetic.rounding import gamma, inflate, rigorous, underflow, unit, up
from jacobound.inputs.domains import Owners

Through = tuple[Tensor, Tensor | None, Tensor | None]
"""Coefficients (S, R, k) on the argument, terms (2, R) of the constants, bound (2, R) of their error; None for none."""


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The lines of one elementwise node, flattened, with what the backward pass asks of them.

    Args:
        lines: valid lines, of shape (N, *node shape).
        magnitude: bound of the node's argument, same shape.
        noise: what the execution of the node may add to its value, same shape, or None.
    """

    lines: Lines
    magnitude: Tensor
    noise: Tensor | None = None

    @cached_property
    def alive(self) -> Tensor | None:
        """Flat entries that are not identically zero over all sets; None when there are no others."""
        slopes, offsets = (self.upper_slope != 0) | (self.lower_slope != 0), self._has_offset
        alive = slopes | offsets if self.noise is None else slopes | offsets | (self.noise.flatten(1) != 0)
        alive = alive.any(0)
        return None if bool(alive.all()) else alive.nonzero().squeeze(1)

    @cached_property
    def _has_offset(self) -> Tensor:
        return (self.upper_offset != 0) | (self.lower_offset != 0)

    @cached_property
    def lower_slope(self) -> Tensor:
        return self.lines.lower_slope.flatten(1)

    @cached_property
    def lower_offset(self) -> Tensor:
        return self.lines.lower_offset.flatten(1)

    @cached_property
    def upper_slope(self) -> Tensor:
        return self.lines.upper_slope.flatten(1)

    @cached_property
    def upper_offset(self) -> Tensor:
        return self.lines.upper_offset.flatten(1)

    @cached_property
    def on_alive(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool]:
        """(common slope, bent, rounded, slack, floor, lines, parallel) over the alive entries, for all sets.

        `bent` are positions (among the alive) whose lines have offsets or two slopes in some set; `rounded` those
        where a product with the slope or an offset rounds; `slack` the error per unit coefficient on `rounded`, shape
        (N, rounded), and `floor` (N,) what underflow adds whatever the coefficients are.
        """
        pick = (lambda x: x) if self.alive is None else (lambda x: x[:, self.alive])
        low, high = pick(self.lower_slope), pick(self.upper_slope)
        below, above, offset = pick(self.lower_offset), pick(self.upper_offset), pick(self._has_offset)
        bent = ((low != high) | offset).any(0).nonzero().squeeze(1)
        inexact = ((high != 0) & (high != 1)) | ((low != 0) & (low != 1)) | offset
        rounded = inexact.any(0).nonzero().squeeze(1)
        steepest = torch.maximum(low.abs(), high.abs())[:, rounded]
        offsets = torch.maximum(below.abs(), above.abs())[:, rounded]
        argument = pick(self.magnitude.flatten(1))[:, rounded]
        slack = 2 * unit(low.dtype) * steepest * argument + gamma(len(bent) + 3, low) * offsets
        slack = torch.where(inexact[:, rounded], inflate(slack, 4), 0.0)
        floor = argument.sum(1) * underflow(2, low) + underflow(len(bent), low)
        return high, bent, rounded, slack, floor, torch.stack((low, high, below, above)), bool((low == high).all())

    def through(self, values: Tensor, owners: Owners) -> Through:
        """Coefficients (S, R, alive) of the node, substituted."""
        slope, bent, rounded, slack, floor, lines, parallel = self.on_alive
        through = values * owners.pick(slope)
        added = lost = None
        if rigorous() and len(rounded):
            lost = inflate(owners.dot(values[..., rounded].abs(), slack), len(rounded) + 1)
            lost = up(lost + owners.pick(floor))
        if len(bent):
            low, high, below, above = lines[..., bent]
            touched = values[..., bent]
            positive, negative = touched.clamp(min=0.0), touched.clamp(max=0.0)
            upper = owners.dot(positive[0], above) + owners.dot(negative[0], below)
            lower = owners.dot(positive[-1], below) + owners.dot(negative[-1], above)
            added = torch.stack((upper, lower))
            if not parallel:
                low, high = owners.pick(low), owners.pick(high)
                through = through.expand(2, *through.shape[1:]).clone() if len(through) == 1 else through
                through[0][:, bent] = torch.where(touched[0] > 0, high, low) * touched[0]
                through[1][:, bent] = torch.where(touched[-1] > 0, low, high) * touched[-1]
        return through, added, lost


@dataclass(frozen=True, eq=False)
class RowLines:
    """Lines around some entries of one elementwise node that R rows have for themselves, for each of their two ends.

    Args:
        places: positions of the entries among the node's alive ones, shape (k,).
        lines: valid lines for the upper end's and the lower end's substitution, each part of shape (2, R, k).
        magnitude: bound of the argument, shape (R, k).
    """

    places: Tensor
    lines: Lines
    magnitude: Tensor

    def without(self, values: Tensor) -> Tensor:
        """Coefficients with zeros at the entries."""
        return values.index_fill(-1, self.places, 0.0)

    def through(self, values: Tensor) -> Through:
        """Coefficients (S, R, alive) of the node, substituted at the entries; those of the argument are (2, R, k)."""
        touched = values[..., self.places].expand(2, -1, -1)
        rises = torch.stack((touched[0] > 0, touched[1] < 0))  # which end takes the line above
        slope = torch.where(rises, self.lines.upper_slope, self.lines.lower_slope)
        offset = torch.where(rises, self.lines.upper_offset, self.lines.lower_offset)
        through, added = touched * slope, (touched * offset).sum(-1)
        if not rigorous():
            return through, added, None
        count = len(self.places)
        slack = 2 * unit(slope.dtype) * slope.abs() * self.magnitude + gamma(count + 3, slope) * offset.abs()
        lost = inflate((touched.abs() * inflate(slack, 4)).sum(-1), count + 3)
        floor = inflate(self.magnitude.sum(-1), count) * underflow(2, slope) + underflow(2 * count + 2, slope)
        return through, added, up(lost + floor)
