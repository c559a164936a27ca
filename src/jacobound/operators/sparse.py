"""`Sparse`: few weights for each output entry, with positions; interpolation, pooling, differences of pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import inflate, up
from jacobound.errors import ShapeError
from jacobound.operators.base import LinearOperator, convert_exactly


@dataclass(frozen=True, eq=False)
class Sparse(LinearOperator):
    """``y[i] = sum_k weight[k, i] x.flat[index[k, i]]``, whose exact weights may lie within `radius` of the floats.

    The adjoint is a table of the same kind with as many rows as the most used entry has uses, so uses should be
    spread evenly.

    Args:
        weight: shape (k, *core_out).
        index: integers of the same shape, flat positions into `core_in`; -1 where an output has fewer terms. No
            position twice for one output.
        core_in: shape of the argument between `before` and `after`.
        radius: non-negative tensor of the weights' shape, or None when they are exact.
        before, after: axes in front of and behind the core that the map leaves alone.
    """

    weight: Tensor
    index: Tensor
    core_in: tuple[int, ...]
    radius: Tensor | None = None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.weight.shape)
        if self.index.shape != self.weight.shape or self.weight.dim() < 1 or 0 in shape:
            raise ShapeError(f"sparse weights of shape {shape} do not fit positions of {tuple(self.index.shape)}")
        if self.radius is not None and self.radius.shape != self.weight.shape:
            raise ShapeError(f"sparse weights of shape {shape} do not fit radii of {tuple(self.radius.shape)}")
        if self.index.max() >= prod(self.core_in) or self.index.min() < -1:
            raise ShapeError(f"sparse weights point outside their argument of shape {self.core_in}")
        ordered = self.index.sort(0).values
        if bool(((ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)).any()):
            raise ShapeError("sparse weights name one position twice for one output; add the two weights first")

    @cached_property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.before, *self.core_in, *self.after)

    @cached_property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.before, *self.index.shape[1:], *self.after)

    @cached_property
    def terms(self) -> int:  # type: ignore[override]
        return int((self.index >= 0).sum(0).max())

    @cached_property
    def _batches(self) -> tuple[tuple[Tensor, Tensor, Tensor | None], ...]:
        """(positions, weights, mask of what is present or None) of several table rows at once, flattened.

        Together they are no larger than the argument, so that few rows of long outputs are taken one by one, and
        many rows of a short output (a mean over everything) in one go.
        """
        return tuple(self._batched())

    def _batched(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        rows = max(1, prod(self.core_in) // self._core_out)
        tables = (_rows(table).split(rows) for table in (self.index, self.weight))
        for index, weight in zip(*tables, strict=True):
            present = index >= 0
            mask = None if bool(present.all()) else present.unsqueeze(-1)
            yield index.clamp(min=0), weight.unsqueeze(-1), mask

    @property
    def _core_out(self) -> int:
        return prod(self.index.shape[1:])

    def apply(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.dim() - len(self.in_shape)]
        flat = x.reshape(prod(lead) * prod(self.before), prod(self.core_in), prod(self.after))
        total = None
        for index, weight, present in self._batches:
            moved = _taken(flat, index.flatten()).reshape(len(flat), *index.shape, flat.shape[2])
            part = moved.mul_(weight)
            # Not a product with 0: what is absent may be infinite.
            part = (part if present is None else torch.where(present, part, 0.0)).sum(1)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.reshape((*lead, *self.out_shape))

    def enclose(self, x: Interval) -> Interval:
        """Sound image of an interval; sums of products with exact zeros are exact zeros.

        Comparisons of dead entries are such sums: as intervals around 0 they would count as unstable.
        """
        alive = ((x.lower != 0) | (x.upper != 0)).to(x.lower)
        reached = self.abs().apply(alive) != 0
        return super().enclose(x).map(lambda end: torch.where(reached, end, 0.0))

    def transpose(self) -> Sparse:
        return self._transposed

    @cached_property
    def _transposed(self) -> Sparse:
        """Entries of the matrix sorted by where they are read; the r-th use of an entry stands in row r."""
        index = _rows(self.index)
        row, target = (index >= 0).nonzero(as_tuple=True)
        source = index[row, target]
        order = torch.argsort(source, stable=True)
        row, target, source = row[order], target[order], source[order]
        uses = torch.bincount(source, minlength=prod(self.core_in))
        start = uses.cumsum(0) - uses
        rank = torch.arange(len(source), device=source.device) - start[source]
        shape = (max(1, int(uses.max()) if len(source) else 1), len(uses))
        turned = index.new_full(shape, -1)
        turned[rank, source] = target

        def table(values: Tensor) -> Tensor:
            filled = values.new_zeros(shape)
            filled[rank, source] = _rows(values)[row, target]
            return filled.reshape(shape[0], *self.core_in)

        flipped = Sparse(
            table(self.weight),
            turned.reshape(shape[0], *self.core_in),
            tuple(self.index.shape[1:]),
            None if self.radius is None else table(self.radius),
            self.before,
            self.after,
        )
        vars(flipped)["_transposed"] = self
        return flipped

    def _with(self, weight: Tensor, radius: Tensor | None = None) -> Sparse:
        return Sparse(weight, self.index, self.core_in, radius, self.before, self.after)

    def abs(self) -> Sparse:
        return self._absolute

    @cached_property
    def _absolute(self) -> Sparse:
        known = vars(self._transposed).get("_absolute")
        if known is not None:
            return known.transpose()
        return self._with(self.weight.abs() if self.radius is None else up(self.weight.abs() + self.radius))

    def uncertainty(self, magnitude: Tensor) -> Tensor | None:
        return None if self._doubt is None else inflate(self._doubt.apply(magnitude), self.terms + 1)

    @cached_property
    def _doubt(self) -> Sparse | None:
        return None if self.radius is None else self._with(self.radius)

    def to(self, device: torch.device, dtype: torch.dtype) -> Sparse:
        if self.radius is None:
            weight, radius = convert_exactly(self.weight, device, dtype, "a sparse weight"), None
        else:
            weight = self.weight.to(device=device, dtype=dtype)
            wide = torch.promote_types(dtype, self.weight.dtype)
            moved = (self.weight.to(device, wide) - weight.to(wide)).abs() + self.radius.to(device, wide)
            # An exact weight that stays exact keeps a radius of zero.
            radius = torch.where(moved == 0, 0.0, up(up(moved).to(dtype)))
        return Sparse(weight, self.index.to(device), self.core_in, radius, self.before, self.after)

    def example(self) -> Tensor:
        return self.weight

    def parameters(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.radius is None else (self.weight, self.radius)

    def structure(self) -> bytes:
        places = repr((self.core_in, self.before, self.after)).encode()
        return super().structure() + places + self.index.to("cpu", torch.int64).contiguous().numpy().tobytes()


def _rows(table: Tensor) -> Tensor:
    return table.reshape(len(table), -1)


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """x[:, index] of a tensor with three axes, by whichever kernel is fast for the length of the last one."""
    if x.shape[2] == 1:
        return x.squeeze(2).gather(1, index.expand(len(x), -1)).unsqueeze(2)
    return x.index_select(1, index)
