"""Radii from semidefinite certificates of the increments from a point: one search serves several margins.

Between x and any point of the ball around it every neuron has one slope, that of its chord (`derivative.increments`). A
semidefinite certificate over those slopes is a constant L with ``|g(y) - g(x)| <= L |y - x|`` for every margin g, so
``min(radius of the ball, g(x) / L)`` is certified; no integral is needed. Chords from one point vary about half as much
as derivatives over the ball. Offset local sectors are known from stability analysis (Yin, Seiler, Arcak, IEEE TAC
2022); here they meet the unstable core and weights for every input.

One search over all margins, each scaled by what it has at the point, finds multipliers of the neurons and inputs. They
serve every margin: with them fixed, the best constant of a single row is a Schur complement. A few cheap steps fit them
to each row that its margin does not outlast (`sdp_row`), and each is proved by itself. That is somewhat looser than a
search per margin and as many times cheaper as there are margins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.budget import Budget, OutOfTimeError, alarmed, stopping
from jacobound.certificates.dense.barrier import Barrier, Weights
from jacobound.certificates.dense.forwards import sdp_core
from jacobound.certificates.dense.matrices import SdpCore, sdp_bytes, unstable_count
from jacobound.certificates.dense.proof import certified_constant
from jacobound.certificates.dense.row import polished
from jacobound.certificates.dense.search import feasible_start, search
from jacobound.certificates.lipsdp import RATE
from jacobound.errors import InvalidRegionError
from jacobound.graph.derivative import increments
from jacobound.graph.nodes import size
from jacobound.questions.evaluators import Around
from jacobound.questions.marching import lasting_for
from jacobound.relaxation.ranges import CROWN

FIRST = 2.2  # the first ball, in radii that are certified already
GROWTH = 0.8  # rate at which constants grow with the radius, in logarithms, before two of them are known
FARTHEST = 2.0  # from one ball to the next
MOST = 4  # balls per point
TOGETHER = 0.6  # margins that are expected to end before this share of a ball's radius would only spoil the rest
WORTHWHILE = 0.03  # mean gain in the radii, in logarithms, for which another ball is tried
TOLERANCE = 0.2  # of the search, relative to the constant
INFLATIONS = (-8, -6, -4, -2, 0)  # powers of ten by which an output weight grows until its proof passes
RESERVED = 0.7  # share of the time left that one ball may take
DEARER = 0.7  # another ball begins only if so much of the time that it may take is left


@dataclass(frozen=True, eq=False)
class Shared:
    """Constants of the increments of a point's margins, by shared multipliers.

    Args:
        around: the margins and points.
        budget: when its time is over a search is cut short; what it has found by then is proved.
    """

    around: Around
    budget: Budget

    def __call__(self, point: int, radius: float, rows: Tensor, margins: Tensor) -> Tensor:
        """Constants (k,) of some margins from a point to its ball; inf where nothing is proved.

        Args:
            margins: what each margin is at the point, positive floats (k,); only the effort depends on them: constants
                for which a margin lasts over the whole ball are not improved.
        """
        around, p = self.around, self.around.balls.p
        # Powers of two are exact: the scaled margin is the margin, scaled.
        scales = torch.exp2(-torch.log2(margins.clamp(1e-100, 1e100)).round())
        target = around.graph.with_rows(around.rows[rows.cpu()] * scales.cpu().unsqueeze(1)).expanded()
        ranges = []
        for length in (0.0, radius):
            domain = around.domain(torch.tensor([point]), margins.new_full((1,), length))
            try:
                found = CROWN().ranges(target, domain, around.budget, with_output=False)
            except InvalidRegionError:  # the ball leaves the domain of a function
                return torch.full_like(margins, torch.inf)
            ranges.append({node: x[0] for node, x in found.items()})
        gates = increments(target, ranges[0], ranges[1])
        target, slopes = gates.graph, gates.slopes
        slow = RATE * (size(target.input) + unstable_count(target, slopes)) ** 3 > self.budget.remaining
        if slow or not around.budget.fits(sdp_bytes(target, slopes)):
            return torch.full_like(margins, torch.inf)
        enough = (margins * scales / radius).cpu() if radius > 0 else torch.full(margins.shape, torch.inf)
        return self._constants(sdp_core(target, slopes), p, enough).to(margins) / scales

    def _constants(self, core: SdpCore, p: float, enough: Tensor) -> Tensor:
        """Certified constants of the rows of a core; infinite where nothing was proved."""
        nothing = torch.full((core.outputs,), torch.inf, dtype=torch.float64)
        if not core.is_finite or not core.inputs:
            return nothing if not core.is_finite else torch.zeros_like(nothing)
        joint = Barrier(core, p == torch.inf, False)
        start = feasible_start(joint)
        if start is None:
            return nothing
        point = search(joint, start, TOLERANCE, over=stopping(self.budget)).point
        proved = []
        for j in range(core.outputs):
            share = self.budget.within(self.budget.remaining / (core.outputs - j))
            proved.append(_of_row(core, j, point.logs, p, float(enough[j]), stopping(share)))
        return torch.tensor(proved, dtype=torch.float64)


def _of_row(core: SdpCore, row: int, logs: Tensor, p: float, enough: float, over: Callable[[], bool]) -> float:
    """The certified constant of one row, from multipliers that serve all; infinite where nothing was proved.

    Args:
        logs: logarithms of the multipliers.
        enough: a constant that need not be improved.
    """
    kept = torch.cat((torch.tensor([row]), torch.arange(core.outputs, len(core.matrix))))
    missed = None if core.missed is None else core.missed[[row]]
    alone = SdpCore(core.matrix[kept], core.radius[kept], 1, core.inputs, core.blocks, missed=missed)
    barrier = Barrier(alone, p == math.inf, False)
    _, own = polished(barrier, logs, enough, over)
    for multipliers in (own,) if own is logs else (own, logs):
        least = barrier.needed(multipliers)
        if least is None:
            continue
        neurons, inputs = barrier.weights_of(multipliers)
        for power in INFLATIONS:
            outputs = least.reshape(1).clamp(min=1e-100) * (1 + 10.0**power)
            value = certified_constant(barrier.core, Weights(neurons, inputs, outputs), (p, 2.0))
            if value < math.inf:
                return value
    return math.inf


class Chase:
    """Which ball is worth a certificate next, for K margins of one point; lives for one call.

    Where a constant grows like a power of the radius, the largest radius it certifies follows from its value at any.

    Args:
        margins: what each margin is at the point (K,), float64.
        reached: radii (K,) that are certified already; 0 leaves a margin out.
        largest: no larger radius is tried.
    """

    def __init__(self, margins: Tensor, reached: Tensor, largest: float) -> None:
        self._margins, self._largest = margins, largest
        self._useful = (reached > 0) & (reached < largest) & (margins > 0)
        self._best, self._hoped = reached.clone(), FIRST * reached
        self._growth = torch.full_like(reached, GROWTH)
        self._last: tuple[float, Tensor] | None = None
        self.found = torch.zeros_like(reached)

    def next(self) -> tuple[float, Tensor] | None:
        """The radius of the next ball, and the margins that are expected to gain by it."""
        hoped = self._hoped.clamp(max=self._largest)
        rows = (self._useful & (hoped > self._best)).nonzero().squeeze(1)
        if not len(rows):
            return None
        radii = hoped[rows].unsqueeze(1)  # one of them it will be
        beyond = (hoped[rows] * (hoped[rows] / radii) ** self._growth[rows]).minimum(radii)
        gains = (beyond / self._best[rows]).log().clamp(min=0.0)
        gains = torch.where(hoped[rows] >= TOGETHER * radii, gains, 0.0)
        total = gains.sum(1)
        worth = total >= WORTHWHILE * int(self._useful.sum())
        if not bool(worth.any()):
            return None
        place = int(total.argmax())
        smaller = worth & (radii[:, 0] < TOGETHER * radii[place, 0])
        if bool(smaller.any()):  # far cheaper, and for margins that the larger ball leaves out
            place = int(torch.where(smaller, total, -1.0).argmax())
        return float(hoped[rows[place]]), rows[gains[place] > 0]

    def put(self, radius: float, rows: Tensor, constants: Tensor) -> None:
        """Constants (k,) of some margins over one ball."""
        lasting = lasting_for(self._margins[rows], constants)
        self.found[rows] = torch.maximum(self.found[rows], lasting.clamp(max=radius))
        self._best = torch.maximum(self._best, self.found)
        all_constants = torch.full_like(self._margins, torch.nan).index_copy(0, rows, constants.to(self._margins))
        if self._last is not None:
            before, known = self._last
            rate = (all_constants / known).log() / math.log(radius / before) if radius != before else known * torch.nan
            self._growth = torch.where(rate.isfinite(), rate.clamp(0.1, 20.0), self._growth)
        self._last = radius, all_constants
        hoped = radius * (lasting / radius) ** (1 / (1 + self._growth[rows]))
        self._hoped[rows] = hoped.nan_to_num(nan=0.0, posinf=FARTHEST * radius).clamp(max=FARTHEST * radius)


def refined(around: Around, start: Tensor, reached: Tensor, seconds: float, largest: float) -> Tensor:
    """Radii (n, K) by shared certificates, 0 where nothing is gained.

    Args:
        start: certified margins at the points (n, K).
        reached: radii (n, K) that are certified already; they only choose the balls.
        seconds: time for each point.
    """
    found = torch.zeros_like(reached)
    for point in range(len(reached)):
        share = around.budget.within(min(seconds, around.budget.remaining / (len(reached) - point)))
        chase, price = Chase(start[point], reached[point], largest), 0.0
        for _ in range(MOST):
            wanted = chase.next()
            if wanted is None or seconds <= 0:
                break
            began, (radius, rows) = share.spent, wanted
            if share.is_over or DEARER * price * radius**2 > share.remaining:
                break
            shared = Shared(around, share.within(RESERVED * share.remaining))
            try:
                with alarmed(share):
                    constants = shared(point, radius, rows, start[point, rows])
            except OutOfTimeError:
                break
            chase.put(radius, rows, constants)
            price = (share.spent - began) / radius**2  # more neurons become unstable in larger balls
        found[point] = chase.found
    return found
