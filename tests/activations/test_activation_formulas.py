"""Formulas of activations against balls: they hold on points, on intervals and far out, and are as narrow as measured.

The ceilings stand in the table so that nothing gets looser unnoticed; they are measured widths, rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from flint import arb
from torch import Tensor

from activation_cases import Ball, certainly_outside, gate, mished, normal, powers, sigma, skewed, skewed_derivative
from jacobound.activations.calculus import formulas
from jacobound.activations.kinds.sigmoidal import _arsinh_enclosure
from jacobound.arithmetic.intervals import Interval


@dataclass(frozen=True)
class Formula:
    """An enclosure and the true function.

    Args:
        limits: bounds that hold everywhere and that no enclosure leaves, not even by rounding.
        point: width of the enclosure of a value f(z) at most this many units of roundoff of |f(z)|, for |z| <= reach.
        narrow: likewise for an interval z (1 ± h): at most that many times h |f(z)|, for |z| <= reach.
        signs: of the arguments: "+-" for all, "0+" without negative ones, "+" without zero.
    """

    enclosure: Callable[[Interval], Interval]
    truth: Callable[[Ball], Ball]
    limits: tuple[float, float]
    point: float
    narrow: float
    reach: float = math.inf
    signs: str = "+-"


INF = math.inf


def swish(z: Ball) -> Ball:
    return z * sigma(z)


def swish_derivative(z: Ball) -> Ball:
    return sigma(z) * (1 + z * sigma(-z))


def log_of_sum(z: Ball) -> Ball:
    return (z if z > 0 else 0 * z) + (-abs(z)).exp().log1p()


def gelu_derivative(z: Ball) -> Ball:
    share, density = normal(z)
    return share + z * density


def mish_derivative(z: Ball) -> Ball:
    share, slope = gate(z)
    return share + z * slope


FORMULAS = {
    "exp": Formula(formulas.exp, lambda z: z.exp(), (0, INF), 11, 16.3, 80),
    "expm1": Formula(formulas.expm1, lambda z: z.expm1(), (-1, INF), 11, 16.3, 80),
    "reciprocal": Formula(formulas.positive_reciprocal, lambda z: 1 / z, (0, INF), 2.7, 2.1, signs="+"),
    "root reciprocal": Formula(formulas.root_reciprocal, lambda z: 1 / z.sqrt(), (0, INF), 13.7, 1.1, signs="+"),
    **{
        f"power {n}": Formula(lambda x, n=n: formulas.power(x, n), powers(n)[0], limits, 0.5 + 2.4 * n, 2.05 * n, 1e3)
        for n, limits in ((0, (1, 1)), (1, (-INF, INF)), (2, (0, INF)), (5, (-INF, INF)), (6, (0, INF)))
    },
    **{
        f"inverse power {n}": Formula(
            lambda x, n=n: formulas.inverse_power(x, n), powers(-n)[0], limits, 2.5 + 2.3 * n, 2.05 * n, 1e3
        )
        for n, limits in ((1, (-INF, INF)), (2, (0, INF)), (3, (-INF, INF)))
    },
    **{
        f"real power {p}": Formula(
            lambda x, p=p: formulas.real_power(x, p),
            powers(p)[0],
            (0, INF),
            units,
            2.1 * abs(float(p)),
            100,
            "0+" if p > 0 else "+",
        )
        for p, units in ((Fraction(1, 3), 3100), (Fraction(3, 2), 1300), (Fraction(-6, 5), 980))
    },
    "sigmoid": Formula(formulas.sigmoid, sigma, (0, 1), 15.3, 16.3, 60),
    "bell": Formula(formulas.bell, lambda z: sigma(z) * sigma(-z), (0, 0.25), 29, 16.3, 60),
    "sech^2": Formula(formulas.sech_squared, lambda z: 1 / z.cosh() ** 2, (0, 1), 28.5, 32.5, 30),
    "cauchy": Formula(formulas.cauchy, lambda z: 1 / (1 + z * z), (0, 1), 7.3, 4.1, 1e15),
    "gaussian": Formula(formulas.gaussian, lambda z: 2 / arb.pi().sqrt() * (-z * z).exp(), (0, 1.1284), 144, 270, 9),
    "softsign": Formula(formulas.softsign, lambda z: z / (1 + abs(z)), (-1.0000002, 1.0000002), 7.4, 2.1),
    "softsign'": Formula(formulas.softsign_derivative, lambda z: 1 / (1 + abs(z)) ** 2, (0, 1), 11.5, 3.7, 1e15),
    "tanhshrink": Formula(formulas.tanh_shrink, lambda z: z - z.tanh(), (-INF, INF), 29, 12.2, 1e15),
    "silu": Formula(formulas.silu, swish, (-INF, INF), 17.5, 18.3, 80),
    "silu'": Formula(formulas.silu_derivative, swish_derivative, (-INF, INF), 440, 125, 80),
    "mish": Formula(formulas.mish, mished, (-INF, INF), 24.3, 18.3, 80),
    "mish'": Formula(formulas.mish_derivative, mish_derivative, (-INF, INF), 600, 87, 80),
    "gate of mish": Formula(formulas._tanh_of_softplus, lambda z: gate(z)[0], (0, 1), 25, 17, 80),
    "softplus": Formula(formulas.softplus, log_of_sum, (0, INF), 24, 16.3, 80),
    "density": Formula(formulas.normal_density, lambda z: normal(z)[1], (0, 0.4), 78, 132, 9),
    "cdf": Formula(
        lambda x: formulas.normal_cdf(x, formulas.normal_density(x)), lambda z: normal(z)[0], (0, 1), 118, 7.4, 2
    ),
    "gelu": Formula(formulas.gelu, lambda z: z * normal(z)[0], (-INF, INF), 119, 9.4, 2),
    "gelu'": Formula(formulas.gelu_derivative, gelu_derivative, (-INF, INF), 340, 47.5, 2),
    "gelu_tanh": Formula(formulas.tanh_gelu, lambda z: z * sigma(skewed(z)), (-INF, INF), 56.5, 17, 3),
    "gelu_tanh'": Formula(formulas.tanh_gelu_derivative, skewed_derivative, (-INF, INF), 580, 73.5, 3),
    "arsinh": Formula(_arsinh_enclosure, lambda z: z.asinh(), (-INF, INF), 21.5, 2.75),
}
every_formula = pytest.mark.parametrize("name", FORMULAS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)

SIZES = (1e-30, 1e-8, 1e-3, 0.1, 0.3, 0.7, 0.9, 1.0, 1.1, 1.3, 1.7, 2.5, 4.0, 5.5, 8.0, 12.0, 16.0, 19.9, 20.0, 20.1,
         27.0, 36.0, 50.0, 63.9, 64.0, 64.1, 80.0, 95.0, 150.0, 690.0, 710.0, 720.0, 749.0, 750.0, 751.0, 1e3, 1e6,
         1e15, 1e30)  # fmt: skip


def arguments(formula: Formula, dtype: torch.dtype) -> Tensor:
    """Points of all sizes, and the special ones of a dtype."""
    info = torch.finfo(dtype)
    sizes = torch.tensor([info.tiny / 8, info.tiny, *SIZES, info.max], dtype=dtype)
    parts = {"+-": [-sizes, sizes.new_zeros(1), sizes], "0+": [sizes.new_zeros(1), sizes], "+": [sizes]}
    return torch.cat(parts[formula.signs])


def truths(formula: Formula, points: Tensor) -> list[Ball]:
    return [formula.truth(arb(z)) for z in points.tolist()]


def hold(found: Interval, exact: list[Ball], points: Tensor) -> None:
    for low, high, value, z in zip(found.lower.tolist(), found.upper.tolist(), exact, points.tolist(), strict=True):
        if value.is_finite():
            assert not certainly_outside(value, low, high), z


def stay(found: Interval, limits: tuple[float, float]) -> None:
    assert (found.lower >= limits[0]).all() and (found.upper <= limits[1]).all() and (found.lower <= found.upper).all()
    assert (found.lower < INF).all() and (found.upper > -INF).all()


def widest(found: Interval, exact: list[Ball], points: Tensor, reach: float, share: float) -> float:
    """Largest width beside `share` of the true size, among points within reach."""
    tiny = torch.finfo(points.dtype).tiny
    width = (found.upper.double() - found.lower.double()).tolist()
    rows = [
        row for row in zip(width, exact, points.tolist(), strict=True) if row[1].is_finite() and abs(row[2]) <= reach
    ]
    most = math.sqrt(torch.finfo(points.dtype).max)
    return max(w / (share * abs(float(t)) + 64 * tiny) for w, t, _ in rows if abs(t) < most)


@every_dtype
@every_formula
def test_values_at_points_are_narrow(name: str, dtype: torch.dtype) -> None:
    formula = FORMULAS[name]
    z = arguments(formula, dtype)
    found, exact = formula.enclosure(Interval.exact(z)), truths(formula, z)
    hold(found, exact, z)
    stay(found, formula.limits)
    assert widest(found, exact, z, formula.reach, torch.finfo(dtype).eps) <= formula.point


@every_dtype
@every_formula
def test_values_on_narrow_intervals_hold_both_ends(name: str, dtype: torch.dtype) -> None:
    formula, h = FORMULAS[name], 2.0**-8
    z = arguments(formula, dtype)[:-1]
    ends = torch.stack([z * (1 - h), z * (1 + h)]).sort(0).values
    x = Interval(ends[0], ends[1])
    found = formula.enclosure(x)
    for end in (x.lower, x.upper):
        hold(found, truths(formula, end), end)
    stay(found, formula.limits)
    assert widest(found, truths(formula, z), z, min(formula.reach, 8.0), h) <= formula.narrow


@every_dtype
@every_formula
def test_values_on_wide_intervals_hold_all_samples(name: str, dtype: torch.dtype) -> None:
    """Between any two of the points, one of them infinite in places."""
    formula = FORMULAS[name]
    z = arguments(formula, dtype)[:: 3 if formula.signs == "+-" else 2]
    z = torch.cat([z, z.new_tensor([INF] if formula.signs != "+-" else [-INF, INF])]).sort().values
    exact = [formula.truth(arb(v)) if math.isfinite(v) else None for v in z.tolist()]
    first, last = torch.triu_indices(len(z), len(z))
    kept = torch.arange(len(first)) % 4 == 0
    kept = kept | (first == 0) | (last == len(z) - 1)
    if name.startswith("inverse"):
        kept = kept & (z[first] * z[last] > 0)
    first, last = first[kept], last[kept]
    found = formula.enclosure(Interval(z[first], z[last]))
    stay(found, formula.limits)
    rows = zip(first.tolist(), last.tolist(), found.lower.tolist(), found.upper.tolist(), strict=True)
    for a, b, low, high in rows:
        for value in (exact[a], exact[b], exact[(a + b) // 2]):
            assert value is None or not value.is_finite() or not certainly_outside(value, low, high), (z[a], z[b])


RISING = ("exp", "expm1", "power 1", "power 5", "real power 1/3", "real power 3/2", "sigmoid", "softsign",
          "tanhshrink", "gate of mish")  # fmt: skip
BELLS = ("cauchy", "gaussian", "softsign'", "density", "power 2", "power 6", "reciprocal",
         "root reciprocal", "real power -6/5", "inverse power 1", "inverse power 2", "inverse power 3")  # fmt: skip
LOOSE = {"tanhshrink": 2.0}
"""What the formula is wider than the image of an interval, in widths of the image, where an argument occurs twice."""


@every_dtype
@pytest.mark.parametrize("name", [*RISING, *BELLS])
def test_monotone_functions_are_enclosed_by_their_values_at_the_ends(name: str, dtype: torch.dtype) -> None:
    formula, eps, tiny = FORMULAS[name], torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    low = arguments(formula, dtype)
    low = low[(low.abs() <= min(formula.reach, 1e3) / 2) & (low.abs() > 1e-29)]
    high = torch.where(low < 0, low / 2, low * 2)
    found = formula.enclosure(Interval(low, high))
    rows = zip(truths(formula, low), truths(formula, high), found.lower.tolist(), found.upper.tolist(), strict=True)
    for first, last, below, above in rows:
        least, most = sorted((float(first), float(last)))
        slack = LOOSE.get(name, 0.0) * (most - least)
        assert below >= least - slack - formula.point * eps * abs(least) - 64 * tiny
        assert above <= most + slack + formula.point * eps * abs(most) + 64 * tiny


@every_dtype
def test_special_values(dtype: torch.dtype) -> None:
    like, info = torch.zeros(1, dtype=dtype), torch.finfo(dtype)

    def at(function: Callable[[Interval], Interval], low: float, high: float | None = None) -> tuple[float, float]:
        found = function(Interval(like + low, like + (low if high is None else high)))
        return float(found.lower), float(found.upper)

    for function in (formulas.exp, formulas.expm1):
        low, high = at(function, 800.0)
        assert info.max / 2 > low > info.max / 1e5 and high == INF
        assert at(function, -INF, INF)[1] == INF
    assert at(lambda x: formulas.power(x, 3), 0.0, 2.0)[0] == 0.0
    assert at(lambda x: formulas.power(x, 3), -2.0, 0.0)[1] == 0.0
    for n in (2, 3, 4):
        low, high = at(lambda x, n=n: formulas.power(x, n), info.max / 2)
        assert info.max / 1000 < low < INF == high
        assert at(lambda x, n=n: formulas.power(x, n), -INF, INF)[1] == INF
    assert at(lambda x: formulas.real_power(x, Fraction(-3, 2)), 0.0) == (info.max, INF)
    assert at(lambda x: formulas.real_power(x, Fraction(3, 2)), 0.0) == (0.0, 0.0)
    assert at(lambda x: formulas.real_power(x, Fraction(3, 2)), -1.0, 0.0) == (0.0, 0.0)
    one, zero = Interval(like + 1, like + 2), Interval.exact(like)
    assert float(formulas._by(zero, one).lower) == 0.0 == float(formulas._times(zero, one).lower)
    assert at(lambda x: formulas._decay(x, 2.0), 0.0)[1] == 1.0 == at(lambda x: formulas._decay(x, 2.0), -1.0, 1.0)[1]
    assert at(_arsinh_enclosure, 0.0) == (0.0, 0.0)
    assert at(_arsinh_enclosure, INF)[0] > math.log(info.max) > -at(_arsinh_enclosure, -INF)[1] - 1 > 80
    assert at(_arsinh_enclosure, -2.0, 0.5)[1] < 0.49
    assert at(_arsinh_enclosure, -0.5, 2.0)[0] > -0.49
    assert at(_arsinh_enclosure, 0.5, 3.0)[0] > 0.46 and at(_arsinh_enclosure, 0.5, 3.0)[1] < 2.0
    for gated in (formulas.silu, formulas.mish, formulas.gelu, formulas.tanh_gelu):
        assert at(gated, -1.0, 0.0)[1] == 0.0 == at(gated, -INF, 0.0)[1] == at(gated, 0.0)[1]
        assert at(gated, -1e-30, 1e-30)[1] > 4e-31
    assert at(formulas.size, -3.0, 2.0) == (0.0, 3.0)
    assert at(formulas.size, -3.0, -2.0) == (2.0, 3.0)
    assert at(formulas.size, INF)[0] == (2.0**511 if dtype == torch.float64 else 2.0**63)


GATES = {
    "silu": formulas.silu,
    "mish": formulas.mish,
    "gelu": formulas.gelu,
    "gelu_tanh": formulas.tanh_gelu,
    "silu'": formulas.silu_derivative,
    "mish'": formulas.mish_derivative,
    "gelu'": formulas.gelu_derivative,
    "gelu_tanh'": formulas.tanh_gelu_derivative,
}


@every_dtype
@pytest.mark.parametrize("name", GATES)
def test_gated_functions_far_out(name: str, dtype: torch.dtype) -> None:
    """They vanish on the left, and are the identity, of slope 1, on the right."""
    info = torch.finfo(dtype)
    far = torch.tensor([800.0, 1e6, 1e30, info.max, INF], dtype=dtype)
    found = GATES[name](Interval.exact(-far))
    assert (found.lower <= 0).all() and (found.upper >= 0).all()
    assert (found.lower >= -1e8 * info.tiny).all() and (found.upper <= 1e8 * info.tiny).all()
    found, expected = GATES[name](Interval.exact(far)), torch.ones_like(far) if name.endswith("'") else far
    assert (found.lower <= expected).all() and (found.upper >= expected).all()
    finite = expected < info.max
    assert (found.lower[finite] >= expected[finite] * (1 - 30 * info.eps)).all()
    assert (found.upper[finite] <= expected[finite] * (1 + 30 * info.eps)).all()
    assert (found.lower[~finite] >= info.max / 5).all()
    whole = GATES[name](Interval(-far, far))
    assert (whole.lower <= 0).all() and (whole.upper >= 1).all()
    if not name.endswith("'"):
        left = GATES[name](Interval(-far, -far / 2 - 1))
        assert (left.upper <= 1e8 * info.tiny).all()


@every_dtype
def test_the_left_tail_of_the_normal_distribution_lies_between_the_bounds_of_mills(dtype: torch.dtype) -> None:
    z = torch.tensor([-4.0, -5.5, -7.0, -9.0, -11.0, *([-20.0, -30.0] if dtype == torch.float64 else [])], dtype=dtype)
    x = Interval(z, z * (1 - 2.0**-12))
    density = formulas.normal_density(x)
    found, share = formulas.normal_cdf(x, density), 2000 * torch.finfo(dtype).eps
    for k, (first, last) in enumerate(zip(x.lower.tolist(), x.upper.tolist(), strict=True)):
        (least, low), (most, high) = normal(arb(first)), normal(arb(last))
        assert float(least) * (1 - 1 / first**2) < float(found.lower[k]) <= float(least) * (1 + 1e-15)
        assert float(most) * (1 - 1e-15) <= float(found.upper[k])
        assert float(found.lower[k]) >= float(low) * -last / (1 + first**2) * (1 - share)
        assert float(found.upper[k]) <= float(high) / -last * (1 + share)
