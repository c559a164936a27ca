"""Ranges of all nodes: `IBP` by intervals, `FastLin` and `CROWN` by linear bounds, `SinglePrecision` by either."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from jacobound.activations.kinds.base import Activation
from jacobound.arithmetic.rounding import strict
from jacobound.checks import whole
from jacobound.graph.graph import Graph
from jacobound.inputs.domains import Domain
from jacobound.method import About, Budget, Facts, OutputMethod, output_method
from jacobound.relaxation.row_slopes import SlopeSearch
from jacobound.relaxation.sweep import LinesOf, propagate


class Sweeping(OutputMethod):
    """One sweep over the graph, by intervals and by lines of some kind."""

    @property
    @abstractmethod
    def lines_of(self) -> LinesOf | None:
        """Lines for an activation on an interval; None for intervals alone."""

    def ranges(self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True) -> Facts:
        return propagate(graph, domain, budget, self.lines_of, with_output, search=self.search)

    def ranges_within(self, graph: Graph, domain: Domain, budget: Budget, known: Facts) -> Facts:
        return propagate(graph, domain, budget, self.lines_of, False, known, self.search)

    @property
    def search(self) -> SlopeSearch | None:
        """What looks for better slopes of single rows; None for nothing."""
        return None


@dataclass(frozen=True)
class IBP(Sweeping):
    """Certified ranges of all nodes by interval propagation (Gowal et al. 2018): cheapest and loosest.

    Dual norms where a node is affine in the input.
    """

    about: ClassVar[About] = About("any network and region", "Gowal et al. 2018, arXiv:1810.12715")

    @property
    def lines_of(self) -> LinesOf | None:
        return None


@dataclass(frozen=True)
class FastLin(Sweeping):
    """Certified ranges with one slope above and below every activation (Weng et al. 2018): half the cost of CROWN."""

    about: ClassVar[About] = About("any network, bounded regions", "Weng et al., ICML 2018")

    @property
    def lines_of(self) -> LinesOf | None:
        return Activation.parallel_lines


@dataclass(frozen=True)
class CROWN(Sweeping):
    """Certified ranges with the line nearest to the activation on each side (Zhang et al. 2018), intersected with IBP.

    Lower slopes of ReLU-like activations adapt (1 where u >= -l, else the slope at the left); S-shaped activations
    get exact tangents. Only neurons that intervals have not shown stable are bounded this way.
    """

    about: ClassVar[About] = About("any network, bounded regions", "Zhang et al., NeurIPS 2018")

    @property
    def lines_of(self) -> LinesOf | None:
        return Activation.lines


@dataclass(frozen=True)
class AlphaCROWN(Sweeping):
    """Certified ranges as by `CROWN`, with slopes that every neuron chooses for itself (Xu et al. 2021).

    For neurons that `CROWN` does not show stable (and outputs), layer by layer, the slopes of all lines with a choice
    before them are improved by gradient steps in plain arithmetic: lower ones of ReLU-like activations, tangents of
    S-shaped and other curved ones. One pass with rounding makes the bounds; never looser than those of `CROWN`. When
    time is short the search ends early, at the latest with half of it gone.

    Args:
        steps: gradient steps; each costs about three passes of `CROWN` over the rows that are left.
    """

    about: ClassVar[About] = About("any network, bounded regions", "Xu et al., ICLR 2021, arXiv:2011.13824")

    steps: int = 20

    def __post_init__(self) -> None:
        whole(self.steps, "steps of AlphaCROWN", least=1)

    def ranges(self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True) -> Facts:
        usual = CROWN().ranges(graph, domain, budget, with_output=with_output)
        if budget.is_over:
            return usual
        # Lines of tighter ranges are others, and not better ones for every row: what is known is kept.
        return propagate(graph, domain, budget, self.lines_of, with_output, usual, self.search)

    @property
    def lines_of(self) -> LinesOf | None:
        return Activation.lines

    @property
    def search(self) -> SlopeSearch | None:
        return SlopeSearch(self.steps)


@dataclass(frozen=True)
class SinglePrecision(OutputMethod):
    """Certified ranges computed in float32 with the rounding bounds of float32, handed on in the graph's dtype.

    Half the memory traffic and twice the speed of float64 where matrix products dominate. Bounds are wider by what
    float32 rounds; in ``RecurJac(preactivation=SinglePrecision())`` everything after the ranges stays in float64.

    Args:
        method: how the ranges are found.
    """

    about: ClassVar[About] = About("as the method that it wraps", "jacobound")

    method: OutputMethod = field(default_factory=CROWN)

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", output_method(self.method, "method"))

    def ranges(self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True) -> Facts:
        """As for any method.

        Raises:
            UnsafeArithmeticError: when float32 can not hold a weight exactly.
        """
        single = graph.single
        with strict(single.device, single.dtype):
            found = self.method.ranges(single, domain.to(torch.float32), budget, with_output=with_output)
        twins = zip(graph.nodes, single.nodes, strict=True)
        ranges = {node: found[twin].map(lambda end: end.to(graph.dtype)) for node, twin in twins}
        if graph.execution is None:
            ranges[graph.input] = domain.box
        return ranges

    def bytes_per_set(self, graph: Graph) -> int:
        return self.method.bytes_per_set(graph.single) + super().bytes_per_set(graph)


def usual_ranges(domain: Domain) -> OutputMethod:
    """How ranges are found where the user did not say: CROWN on bounded sets, intervals elsewhere."""
    return CROWN() if bool(domain.bounded.all()) else IBP()
