"""Families of numbers and intervals on which arithmetic goes wrong, and exact points of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import random_floats, rational, special_numbers
from jacobound.arithmetic.intervals import Interval
from zoo import integer

# Binary exponents: those of the largest float, of the smallest normal one, and of the smallest one.
REACH = {torch.float64: (1023, -1022, -1074), torch.float32: (127, -126, -149)}


def _exponents(low: Callable[[int, int, int], tuple[int, int]]) -> Callable[..., Tensor]:
    def draw(shape: Sequence[int], dtype: torch.dtype, generator: Generator) -> Tensor:
        return random_floats(shape, dtype, generator, low(*REACH[dtype]))

    return draw


def _special(shape: Sequence[int], dtype: torch.dtype, generator: Generator) -> Tensor:
    known = torch.tensor(special_numbers(dtype), dtype=dtype)
    return known[torch.randint(len(known), tuple(shape), generator=generator)]


def _integers(shape: Sequence[int], dtype: torch.dtype, generator: Generator) -> Tensor:
    return torch.randint(-4, 5, tuple(shape), generator=generator).to(dtype)


NUMBERS: dict[str, Callable[..., Tensor]] = {
    "ordinary": _exponents(lambda top, normal, least: (-3, 3)),
    "mixed": _exponents(lambda top, normal, least: (-60, 60)),
    "huge": _exponents(lambda top, normal, least: (top - 12, top)),
    "tiny": _exponents(lambda top, normal, least: (normal - 4, normal + 30)),
    "subnormal": _exponents(lambda top, normal, least: (least, normal)),
    "root of tiny": _exponents(lambda top, normal, least: (least // 2 - 4, normal // 2 + 4)),
    "everything": _exponents(lambda top, normal, least: (least, top)),
    "special": _special,
    "integers": _integers,
}


def pick(choices: tuple[str, ...] | list[str], generator: Generator) -> str:
    """One of some names."""
    return choices[integer(0, len(choices) - 1, generator)]


def numbers(family: str, shape: Sequence[int], dtype: torch.dtype, generator: Generator) -> Tensor:
    """Finite floats of a family (what overflowed on the way is replaced by the largest float)."""
    top = torch.finfo(dtype).max
    return NUMBERS[family](shape, dtype, generator).clamp(-top, top)


def _wide(x: Tensor, y: Tensor, generator: Generator) -> Interval:
    return Interval(torch.minimum(x, y), torch.maximum(x, y))


def _zero_width(x: Tensor, y: Tensor, generator: Generator) -> Interval:
    return Interval(x, x.clone())


def _one_float(x: Tensor, y: Tensor, generator: Generator) -> Interval:
    above = x.nextafter(torch.full_like(x, math.inf))
    return Interval(x, torch.where(torch.isfinite(above), above, x))


def _infinite(x: Tensor, y: Tensor, generator: Generator) -> Interval:
    ends = _wide(x, y, generator)
    share = torch.rand(x.shape, generator=generator)
    return Interval(
        torch.where(share < 0.5, -math.inf, ends.lower), torch.where(share.sub(0.5).abs() < 0.3, math.inf, ends.upper)
    )


WIDTHS: dict[str, Callable[[Tensor, Tensor, Generator], Interval]] = {
    "wide": _wide,
    "zero width": _zero_width,
    "one float": _one_float,
    "infinite": _infinite,
}


def intervals(family: str, width: str, shape: Sequence[int], dtype: torch.dtype, generator: Generator) -> Interval:
    """Intervals with ends of a family of numbers."""
    x, y = (numbers(family, shape, dtype, generator) for _ in range(2))
    return WIDTHS[width](x, y, generator)


def cancelling(x: Interval, generator: Generator) -> Interval:
    """Intervals nearly opposite to the given ones: their sum is (nearly) zero."""
    away = torch.rand(x.lower.shape, generator=generator) < 0.5
    step = torch.where(away, math.inf, -math.inf).to(x.lower)
    lower, upper = (-end for end in (x.upper, x.lower))
    moved = lower.nextafter(step), upper.nextafter(step)
    kept = torch.isfinite(moved[0]) & torch.isfinite(moved[1])
    return Interval(torch.where(kept, moved[0], lower), torch.where(kept, moved[1], upper))


def inside(x: Interval, generator: Generator) -> list[fmpq]:
    """One rational point of every interval: an end or between; finite also where an end is not."""
    shares = torch.randint(0, 5, (x.lower.numel(),), generator=generator).tolist()
    reaches = torch.randint(-20, 200, (x.lower.numel(),), generator=generator).tolist()
    ends = zip(x.lower.flatten().tolist(), x.upper.flatten().tolist(), shares, reaches, strict=True)
    return [_between(*entry) for entry in ends]


def _between(low: float, high: float, share: int, reach: int) -> fmpq:
    if math.isfinite(low) and (share == 0 or low == high):
        return rational(low)
    if math.isfinite(high) and share == 4:
        return rational(high)
    if math.isfinite(low) and math.isfinite(high):
        a, b = rational(low), rational(high)
        return a + (b - a) * fmpq(share, 4)
    far = fmpq(2) ** reach
    if math.isfinite(low):
        return rational(low) + far
    return rational(high) - far if math.isfinite(high) else far * (1 if share % 2 else -1)
