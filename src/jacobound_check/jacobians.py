"""The Jacobian over a set: the chain rule in intervals, RecurJac's recursion, and the core of unstable neurons.

The derivative of a network is a network of the same affine maps and of gates: an activation multiplies tangents by a
slope within its range, a product ``d(x y) = y dx + x dy`` by the values of the other factor. For every point of the set
there is one choice of slopes with which it is the Jacobian, so whatever holds for all slopes within their ranges holds
for the Jacobian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jacobound_check.network import Network
from jacobound_check.operators import Moves, Operator
from jacobound_check.rounding import LEAST, UNIT, Array, Interval, down, grown, safe, up

CHUNK = 1 << 22  # numbers of the tangents of one chunk of columns


@dataclass(frozen=True, eq=False)
class Derivative:
    """A network of gates.

    Args:
        edges: for every node, what it does with the tangents of which node: a linear map, or slopes entry by entry.
        sizes: of all nodes.
    """

    edges: tuple[tuple[tuple[Operator | Interval, int], ...], ...]
    sizes: tuple[int, ...]

    @property
    def output(self) -> int:
        return len(self.sizes) - 1


def derivative_of(network: Network, known: list[Interval]) -> Derivative:
    """The gates over a set, from the ranges of its nodes; slopes of what no tangent reaches are 0.

    Products are split: a node for each factor's gate, and one that adds them.
    """
    edges: list[tuple[tuple[Operator | Interval, int], ...]] = [()]
    sizes, place, reached = [network.inputs], {0: 0}, [np.ones(network.inputs, dtype=bool)]

    def add(edge: tuple[tuple[Operator | Interval, int], ...], size: int) -> int:
        arrives = np.zeros(size, dtype=bool)
        kept: list[tuple[Operator | Interval, int]] = []
        for way, source in edge:
            if isinstance(way, Interval):
                low, high = (np.where(reached[source], end, 0.0) for end in (way.low, way.high))
                way = Interval(low, high)
                arrives |= (low != 0) | (high != 0)
            else:
                arrives |= way.sizes.ahead(reached[source].astype(np.float64)) > 0
            kept.append((way, source))
        edges.append(tuple(kept))
        sizes.append(size)
        reached.append(arrives)
        return len(sizes) - 1

    for k, node in enumerate(network.nodes[1:], 1):
        if node.kind == "affine":
            place[k] = add(tuple((operator, place[source]) for operator, source in node.terms), node.size)
        elif node.function is not None:
            (source,) = node.sources
            place[k] = add(((node.function.slopes(known[source]), place[source]),), node.size)
        else:
            one, two = node.sources
            gates = [add(((known[b], place[a]),), node.size) for a, b in ((one, two), (two, one))]
            same = Moves(np.arange(node.size), node.size)
            place[k] = add(tuple((same, gate) for gate in gates), node.size)
    if isinstance(edges[-1][0][0], Interval):  # the recursion ends with a map
        add(((Moves(np.arange(sizes[-1]), sizes[-1]), len(sizes) - 1),), sizes[-1])
    return Derivative(tuple(edges), tuple(sizes))


def adjoints_of(network: Derivative, narrower: dict[int, Interval] | None = None) -> list[Interval]:
    """Enclosures of the derivative of every output by every node, shape (outputs, size), by the interval chain rule."""
    count = network.sizes[-1]
    found: list[Interval | None] = [None] * len(network.sizes)
    found[-1] = Interval.at(np.eye(count))
    for k in range(network.output, 0, -1):
        here = found[k]
        if here is None:
            here = found[k] = Interval.at(np.zeros((count, network.sizes[k])))
        if narrower and k in narrower:
            here = found[k] = here.meet(narrower[k])
        for way, source in network.edges[k]:
            if isinstance(way, Interval):
                image = _times(way, here)
            elif k == network.output:  # rows of the last map: exact, but for doubts
                rows = way.back(np.eye(count))
                doubt = 0.0 if way.doubt is None else up(way.doubt.back(np.eye(count)))
                image = Interval(rows, rows) if way.doubt is None else safe(down(rows - doubt), up(rows + doubt))
            else:
                image = way.image(here, backwards=True)
            known = found[source]
            found[source] = image if known is None else known + image
    if found[0] is None:
        found[0] = Interval.at(np.zeros((count, network.sizes[0])))
    return [Interval.at(np.zeros((count, n))) if x is None else x for x, n in zip(found, network.sizes, strict=True)]


def _times(slope: Interval, x: Interval) -> Interval:
    """Slope times derivative; exact where the slope is 0 or 1."""
    product, passes = x * slope, (slope.low == slope.high) & ((slope.low == 0) | (slope.low == 1))
    gate = [np.where(slope.low == 0, 0.0, end) for end in (x.low, x.high)]
    return Interval(np.where(passes, gate[0], product.low), np.where(passes, gate[1], product.high))


@dataclass(frozen=True, eq=False)
class _Lines:
    """Lines around slope times derivative at one node, shape (outputs, size)."""

    below: Array
    least: Array
    above: Array
    most: Array


def _lines(slope: Interval, y: Interval, rule: str) -> _Lines:
    """``below y + least <= s y <= above y + most`` for slopes s in [a, c] and y in [L, U].

    Where the sign of y is known the slopes are a and c and the offsets 0. Elsewhere "chord" takes the chords of the
    convex max s y and of the concave min s y, "constant" a slope of 0; s y - k y is extreme at a corner whatever k is.
    """
    a, c = (np.broadcast_to(end, y.low.shape) for end in (slope.low, slope.high))
    with np.errstate(invalid="ignore", over="ignore"):
        width = np.where(y.high > y.low, y.high - y.low, 1.0)
        above, below = (c * y.high - a * y.low) / width, (a * y.high - c * y.low) / width
        if rule == "constant":  # an end within rounding of 0 counts as 0
            near = 1e-11 * y.size()
            above = np.where(y.low >= -near, c, np.where(y.high <= near, a, 0.0))
            below = np.where(y.low >= -near, a, np.where(y.high <= near, c, 0.0))
        above, below = (np.nan_to_num(k, nan=0.0, posinf=0.0, neginf=0.0) for k in (above, below))
        positive, negative = y.low >= 0, y.high <= 0
        above = np.where(negative, a, np.where(positive | (a == c), c, above))
        below = np.where(negative, c, np.where(positive | (a == c), a, below))
        corners = [(s, z) for s in (a, c) for z in (y.low, y.high)]
        over = np.max([up(up(s * z) - down(above * z)) for s, z in corners], 0)
        under = np.min([down(down(s * z) - up(below * z)) for s, z in corners], 0)
    known = positive | negative | (a == c)
    most, least = np.where(known, 0.0, np.maximum(over, 0.0)), np.where(known, 0.0, np.minimum(under, 0.0))
    return _Lines(below, np.where(np.isnan(least), -np.inf, least), above, np.where(np.isnan(most), np.inf, most))


class Recursion:
    """RecurJac (Zhang et al. 2019) over a network of gates: from the last unstable gate to the input.

    A unit tangent of a neuron is pushed to the outputs; at every later gate ``s Y`` is replaced by the lines above, by
    the sign of what arrives, once for upper and once for lower bounds. The computed tangent *is* the new one: what it
    misses at a node changes output j by at most ``|d out_j / d node|`` times as much, for which `_weights` are bounds.
    """

    def __init__(self, network: Derivative, rule: str) -> None:
        self._network, self._rule = network, rule
        self._lines: dict[tuple[int, int], _Lines] = {}
        adjoints = adjoints_of(network)
        self._weights = [np.broadcast_to(x.size(), x.low.shape).copy() for x in adjoints]
        self._prices: dict[tuple[int, int], Array] = {}
        self.narrower: dict[int, Interval] = {}
        for k in range(network.output, 0, -1):
            for e, (way, _) in enumerate(network.edges[k]):
                if isinstance(way, Interval):
                    unstable = np.flatnonzero(way.low != way.high)
                    y = adjoints[k]
                    if len(unstable):
                        y = self._narrowed(k, y, unstable)
                        self._weights[k] = np.minimum(self._weights[k], y.size())
                        self.narrower[k] = y
                    self._lines[k, e] = _lines(way, y, self._rule)
                else:
                    doubt = way.slack(self._weights[k], backwards=True)
                    self._prices[k, e] = doubt

        def entries() -> Interval:
            columns = np.arange(network.sizes[0])
            return self._pushed(0, columns).meet(adjoints[0])

        self.entries = entries()

    def _narrowed(self, k: int, y: Interval, entries: NDArray[np.int64]) -> Interval:
        better = self._pushed(k, entries).meet(y[:, entries])
        low, high = y.low.copy(), y.high.copy()
        low[:, entries], high[:, entries] = better.low, better.high
        return Interval(low, high)

    def _pushed(self, start: int, entries: NDArray[np.int64]) -> Interval:
        """Bounds of the outputs' derivatives by some entries of a node, shape (outputs, entries)."""
        count, widest = self._network.sizes[-1], max(self._network.sizes)
        step, parts = max(1, CHUNK // (2 * count * widest)), []
        for first in range(0, len(entries), step):
            some = entries[first : first + step]
            units = np.zeros((1, 1, len(some), self._network.sizes[start]))
            units[0, 0, np.arange(len(some)), some] = 1.0
            parts.append(self._push(start, units))
        return Interval(np.concatenate([x.low for x in parts], 1), np.concatenate([x.high for x in parts], 1))

    def along(self, directions: Array) -> Interval:
        """Bounds of ``sum_k J[j, k] u[j, k]`` for every output j, from directions (outputs, inputs)."""
        return self._push(0, directions[None, :, None, :])[:, 0]

    def _push(self, start: int, units: Array) -> Interval:
        """From tangents (1, 1 or outputs, columns, size) to bounds (outputs, columns)."""
        network, count = self._network, self._network.sizes[-1]
        at: dict[int, Array] = {start: units}  # upper chain, lower chain (or both at once), outputs, columns, size
        offset, error = np.zeros((2, count, units.shape[2])), np.zeros((count, units.shape[2]))
        with np.errstate(invalid="ignore", over="ignore"):
            for k in range(start + 1, network.output + 1):
                arrived = [(e, way, at[source]) for e, (way, source) in enumerate(network.edges[k]) if source in at]
                total: Array | None = None
                for e, way, tangents in arrived:
                    if isinstance(way, Interval):
                        image, added, lost = self._through_gate(k, e, tangents)
                        offset[0], offset[1] = up(offset[0] + added[0]), down(offset[1] + added[1])
                    else:
                        image, lost = way.ahead(tangents), self._cost(tangents, self._prices[k, e])
                        floor = way.terms * LEAST * self._weights[k].sum(-1)
                        lost = up(lost + floor[:, None])
                    error = up(error + lost)
                    if total is not None:
                        image = total + image
                        error = up(error + self._cost(image, 2 * UNIT * self._weights[k]))
                    total = image
                if total is not None:
                    at[k] = total
            last = at.get(network.output)
            if last is None:
                return safe(down(offset[1] - error), up(offset[0] + error))
            outputs = np.arange(count)
            last = np.broadcast_to(last, (2 if len(last) == 2 else 1, count, *last.shape[2:]))[:, outputs, :, outputs]
            upper, lower = last[:, 0], last[:, -1]
            return safe(down(down(lower + offset[1]) - error), up(up(upper + offset[0]) + error))

    def _cost(self, tangents: Array, price: Array) -> Array:
        """``max over the chains of |t| . price`` for every output and column."""
        sizes = np.abs(tangents).max(0)  # (outputs or 1, columns, size)
        found = np.einsum("cn,jn->jc", sizes[0], price) if len(sizes) == 1 else (sizes @ price[:, :, None])[..., 0]
        return grown(found, tangents.shape[-1] + 3)

    def _through_gate(self, k: int, e: int, tangents: Array) -> tuple[Array, Array, Array]:
        """Tangents behind a gate, offsets (2, outputs, columns), and what rounding may do (outputs, columns)."""
        lines = self._lines[k, e]
        over, under = tangents[0], tangents[-1]
        same = not (lines.most.any() or lines.least.any())
        same = same and bool((lines.above == lines.below).all() and (lines.above == lines.above[0]).all())
        count = tangents.shape[-1]
        if same:
            image = tangents * lines.above[0]
            added = np.zeros((2, 1, tangents.shape[2]))
        else:
            above, below = lines.above[:, None, :], lines.below[:, None, :]
            upper = np.where(over > 0, above, below) * over
            lower = np.where(under > 0, below, above) * under
            image = np.stack((upper, lower))
            most, least = (x[:, :, None] for x in (lines.most, lines.least))
            high = (np.maximum(over, 0) @ most + np.minimum(over, 0) @ least)[..., 0]
            low = (np.maximum(under, 0) @ least + np.minimum(under, 0) @ most)[..., 0]
            added = np.stack((grown(high, 2 * count + 4), -grown(-low, 2 * count + 4)))
        weight = self._weights[k]
        lost = self._cost(image, 2 * UNIT * weight)
        return image, added, up(lost + LEAST * weight.sum(-1)[:, None])


@dataclass(frozen=True, eq=False)
class Core:
    """``[R S; P Q]``: J = R + S w, z = P u + Q w, with ``w_i = d_i z_i`` and ``|d_i| <= 1`` at the unstable neurons.

    Args:
        middle, radius: the exact matrix lies within; rows are outputs, then neurons in order, columns inputs, then
            the same neurons.
    """

    middle: Array
    radius: Array
    outputs: int
    inputs: int

    def transposed(self) -> Core:
        """The core of the transposed Jacobian, neurons in reverse order."""

        def turned(x: Array) -> Array:
            rows = np.concatenate((x[: self.outputs], x[self.outputs :][::-1]))
            return np.concatenate((rows[:, : self.inputs], rows[:, self.inputs :][:, ::-1]), 1).T.copy()

        return Core(turned(self.middle), turned(self.radius), self.inputs, self.outputs)

    def pruned(self) -> Core:
        """Without neurons that read nothing (their z is 0) or that nothing reads, and inputs that nothing reads."""
        present, q, n = (self.middle != 0) | (self.radius != 0), self.outputs, self.inputs
        alive = np.ones(len(self.middle) - q, dtype=bool)
        while True:
            reads = alive & (present[q:, :n].any(1) | (present[q:, n:] & alive).any(1))
            rows = np.concatenate((np.ones(q, dtype=bool), alive))
            kept = reads & (present[:, n:] & rows[:, None]).any(0)
            if (kept == alive).all():
                return self._part(rows, np.concatenate((present[rows][:, :n].any(0), alive)))
            alive = kept

    def of_row(self, row: int) -> Core:
        """The core of one output, with the inputs that it depends on."""
        rows = np.ones(len(self.middle), dtype=bool)
        rows[: self.outputs] = False
        rows[row] = True
        present = (self.middle != 0) | (self.radius != 0)
        columns = np.ones(self.middle.shape[1], dtype=bool)
        columns[: self.inputs] = present[rows][:, : self.inputs].any(0)
        return self._part(rows, columns)

    def _part(self, rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> Core:
        sizes = int(rows[: self.outputs].sum()), int(columns[: self.inputs].sum())
        return Core(self.middle[rows][:, columns], self.radius[rows][:, columns], *sizes)


Rows = tuple[Array, Array]


def core_of(network: Derivative) -> Core:
    """Rows of outputs and of unstable neurons, pushed back with middle and radius.

    A slope in [a, c] is ``m + r d`` with ``|d| <= 1``; the column of a neuron is what arrives behind it, times r.
    """
    count = network.sizes[-1]
    at: dict[int, Rows] = {network.output: (np.eye(count), np.zeros((count, count)))}
    columns: list[Rows] = []
    rows, blocks = count, []
    for k in range(network.output, 0, -1):
        if k not in at:
            continue
        middle, radius = at.pop(k)
        for way, source in network.edges[k]:
            if isinstance(way, Interval):
                centre, half = way.middle()
                unstable = np.flatnonzero(half != 0)
                columns.append(_scaled(middle[:, unstable], radius[:, unstable], half[unstable]))
                passed, doubt = _scaled(middle, radius, centre)
                own = np.zeros((len(unstable), len(centre)))
                own[np.arange(len(unstable)), unstable] = 1.0
                gap = np.zeros((rows - len(passed), len(centre)))
                passed = np.concatenate((passed, gap, own))
                doubt = np.concatenate((doubt, gap, np.zeros_like(own)))
                rows += len(unstable)
                blocks.append(len(unstable))
            else:
                passed, doubt = _back(way, middle, radius)
            at[source] = _joined(at.get(source), (passed, doubt))
    first = at.get(0, (np.zeros((0, network.sizes[0])), np.zeros((0, network.sizes[0]))))
    whole = [np.concatenate([_padded(part[end], rows) for part in (first, *columns)], 1) for end in (0, 1)]
    # Blocks come last ones first, as they were met; turned into the order of the network.
    places = np.split(np.arange(rows - count), np.cumsum(blocks)[:-1]) if blocks else [np.arange(0)]
    order = np.concatenate(places[::-1]).astype(np.int64)
    index = np.concatenate((np.arange(count), count + order))
    other = np.concatenate((np.arange(network.sizes[0]), network.sizes[0] + order))
    return Core(whole[0][index][:, other], whole[1][index][:, other], count, network.sizes[0]).pruned()


def _back(operator: Operator, middle: Array, radius: Array) -> Rows:
    """Rows behind a map as rows before it; what no weight reaches stays exactly 0."""
    size = up(np.abs(middle) + radius)
    image, doubt = operator.back(middle), operator.slack(size, backwards=True, radius=radius)
    reached = operator.sizes.back(((middle != 0) | (radius != 0)).astype(np.float64)) != 0
    return np.where(reached, image, 0.0), np.where(reached, doubt, 0.0)


def _scaled(middle: Array, radius: Array, factor: Array) -> Rows:
    """Rows times one float per entry; 0 and 1 round nothing."""
    product, exact = middle * factor, (factor == 0) | (factor == 1)
    rounded = grown(radius * np.abs(factor) + np.abs(product) * (2 * UNIT), 4) + LEAST
    doubt = np.where(exact, radius * factor, rounded)
    return product, np.where((middle == 0) & (radius == 0), 0.0, doubt)


def _joined(one: Rows | None, other: Rows) -> Rows:
    if one is None:
        return other
    rows = max(len(one[0]), len(other[0]))
    middle = _padded(one[0], rows) + _padded(other[0], rows)
    doubt = _padded(one[1], rows) + _padded(other[1], rows)
    rounding = np.where(middle != 0, np.abs(middle) * (2 * UNIT) + LEAST, 0.0)
    return middle, np.where(doubt + rounding == 0, 0.0, grown(doubt + rounding, 4))


def _padded(x: Array, rows: int) -> Array:
    return np.concatenate((x, np.zeros((rows - len(x), x.shape[1]))))
