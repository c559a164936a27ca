"""`Blocks`: one matrix for each position of some axes, applied to the last axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.errors import ShapeError
from jacobound.operators.base import LinearOperator, convert_exactly


@dataclass(frozen=True, eq=False)
class Blocks(LinearOperator):
    """``y[..., g, i] = sum_k weight[g, i, k] x[..., g, k]``: a block diagonal matrix (heads, positions, bands).

    Args:
        weight: shape (*groups, out, in) with at least one axis of groups.
        lead: leading dimensions of the space that the matrices leave alone.
    """

    weight: Tensor
    lead: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.weight.dim() < 3 or 0 in self.weight.shape:
            raise ShapeError(
                f"blocks have axes (*groups, out, in), at least three and none empty, not {tuple(self.weight.shape)}"
            )

    @property
    def _groups(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[:-2])

    @cached_property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.lead, *self._groups, self.weight.shape[-1])

    @cached_property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.lead, *self._groups, self.weight.shape[-2])

    @property
    def terms(self) -> int:  # type: ignore[override]
        return self.weight.shape[-1]

    def apply(self, x: Tensor) -> Tensor:
        outer = x.shape[: x.dim() - len(self.in_shape)]
        # One product of matrices per group, with all vectors as columns at once.
        vectors = x.reshape(-1, prod(self._groups), x.shape[-1]).permute(1, 2, 0)
        image = torch.bmm(self.weight.flatten(0, -3), vectors).permute(2, 0, 1)
        return image.reshape(*outer, *self.out_shape)

    def transpose(self) -> Blocks:
        return self._transposed

    @cached_property
    def _transposed(self) -> Blocks:
        flipped = Blocks(self.weight.transpose(-1, -2), self.lead)
        vars(flipped)["_transposed"] = self  # one pair of objects, so that absolute values are formed once
        return flipped

    def abs(self) -> Blocks:
        return self._absolute

    @cached_property
    def _absolute(self) -> Blocks:
        known = vars(self._transposed).get("_absolute")
        return known.transpose() if known is not None else Blocks(self.weight.abs(), self.lead)

    def to(self, device: torch.device, dtype: torch.dtype) -> Blocks:
        return Blocks(convert_exactly(self.weight, device, dtype, "a block of weights"), self.lead)

    def example(self) -> Tensor:
        return self.weight

    def parameters(self) -> tuple[Tensor, ...]:
        return (self.weight,)
