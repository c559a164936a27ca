"""Spectral norms by Gram iteration: certified and differentiable, for training and for accelerators.

Source: Delattre, Barthelemy, Araujo and Allauzen, "Efficient bound of Lipschitz constant for convolutional layers by
Gram iteration" (ICML 2023). Scales are powers of two here, so they round nothing, and what products round is added.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import gamma, inflate, underflow, up
from jacobound.errors import ShapeError


def gram_iteration(matrix: Tensor, steps: int = 6) -> Tensor:
    """Certified upper bound of the largest singular value; gradients pass.

    With ``G_0 = A`` and ``G_{t+1} = G_t^T G_t / f_t`` the norm of G_t is at most the root of f_t times that of G_{t+1}
    plus ``gamma ||G_t||_F^2``, by which the computed product is off; the last norm is at most Frobenius. The result
    exceeds the norm by a factor of rank^(1 / 2^(steps + 1)) at most: 1.06 for rank 1000 and 6 steps, in practice less.
    In float32 about 1 % is lost to rounding on 1000 x 1000; use float64.

    Args:
        matrix: shape (*batch, m, n); NaN or infinite entries give +inf.
        steps: number of products.

    Returns:
        Shape (*batch,), in the dtype and on the device of the matrix.

    Raises:
        ShapeError: for fewer than two axes.
    """
    if matrix.dim() < 2:
        raise ShapeError(f"a spectral norm needs two axes (outputs, inputs), not shape {tuple(matrix.shape)}")
    if 0 in matrix.shape[-2:]:
        return matrix.sum((-2, -1))
    current = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    scales, losses, last = [], [], None
    for step in range(steps + 1):
        size = vector_norm_upper(current.flatten(-2), 2)
        scale = _power_of_two_above(size)
        current = current / scale[..., None, None]
        last = vector_norm_upper(current.flatten(-2), 2)
        scales.append(scale)
        if step < steps:
            terms = current.shape[-2]
            # Also what vanished in the scaling, and in the products.
            lost = inflate(gamma(terms + 2, current) * last * last, 4)
            losses.append(up(lost + 8 * current.shape[-1] * underflow(terms, current)))
            current = current.mT @ current
    assert last is not None
    bound = last
    for scale, lost in zip(reversed(scales[1:]), reversed(losses), strict=True):
        bound = inflate(up(up(bound * scale) + lost).sqrt(), 2)
    return up(bound * scales[0])


def _power_of_two_above(size: Tensor) -> Tensor:
    """A power of two above each number, without gradient; 1 for zero and for what is not finite."""
    mantissa, _ = torch.frexp(size.detach())
    usable = torch.isfinite(size) & (size > 0)
    return torch.where(usable, size.detach() / torch.where(usable, mantissa, 1.0), 1.0)
