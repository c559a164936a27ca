"""`UncertainDense`: a matrix of which a middle and a radius are known, such as a product of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import inflate, up
from jacobound.errors import ShapeError
from jacobound.operators.base import LinearOperator


@dataclass(frozen=True, eq=False)
class UncertainDense(LinearOperator):
    """``y[i] = sum_k weight[i, k] x[k]``, whose exact weights may lie within `radius` of the stored floats.

    Args:
        weight: shape (out, in).
        radius: not negative, same shape.
    """

    weight: Tensor
    radius: Tensor

    def __post_init__(self) -> None:
        if self.weight.dim() != 2 or self.radius.shape != self.weight.shape:
            shapes = tuple(self.weight.shape), tuple(self.radius.shape)
            raise ShapeError(f"an uncertain weight has two axes (out, in) and a radius of that shape, not {shapes}")

    @cached_property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.weight.shape[1],)

    @cached_property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.weight.shape[0],)

    @property
    def terms(self) -> int:  # type: ignore[override]
        return self.weight.shape[1]

    @classmethod
    def samples(cls, draw: Callable[[Sequence[int]], Tensor]) -> Sequence[LinearOperator]:
        """Exact ones, for which `abs` is the matrix of absolute values."""
        return (cls(draw((3, 4)), torch.zeros_like(draw((3, 4)))),)

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.weight.T

    def transpose(self) -> UncertainDense:
        return self._transposed

    @cached_property
    def _transposed(self) -> UncertainDense:
        flipped = UncertainDense(self.weight.T, self.radius.T)
        vars(flipped)["_transposed"] = self  # one pair of objects, so that absolute values are formed once
        return flipped

    def abs(self) -> UncertainDense:
        return self._absolute

    @cached_property
    def _absolute(self) -> UncertainDense:
        size = self.weight.abs()
        size = torch.where(self.radius == 0, size, up(size + self.radius))
        return UncertainDense(size, torch.zeros_like(size))

    def uncertainty(self, magnitude: Tensor) -> Tensor | None:
        return inflate(magnitude @ self.radius.T, self.terms + 1) if self._is_uncertain else None

    @cached_property
    def _is_uncertain(self) -> bool:
        return bool((self.radius != 0).any())

    def to(self, device: torch.device, dtype: torch.dtype) -> UncertainDense:
        weight = self.weight.to(device=device, dtype=dtype)
        wide = torch.promote_types(dtype, self.weight.dtype)
        moved = (self.weight.to(device, wide) - weight.to(wide)).abs() + self.radius.to(device, wide)
        return UncertainDense(weight, torch.where(moved == 0, 0.0, up(up(moved).to(dtype))))

    def example(self) -> Tensor:
        return self.weight

    def columns(self, index: Tensor, outputs: Tensor | None = None) -> Tensor:
        part = self.weight if outputs is None else self.weight.index_select(0, outputs)
        return part.index_select(1, index).T

    def parameters(self) -> tuple[Tensor, ...]:
        return self.weight, self.radius
