"""What functions of whole rows share: `RowFunction`, sums and products of intervals, sizes of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Self

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import gamma, inflate, underflow, up
from jacobound.errors import ShapeError
from jacobound.graph.nodes import Part, VectorFunction

DOUBLE = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class RowFunction(VectorFunction):
    """A function of every row, that is along the last axis; rows do not mix, so its constant is the largest of a row's.

    Args:
        in_shape: shape of the argument, (*rows, length).
        like: tensor that carries dtype and device.
    """

    in_shape: tuple[int, ...]
    like: Tensor = DOUBLE

    def __post_init__(self) -> None:
        if not self.in_shape or 0 in self.in_shape:
            raise ShapeError(f"a function of rows needs rows with entries, not an argument of shape {self.in_shape}")

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.in_shape

    @property
    def length(self) -> int:
        """Entries of a row."""
        return self.in_shape[-1]

    def structure(self) -> bytes:
        return repr((type(self).__name__, self.in_shape)).encode()

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        return replace(self, like=self.like.to(device=device, dtype=dtype))


class RowReduction(RowFunction):
    """A function of every row that gives one number: (*rows, length) to (*rows, 1)."""

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.in_shape[:-1], 1)


def total(x: Interval) -> Interval:
    """Enclosure of the sums along the last axis, which stays with length 1."""
    return interval_dot(x.lower.new_ones(()).expand(x.shape), x)[..., None]


def interval_matmul(left: Interval, right: Interval) -> Interval:
    """Enclosure of matrix products (*lead, m, k) by (*lead, k, n), by centres and radii; unbounded where one is."""
    (a, spread_a), (b, spread_b) = left.midpoint_and_radius(), right.midpoint_and_radius()
    middle, terms = a @ b, a.shape[-1]
    size_a, size_b = a.abs(), b.abs()
    reach = inflate(size_a @ spread_b + spread_a @ up(size_b + spread_b), terms + 4)
    lost = inflate((size_a @ size_b) * gamma(terms + 2, middle), terms + 4) + underflow(terms, middle)
    spread = up(reach + lost)
    return Interval.outward(middle - spread, middle + spread)


def largest(x: Tensor) -> Tensor:
    """The largest of certified numbers, 0-d; NaN counts as infinite."""
    return x.nan_to_num(nan=inf, posinf=inf).amax()


def longest(x: Interval, p: float, centred: bool = False) -> Tensor:
    """Certified bound of the l_p norm of every row (last axis), about the middle of the interval when `centred`."""
    size = x.midpoint_and_radius()[1] if centred else x.magnitude()
    return vector_norm_upper(size, p)


def flat_part(count: int, start: int, stop: int) -> Tensor:
    """Mask of some of `count` entries."""
    places = torch.arange(count)
    return (places >= start) & (places < stop)


def joined(parts: Sequence[Part], p: float) -> Tensor:
    """The constant for the whole source that constants of disjoint parts give: their dual norm."""
    return vector_norm_upper(torch.stack([part.constant for part in parts]), {1.0: inf, 2.0: 2.0, inf: 1.0}[p])


def split(x: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The pieces of a flat last axis, each in its shape: (*lead, total) to (*lead, *shape)."""
    pieces = torch.split(x, [prod(shape) for shape in shapes], -1)
    return [piece.reshape(*x.shape[:-1], *shape) for piece, shape in zip(pieces, shapes, strict=True)]
