"""The largest norm of ``A D(s) B`` over slopes s between bounds, one per neuron, certified from any multipliers.

With middle slopes c and half widths r write ``C = A D(c) B``. For positive t and numbers a, b > 0 let

    K = [ a I - B' D(t) B          C'             ]
        [       C          b I - A D(r^2 / t) A'  ].

If K is positive definite, then ``||A D(s) B|| <= sqrt(a b)`` for all slopes: K gives ``2 y'C x <= a |x|^2 + b |y|^2 -
x'B'D(t)B x - y'A D(r^2/t) A'y`` (with -y for y), and ``2 y'A D(s - c) B x`` is at most the sum of the two last terms.
With the best a for b = 1 this is the dual bound of one hidden layer (LipSDP-neuron), but its order is that of the two
outer sides, not the number of neurons. Source of the problem: Scaman and Virmaux (NeurIPS 2018), section 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import frobenius_norm_upper, is_positive_definite, spectral_norm_upper
from jacobound.arithmetic.rounding import down, gamma, inflate, rigorous, up
from jacobound.errors import ShapeError
from jacobound.operators.linear_maps import power_of_two_above

# Multipliers outside are refused, so that no product of a few factors leaves the range of float64 unnoticed.
SMALLEST, LARGEST = 1e-60, 1e60
WIDEST_SLACK = 1e-2


@dataclass(frozen=True, eq=False)
class Pair:
    """Two matrices with a layer of neurons between them; all float64 on the CPU, and exact.

    Args:
        left: A, shape (p, n).
        right: B, shape (n, q).
        lower, upper: slopes, shape (n,); ``lower <= upper``.
    """

    left: Tensor
    right: Tensor
    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        count = len(self.lower)
        if self.left.shape[1] != count or len(self.right) != count or self.upper.shape != self.lower.shape:
            raise ShapeError(
                f"a pair of shapes {tuple(self.left.shape)} and {tuple(self.right.shape)} does not fit "
                f"{count} and {len(self.upper)} slopes"
            )

    @property
    def neurons(self) -> int:
        return len(self.lower)

    @cached_property
    def undecided(self) -> Tensor:
        """Positions of neurons with more than one slope."""
        return (self.lower != self.upper).nonzero().squeeze(1)

    @cached_property
    def is_finite(self) -> bool:
        parts = (self.left, self.right, self.lower, self.upper)
        return all(bool(torch.isfinite(part).all()) for part in parts) and bool((self.lower <= self.upper).all())

    @cached_property
    def middle(self) -> Tensor:
        """Middle slopes c; with `half` they cover the slopes."""
        return torch.where(self.lower == self.upper, self.lower, self.lower * 0.5 + self.upper * 0.5)

    @cached_property
    def half(self) -> Tensor:
        """Half widths r, rounded up; 0 where there is one slope."""
        half = torch.maximum(up(self.upper - self.middle), up(self.middle - self.lower))
        return torch.where(self.lower == self.upper, 0.0, half)

    @cached_property
    def steepest(self) -> Tensor:
        """The largest absolute slope, 0-d."""
        return torch.maximum(self.lower.abs(), self.upper.abs()).amax() if self.neurons else self.lower.new_zeros(())

    @cached_property
    def oriented(self) -> Pair:
        """The pair of layers, transposed where that makes q <= p."""
        if self.right.shape[1] <= self.left.shape[0]:
            return self
        return Pair(self.right.T.contiguous(), self.left.T.contiguous(), self.lower, self.upper)

    @cached_property
    def scaled(self) -> tuple[Pair, float]:
        """The pair over powers of two such that rows of the middle have sizes near 1, and the factor taken out.

        What underflows in the division is below 2^-1000 of the largest entry; `floor` counts it.
        """
        sizes = [power_of_two_above(max(float(part.norm()), 1e-290)) for part in (self.left, self.right)]
        return replace(self, left=self.left / sizes[0], right=self.right / sizes[1]), sizes[0] * sizes[1]

    def fixed(self, neurons: Tensor, slopes: Tensor) -> Pair:
        """With one slope each for some neurons."""
        lower, upper = self.lower.clone(), self.upper.clone()
        lower[neurons], upper[neurons] = slopes, slopes
        return replace(self, lower=lower, upper=upper)

    def at(self, slopes: Tensor) -> Tensor:
        """``A D(s) B`` in floating point, shape (*lead, p, q) for slopes of shape (*lead, n)."""
        return (self.left * slopes.unsqueeze(-2)) @ self.right

    @cached_property
    def pruned(self) -> Pair:
        """Without neurons that pass nothing on: slope zero, or a column of A or a row of B that is zero."""
        alive = (self.lower != 0) | (self.upper != 0)
        alive &= (self.left != 0).any(0) & (self.right != 0).any(1)
        if bool(alive.all()):
            return self
        return Pair(self.left[:, alive], self.right[alive], self.lower[alive], self.upper[alive])


@dataclass(frozen=True, eq=False)
class PairBound:
    """What is known of a pair.

    Args:
        upper: certified upper bound of the largest norm.
        lower: an attained value (in floating point), 0 when none was sought.
        multipliers: what proves the bound by `certified_dual`, shape (n,) of the oriented pair; None if nothing does.
        complete: whether the search went as far as it should.
    """

    upper: float
    lower: float = 0.0
    multipliers: Tensor | None = None
    complete: bool = True


def product_bound(pair: Pair) -> float:
    """Certified product of norms ``||A|| max|s| ||B||``."""
    if not pair.is_finite:
        return math.inf
    if not (bool(pair.left.any()) and bool(pair.right.any()) and bool(pair.steepest)):
        return 0.0
    return float(up(up(spectral_norm_upper(pair.left) * pair.steepest) * spectral_norm_upper(pair.right)))


def certified_dual(pair: Pair, multipliers: Tensor, guess: float) -> float:
    """The bound that multipliers prove, rounded up; inf when they prove none near the guess. Independent of any search.

    Args:
        multipliers: t, any floats of shape (n,); those of decided neurons do not matter.
        guess: the value that is expected; it is raised a little until the proof succeeds.
    """
    if not pair.is_finite:
        return math.inf
    if 0 in (*pair.left.shape, *pair.right.shape):
        return 0.0
    scaled, factor = pair.scaled
    undecided = scaled.half > 0
    t = multipliers[undecided]
    if not bool(((t >= SMALLEST) & (t <= LARGEST)).all()):
        return math.inf  # NaN lands here too
    value = guess / factor
    if not SMALLEST < value < LARGEST:
        return math.inf
    form = _Form.of(scaled, undecided, t, value)
    slack = 4 * form.relative_error
    while slack < WIDEST_SLACK:
        bound = up(torch.tensor(value, dtype=torch.float64) * (1 + slack))
        if form.proves(bound):
            return float(up(bound * factor))
        slack *= 8
    return math.inf


@dataclass(frozen=True, eq=False)
class _Form:
    """K with its x side scaled by 1 / size, so that both blocks compare with the identity.

    Args:
        matrix: lower triangle of K without ``a`` and with ``b = 1``; x first.
        error: 2-norm of what rounding may change.
        size: a power of two near the square root of ``a``.
        columns: q.
    """

    matrix: Tensor
    error: float
    size: float
    columns: int

    @staticmethod
    def of(pair: Pair, undecided: Tensor, t: Tensor, value: float) -> _Form:
        """From a scaled pair and the multipliers of its undecided neurons."""
        size = power_of_two_above(value)
        right = pair.right / size
        outer, inner = pair.left[:, undecided], right[undecided]
        weight = pair.half[undecided] * pair.half[undecided] / t
        p, q = len(pair.left), right.shape[1]
        matrix = torch.zeros(p + q, p + q, dtype=torch.float64)
        matrix[:q, :q] = -(inner.T @ (inner * t.unsqueeze(1)))
        matrix[q:, :q] = (pair.left * pair.middle) @ right
        matrix[q:, q:] = -((outer * weight) @ outer.T)
        # |rounding| <= gamma N for a symmetric N >= 0, whose 2-norm is at most its largest row sum.
        passed, through = right.abs(), pair.left.abs() * pair.middle.abs()
        absolute, size_out = inner.abs(), outer.abs()
        rows = torch.cat(
            (
                absolute.T @ (t * absolute.sum(1)) + passed.T @ through.sum(0),
                through @ passed.sum(1) + size_out @ (weight * size_out.sum(0)),
            )
        )
        count = pair.neurons + p + q
        lost = inflate(rows.amax() * gamma(pair.neurons + 8, rows), count + 8)
        # Factors are within 1e-130 and 1e130 and entries at most 1, so underflow anywhere stays below this.
        floor = 1e-150 * count if rigorous() else 0.0
        return _Form(matrix, float(lost) + floor, size, q)

    @property
    def relative_error(self) -> float:
        """What the proof loses, relative to the bound, about."""
        order = len(self.matrix)
        return self.error + gamma(order + 4, self.matrix) * order + 1e-15

    def proves(self, bound: Tensor) -> bool:
        """Whether ``sqrt(a b) <= bound`` is proved with b = 1."""
        side = bound / self.size
        diagonal = self.matrix.diagonal()
        corner = torch.cat((down(side * side).expand(self.columns), diagonal.new_ones(len(diagonal) - self.columns)))
        return is_positive_definite(self.matrix.diagonal_scatter(down(corner + diagonal)), self.error)


def frobenius(matrix: Tensor) -> float:
    """Certified Frobenius norm."""
    return float(frobenius_norm_upper(matrix)) if matrix.numel() else 0.0
