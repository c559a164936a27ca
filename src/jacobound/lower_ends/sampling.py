"""`Sampling`: how sensitive the network is at least, by a search for steep points (`climbing`) and proofs there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.budget import Budget, OutOfTimeError, alarmed
from jacobound.checks import real, whole
from jacobound.errors import InvalidRegionError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.domains import Domain
from jacobound.lower_ends.ascents import At
from jacobound.lower_ends.attained import Proved, by_jacobian, by_pairs, dual_vector
from jacobound.lower_ends.climbing import MOST_CORNERS, Climb, Plan
from jacobound.lower_ends.inner_sets import InnerSets
from jacobound.method import About, OutputMethod, flat_indices
from jacobound.operators.base import positions
from jacobound.relaxation.ranges import CROWN, IBP

CLOSE = 1 - 1e-6  # share of the upper bound at which there is nothing left to win
ENOUGH = 1 - 1e-6  # share of an estimate at which a proof is not repeated
APART = 0.99  # share of the upper end from which on no larger search follows
GAINED, IDLE = 1 + 1e-3, 6  # what counts as a gain, and how many larger searches without one are enough
WIDER = 4  # times the points in a larger search, for twice the steps
TRIED = 3  # points of every set that a proof is tried at


@dataclass(frozen=True, eq=False)
class Witness:
    """A point of each of N sets, and what is proved there.

    Args:
        point: shape (N, *input shape).
        value: certified lower bounds of the constants, shape (N,), float64.
        partner: the second points, shape (N, *input shape), where the outputs at two points are the proof; NaN where
            it is the Jacobian at the point.
        reason: for each set what the proof is, or why there is none.
    """

    point: Tensor
    value: Tensor
    partner: Tensor
    reason: tuple[str, ...]

    @staticmethod
    def joined(runs: list[Witness]) -> Witness:
        """The witnesses of all sets side by side."""
        points, values, partners = ([getattr(one, name) for one in runs] for name in ("point", "value", "partner"))
        reasons = tuple(reason for one in runs for reason in one.reason)
        return Witness(torch.cat(points), torch.cat(values), torch.cat(partners), reasons)

    def improved(self, sets: Tensor, others: Witness) -> Witness:
        """With what others prove of some sets where that is more.

        Args:
            sets: positions of the sets that `others` is about.
        """
        better = others.value > self.value[sets]
        places = sets[better]
        point, value, partner = self.point.clone(), self.value.clone(), self.partner.clone()
        point[places], value[places] = others.point[better], others.value[better]
        partner[places] = others.partner[better]
        reason = list(self.reason)
        for k in flat_indices(better).tolist():
            reason[int(sets[k])] = others.reason[k]
        return Witness(point, value, partner, tuple(reason))

    def rounded(self, upper: Tensor, assumed: bool) -> Witness:
        """The values in the dtype of upper ends, rounded down.

        Args:
            assumed: whether the upper ends hold under assumptions. A value above its upper end then shows that one
                fails at the witness, which is no witness for sets where it holds.
        """
        value = self.value.to(upper.dtype)
        above = value.to(self.value.dtype) > self.value
        value = torch.where(above, value.nextafter(torch.full_like(value, -torch.inf)), value).clamp(min=0.0)
        vanished, broken = (value == 0) & (self.value > 0), (value > upper) & assumed
        facts = zip(vanished.tolist(), broken.tolist(), self.reason, strict=True)
        reasons = tuple(VANISHED if tiny else BROKEN if bad else reason for tiny, bad, reason in facts)
        return replace(self, value=torch.where(broken, 0.0, value), reason=reasons)


NO_SEARCH = "no lower bound was searched for"
BY_JACOBIAN = "proved: the Jacobian at the witness is at least so large"
BY_PAIR = "proved: so much the outputs at the witness and its partner differ, per distance"
BROKEN = "nothing proved: an assumption about the network does not hold at the witness, where outputs change faster"
VANISHED = "nothing proved: what is proved is below the range of the graph's dtype"
FLAT = "nothing proved: the Jacobian was zero at every point that was tried"
KINKED = "nothing proved: the best points found lie within rounding of a kink of the network"
ROUNDED = "nothing proved: rounding of the network's values outweighs what changes between points"
LATE = "nothing proved: the time was over"
SINGLE = "nothing proved: the set is a single point up to rounding, and this network needs two"
OUTSIDE = "nothing proved: no point is certain to lie in the set, which is empty or a single point up to rounding"


@dataclass(frozen=True)
class Sampling:
    """Lower bounds of a Lipschitz constant: the anchor, random points and corners, and ascents from the best.

    What is found depends on the seed alone, unless the time is over.

    Args:
        points: how many random points are tried.
        steps: ascent steps, spread over the stages of the smoothed network.
        ascents: how many of the points ascend.
        seed: of the random points.
        effort: multiplications for each set at most: large networks get fewer points and steps.
        rounds: how many larger searches with other random numbers follow within a budget of limited time, for sets
            whose two ends are still apart; none follows six that found nothing.
    """

    bounds: ClassVar[str] = "lower bounds of constants"
    about: ClassVar[About] = About("any network and region, all norms", "jacobound")

    points: int = 64
    steps: int = 120
    ascents: int = 16
    seed: int = 0
    effort: float = 2.0**32
    rounds: int = 24

    def __post_init__(self) -> None:
        for name, least in (("points", 0), ("steps", 0), ("ascents", 1), ("rounds", 0)):
            whole(getattr(self, name), f"{name} of a search", least)
        whole(self.seed, "seed of a search", -(1 << 62))
        real(self.effort, "effort of a search", 0.0)

    def search(
        self,
        graph: Graph,
        domain: Domain,
        norm: tuple[float, float],
        budget: Budget,
        upper: Tensor | None = None,
        near: Tensor | None = None,
    ) -> Witness:
        """The best points found, with proofs.

        Args:
            graph: in float64, without comparisons (`Graph.lowered`, or `expanded` where there is).
            domain: the sets in float64. All try the same shares of their boxes, so a set's witness does not depend on
                the others.
            budget: no more ascents are begun when its time is over; the anchor is always tried.
            upper: known upper bounds of the constants, shape (N,): what reaches them is left alone.
            near: points to look at besides, shape (N, points, *input shape).
        """
        inner = InnerSets(domain)
        target = upper if upper is None else upper.to(inner.anchor) * CLOSE
        plan = Plan(self.points, self.steps, self.ascents, self.effort)
        generator = torch.Generator().manual_seed(self.seed)
        climb = Climb(plan, graph, inner, norm, budget, target, generator, near)
        climb.run()
        return _Proofs(climb, self.effort).run()

    def in_rounds(
        self,
        graph: Graph,
        domain: Domain,
        norm: tuple[float, float],
        budget: Budget,
        upper: Tensor,
        near: Tensor | None = None,
    ) -> Witness:
        """The best of one search and of the larger ones that a limited budget has time for; see `search`.

        Hills of a network with kinks are many and steep: where an ascent ends depends on where it began, and one more
        set of points often gains more than longer ascents.
        """
        found = self.search(graph, domain, norm, budget, upper, near)
        if not (self.points and math.isfinite(budget.limit)):
            return found
        larger = replace(
            self, points=WIDER * self.points, ascents=WIDER * self.ascents, steps=2 * self.steps,
            effort=2 * WIDER * self.effort,
        )  # fmt: skip
        stale = torch.zeros_like(found.value)  # rounds of each set since the last one that gained
        for k in range(self.rounds):
            apart = flat_indices((found.value < APART * upper.to(found.value)) & upper.isfinite() & (stale < IDLE))
            if budget.is_over or not len(apart):
                break
            again = replace(larger, seed=self.seed + k).search(
                graph, domain[apart], norm, budget, upper[apart], found.point[apart].unsqueeze(1)
            )
            gained = again.value > found.value[apart] * GAINED
            stale[apart] = torch.where(gained, 0.0, stale[apart] + 1)
            found = found.improved(apart, again)
        return found

    def bytes_per_set(self, graph: Graph) -> int:
        """Memory for what is kept of the points of one set, in bytes; work on them is cut to fit."""
        kept = (WIDER * (self.points + 4 * self.ascents) + MOST_CORNERS + 1) * (size(graph.input) + size(graph.output))
        return 8 * (3 * kept + 4 * sum(map(size, graph.nodes)))


class _Proofs:
    """What can be proved at the best points of every set; lives for one call."""

    def __init__(self, climb: Climb, effort: float) -> None:
        self._climb = climb
        self._index = climb.best(TRIED)
        self._place = positions(len(climb.values), climb.values)
        self._point = climb.points[self._place, self._index[:, 0]].clone()
        self._value = torch.zeros_like(climb.values[:, 0])
        self._kinked = torch.zeros_like(self._value, dtype=torch.bool)
        self._partner = torch.full_like(self._point, torch.nan)
        self._gated = climb.graph.expanded() if climb.graph.expands else None  # where a proof looks at slopes
        nodes = (self._gated or climb.graph).nodes
        # Linear bounds of every neuron where intervals are too wide, unless that costs more than the whole search.
        dear = climb.work * sum(map(size, nodes)) > effort
        self._methods: tuple[OutputMethod, ...] = (IBP(),) if dear else (IBP(), CROWN())

    def run(self) -> Witness:
        climb, estimate = self._climb, self._climb.values[self._place, self._index[:, 0]]
        late = False
        try:
            with alarmed(climb.budget):
                self._try_all(estimate)
        except OutOfTimeError:
            late = True
        certain = climb.inner.holds(self._point.unsqueeze(1)).squeeze(1)
        value = torch.where(certain, self._value, 0.0)
        paired = (~self._partner.isnan()).flatten(1).any(1)
        single = climb.inner.tight.flatten(1).all(1)
        facts = (one.tolist() for one in (value, paired, estimate, self._kinked, certain, single))
        reasons = tuple(LATE if late and known[0] == 0 else self._reason(*known) for known in zip(*facts, strict=True))
        return Witness(self._point, value, self._partner, reasons)

    def _try_all(self, estimate: Tensor) -> None:
        """Proofs at the best points, cheap methods first, until they come close to the estimates."""
        climb = self._climb
        for method in self._methods:
            for k in range(self._index.shape[1]):
                there = climb.values[self._place, self._index[:, k]]
                wanted = flat_indices((self._value < there * ENOUGH) | ((there == 0) & (k == 0)))
                late = climb.budget.is_over and bool((self._value[wanted] > 0).all())
                if len(wanted) and not late:
                    self._tried(wanted, self._index[wanted, k], method)
            if climb.budget.is_over or bool((self._value >= 0.5 * estimate).all()):
                break

    def _reason(self, value: float, paired: bool, estimate: float, kinked: bool, certain: bool, single: bool) -> str:
        if value > 0:
            return BY_PAIR if paired else BY_JACOBIAN
        if not certain:
            return OUTSIDE
        if kinked:
            return KINKED
        if estimate == 0:
            return FLAT
        return SINGLE if single and self._gated is None else ROUNDED

    def _tried(self, sets: Tensor, index: Tensor, method: OutputMethod) -> None:
        """Proofs at one point of some sets; one by one where the network is not defined around one of the points."""
        try:
            self._prove(sets, index, method)
        except InvalidRegionError:
            if len(sets) > 1:
                for k in range(len(sets)):
                    self._tried(sets[k : k + 1], index[k : k + 1], method)

    def _prove(self, sets: Tensor, index: Tensor, method: OutputMethod) -> None:
        """Try proofs at one point of some sets, and keep what is better in place."""
        climb = self._climb
        gated, smooth = self._gated, self._gated is not None
        each = 64 * sum(map(size, (gated or climb.graph).nodes)) * 8
        for chunk in climb.budget.chunks(len(sets), each * 17):
            some, at = sets[chunk], index[chunk]
            places, rows, inner = climb.points[some, at], climb.rows[some, at], climb.inner[some]
            proofs: list[Proved] = []
            if gated is not None:
                proofs.append(by_jacobian(gated, inner, places, rows, climb.norm, method, climb.budget))
            weak = not smooth or bool((proofs[0].value < 0.9 * climb.values[some, at]).any())
            if weak:
                gradient = At.of(climb.graph, places).gradient(rows)
                direction = dual_vector(gradient, climb.norm[0])
                proofs.append(by_pairs(climb.graph, inner, places, direction, climb.norm, method, climb.budget))
            for proof in proofs:
                better = flat_indices(proof.value > self._value[some])
                where = some[better]
                self._value[where], self._partner[where] = proof.value[better], proof.partner[better]
                self._point[where] = proof.point[better]
            if smooth:
                self._kinked[some] |= proofs[0].kinked
