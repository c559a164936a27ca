"""Multipliers for stacks at many frequencies: closed forms, values and gradients. Plain floating point, complex.

The sweep of `layered/search.py` at every frequency at once, with multipliers that several entries share. Y begins as
the diagonal matrix of the inverse weights where the stack is entered and ends between the weights where it is left; the
value is the logarithm of the largest eigenvalue over all frequencies, of two stacks the sum. Derivatives are those of a
smoothed maximum over all eigenvalues: only the few vectors with a share in it are pulled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import eigenvectors
from jacobound.certificates.frequencies.stacks import Stack, Stacked
from jacobound.certificates.layered.descent import SMOOTHING, Evaluation
from jacobound.certificates.layered.search import WORTH


@dataclass(frozen=True, eq=False)
class Swept:
    """One stack with its multipliers, swept from its inputs to its outputs.

    Args:
        value, smooth: logarithms of the squared constant and of its smoothed form; infinite where nothing is proved.
        gradients: by the logarithms of the multipliers behind every layer.
        entering, leaving: by the logarithms of the weights at the ends.
        least: no multipliers have a smaller value with the weights at the ends, up to rounding.
    """

    value: float
    smooth: float
    gradients: list[Tensor]
    entering: Tensor | None
    leaving: Tensor | None
    least: float


NOTHING = Swept(inf, inf, [], None, None, -inf)


def _forms(
    stack: Stack, neurons: Sequence[Tensor], weights: Tensor | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]] | None:
    """Y in front of the last layer, and for every layer before the factor of S and what it makes of Z_U."""
    first = stack.matrices[0]
    ones = first.real.new_ones(first.shape[2])
    begin = ones if weights is None or stack.entering is None else (-weights[stack.entering]).exp()
    form, factors = torch.diag(begin).to(first.dtype).unsqueeze(0), []
    for k, matrix in enumerate(stack.matrices[:-1]):
        moved = matrix * begin if k == 0 else matrix @ form
        form = moved @ matrix.mH
        own, unstable = neurons[k].exp()[stack.shared[k]], stack.unstable[k]
        everything = len(unstable) == form.shape[1]
        reads = form if everything else form[:, unstable]
        inner = reads if everything else reads[:, :, unstable]
        factor, failed = torch.linalg.cholesky_ex(torch.diag(own).to(form.dtype) - inner)
        if bool(failed.any()):
            return None
        solved = torch.linalg.solve_triangular(factor, reads, upper=False)
        factors.append((factor, solved))
        middle, half = stack.middles[k], stack.halves[k]
        form = (form + solved.mH @ solved) * torch.outer(middle, middle)
        form.diagonal(dim1=1, dim2=2)[:, unstable] += half[unstable].square() * own
    return (
        (form, factors) if bool(torch.isfinite(torch.view_as_real(form) if form.is_complex() else form).all()) else None
    )


def swept(stack: Stack, neurons: Sequence[Tensor], weights: Tensor | None, smoothing: float) -> Swept:
    """Value and gradient of multipliers, all as logarithms.

    Args:
        weights: of the channels at the cut, which the stack enters or leaves; None where there is none.
    """
    found = _forms(stack, neurons, weights)
    if found is None:
        return NOTHING
    form, factors = found
    last = stack.matrices[-1]
    root = None if weights is None or stack.leaving is None else (0.5 * weights[stack.leaving]).exp()
    if root is not None:
        last = last * root.unsqueeze(1)
    sizes, vectors = eigenvectors(last @ form @ last.mH)
    if not bool(torch.isfinite(sizes).all()):
        return NOTHING
    largest = max(float(sizes.amax()), 1e-300)
    relative = (sizes.clamp(min=1e-6 * largest) / largest).log() / smoothing
    shares = torch.softmax(relative.flatten(), 0).reshape(sizes.shape)
    value, smooth = log(largest), log(largest) + smoothing * float(torch.logsumexp(relative.flatten(), 0))
    at, which = (shares > WORTH).nonzero(as_tuple=True)
    ends, shares = vectors[at, :, which], shares[at, which]
    leaving = None
    if root is not None and weights is not None:
        leaving = _added(shares.unsqueeze(1) * _squares(ends), stack.leaving, weights)
    shares = shares / sizes[at, which]
    adjoint = _pulled(last, at, ends)
    dual, slopes = adjoint, list[Tensor]()
    for k in reversed(range(len(stack.halves))):
        factor, solved = factors[k]
        own, unstable, half = neurons[k].exp()[stack.shared[k]], stack.unstable[k], stack.halves[k]
        adjoint, inner, direct = _through(factor, solved, at, adjoint, stack.middles[k], half, unstable)
        counted = own * (shares @ (_squares(direct) - _squares(inner)))
        slopes.append(_added(counted.unsqueeze(0), stack.shared[k], neurons[k]))
        adjoint = _pulled(stack.matrices[k], at, adjoint.index_add(1, unstable, inner))
        dual, inner, direct = _through(factor, solved, at, dual, stack.middles[k], half, unstable)
        wanted, given = (
            _added((shares @ _squares(part)).unsqueeze(0), stack.shared[k], neurons[k]) for part in (direct, inner)
        )
        level = (wanted / given.clamp(min=1e-300)).sqrt()[stack.shared[k]]
        dual = _pulled(stack.matrices[k], at, dual.index_add(1, unstable, inner * level))
    entering = None
    before = torch.ones(adjoint.shape[1], dtype=torch.float64)
    if weights is not None and stack.entering is not None:
        before = (-weights[stack.entering]).exp()
        entering = -_added((before * (shares @ _squares(adjoint))).unsqueeze(0), stack.entering, weights)
    reached = float((shares @ _squares(dual)) @ before) / float(shares.sum())
    return Swept(value, smooth, slopes[::-1], entering, leaving, log(reached) if reached > 0 else -inf)


def _squares(x: Tensor) -> Tensor:
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


def _added(values: Tensor, numbers: Tensor | None, like: Tensor) -> Tensor:
    """Sums over the entries that share a number, and over the first axis."""
    assert numbers is not None
    return torch.zeros_like(like).index_add(0, numbers, values.sum(0))


def _pulled(matrix: Tensor, at: Tensor, vectors: Tensor) -> Tensor:
    """Adjoint images of vectors, each of the matrix of its frequency."""
    if len(matrix) == 1:
        return vectors @ matrix[0].conj()
    return torch.einsum("nr,nrc->nc", vectors, matrix[at].conj())


def _through(
    factor: Tensor, solved: Tensor, at: Tensor, adjoint: Tensor, middle: Tensor, half: Tensor, unstable: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Adjoints times the middle slopes, the maximising h, and what bounds it."""
    passed = adjoint * middle
    if len(factor) == 1:
        inner = torch.linalg.solve_triangular(factor[0].mH, solved[0] @ passed.T, upper=True).T
    else:
        image = torch.einsum("nur,nr->nu", solved[at], passed)
        inner = torch.linalg.solve_triangular(factor[at].mH, image.unsqueeze(2), upper=True).squeeze(2)
    return passed, inner, adjoint[:, unstable] * half[unstable]


