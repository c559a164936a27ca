"""What methods know of the constants of a run of sets: candidates by name, of which the smallest certified one counts.

A Jacobian method gives the norm of its enclosure and products of norms with it; a Lipschitz method gives one constant
per set. `Best` asks several of both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import up
from jacobound.budget import Budget, OutOfTimeError
from jacobound.constants.from_entries import from_entries, split_products
from jacobound.constants.lipschitz_method import ConstantBound, LipschitzMethod, conversion, little_work
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node
from jacobound.inputs.domains import Domain
from jacobound.jacobian.tangents import is_unstable
from jacobound.method import JacobianEnclosure, JacobianMethod
from jacobound.results.kinds import Candidate, Status

Norm = tuple[float, float]
Ranges = Mapping[Node, Interval]


@dataclass(frozen=True, eq=False)
class Candidates:
    """What is known of the constants of N sets.

    Args:
        known: candidates by name, values of shape (N,).
        unstable: number of neurons of each set whose slope is not known, shape (N,).
    """

    known: Mapping[str, Candidate]
    unstable: Tensor

    @property
    def upper(self) -> Tensor:
        """The smallest value of each set, shape (N,); estimates count only where there is nothing else."""
        return torch.stack([one.value for one in self._trusted.values()]).amin(0)

    @property
    def winner(self) -> str:
        """The candidate with the smallest value for the first set."""
        first = float(self.upper[0])
        return next(name for name, one in self._trusted.items() if float(one.value[0]) == first)

    @property
    def status(self) -> Status:
        """Of the winners; a candidate that was cut short by time might have been smaller."""
        upper = self.upper
        # An infinite value of one set says nothing of the others, and the caller looks at what is infinite.
        winners = [one.status for one in self._trusted.values() if bool((one.value == upper).any())]
        found = worst([status for status in winners if status not in (Status.OVERFLOW, Status.FAILED)])
        return Status.TIME_LIMIT if found is Status.CERTIFIED and self.is_late else found

    @property
    def _trusted(self) -> Mapping[str, Candidate]:
        return {name: one for name, one in self.known.items() if one.status is not Status.ESTIMATE} or self.known

    @property
    def is_late(self) -> bool:
        """Whether time was over before something had come to its end."""
        return any(one.status is Status.TIME_LIMIT for one in self.known.values())

    @staticmethod
    def joined(runs: list[Candidates]) -> Candidates:
        """All runs side by side; a candidate that a run does not have counts as inf there."""
        names = dict.fromkeys(name for run in runs for name in run.known)
        return Candidates({name: _side_by_side(name, runs) for name in names}, torch.cat([r.unstable for r in runs]))


def _side_by_side(name: str, runs: list[Candidates]) -> Candidate:
    values, statuses, certificates, seconds = [], [], [], 0.0
    for run in runs:
        one = run.known.get(name)
        values.append(torch.full(run.unstable.shape, math.inf).to(run.upper) if one is None else one.value)
        certificates += [()] * len(run.unstable) if one is None else one.certificates
        if one is not None:
            statuses.append(one.status)
            seconds += one.seconds
    proofs = tuple(certificates) if any(certificates) else ()
    note = "; ".join(dict.fromkeys(run.known[name].note for run in runs if name in run.known and run.known[name].note))
    return Candidate(torch.cat(values), worst(statuses), seconds, proofs, note)


def failed(name: str, sets: int, like: Tensor, status: Status, seconds: float, note: str) -> Candidates:
    """The row of a method that gave no constant of any set."""
    nothing = Candidate(torch.full((sets,), math.inf).to(like), status, seconds, note=note)
    return Candidates({name: nothing}, torch.zeros(sets, dtype=torch.int64))


def worst(statuses: list[Status]) -> Status:
    """One that is not certified at all before one that is only not plainly certified."""
    return min(statuses, key=lambda status: (status.certified, status is Status.CERTIFIED), default=Status.CERTIFIED)


def candidates(
    method: JacobianMethod | LipschitzMethod,
    graph: Graph,
    domain: Domain,
    norm: Norm,
    budget: Budget,
    ranges: Ranges | None = None,
) -> Candidates:
    """Everything that one method knows of the constants of every set of a domain.

    Args:
        ranges: known enclosures of the nodes of ``graph.expanded()``, each (N, *node shape).
    """
    name = type(method).__name__
    if isinstance(method, JacobianMethod):
        return of_jacobian(method, name, graph.expanded(), domain, norm, budget, ranges)
    return of_sets(method, name, graph, domain, norm, budget, ranges)


def of_jacobian(
    method: JacobianMethod,
    name: str,
    graph: Graph,
    domain: Domain,
    norm: Norm,
    budget: Budget,
    ranges: Ranges | None = None,
    through: Sequence[float] | None = None,
) -> Candidates:
    """Constants from an enclosure of the Jacobian, for all sets together.

    Args:
        graph: without `Vector` nodes.
        through: exponents of the norms in which products of norms are taken; None for that of the input.
    """
    started = budget.spent
    enclosure = method.enclose(graph, domain, budget, ranges)
    return of_enclosure(enclosure, name, graph, len(domain), norm, budget, through, started)


def of_enclosure(
    enclosure: JacobianEnclosure,
    name: str,
    graph: Graph,
    sets: int,
    norm: Norm,
    budget: Budget,
    through: Sequence[float] | None = None,
    started: float | None = None,
) -> Candidates:
    """Constants from what is known of the Jacobian over some sets.

    Args:
        through: as for `of_jacobian`.
        started: when the work began, by `Budget.spent`; now, when None.
    """
    (p, q), began = norm, budget.spent if started is None else started
    values = {name: from_entries(enclosure, p, q)}
    for exponent in (p,) if through is None else through:
        try:
            split = split_products(graph, enclosure, exponent, q, little_work(graph, budget))
        except OutOfTimeError:
            break
        if exponent != p:
            factor = conversion(graph, (exponent, q), norm)
            split = {f"{called} in l_{exponent:g}": up(value * factor) for called, value in split.items()}
        values |= split
    seconds = {name: budget.spent - began}
    known = {
        called: Candidate(value.expand(sets), Status.of(enclosure.status, value), seconds.get(called, 0.0))
        for called, value in values.items()
    }
    return Candidates(known, unstable_neurons(enclosure.slopes, sets))


def of_sets(
    method: LipschitzMethod,
    name: str,
    graph: Graph,
    domain: Domain,
    norm: Norm,
    budget: Budget,
    ranges: Ranges | None = None,
) -> Candidates:
    """Constants of the sets one by one; the time that is left is shared by those that are left."""
    started, sets = budget.spent, len(domain)
    found: list[ConstantBound] = []
    for k in range(sets):
        known = None if ranges is None else {node: x[k] for node, x in ranges.items()}
        share = budget.within(budget.remaining / (sets - k))
        try:
            found.append(method.constant(graph, domain[k : k + 1], norm, share, known))
        except OutOfTimeError:
            if not found:
                raise
            nothing = torch.full_like(found[0].value, math.inf)
            found += [replace(found[0], value=nothing, status=Status.TIME_LIMIT, certificates=())] * (sets - k)
            break
    slopes = [{node: slope[None] for node, slope in one.slopes.items()} for one in found]
    values = torch.stack([one.value for one in found])
    moved = values.to(graph.example)
    moved = torch.where(moved.to(values) < values, up(moved).to(values), moved.to(values)).to(graph.example)
    status, certificates = worst([one.status for one in found]), tuple(one.certificates for one in found)
    one = Candidate(moved, status, budget.spent - started, certificates if any(certificates) else ())
    return Candidates({name: one}, torch.cat([unstable_neurons(slope, 1) for slope in slopes]))


def converted(candidate: Candidate, graph: Graph, known: Norm, wanted: Norm) -> Candidate:
    """A constant for one pair of norms as one for another pair."""
    factor = conversion(graph, known, wanted)
    return candidate if factor == 1 else replace(candidate, value=up(candidate.value * factor))


def unstable_neurons(slopes: Mapping[Node, Interval], sets: int) -> Tensor:
    """How many neurons of each set have more than one possible slope, shape (N,)."""
    counts = [is_unstable(slope).flatten(1).sum(1).cpu() for slope in slopes.values()]
    return torch.stack(counts).sum(0) if counts else torch.zeros(sets, dtype=torch.int64)
