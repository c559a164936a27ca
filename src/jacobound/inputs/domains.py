"""Sets of inputs as the methods see them: `Domain`, N convex sets at once; `Owners`, whose set a row is about.

Rounding is outward everywhere, so a domain always contains the sets that were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, dot_slack
from jacobound.arithmetic.linalg import dual_exponent, vector_norm_upper
from jacobound.arithmetic.rounding import down, gamma, inflate, underflow, up
from jacobound.inputs.half_spaces import HalfSpaces


@dataclass(frozen=True, eq=False)
class Domain:
    """N convex sets of inputs of one kind: boxes, each intersected with an l1 or l2 ball when `centre` is given.

    Args:
        box: interval of shape (N, *input shape) that holds the sets.
        centre: centres of the balls, same shape, or None when the sets are just the boxes.
        radius: radii of the balls, rounded up, shape (N,); not read without `centre`.
        p: 1 or 2; norm of the balls.
        scale: units of the inputs, shape (*input shape), for balls ``|(x - centre) / scale|_p <= radius``; where it is
            0 the box has no width. None when all are 1.
        half_spaces: what holds of the points besides, for bounds of linear forms; `sample` and `project` look at the
            boxes and balls alone.
    """

    box: Interval
    centre: Tensor | None = None
    radius: Tensor | None = None
    p: float = math.inf
    scale: Tensor | None = None
    half_spaces: HalfSpaces | None = None

    def __len__(self) -> int:
        """How many sets there are."""
        return len(self.box.lower)

    def __getitem__(self, sets: slice | Tensor) -> Domain:
        """The domain of the sets that `which` chooses."""
        cut = None if self.half_spaces is None else self.half_spaces[sets]
        if self.centre is None or self.radius is None:
            return Domain(self.box[sets], half_spaces=cut)
        return Domain(self.box[sets], self.centre[sets], self.radius[sets], self.p, self.scale, cut)

    @property
    def plain_radius(self) -> Tensor | None:
        """No point is farther from the centre in the plain l_p norm, shape (N,); None without a ball."""
        if self.radius is None or self.scale is None:
            return self.radius
        return up(self.radius * self.scale.max())

    @cached_property
    def bounded(self) -> Tensor:
        """Which sets are bounded: bool mask of shape (N,)."""
        return (torch.isfinite(self.box.lower) & torch.isfinite(self.box.upper)).flatten(1).all(1)

    @cached_property
    def anchor(self) -> Tensor:
        """A point of every set, shape (N, *input shape): the ball's centre, or the middle of the box (0 where it is
        unbounded)."""
        middle = self.box.midpoint_and_radius()[0] if self.centre is None else self.centre
        return torch.minimum(torch.maximum(middle, self.box.lower), self.box.upper)

    def range_of(self, coefficients: Tensor, owners: Owners) -> Interval:
        """Enclosure of ``coefficients @ x`` over the sets, by dual norms.

        Args:
            coefficients: exact floats, shape (*lead, R, n) with n the flattened input size.
            owners: whose set each of the R rows is about.

        Returns:
            Interval of shape (*lead, R).
        """
        centre, radius = self._middle
        absolute = coefficients.abs()
        error = dot_error(owners.dot(absolute, self._reach), coefficients.shape[-1])
        found = _around(owners.dot(coefficients, centre), owners.dot(absolute, radius), error)
        if self.centre is None or self.radius is None:
            return found
        middle = self.centre.flatten(1)
        lengths = coefficients if self.scale is None else up(absolute * self.scale.flatten())
        norms = vector_norm_upper(lengths, dual_exponent(self.p), dim=-1)
        error = dot_error(owners.dot(absolute, middle.abs()), coefficients.shape[-1])
        return found.intersect(_around(owners.dot(coefficients, middle), up(norms * owners.pick(self.radius)), error))

    def highest(self, coefficients: Tensor, owners: Owners) -> Tensor:
        """Upper bounds of ``coefficients @ x`` over the sets, half-spaces included; shapes (R, n) to (R,)."""
        plain = self.range_of(coefficients, owners).upper
        if self.half_spaces is None or not self.half_spaces.limits.shape[1]:
            return plain
        sets = owners.index
        if sets is None:
            sets = torch.full((len(coefficients),), owners.only, device=coefficients.device)
        beta = self.half_spaces.multipliers(coefficients, sets, *self._middle)
        return torch.minimum(plain, self.lowered(coefficients, owners, beta))

    def lowered(self, coefficients: Tensor, owners: Owners, beta: Tensor) -> Tensor:
        """Upper bounds of ``coefficients @ x`` by given multipliers of the half-spaces; certified whatever they are.

        With the computed ``a = fl(g - beta G)`` the form is ``a x + beta (G x) + (g - beta G - a) x``: a range of a,
        ``beta h``, and the rounding of a, at most ``gamma (|g| + beta |G|) |x|``.

        Args:
            coefficients: exact floats g, shape (R, n).
            beta: finite and not negative, shape (R, M).
        """
        cut = self.half_spaces
        assert cut is not None
        limits = torch.where(cut.limits.isfinite(), cut.limits, 0.0)
        moved = coefficients - owners.combined(beta, cut.normals)
        size = owners.dot(coefficients.abs(), self._reach)
        reach = (cut.normals.abs() @ self._reach.unsqueeze(2)).squeeze(2)
        terms = beta.shape[1]
        lost = (size + owners.dot(beta, reach)) * gamma(terms + 3, moved)
        error = inflate(lost, coefficients.shape[1] + terms + 8) + underflow(terms + 4, moved) * (
            1 + inflate(self._reach.sum(1).max(), len(self._reach[0]))
        )
        paid = owners.dot(beta, limits)
        error = up(error + dot_error(owners.dot(beta, limits.abs()), terms))
        return up(up(self.range_of(moved, owners).upper + paid) + error)

    @cached_property
    def _middle(self) -> tuple[Tensor, Tensor]:
        return self.box.map(lambda end: end.flatten(1)).midpoint_and_radius()

    @cached_property
    def _reach(self) -> Tensor:
        centre, radius = self._middle
        return up(centre.abs() + radius)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Random points of the sets, shape (N, count, *input shape); half of them on the boundary of the box.

        In an l_1 ball every fourth leaves the centre along one axis, and half of these end in a corner of the ball.
        All sets get the same share of their box, so a set's points do not depend on the others. Needs bounded sets.
        """
        like = self.box.lower
        uniform = torch.rand(count, *like.shape[1:], generator=generator, dtype=torch.float64).to(like)
        corners = torch.arange(count) % 2 == 0
        uniform[corners] = uniform[corners].round()
        width = (self.box.upper - self.box.lower).unsqueeze(1)
        points = self.box.lower.unsqueeze(1) + uniform * width
        if self.centre is not None and self.p == 1:
            axes = torch.randint(like[0].numel(), (count,), generator=generator)
            alone = (torch.arange(count) % 8 < 2).unsqueeze(1)
            kept = ~alone | torch.nn.functional.one_hot(axes, like[0].numel()).bool()
            points = torch.where(kept.reshape(uniform.shape).to(like.device), points, self.anchor.unsqueeze(1))
        return self.project(points)

    def project(self, points: Tensor) -> Tensor:
        """Points of the sets near the given ones: clipped to the box, then pulled towards the ball's centre.

        Args:
            points: shape (N, count, *input shape).
        """
        points = torch.minimum(torch.maximum(points, self.box.lower.unsqueeze(1)), self.box.upper.unsqueeze(1))
        if self.centre is None or self.radius is None:
            return points
        anchor = self.anchor.unsqueeze(1)
        offset = points - anchor
        length = torch.linalg.vector_norm(self._in_units(offset).flatten(2), ord=self.p, dim=2)
        moved = torch.linalg.vector_norm(self._in_units(self.anchor - self.centre).flatten(1), ord=self.p, dim=1)
        inside = (self.radius - moved).clamp(min=0.0).unsqueeze(1)
        shrink = (inside * (1 - 1e-9) / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1.0)
        return anchor + offset * shrink.reshape(*shrink.shape, *[1] * (points.dim() - 2))

    def _in_units(self, offset: Tensor) -> Tensor:
        """Offsets from the centre in units of the inputs, in plain arithmetic."""
        return offset if self.scale is None else torch.where(self.scale > 0, offset / self.scale, 0.0)

    def times(self, weights: Tensor) -> Domain:
        """The sets of all ``weights * x``, rounded outward; weights above 0 of the input's shape, in the same dtype."""
        box = Interval.outward(self.box.lower * weights, self.box.upper * weights)
        if self.centre is None or self.radius is None:
            return Domain(box)
        scale = up(weights if self.scale is None else weights * self.scale)
        scale = scale if self.scale is None else torch.where(self.scale > 0, scale, 0.0)
        centre = self.centre * weights
        moved = torch.where(self.centre == 0, 0.0, up(up(centre) - down(centre)))
        radius = up(self.radius + _moved_length(moved, self.p, scale))
        return Domain(box, centre, radius, self.p, scale) if bool(radius.isfinite().all()) else Domain(box)

    def to(self, dtype: torch.dtype) -> Domain:
        """The sets in another dtype, rounded outward: nothing is lost."""
        box = rounded_outward(self.box.lower, self.box.upper, dtype)
        if self.centre is None or self.radius is None:
            return Domain(box)
        return ball_or_box(box, self.centre, self.radius.to(torch.float64), self.p, self.scale)

    def on(self, device: torch.device | str) -> Domain:
        """The boxes and balls on another device."""
        box = self.box.map(lambda end: end.to(device))
        if self.centre is None or self.radius is None:
            return Domain(box)
        scale = None if self.scale is None else self.scale.to(device)
        return Domain(box, self.centre.to(device), self.radius.to(device), self.p, scale)


