"""`SeqLip`: products over pairs of layers instead of single layers; the slopes between two layers are chosen jointly.

Inside chains of affine and elementwise nodes pairs are bounded; branches and functions such as max-pooling are joined
as in `AutoLip`, whose value is never exceeded. Source: Scaman and Virmaux, "Lipschitz regularity of deep neural
networks" (NeurIPS 2018); the certified dual of a pair, its branch and bound and the choice of pairs are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import up
from jacobound.checks import shown
from jacobound.constants.affine_folding import groups_of, touched_entries
from jacobound.constants.autolip import Sweeps
from jacobound.constants.enclosures import Enclosures
from jacobound.constants.pairs.branching import exact_bound
from jacobound.constants.pairs.chain import Edge, State, Stretch, shortest
from jacobound.constants.pairs.dual import PairBound, product_bound
from jacobound.constants.pairs.estimates import attained, greedy, rough_value
from jacobound.constants.pairs.layers import Layer
from jacobound.constants.pairs.search import dual_bound
from jacobound.errors import InvalidOptionError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node
from jacobound.method import About, Budget, ConstantBound, LipschitzMethod, OutputMethod, Query, output_method
from jacobound.operators.norms import Chain
from jacobound.results.kinds import Status

Pairs = Literal["exact", "dual", "greedy"]
KINDS = ("exact", "dual", "greedy")


@dataclass(frozen=True)
class SeqLip(LipschitzMethod):
    """Constants by pairs of layers: tighter than `AutoLip`, for networks whose layers fit into matrices.

    Args:
        pairs: how the largest norm of a pair is found. "dual": a certified bound, usually within 1 % of the largest
            norm. "exact": certified and exact up to rounding for at most 64 neurons with more than one slope, the dual
            beyond. "greedy": the search of the paper, **an estimate** that may lie below the network's constant.
        preactivation: how ranges are found, from which slopes follow; None takes CROWN on bounded sets and intervals
            elsewhere.
    """

    about: ClassVar[About] = About("chains of layers pair by pair; l2 to l2", "Scaman and Virmaux, NeurIPS 2018")

    pairs: Pairs = "dual"
    preactivation: OutputMethod | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, str) or self.pairs not in KINDS:
            raise InvalidOptionError(f"SeqLip bounds pairs by one of {', '.join(KINDS)}, not {shown(self.pairs)}")
        if self.preactivation is not None:
            object.__setattr__(self, "preactivation", output_method(self.preactivation))

    def constant(self, query: Query) -> ConstantBound:
        """A constant of the graph over one set for the norm (2, 2); certified unless pairs is "greedy".

        Pairs do not reach across `Vector` nodes.

        Returns:
            `details` holds the pairs that the value was made of, by their layers and neurons.

        Raises:
            InvalidOptionError: for another norm.
            InvalidRegionError: when a node has no constant over the region, as for `AutoLip`.
        """
        budget, norm = query.budget, query.norm
        if tuple(norm) != (2, 2):
            raise InvalidOptionError(
                f"SeqLip bounds constants from l_2 to l_2 alone, not the norm {norm}; use AutoLip or LipSDP there"
            )
        known = Enclosures.of(query, self.preactivation)
        sweeps = PairSweeps(known.graph, known, self.pairs, budget)
        status = Status.CERTIFIED if sweeps.complete else Status.TIME_LIMIT
        status = Status.INCOMPLETE if sweeps.failed else status
        status = Status.of(status, sweeps.value)
        if not self.is_certified and status.certified:
            status = Status.ESTIMATE
        return ConstantBound(sweeps.value, status, sweeps.details, (), known.slopes, known.ranges)

    @property
    def is_certified(self) -> bool:
        """Whether pairs are bounded, and not searched greedily."""
        return self.pairs != "greedy"

    def norm_for(self, norm: tuple[float, float]) -> tuple[float, float]:
        """Pairs are bounded in the Euclidean norm alone."""
        return (2.0, 2.0)


@dataclass(frozen=True)
class GreedySeqLip(LipschitzMethod):
    """Constants by pairs of layers whose largest norms are searched for greedily: **an estimate**, as in the paper.

    It may lie below the network's constant. `SeqLip(pairs="greedy")` is the same.

    Args:
        preactivation: as for `SeqLip`.
    """

    about: ClassVar[About] = About("as SeqLip", "Scaman and Virmaux, NeurIPS 2018", certified=False)

    preactivation: OutputMethod | None = None

    def __post_init__(self) -> None:
        if self.preactivation is not None:
            object.__setattr__(self, "preactivation", output_method(self.preactivation))

    def constant(self, query: Query) -> ConstantBound:
        """An estimate of the constant over one set for the norm (2, 2), with `Status.ESTIMATE`."""
        return SeqLip("greedy", self.preactivation).constant(query)

    def norm_for(self, norm: tuple[float, float]) -> tuple[float, float]:
        """Pairs are looked at in the Euclidean norm alone."""
        return (2.0, 2.0)


class PairSweeps(Sweeps):
    """The sweeps of AutoLip in the Euclidean norm, with chains of layers bounded by pairs where there are some.

    Attributes:
        complete: whether there was time for all pairs.
        failed: whether the search for some pair broke down numerically; its product of norms is used then.
        details: bounds of the pairs that chains were covered with, by name.
    """

    def __init__(self, graph: Graph, known: Enclosures, pairs: Pairs, budget: Budget) -> None:
        self._pairs = pairs
        self._layers: dict[tuple[Node, Node], Layer] = {}
        self._known: dict[Key, PairBound] = {}
        self.complete = True
        self.failed = False
        self.details: dict[str, Tensor] = {}
        super().__init__(graph, known, 2.0, budget)

    def _forward(self, node: Node) -> Tensor:
        found = super()._forward(node)
        if not isinstance(node, Affine) or self._is_inside(node):
            return found
        return torch.minimum(found, self._by_chains(node))

    def _is_inside(self, node: Affine) -> bool:
        """Whether every way on from an affine node leads through neurons to a layer that its chain goes on with."""
        graph = self._graph
        if node is graph.output:
            return False
        for reader in graph.consumers[node]:
            if isinstance(reader, Affine):
                continue  # folded into it
            if not isinstance(reader, Elementwise) or reader is graph.output:
                return False
            for after in graph.consumers[reader]:
                if not isinstance(after, Affine) or self._before(after, reader) is None:
                    return False
        return True

    def _before(self, node: Affine, root: Node) -> Affine | None:
        """The affine node that a chain ending with (root -> node) goes on to, through the neurons of root."""
        if not isinstance(root, Elementwise) or not isinstance(root.source, Affine):
            return None
        before = self._folding.parts[root.source]
        here = self._folding.parts[node].get(root, ())
        if len(before) != 1 or not here:
            return None
        sides = (here, next(iter(before.values())))
        if not all(Layer.fits(chains) and self._budget.fits(Layer.bytes(chains)) for chains in sides):
            return None
        return root.source

    def _layer(self, node: Affine, root: Node) -> Layer:
        if (node, root) not in self._layers:
            cpu = torch.device("cpu")
            chains = self._folding.parts[node][root]
            moved: list[Chain] = [tuple(operator.to(cpu, torch.float64) for operator in chain) for chain in chains]
            self._layers[node, root] = Layer(tuple(moved))
        return self._layers[node, root]

    def _by_chains(self, node: Affine) -> Tensor:
        """Constant of an affine node, each of its parts bounded by the chain that ends there."""
        parts = self._folding.parts[node]
        sizes = [self._of_chain(node, root) for root in parts]
        groups = groups_of([touched_entries(chains) for chains in parts.values()])
        return self._length([self._added(sizes[k] for k in group) for group in groups])

    def _of_chain(self, node: Affine, root: Node) -> Tensor:
        """The smallest bound of one part over all starts of its chain, times the constant of the start."""
        whole = up(self._norm(node, root, self._folding.parts[node]) * self.forward[root])
        layers, slopes = [self._layer(node, root)], []
        while (before := self._before(node, root)) is not None:
            slopes.insert(0, self._slopes[root].map(lambda end: end.flatten().to("cpu", torch.float64)))
            node, root = before, next(iter(self._folding.parts[before]))
            layers.insert(0, self._layer(node, root))
        if not slopes:
            return whole
        chain = Stretch(tuple(layers), tuple(slopes))
        state = shortest(chain, lambda edge: self._guess(chain, edge), lambda edge: self._bound(chain, edge))
        self._tell(chain, state)
        return torch.fmin(whole, up(state.value * self.forward[root]))  # 0 times an unknown bound says nothing

    def _guess(self, chain: Stretch, edge: Edge) -> float:
        if _key(chain, edge) in self._known or self._pairs == "greedy" or self._over():
            return self._bound(chain, edge)
        if (edge.left_split or edge.right_split) and self._too_late(chain, edge):
            return math.inf
        try:
            pair = chain.pair(edge)
            value = 0.999 * rough_value(pair) if pair.is_finite else 0.0
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage] - documented all the same
            value = math.nan
        return value if math.isfinite(value) else 0.0  # a guess only says which pairs to bound first

    def _too_late(self, chain: Stretch, edge: Edge) -> bool:
        """Whether there is no time to decompose the layers of a pair."""
        layers = chain.layers[edge.number : edge.number + 2]
        late = sum(Layer.seconds(layer.chains) for layer in layers) > self._budget.remaining
        self.complete &= not late
        return late

    def _bound(self, chain: Stretch, edge: Edge) -> float:
        key = _key(chain, edge)
        if key not in self._known and self._over():
            self.complete = False
            return math.inf  # the layers one by one are known already
        if key not in self._known:
            self._known[key] = self._of_pair(chain, edge)
        return self._known[key].upper

    def _of_pair(self, chain: Stretch, edge: Edge) -> PairBound:
        over, pair = self._over, None
        try:
            pair = chain.pair(edge)
            if self._pairs == "greedy":
                value = attained(pair, greedy(pair))
                return PairBound(value, value)
            found = exact_bound(pair, over) if self._pairs == "exact" else dual_bound(pair, over)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage] - documented all the same
            self.failed = True
            return PairBound(math.inf if pair is None else product_bound(pair), complete=False)
        self.complete &= found.complete or not over()
        return found

    def _over(self) -> bool:
        self._budget.tell(0, 1, "pairs of layers")
        return self._budget.is_over

    def _tell(self, chain: Stretch, state: State) -> None:
        """Record the pairs of a chain."""
        for edge in state.edges:
            number = len(self.details) + 1
            sides = (" split" if edge.right_split else "", " split" if edge.left_split else "")
            name = f"pair {number}: layer {edge.number + 1}{sides[0]}, layer {edge.number + 2}{sides[1]}"
            self.details[name] = torch.tensor(self._bound(chain, edge), dtype=torch.float64)


Key = tuple[Layer, Layer, bool, bool]


def _key(chain: Stretch, edge: Edge) -> Key:
    """A pair, whatever chain it is a part of."""
    return chain.layers[edge.number], chain.layers[edge.number + 1], edge.right_split, edge.left_split


__all__ = ["GreedySeqLip", "SeqLip"]
