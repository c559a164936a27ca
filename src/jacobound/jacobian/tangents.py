"""Derivatives in flight: several vectors at one node, pushed through operators; used forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import rigorous, underflow
from jacobound.graph.derivative import Derivative, derivative
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.method import Facts, OutputMethod, Query, flat_indices, is_unstable
from jacobound.operators.base import LinearOperator, positions, unit_rows

Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class Neurons:
    """Some entries of a node, each of N sets having its own; shorter lists are padded to the longest.

    Args:
        union: flat entries that are chosen in some set, ascending.
        place: shape (N, m), positions in `union`, and len(union) for padding; None for one set, whose list is `union`.
    """

    union: Tensor
    place: Tensor | None

    @staticmethod
    def of(mask: Tensor) -> Neurons:
        """The true entries of a mask (N, size)."""
        if len(mask) == 1:
            return Neurons(flat_indices(mask), None)
        union = flat_indices(mask.any(0))
        chosen = mask[:, union]
        counts = chosen.sum(1)
        # A stable sort brings the chosen positions of every set to the front, in order.
        place = (~chosen).to(torch.int8).argsort(dim=1, stable=True)[:, : int(counts.max())]
        real = positions(place.shape[1], place) < counts.unsqueeze(1)
        return Neurons(union, torch.where(real, place, len(union)))

    def __len__(self) -> int:
        """Length of the lists, padding included."""
        return len(self.union) if self.place is None else self.place.shape[1]

    def part(self, some: slice) -> Neurons:
        """Those at some positions of every list."""
        if self.place is None:
            return Neurons(self.union[some], None)
        return Neurons(self.union, self.place[:, some])

    def entries(self, outside: int) -> Tensor:
        """Flat entries (N, m), `outside` for padding."""
        if self.place is None:
            return self.union.unsqueeze(0)
        return torch.cat((self.union, self.union.new_tensor([outside])))[self.place]

    def rows(self, x: Tensor) -> Tensor:
        """Rows of a matrix (len(union), k) that each set has chosen, zero for padding: shape (N or 1, m, k)."""
        if self.place is None:
            return x.unsqueeze(0)
        return torch.cat((x, x.new_zeros(1, x.shape[1])))[self.place]

    def pick(self, x: Tensor) -> Tensor:
        """What each set has chosen along the last axis, zero for padding: (N or 1, *, len(union)) to (N, *, m)."""
        if self.place is None:
            return x
        place = self.place.reshape(len(self.place), *[1] * (x.dim() - 2), -1)
        padded = torch.cat((x, x.new_zeros(*x.shape[:-1], 1)), -1).expand(len(self.place), *[-1] * (x.dim() - 1))
        return padded.take_along_dim(place, -1)


@dataclass(frozen=True, eq=False)
class Tangents:
    """Vectors at one node for each of N sets, on some of its flat entries (zero elsewhere).

    Args:
        entries: flat entries, shared by all sets, or None for all.
        values: shape (N, vectors, len(entries)), or (1, ...) while all sets have the same; None for unit vectors.
        like: tensor that carries dtype and device.
        units: the neurons whose unit vectors they are, when there are no values.
    """

    entries: Tensor | None
    values: Tensor | None
    like: Tensor
    units: Neurons | None = None

    @staticmethod
    def unit(neurons: Neurons, like: Tensor) -> Tangents:
        """The unit vectors of some neurons."""
        return Tangents(neurons.union, None, like, neurons)

    def on(self, wanted: Tensor | None, count: int) -> Tensor:
        """Values on the wanted entries (None for all `count` of the node), shape (N or 1, vectors, wanted)."""
        values, entries = self.values, self.entries
        if values is None:
            assert self.units is not None
            values = self.units.rows(unit_rows(len(self.units.union), self.like))
        if entries is None:
            return values if wanted is None else values.index_select(2, wanted)
        if wanted is not None:
            place = entries.new_full((count,), -1)
            place[entries] = positions(len(entries), values)
            position = place[wanted]
            if bool((position >= 0).all()):
                return values.index_select(2, position)
        full = values.new_zeros(*values.shape[:2], count).index_copy_(2, entries, values)
        return full if wanted is None else full.index_select(2, wanted)


def push_through(operator: LinearOperator, groups: Mapping[Key, Tangents], needed: Tensor | None) -> dict[Key, Tensor]:
    """Images of several groups of vectors on the needed entries; the operator is cut down once for all of them.

    Images of unit vectors are columns of the operator, without rounding.

    Returns:
        Shapes (N or 1, vectors, needed).
    """
    moving = [group for group in groups.values() if group.values is not None]
    push = None
    if moving:
        vectors = sum(group.values.shape[:2].numel() for group in moving if group.values is not None)
        push = operator.between(moving[0].entries, needed, vectors)
    images = {}
    for key, group in groups.items():
        if group.values is None:
            assert group.units is not None
            images[key] = group.units.rows(operator.columns(group.units.union, needed))
        elif push is not None and group.entries is moving[0].entries:
            images[key] = push(group.values)
        else:
            vectors = group.values.shape[:2].numel()
            images[key] = operator.between(group.entries, needed, vectors)(group.values)
    return images


def unstable_entries(slope: Interval) -> Tensor:
    """Flat positions of the unstable neurons."""
    return flat_indices(is_unstable(slope))


def can_differ(slope: Interval) -> Tensor:
    """Mask of the neurons whose slope can differ from zero (NaN counts)."""
    return ~((slope.lower == 0) & (slope.upper == 0))


def passing(slope: Interval) -> tuple[Tensor, Tensor]:
    """Neurons that have one known slope other than zero in some set.

    Args:
        slope: shape (N, size).

    Returns:
        Their flat entries, and their slopes (N, entries), which are 0 in the sets where they are dead or unstable.
    """
    return passing_by(torch.where(slope.lower == slope.upper, slope.lower, 0.0))


def passing_by(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Neurons with a factor other than zero in some set, and their factors (N, entries)."""
    entries = flat_indices((factors != 0).any(0))
    return entries, factors[:, entries]


