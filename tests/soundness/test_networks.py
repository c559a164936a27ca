"""Tiny networks of all families, regions, methods and norms against exact arithmetic; the campaign does more."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from flint import arb, ctx, fmpq

from campaign import claims
from campaign.claims import Truth, attempt, denied, status_is_wrong, steepest_slope
from campaign.networks import random_ball, random_region
from campaign.runner import Tally, generator_of
from exact import BITS, rational, rationals
from jacobound import Ball, Status
from jacobound.arithmetic.rounding import unrounded

NETWORKS = 60


@pytest.mark.parametrize("kind", sorted(set(claims.KINDS)))
def test_no_claim_is_denied(kind: str) -> None:
    tally = Tally()
    with ctx.workprec(BITS):
        for index in range(NETWORKS):
            tally.merge(attempt(kind, generator_of(kind, 0, index)))
    assert not tally.violations, f"{len(tally.violations)}: {tally.violations[:3]}"
    assert {"outputs", "Jacobian entries", "constants"} <= set(tally.cases)
    assert tally.cases["refused"] <= NETWORKS // 3


@pytest.mark.parametrize("kind", sorted(set(claims.KINDS)))
def test_without_rounding_terms_some_claims_are_denied(kind: str) -> None:
    """So that the test above can fail."""
    tally = Tally()
    with ctx.workprec(BITS), unrounded():
        for index in range(2 * NETWORKS):
            tally.merge(attempt(kind, generator_of(kind, 0, index)))
    # Status says not certified there, which is one complaint of every question.
    assert any("is not in" in line or "is below" in line for line in tally.violations)


def test_points_of_balls_lie_inside() -> None:
    generator = generator_of("balls", 0, 0)
    for _ in range(60):
        ball, points = random_ball(3, generator)
        radius = fmpq(*map(int, str(rational_decimal(str(ball.radius))).split("/"))) if ball.radius != "0" else fmpq(0)
        middle = rationals(torch.as_tensor(ball.center))
        for point in points:
            offsets = [abs(a - b) for a, b in zip(point, middle, strict=True)]
            length = {1: sum(offsets, fmpq(0)), math.inf: max(offsets)}.get(ball.p)
            if length is None:
                assert sum((o * o for o in offsets), fmpq(0)) <= radius**2
            else:
                assert length <= radius


def rational_decimal(text: str) -> str:
    from fractions import Fraction

    number = Fraction(text)
    return f"{number.numerator}/{number.denominator}"


def test_all_kinds_of_regions_are_drawn() -> None:
    generator = generator_of("regions", 0, 0)
    regions = [random_region(2, torch.float64, generator)[0] for _ in range(200)]
    assert {type(region).__name__ for region in regions} == {"Ball", "Box", "WholeSpace"}
    assert {region.p for region in regions if isinstance(region, Ball)} == {1, 2, math.inf}


def test_nan_and_impossible_infinities_are_denied() -> None:
    for number in (fmpq(1, 3), arb(1)):
        for low, high in ((math.nan, 2.0), (0.0, math.nan), (math.inf, math.inf), (-math.inf, -math.inf), (1.5, 2.0)):
            assert denied(low, number, high), (low, high)
        assert not denied(-math.inf, number, math.inf) and not denied(0.25, number, 1.0)


def test_a_status_that_says_too_much_is_wrong() -> None:
    finite, broken = torch.ones(2), torch.tensor([1.0, math.nan])
    assert status_is_wrong(Status.CERTIFIED, finite, broken) and status_is_wrong(Status.TIME_LIMIT, broken)
    assert status_is_wrong(Status.OVERFLOW, finite) and not status_is_wrong(Status.OVERFLOW, broken)
    assert not status_is_wrong(Status.MEMORY_LIMIT, finite)


def test_the_steepest_slope_of_a_line_is_its_slope() -> None:
    """f(x, y) = 3 x - 4 y between the corners of a square."""
    points = [[fmpq(a), fmpq(b)] for a, b in itertools.product((0, 1), repeat=2)]
    truth = Truth(points, [[3 * x - 4 * y] for x, y in points], [[[fmpq(3), fmpq(-4)]]] * 4)
    assert steepest_slope(truth, math.inf, 1) == 49
    assert steepest_slope(truth, 1, 2) == 16
    assert steepest_slope(truth, 2, 2) == fmpq(49, 2)  # the diagonal; the gradient itself is no direction that is tried
    wide = replace(truth, values=[[rational(float(k))] for k in range(4)], jacobians=[None] * 4)
    assert steepest_slope(wide, math.inf, math.inf) == 9
