"""Certified small linear algebra: norms rounded up, and a Cholesky factorisation that proves definiteness.

Every function is an upper bound (or a proof) for the exact real matrix of the given floats. Inputs that hold
NaN or infinite entries give +inf (or no proof), never an error and never a number that is too small. Work is
done in float64 whatever the dtype; results come back in the dtype of the argument, rounded up.

Sources: Rump, "Verification of positive definiteness" (BIT 46, 2006); Higham, "Accuracy and Stability of
Numerical Algorithms" (2002), chapters 3 and 10; Zhang, Zhang and Hsieh, "RecurJac" (AAAI 2019) for norms of
Jacobians that are only known entry by entry.
"""

from __future__ import annotations

from math import inf, nan, sqrt

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, gamma, inflate, rigorous, tiny, underflow, up
from jacobound.budget import checkpoint
from jacobound.errors import ShapeError

TOGETHER = 1 << 20  # entries of matrices and Gram matrices that are looked at together
_DUAL = {1.0: inf, 2.0: 2.0, inf: 1.0}


def dual_exponent(p: float) -> float:
    """The exponent q with 1/p + 1/q = 1, so that ``|a . x| <= ||a||_q ||x||_p``.

    Raises:
        ShapeError: unless p is 1, 2 or inf.
    """
    return _DUAL[_known_exponent(p)]


def vector_norm_upper(x: Tensor, p: float, dim: int = -1) -> Tensor:
    """Certified upper bound of the l_p norm along one axis; exactly 0 for zero vectors.

    Entries are scaled by a power of two first, so that squares neither overflow nor vanish. Differentiable.

    Args:
        x: any shape; NaN or infinite entries give +inf.
        p: 1, 2 or inf.
        dim: the axis that is summed over.

    Returns:
        The shape of `x` without `dim`, in the dtype of `x`.

    Raises:
        ShapeError: for another p.
    """
    p = _known_exponent(p)
    count = x.shape[dim]
    if count == 0:
        return x.sum(dim)
    size = x.to(torch.float64).abs()
    if p == inf:
        return size.amax(dim).nan_to_num(nan=inf, posinf=inf).to(x.dtype)  # rounds nothing
    unit_size = _power_of_two_below(size.detach().amax(dim, keepdim=True))
    scaled = size / unit_size
    total = scaled.sum(dim) if p == 1 else scaled.square().sum(dim)
    empty = total == 0
    total = torch.where(empty, 1.0, total)  # keeps the gradient of the square root finite
    # torch.sqrt is not correctly rounded (one unit off), which the additional roundings cover.
    length = inflate(total, count) if p == 1 else inflate(total.sqrt(), count + 4)
    return _rounded_up(torch.where(empty, 0.0, _scaled_back(length, unit_size.squeeze(dim))), x.dtype)


def frobenius_norm_upper(matrix: Tensor) -> Tensor:
    """Certified upper bound of the square root of the sum of squares of all entries, 0-d."""
    return vector_norm_upper(matrix.flatten(), 2)


def eigenvalues(matrices: Tensor) -> Tensor:
    """Eigenvalues of symmetric matrices in plain floating point, ascending, shape (*batch, n).

    Args:
        matrices: shape (*batch, n, n). NaN stands for the eigenvalues of one that is not finite, or (of all of them)
            where the algorithm does not converge.
    """
    try:
        return torch.linalg.eigvalsh(matrices)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage] - documented all the same
        return eigenvectors(matrices)[0]


