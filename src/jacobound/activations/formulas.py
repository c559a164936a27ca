"""Elementary functions over nearly degenerate intervals, arranged so that nothing cancels and nothing overflows to NaN.

Products such as sigma(z) sigma(-z) are used where the textbook form sigma (1 - sigma) loses every digit.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from jacobound.activations.numbers import irrational, number, scaled
from jacobound.intervals import Interval

ROOT_HALF = irrational(math.sqrt(0.5))
ONE_BY_ROOT_TWO_PI = irrational(0.3989422804014327)
ROOT_EIGHT_BY_PI = irrational(1.5957691216057308)
CUBIC = Fraction("0.044715")

FAR = 64.0
"""Beyond this point the normal density and the sigmoid of tanh-GELU's argument underflow in both dtypes."""


def _cap(x: Interval, largest: float) -> Interval:
    """Lower the lower end to `largest`: still an enclosure, and the next formula does not overflow from below."""
    return Interval(x.lower.clamp(max=largest), x.upper)


def exp(x: Interval) -> Interval:
    """e^x; beyond the largest float the lower bound stays finite and the upper bound becomes infinite."""
    return _cap(x, 700.0 if x.lower.dtype == torch.float64 else 87.0).exp()


def _decay(x: Interval, rate: float) -> Interval:
    """exp(-rate |x|) for a rate that is a power of two (so that the product is exact)."""
    size = abs(x)
    return Interval(size.upper * -rate, size.lower * -rate).exp().clamp(upper=1.0)


def sigmoid(x: Interval) -> Interval:
    """1 / (1 + e^-x), accurate in both tails."""
    return (exp(-x) + 1.0).reciprocal().clamp(0.0, 1.0)


def bell(x: Interval) -> Interval:
    """sigma(x) sigma(-x) = q / (1 + q)^2 with q = e^-|x|, the derivative of the sigmoid."""
    q = _decay(x, 1.0)
    return (q / (q + 1.0).square()).clamp(0.0, 0.25)


def sech_squared(x: Interval) -> Interval:
    """1 / cosh(x)^2 = 4 q / (1 + q)^2 with q = e^-2|x|, the derivative of tanh."""
    q = _decay(x, 2.0)
    return (q * 4.0 / (q + 1.0).square()).clamp(0.0, 1.0)


def cauchy(x: Interval) -> Interval:
    """1 / (1 + x^2), the derivative of the arctangent."""
    size = _cap(abs(x), 2.0**511 if x.lower.dtype == torch.float64 else 2.0**63)
    return (size.square() + 1.0).reciprocal().clamp(0.0, 1.0)


def softplus(x: Interval) -> Interval:
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|)."""
    return (x.clamp(lower=0.0) + _decay(x, 1.0).log1p()).clamp(lower=0.0)


def normal_density(x: Interval) -> Interval:
    """exp(-x^2 / 2) / sqrt(2 pi)."""
    size = _cap(abs(x), 2.0**511 if x.lower.dtype == torch.float64 else 2.0**63)
    return (-(size.square() * 0.5)).exp() * number(ONE_BY_ROOT_TWO_PI, x.lower)


def normal_cdf(x: Interval) -> Interval:
    """(1 + erf(x / sqrt 2)) / 2, in the left tail between Mills' bounds phi / (|x| + 1/|x|) and phi / |x|."""
    found = ((scaled(x, ROOT_HALF).erf() + 1.0) * 0.5).clamp(0.0, 1.0)
    size, density = abs(x), normal_density(x)
    least, most = density / (size + size.reciprocal()), density / size
    left = x.upper < 0
    lower = torch.where(left, torch.maximum(found.lower, least.lower), found.lower)
    return Interval(lower, torch.where(left, torch.minimum(found.upper, most.upper), found.upper))


def gelu(x: Interval) -> Interval:
    """x Phi(x); for x <= 0 it lies between -phi(x) and 0."""
    found, density = x * normal_cdf(x), normal_density(x)
    left = x.upper <= 0
    lower = torch.where(left, torch.maximum(found.lower, -density.upper), found.lower)
    return Interval(lower, torch.where(left, found.upper.clamp(max=0.0), found.upper))


def gelu_derivative(x: Interval) -> Interval:
    """Phi(x) + x phi(x)."""
    near = x.clamp(-FAR, FAR)
    return normal_cdf(x) + _vanishing(near * normal_density(near), x)


def tanh_gelu(x: Interval) -> Interval:
    """x (1 + tanh g) / 2 = x sigma(2 g) with g = sqrt(2 / pi) (x + 0.044715 x^3)."""
    near = x.clamp(lower=-FAR)
    found, left = near * sigmoid(_tanh_gelu_argument(x)), x.upper <= 0
    return Interval(found.lower, torch.where(left, found.upper.clamp(max=0.0), found.upper))


def tanh_gelu_derivative(x: Interval) -> Interval:
    """sigma(y) + x y' sigma(y) sigma(-y) with y = 2 g, y' = 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2)."""
    near = x.clamp(-FAR, FAR)
    growth = (scaled(near.square(), 3 * CUBIC) + 1.0) * number(ROOT_EIGHT_BY_PI, x.lower)
    argument = _tanh_gelu_argument(x)
    return sigmoid(argument) + _vanishing(near * growth * bell(argument), x)


def _tanh_gelu_argument(x: Interval) -> Interval:
    """2 sqrt(2 / pi) (x + 0.044715 x^3), at the nearest point of [-FAR, FAR].

    There the sigmoid's enclosure has reached its limits 0 and 1, so it also holds for points farther out.
    """
    near = x.clamp(-FAR, FAR)
    return near * (scaled(near.square(), CUBIC) + 1.0) * number(ROOT_EIGHT_BY_PI, x.lower)


def _vanishing(found: Interval, x: Interval) -> Interval:
    """A term that tends to zero monotonically beyond ±FAR, from its enclosure at the nearest point within."""
    far = x.magnitude() > FAR
    lower = torch.where(far, found.lower.clamp(max=0.0), found.lower)
    return Interval(lower, torch.where(far, found.upper.clamp(min=0.0), found.upper))
