"""`Constant`: the Lipschitz constant over branches, by the recursion and by semidefinite certificates; witnesses."""

from __future__ import annotations

from math import inf, log

import torch
from torch import Tensor

from jacobound.budget import Budget
from jacobound.certificates.dense.barrier import Barrier
from jacobound.certificates.dense.forwards import sdp_core
from jacobound.certificates.dense.matrices import SdpCore
from jacobound.certificates.dense.proof import certify
from jacobound.certificates.dense.search import feasible_start, search
from jacobound.certificates.lipsdp import problems
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Elementwise, Node, size
from jacobound.inputs.domains import Domain
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.lower_ends.sampling import Sampling
from jacobound.method import Facts, Query, derivative_ranges
from jacobound.method.candidates import Norm, norm_of
from jacobound.splitting.best_first import Sought
from jacobound.splitting.branches import Sweeps, Swept
from jacobound.splitting.homogeneous import without_last_input
from jacobound.splitting.influence import influence_of_neurons

# The part of the time that a first search for a lower end may take.
OF_A_SEARCH = 0.1
# Certificates of branches: relative distance from the optimum, and inputs with weights of their own at most.
TOLERANCE, FEW_INPUTS = 0.01, 32


class Constant(Sought):
    """The Lipschitz constant of a network over one set, or over faces that stand for the whole space.

    Args:
        norm: (p, q).
        graph: the network, for points.
        domain: the set, in float64.
        scaled: whether branches are about (x, s), where the derivative by x is that of the network at x / s.
        sharpened: whether a semidefinite certificate is asked beside the recursion.
    """

    def __init__(self, norm: Norm, graph: Graph, domain: Domain, scaled: bool = False, sharpened: bool = False) -> None:
        self._norm, self._domain, self._assumes = norm, domain, bool(graph.assumptions)
        double = graph.double if graph.device.type == "cpu" else graph.to("cpu", torch.float64)
        self._plain = double.plain() if double.is_plain else double.lowered()
        self._scaled, self._sharpened = scaled, sharpened
        self._narrow: dict[Graph, tuple[Graph, dict[Node, Node]]] = {}
        self.near, self.lower = domain.anchor, 0.0

    def over(self, sweeps: Sweeps, swept: Swept, budget: Budget) -> tuple[Tensor, Tensor]:
        gates, slopes = self._gates(sweeps.reduction.graph, swept)
        box = swept.domain.box.map(lambda end: end[swept.alive][:, : size(gates.input)])
        query = Query(gates, Domain(box), budget, self._norm, {}, slopes)
        enclosure = RecurJac().enclose(query)
        gains = influence_of_neurons(gates, enclosure)
        values = norm_of(enclosure, query).value.nan_to_num(nan=inf, posinf=inf)
        if self._sharpened and (self._norm[0] < inf or size(gates.input) <= FEW_INPUTS):
            going = values > self.lower
            for k in range(len(values)):
                if bool(going[k]):
                    one = {node: slope[k] for node, slope in slopes.items()}
                    values[k] = min(float(values[k]), certified(gates, one, self._norm, self.lower))
        blocks = [node for node in gates.nodes if node in gains]
        return values, torch.cat([gains[node] for node in blocks], 1)

    def _gates(self, graph: Graph, swept: Swept) -> tuple[Graph, Facts]:
        """The network of gates, and their slopes over the branches that are alive."""
        slopes = derivative_ranges(graph, {node: x[swept.alive] for node, x in swept.ranges.items()})
        if not self._scaled:
            return graph, slopes
        if graph not in self._narrow:
            self._narrow[graph] = without_last_input(graph)
        narrow, moved = self._narrow[graph]
        return narrow, {moved[node]: slope for node, slope in slopes.items() if isinstance(node, Elementwise)}

    def searched(self, upper: float, budget: Budget) -> float:
        """The lower end by a search of the whole set, in a small part of the time."""
        share = budget.within(OF_A_SEARCH * budget.remaining)
        return self._proved(Sampling(points=16, steps=40, ascents=4), None, upper, share)

    def attained(self, points: Tensor, upper: float, budget: Budget, climbs: bool = False) -> float:
        if self._scaled:
            points = points[:, :-1] / points[:, -1:].clamp(min=1e-300)
        near = points.reshape(1, -1, *self._plain.in_shape)
        search = Sampling(points=4, steps=24, ascents=4) if climbs else Sampling(points=0, steps=0, ascents=1)
        return self._proved(search, near, upper, budget)

    def _proved(self, search: Sampling, near: Tensor | None, upper: float, budget: Budget) -> float:
        """Under assumptions about the network points prove nothing for it."""
        if self._assumes:
            return 0.0
        limit = self._domain.box.lower.new_tensor([upper])
        found = search.search(self._plain, self._domain, self._norm, budget, limit, near)
        if float(found.value) > self.lower:
            self.lower, self.near = float(found.value), found.point
        return self.lower

    def bytes_each(self, sweeps: Sweeps) -> int:
        return RecurJac().bytes_per_set(sweeps.reduction.graph)


def certified(gates: Graph, slopes: Facts, norm: Norm, enough: float) -> float:
    """A constant by semidefinite certificates of the gates over one branch; inf where nothing is proved.

    Args:
        slopes: of every gate, without the axis of sets.
        enough: the search for multipliers ends below.
    """
    core = sdp_core(gates, slopes)
    if not core.neurons or not core.is_finite:
        return inf  # the recursion knows the Jacobian
    return max((_of_part(part, kind, enough) for part, kind in problems(core, norm).values()), default=0.0)


def _of_part(core: SdpCore, norm: Norm, enough: float) -> float:
    barrier = Barrier(core, norm[0] == inf, norm[1] == 1 and core.outputs > 1)
    start = feasible_start(barrier) if core.inputs and core.outputs else None
    if start is None:
        return certify(barrier, None, None, norm).value
    found = search(barrier, start, TOLERANCE, 2 * log(enough) - 1e-6 if enough > 0 else -inf)
    return certify(barrier, barrier.weights(found.point), barrier.weights(start), norm).value
