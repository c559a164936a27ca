"""Every primitive on every family of numbers against exact rationals and balls (`python -m campaign` does more)."""

from __future__ import annotations

import math

import pytest
import torch
from flint import arb, ctx, fmpq

from campaign import functions, linear
from campaign.families import NUMBERS, WIDTHS, inside, intervals
from campaign.primitives import CHECKS, Check
from campaign.runner import generator_of
from exact import DTYPE_NAMES, DTYPES, outside, rational
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unrounded
from jacobound.operators.kinds import Sparse
from jacobound.operators.norms import operator_norm

TIMES = 5
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


@both_dtypes
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_primitives_hold(check: Check, dtype: torch.dtype) -> None:
    for index in range(TIMES):
        found = check(dtype, generator_of(check.__name__, 0, index))
        assert not found.violations, f"{len(found.violations)}: {found.violations[:3]}"
        assert sum(found.cases.values()) > 0


# Without rounding terms these have nothing left to lose, or take another path.
ROBUST = {"product_lines", "definiteness"}


@both_dtypes
@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ not in ROBUST], ids=lambda check: check.__name__)
def test_without_rounding_terms_they_do_not_hold(check: Check, dtype: torch.dtype) -> None:
    """So that the test above can fail."""
    with unrounded():
        batches = (check(dtype, generator_of(check.__name__, 0, index)) for index in range(10 * TIMES))
        assert any(found.violations for found in batches)


@both_dtypes
def test_points_lie_inside_their_intervals(dtype: torch.dtype) -> None:
    generator = generator_of("points", 0, 0)
    for family in NUMBERS:
        for width in WIDTHS:
            x = intervals(family, width, (30,), dtype, generator)
            points = inside(x, generator)
            assert not outside(x.lower, points, x.upper), (family, width)
            assert bool((x.lower <= x.upper).all())


def test_a_ball_denies_only_what_is_certainly_wrong() -> None:
    with ctx.workprec(300):
        third = arb(1) / 3
        assert functions.certainly_outside(third, 0.34, 1.0) and functions.certainly_outside(third, 0.0, 0.33)
        assert not functions.certainly_outside(third, 0.33, 0.34)
        for low, high in ((math.nan, 1.0), (0.0, math.nan), (math.inf, math.inf), (-math.inf, -math.inf)):
            assert functions.certainly_outside(third, low, high), (low, high)
        assert not functions.certainly_outside(third, -math.inf, math.inf)


def test_norms_are_compared_by_their_squares() -> None:
    entries = [fmpq(3), fmpq(-4)]
    assert [linear.square_of_norm(entries, p) for p in (1, 2, math.inf)] == [49, 25, 16]
    assert linear.is_norm_bound(5.0, fmpq(25)) and not linear.is_norm_bound(math.nextafter(5.0, 0), fmpq(25))
    assert not linear.is_norm_bound(math.nan, fmpq(0)) and not linear.is_norm_bound(-6.0, fmpq(25))
    assert linear.is_norm_bound(math.inf, rational(1e300) ** 2)


def test_an_enclosure_that_is_too_narrow_is_seen() -> None:
    x = Interval(torch.tensor([0.0]), torch.tensor([1.0]))
    assert outside(x.lower, [fmpq(3, 2)], x.upper) and outside(torch.tensor([math.nan]), [fmpq(0)], x.upper)


@both_dtypes
def test_the_spectral_norm_of_uncertain_weights_covers_the_largest(dtype: torch.dtype) -> None:
    """Weights 1 that may be 1.25: the norm of four of them in a square is 2.5, not 2."""
    weight, index = torch.ones(2, 2, dtype=dtype), torch.tensor([[0, 0], [1, 1]])
    found = operator_norm(Sparse(weight, index, (2,), radius=weight / 4), 2).item()
    assert 2.5 <= found <= 2.5 * (1 + 1e-5)
    assert 2.0 <= operator_norm(Sparse(weight, index, (2,)), 2).item() <= 2.0 * (1 + 1e-5)
