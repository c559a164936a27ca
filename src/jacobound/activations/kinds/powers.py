"""Powers: square, z^n, roots, reciprocals. Negative and fractional exponents have a domain."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from jacobound.activations.calculus import formulas
from jacobound.activations.calculus.numbers import scaled
from jacobound.activations.calculus.pieces import Jet, Piece, linear_piece
from jacobound.activations.calculus.stretches import NOT_NEGATIVE, NOT_ZERO, POSITIVE
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.activations.kinds.piecewise import identity
from jacobound.activations.lines.rules import bent
from jacobound.arithmetic.intervals import Interval
from jacobound.errors import UnsupportedOpError

LARGEST = 256
"""Exponents beyond it overflow for every argument that is not close to ±1."""


def power(exponent: float = 2.0) -> Activation:
    """z^exponent: whole exponents on the whole line (without 0 for negative ones), others for positive numbers.

    Zero to the power of zero is one, as in torch and ONNX; a positive fractional power of zero is zero.

    Raises:
        UnsupportedOpError: when the exponent is not finite or too large.
    """
    exponent = float(exponent)
    if not abs(exponent) <= LARGEST:
        raise UnsupportedOpError(f"power needs an exponent between -{LARGEST} and {LARGEST}, not {exponent}")
    named = {0.0: _one, 1.0: identity, 2.0: square, 0.5: sqrt, -0.5: rsqrt, -1.0: reciprocal}
    if exponent in named:
        return named[exponent]()
    if not exponent.is_integer():
        return _fractional(exponent)
    return _whole(int(exponent)) if exponent > 0 else _inverse(-int(exponent))


def square() -> Activation:
    """z^2."""
    return _whole(2)


def _one() -> Activation:
    return Activation("one", torch.ones_like, (linear_piece(0.0, 1.0),), choose=bent(True), rebuild=_one)


def _whole(n: int) -> Activation:
    def value(x: Interval) -> Interval:
        return formulas.power(x, n)

    def derivative(x: Interval) -> Interval:
        return scaled(formulas.power(x, n - 1), float(n))

    name = "square" if n == 2 else f"power:{float(n)!r}"
    if n % 2 == 0:
        pieces = (Piece("convex", value, derivative, jet=_jet(n)),)
        line = 2.0 if n == 2 else None
        return Activation(name, lambda z: z**n, pieces, turns=(0.0,), choose=bent(True), proportional=line)
    pieces = tuple(Piece(curvature, value, derivative, jet=_jet(n)) for curvature in ("concave", "convex"))
    return Activation(name, lambda z: z**n, pieces, breaks=(0.0,))


def _jet(n: int) -> Jet:
    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        twice = z ** (n - 2)
        return twice * z * z, n * twice * z, n * (n - 1) * twice

    return jet


def _inverse(n: int) -> Activation:
    """z^-n on either side of zero: convex right of it, and left of it convex for even n, concave for odd n."""

    def value(x: Interval) -> Interval:
        return formulas.inverse_power(x, n)

    def derivative(x: Interval) -> Interval:
        return -scaled(formulas.inverse_power(x, n + 1), float(n))

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = z ** float(-n)
        return found, -n * found / z, n * (n + 1) * found / (z * z)

    left = Piece("convex" if n % 2 == 0 else "concave", value, derivative, jet=jet)
    return Activation(
        "reciprocal" if n == 1 else f"power:{-float(n)!r}",
        lambda z: z ** float(-n),
        (left, Piece("convex", value, derivative, jet=jet)),
        breaks=(0.0,),
        turns=(0.0,) if n % 2 == 0 else (),
        increasing=False,
        domain=NOT_ZERO,
    )


def reciprocal() -> Activation:
    """1 / z, for arguments of one known sign."""
    return _inverse(1)


def sqrt() -> Activation:
    """The square root of numbers that are not negative; infinitely steep at zero."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        root = z.sqrt()
        return root, 0.5 / root, -0.25 / (root * z)

    piece = Piece("concave", Interval.sqrt, lambda x: formulas.root_reciprocal(x) * 0.5, jet=jet)
    return Activation("sqrt", torch.sqrt, (piece,), choose=bent(False), domain=NOT_NEGATIVE)


def rsqrt() -> Activation:
    """One over the square root of positive numbers."""

    def derivative(x: Interval) -> Interval:
        return formulas.positive_reciprocal(x) * formulas.root_reciprocal(x) * -0.5

    piece = Piece("convex", formulas.root_reciprocal, derivative)
    return Activation("rsqrt", torch.rsqrt, (piece,), increasing=False, choose=bent(True), domain=POSITIVE)


def _fractional(exponent: float) -> Activation:
    """z^p = exp(p log z)."""
    p = Fraction(exponent)

    def value(x: Interval) -> Interval:
        return formulas.real_power(x, p)

    def derivative(x: Interval) -> Interval:
        return scaled(formulas.real_power(x, p - 1), p)

    convex = not 0 < p < 1
    return Activation(
        f"power:{exponent!r}",
        lambda z: z**exponent,
        (Piece("convex" if convex else "concave", value, derivative),),
        increasing=p > 0,
        choose=bent(convex),
        domain=NOT_NEGATIVE if p > 0 else POSITIVE,
    )


def _constant_exponent(exponent: float | Tensor) -> Activation:
    """A power from a model, where the exponent may be a tensor of one value.

    Raises:
        UnsupportedOpError: when entries have different exponents.
    """
    if isinstance(exponent, Tensor):
        values = exponent.detach().flatten().unique()
        if len(values) != 1:
            raise UnsupportedOpError("the entries of a power have different exponents; split the operation by exponent")
        exponent = float(values)
    if not math.isfinite(exponent):
        raise UnsupportedOpError(f"a power has the exponent {exponent}")
    return power(exponent)


def _spellings(name: str, build: Callable[[], Activation]) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}.default": build, f"aten.{name}_.default": build}


register(
    Family(
        "power",
        power,
        {
            f"aten.{name}": _constant_exponent
            for name in ("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow_.Scalar", "pow_.Tensor")
        },
        {"Pow": _constant_exponent},
        aliases=("pow",),
    )
)
register(Family("square", square, _spellings("square", square)))
register(Family("sqrt", sqrt, _spellings("sqrt", sqrt), {"Sqrt": sqrt}))
register(Family("rsqrt", rsqrt, _spellings("rsqrt", rsqrt)))
register(Family("reciprocal", reciprocal, _spellings("reciprocal", reciprocal), {"Reciprocal": reciprocal}))
