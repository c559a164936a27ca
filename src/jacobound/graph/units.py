"""Units of inputs and outputs as exact affine layers: factors that are no floats are enclosed, never rounded."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from jacobound.arithmetic.rounding import up
from jacobound.errors import InvalidOptionError, ShapeError
from jacobound.graph.nodes import Affine, Input, Node
from jacobound.operators.kinds import Identity, Scale, convert_exactly

EXACT = 1 << 53  # float64 holds every integer up to here
MOST_DIGITS = 400  # before or behind the point; floats end before that
SHOWN = 8  # numbers that a sentence writes out


def preprocessing(entry: Input, like: Tensor, mean: object, std: object) -> tuple[Affine, str]:
    """``(x - mean) / std`` of a new input, and what to say of it."""
    shape = entry.shape
    shift = -offset(mean, like, shape, "mean")
    centred = Affine(((Identity(shape, shape, like), Input(shape, entry.name)),), shift, "preprocessing.mean")
    scaled = Affine(((divided_by(std, like, shape, "std"), centred),), name="preprocessing.std")
    return scaled, f"input x enters as (x - mean) / std with mean {sentence(mean)} and std {sentence(std)}"


def postprocessing(output: Node, like: Tensor, scale: object, shift: object) -> tuple[Affine, str]:
    """``y * scale + shift`` of a node, and what to say of it."""
    factor = multiplied_by(scale, like, output.shape, "scale")
    last = Affine(((factor, output),), offset(shift, like, output.shape, "shift"), "postprocessing")
    return last, f"output y leaves as y * scale + shift with scale {sentence(scale)} and shift {sentence(shift)}"


def weighting(entry: Input, like: Tensor, weights: Tensor) -> Affine:
    """``u / weights`` of a new input u."""
    division = divided_by(weights, like, entry.shape, "weights")
    return Affine(((division, Input(entry.shape, entry.name)),), name="weights")


def real_tensor(values: object, what: str) -> Tensor:
    """A float64 copy of numbers that are taken as exact.

    Raises:
        ShapeError: when it is no array of real numbers, or holds integers that float64 can not hold.
    """
    if isinstance(values, Tensor):
        tensor = values.detach()
        if tensor.layout is not torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
            raise ShapeError(f"{what} must be a plain (dense) tensor with values; this one is {tensor.layout}")
    else:
        try:
            tensor = torch.as_tensor(np.asarray(values))
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ShapeError(f"{what} is not an array of numbers: {error}") from error
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ShapeError(f"{what} must hold real numbers, not {tensor.dtype}")
    if not tensor.is_floating_point() and tensor.numel():
        whole = tensor.cpu().numpy()  # torch has no maximum of unsigned numbers
        large = max(int(whole.max()), -int(whole.min())) > EXACT
    else:
        large = False
    if large:
        raise ShapeError(f"{what} holds integers above 2**53, which float64 can not hold exactly")
    return tensor.to(torch.float64, copy=True)


def spread(values: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """One number for every entry of a shape, from a single one, one per entry, or one per channel (the first axis).

    Raises:
        ShapeError: when the numbers can not be spread over the shape.
    """
    found = values
    if values.dim() == 1 and len(shape) > 1:
        if len(values) == shape[0] == shape[-1] != 1:
            raise ShapeError(
                f"{what} of {len(values)} numbers for inputs of shape {shape}: is that one per channel of the first or "
                f"of the last axis? Give the shape ({', '.join(['n', *'1' * (len(shape) - 1)])}) for the first, or "
                f"({', '.join([*'1' * (len(shape) - 1), 'n'])}) for the last"
            )
        found = values.reshape(-1, *[1] * (len(shape) - 1))
    try:
        return found.expand(shape).clone()
    except RuntimeError:
        raise ShapeError(
            f"{what} of shape {tuple(values.shape)} does not fit {shape}: give one number, one per entry, or one per "
            "channel (the first axis)"
        ) from None


def fraction(number: object, what: str) -> Fraction | None:
    """The number that a string, a `Decimal` or a `Fraction` stands for exactly; None for other things.

    Raises:
        InvalidOptionError: when a string is no number, or the number is not finite.
    """
    if isinstance(number, Fraction):
        return number
    if not isinstance(number, str | Decimal):
        return None
    try:
        decimal = None if isinstance(number, str) and "/" in number else Decimal(number)
        if decimal is not None and decimal != 0 and not abs(decimal.adjusted()) < MOST_DIGITS:
            raise ValueError("far beyond all floats")  # and its integer would fill the memory
        return Fraction(number)
    except (ValueError, ArithmeticError) as error:
        raise InvalidOptionError(f"{what} is a finite number such as 0.5 or 8/255, not {number!r}") from error


def divided_by(values: object, like: Tensor, shape: tuple[int, ...], what: str) -> Scale:
    """Entry by entry division by positive numbers, enclosed where a quotient is no float.

    Raises:
        InvalidOptionError: when a number is not positive and finite, or its reciprocal is not.
        ShapeError: when the numbers do not fit the shape.
    """
    exact = fraction(values, what)
    if exact is not None:
        if not exact > 0:
            raise InvalidOptionError(f"{what} must be above 0, not {values}")
        factor, missing = _nearest(1 / exact, what)
        return _scale(torch.full(shape, factor).double(), torch.full(shape, missing).double(), like)
    numbers = spread(real_tensor(values, what), shape, what)
    factors = 1.0 / numbers
    if not bool(((numbers > 0) & numbers.isfinite() & factors.isfinite()).all()):
        raise InvalidOptionError(f"{what} must be finite numbers above 0 whose reciprocals are finite")
    inexact = torch.frexp(numbers).mantissa != 0.5
    missed = up(factors * 2.0**-52 + math.ulp(0.0))
    return _scale(factors, torch.where(inexact, missed, 0.0), like)


def multiplied_by(values: object, like: Tensor, shape: tuple[int, ...], what: str) -> Scale:
    """Entry by entry multiplication by numbers, enclosed where a fraction is no float.

    Raises:
        InvalidOptionError: when a number is not finite.
        ShapeError: when the numbers do not fit the shape.
    """
    exact = fraction(values, what)
    if exact is not None:
        factor, missing = _nearest(exact, what)
        return _scale(torch.full(shape, factor).double(), torch.full(shape, missing).double(), like)
    numbers = spread(real_tensor(values, what), shape, what)
    if not bool(numbers.isfinite().all()):
        raise InvalidOptionError(f"{what} must be finite numbers")
    return _scale(numbers, torch.zeros_like(numbers), like)


def offset(values: object, like: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """One exact number for every entry, in the dtype of `like`.

    Raises:
        InvalidOptionError: when a number is not finite, or is a fraction that is no float.
        ShapeError: when the numbers do not fit the shape.
        UnsafeArithmeticError: when the dtype can not hold one.
    """
    exact = fraction(values, what)
    if exact is not None and _nearest(exact, what)[1] != 0.0:
        raise InvalidOptionError(
            f"{what} must be floats (taken as exact numbers), and {values} is none; round it yourself"
        )
    given = real_tensor(values if exact is None else float(exact), what)
    numbers = spread(given, shape, what)
    if not bool(numbers.isfinite().all()):
        raise InvalidOptionError(f"{what} must be finite numbers")
    return convert_exactly(numbers, like.device, like.dtype, what)


def sentence(values: object) -> str:
    """Numbers for the reader, exact where there are few."""
    if fraction(values, "a number") is not None:
        return str(values)
    numbers = real_tensor(values, "a number").flatten().tolist()
    return ", ".join(map(repr, numbers)) if len(numbers) <= SHOWN else f"{len(numbers)} numbers"


def _nearest(exact: Fraction, what: str) -> tuple[float, float]:
    """The nearest float, and how far it is away, rounded up."""
    try:
        nearest = float(exact)
    except OverflowError:
        raise InvalidOptionError(f"{what}: {exact} or its reciprocal is too large for a float") from None
    missing = abs(Fraction(nearest) - exact)
    return nearest, 0.0 if missing == 0 else math.nextafter(float(missing), math.inf)


def _scale(factor: Tensor, radius: Tensor, like: Tensor) -> Scale:
    exact = not bool((radius != 0).any())
    scale = Scale(factor.to(like.device), None if exact else radius.to(like.device))
    return scale.to(like.device, like.dtype)
