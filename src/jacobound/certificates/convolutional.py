"""`FourierSDP`: Lipschitz constants of convolutional networks by semidefinite certificates, frequency by frequency."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from jacobound.certificates.frequencies.driver import Proved, solved
from jacobound.certificates.frequencies.stacks import stacked
from jacobound.certificates.layered.driver import distance_from_optimum
from jacobound.checks import real
from jacobound.constants.autolip import AutoLip
from jacobound.constants.enclosures import gates_of_one
from jacobound.errors import InvalidOptionError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine
from jacobound.method import (
    About,
    ConstantBound,
    LipschitzMethod,
    OutputMethod,
    Query,
    output_method,
)
from jacobound.operators.kinds import Convolution
from jacobound.relaxation.ranges import usual_ranges
from jacobound.results.kinds import Status


@dataclass(frozen=True)
class FourierSDP(LipschitzMethod):
    """Certified constants of networks with convolutions, by LipSDP's certificate at every frequency of a torus.

    Maps with zero padding lie on a torus; one multiplier for every channel of a hidden layer is shared by all
    positions, so that the certificate falls into one small matrix inequality for each frequency. Convolutions of any
    stride, dilation and groups, normalisations with stored statistics, average pools and skips are taken; layers behind
    a flatten by the certificate of every neuron on its own, joined by weights of the channels in between. Slopes are
    the hull over all positions of a channel: for the whole space and for large regions; on small ones, where most
    neurons have one slope, `LipSDP` knows more. From l2 to l2 (`Best(FourierSDP())`
    converts to other norms).

    Args:
        preactivation: how ranges are found, from which slopes follow; None takes CROWN on bounded sets and intervals
            elsewhere.
        tolerance: relative distance from the optimum at which the search may end.
    """

    about: ClassVar[About] = About(
        "networks that begin with convolutions; large regions and the whole space; l2 to l2",
        "Pauli, Gramlich and Allgöwer 2024 (arXiv 2405.01125); here by frequencies",
    )

    preactivation: OutputMethod | None = None
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.preactivation is not None:
            object.__setattr__(self, "preactivation", output_method(self.preactivation))
        if not 0 < real(self.tolerance, "tolerance of FourierSDP") < 1:
            raise InvalidOptionError(f"FourierSDP needs 0 < tolerance < 1, not {self.tolerance}")

    def norm_for(self, norm: tuple[float, float]) -> tuple[float, float]:
        """Frequencies keep the Euclidean norm alone."""
        return (2.0, 2.0)

    def constant(self, query: Query) -> ConstantBound:
        """A certified constant over one set.

        Returns:
            `details` holds the constants of every way to cut the network. Products of norms with
            `Status.INCOMPLETE` where no multipliers prove anything.

        Raises:
            UnsupportedOpError: when no part of the network can be taken by frequencies, and it is too wide to be taken
                as dense layers; says why.
            InvalidOptionError: for another norm.
        """
        if tuple(query.norm) != (2, 2):
            raise InvalidOptionError(
                f"FourierSDP bounds constants from l_2 to l_2 alone, not the norm {query.norm}; use LipSDP there, or "
                "Best(FourierSDP()), which converts"
            )
        graph, budget = query.graph.expanded(), query.budget
        gates, known, ranges = gates_of_one(query, graph, self.preactivation or usual_ranges(query.domain))
        ways = stacked(gates.graph, gates.slopes)
        found: dict[str, Proved] = {}
        for k, way in enumerate(ways):
            share = budget.within(budget.remaining / (len(ways) - k))
            found[way.name] = solved(way, self.tolerance, share)
            if budget.is_over:
                break
        values = {name: torch.tensor(one.value, dtype=torch.float64) for name, one in found.items()}
        best = min(found.values(), key=lambda one: one.value)
        value = torch.tensor(best.value, dtype=torch.float64)
        late = not all(one.finished for one in found.values()) or len(found) < len(ways)
        if not best.value < math.inf:  # numbers out of range, or no time for any multipliers
            found, late = {}, budget.is_over
            value = AutoLip().constant(replace(query, graph=graph, ranges=known)).value
            values = {**values, "products of norms": value}
        status = Status.TIME_LIMIT if late else Status.CERTIFIED if found else Status.INCOMPLETE
        note = distance_from_optimum(best.value, best.least) if len(found) == 1 else ""
        return ConstantBound(value, Status.of(status, value), values, (), gates.slopes, ranges, note)


def begins_with_convolution(graph: Graph) -> bool:
    """Whether the first layer that has weights is a convolution."""
    for node in graph.expanded().nodes:
        if isinstance(node, Affine) and any(operator.parameters() for operator, _ in node.terms):
            return any(isinstance(operator, Convolution) for operator, _ in node.terms)
    return False
