"""The unstable core: what is left of a network's derivative when everything with a known slope is multiplied out.

Neurons with one possible slope (stable ones) are linear. Pushing unit tangents of the input, and of every unstable
neuron, through the graph with the stable slopes gives matrices with

    tangent before unstable neuron i = sum_k P[i, k] u_k + sum_{m before i} Q[i, m] w_m,
    tangent of output j              = sum_k R[j, k] u_k + sum_m S[j, m] w_m,         w_m = slope_m (tangent before m)

for input tangents u. They are computed once and shared by all outputs and by upper and lower bounds; dead neurons
drop out. Every rounding is carried as an error per output and start column: by linearity a defect at a node counts
with the derivative of the output with respect to that node (`defects`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.graph import Affine, Elementwise, Graph, Input, Node, size
from jacobound.intervals import Interval
from jacobound.methods.base import flat_indices
from jacobound.methods.tangents import (
    Tangents,
    can_differ,
    passing_entries,
    push_through,
    underflow_of,
    unstable_entries,
)
from jacobound.operators import positions
from jacobound.rounding import inflate, rigorous, underflow, unit, up


@dataclass(frozen=True, eq=False)
class UnstableCore:
    """The matrices P, Q, R, S by blocks, one block per elementwise node with unstable neurons.

    Args:
        blocks: elementwise nodes with unstable neurons, in topological order.
        entries: flat positions of each block's unstable neurons.
        slopes: derivative range of each block's unstable neurons, shape (neurons,).
        transfer: ``transfer[target, start]`` has shape (columns of start, neurons of target); `start` is a block or
            the input node, `target` a later block or the output node; absent where no path exists.
        error: for every start, shape (outputs, columns): how far the output's derivative may be from what the
            matrices say, over all choices of slopes.
    """

    graph: Graph
    blocks: tuple[Elementwise, ...]
    entries: Mapping[Node, Tensor]
    slopes: Mapping[Node, Interval]
    transfer: Mapping[tuple[Node, Node], Tensor]
    error: Mapping[Node, Tensor]

    @property
    def neurons(self) -> int:
        """How many unstable neurons there are."""
        return sum(len(self.entries[block]) for block in self.blocks)


def core_bytes(graph: Graph, slopes: Mapping[Node, Interval]) -> int:
    """Upper estimate of the memory that the core of a graph needs, in bytes."""
    counts = [len(unstable_entries(slopes[node])) for node in graph.nodes if isinstance(node, Elementwise)]
    columns, widest = size(graph.input) + sum(counts), max(size(node) for node in graph.nodes)
    matrices = sum(counts) * (size(graph.input) + sum(counts) // 2)
    return (matrices + 3 * columns * widest) * graph.example.element_size()


def build_core(graph: Graph, slopes: Mapping[Node, Interval], weights: Mapping[Node, Tensor]) -> UnstableCore:
    """Push unit tangents through the graph with the slopes of the stable neurons.

    Args:
        slopes: derivative range of every elementwise node.
        weights: bounds of the outputs' derivatives with respect to every node (`defects`), (outputs, *node shape):
            what a rounding defect there can do.
    """
    return _Builder(graph, slopes, weights).build()


class _Builder:
    """The forward sweep; lives for one call."""

    def __init__(self, graph: Graph, slopes: Mapping[Node, Interval], weights: Mapping[Node, Tensor]) -> None:
        self._graph, self._slopes, self._weights = graph, slopes, weights
        self._at: dict[Node, dict[Node, Tangents]] = {}
        self._transfer: dict[tuple[Node, Node], Tensor] = {}
        self._error: dict[Node, Tensor] = {}
        self._entries: dict[Node, Tensor] = {}

    def build(self) -> UnstableCore:
        graph = self._graph
        unread = {node: len(readers) for node, readers in graph.consumers.items()}
        for node in graph.nodes:
            if isinstance(node, Input):
                self._start(node, node, positions(size(node), graph.example))
            elif isinstance(node, Affine):
                self._through_affine(node)
            elif isinstance(node, Elementwise):
                self._through_elementwise(node)
            for source in dict.fromkeys(node.sources):
                unread[source] -= 1
                if not unread[source]:
                    self._at.pop(source)  # nobody needs these tangents any more
        for start, tangents in self._at[graph.output].items():
            self._transfer[graph.output, start] = tangents.on(None, size(graph.output))
        blocks = tuple(node for node in graph.nodes if isinstance(node, Elementwise) and node in self._entries)
        core_slopes: dict[Node, Interval] = {
            block: self._slopes[block].map(torch.flatten)[self._entries[block]] for block in blocks
        }
        return UnstableCore(graph, blocks, self._entries, core_slopes, self._transfer, self._error)

    def _start(self, node: Node, start: Node, entries: Tensor) -> None:
        outputs = size(self._graph.output)
        self._at.setdefault(node, {})[start] = Tangents(entries, None, self._graph.example)
        self._error[start] = self._graph.example.new_zeros(outputs, len(entries))

    def _pay(self, start: Node, price: Tensor, floor: Tensor | float) -> None:
        """Add to the error of a start's columns; `price` has shape (outputs, columns)."""
        self._error[start] = up(self._error[start] + price + floor)

    def _pay_products(self, start: Node, weight: Tensor, values: Tensor) -> None:
        """Pay for one rounding of every entry of `values` (columns, entries), underflow included."""
        if rigorous():
            price = inflate(2 * unit(values.dtype) * (weight @ values.abs().T), values.shape[1] + 2)
            self._pay(start, price, underflow(1, values) * weight.sum(1, keepdim=True))

    def _needed(self, node: Node) -> Tensor | None:
        """Entries of an affine node that some reader can pass on; None when all may be."""
        readers = self._graph.consumers[node]
        if node is self._graph.output or not all(isinstance(reader, Elementwise) for reader in readers):
            return None
        alive = self._graph.example.new_zeros(node.shape, dtype=torch.bool)
        for reader in readers:
            alive |= can_differ(self._slopes[reader])
        return None if bool(alive.all()) else flat_indices(alive)

    def _through_affine(self, node: Affine) -> None:
        needed = self._needed(node)
        sums: dict[Node, Tensor] = {}
        for operator, source in node.terms:
            backward = operator.transpose()
            price = backward.slack(self._weights[node]).flatten(1)
            doubt = backward.uncertainty(self._weights[node])
            floor = underflow_of(backward, self._weights[node])
            images = push_through(operator, self._at[source], needed)
            for start, tangents in self._at[source].items():
                image = images[start]
                if tangents.values is not None and rigorous():
                    wanted = price if tangents.entries is None else price[:, tangents.entries]
                    self._pay(start, inflate(wanted @ tangents.values.abs().T, wanted.shape[1] + 1), floor)
                elif tangents.values is None and doubt is not None:
                    self._pay(start, doubt.flatten(1)[:, tangents.entries], 0.0)
                if start in sums:
                    image = sums[start] + image
                    weight = self._weights[node].flatten(1)
                    weight = weight if needed is None else weight[:, needed]
                    self._pay_products(start, weight, image)
                sums[start] = image
        self._at[node] = {start: Tangents(needed, image, self._graph.example) for start, image in sums.items()}

    def _through_elementwise(self, node: Elementwise) -> None:
        slope = self._slopes[node].map(torch.flatten)
        unstable = unstable_entries(slope)
        passing = passing_entries(slope)
        steepness = slope.lower[passing]
        inexact = bool((steepness != 1).any())
        self._at[node] = {}
        for start, tangents in self._at[node.source].items():
            if len(unstable):
                self._transfer[node, start] = tangents.on(unstable, size(node))
            if not len(passing):
                continue
            values = tangents.on(passing, size(node))
            if inexact:
                values = values * steepness
                self._pay_products(start, self._weights[node].flatten(1)[:, passing], values)
            self._at[node][start] = Tangents(passing, values, self._graph.example)
        if len(unstable):
            self._entries[node] = unstable
            self._start(node, node, unstable)
