"""How slope times derivative is bounded by lines: the only place where RecurJac and gradient-graph bounds differ.

At a neuron with slope s in [a, c] and downstream derivative y in [L, U], find

    upper_slope y + upper_offset >= s y >= lower_slope y + lower_offset      for all such s and y.

Where the sign of y is known the slopes are exact and the offsets zero. Otherwise `constant` (RecurJac, AAAI 2019,
section 3) gives up on y, and `chord` takes the chord of the convex max_s s y and of the concave min_s s y, which is
the best possible line on [L, U] (as in the gradient-graph relaxation of Shi et al., NeurIPS 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, unit, up


@dataclass(frozen=True, eq=False)
class ProductLines:
    """Lines for every set, output and neuron, all tensors of shape (N, outputs, neurons); offsets are rigorous.

    `upper_offset` is never negative and `lower_offset` never positive.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor

    def of(self, neurons: Tensor | None) -> ProductLines:
        """The lines of some neurons, given by their places; None for all."""
        if neurons is None:
            return self
        ends = (self.lower_slope, self.lower_offset, self.upper_slope, self.upper_offset)
        return ProductLines(*(end[..., neurons] for end in ends))


ProductRelaxation = Callable[[Interval, Interval, Tensor], ProductLines]


def constant(slope: Interval, derivative: Interval, rounding: Tensor) -> ProductLines:
    """RecurJac's rule: where the sign is unknown the product is bounded by constants.

    An end within its rounding error of zero counts as zero: the slopes of the known sign are
    kept and `_lines` encloses the difference by an offset of that size. Otherwise a bound of -1e-15 in place of 0
    would lose the whole term.

    Args:
        slope: derivative range of each neuron, shape (N, 1, neurons).
        derivative: bounds of the downstream derivative, shape (N, outputs, neurons).
        rounding: what rounding errors added to those bounds, same shape; free (any value is sound).
    """
    a, c, low, high = slope.lower, slope.upper, derivative.lower, derivative.upper
    rounding = 2 * rounding + 16 * unit(low.dtype) * derivative.magnitude()
    almost_positive, almost_negative = low >= -rounding, high <= rounding
    zero = torch.zeros_like(low)
    above = torch.where(almost_positive, c, torch.where(almost_negative, a, zero))
    below = torch.where(almost_positive, a, torch.where(almost_negative, c, zero))
    return _lines(slope, derivative, below, above)


def chord(slope: Interval, derivative: Interval, rounding: Tensor) -> ProductLines:
    """Chords through the ends of [L, U]: (L, aL), (U, cU) above and (L, cL), (U, aU) below."""
    del rounding  # the chord changes continuously as an end passes zero
    a, c, low, high = slope.lower, slope.upper, derivative.lower, derivative.upper
    width = torch.where(high > low, high - low, 1.0)  # where there is none the product is known; finite gradients
    above = ((c * high - a * low) / width).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    below = ((a * high - c * low) / width).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return _lines(slope, derivative, below, above)


def _lines(slope: Interval, derivative: Interval, below: Tensor, above: Tensor) -> ProductLines:
    """Exact lines where the sign is known; elsewhere the given slopes with offsets from the four corners."""
    a, c, low, high = slope.lower, slope.upper, derivative.lower, derivative.upper
    a, c = a.expand_as(low), c.expand_as(low)
    positive, negative = low >= 0, high <= 0
    known = positive | negative | (a == c)
    upper_slope = torch.where(negative, a, torch.where(positive, c, torch.where(a == c, c, above)))
    lower_slope = torch.where(negative, c, torch.where(positive, a, torch.where(a == c, a, below)))
    corners = [(s, y) for s in (a, c) for y in (low, high)]
    # s y - k y is bilinear, so its extremes over the rectangle lie at the corners, whatever k is.
    over = torch.stack([up(up(s * y) - down(upper_slope * y)) for s, y in corners])
    under = torch.stack([down(down(s * y) - up(lower_slope * y)) for s, y in corners])
    zero = torch.zeros_like(low)
    return ProductLines(
        lower_slope,
        torch.where(known, zero, under.amin(0).clamp(max=0.0)),
        upper_slope,
        torch.where(known, zero, over.amax(0).clamp(min=0.0)),
    )
