"""A network that is a chain of layers, as matrices with certified errors and the slopes between them.

What the layer-by-layer certificates start from: on a region every neuron's slope is ``m + r d`` with ``|d| <= 1``, so
that a tangent goes ``z = W y``, ``y_next = m z + r w`` with ``|w_i| <= |z_i|``. Neurons that pass nothing on
(m = r = 0) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from jacobound.certificates.dense.matrices import middle_slopes
from jacobound.constants.affine_folding import Folding
from jacobound.constants.pairs.layers import FLOPS, Layer
from jacobound.errors import UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.method import Facts, flat_indices
from jacobound.operators.kinds import Identity
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
Walk = list[tuple[tuple[Chain, ...], Elementwise | None]]


def chain_bytes(graph: Graph) -> int | None:
    """Upper estimate of the memory that certificates of the chain need, in bytes; None where a layer is too large.

    Raises:
        UnsupportedOpError: when the graph is no chain.
    """
    total, widest = 0, 0
    for chains, _ in _walk(graph):
        if not Layer.fits(chains):
            return None
        total += Layer.bytes(chains) // 8
        widest = max(widest, *(_sizes(chains)))
    return total + 64 * widest**2


def _sizes(chains: tuple[Chain, ...]) -> tuple[int, int]:
    return chains[0][0].in_size, chains[0][-1].out_size


def layered_chain(graph: Graph, slopes: Facts) -> LayeredChain:
    """The chain that a graph of affine and elementwise nodes is, in the order of the network.

    Args:
        slopes: derivative range of every elementwise node.

    Raises:
        UnsupportedOpError: when the graph is no chain; names the node where paths meet.
    """
    cpu = torch.device("cpu")
    matrices, errors, middles, halves = [], [], [], []
    walk, kept = _walk(graph), None
    for chains, neurons in reversed(walk):
        moved: list[Chain] = [tuple(operator.to(cpu, torch.float64) for operator in chain) for chain in chains]
        view = Layer(tuple(moved)).whole
        matrix = view.matrix if kept is None else view.matrix[:, kept]
        if len(errors) + 1 < len(walk):
            middle, half = matrix.new_ones(len(matrix)), matrix.new_zeros(len(matrix))
            if neurons is not None:
                middle, half = middle_slopes(slopes[neurons].map(lambda end: end.flatten().to(cpu, torch.float64)))
            kept = flat_indices((middle != 0) | (half != 0))
            matrix, middle, half = matrix[kept], middle[kept], half[kept]
            middles.append(middle)
            halves.append(half)
        matrices.append(matrix.contiguous())
        errors.append(float(view.error))
    return LayeredChain(tuple(matrices), tuple(errors), tuple(middles), tuple(halves))


def _walk(graph: Graph) -> Walk:
    """The layers from the last to the first, each with the neurons behind it."""
    folding, found = Folding(graph), []
    node: Node = graph.output
    neurons: Elementwise | None = None
    while True:
        if isinstance(node, Affine):
            parts = folding.parts[node]
            if len(parts) != 1:
                raise UnsupportedOpError(
                    f"node '{node.name}' joins {len(parts)} paths; layer by layer only chains can be bounded. "
                    "Use LipSDP or AutoLip for this network"
                )
            root, chains = next(iter(parts.items()))
            found.append((chains, neurons))
            neurons, node = None, root
            continue
        if neurons is not None or not found:  # nothing affine in front of these neurons, or behind the last ones
            found.append((((Identity(node.shape, node.shape, graph.example),),), neurons))
        if isinstance(node, Input):
            return found
        if not isinstance(node, Elementwise):
            raise UnsupportedOpError(f"node '{node.name}' is neither affine nor elementwise; expand the graph first")
        neurons, node = node, node.source