def eigenvectors(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`eigenvalues` and their vectors, in columns of shape (*batch, n, n); NaN where there are none."""
    try:
        return tuple(torch.linalg.eigh(matrices))
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        usable = torch.isfinite(matrices).all(-1).all(-1)
    if bool(usable.all()):
        return matrices.new_full(matrices.shape[:-1], nan), torch.full_like(matrices, nan)
    wide = usable.unsqueeze(-1).unsqueeze(-1)
    values, vectors = eigenvectors(torch.where(wide, matrices, 0.0))
    return torch.where(usable.unsqueeze(-1), values, nan), torch.where(wide, vectors, nan)


def spectral_norm_upper(matrix: Tensor) -> Tensor:
    """Certified upper bound of the largest singular value of an exact float matrix; see `spectral_norms_upper`.

    Args:
        matrix: shape (m, n), also empty.

    Returns:
        0-d tensor of the same dtype and device.

    Raises:
        ShapeError: unless the matrix has two axes.
    """
    _check_matrix(matrix, "a spectral norm")
    return spectral_norms_upper(matrix.unsqueeze(0))[0]


def spectral_norms_upper(matrices: Tensor) -> Tensor:
    """Certified upper bounds of the largest singular values of exact float matrices.

    The Gram matrix G of the smaller side is computed with a known error, its largest eigenvalue estimated,
    and a slightly larger t accepted once ``t^2 I - G`` is proved positive definite. When no t is, the smaller
    of the Frobenius norm and ``sqrt(norm_1 norm_inf)`` is returned. The relative slack is about 2 n (m + n)
    units of roundoff at most, in float64: 1e-13 for 20 x 20, 2e-10 for 1024 x 784.

    Args:
        matrices: shape (N, m, n), also empty; NaN or infinite entries give +inf. Gradients do not pass, except
            inside `rounding.unrounded`, where the plain norms are returned.

    Returns:
        Shape (N,), same dtype and device.
    """
    if matrices.numel() == 0:
        return matrices.new_zeros(len(matrices))
    if not rigorous():
        return torch.linalg.matrix_norm(matrices, 2)
    if 1 in matrices.shape[1:]:
        return vector_norm_upper(matrices.detach().flatten(1), 2)
    # Cholesky is trusted on CPUs only, so the proof is made there.
    exact = matrices.detach().to("cpu", torch.float64)
    finite = torch.isfinite(exact).flatten(1).all(1)
    exact = torch.where(finite.reshape(-1, 1, 1), exact, 0.0)
    unit_size = _power_of_two_below(exact.abs().flatten(1).amax(1))
    scaled = exact / unit_size.reshape(-1, 1, 1)
    frobenius = vector_norm_upper(scaled.flatten(1), 2)
    mixed = up(vector_norm_upper(scaled, 1, dim=1).amax(1) * vector_norm_upper(scaled, 1, dim=2).amax(1)).sqrt()
    found = torch.stack((_proved_norms(scaled, frobenius), frobenius, inflate(mixed, 2))).amin(0)
    found = torch.where(frobenius == 0, 0.0, _scaled_back(found, unit_size))
    return _rounded_up(torch.where(finite, found, inf), matrices.dtype).to(matrices.device)


def _proved_norms(matrices: Tensor, frobenius: Tensor) -> Tensor:
    """Numbers t, each proved to be at least the spectral norm of its matrix; infinite where no proof is found."""
    matrices = matrices if matrices.shape[1] >= matrices.shape[2] else matrices.mT
    rows, columns = matrices.shape[1:]
    gram = matrices.mT @ matrices
    # |G - A^T A| <= gamma |A|^T |A| entry by entry, whose norm is at most that of the Frobenius norm squared.
    error = inflate(gamma(rows + 2, gram) * frobenius * frobenius, 4) + columns * underflow(rows, gram)
    estimate = eigenvalues(gram)[:, -1].clamp(min=tiny(gram.dtype))
    slack = 2 * gamma(columns + 4, gram) * columns + 2 * error / estimate
    proved, left = torch.full_like(frobenius, inf), (slack < 1e-2).nonzero().squeeze(1)
    while len(left):  # usually once
        checkpoint()
        bound = estimate[left].sqrt() * (1 + slack[left])
        diagonal = down(down(bound * bound).unsqueeze(1) - gram[left].diagonal(dim1=1, dim2=2))
        certain = are_positive_definite(-gram[left].tril(-1) + torch.diag_embed(diagonal), error[left])
        proved[left[certain]] = bound[certain]
        left = left[~certain]
        slack[left] *= 8
        left = left[slack[left] < 1e-2]
    return proved


def is_positive_definite(matrix: Tensor, error: float = 0.0) -> bool:
    """Prove that a symmetric matrix, and all symmetric ones near it, are positive definite.

    Args:
        matrix: shape (n, n); the upper triangle is not read. An empty matrix is positive definite.
        error: non-negative bound of a perturbation in the 2-norm; see `are_positive_definite`.

    Raises:
        ShapeError: unless the matrix is square.
    """
    _check_matrix(matrix, "a definiteness proof")
    if matrix.shape[0] != matrix.shape[1]:
        raise ShapeError(f"a definiteness proof needs a square matrix, not shape {tuple(matrix.shape)}")
    return bool(are_positive_definite(matrix.unsqueeze(0), torch.tensor([error], dtype=torch.float64))[0])


def are_positive_definite(matrices: Tensor, errors: Tensor) -> Tensor:
    """Prove that symmetric matrices, and all symmetric ones near them, are positive definite.

    True means: every symmetric H with ``||H - S||_2 <= error`` has only positive eigenvalues, where S is the
    exact symmetric matrix whose lower triangle is that of the matrix. False means nothing: no proof was found.

    Method: Rump (2006): Cholesky in floating point succeeds on the matrix whose diagonal was lowered by
    `psd_upper_shift` plus `error`. Holds for any order of classical sums, on CPUs.

    Args:
        matrices: shape (N, n, n); the upper triangles are not read.
        errors: not negative, shape (N,).

    Returns:
        bool, shape (N,).
    """
    lower = matrices.detach().to("cpu", torch.float64).tril()
    errors = errors.detach().to("cpu", torch.float64)
    diagonal = lower.diagonal(dim1=1, dim2=2)
    if lower.shape[1] == 0:
        return errors >= 0
    usable = torch.isfinite(lower).flatten(1).all(1) & (diagonal > 0).all(1) & (errors >= 0)
    unit_size = _power_of_two_below(diagonal.amax(1))
    lower, diagonal = lower / unit_size.reshape(-1, 1, 1), diagonal / unit_size.unsqueeze(1)  # now all below 2
    # An entry above the diagonal's size by 2^1022: not definite.
    usable &= torch.isfinite(lower).flatten(1).all(1)
    shift = psd_upper_shift(diagonal) + up(errors / unit_size)
    shifted = torch.diagonal_scatter(lower, down(diagonal - up(shift).unsqueeze(1)), dim1=1, dim2=2)
    shifted = torch.where(usable.reshape(-1, 1, 1), shifted, torch.eye(lower.shape[1], dtype=torch.float64))
    factor, info = torch.linalg.cholesky_ex(shifted)
    return usable & (info == 0) & torch.isfinite(factor).flatten(1).all(1)


def psd_upper_shift(diagonal: Tensor) -> Tensor:
    """How negative the smallest eigenvalue can be when Cholesky of a matrix with this diagonal has succeeded.

    Args:
        diagonal: shape (*batch, n), positive entries below 2, float64.

    Returns:
        Shape (*batch,), rounded up: ``gamma_{n+3} / (1 - gamma_{n+3}) trace`` and an underflow term, which also covers
        entries that vanished when the matrix was scaled.
    """
    size = diagonal.shape[-1]
    factor = gamma(size + 3, diagonal)
    trace = inflate(diagonal.sum(-1), size)
    return inflate(trace * (factor / (1 - factor)), 4) + 8 * (size + 1) * (size + 2) * tiny(diagonal.dtype)


def spectral_norm_upper_interval(lower: Tensor, upper: Tensor) -> Tensor:
    """Certified upper bound of the spectral norm over all matrices between two; see `spectral_norms_upper_interval`.

    Args:
        lower, upper: shape (m, n).

    Returns:
        0-d tensor of the same dtype and device.
    """
    _check_matrix(lower, "a spectral norm")
    return spectral_norms_upper_interval(lower.unsqueeze(0), upper.unsqueeze(0))[0]


def spectral_norms_upper_interval(lower: Tensor, upper: Tensor) -> Tensor:
    """Certified upper bounds of the spectral norms over all matrices between two, entry by entry.

    The smaller of ``||middle||_2 + ||radius||_2`` and ``||max(|lower|, |upper|)||_2``: the first is better
    for narrow intervals with entries of both signs, the second for wide ones.

    Args:
        lower, upper: shape (N, m, n); NaN or infinite entries give +inf.

    Returns:
        Shape (N,), same dtype and device.
    """
    finite = (torch.isfinite(lower) & torch.isfinite(upper)).flatten(1).all(1)
    wide = finite.reshape(-1, 1, 1)
    interval = Interval(torch.where(wide, lower, 0.0), torch.where(wide, upper, 0.0))
    middle, radius = interval.midpoint_and_radius()
    found = spectral_norms_upper(middle)
    spread = radius.flatten(1).any(1).nonzero().squeeze(1)
    if len(spread):
        around, largest = found[spread], spectral_norms_upper(interval.magnitude()[spread])
        near = (around < largest).nonzero().squeeze(1)
        sums = largest.clone()
        if len(near):
            sums[near] = up(around[near] + spectral_norms_upper(radius[spread[near]]))
        found = found.index_put((spread,), torch.minimum(largest, sums))
    return torch.where(finite, found, inf)


def induced_norm_upper(lower: Tensor, upper: Tensor, p: float, q: float) -> Tensor:
    """Certified upper bound of ``max ||J x||_q / ||x||_p`` over all matrices J between two, entry by entry.

    Computed on ``M = max(|lower|, |upper|)`` by the table below, which is attained whenever M itself lies in
    the interval (up to signs of rows and columns); (2, 2) is refined by `spectral_norm_upper_interval`. Where
    signs matter, (2, 1), (inf, 2) and (inf, 1) are also bounded by the spectral norm times the conversion
    factor sqrt(m), sqrt(n) or sqrt(m n), and the smaller is returned.

    ======  ============================  ==========================  ================
    p \\ q   1                             2                           inf
    ======  ============================  ==========================  ================
    1       largest column sum            largest column 2-norm       largest entry
    2       2-norm of the column sums     spectral norm               largest row 2-norm
    inf     sum of all entries            2-norm of the row sums      largest row sum
    ======  ============================  ==========================  ================

    Args:
        lower, upper: shape (*batch, m, n), rows are outputs; NaN or infinite entries give +inf.
        p, q: 1, 2 or inf.

    Returns:
        Shape (*batch,), same dtype and device.

    Raises:
        ShapeError: for other p or q, or fewer than two axes.
    """
    p, q = _known_exponent(p), _known_exponent(q)
    if lower.dim() < 2:
        raise ShapeError(f"a matrix norm needs two axes (outputs, inputs), not shape {tuple(lower.shape)}")
    largest = Interval(lower, upper).magnitude()
    if largest.shape[-1] == 0 or largest.shape[-2] == 0:
        return largest.sum((-2, -1))
    if p == 1:
        return vector_norm_upper(largest, q, dim=-2).amax(-1)
    if q == inf:
        return vector_norm_upper(largest, dual_exponent(p), dim=-1).amax(-1)
    spectral = _spectral_norms(lower, upper)
    if (p, q) == (2, 2):
        return spectral
    rows, columns = largest.shape[-2:]
    sums = vector_norm_upper(largest, 1, dim=-1 if p == inf else -2)
    table = vector_norm_upper(sums, 2 if 2 in (p, q) else 1)
    factor = (columns if p == inf else 1) * (rows if q == 1 else 1)
    return torch.minimum(table, inflate(spectral * sqrt(factor), 3))


def _spectral_norms(lower: Tensor, upper: Tensor) -> Tensor:
    """`spectral_norms_upper_interval` of every matrix of a batch, shape (*batch,), as many together as are small."""
    batch, sides = lower.shape[:-2], lower.shape[-2:]
    lower, upper = lower.reshape(-1, *sides), upper.reshape(-1, *sides)
    together = max(1, TOGETHER // (sides.numel() + min(sides) ** 2))
    found = []
    for start in range(0, len(lower), together):
        checkpoint()
        some = slice(start, start + together)
        found.append(spectral_norms_upper_interval(lower[some], upper[some]))
    return torch.cat(found).reshape(batch) if found else lower.new_zeros(batch)


def _known_exponent(p: float) -> float:
    """p itself when it is 1, 2 or inf."""
    if p not in _DUAL:
        raise ShapeError(f"the l_{p} norm is not known here; p and q are 1, 2 or inf")
    return float(p)


def _check_matrix(matrix: Tensor, what: str) -> None:
    if matrix.dim() != 2:
        raise ShapeError(f"{what} needs a matrix with two axes, not shape {tuple(matrix.shape)}")


def _power_of_two_below(size: Tensor) -> Tensor:
    """The largest power of two that is <= `size`, exactly; 1 where `size` is zero, infinite or NaN."""
    mantissa, _ = torch.frexp(size)
    usable = torch.isfinite(size) & (size > 0)
    return torch.where(usable, size / torch.where(usable, 2 * mantissa, 1.0), 1.0)


def _scaled_back(norm: Tensor, unit_size: Tensor) -> Tensor:
    """At least ``norm * unit_size``, and enough more for the entries that vanished in the scaling.

    The product is exact in the normal range, so the step up covers those entries (2^-1022 of the largest).
    """
    return up(norm * unit_size)


def _rounded_up(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The float64 numbers x in another dtype, not below; unchanged when they fit."""
    moved = x.to(dtype)
    return torch.where(moved.to(x.dtype) >= x, moved, up(moved))
