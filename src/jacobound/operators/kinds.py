"""The kinds of `LinearOperator`: `Identity`, `Dense`, `Select`, `Scatter`, `Scale`; others in files of their own.

To add a kind, write one class and export it here; every bound method then works with it, and the operator laws in
``tests/operators/test_operators.py`` apply to it as soon as it stands in their list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import inflate, up
from jacobound.errors import ShapeError
from jacobound.operators.base import LinearOperator, convert_exactly
from jacobound.operators.blocks import Blocks
from jacobound.operators.convolution import Convolution
from jacobound.operators.sparse import Sparse
from jacobound.operators.uncertain import UncertainDense

__all__ = [
    "Blocks",
    "Convolution",
    "Dense",
    "Identity",
    "Scale",
    "Scatter",
    "Select",
    "Sparse",
    "UncertainDense",
    "convert_exactly",
    "with_shapes",
]


@dataclass(frozen=True, eq=False)
class Identity(LinearOperator):
    """x itself, possibly under another shape of the same size (reshape, flatten)."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    like: Tensor
    terms: int = 0

    def __post_init__(self) -> None:
        if prod(self.in_shape) != prod(self.out_shape):
            raise ShapeError(f"can not reshape {self.in_shape} to {self.out_shape}: the sizes differ")

    def apply(self, x: Tensor) -> Tensor:
        return x.reshape((*x.shape[: x.dim() - len(self.in_shape)], *self.out_shape))

    def transpose(self) -> Identity:
        return Identity(self.out_shape, self.in_shape, self.like)

    def abs(self) -> Identity:
        return self

    def to(self, device: torch.device, dtype: torch.dtype) -> Identity:
        return Identity(self.in_shape, self.out_shape, self.like.to(device=device, dtype=dtype))

    def example(self) -> Tensor:
        return self.like


@dataclass(frozen=True, eq=False)
class Dense(LinearOperator):
    """A matrix on the last axis: ``y[..., i] = sum_k weight[i, k] x[..., k]``.

    Args:
        weight: shape (out, in).
        lead: leading dimensions of the space that the matrix leaves alone (sequence positions).
    """

    weight: Tensor
    lead: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.weight.dim() != 2:
            raise ShapeError(f"a dense weight has two axes (out, in), not shape {tuple(self.weight.shape)}")

    @cached_property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.lead, self.weight.shape[1])

    @cached_property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.lead, self.weight.shape[0])

    @property
    def terms(self) -> int:  # type: ignore[override]
        return self.weight.shape[1]

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.weight.T

    def transpose(self) -> Dense:
        return self._transposed

    @cached_property
    def _transposed(self) -> Dense:
        flipped = Dense(self.weight.T, self.lead)
        vars(flipped)["_transposed"] = self  # one pair of objects, so that absolute values are formed once
        return flipped

    def abs(self) -> Dense:
        return self._absolute

    @cached_property
    def _absolute(self) -> Dense:
        known = vars(self._transposed).get("_absolute")
        return known.transpose() if known is not None else Dense(self.weight.abs(), self.lead)

    def to(self, device: torch.device, dtype: torch.dtype) -> Dense:
        return Dense(convert_exactly(self.weight, device, dtype, "a dense weight"), self.lead)

    def example(self) -> Tensor:
        return self.weight

    def parameters(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def columns(self, index: Tensor, outputs: Tensor | None = None) -> Tensor:
        return super().columns(index, outputs) if self.lead else self._part(outputs, index).T

    def between(self, inputs: Tensor | None, outputs: Tensor | None, vectors: int) -> Callable[[Tensor], Tensor]:
        """Products with the submatrix only, so that dead neurons cost nothing; few vectors are not worth its copy."""
        if self.lead or vectors < 16:
            return super().between(inputs, outputs, vectors)
        weight = self._part(outputs, inputs)
        return lambda x: x @ weight.T

    def _part(self, outputs: Tensor | None, inputs: Tensor | None) -> Tensor:
        """The submatrix of the given outputs and inputs, read along the memory whichever way the weight lies."""
        flipped = self.weight.stride(1) != 1
        base, rows, columns = (self.weight.T, inputs, outputs) if flipped else (self.weight, outputs, inputs)
        if rows is not None:
            base = base.index_select(0, rows)
        if columns is not None:
            base = base.gather(1, columns.expand(len(base), -1))
        return base.T if flipped else base


@dataclass(frozen=True, eq=False)
class Select(LinearOperator):
    """Moves entries: ``y[i] = x.flat[index[i]]``, or 0 where index is -1 (permute, slice, pad, concatenate, expand).

    Args:
        index: integer tensor of shape out_shape with flat positions into in_shape, or -1.
        in_shape: shape of the argument.
        like: tensor that carries dtype and device.
    """

    index: Tensor
    in_shape: tuple[int, ...]
    like: Tensor
    terms: int = 0

    def __post_init__(self) -> None:
        if self.index.numel() and (self.index.max() >= prod(self.in_shape) or self.index.min() < -1):
            raise ShapeError(f"a selection points outside its argument of shape {self.in_shape}")

    @cached_property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.index.shape)

    @cached_property
    def present(self) -> Tensor | None:
        """Mask of the entries that are not zeros of padding; None when all are."""
        return None if bool((self.index >= 0).all()) else self.index >= 0

    @cached_property
    def multiplicity(self) -> int:
        """The most often that one entry is used."""
        used = self.index[self.index >= 0]
        return int(torch.bincount(used).max()) if used.numel() else 0

    def apply(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.dim() - len(self.in_shape)]
        moved = x.reshape(*lead, self.in_size)[..., self.index.clamp(min=0)]
        return moved if self.present is None else torch.where(self.present, moved, 0.0)

    def transpose(self) -> Scatter:
        return Scatter(self)

    def structure(self) -> bytes:
        return super().structure() + self.index.cpu().numpy().tobytes()

    def abs(self) -> Select:
        return self

    def to(self, device: torch.device, dtype: torch.dtype) -> Select:
        return Select(self.index.to(device), self.in_shape, self.like.to(device=device, dtype=dtype))

    def example(self) -> Tensor:
        return self.like


