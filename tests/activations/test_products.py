"""GELU by tanh with a stored cubic factor: its shape is proved in ball arithmetic, its enclosures hold, tightly."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import flint
import numpy as np
import pytest
import torch

from jacobound import UnsupportedOpError
from jacobound.activations import activation
from jacobound.activations.kinds.tanh_gelu import FARTHEST, INFLECTION, MINIMUM, gelu_by_tanh
from jacobound.arithmetic.intervals import Interval

STORED = float(np.float32(0.044715))


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    before, flint.ctx.prec = flint.ctx.prec, 200
    yield
    flint.ctx.prec = before


def taylor(z: flint.arb, cubic: flint.arb) -> list[flint.arb]:
    """Value and derivatives up to the third."""
    series = flint.arb_series([z, flint.arb(1)], 4)
    factor = (8 / flint.arb.pi()).sqrt()
    found = series / (1 + (-factor * (series + cubic * series * series * series)).exp())
    return [found[0], found[1], 2 * found[2], 6 * found[3]]


def pieces(low: float, high: float, count: int) -> Iterator[flint.arb]:
    """An interval as many small balls."""
    width = (high - low) / count
    for k in range(count):
        yield flint.arb(low + (k + 0.5) * width, 0.5001 * width)


@pytest.mark.parametrize("apart", [1e-6, 1e-8, 1e-11])
def test_inflections_and_the_minimum_are_where_the_breaks_and_turns_say(apart: float) -> None:
    cubic = flint.arb("0.044715") + flint.arb(0, apart)
    middle = 0.044715
    made = gelu_by_tanh(middle - apart * 0.999, middle + apart * 0.999)
    (left, right), (minimum,) = made.breaks, made.turns
    assert isinstance(left, tuple) and isinstance(right, tuple) and isinstance(minimum, tuple)
    assert right[0] < INFLECTION < right[1] and left == (-right[1], -right[0])
    assert minimum[0] < MINIMUM < minimum[1] and minimum[1] - minimum[0] < 6 * apart + 1e-14
    # One sign change of the curvature, inside the zone, for every factor allowed. (z/2 plus an even function.)
    for part in pieces(-apart, apart, 200):
        factor = flint.arb("0.044715") + part
        assert taylor(flint.arb(right[0]), factor)[2] > 0 and taylor(flint.arb(right[1]), factor)[2] < 0
        assert taylor(flint.arb(minimum[0]), factor)[1] < 0 and taylor(flint.arb(minimum[1]), factor)[1] > 0
    assert all(taylor(z, cubic)[3] < 0 for z in pieces(1.3, 1.6, 50))
    assert all(taylor(z, cubic)[2] > 0 for z in pieces(-0.05, 1.3, 400))
    assert all(taylor(z, cubic)[2] < 0 for z in pieces(1.6, 10.0, 4000))
    # Beyond that z g'^2 tanh g > 0.99 z g' g' exceeds g' + z g'' / 2, because g' > 7 and z g'' / 2 < g'.


@pytest.mark.parametrize("units", range(-6, 7))
def test_the_last_units_of_breaks_and_turns_are_on_the_right_side(units: int) -> None:
    """So close to 0.044715 the drift vanishes in the rounding of the two floats around a point."""
    cubic = 0.044715 * (1 + units * 2.0**-52)
    made = gelu_by_tanh(cubic, cubic)
    (_, right), (minimum,) = made.breaks, made.turns
    assert isinstance(right, tuple) and isinstance(minimum, tuple)
    factor = flint.arb(cubic)
    assert taylor(flint.arb(right[0]), factor)[2] > 0 > taylor(flint.arb(right[1]), factor)[2]
    assert taylor(flint.arb(minimum[0]), factor)[1] < 0 < taylor(flint.arb(minimum[1]), factor)[1]


@pytest.mark.slow
@pytest.mark.parametrize("low", [STORED, 0.0447145])
def test_enclosures_hold_and_are_tight(low: float) -> None:
    made, near = gelu_by_tanh(low, np.nextafter(low, 1)), activation("gelu_tanh")
    generator = torch.Generator().manual_seed(0)
    middles = torch.cat([8 * torch.rand(200, generator=generator) - 4, torch.tensor([-1.41850, 1.41851, -0.75246])])
    radii = 10 ** (-4 * torch.rand(203, generator=generator))
    x = Interval(middles.double() - radii.double(), middles.double() + radii.double())
    value, slope, lines = made.range(x), made.derivative_range(x), made.lines(x)
    cubic = flint.arb(low)
    for k in range(203):
        for share in np.linspace(0, 1, 9):
            z = x.lower[k].item() * (1 - share) + x.upper[k].item() * share
            z = min(max(z, x.lower[k].item()), x.upper[k].item())
            height, steepness, *_ = taylor(flint.arb(z), cubic)
            assert flint.arb(value.lower[k].item()) <= height <= flint.arb(value.upper[k].item())
            assert flint.arb(slope.lower[k].item()) <= steepness <= flint.arb(slope.upper[k].item())
            below = flint.arb(lines.lower_slope[k].item()) * flint.arb(z) + flint.arb(lines.lower_offset[k].item())
            above = flint.arb(lines.upper_slope[k].item()) * flint.arb(z) + flint.arb(lines.upper_offset[k].item())
            assert below <= height <= above
    spread = 1e-5 if low != STORED else 1e-6
    for mine, theirs in ((value, near.range(x)), (slope, near.derivative_range(x))):
        torch.testing.assert_close(mine.lower, theirs.lower, rtol=0, atol=spread)
        torch.testing.assert_close(mine.upper, theirs.upper, rtol=0, atol=spread)
    theirs = near.lines(x)
    gaps = [
        (one.upper_slope - one.lower_slope) * middles + one.upper_offset - one.lower_offset for one in (lines, theirs)
    ]
    assert bool((gaps[0] <= gaps[1] * 1.01 + 10 * spread).all())


def test_other_factors_are_refused() -> None:
    for low in (0.0447, 0.05, -0.044715, float(Fraction("0.044715") + 2 * FARTHEST)):
        with pytest.raises(UnsupportedOpError, match=r"no GELU, whose factor is 0\.044715"):
            gelu_by_tanh(low, low)
