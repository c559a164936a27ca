"""Affine maps as matrices with an error, and their factors: what the pairs of a chain are made of.

A map becomes a matrix of floats M with a bound e of ``||map - M||_2``. Its factors are computed, not exact: for a
whole layer to the left of neurons a smaller A with ``||map X|| <= f ||A X|| + e ||X||``, to the right a smaller B with
``||X map|| <= f ||X B|| + e ||X||``, and for a layer that is split ``||map - L R|| <= e``. Norms are spectral.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import eigenvectors, frobenius_norm_upper
from jacobound.arithmetic.rounding import gamma, inflate, up
from jacobound.operators.linear_maps import LinearMap, doubt_norm, largest_sums, mixed_norm
from jacobound.operators.norms import Chain, linear_norm

LARGEST_SIDE = 6144
FLOPS = 1e10  # operations in a second, about
LEAST = 1e-14  # eigenvalues of a Gram matrix below this share of the largest are noise


@dataclass(frozen=True, eq=False)
class View:
    """A matrix that stands for a layer: ``||map X|| <= factor ||matrix X|| + error ||X||`` (or from the other side).

    Args:
        matrix: float64 on the CPU.
        factor, error: certified, 0-d.
    """

    matrix: Tensor
    factor: Tensor
    error: Tensor

    @cached_property
    def size(self) -> Tensor:
        """Certified Frobenius norm of the matrix."""
        return frobenius_norm_upper(self.matrix)


@dataclass(frozen=True, eq=False)
class Layer:
    """One affine map of a chain.

    Args:
        chains: sum of products of operators, float64 on the CPU.
    """

    chains: tuple[Chain, ...]

    @staticmethod
    def fits(chains: tuple[Chain, ...]) -> bool:
        """Whether a map is small enough to be a matrix."""
        linear = LinearMap(chains)
        return 0 < linear.in_size <= LARGEST_SIDE and 0 < linear.out_size <= LARGEST_SIDE

    @staticmethod
    def bytes(chains: tuple[Chain, ...]) -> int:
        """Upper estimate of the memory that pairs with this map need, in bytes."""
        linear = LinearMap(chains)
        return 64 * (linear.in_size * linear.out_size + 2 * min(linear.in_size, linear.out_size) ** 2)

    @staticmethod
    def seconds(chains: tuple[Chain, ...]) -> float:
        """What factors of this map take on one core, about: a decomposition can not be interrupted."""
        linear = LinearMap(chains)
        return 3 * linear.in_size * linear.out_size * min(linear.in_size, linear.out_size) / FLOPS

    @cached_property
    def norm(self) -> Tensor:
        """Certified norm, 0-d."""
        return linear_norm(self.chains, 2)

    @cached_property
    def whole(self) -> View:
        """The map as it is, with the rounding of making it a matrix."""
        linear = LinearMap(self.chains)
        columns = [image.reshape(len(image), -1) for _, image in linear.unit_images()]
        matrix = torch.cat(columns).T.contiguous()
        error = matrix.new_zeros(())
        if sum(len(chain) for chain in self.chains) > 1:
            mixed = mixed_norm(*largest_sums(linear))
            lost = inflate(mixed * gamma(linear.roundings + 2, mixed), 4)
            error = up(lost + max(matrix.shape) * linear.floor(0.0))
        if not linear.is_exact:
            error = up(error + doubt_norm(linear))
        return View(matrix, matrix.new_ones(()), error)

    @cached_property
    def as_left(self) -> View:
        """In front of neurons: with no more rows than columns."""
        whole = self.whole
        if whole.matrix.shape[0] <= whole.matrix.shape[1]:
            return whole
        q, matrix = torch.linalg.qr(whole.matrix)
        return View(matrix, stretch(q), up(whole.error + _missed(whole.matrix, q, matrix)))

    @cached_property
    def as_right(self) -> View:
        """Behind neurons: with no more columns than rows."""
        whole = self.whole
        if whole.matrix.shape[1] <= whole.matrix.shape[0]:
            return whole
        q, turned = torch.linalg.qr(whole.matrix.T)
        matrix = turned.T.contiguous()
        return View(matrix, stretch(q), up(whole.error + _missed(whole.matrix, matrix, q.T)))

    @cached_property
    def split(self) -> tuple[View, View]:
        """The two factors (L, R); both views carry the error of the split, which counts once."""
        whole = self.whole
        left, right = balanced(whole.matrix)
        error = up(whole.error + _missed(whole.matrix, left, right))
        return View(left, whole.factor, error), View(right, whole.factor, error)


def balanced(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Factors ``U S^(1/2)`` and ``S^(1/2) V'`` of a matrix ``U S V'``, in floating point.

    By the eigenvectors of the Gram matrix of the smaller side, several times faster than singular values. Their product
    is the matrix whatever S is, so that small singular values, which are lost in the Gram matrix, may be off.
    """
    largest = float(matrix.abs().max()) if matrix.numel() else 0.0
    root = 2.0 ** (math.frexp(largest)[1] // 2) if 0 < largest < math.inf else 1.0
    wide = (matrix.T if matrix.shape[0] > matrix.shape[1] else matrix) / root / root
    values, vectors = eigenvectors(wide @ wide.T)
    if not bool(torch.isfinite(vectors).all() & torch.isfinite(values).all()):
        values, vectors = torch.ones_like(values), torch.eye(len(values), dtype=values.dtype)
    floor = float(values.amax()) * LEAST if len(values) else 0.0
    sizes = values.clamp(min=floor if floor > 0 else 1.0).sqrt().sqrt()
    left, right = vectors * (sizes * root), (vectors.T @ wide) * (root / sizes).unsqueeze(1)
    return (right.T, left.T) if matrix.shape[0] > matrix.shape[1] else (left, right)


def stretch(columns: Tensor) -> Tensor:
    """Certified bound of the norm of nearly orthonormal columns: ``||U||^2 <= 1 + ||U'U - I||``."""
    count, long = columns.shape[1], columns.shape[0]
    gap = columns.T @ columns - torch.eye(count, dtype=columns.dtype)
    size = frobenius_norm_upper(columns)
    lost = inflate(size * size * gamma(long + 4, size), 4)
    return inflate(up(1 + up(up(frobenius_norm_upper(gap) * (1 + 1e-12)) + up(lost + 1e-300))).sqrt(), 2)


def _missed(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Certified bound of ``||matrix - left right||``."""
    rest = frobenius_norm_upper(matrix - left @ right)
    sizes = up(frobenius_norm_upper(left) * frobenius_norm_upper(right))
    lost = inflate(up(sizes + frobenius_norm_upper(matrix)) * gamma(left.shape[1] + 4, sizes), 4)
    return up(up(rest + lost) + 1e-290)
