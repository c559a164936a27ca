"""`SplitNeurons`: branch and bound over the sides of kinks that the arguments of neurons lie on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import up
from jacobound.budget import Budget
from jacobound.checks import real, whole
from jacobound.errors import UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.inputs.domains import Domain
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.lower_ends.sampling import Sampling
from jacobound.method import About, Method, OutputMethod, Query, output_method
from jacobound.method.candidates import Candidates, Norm, norm_of, unstable_neurons
from jacobound.relaxation.ranges import CROWN
from jacobound.results.kinds import Candidate, Status
from jacobound.splitting.best_first import BestFirst, Sought
from jacobound.splitting.branches import Sweeps, Swept
from jacobound.splitting.influence import influence_of_neurons
from jacobound.splitting.reduced import is_reducible, reduced
from jacobound.splitting.tree import End, Limits

# The part of the time that a first search for a lower end may take.
OF_A_SEARCH = 0.1
# Branches that are bounded where neither time nor their number is limited.
UNLIMITED = 200


@dataclass(frozen=True)
class SplitNeurons(Method):
    """The constant over parts of the region on which more and more neurons have one slope.

    Certified: the two sides of a neuron cover its branch, so the largest bound of all branches holds; it only falls
    with time, and a call that is stopped returns what it has. On a branch without unstable neurons the Jacobian is one
    matrix: its norm is the constant, if some point lies there, and that point is the witness. For any number of inputs
    and some dozens of unstable neurons; `Split` halves inputs, where there are few. The search ends where the bound
    meets a proved lower end up to `gap`; `Candidate.note` says so.

    Args:
        preactivation: how the ranges of the whole region are found.
        together: branches that are bounded together at most.
        most: branches of each set that are bounded at most; None for no limit within a limited time, else 200.
        gap: share of the bound at which the search ends.
    """

    about: ClassVar[About] = About(
        "affine maps and activations on bounded regions, all norms", "Shi et al., NeurIPS 2022; jacobound"
    )

    preactivation: OutputMethod = field(default_factory=CROWN)
    together: int = 64
    most: int | None = None
    gap: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "preactivation", output_method(self.preactivation))
        whole(self.together, "together of SplitNeurons (branches bounded together)", 2)
        if self.most is not None:
            whole(self.most, "most of SplitNeurons (branches of each set)", 1)
        object.__setattr__(self, "gap", real(self.gap, "gap of SplitNeurons", 0.0))

    def constants(self, query: Query) -> Candidates:
        """The largest constant of the branches of each set.

        Raises:
            UnsupportedOpError: for networks of other nodes than affine maps and activations, and unbounded sets.
        """
        budget, began = query.budget, query.budget.spent
        whole = _in_float64(query)
        if not is_reducible(whole.graph) or not bool(query.domain.bounded.all()) or query.slopes is not None:
            raise UnsupportedOpError(
                "SplitNeurons takes networks of affine maps and activations on bounded regions; take Split(RecurJac()) "
                "for few inputs, or leave the method out"
            )
        found = []
        for k in range(len(query.domain)):
            share = budget.within(budget.remaining / (len(query.domain) - k))
            found.append(self._of_one(replace(whole.of_set(k, share)), query.graph))
        value = torch.cat([one.value for one in found]).to(torch.float64)
        moved = value.to(query.graph.example)
        moved = torch.where(moved.to(value) < value, up(moved), moved)
        late = Status.TIME_LIMIT if any(one.end is End.TIME for one in found) else Status.CERTIFIED
        note = "; ".join(dict.fromkeys(one.note for one in found))
        known = Candidate(moved, Status.of(late, moved), budget.spent - began, note=note)
        unstable = torch.cat([one.unstable for one in found])
        near = torch.cat([one.near.reshape(1, 1, *query.graph.in_shape) for one in found])
        return Candidates({type(self).__name__: known}, unstable, near=near)

    def _of_one(self, query: Query, graph: Graph) -> _Found:
        """Both ends of the constant of one set.

        Args:
            query: about the network in float64.
            graph: the network in question, for points.
        """
        ranges = query.ranges_by(self.preactivation, query.graph)
        asked = replace(query, ranges=ranges)
        enclosure = RecurJac().enclose(asked)
        first, unstable = norm_of(enclosure, asked).value, unstable_neurons(enclosure.slopes, 1)
        part = reduced(query.graph, query.domain, ranges, query.budget)
        sought = _Constant(query.norm, graph, query.domain)
        if part is None or not part.arguments:
            same = "the Jacobian is the same everywhere"
            note = "no point is certain to lie in the region, or numbers overflow" if part is None else same
            return _Found(first, unstable, sought.near, note, End.SETTLED if part is None else End.CLOSED)
        most = self.most if self.most is not None else inf if isfinite(query.budget.remaining) else UNLIMITED
        limits = Limits(self.gap, self.together, most)
        search = BestFirst(Sweeps(part), sought, limits, float(first))
        search.lower = sought.searched(float(first), query.budget)
        end = search.run(query.budget)
        upper, told = search.upper, f"{search.bounded} branches"
        ratio = upper / search.lower if search.lower > 0 else inf
        if ratio <= 1 + self.gap:
            told = f"exact up to a share of {max(ratio - 1, 0.0):.1e}, proved at the witness; {told}"
        return _Found(first.new_tensor([upper]), unstable, sought.near, f"{told}; {end.value}", end)

    def form(self, graph: Graph) -> Graph:
        """Affine and elementwise nodes alone."""
        return graph.expanded() if graph.expands else graph

    def bytes_per_set(self, graph: Graph) -> int:
        """As for the recursion over the whole of a set."""
        return RecurJac(preactivation=self.preactivation).bytes_per_set(graph)


def _in_float64(query: Query) -> Query:
    """The question about the network in float64 on the CPU; what is known of it stays where it is that already."""
    graph = query.graph.expanded()
    if graph.dtype == torch.float64 and graph.device.type == "cpu":
        return replace(query, graph=graph.with_affine_output())
    domain = query.domain.to(torch.float64).on("cpu")
    return replace(query, graph=graph.to("cpu", torch.float64).with_affine_output(), domain=domain, ranges=None)


@dataclass(frozen=True, eq=False)
class _Found:
    """What is known of one set: a bound (1,), unstable neurons (1,), the best point, and how the search ended."""

    value: Tensor
    unstable: Tensor
    near: Tensor
    note: str
    end: End


class _Constant(Sought):
    """The Lipschitz constant.

    Args:
        norm: (p, q).
        graph: the network, for points.
        domain: the set, in float64.
    """

    def __init__(self, norm: Norm, graph: Graph, domain: Domain) -> None:
        self._norm, self._domain, self._assumes = norm, domain, bool(graph.assumptions)
        double = graph.double if graph.device.type == "cpu" else graph.to("cpu", torch.float64)
        self._plain = double.plain() if double.is_plain else double.lowered()
        self.near, self._lower = domain.anchor, 0.0

    def over(self, sweeps: Sweeps, swept: Swept, budget: Budget) -> tuple[Tensor, Tensor]:
        graph, alive = sweeps.reduction.graph, swept.alive
        ranges = {node: x[alive] for node, x in swept.ranges.items()}
        query = Query(graph, swept.domain[alive], budget, self._norm, ranges)
        enclosure = RecurJac().enclose(query)
        gains = influence_of_neurons(enclosure.graph or graph, enclosure)
        gates = [node for node in (enclosure.graph or graph).nodes if node in gains]
        return norm_of(enclosure, query).value, torch.cat([gains[node] for node in gates], 1)

    def searched(self, upper: float, budget: Budget) -> float:
        """The lower end by a search of the whole set, in a small part of the time."""
        share = budget.within(OF_A_SEARCH * budget.remaining)
        return self._proved(Sampling(points=16, steps=40, ascents=4), None, upper, share)

    def attained(self, points: Tensor, upper: float, budget: Budget) -> float:
        near = points.reshape(1, -1, *self._plain.in_shape)
        return self._proved(Sampling(points=0, steps=0, ascents=1), near, upper, budget)

    def _proved(self, search: Sampling, near: Tensor | None, upper: float, budget: Budget) -> float:
        """Under assumptions about the network points prove nothing for it."""
        if self._assumes:
            return 0.0
        limit = self._domain.box.lower.new_tensor([upper])
        found = search.search(self._plain, self._domain, self._norm, budget, limit, near)
        if float(found.value) > self._lower:
            self._lower, self.near = float(found.value), found.point
        return self._lower

    def bytes_each(self, sweeps: Sweeps) -> int:
        return RecurJac().bytes_per_set(sweeps.reduction.graph)
