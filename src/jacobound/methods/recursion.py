"""The recursion over the unstable core: bounds of the outputs' derivatives, from the last block to the input.

For every output j and, from the last unstable layer to the first, bounds [L, U] of Y_i, the derivative of output j
with respect to unstable neuron i, are found by pushing the neuron's unit tangent to the output. At each later
unstable neuron the product slope * Y is replaced by lines (`product_relaxation`); everything stable has already been
multiplied out (`core`), so upper and lower bounds and all outputs share that work, and only unstable neurons need
bounds at all. The last step does the same for the unit tangents of the input. Source: RecurJac (AAAI 2019), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from jacobound.graph import Elementwise, Graph, Node, size
from jacobound.intervals import Interval, concatenated, interval_dot
from jacobound.methods.base import Budget, Deferred, JacobianEnclosure, flat_indices
from jacobound.methods.core import UnstableCore, build_core, core_bytes
from jacobound.methods.defects import defect_weights
from jacobound.methods.fastlip import by_intervals, interval_adjoints
from jacobound.methods.product_relaxation import ProductLines, ProductRelaxation
from jacobound.operators import positions
from jacobound.results import Status
from jacobound.rounding import down, gamma, inflate, rigorous, underflow, unit, up

# Sums over outputs are merged for at most so many directions at once, each of which costs what one output does.
MOST_ROWS = 8


def recur(
    graph: Graph,
    slopes: Mapping[Node, Interval],
    ranges: Mapping[Node, Interval],
    relax: ProductRelaxation,
    budget: Budget,
    known: Mapping[Node, Interval] | None = None,
) -> JacobianEnclosure:
    """Bounds of a graph's derivative; by intervals alone when memory or time do not allow the recursion.

    Args:
        graph: with an affine last node.
        slopes: derivative range of every elementwise node.
        ranges: enclosures of the nodes' values, passed on in the result.
        relax: how slope times derivative is bounded by lines.
        known: enclosures of the outputs' derivatives with respect to some nodes, (outputs, *node shape), to be
            intersected with those found here: narrower ones give better lines.
    """
    adjoints = interval_adjoints(graph, slopes, known)
    short_of = None if budget.fits(core_bytes(graph, slopes)) else Status.MEMORY_LIMIT
    if short_of or budget.is_over:
        return by_intervals(graph, slopes, ranges, adjoints, short_of or Status.TIME_LIMIT)
    core = build_core(graph, slopes, defect_weights(graph, slopes, adjoints))
    recursion = Recursion(core, adjoints, relax, budget)
    recursion.run()
    entries = recursion.bound(graph.input)

    def refined() -> Mapping[Node, Interval]:
        found: dict[Node, Interval] = {block: recursion.refined(block) for block in core.blocks}
        found[graph.input] = entries.map(lambda end: end.reshape(-1, *graph.in_shape))
        return interval_adjoints(graph, slopes, found)

    def across(directions: Tensor) -> Interval:
        def rows(merged: Graph) -> Interval:
            return recur(merged, slopes, {}, relax, budget).entries

        return sums_across(graph, entries, directions, rows, budget)

    return JacobianEnclosure(entries, recursion.along, Deferred(refined), slopes, ranges, across=across)


def sums_across(
    graph: Graph, entries: Interval, directions: Tensor, bound: Callable[[Graph], Interval], budget: Budget
) -> Interval:
    """Certified range of ``sum_j J[j, k] directions[j, k]`` for every input k, shape (inputs,).

    A direction becomes one more row behind the graph. Inputs with the same direction (up to its sign) share the row,
    and at most `MOST_ROWS` rows (or as many as there are outputs) are formed, for the inputs with the longest columns;
    the other inputs get what the entries say.

    Args:
        entries: enclosure of the Jacobian.
        directions: exact floats, shape (outputs, inputs).
        bound: encloses the Jacobian of the graph with those rows behind it.
    """
    plain = interval_dot(directions.T, entries.map(torch.t))
    columns = flat_indices((directions != 0).sum(0) > 1)  # a sum of one term is as good as its entry
    if budget.is_over or not len(columns):
        return plain
    wanted = directions.T[columns]
    first = wanted.gather(1, (wanted != 0).to(torch.int8).argmax(1, keepdim=True))
    turn = torch.sign(first)  # the row of u serves -u as well
    rows, row_of = torch.unique(wanted * turn + 0.0, dim=0, return_inverse=True)
    sizes = entries.magnitude().sum(0)[columns]
    largest = sizes.new_zeros(len(rows)).scatter_reduce(0, row_of, sizes, "amax")
    chosen = largest.topk(min(len(rows), max(MOST_ROWS, len(directions)))).indices
    place = torch.full_like(largest, -1, dtype=torch.int64)
    place[chosen] = positions(len(chosen), place)
    served = flat_indices(place[row_of] >= 0)
    merged = bound(graph.with_rows(rows[chosen]))[place[row_of[served]], columns[served]]
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
        adjoints: interval enclosures (outputs, *node shape) that every bound is intersected with.
        relax: how slope times derivative is bounded by lines.
        budget: limits the memory of one chunk of columns.
    """

    def __init__(
        self, core: UnstableCore, adjoints: Mapping[Node, Interval], relax: ProductRelaxation, budget: Budget
    ) -> None:
        self._core, self._adjoints, self._relax, self._budget = core, adjoints, relax, budget
        self._outputs = size(core.graph.output)
        self._derivative: dict[Node, Interval] = {}
        self._lines: dict[Node, ProductLines] = {}
        self._weight: dict[Node, Tensor] = {}
        self._price: dict[Node, Tensor] = {}
        self._terms = core.neurons + size(core.graph.input) + len(core.blocks) + 4

    def run(self) -> None:
        """Bound Y on every block, last to first."""
        for done, block in enumerate(reversed(self._core.blocks)):
            self._budget.tell(done, len(self._core.blocks) + 1, "Jacobian")
            derivative = self.bound(block)
            slope = self._core.slopes[block]
            self._lines[block] = self._relax(slope, derivative, self._price.pop(block))
            self._derivative[block] = derivative
            # Bound of the derivative with respect to the argument of the neuron: what a defect there can do.
            self._weight[block] = up(slope.magnitude() * derivative.magnitude())

    def refined(self, block: Elementwise) -> Interval:
        """The interval adjoint of a block's node with the bounds found for its unstable neurons put in."""
        entries, found = self._core.entries[block], self._derivative[block]
        flat = self._adjoints[block].map(lambda end: end.flatten(1))
        put = Interval(flat.lower.index_copy(1, entries, found.lower), flat.upper.index_copy(1, entries, found.upper))
        return put.map(lambda end: end.reshape(self._outputs, *block.shape))

    def bound(self, start: Node) -> Interval:
        """Bounds of the outputs' derivatives with respect to the columns of a start, shape (outputs, columns)."""
        count = self._core.error[start].shape[1]
        known = self._adjoints[start].map(lambda end: end.flatten(1))
        known = known if start is self._core.graph.input else known[:, self._core.entries[start]]
        price = self._price_of(start)
        later = max(1, self._core.neurons + self._outputs)
        each = 8 * self._outputs * later * self._core.graph.example.element_size()
        pieces = []
        for chunk in self._budget.chunks(count, each):
            first = {
                target: matrix[chunk].unsqueeze(0)
                for (target, source), matrix in self._core.transfer.items()
                if source is start
            }
            pieces.append(self._push(first, price[:, chunk]))
            self._budget.tell(chunk.stop, count, "Jacobian columns")
        return concatenated(pieces, 1).intersect(known)

    def along(self, directions: Tensor) -> Interval:
        """Certified range of ``sum_k J[j, k] directions[j, k]``, one direction per output, shape (outputs,)."""
        source = self._core.graph.input
        first = {
            target: (directions @ matrix).unsqueeze(1)
            for (target, start), matrix in self._core.transfer.items()
            if start is source
        }
        output = first.get(self._core.graph.output)
        if output is not None:  # direction j is meant for output j alone
            first[self._core.graph.output] = torch.diagonal(output, dim1=0, dim2=2).T.unsqueeze(2)
        price = (directions.abs() * self._price_of(source)).sum(1, keepdim=True)
        found = self._push(first, inflate(price, directions.shape[1] + 1), own=True)
        return found.map(lambda end: end[:, 0])

    def _price_of(self, start: Node) -> Tensor:
        """Error per unit tangent at a start: of the matrices, and of every sum that the recursion forms with them."""
        if start in self._price:
            return self._price[start]
        core, price = self._core, self._core.error[start]
        if rigorous():
            total = torch.zeros_like(price)
            for (target, source), matrix in core.transfer.items():
                if source is start and target is core.graph.output:
                    total = total + matrix.abs().T
                elif source is start:
                    total = total + self._weight[target] @ matrix.abs().T
            price = up(price + inflate(total * gamma(self._terms, price), self._terms))
            if start in self._derivative:
                price = up(price + 2 * unit(price.dtype) * self._derivative[start].magnitude())
        self._price[start] = price
        return price

    def _push(self, first: Mapping[Node, Tensor], price: Tensor, own: bool = False) -> Interval:
        """Push tangents to the outputs and relax at every unstable neuron on the way.

        Args:
            first: tangents before each later block and at the output, shapes (outputs or 1, columns, neurons).
            price: error of each column, shape (outputs, columns).
            own: the output entry of `first` has shape (outputs, columns, 1), already one value per output.

        Returns:
            Interval of shape (outputs, columns).
        """
        core, output = self._core, self._core.graph.output
        pending = {target: value.unsqueeze(0) for target, value in first.items()}
        offset = price.new_zeros(2, self._outputs, price.shape[1])
        error = price.unsqueeze(0)
        total = self._at_output(pending.pop(output), own) if output in pending else torch.zeros_like(error)
        for block in core.blocks:
            if block not in pending:
                continue
            tangents, added = self._through(block, pending.pop(block))
            offset = torch.stack((up(offset[0] + added[0]), down(offset[1] + added[1])))
            if rigorous():
                cost = (tangents.abs() @ self._price_of(block).unsqueeze(2)).squeeze(3)
                error = up(error + inflate(cost, tangents.shape[-1] + 1))
            for (target, source), matrix in core.transfer.items():
                if source is not block:
                    continue
                if target is output:
                    total = total + (tangents @ matrix.T.unsqueeze(2)).squeeze(3)
                else:
                    image = tangents @ matrix
                    pending[target] = pending[target] + image if target in pending else image
        error = up(error + self._floor())
        upper = up(up(total[0] + offset[0]) + error[0])
        return Interval.safe(down(down(total[-1] + offset[1]) - error[-1]), upper)

    def _at_output(self, value: Tensor, own: bool) -> Tensor:
        """Tangents at the output as (1, outputs, columns)."""
        return value.squeeze(-1) if own else value[:, 0].transpose(1, 2)

    def _through(self, block: Node, before: Tensor) -> tuple[Tensor, Tensor]:
        """Relax one block: new tangents (2, outputs, columns, neurons), upper chain first, and offsets."""
        lines = self._lines[block]
        positive = before > 0
        up_slope, low_slope = lines.upper_slope.unsqueeze(1), lines.lower_slope.unsqueeze(1)
        over, under = before[0], before[-1]
        upper = over * torch.where(positive[0], up_slope, low_slope)
        lower = under * torch.where(positive[-1], low_slope, up_slope)
        tangents = torch.stack((upper, lower))
        if not bool((lines.upper_offset != 0).any()) and not bool((lines.lower_offset != 0).any()):
            return tangents, tangents.new_zeros(2, *tangents.shape[1:3])
        added_above = self._offsets(over, lines.upper_offset, lines.lower_offset)
        added_below = self._offsets(under, lines.lower_offset, lines.upper_offset)
        terms = before.shape[-1] * 2 + 2
        return tangents, torch.stack((inflate(added_above, terms), -inflate(-added_below, terms)))

    def _offsets(self, tangents: Tensor, towards: Tensor, against: Tensor) -> Tensor:
        """``sum_i max(t, 0) towards + min(t, 0) against`` for every output and column: terms of one sign."""
        bent = ((towards != 0) | (against != 0)).any(0).nonzero().squeeze(1)
        tangents, towards, against = tangents[..., bent], towards[:, bent], against[:, bent]
        positive, negative = tangents.clamp(min=0.0), tangents.clamp(max=0.0)
        return (positive @ towards.unsqueeze(2) + negative @ against.unsqueeze(2)).squeeze(2)

    def _floor(self) -> float:
        """Underflow anywhere in the recursion, counted with the largest derivative behind it."""
        if not rigorous():
            return 0.0
        # A product with a slope can underflow: its error counts with the derivative itself, not with slope times it.
        behind = sum(float(weight.sum()) for weight in self._weight.values()) + self._outputs
        behind += sum(float(derivative.magnitude().sum()) for derivative in self._derivative.values())
        return underflow(self._terms, self._core.graph.example) * behind * (len(self._core.blocks) + 1)
