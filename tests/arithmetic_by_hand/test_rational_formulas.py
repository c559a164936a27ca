"""Parts of activations that are rational functions, against rational numbers: constants, lines, quotients, powers."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, at_least, outside, random_floats, rational, rationals
from jacobound.activations import activation
from jacobound.activations.calculus import formulas
from jacobound.activations.calculus.numbers import float_ends, product, quotient
from jacobound.activations.lines import offsets as lines
from jacobound.arithmetic.intervals import Interval

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)
SCALES = ((-3, 3), (-40, 40), (-60, -50), (20, 60))
COUNT = 300


def numbers(dtype: torch.dtype, generator: Generator, count: int, scale: int = 0) -> Tensor:
    return random_floats((count, COUNT), dtype, generator, SCALES[scale])


def intervals(dtype: torch.dtype, generator: Generator, scale: int = 0, positive: bool = False) -> Interval:
    ends = numbers(dtype, generator, 2, scale)
    ends[1, ::2] = torch.nextafter(ends[0, ::2], torch.full_like(ends[0, ::2], math.inf))  # every second one narrow
    ends = ends.abs() if positive else ends
    return Interval(ends.amin(0), ends.amax(0))


@both_dtypes
def test_constants_lie_between_their_floats(dtype: torch.dtype) -> None:
    for value in (0.1, -1 / 3, Fraction(1, 3), Fraction(-10, 7), 1e-320, Fraction(1, 10**400)):
        low, high = float_ends.__wrapped__(value, dtype)
        assert rational(low) < fmpq(*Fraction(value).as_integer_ratio()) < rational(high) or low == high == value
        below = torch.tensor(low, dtype=dtype)
        assert low == high or torch.nextafter(below, below + math.inf).item() == high
    for value in (0.5, -2.0, 0.0, Fraction(3, 4), math.inf, -math.inf):
        assert float_ends.__wrapped__(value, dtype) == (value, value)
    if dtype == torch.float32:
        largest = torch.finfo(dtype).max
        assert float_ends.__wrapped__(1e200, dtype) == (largest, math.inf)
        assert float_ends.__wrapped__(Fraction(-(2**200)), dtype) == (-math.inf, -largest)
    pair = quotient((1.0, 1.0 + 2.0**-52), 3.0)
    assert rational(pair[0]) < fmpq(1, 3) and rational(pair[1]) > (1 + fmpq(1, 2**52)) / 3
    assert pair[1] - pair[0] <= 3 * 2.0**-54


@both_dtypes
def test_products_with_constants_are_exact_where_nothing_rounds(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1.0, 0.3, -0.7, math.inf, -math.inf], dtype=dtype)
    for factor, expected in ((0.0, torch.zeros_like(x)), (1.0, x)):
        for one in (factor, torch.full_like(x, factor)):
            found = product(x, one)
            assert torch.equal(found.lower, expected) and torch.equal(found.upper, expected)
    found = product(x, torch.full_like(x, 0.1))
    assert torch.equal(found.lower[[0, 4, 5]], x[[0, 4, 5]]) and torch.equal(found.upper[[0, 4, 5]], x[[0, 4, 5]])
    tenth = rational(torch.tensor(0.1, dtype=dtype).item())
    assert outside(found.lower[1:4], [tenth * v for v in rationals(x[1:4])], found.upper[1:4]) == []


@both_dtypes
@pytest.mark.parametrize("scale", range(len(SCALES)))
def test_offsets_of_lines_cover_what_they_must(dtype: torch.dtype, scale: int) -> None:
    """Values over ends, tangents over an interval, and straight pieces, each less the line."""
    generator = Generator().manual_seed(scale)
    value, slope = intervals(dtype, generator), intervals(dtype, generator)
    (k,) = numbers(dtype, generator, 1, scale)
    ends = numbers(dtype, generator, 2, scale).sort(0).values
    point = torch.maximum(torch.minimum(ends[0] + (ends[1] - ends[0]) * 0.3, ends[1]), ends[0])
    both = Interval(value.lower.expand(2, -1), value.upper.expand(2, -1))
    highest, lowest = lines._highest(both, k, ends), lines._lowest(both, k, ends)
    tangent = lines._tangent_top(value, slope, k, point, ends)
    straight = lines._line_top(slope.lower, value.lower, k, ends)
    through = lines._line_top(slope.lower, 0.0, k, ends)
    parts = zip(*map(rationals, (*ends, point, k, value.lower, value.upper, slope.lower, slope.upper)), strict=True)
    for n, (left, right, at, line, low, high, flat, steep) in enumerate(parts):
        assert at_least(highest[n].item(), max(high - line * z for z in (left, right)))
        assert at_least(-lowest[n].item(), -min(low - line * z for z in (left, right)))
        most = max((d - line) * (z - at) for d in (flat, steep) for z in (left, right))
        assert at_least(tangent[n].item(), high - line * at + most)
        assert at_least(straight[n].item(), max(flat * z + low - line * z for z in (left, right)))
        assert at_least(through[n].item(), max((flat - line) * z for z in (left, right)))


Rational = Callable[[fmpq], fmpq]
ONE_ARGUMENT: dict[str, tuple[Callable[[Interval], Interval], Rational]] = {
    "softsign": (formulas.softsign, lambda x: x / (1 + abs(x))),
    "derivative of softsign": (formulas.softsign_derivative, lambda x: 1 / (1 + abs(x)) ** 2),
    **{f"power {n}": (lambda x, n=n: formulas.power(x, n), lambda x, n=n: x**n) for n in (0, 1, 2, 3, 6)},
}


@both_dtypes
@pytest.mark.parametrize("scale", [0, 2, 3])
@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_rational_functions_hold_at_both_ends(name: str, scale: int, dtype: torch.dtype) -> None:
    function, exact = ONE_ARGUMENT[name]
    scale = 0 if dtype == torch.float32 and name.startswith("power") else scale
    x = intervals(dtype, Generator().manual_seed(scale), scale)
    found = function(x)
    for end in (x.lower, x.upper):
        assert outside(found.lower, [exact(value) for value in rationals(end)], found.upper) == []


@both_dtypes
@pytest.mark.parametrize("n", [1, 2, 3])
def test_inverse_powers_hold_at_both_ends(n: int, dtype: torch.dtype) -> None:
    x = intervals(dtype, Generator().manual_seed(n), 0, positive=True)
    for one in (x, -x):
        found = formulas.inverse_power(one, n)
        for end in (one.lower, one.upper):
            assert outside(found.lower, [1 / value**n for value in rationals(end)], found.upper) == []


@both_dtypes
def test_products_and_quotients_of_sizes(dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(7)
    x, y = (intervals(dtype, generator, positive=True) for _ in range(2))
    times, by = formulas._times(x, y), formulas._by(x, y)
    low, high, small, large = map(rationals, (x.lower, x.upper, y.lower, y.upper))
    for pair in ((low, small), (high, large)):
        assert outside(times.lower, [a * b for a, b in zip(*pair, strict=True)], times.upper) == []
    for pair in ((low, large), (high, small)):
        assert outside(by.lower, [a / b for a, b in zip(*pair, strict=True)], by.upper) == []


@pytest.mark.parametrize("name", ["relu", "leaky_relu:0.1", "abs", "tanh", "sigmoid", "gelu"])
def test_lines_over_unbounded_intervals_are_the_range(name: str) -> None:
    """One infinite end is enough."""
    x = Interval(torch.tensor([-math.inf, -1.0, -math.inf]).double(), torch.tensor([1.0, math.inf, math.inf]).double())
    function = activation(name)
    found, values = function.lines(x), function.range(x)
    assert not found.lower_slope.any() and not found.upper_slope.any()
    assert torch.all(found.lower_offset <= values.lower) and torch.all(found.upper_offset >= values.upper)
    finite = torch.isfinite(values.upper)
    assert torch.allclose(found.upper_offset[finite], values.upper[finite])
