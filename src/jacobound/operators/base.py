"""`LinearOperator`: what bound methods know of an affine map without its bias.

Four verbs (apply, transpose, abs, materialise) and the sound ones that follow from them, written once here:
`enclose` (image of an interval) and `slack` (what rounding and uncertain weights can add). Trailing dimensions are
the space an operator acts on; everything in front is free.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import gamma, inflate, normal_floor, rigorous, underflow, up
from jacobound.budget import checkpoint
from jacobound.errors import UnsafeArithmeticError


def convert_exactly(x: Tensor, device: torch.device, dtype: torch.dtype, what: str) -> Tensor:
    """Move a tensor; refuse when the new dtype cannot hold its values exactly (it would be another network).

    Raises:
        UnsafeArithmeticError: when a value changes.
    """
    moved = x.to(device=device, dtype=dtype)
    if dtype != x.dtype and not torch.equal(moved.to(x.dtype), x.to(device)):
        raise UnsafeArithmeticError(
            f"{what} does not fit {dtype} exactly, so the bounds would hold for another network; "
            "keep float64, or round the model's weights yourself first"
        )
    return moved


# Argument and image of one chunk of vectors hold at most this many numbers (32 MiB in float64).
CHUNK_ENTRIES = 1 << 22


def positions(count: int, like: Tensor) -> Tensor:
    """0, 1, ..., count - 1 on the device of `like`."""
    return torch.arange(count, device=like.device)


def unit_rows(count: int, like: Tensor) -> Tensor:
    """The identity matrix in the dtype and on the device of `like`."""
    return torch.eye(count, dtype=like.dtype, device=like.device)


class LinearOperator(ABC):
    """A linear map between tensors of fixed shapes.

    Attributes:
        in_shape: shape of the argument's trailing dimensions.
        out_shape: shape of the result's trailing dimensions.
        terms: most products summed in one output entry; 0 when `apply` only moves entries and rounds nothing.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    terms: int

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """Image of x, shape (*lead, *in_shape) -> (*lead, *out_shape), by classical sums of products."""

    @abstractmethod
    def transpose(self) -> LinearOperator:
        """The adjoint, with `in_shape` and `out_shape` exchanged."""

    @abstractmethod
    def abs(self) -> LinearOperator:
        """The operator whose matrix holds the absolute values (uncertainty included, rounded up)."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> LinearOperator:
        """A copy elsewhere. Weights must survive the change of dtype exactly (`convert_exactly`)."""

    @abstractmethod
    def example(self) -> Tensor:
        """Any tensor of the operator's dtype and device."""

    @classmethod
    def samples(cls, draw: Callable[[Sequence[int]], Tensor]) -> Sequence[LinearOperator]:
        """Small operators of this kind, with weights of the shapes that `draw` is asked for, for the operator laws."""
        del draw
        return ()

    def parameters(self) -> tuple[Tensor, ...]:
        """The weights, for finiteness checks and hashes."""
        return ()

    def structure(self) -> bytes:
        """What the operator is apart from its weights, for hashes."""
        return repr((type(self).__name__, self.in_shape, self.out_shape)).encode()

    @property
    def in_size(self) -> int:
        return prod(self.in_shape)

    @property
    def out_size(self) -> int:
        return prod(self.out_shape)

    def uncertainty(self, magnitude: Tensor) -> Tensor | None:
        """Upper bound of ``|dW| magnitude`` when the exact weights lie within dW of the stored ones, else None."""
        del magnitude
        return None

    @cached_property
    def longest_sum(self) -> int:
        """The larger of `terms` of this operator and of its transpose."""
        return max(self.terms, self.transpose().terms)

    def slack(self, magnitude: Tensor, doubt: Tensor | None = None) -> Tensor:
        """How far the computed `apply` may be from the exact image of any x with ``|x| <= magnitude``.

        The same vector bounds the error of the transposed product: if A' is the computed ``A W`` then
        ``|(A W - A') x| <= |A| slack + floor`` (see `linear_bounds.absorb`), because `longest_sum` covers both.

        Args:
            magnitude: non-negative, shape (*lead, *in_shape); infinite entries give infinite slack.
            doubt: error of the argument: how far it may be off, same shape; its image is added in the same product.

        Returns:
            Shape (*lead, *out_shape), rounded up.
        """
        checkpoint()
        if not rigorous() and doubt is not None:
            return self.abs().apply(doubt)
        if self.longest_sum == 0 or not rigorous():
            lead = magnitude.shape[: magnitude.dim() - len(self.in_shape)]
            slack = magnitude.new_zeros((*lead, *self.out_shape)) if doubt is None else self.apply(doubt)
        else:
            # Scaled before the product, so that both go through it at once; large weights see its underflow.
            parts = magnitude * gamma(self.longest_sum + 2, magnitude) + normal_floor(magnitude)
            size = self.abs().apply(parts if doubt is None else parts + doubt)
            slack = inflate(size, self.terms + 4) + underflow(self.longest_sum, size)
        extra = self.uncertainty(magnitude)
        return slack if extra is None else up(slack + extra)

    def enclose(self, x: Interval) -> Interval:
        """Sound image of an interval by centre and radius (Rump): two applications.

        Returns:
            Interval of shape (*lead, *out_shape); entries that overflow are unbounded, never NaN.
        """
        checkpoint()
        if self.terms == 0:
            return x.map(self.apply)  # only moves entries: no rounding, and no negative weights
        centre, radius = x.midpoint_and_radius()
        middle = self.apply(centre)
        spread = self.slack(up(centre.abs() + radius), radius)
        spread = torch.where(torch.isfinite(middle), spread, torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)
        middle = middle.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return Interval.outward(middle - spread, middle + spread)

    def columns(self, index: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Images of unit vectors, exactly: shape (len(index), len(outputs) or out_size).

        Each entry is one product with 1, so nothing is rounded in classical arithmetic.

        Args:
            index: flat indices into in_shape.
            outputs: flat indices into out_shape, or None for all.
        """
        units = self.example().new_zeros(len(index), self.in_size)
        units[positions(len(index), units), index] = 1.0
        return self.between(None, outputs, len(index))(units)

    def between(self, inputs: Tensor | None, outputs: Tensor | None, vectors: int) -> Callable[[Tensor], Tensor]:
        """`apply` on the entries `inputs` of a flattened argument (others zero), keeping the entries `outputs`.

        Args:
            inputs: flat indices into in_shape, or None for all.
            outputs: flat indices into out_shape, or None for all.
            vectors: how many vectors it will be used for, so that preparation can be weighed against work.

        Returns:
            A function from shape (*lead, len(inputs) or in_size) to (*lead, len(outputs) or out_size).
        """
        del vectors
        step = max(1, CHUNK_ENTRIES // max(1, self.in_size + self.out_size))

        def push(x: Tensor) -> Tensor:
            # A few vectors at a time: only what is wanted of an image is kept.
            flat = x.reshape(prod(x.shape[:-1]), x.shape[-1])
            parts = []
            for part in flat.split(step):
                checkpoint()
                parts.append(self._pushed(part, inputs, outputs))
            image = parts[0] if len(parts) == 1 else torch.cat(parts)
            return image.reshape(*x.shape[:-1], image.shape[-1])

        return push

    def _pushed(self, x: Tensor, inputs: Tensor | None, outputs: Tensor | None) -> Tensor:
        """`between` for one chunk of vectors, shape (vectors, entries)."""
        if inputs is not None:
            x = x.new_zeros(len(x), self.in_size).index_copy_(1, inputs, x)
        image = self.apply(x.reshape(len(x), *self.in_shape)).reshape(len(x), self.out_size)
        return image if outputs is None else image[:, outputs]

    def materialise(self) -> Tensor:
        """The dense matrix, shape (out_size, in_size)."""
        return self.columns(positions(self.in_size, self.example())).T
