"""Increments of activations and of log-sum-exp: what two networks differ by behind a function of both.

With arguments h and u, values v = s(h) and w = s(u), and the difference ``d = u - h`` known as a node of its own, the
increment ``w - v`` is d times a mean of slopes between h and u: it is small where d is, which no difference of two
ranges shows. With slopes from [a, b] it lies between the chords of ``min(a d, b d)`` and ``max(a d, b d)``, which are
concave and convex in d; by the mean value theorem it is near its tangent plane in h and d; and it is ``w - v``. Its
derivative is ``s'(u) dd + (s'(u) - s'(h)) dh``, the last factor enclosed on short stretches of h one by one, so that it
is about as small as d where s' is smooth; or, where it is not (at a kink), ``dw - dv``. The rules are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacobound.activations.kinds.base import Activation, Lines
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.graph.nodes import Affine, Gates, Node, Planes, Vector, VectorFunction
from jacobound.graph.vector.log_sum_exp import softmax_range
from jacobound.graph.vector.rows import DOUBLE, largest
from jacobound.graph.vector.value_nodes import entries, everything, row_sums, same

# Stretches of an argument on which changes of a derivative are enclosed, and entries of all of them together at most.
STRETCHES = 32
MOST_STRETCHES = 1 << 22
# The plain difference is taken where it is so much closer by itself: what it is made of is not as close.
CLOSER = 0.5


@dataclass(frozen=True, eq=False)
class Increment(VectorFunction):
    """``s(u) - s(h)``, entry by entry, of what lies along the last axis: h, d, u, v and w, (*out_shape, 5).

    Args:
        activation: the function s.
        out_shape: shape of each of them and of the result.
        like: tensor that carries dtype and device.
    """

    activation: Activation
    out_shape: tuple[int, ...]  # type: ignore[misc]
    like: Tensor = DOUBLE

    @property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.out_shape, 5)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"increment of {self.activation.name}"

    def value(self, x: Tensor) -> Tensor:
        return self.activation.value(x[..., 0] + x[..., 1]) - x[..., 3]

    def range(self, x: Interval) -> Interval:
        h, d, u, v, w = _parts(x)
        found = (d * self._slopes(h, u)).intersect(w - v)
        middle, slopes, halves = self._tangent(h, d, u)
        for slope, half in zip(slopes, halves, strict=True):
            middle = middle + slope * Interval(-half, half)
        return found.intersect(Interval.safe(*_ends(middle)))

    def _slopes(self, h: Interval, u: Interval) -> Interval:
        """Of all chords between h and u."""
        return self.activation.derivative_range(h.hull(u))

    def _tangent(
        self, h: Interval, d: Interval, u: Interval
    ) -> tuple[Interval, tuple[Interval, Interval], tuple[Tensor, Tensor]]:
        """The value at the middle of h and d, derivatives by both over the box, and half widths of both."""
        (one, far), (two, apart) = h.midpoint_and_radius(), d.midpoint_and_radius()
        reached = h.hull(h + d)
        at = Interval.exact(one)
        value = self.activation.range(at + Interval.exact(two)) - self.activation.range(at)
        return value, (self._changes(h, d, None), self.activation.derivative_range(reached)), (far, apart)

    def planes(self, x: Interval) -> Planes:
        return self._closest(x, parallel=False)

    def parallel_planes(self, x: Interval) -> Planes:
        return self._closest(x, parallel=True)

    def _closest(self, x: Interval, parallel: bool) -> Planes:
        """For every entry the chords, the tangent plane, or the difference of w and v, by how far they are apart."""
        h, d, u, *_ = _parts(x)
        slope = self._slopes(h, u)
        if parallel:
            steep = slope.midpoint_and_radius()[0]
            below = above = torch.where(torch.isfinite(steep), steep, 0.0)
        else:
            below, above = _chords(slope, d)
        lower, upper = ((slope - k) * d for k in (below, above))
        middle, reach = d.midpoint_and_radius()
        gap = upper.upper - lower.lower + (above - below) * middle + (above - below).abs() * reach
        value, (change, steep), (far, apart) = self._tangent(h, d, u)
        one, two = (torch.where(torch.isfinite(k), k, 0.0) for k in (_middle(change), _middle(steep)))
        rest = value - Interval.exact(one) * _middle(h) - Interval.exact(two) * middle
        for found, k, half in ((change, one, far), (steep, two, apart)):
            rest = rest + (found - k) * Interval(-half, half)
        apart_by = gap, rest.upper - rest.lower, self._gap_of_both(h, u)
        touching = ~(apart_by[1] >= gap)
        plain = apart_by[2] < CLOSER * torch.minimum(gap, torch.where(apart_by[1].isnan(), torch.inf, apart_by[1]))
        touching, nothing = touching & ~plain, torch.zeros_like(gap)
        slopes = []
        for k in (below, above):
            of_d = torch.where(plain, 0.0, torch.where(touching, two, k))
            of_v = torch.where(plain, 1.0, 0.0).to(of_d)
            slopes.append(torch.stack((torch.where(touching, one, 0.0), of_d, nothing, -of_v, of_v), -1))
        least = torch.where(plain, 0.0, torch.where(touching, rest.lower, lower.lower))
        most = torch.where(plain, 0.0, torch.where(touching, rest.upper, upper.upper))
        return Planes(
            ((slopes[0], slopes[1]),),
            least.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf),
            most.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf),
        )

    def _gap_of_both(self, h: Interval, u: Interval) -> Tensor:
        """How far lines around s are apart at most, for both arguments together; a hint."""
        total = torch.zeros_like(h.lower)
        for x in (h, u):
            lines = self.activation.lines(x)
            total = total + torch.maximum(_apart(lines, x.lower), _apart(lines, x.upper))
        return total

    def lower(self, source: Node, name: str) -> Node:
        return Vector(self, source, name)

    def derivative(self, node: Node, gates: Gates) -> Node:
        """Between two points the slopes are means over the segment, so in the same ranges."""
        (source,) = node.sources
        h, d, u, *_ = _parts(gates.ranges[source])
        of = self.activation.derivative_range
        steep, change = of(u), self._changes(h, d, u)
        widths = [x.upper - x.lower for x in (change, steep, of(h))]
        kinked = ~(widths[0] < widths[1] + widths[2]) & ~((widths[0] == 0) & (widths[1] == 0))
        nothing = torch.zeros_like(steep.lower)
        plain = torch.where(kinked, 1.0, nothing)
        slopes = (_unless(kinked, change), _unless(kinked, steep), Interval.exact(-plain), Interval.exact(plain))
        tangent, places = gates.tangent(source), everything(source, self.like).reshape(*self.out_shape, 5)
        parts = []
        for k, slope in zip((0, 1, 3, 4), slopes, strict=True):
            part = entries(tangent, places[..., k].contiguous(), self.like, f"{node.name}.of{k}")
            parts.append(gates.gate_within(part, slope))
        return Affine(tuple(same(part, self.like) for part in parts), None, node.name)

    def increment(self, node: Node, gates: Gates) -> Node:
        return self.derivative(node, gates)

    def _changes(self, h: Interval, d: Interval, u: Interval | None) -> Interval:
        """Enclosure of ``s'(h + d) - s'(h)``, hull over stretches of h.

        Args:
            u: a range of the sums h + d that are meant; None for all of them.
        """
        of = self.activation.derivative_range
        whole = of(h + d if u is None else u) - of(h)
        count = min(STRETCHES, MOST_STRETCHES // max(1, h.lower.numel()))
        if count < 2:
            return whole
        share = (torch.arange(count + 1, device=h.lower.device).to(h.lower) / count).reshape(-1, *[1] * h.lower.dim())
        ends = torch.minimum(torch.maximum(h.lower * (1 - share) + h.upper * share, h.lower), h.upper)
        ends[0], ends[-1] = h.lower, h.upper
        stretch = Interval(ends[:-1], ends[1:])
        found = of(stretch + d) - of(stretch)
        lower, upper = found.lower.amin(0), found.upper.amax(0)
        good = torch.isfinite(h.lower) & torch.isfinite(h.upper) & ~(lower.isnan() | upper.isnan())
        return Interval(
            torch.where(good, torch.maximum(lower, whole.lower), whole.lower),
            torch.where(good, torch.minimum(upper, whole.upper), whole.upper),
        )

    def constant(self, p: float, x: Interval) -> Tensor:
        """Entry by entry the dual norm of the two derivatives, because no two entries share an argument."""
        h, d, u, *_ = _parts(x)
        slopes = self._changes(h, d, u).magnitude(), self.activation.derivative_range(u).magnitude()
        return largest(vector_norm_upper(torch.stack(slopes, -1), {1.0: float("inf"), 2.0: 2.0}.get(p, 1.0)))

    def structure(self) -> bytes:
        numbers = b"".join(
            repr(tuple(one.shape)).encode() + one.detach().cpu().double().contiguous().numpy().tobytes()
            for one in self.activation.parameters
        )
        return repr((type(self).__name__, self.activation.name, self.out_shape)).encode() + numbers

    def to(self, device: torch.device, dtype: torch.dtype) -> Increment:
        moved = self.activation.to(device, dtype)
        return replace(self, activation=moved, like=self.like.to(device=device, dtype=dtype))


@dataclass(frozen=True, eq=False)
class LogSumExpIncrement(VectorFunction):
    """``LSE(u) - LSE(h)`` of every row, of what lies behind each other there: h, d, u, and the two values.

    It is ``sum_j q_j d_j`` with q a mean of shares between h and u. The shares change by
    ``p_j(u) - p_j(h) = p_j(h) (exp(d_j) / sum_k p_k exp(d_k) - 1)``, whose quotient lies between
    ``exp(d_j - max d)`` and ``exp(d_j - min d)``.

    Args:
        rows: shape of h, of d and of u.
        like: tensor that carries dtype and device.
    """

    rows: tuple[int, ...]
    like: Tensor = DOUBLE

    @property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.rows[:-1], 3 * self.rows[-1] + 2)

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.rows[:-1], 1)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"increment of log-sum-exp of {self.rows[-1]}"

    def value(self, x: Tensor) -> Tensor:
        n = self.rows[-1]
        h, d = x[..., :n], x[..., n : 2 * n]
        return (h + d).logsumexp(-1, keepdim=True) - x[..., -2:-1]

    def _sides(self, x: Interval) -> tuple[Interval, Interval, Interval]:
        """h, d and u."""
        n = self.rows[-1]
        h, d, u = (x.map(lambda end, k=k: end[..., k * n : (k + 1) * n]) for k in range(3))
        return h, d, u

    def range(self, x: Interval) -> Interval:
        h, d, u = self._sides(x)
        mean = Interval(d.lower.amin(-1, keepdim=True), d.upper.amax(-1, keepdim=True))  # of the d_j
        total = _row_total(softmax_range(h.hull(u)) * d).intersect(mean)
        last, first = (x.map(lambda end, k=k: end[..., k : k + 1]) for k in (x.shape[-1] - 1, x.shape[-1] - 2))
        return total.intersect(last - first)

    def planes(self, x: Interval) -> Planes:
        """Middle shares times d, the same below and above: ``(q - m) d`` lies in the sum of its terms."""
        h, d, u = self._sides(x)
        share = softmax_range(h.hull(u))
        middle = _middle(share)
        total = _row_total((share - middle) * d)
        nothing = torch.zeros_like(middle)
        slopes = torch.cat((nothing, middle, nothing, nothing[..., :1], nothing[..., :1]), -1)
        lower = total.lower.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        upper = total.upper.nan_to_num(nan=torch.inf, posinf=torch.inf)
        return Planes(((slopes, slopes),), lower, upper)

    def parallel_planes(self, x: Interval) -> Planes:
        return self.planes(x)

    def lower(self, source: Node, name: str) -> Node:
        return Vector(self, source, name)

    def derivative(self, node: Node, gates: Gates) -> Node:
        (source,) = node.sources
        h, d, u = self._sides(gates.ranges[source])
        share, change = softmax_range(u), self._changes(h, d, u)
        rest = torch.zeros_like(share.lower[..., :1]).expand(*share.lower.shape[:-1], self.rows[-1] + 2)
        slope = Interval(*(torch.cat((*ends, rest), -1) for ends in zip(_ends(change), _ends(share), strict=True)))
        return row_sums(gates.gate_within(gates.tangent(source), slope), self.like, node.name)

    def increment(self, node: Node, gates: Gates) -> Node:
        return self.derivative(node, gates)

    def _changes(self, h: Interval, d: Interval, u: Interval) -> Interval:
        """Enclosure of the changes of the shares."""
        before, after = softmax_range(h), softmax_range(u)
        most, least = d.upper.amax(-1, keepdim=True), d.lower.amin(-1, keepdim=True)
        smallest, greatest = (Interval.exact(d.lower) - most).exp(), (Interval.exact(d.upper) - least).exp()
        found = before * (Interval(smallest.lower, greatest.upper) - 1.0)
        return Interval.safe(*_ends(found)).intersect(after - before)

    def constant(self, p: float, x: Interval) -> Tensor:
        h, d, u = self._sides(x)
        pair = torch.cat((self._changes(h, d, u).magnitude(), softmax_range(u).upper), -1)
        return largest(vector_norm_upper(pair, {1.0: float("inf"), 2.0: 2.0}.get(p, 1.0)))

    def structure(self) -> bytes:
        return repr((type(self).__name__, self.rows)).encode()

    def to(self, device: torch.device, dtype: torch.dtype) -> LogSumExpIncrement:
        return replace(self, like=self.like.to(device=device, dtype=dtype))


def _parts(x: Interval) -> list[Interval]:
    """What lies along the last axis."""
    return [x.map(lambda end, k=k: end[..., k]) for k in range(5)]


def _ends(x: Interval) -> tuple[Tensor, Tensor]:
    return x.lower, x.upper


def _middle(x: Interval) -> Tensor:
    return x.midpoint_and_radius()[0]


def _unless(mask: Tensor, x: Interval) -> Interval:
    """0 where the mask holds."""
    return x.map(lambda end: torch.where(mask, 0.0, end))


def _apart(lines: Lines, x: Tensor) -> Tensor:
    """The distance of two lines at a point."""
    return (lines.upper_slope - lines.lower_slope) * x + lines.upper_offset - lines.lower_offset


def _row_total(x: Interval) -> Interval:
    """Sums along the last axis, which stays with length 1."""
    total = x.map(lambda end: end[..., :1])
    for k in range(1, x.shape[-1]):
        total = total + x.map(lambda end, k=k: end[..., k : k + 1])
    return total


def _chords(slope: Interval, d: Interval) -> tuple[Tensor, Tensor]:
    """Slopes of the chord below ``min(a d, b d)`` and of the one above ``max(a d, b d)``."""
    corners = torch.stack([s * end for s in _ends(slope) for end in _ends(d)]).reshape(2, 2, *slope.lower.shape)
    run = d.upper - d.lower
    middle = _middle(slope)
    below, above = (
        torch.where(run > 0, (ends[1] - ends[0]) / torch.where(run > 0, run, 1.0), middle)
        for ends in (corners.amin(0), corners.amax(0))
    )
    return torch.where(torch.isfinite(below), below, 0.0), torch.where(torch.isfinite(above), above, 0.0)
