"""The largest spectral norm among many small matrices, certified: blocks of an operator, frequencies of a convolution.

Every matrix X is met once: either its Frobenius norm is at most t, or ``t^2 I - X X^T`` passes the verified Cholesky
factorisation of `linalg.psd_upper_shift`. The number t starts from the best estimate, and is raised by the matrices
that fail; those that have passed hold for every larger t.

Source of the factorisation's error: Rump, "Verification of positive definiteness" (BIT 46, 2006).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import eigenvalues, psd_upper_shift, vector_norm_upper
from jacobound.arithmetic.rounding import down, gamma, inflate, rigorous, underflow, up
from jacobound.budget import checkpoint
from jacobound.operators.base import CHUNK_ENTRIES

POWER_STEPS = 6  # only ranks the matrices, so that few have to be factorised twice
WIDEST_SLACK = 1e-2


def gram(matrices: Tensor) -> Tensor:
    """``X X^T`` of a batch, shape (batch, rows, rows)."""
    return matrices @ matrices.mT


@dataclass(frozen=True, eq=False)
class Family:
    """Matrices that are made when they are needed, float64 on the CPU, with spectral norms of at most 1.

    Args:
        count: how many.
        rows, columns: of each; rows <= columns.
        matrices: from integer numbers of shape (k,) to shape (k, rows, columns).
        gram: from matrices to ``X X^T`` by classical sums of `columns` products; only lower triangles are read.
    """

    count: int
    rows: int
    columns: int
    matrices: Callable[[Tensor], Tensor]
    gram: Callable[[Tensor], Tensor] = gram

    @property
    def work(self) -> int:
        """Products of the certificate, about."""
        return self.count * self.rows * self.rows * (self.columns + self.rows // 3)

    @property
    def step(self) -> int:
        """How many are worked on at once."""
        return max(1, CHUNK_ENTRIES // (self.rows * (self.columns + 2 * self.rows)))


def largest_norm(family: Family, ceiling: float = inf) -> Tensor:
    """Certified upper bound of the largest spectral norm in the family, 0-d float64.

    The relative slack is about rows^2 + rows columns units of roundoff: 1e-11 for 128 x 128.

    Args:
        ceiling: stop as soon as the result cannot be below it; then +inf is returned.
    """
    numbers = torch.arange(family.count)
    frobenius, rough = _sizes(family, numbers)
    if not bool(torch.isfinite(frobenius).all()):
        return frobenius.new_tensor(inf)
    if family.rows == 1:
        return frobenius.amax()
    if not rigorous():
        parts = [torch.linalg.matrix_norm(family.matrices(part), 2).amax() for part in numbers.split(family.step)]
        return torch.stack(parts).amax()
    order = torch.argsort(rough, descending=True, stable=True)
    estimate = _largest(family.gram(family.matrices(order[: min(4, family.step)])))
    return _proved(family, order, frobenius, estimate, ceiling)


def _proved(family: Family, order: Tensor, frobenius: Tensor, estimate: float, ceiling: float) -> Tensor:
    """The number t, raised until every matrix has passed; +inf above the ceiling or when none is found."""
    slack = _first_slack(family)
    bound = frobenius.new_tensor(_above(estimate, slack))
    for part in order.split(family.step):
        checkpoint()
        pending = part[frobenius[part] > bound]
        while len(pending):
            if not bound < ceiling or slack > WIDEST_SLACK:
                return frobenius.new_tensor(inf)
            grams = family.gram(family.matrices(pending))
            passed = _definite(grams, bound, frobenius[pending], family.columns)
            pending, grams = pending[~passed], grams[~passed]
            if len(pending):
                higher = max(estimate, _largest(grams))
                slack = slack * 8 if higher == estimate else slack
                estimate = higher
                bound = torch.maximum(bound, frobenius.new_tensor(_above(estimate, slack)))
    return bound if bound < ceiling else frobenius.new_tensor(inf)


def _first_slack(family: Family) -> float:
    """How far above an estimate a proof is likely."""
    return 4 * (family.rows + family.columns + 8) * (family.rows + 1) * 2.0**-53


def _above(estimate: float, slack: float) -> float:
    """A number to try."""
    return estimate * (1 + slack)


def _sizes(family: Family, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Frobenius norms, rounded up, and numbers that rank the spectral norms, both of shape (count,)."""
    sizes, rough = [], []
    start = torch.randn(family.columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for part in numbers.split(family.step):
        checkpoint()
        matrices = family.matrices(part)
        sizes.append(vector_norm_upper(matrices.flatten(1), 2))
        if family.rows == 1:
            continue
        vectors = start.expand(len(part), -1).unsqueeze(2)
        for _ in range(POWER_STEPS):
            vectors = matrices.mT @ (matrices @ torch.nn.functional.normalize(vectors, dim=1))
        rough.append(vectors.square().sum((1, 2)))
    return torch.cat(sizes), torch.cat(rough) if rough else torch.zeros(0)


def _largest(grams: Tensor) -> float:
    """Estimate of the largest square root of an eigenvalue in a batch."""
    return float(eigenvalues(grams)[:, -1].clamp(min=0.0).sqrt().amax())


def _definite(grams: Tensor, bound: Tensor, frobenius: Tensor, terms: int) -> Tensor:
    """For which matrices ``bound^2 I - X X^T`` is proved positive definite, shape (batch,).

    The computed G misses ``X X^T`` by at most ``gamma |X||X|^T`` entry by entry, whose spectral norm is at most
    gamma times the Frobenius norm squared. No diagonal entry exceeds bound^2, so its trace stands for theirs.
    """
    size = grams.shape[-1]
    squared = bound * bound
    if not squared < 2:
        return torch.zeros(len(grams), dtype=torch.bool)
    lost = inflate(gamma(terms + 2, grams) * frobenius * frobenius, 4) + size * underflow(terms, grams)
    shift = up(lost + psd_upper_shift(squared.expand(size)))
    shifted = -grams
    diagonal = down(down(down(squared) - grams.diagonal(dim1=1, dim2=2)) - shift.unsqueeze(1))
    shifted.diagonal(dim1=1, dim2=2).copy_(diagonal)
    factors, info = torch.linalg.cholesky_ex(shifted)
    return (info == 0) & torch.isfinite(factors).all(2).all(1)
