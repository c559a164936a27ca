"""Parts of the lines around derivatives: grids, offsets in exact numbers, and where lines give way to constants."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq
from torch import Tensor

from exact import DTYPE_NAMES, DTYPES, random_floats, rational, rationals
from jacobound.activations import Activation, activation
from jacobound.activations.kinds.piecewise import prelu
from jacobound.activations.lines import slope_lines
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import tiny, unit

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)
INF = math.inf


@both_dtypes
@pytest.mark.parametrize("steps", [1, 4, 512])
def test_grids_are_even_and_end_where_the_interval_does(dtype: torch.dtype, steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    ends = random_floats((2, 3, 40), dtype, generator, (-3, 3)).sort(0).values
    ends[1, 0, :20] = ends[0, 0, :20].nextafter(torch.full((20,), INF, dtype=dtype))
    points = slope_lines._grid(Interval(ends[0], ends[1]), steps)
    assert points.shape == (steps + 1, 3, 40)
    assert torch.equal(points[0], ends[0]) and torch.equal(points[-1], ends[1])
    assert ((points >= ends[0]) & (points <= ends[1])).all()
    shares = (torch.arange(steps + 1, dtype=torch.float64) / steps).reshape(-1, 1, 1)
    even = ends[0].double() * (1 - shares) + ends[1].double() * shares
    assert torch.allclose(points.double(), even, rtol=0, atol=9.0 * steps * unit(dtype))


@both_dtypes
def test_offsets_of_monotone_pieces_are_those_of_exact_numbers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    points = random_floats((5, 60), dtype, generator, (-3, 3)).sort(0).values
    slope = random_floats((60,), dtype, generator, (-3, 3))
    slope[:6] = 0.0
    values = random_floats((5, 60), dtype, generator, (-3, 3)).sort(0, descending=True).values
    near = (slope * points)[:, 30:]
    values[:, 30:] = near * (1 + random_floats((5, 30), dtype, generator, (-20, -18)))  # sums that nearly cancel
    spread = random_floats((5, 60), dtype, generator, (-12, -9)).abs() * (torch.arange(60) % 2).to(dtype)
    found = slope_lines._monotone_offsets(Interval(values - spread, values + spread), points, slope)
    lower, upper = values - spread, values + spread
    for k in range(60):
        t, low, high = rationals(points[:, k]), rationals(lower[:, k]), rationals(upper[:, k])
        rises = [rational(float(slope[k])) * z for z in t]
        least = min(min(low[i : i + 2]) - max(rises[i : i + 2]) for i in range(4))
        most = max(max(high[i : i + 2]) - min(rises[i : i + 2]) for i in range(4))
        room = 8 * rational(unit(dtype)) * (max(map(abs, rises)) + max(map(abs, low + high))) + rational(tiny(dtype))
        assert least - room <= rational(float(found[0][k])) <= least
        assert most <= rational(float(found[1][k])) <= most + room


def exact_offsets(slopes: tuple[fmpq, fmpq], k: fmpq, low: fmpq, high: fmpq) -> tuple[fmpq, fmpq]:
    """Over the derivative of a function with one kink at 0."""
    left, right = [z for z in (low, min(high, fmpq(0))) if low < 0], [z for z in (max(low, fmpq(0)), high) if high > 0]
    rests = [slopes[0] - k * z for z in left] + [slopes[1] - k * z for z in right]
    return min(rests), max(rests)


@both_dtypes
@pytest.mark.parametrize("name", ["relu", "leaky_relu:-0.5", "leaky_relu:0.1", "prelu"])
def test_offsets_around_kinks_are_those_of_exact_numbers(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    act = prelu(torch.tensor(0.25, dtype=dtype)) if name == "prelu" else activation(name)
    slope_left = {"relu": 0.0, "prelu": 0.25}.get(name) if ":" not in name else float(name.partition(":")[2])
    assert slope_left is not None
    ends = random_floats((2, 90), dtype, generator, (-3, 3)).sort(0).values
    ends[0, :10], ends[1, 10:20] = 0.0, 0.0
    ends = ends.sort(0).values
    k = random_floats((90,), dtype, generator, (-3, 3))
    lower, upper = slope_lines._offsets(act, Interval(ends[0], ends[1]), k)
    slopes = (rational(slope_left), fmpq(1))
    for n, (low, high, slope) in enumerate(zip(*map(rationals, (ends[0], ends[1], k)), strict=True)):
        least, most = exact_offsets(slopes, slope, low, high)
        room = 8 * rational(unit(dtype)) * (1 + abs(slope) * max(abs(low), abs(high)))
        assert least - room <= rational(float(lower[n])) <= least
        assert most <= rational(float(upper[n])) <= most + room


def samples(act: Activation, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Many points and the derivative there, by automatic differentiation."""
    points = torch.linspace(low, high, 20001, dtype=torch.float64, requires_grad=True)
    act.value(points).sum().backward()
    assert points.grad is not None
    return points.detach(), points.grad


