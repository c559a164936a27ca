"""Where the input may be: `Ball`, `Box`, `WholeSpace`; and `Domain`, several convex sets as the methods see them.

A region may hold many sets (a batch of centres, a list of radii). `Region.domains` gives any run of them as one
`Domain`, rounded outward into the graph's dtype, so a domain always contains the sets that the user asked for.
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

from jacobound.domains import Domain, Domains, moved_ball, rounded_outward
from jacobound.errors import InvalidRegionError, ShapeError
from jacobound.graph import Graph
from jacobound.intervals import Interval
from jacobound.rounding import down, up
from jacobound.vnnlib import InputSet, read_vnnlib

Points = Tensor | np.ndarray | Sequence[float]


class Region(ABC):
    """A set of input sets; `lead` is the shape in which results are arranged."""

    @abstractmethod
    def domains(self, graph: Graph) -> tuple[Domains, tuple[int, ...]]:
        """The sets in row-major order, and the leading shape (*radii, *batch) of the results.

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

    def balls(self, graph: Graph) -> tuple[Balls, tuple[int, ...]]:
        """Balls of any radius around the centres, in the graph's dtype, and the shape of the batch of centres."""
        exact = _tensor(self.center, "the centre").to(graph.device)
        batch = _batch_shape(exact, graph, "the centre")
        valid = None if self.clip is None else _valid_range(self.clip, graph)
        return Balls(exact.reshape(-1, *graph.in_shape), self.p, graph.dtype, valid), batch

    def domains(self, graph: Graph) -> tuple[Domains, tuple[int, ...]]:
        balls, batch = self.balls(graph)
        radii, count = balls.points.new_tensor(self.radii), len(balls.points)

        def make(start: int, stop: int) -> Domain:
            place = torch.arange(start, stop, device=radii.device)
            return balls.domain(place % count, radii[place // count])

        if balls.valid is not None:  # the smallest balls must meet it, whichever are asked for first
            balls.domain(torch.arange(count, device=radii.device), radii.amin().expand(count))
        return Domains(len(self.radii) * count, make), ((len(self.radii),) if self._several else ()) + batch


@dataclass(frozen=True, eq=False)
class Balls:
    """Balls of any radius around given points.

    Args:
        points: float64, shape (N, *input shape); taken as exact numbers.
        p: 1, 2 or inf.
        dtype: of the domains.
        valid: the box that counts, in that dtype, or None.
    """

    points: Tensor
    p: float
    dtype: torch.dtype
    valid: Interval | None

    def domain(self, which: Tensor, radii: Tensor) -> Domain:
        """Balls around some of the points, with float64 radii of the same shape (n,).

        Raises:
            InvalidRegionError: when a ball does not meet the valid box.
        """
        exact = self.points[which]
        centre, grown = moved_ball(exact, radii, self.p, self.dtype)
        reach = grown.reshape(-1, *[1] * (exact.dim() - 1))
        exactly = reach == 0
        box = Interval(
            torch.where(exactly, centre, down(centre - reach)), torch.where(exactly, centre, up(centre + reach))
        )
        if self.valid is not None:
            box = Interval(torch.maximum(box.lower, self.valid.lower), torch.minimum(box.upper, self.valid.upper))
            if not bool((box.lower <= box.upper).all()):
                raise InvalidRegionError(
                    "the ball does not meet the valid range given by clip; check the input's scaling"
                )
        if self.p == math.inf or bool((grown == 0).all()):
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

    def domains(self, graph: Graph) -> tuple[Domains, tuple[int, ...]]:
        lower = _tensor(self.lower, "the lower end").to(graph.device)
        upper = _tensor(self.upper, "the upper end").to(graph.device)
        batch = _batch_shape(lower, graph, "the box")
        low, high = lower.reshape(-1, *graph.in_shape), upper.reshape(-1, *graph.in_shape)

        def make(start: int, stop: int) -> Domain:
            return Domain(rounded_outward(low[start:stop], high[start:stop], graph.dtype))

        return Domains(len(low), make), batch


@dataclass(frozen=True, eq=False)
class WholeSpace(Region):
    """Every input: bounds over it are global."""

    def domains(self, graph: Graph) -> tuple[Domains, tuple[int, ...]]:
        whole = Domain(Interval.whole(graph.example.new_zeros(1, *graph.in_shape)))
        return Domains(1, lambda start, stop: whole[start:stop]), ()


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


def _valid_range(clip: tuple[Points | float, Points | float], graph: Graph) -> Interval:
    """The box low <= x <= high in the graph's dtype, rounded outward."""
    low, high = (_tensor(end, "the clip range").to(graph.device).expand(graph.in_shape) for end in clip)
    return rounded_outward(low, high, graph.dtype)


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
