"""`Softmax`, `LogSoftmax`, `LogSumExp` and `Length`: smooth functions of rows with constants that hold everywhere.

With p = softmax(x): the Jacobians are ``diag(p) - p p'``, ``I - 1 p'`` (a projection, so that its spectral norm is that
of ``1 p'``, sqrt(n) ||p||), ``p'`` and ``x' / ||x||``. Over a bounded set the ranges of p make constants smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Self

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import dual_exponent, vector_norm_upper
from jacobound.arithmetic.rounding import inflate, up
from jacobound.graph.nodes import Affine, Elementwise, Gates, Node, Planes, Vector
from jacobound.graph.vector.log_sum_exp import log_sum_exp, log_sum_exp_planes, softmax_range, tangent_planes
from jacobound.graph.vector.rows import RowFunction, RowReduction, largest, total
from jacobound.graph.vector.value_nodes import (
    less_copies,
    minus,
    row_sums,
    same,
    source_beside,
    spread_rows,
    squared,
    where_allowed,
)
from jacobound.operators.kinds import Dense


@dataclass(frozen=True, eq=False)
class OfAllowed(RowFunction):
    """A function of every row that reads some of its entries only.

    Args:
        allowed: bool mask that broadcasts to in_shape, with an entry in every row; None for all.
    """

    allowed: Tensor | None = None

    def structure(self) -> bytes:
        mask = b"" if self.allowed is None else self.allowed.cpu().numpy().tobytes()
        return super().structure() + mask

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        moved = super().to(device, dtype)
        return moved if self.allowed is None else replace(moved, allowed=self.allowed.to(device))

    def masked(self, x: Tensor, value: float) -> Tensor:
        """The entries with a value in place of those that are not allowed."""
        return x if self.allowed is None else torch.where(self.allowed, x, value)


class Softmax(OfAllowed):
    """``exp(x_i) / sum_j exp(x_j)`` along the last axis; constant 1/2 in every norm, ``max 2 p (1 - p)`` on a set.

    Entries that are not allowed are 0 and no terms of the sum.

    Source of the constant: Gershgorin on ``diag(p) - p p'``, whose row sums of magnitudes are ``2 p_i (1 - p_i)``.
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"softmax of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return self.masked(x, -inf).softmax(-1)

    def range(self, x: Interval) -> Interval:
        return softmax_range(x, self.allowed)

    def constant(self, p: float, x: Interval) -> Tensor:
        return largest(softmax_constants(self.range(x), p))

    def lower(self, source: Node, name: str) -> Node:
        logarithms = LogSoftmax(self.in_shape, self.like, self.allowed).lower(source, f"{name}.logarithm")
        beside = Vector(self, source, name)
        if self.allowed is None:
            return Elementwise(activation("exp"), logarithms, name, beside)
        powers = Elementwise(activation("exp"), logarithms, f"{name}.power")
        return Affine((where_allowed(powers, self.allowed, self.like),), None, name, None, beside)

    def derivative(self, node: Node, gates: Gates) -> Node:
        """``dp_i = g_i - p_i sum_j g_j`` with ``g_i = p_i dx_i``: two gates for every share."""
        passed = gates.gate(gates.tangent(source_beside(node)), node)
        mean = spread_rows(row_sums(passed, self.like, f"{node.name}.mean"), self.length, self.like, node.name)
        terms = (same(passed, self.like), minus(gates.gate(mean, node), self.like))
        return Affine(terms, None, node.name)

    def curvature(self, node: Node, ranges: Mapping[Node, Interval]) -> Tensor:
        """The norm of ``diag(p) - p p'``, which is the Hessian of log-sum-exp."""
        return softmax_constants(ranges[node].clamp(lower=0.0, upper=1.0), 2)


