"""Contracts of interval arithmetic: every result holds every exact result, in both dtypes, for all kinds of ends."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable

import pytest
import torch
from flint import arb, fmpq
from torch import Tensor

from exact import (
    DTYPE_NAMES,
    DTYPES,
    at_least,
    at_most,
    ball,
    corners,
    outside,
    random_floats,
    rational,
    rationals,
    special_numbers,
)
from jacobound import ShapeError
from jacobound.arithmetic.intervals import PERIODIC_REACH, ULPS, Interval, dot_slack, interval_dot
from jacobound.arithmetic.rounding import tiny, unit, unrounded

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)

BINARY: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}

HUGE = fmpq(2) ** 3000  # stands for points far out on an unbounded side


def interval(lower: list[float] | Tensor, upper: list[float] | Tensor, dtype: torch.dtype) -> Interval:
    return Interval(torch.as_tensor(lower, dtype=dtype), torch.as_tensor(upper, dtype=dtype))


def points(lower: float, upper: float) -> list[fmpq]:
    """Exact numbers of an interval: its ends (far points for infinite ones), a point between, and 0 if inside."""
    low = rational(lower) if math.isfinite(lower) else -HUGE
    high = rational(upper) if math.isfinite(upper) else HUGE
    return list({low, high, low + (high - low) * fmpq(1, 3), *([fmpq(0)] if low < 0 < high else [])})


def pieces(x: Interval) -> list[tuple[float, float]]:
    return list(zip(x.lower.tolist(), x.upper.tolist(), strict=True))


def special_intervals(dtype: torch.dtype) -> Interval:
    """Intervals between special numbers, also of width zero and with infinite ends."""
    numbers = sorted({*special_numbers(dtype)[::2], 0.0, 1.0, -1.0, math.inf, -math.inf})
    pairs = [(a, b) for a in numbers for b in numbers if a <= b and a != math.inf and b != -math.inf]
    lower, upper = zip(*pairs, strict=True)
    return interval(list(lower), list(upper), dtype)


def random_intervals(dtype: torch.dtype, generator: torch.Generator, count: int = 150) -> Interval:
    """Narrow, wide and degenerate intervals over many scales."""
    exponents = (-1000, 1000) if dtype == torch.float64 else (-130, 120)
    a, b = random_floats((2, count), dtype, generator, exponents)
    near, width = random_floats((2, count), dtype, generator, (-8, 8))
    close = near + width.abs() * 2.0**-40
    a, b = torch.cat((a, near, near)), torch.cat((b, close, near))
    return Interval(torch.minimum(a, b), torch.maximum(a, b))


def wrong_binary(name: str, x: Interval, y: Interval) -> list[str]:
    """Points of x and y whose exact combination the computed interval does not hold."""
    function = BINARY[name]
    found = []
    for left, right, result in zip(pieces(x), pieces(y), pieces(function(x, y)), strict=True):
        for a, b in itertools.product(points(*left), points(*right)):
            if name == "/" and b == 0:
                continue
            value = function(a, b)
            if not (at_most(result[0], value) and at_least(result[1], value)):
                found.append(f"{left} {name} {right} = {result} misses {ball(value)}")
    return found


@both_dtypes
@pytest.mark.parametrize("name", BINARY)
def test_arithmetic_of_special_intervals(dtype: torch.dtype, name: str) -> None:
    x = special_intervals(dtype)
    shift = torch.randperm(len(x.lower), generator=torch.Generator().manual_seed(1))
    for offset in range(0, len(x.lower), 7):
        y = x[shift.roll(offset)]
        assert wrong_binary(name, x, y) == []


@both_dtypes
@pytest.mark.parametrize("name", BINARY)
def test_arithmetic_of_random_intervals(dtype: torch.dtype, name: str, generator: torch.Generator) -> None:
    x, y = random_intervals(dtype, generator), random_intervals(dtype, generator)
    assert wrong_binary(name, x, y[torch.randperm(len(y.lower), generator=generator)]) == []


@both_dtypes
@pytest.mark.parametrize("name", ["+", "-", "*", "/"])
def test_arithmetic_is_tight(dtype: torch.dtype, name: str, generator: torch.Generator) -> None:
    x, y = random_floats((2, 400), dtype, generator, (-20, 20))
    result = BINARY[name](Interval.exact(x), Interval.exact(y))
    roundings = 2 if name == "/" else 1
    size = BINARY[name](x, y).abs()
    assert torch.all(result.width <= 16 * roundings * unit(dtype) * size + 8 * tiny(dtype))


@both_dtypes
def test_arithmetic_with_numbers_on_either_side(dtype: torch.dtype) -> None:
    x = interval([1.0, -2.0], [2.0, 3.0], dtype)
    for number in (0.1, 1 / 3, 2, -7.25, 1e300, 1e-300):
        exact = rational(number)
        for result, function in (
            (x + number, lambda a, c: a + c),
            (number + x, lambda a, c: a + c),
            (x - number, lambda a, c: a - c),
            (number - x, lambda a, c: c - a),
            (x * number, lambda a, c: a * c),
            (number * x, lambda a, c: a * c),
            (x / number, lambda a, c: a / c),
        ):
            for end in ([1.0, -2.0], [2.0, 3.0]):
                values = [function(rational(a), exact) for a in end]
                assert outside(result.lower, values, result.upper) == [], number
        first = x[:1]
        result = number / first
        assert outside(result.lower, [exact / fmpq(3, 2)], result.upper) == []
    nearest = torch.tensor([0.1], dtype=dtype)
    difference = Interval.exact(nearest) - 0.1  # what a silent rounding of 0.1 would lose
    assert outside(difference.lower, [rational(nearest.item()) - rational(0.1)], difference.upper) == []
    wide = torch.tensor([0.1, 1 / 3], dtype=torch.float64)
    result = x * wide  # a float64 tensor meets intervals of either dtype without being rounded silently
    assert outside(result.lower, [rational(1.0 * 0.1), -2 * rational(1 / 3)], result.upper) == []
    partly = torch.tensor([0.5, 0.1], dtype=torch.float64)  # only the second is rounded
    difference = Interval.exact(partly.to(dtype)) - partly
    assert (
        outside(difference.lower, [fmpq(0), rational(partly[1].to(dtype).item()) - rational(0.1)], difference.upper)
        == []
    )


@both_dtypes
def test_numbers_that_the_dtype_holds_stay_exact(dtype: torch.dtype) -> None:
    zero = interval([0.0], [0.0], dtype)
    assert (zero + 0.5).width.item() <= 3 * unit(dtype)
    assert (-interval([1.0], [2.0], dtype)).lower.item() == -2.0


UNARY: dict[str, tuple[Callable[[Interval], Interval], Callable[[fmpq], fmpq]]] = {
    "negative": (operator.neg, operator.neg),
    "absolute": (abs, abs),
    "square": (Interval.square, lambda a: a * a),
    "reciprocal": (Interval.reciprocal, lambda a: 1 / a),
}


@both_dtypes
@pytest.mark.parametrize("name", UNARY)
def test_sign_square_and_reciprocal(dtype: torch.dtype, name: str, generator: torch.Generator) -> None:
    on_intervals, on_numbers = UNARY[name]
    for x in (special_intervals(dtype), random_intervals(dtype, generator)):
        for ends, found in zip(pieces(x), pieces(on_intervals(x)), strict=True):
            values = [on_numbers(a) for a in points(*ends) if a != 0 or name != "reciprocal"]
            assert all(at_most(found[0], v) and at_least(found[1], v) for v in values), (ends, found)


def test_absolute_values_and_squares_start_at_zero() -> None:
    x = interval([-2.0, 1.0, -3.0, 0.0], [1.0, 4.0, -1.0, 0.0], torch.float64)
    assert abs(x).lower.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert abs(x).upper.tolist() == [2.0, 4.0, 3.0, 0.0]
    assert torch.all(x.square().lower >= 0)
    assert x.square().lower[0] == 0.0
    assert torch.equal(x.magnitude(), abs(x).upper)


ELEMENTARY: dict[str, tuple[Callable[[arb], arb], float, float]] = {
    "exp": (arb.exp, -800.0, 800.0),
    "expm1": (arb.expm1, -800.0, 800.0),
    "log": (arb.log, 0.0, math.inf),
    "log1p": (arb.log1p, -1.0, math.inf),
    "tanh": (arb.tanh, -math.inf, math.inf),
    "atan": (arb.atan, -math.inf, math.inf),
    "erf": (arb.erf, -40.0, 40.0),
    "sqrt": (arb.sqrt, 0.0, math.inf),
    "sin": (arb.sin, -10.0, 10.0),
    "cos": (arb.cos, -10.0, 10.0),
}


def arguments(name: str, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Floats of the function's domain: special, of all scales, of ordinary size, and close to its lower end."""
    _, low, high = ELEMENTARY[name]
    exponents = (-1060, 1000) if dtype == torch.float64 else (-140, 120)
    x = torch.cat(
        (
            torch.tensor(special_numbers(dtype), dtype=dtype),
            random_floats((200,), dtype, generator, exponents),
            random_floats((300,), dtype, generator, (-6, 6)),
            random_floats((100,), dtype, generator, (-30, 0)).abs() + (low if math.isfinite(low) else 0.0),
        )
    )
    return x[(x > low) & (x < high)]


