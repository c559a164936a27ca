"""A network that is a chain of layers, as matrices with certified errors and the slopes between them.

What the layer-by-layer certificates start from: on a region every neuron's slope is ``m + r d`` with ``|d| <= 1``, so
that a tangent goes ``z = W y``, ``y_next = m z + r w`` with ``|w_i| <= |z_i|``. Neurons that pass nothing on
(m = r = 0) are left out. What passes by (`levels`) has m = 1 and r = 0, so that a graph with skips is a chain, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.certificates.layered.levels import Level, identity_rows, levels
from jacobound.constants.pairs.layers import FLOPS, LARGEST_SIDE, Layer
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node, size
from jacobound.jacobian.known_slopes import middle_slopes
from jacobound.method import Facts, flat_indices
from jacobound.operators.norms import Chain


@dataclass(frozen=True, eq=False)
class LayeredChain:
    """Layers in the order in which they are applied, float64 on the CPU.

    Args:
        matrices: shape (rows, columns) each; the rows of one are the columns of the next.
        errors: bound of the spectral distance of every exact layer from its matrix.
        middles, halves: m and r of the neurons behind every layer but the last.
    """

    matrices: tuple[Tensor, ...]
    errors: tuple[float, ...]
    middles: tuple[Tensor, ...]
    halves: tuple[Tensor, ...]

    @property
    def inputs(self) -> int:
        return self.matrices[0].shape[1]

    @property
    def outputs(self) -> int:
        return self.matrices[-1].shape[0]

    @property
    def widest(self) -> int:
        """The most entries in one place."""
        return max(max(matrix.shape) for matrix in self.matrices)

    @property
    def seconds(self) -> float:
        """What one closed form and its proof take on one core, about; neither can be interrupted."""
        return 5 * sum(len(middle) ** 3 for middle in self.middles) / FLOPS

    @cached_property
    def unstable(self) -> tuple[Tensor, ...]:
        """Positions of the neurons with more than one slope, layer by layer."""
        return tuple(flat_indices(half != 0) for half in self.halves)

    @property
    def is_constant(self) -> bool:
        """Whether some layer passes nothing on at all."""
        layers = zip(self.matrices, self.errors, strict=True)
        return any(not bool(matrix.any()) and (error == 0 or not matrix.numel()) for matrix, error in layers)

    @property
    def is_usable(self) -> bool:
        """Whether all numbers are of a size at which products of three neither overflow nor vanish unnoticed."""
        parts = (*self.matrices, *self.middles, *self.halves)
        return all(bool((part.abs() <= LARGEST).all()) for part in parts) and max(self.errors) <= LARGEST

    def transposed(self) -> LayeredChain:
        """The chain of the transposed Jacobian."""
        matrices = tuple(matrix.T.contiguous() for matrix in self.matrices[::-1])
        return LayeredChain(matrices, self.errors[::-1], self.middles[::-1], self.halves[::-1])

    def to(self, kind: torch.dtype) -> LayeredChain:
        """The chain in another precision, for searches."""
        parts = (tuple(part.to(kind) for part in found) for found in (self.matrices, self.middles, self.halves))
        matrices, middles, halves = parts
        return LayeredChain(matrices, self.errors, middles, halves)

    def row(self, number: int) -> LayeredChain:
        """The chain of one output alone."""
        return replace(self, matrices=(*self.matrices[:-1], self.matrices[-1][[number]]))


LARGEST = 1e100


def chain_bytes(graph: Graph) -> int | None:
    """Upper estimate of the memory that certificates of the chain need, in bytes; None where a layer is too large.

    Raises:
        UnsupportedOpError: when a node is neither affine nor elementwise.
    """
    total, before = 0, size(graph.input)
    widest = before
    for level in levels(graph):
        if not all(Layer.fits(chains) for chains in level.parts.values()):
            return None
        after = sum(size(node) for node in level.state)
        if max(before, after) > LARGEST_SIDE:
            return None
        total += sum(Layer.bytes(chains) // 8 for chains in level.parts.values())
        if level.passing or len(level.parts) > 1:
            total += 8 * before * after
        widest, before = max(widest, before, after), after
    return total + 64 * widest**2


def layered_chain(graph: Graph, slopes: Facts) -> LayeredChain:
    """The chain that a graph of affine and elementwise nodes is, in the order of the network.

    Skips are a part of the state that passes by the neurons: slopes of exactly 1.

    Args:
        slopes: derivative range of every elementwise node.

    Raises:
        UnsupportedOpError: when a node is neither affine nor elementwise.
    """
    built = _Builder(slopes, [graph.input])
    for level in levels(graph):
        built.add(level)
    middles, halves = (tuple(parts[:-1]) for parts in (built.middles, built.halves))  # nothing acts on the output
    return LayeredChain(tuple(built.matrices), tuple(built.errors), middles, halves)


class _Builder:
    """Layers one after the other; lives for one graph.

    Args:
        slopes: derivative range of every elementwise node.
        state: the nodes whose values stand side by side.
    """

    def __init__(self, slopes: Facts, state: list[Node]) -> None:
        self._slopes, self._state = slopes, state
        self._kept: dict[Node, Tensor | None] = dict.fromkeys(state)
        self.matrices: list[Tensor] = []
        self.errors: list[float] = []
        self.middles: list[Tensor] = []
        self.halves: list[Tensor] = []

    def _width(self, node: Node) -> int:
        kept = self._kept[node]
        return size(node) if kept is None else len(kept)

    def add(self, level: Level) -> None:
        """The layer of one level, with the neurons behind it; those that pass nothing on are left out."""
        cpu = torch.device("cpu")
        views = {}
        for root, chains in level.parts.items():
            moved: list[Chain] = [tuple(operator.to(cpu, torch.float64) for operator in chain) for chain in chains]
            views[root] = Layer(tuple(moved)).whole
        rows = next(iter(views.values())).matrix.shape[0]
        middle, half = torch.ones(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
        neurons = level.neurons
        if neurons is not None:
            middle, half = middle_slopes(self._slopes[neurons].map(lambda end: end.flatten().to(cpu, torch.float64)))
        kept = flat_indices((middle != 0) | (half != 0)) if neurons is not None else torch.arange(rows)
        blocks = []
        for root in self._state:
            view, before = views.get(root), self._kept[root]
            if view is None:
                blocks.append(middle.new_zeros(len(kept), self._width(root)))
            else:
                blocks.append((view.matrix if before is None else view.matrix[:, before])[kept])
        passed = (identity_rows(node, self._state, self._width) for node in level.passing)
        layer = torch.cat([torch.cat(blocks, 1), *passed])
        beside = len(layer) - len(kept)
        self.matrices.append(layer.contiguous())
        self.errors.append(_joined_error([float(view.error) for view in views.values()]))
        self.middles.append(torch.cat((middle[kept], middle.new_ones(beside))))
        self.halves.append(torch.cat((half[kept], half.new_zeros(beside))))
        widths = {node: self._kept[node] for node in level.passing}
        self._state, self._kept = list(level.state), {level.node: kept, **widths}


def _joined_error(errors: list[float]) -> float:
    """Spectral distance of blocks side by side, of which each has its own."""
    return errors[0] if len(errors) == 1 else float(vector_norm_upper(torch.tensor(errors, dtype=torch.float64), 2))
