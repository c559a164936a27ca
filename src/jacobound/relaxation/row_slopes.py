"""Lines that each row of a backward substitution chooses for itself: a search for their slopes, then one sound pass.

Between its two ends a function may be bounded by lines of many slopes: a ReLU from below by any slope from 0 to 1, an
S-shaped one from both sides by many tangents. Which is best depends on the coefficients that arrive, so the rows choose
(Xu et al. 2021, "Fast and complete", section 3.2). The search is plain floating point: the substitution itself without
its rounding terms, differentiated, and Adam's steps. What it ends with are free slopes; offsets are made rigorous for
them by the activation, and one pass with rounding gives the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import turn_ends
from jacobound.activations.kinds.base import Activation, Lines
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unrounded
from jacobound.budget import checkpoint
from jacobound.graph.nodes import Elementwise, Node, size
from jacobound.inputs.domains import Owners
from jacobound.method import Budget, Facts
from jacobound.relaxation.elementwise import Relaxation, RowLines
from jacobound.relaxation.linear_bounds import BackwardPass

POINTS = 17  # of a curved function that the search looks at, between two ends
LITTLE = 1e-9  # difference of slopes, relative to all there are, that counts as none


@dataclass(frozen=True, eq=False)
class Choice:
    """What rows may choose at one elementwise node, in plain numbers; k entries of the node have a choice in some set.

    Args:
        activation: of the node.
        entries: flat entries of the node, shape (k,).
        places: their positions among the entries that are not identically zero.
        argument: range of all entries, (N, *node shape).
        points, values: arguments and what the function is there, shape (N, M, k).
        flattest, steepest: between which slopes lie, (N, k).
        free: whether the line below, and the one above, has a choice, (2, N, k).
        usual: the lines of the sets, each part (N, k).
        whole: the same for all entries of the node, each part (N, *node shape).
    """

    activation: Activation
    entries: Tensor
    places: Tensor
    argument: Interval
    points: Tensor
    values: Tensor
    flattest: Tensor
    steepest: Tensor
    free: Tensor
    usual: Lines
    whole: Lines

    @staticmethod
    def of(node: Elementwise, argument: Interval, relaxation: Relaxation) -> Choice | None:
        """The choice at a node; None where there is none."""
        finite = argument.map(lambda end: torch.where(torch.isfinite(end), end, 0.0))
        points = _points(node.activation, finite)
        values = node.activation.value(points).flatten(2)
        points = points.flatten(2)
        run = points[1:] - points[:-1]
        slopes = torch.where(run > 0, (values[1:] - values[:-1]) / run, torch.nan)
        flattest = slopes.nan_to_num(nan=torch.inf).amin(0)
        steepest = slopes.nan_to_num(nan=-torch.inf).amax(0)
        least = LITTLE * (steepest - flattest)
        smallest = slopes.nan_to_num(nan=torch.inf).cummin(0).values  # the slopes themselves where they never rise
        largest = slopes.nan_to_num(nan=-torch.inf).cummax(0).values
        concave = ~(slopes - smallest > least).any(0)
        convex = ~(largest - slopes > least).any(0)
        known = (torch.isfinite(argument.lower) & torch.isfinite(argument.upper)).flatten(1) & values.isfinite().all(0)
        span = steepest - flattest
        known = known & (span > LITTLE * (1 + steepest.abs())) & torch.isfinite(span)
        free = torch.stack((known & ~concave, known & ~convex))
        entries = free.any(0).any(0).nonzero().squeeze(1)
        if not len(entries):
            return None
        alive, whole = relaxation.alive, relaxation.lines
        parts = (whole.lower_slope, whole.lower_offset, whole.upper_slope, whole.upper_offset)
        return Choice(
            node.activation,
            entries,
            entries if alive is None else torch.searchsorted(alive, entries),
            argument,
            points[..., entries].transpose(0, 1),
            values[..., entries].transpose(0, 1),
            flattest[:, entries],
            steepest[:, entries],
            free[..., entries],
            Lines(*(part.flatten(1)[:, entries] for part in parts)),
            whole,
        )

    def start(self, owners: Owners) -> Tensor:
        """Shares of the way from flattest to steepest at the usual lines, (2 lines, 2 ends, R or 1, k)."""
        slopes = torch.stack((self.usual.lower_slope, self.usual.upper_slope))
        share = ((slopes - self.flattest) / (self.steepest - self.flattest)).nan_to_num(0.5, 0.5, 0.5).clamp(0.0, 1.0)
        picked = torch.stack([owners.pick(one) for one in share])
        return picked.reshape(2, 1, -1, len(self.entries)).expand(2, 2, -1, -1)

    def slopes(self, shares: Tensor, owners: Owners) -> Tensor:
        """Slopes (2 lines, 2 ends, R, k) of shares; the usual ones where there is no choice."""
        flattest, steepest = owners.pick(self.flattest), owners.pick(self.steepest)
        own = flattest + shares * (steepest - flattest)
        usual = torch.stack([owners.pick(one) for one in (self.usual.lower_slope, self.usual.upper_slope)])
        free = torch.stack([owners.pick(one) for one in self.free])
        return torch.where(_spread(free), own, _spread(usual))

    def estimated(self, shares: Tensor, owners: Owners) -> RowLines:
        """Lines of the slopes, with offsets from the points alone; differentiable, for the search."""
        slopes = self.slopes(shares, owners)
        below = torch.where(owners.pick(self.free[0]), self._offset(slopes[0], owners, 1.0), self._usual(owners, 0))
        above = torch.where(owners.pick(self.free[1]), self._offset(slopes[1], owners, -1.0), self._usual(owners, 1))
        return RowLines(self.places, Lines(slopes[0], below, slopes[1], above), slopes[0, 0].detach())

    def _usual(self, owners: Owners, line: int) -> Tensor:
        return owners.pick((self.usual.lower_offset, self.usual.upper_offset)[line])

    def _offset(self, slopes: Tensor, owners: Owners, sign: float) -> Tensor:
        """min (sign 1) or max (-1) of ``value - slope z`` over the points; its derivative is that where it is attained.

        Args:
            slopes: shape (2, R, k).
        """
        if not bool(self.free[0 if sign > 0 else 1].any()):
            return torch.zeros_like(slopes)
        points, values = owners.pick(self.points), owners.pick(self.values)  # (R, M, k), or (M, k) for one set
        points, values = points.movedim(-2, 0), values.movedim(-2, 0)
        with torch.no_grad():
            # Ends come last: where one ties with a kink, as for a ReLU's slopes 0 and 1, slopes inside are what count.
            order = (*range(1, len(points) - 1), 0, len(points) - 1)
            best = torch.full_like(slopes, torch.inf)
            at, there = torch.zeros_like(slopes), torch.zeros_like(slopes)
            for z, value in ((points[k], values[k]) for k in order):
                rest = sign * (value - slopes * z)
                at, there = torch.where(rest < best, z, at), torch.where(rest < best, value, there)
                best = torch.minimum(best, rest)
        return there - slopes * at

    def certified(self, shares: Tensor, owners: Owners, relaxation: Relaxation) -> RowLines:
        """Lines of the slopes with rigorous offsets."""
        slopes = self.slopes(shares, owners)
        rows, count = slopes.shape[2], len(self.entries)
        if self.activation.parameters:  # of the node's shape, perhaps
            shape = self.argument.shape[1:]
            usual = (owners.pick(one.flatten(1)) for one in (self.whole.lower_slope, self.whole.upper_slope))
            wide = torch.stack([one.expand(2, rows, -1).index_copy(2, self.entries, own)
                                for one, own in zip(usual, slopes, strict=True)])  # fmt: skip
            wide = wide.reshape(2, 2 * rows, *shape)
            argument = self.argument.map(lambda end: owners.pick(end).expand(2, rows, *shape).reshape(-1, *shape))
        else:
            wide = slopes.reshape(2, 2 * rows, count)
            flat = self.argument.map(lambda end: end.flatten(1)[:, self.entries])
            argument = flat.map(lambda end: owners.pick(end).expand(2, rows, count).reshape(-1, count))
        found = self.activation.lines_with(argument, wide[0], wide[1])
        parts = []
        for part in (found.lower_slope, found.lower_offset, found.upper_slope, found.upper_offset):
            part = part.reshape(2, rows, -1)
            parts.append(part[..., self.entries] if self.activation.parameters else part)
        magnitude = owners.pick(relaxation.magnitude.flatten(1)[:, self.entries]).expand(rows, count)
        return RowLines(self.places, Lines(*parts), magnitude)


def _spread(picked: Tensor) -> Tensor:
    """(2, R, k), or (2, k) for one set, as (2 lines, 1 end, R or 1, k)."""
    return picked.reshape(2, 1, -1, picked.shape[-1])


def _points(activation: Activation, x: Interval) -> Tensor:
    """Points of an interval in ascending order, with its ends and where pieces meet; shape (M, N, *node shape)."""
    inner = []
    if activation.reduce is None:
        for turn in activation.breaks:
            start = turn_ends(turn, x.lower)[0]
            start = start if isinstance(start, Tensor) else x.lower.new_tensor(start)
            inner.append(torch.minimum(torch.maximum(start.expand_as(x.lower), x.lower), x.upper))
    if activation.reduce is not None or any(piece.curvature != "linear" for piece in activation.pieces):
        shares = (torch.arange(1, POINTS - 1, dtype=torch.float64) / (POINTS - 1)).tolist()
        inner += [x.lower * (1 - share) + x.upper * share for share in shares]
    return torch.stack((x.lower, *inner, x.upper)).sort(0).values


@dataclass(frozen=True)
class SlopeSearch:
    """Adam's steps on the slopes of all rows at once; the best of every row's end is kept.

    Args:
        steps: how many.
        rate: of the first one, in shares of the slopes that there are.
        fading: by which the rate falls from step to step.
    """

    steps: int
    rate: float = 0.15
    fading: float = 0.95

    def bounds(
        self, backward: BackwardPass, target: Node, rows: Tensor, owners: Owners, found: Choices, budget: Budget
    ) -> Interval:
        """Certified ranges of the flat entries `rows` of a node, each over its own set; interval (len(rows),)."""
        choices = found.choices
        starts = {node: choice.start(owners).expand(2, 2, len(rows), -1) for node, choice in choices.items()}
        kept = self._searched(backward, target, rows, owners, choices, starts, budget)
        own = {node: choice.certified(kept[node], owners, found.relaxations[node]) for node, choice in choices.items()}
        return backward.enclose(target, rows, owners, own)

    def _searched(
        self,
        backward: BackwardPass,
        target: Node,
        rows: Tensor,
        owners: Owners,
        choices: dict[Node, Choice],
        starts: dict[Node, Tensor],
        budget: Budget,
    ) -> dict[Node, Tensor]:
        """The best shares of every row and end, each (2 lines, 2 ends, R, k)."""
        kept = {node: start.clone() for node, start in starts.items()}
        shares = {node: start.clone().requires_grad_(True) for node, start in starts.items()}
        best = torch.full((2, len(rows)), torch.inf).to(backward.example)
        optimiser, rate = torch.optim.Adam(list(shares.values()), lr=self.rate), self.rate
        for step in range(self.steps):
            checkpoint()
            if step and budget.is_over:
                break
            with torch.enable_grad(), unrounded():
                lines = {node: choice.estimated(shares[node], owners) for node, choice in choices.items()}
                reached = backward.enclose(target, rows, owners, lines)
                ends = torch.stack((reached.upper, -reached.lower))
                better = ends.detach() < best
                best = torch.where(better, ends.detach(), best)
                for node, share in shares.items():
                    kept[node] = torch.where(better.unsqueeze(-1), share.detach(), kept[node])
                if step == self.steps - 1:
                    break
                optimiser.zero_grad()
                torch.where(ends.isfinite(), ends, 0.0).sum().backward()
            for share in shares.values():
                if share.grad is not None:
                    share.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            rate *= self.fading
            for share in shares.values():
                share.data.clamp_(0.0, 1.0)
        return kept


@dataclass(frozen=True, eq=False)
class Choices:
    """The choices at the ancestors of a node.

    Args:
        choices: by elementwise node; those without any are left out.
        relaxations: the lines of the sets.
    """

    choices: dict[Node, Choice]
    relaxations: dict[Node, Relaxation]

    def bytes_per_row(self) -> int:
        """Working memory of one row besides that of its substitution."""
        found = sum(200 * size(node) for node in self.choices)
        return found * next(iter(self.choices.values())).flattest.element_size()


@dataclass(eq=False)
class ChoiceBook:
    """Choices of the nodes of one sweep, each found once.

    Args:
        ranges, relaxations: of the sweep, filled in as they become known.
    """

    ranges: Facts
    relaxations: dict[Node, Relaxation]

    def __post_init__(self) -> None:
        self._known: dict[Node, Choice | None] = {}

    def before(self, target: Node) -> Choices:
        """The choices at the elementwise nodes that a substitution from a node goes through."""
        seen: set[Node] = set()
        stack: list[Node] = [target]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack.extend(node.sources)
        chosen = {}
        for node, relaxation in self.relaxations.items():
            if node in seen and isinstance(node, Elementwise):
                if node not in self._known:
                    self._known[node] = Choice.of(node, self.ranges[node.source], relaxation)
                choice = self._known[node]
                if choice is not None:
                    chosen[node] = choice
        return Choices(chosen, self.relaxations)
