"""Elementary functions over nearly degenerate intervals, arranged so that nothing cancels and nothing overflows to NaN.

Products such as sigma(z) sigma(-z) are used where the textbook form sigma (1 - sigma) loses every digit.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from jacobound.activations.calculus.numbers import Real, irrational, number, scaled
from jacobound.activations.calculus.pieces import choose
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, up

ROOT_HALF = irrational(math.sqrt(0.5))
ONE_BY_ROOT_TWO_PI = irrational(0.3989422804014327)
ROOT_EIGHT_BY_PI = irrational(1.5957691216057308)
CUBIC = Fraction("0.044715")

TWO_BY_ROOT_PI = irrational(1.1283791670955126)

FADED = 750.0
"""exp(-FADED) is below the smallest float of both dtypes."""

SETTLED = 20.0
"""2 exp(-2 SETTLED) is below the unit roundoff of both dtypes."""

FAR = 64.0
"""Beyond this point the normal density and the sigmoid of tanh-GELU's argument underflow in both dtypes."""


def exp(x: Interval) -> Interval:
    """e^x; beyond the largest float the lower bound stays finite and the upper bound becomes infinite."""
    largest = 700.0 if x.lower.dtype == torch.float64 else 87.0
    return Interval(x.lower.clamp(max=largest), x.upper).exp()


def expm1(x: Interval) -> Interval:
    """e^x - 1; where it overflows the lower bound stays finite."""
    largest = 700.0 if x.lower.dtype == torch.float64 else 87.0
    return Interval(x.lower.clamp(max=largest), x.upper).expm1()


def positive_reciprocal(x: Interval) -> Interval:
    """1 / x for x >= 0; infinite above where x may be zero."""
    return Interval(down(1 / x.upper).clamp(min=0.0), up(1 / x.lower.clamp(min=0.0)))


def root_reciprocal(x: Interval) -> Interval:
    """1 / sqrt(x) for x >= 0; infinite above where x may be zero."""
    return positive_reciprocal(x.sqrt())


def power(x: Interval, n: int) -> Interval:
    """x^n for a whole number n >= 0, by squaring; where it overflows the lower bound is large, not infinite."""
    largest = torch.finfo(x.lower.dtype).max / 512
    part = Interval(torch.maximum(x.lower, -x.upper).clamp(0.0, largest), x.magnitude())
    found = Interval.exact(torch.ones_like(x.lower))

    def times(a: Interval, b: Interval) -> Interval:
        return Interval(down((a.lower * b.lower).clamp(max=largest)).clamp(min=0.0), up(a.upper * b.upper))

    rest = n
    while rest:
        found = times(found, part) if rest % 2 else found
        part, rest = times(part, part) if rest > 1 else part, rest // 2
    if n % 2 == 0:
        return found
    below = x.upper <= 0
    mixed = (x.lower < 0) & (x.upper > 0)
    lower = torch.where(below | mixed, -found.upper, found.lower)
    return Interval(lower, torch.where(below, -found.lower, found.upper))


def inverse_power(x: Interval, n: int) -> Interval:
    """x^-n for a whole number n >= 1 and x of one sign."""
    found = power(x, n)
    found = positive_reciprocal(Interval(torch.minimum(found.lower.abs(), found.upper.abs()), found.magnitude()))
    return choose(x.upper < 0, -found, found) if n % 2 else found


def real_power(x: Interval, p: Fraction) -> Interval:
    """x^p = exp(p log x) for x >= 0; at zero 0, or infinite for p < 0."""
    found, zero = exp(scaled(x.log(), p)), x.upper <= 0
    if p < 0:
        return Interval(torch.where(zero, torch.finfo(x.lower.dtype).max, found.lower), found.upper)
    return Interval(found.lower, torch.where(zero, 0.0, found.upper))


def size(x: Interval) -> Interval:
    """|x|, with a lower end so small that its square is finite (an infinite one would bound nothing)."""
    largest = 2.0**511 if x.lower.dtype == torch.float64 else 2.0**63
    smallest = torch.maximum(x.lower, -x.upper).clamp(0.0, largest)
    return Interval(smallest, x.magnitude())


def _sizes(x: Interval) -> tuple[Interval, Interval]:
    """The positive part of a number and that of its opposite; one of them is zero."""
    return x.clamp(lower=0.0), (-x).clamp(lower=0.0)


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


def gaussian(x: Interval) -> Interval:
    """2 / sqrt(pi) exp(-x^2), the derivative of the error function."""
    far = size(x)
    square = _times(far, far)
    return _times(Interval(-square.upper, -square.lower).exp(), number(TWO_BY_ROOT_PI, x.lower))


def softsign(x: Interval) -> Interval:
    """x / (1 + |x|)."""

    def part(far: Interval) -> Interval:
        low = size(far).lower  # of an infinite end a finite stand-in, because inf / inf bounds nothing
        return Interval(down(low / up(low + 1.0)), up(far.upper / down(far.upper + 1.0))).clamp(0.0, 1.0)

    right, left = (part(end) for end in _sizes(x))
    return right - left


def softsign_derivative(x: Interval) -> Interval:
    """1 / (1 + |x|)^2."""
    inverse = (size(x) + 1.0).reciprocal().clamp(0.0, 1.0)
    return _times(inverse, inverse).clamp(upper=1.0)


