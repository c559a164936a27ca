"""Offsets of lines in exact numbers, where the terms nearly cancel and every outward step is needed."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, random_floats, rationals
from jacobound.activations import activation
from jacobound.activations.calculus.pieces import (
    derivative_range,
    evaluate,
    linear_piece,
    settled,
    turn_ends,
    value_range,
)
from jacobound.activations.lines.offsets import Lines, Slopes, _line_top, _tangent_top, enclosing_lines, shifted
from jacobound.arithmetic.intervals import Interval

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)

COUNT = 4000
Numbers = list[Tensor]


def floats(count: int, dtype: torch.dtype, generator: Generator, exponents: tuple[int, int] = (-3, 3)) -> Numbers:
    return list(random_floats((count, COUNT), dtype, generator, exponents).unbind())


def nearly(x: Tensor, generator: Generator) -> Tensor:
    """Floats a few units away."""
    steps = torch.randint(-3, 4, x.shape, generator=generator).to(x)
    return x + steps * torch.finfo(x.dtype).eps * x


@both_dtypes
def test_tangents_lie_above_in_exact_numbers(dtype: torch.dtype, generator: Generator) -> None:
    """``value - k point`` and the product of the differences cancel up to a few units."""
    k, point, far, steep = floats(4, dtype, generator)
    steep = torch.where(torch.rand(COUNT, generator=generator) < 0.5, steep, nearly(k, generator))
    away = torch.where(torch.rand(COUNT, generator=generator) < 0.5, far.abs(), point.abs() * torch.finfo(dtype).eps)
    ends = torch.stack([torch.minimum(point, nearly(point - away, generator)),
                        torch.maximum(point, nearly(point + away, generator))])  # fmt: skip
    term = torch.maximum((steep - k) * (ends[1] - point), (k - steep) * (point - ends[0])).clamp(min=0)
    value = nearly(torch.where(torch.rand(COUNT, generator=generator) < 0.7, k * point - term, k * point), generator)
    spread = torch.where(torch.rand(COUNT, generator=generator) < 0.5, 0.0, steep.abs() * 1e-3)
    derivative = Interval(steep - spread, steep + spread)
    found = _tangent_top(Interval.exact(value), derivative, k, point, ends)
    parts = (value, k, point, derivative.lower, derivative.upper, ends[0], ends[1], found)
    for v, slope, at, low, high, first, last, top in zip(*map(rationals, parts), strict=True):
        truth = v - slope * at + max((high - slope) * (last - at), (slope - low) * (at - first), 0)
        assert truth <= top
    small = ((found - value + k * point).abs() <= 1e6).float().mean()
    assert small > 0.5


@both_dtypes
def test_lines_lie_above_in_exact_numbers(dtype: torch.dtype, generator: Generator) -> None:
    slope, k, z, offset = floats(4, dtype, generator)
    k = torch.where(torch.rand(COUNT, generator=generator) < 0.5, k, nearly(slope, generator))
    offset = torch.where(torch.rand(COUNT, generator=generator) < 0.7, nearly(-(slope - k) * z, generator), offset)
    found = _line_top(slope, offset, k, torch.stack([z, z]))
    for a, b, c, at, top in zip(*map(rationals, (slope, offset, k, z, found)), strict=True):
        assert a * at + b - c * at <= top
    alone = _line_top(slope, 0.0, k, torch.stack([z, torch.zeros_like(z)]))
    for a, c, at, top in zip(*map(rationals, (slope, k, z, alone)), strict=True):
        assert max(a * at - c * at, 0) <= top


@both_dtypes
def test_shifted_lines_hold_and_stay_where_nothing_moves(dtype: torch.dtype, generator: Generator) -> None:
    """A line below ``s(u)`` with u = z - shift is one below ``s`` of z with another offset."""
    slope, offset, low, high = floats(4, dtype, generator)
    shift = Interval(torch.minimum(low, high), torch.maximum(low, high))
    still = torch.rand(COUNT, generator=generator) < 0.2
    shift = shift.map(lambda end: torch.where(still, 0.0, end))
    side = torch.rand(COUNT, generator=generator)
    shift = Interval(
        torch.where(side < 0.2, 0.0, torch.where(side > 0.8, -1.0, shift.lower)),
        torch.where(side < 0.2, 1.0, torch.where(side > 0.8, 0.0, shift.upper)),
    )
    slope = torch.where(torch.rand(COUNT, generator=generator) < 0.2, 0.0, slope)
    found = shifted(Lines(slope, offset, slope, offset), shift)
    for end in (shift.lower, shift.upper):
        parts = (slope, offset, end, found.lower_offset, found.upper_offset)
        for k, b, moved, below, above in zip(*map(rationals, parts), strict=True):
            assert below <= b - k * moved <= above
    fixed = (shift.magnitude() == 0) | (slope == 0)
    for end in (found.lower_offset, found.upper_offset):
        assert torch.equal(end[fixed], offset[fixed])


@pytest.mark.parametrize("end", ["lower", "upper"])
def test_intervals_without_an_end_have_constants(end: str) -> None:
    act, one = activation("tanh"), torch.ones(1, dtype=torch.float64)
    x = Interval(-one * (math.inf if end == "lower" else 1), one * (math.inf if end == "upper" else 1))
    lines = enclosing_lines(act, x, Slopes(one, one, (0 * one, 0 * one)))
    assert float(lines.lower_slope) == 0.0 == float(lines.upper_slope)
    known = value_range(act, x)
    assert torch.equal(lines.lower_offset, known.lower) and torch.equal(lines.upper_offset, known.upper)


@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf])
def test_slopes_that_are_no_numbers_become_zero_each_by_itself(wild: float) -> None:
    act, one = activation("tanh"), torch.ones(2, dtype=torch.float64)
    x, bad = Interval(-one, one), torch.tensor([wild, 0.5], dtype=torch.float64)
    points = (0 * one, 0 * one)
    below, above = enclosing_lines(act, x, Slopes(bad, one, points)), enclosing_lines(act, x, Slopes(one, bad, points))
    assert below.lower_slope.tolist() == [0.0, 0.5] and below.upper_slope.tolist() == [1.0, 1.0]
    assert above.upper_slope.tolist() == [0.0, 0.5] and above.lower_slope.tolist() == [1.0, 1.0]
    assert all(bool(end.isfinite().all()) for lines in (below, above) for end in vars(lines).values())


def test_a_break_that_is_no_float_shows_both_slopes() -> None:
    """Softshrink bends at 0.1, between two floats of 32 bits: slope 0 before, 1 behind."""
    act = activation("softshrink:0.1").to("cpu", torch.float32)
    like = torch.zeros(1)
    low, high = (like + end for end in turn_ends(act.breaks[-1], like))
    assert low < high
    for x, slopes in (
        (Interval(low - 0.05, high), (0.0, 1.0)),
        (Interval(low, high + 0.05), (0.0, 1.0)),
        (Interval(low, high), (0.0, 1.0)),
        (Interval(low - 0.05, low), (0.0, 0.0)),
        (Interval(high, high + 0.05), (1.0, 1.0)),
    ):
        found = derivative_range(act, x)
        assert (float(found.lower), float(found.upper)) == slopes
    assert settled(act, Interval(low - 0.05, low)).all() and not settled(act, Interval(low, high)).any()


def test_between_breaks_each_piece_has_its_own_value() -> None:
    act = activation("hardtanh:-1,1")
    points = torch.tensor([-math.inf, -3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 7.0, math.inf], dtype=torch.float64)
    found = evaluate(act, points)
    assert torch.equal(found.lower, points.clamp(-1, 1)) and torch.equal(found.upper, points.clamp(-1, 1))


def test_crossed_and_damaged_intervals_are_not_settled() -> None:
    ends = torch.tensor([[1.0, math.nan, 1.0, 2.0], [2.0, 1.0, math.nan, 1.0]], dtype=torch.float64)
    assert settled(activation("relu"), Interval(*ends)).tolist() == [True, False, False, False]
    point = torch.tensor([3.0], dtype=torch.float64)
    assert settled(activation("relu"), Interval(point, point)).all()


@pytest.mark.parametrize(
    ("slope", "offset"), [(2.0, 0.5), (0.1, 0.0), (0.0, -3.0), (Fraction(1, 6), 0.5), (1.0, Fraction(-1, 3))]
)
def test_linear_pieces_have_the_values_of_their_line(slope: float | Fraction, offset: float | Fraction) -> None:
    z = torch.tensor([-7.0, -0.3, 0.0, 0.1, 2.0], dtype=torch.float64)
    piece = linear_piece(slope, offset)
    found, steepness = piece.value(Interval.exact(z)), piece.derivative(Interval.exact(z))
    exact = [Fraction(slope) * Fraction(x) + Fraction(offset) for x in z.tolist()]
    for low, high, value in zip(found.lower.tolist(), found.upper.tolist(), exact, strict=True):
        assert Fraction(low) <= value <= Fraction(high)
        assert high - low <= 1e-15 * (abs(float(value)) + 1)
    assert steepness.contains(torch.full_like(z, float(slope))).all() and float(steepness.width.max()) <= 1e-16
