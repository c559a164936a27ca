"""Symbols: what windows do to the frequencies of maps on a torus, as complex matrices with an error.

With unitary discrete Fourier transforms ``X[w]`` of length N and ``Y[u]`` of length N / s on one axis, a window gives

    Y[u] = s^(-1/2) sum over the s frequencies w that are u modulo N / s of  K^(w) X[w],
    K^(w) = sum_t K[t] exp(2 pi i w (d t - p) / N).

Everything in front of a stride sees several frequencies together. All maps of a chain are therefore grouped by the
frequency v of the coarsest one, of length P: of a map of length A P the frequencies ``v + a P``, a = 0, ..., A - 1, are
one vector, alias by alias, and a window with stride s from A to A / s aliases sends a to ``a mod A / s``. A real kernel
has conjugate matrices at v and -v, so half of the v suffice.

Rounding: `circulant` derives the error of real and imaginary parts, ``(gamma_T + 2^-52) sum_t |K[t]|`` each; the factor
``s^(-1/2)`` adds two roundings. What is returned bounds the spectral norm of the whole matrix by Frobenius norms.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm, prod, sqrt

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import gamma, inflate, underflow, up
from jacobound.certificates.frequencies.windows import Window
from jacobound.operators.circulant import roots_of_unity


@dataclass(frozen=True, eq=False)
class Symbol:
    """Matrices at many frequencies.

    Args:
        matrices: shape (frequencies, rows, columns), complex.
        error: bound of the spectral distance of every exact matrix from these.
    """

    matrices: Tensor
    error: Tensor

    @cached_property
    def size(self) -> Tensor:
        """Certified bound of all spectral norms: the largest Frobenius norm."""
        parts = torch.view_as_real(self.matrices).flatten(1)
        return up(vector_norm_upper(parts, 2).amax() + self.error)

    def after(self, other: Symbol) -> Symbol:
        """The product with one that acts before it."""
        product = self.matrices @ other.matrices
        sizes = self.size * other.size
        # Complex products, also by three real ones, are off by a few times gamma of the sums of sizes.
        rounded = 8 * gamma(2 * self.matrices.shape[-1] + 8, sizes) * sizes
        missed = self.error * other.size + self.size * other.error
        return Symbol(product, inflate(rounded + missed, 8))

    def plus(self, other: Symbol) -> Symbol:
        """The sum with another one."""
        found = self.matrices + other.matrices
        rounded = gamma(3, self.error) * (self.size + other.size)
        return Symbol(found, inflate(self.error + other.error + rounded, 6))


@dataclass(frozen=True, eq=False)
class Torus:
    """The frequencies of the coarsest map.

    Args:
        lengths: of its circles, P on every axis.
    """

    lengths: tuple[int, ...]

    @cached_property
    def half(self) -> Tensor:
        """One of v and -v each, shape (frequencies, axes)."""
        found = []
        for v in itertools.product(*map(range, self.lengths)):
            mirror = tuple(-one % length for one, length in zip(v, self.lengths, strict=True))
            if v <= mirror:
                found.append(v)
        return torch.tensor(found, dtype=torch.int64)

    def symbol(self, window: Window, aliases: Sequence[int]) -> Symbol:
        """What a window does to a map with so many aliases on every axis."""
        kernel = window.kernel.flatten(2)
        outputs, inputs, taps = kernel.shape
        kept = tuple(a // s for a, s in zip(aliases, window.stride, strict=True))
        numbers = {one: k for k, one in enumerate(itertools.product(*map(range, kept)))}
        count, wide = len(self.half), prod(aliases)
        found = kernel.new_zeros(count, len(numbers), outputs, wide, inputs, dtype=torch.complex128)
        scale = 1 / sqrt(prod(window.stride))
        for column, (alias, phases) in enumerate(self._phases(window, aliases)):
            row = numbers[tuple(a % k for a, k in zip(alias, kept, strict=True))]
            parts = (torch.einsum("oit,ft->foi", kernel, phases[k]) * scale for k in range(2))
            found[:, row, :, column] = torch.complex(*parts)
        size = inflate(kernel.abs().sum(2), taps)
        missed = inflate(size * (gamma(taps + 8, size) + 2.0**-51), 4) + underflow(taps, size) + window.doubt * taps
        error = inflate(vector_norm_upper(missed.flatten(), 2) * sqrt(2 * wide), 8)
        if window.is_pointwise:  # exact entries, or off by the doubt of a diagonal
            error = error.new_tensor(window.doubt)
        return Symbol(found.flatten(3, 4).flatten(1, 2), error)

    def _phases(self, window: Window, aliases: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        """For every alias cosines and sines of its roots of unity, shape (2, frequencies, taps)."""
        fine = [length * a for length, a in zip(self.lengths, aliases, strict=True)]
        order = lcm(*fine)
        cosines, sines = roots_of_unity(order)
        for alias in itertools.product(*map(range, aliases)):
            turns = torch.zeros(len(self.half), 1, dtype=torch.int64)
            for axis, length in enumerate(fine):
                frequency = self.half[:, axis : axis + 1] + alias[axis] * self.lengths[axis]
                taps = torch.arange(window.kernel.shape[2 + axis]) * window.dilation[axis] - window.padding[axis]
                own = frequency * taps * (order // length)
                turns = (turns.unsqueeze(2) + own.unsqueeze(1)).flatten(1)
            turns = turns % order
            yield alias, torch.stack((cosines[turns], sines[turns]))