@dataclass(frozen=True, eq=False)
class Owners:
    """To which of N sets each of R rows belongs.

    Args:
        index: shape (R,), or None when all rows belong to one set.
        only: that set.
    """

    index: Tensor | None = None
    only: int = 0

    @staticmethod
    def of(sets: Tensor, count: int) -> Owners:
        """From the set of every row, in ascending order, among `count` sets."""
        if count == 1 or not len(sets):
            return Owners()
        first = int(sets[0])
        return Owners(None, first) if first == int(sets[-1]) else Owners(sets)

    def pick(self, x: Tensor) -> Tensor:
        """What belongs to each row, from one entry per set: shape (N, *rest) to (R, *rest), or to rest for one set."""
        return x[self.only] if self.index is None else x.index_select(0, self.index)

    def at(self, x: Tensor, entries: Tensor) -> Tensor:
        """One entry per row of what belongs to its set, from shape (N, n) and (R,) flat entries to (R,)."""
        return x[self.only if self.index is None else self.index, entries]

    def dot(self, rows: Tensor, x: Tensor) -> Tensor:
        """Products of rows (*lead, R, n) with the vectors (N, n) of their sets, shape (*lead, R)."""
        return rows @ x[self.only] if self.index is None else (rows * x.index_select(0, self.index)).sum(-1)

    def combined(self, weights: Tensor, x: Tensor) -> Tensor:
        """Sums with weights (R, M) of what belongs to a row's set, x (N, M, n); shape (R, n)."""
        if self.index is None:
            return weights @ x[self.only]
        return torch.cat([weights[self.index == k] @ x[k] for k in self.index.unique_consecutive().tolist()])


