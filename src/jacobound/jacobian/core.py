"""The unstable core: what is left of a network's derivative when everything with a known slope is multiplied out.

Neurons with one possible slope (stable ones) are linear. Pushing unit tangents of the input, and of every unstable
neuron, through the graph with the stable slopes gives matrices with

    tangent before unstable neuron i = sum_k P[i, k] u_k + sum_{m before i} Q[i, m] w_m,
    tangent of output j              = sum_k R[j, k] u_k + sum_m S[j, m] w_m,         w_m = slope_m (tangent before m)

for input tangents u, over each of N sets: lists of unstable neurons are padded with zeros to the longest. They are
computed once and shared by all outputs and by upper and lower bounds; dead neurons drop out.

Why it is exact: the chain rule is linear in the tangents for any fixed slopes, so what an unstable neuron passes on
may be held as a new start w_m, whatever its slope is, and superposition gives the two lines above.

What rounding adds: let the computed tangent behind a node v be ``A t + e``, where A t is exact in the computed t. For
any fixed slopes the map from there to output j is linear, so e moves the output by ``sum_v (d out_j / d v) e_v`` and by
no more than ``sum_v weight[j, v] |e_v|`` with the bounds of `rounding_weights`. A product has ``|e| <= gamma |A| |t|``,
hence

    weight |e|  <=  weight gamma |A| |t|  =  (gamma |A|' weight) |t|:

the slack of the transposed operator at the weights, formed once for each node, times the tangents' sizes. All terms are
magnitudes, so one number for each output and column is added to upper bounds and subtracted from lower ones.
Source: this project; what runs on it is the recursion of RecurJac (AAAI 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import inflate, rigorous, underflow, unit, up
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian.tangents import (
    Neurons,
    Tangents,
    is_unstable,
    passing,
    passing_by,
    push_through,
    underflow_of,
)
from jacobound.method import Budget, Facts, flat_indices
from jacobound.operators.base import positions

Passed = tuple[Tensor, Tensor]
"""Entries of a node that tangents pass, and their slopes (N, entries)."""

# Fewer vectors at a time gain little memory and lose the speed of matrix products.
LEAST_COLUMNS = 256


@dataclass(frozen=True, eq=False)
class UnstableCore:
    """The matrices P, Q, R, S by blocks, one block per elementwise node with unstable neurons.

    Args:
        blocks: elementwise nodes with unstable neurons, in topological order.
        unstable: each block's unstable neurons.
        slopes: derivative range of each block's unstable neurons, shape (N, neurons); 0 for padding.
        transfer: ``transfer[target, start]`` has shape (N or 1, columns of start, neurons of target); `start` is a
            block or the input node, `target` a later block or the output node; absent where no path exists.
        error: for every start, shape (N or 1, outputs, columns): how far the output's derivative may be from what the
            matrices say, over all choices of slopes.
    """

    graph: Graph
    blocks: tuple[Elementwise, ...]
    unstable: Mapping[Node, Neurons]
    slopes: Facts
    transfer: Mapping[tuple[Node, Node], Tensor]
    error: Mapping[Node, Tensor]

    @property
    def sets(self) -> int:
        """How many sets it is for; 1 too when the derivative is the same for all of them."""
        return max(len(matrix) for matrix in self.transfer.values()) if self.transfer else 1

    @property
    def neurons(self) -> int:
        """How many unstable neurons one set has, padding included."""
        return sum(len(self.unstable[block]) for block in self.blocks)


def unstable_counts(graph: Graph, slopes: Facts) -> Tensor:
    """How many unstable neurons every elementwise node has over every set, shape (nodes, N), on the CPU."""
    counts = [is_unstable(slopes[node]).flatten(1).sum(1) for node in graph.nodes if isinstance(node, Elementwise)]
    return torch.stack(counts).cpu() if counts else torch.zeros(0, 1, dtype=torch.int64)


def matrix_bytes(graph: Graph, unstable: int) -> int:
    """Upper estimate of the memory of the matrices of one set with so many unstable neurons, in bytes."""
    return unstable * (size(graph.input) + unstable // 2) * graph.example.element_size()


def column_bytes(graph: Graph) -> int:
    """Upper estimate of the memory that one vector needs on its way through the graph, in bytes."""
    widest = max((size(node) for node in graph.nodes if not isinstance(node, Input)), default=0)
    return 3 * widest * graph.example.element_size()


def core_bytes(graph: Graph, unstable: int, columns: float = inf) -> int:
    """Upper estimate of the memory in bytes that the core of one set with so many unstable neurons needs.

    Args:
        columns: so many vectors at least go through the graph at a time; inf means all.
    """
    together = min(columns, size(graph.input) + unstable)
    return matrix_bytes(graph, unstable) + int(together) * column_bytes(graph)


def build_core(
    graph: Graph,
    slopes: Facts,
    weights: Mapping[Node, Tensor],
    budget: Budget | None = None,
    defects: Mapping[Node, Tensor] | None = None,
    through: Mapping[Node, Tensor] | None = None,
) -> UnstableCore | None:
    """Push unit tangents through the graph with the slopes of the stable neurons.

    Args:
        slopes: derivative range of every elementwise node, (N, *node shape).
        weights: bounds of the outputs' derivatives with respect to every node (`defects`), (N, outputs, *node shape):
            what a rounding defect there can do.
        budget: vectors go through the graph in as few shares as fit its memory.
        defects: how far known slopes may lie from their floats (`KnownSlopes`).
        through: slopes with which tangents pass elementwise nodes, (N, size); by default those that are known, and 0
            for unstable neurons, which start anew. With others the new starts are of what the slopes differ by.

    Returns:
        None when time was over before the last share.
    """
    passed = {node: passing(slopes[node].map(lambda end: end.flatten(1))) for node in slopes}
    if through is not None:
        passed = {node: passing_by(factors) for node, factors in through.items()}
    paid = _Paid(weights, {} if defects is None else defects)
    return _Builder(graph, slopes, passed, paid, Budget() if budget is None else budget).build()


@dataclass(frozen=True, eq=False)
class _Paid:
    """What defects at the nodes cost.

    Args:
        weights, defects: as in `build_core`.
    """

    weights: Mapping[Node, Tensor]
    defects: Mapping[Node, Tensor]


class _Builder:
    """Forward sweeps, each with a share of the columns; lives for one call."""

    def __init__(self, graph: Graph, slopes: Facts, passed: Mapping[Node, Passed], paid: _Paid, budget: Budget) -> None:
        self._graph, self._slopes, self._passed, self._paid, self._budget = graph, slopes, passed, paid, budget
        self._unstable: dict[Node, Neurons] = {}
        for node in graph.nodes:
            if isinstance(node, Elementwise):
                neurons = Neurons.of(is_unstable(slopes[node].map(lambda end: end.flatten(1))))
                self._unstable |= {node: neurons} if len(neurons) else {}
        self._starts = {graph.input: Neurons(positions(size(graph.input), graph.example), None), **self._unstable}

    def build(self) -> UnstableCore | None:
        transfer: dict[tuple[Node, Node], list[Tensor]] = {}
        error: dict[Node, list[Tensor]] = {}
        shares = list(self._shares())
        for done, share in enumerate(shares):
            if done and self._budget.is_over:
                return None
            self._budget.tell(done, len(shares), "unstable core")
            sweep = _Sweep(self._graph, self._passed, self._paid, self._unstable, share)
            for path, matrix in sweep.transfer.items():
                transfer.setdefault(path, []).append(matrix)
            for start, part in sweep.error.items():
                error.setdefault(start, []).append(part)
        blocks = tuple(node for node in self._graph.nodes if isinstance(node, Elementwise) and node in self._unstable)
        slopes: dict[Node, Interval] = {block: self._slopes_of(block) for block in blocks}
        # Parts are let go one path after the other, so that the matrices are never held twice.
        matrices = {path: _side_by_side(transfer.pop(path), 1) for path in tuple(transfer)}
        errors = {start: _side_by_side(parts, 2) for start, parts in error.items()}
        return UnstableCore(self._graph, blocks, self._unstable, slopes, matrices, errors)

    def _shares(self) -> Iterator[dict[Node, Neurons]]:
        """All columns by their starts, in shares that go through the graph together."""
        sets = max((len(slope.lower) for slope in self._slopes.values()), default=1)
        neurons = sum(map(len, self._unstable.values()))
        left = self._budget.memory // sets - matrix_bytes(self._graph, neurons)
        room = most = max(LEAST_COLUMNS, left // max(1, column_bytes(self._graph)))
        share: dict[Node, Neurons] = {}
        for start, columns in self._starts.items():
            first = 0
            while first < len(columns):
                taken = min(room, len(columns) - first)
                share[start] = columns.part(slice(first, first + taken))
                first, room = first + taken, room - taken
                if not room:
                    yield share
                    share, room = {}, most
        if share:
            yield share

    def _slopes_of(self, block: Elementwise) -> Interval:
        chosen = self._unstable[block]
        return self._slopes[block].map(lambda end: chosen.pick(end.flatten(1)[:, chosen.union]))


def _side_by_side(parts: list[Tensor], axis: int) -> Tensor:
    """Columns of all shares; the only part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


