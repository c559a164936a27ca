"""`Interval`: a pair of tensors that encloses an exact real tensor; every operation rounds outward.

Arithmetic uses that +, -, *, / are correctly rounded and steps one unit outward. Elementary functions are trusted
only where they were measured (`ULPS`), are monotone on their whole domain, and are widened by that many units;
anything composite is a formula over intervals, never a widened library call (`softplus` of torch is off by 5e5 units).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import (
    down,
    gamma,
    inflate,
    outward,
    rigorous,
    safe_interval,
    tiny,
    underflow,
    unit,
    up,
)
from jacobound.errors import ShapeError

# Widths in units in the last place, at least four times the worst error measured on CPU in both dtypes.
ULPS = {"exp": 4, "expm1": 4, "log": 4, "log1p": 4, "tanh": 4, "atan": 4, "erf": 4, "sqrt": 4, "sin": 4, "cos": 4}

# Sine and cosine are trusted up to here; arguments farther out must be reduced first.
PERIODIC_REACH = 10.0


@dataclass(frozen=True, eq=False)
class Interval:
    """All real tensors between `lower` and `upper`, entry by entry.

    Args:
        lower: tensor of any shape; never NaN and never +inf in a result of this module.
        upper: tensor of the same shape; never NaN and never -inf.
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise ShapeError(
                f"an interval has one shape, not {tuple(self.lower.shape)} and {tuple(self.upper.shape)}; "
                "broadcast the ends first"
            )

    @staticmethod
    def exact(x: Tensor) -> Interval:
        """The interval that holds only `x`."""
        return Interval(x, x)

    @staticmethod
    def safe(lower: Tensor, upper: Tensor) -> Interval:
        """From ends that may have overflowed: NaN and impossible infinities become bounds that hold."""
        return Interval(*safe_interval(lower, upper))

    @staticmethod
    def outward(lower: Tensor, upper: Tensor) -> Interval:
        """From correctly rounded ends: each one step outward, and safe."""
        return Interval(*outward(lower, upper))

    @staticmethod
    def whole(like: Tensor) -> Interval:
        """The whole real line in every entry."""
        return Interval(torch.full_like(like, -torch.inf), torch.full_like(like, torch.inf))

    @property
    def shape(self) -> torch.Size:
        return self.lower.shape

    @property
    def width(self) -> Tensor:
        """Upper minus lower, rounded up."""
        return up(self.upper - self.lower)

    def is_finite(self) -> bool:
        """Whether every end is a finite number."""
        return bool((torch.isfinite(self.lower) & torch.isfinite(self.upper)).all())

    def magnitude(self) -> Tensor:
        """The largest absolute value in each entry (exact)."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def midpoint_and_radius(self) -> tuple[Tensor, Tensor]:
        """A float centre and a radius, rounded up, with centre ± radius covering the interval.

        An entry with an infinite end gets centre 0 and radius inf.
        """
        middle = (self.lower * 0.5 + self.upper * 0.5).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        radius = torch.maximum(up(self.upper - middle), up(middle - self.lower))
        return middle, torch.where(self.upper > self.lower, radius, (self.upper - middle).abs())

    def __getitem__(self, key: object) -> Interval:
        return Interval(self.lower[key], self.upper[key])  # type: ignore[index]

    def map(self, function: Callable[[Tensor], Tensor]) -> Interval:
        """Apply a rearrangement (reshape, index, move to a device) to both ends."""
        return Interval(function(self.lower), function(self.upper))

    def reshape(self, *shape: int) -> Interval:
        return self.map(lambda end: end.reshape(shape))

    def intersect(self, other: Interval) -> Interval:
        """Entries that both enclose. Where rounding made them disjoint the union is kept (both hold the truth)."""
        lower, upper = torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        crossed = ~(lower <= upper)
        if crossed.any():
            hull = self.hull(other)
            lower, upper = torch.where(crossed, hull.lower, lower), torch.where(crossed, hull.upper, upper)
        return Interval(lower, upper)

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(torch.minimum(self.lower, other.lower), torch.maximum(self.upper, other.upper))

    def contains(self, x: Tensor) -> Tensor:
        """Entry by entry, whether `x` lies inside (NaN does not)."""
        return (self.lower <= x) & (x <= self.upper)

    def __neg__(self) -> Interval:
        return Interval(-self.upper, -self.lower)

    def __add__(self, other: Interval | Tensor | float) -> Interval:
        other = _as_interval(other, self.lower)
        return Interval.outward(self.lower + other.lower, self.upper + other.upper)

    __radd__ = __add__

    def __sub__(self, other: Interval | Tensor | float) -> Interval:
        return self + (-_as_interval(other, self.lower))

    def __rsub__(self, other: Tensor | float) -> Interval:
        return -self + other

    def __mul__(self, other: Interval | Tensor | float) -> Interval:
        other = _as_interval(other, self.lower)
        products = torch.stack([_product(a, b) for a in (self.lower, self.upper) for b in (other.lower, other.upper)])
        return Interval.outward(products.amin(0), products.amax(0))

    __rmul__ = __mul__

    def reciprocal(self) -> Interval:
        """1 / x; the whole line where the interval holds zero."""
        away = (self.lower > 0) | (self.upper < 0)
        lower = torch.where(away, down(1 / self.upper), -torch.inf)
        return Interval.safe(lower, torch.where(away, up(1 / self.lower), torch.inf))

    def __truediv__(self, other: Interval | Tensor | float) -> Interval:
        return self * _as_interval(other, self.lower).reciprocal()

    def __rtruediv__(self, other: Tensor | float) -> Interval:
        return self.reciprocal() * other

    def __abs__(self) -> Interval:
        smallest = torch.where((self.lower <= 0) & (self.upper >= 0), 0.0, torch.minimum(*_absolute(self)))
        return Interval.safe(smallest, self.magnitude())

    def square(self) -> Interval:
        folded = abs(self)
        return Interval(down(folded.lower * folded.lower).clamp(min=0.0), up(folded.upper * folded.upper))

    def clamp(self, lower: float | None = None, upper: float | None = None) -> Interval:
        """Clip both ends, for results whose exact range is known."""
        return self.map(lambda end: end.clamp(min=lower, max=upper))

    def exp(self) -> Interval:
        return self._increasing("exp", torch.exp).clamp(lower=0.0)

    def expm1(self) -> Interval:
        return self._increasing("expm1", torch.expm1).clamp(lower=-1.0)

    def log(self) -> Interval:
        """Natural logarithm; an end that is not positive gives an infinite bound."""
        return self.clamp(lower=0.0)._increasing("log", torch.log)

    def log1p(self) -> Interval:
        return self.clamp(lower=-1.0)._increasing("log1p", torch.log1p)

    def tanh(self) -> Interval:
        return self._increasing("tanh", torch.tanh).clamp(-1.0, 1.0)

    def atan(self) -> Interval:
        return self._increasing("atan", torch.atan)

    def erf(self) -> Interval:
        return self._increasing("erf", torch.erf).clamp(-1.0, 1.0)

    def sqrt(self) -> Interval:
        return self.clamp(lower=0.0)._increasing("sqrt", torch.sqrt).clamp(lower=0.0)

    def sin(self) -> Interval:
        """By the value at the middle and |sin'| <= 1: tight for narrow intervals up to ±`PERIODIC_REACH`."""
        return self._wave("sin", torch.sin)

    def cos(self) -> Interval:
        """By the value at the middle and |cos'| <= 1: tight for narrow intervals up to ±`PERIODIC_REACH`."""
        return self._wave("cos", torch.cos)

    def _wave(self, name: str, function: Callable[[Tensor], Tensor]) -> Interval:
        middle, radius = self.midpoint_and_radius()
        value = function(middle)
        if rigorous():
            error = value.abs() * (2 * unit(value.dtype) * (ULPS[name] + 1)) + 8 * tiny(value.dtype)
            radius = torch.where(
                self.magnitude() <= PERIODIC_REACH, radius * (1 + 4 * unit(value.dtype)) + error, torch.inf
            )
        return Interval.outward(value - radius, value + radius).clamp(-1.0, 1.0)

    def _increasing(self, name: str, function: Callable[[Tensor], Tensor]) -> Interval:
        """Ends of a monotone library function, widened by its entry in `ULPS`."""
        lower, upper = function(self.lower), function(self.upper)
        if not rigorous():
            return Interval(lower, upper)
        relative, absolute = 2 * unit(lower.dtype) * (ULPS[name] + 1), 8 * tiny(lower.dtype)
        return Interval.safe(lower - (lower.abs() * relative + absolute), upper + (upper.abs() * relative + absolute))