@both_dtypes
@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_functions_hold_their_values(dtype: torch.dtype, name: str, generator: torch.Generator) -> None:
    function = ELEMENTARY[name][0]
    x = arguments(name, dtype, generator)
    at = Interval.exact(x)
    values = [function(ball(entry)) for entry in x.tolist()]
    result = getattr(at, name)()
    assert outside(result.lower, values, result.upper) == []
    order = x.sort().values
    wide = Interval(order[:-3], order[3:])  # neighbours as ends: the values between must lie inside
    image = getattr(wide, name)()
    between = [function(ball(entry)) for entry in order[1:-2].tolist()]
    assert outside(image.lower, between, image.upper) == []


@both_dtypes
@pytest.mark.parametrize("name", ELEMENTARY)
def test_widths_are_four_times_the_error_of_the_library(
    dtype: torch.dtype, name: str, generator: torch.Generator
) -> None:
    """Measured in units in the last place of the exact value, for results in the normal range."""
    function = ELEMENTARY[name][0]
    x = arguments(name, dtype, generator)
    computed = getattr(torch, name)(x)
    worst = 0.0
    for entry, found in zip(x.tolist(), computed.tolist(), strict=True):
        value = function(ball(entry))
        size = abs(float(value.mid()))
        if math.isfinite(found) and 2 * tiny(dtype) < size < torch.finfo(dtype).max:
            last_place = rational(2.0 ** math.floor(math.log2(size))) * rational(2 * unit(dtype))
            worst = max(worst, float((abs(ball(found) - value) / ball(last_place)).mid()))
    assert 0 < worst <= ULPS[name] / 4 + 0.05


