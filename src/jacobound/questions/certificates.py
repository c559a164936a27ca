"""Constants of several margins from one semidefinite search, for a march that goes on where cheaper ones give up.

One search over all margins, each scaled by what is left of it, finds multipliers of the neurons and inputs. They serve
every margin: with them fixed, the best constant of a single row is a Schur complement, and each is proved by itself.
That is looser than a search per margin (by half, on a network with 300 unstable neurons) and as many times cheaper as
there are margins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from jacobound.methods.base import derivative_ranges
from jacobound.methods.crown import CROWN
from jacobound.methods.sdp_barrier import Barrier, Weights
from jacobound.methods.sdp_certificate import certified_constant
from jacobound.methods.sdp_core import SdpCore, sdp_bytes, sdp_core
from jacobound.methods.sdp_search import feasible_start, search
from jacobound.questions.evaluators import Around
from jacobound.questions.marching import Bounds, March

NODES = (0.6, 1.2, 1.75, 2.3, 3.0, 4.0)  # where constants are found, in radii that are certified already
TOLERANCE = 0.06  # of the search, relative to the constant
INFLATIONS = (-8, -6, -4, -2, 0)  # powers of ten by which an output weight grows until its proof passes
DEARER = 1.0  # a farther node begins only if so many times the time of the one before is left


@dataclass(frozen=True, eq=False)
class Shared:
    """Margins of one point, and their constants by shared multipliers.

    Args:
        around: the margins and points.
        deadline: monotonic time at which a search is cut short; what it has found by then is proved.
    """

    around: Around
    deadline: float

    def __call__(self, point: int, radius: float, rows: Tensor, left: Tensor) -> Bounds:
        """Bounds (1, k) of some margins over one ball; `left` (k,) is what each has left, positive floats."""
        around, p = self.around, self.around.balls.p
        # Powers of two are exact: the scaled margin is the margin, scaled.
        scales = torch.exp2(-torch.log2(left.clamp(1e-100, 1e100)).round())
        target = around.graph.with_rows(around.rows[rows.cpu()] * scales.cpu().unsqueeze(1)).expanded()
        place = torch.tensor([point])
        domain = around.domain(place, left.new_full((1,), radius))
        found = CROWN().ranges(target, domain, around.budget)
        margins = found[target.output].lower.to(torch.float64) / scales
        slopes = derivative_ranges(target, {node: x[0] for node, x in found.items()})
        constants = torch.full_like(margins, torch.inf)
        if around.budget.fits(sdp_bytes(target, slopes)):
            values = self._constants(sdp_core(target, slopes), p)
            constants = values.to(margins) / scales
        return Bounds(margins, constants)

    def _constants(self, core: SdpCore, p: float) -> Tensor:
        """Certified constants of the rows of a core, (1, rows); infinite where nothing was proved."""
        nothing = torch.full((1, core.outputs), torch.inf, dtype=torch.float64)
        if not core.is_finite or not core.inputs:
            return nothing if not core.is_finite else torch.zeros_like(nothing)
        joint = Barrier(core, p == torch.inf, False)
        start = feasible_start(joint)
        if start is None:
            return nothing
        point = search(joint, start, TOLERANCE, over=self._over()).point
        least, weights = joint.needed(point.logs), joint.weights(point)
        if least is None:
            return nothing
        proved = [_proved(core, j, float(least[j, j]), weights, p) for j in range(core.outputs)]
        return torch.tensor([proved], dtype=torch.float64)

    def _over(self) -> Callable[[], bool]:
        before, longest = monotonic(), 0.0

        def over() -> bool:
            nonlocal before, longest
            now = monotonic()
            longest, before = max(longest, now - before), now
            return now + longest > self.deadline

        return over


def _proved(core: SdpCore, row: int, least: float, weights: Weights, p: float) -> float:
    """The certified constant of one row with the multipliers of all; infinite where nothing was proved.

    Args:
        least: about the smallest output weight for which the row has a certificate.
    """
    kept = torch.cat((torch.tensor([row]), torch.arange(core.outputs, len(core.matrix))))
    alone = SdpCore(core.matrix[kept], core.radius[kept], 1, core.inputs, core.blocks)
    for power in INFLATIONS:
        own = torch.tensor([max(least, 1e-100) * (1 + 10.0**power)], dtype=torch.float64)
        value = certified_constant(alone, Weights(weights.neurons, weights.inputs, own), (p, 2.0))
        if value < math.inf:
            return value
    return math.inf


def refined(around: Around, start: Bounds, reached: Tensor, seconds: float, largest: float) -> Tensor:
    """March with shared certificates from the points outward; radii (n, K), 0 where nothing is gained.

    Args:
        start: bounds over balls of radius 0.
        reached: radii (n, K) that are certified already; they only choose where constants are found.
        seconds: time for each point.
    """
    found = torch.zeros_like(reached)
    for point in range(len(reached)):
        deadline = monotonic() + min(seconds, around.budget.remaining / (len(reached) - point))
        own = slice(point, point + 1)
        state = March(Bounds(start.margin[own], start.constant[own]), True)
        useful = (reached[own] > 0) & (reached[own] < largest)
        took = 0.0
        for share in NODES:
            active = (state.left > 0) & useful
            rows = active[0].nonzero().squeeze(1)
            if not len(rows) or monotonic() + DEARER * took > deadline:
                break
            began = monotonic()
            radius = min(largest, share * float(reached[point, rows].min()))
            if radius <= float(state.at[0]):
                continue
            bounds = Shared(around, deadline)(point, radius, rows, state.left[0, rows])
            state.advance(torch.tensor([0]), state.at.new_full((1,), radius), rows, bounds)
            took = monotonic() - began
        found[point] = torch.where(useful[0], state.combined[0], 0.0)
    return found
