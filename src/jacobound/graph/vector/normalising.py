"""`Standardised` and `Normalised`: rows divided by their own deviation, root mean square or length.

With s the divisor and u the result, the Jacobian of ``(x - mean) / s`` is ``(I - 1 1'/n - u u'/n) / s``, that of the
other two the same without the mean; so the spectral norm is 1/s at most, and what matters is how small s can be. It is
bounded below by the certified range of the row, or by what the user claims (`floor`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, inflate, up
from jacobound.errors import InvalidOptionError, InvalidRegionError
from jacobound.graph.vector.rows import RowFunction, largest, total


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
        top, wide = self._deviations(x)
        square = (total(wide.square()) / self.length).upper
        size = Interval(least, (Interval.exact(square) + self.eps).sqrt().upper)
        return (top / size.map(lambda end: end.expand(top.shape))).intersect(_around_zero(top, most))

    def _deviations(self, x: Interval) -> tuple[Interval, Interval]:
        """Enclosure of the entries less their mean, and of what their squares sum up to at most."""
        if not self.centred:
            return x, x
        count = float(self.length)
        low, high = Interval.exact(x.lower), Interval.exact(x.upper)
        below, above = total(low), total(high)
        upper = ((high * (count - 1) + low - below.map(lambda e: e.expand(x.shape))) / count).upper
        lower = ((low * (count - 1) + high - above.map(lambda e: e.expand(x.shape))) / count).lower
        middle = x.midpoint_and_radius()[0].mean(-1, keepdim=True)
        return Interval.safe(lower, upper), x - middle.expand(x.shape)  # no point is nearer in squares than the mean

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

    def least_square(self, x: Interval) -> Tensor:
        return down(least_squares(x) / self.length)

    def divisor(self, square: Tensor) -> Tensor:
        return (Interval.exact(square) * float(self.length)).sqrt().lower.clamp(min=self.eps)


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
