"""Real constants on the machine: enclosures of numbers that need not be floats, and sound products with them."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, up

Real = float | Fraction | tuple[float, float]
"""A constant: a float or a rational number taken exactly, or two floats around an irrational one."""


def irrational(nearest: float) -> tuple[float, float]:
    """Two floats around a number of which `nearest` is off by less than one unit in the last place."""
    return math.nextafter(nearest, -math.inf), math.nextafter(nearest, math.inf)


def quotient(pair: tuple[float, float], divisor: float) -> tuple[float, float]:
    """Two floats around an irrational number divided by a positive float."""
    low, high = (Fraction(end) / Fraction(divisor) for end in pair)
    return _towards(low, torch.float64, -math.inf), _towards(high, torch.float64, math.inf)


def as_float32(value: float) -> float:
    """The float32 closest to `value`: what a default of the ONNX standard stands for."""
    return float(torch.tensor(value, dtype=torch.float32))


@functools.lru_cache(maxsize=4096)
def float_ends(value: Real, dtype: torch.dtype) -> tuple[float, float]:
    """The closest numbers of `dtype` below and above `value`; equal when `value` is one of them."""
    low, high = value if isinstance(value, tuple) else (value, value)
    return _towards(low, dtype, -math.inf), _towards(high, dtype, math.inf)


def _towards(value: float | Fraction, dtype: torch.dtype, direction: float) -> float:
    if isinstance(value, float) and math.isinf(value):
        return value
    nearest = torch.tensor(float(value), dtype=dtype)
    if torch.isinf(nearest):
        inside = (nearest > 0) == (direction < 0)
        return math.copysign(torch.finfo(dtype).max, float(nearest)) if inside else float(nearest)
    exact, found = Fraction(value), Fraction(float(nearest))
    if (found > exact and direction < 0) or (found < exact and direction > 0):
        nearest = torch.nextafter(nearest, torch.tensor(direction, dtype=dtype))
    return float(nearest)


def number(value: Real, like: Tensor) -> Interval:
    """Enclosure of a constant, without dimensions, in the dtype and on the device of `like`."""
    low, high = float_ends(value, like.dtype)
    return Interval(like.new_tensor(low), like.new_tensor(high))


def product(x: Tensor, factor: Tensor | float) -> Interval:
    """Enclosure of ``x * factor`` for exact factors; exact where a factor is 0 or 1 or `x` is 0 or infinite."""
    if not isinstance(factor, Tensor):
        if factor == 0.0:
            return Interval.exact(torch.zeros_like(x))
        if factor == 1.0:
            return Interval.exact(x)
        result, plain = torch.where(x == 0, 0.0, x * factor), (x == 0) | torch.isinf(x)
    else:
        result = torch.where(factor == 0, 0.0, x * factor)
        plain = (x == 0) | torch.isinf(x) | (factor == 0) | (factor == 1)
    return Interval(torch.where(plain, result, down(result)), torch.where(plain, result, up(result)))


def scaled(x: Interval, factor: Real | Tensor) -> Interval:
    """Enclosure of ``x * factor`` for a nearly degenerate `x`; unlike ``*`` it keeps infinite ends tight."""
    ends = (factor,) if isinstance(factor, Tensor) else set(float_ends(factor, x.lower.dtype))
    found = [product(end, one) for one in ends for end in ([x.lower] if x.lower is x.upper else [x.lower, x.upper])]
    lower = functools.reduce(torch.minimum, (one.lower for one in found))
    return Interval(lower, functools.reduce(torch.maximum, (one.upper for one in found)))
