"""`AutoLip`: Lipschitz constants by products and sums of certified norms over the graph.

Every node gets a constant as a function of the input (forward), and the output one as a function of every node
(backward). Source: Scaman and Virmaux, "Lipschitz regularity of deep neural networks" (NeurIPS 2018); joint rules,
folding and certified norms are ours (ARCHITECTURE.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import inflate, up
from jacobound.budget import Budget, OutOfTimeError, alarmed
from jacobound.constants.affine_folding import Folding, Parts, direct_parts, groups_of, rows_alone, touched_entries
from jacobound.constants.enclosures import Enclosures
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Part, Vector
from jacobound.method import About, ConstantBound, LipschitzMethod, OutputMethod, Query, output_method
from jacobound.method.candidates import conversion, little_work
from jacobound.operators.norms import MOST_WORK, PRODUCTS, linear_norm, operator_norm
from jacobound.results.kinds import Status

EXPONENTS = (2.0, math.inf, 1.0)
PLENTY = 120.0  # seconds that must be left for the dearest certificates of norms
IMPROVING = 0.8  # of the time, for dear certificates; cheap ones of the layers that come later need the rest
PART = 0.5  # of the time that is left, for the next certificate
WORTH = 2.0  # times the work of a cheap certificate, below which a better one is not worth a second attempt


@dataclass(frozen=True)
class AutoLip(LipschitzMethod):
    """Certified constants by norms of layers: cheap, for networks of any size, and loose with depth.

    Sums of branches add, concatenations join as the norm does, adjacent affine nodes are one map, functions such as
    max-pooling count with their own constant. The smaller of the forward and the backward form is returned. For
    p = q only norms of that kind are used; other pairs go through the best of the three with conversion factors.

    Args:
        preactivation: how ranges are found, from which slopes follow; None takes CROWN on bounded sets and intervals
            elsewhere (the whole space, where slopes are those of the whole line).
    """

    about: ClassVar[About] = About("any network and region, all norms", "Scaman and Virmaux, NeurIPS 2018")

    preactivation: OutputMethod | None = None

    def __post_init__(self) -> None:
        if self.preactivation is not None:
            object.__setattr__(self, "preactivation", output_method(self.preactivation))

    def constant(self, query: Query) -> ConstantBound:
        """A certified constant of the graph over one set; comparisons are expanded for the ranges alone.

        Returns:
            `details` holds the forward constant of every node, by its number and name, in the order of the graph; of
            its network of gates where it multiplies values.

        Raises:
            InvalidRegionError: when a node has no constant over the region (a product of unbounded values, a
                normalisation without a floor); names it and what to do.
        """
        budget, norm = query.budget.within(IMPROVING * query.budget.remaining), query.norm
        p, q = norm
        found = Enclosures.of(query, self.preactivation)
        sweeps = [Sweeps(found.graph, found, r, budget) for r in ((p,) if p == q else EXPONENTS)]
        values = [up(sweep.value * conversion(found.graph, (sweep.p, sweep.p), norm)) for sweep in sweeps]
        value = torch.stack(values).amin()
        best = sweeps[int(torch.stack(values).argmin())]
        details = {f"{k} {node.name}".rstrip(): best.forward[node] for k, node in enumerate(found.graph.nodes)}
        return ConstantBound(value, Status.of(Status.CERTIFIED, value), details, (), found.slopes, found.ranges)


@dataclass(frozen=True, eq=False)
class _Changes:
    """How much a function changes with its source: with all of it, and with its parts."""

    constant: Tensor
    parts: tuple[Part, ...]

    @staticmethod
    def of(node: Vector, p: float, x: Interval) -> _Changes:
        return _Changes(node.function.constant(p, x), node.function.parts(p, x))


class Sweeps:
    """Forward and backward constants of all nodes for one norm; float64 on the CPU.

    Attributes:
        p: the exponent of the norm that every node is measured in.
        forward: constant of every node as a function of the input.
    """

    def __init__(self, graph: Graph, known: Enclosures, p: float, budget: Budget) -> None:
        self.p = p
        self._graph, self._budget, self._little = graph, budget, little_work(graph, budget)
        self._folding = Folding(graph)
        self._one = torch.ones((), dtype=torch.float64)
        self._slopes = known.of_activations
        self._steepest = {node: self._largest(slope) for node, slope in self._slopes.items()}
        self._vectors = {node: _Changes.of(node, p, x) for node, x in known.of_arguments.items()}
        self._norms: dict[tuple[bool, Node, Node], Tensor] = {}
        self.forward: dict[Node, Tensor] = {}
        for done, node in enumerate(graph.nodes):
            budget.tell(done, len(graph.nodes), "norms")
            self.forward[node] = self._forward(node)
        self.value = self._best()

    def _work(self) -> int:
        """Products that the next norm may take in the time that is left, in steps of an eighth of a power of two."""
        left = self._budget.remaining
        if left > PLENTY:
            return MOST_WORK
        mantissa, exponent = math.frexp(max(1.0, PART * left * PRODUCTS))
        return int(math.ldexp(math.floor(16 * mantissa) / 16, exponent))

    def _certified(self, find: Callable[[int], Tensor]) -> Tensor:
        """A norm by so much work as there is time for, the cheap one first: a proof that is given up leaves nothing."""
        cheap, most_work = find(self._little), self._work()
        if most_work <= WORTH * self._little:
            return cheap
        try:
            with alarmed(self._budget, grace=0.0):
                return torch.minimum(cheap, find(most_work))
        except OutOfTimeError:
            return cheap

    def _largest(self, slope: Interval) -> Tensor:
        """The steepest slope of an activation."""
        if slope.lower.numel() == 0:
            return self._one * 0.0
        return slope.magnitude().amax().to(self._one)

    def _forward(self, node: Node) -> Tensor:
        if isinstance(node, Input):
            return self._one
        if isinstance(node, Affine):
            found = self._sum(node, direct_parts(node), None)
            if node in self._folding.targets and self._folds(node):
                found = torch.minimum(found, self._sum(node, self._folding.parts[node], None))
            return found
        if isinstance(node, Vector):
            return self._of_vector(node)
        assert isinstance(node, Elementwise)
        before, kept = self.forward[node.source], self._slopes[node].magnitude() != 0
        if isinstance(node.source, Affine) and not bool(kept.all()):
            # What the activation cannot pass on does not count.
            before = torch.minimum(before, self._sum(node.source, direct_parts(node.source), kept))
        return up(self._steepest[node] * before)

    def _of_vector(self, node: Vector) -> Tensor:
        """The constant times that of the source, or the sum over the parts of the source, each with its own."""
        change = self._vectors[node]
        whole = up(change.constant * self.forward[node.source])
        if not change.parts:
            return whole
        sizes = [up(part.constant * self._of_entries(node.source, part.entries)) for part in change.parts]
        return torch.minimum(whole, self._added(sizes))

    def _of_entries(self, node: Node, kept: Tensor) -> Tensor:
        """Constant of some entries of a node."""
        if not isinstance(node, Affine):
            return self.forward[node]
        found = self._sum(node, direct_parts(node), kept)
        parts = self._folding.parts[node] if self._folds(node) else {}
        alone = {root: rows_alone(chains, kept) for root, chains in parts.items()}
        if not alone or any(chains is None for chains in alone.values()):
            return found
        sizes = [
            up(self._certified(partial(linear_norm, chains, self.p)) * self.forward[root])
            for root, chains in alone.items()
            if chains
        ]
        return torch.minimum(found, self._added(sizes))

    def _folds(self, node: Affine) -> bool:
        """Whether the folded view of an affine node differs from the node itself, and there is time to look at it."""
        return not self._budget.is_over and any(isinstance(source, Affine) for source in node.sources)

    def _sum(self, node: Affine, parts: Parts, kept: Tensor | None) -> Tensor:
        """Constant of an affine node from those of what it reads."""
        sizes = [up(self._norm(node, root, parts, kept) * self.forward[root]) for root in parts]
        if len(parts) == 1:
            return sizes[0]
        groups = groups_of([touched_entries(chains) for chains in parts.values()])
        sums = [self._added(sizes[k] for k in group) for group in groups]
        if self.p == 2:
            return self._length(sums)
        return torch.stack(sums).amax() if self.p == math.inf else self._added(sums)

    def _added(self, parts: Iterable[Tensor]) -> Tensor:
        total = self._one * 0.0
        for part in parts:
            total = up(total + part)
        return total

    def _length(self, parts: list[Tensor]) -> Tensor:
        """Euclidean length of non-negative numbers; a single one is left as it is."""
        if len(parts) == 1:
            return parts[0]
        largest = torch.stack(parts).amax()
        if not 0 < float(largest.detach()) < math.inf:
            return largest
        squares = [inflate((part / largest).square(), 2) for part in parts]
        return inflate(inflate(self._added(squares).sqrt(), 2) * largest, 2)

    def _norm(self, node: Affine, root: Node, parts: Parts, kept: Tensor | None = None) -> Tensor:
        """Norm of what an affine node does with one of the nodes it reads."""
        chains = parts[root]
        if kept is not None:
            rows = (self._certified(partial(operator_norm, chain[0], self.p, kept)).to(self._one) for chain in chains)
            return torch.minimum(self._added(rows), self._norm(node, root, parts))
        key = (parts is self._folding.parts.get(node), node, root)
        if key not in self._norms:
            self._norms[key] = self._certified(partial(linear_norm, chains, self.p))
        return self._norms[key]

    def _best(self) -> Tensor:
        """The smallest of the forward form, the backward form, and their products where all paths meet."""
        graph, folding = self._graph, self._folding
        views: list[Mapping[Affine, Parts]] = [
            {node: direct_parts(node) for node in graph.nodes if isinstance(node, Affine)}
        ]
        if not self._budget.is_over:
            views.append({node: parts for node, parts in folding.parts.items() if node in folding.targets})
        found = [self.forward[graph.output]]
        for view in views:
            backward = self._backward(view)
            found.append(backward[graph.input])
            found += [up(backward[node] * self.forward[node]) for node in graph.crossings]
        return torch.stack(found).amin()

    def _backward(self, view: Mapping[Affine, Parts]) -> dict[Node, Tensor]:
        """Constants of the output as a function of every node of a view."""
        graph = self._graph
        steps: dict[Node, list[tuple[Tensor, Tensor | None]]] = {node: [] for node in graph.nodes}
        found: dict[Node, Tensor] = {}
        for node in reversed(graph.nodes):
            if isinstance(node, Affine) and node not in view:
                continue
            found[node] = self._gathered(steps[node], node is graph.output)
            if isinstance(node, Affine):
                for root, chains in view[node].items():
                    size_behind = up(found[node] * self._norm(node, root, view[node]))
                    steps[root].append((size_behind, touched_entries(chains, backward=True)))
            elif isinstance(node, Vector):
                steps[node.source].append((up(found[node] * self._vectors[node].constant), None))
            elif isinstance(node, Elementwise):
                steps[node.source].append((up(found[node] * self._steepest[node]), None))
        return found

    def _gathered(self, steps: list[tuple[Tensor, Tensor | None]], is_output: bool) -> Tensor:
        """Readers that look at different entries of a node join as the dual norm does; others add."""
        sizes = [value for value, _ in steps] + ([self._one] if is_output else [])
        masks = [mask for _, mask in steps if mask is not None]
        if len(sizes) <= 1 or len(masks) < len(sizes) or self.p == math.inf:
            return self._added(sizes)
        sums = [self._added(sizes[k] for k in group) for group in groups_of(masks)]
        return self._length(sums) if self.p == 2 else torch.stack(sums).amax()
