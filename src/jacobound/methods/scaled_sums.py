"""Sums of absolute values of affine forms, bounded as one matrix instead of entry by entry.

The sum over k of ``|c_k + sum_j G_jk e_j|`` is the largest ``e' A u`` over signs u, with A the matrix of all
coefficients, the centres first (their symbol is 1). For positive scales t and s, and ``|e_j| <= size_j``,

    e' A u = (t e)' (A / (t s')) (s u) <= |A / (t s')|_2 |t size|_2 |s|_2.

Entry by entry every symbol may take another sign for each k; here it takes one for all. The best scales make this the
semidefinite bound of a norm from l_inf to l_1; without symbols it is the exact sum. Scales are free floats, the norm of
the scaled matrix is certified. Source: the scaling of robust control (D-scaling); its use for Jacobians is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.linalg import frobenius_norm_upper, spectral_norm_upper, vector_norm_upper
from jacobound.methods.base import Budget
from jacobound.methods.forms import Forms, Symbols
from jacobound.rounding import rigorous, tiny, unit, up

WIDEST = 1024  # more entries are not searched: eigenvalues take too long
STEPS = 12
SMOOTHING, SHARE = 0.1, 0.1  # of the largest eigenvalue; how far shares move towards those of its vectors
WORTH = 1e-6  # weights of eigenvectors below are left out
KEPT = 1e-3  # part of a share that no step takes away


def scaled_row_sums(symbols: Symbols, forms: Forms, budget: Budget) -> Tensor:
    """Certified upper bounds of ``sum_k |form_k|`` for every set and output, shape (N, outputs).

    Infinite where there are too many entries or no time is left; a search that is cut short leaves a weaker bound.

    Args:
        forms: shape (N, outputs, entries).
    """
    sets, outputs, entries = forms.centre.shape
    found = forms.centre.new_full((sets, outputs), math.inf)
    if entries > WIDEST or forms.symbols < symbols.half.shape[1]:
        return found
    for done in range(sets * outputs):
        if budget.is_over:
            break
        share = budget.within(budget.remaining / (sets * outputs - done))
        n, j = divmod(done, outputs)
        matrix = torch.cat((forms.centre[n, j, None], forms.linear[n, j])).to("cpu", torch.float64)
        sizes = torch.cat((symbols.half[n], symbols.half.new_ones(forms.symbols - symbols.half.shape[1])))
        sizes = torch.cat((sizes.new_ones(1), sizes)).to("cpu", torch.float64)
        further = vector_norm_upper(forms.error[n, j], 1).to("cpu", torch.float64)
        value = up(_norm(matrix, sizes, lambda share=share: share.is_over) + further)
        moved = value.to(found.dtype)
        found[n, j] = moved if bool(moved >= value) else up(moved)
    return found


def _norm(matrix: Tensor, sizes: Tensor, over: Callable[[], bool]) -> Tensor:
    """Certified upper bound of ``e' A u`` over ``|e_j| <= size_j`` and ``|u_k| <= 1``, 0-d."""
    if not bool(torch.isfinite(matrix).all() & torch.isfinite(sizes).all()):
        return matrix.new_tensor(math.inf)
    rows, columns = (matrix != 0).any(1) & (sizes != 0), (matrix != 0).any(0)
    matrix, sizes = matrix[rows][:, columns], sizes[rows]
    if not matrix.numel():
        return matrix.new_zeros(())
    weights, shares = _shares(sizes.unsqueeze(1) * matrix, over)
    across, along = weights.sqrt() / sizes, shares.sqrt()
    scaled = matrix / across.unsqueeze(1) / along
    norm = spectral_norm_upper(scaled)
    if rigorous():  # two roundings of every entry; what underflows in the first quotient grows in the second
        lost = scaled.abs() * (4 * unit(scaled.dtype)) + (tiny(scaled.dtype) + tiny(scaled.dtype) / along)
        norm = up(norm + frobenius_norm_upper(lost))
    lengths = up(vector_norm_upper(up(across * sizes), 2) * vector_norm_upper(along, 2))
    return up(norm * lengths)


@torch.no_grad()
def _shares(matrix: Tensor, over: Callable[[], bool]) -> tuple[Tensor, Tensor]:
    """Squares of good scales for rows and columns, each with the sum 1. Plain floating point.

    At the optimum the squares of the largest singular vectors (a mean over several) are the shares themselves; steps
    go some way there.
    """
    rows, columns = (matrix.abs().sum(axis).clamp(min=1e-100) for axis in (1, 0))
    at = best = (rows / rows.sum(), columns / columns.sum())
    least = math.inf
    for _ in range(STEPS):
        scaled = matrix * at[0].rsqrt().unsqueeze(1) * at[1].rsqrt()
        gram = scaled.T @ scaled
        if not bool(torch.isfinite(gram).all()):
            break
        squares, vectors = torch.linalg.eigh(gram)
        if float(squares[-1]) < least:
            least, best = float(squares[-1]), at
        if over():
            break
        weight = torch.softmax((squares.clamp(min=1e-9 * float(squares[-1])) / squares[-1]).log() / SMOOTHING, 0)
        used = weight > WORTH
        left = (scaled @ vectors[:, used]).square() @ (weight[used] / squares[used])
        right = vectors[:, used].square() @ weight[used]
        at = _towards(at[0], left), _towards(at[1], right)
    return best


def _towards(shares: Tensor, wanted: Tensor) -> Tensor:
    moved = shares * ((wanted / wanted.sum() + KEPT * shares) / shares).pow(SHARE)
    return moved / moved.sum()
