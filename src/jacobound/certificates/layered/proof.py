"""The rigorous half of certificates layer by layer: multipliers in, certified constant out.

Along a chain z = W y, y_next = m z + r w with |w_i| <= |z_i|, ellipsoids are pushed forward: ``y y' <= Y`` (in the
order of semidefinite matrices) gives ``z z' <= Z = W Y W'``, and for any diagonal V above Z on the unstable neurons U

    y_next y_next' <= m (Z + Z_U' S^-1 Z_U) m + r V r,        S = V - Z_UU positive definite.

This is the dual form of LipSDP-neuron for chains, eliminated layer by layer as in Xu and Sivaranjani, "ECLipsE:
efficient compositional Lipschitz constant estimation" (NeurIPS 2024), here with the slopes of every neuron on its own.
S is proved definite by a verified Cholesky factorisation. With any G, ``Z_U' S^-1 Z_U`` is at most
``G' (2 Z_U - S G)`` plus a term quadratic in the residual ``Z_U - S G``, so an approximate solution G is all it needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import dual_exponent, eigenvalues, is_positive_definite, vector_norm_upper
from jacobound.arithmetic.rounding import down, gamma, inflate, rigorous, tiny, underflow, up
from jacobound.certificates.dense.proof import LARGEST, SMALLEST, numbers_of, stored_pair
from jacobound.certificates.layered.chain import LayeredChain
from jacobound.stored import stored

# What S is tried to be above of, as shares of its diagonal; powers of two, so that 1 minus one rounds nothing.
SHARES = (2.0**-3, 2.0**-7, 2.0**-13, 2.0**-20, 2.0**-27)
EXCESS = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 0.3)


@stored
@dataclass(frozen=True, eq=False)
class LayeredCertificate:
    """A certified constant of a chain with what proves it.

    Args:
        value: the constant; infinite when nothing was proved.
        norm: (p, q) of the chain.
        turned: whether the chain was taken from the outputs to the inputs.
        entering: weights of the space where it begins: Y there is their diagonal matrix.
        leaving: weights of the space where it ends; their inverses, scaled, dominate Z there.
        multipliers: V of the unstable neurons of every layer, in the order in which they are met.
    """

    value: float
    norm: tuple[float, float]
    turned: bool
    entering: Tensor
    leaving: Tensor
    multipliers: tuple[Tensor, ...]

    def to_dict(self) -> dict[str, Any]:
        """Strings, lists and a truth value, ready for JSON: every float in hexadecimal, so that nothing is lost."""
        return {
            "value": self.value.hex(),
            "norm": [exponent.hex() for exponent in self.norm],
            "turned": self.turned,
            "entering": [number.hex() for number in self.entering.tolist()],
            "leaving": [number.hex() for number in self.leaving.tolist()],
            "multipliers": [[number.hex() for number in part.tolist()] for part in self.multipliers],
        }

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> LayeredCertificate:
        """The certificate that `to_dict` told of. Nothing in it is believed: `layered_constant` proves it again.

        Raises:
            InvalidOptionError: when an entry is missing, no number, or not the list that it should be.
        """
        parts = stored.get("multipliers")
        parts = parts if isinstance(parts, list) else [None]
        value, norm = stored_pair(stored)
        return LayeredCertificate(
            value,
            norm,
            bool(stored.get("turned")),
            numbers_of(stored.get("entering"), "entering"),
            numbers_of(stored.get("leaving"), "leaving"),
            tuple(numbers_of(part, "multipliers") for part in parts),
        )


def layered_constant(chain: LayeredChain, certificate: LayeredCertificate) -> float:
    """The constant that multipliers prove, rounded up; inf when they prove nothing. Independent of any search."""
    p, q = certificate.norm
    if certificate.turned:
        chain, p, q = chain.transposed(), dual_exponent(q), dual_exponent(p)
    if chain.is_constant:
        return 0.0
    if not (chain.is_usable and _fits(chain, certificate)):
        return math.inf
    form: Tensor | None = torch.diag(certificate.entering)
    multipliers = iter(certificate.multipliers)
    for k, (matrix, error) in enumerate(zip(chain.matrices, chain.errors, strict=True)):
        form = through_layer(form, matrix, error)
        if k < len(chain.halves):
            form = through_neurons(form, chain.middles[k], chain.halves[k], chain.unstable[k], next(multipliers))
        if form is None:
            return math.inf
    inverse = up(1 / certificate.entering)
    entering = inflate(inverse.sum(), len(inverse)) if p == math.inf else inverse.amax()
    leaving = _leaving(form, certificate.leaving, q)
    return float(inflate(inflate(entering * leaving, 2).sqrt(), 4))


def _fits(chain: LayeredChain, certificate: LayeredCertificate) -> bool:
    sizes = [chain.inputs, chain.outputs, *(len(part) for part in chain.unstable)]
    parts = (certificate.entering, certificate.leaving, *certificate.multipliers)
    if [len(part) for part in parts] != sizes:
        return False
    return all(bool(((part >= SMALLEST) & (part <= LARGEST)).all()) for part in parts)  # NaN lands outside


def through_layer(form: Tensor, matrix: Tensor, error: float) -> Tensor:
    """A symmetric Z above ``W Y W'`` for every W within `error` (spectral norm) of the matrix."""
    rows, columns = matrix.shape
    moved = matrix @ form
    image = moved @ matrix.T
    image = (image + image.T) / 2
    size, weight = form.abs(), matrix.abs()
    spread = weight @ (size @ weight.sum(0))  # row sums of |W| |Y| |W'|
    doubt = inflate(spread * gamma(2 * columns + 6, spread), 2 * columns + rows + 6)
    if error and columns:  # of no columns there is no form to move
        length = vector_norm_upper(matrix.flatten(), 2)
        largest = inflate(size.sum(1), columns).amax()
        extra = inflate(largest * (2 * length + error) * error, 6)
        doubt = up(doubt + extra)
    return _raised(image, up(doubt + _floor(image, columns)))


