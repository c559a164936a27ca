"""z times a gate that opens from 0 to 1: GELU, SiLU (Swish), Mish, hard-swish."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from jacobound.activations.calculus import formulas
from jacobound.activations.calculus.numbers import irrational, quotient, scaled
from jacobound.activations.calculus.pieces import Jet, Piece, Turn, linear_piece
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.arithmetic.intervals import Interval
from jacobound.errors import UnsupportedOpError


def _gated(
    name: str,
    plain: Callable[[Tensor], Tensor],
    value: Callable[[Interval], Interval],
    derivative: Callable[[Interval], Interval],
    jet: Jet,
    inflections: tuple[Turn, Turn],
    minimum: Turn,
) -> Activation:
    """All smooth gated functions are concave, convex, concave, and fall up to one point."""
    pieces = tuple(Piece(curvature, value, derivative, jet=jet) for curvature in ("concave", "convex", "concave"))
    return Activation(name, plain, pieces, breaks=inflections, turns=(minimum,))


def gelu(approximate: str = "none") -> Activation:
    """z Phi(z) with the normal distribution function Phi, or its usual approximation by tanh.

    Inflections are two opposite points. For the first s'' = phi(z) (2 - z^2). For the second s'' has the sign of
    g' + z g'' / 2 - z g'^2 tanh g, positive up to one point and negative beyond.

    Args:
        approximate: "none" or "tanh".
    """
    if approximate == "none":
        value, derivative, jet = formulas.gelu, formulas.gelu_derivative, _gelu_jet
        inflection, minimum = irrational(math.sqrt(2.0)), irrational(-0.7517915246935645)
    elif approximate == "tanh":
        value, derivative, jet = formulas.tanh_gelu, formulas.tanh_gelu_derivative, _tanh_gelu_jet
        inflection, minimum = irrational(1.4185040087908284), irrational(-0.7524614220710163)
    else:
        raise UnsupportedOpError(f"gelu knows approximate='none' and 'tanh', not {approximate!r}")
    return _gated(
        "gelu" if approximate == "none" else "gelu_tanh",
        lambda z: functional.gelu(z, approximate=approximate),
        value,
        derivative,
        jet,
        ((-inflection[1], -inflection[0]), inflection),
        minimum,
    )


def _gelu_jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    density, share = 0.3989422804014327 * torch.exp(-0.5 * z * z), 0.5 * torch.erfc(z * -math.sqrt(0.5))
    return z * share, share + z * density, density * (2 - z * z)


def _tanh_gelu_jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    square = z * z
    share = torch.sigmoid(1.5957691216057308 * z * (1 + 0.044715 * square))
    bell, rise = share * (1 - share), 1.5957691216057308 * (1 + 0.134145 * square)
    bend = 2 * rise + 1.5957691216057308 * 0.26829 * square + z * rise * rise * (1 - 2 * share)
    return z * share, share + z * rise * bell, bell * bend


def silu(beta: float = 1.0) -> Activation:
    """z sigma(beta z), Swish (Ramachandran et al. 2017); beta = 1.702 is the "quick" GELU."""
    beta = float(beta)
    if not 0 < beta < math.inf:
        raise UnsupportedOpError(
            f"silu needs a positive, finite beta, not {beta}; z sigma(0 z) is the affine map z / 2"
        )

    def value(x: Interval) -> Interval:
        return formulas.silu(x) if beta == 1.0 else formulas.silu(scaled(x, beta)) / beta

    def derivative(x: Interval) -> Interval:
        return formulas.silu_derivative(scaled(x, beta))

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = torch.sigmoid(z * beta)
        rest = z * beta * (1 - share)
        return z * share, share * (1 + rest), beta * share * (1 - share) * (2 + z * beta - 2 * z * beta * share)

    inflection = quotient(irrational(2.3993572805154677), beta)
    return _gated(
        "silu" if beta == 1.0 else f"silu:{beta!r}",
        functional.silu if beta == 1.0 else lambda z: z * torch.sigmoid(z * beta),
        value,
        derivative,
        jet,
        ((-inflection[1], -inflection[0]), inflection),
        quotient(irrational(-1.2784645427610738), beta),
    )


def mish() -> Activation:
    """z tanh(log(1 + e^z)) (Misra 2019)."""
    return _gated(
        "mish",
        functional.mish,
        formulas.mish,
        formulas.mish_derivative,
        _mish_jet,
        (irrational(-2.2563763963607931), irrational(1.4905711794854284)),
        irrational(-1.1924312145154952),
    )


def _mish_jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    near = z.clamp(max=formulas.SETTLED)  # the gate is open there, and its slope times z vanishes
    growth = torch.exp(near)
    more = 1 + growth
    whole = 1 + more * more
    share, rise = growth * (growth + 2) / whole, 4 * growth * more / (whole * whole)
    bend = rise * ((1 + 2 * growth) / more - 4 * growth * more / whole)
    return z * share, share + near * rise, 2 * rise + near * bend


def hard_swish() -> Activation:
    """z min(max(z + 3, 0), 6) / 6 (Howard et al. 2019): zero, a parabola, z."""

    def value(x: Interval) -> Interval:
        return x * (x + 3.0) / 6.0

    def derivative(x: Interval) -> Interval:
        return (x + 1.5) / 3.0

    def jet(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return z * (z + 3) / 6, (z + 1.5) / 3, torch.full_like(z, 1 / 3)

    return Activation(
        "hard_swish",
        functional.hardswish,
        (linear_piece(0.0), Piece("convex", value, derivative, jet=jet), linear_piece(1.0)),
        breaks=(-3.0, 3.0),
        turns=(-1.5,),
    )


def _spellings(name: str, build: Callable[..., Activation]) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}.default": build, f"aten.{name}_.default": build}


def _gelu_of_onnx(approximate: str | bytes = "none") -> Activation:
    return gelu(approximate.decode() if isinstance(approximate, bytes) else approximate)


register(Family("gelu", gelu, _spellings("gelu", gelu), {"Gelu": _gelu_of_onnx}))
register(Family("gelu_tanh", lambda: gelu("tanh")))
register(Family("silu", silu, _spellings("silu", silu), {"Swish": lambda alpha=1.0: silu(alpha)}, aliases=("swish",)))
register(Family("mish", mish, _spellings("mish", mish), {"Mish": mish}))
register(
    Family(
        "hard_swish", hard_swish, _spellings("hardswish", hard_swish), {"HardSwish": hard_swish}, aliases=("hardswish",)
    )
)
