"""Laws of every registered activation, known or new: nobody has to list it.

The judge is the activation's plain value and its derivative by autograd: independent of the enclosures, though not
exact, so bounds may be missed by a few units of rounding here. `test_activations.py` judges the known ones by balls.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jacobound.activations import Activation, Family, families, onnx_builder, torch_builder
from jacobound.activations.calculus.stretches import defined
from jacobound.arithmetic.intervals import Interval

POINTS = 9
CONTRIBUTED = {"QuickGelu", "FastGelu", "BiasGelu"}  # operators outside the ONNX standard
every_family = pytest.mark.parametrize("family", families(), ids=lambda family: family.name)


def boxes(act: Activation) -> Interval:
    """Intervals of many sizes on which the function is defined, shape (intervals,)."""
    source = torch.Generator().manual_seed(7)
    centres = torch.randn(300, generator=source, dtype=torch.float64) * 4
    widths = 10.0 ** (torch.rand(300, generator=source, dtype=torch.float64) * 3 - 2)
    x = Interval(centres - widths, centres + widths)
    shifted = Interval(centres.abs() + 0.01, centres.abs() + 0.01 + widths)
    x = Interval(torch.cat([x.lower, shifted.lower]), torch.cat([x.upper, shifted.upper]))
    return x[defined(act.domain, x)]


def points(x: Interval) -> Tensor:
    """Points of every interval, its ends among them; shape (points, intervals)."""
    shares = torch.linspace(0, 1, POINTS, dtype=torch.float64).unsqueeze(1)
    return torch.minimum(x.lower + shares * (x.upper - x.lower), x.upper)


def values_and_slopes(act: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    value = act.value(z)
    if not value.requires_grad:
        return value.detach(), torch.zeros_like(z)
    return value.detach(), torch.autograd.grad(value.sum(), z)[0]


def within(found: Tensor, lower: Tensor, upper: Tensor) -> bool:
    room = 1e-9 * (1 + found.abs())
    return bool(((found >= lower - room) & (found <= upper + room)).all())


@every_family
def test_ranges_hold_values_and_slopes(family: Family) -> None:
    act = family.make()
    x = boxes(act)
    value, slope = values_and_slopes(act, points(x))
    values, slopes = act.range(x), act.derivative_range(x)
    assert within(value, values.lower, values.upper)
    assert within(slope[1:-1], slopes.lower, slopes.upper)  # at an end, the slope may be the one outside
    chords = (value[1:] - value[:-1]) / (points(x)[1:] - points(x)[:-1])
    wide = x.upper - x.lower > 0.01
    assert within(chords[:, wide], slopes.lower[wide] - 1e-6, slopes.upper[wide] + 1e-6)


@every_family
def test_lines_enclose_values_and_slopes(family: Family) -> None:
    act = family.make()
    x = boxes(act)
    z = points(x)
    value, slope = values_and_slopes(act, z)
    for lines in (act.lines(x), act.parallel_lines(x)):
        assert within(value, lines.lower_slope * z + lines.lower_offset, lines.upper_slope * z + lines.upper_offset)
    lines = act.slope_lines(x)
    low, high = (lines.lower_slope * z + lines.lower_offset)[1:-1], (lines.upper_slope * z + lines.upper_offset)[1:-1]
    assert within(slope[1:-1], low, high)


@every_family
def test_bounds_are_finite_where_the_function_is(family: Family) -> None:
    act = family.make()
    found = act.range(boxes(act))
    assert found.lower.isfinite().all() and found.upper.isfinite().all()


@every_family
def test_spellings_are_found_and_belong_to_one_family(family: Family) -> None:
    onnx = pytest.importorskip("onnx")
    for name in family.torch:
        assert name.count(".") == 2 and torch_builder(name) is family.torch[name], name
    for name in family.onnx:
        assert onnx_builder(name) is family.onnx[name], name
        assert onnx.defs.has(name) or name in CONTRIBUTED, name
