"""Certified bounds of a pair from its leading singular triplets alone, with the error of leaving out the rest.

For ``A = U' S' V'^T`` and ``B = U S V^T`` with spectra s' and s, let d and d' be the first singular values left out.
Then ``B B' <= U_k (S_k^2 - d^2) U_k' + d^2 I`` and the same for A'A, so that over all slopes of size at most beta

    ||A D B||^2 <= T^2 + beta^2 (d^2 (s'_1^2 - d'^2) + d'^2 s_1^2),

where T bounds the pair of shrunken triplets. With one triplet T has a closed form, which is (a little stronger than)
the theorem of Scaman and Virmaux, "Lipschitz regularity of deep neural networks" (NeurIPS 2018), section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import frobenius_norm_upper, is_positive_definite, spectral_norm_upper
from jacobound.arithmetic.rounding import down, gamma, inflate, up
from jacobound.constants.pairs.dual import Pair, product_bound
from jacobound.constants.pairs.search import dual_bound


def truncated_bound(pair: Pair, triplets: int, bound: Callable[[Pair], float] | None = None) -> float:
    """Certified bound of a pair by the leading triplets of both sides; never above the product of norms.

    Args:
        triplets: how many are kept of each side, at least one.
        bound: certified bound of the small pair; None takes the dual.
    """
    product = product_bound(pair)
    if not pair.is_finite or not 0 < product < math.inf:
        return product
    small, error = truncated(pair, triplets)
    inner = dual_bound(small).upper if bound is None else bound(small)
    value = torch.tensor(inner, dtype=torch.float64)
    return min(product, float(inflate(up(up(value * value) + error).sqrt(), 2)))


def top_triplet_bound(pair: Pair) -> float:
    """The theorem: one triplet of each side, in closed form. Certified.

    For vectors u and v the largest ``|sum s_i u_i v_i|`` takes for every neuron the slope that its sign asks for.
    """
    return truncated_bound(pair, 1, _rank_one)


def _rank_one(pair: Pair) -> float:
    """Certified largest norm of ``a' D(s) b`` with a row a and a column b."""
    products = pair.left[0] * pair.right[:, 0]
    low, high = products * pair.lower, products * pair.upper
    ends = torch.stack((torch.maximum(low, high).sum(), -torch.minimum(low, high).sum()))
    size = (products.abs() * torch.maximum(pair.lower.abs(), pair.upper.abs())).sum()
    return float(up(ends.amax() + inflate(size * gamma(pair.neurons + 4, size), 4) + 1e-290))


def truncated(pair: Pair, triplets: int) -> tuple[Pair, Tensor]:
    """The pair of shrunken triplets, and a certified bound of how much the square of its norm misses.

    The computed factors are any floats; what ``B B' - F F'`` and ``A'A - G'G`` exceed is bounded by certified norms
    of these matrices, in place of d^2 and d'^2, so that inexact triplets cost tightness only.
    """
    right, beyond_right = _shrunken(pair.right, triplets)
    left_columns, beyond_left = _shrunken(pair.left.T, triplets)
    left = left_columns.T.contiguous()
    slope = up(pair.steepest * pair.steepest)
    sizes = [up(norm * norm) for norm in (spectral_norm_upper(left), spectral_norm_upper(pair.right))]
    error = up(up(beyond_right * sizes[0]) + up(beyond_left * sizes[1]))
    return Pair(left, right, pair.lower, pair.upper), up(slope * error)


def _shrunken(matrix: Tensor, triplets: int) -> tuple[Tensor, Tensor]:
    """Columns F and a certified d with ``M M' <= F F' + d I``."""
    u, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    kept = min(triplets, len(values))
    left_out = values[kept] if kept < len(values) else values.new_zeros(())
    columns = u[:, :kept] * (values[:kept].square() - left_out.square()).sqrt()
    rest = matrix @ matrix.T - columns @ columns.T
    size = up(frobenius_norm_upper(matrix).square() + frobenius_norm_upper(columns).square())
    lost = float(inflate(size * gamma(max(matrix.shape) + 6, size), 4)) + 1e-290
    return columns.contiguous(), _largest_eigenvalue(rest, float(left_out.square()), lost, float(size))


def _largest_eigenvalue(matrix: Tensor, guess: float, lost: float, size: float) -> Tensor:
    """Certified bound of the largest eigenvalue of every symmetric matrix within `lost`; at most `size`."""
    slack = len(matrix) * gamma(len(matrix) + 4, matrix) * guess + 4 * len(matrix) * lost
    while guess + slack < size:
        bound = matrix.new_tensor(guess + slack)
        if is_positive_definite(torch.diagonal_scatter(-matrix, down(bound - matrix.diagonal())), lost):
            return bound
        slack = 8 * slack + 1e-290
    return matrix.new_tensor(size)
