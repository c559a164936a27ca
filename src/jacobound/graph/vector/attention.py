"""`Attention`: scaled dot-product attention as one function of queries, keys and values.

With scores ``s_ij = scale q_i . k_j + bias_ij``, shares ``P = softmax(s)`` and ``out_i = sum_j P_ij v_j``,

    d out_i = sum_j P_ij dv_j + scale Cov_i(v, k) dq_i + scale sum_j P_ij (v_j - m_i) (q_i . dk_j),   m_i = out_i.

Let R_v and R_k bound the root mean squares of |v_j - c| and |k_j - c'| with the weights P_ij of a query, for some fixed
points c and c' (the largest distances do, and less where the ranges of P say so), |q_i| <= R_q, and let C bound the
column sums of P (n queries: C <= n). By Cauchy and Schwarz in the weights P_ij, in the Euclidean norm

    queries count  scale R_v R_k,      keys  scale R_v R_q sqrt(C),      values  sqrt(C).

For linf: ``scale r_v R_k``, ``scale r_v |q|_1`` and 1, with r_v the root mean square of the worst coordinate of v, and
R_k that of l1 norms. For l1: ``scale (sum of r_v) R_k`` with R_k of linf norms; ``2 scale |v - c|_1 |q|_inf C'`` with
C' the column sums of ``min(P, 1/4)``, because no value is farther from the mean than ``2 (1 - P_ij)`` times the
largest ``|v - c|_1``; and C. Few tokens are better served by the steps one after the other: with s the constant of
softmax and norms of whole matrices, ``scale s ||V - 1 c'|| ||K - 1 c'||`` and ``scale s ||V - 1 c'|| ||Q||``, because
rows of dP add up to 0. Heads and batches are separate matrices: each part counts with the largest of their constants.
A mask only takes shares away from some pairs.

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

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import induced_norm_upper
from jacobound.arithmetic.rounding import inflate, unit, up
from jacobound.errors import InvalidModelError, ShapeError
from jacobound.graph.nodes import Affine, Node, Part, Vector, VectorFunction
from jacobound.graph.vector.products import refuse_unbounded
from jacobound.graph.vector.rows import DOUBLE, flat_part, interval_matmul, joined, largest, longest, split
from jacobound.graph.vector.smooth import Softmax, softmax_constants, softmax_range
from jacobound.graph.vector.value_nodes import MOST_PRODUCTS, everything, matrix_products
from jacobound.operators.base import convert_exactly
from jacobound.operators.kinds import Scale

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

    @property
    def lowers(self) -> bool:  # type: ignore[override]
        return prod(self.query[:-1]) * self.key[-2] * max(self.query[-1], self.value_shape[-1]) <= MOST_PRODUCTS

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
        spread = abs(self.scale) * (2 * SCALE_UNITS * unit(factor.dtype))
        scores = interval_matmul(q, k.map(lambda end: end.mT)) * Interval.outward(factor - spread, factor + spread)
        if self.bias is not None:
            scores = scores + torch.where(self.bias > -inf, self.bias, 0.0).to(scores.lower.device, scores.lower.dtype)
        return softmax_range(scores, self.allowed.to(q.lower.device))

    def range(self, x: Interval) -> Interval:
        """Means of the values: within their hull, and the product of shares and values."""
        q, k, v = self.pieces(x)
        hull = Interval(v.lower.amin(-2, keepdim=True), v.upper.amax(-2, keepdim=True))
        product = interval_matmul(self.shares(q, k), v)
        return product.intersect(hull.map(lambda end: end.expand(product.shape)))

    def lower(self, source: Node, name: str) -> Node:
        """Scores, shares and means, each as products that are written out."""
        like, (query, key, _) = self.like, self.shapes
        ends = (0, prod(query), prod(query) + prod(key))
        q, k, v = (everything(source, like, start, shape) for start, shape in zip(ends, self.shapes, strict=True))
        products = matrix_products(source, q, source, k, like, f"{name}.scores")
        factor = like.new_tensor(self.scale)
        doubt = up(factor.abs() * (2 * SCALE_UNITS * unit(like.dtype)))
        full, radius = (number.expand(products.shape).clone() for number in (factor, doubt))
        bias = None
        if self.bias is not None:
            bias = torch.where(self.bias > -inf, self.bias, 0.0).broadcast_to(products.shape).clone()
            bias = convert_exactly(bias, like.device, like.dtype, "the mask of an attention")
        scores: Node = Affine(((Scale(full, radius), products),), bias, f"{name}.scaled")
        allowed = None if self.bias is None or bool(self.allowed.all()) else self.allowed
        shares = Softmax(scores.shape, like, allowed).lower(scores, f"{name}.shares")
        beside = Vector(self, source, name)
        return matrix_products(shares, everything(shares, like), source, v.mT, like, name, beside)

    def constant(self, p: float, x: Interval) -> Tensor:
        return joined(self.parts(p, x), p)

    def parts(self, p: float, x: Interval) -> tuple[Part, ...]:
        q, k, v = self.pieces(x)
        shares = self.shares(q, k)
        factor = up(q.lower.new_tensor(abs(self.scale)) * (1 + 2 * SCALE_UNITS * unit(torch.float64)))
        found = {2.0: _euclidean, 1.0: _in_l1}.get(p, _in_linf)(q, k, v, shares)
        pairs = zip(found[:2], _by_steps(p, q, k, v, shares), strict=True)
        constants = [largest(up(factor * torch.minimum(*pair))) for pair in pairs] + [largest(found[2])]
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


def _by_steps(p: float, q: Interval, k: Interval, v: Interval, shares: Interval) -> tuple[Tensor, Tensor]:
    """Constants of queries and keys (without scale) through scores and shares, for each matrix."""
    steep = softmax_constants(shares, p).amax(-1)
    values = up(steep * _norms(_about_the_middle(v).map(lambda end: end.mT), p))
    return up(values * _norms(_about_the_middle(k), p)), up(values * _norms(q, p))


def _norms(matrices: Interval, p: float) -> Tensor:
    return induced_norm_upper(matrices.lower, matrices.upper, p, p)


def _about_the_middle(x: Interval) -> Interval:
    """Tokens (*lead, m, width) less the mean of their middles."""
    return x - x.midpoint_and_radius()[0].mean(-2, keepdim=True).expand(x.shape)


@dataclass(frozen=True, eq=False)
class _Spread:
    """How far the tokens that one query looks at are from some fixed point, as a mean square with its shares.

    Args:
        rows: by the l_p norm, shape (*lead, n).
        entries: for every coordinate, shape (*lead, n, width).
    """

    rows: Tensor
    entries: Tensor

    @staticmethod
    def of(x: Interval, shares: Interval, p: float) -> _Spread:
        """From tokens (*lead, m, width) and enclosures of shares (*lead, n, m); any point will do as a centre.

        About the mean that the middles give the sum is small where the shares are known; about the middle of the box
        around all tokens it is at most the largest distance, because shares add up to 1.
        """
        hull = Interval(x.lower.amin(-2), x.upper.amax(-2))
        middle = hull.midpoint_and_radius()[0].unsqueeze(-2)
        farthest = torch.minimum(longest(x - middle.expand(x.shape), p), longest(x, p)).amax(-1)
        widest = torch.minimum(hull.midpoint_and_radius()[1], hull.magnitude())
        means = shares.midpoint_and_radius()[0] @ x.midpoint_and_radius()[0]
        rows, entries = [], []
        for query in range(shares.shape[-2]):
            weights = shares.upper[..., query, :]
            distance = x - means[..., query : query + 1, :].expand(x.shape)
            rows.append(torch.minimum(_root_mean_square(longest(distance, p), weights), farthest))
            sizes = _root_mean_square(distance.magnitude().mT, weights.unsqueeze(-2))
            entries.append(torch.minimum(sizes, widest))
        return _Spread(torch.stack(rows, -1), torch.stack(entries, -2))


def _root_mean_square(sizes: Tensor, weights: Tensor) -> Tensor:
    """Certified bound of ``sqrt(sum weights sizes^2)`` along the last axis, for non-negative numbers."""
    return inflate(inflate((sizes.square() * weights).sum(-1), sizes.shape[-1] + 2).sqrt(), 2)


def _euclidean(q: Interval, k: Interval, v: Interval, shares: Interval) -> Sizes:
    """Constants of queries, keys (without scale) and values for each matrix, in l2."""
    values = _Spread.of(v, shares, 2).rows
    keys = up(values * _Spread.of(k, shares, 2).rows).amax(-1)
    steep = up(values * longest(q, 2))  # of every query
    pairs = _root_mean_square(steep.unsqueeze(-2), shares.upper.mT).amax(-1)
    columns = inflate(_column_sums(shares.upper).sqrt(), 2)
    return keys, torch.minimum(pairs, up(steep.amax(-1) * columns)), torch.minimum(columns, _norms(shares, 2))


def _in_linf(q: Interval, k: Interval, v: Interval, shares: Interval) -> Sizes:
    values = _Spread.of(v, shares, inf).entries.amax(-1)
    keys = _Spread.of(k, shares, 1).rows
    return up(values * keys).amax(-1), up(values * longest(q, 1)).amax(-1), torch.ones_like(values[..., 0])


def _in_l1(q: Interval, k: Interval, v: Interval, shares: Interval) -> Sizes:
    tokens = Interval(v.lower.amin(-2), v.upper.amax(-2))
    far = longest(tokens, 1, centred=True)
    found = _Spread.of(v, shares, 1).entries
    values = inflate(found.sum(-1), found.shape[-1])
    pairs = up(up(2 * far * longest(q, inf).amax(-1)) * _column_sums(shares.upper.clamp(max=0.25)))
    columns = _column_sums(shares.upper)
    return up(values * _Spread.of(k, shares, inf).rows).amax(-1), pairs, columns


def _column_sums(shares: Tensor) -> Tensor:
    """The largest sum over queries of shares (at most 1 each), for each matrix, rounded up."""
    count = shares.shape[-2]
    return inflate(shares.sum(-2), count).amax(-1).clamp(max=float(count))
