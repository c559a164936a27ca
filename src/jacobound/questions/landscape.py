"""`stationary_free_radius`: how far around a point a gradient is certain not to vanish.

A gradient does not vanish over a ball when one of its entries has a strict sign there (RecurJac, AAAI 2019, section on
the local landscape), or when the derivative along one fixed direction has (ours): along the gradient at the centre, and
along the middle of the enclosure. For networks with kinks this excludes 0 from Clarke's gradient, because the
enclosure holds all limits of gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.asking import in_time, provenance, question, strictly
from jacobound.checks import whole
from jacobound.given import Limit, Rows, budget_given, graph_given, jacobian_method_given, no_scale_given, row_matrix
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.exponents import told_norm
from jacobound.inputs.regions import Ball, Balls, Clip, Points
from jacobound.jacobian.fastlip import FastLip
from jacobound.method import Budget, JacobianEnclosure, JacobianMethod, Query
from jacobound.methods.entries import usual_entries
from jacobound.questions.common import (
    NOTHING,
    around_points,
    check_tolerance,
    largest_verified,
    points_given,
    runs,
)
from jacobound.reports.page.bounds import landscape_sections
from jacobound.reports.page.sections import Names, Section
from jacobound.results.facts import row_names
from jacobound.results.kinds import Provenance, Result, Status, figures
from jacobound.stored import stored
from jacobound.words import rounded_down

TRIES = 32  # random points per shell in the search for small gradients
SHELLS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # in radii that were certified


@stored
@dataclass(frozen=True, eq=False, repr=False)
class StationaryFreeRadius(Result):
    """Radii within which the gradient of every row is certain not to vanish.

    Args:
        radius: certified when `status.certified`: the gradient of the row is not zero at any y with
            ``||y - x||_p <= radius`` (and inside `clip`). 0 where nothing is certified, `largest` of the call where no
            end was found. float64, shape (*batch, rows).
        vanishing_radius: distance, rounded up, within which the gradient is certain to vanish: a point was found where
            every entry is certified to be 0 up to underflow (below `NOTHING`), or, for networks of one input, points
            where its sign differs. inf where neither was found, which says nothing. Same shape.
        smallest_gradient: an estimate, no bound: the smallest l2 norm of the gradient among the points that the search
            tried, as a share of its norm at x. Same shape.
        smallest_distance: distance of that point from x.
        status: certified or why not.
        p: norm of the distances.
        seconds: wall-clock time.
        provenance: how it was found.
    """

    radius: Tensor
    vanishing_radius: Tensor
    smallest_gradient: Tensor
    smallest_distance: Tensor
    status: Status
    p: float
    seconds: float
    provenance: Provenance
    told_as: ClassVar[str] = "Radius without stationary points"

    def headline(self) -> str:
        found, name = self.radius, told_norm(self.p)
        if found.numel() == 1:
            return f"no zero gradient within {name} {rounded_down(float(found))}"
        return (
            f"no zero gradients within {name} radii of {rounded_down(float(found.min()))} or more, {found.numel()} rows"
        )

    def claim(self) -> str:
        return (
            f"At no point within the certified radius ({told_norm(self.p)}) the gradient of the row is zero; where a "
            "radius of a zero gradient is told, the gradient is proved to vanish within it."
        )

    def sections(self, names: Names) -> Sequence[Section]:
        return landscape_sections(self, self.table(), row_names(self.question, self.radius.shape[-1], names))

    def plot(self, ax: Any = None) -> Any:
        """Certified radius of every row at the first point, and where a gradient vanishes; returns the axes."""
        return figures().plot_landscape(self, ax)

    def table(self) -> list[dict[str, object]]:
        """One plain row per point and row; `pandas.DataFrame(result.table())` makes a frame of it."""
        rows = self.radius.shape[-1]
        columns = {name: getattr(self, name).flatten() for name in ("radius", "vanishing_radius", "smallest_gradient")}
        table: list[dict[str, object]] = []
        for k in range(self.radius.numel()):
            place: dict[str, object] = {"point": k // rows, "row": k % rows}
            table.append(place | {name: float(column[k]) for name, column in columns.items()})
        return table


def stationary_free_radius(
    graph: Graph,
    x: Points | Ball,
    rows: Rows | None = None,
    p: float | None = None,
    *,
    method: JacobianMethod | None = None,
    budget: Limit | None = None,
    clip: Clip | None = None,
    tolerance: float = 1e-3,
    largest: float | None = None,
    seed: int = 0,
    scale: None = None,
) -> StationaryFreeRadius:
    """Certified radii around points within which gradients do not vanish, and how small they were seen to become.

    Args:
        graph: the network.
        x: one point, or a batch of points (*batch, *input shape), taken as exact numbers; or a `Ball` around them.
        rows: outputs or combinations of them (one class, a margin), as for `bound_output`; None for all outputs.
        p, clip, largest: norm of the distance (None for 2); (low, high), only points of this box count; no larger
            radius is tried. A ball holds all three.
        method: `RecurJac()`, `FastLip()`, `LinearSlopes()`; None takes the first, with the last on smooth networks.
        budget: time, memory and progress, for all points together.
        tolerance: relative accuracy of the search for the radius.
        seed: of the search for small gradients.
        scale: refused: radii in units of each input are asked of `graph.with_preprocessing`, which holds the units.

    Raises:
        ShapeError, InvalidRegionError: when points or rows do not fit the network.
        InvalidOptionError: for options that make no sense.
    """
    no_scale_given(scale, "stationary_free_radius")
    points, most = points_given("stationary_free_radius", x, p, clip, largest, (2.0, 10.0))
    graph, budget = graph_given(graph), budget_given(budget)
    named, matrix = jacobian_method_given(method), row_matrix(rows, graph)
    tolerance, most = check_tolerance(tolerance, most)
    seed = whole(seed, "seed", -(1 << 62))
    options = {"tolerance": tolerance, "largest": most, "seed": seed}
    asked = question("stationary_free_radius", graph, points, matrix, budget, **options)
    target = graph.with_rows(matrix).expanded()
    method = named or usual_entries(target)
    with strictly(graph, budget) as (budget, clock):
        balls, lead = around_points(graph, points)
        search = _Question(target, balls, method, budget)
        start = balls.points.new_full((len(balls.points),), 0.01 * min(1.0, most))
        radius = largest_verified(search.scores, size(target.output), start, most, tolerance, lambda: budget.is_over)
        found = _smallest(target, balls, radius, most, seed)
        vanishing = _vanishing(target, balls, *found.candidates)
        shape = (*lead, size(target.output))
        return StationaryFreeRadius(
            radius.reshape(shape),
            vanishing.reshape(shape),
            found.share.reshape(shape),
            found.distance.reshape(shape),
            Status.of(in_time(Status.CERTIFIED, budget), radius),
            points.p,
            clock(),
            provenance(graph, method, clock(), seed, asked=asked),
        )


@dataclass(frozen=True, eq=False)
class _Question:
    """Whether gradients can vanish, for some points at once."""

    graph: Graph
    balls: Balls
    method: JacobianMethod
    budget: Budget

    def scores(self, which: Tensor, radii: Tensor, asked: Tensor) -> Tensor:
        """Positive where the gradient is certain not to vanish over the ball: float64, shape (n, rows asked)."""
        quiet, found = replace(self.budget, progress=None), []
        self.budget.tell(len(self.balls.points) - len(which), len(self.balls.points), "radii")
        graph = self.graph if len(asked) == size(self.graph.output) else _some_rows(self.graph, asked)
        for part in runs(len(which), graph, self.method.bytes_per_set(graph), self.budget):
            domain = self.balls.domain(which[part], radii[part])
            enclosure = self.method.enclose(Query(graph, domain, quiet))
            centre = gradients(graph, self.balls.points[which[part]]).to(graph.dtype)
            found.append(certainty(enclosure, centre))
        return torch.cat(found).to(torch.float64)


def certainty(enclosure: JacobianEnclosure, centre: Tensor) -> Tensor:
    """How far from vanishing the gradient of each row is, as a share of its size at the centre; shape (N, rows).

    Positive only where it is certain: a strict sign of an entry, or of the derivative along a direction.

    Args:
        centre: gradients at the centres, shape (N, rows, inputs); any floats, they only choose directions.
    """
    low, high = enclosure.entries.lower, enclosure.entries.upper
    largest = centre.abs().amax(2).clamp(min=1e-30)
    found = torch.maximum(low, -high).amax(2) / largest
    middle = ((low + high) / 2).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    sizes = centre.square().sum(2).clamp(min=1e-30)
    for direction in (centre, middle):
        along = enclosure.along(direction)
        found = torch.maximum(found, along.lower / sizes)
    return found.nan_to_num(nan=-1.0)


def gradients(graph: Graph, points: Tensor) -> Tensor:
    """Gradients of all rows at points (n, *input shape), in plain floating point; (n, rows, inputs)."""
    x = points.to(graph.dtype).detach().requires_grad_()
    with torch.enable_grad():
        outputs = graph(x).flatten(1)
        parts = [
            torch.autograd.grad(outputs[:, j].sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for j in range(outputs.shape[1])
        ]
    return torch.stack([part.flatten(1) for part in parts], 1)


def _some_rows(graph: Graph, rows: Tensor) -> Graph:
    """The graph with some of its outputs alone."""
    return graph.with_rows(torch.eye(size(graph.output), dtype=torch.float64)[rows.cpu()]).expanded()


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the search for small gradients met.

    Args:
        share, distance: of the smallest gradient, shape (N, rows).
        candidates: points (N, tries, *input shape) and gradients there (N, tries, rows, inputs).
    """

    share: Tensor
    distance: Tensor
    candidates: tuple[Tensor, Tensor]