ONE_SET = Owners()
"""All rows belong to the only set."""


def dot_error(size: Tensor, terms: int) -> Tensor:
    """Rounding error of a computed ``a . x`` of so many terms, given the computed ``|a| . |x|``."""
    return dot_slack(size.unsqueeze(-1), terms + 2)


def _around(middle: Tensor, reach: Tensor, error: Tensor) -> Interval:
    """middle ± (reach + error); `reach` is a computed non-negative sum whose own rounding `error` dominates."""
    spread = up(up(reach) + 2 * error)
    return Interval.outward(middle - spread, middle + spread)


@dataclass(frozen=True, eq=False)
class Domains:
    """The sets of a region in row-major order, made when they are asked for.

    Args:
        count: how many there are.
        make: the sets from a first to before a last one.
    """

    count: int
    make: Callable[[int, int], Domain]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, sets: slice) -> Domain:
        start, stop, step = sets.indices(self.count)
        return self.make(start, stop) if step == 1 else self.make(0, self.count)[sets]

    def __iter__(self) -> Iterator[Domain]:
        """One by one, each as a `Domain` of one set."""
        return (self.make(k, k + 1) for k in range(self.count))


def ball_or_box(box: Interval, exact: Tensor, radii: Tensor, p: float, scale: Tensor | None) -> Domain:
    """Balls within boxes of any dtype; the boxes alone where a centre had to move along an input that is fixed."""
    dtype = box.lower.dtype
    centre, radius = moved_ball(exact, radii, p, dtype, scale)
    if not bool(radius.isfinite().all()):
        return Domain(box)
    return Domain(box, centre, radius, p, None if scale is None else rounded_up_to(scale, dtype))


def moved_ball(
    exact: Tensor, radii: Tensor, p: float, dtype: torch.dtype, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Centres in another dtype, and radii (N,) that are grown by as much as a centre had to move, rounded up.

    Args:
        scale: units of the inputs; a radius is infinite where a centre moved along an input of scale 0.
    """
    centre = exact.to(dtype)
    moved = _moved_length((centre.to(exact.dtype) - exact).abs(), p, scale).to(radii.dtype)
    grown = torch.where(moved > 0, up(radii + moved), radii)
    return centre, rounded_up_to(grown, dtype)


def _moved_length(moved: Tensor, p: float, scale: Tensor | None) -> Tensor:
    """Upper bound of the l_p norm of moves (N, *shape) >= 0 in units of the inputs, shape (N,)."""
    if scale is not None:
        moved = torch.where(moved == 0, 0.0, up(moved / scale.to(moved.dtype)))
    return vector_norm_upper(moved.flatten(1), p, dim=-1)


def rounded_up_to(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers in another dtype, the next larger ones where it does not hold them."""
    rounded = x.to(dtype)
    return torch.where(rounded.to(x.dtype) < x, _next_above(rounded), rounded)


def _next_above(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, math.inf))


def rounded_outward(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Interval:
    """The box in another dtype, one float wider where an end can not be held exactly."""
    low, high = lower.to(dtype), upper.to(dtype)
    low = torch.where(low.to(lower.dtype) > lower, torch.nextafter(low, torch.full_like(low, -math.inf)), low)
    high = torch.where(high.to(upper.dtype) < upper, torch.nextafter(high, torch.full_like(high, math.inf)), high)
    return Interval(low, high)
