"""Where the input may be: `Ball`, `Box`, `WholeSpace`; and `Domain`, one convex set as the methods see it.

A region may hold many sets (a batch of centres, a list of radii). `Region.domains` lists them one by one, each
rounded outward into the graph's dtype, so a domain always contains the set that the user asked for.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from jacobound.errors import InvalidRegionError, ShapeError
from jacobound.graph import Graph
from jacobound.intervals import Interval, dot_slack
from jacobound.linalg import dual_exponent, vector_norm_upper
from jacobound.rounding import down, up
from jacobound.vnnlib import InputSet, read_vnnlib

Points = Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True, eq=False)
class Domain:
    """One convex set of inputs: a box, intersected with an l1 or l2 ball when `radius` is given.

    Args:
        box: interval of the input's shape that holds the set.
        centre: centre of the ball, or None when the set is just the box.
        radius: radius of the ball, rounded up.
        p: 1 or 2; norm of the ball.
    """

    box: Interval
    centre: Tensor | None = None
    radius: float = 0.0
    p: float = math.inf

    @cached_property
    def bounded(self) -> bool:
        return self.box.is_finite()

    @cached_property
    def anchor(self) -> Tensor:
        """A point of the set: the ball's centre, or the middle of the box (0 where it is unbounded)."""
        if self.centre is not None:
            return torch.minimum(torch.maximum(self.centre, self.box.lower), self.box.upper)
        return torch.minimum(torch.maximum(self.box.midpoint_and_radius()[0], self.box.lower), self.box.upper)

    def range_of(self, coefficients: Tensor) -> Interval:
        """Enclosure of ``coefficients @ x`` over the set, by dual norms.

        Args:
            coefficients: exact floats, shape (*lead, n) with n the flattened input size.

        Returns:
            Interval of shape (*lead).
        """
        centre, radius = self.box.map(torch.flatten).midpoint_and_radius()
        absolute = coefficients.abs()
        found = _around(coefficients @ centre, absolute @ radius, dot_error(absolute, up(centre.abs() + radius)))
        if self.centre is None:
            return found
        middle = self.centre.flatten()
        reach = up(vector_norm_upper(coefficients, dual_exponent(self.p), dim=-1) * self.radius)
        error = dot_error(absolute, middle.abs())
        return found.intersect(_around(coefficients @ middle, reach, error))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Random points of the set, shape (count, *input shape); half of them on its boundary. Needs `bounded`."""
        like = self.box.lower
        uniform = torch.rand(count, *like.shape, generator=generator, dtype=torch.float64).to(like)
        corners = torch.arange(count) % 2 == 0
        uniform[corners] = uniform[corners].round()
        points = self.box.lower + uniform * (self.box.upper - self.box.lower)
        return self.project(points)

    def project(self, points: Tensor) -> Tensor:
        """Points of the set near the given ones: clipped to the box, then pulled towards the ball's centre."""
        points = torch.minimum(torch.maximum(points, self.box.lower), self.box.upper)
        if self.centre is None:
            return points
        offset = points - self.anchor
        length = torch.linalg.vector_norm(offset.flatten(1), ord=self.p, dim=1)
        inside = self.radius - torch.linalg.vector_norm((self.anchor - self.centre).flatten(), ord=self.p)
        shrink = (inside.clamp(min=0.0) * (1 - 1e-9) / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1.0)
        return self.anchor + offset * shrink.reshape(-1, *[1] * (points.dim() - 1))


def dot_error(absolute: Tensor, magnitude: Tensor) -> Tensor:
    """Rounding error of ``coefficients @ x`` for any |x| <= magnitude, given the absolute coefficients."""
    return dot_slack((absolute @ magnitude).unsqueeze(-1), magnitude.shape[-1] + 2)


def _around(middle: Tensor, reach: Tensor, error: Tensor) -> Interval:
    """middle ± (reach + error); `reach` is a computed non-negative sum whose own rounding `error` dominates."""
    spread = up(up(reach) + 2 * error)
    return Interval.outward(middle - spread, middle + spread)


class Region(ABC):
    """A set of input sets; `lead` is the shape in which results are arranged."""

    @abstractmethod
    def domains(self, graph: Graph) -> tuple[list[Domain], tuple[int, ...]]:
        """The single sets in row-major order, and the leading shape (*radii, *batch) of the results.

        Raises:
            ShapeError: when the points do not fit the network's input.
            InvalidRegionError: when the set makes no sense.
        """


