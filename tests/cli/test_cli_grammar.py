"""The small grammars of the command line, and numbers and names in print."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import torch

import jacobound as jb
from jacobound import methods
from jacobound import words as text
from jacobound.cli.given import options
from jacobound.cli.shown.summaries import certain_signs, row_sum
from jacobound.inputs.grammar import parse_clip, parse_fraction, parse_radii, parse_rows, row_matrix, row_names
from jacobound.method import JacobianMethod, Method, OutputMethod


def test_a_radius_stays_the_decimal_that_was_given() -> None:
    assert parse_radii("0.1") == [Decimal("0.1")]
    assert parse_radii(" 1e-3 , 0.10") == [Decimal("0.001"), Decimal("0.1")]
    assert parse_radii("0") == [Decimal(0)]


def test_even_steps_are_exact() -> None:
    assert parse_radii("0.1:0.4:4") == [Decimal("0.1"), Decimal("0.2"), Decimal("0.3"), Decimal("0.4")]
    assert parse_radii("0:1:3") == [Decimal(0), Decimal("0.5"), Decimal(1)]


def test_even_ratios_keep_both_ends_and_round_between() -> None:
    assert parse_radii("0.001:0.1:3log") == [Decimal("0.001"), Decimal("0.01"), Decimal("0.1")]
    found = parse_radii("0.0001:0.1:8log")
    assert len(found) == 8 and found[0] == Decimal("0.0001") and found[-1] == Decimal("0.1")
    ratios = [float(high / low) for low, high in pairwise(found)]
    assert ratios == pytest.approx([10 ** (3 / 7)] * 7, rel=1e-10)
    assert all(len(radius.as_tuple().digits) <= 12 for radius in found)


def test_ranges_and_numbers_mix() -> None:
    assert [str(radius) for radius in parse_radii("0.5,1:2:2")] == ["0.5", "1", "2"]


@pytest.mark.parametrize(
    "given",
    ["", "x", "1,", "nan", "inf", "-1", "1:2", "1:2:3:4", "1:2:1", "1:2:0", "1:2:x", "0:1:3log", "-1:1:3", "1:nan:3",
     "1:2:99999", "1:2:3.5", "1:2:3lin", "1:2:³"],
)  # fmt: skip
def test_what_is_no_radius_is_refused(given: str) -> None:
    with pytest.raises(jb.InvalidRegionError):
        parse_radii(given)


def test_rows_are_outputs_and_margins() -> None:
    rows = parse_rows("3, 5-0")
    assert rows == [(3, None), (5, 0)]
    assert row_matrix(rows, 6).tolist() == [[0, 0, 0, 1, 0, 0], [-1, 0, 0, 0, 0, 1]]
    assert row_names(rows, 6) == ["3", "5-0"]
    assert row_names(None, 2) == ["0", "1"]


@pytest.mark.parametrize("given", ["", "a", "3-", "-3", "3--5", "3.0", "3:5", "1-2-3"])
def test_what_is_no_row_is_refused(given: str) -> None:
    with pytest.raises(jb.ShapeError, match="margin"):
        parse_rows(given)


@pytest.mark.parametrize(
    ("given", "complaint"), [("10", "outputs 0 to 9"), ("0-10", "outputs 0 to 9"), ("4-4", "always 0")]
)
def test_rows_that_the_network_lacks_are_refused(given: str, complaint: str) -> None:
    with pytest.raises(jb.ShapeError, match=complaint):
        row_matrix(parse_rows(given), 10)


def test_the_clip_range_is_rounded_outward() -> None:
    low, high = parse_clip(("0.1", "0.7"))
    assert Decimal(low) <= Decimal("0.1") and Decimal(high) >= Decimal("0.7")
    assert low == math.nextafter(0.1, -1) and high == math.nextafter(0.7, 1)
    assert parse_clip(("-0.5", "0.5")) == (-0.5, 0.5)


@pytest.mark.parametrize("ends", [("1", "0"), ("x", "1"), ("nan", "1"), ("0", "nan"), ("snan", "1")])
def test_what_is_no_clip_range_is_refused(ends: tuple[str, str]) -> None:
    with pytest.raises(jb.InvalidRegionError):
        parse_clip(ends)


@pytest.mark.parametrize("given", ["x", "1/0", "nan", "inf", ""])
def test_what_is_no_factor_is_refused(given: str) -> None:
    assert parse_fraction("1/255", "--scale") == Fraction(1, 255)
    with pytest.raises(jb.InvalidRegionError, match="--scale"):
        parse_fraction(given, "--scale")


def test_every_method_has_its_word() -> None:
    exported = [getattr(methods, name) for name in methods.__all__]
    words = {
        kind: get_args(get_type_hints(kind)["method"]) for kind in (options.JacobianOptions, options.ConstantOptions)
    }
    jacobian = {kind.__name__.lower() for kind in exported if issubclass(kind, JacobianMethod)}
    assert set(words[options.JacobianOptions]) == jacobian
    for word in words[options.JacobianOptions]:
        assert type(options.JacobianOptions(method=word).jacobian_method()).__name__.lower() == word
    # Any of several: typing writes the choice or None as a union of both.
    known = {word for part in words[options.ConstantOptions] for word in get_args(part)}
    constant = {kind.__name__.lower() for kind in exported if issubclass(kind, Method)}
    assert known == constant
    for word in known - {"best"}:
        assert type(options.ConstantOptions(method=word).constant_method()).__name__.lower() == word
    assert options.ConstantOptions(method="best").constant_method() is None
    ranges = {
        word for part in get_args(get_type_hints(options.MethodOptions)["preactivation"]) for word in get_args(part)
    }
    assert ranges == {kind.__name__.lower() for kind in exported if issubclass(kind, OutputMethod)}
    for word in ranges:
        assert type(options.MethodOptions(preactivation=word).output_method()).__name__.lower() == word


@pytest.mark.parametrize("value", [0.1, -0.1, 1 / 3, -2 / 3, 123456789.123, 1e-9, 179.2998149, 5e-324, 1e300, 0.0])
def test_printed_bounds_still_hold(value: float) -> None:
    assert Decimal(text.rounded_down(value)) <= Decimal(value) <= Decimal(text.rounded_up(value))
    assert float(text.rounded_up(value)) == pytest.approx(value, rel=2e-5, abs=0)


def test_printed_infinities() -> None:
    assert text.rounded_up(math.inf) == "inf" and text.rounded_down(-math.inf) == "-inf"


def test_a_name_can_not_steer_the_terminal() -> None:
    assert text.printable("a\x1b[31m\r\n") == "a\\x1b[31m\\r\\n"


def test_the_row_sum_is_an_upper_bound() -> None:
    lower = torch.tensor([-0.1, 0.2, math.nan])
    assert certain_signs(lower, torch.tensor([0.1, 0.3, 1.0])).tolist() == [False, True, False]
    low, high = torch.full((1000,), -0.1, dtype=torch.float64), torch.full((1000,), 0.05, dtype=torch.float64)
    assert Fraction(row_sum(low, high)) >= 1000 * Fraction(0.1)
    assert row_sum(torch.tensor([-math.inf]), torch.tensor([1.0])) == math.inf