class _Sweep:
    """One forward sweep: where some columns of every start arrive, and what roundings on the way can do.

    Attributes:
        transfer, error: as in `UnstableCore`, for these columns.
    """

    def __init__(
        self,
        graph: Graph,
        passed: Mapping[Node, Passed],
        paid: _Paid,
        unstable: Mapping[Node, Neurons],
        share: Mapping[Node, Neurons],
    ) -> None:
        self._graph, self._passed, self._weights, self._defects = graph, passed, paid.weights, paid.defects
        self._unstable, self._share = unstable, share
        self._at: dict[Node, dict[Node, Tangents]] = {node: {} for node in graph.nodes}
        self.transfer: dict[tuple[Node, Node], Tensor] = {}
        self.error: dict[Node, Tensor] = {}
        self._run()

    def _run(self) -> None:
        graph = self._graph
        unread = {node: len(readers) for node, readers in graph.consumers.items()}
        for node in graph.nodes:
            if isinstance(node, Affine):
                self._through_affine(node)
            elif isinstance(node, Elementwise):
                self._through_elementwise(node)
            if node in self._share:
                self._start(node, self._share[node])
            for source in dict.fromkeys(node.sources):
                unread[source] -= 1
                if not unread[source]:
                    self._at.pop(source)  # nobody needs these tangents any more
        for start, tangents in self._at[graph.output].items():
            self.transfer[graph.output, start] = tangents.on(None, size(graph.output))

    def _start(self, node: Node, neurons: Neurons) -> None:
        outputs = size(self._graph.output)
        self._at[node][node] = Tangents.unit(neurons, self._graph.example)
        self.error[node] = self._graph.example.new_zeros(1, outputs, len(neurons))

    def _add_error(self, start: Node, error: Tensor, floor: Tensor | float) -> None:
        """Add a rounding error, shape (N, outputs, columns), to the error of a start's columns."""
        self.error[start] = up(self.error[start] + error + floor)

    def _add_rounding_of_products(self, start: Node, weight: Tensor, values: Tensor) -> None:
        """Add the error of one rounding of every entry of `values` (N, columns, entries), underflow included."""
        if rigorous():
            error = inflate(2 * unit(values.dtype) * (weight @ values.abs().mT), values.shape[2] + 2)
            self._add_error(start, error, underflow(1, values) * weight.sum(2, keepdim=True))

    def _needed(self, node: Node) -> Tensor | None:
        """Entries of an affine node that some reader can pass on; None when all may be."""
        readers = self._graph.consumers[node]
        if node is self._graph.output or not all(isinstance(reader, Elementwise) for reader in readers):
            return None
        alive = self._graph.example.new_zeros(node.shape, dtype=torch.bool)
        for reader in readers:
            own = alive.flatten()
            own[self._passed[reader][0]] = True
            if reader in self._unstable:
                own[self._unstable[reader].union] = True
        return None if bool(alive.all()) else flat_indices(alive)

    def _through_affine(self, node: Affine) -> None:
        needed = self._needed(node)
        sums: dict[Node, Tensor] = {}
        for operator, source in node.terms:
            if not self._at[source]:
                continue  # the columns of this share start later
            backward = operator.transpose()
            slack = backward.slack(self._weights[node]).flatten(2)
            uncertainty = backward.uncertainty(self._weights[node])
            floor = underflow_of(backward, self._weights[node])
            images = push_through(operator, self._at[source], needed)
            for start, tangents in self._at[source].items():
                image = images[start]
                if tangents.values is not None and rigorous():
                    wanted = slack if tangents.entries is None else slack[..., tangents.entries]
                    self._add_error(start, inflate(wanted @ tangents.values.abs().mT, wanted.shape[2] + 1), floor)
                elif tangents.units is not None and uncertainty is not None:
                    units = tangents.units
                    self._add_error(start, units.pick(uncertainty.flatten(2)[..., units.union]), 0.0)
                if start in sums:
                    image = sums[start] + image
                    weight = self._weights[node].flatten(2)
                    weight = weight if needed is None else weight[..., needed]
                    self._add_rounding_of_products(start, weight, image)
                sums[start] = image
        self._at[node] = {start: Tangents(needed, image, self._graph.example) for start, image in sums.items()}

    def _through_elementwise(self, node: Elementwise) -> None:
        unstable = self._unstable.get(node)
        entries, steepness = self._passed[node]
        same = bool((steepness == 1).all())
        inexact = not same and bool(((steepness != 0) & (steepness != 1)).any())
        for start, tangents in self._at[node.source].items():
            if unstable is not None:
                self.transfer[node, start] = unstable.pick(tangents.on(unstable.union, size(node)))
            if not len(entries):
                continue
            before = tangents.on(entries, size(node))
            values = before if same else before * steepness.unsqueeze(1)
            weight = self._weights[node].flatten(2)[..., entries]
            if inexact:
                self._add_rounding_of_products(start, weight, values)
            if node in self._defects:
                wrong = up(weight * self._defects[node].flatten(1)[:, entries].unsqueeze(1))
                error = inflate(wrong @ before.abs().mT, len(entries) + 1)
                self._add_error(start, error, underflow(len(entries), wrong))
            self._at[node][start] = Tangents(entries, values, self._graph.example)
