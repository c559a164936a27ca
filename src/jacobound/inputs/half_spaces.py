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
VIOLATED = 1e-2


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

    def multipliers(self, forms: Tensor, sets: Tensor, middle: Tensor, radius: Tensor) -> Tensor:
        """Good beta for forms over the boxes of their sets, in plain arithmetic, and single precision.

        Args:
            forms: linear forms to be maximised, shape (R, n).
            sets: the set of each form, shape (R,).
            middle, radius: of the boxes, shape (N, n).

        Returns:
            Shape (R, M), not negative and finite; 0 where there is no constraint.
        """
        normals, radius = self.normals.to(torch.float32), radius.to(torch.float32)
        reach = (normals.abs() @ radius.unsqueeze(2)).squeeze(2)
        usable = self.limits.isfinite() & (reach > 0) & reach.isfinite()
        # How far the middle violates every constraint.
        depth = torch.where(usable, (self.normals @ middle.unsqueeze(2)).squeeze(2) - self.limits, 0.0).to(reach)
        scale = torch.where(usable, reach, 1.0)
        beta = normals.new_zeros(len(forms), normals.shape[1])
        rows, current = torch.arange(len(forms), device=forms.device), forms.to(torch.float32)
        for _ in range(min(STEPS, 2 * normals.shape[1])):
            mine, own = sets[rows], beta[rows]
            corner = current.sign() * radius[mine]
            there = torch.cat([corner[mine == k] @ normals[k].T for k in mine.unique_consecutive().tolist()])
            violation = (there + depth[mine]) / scale[mine]
            wanted = torch.where(own > 0, violation.abs(), violation).masked_fill(~usable[mine], 0.0)
            most, which = wanted.max(1)
            going = (most > VIOLATED).nonzero().squeeze(1)
            if not len(going):
                break
            rows, which, mine = rows[going], which[going], mine[going]
            normal = normals[mine, which]
            alone = current[going] + beta[rows, which].unsqueeze(1) * normal
            best = _median(alone, normal, radius[mine], depth[mine, which])
            beta[rows, which] = best
            current = alone - best.unsqueeze(1) * normal
        return beta.to(forms).nan_to_num(nan=0.0, posinf=0.0).clamp(min=0.0)


def _median(forms: Tensor, normal: Tensor, radius: Tensor, depth: Tensor) -> Tensor:
    """The best multiplier of one constraint for every form (R, n), shape (R,).

    The slope of (1) just right of the k-th break point in order is ``2 (w_1 + ... + w_k) - sum w - depth``.
    """
    weight = normal.abs() * radius
    breaks = torch.where(weight > 0, forms / normal, 0.0)
    ordered, order = breaks.sort(1)
    gathered = weight.gather(1, order).cumsum(1)
    wanted = (gathered[:, -1:] + depth.unsqueeze(1)) / 2
    place = (gathered < wanted).sum(1, keepdim=True).clamp(max=forms.shape[1] - 1)
    return torch.where(wanted > 0, ordered.gather(1, place).clamp(min=0.0), 0.0).squeeze(1)
