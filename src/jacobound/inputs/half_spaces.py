"""`HalfSpaces`: linear constraints beside the boxes of N sets, and what they take off the maximum of a linear form.

For a box ``|x - m| <= rho``, constraints ``G x <= h`` and any ``beta >= 0``, Lagrange's bound is

    max g x  <=  beta h + (g - beta G) m + |g - beta G| rho,                                                       (1)

so beta may be chosen in plain arithmetic, and (1) is evaluated once with its rounding. As a function of one beta_j it
is convex and piecewise linear: with ``c = g - sum_{i != j} beta_i G_i`` its slope changes by ``2 |G_jk| rho_k`` at
``t_k = c_k / G_jk``, and the minimum is a weighted median of the t_k. Coordinates are taken in the order of how much
their constraint is violated at the maximum over the box.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Exact steps along one multiplier for every form, and the share of a constraint's reach that counts as violated.
STEPS = 8
VIOLATED = 1e-9


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """``normals x <= limits`` for every point of N sets; exact floats.

    Args:
        normals: shape (N, M, n).
        limits: shape (N, M); infinite where there is no constraint.
    """

    normals: Tensor
    limits: Tensor

    def __getitem__(self, sets: slice | Tensor) -> HalfSpaces:
        return HalfSpaces(self.normals[sets], self.limits[sets])

    def multipliers(self, forms: Tensor, middle: Tensor, radius: Tensor) -> Tensor:
        """Good beta for forms over the boxes of their sets, in plain arithmetic.

        Args:
            forms: linear forms to be maximised, shape (N, R, n).
            middle, radius: of the boxes, shape (N, n).

        Returns:
            Shape (N, R, M), not negative and finite; 0 where there is no constraint.
        """
        normals, there = self.normals, self.limits.isfinite()
        reach = (normals.abs() @ radius.unsqueeze(2)).squeeze(2)
        usable = there & (reach > 0) & reach.isfinite()
        # How far the middle violates every constraint.
        depth = torch.where(usable, (normals @ middle.unsqueeze(2)).squeeze(2) - self.limits, 0.0)
        scale = torch.where(usable, reach, 1.0).unsqueeze(1)
        beta = forms.new_zeros(*forms.shape[:2], normals.shape[1])
        current = forms
        if not normals.shape[1]:
            return beta
        for _ in range(min(STEPS, 2 * normals.shape[1])):
            corner = current.sign() * radius.unsqueeze(1)
            violation = (corner @ normals.mT + depth.unsqueeze(1)) / scale
            wanted = torch.where(beta > 0, violation.abs(), violation).masked_fill(~usable.unsqueeze(1), 0.0)
            most, which = wanted.max(2, keepdim=True)
            if not bool((most > VIOLATED).any()):
                break
            normal = normals.take_along_dim(which.expand(-1, -1, normals.shape[2]), 1)
            shift = depth.unsqueeze(1).expand(-1, len(forms[0]), -1).take_along_dim(which, 2)
            old = beta.take_along_dim(which, 2)
            alone = current + old * normal
            best = torch.where(most > VIOLATED, _median(alone, normal, radius.unsqueeze(1), shift), old)
            beta = beta.scatter(2, which, best)
            current = alone - best * normal
        return beta.nan_to_num(nan=0.0, posinf=0.0).clamp(min=0.0)


def _median(forms: Tensor, normal: Tensor, radius: Tensor, depth: Tensor) -> Tensor:
    """The best multiplier of one constraint for every form, shape (N, R, 1).

    The slope of (1) just right of the k-th break point in order is ``2 (w_1 + ... + w_k) - sum w - depth``.
    """
    weight = normal.abs() * radius
    breaks = torch.where(weight > 0, forms / normal, 0.0)
    ordered, order = breaks.sort(2)
    gathered = weight.gather(2, order).cumsum(2)
    wanted = (gathered[..., -1:] + depth) / 2
    place = (gathered < wanted * (1 - 1e-12)).sum(2, keepdim=True).clamp(max=forms.shape[2] - 1)
    return torch.where(wanted > 0, ordered.gather(2, place).clamp(min=0.0), 0.0)