@dataclass(frozen=True, eq=False)
class Ball(Region):
    """All points within `radius` of `center` in the l_p norm.

    Args:
        center: one point, or a batch of points (*batch, *input shape); finite. Taken as exact numbers.
        radius: non-negative number, or a list of them: results then gain a leading axis. A decimal is rounded
            outward: the float 0.1 is replaced by one that is not below the decimal number 0.1. Strings and
            `decimal.Decimal` are accepted.
        p: 1, 2 or inf.
        clip: optional (low, high), numbers or arrays: only points of the box low <= x <= high count.
    """

    center: Points
    radius: float | str | Decimal | Sequence[float]
    p: float = math.inf
    clip: tuple[Points | float, Points | float] | None = None

    def __post_init__(self) -> None:
        if self.p not in (1, 2, math.inf):
            raise InvalidRegionError(f"the norm of a ball must be 1, 2 or inf, not {self.p}")
        _ = self.radii
        _finite(_tensor(self.center, "the centre"), "the centre")
        if self.clip is not None:
            low, high = (_tensor(end, "the clip range") for end in self.clip)
            if not bool((low <= high).all()):
                raise InvalidRegionError("clip=(low, high) needs low <= high everywhere, and no NaN")

    @property
    def _several(self) -> bool:
        """Whether a list of radii was given, so that results gain an axis."""
        if isinstance(self.radius, np.ndarray | Tensor):
            return self.radius.ndim > 0
        return isinstance(self.radius, Sequence) and not isinstance(self.radius, str)

    @cached_property
    def radii(self) -> tuple[float, ...]:
        """The radii as floats that are not below the given numbers."""
        given = list(self.radius) if self._several else [self.radius]  # type: ignore[arg-type]
        if not given:
            raise InvalidRegionError("the list of radii is empty; give at least one radius")
        return tuple(_outward(radius) for radius in given)

    def domains(self, graph: Graph) -> tuple[list[Domain], tuple[int, ...]]:
        exact = _tensor(self.center, "the centre").to(graph.device)
        batch = _batch_shape(exact, graph, "the centre")
        points = exact.reshape(-1, *graph.in_shape)
        domains = [self._domain(point, radius, graph) for radius in self.radii for point in points]
        return domains, ((len(self.radii),) if self._several else ()) + batch

    def _domain(self, exact: Tensor, radius: float, graph: Graph) -> Domain:
        centre = exact.to(graph.dtype)
        # A centre that the dtype can not hold moves; the radius grows by as much.
        moved = (centre.to(exact.dtype) - exact).abs()
        grown = radius
        if bool(moved.any()):
            grown = math.nextafter(radius + float(up(vector_norm_upper(moved.flatten(), self.p, dim=-1))), math.inf)
        grown = _up_to(graph.dtype, grown)
        box = Interval.exact(centre) if grown == 0 else Interval(down(centre - grown), up(centre + grown))
        if self.clip is not None:
            box = _clipped(box, self.clip, graph)
        if self.p == math.inf or grown == 0:
            return Domain(box)
        return Domain(box, centre, grown, self.p)


@dataclass(frozen=True, eq=False)
class Box(Region):
    """All points with ``lower <= x <= upper``; a degenerate box (equal ends) is allowed, infinite ends too.

    Args:
        lower, upper: one box, or a batch of boxes (*batch, *input shape).
    """

    lower: Points
    upper: Points

    def __post_init__(self) -> None:
        lower, upper = _tensor(self.lower, "the lower end"), _tensor(self.upper, "the upper end")
        if lower.shape != upper.shape:
            raise ShapeError(f"a box has two ends of one shape, not {tuple(lower.shape)} and {tuple(upper.shape)}")
        if not bool((lower <= upper).all()):
            bad = (~(lower <= upper)).nonzero()[0].tolist()
            raise InvalidRegionError(
                f"a box needs lower <= upper and no NaN; entry {bad} has "
                f"[{lower[tuple(bad)].item()}, {upper[tuple(bad)].item()}]"
            )
        if bool((lower == math.inf).any() | (upper == -math.inf).any()):
            raise InvalidRegionError("a box can not start at +inf or end at -inf")

    @classmethod
    def from_vnnlib(cls, source: str | bytes | os.PathLike[str], shape: Sequence[int] | None = None) -> Box:
        """The box of inputs of a VNN-LIB property, version 1 or 2.

        A decimal bound is rounded outward to a float. Conditions on outputs are left out: the box holds every input
        that the property speaks of.

        Args:
            source: path of the file (.vnnlib, .vnnlib.gz), or the text itself.
            shape: of the network's input (`graph.in_shape`), entries in row-major order; None for the shape that the
                file declares, which is (n,) in version 1 and may hold a batch axis in version 2.

        Raises:
            InvalidRegionError: when the property is not understood (with the line), leaves an input unbounded, admits
                no input, or speaks of several boxes; `all_from_vnnlib` gives all of them.
            ShapeError: when the number of inputs does not fit `shape`.
        """
        found = read_vnnlib(source)
        if len(found.boxes) > 1:
            raise InvalidRegionError(
                f"the property speaks of {len(found.boxes)} boxes of inputs; "
                "Box.all_from_vnnlib gives all of them as a list"
            )
        return _boxes(found, shape)[0]

    @classmethod
    def all_from_vnnlib(cls, source: str | bytes | os.PathLike[str], shape: Sequence[int] | None = None) -> list[Box]:
        """All boxes of inputs of a VNN-LIB property, in the order of the file; see `from_vnnlib`.

        Every input of the property is in one of them; they may overlap.
        """
        return _boxes(read_vnnlib(source), shape)

    def domains(self, graph: Graph) -> tuple[list[Domain], tuple[int, ...]]:
        lower = _tensor(self.lower, "the lower end").to(graph.device)
        upper = _tensor(self.upper, "the upper end").to(graph.device)
        batch = _batch_shape(lower, graph, "the box")
        ends = zip(lower.reshape(-1, *graph.in_shape), upper.reshape(-1, *graph.in_shape), strict=True)
        return [Domain(_rounded_outward(low, high, graph.dtype)) for low, high in ends], batch


