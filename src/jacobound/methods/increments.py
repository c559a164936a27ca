"""Outputs from their value at one point and a Lipschitz constant: ``|f_j(y) - f_j(x)| <= L |y - x|_p``.

Linear bounds of the outputs may be far wider than that, behind products and normalisations above all, where they are
intervals. The point is a float of the domain (`Domain.anchor`), so nothing is lost there; the radius is the largest
distance to any point of the domain, rounded up.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import dual_exponent, vector_norm_upper
from jacobound.arithmetic.rounding import up
from jacobound.budget import Budget
from jacobound.errors import JacoboundError
from jacobound.graph.graph import Graph
from jacobound.inputs.domains import Domain
from jacobound.method import Query, flat_indices, sets_worth
from jacobound.methods.best import SECONDS, Best
from jacobound.relaxation.ranges import CROWN

# Widths are compared with the slope at the middle; so much wider is no reason to ask for a constant.
CLOSE = 1 + 1e-6
# Points besides the middle at which slopes are looked at.
TRIED = 15


def narrowed_by_constant(
    graph: Graph, domain: Domain, known: Interval, budget: Budget, seconds: float = SECONDS
) -> Interval:
    """The ranges of the outputs intersected with value plus or minus radius times constant, (N, *output shape).

    Args:
        known: certified ranges of the outputs over the sets.
        budget: time and memory.
        seconds: what all constants together may take, where the budget leaves more.
    """
    if budget.is_over:
        return known
    radius, p = largest_distance(domain)
    wide = domain.bounded & torch.isfinite(radius) & (domain.box.lower < domain.box.upper).flatten(1).any(1)
    wide &= (known.lower < known.upper).flatten(1).any(1)
    wide[wide.clone()] &= _wider_than_the_slope(graph, domain[flat_indices(wide)], known, radius, p, wide)
    if not bool(wide.any()):
        return known
    lower, upper = known.lower.clone(), known.upper.clone()
    # Methods that take several sets together share what they know of the network: so all of them that fit the memory.
    which, most = flat_indices(wide), budget.memory // (2 * Best().bytes_per_set(graph))
    for own in which.split(max(1, min(most, sets_worth(graph)))):
        share = budget.within(min(seconds, budget.remaining) * len(own) / len(which))
        try:
            around = _around_the_anchor(graph, domain[own], radius[own], p, share)
        except JacoboundError:
            continue  # no constant is known there; the ranges are
        narrow = known[own].intersect(around)
        lower[own], upper[own] = narrow.lower, narrow.upper
    return Interval(lower, upper)


def _around_the_anchor(graph: Graph, domain: Domain, radius: Tensor, p: float, budget: Budget) -> Interval:
    """The outputs by their values at the anchors, radii and constants, (n, *output shape)."""
    constant = Best().constants(Query(graph, domain, budget, (p, inf))).upper
    lowered = graph.lowered()
    value = CROWN().ranges(lowered, Domain(Interval(domain.anchor, domain.anchor)), budget)[lowered.output]
    reach = up(constant.to(radius) * radius).reshape(-1, *[1] * (value.lower.dim() - 1)).to(value.lower)
    return Interval.outward(value.lower - reach, value.upper + reach)


def largest_distance(domain: Domain) -> tuple[Tensor, float]:
    """An upper bound of the distance from the anchor to any point of each set, shape (N,), and its norm."""
    anchor = domain.anchor
    away = torch.maximum(up(domain.box.upper - anchor), up(anchor - domain.box.lower)).flatten(1)
    if domain.centre is None or domain.plain_radius is None:
        return vector_norm_upper(away, inf), inf
    moved = vector_norm_upper(up((anchor - domain.centre).abs()).flatten(1), domain.p)
    return torch.minimum(vector_norm_upper(away, domain.p), up(domain.plain_radius + moved)), domain.p


def _wider_than_the_slope(
    graph: Graph, domain: Domain, known: Interval, radius: Tensor, p: float, which: Tensor
) -> Tensor:
    """Whether some output varies more than the steepest slope in the set allows: only then a constant can say more.

    No constant of all outputs is below the slopes at the anchor and at a few points. A hint: it decides whether more
    work is done.
    """
    count = len(domain)
    if not count:
        return which[which]
    width = (known.upper - known.lower)[which].flatten(1)
    shares = torch.rand((count, TRIED, *graph.in_shape), generator=torch.Generator().manual_seed(0)).to(domain.anchor)
    box = domain.box.lower.unsqueeze(1), domain.box.upper.unsqueeze(1)
    tried = domain.project(box[0] + shares * (box[1] - box[0])).clamp(*box)
    points = torch.cat((domain.anchor.unsqueeze(1), tried), 1).flatten(0, 1).detach().requires_grad_()
    with torch.enable_grad():
        outputs = graph(points).reshape(len(points), -1)
        steepest = radius.new_zeros(len(points))
        for j in range(outputs.shape[1]):
            slope = torch.autograd.grad(outputs[:, j].sum(), points, retain_graph=True, materialize_grads=True)[0]
            steepest = torch.maximum(steepest, torch.linalg.vector_norm(slope.flatten(1), ord=dual_exponent(p), dim=1))
    steepest = steepest.nan_to_num(nan=0.0, posinf=0.0).reshape(count, -1).amax(1)
    return ~(width.amax(1) <= CLOSE * 2 * radius[which] * steepest)
