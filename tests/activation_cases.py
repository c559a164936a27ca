"""Every activation with its true value and derivative as functions of a 300-bit ball, and intervals to try them on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from flint import arb, fmpq
from torch import Tensor

from jacobound.activations import Activation, activation
from jacobound.activations.calculus.stretches import EVERYWHERE, defined
from jacobound.activations.kinds.clipped import clip
from jacobound.activations.kinds.piecewise import hard_sigmoid, prelu
from jacobound.arithmetic.intervals import Interval

Ball = arb
Pair = tuple[Callable[..., Ball], Callable[..., Ball]]


def exact(x: float | Fraction) -> Ball:
    return arb(fmpq(*Fraction(x).as_integer_ratio()))


@dataclass(frozen=True)
class Case:
    """One activation, its true value and derivative as functions of a ball, its kinks, whether slopes are unbounded."""

    made: str | Callable[[], Activation]
    value: Callable[..., Ball]
    derivative: Callable[..., Ball]
    kinks: tuple[float, ...] = ()
    steep: bool = False

    @property
    def activation(self) -> Activation:
        """Made anew, so that every test sees how it is made."""
        return activation(self.made) if isinstance(self.made, str) else self.made()

    @property
    def name(self) -> str:
        """Under which it stands in `CASES`."""
        return next(name for name, case in CASES.items() if case is self)


def leaky(k: float | Fraction) -> Pair:
    return lambda z: z if z >= 0 else z * exact(k), lambda z: arb(1) if z >= 0 else exact(k)


def exponential(a: float, s: float, i: float | Fraction) -> Pair:
    return (
        lambda z: arb(s) * z if z >= 0 else arb(s) * arb(a) * (exact(i) * z).expm1(),
        lambda z: arb(s) if z >= 0 else arb(s) * arb(a) * exact(i) * (exact(i) * z).exp(),
    )


def clipped(alpha: Fraction) -> Pair:
    return (
        lambda z: min(max(exact(alpha) * z + arb(0.5), arb(0)), arb(1)),
        lambda z: exact(alpha) if abs(exact(alpha) * z) <= 0.5 else arb(0),
    )


def sigma(z: Ball) -> Ball:
    return 1 / (1 + (-z).exp()) if z > 0 else z.exp() / (1 + z.exp())


def flat_outside(low: float, high: float) -> Pair:
    return lambda z: min(max(z, arb(low)), arb(high)), lambda z: arb(1) if low <= z <= high else arb(0)


def shrunk(by: float) -> Pair:
    return lambda z: max(z - by, arb(0)) + min(z + by, arb(0)), lambda z: arb(1) if abs(z) > by else arb(0)


def swish(b: float) -> Pair:
    return lambda z: z * sigma(z * b), lambda z: sigma(z * b) * (1 + z * b * sigma(-z * b))


def gate(z: Ball) -> tuple[Ball, Ball]:
    """tanh(log(1 + e^z)) and its derivative."""
    growth = z.exp() if z < 0 else (-z).exp()
    if z < 0:
        whole = (1 + growth) ** 2 + 1
        return growth * (growth + 2) / whole, 4 * growth * (1 + growth) / whole**2
    whole = (1 + growth) ** 2 + growth**2
    return (1 + 2 * growth) / whole, 4 * growth**2 * (1 + growth) / whole**2


def bell(z: Ball) -> Ball:
    return (-z * z).exp()


def mished(z: Ball) -> Ball:
    return z * gate(z)[0]


def parabola() -> Pair:
    def derivative(z: Ball) -> Ball:
        return arb(0) if z < -3 else arb(1) if z > 3 else (2 * z + 3) / 6

    return lambda z: arb(0) if z < -3 else z if z > 3 else z * (z + 3) / 6, derivative


def powers(p: float | Fraction) -> Pair:
    def raised(z: Ball, q: Fraction) -> Ball:
        if q.denominator == 1:
            return z ** int(q)
        return arb(0) if z == 0 and q > 0 else (exact(q) * z.log()).exp()

    p = Fraction(p)
    return lambda z: raised(z, p), lambda z: exact(p) * raised(z, p - 1)


def normal(z: Ball) -> tuple[Ball, Ball]:
    return (-z / arb(2).sqrt()).erfc() / 2, (-z * z / 2).exp() / (2 * arb.pi()).sqrt()


def skewed(z: Ball) -> Ball:
    return (8 / arb.pi()).sqrt() * (z + exact(Fraction("0.044715")) * z**3)


def skewed_derivative(z: Ball) -> Ball:
    y, slope = skewed(z), (8 / arb.pi()).sqrt() * (1 + exact(Fraction("0.134145")) * z * z)
    return sigma(y) + z * slope * sigma(y) * sigma(-y)


def softplus(b: float) -> Pair:
    return lambda z: (z if z > 0 else 0 * z) + (-abs(z * b)).exp().log1p() / b, lambda z: sigma(z * b)


def log_sigma(z: Ball) -> Ball:
    return (z if z < 0 else 0 * z) - (-abs(z)).exp().log1p()


ALPHA, SCALE, FIFTH = 1.6732632423543772, 1.0507009873554805, Fraction(float(torch.tensor(0.2)))
CASES = {
    "identity": Case("identity", lambda z: z, lambda z: arb(1)),
    "relu": Case("relu", *leaky(0.0), (0.0,)),
    "leaky_relu": Case("leaky:0.3", *leaky(0.3), (0.0,)),
    "leaky_steep": Case("leaky_relu:2", *leaky(2.0), (0.0,)),
    "leaky_negative": Case("leaky_relu:-0.5", *leaky(-0.5), (0.0,)),
    "prelu": Case(lambda: prelu(torch.tensor(0.25)), *leaky(0.25), (0.0,)),
    "sigmoid": Case("sigmoid", sigma, lambda z: sigma(z) * sigma(-z)),
    "tanh": Case("tanh", lambda z: z.tanh(), lambda z: 1 / z.cosh() ** 2),
    "arctan": Case("arctan", lambda z: z.atan(), lambda z: 1 / (1 + z * z)),
    "arsinh": Case("arsinh", lambda z: z.asinh(), lambda z: 1 / (1 + z * z).sqrt()),
    "elu": Case("elu", *exponential(1.0, 1.0, 1.0), (0.0,)),
    "elu_scaled": Case("elu:0.5,1.5,0.7", *exponential(0.5, 1.5, 0.7), (0.0,)),
    "elu_steep": Case("elu:2", *exponential(2.0, 1.0, 1.0), (0.0,)),
    "selu": Case("selu", *exponential(ALPHA, SCALE, 1.0), (0.0,)),
    "celu": Case("celu:3", *exponential(3.0, 1.0, Fraction(1, 3)), (0.0,)),
    "softplus": Case("softplus", *softplus(1.0)),
    "softplus_sharp": Case("softplus:3", *softplus(3.0)),
    "hard_sigmoid": Case("hard_sigmoid", *clipped(Fraction(1, 6)), (-3.0, 3.0)),
    "hard_sigmoid_onnx": Case(lambda: hard_sigmoid(float(FIFTH)), *clipped(FIFTH), (-2.49999996, 2.49999996)),
    "gelu": Case("gelu", lambda z: z * normal(z)[0], lambda z: normal(z)[0] + z * normal(z)[1]),
    "gelu_tanh": Case("gelu_tanh", lambda z: z * sigma(skewed(z)), skewed_derivative),
    "abs": Case("abs", *leaky(-1.0), (0.0,)),
    "rrelu": Case("rrelu:0.1,0.3", *leaky((Fraction(0.1) + Fraction(0.3)) / 2), (0.0,)),
    "clip": Case("clip:-0.3,2", *flat_outside(-0.3, 2.0), (-0.3, 2.0)),
    "clip_below": Case(lambda: clip(-0.5, None), *flat_outside(-0.5, math.inf), (-0.5,)),
    "clip_above": Case(lambda: clip(None, 1.5), *flat_outside(-math.inf, 1.5), (1.5,)),
    "clip_constant": Case(lambda: clip(2.0, -1.0), lambda z: arb(-1), lambda z: arb(0)),
    "relu6": Case("relu6", *flat_outside(0.0, 6.0), (0.0, 6.0)),
    "hard_tanh": Case("hard_tanh", *flat_outside(-1.0, 1.0), (-1.0, 1.0)),
    "threshold": Case("threshold:0.7,0.7", *flat_outside(0.7, math.inf), (0.7,)),
    "soft_shrink": Case("soft_shrink", *shrunk(0.5), (-0.5, 0.5)),
    "soft_shrink_inexact": Case("soft_shrink:0.3", *shrunk(0.3), (-0.3, 0.3)),
    "hard_swish": Case("hard_swish", *parabola(), (-3.0, 3.0)),
    "silu": Case("silu", *swish(1.0)),
    "silu_quick": Case("silu:1.702", *swish(1.702)),
    "silu_slow": Case("swish:0.3", *swish(0.3)),
    "bell": Case("bell", bell, lambda z: -2 * z * bell(z)),
    "wave": Case("wave", lambda z: z * bell(z), lambda z: (1 - 2 * z * z) * bell(z)),
    "algebraic": Case("algebraic", lambda z: z / (1 + z * z).sqrt(), lambda z: 1 / (1 + z * z).sqrt() ** 3),
    "mish": Case("mish", mished, lambda z: gate(z)[0] + z * gate(z)[1]),
    "softsign": Case("softsign", lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "erf": Case("erf", lambda z: z.erf(), lambda z: 2 / arb.pi().sqrt() * (-z * z).exp()),
    "log_sigmoid": Case("log_sigmoid", log_sigma, lambda z: sigma(-z)),
    "tanh_shrink": Case("tanh_shrink", lambda z: z - z.tanh(), lambda z: z.tanh() ** 2),
    "sin": Case("sin", lambda z: z.sin(), lambda z: z.cos()),
    "cos": Case("cos", lambda z: z.cos(), lambda z: -z.sin()),
    "square": Case("square", *powers(2), steep=True),
    "power_0": Case("power:0", lambda z: arb(1), lambda z: arb(0)),
    "power_3": Case("power:3", *powers(3), steep=True),
    "power_4": Case("power:4", *powers(4), steep=True),
    "power_7": Case("pow:7", *powers(7), steep=True),
    "power_-2": Case("power:-2", *powers(-2), steep=True),
    "power_-3": Case("power:-3", *powers(-3), steep=True),
    "power_1.5": Case("power:1.5", *powers(1.5), steep=True),
    "power_0.3": Case("power:0.3", *powers(0.3), steep=True),
    "power_-1.2": Case("power:-1.2", *powers(-1.2), steep=True),
    "reciprocal": Case("reciprocal", *powers(-1), steep=True),
    "sqrt": Case("sqrt", *powers(0.5), steep=True),
    "rsqrt": Case("rsqrt", *powers(-0.5), steep=True),
    "exp": Case("exp", lambda z: z.exp(), lambda z: z.exp(), steep=True),
    "expm1": Case("expm1", lambda z: z.expm1(), lambda z: z.exp(), steep=True),
    "log": Case("log", lambda z: z.log(), lambda z: 1 / z, steep=True),
    "log1p": Case("log1p", lambda z: z.log1p(), lambda z: 1 / (1 + z), steep=True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def marks(act: Activation) -> list[float]:
    """Breaks and turns, with the floats around those that are none, of all periods from -42 to 42."""
    found = [turn for turn in (*act.breaks, *act.turns) if not isinstance(turn, Tensor)]
    ends = [end for turn in found for end in (turn if isinstance(turn, tuple) else (turn,))]
    if act.reduce is None:
        return ends
    return [*ends, *(z for k in range(-27, 28) if abs(z := k * math.pi / 2) > 3 * math.pi)]


def is_defined(act: Activation, z: float) -> bool:
    return bool(defined(act.domain, Interval.exact(torch.tensor(z, dtype=torch.float64))))


def intervals(act: Activation, dtype: torch.dtype) -> Interval:
    """Pairs of special numbers, degenerate and infinite intervals, and random ones of many sizes."""
    limits, source = torch.finfo(dtype), torch.Generator().manual_seed(1)
    special = [0.0, limits.tiny, limits.tiny / 8, 1e-8, 0.3, 1.0, 3.0, 20.0, 1e3, 1e30, limits.max, math.inf]
    special = torch.tensor([*special, *(-x for x in special), *marks(act)], dtype=dtype)
    near = special[-len(marks(act)) :] if marks(act) else special[:0]
    special = torch.cat([special, near.nextafter(near + 1), near.nextafter(near - 1)]).unique()
    pairs = torch.combinations(special)
    pairs = pairs[torch.randperm(len(pairs), generator=source)[:200]]
    random = torch.randn(100, 2, generator=source) * 10.0 ** torch.randint(-6, 3, (100, 1), generator=source)
    narrow = torch.randn(30, 1, generator=source).to(dtype).repeat(1, 2)
    narrow[:, 1] = narrow[:, 1].nextafter(torch.tensor(math.inf, dtype=dtype))
    points = special[special.isfinite()][:, None].repeat(1, 2)
    found = [pairs, random.to(dtype).sort(1).values, narrow, points]
    if act.domain != EVERYWHERE:
        found.append(random.abs().to(dtype).sort(1).values)
    return Interval(*torch.cat(found).unbind(1))


def each_sample(case: Case, act: Activation, dtype: torch.dtype) -> Iterator[tuple[int, float]]:
    """Finite points of every interval: its ends, where the function changes, and some between."""
    x = intervals(act, dtype)
    inside, corners = defined(act.domain, x).tolist(), marks(case.activation)
    for k, (low, high) in enumerate(zip(x.lower.tolist(), x.upper.tolist(), strict=True)):
        first, last = max(low, -1e4), min(high, 1e4)
        points = [first + (last - first) * share for share in (0.03, 0.4, 0.5, 0.8)] if first < last else []
        points += [low, high, *corners]
        yield from ((k, z) for z in points if inside[k] and low <= z <= high and math.isfinite(z))


def certainly_outside(truth: Ball, low: float, high: float) -> bool:
    """Whether the truth lies outside, beyond doubt; NaN bounds and impossible infinities count as outside."""
    if math.isnan(low) or math.isnan(high) or low == math.inf or high == -math.inf:
        return True
    return (math.isfinite(low) and truth < arb(low)) or (math.isfinite(high) and truth > arb(high))


def moderate(act: Activation) -> Interval:
    """Wide, narrow, one-sided and far-out intervals on which the function is defined, in float64."""
    ends = torch.tensor([-30.0, -6.0, -2.5, -1.0, -0.2, 0.0, 0.3, 1.3, 3.5, 8.0, 40.0], dtype=torch.float64)
    special = torch.tensor([0.0, *marks(act)[:8]], dtype=torch.float64)
    narrow = torch.stack([special - 0.01, special + 0.015], 1)
    far = [[-1e3, 2.0], [-3.0, 1e3], [200.0, 203.0], [-300.0, -290.0], [1e-3, 0.1], [39.0, 41.0], [-41.0, -35.0]]
    x = Interval(*torch.cat([torch.combinations(ends), narrow, torch.tensor(far, dtype=torch.float64)]).unbind(1))
    usable = defined(act.domain, x) & act.range(x).magnitude().isfinite()
    return x[usable & (x.magnitude() < 42)] if act.reduce is not None else x[usable]
