"""`AlphaCROWN`: bounds that hold, nowhere looser than those of `CROWN`, and tighter where slopes can be chosen."""

from __future__ import annotations

import itertools

import pytest
import torch

import jacobound as jb
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval

NAMES = ("relu", "leaky_relu:0.2", "tanh", "gelu", "sin", "silu", "relu6", "elu")


def network(name: str, seed: int, widths: tuple[int, ...] = (4, 12, 12, 12, 3)) -> jb.Graph:
    generator = torch.Generator().manual_seed(seed)
    pairs = list(itertools.pairwise(widths))
    weights = [1.6 * torch.randn(m, n, generator=generator, dtype=torch.float64) / n**0.5 for n, m in pairs]
    biases = [0.2 * torch.randn(m, generator=generator, dtype=torch.float64) for _, m in pairs]
    return jb.from_layers(weights, biases, activation=name)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_lie_within_and_bounds_are_tighter(name: str) -> None:
    graph, region = network(name, 1), jb.Ball(torch.full((4,), 0.1).double(), [0.1, 0.3, 0.6])
    known, found = jb.bound_output(graph, region, jb.CROWN()), jb.bound_output(graph, region, jb.AlphaCROWN())
    points = 0.1 + (2 * torch.rand(2000, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 1)
    for k, radius in enumerate((0.1, 0.3, 0.6)):
        values = graph((points - 0.1) * radius + 0.1)
        assert bool((values >= found.lower[k]).all() and (values <= found.upper[k]).all())
    assert bool((found.lower >= known.lower).all() and (found.upper <= known.upper).all())
    assert float(((found.upper - found.lower) / (known.upper - known.lower)).mean()) < 0.98


@pytest.mark.parametrize("method", [jb.AlphaCROWN(), jb.AlphaCROWN(steps=1)])
def test_sets_together_get_what_they_get_alone(method: jb.AlphaCROWN) -> None:
    graph, points = network("relu", 3), torch.tensor([[0.1, 0.2, 0.0, -0.3], [1.0, -1.0, 0.5, 0.2]]).double()
    together = jb.bound_output(graph, jb.Ball(points, 0.3), method)
    for k, point in enumerate(points):
        alone = jb.bound_output(graph, jb.Ball(point, 0.3), method)
        assert torch.allclose(together.upper[k], alone.upper, rtol=1e-6)


def test_the_sum_of_two_steps_is_bounded_as_by_the_triangle_relaxation() -> None:
    """relu(x) + relu(-x) = |x| on [-1, 1]; adaptive slopes give -1 or 0 below, the best ones (a half each) 0."""
    ones = torch.ones(1, 1).double()
    graph = jb.from_layers([torch.cat((ones, -ones, ones)), torch.tensor([[1.0, 1.0, -0.5]]).double()])
    found = jb.bound_output(graph, jb.Box([-1.0], [1.0]), jb.AlphaCROWN(steps=40))
    assert -0.26 <= float(found.lower) <= -0.25 + 1e-9  # the relaxation's own minimum, at x = 0


def test_constants_follow_the_tighter_ranges() -> None:
    graph, region = network("relu", 1), jb.Ball(torch.full((4,), 0.1).double(), 0.1)
    methods = (jb.LipSDP(preactivation=jb.AlphaCROWN()), jb.RecurJac(preactivation=jb.AlphaCROWN()))
    for mine, usual in zip(methods, (jb.LipSDP(), jb.RecurJac()), strict=True):
        tight, loose = (jb.lipschitz(graph, region, one, search=None).upper for one in (mine, usual))
        assert float(tight) < 0.7 * float(loose)


def test_time_that_is_over_leaves_the_bounds_of_crown() -> None:
    graph, region = network("relu", 1), jb.Ball(torch.zeros(4).double(), 0.5)
    late = jb.bound_output(graph, region, jb.AlphaCROWN(), budget=jb.Budget(cpu_seconds=0.0))
    assert bool((late.lower <= late.upper).all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("slope", [-0.7, 0.0, 0.3, 1.0, 2.5])
def test_lines_of_any_slope_hold(name: str, slope: float) -> None:
    one = activation(name)
    ends = torch.tensor([[-2.0, 3.0], [-0.5, 0.25], [1.0, 7.0], [-4.0, -1.0], [0.0, 0.0]]).double()
    x, k = Interval(ends[:, 0], ends[:, 1]), torch.full((5,), slope).double()
    lines = one.lines_with(x, k, -k)
    z = ends[:, 0] + torch.linspace(0, 1, 1001).double().unsqueeze(1) * (ends[:, 1] - ends[:, 0])
    z = z.minimum(ends[:, 1])
    below, above = lines.lower_slope * z + lines.lower_offset, lines.upper_slope * z + lines.upper_offset
    assert bool((below <= one.value(z) + 1e-13).all() and (above >= one.value(z) - 1e-13).all())
    assert float((one.value(z) - below).amin(0).max()) < 1e-4 and float((above - one.value(z)).amin(0).max()) < 1e-4
