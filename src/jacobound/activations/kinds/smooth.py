"""Smooth activations that are neither piecewise linear nor S-shaped nor gated: ELU and kin, softplus, tanhshrink."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from jacobound.activations.calculus import formulas
from jacobound.activations.calculus.numbers import as_float32, scaled
from jacobound.activations.calculus.pieces import Piece, linear_piece
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.activations.lines.envelope import envelope
from jacobound.activations.lines.rules import bent
from jacobound.arithmetic.intervals import Interval
from jacobound.errors import UnsupportedOpError

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _exponential_unit(
    name: str, value: Callable[[Tensor], Tensor], alpha: float, scale: float, input_scale: float | Fraction
) -> Activation:
    """scale z for z > 0, else scale alpha (exp(input_scale z) - 1); all numbers exact."""
    if not (0 <= alpha < math.inf and 0 < scale < math.inf and 0 < input_scale < math.inf):
        raise UnsupportedOpError(
            f"activation '{name}' needs alpha >= 0 and positive, finite scales; with other numbers it is not the "
            "increasing function that its bounds are made for"
        )
    height = Fraction(scale) * Fraction(alpha)
    steepness = height * Fraction(input_scale)

    def left(x: Interval) -> Interval:
        return scaled(scaled(x, input_scale).expm1().clamp(upper=0.0), height)

    def left_derivative(x: Interval) -> Interval:
        return scaled(scaled(x, input_scale).exp().clamp(upper=1.0), steepness)

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rise = float(height) * torch.exp(z.clamp(max=0.0) * float(input_scale))
        slope = rise * float(input_scale)
        return rise - float(height), slope, slope * float(input_scale)

    return Activation(
        name,
        value,
        (Piece("convex", left, left_derivative, jet=jet), linear_piece(scale)),
        breaks=(0.0,),
        choose=bent(True) if steepness <= scale else envelope,
    )


def elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Activation:
    """scale z for z > 0, else scale alpha (exp(input_scale z) - 1)."""
    alpha, scale, input_scale = float(alpha), float(scale), float(input_scale)
    name = f"elu:{alpha!r}" if scale == input_scale == 1.0 else f"elu:{alpha!r},{scale!r},{input_scale!r}"
    return _exponential_unit(
        name, lambda z: torch.ops.aten.elu(z, alpha, scale, input_scale), alpha, scale, input_scale
    )


def selu(alpha: float = SELU_ALPHA, gamma: float = SELU_SCALE) -> Activation:
    """ELU with the two numbers of self-normalising networks (Klambauer et al. 2017)."""
    return elu(alpha, gamma)


def celu(alpha: float = 1.0) -> Activation:
    """z for z > 0, else alpha (exp(z / alpha) - 1), continuously differentiable (Barron 2017)."""
    alpha = float(alpha)
    if not 0 < alpha < math.inf:
        raise UnsupportedOpError(f"celu needs a positive, finite alpha, not {alpha}")
    return _exponential_unit(f"celu:{alpha!r}", lambda z: functional.celu(z, alpha), alpha, 1.0, 1 / Fraction(alpha))


def softplus(beta: float = 1.0) -> Activation:
    """log(1 + exp(beta z)) / beta.

    The threshold above which torch returns z itself is a shortcut of its implementation, not part of the function;
    `value` does without it, and so differs from torch by up to exp(-20) / beta above its usual threshold.
    """
    beta = float(beta)
    if not 0 < beta < math.inf:
        raise UnsupportedOpError(f"softplus needs a positive, finite beta, not {beta}")
    inverse = 1 / Fraction(beta)

    def plain(z: Tensor) -> Tensor:
        return torch.logaddexp(z * beta, torch.zeros_like(z)) / beta

    def value(x: Interval) -> Interval:
        return scaled(formulas.softplus(scaled(x, beta)), inverse)

    def derivative(x: Interval) -> Interval:
        return formulas.sigmoid(scaled(x, beta))

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.sigmoid(z * beta)
        return plain(z), slope, beta * slope * (1 - slope)

    return Activation(
        "softplus" if beta == 1.0 else f"softplus:{beta!r}",
        plain,
        (Piece("convex", value, derivative, jet=jet),),
        choose=bent(True),
    )


def log_sigmoid() -> Activation:
    """log(1 / (1 + e^-z)) = -log(1 + e^-z)."""

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope = torch.sigmoid(-z)
        return functional.logsigmoid(z), slope, slope * (slope - 1)

    return Activation(
        "log_sigmoid",
        functional.logsigmoid,
        (Piece("concave", lambda x: -formulas.softplus(-x), lambda x: formulas.sigmoid(-x), jet=jet),),
        choose=bent(False),
    )


def tanh_shrink() -> Activation:
    """z - tanh z."""

    def derivative(x: Interval) -> Interval:
        return x.tanh().square()

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.tanh(z)
        return z - t, t * t, 2 * t * (1 - t * t)

    pieces = tuple(Piece(curvature, formulas.tanh_shrink, derivative, jet=jet) for curvature in ("concave", "convex"))
    return Activation("tanh_shrink", functional.tanhshrink, pieces, breaks=(0.0,))


def _spellings(name: str, build: Callable[..., Activation]) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}.default": build, f"aten.{name}_.default": build}


def _selu_of_onnx(alpha: float | None = None, gamma: float | None = None) -> Activation:
    return selu(as_float32(SELU_ALPHA) if alpha is None else alpha, as_float32(SELU_SCALE) if gamma is None else gamma)


register(Family("elu", elu, _spellings("elu", elu), {"Elu": lambda alpha=1.0: elu(alpha)}))
register(
    Family(
        "selu",
        selu,
        _spellings("selu", selu),
        {"Selu": _selu_of_onnx},
    )
)
register(Family("celu", celu, _spellings("celu", celu), {"Celu": lambda alpha=1.0: celu(alpha)}))
register(Family("softplus", softplus, {"aten.softplus.default": softplus}, {"Softplus": softplus}))
register(Family("log_sigmoid", log_sigmoid, {"aten.log_sigmoid.default": log_sigmoid}, aliases=("logsigmoid",)))
register(Family("tanh_shrink", tanh_shrink, {"aten.tanhshrink.default": tanh_shrink}, aliases=("tanhshrink",)))
