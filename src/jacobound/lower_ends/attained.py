"""Lower ends of Lipschitz constants, certified: by the Jacobian at a point, or by the outputs at two points.

Around a point every neuron has its slopes in a known range, that of the derivative on a little more than the
enclosure of its argument. For any two points close to it there is a product J of the chain rule with slopes from
there (those of chords) and ``f(x) - f(y) = J (x - y)``, so the constant is at least the smallest ``||J u||`` of unit
directions u. One scalar is bounded, ``v J u`` with ``||v|| = 1`` in the dual norm: v is pushed back in floating point
to find u. What every step misses, one rounding or the width of a slope, counts with the tangent of u at that node, so
the error is one rounding of the network and not its product over the layers (ours).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.arithmetic.linalg import dual_exponent, vector_norm_upper
from jacobound.arithmetic.rounding import down, inflate, up
from jacobound.graph.derivative import Derivative, increments
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.lower_ends.inner_sets import InnerSets
from jacobound.method import Budget, Facts, OutputMethod
from jacobound.operators.base import positions

# Distances between the points of a pair, as shares of the set's width (or of the point's size).
DISTANCES = (1.0, 0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


@dataclass(frozen=True, eq=False)
class Proved:
    """Certified lower bounds at k points.

    Args:
        value: shape (k,), float64; 0 where nothing could be proved.
        kinked: where the slope of some activation is not known to a percent, bool (k,).
        point: where, shape (k, *input shape).
        partner: the second points, shape (k, *input shape); NaN where the Jacobian at the point is the proof.
    """

    value: Tensor
    kinked: Tensor
    point: Tensor
    partner: Tensor


def dual_vector(x: Tensor, p: float) -> Tensor:
    """For rows (k, n) vectors u with ``x . u = ||x||_q ||u||_p`` (1/p + 1/q = 1) of a size near 1, up to rounding."""
    if p == torch.inf:
        return x.sign()
    largest, place = x.abs().max(1, keepdim=True)
    if p == 2:
        return x / torch.where(largest > 0, largest, 1.0)
    return torch.zeros_like(x).scatter(1, place, x.gather(1, place).sign())


def by_jacobian(
    graph: Graph,
    inner: InnerSets,
    points: Tensor,
    duals: Tensor,
    norm: tuple[float, float],
    method: OutputMethod,
    budget: Budget,
) -> Proved:
    """From the enclosure of ``v J`` at points.

    Args:
        graph: in float64, as `Graph.expanded` gives it.
        inner: the set of each point.
        points: certainly in their sets, shape (k, *input shape).
        duals: the vectors v, shape (k, outputs), not 0.
        method: finds the enclosures of the arguments.
    """
    p, q = norm
    ranges = method.ranges(graph, inner.around(points), budget, with_output=False)
    gates = _gates(graph, ranges)
    slopes = gates.slopes
    gradient, missed = _adjoints(gates.graph, slopes, duals.reshape(-1, *graph.out_shape))
    flat = gradient.flatten(1)
    direction = dual_vector(flat, p)
    product = interval_dot(direction, Interval.exact(flat))
    tangents = _tangents(gates.graph, slopes, direction.reshape(points.shape))
    doubt = torch.zeros_like(product.lower)
    for node, tangent in tangents.items():
        if node in missed:
            terms = (missed[node] * tangent).flatten(1)
            doubt = up(doubt + inflate(terms.sum(1), terms.shape[1] + 1))
    lengths = up(vector_norm_upper(direction, p, dim=1) * vector_norm_upper(duals, dual_exponent(q), dim=1))
    least = down(abs(product).lower - doubt).clamp(min=0.0)
    kinked = torch.zeros_like(doubt, dtype=torch.bool)
    for slope in (slopes[gate] for gate in gates.activations):
        kinked |= ~(slope.upper - slope.lower <= 0.01 * slope.magnitude()).flatten(1).all(1)
    return Proved(_ratio(least, lengths), kinked, points, torch.full_like(points, torch.nan))


def _ratio(least: Tensor, length: Tensor) -> Tensor:
    """least / length, rounded down; 0 where either is no positive finite number."""
    valid = (least > 0) & (length > 0) & least.isfinite() & length.isfinite()
    return torch.where(valid, down(least / torch.where(valid, length, 1.0)), 0.0).clamp(min=0.0)


def _gates(graph: Graph, ranges: Facts) -> Derivative:
    """The increments between points near those of the sets: chords beyond a kink at the very end count too."""

    def wider(x: Interval) -> Interval:
        inf = torch.full_like(x.lower, torch.inf)
        return Interval(x.lower.nextafter(-inf), x.upper.nextafter(inf))

    around = {node: wider(x) for node, x in ranges.items()}
    return increments(graph, around, around)


def _adjoints(graph: Graph, slopes: Facts, behind: Tensor) -> tuple[Tensor, dict[Node, Tensor]]:
    """The derivative of ``behind . f`` by the input in floating point, and what each step may have missed.

    Args:
        behind: exact, shape (k, *output shape).

    Returns:
        Shape (k, *input shape), and for every node (k, *node shape): how far the computed derivative by that node may
        be from the one that follows from the computed derivatives by its readers.
    """
    images: dict[Node, Interval] = {graph.output: Interval.exact(behind)}
    found: dict[Node, Tensor] = {}
    missed: dict[Node, Tensor] = {}
    for node in reversed(graph.nodes):
        found[node], missed[node] = images.pop(node).midpoint_and_radius()
        here = Interval.exact(found[node])
        if isinstance(node, Affine):
            terms = [(source, operator.transpose().enclose(here)) for operator, source in node.terms]
        elif isinstance(node, Elementwise):
            terms = [(node.source, here * slopes[node])]
        else:
            terms = []
        for source, image in terms:
            images[source] = images[source] + image if source in images else image
    return found[graph.input], missed


def _tangents(graph: Graph, slopes: Facts, direction: Tensor) -> dict[Node, Tensor]:
    """Upper bounds of the absolute derivatives of all nodes along directions (k, *input shape), all slopes allowed."""
    found: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            found[node] = Interval.exact(direction)
        elif isinstance(node, Affine):
            images = [operator.enclose(found[source]) for operator, source in node.terms]
            found[node] = sum(images[1:], images[0])
        elif isinstance(node, Elementwise):
            found[node] = found[node.source] * slopes[node]
    return {node: tangent.magnitude() for node, tangent in found.items()}


def by_pairs(
    graph: Graph,
    inner: InnerSets,
    points: Tensor,
    directions: Tensor,
    norm: tuple[float, float],
    method: OutputMethod,
    budget: Budget,
) -> Proved:
    """From the outputs at two points in a direction near given ones: the definition of the constant itself.

    Far pairs lose to curvature, near ones to rounding; the best of several distances is taken.

    Args:
        graph: in float64; may hold functions of whole vectors.
        inner, points: as in `by_jacobian`.
        directions: shape (k, inputs).
    """
    first, second = _pairs(inner, points, directions.reshape(points.shape))
    count = first.shape[1]
    both = torch.cat((first, second), 1)
    owners = positions(len(points), points).repeat_interleave(2 * count)
    around = inner[owners].around(both.flatten(0, 1))
    values = method.ranges(graph, around, budget)[graph.output].map(lambda end: end.reshape(*both.shape[:2], -1))
    here, there = values[:, :count], values[:, count:]
    apart = torch.maximum(down(there.lower - here.upper), down(here.lower - there.upper)).clamp(min=0.0)
    distance = up(vector_norm_upper(up((second - first).abs()).flatten(2), norm[0], dim=2))
    valid = (first != second).flatten(2).any(2) & inner.holds(first) & inner.holds(second)
    value, place = torch.where(valid, _ratio(_norm_lower(apart, norm[1]), distance), 0.0).max(1)
    each = positions(len(points), points)
    return Proved(value, torch.zeros_like(value, dtype=torch.bool), first[each, place], second[each, place])


def _norm_lower(x: Tensor, q: float) -> Tensor:
    """Lower bound of the l_q norm of the last axis of lower bounds that are not negative."""
    if q == torch.inf:
        return x.amax(-1)
    largest = x.amax(-1, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1.0)
    total = scaled.sum(-1) if q == 1 else scaled.square().sum(-1).sqrt()
    # Every rounding of these non-negative sums is relative: 1 / inflate(1) of them at least.
    share = 1 / inflate(torch.ones_like(total), 2 * x.shape[-1] + 8)
    return down(down(total * down(share)) * largest.squeeze(-1)).clamp(min=0.0)


def _pairs(inner: InnerSets, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of points close to the given ones, (k, distances, *input shape) twice.

    Both lie as far from a point that is moved towards the anchor, where there is room on all sides.
    """
    wide = (1,) * (points.dim() - 1)
    lower, upper = inner.box.lower, inner.box.upper
    directions = torch.where(inner.tight, 0.0, directions)
    size = directions.flatten(1).abs().amax(1).reshape(-1, *wide)
    directions = directions / torch.where(size > 0, size, 1.0)
    whole = points.flatten(1).abs().amax(1).clamp(min=1.0)
    half = ((upper - lower) / 2).flatten(1).amax(1)
    whole = torch.where(half.isfinite(), half, whole).reshape(-1, *wide)
    first, second = [], []
    for share in DISTANCES:
        base = points + share * (inner.anchor - points)
        room = torch.minimum(base - lower, upper - base) / directions.abs()
        reach = torch.where(directions == 0, torch.inf, room).flatten(1).amin(1).clamp(min=0.0).reshape(-1, *wide)
        move = torch.minimum(reach, share * whole) * directions
        first.append(base - move)
        second.append(base + move)
    ends = [torch.stack(tried, 1) for tried in (first, second)]
    low, high = (torch.minimum(torch.maximum(x, lower.unsqueeze(1)), upper.unsqueeze(1)) for x in ends)
    return low, high
