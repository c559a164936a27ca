"""Best first branch and bound over the parts of one set, which can be stopped at any moment.

At every moment the open parts and those that are held cover the set (or what of it lies in its ball), so that the
hull of their bounds holds everywhere: what was proved by then is the answer. A part is never looser than the part it
came from. Parts that can not matter any more, and the least urgent ones where memory is short, are *held*: their
bounds are merged into one, which is never split again and never forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.budget import Budget, OutOfTimeError, stopping
from jacobound.inputs.domains import Domain
from jacobound.method import flat_indices
from jacobound.splitting.bounded import Bounded, Quantity
from jacobound.splitting.parts import halves, may_meet, over, splittable

# The part of the memory that the list of open parts may fill.
OF_PARTS = 0.25


class End(Enum):
    """Why a search came to its end."""

    CLOSED = "the bounds meet"
    SETTLED = "splitting can not tighten the largest part"
    PARTS = "as many parts as were asked for were bounded"
    TIME = "its time was over"


@dataclass(frozen=True)
class Limits:
    """When a search stops.

    Args:
        gap: share of the bound that may stay open.
        together: parts that are bounded together.
        most: parts that are bounded in all.
    """

    gap: float
    together: int
    most: float


@dataclass(eq=False)
class Tree:
    """The parts of one set; lives for one call.

    Args:
        whole: the set, a domain of one.
        quantity: what is bounded over every part.
        limits: when it stops.
        budget: of the search.
        known: certified bounds over the whole set that are known already, of shape (quantities,); with what holds
            everywhere no part can be looser.
        attained: called with some parts: certified bounds that some quantities reach at points there, (quantities,);
            None where the parts' own bounds alone tell.
    """

    whole: Domain
    quantity: Quantity
    limits: Limits
    budget: Budget
    known: Interval
    attained: Callable[[Domain, Tensor], Tensor] | None = None

    def run(self) -> End:
        """Split until nothing is left to gain, or a limit is met."""
        self.held, self.bounded = None, 0
        self.high, self.low = torch.full_like(self.known.upper, -inf), torch.full_like(self.known.upper, inf)
        self.parts = self.whole.box.map(lambda end: end.flatten(1))
        nothing = torch.zeros_like(self.parts.lower)
        self.state = Bounded(self.known.map(lambda end: end.unsqueeze(0)), nothing, nothing[:, 0] > 0)
        over_time = stopping(self.budget, tell=self._tell)
        try:
            if self.budget.is_over:
                return End.TIME
            self._replace(torch.zeros(1, dtype=torch.int64, device=nothing.device), self.parts, self.state)
            while True:
                self._look()
                chosen, end = self._chosen()
                if end is not None:
                    return end
                if over_time():
                    return End.TIME
                some = self.parts[chosen]
                children = halves(some, self._along(chosen))
                self._replace(chosen, children, self.state[torch.cat((chosen, chosen))])
        except OutOfTimeError:
            return End.TIME

    @property
    def hull(self) -> Interval:
        """What holds over the whole set, shape (quantities,)."""
        lower, upper = self.state.values.lower, self.state.values.upper
        if self.held is not None:
            lower = torch.cat((lower, self.held.lower.unsqueeze(0)))
            upper = torch.cat((upper, self.held.upper.unsqueeze(0)))
        return Interval(lower.amin(0), upper.amax(0))

    def _replace(self, parents: Tensor, parts: Interval, known: Bounded) -> None:
        """New parts in place of those they cover, which keep what is `known` of those where their own is looser."""
        meets = may_meet(parts, self.whole)
        if bool(meets.any()):  # else the set is empty up to rounding, and all its parts are kept
            parts, known = parts[meets], known[flat_indices(meets)]
        found, values = self._bounds(parts, known), known.values
        lower = torch.maximum(found.values.lower.nan_to_num(nan=-inf, posinf=inf, neginf=-inf), values.lower)
        upper = torch.minimum(found.values.upper.nan_to_num(nan=inf, posinf=inf, neginf=-inf), values.upper)
        crossed = lower > upper  # of a part that is empty but for rounding, or of rounding alone
        own = Interval(torch.where(crossed, values.lower, lower), torch.where(crossed, values.upper, upper))
        kept = torch.ones(len(self.parts.lower), dtype=torch.bool, device=parts.lower.device)
        kept[parents] = False
        # One step from the old cover to the new one: no moment between them can be seen.
        self.state = Bounded.joined([self.state[kept], replace(found, values=own)])
        old = self.parts[kept]
        self.parts = Interval(torch.cat((old.lower, parts.lower)), torch.cat((old.upper, parts.upper)))

    def _bounds(self, parts: Interval, known: Bounded) -> Bounded:
        """Bounds over some parts, as many together as fit the memory."""
        quiet, count = replace(self.budget, progress=None), len(parts.lower)
        runs = []
        for some in self.budget.chunks(count, self.quantity.bytes_each()):
            runs.append(self.quantity.over(over(parts[some], self.whole), quiet, known.ranges_of(some)))
        self.bounded += count
        return Bounded.joined(runs)

    def _look(self) -> None:
        """What is certainly reached, by the other ends of the parts' own bounds and by points."""
        values = self.state.values
        self.low = torch.minimum(self.low, values.upper.amin(0))
        if self.attained is None:
            self.high = torch.maximum(self.high, values.lower.amax(0))
            return
        steepest = values.upper.amax(1).topk(min(self.limits.together, len(values.upper)))[1]
        self.high = torch.maximum(self.high, self.attained(over(self.parts[steepest], self.whole), self.hull.upper))
        self.low = torch.minimum(self.low, torch.zeros_like(self.low))

    def _urgency(self, values: Interval) -> Tensor:
        """How far bounds (parts, quantities) lie beyond what is reached, as a share of the bound, (parts,)."""
        hull = self.hull
        above = (values.upper - self.high).nan_to_num(nan=inf).clamp(min=0.0)
        below = (self.low - values.lower).nan_to_num(nan=inf).clamp(min=0.0)
        scale = self.high.abs().max() if self.attained is not None else hull.magnitude().max()
        scale = scale.nan_to_num(posinf=1.0, neginf=1.0).clamp(min=torch.finfo(scale.dtype).tiny)
        return torch.maximum(above, below).amax(1) / scale

    def _chosen(self) -> tuple[Tensor, End | None]:
        """The parts to split next, the most urgent ones; and the end when there is nothing to do."""
        urgency = self._urgency(self.state.values)
        open_parts = (urgency > self.limits.gap) & ~self.state.settled & splittable(self.parts).any(1)
        stuck = urgency[~open_parts].max() if bool((~open_parts).any()) else urgency.new_zeros(())
        if self.held is not None:
            stuck = torch.maximum(stuck, self._urgency(self.held.map(lambda end: end.unsqueeze(0)))[0])
        open_parts &= urgency > stuck  # beside a part that stays as it is, less urgent ones gain nothing
        nothing = urgency.new_zeros(0, dtype=torch.int64)
        if not bool(open_parts.any()):
            return nothing, End.SETTLED if float(stuck) > self.limits.gap else End.CLOSED
        room = int(min(self.limits.together // 2, (self.limits.most - self.bounded) // 2))
        if room < 1:
            return nothing, End.PARTS
        self._hold(open_parts, urgency)
        urgency = self._urgency(self.state.values)
        order = urgency.argsort(descending=True, stable=True)
        waiting = (urgency > self.limits.gap) & ~self.state.settled & splittable(self.parts).any(1)
        return order[waiting[order]][:room], None

    def _hold(self, wanted: Tensor, urgency: Tensor) -> None:
        """Merge the parts that are not wanted, and the least urgent beyond the memory, into one bound."""
        each = 8 * (3 * self.parts.lower.shape[1] + 2 * len(self.high)) + 64 + self.quantity.bytes_kept()
        capacity = max(2 * self.limits.together, int(OF_PARTS * self.budget.memory / each))
        if int(wanted.sum()) > capacity:
            least = urgency.masked_fill(~wanted, -inf).argsort(descending=True, stable=True)[capacity:]
            wanted = wanted.clone()
            wanted[least] = False
        if bool(wanted.all()):
            return
        values = self.state.values[~wanted]
        lower, upper = values.lower.amin(0), values.upper.amax(0)
        if self.held is not None:
            lower, upper = torch.minimum(lower, self.held.lower), torch.maximum(upper, self.held.upper)
        self.held, self.state, self.parts = Interval(lower, upper), self.state[wanted], self.parts[wanted]

    def _along(self, chosen: Tensor) -> Tensor:
        """The coordinate that is halved: the one with the most to gain, the widest where nothing is known."""
        some, able = self.parts[chosen], splittable(self.parts[chosen])
        width = (some.upper / 2 - some.lower / 2).nan_to_num(posinf=0.0)
        share = width / width.amax(1, keepdim=True).clamp(min=torch.finfo(width.dtype).tiny)
        gains = self.state.gains[chosen]
        known = (torch.where(able, gains, 0.0).amax(1, keepdim=True) > 0).expand_as(able)
        return torch.where(able, torch.where(known, gains, share), -1.0).argmax(1)

    def _tell(self) -> None:
        """Progress: how many parts, and the bracket so far."""
        if self.budget.progress is None:
            self.budget.tell(0, 1, "parts")
            return
        upper, reached = float(self.hull.upper.max()), float(self.high.max())
        gap = f"{upper / reached - 1:.2e}" if self.attained is not None and reached > 0 else "open"
        total = self.limits.most if self.limits.most < inf else max(1, 2 * self.bounded)
        told = f"{self.bounded} parts; upper {upper:.6g}, lower {max(0.0, reached):.6g}, gap {gap}"
        self.budget.tell(min(self.bounded, total), total, told)
