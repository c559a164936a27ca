"""Slopes of chords against 300-bit ball arithmetic, and increments of networks against their own chain rule."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from flint import arb
from torch import Tensor

import jacobound as jb
import zoo
from activation_cases import CASES, Case, certainly_outside, every_case, is_defined, marks
from jacobound import CROWN, Budget
from jacobound.activations import Activation, activation
from jacobound.activations.calculus.pieces import linear_piece
from jacobound.activations.kinds.piecewise import prelu
from jacobound.activations.lines.secants import _jump
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.derivative import increments
from jacobound.method import Query

SMOOTH = ("tanh", "sigmoid", "arctan", "softplus", "elu", "gelu", "silu", "mish", "erf", "softsign")


def nested(act: Activation, generator: torch.Generator, count: int = 60) -> tuple[Interval, Interval]:
    """Intervals near the marks of an activation, each inside a wider one, some of them single points."""
    kinks = torch.tensor([0.0, *marks(act)], dtype=torch.float64)
    middle = kinks[torch.randint(len(kinks), (count,), generator=generator)] + torch.randn(
        count, generator=generator, dtype=torch.float64
    ).mul(2)
    widths = 10 ** (-4 + 5 * torch.rand(4, count, generator=generator, dtype=torch.float64))
    widths[:2, ::3] = 0
    widths[2, ::5] = 0
    near = Interval(middle - widths[0], middle + widths[1])
    low, high = near.lower.clone(), near.upper.clone()
    low[1::6] = kinks[torch.arange(len(low[1::6])) % len(kinks)]  # an end at a kink
    high[4::6] = kinks[torch.arange(len(high[4::6])) % len(kinks)]
    near = Interval(torch.minimum(low, high), torch.maximum(low, high))
    return near, Interval(near.lower - widths[2], near.upper + widths[3])


def samples(x: Interval, kinks: Tensor) -> Tensor:
    """Points of intervals, their ends and marks among them, shape (points, intervals)."""
    shares = torch.linspace(0, 1, 7, dtype=torch.float64)[:, None]
    inside = x.lower + (x.upper - x.lower) * shares
    return torch.minimum(torch.maximum(torch.cat((inside, kinks[:, None].expand(-1, len(x.lower)))), x.lower), x.upper)


@every_case
def test_chords_lie_within_the_secant_range(case: Case) -> None:
    act, generator = case.activation.to("cpu", torch.float64), torch.Generator().manual_seed(1)
    near, far = nested(act, generator)
    found, slopes = act.secant_range(near, far), act.derivative_range(far)
    assert (found.lower >= slopes.lower).all() and (found.upper <= slopes.upper).all()
    kinks = torch.tensor(marks(act)[:4], dtype=torch.float64)
    starts, ends = samples(near, kinks[:2]), samples(far, kinks)
    for k in range(len(near.lower)):
        if not (is_defined(act, float(far.lower[k])) and is_defined(act, float(far.upper[k]))):
            continue
        values = {z: case.value(arb(z)) for z in {*starts[:, k].tolist(), *ends[:, k].tolist()}}
        for z in set(starts[:, k].tolist()):
            for y in set(ends[:, k].tolist()) - {z}:
                rise = (values[y] - values[z]) / (arb(y) - arb(z))
                assert not certainly_outside(rise, float(found.lower[k]), float(found.upper[k])), (k, y, z)


def test_secants_of_relu_are_exact() -> None:
    point = Interval.exact(torch.tensor([1.0, -1.0, 2.0, -2.0, 0.0], dtype=torch.float64))
    far = Interval(*(torch.tensor(x, dtype=torch.float64) for x in ([-3.0, -2, 1, -3, -1], [4.0, 3, 3, -1, 1])))
    found = activation("relu").secant_range(point, far)
    lower, upper = torch.tensor([0.25, 0, 1, 0, 0]).double(), torch.tensor([1, 0.75, 1, 0, 1]).double()
    assert torch.allclose(found.lower, lower, rtol=1e-14, atol=0)
    assert torch.allclose(found.upper, upper, rtol=1e-14, atol=0)
    assert found.lower[2] == found.upper[2] == 1 and found.lower[3] == found.upper[3] == 0


def test_secants_of_relu_from_an_interval_are_exact() -> None:
    near = Interval(torch.tensor([0.5, -2.0, -1.0]).double(), torch.tensor([1.0, -1.0, 1.0]).double())
    far = Interval(torch.tensor([-0.5, -3.0, -2.0]).double(), torch.tensor([3.0, 1.0, 2.0]).double())
    found = activation("relu").secant_range(near, far)
    assert torch.allclose(found.lower, torch.tensor([0.5, 0.0, 0.0]).double(), rtol=1e-14, atol=0)
    assert torch.allclose(found.upper, torch.tensor([1.0, 0.5, 1.0]).double(), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("slopes", "jumps"),
    [
        ((0.0, 1.0), (True, False)),
        ((1.0, 0.0), (False, True)),
        ((1.0, 1.0), (False, False)),
        ((Fraction(1, 3), Fraction(1, 3)), (True, True)),  # no number of them is known
        ((1 - Fraction(1, 2**60), 1.0), (True, False)),
        ((1 + Fraction(1, 2**60), 1.0), (False, True)),
    ],
)
def test_derivatives_jump_where_they_may(slopes: tuple[float | Fraction, ...], jumps: tuple[bool, bool]) -> None:
    curve = Activation("kinked", torch.relu, tuple(map(linear_piece, slopes)), breaks=(0.0,))
    rises, falls = _jump(curve, 1, torch.zeros((), dtype=torch.float64))
    assert (bool(rises), bool(falls)) == jumps


@pytest.mark.parametrize("name", SMOOTH)
def test_secants_of_smooth_functions_are_narrower_than_derivatives(name: str) -> None:
    """From a point the range is about that of sampled chords, wherever the derivative bends once on each side."""
    act, generator = CASES[name].activation, torch.Generator().manual_seed(2)
    middle = torch.randn(200, generator=generator, dtype=torch.float64) * 2
    width = 0.5 + torch.rand(200, generator=generator, dtype=torch.float64)
    found = act.secant_range(Interval.exact(middle), Interval(middle - width, middle + width))
    slopes = act.derivative_range(Interval(middle - width, middle + width))
    shares = torch.linspace(-1, 1, 400, dtype=torch.float64)[:, None]  # 0 is not among them
    chords = (act.value(middle + shares * width) - act.value(middle)) / (shares * width)
    bends = torch.tensor([float(x) for x in marks(act)], dtype=torch.float64)
    plain = ((bends[:, None] - middle).abs() > width).all(0)
    assert plain.any() and torch.allclose(found.lower[plain], chords.amin(0)[plain], atol=2e-2)
    assert torch.allclose(found.upper[plain], chords.amax(0)[plain], atol=2e-2)
    assert float((found.width / slopes.width).mean()) < 0.9


@pytest.mark.parametrize("kind", sorted(zoo.KINDS))
def test_increments_of_a_network_are_products_of_its_secants(kind: str) -> None:
    """F(y) - F(x) lies within what the chain rule with secants encloses, for x in the smaller and y in the larger."""
    generator = torch.Generator().manual_seed(4)
    graph = zoo.KINDS[kind](generator).with_rows(None).expanded()
    centre = torch.randn(1, *graph.in_shape, generator=generator, dtype=torch.float64)
    balls, _ = jb.Ball(centre, 0.0).balls(graph)
    for inner, outer in ((0.0, 0.3), (0.2, 0.5)):
        domains = [balls.domain(torch.tensor([0]), torch.tensor([r]).double()) for r in (inner, outer)]
        near, far = (CROWN().ranges(graph, domain, Budget()) for domain in domains)
        gates = increments(graph, near, far)
        asked = Query(gates.graph, domains[1], Budget(), ranges=far, slopes=gates.slopes)
        entries = [
            method.enclose(asked).entries
            for method in (jb.FastLip(), jb.RecurJac(), jb.RecurJac("constant"), jb.LinearSlopes())
        ]
        noise = 2 * torch.rand(2, 40, *graph.in_shape, generator=generator, dtype=torch.float64) - 1
        x, y = centre + inner * noise[0], centre + outer * noise[1]
        step = (y - x).flatten(1)
        moved = (graph(y) - graph(x)).flatten(1)
        for found in entries:
            middle, radius = found.midpoint_and_radius()
            most = step.abs() @ radius[0].T
            error = (moved - step @ middle[0].T).abs()
            assert (error <= most * (1 + 1e-9) + 1e-9 * (1 + moved.abs().max())).all()


def test_secants_of_channels_with_slopes_of_their_own() -> None:
    slopes = torch.tensor([0.25, 0.5, -1.0], dtype=torch.float64)
    near = Interval.exact(torch.tensor([[1.0, -1.0, 0.5], [2.0, 0.0, -2.0]], dtype=torch.float64))
    far = Interval(near.lower - 3, near.upper + 2)
    found = prelu(slopes).secant_range(near, far)
    for k, slope in enumerate(slopes):
        alone = prelu(slope).secant_range(*(Interval(x.lower[:, k], x.upper[:, k]) for x in (near, far)))
        assert torch.equal(found.lower[:, k], alone.lower) and torch.equal(found.upper[:, k], alone.upper)