def _floor(form: Tensor, terms: int) -> float:
    """What underflow can take from one row of a product of three matrices with entries below 1e100."""
    return len(form) * (underflow(terms, form) * 1e101 * max(1, terms) + 1e-180) if rigorous() else 0.0


def _raised(form: Tensor, doubt: Tensor | float) -> Tensor:
    """More on the diagonal: row sums of a symmetric bound of errors dominate the errors."""
    form.diagonal().copy_(up(form.diagonal() + doubt))
    return form


def through_neurons(form: Tensor, middle: Tensor, half: Tensor, unstable: Tensor, weights: Tensor) -> Tensor | None:
    """A symmetric form behind the neurons; None where S could not be proved definite.

    Args:
        form: Z, symmetric, shape (n, n).
        middle, half: m and r, shape (n,).
        unstable: positions of U.
        weights: V, shape (len(unstable),).
    """
    if not bool(torch.isfinite(form).all()):
        return None
    total, raised = form, torch.zeros_like(middle)
    behind = torch.zeros_like(middle)
    if len(unstable):
        reads = form[unstable]
        inner = reads[:, unstable]
        diagonal = down(weights - inner.diagonal())
        share = _definite_share(diagonal, inner)
        if share is None:
            return None
        solved, doubt = _complement(-inner.tril(-1), diagonal, reads, share)
        if solved is None:
            return None
        total, raised = form + solved, up(doubt)
        largest = up(diagonal + inner.diagonal())  # S has this V
        behind[unstable] = inflate(half[unstable].square() * largest, 4)
    passed = total * torch.outer(middle, middle)
    size = passed.abs().sum(1)
    rounded = inflate(size * gamma(6, size), len(size) + 4) if bool(((middle != 0) & (middle != 1)).any()) else 0.0
    summed = inflate(total.abs() @ middle.abs() * middle.abs() * gamma(3, size), len(size) + 6)
    taken = inflate(middle.square() * raised, 4)
    return _raised(passed, up(up(behind + taken) + up(up(summed + rounded) + _floor(passed, 1))))


