"""`Attention`: scaled dot-product attention as one function of queries, keys and values.

With scores ``s_ij = scale q_i . k_j + bias_ij``, shares ``P = softmax(s)`` and ``out_i = sum_j P_ij v_j``,

    d out_i = sum_j P_ij dv_j + scale Cov_i(v, k) dq_i + scale sum_j P_ij (v_j - m_i) (q_i . dk_j),   m_i = out_i.

Let v_j and k_j lie within R_v and R_k of some fixed points, |q_i| <= R_q, and let C bound the column sums of P (n
queries: C <= n, and less where ranges say so). By Cauchy and Schwarz in the weights P_ij, in the Euclidean norm

    queries count  scale R_v R_k,      keys  scale R_v R_q sqrt(C),      values  sqrt(C).

For linf: ``scale r_v |k|_1``, ``scale r_v |q|_1`` and 1, with r_v the largest radius of one coordinate of v. For l1:
``scale |r_v|_1 |k|_inf``, ``2 scale |r_v|_1 |q|_inf C'`` with C' the column sums of ``min(P, 1/4)``, because no value
is farther from the mean than ``2 (1 - P_ij) |r_v|_1``; and C. Heads and batches are separate matrices: each part counts
with the largest of their constants. A mask only takes shares away from some pairs.

Derivation ours; for one head on a ball see Kim, Papamakarios and Mnih, "The Lipschitz constant of self-attention"
(ICML 2021), and Castin et al. (arXiv 2312.14820).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf, isfinite, prod

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError, ShapeError
from jacobound.intervals import Interval
from jacobound.nodes import Part, VectorFunction
from jacobound.operators import convert_exactly
from jacobound.rounding import inflate, unit, up
from jacobound.vector_products import refuse_unbounded
from jacobound.vector_rows import DOUBLE, flat_part, interval_matmul, joined, largest, longest, split
from jacobound.vector_smooth import softmax_range

# A scale stands for all numbers this near, in units of roundoff: 1 / sqrt(d) is no float.
SCALE_UNITS = 8

Sizes = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Attention(VectorFunction):
    """``softmax(scale Q K' + bias) V`` for stacks of heads; the source holds Q, K and V, flattened one by one.

    Args:
        query: shape (*lead, n, d).
        key: shape (*lead, m, d).
        value_shape: shape (*lead, m, e).
        scale: what scores are multiplied with; numbers within `SCALE_UNITS` of it are covered, so 1 / sqrt(d) is.
        bias: added to the scores, broadcastable to (*lead, n, m); -inf where a query may not look at a key. None for 0.
        like: tensor that carries dtype and device.
    """

    query: tuple[int, ...]
    key: tuple[int, ...]
    value_shape: tuple[int, ...]
    scale: float
    bias: Tensor | None = None
    like: Tensor = DOUBLE

    def __post_init__(self) -> None:
        q, k, v = self.shapes
        fits = min(len(q), len(k), len(v)) >= 2 and q[:-2] == k[:-2] == v[:-2]
        if not fits or q[-1] != k[-1] or k[-2] != v[-2] or 0 in (*q, *k, *v):
            raise ShapeError(f"queries {q}, keys {k} and values {v} do not fit together: (*lead, n, d), (m, d), (m, e)")
        if not isfinite(self.scale):
            raise InvalidModelError(f"the scale of an attention is {self.scale}; look for a division by zero")
        if self.bias is not None:
            if bool((self.bias.isnan() | (self.bias == inf)).any()):
                raise InvalidModelError("the mask of an attention holds NaN or plus infinity; check the model")
            if not bool(self.allowed.any(-1).all()):
                raise InvalidModelError("the mask of an attention leaves a query without any key; its softmax is NaN")

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of queries, keys and values."""
        return self.query, self.key, self.value_shape

    @property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (sum(prod(shape) for shape in self.shapes),)

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.query[:-1], self.value_shape[-1])

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"attention of {self.query[-2]} to {self.key[-2]}"

    @cached_property
    def allowed(self) -> Tensor:
        """Which query may look at which key, shape (*lead, n, m)."""
        shape = (*self.query[:-1], self.key[-2])
        everything = torch.ones(shape, dtype=torch.bool, device=self.like.device)
        return everything if self.bias is None else (self.bias > -inf).broadcast_to(shape)

    def value(self, x: Tensor) -> Tensor:
        q, k, v = split(x, self.shapes)
        scores = q @ k.mT * self.scale
        return (scores if self.bias is None else scores + self.bias.to(scores)).softmax(-1) @ v

    def pieces(self, x: Interval) -> tuple[Interval, Interval, Interval]:
        """The enclosures of queries, keys and values."""
        ends = zip(*(split(end, self.shapes) for end in (x.lower, x.upper)), strict=True)
        q, k, v = (Interval(lower, upper) for lower, upper in ends)
        return q, k, v

    def shares(self, q: Interval, k: Interval) -> Interval:
        """Enclosure of P, shape (*lead, n, m)."""
        factor = q.lower.new_full((), self.scale)
        spread = factor.abs() * (2 * SCALE_UNITS * unit(factor.dtype))
        scores = interval_matmul(q, k.map(lambda end: end.mT)) * Interval.outward(factor - spread, factor + spread)
        if self.bias is not None:
            scores = scores + torch.where(self.bias > -inf, self.bias, 0.0).to(q.lower)
        return softmax_range(scores, self.allowed.to(q.lower.device))

    def range(self, x: Interval) -> Interval:
        """Means of the values: within their hull, and the product of shares and values."""
        q, k, v = self.pieces(x)
        hull = Interval(v.lower.amin(-2, keepdim=True), v.upper.amax(-2, keepdim=True))
        product = interval_matmul(self.shares(q, k), v)
        return product.intersect(hull.map(lambda end: end.expand(product.shape)))

    def constant(self, p: float, x: Interval) -> Tensor:
        return joined(self.parts(p, x), p)

    def parts(self, p: float, x: Interval) -> tuple[Part, ...]:
        q, k, v = self.pieces(x)
        shares = self.shares(q, k).upper
        factor = up(q.lower.new_tensor(abs(self.scale)) * (1 + 2 * SCALE_UNITS * unit(torch.float64)))
        found = {2.0: _euclidean, 1.0: _in_l1}.get(p, _in_linf)(q, k, v, shares)
        constants = [largest(up(factor * one)) for one in found[:2]] + [largest(found[2])]
        ends = [0, prod(self.query), prod(self.query) + prod(self.key), self.in_shape[0]]
        masks = [flat_part(ends[-1], start, stop) for start, stop in pairwise(ends)]
        return tuple(Part(mask, constant) for mask, constant in zip(masks, constants, strict=True))

    def require(self, x: Interval, node: str) -> None:
        refuse_unbounded(x, node, self.name)

    def structure(self) -> bytes:
        text = repr((type(self).__name__, self.shapes, self.scale)).encode()
        if self.bias is None:
            return text
        return text + self.bias.detach().to("cpu", torch.float64).contiguous().numpy().tobytes()

    def to(self, device: torch.device, dtype: torch.dtype) -> Attention:
        bias, like = self.bias, self.like.to(device=device, dtype=dtype)
        if bias is not None:
            bias = convert_exactly(bias, device, dtype, "the mask of an attention")
        return Attention(self.query, self.key, self.value_shape, self.scale, bias, like)


