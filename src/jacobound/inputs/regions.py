"""Regions of the input: `Ball`, `Box`, `WholeSpace`; and `Domain`, several convex sets as the methods see them.

A region may hold many sets (a batch of centres, a list of radii). `Region.domains` gives any run of them as one
`Domain`, rounded outward into the graph's dtype, so a domain always contains the sets that the user asked for.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, up
from jacobound.errors import InvalidOptionError, InvalidRegionError, ShapeError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Input
from jacobound.graph.units import real_tensor, spread
from jacobound.inputs.domains import Domain, Domains, ball_or_box, moved_ball, rounded_outward
from jacobound.inputs.exponents import exponent
from jacobound.inputs.radii import Number, Radii, outward_radius, owned_clip, owned_radius
from jacobound.inputs.vnnlib import InputSet, fitting, read_vnnlib
from jacobound.stored import stored

Points = Tensor | np.ndarray | Sequence[float]
Clip = tuple[Points | float, Points | float]


class Region(ABC):
    """A set of input sets; `lead` is the shape in which results are arranged."""

    @abstractmethod
    def domains(self, graph: Graph) -> tuple[Domains, tuple[int, ...]]:
        """The sets in row-major order, and the leading shape (*radii, *batch) of the results.

        Raises:
            ShapeError: when the points do not fit the network's input.
            InvalidRegionError: when the set makes no sense.
        """


@stored
@dataclass(frozen=True, eq=False)
class Ball(Region):
    """All points within `radius` of `center` in the l_p norm; with `scale`, in units of each input.

    The ball owns its numbers: what the caller does to arrays afterwards changes nothing.

    Args:
        center: one point, or a batch of points (*batch, *input shape); finite. Taken as exact numbers.
        radius: non-negative number, or a list of them: results then gain a leading axis. A decimal is rounded
            outward: the float 0.1 is replaced by one that is not below the decimal number 0.1. Strings such as "0.1"
            and "8/255", `Decimal` and `Fraction` are accepted. A list with as many numbers as there are inputs could
            mean either and is refused: `Radii(list)` are several balls, `scale=` gives each input its own radius.
        p: 1, 2 or inf.
        clip: optional (low, high), numbers or arrays: only points of the box low <= x <= high count.
        scale: units of the inputs, finite and >= 0: one number, one per channel (the first axis) or one per input. The
            ball is ``|(x - center) / scale|_p <= radius``; the division is not taken as exact, the set that is looked
            at is never smaller. Inputs of scale 0 stay as they are. With radius=1 and p=inf these are the radii of the
            inputs.

    Raises:
        InvalidRegionError: when a number is NaN, infinite or negative, the norm is another, or the list is ambiguous.
        ShapeError: when something is no array of numbers.
    """

    center: Points
    radius: Number | Sequence[Number] | Radii
    p: float = math.inf
    clip: Clip | None = None
    scale: Points | float | None = None

    def __post_init__(self) -> None:
        center = real_tensor(self.center, "the centre")
        _finite(center, "the centre")
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "radius", owned_radius(self.radius))
        try:
            object.__setattr__(self, "p", exponent(self.p, "the norm of a ball"))
        except InvalidOptionError as error:
            raise InvalidRegionError(str(error)) from None
        if center.dim() == 1:
            _refuse_ambiguous(self.radius, tuple(center.shape))
        _ = self.radii
        object.__setattr__(self, "clip", owned_clip(self.clip))
        if self.scale is not None:
            scale = real_tensor(self.scale, "the scale")
            if not bool(((scale >= 0) & scale.isfinite()).all()):
                raise InvalidRegionError("a scale holds finite numbers >= 0; 0 keeps an input as it is")
            object.__setattr__(self, "scale", scale)

    @property
    def _several(self) -> bool:
        """Whether a list of radii was given, so that results gain an axis."""
        return isinstance(self.radius, tuple | Radii)

    @cached_property
    def radii(self) -> tuple[float, ...]:
        """The radii as floats that are not below the given numbers."""
        given: Any = self.radius.values if isinstance(self.radius, Radii) else self.radius
        return tuple(outward_radius(one) for one in (given if isinstance(given, tuple) else (given,)))

    def balls(self, graph: Graph) -> tuple[Balls, tuple[int, ...]]:
        """Balls of any radius around the centres, in the graph's dtype, and the shape of the batch of centres."""
        exact = real_tensor(self.center, "the centre").to(graph.device)
        batch = _batch_shape(exact, graph, "the centre")
        _refuse_ambiguous(self.radius, graph.in_shape)
        valid = None if self.clip is None else _valid_range(self.clip, graph)
        scale = self.scale
        if scale is not None:
            scale = spread(real_tensor(scale, "the scale").to(graph.device), graph.in_shape, "the scale")
        return Balls(exact.reshape(-1, *graph.in_shape), self.p, graph.dtype, valid, scale), batch

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
        scale: units of the inputs, float64, shape (*input shape); None when all are 1.
    """

    points: Tensor
    p: float
    dtype: torch.dtype
    valid: Interval | None
    scale: Tensor | None = None

    def domain(self, which: Tensor, radii: Tensor) -> Domain:
        """Balls around some of the points, with float64 radii of the same shape (n,).

        Raises:
            InvalidRegionError: when a ball does not meet the valid box.
        """
        exact = self.points[which]
        box = self._box(exact, radii)
        if self.valid is not None:
            box = Interval(torch.maximum(box.lower, self.valid.lower), torch.minimum(box.upper, self.valid.upper))
            if not bool((box.lower <= box.upper).all()):
                raise InvalidRegionError(
                    "the ball does not meet the valid range given by clip; check the input's scaling"
                )
        if self.p == math.inf or bool((radii == 0).all()):
            return Domain(box)
        return ball_or_box(box, exact, radii, self.p, self.scale)

    def _box(self, exact: Tensor, radii: Tensor) -> Interval:
        """The smallest boxes around the balls."""
        axes = [1] * (exact.dim() - 1)
        if self.scale is None:
            centre, grown = moved_ball(exact, radii, math.inf, self.dtype)
            reach = grown.reshape(-1, *axes)
            exactly = reach == 0
            low, high = down(centre - reach), up(centre + reach)
            return Interval(torch.where(exactly, centre, low), torch.where(exactly, centre, high))
        length = radii.reshape(-1, *axes)
        still = (length == 0) | (self.scale == 0)
        reach = torch.where(still, 0.0, up(length * self.scale))
        low, high = (torch.where(still, exact, end) for end in (down(exact - reach), up(exact + reach)))
        return rounded_outward(low, high, self.dtype)


@stored
@dataclass(frozen=True, eq=False)
class Box(Region):
    """All points with ``lower <= x <= upper``; a degenerate box (equal ends) is allowed, infinite ends too.

    Args:
        lower, upper: one box, or a batch of boxes (*batch, *input shape).
    """

    lower: Points
    upper: Points

    def __post_init__(self) -> None:
        lower, upper = real_tensor(self.lower, "the lower end"), real_tensor(self.upper, "the upper end")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
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

    @classmethod
    def side_by_side(cls, *regions: Ball | Box) -> Box:
        """The box of a network with several inputs: a region for each, in the order in which it was imported.

        Args:
            regions: boxes, and balls of p=inf and one radius; none of them a batch. An input that is fixed is a ball of
                radius 0.

        Returns:
            A box of shape (total,): the entries of the first input row by row, then those of the second, ...

        Raises:
            InvalidRegionError: when one of them is no box.
        """
        ends: list[tuple[Tensor, Tensor]] = []
        for region in regions:
            if isinstance(region, Box):
                ends.append((real_tensor(region.lower, "the lower end"), real_tensor(region.upper, "the upper end")))
            elif isinstance(region, Ball) and region.p == math.inf and len(region.radii) == 1:
                centre = real_tensor(region.center, "the centre")
                box = region.domains(Graph(Input(tuple(centre.shape))))[0][:1].box
                ends.append((box.lower, box.upper))
            else:
                raise InvalidRegionError(
                    "regions of several inputs are joined as boxes: give a Box, or a Ball with p=inf and one radius, "
                    "for each"
                )
        if not ends:
            raise InvalidRegionError("there are no regions to be joined")
        return cls(*(torch.cat([pair[k].flatten() for pair in ends]) for k in (0, 1)))

    def domains(self, graph: Graph) -> tuple[Domains, tuple[int, ...]]:
        lower = real_tensor(self.lower, "the lower end").to(graph.device)
        upper = real_tensor(self.upper, "the upper end").to(graph.device)
        batch = _batch_shape(lower, graph, "the box")
        low, high = lower.reshape(-1, *graph.in_shape), upper.reshape(-1, *graph.in_shape)

        def make(start: int, stop: int) -> Domain:
            return Domain(rounded_outward(low[start:stop], high[start:stop], graph.dtype))

        return Domains(len(low), make), batch


@stored
@dataclass(frozen=True, eq=False)
class WholeSpace(Region):
    """Every input: bounds over it are global."""

    def domains(self, graph: Graph) -> tuple[Domains, tuple[int, ...]]:
        whole = Domain(Interval.whole(graph.example.new_zeros(1, *graph.in_shape)))
        return Domains(1, lambda start, stop: whole[start:stop]), ()


def _boxes(found: InputSet, shape: Sequence[int] | None) -> list[Box]:
    """The boxes of a property in the shape of a network's input."""
    wanted = fitting(shape, found.shape)
    ends = ((torch.tensor(end, dtype=torch.float64).reshape(wanted) for end in box) for box in found.boxes)
    return [Box(lower, upper) for lower, upper in ends]


def _valid_range(clip: Clip, graph: Graph) -> Interval:
    """The box low <= x <= high in the graph's dtype, rounded outward."""
    ends = (real_tensor(end, "the clip range").to(graph.device) for end in clip)
    low, high = (spread(end, graph.in_shape, "the clip range") for end in ends)
    return rounded_outward(low, high, graph.dtype)


def _refuse_ambiguous(radius: object, shape: tuple[int, ...]) -> None:
    """Refuse a list of radii that could be one for each input.

    Raises:
        InvalidRegionError: when there are as many radii as inputs, and more than one.
    """
    if isinstance(radius, tuple) and len(radius) == math.prod(shape) > 1:
        raise InvalidRegionError(
            f"{len(radius)} radii for {len(radius)} inputs: one for each input, or that many balls? For radii of the "
            "inputs write Ball(center, 1, scale=radii) or Box(center - radii, center + radii); for several balls "
            "Ball(center, Radii([...]))"
        )


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