class LogSoftmax(OfAllowed):
    """``x_i - log sum_j exp(x_j)`` along the last axis; constants sqrt(n) in l2, 2 in linf, n - 1 in l1.

    Entries that are not allowed are 0.
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"log-softmax of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return self.masked(self.masked(x, -inf).log_softmax(-1), 0.0)

    def range(self, x: Interval) -> Interval:
        whole = Interval(log_sum_exp(x.lower, self.allowed).lower, log_sum_exp(x.upper, self.allowed).upper)
        direct = x - whole.map(lambda end: end.expand(x.shape))
        found = direct.intersect(softmax_range(x, self.allowed).log()).clamp(upper=0.0)
        return found.map(lambda end: self.masked(end, 0.0))

    def constant(self, p: float, x: Interval) -> Tensor:
        if self.length == 1:
            return x.lower.new_zeros(())
        share = softmax_range(x, self.allowed)
        if p == 2:
            return largest(inflate((self.length * _square_sum(share)).sqrt(), 3))
        if p == inf:
            return largest(up(2 * up(1 - share.lower)))
        return largest(up(1 + up((self.length - 2) * share.upper)))

    def lower(self, source: Node, name: str) -> Node:
        number = Vector(LogSumExp(self.in_shape, self.like, self.allowed), source, f"{name}.logsumexp")
        terms = less_copies(source, number, self.like, name, self.allowed)
        return Affine(terms, None, name, None, Vector(self, source, name))


class LogSumExp(OfAllowed):
    """``log sum_j exp(x_j)`` of every row; constant 1 in every norm, the norm of softmax on a set."""

    runs_expanded = False  # engines shift the exponents first

    @property
    def expands(self) -> bool:  # type: ignore[override]
        return self.allowed is None  # the sum of all exponentials is another function

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.in_shape[:-1], 1)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"log-sum-exp of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return self.masked(x, -inf).logsumexp(-1, keepdim=True)

    def range(self, x: Interval) -> Interval:
        return Interval(log_sum_exp(x.lower, self.allowed).lower, log_sum_exp(x.upper, self.allowed).upper)

    def planes(self, x: Interval) -> Planes:
        return log_sum_exp_planes(x, self.allowed)

    def parallel_planes(self, x: Interval) -> Planes:
        return tangent_planes(x, self.allowed)

    def lower(self, source: Node, name: str) -> Node:
        return Vector(self, source, name)  # with lines and slopes of its own, tighter than those of its steps

    def derivative(self, node: Node, gates: Gates) -> Node:
        """``sum_j p_j dx_j``; between two points the p are means of shares over the segment, so in the same ranges."""
        (source,) = node.sources
        shares = gates.standing_for(Softmax(self.in_shape, self.like, self.allowed), source)
        tangent = gates.tangent(source)
        if shares is not None:
            passed = gates.gate(tangent, shares)
        else:
            share = softmax_range(gates.ranges[source], self.allowed)
            logarithms = gates.standing_for(LogSoftmax(self.in_shape, self.like, self.allowed), source)
            if logarithms is not None:
                known = gates.ranges[logarithms].exp()
                share = share.intersect(known.map(lambda end: self.masked(end, 0.0)))
            passed = gates.gate_within(tangent, share)
        return row_sums(passed, self.like, node.name)

    def increment(self, node: Node, gates: Gates) -> Node:
        return self.derivative(node, gates)

    def constant(self, p: float, x: Interval) -> Tensor:
        share = softmax_range(x, self.allowed)
        if p == inf:
            return x.lower.new_ones(())  # the shares add up to 1
        return largest(share.upper if p == 1 else inflate(_square_sum(share).sqrt(), 2)).clamp(max=1.0)

    def expand(self, source: Node, name: str) -> Node:
        return _around_sum("exp", "log", self, source, name)


class Length(RowReduction):
    """The Euclidean length of every row; constants 1 in l2 and l1, sqrt(n) in linf."""

    expands = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"length of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    def range(self, x: Interval) -> Interval:
        return total(x.square()).sqrt()

    def constant(self, p: float, x: Interval) -> Tensor:
        one = x.lower.new_ones(())
        return one if p != inf or self.length == 1 else inflate((one * self.length).sqrt(), 2)

    def expand(self, source: Node, name: str) -> Node:
        return _around_sum("square", "sqrt", self, source, name)

    def lower(self, source: Node, name: str) -> Node:
        beside = Vector(SquareSum(self.in_shape, self.like), source, f"{name}.sum")
        total = row_sums(squared(source, f"{name}.square"), self.like, f"{name}.sum", beside)
        return Elementwise(activation("sqrt"), total, name, Vector(self, source, name))

    def derivative(self, node: Node, gates: Gates) -> Node:
        """``sum_j u_j dx_j`` with ``u = x / ||x||``; between two points x and y ``u = (x + y) / (||x|| + ||y||)``.

        Both lie in the quotient of the ranges of entries and length, and in [-1, 1], also where the length is 0.
        """
        source = source_beside(node)
        entries, length = gates.ranges[source], gates.ranges[node]
        share = entries / length.map(lambda end: end.expand(entries.shape))
        one = torch.ones_like(entries.lower)
        passed = gates.gate_within(gates.tangent(source), share.intersect(Interval(-one, one)))
        return row_sums(passed, self.like, node.name)

    def increment(self, node: Node, gates: Gates) -> Node:
        return self.derivative(node, gates)


class SquareSum(RowReduction):
    """The sum of the squares of every row: no constant everywhere, the dual norm of ``2 x`` on a set."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"sum of {self.length} squares"

    def value(self, x: Tensor) -> Tensor:
        return x.square().sum(-1, keepdim=True)

    def range(self, x: Interval) -> Interval:
        return total(x.square()).clamp(lower=0.0)

    def constant(self, p: float, x: Interval) -> Tensor:
        return largest(up(2 * vector_norm_upper(x.magnitude(), dual_exponent(p))))


def _around_sum(inner: str, outer: str, function: RowFunction, source: Node, name: str) -> Node:
    """``outer(sum_j inner(x_j))`` of every row."""
    terms = Elementwise(activation(inner), source, f"{name}.{inner}")
    row = Dense(function.like.new_ones(1, function.length), function.in_shape[:-1])
    return Elementwise(activation(outer), Affine(((row, terms),), None, f"{name}.sum"), name)


def softmax_constants(share: Interval, p: float) -> Tensor:
    """Certified constants of softmax for every row, from the ranges of its values: (*lead, n) to (*lead,)."""
    nearest = torch.minimum(torch.maximum(share.lower.new_tensor(0.5), share.lower), share.upper)
    rows = up(2 * nearest * up(1 - nearest)).amax(-1)
    rows = torch.minimum(rows, share.upper.amax(-1)) if p == 2 else rows  # diag(p) is the larger matrix
    return rows.clamp(max=0.5 if share.shape[-1] > 1 else 0.0)


def _square_sum(share: Interval) -> Tensor:
    """Certified bound of ``sum_i p_i^2`` of every row: not above the largest share, because they add up to 1."""
    squares = inflate(share.upper.square().sum(-1), share.shape[-1] + 1)
    return torch.minimum(squares, share.upper.amax(-1))