SMOOTH = ("tanh", "gelu", "silu", "softplus", "sin", "elu", "hard_swish", "square", "exp")


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(("low", "high"), [(-1.25, 1.5), (0.25, 0.75), (-2.0, -0.5), (0.0, 0.5), (-0.5, 0.0)])
def test_offsets_of_smooth_functions_are_off_by_two_steps(name: str, low: float, high: float) -> None:
    act, ends = activation(name), torch.tensor([low, high], dtype=torch.float64)
    points, slopes = samples(act, low, high)
    rise = (high - low) / slope_lines.STEPS
    for slope in (-1.0, 0.0, 0.3):
        k = torch.tensor(slope, dtype=torch.float64)
        lower, upper = slope_lines._offsets(act, Interval(ends[0], ends[1]), k)
        rest = slopes - slope * points
        room = 1.01 * rise * (abs(slope) + 6.0)
        assert float(rest.min()) - room <= float(lower) <= float(rest.min()) + 1e-12
        assert float(rest.max()) - 1e-12 <= float(upper) <= float(rest.max()) + room


def test_between_the_floats_around_a_break_both_slopes_count() -> None:
    """Softshrink with 0.1 in float32: the break lies between two floats, and only there both slopes meet."""
    act = activation("softshrink:0.1")
    low, high = (torch.tensor(end) for end in (0.1 - 2.0**-28, 0.1))
    low, high = (low, high) if low < high else (high.nextafter(torch.tensor(0.0)), high)
    for k in (2.0, -2.0):
        slope = torch.tensor(k)
        lower, upper = slope_lines._offsets(act, Interval(low, high), slope)
        assert float(lower) <= -max(k * float(low), k * float(high)) and float(lower) >= -max(k, -k) * 0.1 * 1.01 - 0.41
        assert float(upper) >= 1 - min(k * float(low), k * float(high))
        assert abs(float(lower) + k * 0.1) < 1e-6 and abs(float(upper) - (1 - k * 0.1)) < 1e-6
        inside, _ = slope_lines._offsets(act, Interval(low - 0.05, low - 0.02), slope)
        assert abs(float(inside) + max(k * (float(low) - 0.05), k * (float(low) - 0.02))) < 1e-6


def test_lines_give_way_to_constants_entry_by_entry() -> None:
    act = activation("tanh")
    ends = [(-0.5, 1.0), (-INF, 1.0), (0.0, INF), (math.nan, 1.0), (0.25, 0.25), (1.0, -0.5), (-0.5, 0.5)]
    x = Interval(*torch.tensor(ends, dtype=torch.float64).unbind(1))
    found, plain = slope_lines.slope_lines(act, x), act.derivative_range(x)
    assert (found.lower_slope != 0).tolist()[:6] == [True, False, False, False, False, True]
    assert torch.equal(found.lower_slope, found.upper_slope) and found.lower_slope[0] == found.lower_slope[5]
    flat = found.lower_slope == 0
    assert torch.equal(found.lower_offset[flat], plain.lower[flat])
    assert torch.equal(found.upper_offset[flat], plain.upper[flat])
    assert (found.upper_offset - found.lower_offset <= plain.upper - plain.lower).all()
    steep = slope_lines.slope_lines(activation("sqrt"), Interval(torch.zeros(2), torch.ones(2) + 0.0))
    assert steep.lower_slope.tolist() == [0.0, 0.0] and steep.upper_offset.tolist() == [INF, INF]
    straight = slope_lines.slope_lines(activation("identity"), Interval(-torch.ones(1), torch.ones(1)))
    assert [float(end) for end in vars(straight).values()] == [0.0, 1.0, 0.0, 1.0]
    tiny_one = Interval(torch.tensor([0.5]).double(), torch.tensor([0.5]).double() + 2.0**-52)
    short, known = slope_lines.slope_lines(act, tiny_one), act.derivative_range(tiny_one)
    assert short.upper_offset - short.lower_offset <= known.upper - known.lower


@pytest.mark.parametrize(("name", "slope", "gap"), [("square", 2.0, 0.0), ("tanh", None, None), ("exp", None, None)])
def test_the_slope_is_the_best_one(name: str, slope: float | None, gap: float | None) -> None:
    """The derivative of z^2 is a line; of others the best slope lies within the rises and is close to optimal."""
    act = activation(name)
    x = Interval(torch.tensor([0.25, -0.5]).double(), torch.tensor([1.0, 1.0]).double())
    found = slope_lines.slope_lines(act, x)
    for n in range(2):
        low, high = float(x.lower[n]), float(x.upper[n])
        points, slopes = samples(act, low, high)
        best = min(float((r := slopes - k * points).max() - r.min()) for k in torch.linspace(-3, 3, 1201).tolist())
        rise = float(slopes.max() - slopes.min())
        width = float(found.upper_offset[n] - found.lower_offset[n])
        assert width <= best * 1.02 + 4.5 * rise / slope_lines.STEPS + 0.003
        if slope is not None:
            assert float(found.lower_slope[n]) == pytest.approx(slope, rel=1e-6)
            assert width <= 2.1 * 2 * rise / slope_lines.STEPS + (gap or 0.0)
