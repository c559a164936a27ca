"""`Split`: a method asked about smaller and smaller parts of the region (branch and bound)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.budget import Budget, OutOfTimeError
from jacobound.checks import instance, real, whole
from jacobound.errors import InvalidOptionError
from jacobound.graph.graph import Graph
from jacobound.inputs.domains import Domain
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.lower_ends.sampling import Sampling
from jacobound.method import About, JacobianEnclosure, JacobianMethod, Method, Query
from jacobound.method.candidates import Candidates, Norm
from jacobound.results.kinds import Candidate, Status
from jacobound.splitting.bounded import Constants, Entries, Quantity
from jacobound.splitting.influence import influence_bytes
from jacobound.splitting.tree import End, Limits, Tree

# Parts that are bounded where neither time nor their number is limited.
UNLIMITED = 1000
CURE = "it takes a method such as RecurJac(), LinearSlopes() or LipSDP()"


@dataclass(frozen=True)
class Split(JacobianMethod):
    """A method asked about parts of the region, the loosest first, each halved along the input that matters most.

    Certified: the parts cover the region, so the largest of their bounds holds; it only falls with time, and a call
    that is stopped returns what it has. For few inputs, a dozen or so. The search ends where the bound meets a proved
    lower end up to `gap`; `Candidate.note` says so, and the witness of the answer is the point. Boxes, and balls in
    any norm: parts of an l1 or l2 ball that do not meet it are left out.

    Args:
        method: asked about every part.
        boxes: parts that are bounded together.
        most: parts of each set that are bounded at most; None for no limit within a limited time, else 1000.
        gap: share of the bound at which the search ends.
    """

    about: ClassVar[About] = About("as the method that it asks; few inputs", "Bunel et al., JMLR 2020; jacobound")

    method: Method = field(default_factory=RecurJac)
    boxes: int = 64
    most: int | None = None
    gap: float = 1e-6

    def __post_init__(self) -> None:
        method = instance(self.method, Method, "the method of Split", CURE)
        if not method.is_certified:
            raise InvalidOptionError(f"{method!r} is an estimate, and the largest of estimates is no bound; {CURE}")
        if isinstance(method, Split):
            raise InvalidOptionError(f"a Split of a Split splits no further; {CURE}")
        object.__setattr__(self, "method", method)
        whole(self.boxes, "boxes of Split (bounded together)", 2)
        if self.most is not None:
            whole(self.most, "most of Split (parts of each set)", 1)
        object.__setattr__(self, "gap", real(self.gap, "gap of Split", 0.0))

    def constants(self, query: Query) -> Candidates:
        """The largest constant of the parts of each set, beside what the method knows of the whole set."""
        method, budget, began = self.method, query.budget, query.budget.spent
        first = method.constants(query)
        if query.slopes is not None:  # given for the whole sets alone
            return first
        known = dict(first.known)
        searches = [
            _Search(self, query, k, first.upper[k : k + 1], budget.within(budget.remaining / (len(query.domain) - k)))
            for k in range(len(query.domain))
        ]
        ends = []
        for k, search in enumerate(searches):
            search.budget = budget.within(budget.remaining / (len(searches) - k))
            ends.append(search.run())
        status = Status.TIME_LIMIT if End.TIME in ends else Status.CERTIFIED
        value = torch.cat([search.upper for search in searches]).to(first.upper)
        note = "; ".join(dict.fromkeys(search.note for search in searches))
        known[type(self).__name__] = Candidate(value, Status.of(status, value), budget.spent - began, note=note)
        near = torch.cat([search.near for search in searches])
        return replace(first, known=known, near=near)

    def enclose(self, query: Query) -> JacobianEnclosure:
        """The hull of the Jacobians over the parts; sums of entries as over the whole sets."""
        method = self.method
        if not isinstance(method, JacobianMethod):
            raise InvalidOptionError(f"{method!r} bounds no entries of a Jacobian; take Split(RecurJac())")
        first = method.enclose(query).over(len(query.domain))
        if query.slopes is not None:
            return first
        graph, budget, hulls, status = self.form(query.graph), query.budget, list[Interval](), first.status
        for k in range(len(query.domain)):
            share = budget.within(budget.remaining / (len(query.domain) - k))
            known = first.entries[k].map(torch.Tensor.flatten)
            tree = Tree(query.domain[k : k + 1], Entries(method, graph), self._limits(share), share, known)
            if tree.run() is End.TIME and status is Status.CERTIFIED:
                status = Status.TIME_LIMIT
            hulls.append(tree.hull)
        shape = first.entries.shape
        lower, upper = (torch.stack([getattr(one, end) for one in hulls]).reshape(shape) for end in ("lower", "upper"))
        return replace(first, entries=Interval(lower, upper).intersect(first.entries), status=status)

    def form(self, graph: Graph) -> Graph:
        """That of the method."""
        return self.method.form(graph)

    def norm_for(self, norm: Norm) -> Norm:
        """That of the method."""
        return self.method.norm_for(norm)

    def bytes_per_set(self, graph: Graph) -> int:
        """For a part of each set; more parts together are cut to what there is."""
        return self.method.bytes_per_set(graph) + influence_bytes(graph)

    def _limits(self, budget: Budget) -> Limits:
        """When a search within a budget ends."""
        most = self.most if self.most is not None else inf if isfinite(budget.remaining) else UNLIMITED
        return Limits(self.gap, self.boxes, most)


class _Search:
    """Both ends of the constant of one set; lives for one call."""

    def __init__(self, split: Split, query: Query, k: int, known: Tensor, budget: Budget) -> None:
        self._split, self._graph, self._norm = split, query.graph, query.norm
        self.domain, self.budget, self._known = query.domain[k : k + 1], budget, known
        self._plain = query.graph.double.plain() if query.graph.is_plain else query.graph.double.lowered()
        self.near = self.domain.anchor.unsqueeze(1).to(torch.float64)
        self.lower, self._sought = 0.0, 0
        self.upper, self.note = known, ""

    def run(self) -> End:
        """Split the set, and look for points where its constant is reached."""
        method = self._split.method
        quantity: Quantity = Constants(method, method.form(self._graph), self._norm)
        known = Interval(torch.zeros_like(self._known), self._known)
        limits = self._split._limits(self.budget)
        tree = Tree(self.domain, quantity, limits, self.budget, known, self._attained)
        end = tree.run()
        self.upper = tree.hull.upper
        told = f"{tree.bounded} parts"
        ratio = float(self.upper) / self.lower if self.lower > 0 else inf
        if ratio <= 1 + self._split.gap:
            told = f"exact up to a share of {max(ratio - 1, 0.0):.1e}, proved at the witness; {told}"
        self.note = f"{told}; {end.value}"
        return end

    def _attained(self, parts: Domain, upper: Tensor) -> Tensor:
        """A proved lower end: searched for in the whole set first, and near the loosest parts as their number doubles.

        Under assumptions about the network points prove nothing for it, so the search goes on without.
        """
        self._sought += 1
        rare = self._sought & (self._sought - 1) == 0  # 1, 2, 4, 8, ...
        if rare and not self._graph.assumptions and bool(self.domain.bounded.all()):
            whole = self.domain.to(torch.float64)
            middles = whole.project(parts.to(torch.float64).anchor.unsqueeze(0))
            share = self.budget.within(0.1 * self.budget.remaining)
            near = torch.cat((self.near, middles), 1)
            try:
                found = Sampling().search(self._plain, whole, self._norm, share, upper.to(torch.float64), near)
                if float(found.value) > self.lower:
                    self.lower, self.near = float(found.value), found.point.unsqueeze(1)
            except OutOfTimeError:
                if self.budget.is_over:
                    raise
        return upper.new_tensor([self.lower])