def _hull(x: Interval) -> Interval:
    """One box around all tokens, shape (*lead, width)."""
    return Interval(x.lower.amin(-2), x.upper.amax(-2))


def _radius(x: Interval, p: float) -> Tensor:
    """How far tokens can be from some fixed point, in the l_p norm: the middle of their box or zero; shape (*lead,)."""
    centre = _hull(x).midpoint_and_radius()[0].unsqueeze(-2)
    return torch.minimum(longest(x - centre.expand(x.shape), p), longest(x, p)).amax(-1)


def _euclidean(q: Interval, k: Interval, v: Interval, shares: Tensor) -> Sizes:
    """Constants of queries, keys (without scale) and values for each matrix, in l2."""
    values, columns = _radius(v, 2), inflate(_column_sums(shares).sqrt(), 2)
    queries = longest(q, 2).amax(-1)
    return up(values * _radius(k, 2)), up(up(values * queries) * columns), columns


def _in_linf(q: Interval, k: Interval, v: Interval, shares: Tensor) -> Sizes:
    del shares
    values = longest(_hull(v), inf, centred=True)
    return up(values * _radius(k, 1)), up(values * longest(q, 1).amax(-1)), torch.ones_like(values)


def _in_l1(q: Interval, k: Interval, v: Interval, shares: Tensor) -> Sizes:
    values = longest(_hull(v), 1, centred=True)
    keys = up(up(2 * values * longest(q, inf).amax(-1)) * _column_sums(shares.clamp(max=0.25)))
    return up(values * _radius(k, inf)), keys, _column_sums(shares)


def _column_sums(shares: Tensor) -> Tensor:
    """The largest sum over queries of shares (at most 1 each), for each matrix, rounded up."""
    count = shares.shape[-2]
    return inflate(shares.sum(-2), count).amax(-1).clamp(max=float(count))
