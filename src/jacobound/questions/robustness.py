"""`robust_radius`: how far an input may move before a classifier's decision can change; certified, and attacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import torch
from torch import Tensor

from jacobound.asking import provenance, strictly
from jacobound.graph import Graph
from jacobound.linalg import vector_norm_upper
from jacobound.methods.base import Budget, JacobianMethod, OutputMethod
from jacobound.methods.crown import CROWN
from jacobound.methods.ibp import IBP
from jacobound.methods.lipschitz_method import LipschitzMethod
from jacobound.methods.recurjac import RecurJac
from jacobound.questions.attack import PGD
from jacobound.questions.certificates import refined
from jacobound.questions.common import (
    around_points,
    check_steps,
    check_tolerance,
    largest_verified,
    runs,
)
from jacobound.questions.evaluators import Around, FromConstants, FromJacobian, Margins
from jacobound.questions.global_constants import Known, by_global_constants
from jacobound.questions.marching import March, march
from jacobound.questions.margins import Decisions, Labels, decisions
from jacobound.regions import Balls, Points
from jacobound.results import Provenance, Result, Status

Method = OutputMethod | JacobianMethod | LipschitzMethod

RANGES, THEOREM, LEMMA, JOINED = "output bounds", "Theorem 2", "Lemma 1", "Theorem 2 from output bounds"
CERTIFICATES, GLOBAL = "certificates of increments", "global constants"


@dataclass(frozen=True, eq=False)
class RobustRadius(Result):
    """Radii within which the decision of a classifier can not change, and adversarial points outside of them.

    Args:
        radius: certified when `status.certified`: for every y with ``||y - x||_p <= radius`` (and inside `clip`) the
            output of the label is larger than that of the target. 0 where nothing is certified. float64, shape
            (*batch, K) for K targets.
        attack_radius: distance of `witness`, rounded up: there the target's output is larger, which is certified as
            well. inf where no such point was found. Same shape.
        margin: certified lower bound of label minus target at x itself, same shape.
        label: shape (*batch).
        targets: shape (*batch, K).
        details: certified radii by argument, each of the shape of `radius`, which is their maximum.
        status: certified or why not.
        p: norm of the distances.
        clip: the valid range, or None.
        witness: adversarial points, shape (*batch, K, *input shape), NaN where none was found; None without an attack.
        seconds: wall-clock time.
        provenance: how it was found.
    """

    radius: Tensor
    attack_radius: Tensor
    margin: Tensor
    label: Tensor
    targets: Tensor
    details: Mapping[str, Tensor]
    status: Status
    p: float
    clip: tuple[object, object] | None
    witness: Tensor | None
    seconds: float
    provenance: Provenance

    @property
    def untargeted(self) -> Tensor:
        """The smallest certified radius over the targets, shape (*batch)."""
        return self.radius.amin(-1)

    @property
    def untargeted_attack(self) -> Tensor:
        """Distance of the nearest adversarial point found for any target, shape (*batch)."""
        return self.attack_radius.amin(-1)

    @property
    def method(self) -> list[str]:
        """The argument behind each radius, in row-major order."""
        names = list(self.details)
        best = torch.stack([self.details[name] for name in names]).argmax(0)
        return [names[k] for k in best.flatten().tolist()]

    def certified_accuracy(self, radii: float | Sequence[float] | Tensor) -> Tensor:
        """Share of the points whose label is certified over the whole ball of each radius; the shape of `radii`.

        With labels of a data set this is certified accuracy; with the network's own the share of stable decisions.
        """
        wanted = torch.as_tensor(radii, dtype=torch.float64)
        held = (self.margin > 0).all(-1).flatten() & (self.untargeted.flatten() >= wanted.unsqueeze(-1))
        return held.to(torch.float64).mean(-1)

    def attacked_accuracy(self, radii: float | Sequence[float] | Tensor) -> Tensor:
        """Share of the points that no attack moved within each radius: robust accuracy is at most this."""
        wanted = torch.as_tensor(radii, dtype=torch.float64)
        right = (self.margin > 0).all(-1).flatten()
        return (right & (self.untargeted_attack.flatten() > wanted.unsqueeze(-1))).to(torch.float64).mean(-1)

    def table(self) -> list[dict[str, object]]:
        """One plain row per point and target; `pandas.DataFrame(result.table())` makes a frame of it."""
        count, rows = self.targets.shape[-1], []
        for k, method in enumerate(self.method):
            row: dict[str, object] = {"point": k // count, "label": int(self.label.flatten()[k // count])}
            row |= {"target": int(self.targets.flatten()[k]), "margin": float(self.margin.flatten()[k])}
            row |= {"radius": float(self.radius.flatten()[k]), "attack_radius": float(self.attack_radius.flatten()[k])}
            rows.append(row | {"method": method})
        return rows


def robust_radius(
    graph: Graph,
    x: Points,
    label: Labels | None = None,
    p: float = inf,
    targets: Labels | None = None,
    *,
    method: Method | None = None,
    budget: Budget | None = None,
    clip: tuple[Points | float, Points | float] | None = None,
    steps: int = 8,
    tolerance: float = 1e-3,
    largest: float = 1e6,
    seconds: float = 60.0,
    attack: PGD | None = PGD(),  # noqa: B008 - a frozen value
) -> RobustRadius:
    """Certified radii around points within which a classifier's decision can not change.

    Args:
        graph: the network; one output per class, the largest decides.
        x: one point, or a batch of points (*batch, *input shape); taken as exact numbers.
        label: class of each point, or one for all; None for what the network says.
        p: norm of the distance, 1, 2 or inf.
        targets: classes that must not be reached: (k,) for all points or (*batch, k); None for all others.
        method: an output method such as `CROWN()` (largest ball over which the margins are positive), a Jacobian
            method such as `RecurJac()`, or a Lipschitz method such as `LipSDP()` (Lemma 1 and the integral of Theorem
            2 of RecurJac with its constants); None for the maximum of CROWN, RecurJac, both together,
            products of norms over the whole space, and semidefinite certificates of increments.
        budget: time, memory and progress, for all points together.
        clip: (low, high): only points of this box count. x must lie in it.
        steps: about how many constants the integral takes; more are tighter and dearer.
        tolerance: relative accuracy of the largest ball of an output method.
        largest: no larger radius is tried.
        seconds: time for semidefinite certificates, for each point; only without a `method`. 0 leaves them out.
        attack: how adversarial points are looked for; None leaves that out.

    Raises:
        ShapeError, InvalidRegionError: when points, labels or targets do not fit, or a point is not inside `clip`.
        InvalidOptionError: for options that make no sense.
    """
    check_tolerance(tolerance, largest)
    check_steps(steps)
    with strictly(graph, budget) as (budget, clock):
        balls, lead = around_points(graph, x, p, clip)
        asked = decisions(graph, balls.points, lead, label, targets)
        search = _Search(graph, balls, asked, method, steps, tolerance, largest, seconds, budget)
        return search.answer(attack, lead, clip, clock)


@dataclass(frozen=True, eq=False)
class _Search:
    """One call; what it is about and how radii are found."""

    graph: Graph
    balls: Balls
    asked: Decisions
    method: Method | None
    steps: int
    tolerance: float
    largest: float
    seconds: float
    budget: Budget
    constants: Known = field(default_factory=dict)

    def answer(
        self,
        attack: PGD | None,
        lead: tuple[int, ...],
        clip: tuple[object, object] | None,
        clock: Callable[[], float],
    ) -> RobustRadius:
        """Certified radii and attacks, arranged like the points."""
        margin, details, statuses = self.run()
        radius = torch.stack(list(details.values())).amax(0)
        witness, distance = _attacked(self.graph, self.balls, self.asked, radius, margin, attack, self.budget)
        shape = (*lead, self.asked.targets.shape[1])
        method, seed = self.method or "best of all", None if attack is None else attack.seed
        return RobustRadius(
            radius=radius.reshape(shape),
            attack_radius=distance.reshape(shape),
            margin=margin.reshape(shape),
            label=self.asked.labels.reshape(lead),
            targets=self.asked.targets.reshape(shape),
            details={name: value.reshape(shape) for name, value in details.items()},
            status=Status.of(_worst(statuses, self.budget), radius),
            p=float(self.balls.p),
            clip=clip,
            witness=None if witness is None else witness.reshape(*shape, *self.graph.in_shape),
            seconds=clock(),
            provenance=provenance(self.graph, method, clock(), seed),
        )

    def run(self) -> tuple[Tensor, dict[str, Tensor], list[Status]]:
        """Margins (N, K), radii by argument (N, K), and what was not plainly certified."""
        shape = self.asked.targets.shape
        margin = self.balls.points.new_zeros(shape)
        details: dict[str, Tensor] = {}
        statuses: list[Status] = []
        quiet = replace(self.budget, progress=None)
        done = 0
        most = max(part.stop - part.start for part in runs(len(margin), self.graph, 1 << 20, quiet))
        for group in self.asked.groups(most):
            self.budget.tell(done, len(margin), "points")
            place = group.to(margin.device)
            around = Around(self.graph, self.balls, place, self.asked.rows(int(group[0])), quiet, statuses)
            start, found = self._radii(around)
            margin[place] = start
            for name, value in found.items():
                details.setdefault(name, margin.new_zeros(shape))[place] = value
            done += len(group)
        self.budget.tell(done, len(margin), "points")
        return margin, details, statuses

    def _radii(self, around: Around) -> tuple[Tensor, dict[str, Tensor]]:
        """Margins at the points and radii by argument, (n, K)."""
        count, rows = len(around.points), torch.arange(len(around.rows))
        which, zero = torch.arange(count), self.balls.points.new_zeros(count)
        if isinstance(self.method, OutputMethod):
            margins = Margins(around, self.method)
            start = margins(which, zero, rows)
            return start, {RANGES: self._by_ranges(margins, start, None)}
        method = RecurJac() if self.method is None else self.method
        joined = self.method is None
        if isinstance(method, JacobianMethod):
            evaluate = FromJacobian(around, method, joined)
        else:
            evaluate = FromConstants(around, method)
        start = evaluate(which, zero, zero, rows)
        state = march(evaluate, start, joined, self.steps, self.largest, self._over)
        found = {LEMMA: state.lemma, THEOREM: state.theorem}
        if joined:
            found |= {JOINED: state.combined, RANGES: self._by_ranges(Margins(around, CROWN()), start.margin, state)}
            found[GLOBAL] = by_global_constants(around, start.margin, self.largest, self.constants)
            reached = torch.stack(list(found.values())).amax(0)
            found[CERTIFICATES] = refined(around, start.margin, reached, self.seconds, self.largest)
        return start.margin, found

    def _over(self) -> bool:
        return self.budget.is_over

    def _by_ranges(self, margins: Margins, start: Tensor, state: March | None) -> Tensor:
        """The largest balls over which margins are certified to be positive, (n, K)."""
        right = start > 0
        points = right.any(1).nonzero().squeeze(1)
        found = torch.zeros_like(start)
        if not len(points):
            return found

        def check(which: Tensor, radii: Tensor, rows: Tensor) -> Tensor:
            # A margin that is not positive at the point itself is no question: it counts as refused.
            asked = right[points[which].unsqueeze(1), rows]
            return torch.where(asked, margins(points[which], radii, rows), -1.0)

        known = None if state is None else (state.ranges[points], state.refused[points])
        first = self._first(state, points)
        found[points] = largest_verified(check, right.shape[1], first, self.largest, self.tolerance, self._over, known)
        return found

    def _first(self, state: March | None, points: Tensor) -> Tensor:
        """A radius to begin with: what the march reached, or a hundredth of the size of the inputs."""
        size = self.balls.points.flatten(1).abs().amax(1).mean().clamp(min=1.0).expand(len(points)) / 100
        if state is None:
            return size.clone()
        reached = torch.maximum(state.theorem, state.combined)[points].amax(1)
        return torch.where(reached > 0, reached, size)


def _attacked(
    graph: Graph, balls: Balls, asked: Decisions, radius: Tensor, margin: Tensor, attack: PGD | None, budget: Budget
) -> tuple[Tensor | None, Tensor]:
    """Adversarial points (N, K, *shape) and their distances rounded up (N, K), inf where none was verified."""
    distance = torch.full_like(radius, inf)
    if attack is None:
        return None, distance
    found = []
    for k in range(len(radius)):
        budget.tell(k, len(radius), "attacks")
        rows = asked.rows(k)
        count = len(rows)
        own = Balls(balls.points[k : k + 1].expand(count, *graph.in_shape), balls.p, balls.dtype, balls.valid)
        points = attack.nearest(graph, own, rows, radius[k], replace(budget, progress=None))
        wrong = margin[k] <= 0  # the point itself may be adversarial already
        points = torch.where(wrong.reshape(-1, *[1] * len(graph.in_shape)), own.points.to(points), points)
        lost = _verified(graph, points, rows)
        away = vector_norm_upper((points.to(torch.float64) - own.points).flatten(1), balls.p)
        distance[k] = torch.where(lost, away, inf)
        found.append(torch.where(lost.reshape(-1, *[1] * len(graph.in_shape)), points, torch.nan))
    return torch.stack(found), distance


def _verified(graph: Graph, points: Tensor, rows: Tensor) -> Tensor:
    """Whether each margin is certified to be negative at its point; NaN points are not."""
    usable = ~points.flatten(1).isnan().any(1)
    places = torch.where(usable.reshape(-1, *[1] * (points.dim() - 1)), points, 0.0).to(torch.float64)
    target = graph.with_rows(rows).expanded()
    balls = Balls(places, inf, graph.dtype, None)
    domain = balls.domain(torch.arange(len(places)), places.new_zeros(len(places)))
    upper = IBP().ranges(target, domain, Budget())[target.output].upper
    return usable & (upper.diagonal() < 0)


def _worst(statuses: list[Status], budget: Budget) -> Status:
    if budget.is_over:
        return Status.TIME_LIMIT
    return next((status for status in statuses if not status.certified), statuses[-1] if statuses else Status.CERTIFIED)
