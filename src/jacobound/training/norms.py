"""Spectral norms that gradients pass: power iteration from the vector of the step before, or Gram iteration.

Sources: Scaman and Virmaux (NeurIPS 2018), algorithm 1; Miyato et al., "Spectral normalization" (ICLR 2018) for one
iteration in every training step; Delattre et al. (ICML 2023) for Gram iteration; Sedghi, Gupta and Long (ICLR 2019) for
the frequencies of a convolution, on a circle that is long enough for zero padding (`circulant`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Final

import torch
from torch import Tensor

from jacobound.operators.base import LinearOperator
from jacobound.operators.circulant import circle_lengths
from jacobound.operators.gram_iteration import gram_iteration
from jacobound.operators.kinds import Convolution, Dense
from jacobound.operators.linear_maps import LinearMap

WARM_UP: Final = 100
LARGEST_MATRIX: Final = 1 << 22
LARGEST_SIDE: Final = 1024  # of the smaller side of a matrix that is made of several operators


class SpectralNorm(ABC):
    """How the l_2 norms of layers are found in training."""

    @abstractmethod
    def start(self, linear: LinearMap) -> Tensor:
        """What is remembered of a map between steps; any shape."""

    @abstractmethod
    def advance(self, linear: LinearMap, memory: Tensor) -> Tensor:
        """The memory after a step; without gradients."""

    @abstractmethod
    def norm(self, linear: LinearMap, memory: Tensor) -> Tensor:
        """The norm, 0-d; gradients reach the weights."""


@dataclass(frozen=True)
class PowerIteration(SpectralNorm):
    """``||A v||`` for a unit vector v that follows the top singular vector: **an estimate from below**.

    Cheap for any operator, and soon exact to a few digits, because v is kept from step to step.

    Args:
        steps: iterations in every training step.
    """

    steps: int = 1

    def start(self, linear: LinearMap) -> Tensor:
        random = torch.Generator().manual_seed(0)
        vector = torch.randn(linear.in_shape, generator=random, dtype=torch.float64).to(linear.like)
        vector = vector / torch.linalg.vector_norm(vector).clamp(min=torch.finfo(vector.dtype).tiny)
        return PowerIteration(WARM_UP).advance(linear, vector)

    @torch.no_grad()
    def advance(self, linear: LinearMap, memory: Tensor) -> Tensor:
        for _ in range(self.steps):
            image = linear.transposed.apply(linear.apply(memory))
            length = torch.linalg.vector_norm(image)
            memory = torch.where(length > 0, image / length, memory)
        return memory

    def norm(self, linear: LinearMap, memory: Tensor) -> Tensor:
        image = linear.apply(memory.detach())
        length = torch.linalg.vector_norm(image.detach())
        return (image * torch.where(length > 0, image.detach() / length, 0.0)).sum()


@dataclass(frozen=True)
class GramIteration(SpectralNorm):
    """An upper bound of the norm, up to rounding, that remembers nothing.

    Matrices, and maps that are small as matrices, by `gram_iteration`; a convolution by its frequencies; other
    operators by the root of the largest row sum times the largest column sum; products of these beyond.

    Args:
        steps: products; the bound is too large by a factor of rank^(1 / 2^(steps + 1)) at most.
    """

    steps: int = 6

    def start(self, linear: LinearMap) -> Tensor:
        return linear.like.new_zeros(0)

    def advance(self, linear: LinearMap, memory: Tensor) -> Tensor:
        del linear
        return memory

    def norm(self, linear: LinearMap, memory: Tensor) -> Tensor:
        del memory
        several = sum(len(chain) for chain in linear.chains) > 1
        small = min(linear.in_size, linear.out_size) <= LARGEST_SIDE
        if several and small and linear.in_size * linear.out_size <= LARGEST_MATRIX:
            return gram_iteration(matrix_of(linear), self.steps)
        products = [torch.stack([self._of_operator(one) for one in chain]).prod() for chain in linear.chains]
        return torch.stack(products).sum()

    def _of_operator(self, operator: LinearOperator) -> Tensor:
        match operator:
            case Dense():
                return gram_iteration(operator.weight, self.steps)
            case Convolution():
                return gram_iteration(frequency_blocks(operator), self.steps).amax()
        rows = operator.abs().apply(operator.example().new_ones(operator.in_shape)).amax()
        columns = operator.abs().transpose().apply(operator.example().new_ones(operator.out_shape)).amax()
        product = rows * columns
        return torch.where(product > 0, torch.where(product > 0, product, 1.0).sqrt(), 0.0)


def matrix_of(linear: LinearMap) -> Tensor:
    """A map as a matrix (out_size, in_size), with gradients."""
    return torch.cat([image.reshape(len(image), -1) for _, image in linear.unit_images()]).T


def frequency_blocks(convolution: Convolution) -> Tensor:
    """Real matrices (blocks, 2 out, 2 in aliases) whose largest spectral norm bounds that of a convolution.

    The blocks of `circulant` by a fast Fourier transform, so up to its rounding; gradients pass.
    """
    weight, groups = convolution.weight, convolution.groups
    lengths, stride = circle_lengths(convolution, 0), convolution.stride
    axes = tuple(range(2, weight.dim()))
    spread = weight
    for axis, dilation, length in zip(axes, convolution.dilation, lengths, strict=True):
        # Taps that are d apart; where the kernel is longer than the circle it is wound around it.
        place = torch.arange(weight.shape[axis], device=weight.device) * dilation % length
        shape = (*spread.shape[:axis], length, *spread.shape[axis + 1 :])
        spread = spread.new_zeros(shape).index_add(axis, place, spread)
    found = torch.fft.fftn(spread, dim=axes)
    # An index of fine frequencies w = v + a P falls into the alias a and the coarse frequency v.
    split = [size for length, step in zip(lengths, stride, strict=True) for size in (step, length // step)]
    found = found.reshape(groups, len(weight) // groups, weight.shape[1], *split)
    aliases, coarse = tuple(range(3, found.dim(), 2)), tuple(range(4, found.dim(), 2))
    found = found.permute(0, *coarse, 1, 2, *aliases).reshape(-1, len(weight) // groups, weight.shape[1] * prod(stride))
    found = found / prod(stride) ** 0.5
    real, imaginary = found.real, found.imag
    return torch.cat((torch.cat((real, -imaginary), 2), torch.cat((imaginary, real), 2)), 1)
