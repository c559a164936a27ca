"""S-shaped activations, convex left of zero, concave right of it: sigmoid, tanh, arctan, arsinh, softsign, erf."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from jacobound.activations.calculus import formulas
from jacobound.activations.calculus.pieces import Piece
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.activations.lines.rules import s_shaped
from jacobound.arithmetic.intervals import Interval


def _sigmoidal(
    name: str,
    value: Callable[[Tensor], Tensor],
    enclosure: Callable[[Interval], Interval],
    derivative: Callable[[Interval], Interval],
    plain_derivative: Callable[[Tensor], Tensor],
    steepest: Callable[[Tensor], Tensor],
    falling: Callable[[Tensor, Tensor], Tensor],
) -> Activation:
    """`falling` is minus the curvature over the slope, as a function of the point and the slope there."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = plain_derivative(z)
        return value(z), slope, -slope * falling(z, slope)

    return Activation(
        name,
        value,
        tuple(Piece(curvature, enclosure, derivative, jet=jet) for curvature in ("convex", "concave")),
        breaks=(0.0,),
        choose=s_shaped(plain_derivative, steepest),
    )


def _sech_squared(z: Tensor) -> Tensor:
    q = torch.exp(-2 * z.abs())
    return 4 * q / (1 + q).square()


def _where_sech_squared_is(k: Tensor) -> Tensor:
    """arcosh(1 / sqrt k), without squaring away small k."""
    return torch.log1p((1 - k).clamp(min=0.0).sqrt()) - 0.5 * k.log()


def tanh() -> Activation:
    """Hyperbolic tangent."""
    return _sigmoidal(
        "tanh",
        torch.tanh,
        Interval.tanh,
        formulas.sech_squared,
        _sech_squared,
        _where_sech_squared_is,
        lambda z, _: 2 * torch.tanh(z),
    )


def sigmoid() -> Activation:
    """1 / (1 + e^-z) = 1/2 + tanh(z / 2) / 2."""
    return _sigmoidal(
        "sigmoid",
        torch.sigmoid,
        formulas.sigmoid,
        formulas.bell,
        lambda z: _sech_squared(z * 0.5) * 0.25,
        lambda k: 2 * _where_sech_squared_is(4 * k),
        lambda z, _: torch.tanh(z * 0.5),
    )


def arctan() -> Activation:
    """Inverse tangent."""
    return _sigmoidal(
        "arctan",
        torch.atan,
        Interval.atan,
        formulas.cauchy,
        lambda z: 1 / (1 + z * z),
        lambda k: ((1 - k).clamp(min=0.0) / k).sqrt(),
        lambda z, slope: 2 * z * slope,
    )


def softsign() -> Activation:
    """z / (1 + |z|)."""
    return _sigmoidal(
        "softsign",
        functional.softsign,
        formulas.softsign,
        formulas.softsign_derivative,
        lambda z: 1 / (1 + z.abs()).square(),
        lambda k: k.rsqrt() - 1,
        lambda z, slope: 2 * z.sign() * slope.sqrt(),
    )


def erf() -> Activation:
    """The error function."""
    return _sigmoidal(
        "erf",
        torch.erf,
        Interval.erf,
        formulas.gaussian,
        lambda z: 2 / math.sqrt(math.pi) * torch.exp(-z * z),
        lambda k: (-(k * (math.sqrt(math.pi) / 2)).log()).clamp(min=0.0).sqrt(),
        lambda z, _: 2 * z,
    )


def _arsinh_of_size(x: Interval) -> Interval:
    """arsinh x for x >= 0: log1p(x + x^2 / (1 + root)) below 1, log x + log(1 + sqrt(1 + 1 / x^2)) above."""
    near, far = x.clamp(upper=1.0), x.clamp(lower=1.0)
    square, inverse = near.square(), far.reciprocal()
    small = (near + square / ((square + 1.0).sqrt() + 1.0)).log1p()
    large = Interval(far.lower.clamp(max=torch.finfo(far.lower.dtype).max), far.upper).log()
    large = large + (inverse.square() + 1.0).sqrt().log1p()
    return Interval(
        torch.where(x.lower < 1, small.lower, large.lower), torch.where(x.upper < 1, small.upper, large.upper)
    ).clamp(lower=0.0)


def _arsinh_enclosure(x: Interval) -> Interval:
    right, left = _arsinh_of_size(x.clamp(lower=0.0)), _arsinh_of_size((-x).clamp(lower=0.0))
    # One of the two is exactly zero where the sign is known, and must not widen the other.
    return Interval(
        torch.where(x.lower >= 0, right.lower, -left.upper), torch.where(x.upper <= 0, -left.lower, right.upper)
    )


def arsinh() -> Activation:
    """Inverse hyperbolic sine, log(z + sqrt(z^2 + 1))."""
    return _sigmoidal(
        "arsinh",
        torch.asinh,
        _arsinh_enclosure,
        lambda x: formulas.cauchy(x).sqrt().clamp(upper=1.0),
        lambda z: 1 / torch.hypot(z, torch.ones_like(z)),
        lambda k: ((1 - k).clamp(min=0.0) * (1 + k)).sqrt() / k,
        lambda z, slope: z * slope.square(),
    )


def _spellings(names: tuple[str, ...], build: Callable[[], Activation]) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}{suffix}.default": build for name in names for suffix in ("", "_")}


def _special(name: str, build: Callable[[], Activation]) -> dict[str, Callable[..., Activation]]:
    return {f"aten.special_{name}.default": build}


register(Family("tanh", tanh, _spellings(("tanh",), tanh), {"Tanh": tanh}))
register(
    Family(
        "sigmoid",
        sigmoid,
        _spellings(("sigmoid",), sigmoid) | _special("expit", sigmoid),
        {"Sigmoid": sigmoid},
        aliases=("logistic",),
    )
)
register(Family("arctan", arctan, _spellings(("atan", "arctan"), arctan), {"Atan": arctan}, aliases=("atan",)))
register(
    Family("arsinh", arsinh, _spellings(("asinh", "arcsinh"), arsinh), {"Asinh": arsinh}, aliases=("asinh", "arcsinh"))
)
register(Family("softsign", softsign, {"aten.softsign.default": softsign}, {"Softsign": softsign}))
register(Family("erf", erf, _spellings(("erf",), erf) | _special("erf", erf), {"Erf": erf}))
