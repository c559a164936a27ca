"""The rigorous half of certificates by frequencies: multipliers in, certified constant out.

A complex matrix A + i B acts on real and imaginary parts as the real matrix ``[[A, -B], [B, A]]``; a Hermitian form as
the symmetric one, and weights stand at both parts. So every frequency is proved by the steps of `layered/proof.py` in
real arithmetic: forms with a priori errors of the symbols, verified Cholesky factorisations, a verified largest
eigenvalue. All frequencies of the torus are proved; the constant is the largest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import eigenvalues, is_positive_definite
from jacobound.arithmetic.rounding import down, inflate, tiny, up
from jacobound.certificates.dense.proof import LARGEST, SMALLEST
from jacobound.certificates.frequencies.search import Joined
from jacobound.certificates.frequencies.stacks import Stack, Stacked
from jacobound.certificates.layered.proof import EXCESS, powers_of_two, through_layer, through_neurons

Tell = Callable[[], None]


def stacked_constant(network: Stacked, multipliers: Tensor, tell: Tell = lambda: None) -> float:
    """The constant that multipliers prove, rounded up; inf when they prove nothing.

    Args:
        multipliers: of all layers of all stacks and of the channels at the cut, positive, in the order of `Joined`.
        tell: called before every frequency.
    """
    wanted = sum(count for stack in network.stacks for count in stack.multipliers) + network.channels
    if len(multipliers) != wanted or not bool(((multipliers >= SMALLEST) & (multipliers <= LARGEST)).all()):
        return inf
    parts, weights = Joined(network).split(multipliers)
    total = torch.ones((), dtype=torch.float64)
    for stack, own in zip(network.stacks, parts, strict=True):
        largest = torch.zeros((), dtype=torch.float64)
        for k in range(len(stack.matrices[0])):
            tell()
            largest = torch.maximum(largest, _at_frequency(stack, k, own, weights))
            if not bool(largest < inf):
                return inf
        total = inflate(total * largest, 1)
    return float(inflate(total.sqrt(), 4))


def _at_frequency(stack: Stack, k: int, neurons: Sequence[Tensor], weights: Tensor | None) -> Tensor:
    """The squared constant of a stack at one frequency, rounded up."""
    copies = 2 if stack.matrices[0].is_complex() else 1

    def spread(x: Tensor) -> Tensor:
        return x.repeat(copies)

    width = stack.matrices[0].shape[2]
    begin = torch.ones(width, dtype=torch.float64)
    if weights is not None and stack.entering is not None:
        begin = up(1 / weights[stack.entering])
    form: Tensor | None = torch.diag(spread(begin))
    for number, (matrices, error) in enumerate(zip(stack.matrices, stack.errors, strict=True)):
        form = through_layer(form, _embedded(matrices[k]), error)
        if number < len(stack.halves):
            unstable, rows = stack.unstable[number], matrices.shape[1]
            places = torch.cat([unstable + part * rows for part in range(copies)])
            own = spread(neurons[number][stack.shared[number]])
            form = through_neurons(form, spread(stack.middles[number]), spread(stack.halves[number]), places, own)
        if form is None:
            return torch.tensor(inf, dtype=torch.float64)
    leaving = torch.ones(len(form), dtype=torch.float64)
    if weights is not None and stack.leaving is not None:
        leaving = spread(weights[stack.leaving])
    return _largest(form, leaving)


def _embedded(matrix: Tensor) -> Tensor:
    """A complex matrix on real and imaginary parts; a real one as it is."""
    if not matrix.is_complex():
        return matrix
    real, imaginary = matrix.real, matrix.imag
    return torch.cat((torch.cat((real, -imaginary), 1), torch.cat((imaginary, real), 1)), 0).contiguous()


def _largest(form: Tensor, weights: Tensor) -> Tensor:
    """The smallest c that was proved to have ``form <= c diag(1 / weights)``; inf when there is none."""
    nothing = torch.tensor(inf, dtype=torch.float64)
    if not bool(torch.isfinite(form).all()):
        return nothing
    diagonal, root = form.diagonal(), weights.sqrt()
    if len(form) == 1:
        return inflate(diagonal[0].clamp(min=0) * weights[0], 1)
    estimate = eigenvalues(form * root * root.unsqueeze(1))[-1].clamp(min=1e-250)
    scale = powers_of_two((estimate / weights).rsqrt())
    below = -(form.tril(-1) * scale * scale.unsqueeze(1))
    for excess in EXCESS:
        bound = estimate * (1 + excess) / weights
        lowered = down(down(bound - diagonal) * scale * scale)
        if is_positive_definite(below + torch.diag(lowered), 8 * len(form) * tiny(form.dtype)):
            return inflate((bound * weights).amax(), 1)
    return nothing
