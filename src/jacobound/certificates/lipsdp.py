"""`LipSDP`: Lipschitz constants by semidefinite certificates on the unstable core, local and global alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from jacobound.arithmetic.linalg import dual_exponent
from jacobound.budget import PRODUCTS, Budget, stopping
from jacobound.certificates.dense.barrier import Barrier, Weights
from jacobound.certificates.dense.forwards import sdp_core
from jacobound.certificates.dense.matrices import SdpCore, core_operations, sdp_bytes, unstable_count
from jacobound.certificates.dense.proof import SdpCertificate, certified_constant, certify
from jacobound.certificates.dense.search import FIRST, WARM, feasible_start, search, warm_start
from jacobound.certificates.layered.chain import LayeredChain, chain_bytes, layered_chain
from jacobound.certificates.layered.driver import LayeredSolver, layered_problems, recheck_layers
from jacobound.certificates.layered.proof import LayeredCertificate
from jacobound.checks import real, seconds
from jacobound.constants.autolip import AutoLip
from jacobound.constants.enclosures import gates_of_one
from jacobound.errors import InvalidOptionError, UnsupportedOpError
from jacobound.graph.derivative import derivative_by_rows
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node, size
from jacobound.method import (
    About,
    ConstantBound,
    Facts,
    LipschitzMethod,
    OutputMethod,
    Query,
    output_method,
)
from jacobound.relaxation.ranges import CROWN
from jacobound.results.kinds import Status

# From so many unstable neurons on chains are solved layer by layer, unless Newton's method will end in time.
MANY = 800
# It takes about as long as so many feasible starts, as was measured from 800 to 1700 unstable neurons, ...
STARTS = 60
# ... and hardly less than so many seconds for (inputs + unstable neurons)³; more than LONGEST seconds are never spent.
RATE, LONGEST = 1e-9, 60.0
# What a start and a proof take of that.
OF_A_PROOF = 0.1
# Seconds that are spent however late it is.
LITTLE = 0.05
# Up to so many rows (columns, entries) a maximum over them is taken one by one where one problem would do too.
FEW = 64

Problems = dict[str, tuple[SdpCore, tuple[float, float]]]


@dataclass(frozen=True)
class LipSDP(LipschitzMethod):
    """Certified constants by the SDP of LipSDP-neuron on the unstable core, with the local slopes of every neuron.

    Over the whole space this is LipSDP-neuron (Fazlyab et al. 2019), on a region its local version; for p = inf every
    input has a weight of its own. With q = inf (and, for few inputs, p = 1) one problem per row (column) is solved.
    The search is interrupted by the budget; what it has found by then is certified. Networks with so many unstable
    neurons that Newton's method will not come to its end are solved layer by layer, skips as a part of the state: the
    same problem, with first-order steps that cost a few products of the layers. Their search may end above the
    optimum: `Status.CERTIFIED` says that the constant is proved and no time was missing, and a note how far from the
    SDP's own optimum it may be, by a feasible point of the dual problem. Graphs for which neither fits the memory get
    products of norms, with `Status.MEMORY_LIMIT`.

    Args:
        preactivation: how the ranges of the nodes are found.
        tolerance: relative distance to the SDP's own optimum at which Newton's method may end.
        seconds: time limit of one constant, besides the budget's.
    """

    about: ClassVar[About] = About(
        "any network and region whose unstable neurons fit a matrix; all norms", "Fazlyab et al., NeurIPS 2019"
    )

    preactivation: OutputMethod = field(default_factory=CROWN)
    tolerance: float = 1e-4
    seconds: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "preactivation", output_method(self.preactivation))
        seconds(self.seconds, "seconds of LipSDP")
        if not 0 < real(self.tolerance, "tolerance of LipSDP") < 1:
            raise InvalidOptionError(f"LipSDP needs 0 < tolerance < 1, not {self.tolerance}")

    def constant(self, query: Query) -> ConstantBound:
        graph, norm = query.graph.expanded(), query.norm
        own = query.budget.within(math.inf if self.seconds is None else self.seconds)
        gates, known, ranges = gates_of_one(query, graph, self.preactivation)
        slopes = gates.slopes
        rows = self._by_rows(graph, ranges, norm, own) if query.slopes is None else None
        found, status, note = self._certificates(gates.graph, slopes, norm, own)
        if rows is not None and (not found or _largest(rows[1]) < _largest(found)):
            found, status, slopes = rows[1], rows[2], rows[0]
        values = {name: torch.tensor(part.value, dtype=torch.float64) for name, part in found.items()}
        value = torch.stack(list(values.values())).max() if values else torch.zeros((), dtype=torch.float64)
        certificates = tuple(found.values())
        unknown = not found and status in (Status.MEMORY_LIMIT, Status.TIME_LIMIT)
        if unknown or not float(value) < math.inf:
            note = ""
            # The core does not fit, there is no time for it, or nothing could be proved for it.
            value, certificates = AutoLip().constant(replace(query, graph=graph, ranges=known)).value, ()
            values = {"products of norms": value}
            status = Status.TIME_LIMIT if status is Status.CERTIFIED else status
        return ConstantBound(value, Status.of(status, value), values, certificates, slopes, ranges, note)

    def _by_rows(
        self, graph: Graph, ranges: Facts, norm: tuple[float, float], budget: Budget
    ) -> tuple[Facts, dict[str, SdpCertificate], Status] | None:
        """Slopes, certificates and status with one multiplier for a row of softmax or of a normalisation.

        None where there is no such row, or where there is no time or memory for it besides that for plain gates.
        """
        gates = derivative_by_rows(graph, ranges)
        if gates is None:
            return None
        slopes, half = gates.slopes, budget.within(0.5 * budget.remaining)
        if not budget.fits(sdp_bytes(gates.graph, slopes)) or unstable_count(gates.graph, slopes) >= MANY:
            return None
        if _too_late(gates.graph, slopes, half):
            return None
        solver = _Solver(self.tolerance, half)
        parts = problems(sdp_core(gates.graph, slopes, gates.ties), norm)
        solved = {f"{name}, rows tied": one for name, one in solver.solve(parts).items()}
        return slopes, solved, Status.TIME_LIMIT if solver.interrupted else Status.CERTIFIED

    def _certificates(
        self, graph: Graph, slopes: Facts, norm: tuple[float, float], budget: Budget
    ) -> tuple[Mapping[str, SdpCertificate] | Mapping[str, LayeredCertificate], Status, str]:
        """Certificates of all parts by name, whether the search came to its end, and how near; none where none fits."""
        fits, chain, late = budget.fits(sdp_bytes(graph, slopes)), None, _too_late(graph, slopes, budget)
        if not fits or late or unstable_count(graph, slopes) >= MANY:
            chain = _chain(graph, slopes, budget)
        parts = _in_time(graph, slopes, norm, budget) if chain is not None and fits and not late else None
        if chain is not None and parts is None:
            layers = LayeredSolver(self.tolerance, budget)
            found = layers.solve(layered_problems(chain, norm))
            return found, Status.TIME_LIMIT if layers.interrupted else Status.CERTIFIED, layers.note
        if not fits:
            return {}, Status.MEMORY_LIMIT, ""
        if late:
            return {}, Status.TIME_LIMIT, ""
        solver = _Solver(self.tolerance, budget)
        solved = solver.solve(parts or problems(sdp_core(graph, slopes), norm))
        return solved, Status.TIME_LIMIT if solver.interrupted else Status.CERTIFIED, ""


def _largest(found: Mapping[str, SdpCertificate] | Mapping[str, LayeredCertificate]) -> float:
    return max((one.value for one in found.values()), default=0.0)


def _chain(graph: Graph, slopes: Facts, budget: Budget) -> LayeredChain | None:
    """The graph as a chain of layers; None when it is none or does not fit."""
    try:
        needed = chain_bytes(graph)
    except UnsupportedOpError:
        return None
    return layered_chain(graph, slopes) if needed is not None and budget.fits(needed) else None


def _too_late(graph: Graph, slopes: Facts, budget: Budget) -> bool:
    """Whether there is no time to put the core together and to prove something of it."""
    proof = OF_A_PROOF * RATE * (size(graph.input) + unstable_count(graph, slopes)) ** 3
    return core_operations(graph, slopes) / PRODUCTS + proof > max(budget.remaining, LITTLE)


def _in_time(graph: Graph, slopes: Facts, norm: tuple[float, float], budget: Budget) -> Problems | None:
    """The problems on the core, if Newton's method is likely to solve them all in time, by how long a start takes."""
    own = budget.within(LONGEST)
    if RATE * (size(graph.input) + unstable_count(graph, slopes)) ** 3 > own.remaining:
        return None
    parts = problems(sdp_core(graph, slopes), norm)
    began = own.spent
    for core, kind in list(parts.values())[:1]:
        if core.is_finite and core.inputs and core.outputs:
            feasible_start(_barrier(core, kind))
    return parts if STARTS * len(parts) * (own.spent - began) <= own.remaining else None


