"""The exact side of the arithmetic tests: floats as rationals, matrices over the rationals, balls from Arb."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from flint import arb, ctx, fmpq, fmpq_mat
from torch import Tensor

BITS = 300  # of every ball: enough for exp(-745) next to 1

DTYPES = (torch.float64, torch.float32)
DTYPE_NAMES = ("float64", "float32")


def rational(x: float) -> fmpq:
    """A finite float (or integer) as the rational number that it is."""
    return fmpq(*float(x).as_integer_ratio())


def rationals(x: Tensor) -> list[fmpq]:
    """All entries, flattened; every entry must be finite."""
    return [rational(entry) for entry in x.detach().flatten().tolist()]


def rational_matrix(x: Tensor) -> fmpq_mat:
    """A matrix of finite floats over the rationals; a vector becomes one column."""
    rows, columns = x.shape if x.dim() == 2 else (len(x), 1)
    return fmpq_mat(rows, columns, rationals(x))


def ball(x: float | fmpq) -> arb:
    """An Arb ball around a number, of `BITS` bits."""
    ctx.prec = BITS
    return arb(x) if isinstance(x, fmpq) else arb(rational(x))


def at_most(bound: float, exact: fmpq | arb) -> bool:
    """Whether a float lies below (or at) an exact number: False for NaN and +inf.

    A ball is narrower than a float's distance to its neighbours by far; one that touches the bound (tanh of 1e9
    and 1) counts as met.
    """
    if not math.isfinite(bound):
        return bound == -math.inf
    if isinstance(exact, arb):
        assert exact.rel_accuracy_bits() > 100, "the oracle itself is not accurate here"
        return not ball(bound) > exact
    return rational(bound) <= exact


def at_least(bound: float, exact: fmpq | arb) -> bool:
    """Whether a float lies above (or at) an exact number for certain: False for NaN and -inf."""
    return at_most(-bound, -exact)


def outside(lower: Tensor, exact: Sequence[fmpq | arb], upper: Tensor) -> list[str]:
    """What is wrong with an enclosure, entry by entry; empty when it holds."""
    ends = zip(lower.flatten().tolist(), exact, upper.flatten().tolist(), strict=True)
    return [
        f"entry {k}: {ball(value)} is not in [{low!r}, {high!r}]"
        for k, (low, value, high) in enumerate(ends)
        if not (at_most(low, value) and at_least(high, value))
    ]


def special_numbers(dtype: torch.dtype) -> list[float]:
    """The floats at which formulas break: zero, subnormals, neighbours of 1, the largest, and some between."""
    info = torch.finfo(dtype)
    smallest = info.tiny * info.eps
    positive = [smallest, 3 * smallest, info.tiny, 1.5 * info.tiny, math.sqrt(info.tiny), 1 - info.eps / 2, 1.0]
    positive += [1 + info.eps, 3.0, math.sqrt(info.max), info.max]
    positive = torch.tensor(positive, dtype=dtype).tolist()
    return [0.0, *positive, *(-x for x in positive)]


def random_floats(
    shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator, exponents: tuple[int, int] = (-60, 60)
) -> Tensor:
    """Floats of both signs with full mantissas, whose binary exponents are uniform in a range."""
    size = torch.randint(exponents[0], exponents[1] + 1, tuple(shape), generator=generator)
    mantissa = 1 + torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
    sign = 2.0 * torch.randint(0, 2, tuple(shape), generator=generator) - 1
    return (sign * mantissa * torch.exp2(size.to(torch.float64))).to(dtype)


def corners(lower: Sequence[float], upper: Sequence[float]) -> list[tuple[float, ...]]:
    """All vertices of a small box."""
    return list(itertools.product(*zip(lower, upper, strict=True)))


def is_positive_semidefinite(matrix: fmpq_mat) -> bool:
    """Whether a symmetric rational matrix has no negative eigenvalue, by elimination without rounding."""
    size = matrix.nrows()
    rows = [[matrix[i, j] for j in range(size)] for i in range(size)]
    for k in range(size):
        pivot = rows[k][k]
        if pivot < 0 or (pivot == 0 and any(rows[k][j] != 0 for j in range(k + 1, size))):
            return False
        if pivot == 0:
            continue
        for i in range(k + 1, size):
            factor = rows[i][k] / pivot
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return True


def gram(matrix: fmpq_mat) -> fmpq_mat:
    """A^T A or A A^T, whichever is smaller."""
    transposed = matrix.transpose()
    return transposed * matrix if matrix.ncols() <= matrix.nrows() else matrix * transposed


def identity(size: int) -> fmpq_mat:
    return fmpq_mat(size, size, [fmpq(int(i == j)) for i in range(size) for j in range(size)])


def bounds_spectral_norm(matrix: fmpq_mat, bound: float) -> bool:
    """Whether a float is at least the largest singular value, decided without rounding."""
    if not math.isfinite(bound):
        return bound == math.inf
    product = gram(matrix)
    return bound >= 0 and is_positive_semidefinite(identity(product.nrows()) * rational(bound) ** 2 - product)