def _smallest(graph: Graph, balls: Balls, radius: Tensor, largest: float, seed: int) -> _Seen:
    """Gradients at the points and at random places on shells around them."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.where(radius > 0, radius, 0.01 * min(1.0, largest)).amin(1)
    places = [balls.points.unsqueeze(1)]
    for share in SHELLS:
        reach = (share * base).clamp(max=largest)
        domain = balls.domain(torch.arange(len(base)), reach)
        places.append(domain.sample(TRIES, generator).to(torch.float64))
    points = torch.cat(places, 1)
    found = gradients(graph, points.flatten(0, 1)).reshape(*points.shape[:2], size(graph.output), -1)
    sizes = found.norm(dim=3).to(torch.float64)
    least, where = sizes.min(1)
    away = torch.linalg.vector_norm((points - balls.points.unsqueeze(1)).flatten(2), ord=balls.p, dim=2)
    return _Seen((least / sizes[:, 0]).nan_to_num(nan=0.0), away.gather(1, where), (points, found))


def _vanishing(graph: Graph, balls: Balls, points: Tensor, found: Tensor) -> Tensor:
    """Distances, rounded up, within which gradients certainly vanish; (N, rows), inf where that was not shown."""
    count, _, rows, inputs = found.shape
    away = vector_norm_upper((points - balls.points.unsqueeze(1)).flatten(2), balls.p)
    nearest = torch.full((count, rows), inf, dtype=torch.float64, device=found.device)
    zero = (found == 0).all(3)
    wanted = zero.any(2) | (inputs == 1)
    sets, places = wanted.nonzero(as_tuple=True)
    if not len(sets):
        return nearest
    there = Balls(points[sets, places], inf, graph.dtype, None)
    domain = there.domain(torch.arange(len(sets)), there.points.new_zeros(len(sets)))
    exact = FastLip().enclose(Query(graph, domain, Budget())).entries
    none = (exact.magnitude() <= NOTHING).all(2)
    distance = away[sets, places]
    for k in range(count):
        own = sets == k
        gone = torch.where(none[own], distance[own].unsqueeze(1), inf)
        nearest[k] = gone.amin(0) if len(gone) else inf
        if inputs == 1:  # where the sign differs the gradient passes 0, or 0 lies in Clarke's gradient
            rises, falls = exact.lower[own, :, 0] > 0, exact.upper[own, :, 0] < 0
            far = distance[own].unsqueeze(1)
            both = torch.maximum(torch.where(rises, far, inf).amin(0), torch.where(falls, far, inf).amin(0))
            nearest[k] = torch.minimum(nearest[k], both)
    return nearest
