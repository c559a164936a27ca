"""Branch and bound over boxes of inputs until no part can hold a violation, or a violation is proved.

Parts cover the cases. Of each part every inequality's left side is bounded by lines in the inputs; an alternative one
of whose inequalities holds nowhere in a part is dead there and in all its parts, and a part without living
alternatives is closed. What the lines leave of a part is cut to its smallest box: points outside of it are no
violations. The part with the least margin is halved next, across the input along which the line of that margin falls
most. Sources: branch and bound over inputs, Wang et al. 2018 (arXiv:1804.10829); cutting by lines, jacobound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, concatenated
from jacobound.budget import Budget, OutOfTimeError, alarmed, stopping
from jacobound.graph.nodes import Affine, Input, size
from jacobound.inputs.domains import Domain, rounded_outward
from jacobound.inputs.properties import Case
from jacobound.method import Facts, sets_worth
from jacobound.relaxation.ranges import CROWN
from jacobound.splitting.parts import halves, splittable
from jacobound.verifying.lines import cut_boxes, ranges_and_lines
from jacobound.verifying.points import PointSearch
from jacobound.verifying.target import Target

TOGETHER = 512  # parts that are bounded together at most
CUT_NUMBERS = 1 << 23  # of all cuts of a batch
OF_PARTS = 0.5  # share of the memory that the list of open parts may fill
OF_ATTACK = 0.2  # share of the time for points before the first part is bounded


class Outcome(Enum):
    """Why a search came to its end."""

    HOLDS = "every part is closed"
    VIOLATED = "a violation is proved"
    TIME = "its time was over"
    MEMORY = "the open parts filled the memory"
    STUCK = "no open part can be halved"


@dataclass(frozen=True, eq=False)
class OpenParts:
    """N parts of the cases, and what is known of them.

    Args:
        box: float64, (N, inputs).
        case: (N,).
        alive: alternatives that may be a violation in a part, bool (N, A).
        margin: certified lower bounds of the living alternatives' margins, (N,).
        along: the input to be halved, (N,).
        known: enclosures of nodes.
    """

    box: Interval
    case: Tensor
    alive: Tensor
    margin: Tensor
    along: Tensor
    known: Facts = field(default_factory=dict)

    def __getitem__(self, which: Tensor | slice) -> OpenParts:
        known = {node: x[which] for node, x in self.known.items()}
        alive, margin, along = self.alive[which], self.margin[which], self.along[which]
        return OpenParts(self.box[which], self.case[which], alive, margin, along, known)

    def __len__(self) -> int:
        return len(self.case)

    @staticmethod
    def joined(some: list[OpenParts]) -> OpenParts:
        """All parts side by side; what is known of nodes only where it is known of all."""
        some = [one for one in some if len(one)] or some[:1]
        case, alive, margin, along = (
            torch.cat([getattr(one, name) for one in some]) for name in ("case", "alive", "margin", "along")
        )
        shared = [node for node in some[0].known if all(node in one.known for one in some)]
        known = {node: concatenated([one.known[node] for one in some], 0) for node in shared}
        return OpenParts(concatenated([one.box for one in some], 0), case, alive, margin, along, known)

    def halved(self) -> OpenParts:
        """Both halves of every part."""
        twice = torch.arange(len(self), device=self.case.device).repeat(2)
        return replace(self[twice], box=halves(self.box, self.along))


class VerdictSearch:
    """The search; lives for one call."""

    def __init__(self, target: Target, cases: list[Case], budget: Budget) -> None:
        self._target, self._budget = target, budget
        self.points = PointSearch(target, cases)
        self.bounded, self._floor = 0, math.inf
        ends = ([case.box.lower for case in cases], [case.box.upper for case in cases])
        stacked = (torch.stack([torch.as_tensor(end).flatten() for end in side]) for side in ends)
        lower, upper = (side.to(target.row.device) for side in stacked)
        box = Interval(lower, upper)
        case = torch.arange(len(cases), device=target.row.device)
        margin = lower.new_full((len(cases),), -math.inf)
        self.open = OpenParts(box, case, target.own(case), margin, torch.zeros_like(case))
        readers = (node for node in target.graph.nodes if not isinstance(node, Input | Affine))
        self._read = list(dict.fromkeys(source for node in readers for source in node.sources))
        each = CROWN().bytes_per_set(target.graph)
        self._together = max(1, min(TOGETHER, sets_worth(target.graph), budget.memory // (2 * each)))

    @property
    def margin(self) -> float:
        """A certified lower bound of every point's margin."""
        return min(self._floor, float(self.open.margin.min()) if len(self.open) else math.inf)

    def run(self) -> Outcome:
        """Bound and halve until all is decided, or a limit is met."""
        over = stopping(self._budget, tell=self._tell)
        try:
            with alarmed(self._budget):
                self.points.start(self._budget.within(OF_ATTACK * self._budget.remaining))
                waiting, rest = self.open, self.open[:0]
                while self.points.violation is None:
                    for some in torch.arange(len(waiting), device=waiting.case.device).split(self._together):
                        rest = OpenParts.joined([rest, self._bounded(waiting[some])])
                        if over() and some[-1] + 1 < len(waiting):
                            self.open = OpenParts.joined([rest, waiting[some[-1] + 1 :]])
                            return Outcome.VIOLATED if self.points.violation is not None else Outcome.TIME
                    self.open = rest
                    if not len(self.open) or self.points.violation is not None:
                        break
                    chosen, end = self._chosen()
                    if end is not None or over():
                        return end or Outcome.TIME
                    kept = torch.ones(len(self.open), dtype=torch.bool, device=chosen.device)
                    kept[chosen] = False
                    waiting, rest = self.open[chosen].halved(), self.open[kept]
        except OutOfTimeError:
            return Outcome.VIOLATED if self.points.violation is not None else Outcome.TIME
        return Outcome.VIOLATED if self.points.violation is not None else Outcome.HOLDS

    def _tell(self) -> None:
        told = f"{self.bounded} parts; {len(self.open)} open, margin {self.margin:.4g}"
        self._budget.tell(self.bounded - len(self.open), max(2, self.bounded), told)

    def _chosen(self) -> tuple[Tensor, Outcome | None]:
        """The open parts that are halved next."""
        able = splittable(self.open.box).gather(1, self.open.along.unsqueeze(1)).squeeze(1)
        count = int(able.sum())
        each = 16 * self.open.box.lower.shape[1] + self.open.alive.shape[1] + 32
        kept = sum(16 * size(node) for node in self.open.known)
        room = OF_PARTS * self._budget.memory
        if not count:
            return able.nonzero().squeeze(1), Outcome.STUCK
        if len(self.open) * each > room:
            return able.nonzero().squeeze(1), Outcome.MEMORY
        if len(self.open) * (each + kept) > room:
            self.open = replace(self.open, known={})
        # Near the end of the memory the parts that are nearly closed come first: they leave fewer behind.
        urgency = self.open.margin if len(self.open) * each < room / 2 else -self.open.margin
        order = urgency.masked_fill(~able, math.inf).argsort()
        return order[: min(count, max(1, self._together // 2))], None

    def _bounded(self, parts: OpenParts) -> OpenParts:
        """Those of some parts that stay open, with their bounds."""
        target, graph = self._target, self._target.graph
        quiet = replace(self._budget, progress=None)
        shape = (len(parts), *graph.in_shape)
        low, high = (end.reshape(shape) for end in (parts.box.lower, parts.box.upper))
        domain = Domain(rounded_outward(low, high, graph.dtype))
        wanted = self._rows(parts.alive)
        ranges, lines, empty = ranges_and_lines(graph, domain, quiet, parts.known, wanted)
        self.bounded += len(parts)
        sides = target.sides(ranges[graph.output].map(lambda end: end.flatten(1)))
        margins = target.margins(sides).lower.nan_to_num(nan=-math.inf)
        dead = target.refuted(sides.lower)[:, target.members].any(2)
        self._note(margins[parts.alive & dead])
        alive = parts.alive & ~dead & ~empty.unsqueeze(1)
        margin = torch.maximum(margins.masked_fill(~alive, math.inf).amin(1), parts.margin)
        along = (parts.box.upper - parts.box.lower).argmax(1)
        found = OpenParts(parts.box, parts.case, alive, margin, along, {node: ranges[node] for node in self._read})
        if lines is not None:
            found = self._cut(found, lines.below(target), sides.lower - target.above)
        return found[found.alive.any(1)]

    def _rows(self, alive: Tensor) -> Tensor:
        """The rows of living alternatives, bool (N, rows)."""
        rows = size(self._target.graph.output)
        of_alternative = torch.zeros(len(self._target.case_of), rows, dtype=torch.float32, device=alive.device)
        of_alternative.scatter_(1, self._target.row[self._target.members], 1.0)
        return alive.to(torch.float32) @ of_alternative > 0

    def _note(self, margins: Tensor) -> None:
        """Margins of what is closed: they bound the least one from below as those of open parts do."""
        if margins.numel():
            self._floor = min(self._floor, float(margins.min()))

    def _cut(self, parts: OpenParts, lines: tuple[Tensor, Tensor], beyond: Tensor) -> OpenParts:
        """Parts cut to what the lines leave of them, with the input to halve; points of them are tried.

        Args:
            lines: slopes (N, C, inputs) and constants (N, C) below the left sides.
            beyond: how far the left sides are beyond their bounds at least, (N, C); a hint.
        """
        target, (slopes, constants) = self._target, lines
        count, members = len(parts), target.members
        if count * members.numel() * slopes.shape[2] <= CUT_NUMBERS:
            own, gone = cut_boxes(parts.box, slopes[:, members], constants[:, members], target.above[members])
            alive = parts.alive & ~gone
            some, left = alive.any(1, keepdim=True), alive.unsqueeze(2)
            low = torch.where(left, own.lower, math.inf).amin(1)
            high = torch.where(left, own.upper, -math.inf).amax(1)
            box = Interval(torch.where(some, low, parts.box.lower), torch.where(some, high, parts.box.upper))
            if bool((box.lower > parts.box.lower).any() | (box.upper < parts.box.upper).any() | (~some).any()):
                self._note(low.new_zeros(1))  # what is cut off is no violation, but may be close to one
            parts = replace(parts, box=box, alive=alive)
        alive = parts.alive.any(1)
        if not bool(alive.any()):
            return parts
        place = torch.arange(count, device=alive.device)
        worst = beyond[:, members].amax(2).masked_fill(~parts.alive, math.inf).argmin(1)
        which = members[worst]
        first = which[place, beyond[place.unsqueeze(1), which].argmax(1)]
        able = splittable(parts.box)
        fall = slopes[place.unsqueeze(1), which].abs().sum(1) * (parts.box.upper - parts.box.lower)
        along = torch.where(able, fall.nan_to_num(nan=0.0), -1.0).argmax(1)
        corners = torch.where(slopes[place, first] > 0, parts.box.lower, parts.box.upper)
        middles = parts.box.lower / 2 + parts.box.upper / 2
        self.points.look(torch.cat((corners[alive], middles[alive])), parts.case[alive].repeat(2))
        return replace(parts, along=along)
