"""Arithmetic with outward rounding: intervals as pairs of arrays, and what sums of products may be off by.

Model: IEEE float64, round to nearest; sums of products in any order, with or without fused operations, lose at most
``gamma(n) sum |a||b|`` with ``gamma(n) = n u / (1 - n u)``, u = 2^-53 (Higham 2002, section 3.1), and `LEAST` for each
product that underflows, were results flushed to zero. Library functions are widened by `WIDE` units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

UNIT = 2.0**-53
LEAST = 2.0**-1022
WIDE = 16  # units in the last place; exp, log, tanh, ... of numpy and erf of the C library are within 4


def gamma(terms: int) -> float:
    """An upper bound of n u / (1 - n u)."""
    if terms > 1e9:
        raise ValueError("a sum of more than 1e9 terms has no error bound here")
    return 1.001 * terms * UNIT


def up(x: ArrayLike) -> Array:
    """The next float above."""
    return np.nextafter(x, np.inf)


def down(x: ArrayLike) -> Array:
    """The next float below."""
    return np.nextafter(x, -np.inf)


def grown(x: ArrayLike, roundings: int) -> Array:
    """At least the exact value of a sum of non-negative numbers that was computed with so many roundings."""
    return up(np.asarray(x) * (1 + 2 * gamma(roundings + 3))) + roundings * LEAST


def safe(low: Array, high: Array) -> Interval:
    """An interval in which NaN stands for no knowledge, and an overflow never for a bound on the wrong side."""
    low, high = np.where(np.isnan(low) | (low == np.inf), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    return Interval(low, np.where(high == -np.inf, np.inf, high))


@dataclass(frozen=True, eq=False)
class Interval:
    """All numbers between two arrays of one shape, entry by entry; every operation rounds outward."""

    low: Array
    high: Array

    @staticmethod
    def at(x: Array | float) -> Interval:
        x = np.asarray(x, dtype=np.float64)
        return Interval(x, x)

    def __add__(self, other: Interval | float) -> Interval:
        other = other if isinstance(other, Interval) else Interval.at(other)
        return safe(down(self.low + other.low), up(self.high + other.high))

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __sub__(self, other: Interval | float) -> Interval:
        return self + -other

    def __mul__(self, other: Interval | float) -> Interval:
        other = other if isinstance(other, Interval) else Interval.at(other)
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            ends = np.stack([a * b for a in (self.low, self.high) for b in (other.low, other.high)])
        # 0 times an unbounded factor is 0: the factor is some number, although it is not known.
        ends = np.where(np.isnan(ends), 0.0, ends)
        return safe(down(ends.min(0)), up(ends.max(0)))

    def inverse(self) -> Interval:
        """One over it; everything where it holds 0."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            low, high = down(1 / self.high), up(1 / self.low)
        crosses = (self.low <= 0) & (self.high >= 0)
        return safe(np.where(crosses, -np.inf, low), np.where(crosses, np.inf, high))

    def hull(self, other: Interval) -> Interval:
        return Interval(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def meet(self, other: Interval) -> Interval:
        """Both bounds together; where they exclude each other, which two true ones can not, the first."""
        low, high = np.maximum(self.low, other.low), np.minimum(self.high, other.high)
        return Interval(np.where(low <= high, low, self.low), np.where(low <= high, high, self.high))

    def size(self) -> Array:
        """The largest absolute value."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def middle(self) -> tuple[Array, Array]:
        """Floats c, r with the interval inside [c - r, c + r]; r is 0 for a point."""
        with np.errstate(invalid="ignore", over="ignore"):
            centre = self.low * 0.5 + self.high * 0.5
            radius = np.maximum(up(self.high - centre), up(centre - self.low))
        known = np.isfinite(centre)
        same = self.low == self.high
        radius = np.where(known, np.where(same, 0.0, radius), np.inf)
        return np.where(known, np.where(same, self.low, centre), 0.0), radius

    def clipped(self, low: float, high: float) -> Interval:
        """What it says of a number that is known to lie in [low, high]."""
        return Interval(np.clip(self.low, low, high), np.clip(self.high, low, high))

    def __getitem__(self, key: object) -> Interval:
        return Interval(self.low[key], self.high[key])  # type: ignore[index]


def rising(function: Callable[[Array], Array], wide: int = WIDE) -> Callable[[Interval], Interval]:
    """An increasing library function on intervals."""

    def image(x: Interval) -> Interval:
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            low, high = function(x.low), function(x.high)
        return safe(low - _margin(low, wide), high + _margin(high, wide))

    return image


def falling_from_zero(function: Callable[[Array], Array], wide: int = 32) -> Callable[[Interval], Interval]:
    """A function of |x| that decreases and is positive, on intervals."""

    def image(x: Interval) -> Interval:
        near = np.where((x.low <= 0) & (x.high >= 0), 0.0, np.minimum(np.abs(x.low), np.abs(x.high)))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            low, high = function(x.size()), function(near)
        return safe(np.maximum(low - _margin(low, wide), 0.0), high + _margin(high, wide))

    return image


def _margin(x: Array, wide: int) -> Array:
    with np.errstate(invalid="ignore"):
        return wide * np.where(np.isfinite(x), np.spacing(np.abs(x)), 0.0) + LEAST
