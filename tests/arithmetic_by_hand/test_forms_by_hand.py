"""Single functions behind `jacobian/test_forms.py`, number by number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from flint import arb, fmpq
from torch import Generator, Tensor

from exact import at_least, at_most, ball, random_floats, rational, rationals
from jacobound.jacobian.affine.forms import Forms, Symbols

INF = math.inf


DOUBLE = torch.float64


U = fmpq(1, 2**53)


SETS, INPUTS, COUNT, ENTRIES = 2, 2, 5, 60


def floats(shape: Sequence[int], generator: Generator, exponents: tuple[int, int] = (-3, 3)) -> Tensor:
    return random_floats(shape, DOUBLE, generator, exponents)


def close(found: Tensor, exact: Sequence[fmpq | arb], room: fmpq | float = 40 * U) -> None:
    """No number lies below the exact one, nor far above it."""
    for number, value in zip(found.flatten().tolist(), exact, strict=True):
        assert at_least(number, value), (number, value)
        assert at_most(number, value * (1 + (ball(room) if isinstance(value, arb) else room)) + fmpq(1, 10**290))


def corner_values(a: Tensor, b: Tensor, half: Sequence[float]) -> list[fmpq]:
    """The largest product of two linear forms over the corners; a, b of shape (symbols, entries)."""
    found = []
    for left, right in zip(a.T, b.T, strict=True):
        values = []
        for signs in itertools.product((-1, 1), repeat=len(half)):
            u, v = (
                sum((x * s * rational(h) for x, s, h in zip(rationals(one), signs, half, strict=True)), fmpq(0))
                for one in (left, right)
            )
            values.append(u * v)
        found.append(max(values))
    return found


def linear_form(linear: Tensor) -> Forms:
    nothing = torch.zeros(1, 1, linear.shape[1], dtype=DOUBLE)
    return Forms(nothing, linear[None, None], nothing)


def test_products_of_linear_forms_that_cancel_hold() -> None:
    """The large parts nearly cancel in the sum of both forms, and what is left decides; then in the difference."""
    generator = Generator().manual_seed(10)
    count = 400
    k, s = 1000 * (1 + torch.rand(count, generator=generator)).double(), floats((count,), generator, (-2, 2)).abs()
    one, step = torch.ones(count, dtype=DOUBLE), 2.0**-52
    a = torch.stack((one, k, -k))
    b = s * torch.stack((one, -k * (1 - step), k * (1 + step)))
    half = torch.ones(1, 3, dtype=DOUBLE)
    symbols = Symbols(torch.zeros_like(half), half, None, 1.0)
    plus = symbols._product_of_linear(linear_form(a), linear_form(b))
    minus = symbols._product_of_linear(linear_form(a), linear_form(-b))
    exact = corner_values(a, b, [1.0] * 3)
    for low, high, value in zip(minus.lower.flatten().tolist(), plus.upper.flatten().tolist(), exact, strict=True):
        assert rational(high) >= value and rational(low) <= -value
        assert rational(high) <= value * (1 + fmpq(1, 10**10)) + fmpq(1, 10**6)


@pytest.mark.parametrize(("size", "small", "other"), [(1e300, 1e-310, 1e-50), (1e293, 6.9e-304, 6.9e-51)])
def test_coefficients_that_vanish_when_they_are_scaled_count(size: float, small: float, other: float) -> None:
    """The first one altogether; the second one is 1.4 of the smallest number, and rounded to 1."""
    half = torch.tensor([[size]], dtype=DOUBLE)
    symbols = Symbols(torch.zeros_like(half), half, None, 1.0)
    a, b = torch.tensor([[small], [0.0]], dtype=DOUBLE), torch.tensor([[0.0], [other]], dtype=DOUBLE)
    (exact,) = corner_values(a, b, [size, 1.0])
    for one, two in ((a, b), (b, a)):
        found = symbols._product_of_linear(linear_form(one), linear_form(two))
        assert rational(float(found.upper)) >= exact and rational(float(found.lower)) <= -exact
        assert float(found.upper) <= 1.001 * float(ball(exact).mid())


def test_products_in_l1_balls_are_a_quarter_or_all_of_the_product_of_both_reaches() -> None:
    """u = a x, v = b y with |x| + |y| <= r: a b r² / 4 is attained; u = a x, v = b x: all of it, of one sign."""
    generator = Generator().manual_seed(11)
    a, b, none = *floats((2, ENTRIES), generator), torch.zeros(ENTRIES, dtype=DOUBLE)
    radius = torch.tensor([0.75], dtype=DOUBLE)
    half = torch.ones(1, 2, dtype=DOUBLE)
    symbols = Symbols(torch.zeros_like(half), half, radius, INF)
    products = [abs(x * y) * fmpq(9, 16) for x, y in zip(rationals(a), rationals(b), strict=True)]
    found = symbols._product_of_linear(linear_form(torch.stack((a, none))), linear_form(torch.stack((none, b))))
    for end in (found.upper, -found.lower):
        close(end, [x / 4 for x in products], 120 * U)
    found = symbols._product_of_linear(linear_form(torch.stack((a, none))), linear_form(torch.stack((b, none))))
    same = (a * b > 0).tolist()
    high, low = found.upper.flatten().tolist(), found.lower.flatten().tolist()
    for k, exact in enumerate(products):
        large, small = (high[k], -low[k]) if same[k] else (-low[k], high[k])
        assert exact <= rational(large) <= exact * (1 + 20 * U) + fmpq(1, 10**290)
        assert 0 <= small <= 1e-12 * float(ball(exact).mid())
    nothing = symbols._product_of_linear(
        linear_form(torch.zeros(0, 3).double()), linear_form(torch.zeros(0, 3).double())
    )
    assert float(nothing.magnitude().max()) <= 1e-300 and bool(nothing.contains(torch.zeros(1, 1, 3)).all())
