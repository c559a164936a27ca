"""`LogAutoLip` and `PairBound`: logarithms of global constants as penalties, by norms of layers and of pairs of layers.

Both walk the graph as `AutoLip` does (branches, concatenations, folded layers, functions of vectors), with norms that
gradients pass. Their values are estimates in plain arithmetic; certify with `lipschitz`, outside the training step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unrounded
from jacobound.constants.affine_folding import Parts
from jacobound.constants.autolip import Sweeps
from jacobound.constants.enclosures import Enclosures
from jacobound.errors import ShapeError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, Vector
from jacobound.inputs.regions import Region, WholeSpace
from jacobound.method import Budget, Facts, Query
from jacobound.operators.linear_maps import LinearMap
from jacobound.relaxation.ranges import IBP
from jacobound.training.live import Live
from jacobound.training.norms import PowerIteration, SpectralNorm, matrix_of
from jacobound.training.pairs import dual_value, multipliers_of, oriented

SMALLEST: Final = 1e-300  # a constant of zero has this logarithm, and no gradient
LARGEST_SIDE: Final = 2048  # of the matrices of a pair


class GlobalConstant(nn.Module):
    """What the penalties on a constant share: the memory of their norms, which is in `state_dict`.

    In training mode every call moves the memory on by a step; in evaluation mode it stays.

    Args:
        live: the network.
        norms: how spectral norms are found.
        region: where the input is: one set. The whole space unless functions of the network (products, attention,
            normalisation) have constants on bounded sets alone; ranges are then found by intervals in every step.
    """

    def __init__(self, live: Live, norms: SpectralNorm | None = None, region: Region | None = None) -> None:
        super().__init__()
        self.live, self.norms = live, PowerIteration() if norms is None else norms
        self._region = WholeSpace() if region is None else region
        with unrounded(), torch.no_grad():
            graph = live.graphs().whole
            self._needs_ranges = region is not None or not _is_plain(graph)
            self._sweep(graph)

    def forward(self) -> Tensor:
        """The logarithm of the constant, 0-d float64; gradients reach the module's parameters."""
        with unrounded():
            value = self._sweep(self.live.graphs().whole).value
        return value.clamp(min=SMALLEST).log()

    def _sweep(self, graph: Graph) -> Sweeps:
        if not self._needs_ranges:
            return self._sweeps(graph, _global(graph))
        domains, _ = self._region.domains(graph)
        if len(domains) != 1:
            raise ShapeError(f"a global constant is one number, so the region must be one set, not {len(domains)}")
        known = Enclosures.of(Query(graph, domains[:], Budget()), IBP())
        return self._sweeps(known.graph, known)  # the network of gates where the network multiplies values

    @abstractmethod
    def _sweeps(self, graph: Graph, known: Enclosures) -> Sweeps:
        """The constants of all nodes, with gradients."""

    def norm(self, name: str, linear: LinearMap) -> Tensor:
        """The norm of a map, whose memory goes by a name."""
        key = f"memory_{name}"
        memory = getattr(self, key, None)
        if memory is None:
            memory = self.norms.start(linear)
            self.register_buffer(key, memory)
        elif self.training:
            memory = self.norms.advance(linear, memory)
            setattr(self, key, memory)
        return self.norms.norm(linear, memory)


class LogAutoLip(GlobalConstant):
    """The logarithm of the product (over the graph: sums of products) of layer norms.

    With `PowerIteration` an estimate from below that is close to ``log lipschitz(graph, WholeSpace(), AutoLip())`` once
    its vectors have settled; with `GramIteration` an upper bound of that, up to rounding. Source: Scaman and Virmaux
    (NeurIPS 2018); Yoshida and Miyato (2017) for norms as penalties.

    ``loss = cross_entropy(module(x), y) + 0.03 * penalty()``
    """

    def _sweeps(self, graph: Graph, known: Enclosures) -> Sweeps:
        return _LiveSweeps(graph, known, self.norm)


