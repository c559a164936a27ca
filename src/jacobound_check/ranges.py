"""Ranges of all nodes: by intervals, and by backward substitution of lines whose slopes the certificate names.

A row a of coefficients on a node stands for ``a . node + constant``, which bounds the target from above. Through an
affine node ``a (W x + b)`` it becomes ``(a W) x + a b``; through an activation every entry takes the upper line where
its coefficient is positive and the lower one where it is negative. A computed product *is* the new coefficient; what it
misses is at most ``|a| gamma |W| X`` (`operators`), because |x| <= X is known. Source: CROWN (Zhang et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jacobound_check.network import Network, Node
from jacobound_check.regions import Set
from jacobound_check.rounding import LEAST, UNIT, Array, Interval, gamma, grown, safe, up

ROWS = 1 << 21  # numbers of one block of coefficients


@dataclass(frozen=True, eq=False)
class Slopes:
    """Of the lines below and above one elementwise node, and where its pieces' tangents are taken."""

    below: Array
    above: Array
    points: tuple[Array | None, ...]


@dataclass(frozen=True, eq=False)
class Choices:
    """What a certificate chooses for the ranges over one set.

    Args:
        slopes: by node; behind a node without, intervals alone go on.
        entries: by node, which entries are bounded by backward substitution.
    """

    slopes: Mapping[int, Slopes]
    entries: Mapping[int, NDArray[np.int64]]


def image_of(node: Node, known: list[Interval]) -> Interval:
    """The range of a node from those that it reads, by intervals."""
    if node.kind == "affine":
        found = [operator.image(known[source]) for operator, source in node.terms]
        total = found[0]
        for part in found[1:]:
            total = total + part
        return total if node.bias is None else total + Interval.at(node.bias)
    if node.kind == "elementwise":
        assert node.function is not None
        return node.function.range(known[node.sources[0]])
    first, second = (known[source] for source in node.sources)
    product = first * second
    if node.sources[0] == node.sources[1]:
        product = Interval(np.maximum(product.low, 0.0), product.high)
    return product


def ranges_of(network: Network, region: Set, choices: Choices) -> list[Interval]:
    """Enclosures of the values of all nodes over a set.

    Raises:
        UnreadableError: when an argument may leave the domain of its function, or a choice does not fit.
    """
    known: list[Interval] = [region.box]
    sweep = _Substitution(network, region, known)
    for k, node in enumerate(network.nodes[1:], 1):
        if node.function is not None:
            node.function.require(known[node.sources[0]], f"node {k}")
        known.append(image_of(node, known))
        if node.function is not None and k in choices.slopes:
            sweep.draw(k, choices.slopes[k])
        if k in choices.entries and len(choices.entries[k]) and region.bounded:
            entries = choices.entries[k]
            better = sweep.bound(k, entries).meet(known[k][entries])
            low, high = known[k].low.copy(), known[k].high.copy()
            low[entries], high[entries] = better.low, better.high
            known[k] = Interval(low, high)
    return known


