"""Matrices of interpolation against torch and ONNX's own arithmetic, and their rational weights against formulas."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from jacobound import Graph, UnsupportedOpError
from jacobound.graph.nodes import Input
from jacobound.importers.lowering.resampling import interpolation
from jacobound.importers.lowering.steps import AffineSteps

HALF = Fraction(1, 2)
lengths = st.integers(1, 9)


def dense(rows: list[dict[int, Fraction]], length: int) -> Tensor:
    matrix = torch.zeros(len(rows), length, dtype=torch.float64)
    for i, row in enumerate(rows):
        for k, weight in row.items():
            matrix[i, k] = float(weight)
    return matrix


def half_pixel(step: Fraction) -> Callable[[int], Fraction]:
    return lambda i: (i + HALF) * step - HALF


def aligned(before: int, after: int) -> Callable[[int], Fraction]:
    return lambda i: Fraction(i * (before - 1), after - 1) if after > 1 else Fraction(0)


def by_torch(before: int, mode: str, **options: object) -> Tensor:
    """The matrix of a resize along one axis: torch's images of unit vectors, as rows of pixels for two axes."""
    units = torch.eye(before, dtype=torch.float64)[:, None]
    if mode == "bicubic":
        options = {key: (value, 1) if key == "size" else (value, 1.0) if key == "scale_factor" else value
                   for key, value in options.items()}  # fmt: skip
        return functional.interpolate(units[..., None], mode=mode, **options)[:, 0, :, 0].T  # type: ignore[arg-type]
    return functional.interpolate(units, mode=mode, **options)[:, 0].T  # type: ignore[arg-type]


@given(before=lengths, after=lengths, corners=st.booleans())
def test_linear_and_cubic_of_a_size(before: int, after: int, corners: bool) -> None:
    position = aligned(before, after) if corners else half_pixel(Fraction(before, after))
    for mode, name in (("linear", "linear"), ("cubic", "bicubic")):
        found = interpolation(before, after, mode=mode, position=position)
        expected = by_torch(before, name, size=after, align_corners=corners)
        assert torch.allclose(dense(found, before), expected, rtol=0, atol=1e-12)
        assert all(sum(row.values()) == 1 for row in found)


@given(before=lengths, scale=st.floats(0.4, 3.5), kept=st.booleans())
def test_linear_and_cubic_of_a_factor(before: int, scale: float, kept: bool) -> None:
    """Positions follow the factor itself, or the ratio of the sizes when torch computes it anew."""
    after = floor(before * scale)
    if not after:
        return
    position = half_pixel(1 / Fraction(scale) if kept else Fraction(before, after))
    for mode, name in (("linear", "linear"), ("cubic", "bicubic")):
        if mode == "linear" and before == after:
            continue  # torch copies then, whatever the factor
        expected = by_torch(before, name, scale_factor=scale, recompute_scale_factor=not kept, align_corners=False)
        found = interpolation(before, after, mode=mode, position=position)
        assert torch.allclose(dense(found, before), expected, rtol=0, atol=1e-12)


@given(before=lengths, after=lengths)
def test_nearest_and_area(before: int, after: int) -> None:
    step = Fraction(before, after)
    nearest = interpolation(before, after, mode="nearest", position=lambda i: i * step)
    exact = interpolation(before, after, mode="nearest-exact", position=half_pixel(step))
    for found, name in ((nearest, "nearest"), (exact, "nearest-exact")):
        expected = by_torch(before, name, size=after)
        ties = [place for place, row in enumerate(found) if not torch.equal(dense([row], before)[0], expected[place])]
        # torch computes positions in float32: it may differ where one lies just at a border, nowhere else.
        scaled = [(i if name == "nearest" else i + HALF) * step for i in ties]
        assert all(place.denominator == 1 for place in scaled)
    area = interpolation(before, after, mode="area", position=lambda i: Fraction(0))
    assert torch.allclose(dense(area, before), by_torch(before, "area", size=after), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [("floor", [0, 0, 1, 2]), ("ceil", [0, 1, 2, 2]), ("round_prefer_floor", [0, 0, 1, 2]),
     ("round_prefer_ceil", [0, 1, 2, 2])],
)  # fmt: skip
def test_roundings_of_positions_between_two_entries(rounding: str, expected: list[int]) -> None:
    places = [Fraction(-1, 2), Fraction(1, 2), Fraction(3, 2), Fraction(5, 2)]
    found = interpolation(3, 4, mode="nearest", position=places.__getitem__, nearest_rounding=rounding)
    assert [next(iter(row)) for row in found] == expected


def test_cubic_weights_are_those_of_keys() -> None:
    """At a quarter, with a = -1/2: -9/128, 111/128, 29/128, -3/128."""
    row = interpolation(6, 1, mode="cubic", position=lambda i: Fraction(9, 4), cubic_coeff=Fraction(-1, 2))[0]
    assert row == {1: Fraction(-9, 128), 2: Fraction(111, 128), 3: Fraction(29, 128), 4: Fraction(-3, 128)}


def test_entries_outside_are_left_out_or_stand_at_the_ends() -> None:
    place = Fraction(1, 4)
    inside = interpolation(6, 1, mode="cubic", position=lambda i: place, cubic_coeff=Fraction(-1, 2))[0]
    assert inside == {0: Fraction(-9 + 111, 128), 1: Fraction(29, 128), 2: Fraction(-3, 128)}
    without = interpolation(
        6, 1, mode="cubic", position=lambda i: place, cubic_coeff=Fraction(-1, 2), exclude_outside=True
    )[0]
    assert without == {0: Fraction(111, 137), 1: Fraction(29, 137), 2: Fraction(-3, 137)}
    beyond = interpolation(3, 1, mode="linear", position=lambda i: Fraction(-7, 2))[0]
    assert beyond == {0: Fraction(1)}
    with pytest.raises(UnsupportedOpError, match="outside the input"):
        interpolation(3, 1, mode="linear", position=lambda i: Fraction(-7, 2), exclude_outside=True)


def test_what_is_not_understood() -> None:
    with pytest.raises(UnsupportedOpError, match="spline"):
        interpolation(3, 3, mode="spline", position=Fraction)
    with pytest.raises(UnsupportedOpError, match="away"):
        interpolation(3, 3, mode="nearest", position=Fraction, nearest_rounding="away")
    with pytest.raises(UnsupportedOpError, match="0 entries"):
        interpolation(3, 0, mode="linear", position=Fraction)


@pytest.mark.parametrize("corners", [False, True])
def test_resizing_of_images_is_torchs(corners: bool) -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    steps = AffineSteps(torch.zeros((), dtype=torch.float64), 2)
    for mode, name in (("linear", "bilinear"), ("cubic", "bicubic")):
        matrices = {
            axis: interpolation(
                before,
                after,
                mode=mode,
                position=aligned(before, after) if corners else half_pixel(Fraction(before, after)),
            )
            for axis, before, after in ((1, 5, 8), (2, 4, 3))
        }
        graph = Graph(steps.resample(Input((3, 5, 4)), matrices, "resize"))
        expected = functional.interpolate(x, size=(8, 3), mode=name, align_corners=corners)
        assert torch.allclose(graph(x), expected, rtol=0, atol=1e-13)