@dataclass(frozen=True, eq=False)
class Scatter(LinearOperator):
    """Adjoint of `Select`: entries go back to where they came from, and add up where one was used several times."""

    selection: Select

    @property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.selection.out_shape

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.selection.in_shape

    @property
    def terms(self) -> int:  # type: ignore[override]
        return 0 if self.selection.multiplicity <= 1 else self.selection.multiplicity

    def apply(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.dim() - len(self.in_shape)]
        flat = x.reshape(-1, self.in_size)
        index = self.selection.index.flatten()
        if self.selection.present is not None:
            kept = self.selection.present.flatten().nonzero().squeeze(1)
            flat, index = flat[:, kept], index[kept]
        summed = flat.new_zeros(len(flat), self.out_size).index_add_(1, index, flat)
        return summed.reshape((*lead, *self.out_shape))

    def transpose(self) -> Select:
        return self.selection

    def structure(self) -> bytes:
        return super().structure() + self.selection.structure()

    def abs(self) -> Scatter:
        return self

    def to(self, device: torch.device, dtype: torch.dtype) -> Scatter:
        return Scatter(self.selection.to(device, dtype))

    def example(self) -> Tensor:
        return self.selection.like


@dataclass(frozen=True, eq=False)
class Scale(LinearOperator):
    """Entry by entry multiplication by `factor`, whose exact value may lie within `radius` of the stored floats.

    The radius carries factors that are no floats: 1/9 of a pooling window, gamma / sqrt(var + eps) of a
    normalisation.

    Args:
        factor: tensor of the full shape of the space.
        radius: non-negative tensor of the same shape, or None when the factor is exact.
    """

    factor: Tensor
    radius: Tensor | None = None
    terms: int = 1

    @property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.factor.shape)

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.factor.shape)

    def apply(self, x: Tensor) -> Tensor:
        return x * self.factor

    def transpose(self) -> Scale:
        return self

    def abs(self) -> Scale:
        size = self.factor.abs()
        return Scale(size if self.radius is None else up(size + self.radius))

    def uncertainty(self, magnitude: Tensor) -> Tensor | None:
        return None if self.radius is None else inflate(magnitude * self.radius, 1)

    def to(self, device: torch.device, dtype: torch.dtype) -> Scale:
        if self.radius is None:
            return Scale(convert_exactly(self.factor, device, dtype, "a scale factor"))
        factor = self.factor.to(device=device, dtype=dtype)
        moved = (self.factor.to(device) - factor.to(self.factor.dtype)).abs() + self.radius.to(device)
        return Scale(factor, up(up(moved).to(dtype)))

    def example(self) -> Tensor:
        return self.factor

    def parameters(self) -> tuple[Tensor, ...]:
        return (self.factor,) if self.radius is None else (self.factor, self.radius)


def with_shapes(operator: LinearOperator, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> LinearOperator:
    """A map between other shapes of the same sizes, for the kinds that can take or give a single number.

    Raises:
        ShapeError: for the other kinds, unless their shapes are these already.
    """
    if (operator.in_shape, operator.out_shape) == (in_shape, out_shape):
        return operator
    match operator:
        case Identity():
            return Identity(in_shape, out_shape, operator.like)
        case Select():
            return Select(operator.index.reshape(out_shape), in_shape, operator.like)
        case Scatter():
            selection = operator.selection
            return Scatter(Select(selection.index.reshape(in_shape), out_shape, selection.like))
        case Scale() if in_shape == out_shape:
            return Scale(
                operator.factor.reshape(in_shape),
                None if operator.radius is None else operator.radius.reshape(in_shape),
            )
        case Sparse(before=(), after=()):
            tables = (operator.weight, operator.index, operator.radius)
            weight, index, radius = (x if x is None else x.reshape(len(x), *out_shape) for x in tables)
            assert weight is not None and index is not None
            return Sparse(weight, index, in_shape, radius)
    raise ShapeError(f"{type(operator).__name__} can not map {in_shape} to {out_shape}")