def closed_form(stack: Stack, weights: Tensor | None, margin: float) -> list[Tensor] | None:
    """Logarithms of multipliers, layer by layer: in proportion to the largest diagonal of Z over all frequencies, at
    the smallest level that dominates Z everywhere, times the margin. None where numbers leave their range."""
    neurons: list[Tensor] = []
    for k in range(len(stack.halves)):
        if not stack.multipliers[k]:
            neurons.append(torch.zeros(0, dtype=torch.float64))
            continue
        part = Stack(
            stack.matrices[: k + 2],
            stack.errors,
            stack.middles[: k + 1],
            stack.halves[: k + 1],
            stack.shared,
            stack.entering,
        )
        form = _inner(part, neurons, weights)
        if form is None:
            return None
        size = form.abs().sum(2).amax(0)
        shared = torch.zeros(stack.multipliers[k], dtype=torch.float64)
        shared = shared.scatter_reduce(0, stack.shared[k], size, "amax").clamp(min=1e-8 * float(size.max()) + 1e-90)
        own = shared[stack.shared[k]].rsqrt()
        scaled = form * own * own.unsqueeze(1)
        level = float(eigenvectors(scaled)[0].amax())
        if not 0 < level < inf:
            level = 1e-3
        neurons.append((margin * max(level, 1e-3) * shared).log())
    return neurons


def _inner(stack: Stack, neurons: Sequence[Tensor], weights: Tensor | None) -> Tensor | None:
    """Z on the unstable entries behind the last layer but one."""
    before = Stack(
        stack.matrices[:-1], stack.errors, stack.middles[:-1], stack.halves[:-1], stack.shared, stack.entering
    )
    found = _forms(before, neurons, weights)
    if found is None:
        return None
    matrix, unstable = before.matrices[-1], stack.unstable[len(stack.halves) - 1]
    return (matrix @ found[0] @ matrix.mH)[:, unstable][:, :, unstable]


@dataclass(frozen=True, eq=False)
class Joined:
    """All multipliers of a network's stacks, and the weights between them, as one vector."""

    network: Stacked

    def split(self, at: Tensor) -> tuple[list[list[Tensor]], Tensor | None]:
        """Multipliers by stack and layer, and the weights at the cut."""
        counts = [count for stack in self.network.stacks for count in stack.multipliers]
        *parts, weights = at.split([*counts, self.network.channels])
        found, start = [], 0
        for stack in self.network.stacks:
            found.append(parts[start : start + len(stack.multipliers)])
            start += len(stack.multipliers)
        return found, weights if self.network.channels else None

    def start(self, margin: float) -> Tensor | None:
        """Closed forms of all stacks; the weights at the cut are one."""
        weights = torch.zeros(self.network.channels, dtype=torch.float64)
        known = weights if self.network.channels else None
        parts: list[Tensor] = []
        for stack in self.network.stacks:
            found = closed_form(stack, known, margin)
            if found is None:
                return None
            parts += found
        return torch.cat((*parts, weights))

    def evaluate(self, at: Tensor, smoothing: float) -> Evaluation:
        """Value and gradient."""
        parts, weights = self.split(at)
        ends = [swept(stack, own, weights, smoothing) for stack, own in zip(self.network.stacks, parts, strict=True)]
        value = sum(end.value for end in ends)
        if not value < inf:
            return Evaluation(inf, inf, None)
        slopes = [one for end in ends for one in end.gradients]
        between = at.new_zeros(self.network.channels)
        for one in (part for end in ends for part in (end.entering, end.leaving) if part is not None):
            between = between + one
        least = ends[0].least if len(ends) == 1 else -inf  # with weights in between there may be better ones
        return Evaluation(value, sum(end.smooth for end in ends), torch.cat((*slopes, between)), least)

    def value(self, at: Tensor) -> float:
        """The logarithm of the squared constant."""
        return self.evaluate(at, SMOOTHING[-1]).value
