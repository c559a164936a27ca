"""The recursion over the unstable core: bounds of the outputs' derivatives, from the last block to the input.

For every output j and, from the last unstable layer to the first, bounds [L, U] of Y_i, the derivative of output j
with respect to unstable neuron i, are found by pushing the neuron's unit tangent to the output. At each later
unstable neuron the product slope * Y is replaced by lines (`product_relaxation`); everything stable has already been
multiplied out (`core`), so upper and lower bounds and all outputs share that work, and only unstable neurons need
bounds at all. The last step does the same for the unit tangents of the input. Source: RecurJac (AAAI 2019), section 3.

One step, with t the tangent that arrives before unstable neuron m and ``s Y`` its slope times the output's derivative:

    t s Y <= t (upper_slope Y + upper_offset)   for t >= 0,       t s Y <= t (lower_slope Y + lower_offset)   for t < 0,

because multiplying the lines of `product_lines` by a negative t turns them around; for lower bounds the two change
places. Y is not replaced by its interval here but by what it is, the sum over everything behind m: so the tangent goes
on as ``t slope``, the offset ``t offset`` is added once, and the next neuron chooses by the sign of the sum of all that
arrives there. Upper and lower bounds are two chains, since their tangents differ after the first neuron. Upper offsets
are at least 0 and lower ones at most 0, so every added offset moves a bound outward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, concatenated, interval_dot
from jacobound.arithmetic.rounding import down, gamma, inflate, rigorous, underflow, unit, up
from jacobound.budget import PRODUCTS
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Elementwise, Node, size
from jacobound.jacobian.core import LEAST_COLUMNS, UnstableCore, build_core, core_bytes, matrix_bytes, unstable_counts
from jacobound.jacobian.fastlip import by_intervals, interval_adjoints
from jacobound.jacobian.known_slopes import KnownSlopes
from jacobound.jacobian.recursion.groups import grouped, joined, one_by_one, only
from jacobound.jacobian.recursion.operations import recursion_operations
from jacobound.jacobian.recursion.product_lines import ProductLines, ProductRelaxation
from jacobound.jacobian.rounding_weights import defect_weights
from jacobound.method import Budget, Deferred, Facts, JacobianEnclosure, flat_indices
from jacobound.operators.base import positions
from jacobound.results.kinds import Status

# Columns that are pushed together: neighbours in an image, that reach few neurons between them.
TOGETHER, SPARSE = 128, 0.5  # where less than this share of the tangents is not zero

# Sums over outputs are merged for at most so many directions at once, each of which costs what one output does.
MOST_ROWS = 8
# How many times faster than expected the recursion would have to be before it is not begun.
HOPEFUL = 4.0
# Bytes for one chunk of columns on a CPU: more do not stay in its caches, and every temporary is mapped anew.
CHUNK = 1 << 25


def recur(
    graph: Graph,
    slopes: Facts,
    ranges: Facts,
    relax: ProductRelaxation,
    budget: Budget,
    known: Facts | None = None,
) -> JacobianEnclosure:
    """Bounds of a graph's derivative over N sets; by intervals alone when memory or time do not allow the recursion.

    Args:
        graph: with an affine last node.
        slopes: derivative range of every elementwise node, (N, *node shape).
        ranges: enclosures of the nodes' values, passed on in the result.
        relax: how slope times derivative is bounded by lines.
        known: enclosures of the outputs' derivatives with respect to some nodes, (N, outputs, *node shape), to be
            intersected with those found here: narrower ones give better lines.
    """
    groups = grouped(graph, unstable_counts(graph, KnownSlopes.of(slopes).ranges), budget)
    known = {} if known is None else known
    if len(groups) == 1:
        return _recur_together(graph, slopes, ranges, relax, budget, known)
    parts = [
        _recur_together(graph, only(slopes, sets), only(ranges, sets), relax, budget, only(known, sets))
        for sets in groups
    ]
    return joined(graph, groups, parts, slopes, ranges)


def _recur_together(
    graph: Graph,
    slopes: Facts,
    ranges: Facts,
    relax: ProductRelaxation,
    budget: Budget,
    known: Facts,
) -> JacobianEnclosure:
    """`recur` for sets whose lists of unstable neurons are padded to one length."""
    adjoints = interval_adjoints(graph, slopes, known)
    steady = KnownSlopes.of(slopes)
    counts = unstable_counts(graph, steady.ranges)
    needed = counts.shape[1] * core_bytes(graph, int(counts.amax(1).sum()), LEAST_COLUMNS)
    if not budget.fits(needed):
        return by_intervals(graph, slopes, ranges, adjoints, Status.MEMORY_LIMIT)
    core = None
    if not budget.is_over and _is_hopeful(graph, steady.ranges, budget):
        weights = defect_weights(graph, steady.ranges, adjoints, steady.defects)
        core = build_core(graph, steady.ranges, weights, budget, steady.defects)
    if core is None:
        return by_intervals(graph, slopes, ranges, adjoints, Status.TIME_LIMIT)
    recursion = Recursion(core, adjoints, relax, budget)
    recursion.run()
    entries = recursion.bound(graph.input)

    def refined() -> Facts:
        found: dict[Node, Interval] = {block: recursion.refined(block) for block in core.blocks}
        found[graph.input] = entries.map(lambda end: end.reshape(*end.shape[:2], *graph.in_shape))
        return interval_adjoints(graph, slopes, found)

    if recursion.late:
        return by_intervals(graph, slopes, ranges, refined(), Status.TIME_LIMIT)

    def across(directions: Tensor) -> Interval:
        def rows(merged: Graph, own: Facts) -> Interval:
            return recur(merged, own, {}, relax, budget).entries

        return sums_across(graph, slopes, entries, directions, rows, budget)

    return JacobianEnclosure(entries, recursion.along, Deferred(refined), slopes, ranges, across=across)


def _is_hopeful(graph: Graph, slopes: Facts, budget: Budget) -> bool:
    """Whether the recursion may come to an end in the time that is left: it is of no use before."""
    if budget.remaining == inf:
        return True
    sets = max((len(slope.lower) for slope in slopes.values()), default=1)
    operations = sets * recursion_operations(graph, only(slopes, torch.zeros(1, dtype=torch.int64)))
    return operations <= HOPEFUL * budget.remaining * PRODUCTS


def sums_across(
    graph: Graph,
    slopes: Facts,
    entries: Interval,
    directions: Tensor,
    bound: Callable[[Graph, Facts], Interval],
    budget: Budget,
) -> Interval:
    """Certified range of ``sum_j J[j, k] directions[n, j, k]`` for every set n and input k, shape (N, inputs).

    A direction becomes one more row behind the graph, set by set. Inputs with the same direction (up to its sign) share
    the row, and at most `MOST_ROWS` rows (or as many as there are outputs) are formed, for the inputs with the longest
    columns; the other inputs get what the entries say.

    Args:
        slopes: derivative range of every elementwise node, (N, *node shape).
        entries: enclosure of the Jacobian, (N or 1, outputs, inputs).
        directions: exact floats, shape (N, outputs, inputs).
        bound: encloses the Jacobian of the graph with those rows behind it, over one set with the given slopes.
    """
    found = []
    for k, own in enumerate(one_by_one(slopes, len(directions))):
        sets = slice(k, k + 1) if len(entries.lower) > 1 else slice(0, 1)
        found.append(_sums_across(graph, entries[sets][0], directions[k], lambda g, own=own: bound(g, own), budget))
    return Interval(torch.stack([one.lower for one in found]), torch.stack([one.upper for one in found]))


def _sums_across(
    graph: Graph, entries: Interval, directions: Tensor, bound: Callable[[Graph], Interval], budget: Budget
) -> Interval:
    """`sums_across` for one set: entries and directions (outputs, inputs), result (inputs,)."""
    plain = interval_dot(directions.T, entries.map(torch.t))
    columns = flat_indices((directions != 0).sum(0) > 1)  # a sum of one term is as good as its entry
    if budget.is_over or not len(columns):
        return plain
    wanted = directions.T[columns]
    first = wanted.gather(1, (wanted != 0).to(torch.int8).argmax(1, keepdim=True))
    turn = torch.sign(first)  # the row of u serves -u as well
    rows, row_of = torch.unique(wanted * turn, dim=0, return_inverse=True)
    sizes = entries.magnitude().sum(0)[columns]
    largest = sizes.new_zeros(len(rows)).scatter_reduce(0, row_of, sizes, "amax")
    chosen = largest.topk(min(len(rows), max(MOST_ROWS, len(directions)))).indices
    place = torch.full_like(largest, -1, dtype=torch.int64)
    place[chosen] = positions(len(chosen), place)
    served = flat_indices(place[row_of] >= 0)
    merged = bound(graph.with_rows(rows[chosen]))[0][place[row_of[served]], columns[served]]
    turned = turn[served, 0] < 0
    merged = Interval(
        torch.where(turned, -merged.upper, merged.lower), torch.where(turned, -merged.lower, merged.upper)
    ).intersect(plain[columns[served]])
    where = columns[served]
    return Interval(plain.lower.index_copy(0, where, merged.lower), plain.upper.index_copy(0, where, merged.upper))


class Recursion:
    """The recursion over the blocks of a core; lives for one call.

    Args:
        core: the multiplied-out network.
        adjoints: interval enclosures (N, outputs, *node shape) that every bound is intersected with.
        relax: how slope times derivative is bounded by lines.
        budget: limits the memory of one chunk of columns, and the time: columns that come too late keep their
            interval enclosures.

    Attributes:
        late: whether there were such columns.
    """

    def __init__(self, core: UnstableCore, adjoints: Facts, relax: ProductRelaxation, budget: Budget) -> None:
        self._core, self._adjoints, self._relax, self._budget = core, adjoints, relax, budget
        self._outputs, self._sets = size(core.graph.output), core.sets
        self._derivative: dict[Node, Interval] = {}
        self._lines: dict[Node, ProductLines] = {}
        self._weight: dict[Node, Tensor] = {}
        self._price: dict[Node, Tensor] = {}
        self.late = False
        # What the core leaves of the memory, but never so little that columns go one by one.
        taken = self._sets * matrix_bytes(core.graph, core.neurons)
        most = CHUNK if core.graph.device.type == "cpu" else budget.memory
        self._free = replace(budget, memory=max(1, min(most, max(budget.memory - taken, budget.memory // 4))))
        self._terms = core.neurons + size(core.graph.input) + len(core.blocks) + 4

    def run(self) -> None:
        """Bound Y on every block, last to first."""
        for done, block in enumerate(reversed(self._core.blocks)):
            self._budget.tell(done, len(self._core.blocks) + 1, "Jacobian")
            derivative = self.bound(block)
            slope = self._core.slopes[block].map(lambda end: end.unsqueeze(1))
            self._lines[block] = self._relax(slope, derivative, self._price.pop(block))
            self._derivative[block] = derivative
            # Bound of the derivative with respect to the argument of the neuron: what a defect there can do.
            self._weight[block] = up(slope.magnitude() * derivative.magnitude())

    def refined(self, block: Elementwise) -> Interval:
        """The interval adjoint of a block's node with the bounds found for its unstable neurons put in."""
        found = self._derivative[block]
        place = self._core.unstable[block].entries(size(block)).unsqueeze(1)

        def put(known: Tensor, narrower: Tensor) -> Tensor:
            # One place behind the node's entries takes what belongs to padding.
            flat = torch.cat((known.flatten(2), known.new_zeros(*known.shape[:2], 1)), 2)
            flat = flat.expand(len(narrower), -1, -1).scatter(2, place.expand_as(narrower), narrower)
            return flat[..., :-1].reshape(*narrower.shape[:2], *block.shape)

        known = self._adjoints[block]
        return Interval(put(known.lower, found.lower), put(known.upper, found.upper))

    def bound(self, start: Node) -> Interval:
        """Bounds of the outputs' derivatives with respect to the columns of a start, shape (N, outputs, columns)."""
        core = self._core
        known = self._adjoints[start].map(lambda end: end.flatten(2))
        if start is not core.graph.input:
            chosen = core.unstable[start]
            known = known.map(lambda end: chosen.pick(end[..., chosen.union]))
        price = self._price_of(start)
        count = price.shape[2]
        each = 8 * self._sets * self._outputs * max(1, core.neurons + self._outputs) * core.graph.example.element_size()
        pieces, sparse = [], self._is_sparse(start)
        for chunk in self._free.chunks(count, max(each, self._free.memory // TOGETHER) if sparse else each):
            if self._budget.is_over:
                self.late = True
                pieces.append(known.map(lambda end, rest=chunk.start: end[..., rest:]))
                break
            first = {
                target: matrix[:, chunk].unsqueeze(1)
                for (target, source), matrix in core.transfer.items()
                if source is start
            }
            pieces.append(self._push(first, price[..., chunk], sparse=sparse))
            self._budget.tell(chunk.stop, count, "Jacobian columns")
        sets = max(len(piece.lower) for piece in pieces)
        return concatenated([piece.map(lambda end: end.expand(sets, -1, -1)) for piece in pieces], 2).intersect(known)

    def _is_sparse(self, start: Node) -> bool:
        """Whether most columns of a start reach few neurons each, as through convolutions."""
        matrices = [matrix for (_, source), matrix in self._core.transfer.items() if source is start]
        count = sum(matrix.numel() for matrix in matrices)
        return sum(int((matrix != 0).sum()) for matrix in matrices) < SPARSE * count

    def along(self, directions: Tensor) -> Interval:
        """Certified range of ``sum_k J[j, k] directions[n, j, k]``, one direction per set and output, (N, outputs)."""
        source, output = self._core.graph.input, self._core.graph.output
        first = {
            target: times(directions, matrix).unsqueeze(2)
            for (target, start), matrix in self._core.transfer.items()
            if start is source
        }
        if output in first:  # direction j is meant for output j alone
            first[output] = torch.diagonal(first[output], dim1=1, dim2=3).mT.unsqueeze(3)
        price = (directions.abs() * self._price_of(source)).sum(2, keepdim=True)
        found = self._push(first, inflate(price, directions.shape[2] + 1), own=True)
        return found.map(lambda end: end[..., 0])

    def _price_of(self, start: Node) -> Tensor:
        """Error per unit tangent at a start: of the matrices, and of every sum that the recursion forms with them."""
        if start in self._price:
            return self._price[start]
        core, price = self._core, self._core.error[start]
        if rigorous():
            total = torch.zeros_like(price)
            for (target, source), matrix in core.transfer.items():
                if source is start and target is core.graph.output:
                    total = total + matrix.abs().mT
                elif source is start:
                    total = total + self._weight[target] @ matrix.abs().mT
            price = up(price + inflate(total * gamma(self._terms, price), self._terms))
            if start in self._derivative:
                price = up(price + 2 * unit(price.dtype) * self._derivative[start].magnitude())
        self._price[start] = price
        return price

    def _push(
        self, first: Mapping[Node, Tensor], price: Tensor, *, own: bool = False, sparse: bool = False
    ) -> Interval:
        """Push tangents to the outputs and relax at every unstable neuron on the way.

        Args:
            first: tangents before each later block and at the output, (N or 1, outputs or 1, columns, neurons).
            price: error of each column, shape (N or 1, outputs, columns).
            own: the output entry of `first` has shape (N, outputs, columns, 1), already one value per output.
            sparse: whether neurons that no tangent reaches are left out; what is exactly zero costs no error.

        Returns:
            Interval of shape (N, outputs, columns).
        """
        core, output = self._core, self._core.graph.output
        pending = {target: value.unsqueeze(1) for target, value in first.items()}  # then two chains, upper first
        error = price.unsqueeze(1)
        offset = torch.zeros_like(error).expand(-1, 2, -1, -1)
        total = self._at_output(pending.pop(output), own) if output in pending else torch.zeros_like(error)
        for block in core.blocks:
            if block not in pending:
                continue
            before = pending.pop(block)
            reached = (before != 0).flatten(0, -2).any(0).nonzero().squeeze(1) if sparse else None
            if reached is not None:
                before = before[..., reached]
            tangents, added = self._through(block, before, reached)
            offset = torch.stack((up(offset[:, 0] + added[:, 0]), down(offset[:, 1] + added[:, 1])), 1)
            if rigorous():
                price = self._price_of(block) if reached is None else self._price_of(block)[..., reached]
                cost = (tangents.abs() @ price[:, None, :, :, None]).squeeze(4)
                error = up(error + inflate(cost, tangents.shape[-1] + 1))
            for (target, source), matrix in core.transfer.items():
                if source is not block:
                    continue
                matrix = matrix if reached is None else matrix[:, reached]
                if target is output:
                    total = total + (tangents @ matrix.mT[:, None, :, :, None]).squeeze(4)
                else:
                    image = times(tangents, matrix)
                    pending[target] = pending[target] + image if target in pending else image
        error = up(error + self._floor())
        upper = up(up(total[:, 0] + offset[:, 0]) + error[:, 0])
        return Interval.safe(down(down(total[:, -1] + offset[:, 1]) - error[:, -1]), upper)

    def _at_output(self, value: Tensor, own: bool) -> Tensor:
        """Tangents at the output as (N, 1, outputs, columns)."""
        return value.squeeze(4) if own else value[:, :, 0].mT

    def _through(self, block: Node, before: Tensor, reached: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Relax one block: new tangents (N, 2, outputs, columns, neurons), upper chain first, and offsets."""
        lines = self._lines[block].of(reached)
        positive = before > 0
        up_slope, low_slope = lines.upper_slope.unsqueeze(2), lines.lower_slope.unsqueeze(2)
        over, under = before[:, 0], before[:, -1]
        upper = over * torch.where(positive[:, 0], up_slope, low_slope)
        lower = under * torch.where(positive[:, -1], low_slope, up_slope)
        tangents = torch.stack((upper, lower), 1)
        if not bool((lines.upper_offset != 0).any()) and not bool((lines.lower_offset != 0).any()):
            return tangents, tangents.new_zeros(tangents.shape[:4])
        added_above = self._offsets(over, lines.upper_offset, lines.lower_offset)
        added_below = self._offsets(under, lines.lower_offset, lines.upper_offset)
        terms = before.shape[-1] * 2 + 2
        return tangents, torch.stack((inflate(added_above, terms), -inflate(-added_below, terms)), 1)

    def _offsets(self, tangents: Tensor, towards: Tensor, against: Tensor) -> Tensor:
        """``sum_i max(t, 0) towards + min(t, 0) against`` for every output and column: terms of one sign."""
        bent = ((towards != 0) | (against != 0)).flatten(0, 1).any(0).nonzero().squeeze(1)
        tangents, towards, against = tangents[..., bent], towards[..., bent], against[..., bent]
        positive, negative = tangents.clamp(min=0.0), tangents.clamp(max=0.0)
        return (positive @ towards.unsqueeze(3) + negative @ against.unsqueeze(3)).squeeze(3)

    def _floor(self) -> Tensor | float:
        """Underflow anywhere in the recursion, counted with the largest derivative behind it; (N, 1, 1, 1)."""
        if not rigorous():
            return 0.0
        # A product with a slope can underflow: its error counts with the derivative itself, not with slope times it.
        behind = [weight.sum((1, 2)) for weight in self._weight.values()]
        behind += [derivative.magnitude().sum((1, 2)) for derivative in self._derivative.values()]
        total = sum(behind, self._core.graph.example.new_full((1,), float(self._outputs)))
        floor = underflow(self._terms, total) * total * (len(self._core.blocks) + 1)
        return floor.reshape(-1, 1, 1, 1)


def times(x: Tensor, matrix: Tensor) -> Tensor:
    """Products of vectors (N or 1, *, k) with the matrices (N or 1, k, m) of their sets, shape (N, *, m)."""
    if len(matrix) == 1:
        return x @ matrix[0]
    image = x.flatten(1, -2) @ matrix
    return image.reshape(len(image), *x.shape[1:-1], matrix.shape[2])
