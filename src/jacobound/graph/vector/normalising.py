"""`Standardised` and `Normalised`: rows divided by their own deviation, root mean square or length.

With s the divisor and u the result, the Jacobian of ``(x - mean) / s`` is ``(I - 1 1'/n - u u'/n) / s``, that of the
other two the same without the mean; so the spectral norm is 1/s at most, and what matters is how small s can be. It is
bounded below by the certified range of the row, or by what the user claims (`floor`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.activations.kinds.clipped import clip
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, inflate, up
from jacobound.errors import InvalidOptionError, InvalidRegionError
from jacobound.graph.nodes import Affine, Elementwise, Gates, Node, Product, Vector
from jacobound.graph.vector.rows import RowFunction, RowReduction, largest, total
from jacobound.graph.vector.smooth import Length
from jacobound.graph.vector.value_nodes import (
    less_copies,
    minus,
    plus_number,
    row_means,
    row_sums,
    same,
    source_beside,
    spread_rows,
    squared,
)


@dataclass(frozen=True, eq=False)
class Dividing(RowFunction):
    """A row over its own size.

    Args:
        eps: what keeps the divisor from zero.
        floor: **an assumption** about the mean square of every row (its variance when the mean is taken off): it stays
            at least this large for all inputs of interest. None claims nothing, and constants are refused unless the
            certified ranges keep it positive; 0 claims nothing either, and accepts the constant that eps alone gives.
    """

    eps: float = 1e-5
    floor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isfinite(self.eps) and self.eps >= 0):
            raise InvalidOptionError(f"eps of a normalisation is a number >= 0, not {self.eps}")
        if self.floor is not None and not (isfinite(self.floor) and self.floor >= 0):
            raise InvalidOptionError(f"a variance floor is a number >= 0, not {self.floor}")

    @abstractmethod
    def least_square(self, x: Interval) -> Tensor:
        """Certified lower bound of the mean square (the variance) of every row over x: (*lead, length) to (*lead,)."""

    @abstractmethod
    def divisor(self, square: Tensor) -> Tensor:
        """Certified lower bound of the divisor, from one of the mean square, entry by entry."""

    def curvature(self, node: Node, ranges: Mapping[Node, Interval]) -> Tensor | None:
        """The largest r = 1 / divisor: Jacobians are ``r (C - y y' / n)``, ``r (I - y y')`` or r, symmetric.

        C takes off the mean (or nothing), y is in its range, and ``||y||^2 <= n`` (or 1), so that they are within 0 and
        r C. They are second derivatives of ``n sqrt(mean square + eps)``, and of the length.
        """
        # The divisor is one number for the row, of which every entry has bounds.
        return ranges[node.second].upper.amin(-1) if isinstance(node, Product) else None

    @property
    def what(self) -> str:
        """What has a floor."""
        return "mean square"

    @property
    def assumption(self) -> str:  # type: ignore[override]
        return f"the {self.what} of every row is assumed to be at least {self.floor:g}" if self.floor else ""

    def constant(self, p: float, x: Interval) -> Tensor:
        square = self.least_square(x).clamp(min=0.0 if self.floor is None else self.floor)
        return largest(up(self._stretch(p, x) / self.divisor(square)))

    def _stretch(self, p: float, x: Interval) -> Tensor:
        """The constant times the divisor, for every row or 0-d."""
        root = inflate((x.lower.new_ones(()) * self.length).sqrt(), 2)
        return torch.ones_like(root) if p == 2 or self.length == 1 else root

    def require(self, x: Interval, node: str) -> None:
        least = float(self.least_square(x).detach().amin())
        floor = least if self.floor is None else max(least, self.floor)
        if floor > 0 or (self.floor is not None and self.eps > 0):
            return
        worst = "unbounded" if self.eps == 0 else f"{float(self.constant(2.0, x)):.4g}, what eps alone gives"
        raise InvalidRegionError(
            f"node '{node}': {self.name} divides by the size of its own input, and the certified ranges over the "
            f"region let the {self.what} of a row be 0, where its constant is {worst}. Take a smaller region, or "
            f"import the model with variance_floor=v when you know that the {self.what} stays above v (an assumption "
            "that the result then rests on), or with variance_floor=0 to accept that constant"
        )

    def structure(self) -> bytes:
        return super().structure() + repr((self.eps, self.floor)).encode()


@dataclass(frozen=True, eq=False)
class Standardised(Dividing):
    """``(x - mean) / sqrt(variance + eps)`` of every row, or ``x / sqrt(mean square + eps)`` when not centred.

    What layer, group and instance normalisation and RMSNorm do before scale and shift. Constants: 1/s in l2; in l1 and
    linf the smaller of sqrt(n) / s and ``(2 + max |u|) / s`` (1 in place of 2 when not centred).

    Args:
        centred: whether the mean is taken off.
    """

    centred: bool = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{'standardisation' if self.centred else 'division by the root mean square'} of {self.length}"

    @property
    def what(self) -> str:
        return "variance" if self.centred else "mean square"

    def value(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def range(self, x: Interval) -> Interval:
        most = sqrt(max(self.length - 1 if self.centred else self.length, 0)) * (1 + 1e-6)
        least = (Interval.exact(self.least_square(x)[..., None]) + self.eps).sqrt().lower
        top = deviations(x) if self.centred else x
        size = Interval(least, (Interval.exact(self.most_square(x)) + self.eps).sqrt().upper)
        return (top / size.map(lambda end: end.expand(top.shape))).intersect(_around_zero(top, most))

    def most_square(self, x: Interval) -> Tensor:
        """Certified upper bound of the mean square (the variance) of every row over x, shape (*lead, 1)."""
        wide = x
        if self.centred:  # no point is nearer in squares than the mean
            wide = x - x.midpoint_and_radius()[0].mean(-1, keepdim=True).expand(x.shape)
        return (total(wide.square()) / self.length).upper

    def lower(self, source: Node, name: str) -> Node:
        like, moved = self.like, source
        if self.centred:
            mean = row_means(source, like, f"{name}.mean")
            beside = Vector(Deviation(self.in_shape, like), source, f"{name}.centred")
            moved = Affine(less_copies(source, mean, like, f"{name}.centred"), None, f"{name}.centred", None, beside)
        square = plus_number(
            row_means(squared(moved, f"{name}.square"), like, f"{name}.variance"), self.eps, like, name
        )
        beside = Vector(MeanSquare(self.in_shape, like, self), source, f"{name}.variance")
        square = Affine((same(square, like),), None, f"{name}.divisor", None, beside)
        inverse = Elementwise(activation("rsqrt"), square, f"{name}.inverse")
        factor = spread_rows(inverse, self.length, like, f"{name}.factor")
        return Product(moved, factor, name, Vector(self, source, name))

    def derivative(self, node: Node, gates: Gates) -> Node:
        """``dy = r (du - y mean(y du))`` with u the centred row and r one over the divisor; holds for every eps."""
        assert isinstance(node, Product)
        behind = gates.tangent(node.first)
        mean = row_means(gates.gate(behind, node), self.like, f"{node.name}.mean")
        spread = spread_rows(mean, self.length, self.like, f"{node.name}.mean")
        rest = Affine((same(behind, self.like), minus(gates.gate(spread, node), self.like)), None, f"{node.name}.rest")
        return gates.gate(rest, node.second)

    def least_square(self, x: Interval) -> Tensor:
        squares = least_spread(x) if self.centred else least_squares(x)
        return down(squares / self.length)

    def divisor(self, square: Tensor) -> Tensor:
        return (Interval.exact(square) + self.eps).sqrt().lower

    def _stretch(self, p: float, x: Interval) -> Tensor:
        if self.length == 1 and self.centred:
            return x.lower.new_zeros(())
        plain = super()._stretch(p, x)
        if p == 2:
            return plain
        size = self.range(x).magnitude().amax(-1)
        return torch.minimum(plain, up(size + (2.0 if self.centred else 1.0)))

    def structure(self) -> bytes:
        return super().structure() + repr(self.centred).encode()


class Deviation(RowFunction):
    """Every entry of a row less the row's mean; constant 1 in l2, 2 in l1 and linf."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"deviation from the mean of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)

    def range(self, x: Interval) -> Interval:
        return deviations(x)

    def constant(self, p: float, x: Interval) -> Tensor:
        return torch.ones_like(x.lower[..., 0]).amax() * (1.0 if p == 2 else 2.0)


