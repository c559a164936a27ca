"""Norms of vectors and of matrices that are known entry by entry, rounded up; a Cholesky factorisation that proves.

Rump (2006): if Cholesky succeeds in floating point on a symmetric matrix whose diagonal was lowered by
``gamma(n + 3) / (1 - gamma(n + 3)) trace`` (and an underflow), the matrix itself is positive semidefinite.
"""

from __future__ import annotations

import math

import numpy as np

from jacobound_check.rounding import LEAST, Array, Interval, down, gamma, grown, up


def length_above(x: Array, p: float) -> Array:
    """Upper bound of the l_p norm along the last axis."""
    size = np.abs(x)
    if p == math.inf:
        return size.max(-1, initial=0.0)
    count = x.shape[-1] + 4
    if p == 1:
        return np.where((size == 0).all(-1), 0.0, grown(size.sum(-1), count))
    largest = size.max(-1, initial=0.0)
    unit = np.where(
        (largest > 0) & np.isfinite(largest), 2.0 ** np.floor(np.log2(np.where(largest > 0, largest, 1.0))), 1.0
    )
    scaled = size / unit[..., None]  # exact, but for entries that vanish beside the largest
    found = grown(np.sqrt(grown((scaled * scaled).sum(-1), count)), 2)
    return np.where(largest == 0, 0.0, up(up(found) * unit))


def is_definite(matrix: Array, error: float) -> bool:
    """Prove that every symmetric matrix within `error` (2-norm) of the lower triangle's is positive semidefinite."""
    size = len(matrix)
    diagonal = np.diagonal(matrix)
    if not np.isfinite(np.tril(matrix)).all() or not (diagonal > 0).all() or not error >= 0 or size == 0:
        return size == 0 and error >= 0
    unit = 2.0 ** math.floor(math.log2(diagonal.max()))
    lower, diagonal = np.tril(matrix) / unit, diagonal / unit
    part = gamma(size + 3)
    trace = float(grown(np.asarray(diagonal.sum()), size + 1))
    shift = 1.0001 * part * trace / (1 - part) + 16 * (size + 2) ** 2 * LEAST + 1.0001 * error / unit
    lowered = down(diagonal - up(np.float64(shift)))
    symmetric = lower + np.tril(lower, -1).T
    np.fill_diagonal(symmetric, lowered)
    try:
        return bool(np.isfinite(np.linalg.cholesky(symmetric)).all())
    except np.linalg.LinAlgError:
        return False


def spectral_above(matrix: Array) -> float:
    """Upper bound of the largest singular value of a matrix of exact floats.

    t is one when ``t^2 I - A'A`` is definite; a computed A'A is within ``gamma |A|_F^2`` of the exact one. Where no t
    near the estimate is proved, the Frobenius norm.
    """
    if matrix.size == 0 or not matrix.any():
        return 0.0
    if not np.isfinite(matrix).all():
        return math.inf
    unit = 2.0 ** math.floor(math.log2(np.abs(matrix).max()))
    matrix = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T) / unit
    rows, columns = matrix.shape
    frobenius = float(length_above(matrix.ravel(), 2.0))
    found = [frobenius]
    if columns > 1:
        gram = matrix.T @ matrix
        error = 1.001 * gamma(rows + 2) * frobenius**2 + rows * columns * LEAST
        estimate = max(float(np.linalg.eigvalsh(gram)[-1]), LEAST)
        slack = 2 * gamma(columns + 4) * columns + 2 * error / estimate
        for _ in range(12):
            bound = math.sqrt(estimate) * (1 + slack)
            form = -gram
            np.fill_diagonal(form, down(down(np.float64(bound * bound)) - np.diagonal(gram)))
            if is_definite(form, error):
                found.append(bound)
                break
            slack *= 8
    return float(up(up(np.float64(min(found))) * unit))


def norm_above(entries: Interval, p: float, q: float) -> float:
    """Upper bound of ``max |J x|_q / |x|_p`` over all matrices within an interval (outputs, inputs).

    From 1 the largest column, to inf the largest row in the dual norm; between, sums of absolute values first; for 2
    to 2 the middle and the radius by spectral norms, or that of the absolute values.
    """
    size = entries.size()
    if size.size == 0:
        return 0.0
    if not np.isfinite(size).all():
        return math.inf
    if p == 1:
        return float(length_above(size.T, q).max())
    if q == math.inf:
        return float(length_above(size, {2.0: 2.0, math.inf: 1.0}[p]).max())
    middle, radius = entries.middle()
    spectral = spectral_above(size)
    around = spectral_above(middle)
    if around < spectral:
        spectral = min(spectral, float(up(np.float64(around + (spectral_above(radius) if radius.any() else 0.0)))))
    if p == q == 2:
        return spectral
    sums = length_above(size, 1.0) if p == math.inf else length_above(size.T, 1.0)
    table = float(length_above(sums, 2.0 if 2.0 in (p, q) else 1.0))
    factor = (size.shape[1] if p == math.inf else 1) * (size.shape[0] if q == 1 else 1)
    return min(table, float(grown(np.asarray(spectral * math.sqrt(factor)), 4)))


def factor_between(inputs: int, outputs: int, known: tuple[float, float], wanted: tuple[float, float]) -> float:
    """What a constant for one pair of norms is multiplied by to be one for another: powers of the dimensions."""
    before = inputs ** max(0.0, 1 / known[0] - 1 / wanted[0])
    after = outputs ** max(0.0, 1 / wanted[1] - 1 / known[1])
    return 1.0 if before * after == 1 else float(grown(np.asarray(before * after), 16))