def _barrier(core: SdpCore, norm: tuple[float, float]) -> Barrier:
    return Barrier(core, norm[0] == math.inf, norm[1] == 1 and core.outputs > 1)


def recheck(
    graph: Graph,
    slopes: Facts,
    norm: tuple[float, float],
    certificates: Sequence[SdpCertificate] | Sequence[LayeredCertificate],
    ties: Mapping[Node, int] | None = None,
) -> float:
    """The constant that stored multipliers prove, computed anew from the graph; inf where they prove nothing.

    Uses nothing of the search: the core (the chain) is built, and one matrix per certificate (per layer) is proved
    positive definite.

    Args:
        graph: without `Vector` nodes.
        slopes: derivative range of every elementwise node.
        certificates: of one method for one problem, as `ConstantBound` holds them.
        ties: gates of the graph that scale whole rows (`Derivative.ties`); each row needs one multiplier.
    """
    layered = [certificate for certificate in certificates if isinstance(certificate, LayeredCertificate)]
    if layered:
        return recheck_layers(layered_chain(graph, slopes), norm, layered)
    whole = [certificate for certificate in certificates if isinstance(certificate, SdpCertificate)]
    parts = problems(sdp_core(graph, slopes, ties), norm)
    if len(parts) != len(whole):
        return math.inf
    pairs = zip(parts.values(), whole, strict=True)
    return max((certified_constant(core, c.weights, kind) for (core, kind), c in pairs), default=0.0)


