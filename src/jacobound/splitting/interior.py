"""The deepest point of a polytope within a box, and what shows that there is none. Plain floating point, no rigour.

    maximise t   over   G x + t a <= h,   |x - m| <= rho,        a_j = |G_j| rho (constraints in units of their reach).

t > 0 means that x satisfies all constraints with room to spare. Else the multipliers beta of the constraints are those
of Lagrange's bound (`half_spaces`), by which the emptiness can be proved. Newton's method on the conditions of
optimality with products ``beta (h - G x - t a) = mu`` (a primal-dual interior point method; Wright 1997, chapter 10);
the steps are solved on the constraints, of which there are few.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.budget import checkpoint
from jacobound.inputs.domains import Domain

STEPS = 60
TANGENTS, ROOM = 40, 1e-9  # planes that stand for a ball at most; how far outside of it a point may count as inside
REACHED, NEAR = 1e-9, 0.95  # relative gap at which it ends; share of the way to the boundary


@dataclass(frozen=True, eq=False)
class Deepest:
    """What a search ended with.

    Args:
        point: shape (n,), within the box.
        depth: t there.
        multipliers: beta, not negative, shape (M,).
    """

    point: Tensor
    depth: float
    multipliers: Tensor


def deepest(normals: Tensor, limits: Tensor, middle: Tensor, radius: Tensor) -> Deepest:
    """The deepest point of ``normals x <= limits`` within ``|x - middle| <= radius``.

    Args:
        normals: shape (M, n) with finite entries; rows without reach over the box are left out of the problem.
        limits: finite, shape (M,).
    """
    reach = normals.abs() @ radius
    rows = ((reach > 0) & limits.isfinite()).nonzero().squeeze(1)
    multipliers = torch.zeros_like(limits)
    if not len(rows):
        return Deepest(middle, torch.inf, multipliers)
    scaled = normals[rows] * radius / reach[rows].unsqueeze(1)
    room = (limits[rows] - normals[rows] @ middle) / reach[rows]
    offset, depth, duals = _solved(scaled, room)
    multipliers[rows] = duals / reach[rows]
    return Deepest(middle + radius * offset, depth, multipliers)


def deepest_of(domain: Domain, normals: Tensor, limits: Tensor) -> Deepest:
    """The deepest point of ``normals x <= limits`` within one set, a box or a ball.

    A ball is cut out of its box by tangents where the points of the problem before lie outside: at a point ``z`` of
    the sphere with the unit normal ``u`` (l_2), or by the signs of the coordinates (l_1). The multipliers of the
    half-spaces are those of the last problem, and prove what they prove over the ball itself.

    Args:
        domain: one bounded set.
        normals, limits: as for `deepest`.
    """
    middle, radius = (one[0] for one in domain.box.map(lambda end: end.flatten(1)).midpoint_and_radius())
    there = deepest(normals, limits, middle, radius)
    if domain.centre is None or domain.radius is None:
        return there
    centre, reach, count = domain.centre[0].flatten(), float(domain.radius[0]), len(limits)
    unit = torch.ones_like(centre) if domain.scale is None else domain.scale.flatten()
    inverse = torch.where(unit > 0, 1 / unit, 0.0)
    for _ in range(TANGENTS):
        offset = (there.point - centre) * inverse
        length = float(torch.linalg.vector_norm(offset, domain.p))
        if length <= reach * (1 + ROOM) or not there.depth > 0:
            break
        normal = (offset.sign() if domain.p == 1 else offset / length) * inverse
        normals = torch.cat((normals, normal.unsqueeze(0)))
        limits = torch.cat((limits, (normal @ centre + reach).reshape(1)))
        there = deepest(normals, limits, middle, radius)
    return Deepest(there.point, there.depth, there.multipliers[:count])


def _solved(matrix: Tensor, room: Tensor) -> tuple[Tensor, float, Tensor]:
    """For ``matrix y + t <= room`` and ``|y| <= 1``: y, t, and the multipliers of the rows."""
    count, inputs = matrix.shape
    y, depth = matrix.new_zeros(inputs), float(room.min()) - 1.0
    duals, above, below = matrix.new_full((count,), 1 / count), matrix.new_ones(inputs), matrix.new_ones(inputs)
    above, below = above / inputs, below / inputs
    for _ in range(STEPS):
        checkpoint()
        slack, high, low = room - matrix @ y - depth, 1 - y, 1 + y
        gap = float(duals @ slack + above @ high + below @ low)
        missed = matrix.T @ duals + above - below
        if max(gap, float(missed.abs().max())) < REACHED or not slack.min() > 0:
            break
        aim = 0.1 * gap / (count + 2 * inputs)
        weight = above / high + below / low
        spread = matrix / weight
        wanted = -missed - matrix.T @ (aim / slack - duals) - (aim / high - above) + (aim / low - below)
        factor, failed = torch.linalg.cholesky_ex(torch.diag(slack / duals) + spread @ matrix.T)
        if bool(failed):
            break
        from_point = torch.cholesky_solve((spread @ wanted).unsqueeze(1), factor).squeeze(1)
        from_depth = torch.cholesky_solve(torch.ones_like(room).unsqueeze(1), factor).squeeze(1)
        needed = 1 - duals.sum() - (aim / slack - duals).sum()
        step = (needed - from_point.sum()) / from_depth.sum()
        change = from_point + step * from_depth
        moved = (wanted - matrix.T @ change) / weight
        for_rows = aim / slack - duals + change
        for_above = aim / high - above + above / high * moved
        for_below = aim / low - below - below / low * moved
        fallen = matrix @ moved + step
        primal = _longest((slack, -fallen), (high, -moved), (low, moved))
        dual = _longest((duals, for_rows), (above, for_above), (below, for_below))
        y, depth = y + primal * moved, depth + primal * float(step)
        duals, above, below = duals + dual * for_rows, above + dual * for_above, below + dual * for_below
    return y.clamp(-1.0, 1.0), float((room - matrix @ y).min()), duals


def _longest(*pairs: tuple[Tensor, Tensor]) -> float:
    """The longest step at most 1 that keeps all numbers positive."""
    most = 1.0
    for value, change in pairs:
        shrinking = change < 0
        if bool(shrinking.any()):
            most = min(most, NEAR * float((-value / change)[shrinking].min()))
    return most
