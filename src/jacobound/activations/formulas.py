"""Elementary functions over nearly degenerate intervals, arranged so that nothing cancels and nothing overflows to NaN.

Products such as sigma(z) sigma(-z) are used where the textbook form sigma (1 - sigma) loses every digit.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch

from jacobound.activations.numbers import irrational, number, scaled
from jacobound.intervals import Interval
from jacobound.rounding import down, up

ROOT_HALF = irrational(math.sqrt(0.5))
ONE_BY_ROOT_TWO_PI = irrational(0.3989422804014327)
ROOT_EIGHT_BY_PI = irrational(1.5957691216057308)
CUBIC = Fraction("0.044715")

FAR = 64.0
"""Beyond this point the normal density and the sigmoid of tanh-GELU's argument underflow in both dtypes."""


def exp(x: Interval) -> Interval:
    """e^x; beyond the largest float the lower bound stays finite and the upper bound becomes infinite."""
    largest = 700.0 if x.lower.dtype == torch.float64 else 87.0
    return Interval(x.lower.clamp(max=largest), x.upper).exp()


def size(x: Interval) -> Interval:
    """|x|, with a lower end so small that its square is finite (an infinite one would bound nothing)."""
    largest = 2.0**511 if x.lower.dtype == torch.float64 else 2.0**63
    smallest = torch.maximum(x.lower, -x.upper).clamp(0.0, largest)
    return Interval(smallest, x.magnitude())


def _times(x: Interval, y: Interval) -> Interval:
    """Product of intervals that are not negative."""
    return Interval(down(x.lower * y.lower).clamp(min=0.0), up(x.upper * y.upper))


def _by(x: Interval, y: Interval) -> Interval:
    """Quotient of intervals that are not negative."""
    return Interval(down(x.lower / y.upper).clamp(min=0.0), up(x.upper / y.lower))


def _decay(x: Interval, rate: float) -> Interval:
    """exp(-rate |x|) for a rate that is a power of two (so that the product is exact)."""
    far = size(x)
    return Interval(far.upper * -rate, far.lower * -rate).exp().clamp(upper=1.0)


def sigmoid(x: Interval) -> Interval:
    """1 / (1 + e^-x), accurate in both tails."""
    return (exp(-x) + 1.0).reciprocal().clamp(0.0, 1.0)


def bell(x: Interval) -> Interval:
    """sigma(x) sigma(-x) = q / (1 + q)^2 with q = e^-|x|, the derivative of the sigmoid."""
    return _bump(_decay(x, 1.0)).clamp(0.0, 0.25)


def sech_squared(x: Interval) -> Interval:
    """1 / cosh(x)^2 = 4 q / (1 + q)^2 with q = e^-2|x|, the derivative of tanh."""
    quarter = _bump(_decay(x, 2.0))
    return Interval(quarter.lower * 4.0, quarter.upper * 4.0).clamp(0.0, 1.0)


def _bump(q: Interval) -> Interval:
    """q / (1 + q)^2 for q in [0, 1]."""
    whole = q + 1.0
    return _by(q, _times(whole, whole))


def cauchy(x: Interval) -> Interval:
    """1 / (1 + x^2), the derivative of the arctangent."""
    far = size(x)
    return (_times(far, far) + 1.0).reciprocal().clamp(0.0, 1.0)


def softplus(x: Interval) -> Interval:
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|)."""
    return (x.clamp(lower=0.0) + _decay(x, 1.0).log1p()).clamp(lower=0.0)


def normal_density(x: Interval) -> Interval:
    """exp(-x^2 / 2) / sqrt(2 pi)."""
    far = size(x)
    square = _times(far, far)
    return _times(Interval(square.upper * -0.5, square.lower * -0.5).exp(), number(ONE_BY_ROOT_TWO_PI, x.lower))


def normal_cdf(x: Interval, density: Interval) -> Interval:
    """(1 + erf(x / sqrt 2)) / 2, in the left tail between Mills' bounds phi |x| / (1 + x^2) and phi / |x|."""
    found = ((scaled(x, ROOT_HALF).erf() + 1.0) * 0.5).clamp(0.0, 1.0)
    far, left = size(x), x.upper < 0
    least, most = _by(_times(density, far), _times(far, far) + 1.0), _by(density, far)
    lower = torch.where(left, torch.maximum(found.lower, least.lower), found.lower)
    return Interval(lower, torch.where(left, torch.minimum(found.upper, most.upper), found.upper))


def gelu(x: Interval) -> Interval:
    """x Phi(x); for x <= 0 it lies between -phi(x) and 0."""
    density = normal_density(x)
    found, left = _finite_below(x) * normal_cdf(x, density), x.upper <= 0
    lower = torch.where(left, torch.maximum(found.lower, -density.upper), found.lower)
    return Interval(lower, torch.where(left, found.upper.clamp(max=0.0), found.upper))


def _finite_below(x: Interval) -> Interval:
    """The same interval; an end of +inf gives a finite lower bound."""
    return Interval(x.lower.clamp(max=torch.finfo(x.lower.dtype).max / 4), x.upper)


def gelu_derivative(x: Interval) -> Interval:
    """Phi(x) + x phi(x); beyond ±FAR the enclosure of Phi(±FAR) has reached 0 or 1."""
    near = x.clamp(-FAR, FAR)
    density = normal_density(near)
    return normal_cdf(near, density) + _vanishing(near * density, x)


def tanh_gelu(x: Interval) -> Interval:
    """x (1 + tanh g) / 2 = x sigma(2 g) with g = sqrt(2 / pi) (x + 0.044715 x^3)."""
    near = _finite_below(x.clamp(lower=-FAR))
    found, left = near * sigmoid(_tanh_gelu_argument(x)), x.upper <= 0
    return Interval(found.lower, torch.where(left, found.upper.clamp(max=0.0), found.upper))


def tanh_gelu_derivative(x: Interval) -> Interval:
    """sigma(y) + x y' sigma(y) sigma(-y) with y = 2 g, y' = 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2)."""
    near = x.clamp(-FAR, FAR)
    far = size(near)
    growth = (scaled(_times(far, far), 3 * CUBIC) + 1.0) * number(ROOT_EIGHT_BY_PI, x.lower)
    argument = _tanh_gelu_argument(x)
    return sigmoid(argument) + _vanishing(near * growth * bell(argument), x)


def _tanh_gelu_argument(x: Interval) -> Interval:
    """2 sqrt(2 / pi) (x + 0.044715 x^3), at the nearest point of [-FAR, FAR].

    There the sigmoid's enclosure has reached its limits 0 and 1, so it also holds for points farther out.
    """
    near = x.clamp(-FAR, FAR)
    far = size(near)
    return near * (scaled(_times(far, far), CUBIC) + 1.0) * number(ROOT_EIGHT_BY_PI, x.lower)


def _vanishing(found: Interval, x: Interval) -> Interval:
    """A term that tends to zero monotonically beyond ±FAR, from its enclosure at the nearest point within."""
    far = x.magnitude() > FAR
    lower = torch.where(far, found.lower.clamp(max=0.0), found.lower)
    return Interval(lower, torch.where(far, found.upper.clamp(min=0.0), found.upper))
