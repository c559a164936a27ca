"""`LinearMap`: a sum of products of operators, for the sake of its norm; certified norms of any such map.

Affine nodes keep their own operators (ARCHITECTURE.md), but norms of adjacent ones are better taken together:
``||I + A||`` instead of ``1 + ||A||``, ``||B A||`` instead of ``||B|| ||A||``. A map never becomes a matrix of floats
that would stand for another network; it is applied to unit vectors, and the rounding of that is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf, prod

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import eigenvalues, psd_upper_shift
from jacobound.arithmetic.rounding import down, gamma, inflate, rigorous, underflow, up
from jacobound.budget import checkpoint
from jacobound.errors import ShapeError
from jacobound.operators.base import CHUNK_ENTRIES, LinearOperator, positions
from jacobound.operators.estimates import lanczos

# A Gram matrix of at most this order is factorised (a little above 1 GiB while it is), with at most so many products.
LARGEST_ORDER = 6144
MOST_WORK = 5 << 36
SMALL_ORDER = 192  # up to here all eigenvalues are cheaper than a Lanczos iteration
WIDEST_SLACK = 1e-2


@dataclass(frozen=True, eq=False)
class LinearMap:
    """``sum over chains of (last operator ... first operator)``, all in float64 on the CPU.

    Args:
        chains: at least one; of each at least one operator, the one that is applied first stands first.
    """

    chains: tuple[tuple[LinearOperator, ...], ...]

    def __post_init__(self) -> None:
        for chain in self.chains:
            for before, after in pairwise(chain):
                if before.out_shape != after.in_shape:
                    raise ShapeError(f"a map from {before.out_shape} can not be followed by one of {after.in_shape}")
            if (chain[0].in_shape, chain[-1].out_shape) != (self.in_shape, self.out_shape):
                raise ShapeError("chains of operators between different shapes can not be added")

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.chains[0][0].in_shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.chains[0][-1].out_shape

    @cached_property
    def in_size(self) -> int:
        return prod(self.in_shape)

    @cached_property
    def out_size(self) -> int:
        return prod(self.out_shape)

    @cached_property
    def work(self) -> int:
        """Products of one application, about."""
        return sum(operator.out_size * (operator.terms + 1) for chain in self.chains for operator in chain)

    @cached_property
    def gram_work(self) -> int:
        """Products of `gram_norm`, about."""
        wide = self.out_size < self.in_size
        forth, back = (self.transposed, self) if wide else (self, self.transposed)
        # The columns of a single operator cost nothing.
        images = 0 if len(self.chains) == 1 and len(self.chains[0]) == 1 else forth.work
        return forth.in_size * (images + back.work) + forth.in_size**3 // 3

    @cached_property
    def like(self) -> Tensor:
        return self.chains[0][0].example()

    @cached_property
    def transposed(self) -> LinearMap:
        """The adjoint map."""
        chains = tuple(tuple(operator.transpose() for operator in reversed(chain)) for chain in self.chains)
        flipped = LinearMap(chains)
        vars(flipped)["transposed"] = self
        return flipped

    @cached_property
    def roundings(self) -> int:
        """Relative error of `apply` in units of roundoff: it is at most gamma(roundings) times `sizes`.

        Each operator contributes the length of its sums, and errors of factors 1 + gamma multiply to the gamma of the
        sum of their indices (Higham 2002, lemma 3.3).
        """
        longest = max(sum(operator.terms + 1 for operator in chain) for chain in self.chains)
        return longest + len(self.chains)

    def apply(self, x: Tensor) -> Tensor:
        """Image of x in plain floating point, (*lead, *in_shape) -> (*lead, *out_shape)."""
        total = None
        for chain in self.chains:
            image = x
            for operator in chain:
                image = operator.apply(image)
            total = image if total is None else total + image
        assert total is not None
        return total

    def sizes(self, x: Tensor) -> Tensor:
        """At least ``|M| x`` for x >= 0: absolute values of every operator, uncertain weights included, rounded up."""
        total = x.new_zeros(self.out_shape)
        for chain in self.chains:
            image = x
            for operator in chain:
                image = inflate(operator.abs().apply(image), operator.terms + 1)
            total = up(total + image)
        return total

    def doubt(self, x: Tensor) -> Tensor:
        """At least ``|dM| x`` for x >= 0, where M + dM are the exact weights and M the stored ones; zero if exact."""
        total = x.new_zeros(self.out_shape)
        for chain in self.chains:
            size, error = x, torch.zeros_like(x)
            for operator in chain:
                absolute = operator.abs()
                error = inflate(absolute.apply(error), operator.terms + 1)
                uncertain = operator.uncertainty(size)
                error = error if uncertain is None else up(error + uncertain)
                size = inflate(absolute.apply(size), operator.terms + 1)
            total = up(total + error)
        return total

    @cached_property
    def is_exact(self) -> bool:
        """Whether all weights are the stored ones."""
        parts = (operator for chain in self.chains for operator in chain)
        return all(operator.uncertainty(self.like.new_ones(operator.in_shape)) is None for operator in parts)

    def floor(self, start: float) -> float:
        """What underflow adds to an entry of `apply`, given that of its argument, in numbers of size 1."""
        found = 0.0
        for chain in self.chains:
            error = self.like.new_full(chain[0].in_shape, start)
            for operator in chain:
                lost = underflow(operator.terms, error) if operator.terms else 0.0
                error = inflate(operator.abs().apply(error), operator.terms + 1) + lost
            found += 2 * float(error.amax()) if error.numel() else 0.0
        return found

    def unit_images(self) -> Iterator[tuple[slice, Tensor]]:
        """Images of unit vectors in chunks, each of shape (chunk, *out_shape)."""
        widest = max(operator.in_size + operator.out_size for chain in self.chains for operator in chain)
        numbers = positions(self.in_size, self.like)
        for part in numbers.split(max(1, CHUNK_ENTRIES // max(1, widest))):
            checkpoint()
            total = None
            for chain in self.chains:
                # The first operator moves exact columns.
                image = chain[0].columns(part).reshape(len(part), *chain[0].out_shape)
                for operator in chain[1:]:
                    image = operator.apply(image)
                total = image if total is None else total + image
            assert total is not None
            yield slice(int(part[0]), int(part[-1]) + 1), total


def largest_sums(linear: LinearMap) -> tuple[Tensor, Tensor]:
    """Certified bounds of the largest absolute row sum (l_inf norm) and column sum (l_1 norm), each 0-d.

    Exact up to rounding for a single operator; a sum or product of several counts absolute values of each.
    """
    zero = linear.like.new_zeros(1)
    rows = torch.cat((linear.sizes(linear.like.new_ones(linear.in_shape)).flatten(), zero)).amax()
    columns = torch.cat((linear.transposed.sizes(linear.like.new_ones(linear.out_shape)).flatten(), zero)).amax()
    return rows, columns


def mixed_norm(rows: Tensor, columns: Tensor) -> Tensor:
    """The bound ``sqrt(l_1 l_inf)`` of a spectral norm, rounded up, from largest row and column sums."""
    return inflate(inflate(rows.sqrt(), 2) * inflate(columns.sqrt(), 2), 2)


def column_norm(linear: LinearMap) -> Tensor:
    """Certified bound of the l_1 norm, 0-d: the largest column sum of the matrix itself, by its columns."""
    ones = linear.like.new_ones(linear.out_shape)
    reach = linear.transposed.sizes(ones).flatten()
    error = inflate(reach * gamma(linear.roundings + 2, reach), 2) + linear.out_size * linear.floor(0.0)
    sums = torch.cat([image.reshape(len(image), -1).abs().sum(1) for _, image in linear.unit_images()])
    sums = up(inflate(sums, linear.out_size) + error)
    if not linear.is_exact:
        sums = up(sums + linear.transposed.doubt(ones).flatten())
    return torch.minimum(sums, reach).amax()


def gram_norm(linear: LinearMap, mixed: Tensor) -> Tensor:
    """Certified upper bound of the spectral norm by a verified Cholesky factorisation, 0-d float64; or +inf.

    The Gram matrix of the smaller side is found by applying the map and its adjoint to unit vectors. It misses
    the exact one by at most ``gamma |M|^T |M|`` entry by entry, a symmetric bound whose spectral norm is at most its
    largest row sum, and by the floor of underflow. Uncertain weights add the norm of what they may change.

    Args:
        mixed: a bound of the norm that is known, positive and finite.
    """
    if linear.out_size < linear.in_size:
        linear = linear.transposed
    order, unit_size = linear.in_size, power_of_two_above(float(mixed))
    gram = linear.like.new_empty(order, order)
    for part, image in linear.unit_images():
        gram[part] = linear.transposed.apply(image / unit_size).reshape(len(image), -1) / unit_size
    ones = linear.like.new_ones(linear.in_shape) / unit_size
    reach = linear.transposed.sizes(linear.sizes(ones) / unit_size).amax()
    roundings = linear.roundings + linear.transposed.roundings + 4
    lost = inflate(reach * gamma(roundings, reach), 4)
    floor = linear.transposed.floor(linear.floor(0.0) / unit_size + underflow(1, reach)) / unit_size
    error = up(lost + 2 * order * (floor + underflow(1, reach)))
    if not bool(torch.isfinite(gram.sum())):
        return gram.new_tensor(inf)
    estimate = gram_estimate(linear, gram, unit_size)
    if not rigorous():
        return gram.new_tensor(estimate * unit_size)
    found = up(_proved(gram, estimate, error) * unit_size)
    return found if linear.is_exact else up(found + doubt_norm(linear))


def doubt_norm(linear: LinearMap) -> Tensor:
    """Certified bound of the spectral norm of what uncertain weights may change: sqrt of row times column sums."""
    rows = linear.doubt(linear.like.new_ones(linear.in_shape)).amax()
    columns = linear.transposed.doubt(linear.like.new_ones(linear.out_shape)).amax()
    return mixed_norm(rows, columns)


def gram_estimate(linear: LinearMap, gram: Tensor, unit_size: float) -> float:
    """Estimate of the norm over `unit_size`, from the Gram matrix or by applying the map, whichever is cheaper."""
    if len(gram) <= SMALL_ORDER:
        return float(eigenvalues(gram)[-1].clamp(min=0.0).sqrt())
    if 4 * (linear.work + linear.transposed.work) >= gram.numel():
        return lanczos(lambda x: gram @ x, len(gram)) ** 0.5

    def squared(x: Tensor) -> Tensor:
        image = linear.apply(x.reshape(linear.in_shape) / unit_size)
        return linear.transposed.apply(image / unit_size).flatten()

    return lanczos(squared, len(gram)) ** 0.5


def _proved(gram: Tensor, estimate: float, error: Tensor) -> Tensor:
    """The smallest t that was tried with ``t^2 I - G`` proved positive definite; +inf when none was.

    The matrix is overwritten by its negative to save memory.
    """
    diagonal = gram.diagonal().clone()
    gram.neg_()
    for size in _tries(len(gram), estimate, float(error)):
        bound = gram.new_tensor(size)
        if not 0 < size < 1.25:
            break
        squared = down(bound * bound)
        shift = up(psd_upper_shift(squared.expand(len(gram))) + error)
        gram.diagonal().copy_(down(down(squared - diagonal) - shift))
        factor, info = torch.linalg.cholesky_ex(gram)
        if bool(info == 0) and bool(torch.isfinite(factor.sum())):
            return bound
        del factor
    return gram.new_tensor(inf)


def _tries(order: int, estimate: float, error: float) -> Iterator[float]:
    """Numbers that may be proved to bound the norm, a little above the estimate first."""
    base = max(estimate, 20 * error**0.5)  # below, nothing can be proved
    slack = order * (order + 1) * 2.0**-53 + 2 * error / max(base * base, 1e-300) + 1e-11
    while slack < WIDEST_SLACK:
        yield base * (1 + slack)
        slack *= 8


def power_of_two_above(size: float) -> float:
    """A power of two above a positive finite number, or near the largest float."""
    return 2.0 ** min(math.frexp(size)[1], 1020)