def tanh_shrink(x: Interval) -> Interval:
    """x - tanh x; near zero x^3 / (x^2 + 3 + x^2 / (5 + x^2 / (7 + ...))), the continued fraction of tanh.

    All terms of the fraction are positive, so the tail after 2 k + 1 lies between 0 and x^2 / (2 k + 3).
    """
    near = x.clamp(-1.0, 1.0)
    far = size(near)
    square = _times(far, far)
    tail = Interval(torch.zeros_like(square.lower), square.upper / 20.0)
    for odd in (19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0):
        tail = _by(square, tail + odd)
    fraction = square + (tail + 3.0)
    right, left = (_by(_times(square, end), fraction) for end in _sizes(near))
    inside, found, plain = x.magnitude() <= 1.0, right - left, x - x.tanh()
    return Interval(torch.where(inside, found.lower, plain.lower), torch.where(inside, found.upper, plain.upper))


def silu(x: Interval) -> Interval:
    """x sigma(x); not positive for x <= 0; beyond -FADED, where the enclosure holds 0, it rises to it."""
    near = _finite_below(x.clamp(lower=-FADED))
    found = near * sigmoid(near)
    return Interval(found.lower, _not_positive(found.upper, x))


def silu_derivative(x: Interval) -> Interval:
    """sigma(x) (1 + x sigma(-x)); beyond ±FADED, where its enclosure holds 0 or 1, it tends to them monotonically."""
    near = x.clamp(-FADED, FADED)
    return sigmoid(near) * (near * sigmoid(-near) + 1.0)


def mish(x: Interval) -> Interval:
    """x tanh(softplus(x)); not positive for x <= 0; beyond -FADED, where the enclosure holds 0, it rises to it."""
    near = _finite_below(x.clamp(lower=-FADED))
    found = near * _tanh_of_softplus(near)
    return Interval(found.lower, _not_positive(found.upper, x))


def mish_derivative(x: Interval) -> Interval:
    """t + x t' with t' = 4 e (1 + e) / (1 + (1 + e)^2)^2 and e = exp(x); x t' falls beyond SETTLED.

    Beyond -FADED, where the enclosure holds 0, it tends to 0 monotonically.
    """
    near = x.clamp(-FADED, SETTLED)
    growth = near.exp()
    more = growth + 1.0
    whole = _times(more, more) + 1.0
    steepness = _by(_times(growth * 4.0, more), _times(whole, whole))
    product = near * steepness
    far = x.upper > SETTLED
    product = Interval(torch.where(far, product.lower.clamp(max=0.0), product.lower), product.upper)
    return _tanh_of_softplus(x) + product


def _tanh_of_softplus(x: Interval) -> Interval:
    """tanh(log(1 + e)) = 1 / (1 + 2 / n) with n = e (e + 2) and e = exp(x); from SETTLED on the enclosure holds 1."""
    growth = x.clamp(upper=SETTLED).exp()
    rest = _by(number(2.0, x.lower), _times(growth, growth + 2.0))
    return (rest + 1.0).reciprocal().clamp(0.0, 1.0)


def _not_positive(upper: Tensor, x: Interval) -> Tensor:
    """The upper bound of a gated function: zero at most for x <= 0."""
    return torch.where(x.upper <= 0, upper.clamp(max=0.0), upper)


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
    """x Phi(x), larger than -phi(x); for x <= 0 it is not positive."""
    density = normal_density(x)
    found = _finite_below(x) * normal_cdf(x, density)
    return Interval(torch.maximum(found.lower, -density.upper), _not_positive(found.upper, x))


def _finite_below(x: Interval) -> Interval:
    """An interval whose lower end is made finite where it is +inf."""
    return Interval(x.lower.clamp(max=torch.finfo(x.lower.dtype).max / 4), x.upper)


def gelu_derivative(x: Interval) -> Interval:
    """Phi(x) + x phi(x); at ±FAR the enclosure of the first has reached 0 or 1, and that of the second holds 0."""
    near = x.clamp(-FAR, FAR)
    density = normal_density(near)
    return normal_cdf(near, density) + near * density


def tanh_gelu(x: Interval, cubic: Real = CUBIC) -> Interval:
    """x (1 + tanh g) / 2 = x sigma(2 g) with g = sqrt(2 / pi) (x + 0.044715 x^3), or another positive cubic factor."""
    near = _finite_below(x.clamp(lower=-FAR))
    found = near * sigmoid(_tanh_gelu_argument(x, cubic))
    return Interval(found.lower, _not_positive(found.upper, x))


def tanh_gelu_derivative(x: Interval, cubic: Real = CUBIC) -> Interval:
    """sigma(y) + x y' sigma(y) sigma(-y) with y = 2 g, y' = 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2).

    At ±FAR the enclosure of the first term has reached 0 or 1, and that of the second holds 0.
    """
    near = x.clamp(-FAR, FAR)
    far = size(near)
    square = _times(far, far)
    cube = scaled(square, 3 * cubic) if isinstance(cubic, Fraction) else scaled(scaled(square, 3.0), cubic)
    growth = (cube + 1.0) * number(ROOT_EIGHT_BY_PI, x.lower)
    argument = _tanh_gelu_argument(x, cubic)
    return sigmoid(argument) + near * growth * bell(argument)


def _tanh_gelu_argument(x: Interval, cubic: Real) -> Interval:
    """2 sqrt(2 / pi) (x + 0.044715 x^3), at the nearest point of [-FAR, FAR].

    There the sigmoid's enclosure has reached its limits 0 and 1, so it also holds for points farther out.
    """
    near = x.clamp(-FAR, FAR)
    far = size(near)
    return near * (scaled(_times(far, far), cubic) + 1.0) * number(ROOT_EIGHT_BY_PI, x.lower)
