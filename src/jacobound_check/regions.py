"""Sets of inputs: boxes, and l1 or l2 balls within boxes; what linear functions reach there; which points are in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from jacobound_check.errors import UnreadableError
from jacobound_check.norms import length_above
from jacobound_check.reading import Arrays, array_of, entry, number_of, text_of
from jacobound_check.rounding import LEAST, Array, Interval, down, gamma, grown, up

EXPONENTS = {"1": 1.0, "2": 2.0, "inf": math.inf}


@dataclass(frozen=True, eq=False)
class Set:
    """One convex set: ``low <= x <= high`` and, with a centre, ``|(x - centre) / scale|_p <= radius``.

    The box is the one that was asked for; `box` is one around the whole set, rounded outward.
    """

    low: Array
    high: Array
    centre: Array | None = None
    radius: float = 0.0
    p: float = math.inf
    scale: Array | None = None

    @property
    def box(self) -> Interval:
        if self.centre is None:
            return Interval(self.low, self.high)
        reach = np.full_like(self.centre, self.radius)
        if self.scale is not None:
            reach = np.where(self.scale == 0, 0.0, up(self.scale * self.radius))
        low, high = (np.where(reach == 0, self.centre, x) for x in (down(self.centre - reach), up(self.centre + reach)))
        return Interval(np.maximum(low, self.low), np.minimum(high, self.high))

    @property
    def bounded(self) -> bool:
        box = self.box
        return bool(np.isfinite(box.low).all() and np.isfinite(box.high).all())

    def most(self, rows: Array) -> Array:
        """Upper bounds of ``a . x`` over the set for every row a: by the box, and by the dual norm of the ball."""
        box = self.box
        centre, radius = box.middle()
        sizes = np.abs(rows)
        found = self._around(rows, sizes, centre, grown(sizes @ radius, rows.shape[1] + 2))
        if self.centre is None or self.p == math.inf:
            return found
        lengths = rows if self.scale is None else up(sizes * self.scale)
        dual = length_above(lengths, {1.0: math.inf, 2.0: 2.0}[self.p])
        return np.minimum(found, self._around(rows, sizes, self.centre, up(dual * self.radius)))

    @staticmethod
    def _around(rows: Array, sizes: Array, centre: Array, reach: Array) -> Array:
        terms = rows.shape[1]
        lost = grown(gamma(terms + 2) * (sizes @ np.abs(centre)), terms + 3) + terms * LEAST
        return up(up(rows @ centre + reach) + lost)

    def holds(self, point: Array) -> bool:
        """Whether a point of floats lies in the set, in exact arithmetic."""
        if not np.isfinite(point).all() or not ((self.low <= point) & (point <= self.high)).all():
            return False
        if self.centre is None:
            return True
        scale = np.ones_like(point) if self.scale is None else self.scale
        moves = [(Fraction(x) - Fraction(c), Fraction(s)) for x, c, s in zip(point, self.centre, scale, strict=True)]
        if any(move and not unit for move, unit in moves):
            return False
        parts, radius = [abs(move / unit) for move, unit in moves if move], Fraction(self.radius)
        if self.p == 2:
            return sum(x * x for x in parts) <= radius * radius
        return (max(parts, default=Fraction(0)) if self.p == math.inf else sum(parts)) <= radius


def sets_of(told: Any, arrays: Arrays, inputs: int) -> list[Set]:
    """All sets of a region, radii first.

    Raises:
        UnreadableError: when an end is missing, crossed, or of another size than the network's input.
    """
    kind = text_of(told.get("kind") if isinstance(told, dict) else None, "kind of region", ("box", "ball", "space"))
    nowhere, everywhere = np.full(inputs, -np.inf), np.full(inputs, np.inf)
    if kind == "space":
        entry(told, "region", ("kind",))
        return [Set(nowhere, everywhere)]

    def points(name: str) -> Array:
        found = arrays.get(text_of(told[name], f"region: {name}"))
        if (
            found is None
            or found.dtype != np.float64
            or found.ndim != 2
            or found.shape[1] != inputs
            or np.isnan(found).any()
        ):
            raise UnreadableError(f"region: {name} is no list of points of the network's input")
        return found

    if kind == "box":
        entry(told, "region", ("kind", "lower", "upper"))
        low, high = points("lower"), points("upper")
        if low.shape != high.shape or not (low <= high).all() or (low == np.inf).any() or (high == -np.inf).any():
            raise UnreadableError("region: the ends of a box are crossed or do not fit")
        return [Set(*pair) for pair in zip(low, high, strict=True)]
    entry(told, "region", ("kind", "centre", "radii", "p", "low", "high", "scale"))
    centres, p = points("centre"), EXPONENTS[text_of(told["p"], "region: p", EXPONENTS)]
    radii = [number_of(one, "region: a radius") for one in told["radii"]] if isinstance(told["radii"], list) else []
    if not radii or min(radii) < 0 or not np.isfinite(centres).all():
        raise UnreadableError("region: there are no radii, or one is negative, or a centre is not finite")
    low, high = (
        end if told[name] is None else array_of(arrays, told[name], f"region: {name}", (inputs,))
        for name, end in (("low", nowhere), ("high", everywhere))
    )
    scale = None if told["scale"] is None else array_of(arrays, told["scale"], "region: scale", (inputs,))
    if scale is not None and not (scale >= 0).all():
        raise UnreadableError("region: a scale is negative")
    found = [Set(low, high, centre, radius, p, scale) for radius in radii for centre in centres]
    if any((one.box.low > one.box.high).any() for one in found):
        raise UnreadableError("region: a ball does not meet its box")
    return found
