"""`robust_radius`: how far an input may move before a classifier's decision can change; certified, and attacked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.asking import in_time, provenance, question, strictly
from jacobound.budget import Budget, OutOfTimeError, alarmed
from jacobound.checks import instance, real
from jacobound.given import Limit, budget_given, graph_given, no_scale_given, radius_method_given
from jacobound.graph.graph import Graph
from jacobound.inputs.regions import Ball, Balls, Clip, Points
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.method import Method, OutputMethod
from jacobound.questions.attack import PGD, linear_radii
from jacobound.questions.certificates import refined
from jacobound.questions.common import (
    around_points,
    check_steps,
    check_tolerance,
    largest_verified,
    points_given,
    runs,
)
from jacobound.questions.evaluators import Around, Margins, evaluator
from jacobound.questions.global_constants import Known, by_global_constants
from jacobound.questions.heads import before_head
from jacobound.questions.marching import march
from jacobound.questions.margins import Decisions, Labels, decisions
from jacobound.questions.robust_result import RobustRadius
from jacobound.relaxation.ranges import CROWN, IBP
from jacobound.results.kinds import Status

RANGES, THEOREM, LEMMA, JOINED = "output bounds", "Theorem 2", "Lemma 1", "Theorem 2 from output bounds"
CERTIFICATES, GLOBAL = "certificates of increments", "global constants"

# Parts of the time that is left which the rounds of a search may take, one after the other.
OF_RANGES, OF_ATTACKS, OF_MARCH, OF_CONSTANTS = 0.4, 0.4, 0.5, 0.2
ROUGH = 0.1  # tolerance of radii that are only to begin with
FIRST = 0.25  # of the radius where a linear margin would be lost: the first ball of linear bounds


def robust_radius(
    graph: Graph,
    x: Points | Ball,
    label: Labels | None = None,
    p: float | None = None,
    targets: Labels | None = None,
    *,
    method: OutputMethod | Method | None = None,
    budget: Limit | None = None,
    clip: Clip | None = None,
    steps: int = 8,
    tolerance: float = 1e-3,
    largest: float | None = None,
    seconds: float = 60.0,
    attack: PGD | None = PGD(),  # noqa: B008 - a frozen value
    scale: None = None,
) -> RobustRadius:
    """Certified radii around points within which a classifier's decision can not change.

    Args:
        graph: the network; one output per class, the largest decides. Last functions that keep the order of the
            classes (softmax, sigmoid, one positive factor) are left out: margins are those before, as the answer says.
        x: one point, or a batch of points (*batch, *input shape), taken as exact numbers; or a `Ball` around them.
        label: class of each point, or one for all; None for what the network says.
        p, clip, largest: norm of the distance (None for inf); (low, high), only points of this box count; no larger
            radius is tried. A ball holds all three.
        targets: classes that must not be reached: (k,) for all points or (*batch, k); None for all others.
        method: an output method such as `CROWN()` (largest ball over which the margins are positive), a Jacobian
            method such as `RecurJac()`, or a Lipschitz method such as `LipSDP()` (Lemma 1 and the integral of Theorem
            2 of RecurJac with its constants); None for the maximum of CROWN, RecurJac, both together,
            products of norms over the whole space, and semidefinite certificates of increments.
        budget: time, memory and progress, for all points together.
        steps: about how many constants the integral takes; more are tighter and dearer.
        tolerance: relative accuracy of the largest ball of an output method.
        seconds: time for semidefinite certificates, for each point; only without a `method`. 0 leaves them out.
        attack: how adversarial points are looked for; None leaves that out.
        scale: refused: radii in units of each input are asked of `graph.with_preprocessing`, which holds the units.

    Raises:
        ShapeError, InvalidRegionError: when points, labels or targets do not fit, or a point is not inside `clip`.
        InvalidOptionError: for options that make no sense.
    """
    no_scale_given(scale, "robust_radius")
    points, most = points_given("robust_radius", x, p, clip, largest, (inf, 1e6))
    graph, method, budget = graph_given(graph), radius_method_given(method), budget_given(budget)
    tolerance, most = check_tolerance(tolerance, most)
    steps, seconds = check_steps(steps), real(seconds, "seconds", 0.0)
    attack = None if attack is None else instance(attack, PGD, "the attack", "it takes PGD() or None")
    limits = budget
    deciding, behind = before_head(graph)
    with strictly(graph, budget) as (budget, clock):
        balls, lead = around_points(graph, points)
        asked = decisions(deciding, balls.points, lead, label, targets)
        search = _Search(deciding, balls, asked, method, steps, tolerance, most, seconds, budget)
        found = search.answer(attack, lead, points.clip, clock)
    named = replace(found.provenance, network=graph.fingerprint) if behind else found.provenance
    found = replace(found, decided_before=behind, provenance=named)
    options = {"label": found.label, "targets": found.targets, "steps": steps, "tolerance": tolerance}
    options |= {"largest": most, "seconds": seconds, "attack": attack}
    return found.asking(question("robust_radius", graph, points, None, limits, **options))


@dataclass(eq=False)
class _Group:
    """Points that share their margins, and what is known of them so far.

    Args:
        around: the points and margins.
        margin: certified margins at the points (n, K).
        radii: certified radii by argument, each (n, K).
    """

    around: Around
    margin: Tensor
    radii: dict[str, Tensor] = field(default_factory=dict)

    @property
    def reached(self) -> Tensor:
        """The largest certified radii, (n, K)."""
        return torch.stack([torch.zeros_like(self.margin), *self.radii.values()]).amax(0)


@dataclass(frozen=True, eq=False)
class _Search:
    """One call; what it is about and how radii are found.

    In rounds over all points: what is cheap for every point first (the largest balls of linear bounds, then attacks),
    so that no point waits for another one's refinements; then one argument after the other, with equal shares of time.
    """

    graph: Graph
    balls: Balls
    asked: Decisions
    method: OutputMethod | Method | None
    steps: int
    tolerance: float
    largest: float
    seconds: float
    budget: Budget
    constants: Known = field(default_factory=dict)
    statuses: list[Status] = field(default_factory=list)

    def answer(
        self,
        attack: PGD | None,
        lead: tuple[int, ...],
        clip: tuple[object, object] | None,
        clock: Callable[[], float],
    ) -> RobustRadius:
        """Certified radii and attacks, arranged like the points."""
        groups = self._groups()
        self._round(groups, "linear bounds", OF_RANGES, self._begin)
        margin, radius = self._arranged(groups, lambda group: group.margin), self._arranged(groups, _reached)
        witness, distance = _attacked(self.graph, self.balls, self.asked, radius, margin, attack, self.budget)
        if not isinstance(self.method, OutputMethod):
            self._round(groups, "integrals", OF_MARCH, self._march)
        if self.method is None:
            self._round(groups, "global constants", OF_CONSTANTS, self._by_global_constants)
            self._round(groups, "certificates", 1.0, self._certify)
        names = dict.fromkeys(name for group in groups for name in group.radii)
        details = {name: self._arranged(groups, lambda group, name=name: group.radii.get(name)) for name in names}
        radius = self._arranged(groups, _reached)
        shape = (*lead, self.asked.targets.shape[1])
        method, seed = self.method or "best of all", None if attack is None else attack.seed
        return RobustRadius(
            radius=radius.reshape(shape),
            attack_radius=distance.reshape(shape),
            margin=margin.reshape(shape),
            label=self.asked.labels.reshape(lead),
            targets=self.asked.targets.reshape(shape),
            details={name: value.reshape(shape) for name, value in details.items()},
            status=Status.of(in_time(_worst(self.statuses), self.budget), radius),
            p=float(self.balls.p),
            clip=clip,
            witness=None if witness is None else witness.reshape(*shape, *self.graph.in_shape),
            seconds=clock(),
            provenance=provenance(self.graph, method, clock(), seed),
        )

    def _groups(self) -> list[_Group]:
        """All points, in groups that share their margins."""
        quiet = replace(self.budget, progress=None)
        most = max(part.stop - part.start for part in runs(len(self.balls.points), self.graph, 1 << 20, quiet))
        found = []
        for group in self.asked.groups(most):
            place, rows = group.to(self.balls.points.device), self.asked.rows(int(group[0]))
            around = Around(self.graph, self.balls, place, rows, quiet, self.statuses)
            found.append(_Group(around, self.balls.points.new_full((len(place), len(rows)), -inf)))
        return found

    def _arranged(self, groups: list[_Group], of: Callable[[_Group], Tensor | None]) -> Tensor:
        """What is known of every group, (N, K); 0 where a group knows nothing."""
        found = self.balls.points.new_zeros(self.asked.targets.shape)
        for group in groups:
            value = of(group)
            if value is not None:
                found[group.around.points] = value
        return found

    def _round(self, groups: list[_Group], what: str, part: float, work: Callable[[_Group, Around], None]) -> None:
        """Do something for every group within a part of the time that is left; what was given up leaves them as is."""
        end = self.budget.within(part * self.budget.remaining)
        for done, group in enumerate(groups):
            self.budget.tell(done, len(groups), what)
            share = end.within(end.remaining / (len(groups) - done))
            try:
                with alarmed(share, self.budget):
                    work(group, replace(group.around, budget=replace(share, progress=None)))
            except OutOfTimeError:
                self.statuses.append(Status.TIME_LIMIT)
        self.budget.tell(len(groups), len(groups), what)

    def _begin(self, group: _Group, around: Around) -> None:
        """Margins at the points, and the largest balls over which linear bounds keep them positive."""
        which, rows = torch.arange(len(around.points)), torch.arange(len(around.rows))
        zero, budget = group.margin.new_zeros(len(which)), around.budget
        known = None
        if self.method is None:
            # Intervals cost next to nothing: so no point waits at 0 for linear bounds of a large network.
            margins = Margins(around, IBP())
            group.margin = margins(which, zero, rows)
            known = group.radii[RANGES] = self._by_ranges(margins, group.margin, budget, ROUGH)
        margins = Margins(around, self.method if isinstance(self.method, OutputMethod) else CROWN())
        group.margin = torch.maximum(group.margin, margins(which, zero, rows))
        if self.method is None or isinstance(self.method, OutputMethod):
            group.radii[RANGES] = self._by_ranges(margins, group.margin, budget, self.tolerance, known)

    def _march(self, group: _Group, around: Around) -> None:
        """Lemma 1 and Theorem 2; joined with linear bounds where the user left the method open."""
        joined = self.method is None
        method = self.method or RecurJac()
        assert isinstance(method, Method)
        evaluate = evaluator(around, method, joined)
        which, rows = torch.arange(len(around.points)), torch.arange(len(around.rows))
        zero = group.margin.new_zeros(len(which))
        start = evaluate(which, zero, zero, rows)
        group.margin = torch.maximum(group.margin, start.margin)
        state = march(evaluate, start, joined, self.steps, self.largest, lambda: around.budget.is_over)
        group.radii |= {LEMMA: state.lemma, THEOREM: state.theorem}
        if joined:
            held = group.radii.get(RANGES, torch.zeros_like(state.ranges))
            group.radii |= {JOINED: state.combined, RANGES: torch.maximum(held, state.ranges)}

    def _by_global_constants(self, group: _Group, around: Around) -> None:
        group.radii[GLOBAL] = by_global_constants(around, group.margin, self.largest, self.constants)

    def _certify(self, group: _Group, around: Around) -> None:
        group.radii[CERTIFICATES] = refined(around, group.margin, group.reached, self.seconds, self.largest)

    def _by_ranges(
        self, margins: Margins, start: Tensor, budget: Budget, tolerance: float, known: Tensor | None = None
    ) -> Tensor:
        """The largest balls over which margins are certified to be positive, (n, K).

        Args:
            known: radii that are certified already, (n, K).
        """
        right = start > 0
        points = right.any(1).nonzero().squeeze(1)
        found = torch.zeros_like(start)
        if not len(points):
            return found

        def check(which: Tensor, radii: Tensor, rows: Tensor) -> Tensor:
            # A margin that is not positive at the point itself is no question: it counts as refused.
            asked = right[points[which].unsqueeze(1), rows]
            try:
                return torch.where(asked, margins(points[which], radii, rows), -1.0)
            except OutOfTimeError:
                return torch.full(asked.shape, -1.0).to(start)

        around = margins.around
        first = FIRST * self._linear_radii(around.points[points], around.rows, right[points])
        bracket = None
        if known is not None:
            bracket = known[points], torch.full_like(known[points], inf)
            first = torch.maximum(first, 2 * bracket[0].amax(1))
        found[points] = largest_verified(
            check, right.shape[1], first, self.largest, tolerance, lambda: budget.is_over, bracket
        )
        return found

    def _linear_radii(self, points: Tensor, rows: Tensor, right: Tensor) -> Tensor:
        """The radius at which the first of the positive margins would be lost if they were linear, shape (n,)."""
        count, columns = right.shape
        places = self.balls.points[points].to(self.graph.dtype).repeat_interleave(columns, 0)
        found = linear_radii(self.graph, places, rows.to(places).repeat(count, 1), self.balls.p)
        return torch.where(right, found.reshape(count, columns).to(self.balls.points), inf).amin(1)


def _reached(group: _Group) -> Tensor:
    return group.reached


def _attacked(
    graph: Graph, balls: Balls, asked: Decisions, radius: Tensor, margin: Tensor, attack: PGD | None, budget: Budget
) -> tuple[Tensor | None, Tensor]:
    """Adversarial points (N, K, *shape) and their distances rounded up (N, K), inf where none was verified."""
    distance = torch.full_like(radius, inf)
    if attack is None:
        return None, distance
    found, time = [], budget.within(OF_ATTACKS * budget.remaining)
    for k in range(len(radius)):
        budget.tell(k, len(radius), "attacks")
        rows = asked.rows(k)
        count = len(rows)
        own = Balls(balls.points[k : k + 1].expand(count, *graph.in_shape), balls.p, balls.dtype, balls.valid)
        share = replace(time.within(time.remaining / (len(radius) - k)), progress=None)
        try:
            with alarmed(share, budget):
                points = attack.nearest(graph, own, rows, radius[k], share)
        except OutOfTimeError:
            points = torch.full_like(own.points, torch.nan).to(graph.dtype)
        wrong = margin[k] <= 0  # the point itself may be adversarial already
        points = torch.where(wrong.reshape(-1, *[1] * len(graph.in_shape)), own.points.to(points), points)
        lost = _verified(graph, points, rows, budget)
        away = vector_norm_upper((points.to(torch.float64) - own.points).flatten(1), balls.p)
        distance[k] = torch.where(lost, away, inf)
        found.append(torch.where(lost.reshape(-1, *[1] * len(graph.in_shape)), points, torch.nan))
    return torch.stack(found), distance


def _verified(graph: Graph, points: Tensor, rows: Tensor, budget: Budget) -> Tensor:
    """Whether each margin is certified to be negative at its point; NaN points are not, nor what comes too late."""
    lost = ~points.flatten(1).isnan().any(1)
    usable = lost.nonzero().squeeze(1)
    if not len(usable):
        return lost
    places = points[usable].to(torch.float64)
    target = graph.with_rows(rows[usable]).expanded()
    domain = Balls(places, inf, graph.dtype, None).domain(torch.arange(len(places)), places.new_zeros(len(places)))
    try:
        with alarmed(budget, budget):
            upper = IBP().ranges(target, domain, Budget())[target.output].upper
    except OutOfTimeError:
        return torch.zeros_like(lost)
    lost[usable] = upper.diagonal() < 0
    return lost


def _worst(statuses: list[Status]) -> Status:
    return next((status for status in statuses if not status.certified), statuses[-1] if statuses else Status.CERTIFIED)