def facts_for(query: Query, graph: Graph, preactivation: OutputMethod) -> tuple[Derivative, Facts]:
    """The network of gates with the slopes that a derivative reaches, and ranges of all nodes: known ones, else found.

    Args:
        graph: the form of the query's graph that a method works on.
        preactivation: how ranges are found that are not known.
    """
    if query.slopes is not None:  # gates as they are: their nodes hold derivatives, whose values are nobody's question
        return Derivative(graph, reached_slopes(graph, query.slopes), {}, {}), query.ranges or {}
    ranges = query.ranges_by(preactivation, graph)
    gates = derivative(graph, ranges)
    return replace(gates, slopes=reached_slopes(gates.graph, gates.slopes)), ranges


def reached_slopes(graph: Graph, slopes: Facts) -> dict[Node, Interval]:
    """The slopes, set to 0 for neurons that no derivative by the input can reach.

    The tangent of such a neuron is exactly zero: every path to it passes a slope of 0 or has no weight. Whatever its
    own slope is, the Jacobian does not change, and it need not count as unstable (the comparison of two dead entries
    in a max-pooling window has an argument of exactly 0, where ReLU has both slopes). Not for derivatives with respect
    to inner nodes alone, as rounding of an execution needs them.

    Args:
        slopes: derivative range of every elementwise node, shape (N, *node shape).
    """
    reached: dict[Node, Tensor] = {}
    found: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            reached[node] = graph.example.new_ones(1, *node.shape)
        elif isinstance(node, Affine):
            images = [operator.abs().apply(reached[source]) for operator, source in node.terms]
            total = sum(images[1:], images[0])
            reached[node] = (total > 0).to(total)
        elif isinstance(node, Elementwise):
            slope, arrives = slopes[node], reached[node.source] > 0
            found[node] = slope.map(lambda end, arrives=arrives: torch.where(arrives, end, 0.0))
            reached[node] = (arrives & can_differ(slope)).to(slope.lower)
    return found


def path_sums(graph: Graph, slopes: Facts, kept: Callable[[Tensor], Tensor]) -> Tensor:
    """Sums over all paths from each output to each input of the products of absolute weights and largest slopes.

    Args:
        slopes: derivative range of every elementwise node, shape (N, *node shape).
        kept: what goes on of the sums at every node. ``(sums > 0)`` finds without rounding what no path reaches: the
            derivative is exactly 0 there. The identity gives what the derivative could be if no two paths cancelled,
            in plain arithmetic.

    Returns:
        Shape (N or 1, outputs, inputs).
    """
    count, output = size(graph.output), graph.output
    found = {output: unit_rows(count, graph.example).reshape(1, count, *output.shape)}
    for node in reversed(graph.nodes):
        if isinstance(node, Elementwise):
            images = [(node.source, found[node] * kept(slopes[node].magnitude()).unsqueeze(1))]
        elif isinstance(node, Affine):
            images = [(source, operator.transpose().abs().apply(found[node])) for operator, source in node.terms]
        else:
            images = []
        for source, image in images:
            found[source] = kept(found[source] + image if source in found else image)
    return found[graph.input].flatten(2)


def underflow_of(operator: LinearOperator, weight: Tensor) -> Tensor | float:
    """Underflow of one application of the operator's transpose, counted with the derivative behind it.

    Args:
        weight: bound of that derivative, shape (N, outputs, *operator.in_shape).

    Returns:
        Shape (N, outputs, 1).
    """
    if not rigorous() or not operator.longest_sum:
        return 0.0
    return underflow(operator.longest_sum, weight) * weight.flatten(2).sum(2, keepdim=True)
