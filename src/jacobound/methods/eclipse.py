"""`ECLipsE`: Lipschitz constants layer by layer in closed form, for chains with thousands of neurons in a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from jacobound.domains import Domain
from jacobound.graph import Graph, Node
from jacobound.intervals import Interval
from jacobound.methods.base import Budget, OutputMethod, derivative_ranges
from jacobound.methods.crown import CROWN
from jacobound.methods.ibp import IBP
from jacobound.methods.layered_certificate import LayeredCertificate, layered_constant
from jacobound.methods.layered_chain import LayeredChain, chain_bytes, layered_chain
from jacobound.methods.layered_search import Multipliers, Sweep, best_closed_form
from jacobound.methods.lipschitz_method import ConstantBound, LipschitzMethod, ranges_of_one
from jacobound.methods.sdp_certificate import LARGEST, SMALLEST
from jacobound.results import Status

# Factors by which multipliers are raised until a proof succeeds.
RAISED = (1.0, 1 + 1e-6, 1 + 1e-3, 1.5, 4.0)


@dataclass(frozen=True)
class ECLipsE(LipschitzMethod):
    """Certified constants of chains of layers, from closed forms of LipSDP's multipliers; local and global alike.

    The multipliers of a layer are in proportion to the absolute row sums of what reaches it (Xu and Sivaranjani 2024,
    Syed and Hu 2025), with the best of several margins, swept from the inputs and from the outputs. Every neuron has
    its own slopes. Cost and memory are those of a few products of the layers' matrices. Usually between `LipSDP`,
    whose problem it solves only roughly, and `SeqLip`.

    Args:
        preactivation: how ranges are found, from which slopes follow; None takes CROWN on bounded sets and intervals
            elsewhere.
    """

    preactivation: OutputMethod | None = None

    def constant(
        self,
        graph: Graph,
        domain: Domain,
        norm: tuple[float, float],
        budget: Budget,
        ranges: Mapping[Node, Interval] | None = None,
    ) -> ConstantBound:
        """A certified constant of the graph over the domain.

        Args:
            graph: a chain: every affine node follows from one activation (linear branches in between are allowed).
            norm: (p, q), each 1, 2 or inf.
            ranges: known enclosures of the nodes of ``graph.expanded()``.

        Returns:
            `details` holds the constants of both directions, `certificates` what proves the smaller one; infinite with
            `Status.MEMORY_LIMIT` when the layers do not fit.

        Raises:
            UnsupportedOpError: when the graph is no chain.
        """
        graph = graph.expanded()
        needed = chain_bytes(graph)
        if ranges is None:
            method = self.preactivation or (CROWN() if bool(domain.bounded.all()) else IBP())
            ranges = ranges_of_one(method, graph, domain, budget)
        slopes = derivative_ranges(graph, ranges)
        if needed is None or not budget.fits(needed):
            nothing = torch.tensor(math.inf, dtype=torch.float64)
            return ConstantBound(nothing, Status.MEMORY_LIMIT, {}, (), slopes, ranges)
        chain = layered_chain(graph, slopes)

        def over() -> bool:
            budget.tell(0, 1, "closed forms")
            return budget.is_over

        found = by_closed_form(chain, norm, over)
        best = min(found.values(), key=lambda certificate: certificate.value)
        values = {name: torch.tensor(part.value, dtype=torch.float64) for name, part in found.items()}
        value = torch.tensor(best.value, dtype=torch.float64)
        status = Status.TIME_LIMIT if budget.is_over else Status.CERTIFIED
        return ConstantBound(value, Status.of(status, value), values, (best,), slopes, ranges)


def by_closed_form(
    chain: LayeredChain, norm: tuple[float, float], over: Callable[[], bool]
) -> dict[str, LayeredCertificate]:
    """Certificates of the best closed forms from the inputs and, while there is time, from the outputs."""
    found = {}
    for name, turned in (("from the inputs", False), ("from the outputs", True)):
        if not found or not over():
            multipliers = best_closed_form(Sweep.of(chain, norm, turned), over)[1] if chain.is_usable else None
            found[name] = proved(chain, norm, turned, multipliers)
    return found


def proved(
    chain: LayeredChain, norm: tuple[float, float], turned: bool, found: Multipliers | None
) -> LayeredCertificate:
    """The certificate that multipliers lead to, raised by as little as is needed; infinite when nothing was proved."""
    nothing = torch.zeros(0, dtype=torch.float64)
    best = LayeredCertificate(math.inf, norm, turned, nothing, nothing, ())
    if found is None or len(found.neurons) != len(chain.halves):
        return best
    ends = [part.exp().clamp(SMALLEST, LARGEST) for part in (found.entering, found.leaving)]
    for factor in RAISED:
        neurons = tuple((part.exp() * factor).clamp(SMALLEST, LARGEST) for part in found.neurons)
        best = LayeredCertificate(math.inf, norm, turned, ends[0], ends[1], neurons)
        value = layered_constant(chain, best)
        if value < math.inf:
            return LayeredCertificate(value, norm, turned, ends[0], ends[1], neurons)
    return best


def recheck_layers(
    graph: Graph, slopes: Mapping[Node, Interval], certificate: LayeredCertificate, row: int | None = None
) -> float:
    """The constant that stored multipliers prove, computed anew from the graph; inf where they prove nothing.

    Args:
        row: the output that the certificate is about; None for all of them.
    """
    chain = layered_chain(graph.expanded(), slopes)
    return layered_constant(chain if row is None else chain.row(row), certificate)
