"""The exact value of a pair: all vertices of the box of slopes for a few neurons, branch and bound for more.

``||A D(s) B||`` is convex in s, so its maximum lies at a vertex. Both ways end with a certified number: every vertex
is either met by a verified factorisation or lies below the certified dual bound of a node.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import gamma, inflate, rigorous, up
from jacobound.constants.pairs.dual import Pair, PairBound, frobenius, product_bound
from jacobound.constants.pairs.estimates import ascend, attained
from jacobound.constants.pairs.search import Dual, Over, dual_bound, never
from jacobound.operators.block_norms import Family, largest_norm

ENUMERATED = 12  # neurons of which all vertices are met
BRANCHED = 64  # neurons that are branched on
NODES = 4000
CLOSE = 1e-10  # relative distance to the attained value at which a node is finished


def enumerated(pair: Pair) -> float:
    """Certified largest norm over all vertices; the work doubles with every undecided neuron."""
    pair = pair.pruned.oriented
    if not pair.is_finite:
        return math.inf
    if 0 in (*pair.left.shape, *pair.right.shape):
        return 0.0
    pair = _turned_flat(pair)
    scaled, factor = pair.scaled
    # Frobenius norms of the scaled matrices are at most 1; the slopes are scaled as well.
    slope = 2.0 ** math.frexp(max(float(scaled.steepest), 1e-290))[1]
    undecided = scaled.undecided

    def matrices(numbers: Tensor) -> Tensor:
        slopes = (scaled.lower / slope).expand(len(numbers), -1).clone()
        chosen = (numbers.unsqueeze(1) >> torch.arange(len(undecided))) & 1 == 1
        slopes[:, undecided] = torch.where(chosen, scaled.upper[undecided], scaled.lower[undecided]) / slope
        return scaled.at(slopes)

    rows, columns = len(scaled.left), scaled.right.shape[1]
    found = largest_norm(Family(1 << len(undecided), rows, columns, matrices))
    # What the products round is at most gamma |A||s||B|, whose norm is at most that of the Frobenius norms.
    size = torch.tensor(frobenius(scaled.left) * frobenius(scaled.right), dtype=torch.float64)
    lost = inflate(size * gamma(pair.neurons + 4, size), 4) + (1e-250 * (rows + columns) if rigorous() else 0.0)
    return float(up(up(up(found + lost) * slope) * factor))


def _turned_flat(pair: Pair) -> Pair:
    """The orientation with no more rows than columns."""
    if len(pair.left) <= pair.right.shape[1]:
        return pair
    return Pair(pair.right.T.contiguous(), pair.left.T.contiguous(), pair.lower, pair.upper)


@dataclass(order=True)
class _Node:
    """A pair with some neurons fixed; the one with the largest bound comes first."""

    negative: float
    number: int
    pair: Pair = field(compare=False)
    bound: PairBound = field(compare=False)


def exact_bound(pair: Pair, over: Over = never, *, enumerate_up_to: int = ENUMERATED, nodes: int = NODES) -> PairBound:
    """The largest norm of a pair, certified, up to rounding; the dual bound where the pair is too wide.

    Args:
        over: asked between nodes; when it says so the remaining bracket is returned, with a certified upper end.
        enumerate_up_to: undecided neurons of which all vertices are met.
        nodes: most nodes.
    """
    pair = pair.pruned.oriented
    if not pair.is_finite:
        return PairBound(math.inf)
    if len(pair.undecided) <= enumerate_up_to:
        value = min(enumerated(pair), product_bound(pair))
        return PairBound(value, value)
    if len(pair.undecided) > BRANCHED:
        return replace(dual_bound(pair, over), complete=False)
    return _Search(pair, over, enumerate_up_to).run(nodes)


class _Search:
    """Best first; lives for one call."""

    def __init__(self, pair: Pair, over: Over, enumerate_up_to: int) -> None:
        self._pair, self._over, self._few = pair, over, enumerate_up_to
        self._numbers = itertools.count()
        self._attained = attained(pair, ascend(pair))
        self._settled = 0.0  # certified maximum of the nodes that are done
        self._open: list[_Node] = []

    def run(self, nodes: int) -> PairBound:
        root = dual_bound(self._pair, self._over)
        self._push(self._pair, root)
        complete = True
        while self._open and -self._open[0].negative > self._attained * (1 + CLOSE):
            if next(self._numbers) > nodes or self._over():
                complete = False
                break
            self._branch(heapq.heappop(self._open))
        left = -self._open[0].negative if self._open else 0.0
        return PairBound(max(self._settled, left), self._attained, root.multipliers, complete)

    def _push(self, pair: Pair, bound: PairBound) -> None:
        heapq.heappush(self._open, _Node(-bound.upper, next(self._numbers), pair, bound))

    def _branch(self, node: _Node) -> None:
        pair = node.pair
        neuron = pair.undecided[_worst(pair, node.bound.multipliers)]
        for slope in (pair.upper[neuron], pair.lower[neuron]):
            child = pair.fixed(neuron.reshape(1), slope.reshape(1))
            if len(child.undecided) <= self._few:
                value = min(enumerated(child), node.bound.upper)
                self._settled = max(self._settled, value)
                self._attained = max(self._attained, attained(child, ascend(child)))
                continue
            found = self._bound(child, node.bound)
            self._push(child, found)

    def _bound(self, child: Pair, before: PairBound) -> PairBound:
        """The dual of a child, which is no larger than its parent's."""
        start = before.multipliers
        # A neuron of slope zero is dropped; multipliers stand for the others.
        kept = (child.lower != 0) | (child.upper != 0)
        found = dual_bound(child, self._over, None if start is None else start[kept])
        multipliers = found.multipliers
        if multipliers is not None and len(multipliers) != child.neurons:
            whole = torch.ones(child.neurons, dtype=torch.float64)
            whole[kept] = multipliers
            multipliers = whole
        self._attained = max(self._attained, attained(child, ascend(child)))
        return PairBound(min(found.upper, before.upper), 0.0, multipliers)


def _worst(pair: Pair, multipliers: Tensor | None) -> int:
    """Which undecided neuron to fix: where the bound's own vectors violate |w| = |z| most."""
    undecided = pair.undecided
    if multipliers is None:
        sizes = pair.left[:, undecided].norm(dim=0) * pair.right[undecided].norm(dim=1)
        return int((sizes * pair.half[undecided]).argmax())
    return int(Dual(pair).violations(multipliers[undecided].log()).argmax())
