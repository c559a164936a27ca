"""Radii and valid ranges as users give them, owned and rounded outward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

from jacobound.errors import InvalidRegionError
from jacobound.graph.units import real_tensor
from jacobound.stored import stored

Number = float | str | Decimal | Fraction


@stored
@dataclass(frozen=True)
class Radii:
    """Several radii of a `Ball`, also where a plain list could be taken for one radius for each input.

    Args:
        values: at least one number, string, `Decimal` or `Fraction` >= 0.

    Raises:
        InvalidRegionError: when one is no radius.
    """

    values: tuple[Number, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", listed_radii(self.values))


def owned_radius(radius: Any) -> Any:
    """One radius as it was meant, or a tuple of them; other objects (such as `Radii`) as they are.

    Raises:
        InvalidRegionError: when it is no number and no list of numbers.
    """
    if isinstance(radius, Tensor | np.ndarray):
        if radius.ndim > 1:
            raise InvalidRegionError(
                f"a radius of shape {tuple(radius.shape)}: give one number or a plain list of several; for one radius "
                "for each input write Ball(center, 1, scale=radii)"
            )
        radius = real_tensor(radius, "the radius").tolist()
    if isinstance(radius, list | tuple | range):
        return listed_radii(radius)
    return radius if isinstance(radius, Radii) else _meant(radius)


def listed_radii(radii: Any) -> tuple[Any, ...]:
    """Several radii as they were meant.

    Raises:
        InvalidRegionError: when there is none, or one is no number.
    """
    if isinstance(radii, Radii):
        return radii.values
    if isinstance(radii, Tensor | np.ndarray):
        radii = real_tensor(radii, "the list of radii").flatten().tolist()
    if not isinstance(radii, list | tuple | range):
        raise InvalidRegionError(f"Radii takes a list of numbers, not {type(radii).__name__}")
    if not len(radii):
        raise InvalidRegionError("the list of radii is empty; give at least one radius")
    found = tuple(_meant(one) for one in radii)
    for one in found:
        outward_radius(one)
    return found


def _meant(radius: Any) -> float | str | Decimal | Fraction:
    """A number that can be kept: exact ones as they are, others as a float."""
    if isinstance(radius, str | Decimal | Fraction):
        return radius
    if isinstance(radius, bool | np.bool_) or not hasattr(radius, "__float__"):
        raise _no_number(radius)
    if isinstance(radius, int):
        return Decimal(radius)
    try:
        return float(radius)
    except Exception as error:  # the user's own __float__ may raise anything
        raise _no_number(radius) from error


def _no_number(radius: object) -> InvalidRegionError:
    return InvalidRegionError(f"the radius {str(radius)[:80]!r} is not a number; write 0.1, '0.1' or '8/255'")


def outward_radius(radius: float | str | Decimal | Fraction) -> float:
    """The smallest float that is not below the number that was meant (a float means its shortest decimal).

    Raises:
        InvalidRegionError: when it is no finite number >= 0, or too large for a float.
    """
    try:
        if isinstance(radius, str) and "/" in radius:
            radius = Fraction(radius)
        meant = (
            radius
            if isinstance(radius, Decimal | Fraction)
            else Decimal(radius if isinstance(radius, str) else repr(radius))
        )
    except (InvalidOperation, ValueError, ZeroDivisionError) as error:
        raise _no_number(radius) from error
    finite = isinstance(meant, Fraction) or meant.is_finite()
    if not finite or meant < 0:
        raise InvalidRegionError(
            f"the radius must be a finite number >= 0, not {str(radius)[:80]}; use WholeSpace() for all"
        )
    try:
        nearest = float(meant)
    except OverflowError:
        nearest = math.inf
    if math.isinf(nearest):
        raise InvalidRegionError(f"the radius {str(radius)[:80]} is too large for a float; use WholeSpace()")
    exact = Fraction(nearest) if isinstance(meant, Fraction) else Decimal(nearest)
    return nearest if exact >= meant else math.nextafter(nearest, math.inf)


def owned_clip(clip: Any) -> tuple[Any, Any] | None:
    """The ends of a valid range, numbers as floats and arrays as tensors of their own.

    Raises:
        InvalidRegionError: when it is no pair, or the ends are crossed or NaN.
        ShapeError: when an end is no array of numbers.
    """
    if clip is None:
        return None
    try:
        low, high = clip
    except (TypeError, ValueError):
        raise InvalidRegionError("clip=(low, high) takes two ends, numbers or arrays") from None
    ends = [real_tensor(end, "the clip range") for end in (low, high)]
    try:
        ordered = bool((ends[0] <= ends[1]).all())
    except RuntimeError:
        raise InvalidRegionError(
            f"clip=(low, high): ends of shapes {tuple(ends[0].shape)} and {tuple(ends[1].shape)} do not go together"
        ) from None
    if not ordered:
        raise InvalidRegionError("clip=(low, high) needs low <= high everywhere, and no NaN")
    first, second = (end.item() if end.dim() == 0 else end for end in ends)
    return first, second