@dataclass(frozen=True, eq=False)
class MeanSquare(RowReduction):
    """What a normalisation takes the root of: variance or mean square of every row, plus eps. No constant is known.

    Args:
        within: the normalisation.
    """

    within: Standardised | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"mean square of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        assert self.within is not None
        x = x - x.mean(-1, keepdim=True) if self.within.centred else x
        return x.square().mean(-1, keepdim=True) + self.within.eps

    def range(self, x: Interval) -> Interval:
        assert self.within is not None
        least = (Interval.exact(self.within.least_square(x)[..., None]) + self.within.eps).lower
        return Interval(least, (Interval.exact(self.within.most_square(x)) + self.within.eps).upper)

    def constant(self, p: float, x: Interval) -> Tensor:
        return torch.full_like(x.lower[..., 0], inf).amax()

    def structure(self) -> bytes:
        assert self.within is not None
        return super().structure() + self.within.structure()

    def to(self, device: torch.device, dtype: torch.dtype) -> MeanSquare:
        assert self.within is not None
        return MeanSquare(self.in_shape, self.like.to(device=device, dtype=dtype), self.within.to(device, dtype))


@dataclass(frozen=True, eq=False)
class Normalised(Dividing):
    """``x / max(||x||_2, eps)`` of every row, as torch's functional normalize has it."""

    eps: float = 1e-12

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"normalisation of {self.length}"

    def value(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=self.eps)

    def range(self, x: Interval) -> Interval:
        size, eps = total(x.square()).sqrt(), Interval.exact(x.lower.new_zeros(())) + self.eps
        divisor = Interval(torch.maximum(size.lower, eps.lower), torch.maximum(size.upper, eps.upper))
        return (x / divisor.map(lambda end: end.expand(x.shape))).intersect(_around_zero(x, 1.0))

    def lower(self, source: Node, name: str) -> Node:
        like = self.like
        size = Length(self.in_shape, like).lower(source, f"{name}.length")
        divisor = Elementwise(clip(self.eps), size, f"{name}.divisor") if self.eps else size
        inverse = Elementwise(activation("reciprocal"), divisor, f"{name}.inverse")
        return Product(
            source, spread_rows(inverse, self.length, like, f"{name}.factor"), name, Vector(self, source, name)
        )

    def derivative(self, node: Node, gates: Gates) -> Node:
        """``dy = r (dx - y y'dx)`` while the length is above eps, and ``r dx`` below."""
        assert isinstance(node, Product)
        behind, short = gates.tangent(node.first), least_squares(gates.ranges[source_beside(node)])
        inner = row_sums(gates.gate(behind, node), self.like, f"{node.name}.dot")
        spread = spread_rows(inner, self.length, self.like, f"{node.name}.dot")
        long = (Interval.exact(short).sqrt().lower > self.eps).unsqueeze(-1)
        value = gates.ranges[node]
        lower, upper = value.lower, value.upper
        slope = Interval(torch.where(long, lower, lower.clamp(max=0.0)), torch.where(long, upper, upper.clamp(min=0.0)))
        taken = gates.gate_within(spread, slope) if not bool(long.all()) else gates.gate(spread, node)
        rest = Affine((same(behind, self.like), minus(taken, self.like)), None, f"{node.name}.rest")
        return gates.gate(rest, node.second)

    def least_square(self, x: Interval) -> Tensor:
        return down(least_squares(x) / self.length)

    def divisor(self, square: Tensor) -> Tensor:
        return (Interval.exact(square) * float(self.length)).sqrt().lower.clamp(min=self.eps)