class _Substitution:
    """Backward substitution through one network; lives for one set."""

    def __init__(self, network: Network, region: Set, known: list[Interval]) -> None:
        self._network, self._region, self._known = network, region, known
        self._lines: dict[int, tuple[Slopes, Interval]] = {}
        self._slack: dict[int, tuple[Array, float]] = {}

    def draw(self, k: int, slopes: Slopes) -> None:
        """The offsets that lines with these slopes need."""
        node = self._network.nodes[k]
        assert node.function is not None
        x = self._known[node.sources[0]]
        if np.isfinite(x.low).all() and np.isfinite(x.high).all():
            offsets = node.function.offsets(x, slopes.below, slopes.above, slopes.points)
            if np.isfinite(offsets.low).all() and np.isfinite(offsets.high).all():
                self._lines[k] = slopes, offsets

    def bound(self, target: int, entries: NDArray[np.int64]) -> Interval:
        """Ranges of some entries of a node."""
        width = max(node.size for node in self._network.nodes[: target + 1])
        step, lows, highs = max(1, ROWS // width), [], []
        for first in range(0, len(entries), step):
            some = entries[first : first + step]
            rows = np.zeros((2 * len(some), self._network.nodes[target].size))
            rows[np.arange(len(some)), some] = 1.0
            rows[len(some) + np.arange(len(some)), some] = -1.0
            most = self._most(target, rows)
            highs.append(most[: len(some)])
            lows.append(-most[len(some) :])
        return safe(np.concatenate(lows), np.concatenate(highs))

    def _most(self, target: int, rows: Array) -> Array:
        """Upper bounds of rows on a node."""
        pending, constant, error = {target: rows}, np.zeros(len(rows)), np.zeros(len(rows))
        with np.errstate(invalid="ignore", over="ignore"):
            while True:
                k = max(pending)
                row, node = pending.pop(k), self._network.nodes[k]
                if k == 0:
                    return up(up(constant + self._region.most(row)) + error)
                if node.kind == "affine":
                    constant, lost = self._through_affine(k, row, constant, pending)
                elif k in self._lines:
                    constant, lost = self._through_lines(k, row, constant, pending)
                else:  # no lines: its interval
                    (centre, radius), size = self._known[k].middle(), np.abs(row)
                    lost = grown(size @ up(radius + gamma(node.size + 2) * np.abs(centre)), node.size + 3)
                    constant, lost = self._added(constant, row @ centre, lost + node.size * LEAST)
                    if not pending:
                        return up(constant + up(error + lost))
                error = up(error + lost)

    @staticmethod
    def _added(constant: Array, more: Array, lost: Array) -> tuple[Array, Array]:
        total = constant + more
        return total, up(lost + 2 * UNIT * np.abs(total))

    def _join(self, pending: dict[int, Array], k: int, row: Array) -> Array:
        """Add coefficients on a node that may have some already; the rounding that this costs."""
        if k not in pending:
            pending[k] = row
            return np.zeros(len(row))
        pending[k] = total = pending[k] + row
        return grown(2 * UNIT * (np.abs(total) @ self._known[k].size()), total.shape[1] + 3)

    def _through_affine(self, k: int, row: Array, constant: Array, pending: dict[int, Array]) -> tuple[Array, Array]:
        node = self._network.nodes[k]
        if k not in self._slack:
            slack, floor = np.zeros(node.size), 0.0
            for operator, source in node.terms:
                size = self._known[source].size()
                slack = up(slack + operator.slack(size))
                floor += 1.001 * operator.terms * LEAST * float(size.sum())
            if node.bias is not None:
                slack = up(slack + grown(gamma(node.size + 2) * np.abs(node.bias), 2))
            self._slack[k] = slack, floor + node.size * LEAST
        slack, floor = self._slack[k]
        lost = grown(np.abs(row) @ slack, node.size + 2) + floor
        for operator, source in node.terms:
            lost = up(lost + self._join(pending, source, operator.back(row)))
        return (constant, lost) if node.bias is None else self._added(constant, row @ node.bias, lost)

    def _through_lines(self, k: int, row: Array, constant: Array, pending: dict[int, Array]) -> tuple[Array, Array]:
        slopes, offsets = self._lines[k]
        source = self._network.nodes[k].sources[0]
        positive, negative = np.maximum(row, 0.0), np.minimum(row, 0.0)
        size = self._known[source].size()
        moved = positive * slopes.above + negative * slopes.below
        worst = gamma(len(size) + 3) * offsets.size() + 4 * UNIT * size * np.maximum(
            abs(slopes.above), abs(slopes.below)
        )
        lost = grown(np.abs(row) @ up(worst), len(size) + 4) + LEAST * float(size.sum() + 2 * len(size))
        constant, lost = self._added(constant, positive @ offsets.high + negative @ offsets.low, lost)
        return constant, up(lost + self._join(pending, source, moved))
