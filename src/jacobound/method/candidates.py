"""What methods know of the constants of a run of sets: candidates by name, of which the smallest certified one counts.

A Jacobian method gives the norm of its enclosure and products of norms with it; a Lipschitz method gives one constant
per set.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import inflate, up
from jacobound.budget import Budget, OutOfTimeError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, size
from jacobound.method.enclosure import JacobianEnclosure
from jacobound.method.facts import Facts, is_unstable
from jacobound.method.from_entries import from_entries, split_products
from jacobound.method.query import Query
from jacobound.operators.norms import LITTLE_WORK, PRODUCTS
from jacobound.results.kinds import Candidate, Status

Norm = tuple[float, float]

# The part of a call's time that the cheap norms of all layers may take together.
LITTLE_PART = 0.3


@dataclass(frozen=True, eq=False)
class Candidates:
    """What is known of the constants of N sets.

    Args:
        known: candidates by name, values of shape (N,).
        unstable: number of neurons of each set whose slope is not known, shape (N,).
        enclosure: what is known of the Jacobian besides, where it was enclosed.
        near: points at which constants were found to be large, (N, points, *input shape) in float64; hints.
    """

    known: Mapping[str, Candidate]
    unstable: Tensor
    enclosure: JacobianEnclosure | None = None
    near: Tensor | None = None

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
        near = [run.near for run in runs if run.near is not None]
        return Candidates(
            {name: _side_by_side(name, runs) for name in names},
            torch.cat([r.unstable for r in runs]),
            near=torch.cat(near) if len(near) == len(runs) and len({one.shape[1:] for one in near}) == 1 else None,
        )


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


def of_enclosure(enclosure: JacobianEnclosure, name: str, query: Query, started: float | None = None) -> Candidates:
    """Constants from what is known of the Jacobian over the sets of a query, by name.

    Args:
        query: about the graph, without `Vector` nodes, whose Jacobian is enclosed.
        started: when the work began, by `Budget.spent`; now, when None.
    """
    (p, q), budget, sets = query.norm, query.budget, len(query.domain)
    began = budget.spent if started is None else started
    values = {name: from_entries(enclosure, p, q)}
    with contextlib.suppress(OutOfTimeError):
        gates = enclosure.graph or query.graph
        values |= split_products(gates, enclosure, p, q, little_work(gates, budget))
    seconds = {name: budget.spent - began}
    known = {
        called: Candidate(value.expand(sets), Status.of(enclosure.status, value), seconds.get(called, 0.0))
        for called, value in values.items()
    }
    return Candidates(known, unstable_neurons(enclosure.slopes, sets), enclosure)


def norm_of(enclosure: JacobianEnclosure, query: Query) -> Candidate:
    """The norm of what is known of the Jacobian over the sets of a query, alone."""
    began, value = query.budget.spent, from_entries(enclosure, *query.norm)
    status = Status.of(enclosure.status, value)
    return Candidate(value.expand(len(query.domain)), status, query.budget.spent - began)


def products_through(exponent: float, enclosure: JacobianEnclosure, query: Query) -> dict[str, Candidate]:
    """Products of norms of another exponent than the query's, converted; none when their time is over."""
    (p, q), graph, sets = query.norm, enclosure.graph or query.graph, len(query.domain)
    try:
        found = split_products(graph, enclosure, exponent, q, little_work(graph, query.budget))
    except OutOfTimeError:
        return {}
    factor = conversion(graph, (exponent, q), (p, q))
    values = {f"{called} in l_{exponent:g}": up(value * factor) for called, value in found.items()}
    return {
        called: Candidate(value.expand(sets), Status.of(enclosure.status, value), 0.0)
        for called, value in values.items()
    }


def converted(candidate: Candidate, graph: Graph, known: Norm, wanted: Norm) -> Candidate:
    """A constant for one pair of norms as one for another pair."""
    factor = conversion(graph, known, wanted)
    return candidate if factor == 1 else replace(candidate, value=up(candidate.value * factor))


def unstable_neurons(slopes: Facts, sets: int) -> Tensor:
    """How many neurons of each set have more than one possible slope, shape (N,)."""
    counts = [is_unstable(slope).flatten(1).sum(1).cpu() for slope in slopes.values()]
    return torch.stack(counts).sum(0) if counts else torch.zeros(sets, dtype=torch.int64)


def little_work(graph: Graph, budget: Budget) -> int:
    """Products for the certificate of one norm, so that those of all layers take a part of a call's time together."""
    layers = sum(len(node.terms) for node in graph.nodes if isinstance(node, Affine))
    if math.isinf(budget.of_call):
        return LITTLE_WORK
    return max(1, min(LITTLE_WORK, int(LITTLE_PART * budget.of_call * PRODUCTS / max(1, layers))))


def conversion(graph: Graph, known: tuple[float, float], wanted: tuple[float, float]) -> float:
    """The factor from a constant for one pair of norms to one for another, rounded up to a float.

    ``||x||_a <= n^(1/a - 1/b) ||x||_b`` for a <= b, and ``||x||_a <= ||x||_b`` for a >= b.
    """
    before = size(graph.input) ** max(0.0, 1 / known[0] - 1 / wanted[0])
    after = size(graph.output) ** max(0.0, 1 / wanted[1] - 1 / known[1])
    return float(inflate(torch.tensor(before * after, dtype=torch.float64), 16)) if before * after > 1 else 1.0
