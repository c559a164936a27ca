"""`InnerSets`: points that are certainly in the sets that were asked for, which a `Domain` holds rounded outward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import tiny, unit, up
from jacobound.inputs.domains import Domain

# Ends and radii of a domain lie at most so many units outside what was asked for.
UNITS_OUTSIDE = 32


@dataclass(frozen=True, eq=False)
class InnerSets:
    """What is certain about N sets that were rounded outward.

    A coordinate is tight when its range is hardly wider than what rounding added: it is not varied, and everything is
    shown for every value that it can have.

    Args:
        domain: the sets, in float64.
    """

    domain: Domain

    @cached_property
    def _margin(self) -> Tensor:
        """How far an end may lie outside, shape (N, *input shape); infinite ends have no margin."""
        size = self.domain.box.magnitude()
        size = torch.where(size.isfinite(), size, torch.minimum(*map(torch.abs, self._ends)).nan_to_num(posinf=0.0))
        return 2 * UNITS_OUTSIDE * unit(size.dtype) * size + UNITS_OUTSIDE * tiny(size.dtype)

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        return self.domain.box.lower, self.domain.box.upper

    @cached_property
    def tight(self) -> Tensor:
        """Coordinates that are not varied, bool (N, *input shape)."""
        lower, upper = self._ends
        return ~(upper - lower > 4 * self._margin)

    @cached_property
    def box(self) -> Interval:
        """The box without its margins; the anchor alone in tight coordinates."""
        (lower, upper), anchor = self._ends, self.domain.anchor
        lower, upper = lower + self._margin, upper - self._margin
        return Interval(torch.where(self.tight, anchor, lower), torch.where(self.tight, anchor, upper))

    @cached_property
    def anchor(self) -> Tensor:
        """The domain's anchor, moved off the ends of the box; shape (N, *input shape)."""
        return torch.minimum(torch.maximum(self.domain.anchor, self.box.lower), self.box.upper)

    def clamp(self, points: Tensor) -> Tensor:
        """Points (N, k, *input shape) moved into the sets; the anchor where that is not certain."""
        moved = self.domain.project(points)
        moved = torch.minimum(torch.maximum(moved, self.box.lower.unsqueeze(1)), self.box.upper.unsqueeze(1))
        moved = torch.where(moved.isfinite(), moved, self.anchor.unsqueeze(1))
        kept = self.holds(moved)
        return torch.where(kept.reshape(*kept.shape, *[1] * (points.dim() - 2)), moved, self.anchor.unsqueeze(1))

    def holds(self, points: Tensor) -> Tensor:
        """Whether points (N, k, *input shape) are certainly in their sets, bool (N, k)."""
        lower, upper = self.box.lower.unsqueeze(1), self.box.upper.unsqueeze(1)
        inside = ((points >= lower) & (points <= upper)).flatten(2).all(2)
        if self.domain.centre is None or self.domain.radius is None:
            return inside
        centre, units = self.domain.centre.unsqueeze(1), UNITS_OUTSIDE * unit(points.dtype)
        away = (points - centre).abs()
        if self.domain.scale is not None:
            away = torch.where(away == 0, 0.0, up(away / self.domain.scale))
        distance = vector_norm_upper(away.flatten(2), self.domain.p, dim=2)
        radius = self.domain.radius.unsqueeze(1)
        return inside & ((distance == 0) | (distance * (1 + units) <= radius * (1 - units)))

    def __getitem__(self, sets: Tensor) -> InnerSets:
        """The inner sets that an index chooses, also several times."""
        return InnerSets(self.domain[sets])

    def around(self, points: Tensor) -> Domain:
        """What has to be looked at for one point of every set, (N, *input shape): all of a tight coordinate."""
        lower, upper = self._ends
        return Domain(Interval(torch.where(self.tight, lower, points), torch.where(self.tight, upper, points)))