class PairBound(GlobalConstant):
    """The logarithm of the constant by pairs of layers, at fixed multipliers: tighter than `LogAutoLip`.

    Where two layers stand on both sides of activations, the dual bound of `SeqLip` for the two together takes the place
    of the product of their norms when it is smaller. Its multipliers are found by `refresh` and kept, in `state_dict`
    too; they serve weights that move, raised where they are no longer feasible. Pairs are whole layers, disjoint.
    Two layers of widths p, n, q cost about ``n (p^2 + q^2)`` products; wider ones than `LARGEST_SIDE` go alone.

    ``bound.refresh()`` every few hundred steps. Up to rounding (and to norms of layers that go alone) the value is an
    upper bound for any multipliers. Sources: Scaman and Virmaux (NeurIPS 2018), section 5; the dual is that of
    `jacobound.constants.pairs.dual`.
    """

    def __init__(self, live: Live, norms: SpectralNorm | None = None, region: Region | None = None) -> None:
        self._searching = True
        super().__init__(live, norms, region)
        self._searching = False

    @torch.no_grad()
    def refresh(self) -> None:
        """Search for better multipliers, from those that are known; takes seconds for wide layers."""
        self._searching = True
        with unrounded():
            self._sweep(self.live.graphs().whole)
        self._searching = False

    def _sweeps(self, graph: Graph, known: Enclosures) -> Sweeps:
        return _PairSweeps(graph, known, self.norm, self._pair)

    def _pair(self, name: str, left: Tensor, right: Tensor, slopes: Interval) -> Tensor:
        """The bound of a pair, with its multipliers found first when they are sought."""
        key = f"multipliers_{name}"
        left, right = oriented(left, right)
        if self._searching:
            self.register_buffer(key, multipliers_of(left, right, slopes, getattr(self, key, None)))
        return dual_value(left, right, slopes, getattr(self, key))


class _LiveSweeps(Sweeps):
    """The sweeps of `AutoLip` in the Euclidean norm, with norms that gradients pass.

    Args:
        norm_of: the norm of a map by the name of its place in the graph.
    """

    def __init__(self, graph: Graph, known: Enclosures, norm_of: Callable[[str, LinearMap], Tensor]) -> None:
        self._norm_of = norm_of
        self._position = {node: k for k, node in enumerate(graph.nodes)}
        super().__init__(graph, known, 2.0, Budget())

    def _norm(self, node: Affine, root: Node, parts: Parts, kept: Tensor | None = None) -> Tensor:
        folded = parts is self._folding.parts.get(node) and self._folds(node)
        key = (folded, node, root)
        if key not in self._norms:
            name = f"{self._position[node]}_{self._position[root]}" + ("_folded" if folded else "")
            self._norms[key] = self._norm_of(name, LinearMap(tuple(parts[root]))).to(self._one)
        return self._norms[key]

    def _of_entries(self, node: Node, kept: Tensor) -> Tensor:
        del kept
        return self.forward[node]


class _PairSweeps(_LiveSweeps):
    """Sweeps that gradients pass, with pairs of layers.

    Args:
        pair_of: the bound of a pair by the name of its place: (name, second matrix, first matrix, slopes between).
    """

    def __init__(
        self,
        graph: Graph,
        known: Enclosures,
        norm_of: Callable[[str, LinearMap], Tensor],
        pair_of: Callable[[str, Tensor, Tensor, Interval], Tensor],
    ) -> None:
        self._pair_of = pair_of
        super().__init__(graph, known, norm_of)

    def _forward(self, node: Node) -> Tensor:
        found = super()._forward(node)
        parts = self._folding.parts[node] if isinstance(node, Affine) else {}
        root = next(iter(parts), None)
        if len(parts) != 1 or not isinstance(root, Elementwise) or not isinstance(root.source, Affine):
            return found
        before = self._folding.parts[root.source]
        if len(before) != 1:
            return found
        start = next(iter(before))
        second, first = LinearMap(tuple(parts[root])), LinearMap(tuple(before[start]))
        if max(second.in_size, second.out_size, first.in_size) > LARGEST_SIDE:
            return found
        name = f"{self._position[node]}_{self._position[root]}"
        slopes = self._slopes[root].map(lambda end: end.flatten())
        value = self._pair_of(name, matrix_of(second), matrix_of(first), slopes).to(self._one)
        return torch.minimum(found, value * self.forward[start])


def _is_plain(graph: Graph) -> bool:
    """Whether slopes and constants are finite on the whole line and for any argument."""
    for node in graph.nodes:
        if isinstance(node, Vector) and not node.function.compares:
            return False
        if isinstance(node, Elementwise) and not _whole_line(node, graph).is_finite():
            return False
    return True


def _whole_line(node: Elementwise, graph: Graph) -> Interval:
    """The slopes of an activation anywhere, of the node's shape."""
    everywhere = Interval.whole(graph.example.new_zeros(1, *node.shape))
    return node.activation.derivative_range(everywhere)[0]


def _global(graph: Graph) -> Enclosures:
    """What sweeps need to know of the whole space, where no range matters."""
    slopes: Facts = {node: _whole_line(node, graph) for node in graph.nodes if isinstance(node, Elementwise)}
    nothing = Interval.whole(torch.zeros((), dtype=torch.float64))
    vectors = {node: nothing for node in graph.nodes if isinstance(node, Vector)}
    return Enclosures(graph, {}, slopes, slopes, vectors)