@both_dtypes
@pytest.mark.parametrize("towards", [-math.inf, math.inf])
@pytest.mark.parametrize("name", ELEMENTARY)
def test_a_library_that_is_off_by_its_width_is_covered(
    dtype: torch.dtype, towards: float, name: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many units in either direction as `ULPS` says, on top of what the library itself misses."""
    x, function, library = arguments(name, dtype, generator), ELEMENTARY[name][0], getattr(torch, name)

    def shifted(z: Tensor) -> Tensor:
        value = library(z)
        for _ in range(ULPS[name]):
            value = torch.nextafter(value, torch.full_like(value, towards))
        return value

    monkeypatch.setattr(torch, name, shifted)
    result = getattr(Interval.exact(x), name)()
    assert outside(result.lower, [function(ball(entry)) for entry in x.tolist()], result.upper) == []


@both_dtypes
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_waves_are_trusted_up_to_their_reach_only(dtype: torch.dtype, name: str) -> None:
    step = 4 * unit(dtype) * PERIODIC_REACH
    near = interval([PERIODIC_REACH, -PERIODIC_REACH], [PERIODIC_REACH, -PERIODIC_REACH], dtype)
    assert getattr(near, name)().width.max() < 1e-5
    far = interval([PERIODIC_REACH, -PERIODIC_REACH - step], [PERIODIC_REACH + step, -PERIODIC_REACH], dtype)
    assert getattr(far, name)().lower.tolist() == [-1.0] * 2
    assert getattr(far, name)().upper.tolist() == [1.0] * 2


@both_dtypes
@pytest.mark.parametrize("name", ELEMENTARY)
def test_elementary_functions_are_tight(dtype: torch.dtype, name: str, generator: torch.Generator) -> None:
    x = arguments(name, dtype, generator)
    result = getattr(Interval.exact(x), name)()
    finite = torch.isfinite(result.upper)
    size = getattr(torch, name)(x).abs()
    assert torch.all(result.width[finite] <= 32 * unit(dtype) * size[finite] + 20 * tiny(dtype))


@both_dtypes
def test_elementary_functions_keep_to_their_ranges(dtype: torch.dtype) -> None:
    whole = Interval.whole(torch.zeros(1, dtype=dtype))
    expected = {
        "exp": (0.0, math.inf),
        "expm1": (-1.0, math.inf),
        "log": (-math.inf, math.inf),
        "log1p": (-math.inf, math.inf),
        "tanh": (-1.0, 1.0),
        "erf": (-1.0, 1.0),
        "sqrt": (0.0, math.inf),
    }
    for name, ends in expected.items():
        result = getattr(whole, name)()
        assert (result.lower.item(), result.upper.item()) == ends, name
    angle = whole.atan()
    assert at_least(angle.upper.item(), arb.pi() / 2)
    assert angle.upper.item() < 1.5708
    assert angle.lower.item() == -angle.upper.item()


@both_dtypes
def test_overflow_never_gives_an_impossible_bound(dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max
    x = interval([large / 2, -large], [large, -large / 2], dtype)
    results = [x + x, x * x, x - (-x), x.square(), x.exp(), x * 3.0, x / 1e-3]
    for result in results:
        assert torch.all(result.lower < math.inf)
        assert torch.all(result.upper > -math.inf)
    assert torch.all((x + x).lower <= x.lower * 2)


@both_dtypes
def test_nan_becomes_unbounded(dtype: torch.dtype) -> None:
    nan = interval([math.nan] * 2, [math.nan] * 2, dtype)
    one = interval([1.0, -1.0], [2.0, 1.0], dtype)
    results = [nan + one, one - nan, nan * one, one * nan, nan / one, one / nan, nan.reciprocal(), nan * 2.0]
    results += [nan.log(), nan.atan(), abs(nan), Interval.safe(nan.lower, nan.upper)]
    for k, result in enumerate(results):
        assert result.lower.tolist() == [-math.inf] * 2 or k == 10, k
        assert result.upper.tolist() == [math.inf] * 2, k
    for result in (nan.exp(), nan.square(), nan.sqrt(), nan.tanh(), nan.erf(), nan.expm1()):
        assert not result.lower.isnan().any()
        assert torch.all(result.upper >= 1.0)
    half = interval([1.0], [math.nan], dtype)  # one end known
    assert (half * one[:1]).upper.item() == math.inf
    assert (half * one[:1]).lower.item() <= 1.0
    assert not nan.is_finite()
    assert not nan.contains(torch.zeros(2, dtype=dtype)).any()


def test_products_of_zero_are_zero_even_with_unbounded_intervals() -> None:
    x = interval([0.0, -math.inf], [0.0, math.inf], torch.float64)
    assert torch.all((x * x[[1, 0]]).magnitude() <= 2 * tiny(torch.float64))


def test_division_by_an_interval_around_zero_is_unbounded() -> None:
    x = interval([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], torch.float64)
    y = interval([-1.0, 0.0, -1.0, 0.0], [1.0, 1.0, 0.0, 0.0], torch.float64)
    assert (x / y).lower.tolist() == [-math.inf] * 4
    assert (x / y).upper.tolist() == [math.inf] * 4


@both_dtypes
def test_centre_and_radius_cover_the_interval(dtype: torch.dtype, generator: torch.Generator) -> None:
    for x in (special_intervals(dtype), random_intervals(dtype, generator)):
        middle, radius = x.midpoint_and_radius()
        assert torch.isfinite(middle).all()
        for (low, high), centre, reach in zip(pieces(x), middle.tolist(), radius.tolist(), strict=True):
            if not (math.isfinite(low) and math.isfinite(high)):
                assert reach == math.inf
            elif math.isfinite(reach):
                assert rational(centre) - rational(reach) <= rational(low)
                assert rational(centre) + rational(reach) >= rational(high)
        same = x.lower == x.upper
        assert torch.equal(middle[same].double() + radius[same].double(), x.upper[same].double()) or torch.all(
            radius[same] <= 4 * tiny(dtype)
        )


@both_dtypes
def test_width_is_rounded_up(dtype: torch.dtype, generator: torch.Generator) -> None:
    x = random_intervals(dtype, generator)
    exact = [rational(high) - rational(low) for low, high in pieces(x)]
    assert outside(torch.zeros_like(x.lower), exact, x.width) == []


def test_sets_of_intervals() -> None:
    x = interval([0.0, 0.0, 0.0, -math.inf], [2.0, 1.0, 1.0, 1.0], torch.float64)
    y = interval([1.0, 2.0, 1.0, 0.0], [3.0, 3.0, 4.0, math.inf], torch.float64)
    both = x.intersect(y)
    assert both.lower.tolist() == [1.0, 0.0, 1.0, 0.0]  # the second pair is disjoint: their hull is kept
    assert both.upper.tolist() == [2.0, 3.0, 1.0, 1.0]
    assert x.hull(y).lower.tolist() == [0.0, 0.0, 0.0, -math.inf]
    assert x.hull(y).upper.tolist() == [3.0, 3.0, 4.0, math.inf]
    assert torch.equal(y.hull(x).lower, x.hull(y).lower) and torch.equal(y.hull(x).upper, x.hull(y).upper)
    assert x.contains(torch.tensor([2.0, 1.5, 0.0, -9.0], dtype=torch.float64)).tolist() == [True, False, True, True]
    assert not x.is_finite()
    assert not (-x[3:]).is_finite()  # one end alone
    assert x[:3].is_finite()


def test_shapes() -> None:
    x = interval(torch.zeros(2, 3), torch.ones(2, 3), torch.float32)
    assert x.shape == (2, 3)
    assert x.reshape(3, 2).shape == (3, 2)
    assert x[1].shape == (3,)
    assert x.map(torch.Tensor.double).lower.dtype == torch.float64
    assert (x + torch.ones(3)).shape == (2, 3)
    assert (x * interval(torch.zeros(2, 1), torch.ones(2, 1), torch.float32)).shape == (2, 3)
    assert x.clamp(0.25, 0.5).lower.unique().tolist() == [0.25]
    with pytest.raises(ShapeError, match="one shape"):
        Interval(torch.zeros(2), torch.zeros(3))


def test_without_rigour_nothing_is_widened() -> None:
    x = Interval.exact(torch.tensor([0.3, -1.7]))
    with unrounded():
        assert torch.equal((x * x).upper, x.lower * x.lower)
        assert torch.equal(x.tanh().lower, x.lower.tanh())
        assert torch.equal(interval_dot(x.lower, x).upper, (x.lower * x.lower).sum())


def dots(dtype: torch.dtype, generator: torch.Generator) -> list[tuple[Tensor, Interval]]:
    """Weights and intervals: ordinary, of mixed scale, cancelling, vanishing, and of width zero."""
    big = 1e16 if dtype == torch.float64 else 1e8
    small = math.sqrt(tiny(dtype)) * 0.8
    cases = []
    for count in (1, 2, 5, 8):
        for exponents in ((-2, 2), (-30, 30)):
            weights = random_floats((count,), dtype, generator, exponents)
            ends = random_floats((2, count), dtype, generator, exponents).sort(0).values
            cases += [(weights, Interval(ends[0], ends[1])), (weights, Interval.exact(ends[0]))]
    for order in itertools.permutations((big, 1.0, -big)):
        ones = torch.ones(3, dtype=dtype)
        weights = torch.tensor(order, dtype=dtype)
        cases += [(weights, Interval.exact(ones)), (weights, Interval(ones * 0.999, ones))]
    lost = math.sqrt(tiny(dtype) * torch.finfo(dtype).eps) / 2  # its square is rounded to zero
    for count in (1, 8):
        zero_products = torch.full((count,), lost, dtype=dtype)
        cases.append((zero_products, Interval.exact(zero_products)))
    vanishing = torch.tensor([small, -small, small], dtype=dtype)
    return [*cases, (vanishing, Interval.exact(vanishing)), (vanishing, Interval(-vanishing.abs(), vanishing.abs()))]


@both_dtypes
def test_dot_products_hold_all_exact_sums(dtype: torch.dtype, generator: torch.Generator) -> None:
    for weights, x in dots(dtype, generator):
        result = interval_dot(weights, x)
        exact_weights = rationals(weights)
        for corner in corners(x.lower.tolist(), x.upper.tolist()):
            value = sum((w * rational(c) for w, c in zip(exact_weights, corner, strict=True)), fmpq(0))
            assert outside(result.lower, [value], result.upper) == [], (weights, corner)


@both_dtypes
def test_dot_products_are_tight(dtype: torch.dtype, generator: torch.Generator) -> None:
    weights, x = random_floats((2, 50, 30), dtype, generator, (-3, 3))
    result = interval_dot(weights, Interval.exact(x))
    size = (weights.abs() * x.abs()).sum(-1)
    assert torch.all(result.width <= 8 * 35 * unit(dtype) * size)


@both_dtypes
def test_dot_slack_covers_sums_of_any_order(dtype: torch.dtype, generator: torch.Generator) -> None:
    for weights, x in dots(dtype, generator):
        count = len(weights)
        products = [weights * x.upper]
        slack = dot_slack(products[0].abs(), count)
        exact = sum((a * b for a, b in zip(rationals(weights), rationals(x.upper), strict=True)), fmpq(0))
        orders = [torch.arange(count), torch.arange(count).flip(0), torch.randperm(count, generator=generator)]
        computed = [(weights[order] @ x.upper[order]).item() for order in orders]
        for order in orders:
            total = torch.zeros((), dtype=dtype)
            for entry in products[0][order]:
                total = total + entry
            computed.append(total.item())
        assert all(at_least(slack.item(), abs(rational(found) - exact)) for found in computed)


def test_dot_slack_covers_the_worst_sum() -> None:
    terms = torch.full((200,), unit(torch.float32))
    terms[0] = 1.0
    computed = 1.0  # in this order every further term rounds away
    slack = dot_slack(terms, 200)
    assert at_least(slack.item(), sum(rationals(terms), fmpq(0)) - rational(computed))


@both_dtypes
def test_dot_products_with_infinite_ends_and_broken_weights(dtype: torch.dtype) -> None:
    def dot(weights: list[float], lower: list[float], upper: list[float]) -> tuple[float, float]:
        result = interval_dot(torch.tensor(weights, dtype=dtype), interval(lower, upper, dtype))
        return result.lower.item(), result.upper.item()

    low, high = dot([0.0, 2.0], [-math.inf, 1.0], [math.inf, 1.0])
    assert low <= 2.0 <= high < 2.001
    assert low > 1.999
    assert dot([1.0, 1.0], [0.0, 0.0], [math.inf, 1.0])[1] == math.inf
    assert dot([1.0, -1.0], [0.0, 0.0], [math.inf, math.inf]) == (-math.inf, math.inf)
    for broken in (math.nan, math.inf, -math.inf):
        assert dot([broken, 1.0], [0.0, 0.0], [1.0, 1.0]) == (-math.inf, math.inf)
        assert dot([broken, 1.0], [1.0, 1.0], [1.0, 1.0]) == (-math.inf, math.inf)
    assert dot([1.0, 1.0], [math.nan, 0.0], [1.0, 1.0]) == (-math.inf, math.inf)
    large = torch.finfo(dtype).max
    assert dot([1.0, 1.0, -1.0], [large] * 3, [large] * 3) == (-math.inf, math.inf)