@dataclass(frozen=True, eq=False)
class WholeSpace(Region):
    """Every input: bounds over it are global."""

    def domains(self, graph: Graph) -> tuple[list[Domain], tuple[int, ...]]:
        return [Domain(Interval.whole(graph.example.new_zeros(graph.in_shape)))], ()


def _boxes(found: InputSet, shape: Sequence[int] | None) -> list[Box]:
    """The boxes of a property in the shape of a network's input."""
    wanted = found.shape if shape is None else tuple(shape)
    if math.prod(wanted) != math.prod(found.shape):
        raise ShapeError(
            f"the property has inputs of shape {found.shape}, which do not fit a network that takes {wanted}"
        )
    ends = ((torch.tensor(end, dtype=torch.float64).reshape(wanted) for end in box) for box in found.boxes)
    return [Box(lower, upper) for lower, upper in ends]


def _outward(radius: object) -> float:
    """The smallest float that is not below the number that was meant (a float means its shortest decimal)."""
    try:
        meant = Decimal(radius if isinstance(radius, Decimal | str) else repr(float(radius)))  # type: ignore[arg-type]
    except (InvalidOperation, TypeError, ValueError) as error:
        raise InvalidRegionError(f"the radius {radius!r} is not a number") from error
    if not meant.is_finite() or meant < 0:
        raise InvalidRegionError(f"the radius must be a finite number >= 0, not {radius}; use WholeSpace() for all")
    nearest = float(meant)
    if math.isinf(nearest):
        raise InvalidRegionError(f"the radius {radius} is too large for a float; use WholeSpace()")
    return nearest if Decimal(nearest) >= meant else math.nextafter(nearest, math.inf)


def _up_to(dtype: torch.dtype, value: float) -> float:
    """The smallest number of `dtype` that is not below `value`."""
    rounded = torch.tensor(value, dtype=torch.float64).to(dtype)
    if float(rounded) < value:
        rounded = torch.nextafter(rounded, torch.full_like(rounded, math.inf))
    return float(rounded)


def _rounded_outward(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Interval:
    """The box in another dtype, one float wider where an end can not be held exactly."""
    low, high = lower.to(dtype), upper.to(dtype)
    low = torch.where(low.to(lower.dtype) > lower, torch.nextafter(low, torch.full_like(low, -math.inf)), low)
    high = torch.where(high.to(upper.dtype) < upper, torch.nextafter(high, torch.full_like(high, math.inf)), high)
    return Interval(low, high)


def _clipped(box: Interval, clip: tuple[Points | float, Points | float], graph: Graph) -> Interval:
    """Intersection with the valid range; an empty one is an error."""
    low, high = (_tensor(end, "the clip range").to(graph.device).expand(graph.in_shape) for end in clip)
    valid = _rounded_outward(low, high, graph.dtype)
    lower, upper = torch.maximum(box.lower, valid.lower), torch.minimum(box.upper, valid.upper)
    if not bool((lower <= upper).all()):
        raise InvalidRegionError("the ball does not meet the valid range given by clip; check the input's scaling")
    return Interval(lower, upper)


def _tensor(points: Points | float, what: str) -> Tensor:
    """As float64 (exact for float32 and float64 data)."""
    if isinstance(points, Tensor):
        tensor = points.detach()
    else:
        try:
            tensor = torch.as_tensor(np.asarray(points))
        except (TypeError, ValueError) as error:
            raise ShapeError(f"{what} is not an array of numbers: {error}") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ShapeError(f"{what} must hold real numbers, not {tensor.dtype}")
    return tensor.to(torch.float64)


def _finite(points: Tensor, what: str) -> None:
    if not bool(torch.isfinite(points).all()):
        raise InvalidRegionError(f"{what} holds NaN or infinite numbers; check how the input was loaded")


def _batch_shape(points: Tensor, graph: Graph, what: str) -> tuple[int, ...]:
    """Leading dimensions in front of the network's input shape."""
    lead = points.dim() - len(graph.in_shape)
    if lead < 0 or tuple(points.shape[lead:]) != graph.in_shape:
        raise ShapeError(
            f"{what} has shape {tuple(points.shape)}, but the network takes points of shape {graph.in_shape} "
            "(with optional batch axes in front); reshape the data"
        )
    return tuple(points.shape[:lead])
