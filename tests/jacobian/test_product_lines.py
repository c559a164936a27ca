"""Lines for slope times derivative: what each rule chooses, and offsets that hold to the last digit."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, random_floats, rationals
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unrounded
from jacobound.jacobian.recursion.product_lines import ProductLines, ProductRelaxation, chord, constant

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def lines_of(rule: ProductRelaxation, slope: tuple[float, float], low: list[float], high: list[float],
             rounding: float = 0.0) -> ProductLines:  # fmt: skip
    ends = torch.tensor([[slope[0]] * len(low), [slope[1]] * len(low)], dtype=torch.float64).reshape(2, 1, 1, -1)
    derivative = Interval(*torch.tensor([low, high], dtype=torch.float64).reshape(2, 1, 1, -1))
    return rule(Interval(ends[0], ends[1]), derivative, torch.full_like(derivative.lower, rounding))


def assert_near(found: Tensor, expected: list[float]) -> None:
    assert torch.allclose(found.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", [constant, chord])
def test_a_known_sign_needs_no_offset(rule: ProductRelaxation) -> None:
    found = lines_of(rule, (-0.25, 0.75), [1.0, -2.0, 0.0], [2.0, -1.0, 3.0])
    assert_near(found.upper_slope, [0.75, -0.25, 0.75])
    assert_near(found.lower_slope, [-0.25, 0.75, -0.25])
    assert not found.upper_offset.any() and not found.lower_offset.any()


def test_constants_bound_a_product_of_unknown_sign() -> None:
    found = lines_of(constant, (0.25, 0.75), [-1.0, -3.0], [2.0, 1.0])
    assert not found.upper_slope.any() and not found.lower_slope.any()
    assert_near(found.upper_offset, [1.5, 0.75])
    assert_near(found.lower_offset, [-0.75, -2.25])


@pytest.mark.parametrize(("rounding", "speck"), [(1e-9, 2e-9), (0.0, 3e-15)])
def test_specks_of_the_other_sign_keep_the_slopes(rounding: float, speck: float) -> None:
    """Twice the rounding, or a few units of the larger end, count as zero; what they cost is an offset of that size."""
    found = lines_of(constant, (0.25, 0.75), [-speck, -2.0], [2.0, speck], rounding)
    assert_near(found.upper_slope, [0.75, 0.25])
    assert_near(found.lower_slope, [0.25, 0.75])
    assert 0 < found.upper_offset.max() < speck and -speck < found.lower_offset.min() < 0
    beyond = lines_of(constant, (0.25, 0.75), [-3 * speck, -2.0], [2.0, 3 * speck], rounding)
    assert not beyond.upper_slope.any() and not beyond.lower_slope.any()


def test_chords_pass_through_the_corners() -> None:
    """(L, aL), (U, cU) above and (L, cL), (U, aU) below."""
    (a, c), low, high = (0.25, 0.75), [-1.0, -3.0], [2.0, 1.0]
    found = lines_of(chord, (a, c), low, high)
    assert_near(found.upper_slope, [(c * u - a * y) / (u - y) for y, u in zip(low, high, strict=True)])
    assert_near(found.lower_slope, [(a * u - c * y) / (u - y) for y, u in zip(low, high, strict=True)])
    offsets = [(c - a) * -y * u / (u - y) for y, u in zip(low, high, strict=True)]
    assert_near(found.upper_offset, offsets)
    assert_near(found.lower_offset, [-value for value in offsets])


@both_dtypes
@pytest.mark.parametrize("rule", [constant, chord])
def test_offsets_hold_in_exact_numbers_at_every_corner(rule: ProductRelaxation, dtype: torch.dtype) -> None:
    """One end of the derivative close to zero: the offset is far below what is rounded to get it."""
    generator = Generator().manual_seed(3)
    for far in ((-3, 3), (-24, -20), (-45, -40)):
        slopes = random_floats((2, 1, 1, 300), dtype, generator, (-3, 3)).sort(0).values
        ends = random_floats((2, 1, 1, 300), dtype, generator, (-3, 3)).abs()
        ends[0] *= random_floats((1, 1, 300), dtype, generator, far).abs()
        swapped = torch.rand(1, 1, 300, generator=generator) < 0.5
        derivative = Interval(torch.where(swapped, -ends[1], -ends[0]), torch.where(swapped, ends[0], ends[1]))
        found = rule(Interval(slopes[0], slopes[1]), derivative, torch.zeros_like(derivative.lower))
        line = [rationals(part) for part in vars(found).values()]
        for s, y in itertools.product(slopes, (derivative.lower, derivative.upper)):
            for n, (a, b) in enumerate(zip(rationals(s), rationals(y), strict=True)):
                lower_slope, lower_offset, upper_slope, upper_offset = (part[n] for part in line)
                assert lower_slope * b + lower_offset <= a * b <= upper_slope * b + upper_offset


def test_gradients_are_finite_where_derivatives_are_known() -> None:
    known = torch.tensor([[[1.0, 0.0, -2.0]]]).double().requires_grad_()
    slope = Interval(torch.zeros(1, 1, 3).double(), torch.ones(1, 1, 3).double())
    with unrounded():
        found = chord(slope, Interval(known, known), torch.zeros_like(known))
        torch.stack(tuple(vars(found).values())).sum().backward()
    assert known.grad is not None and bool(torch.isfinite(known.grad).all())
