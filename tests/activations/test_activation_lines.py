"""Lines above and below every activation: sound against 300-bit balls, tight against brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import arb

from activation_cases import (
    Case,
    certainly_outside,
    each_sample,
    every_case,
    every_dtype,
    intervals,
    marks,
    moderate,
)
from jacobound.activations import Activation, activation
from jacobound.arithmetic.intervals import Interval


@every_dtype
@every_case
@pytest.mark.parametrize("parallel", [False, True], ids=["lines", "parallel"])
def test_lines_hold(case: Case, dtype: torch.dtype, parallel: bool) -> None:
    act = case.activation.to("cpu", dtype)
    x = intervals(act, dtype)
    lines = act.parallel_lines(x) if parallel else act.lines(x)
    assert not parallel or torch.equal(lines.lower_slope, lines.upper_slope)
    ends = [*vars(lines).values()]
    assert all(end.dtype == dtype and end.shape == x.shape for end in ends)
    numbers, steepness = [end.tolist() for end in ends], act.derivative_range(x)
    for k in ends[::2]:  # a tiny interval leaves only noise in its chord; no line may be steeper than the function
        noise = 1e-5 * (1 + k.abs())
        assert ((k == 0) | ((k >= steepness.lower - noise) & (k <= steepness.upper + noise))).all()
    for k, z in each_sample(case, act, dtype):
        below, lower, above, upper = (end[k] for end in numbers)
        truth = case.value(arb(z))
        assert not certainly_outside(truth - arb(below) * arb(z), lower, math.inf), (z, below, lower)
        assert not certainly_outside(truth - arb(above) * arb(z), -math.inf, upper), (z, above, upper)


def best_heights(act: Activation, low: float, high: float) -> tuple[float, float]:
    """Height at the middle of the best lines below and above, by brute force over all chords of a fine grid."""
    middle = torch.tensor((low + high) / 2, dtype=torch.float64)
    inside = sorted({low, high, *(z for z in marks(act) if low < z < high)})
    corners = [z for z, after in itertools.pairwise([*inside, math.inf]) if after - z > 1e-9]
    corners = corners if len(corners) > 1 else [low, high]
    shares = torch.linspace(0, 1, max(20, 420 // len(corners)), dtype=torch.float64)
    shares = shares.square() * (3 - 2 * shares)
    points = torch.cat([first + (last - first) * shares for first, last in itertools.pairwise(corners)])
    values, at_middle = act.value(points), float(act.value(middle))
    left, right = points < middle, points > middle
    run, back = points[right][:, None] - middle, middle - points[left]
    height = (values[right][:, None] * back + values[left] * run) / (run + back)
    return min(float(height.min()), at_middle), max(float(height.max()), at_middle)


@every_dtype
@every_case
def test_lines_are_tight(case: Case, dtype: torch.dtype) -> None:
    x = moderate(case.activation.to("cpu", torch.float64))
    x = x[case.activation.to("cpu", dtype).range(x.map(lambda end: end.to(dtype))).magnitude().isfinite()]
    ends = zip(x.lower.tolist(), x.upper.tolist(), strict=True)
    plain = case.activation.to("cpu", torch.float64)
    below, above = torch.tensor([best_heights(plain, *pair) for pair in ends], dtype=torch.float64).unbind(1)
    lines, middle = case.activation.to("cpu", dtype).lines(x.map(lambda end: end.to(dtype))), (x.lower + x.upper) / 2
    numbers = {name: end.double() for name, end in vars(lines).items()}
    relative, absolute = (3e-4, 1e-9) if dtype == torch.float64 else (3e-3, 1e-5)
    slack = relative * (above - below) + absolute * (1 + above.abs() + below.abs())
    excess = numbers["upper_slope"] * middle + numbers["upper_offset"] - above
    short = below - numbers["lower_slope"] * middle - numbers["lower_offset"]
    wrong = ~(torch.maximum(excess, short) <= slack)
    assert not wrong.any(), [(x.lower[k], x.upper[k], excess[k], short[k], slack[k]) for k in wrong.nonzero()[:4, 0]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "low"), [("tanh", -4.0), ("sigmoid", -6.3), ("arctan", -15.8)])
def test_s_shaped_lines_are_sound_and_tight_on_wide_intervals(name: str, low: float) -> None:
    act = activation(name)
    sizes = torch.logspace(-3, 3, 20, dtype=torch.float64)
    sizes = torch.cat([-sizes, sizes.new_zeros(1), sizes])
    first, last = (end.flatten() for end in torch.meshgrid(sizes, sizes, indexing="ij"))
    first, last = torch.minimum(first, last), torch.maximum(first, last)
    x = Interval(torch.cat([first, first.new_tensor([low])]), torch.cat([last, first.new_tensor([1e3])]))
    lines = act.lines(x)
    shares = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    points = x.lower + (x.upper - x.lower) * torch.cat([shares, shares**6, 1 - shares**6])
    points = torch.cat([points, sizes[:, None].expand(-1, len(x.lower))])
    points = torch.minimum(torch.maximum(points, x.lower), x.upper)
    values = act.value(points)
    rounding = 4e-16 * (1 + lines.upper_slope * points.abs() + lines.lower_slope * points.abs())
    above = lines.upper_slope * points + lines.upper_offset - values
    below = values - lines.lower_slope * points - lines.lower_offset
    assert ((above >= -rounding) & (below >= -rounding)).all()
    assert max(above.amin(0).max(), below.amin(0).max()) <= 2e-3  # each line touches the function somewhere


@pytest.mark.parametrize("slope", [0.0, 0.3, 2.0])
def test_kinked_lines_are_the_classical_ones_without_dust(slope: float) -> None:
    act = activation(f"leaky_relu:{slope}") if slope else activation("relu")
    sizes = torch.tensor([5e-324, 1e-310, 1e-300, 1e-17, 0.1, 1.0, 3.0, 1e17, 1e300], dtype=torch.float64)
    low, high = (-sizes).repeat_interleave(9), sizes.repeat(9)
    lines = act.lines(Interval(low, high))
    through_zero = torch.where(high >= -low, torch.ones_like(low), slope)
    ratio = (high - slope * low) / (high - low)
    usual = sizes.repeat_interleave(9).gt(1e-299) & sizes.repeat(9).gt(1e-299)
    by_kink, by_chord = ("lower", "upper") if slope <= 1 else ("upper", "lower")
    assert torch.equal(getattr(lines, f"{by_kink}_slope"), through_zero)
    assert (getattr(lines, f"{by_kink}_offset") == 0).all()
    assert torch.equal(getattr(lines, f"{by_chord}_slope")[usual], ratio[usual])
