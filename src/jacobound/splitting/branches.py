"""Branches of a search over neurons: parts of a set that split neurons cut out, with what is certified of them.

A branch says of some neurons on which side of a point their argument lies. That narrows the arguments' ranges, and
each such fact is a half-space of the input as well: linear bounds of the argument over the parent, ``z <= A x + c``,
turn ``z >= t`` into ``-A x <= c - t``. Ranges of all other arguments are then bounded with these half-spaces, in one
sweep over a batch of branches, and never looser than the parent's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import turn_ends
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import up
from jacobound.budget import Budget
from jacobound.graph.nodes import Elementwise, Node, size
from jacobound.inputs.domains import Domain, Owners
from jacobound.inputs.half_spaces import HalfSpaces
from jacobound.method import Facts, derivative_ranges, is_unstable
from jacobound.relaxation.linear_bounds import BackwardPass, InputForms
from jacobound.relaxation.ranges import CROWN
from jacobound.relaxation.sweep import propagated
from jacobound.splitting.reduced import Reduced


@dataclass(frozen=True, eq=False)
class Branch:
    """A part of the set.

    Args:
        ranges: of the arguments of all neurons there, (neurons,).
        normals, limits: half-spaces ``normal x <= limit`` that hold there.
        bound: certified, of what is asked.
        box: the part of the set's box that it lies in, (inputs,); None for all of it.
        neuron: what to split next; None where no neuron is unstable, or none can be split.
        at: where.
        forms: linear bounds of that neuron's argument over the branch, one row.
        settled: whether no neuron is unstable.
    """

    ranges: Interval
    normals: tuple[Tensor, ...]
    limits: tuple[Tensor, ...]
    bound: float
    box: Interval | None = None
    neuron: int | None = None
    at: float = 0.0
    forms: InputForms | None = None
    settled: bool = False

    def children(self) -> tuple[Branch, Branch]:
        """Both sides of the neuron that is split; they share the point, so together they are the branch."""
        assert self.neuron is not None and self.forms is not None
        at, forms, which = self.at, self.forms, self.neuron
        above, below = self.ranges.lower.clone(), self.ranges.upper.clone()
        above[which], below[which] = at, at
        over = Interval(above, self.ranges.upper), -forms.upper_slope[0], up(forms.upper_offset[0] - at)
        under = Interval(self.ranges.lower, below), forms.lower_slope[0], up(at - forms.lower_offset[0])
        first, second = (
            Branch(ranges, (*self.normals, normal), (*self.limits, limit), self.bound, self.box)
            for ranges, normal, limit in (over, under)
        )
        return first, second


@dataclass(frozen=True, eq=False)
class Swept:
    """What one sweep finds of a batch of branches.

    Args:
        domain: their sets.
        ranges: of all nodes.
        alive: those that are not certainly empty, ascending.
        backward: for further linear bounds over them.
    """

    domain: Domain
    ranges: Facts
    alive: Tensor
    backward: BackwardPass


class Sweeps:
    """Bounds the arguments over batches of branches; lives for one search.

    Args:
        reduction: the network over the set.
    """

    def __init__(self, reduction: Reduced) -> None:
        self.reduction = reduction
        self.sizes = [size(node) for node in reduction.arguments]
        whole = [reduction.ranges[node] for node in reduction.arguments]
        ends = [torch.cat([getattr(one, end)[0] for one in whole]) for end in ("lower", "upper")]
        self.root = Interval(*ends)
        readers = {node.source: node for node in reduction.graph.nodes if isinstance(node, Elementwise)}
        self._readers = [readers[node] for node in reduction.arguments]
        self._breaks = torch.cat([self._breaks_of(node) for node in self._readers], 1)

    def _breaks_of(self, node: Elementwise) -> Tensor:
        """Where the slopes of a block's neurons may jump, (breaks, neurons); NaN where there are fewer."""
        like = self.root.lower.new_zeros(size(node))
        ends = [end for turn in node.activation.breaks for end in turn_ends(turn, like)]
        if node.activation.reduce is not None:
            ends = []
        found = [torch.as_tensor(end, dtype=torch.float64).expand(len(like)) for end in ends]
        return torch.stack([*found, *[torch.full_like(like, torch.nan)] * (8 - len(found))][:8])

    def over(self, branches: Sequence[Branch], budget: Budget) -> Swept:
        """One sweep over some branches."""
        reduction, count = self.reduction, len(branches)
        cut = self._half_spaces(branches)
        whole = reduction.domain
        box = whole.box.map(lambda end: end.expand(count, -1))
        if branches[0].box is not None:
            parts = [one.box for one in branches if one.box is not None]
            box = Interval(torch.stack([one.lower for one in parts]), torch.stack([one.upper for one in parts]))
        domain = Domain(box, half_spaces=cut)
        if whole.centre is not None and whole.radius is not None:
            centre, radius = whole.centre.expand(count, -1), whole.radius.expand(count)
            domain = Domain(box, centre, radius, whole.p, whole.scale, cut)
        lower = torch.stack([one.ranges.lower for one in branches]).split(self.sizes, 1)
        upper = torch.stack([one.ranges.upper for one in branches]).split(self.sizes, 1)
        known: dict[Node, Interval] = {
            node: Interval(low, high) for node, low, high in zip(reduction.arguments, lower, upper, strict=True)
        }
        found = propagated(reduction.graph, domain, budget, CROWN().lines_of, known)
        return Swept(domain, found.ranges, (~found.empty).nonzero().squeeze(1), found.backward)

    def _half_spaces(self, branches: Sequence[Branch]) -> HalfSpaces | None:
        most = max(len(one.normals) for one in branches)
        if not most:
            return None
        like = self.reduction.domain.box.lower
        normals = like.new_zeros(len(branches), most, like.shape[1])
        limits = like.new_full((len(branches), most), torch.inf)
        for k, one in enumerate(branches):
            if one.normals:
                normals[k, : len(one.normals)] = torch.stack(one.normals)
                limits[k, : len(one.limits)] = torch.stack(one.limits)
        return HalfSpaces(normals, limits)

    def arguments(self, ranges: Facts, some: Tensor) -> Interval:
        """The ranges of all arguments over some branches, (branches, neurons)."""
        found = [ranges[node][some] for node in self.reduction.arguments]
        return Interval(torch.cat([one.lower for one in found], 1), torch.cat([one.upper for one in found], 1))

    def unstable(self, ranges: Facts, some: Tensor) -> Tensor:
        """Which neurons have more than one slope over some branches, bool (branches, neurons)."""
        graph = self.reduction.graph
        slopes = derivative_ranges(graph, {node: x[some] for node, x in ranges.items()})
        return torch.cat([is_unstable(slopes[node]) for node in self._readers], 1)

    def split_points(self, ranges: Interval) -> Tensor:
        """Where neurons are split: at the break nearest to the middle, else at the middle; NaN for too narrow ones."""
        middle = ranges.lower / 2 + ranges.upper / 2
        breaks = self._breaks.unsqueeze(1)
        inside = (breaks > ranges.lower) & (breaks < ranges.upper)
        away = torch.where(inside, (breaks - middle).abs(), torch.inf)
        nearest, which = away.min(0)
        at = torch.where(nearest.isfinite(), breaks.expand(-1, len(middle), -1).gather(0, which[None])[0], middle)
        return torch.where((ranges.lower < at) & (at < ranges.upper), at, torch.nan)

    def forms(self, swept: Swept, branches: Tensor, neurons: Tensor) -> list[InputForms]:
        """Linear bounds of one neuron's argument over each of some branches of a sweep."""
        found: list[InputForms | None] = [None] * len(branches)
        start = 0
        for node, count in zip(self.reduction.arguments, self.sizes, strict=True):
            mine = ((neurons >= start) & (neurons < start + count)).nonzero().squeeze(1)
            if len(mine):
                owners = Owners.of(branches[mine], len(swept.domain))
                forms = swept.backward.forms(node, neurons[mine] - start, owners)
                for k, place in enumerate(mine.tolist()):
                    parts = forms.upper_slope, forms.upper_offset, forms.lower_slope, forms.lower_offset
                    found[place] = InputForms(*(part[k : k + 1].clone() for part in parts))
            start += count
        return [one for one in found if one is not None]

    def pieces(self, swept: Swept, branch: int) -> HalfSpaces:
        """Half-spaces that keep every argument on the piece of its activation that it is on over one branch.

        Limits are infinite where a piece does not end.
        """
        normals, limits = [], []
        breaks = self._breaks.split(self.sizes, 1)
        for node, count, ends in zip(self.reduction.arguments, self.sizes, breaks, strict=True):
            owners = Owners.of(torch.full((count,), branch), len(swept.domain))
            forms = swept.backward.forms(node, torch.arange(count), owners)
            known = swept.ranges[node][branch]
            start = torch.where(ends <= known.lower, ends, -torch.inf).amax(0)
            end = torch.where(ends >= known.upper, ends, torch.inf).amin(0)
            normals += [-forms.upper_slope, forms.lower_slope]
            limits += [up(forms.upper_offset - start), up(end - forms.lower_offset)]
        return HalfSpaces(torch.cat(normals).unsqueeze(0), torch.cat(limits).unsqueeze(0))


def is_empty(domain: Domain, cut: HalfSpaces, beta: Tensor) -> bool:
    """Whether multipliers (M,) prove that no point of a set satisfies its half-spaces; certified."""
    whole = Domain(domain.box, domain.centre, domain.radius, domain.p, domain.scale, cut)
    nothing = beta.new_zeros(1, cut.normals.shape[2])
    size_of = beta.sum().clamp(min=1e-300)
    return bool(whole.lowered(nothing, Owners(), (beta / size_of).nan_to_num(nan=0.0).unsqueeze(0))[0] < 0)