def problems(core: SdpCore, norm: tuple[float, float]) -> Problems:
    """Cores and norms whose largest constant is the one that is asked for, by name.

    The transposed core has the dual norms; it is taken where it makes the problem smaller or splits it into columns.
    """
    p, q = norm
    turned = (dual_exponent(q), dual_exponent(p))
    if q == math.inf:
        rows = {f"row {j}": core.rows(torch.tensor([j])) for j in range(core.outputs)}
        if p == 1 and core.outputs * core.inputs <= FEW:
            columns = {name: problems(row.transposed(), (math.inf, math.inf)) for name, row in rows.items()}
            return {f"{name}, {k}": part for name, parts in columns.items() for k, part in parts.items()}
        return {name: (row, (p, 2.0)) for name, row in rows.items()}
    if p == 1 and core.inputs <= FEW:
        columns = problems(core.transposed(), turned)
        return {name.replace("row", "column"): part for name, part in columns.items()}
    if core.outputs > core.inputs:
        return {"all": (core.transposed(), turned)}
    return {"all": (core, norm)}


@dataclass
class _Solver:
    """Solves the parts of a maximum, largest first; lives for one call.

    Args:
        tolerance: of the largest part; smaller parts stop once they are below the largest.
        budget: its time and progress.
        interrupted: whether a search was cut short or broke down.
        before: multipliers of the part solved last.
    """

    tolerance: float
    budget: Budget
    interrupted: bool = False
    before: Weights | None = None

    def solve(self, parts: Problems) -> dict[str, SdpCertificate]:
        found: dict[str, SdpCertificate] = {}
        sizes = {name: float(core.matrix[: core.outputs, : core.inputs].norm()) for name, (core, _) in parts.items()}
        largest = 0.0
        for done, name in enumerate(sorted(parts, key=lambda name: -sizes[name])):
            self.budget.tell(done, len(parts), "certificates")
            found[name] = self._solve(*parts[name], largest, len(parts) - done)
            largest = max(largest, found[name].value)
        return {name: found[name] for name in parts}

    def _solve(self, core: SdpCore, norm: tuple[float, float], largest: float, left: int) -> SdpCertificate:
        barrier = _barrier(core, norm)
        share = self.budget.within(self.budget.remaining / left)
        began = share.spent
        if not (core.is_finite and core.inputs and core.outputs):
            return certify(barrier, None, None, norm)
        warm = None if self.before is None else warm_start(barrier, self.before)
        start = warm if warm is not None else feasible_start(barrier)
        if start is None:
            self.interrupted = True  # what is certified is weaker than it could be
            return certify(barrier, None, None, norm)
        # Each proof at the end takes about as long as the start, and two may be tried.
        over = stopping(share, 2 * (share.spent - began), lambda: self.budget.tell(0, 1, "multipliers"))
        enough = 2 * math.log(largest) - 1e-6 if 0 < largest < math.inf else -math.inf
        first = FIRST if warm is None else WARM
        result = search(barrier, start, self.tolerance, enough, over, first)
        self.interrupted |= not result.converged
        self.before = barrier.weights(result.point)
        return certify(barrier, self.before, barrier.weights(start), norm)
