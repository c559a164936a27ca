"""Estimates of spectral norms, by Lanczos and by power iteration: never upper bounds.

Every value is ``||A v|| / ||v||`` or a Ritz value for some v, so up to rounding it lies at or below the norm. They
choose what is then proved elsewhere, and show how tight a certified bound is.

Sources: Golub and Van Loan, "Matrix Computations" (2013), chapter 10; Scaman and Virmaux, "Lipschitz regularity of deep
neural networks" (NeurIPS 2018), algorithm 1, for power iteration by automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import eigenvectors
from jacobound.operators.base import LinearOperator

STEPS = 200
CLOSE = 1e-7  # residual over value at which an eigenvalue counts as found: its error is about the square


def lanczos(squared: Callable[[Tensor], Tensor], size: int, steps: int = STEPS) -> float:
    """Estimate of the largest eigenvalue of a positive semidefinite map, from below up to rounding.

    Full reorthogonalisation; stops when the residual says that the value has settled.

    Args:
        squared: the map on vectors of shape (size,), float64 on the CPU.
        size: length of the vectors.
        steps: most applications.
    """
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = vector / vector.norm()
    steps = min(steps, size)
    basis = torch.empty(steps, size, dtype=torch.float64)
    diagonal, beside, value = [], [], 0.0
    for step in range(steps):
        basis[step] = vector
        image = squared(vector)
        diagonal.append(float(image @ vector))
        known = basis[: step + 1]
        for _ in range(2):
            image = image - known.T @ (known @ image)
        length = float(image.norm())
        if step % 5 == 4 or step == steps - 1 or length <= 1e-14 * max(abs(diagonal[0]), value):
            band = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            if beside:
                band += torch.diag(torch.tensor(beside, dtype=torch.float64), -1)
            values, vectors = eigenvectors(band)
            value = float(values[-1])
            residual = length * abs(float(vectors[-1, -1]))
            if not residual > CLOSE * value:
                break
        beside.append(length)
        vector = image / length
    return max(value, 0.0)


def estimate_spectral_norm(operator: LinearOperator, steps: int = STEPS) -> float:
    """Estimate of the norm from l_2 to l_2, from below: Lanczos on the smaller side, in float64. Not an upper bound."""
    exact = operator.to(torch.device("cpu"), torch.float64)
    operator = exact if exact.in_size <= exact.out_size else exact.transpose()
    if operator.in_size == 0 or operator.out_size == 0:
        return 0.0
    adjoint = operator.transpose()
    shape = operator.in_shape
    return lanczos(lambda x: adjoint.apply(operator.apply(x.reshape(shape))).flatten(), operator.in_size, steps) ** 0.5


def estimate_norm_by_power_iteration(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], steps: int = 100, seed: int = 0
) -> float:
    """Estimate of the l_2 norm of an affine function that torch can differentiate. Not an upper bound.

    The gradient of ``||f(v) - f(0)||^2 / 2`` is ``A^T A v``; no matrix is formed. The value lies below the norm, and
    converges slowly when singular values are close (prefer `estimate_spectral_norm`).

    Args:
        function: an affine map of one tensor, in float64.
        shape: of its argument.
        steps: number of gradients.
        seed: of the random start.
    """
    start = torch.zeros(shape, dtype=torch.float64)
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        offset = function(start)
    for _ in range(steps):
        vector = (vector / vector.norm()).requires_grad_()
        with torch.enable_grad():
            energy = 0.5 * (function(vector) - offset).square().sum()
            (vector,) = torch.autograd.grad(energy, vector)
        if not bool(vector.any()):
            return 0.0
    with torch.no_grad():
        return float((function(vector / vector.norm()) - offset).norm())