def _definite_share(diagonal: Tensor, inner: Tensor) -> float | None:
    """A number s with S - s diag(S) proved definite, where S has this diagonal and minus `inner` off it."""
    if not bool(((diagonal >= SMALLEST) & (diagonal <= LARGEST)).all()):
        return None
    scale = powers_of_two(diagonal.rsqrt())
    below = -(inner.tril(-1) * scale * scale.unsqueeze(1))
    for share in SHARES:
        kept = down(down(diagonal * (1 - share)) * scale * scale)
        if is_positive_definite(below + torch.diag(kept), 8 * len(diagonal) * tiny(diagonal.dtype)):
            return share
    return None


def powers_of_two(size: Tensor) -> Tensor:
    """The powers of two next to positive numbers: multiplying by them rounds nothing."""
    _, exponent = torch.frexp(size)
    return torch.ldexp(torch.ones_like(size), exponent.clamp(-400, 400))


def _complement(below: Tensor, diagonal: Tensor, reads: Tensor, share: float) -> tuple[Tensor | None, Tensor]:
    """A symmetric matrix, and what has to be added to its diagonal to be above ``Z_U' S^-1 Z_U``.

    Args:
        below: S below its diagonal.
        diagonal: of S.
        reads: Z_U, shape (u, n).
        share: S is at least that times its diagonal.
    """
    u = len(below)
    whole = below + below.T + torch.diag(diagonal)
    factor, failed = torch.linalg.cholesky_ex(whole)
    nothing = torch.zeros(reads.shape[1], dtype=reads.dtype)
    if bool(failed):
        return None, nothing
    guess = torch.cholesky_solve(reads, factor)
    image = whole @ guess
    rest, double = reads - image, 2 * reads - image
    found = guess.T @ double
    if not (bool(torch.isfinite(found).all()) and float(guess.abs().max()) <= LARGEST):
        return None, nothing
    mean = (found + found.T) / 2
    # Rounding of `image` and `double`, as rows: |guess|' bounds the rows, its transpose the columns.
    size, weight, kept = guess.abs(), whole.abs(), reads.abs()
    spread = gamma(u + 6, reads)
    rows = size.T @ (spread * (2 * kept.sum(1) + weight @ size.sum(1)) + gamma(u + 3, reads) * double.abs().sum(1))
    sums = size.sum(1)
    columns = spread * (2 * (kept.T @ sums) + size.T @ (weight @ sums)) + gamma(u + 3, reads) * (double.abs().T @ sums)
    doubt = inflate((rows + columns) / 2, 3 * u + reads.shape[1] + 12)
    doubt = up(doubt + inflate(mean.abs().sum(1) * gamma(3, mean), len(mean) + 4))
    # The term that is quadratic in the residual, by its trace.
    lengths = vector_norm_upper(guess, 2)
    missed = up(vector_norm_upper(rest, 2) + inflate(spread * (weight @ lengths + vector_norm_upper(reads, 2)), u + 6))
    quadratic = inflate((missed.square() / (diagonal * share)).sum(), u + 6)
    return mean, up(up(doubt + quadratic) + _floor(found, u))


def _leaving(form: Tensor, weights: Tensor, q: float) -> Tensor:
    """The square of the largest l_q norm of z with ``z z' <= form``, rounded up; inf when nothing was proved."""
    nothing = torch.tensor(math.inf, dtype=torch.float64)
    diagonal = form.diagonal()
    if not bool(torch.isfinite(form).all()):
        return nothing
    if q == math.inf or len(form) == 1:
        return diagonal.amax()
    shape, root = 1 / weights, weights.sqrt()
    estimate = eigenvalues(form * root * root.unsqueeze(1))[-1].clamp(min=1e-250)
    scale = powers_of_two((shape * estimate).rsqrt())
    below = -(form.tril(-1) * scale * scale.unsqueeze(1))
    for excess in EXCESS:
        bound = shape * (estimate * (1 + excess))
        lowered = down(down(bound - diagonal) * scale * scale)
        if is_positive_definite(below + torch.diag(lowered), 8 * len(form) * tiny(form.dtype)):
            return inflate(bound.sum(), len(bound)) if q == 1 else bound.amax()
    return nothing
