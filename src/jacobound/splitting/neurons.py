"""`SplitNeurons`: branch and bound over the sides of kinks that the arguments of neurons lie on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import up
from jacobound.budget import Budget, OutOfTimeError
from jacobound.certificates.lipsdp import LipSDP
from jacobound.checks import real, whole
from jacobound.errors import UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.domains import Domain
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.method import About, Method, OutputMethod, Query, output_method
from jacobound.method.candidates import Candidates, norm_of, unstable_neurons
from jacobound.relaxation.ranges import CROWN
from jacobound.results.kinds import Candidate, Status
from jacobound.splitting.best_first import BestFirst
from jacobound.splitting.branches import Sweeps
from jacobound.splitting.homogeneous import around, faces, homogenised, is_homogeneous
from jacobound.splitting.reduced import is_reducible, reduced
from jacobound.splitting.sought import Constant
from jacobound.splitting.tree import End, Limits

# The part of the time for a certificate over the whole space.
OF_A_CERTIFICATE = 0.2
# Branches that are bounded where neither time nor their number is limited.
UNLIMITED = 200


@dataclass(frozen=True)
class SplitNeurons(Method):
    """The constant over parts of the region on which more and more neurons have one slope.

    Certified: the two sides of a neuron cover its branch, so the largest bound of all branches holds; it only falls
    with time, and a call that is stopped returns what it has. On a branch without unstable neurons the Jacobian is one
    matrix: its norm is the constant, if some point lies there, and that point is the witness. For any number of inputs
    and some dozens of unstable neurons; `Split` halves inputs, where there are few. Over the whole space for networks
    whose activations bend at 0 alone (ReLU, leaky ReLU, maxima, sorting): there every ray is bounded at once. The
    search ends where the bound meets a proved lower end up to `gap`; `Candidate.note` says so.

    Args:
        preactivation: how the ranges of the whole region are found.
        together: branches that are bounded together at most.
        most: branches of each set that are bounded at most; None for no limit within a limited time, else 200.
        gap: share of the bound at which the search ends.
    """

    about: ClassVar[About] = About(
        "affine maps and activations, bounded regions or bends at 0 alone", "Shi et al., NeurIPS 2022; jacobound"
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
        bounded = bool(query.domain.bounded.all())
        if not is_reducible(whole.graph) or query.slopes is not None or not (bounded or is_homogeneous(whole.graph)):
            raise UnsupportedOpError(
                "SplitNeurons takes networks of affine maps and activations on bounded regions, and on others those "
                "whose activations bend at 0 alone; take Split(RecurJac()) for few inputs, or leave the method out"
            )
        found = []
        for k in range(len(query.domain)):
            own = whole.of_set(k, budget.within(budget.remaining / (len(query.domain) - k)))
            ask = self._of_one if bool(own.domain.bounded.all()) else self._everywhere
            found.append(ask(own, query.graph))
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
        sought = Constant(query.norm, graph, query.domain)
        if part is None or not part.arguments:
            same = "the Jacobian is the same everywhere"
            note = "no point is certain to lie in the region, or numbers overflow" if part is None else same
            return _Found(first, unstable, sought.near, note, End.SETTLED if part is None else End.CLOSED)
        search = BestFirst(Sweeps(part), sought, self._limits(query.budget), float(first))
        try:
            search.lower = sought.searched(float(first), query.budget)
        except OutOfTimeError:
            return _Found(first, unstable, sought.near, f"not begun; {End.TIME.value}", End.TIME)
        return self._told(search, sought, unstable, first, search.run(query.budget))

    def _everywhere(self, query: Query, graph: Graph) -> _Found:
        """Both ends of the constant over the whole space, which is that over the faces of a box (`homogeneous`)."""
        share = query.budget.within(OF_A_CERTIFICATE * query.budget.remaining)
        known = LipSDP().constants(replace(query, budget=share, ranges=None))
        scaled = homogenised(query.graph)
        sought = Constant(query.norm, graph, query.domain, scaled=True, sharpened=True)
        first = float(known.upper)
        lower = sought.searched(first, query.budget)
        whole = Domain(around(size(query.graph.input)))
        ranges = self.preactivation.ranges(scaled, whole, query.budget, with_output=False)
        part = reduced(scaled, whole, ranges, query.budget)
        if part is None or not part.arguments:
            return _Found(known.upper, known.unstable, sought.near, "numbers overflow, or it is linear", End.SETTLED)
        boxes = list(faces(size(query.graph.input)))
        search = BestFirst(Sweeps(part), sought, self._limits(query.budget), first, lower, boxes)
        return self._told(search, sought, known.unstable, known.upper, search.run(query.budget))

    def _limits(self, budget: Budget) -> Limits:
        """When a search within a budget ends."""
        most = self.most if self.most is not None else inf if isfinite(budget.remaining) else UNLIMITED
        return Limits(self.gap, self.together, most)

    def _told(self, search: BestFirst, sought: Constant, unstable: Tensor, known: Tensor, end: End) -> _Found:
        """What a search found, in words too."""
        upper, told = min(search.upper, float(known)), f"{search.bounded} branches"
        ratio = upper / search.lower if search.lower > 0 else inf
        if ratio <= 1 + self.gap:
            told = f"exact up to a share of {max(ratio - 1, 0.0):.1e}, proved at the witness; {told}"
        return _Found(known.new_tensor([upper]), unstable, sought.near, f"{told}; {end.value}", end)

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
