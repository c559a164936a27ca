"""Lines in the inputs around the rows of a target over many parts, and what they leave of a part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, gamma, inflate, up
from jacobound.budget import Budget
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node, size
from jacobound.inputs.domains import Domain, Owners
from jacobound.method import Facts
from jacobound.relaxation.ranges import CROWN
from jacobound.relaxation.sweep import propagated
from jacobound.verifying.target import Target

CUTS = 3  # times that a part is cut by the same lines


@dataclass(frozen=True, eq=False)
class OutputLines:
    """Certified lines around outputs in terms of the flattened input, over N sets.

    Args:
        slopes: shape (2, N, outputs, inputs), upper first.
        constants: shape (2, N, outputs); infinite where no line was asked for.
    """

    slopes: Tensor
    constants: Tensor

    def below(self, target: Target) -> tuple[Tensor, Tensor]:
        """Lines below the left sides, in float64: slopes (N, C, inputs) and constants (N, C)."""
        slopes, constants = (one.to(torch.float64)[:, :, target.row] for one in (self.slopes, self.constants))
        kept = target.sign > 0
        steep = torch.where(kept.unsqueeze(1), slopes[1], -slopes[0])
        return steep, torch.where(kept, constants[1], -constants[0])


def ranges_and_lines(
    graph: Graph, domain: Domain, budget: Budget, known: Facts, wanted: Tensor
) -> tuple[dict[Node, Interval], OutputLines | None, Tensor]:
    """Enclosures of all nodes, nowhere looser than what is known, and lines around the output.

    Args:
        wanted: which outputs are worth lines, bool (N, outputs); the others are enclosed by intervals.

    Returns:
        Ranges by node; no lines where no backward pass starts from the output; sets that are certainly empty, (N,).
    """
    found = propagated(graph, domain, budget, CROWN().lines_of, known)
    ranges, output = dict(found.ranges), graph.output
    if output not in found.reachable or not bool(domain.bounded.all()):
        return ranges, None, found.empty
    inputs, like = size(graph.input), graph.example
    slopes = like.new_zeros(2, *wanted.shape, inputs)
    constants = like.new_full((2, *wanted.shape), torch.inf)
    constants[1] = -torch.inf
    lower, upper = (end.flatten(1).clone() for end in (ranges[output].lower, ranges[output].upper))
    sets, rows = wanted.nonzero(as_tuple=True)
    each = found.backward.bytes_per_row(output) + 4 * inputs * like.element_size()
    for chunk in budget.chunks(len(rows), each, found.backward.products_per_row(output)):
        some, owners = (sets[chunk], rows[chunk]), Owners.of(sets[chunk], len(wanted))
        form = found.backward.forms(output, rows[chunk], owners)
        for side, slope, offset in ((0, form.upper_slope, form.upper_offset), (1, form.lower_slope, form.lower_offset)):
            slopes[(side, *some)], constants[(side, *some)] = slope, offset
        reach = domain.range_of(torch.stack((form.upper_slope, form.lower_slope)), owners)
        bounds = Interval.safe(down(reach.lower[1] + form.lower_offset), up(reach.upper[0] + form.upper_offset))
        better = bounds.intersect(Interval(lower[some], upper[some]))
        lower[some], upper[some] = better.lower, better.upper
    ranges[output] = Interval(lower, upper).reshape(*ranges[output].shape)
    return ranges, OutputLines(slopes, constants), found.empty


def cut_boxes(box: Interval, slopes: Tensor, constants: Tensor, bounds: Tensor) -> tuple[Interval, Tensor]:
    """The part of boxes where all lines of an alternative are at most their bounds, as boxes.

    Of ``s . x + c <= b`` follows ``s_i x_i <= b - c - sum over j != i of min s_j x_j`` for every input i, and by
    division a bound of x_i; each step is rounded so that the box is never too small.

    Args:
        box: (N, inputs), float64.
        slopes: (N, A, L, inputs).
        constants: (N, A, L).
        bounds: (A, L), rounded up.

    Returns:
        Boxes (N, A, inputs), and where no point is left, bool (N, A).
    """
    shape = (len(slopes), slopes.shape[1], box.lower.shape[1])
    lower, upper = (end.unsqueeze(1).expand(shape) for end in (box.lower, box.upper))
    room, gone = up(bounds - constants).unsqueeze(3), torch.zeros(shape[:2], dtype=torch.bool, device=slopes.device)
    for _ in range(CUTS):
        least = down(torch.minimum(slopes * lower.unsqueeze(2), slopes * upper.unsqueeze(2)))
        lost = inflate(gamma(shape[2] + 1, least) * least.abs().sum(3, keepdim=True), shape[2] + 2)
        others = down(down(least.sum(3, keepdim=True) - lost) - least)
        share = up(room - others) / slopes
        above = torch.where((slopes > 0) & share.isfinite(), up(share), math.inf).amin(2)
        below = torch.where((slopes < 0) & share.isfinite(), down(share), -math.inf).amax(2)
        low, high = torch.maximum(lower, below), torch.minimum(upper, above)
        gone = gone | (low > high).any(2)
        left = ~gone.unsqueeze(2)
        lower, upper = torch.where(left, low, lower), torch.where(left, high, upper)
    return Interval(lower, upper), gone