def _absolute(x: Interval) -> tuple[Tensor, Tensor]:
    return x.lower.abs(), x.upper.abs()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b with 0 * inf = 0, because the exact bound is a number times 0; NaN stays."""
    return torch.where((a == 0) | (b == 0), 0.0, a * b)


def _as_interval(x: Interval | Tensor | float, like: Tensor) -> Interval:
    """An interval of `like`'s dtype that holds x exactly: a number that the dtype lacks gets a width."""
    if isinstance(x, Interval):
        return x
    given = torch.as_tensor(x, device=like.device) if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)
    moved = given.to(device=like.device, dtype=like.dtype)
    if given.dtype == like.dtype or bool((moved.to(given.dtype) == given).all()):
        return Interval.exact(moved)
    return Interval.outward(moved, moved)


def concatenated(parts: Sequence[Interval], axis: int) -> Interval:
    """The intervals side by side along one axis."""
    return Interval(torch.cat([part.lower for part in parts], axis), torch.cat([part.upper for part in parts], axis))


def interval_dot(weights: Tensor, x: Interval) -> Interval:
    """Enclosure of ``sum_k weights[..., k] * x[..., k]`` with exact float weights, over the last axis.

    Args:
        weights: shape (..., n).
        x: shape (..., n); infinite ends with a zero weight count as zero.

    Returns:
        Shape (...); unbounded where a weight is NaN.
    """
    from_lower, from_upper = weights.clamp(min=0.0), weights.clamp(max=0.0)
    terms = x.shape[-1]

    def total(towards: Tensor, against: Tensor) -> Tensor:
        return (
            (from_lower * towards).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
            + (from_upper * against).nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        ).sum(-1)

    slack = dot_slack(_product(weights.abs(), x.magnitude()), terms)  # infinite where a weight is NaN
    return Interval.outward(total(x.lower, x.upper) - slack, total(x.upper, x.lower) + slack)


def dot_slack(absolute_products: Tensor, terms: int) -> Tensor:
    """Upper bound of the rounding error of a sum over the last axis, given its absolute products."""
    total = absolute_products.sum(-1)
    return inflate(total * gamma(terms + 2, total), terms + 3) + underflow(terms, total)
