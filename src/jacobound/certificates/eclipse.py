"""`ECLipsE`: Lipschitz constants layer by layer in closed form, for networks with thousands of neurons in a layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from jacobound.certificates.layered.chain import chain_bytes, layered_chain
from jacobound.certificates.layered.driver import by_closed_form
from jacobound.constants.autolip import AutoLip
from jacobound.constants.enclosures import gates_of_one
from jacobound.method import (
    About,
    ConstantBound,
    LipschitzMethod,
    OutputMethod,
    Query,
    output_method,
)
from jacobound.relaxation.ranges import usual_ranges
from jacobound.results.kinds import Status


@dataclass(frozen=True)
class ECLipsE(LipschitzMethod):
    """Certified constants layer by layer, from closed forms of LipSDP's multipliers; local and global alike.

    The multipliers of a layer are in proportion to the absolute row sums of what reaches it (Xu and Sivaranjani 2024,
    Syed and Hu 2025), with the best of several margins, swept from the inputs and from the outputs. Every neuron has
    its own slopes. Cost and memory are those of a few products of the layers' matrices. Usually between `LipSDP`,
    whose problem it solves only roughly, and `SeqLip`.

    Args:
        preactivation: how ranges are found, from which slopes follow; None takes CROWN on bounded sets and intervals
            elsewhere.
    """

    about: ClassVar[About] = About(
        "networks thousands of neurons wide, skips included; all norms",
        "Xu and Sivaranjani, NeurIPS 2024; Syed and Hu 2025",
    )

    preactivation: OutputMethod | None = None

    def __post_init__(self) -> None:
        if self.preactivation is not None:
            object.__setattr__(self, "preactivation", output_method(self.preactivation))

    def constant(self, query: Query) -> ConstantBound:
        """A certified constant over one set; what is alive between two activations is one layer of a chain.

        Returns:
            `details` holds the constants of both directions, `certificates` what proves the smaller one. Infinite with
            `Status.MEMORY_LIMIT` when the layers do not fit; products of norms with `Status.INCOMPLETE` where the
            closed forms prove nothing.

        Raises:
            UnsupportedOpError: when a node has no form in affine and elementwise nodes.
        """
        graph, budget = query.graph.expanded(), query.budget
        needed = chain_bytes(graph)
        gates, known, ranges = gates_of_one(query, graph, self.preactivation or usual_ranges(query.domain))
        slopes = gates.slopes
        if needed is None or not budget.fits(needed):
            nothing = torch.tensor(math.inf, dtype=torch.float64)
            return ConstantBound(nothing, Status.MEMORY_LIMIT, {}, (), slopes, ranges)
        chain = layered_chain(graph, slopes)

        def over() -> bool:
            budget.tell(0, 1, "closed forms")
            return budget.is_over

        found = by_closed_form(chain, query.norm, over)
        best = min(found.values(), key=lambda certificate: certificate.value)
        values = {name: torch.tensor(part.value, dtype=torch.float64) for name, part in found.items()}
        value, proofs = torch.tensor(best.value, dtype=torch.float64), (best,)
        status = Status.TIME_LIMIT if budget.is_over else Status.CERTIFIED
        if not best.value < math.inf:
            value, proofs = AutoLip().constant(replace(query, graph=graph, ranges=known)).value, ()
            values, status = {**values, "products of norms": value}, Status.INCOMPLETE
        return ConstantBound(value, Status.of(status, value), values, proofs, slopes, ranges)
