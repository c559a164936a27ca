"""Piecewise linear activations: identity, ReLU and its leaky kin, absolute value, hard sigmoid."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from jacobound.activations.calculus.numbers import Real, as_float32
from jacobound.activations.calculus.pieces import linear_piece
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.activations.lines.envelope import envelope
from jacobound.activations.lines.rules import bent
from jacobound.errors import InvalidModelError, UnsupportedOpError


def identity(**_unused: object) -> Activation:
    """z itself. Keywords of the model's operation (a memory format) do not change it."""
    return Activation("identity", lambda z: z, (linear_piece(1.0),), choose=bent(True))


def relu() -> Activation:
    """max(z, 0)."""
    return Activation("relu", torch.relu, (linear_piece(0.0), linear_piece(1.0)), breaks=(0.0,), choose=bent(True))


def absolute() -> Activation:
    """|z|."""
    return Activation(
        "abs", torch.abs, (linear_piece(-1.0), linear_piece(1.0)), breaks=(0.0,), turns=(0.0,), choose=bent(True)
    )


def leaky_relu(negative_slope: float | Fraction = 0.01) -> Activation:
    """z for z >= 0, else negative_slope z. The slope is the real number that the given float or fraction is."""
    slope = negative_slope if isinstance(negative_slope, Fraction) else _finite("leaky_relu", negative_slope)
    slope = float(slope) if Fraction(float(slope)) == slope else slope
    plain = float(slope)
    return Activation(
        f"leaky_relu:{_written(slope)}",
        lambda z: functional.leaky_relu(z, plain),
        (linear_piece(slope), linear_piece(1.0)),
        breaks=(0.0,),
        turns=(0.0,) if slope < 0 else (),
        choose=bent(slope <= 1.0),
    )


def rrelu(lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: object = None) -> Activation:
    """Randomised leaky ReLU as it is after training: the slope is (lower + upper) / 2 (Xu et al. 2015).

    Raises:
        InvalidModelError: in training mode, where the slope is random.
    """
    if training:
        raise InvalidModelError("rrelu draws random slopes in training mode; call module.eval() first")
    return leaky_relu((Fraction(_finite("rrelu", lower)) + Fraction(_finite("rrelu", upper))) / 2)


def prelu(weight: Tensor) -> Activation:
    """z for z >= 0, else weight z, with one slope per neuron.

    Args:
        weight: broadcastable to the node's shape without batch (a weight per channel must be reshaped first).

    Raises:
        InvalidModelError: when a slope is NaN or infinite.
    """
    if not bool(torch.isfinite(weight).all()):
        raise InvalidModelError("a slope of prelu is NaN or infinite; check the training run or the file")
    return Activation(
        "prelu",
        lambda z: torch.where(z >= 0, z, weight * z),
        (linear_piece(weight), linear_piece(1.0)),
        breaks=(0.0,),
        turns=(0.0,) if bool((weight < 0).any()) else (),
        choose=bent(weight <= 1.0),
        parameters=(weight,),
        rebuild=prelu,
    )


def hard_sigmoid(alpha: float | Fraction = Fraction(1, 6), beta: float | Fraction = 0.5) -> Activation:
    """min(1, max(0, alpha z + beta)); the defaults are torch's, 1/6 being the exact rational number."""
    if isinstance(alpha, float | int):
        alpha = _finite("hard_sigmoid", alpha)
    if isinstance(beta, float | int):
        beta = _finite("hard_sigmoid", beta)
    if alpha <= 0:
        raise UnsupportedOpError(f"hard_sigmoid needs a positive slope, not {alpha}; the function would not increase")
    low, high = -Fraction(beta) / Fraction(alpha), (1 - Fraction(beta)) / Fraction(alpha)
    return Activation(
        f"hard_sigmoid:{_written(alpha)},{_written(beta)}",
        lambda z: (z * float(alpha) + float(beta)).clamp(0.0, 1.0),
        (linear_piece(0.0, 0.0), linear_piece(alpha, beta), linear_piece(0.0, 1.0)),
        breaks=(_as_turn(low), _as_turn(high)),
        choose=envelope,
        rebuild=partial(hard_sigmoid, alpha, beta),
    )


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise InvalidModelError(f"a number of activation '{name}' is {value}; nothing can be certified for this model")
    return float(value)


def _written(value: Real) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _as_turn(value: Fraction) -> float | tuple[float, float]:
    """A rational number as a turn: a float if it is one."""
    nearest = float(value)
    if Fraction(nearest) == value:
        return nearest
    if Fraction(nearest) < value:
        return nearest, math.nextafter(nearest, math.inf)
    return math.nextafter(nearest, -math.inf), nearest


def _leaky_relu_of_onnx(alpha: float | None = None) -> Activation:
    return leaky_relu(as_float32(0.01) if alpha is None else alpha)


def _hard_sigmoid_of_onnx(alpha: float | None = None, beta: float = 0.5) -> Activation:
    return hard_sigmoid(as_float32(0.2) if alpha is None else alpha, beta)


def _spellings(name: str, build: Callable[..., Activation]) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}.default": build, f"aten.{name}_.default": build}


register(
    Family(
        "identity",
        identity,
        {f"aten.{name}.default": identity for name in ("alias", "clone", "detach", "positive")},
        {"Identity": identity},
        aliases=("linear", "none"),
    )
)
register(Family("relu", relu, _spellings("relu", relu), {"Relu": relu}))
register(
    Family(
        "leaky_relu",
        leaky_relu,
        _spellings("leaky_relu", leaky_relu),
        {"LeakyRelu": _leaky_relu_of_onnx},
        aliases=("leaky",),
    )
)
register(Family("rrelu", rrelu, _spellings("rrelu", rrelu)))
register(Family("abs", absolute, _spellings("abs", absolute) | _spellings("absolute", absolute), {"Abs": absolute}))
register(
    Family(
        "prelu",
        lambda slope=0.25: leaky_relu(slope),
        {"aten.prelu.default": prelu, "aten._prelu_kernel.default": prelu},
        {"PRelu": prelu},
    )
)
register(
    Family(
        "hard_sigmoid",
        hard_sigmoid,
        _spellings("hardsigmoid", hard_sigmoid),
        {"HardSigmoid": _hard_sigmoid_of_onnx},
        aliases=("hardsigmoid",),
    )
)
