"""`Softmax`, `LogSoftmax`, `LogSumExp` and `Length`: smooth functions of rows with constants that hold everywhere.

With p = softmax(x): the Jacobians are ``diag(p) - p p'``, ``I - 1 p'`` (a projection, so that its spectral norm is that
of ``1 p'``, sqrt(n) ||p||), ``p'`` and ``x' / ||x||``. Over a bounded set the ranges of p make constants smaller.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import inflate, up
from jacobound.graph.nodes import Affine, Elementwise, Node
from jacobound.graph.vector.rows import RowFunction, RowReduction, largest, total
from jacobound.operators.kinds import Dense


class Softmax(RowFunction):
    """``exp(x_i) / sum_j exp(x_j)`` along the last axis; constant 1/2 in every norm, ``max 2 p (1 - p)`` on a set.

    Source of the constant: Gershgorin on ``diag(p) - p p'``, whose row sums of magnitudes are ``2 p_i (1 - p_i)``.
    """

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"softmax of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return x.softmax(-1)

    def range(self, x: Interval) -> Interval:
        return softmax_range(x)

    def constant(self, p: float, x: Interval) -> Tensor:
        return largest(softmax_constants(softmax_range(x), p))


class LogSoftmax(RowFunction):
    """``x_i - log sum_j exp(x_j)`` along the last axis; constants sqrt(n) in l2, 2 in linf, n - 1 in l1."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"log-softmax of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return x.log_softmax(-1)

    def range(self, x: Interval) -> Interval:
        whole = Interval(_log_sum_exp(x.lower).lower, _log_sum_exp(x.upper).upper)
        direct = x - whole.map(lambda end: end.expand(x.shape))
        return direct.intersect(softmax_range(x).log()).clamp(upper=0.0)

    def constant(self, p: float, x: Interval) -> Tensor:
        if self.length == 1:
            return x.lower.new_zeros(())
        share = softmax_range(x)
        if p == 2:
            return largest(inflate((self.length * _square_sum(share)).sqrt(), 3))
        if p == inf:
            return largest(up(2 * up(1 - share.lower)))
        return largest(up(1 + up((self.length - 2) * share.upper)))


class LogSumExp(RowReduction):
    """``log sum_j exp(x_j)`` of every row; constant 1 in every norm, the norm of softmax on a set."""

    expands = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"log-sum-exp of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return x.logsumexp(-1, keepdim=True)

    def range(self, x: Interval) -> Interval:
        return Interval(_log_sum_exp(x.lower).lower, _log_sum_exp(x.upper).upper)

    def constant(self, p: float, x: Interval) -> Tensor:
        share = softmax_range(x)
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


def _around_sum(inner: str, outer: str, function: RowReduction, source: Node, name: str) -> Node:
    """``outer(sum_j inner(x_j))`` of every row."""
    terms = Elementwise(activation(inner), source, f"{name}.{inner}")
    row = Dense(function.like.new_ones(1, function.length), function.in_shape[:-1])
    return Elementwise(activation(outer), Affine(((row, terms),), None, f"{name}.sum"), name)


def softmax_range(x: Interval, allowed: Tensor | None = None) -> Interval:
    """Enclosure of softmax along the last axis: a share is largest with its own entry high and all others low.

    Args:
        x: any shape; ends may be infinite.
        allowed: bool mask that broadcasts to x, with an entry in every row; other entries have the share 0.
    """
    open_ = torch.ones_like(x.lower, dtype=torch.bool) if allowed is None else allowed
    shift = x.upper.masked_fill(~open_, -inf).amax(-1, keepdim=True)
    known = torch.isfinite(shift)
    shift = torch.where(known, shift, 0.0)
    low, high = ((Interval.exact(end) - shift).exp() for end in (x.lower, x.upper))
    low, high = (one.map(lambda end: torch.where(open_, end, 0.0)) for one in (low, high))
    least, most = ((total(one) - one).clamp(lower=0.0) for one in (low, high))
    upper = (Interval.exact(high.upper) / (Interval.exact(high.upper) + Interval.exact(least.lower))).upper
    lower = (Interval.exact(low.lower) / (Interval.exact(low.lower) + Interval.exact(most.upper))).lower
    found = Interval.safe(torch.where(known, lower, 0.0), torch.where(known, upper, 1.0)).clamp(0.0, 1.0)
    return found.map(lambda end: torch.where(open_, end, 0.0))


def softmax_constants(share: Interval, p: float) -> Tensor:
    """Certified constants of softmax for every row, from the ranges of its values: (*lead, n) to (*lead,)."""
    nearest = torch.minimum(torch.maximum(share.lower.new_tensor(0.5), share.lower), share.upper)
    rows = up(2 * nearest * up(1 - nearest)).amax(-1)
    rows = torch.minimum(rows, share.upper.amax(-1)) if p == 2 else rows  # diag(p) is the larger matrix
    return rows.clamp(max=0.5 if share.shape[-1] > 1 else 0.0)


def _log_sum_exp(x: Tensor) -> Interval:
    """Enclosure at a point of the extended reals; shape (..., 1)."""
    shift = x.amax(-1, keepdim=True)
    shift = torch.where(torch.isfinite(shift), shift, 0.0)
    return total((Interval.exact(x) - shift).exp()).log() + shift


def _square_sum(share: Interval) -> Tensor:
    """Certified bound of ``sum_i p_i^2`` of every row: not above the largest share, because they add up to 1."""
    squares = inflate(share.upper.square().sum(-1), share.shape[-1] + 1)
    return torch.minimum(squares, share.upper.amax(-1))
