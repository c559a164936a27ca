"""Norms of vectors of affine forms, bounded as one matrix instead of entry by entry.

The sum over k of ``|c_k + sum_j G_jk e_j|`` is the largest ``e' A u`` over signs u, with A the matrix of all
coefficients, the centres first (their symbol is 1). For positive scales t and s, and ``|e_j| <= size_j``,

    e' A u = (t e)' (A / (t s')) (s u) <= |A / (t s')|_2 |t size|_2 |s|_2.

Entry by entry every symbol may take another sign for each k; here it takes one for all. The best scales make this the
semidefinite bound of a norm from l_inf to l_1; without symbols it is the exact sum. For Euclidean norms u has no
scales, and the input's offset in a Euclidean ball one for all of it. Scales are free floats, the norm of the scaled
matrix is certified.
Source: the scaling of robust control (D-scaling); its use for Jacobians is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import (
    dual_exponent,
    eigenvectors,
    frobenius_norm_upper,
    spectral_norm_upper,
    vector_norm_upper,
)
from jacobound.arithmetic.rounding import rigorous, tiny, unit, up
from jacobound.jacobian.affine.forms import Forms, Symbols
from jacobound.method import Budget

WIDEST = 1024  # more entries are not searched: eigenvalues take too long
STEPS = 12
SMOOTHING, SHARE = 0.1, 0.1  # of the largest eigenvalue; how far shares move towards those of its vectors
WORTH = 1e-6  # weights of eigenvectors below are left out
KEPT = 1e-3  # part of a share that no step takes away


def scaled_row_norms(symbols: Symbols, forms: Forms, budget: Budget, p: float) -> Tensor:
    """Certified upper bounds of the dual l_p norm of the forms of every set and output, shape (N, outputs).

    Infinite where there are too many entries or no time is left; a search that is cut short leaves a weaker bound.

    Args:
        forms: shape (N, outputs, entries).
        p: inf for ``sum_k |form_k|``, 2 for the Euclidean norm.
    """
    sets, outputs, entries = forms.centre.shape
    inputs = symbols.half.shape[1]
    found = forms.centre.new_full((sets, outputs), math.inf)
    if entries > WIDEST or forms.symbols < inputs:
        return found
    for done in range(sets * outputs):
        if budget.is_over:
            break
        share = budget.within(budget.remaining / (sets * outputs - done))
        n, j = divmod(done, outputs)
        matrix = torch.cat((forms.centre[n, j, None], forms.linear[n, j])).to("cpu", torch.float64)
        sizes, tied = matrix.new_ones(len(matrix)), torch.zeros(len(matrix), dtype=torch.bool)
        sizes[1 : inputs + 1] = symbols.half[n]
        if symbols.radius is not None:  # the Euclidean norm is at most that of l1
            sizes[1 : inputs + 1], tied[1 : inputs + 1] = symbols.radius[n].to("cpu", torch.float64), True
        further = vector_norm_upper(forms.error[n, j], dual_exponent(p)).to("cpu", torch.float64)
        if symbols.radius is not None and symbols.scale is not None:
            further = up(further + _in_units(matrix[1 : inputs + 1], symbols.scale, sizes[1:2]))
        value = up(_norm(matrix, sizes, tied, p, lambda share=share: share.is_over) + further)
        moved = value.to(found.dtype)
        found[n, j] = moved if bool(moved >= value) else up(moved)
    return found


def _in_units(rows: Tensor, scale: Tensor, radius: Tensor) -> Tensor:
    """Multiply rows of symbols by their units in place; what the rounding of that can cost, (1,).

    Args:
        rows: shape (inputs, entries).
        scale: shape (inputs,).
        radius: of the symbols' Euclidean norm in these units, shape (1,).
    """
    rows.mul_(scale.to("cpu", torch.float64).unsqueeze(1))
    # Each product is off by half a unit; |u|_2 <= sqrt(entries) where |u|_inf <= 1.
    missed = up(rows.abs() * unit(rows.dtype) + tiny(rows.dtype))
    return up(up(vector_norm_upper(missed.flatten(), 2.0) * radius) * (math.sqrt(rows.shape[1]) + 1.0))


def _norm(matrix: Tensor, sizes: Tensor, tied: Tensor, p: float, over: Callable[[], bool]) -> Tensor:
    """Certified upper bound of ``e' A u`` over ``|e_j| <= size_j`` and ``|u|_p <= 1``, 0-d.

    Args:
        tied: rows of symbols whose Euclidean norm together is at most their size.
    """
    if not bool(torch.isfinite(matrix).all() & torch.isfinite(sizes).all()):
        return matrix.new_tensor(math.inf)
    rows, columns = (matrix != 0).any(1) & (sizes != 0), (matrix != 0).any(0)
    matrix, sizes, tied = matrix[rows][:, columns], sizes[rows], tied[rows]
    if not matrix.numel():
        return matrix.new_zeros(())
    weights, shares = _shares(sizes.unsqueeze(1) * matrix, tied, p == math.inf, over)
    across, along = weights.sqrt() / sizes, shares.sqrt() if p == math.inf else torch.ones_like(shares)
    scaled = matrix / across.unsqueeze(1) / along
    norm = spectral_norm_upper(scaled)
    if rigorous():  # two roundings of every entry; what underflows in the first quotient grows in the second
        lost = scaled.abs() * (4 * unit(scaled.dtype)) + (tiny(scaled.dtype) + tiny(scaled.dtype) / along)
        norm = up(norm + frobenius_norm_upper(lost))
    reach = up(across * sizes)
    reach = torch.cat((reach[~tied], reach[tied].amax(0, keepdim=True))) if bool(tied.any()) else reach
    lengths = vector_norm_upper(reach, 2)
    if p == math.inf:
        lengths = up(lengths * vector_norm_upper(along, 2))
    return up(norm * lengths)


@torch.no_grad()
def _shares(matrix: Tensor, tied: Tensor, free: bool, over: Callable[[], bool]) -> tuple[Tensor, Tensor]:
    """Squares of good scales: for rows, with the sum 1 (tied rows have one), and for columns. Plain floating point.

    At the optimum the squares of the largest singular vectors (a mean over several) are the shares themselves; steps
    go some way there.

    Args:
        free: whether columns have scales too, with the sum 1; all 1 otherwise.
    """
    rows, columns = (matrix.abs().sum(axis).clamp(min=1e-100) for axis in (1, 0))
    at = best = _normalised(rows, tied), columns / columns.sum() if free else torch.ones_like(columns)
    least = math.inf
    for _ in range(STEPS):
        scaled = matrix * at[0].rsqrt().unsqueeze(1) * at[1].rsqrt()
        gram = scaled.T @ scaled
        squares, vectors = eigenvectors(gram)
        if not bool(torch.isfinite(squares).all()):
            break
        if float(squares[-1]) < least:
            least, best = float(squares[-1]), at
        if over():
            break
        weight = torch.softmax((squares.clamp(min=1e-9 * float(squares[-1])) / squares[-1]).log() / SMOOTHING, 0)
        used = weight > WORTH
        left = _normalised((scaled @ vectors[:, used]).square() @ (weight[used] / squares[used]), tied, total=True)
        right = vectors[:, used].square() @ weight[used]
        moved = at[1] * ((right / right.sum() + KEPT * at[1]) / at[1]).pow(SHARE) if free else at[1]
        at = (
            _normalised(at[0] * ((left + KEPT * at[0]) / at[0]).pow(SHARE), tied),
            moved / moved.sum() if free else moved,
        )
    return best


def _normalised(shares: Tensor, tied: Tensor, total: bool = False) -> Tensor:
    """Shares with the sum 1, tied rows having the largest (or the sum) of theirs, which counts once."""
    if bool(tied.any()):
        common = shares[tied].sum() if total else shares[tied].amax()
        shares = torch.where(tied, common, shares)
        return shares / (shares[~tied].sum() + common)
    return shares / shares.sum()