def deviations(x: Interval) -> Interval:
    """Enclosure of the entries of rows less their mean."""
    count = float(x.shape[-1])
    low, high = Interval.exact(x.lower), Interval.exact(x.upper)
    below, above = total(low), total(high)
    upper = ((high * (count - 1) + low - below.map(lambda e: e.expand(x.shape))) / count).upper
    lower = ((low * (count - 1) + high - above.map(lambda e: e.expand(x.shape))) / count).lower
    return Interval.safe(lower, upper)


def _around_zero(x: Interval, size: float) -> Interval:
    """All numbers up to a size."""
    return Interval(torch.full_like(x.lower, -size), torch.full_like(x.lower, size))


def least_squares(x: Interval) -> Tensor:
    """Certified lower bound of the sum of squares of every row, shape without the last axis."""
    return total(x.square()).lower[..., 0].clamp(min=0.0)  # the slack of a long sum would eat up a small eps


def least_spread(x: Interval) -> Tensor:
    """Certified lower bound of ``sum_i (x_i - mean)^2`` of every row over a box, shape without the last axis.

    It is the least over c of the convex ``g(c) = sum_i dist(c, [l_i, u_i])^2``. Bisection finds c; whatever it found,
    ``g >= g(c) - |g'(c)| width`` on the hull of the row, where the least is.
    """
    low, high = x.lower.amin(-1, keepdim=True), x.upper.amax(-1, keepdim=True)
    width = up(high - low)[..., 0]
    centre = torch.minimum(torch.maximum(_best_centre(x), low), high).expand(x.shape)
    right = (Interval.exact(x.lower) - centre).clamp(lower=0.0)
    left = (Interval.exact(centre) - x.upper).clamp(lower=0.0)
    found = total(right.square()) + total(left.square())
    slope = (total(right) - total(left)).magnitude()[..., 0]
    least = down(found.lower[..., 0] - up(2 * up(slope * width)))
    return torch.where(least < inf, least, 0.0).clamp(min=0.0)


def _best_centre(x: Interval) -> Tensor:
    """About the number nearest to all entries of a row in the sum of squares, shape (..., 1)."""
    low, high = x.lower.amin(-1, keepdim=True), x.upper.amax(-1, keepdim=True)
    for _ in range(64):
        middle = low * 0.5 + high * 0.5
        slope = ((middle - x.upper).clamp(min=0.0) - (x.lower - middle).clamp(min=0.0)).sum(-1, keepdim=True)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return low * 0.5 + high * 0.5
