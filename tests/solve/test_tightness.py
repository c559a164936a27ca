"""How tight the bounds are where that is known: exact cases, brute force over activation patterns, monotonicity."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from jacobound import (
    CROWN,
    IBP,
    Ball,
    Box,
    FastLin,
    FastLip,
    Graph,
    RecurJac,
    bound_jacobian,
    bound_output,
    from_layers,
    lipschitz,
)
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Elementwise
from jacobound.method import JacobianEnclosure, JacobianMethod
from jacobound.method import from_entries as constants
from oracles import autodiff
from single import enclosure_of, single
from zoo import KINDS

from_entries, merged_row_sums = single(constants.from_entries), single(constants.merged_row_sums)
METHODS = (FastLip(), RecurJac("constant"), RecurJac("chord"))
methods = pytest.mark.parametrize("method", METHODS, ids=str)


def network(widths: tuple[int, ...], seed: int, activation: str = "relu") -> tuple[list[Tensor], Graph]:
    generator = Generator().manual_seed(seed)
    weights = [
        torch.randn(after, before, generator=generator, dtype=torch.float64) / math.sqrt(before)
        for before, after in itertools.pairwise(widths)
    ]
    biases = [0.3 * torch.randn(width, generator=generator, dtype=torch.float64) for width in widths[1:]]
    return weights, from_layers(weights, biases, activation=activation)


def enclose(graph: Graph, region: Ball | Box, method: JacobianMethod) -> JacobianEnclosure:
    return enclosure_of(method, graph, region)


def over_all_patterns(weights: list[Tensor], enclosure: JacobianEnclosure, graph: Graph) -> Interval:
    """The hull of all Jacobians with any slopes at the unstable neurons: every entry is linear in each slope."""
    slopes = [enclosure.slopes[node] for node in graph.nodes if isinstance(node, Elementwise)]
    ends = [(low.item(), high.item()) for slope in slopes for low, high in zip(slope.lower, slope.upper, strict=True)]
    choices = [(low,) if low == high else (low, high) for low, high in ends]
    found = []
    for pattern in itertools.product(*choices):
        matrix, start = weights[0], 0
        for weight in weights[1:]:
            count = weight.shape[1]
            matrix = weight @ (torch.tensor(pattern[start : start + count], dtype=torch.float64).unsqueeze(1) * matrix)
            start += count
        found.append(matrix)
    stacked = torch.stack(found)
    return Interval(stacked.amin(0), stacked.amax(0))


def close(found: Interval, best: Interval, tolerance: float = 1e-12) -> bool:
    scale = best.magnitude().max().clamp(min=1.0) * tolerance
    return bool(((found.lower - best.lower).abs() <= scale).all() & ((found.upper - best.upper).abs() <= scale).all())


@methods
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("convolution", "batch_norm", "resampling")])
def test_radius_zero_gives_the_jacobian_itself(kind: str, method: JacobianMethod) -> None:
    """Where all slopes are one number; uncertain weights and kinks are left out."""
    for seed in range(6):
        generator = Generator().manual_seed(seed)
        graph = KINDS[kind](generator).with_rows(None)
        point = torch.randn(graph.in_shape, generator=generator, dtype=torch.float64)
        found = enclose(graph, Ball(point, 0.0), method)
        truth = autodiff(graph, point.unsqueeze(0))[0]
        settled = all(
            float((slope.upper - slope.lower).max()) <= 1e-12 * float(slope.magnitude().max().clamp(min=1))
            for slope in found.slopes.values()
        )
        if settled:
            error = torch.maximum((found.entries.lower - truth).abs(), (found.entries.upper - truth).abs())
            assert float(error.max()) <= 1e-12 * max(1.0, float(truth.abs().max())) * 10, seed


@methods
@pytest.mark.parametrize("activation", ("relu", "leaky_relu:0.3", "tanh"))
def test_two_layers_are_exact_in_every_entry(activation: str, method: JacobianMethod) -> None:
    for seed in range(5):
        weights, graph = network((3, 6, 2), seed, activation)
        found = enclose(graph, Ball(torch.zeros(3), 0.5), method)
        assert close(found.entries, over_all_patterns(weights, found, graph))


@pytest.mark.parametrize("activation", ("relu", "leaky_relu:0.3"))
def test_three_layers_come_close_to_the_best_and_are_never_wider_than_intervals(activation: str) -> None:
    """Best: any slopes at the unstable neurons of both layers, by enumeration."""
    ratios = []
    for seed in range(10):
        weights, graph = network((2, 5, 5, 2), seed, activation)
        region = Ball(torch.full((2,), 0.3), 0.4)
        wide, published, tight = (enclose(graph, region, method) for method in METHODS)
        best = over_all_patterns(weights, tight, graph)
        slack = 1e-11
        for found in (published.entries, tight.entries):
            assert bool(
                (found.lower >= wide.entries.lower - slack).all() & (found.upper <= wide.entries.upper + slack).all()
            )
            assert bool((found.lower <= best.lower + slack).all() & (found.upper >= best.upper - slack).all())
        excess = [float((x.upper - x.lower).sum()) for x in (best, tight.entries, published.entries, wide.entries)]
        ratios.append([entry / excess[0] for entry in excess])
    mean = torch.tensor(ratios).mean(0).tolist()
    assert mean[1] <= 1.06 and mean[1] <= mean[2] + 1e-9 and mean[2] <= mean[3] + 1e-9, mean


def test_where_the_signs_are_known_recurjac_is_exact() -> None:
    """Positive weights: every derivative behind is positive, so nothing is relaxed at all."""
    weights, _ = network((3, 5, 5, 2), 1)
    weights = [weight.abs() for weight in weights]
    biases = [-0.2 * weights[0].sum(1), torch.full((5,), -0.05, dtype=torch.float64), torch.zeros(2).double()]
    graph = from_layers(weights, biases)
    for method in METHODS[1:]:
        found = enclose(graph, Ball(torch.full((3,), 0.2), 0.3), method)
        assert int(sum((slope.lower != slope.upper).sum() for slope in found.slopes.values())) >= 4
        assert close(found.entries, over_all_patterns(weights, found, graph))


def test_stable_layers_in_between_cost_nothing() -> None:
    """Two layers of active neurons before an unstable one: exact for RecurJac, not for intervals."""
    weights, _ = network((2, 6, 6, 5, 1), 3)
    shifts = [torch.full((6,), 50.0).double(), torch.full((6,), 500.0).double()]
    at_zero = weights[2] @ (weights[1] @ shifts[0] + shifts[1])
    graph = from_layers(weights, [*shifts, -at_zero, torch.zeros(1).double()])
    terms = weights[3].T * (weights[2] @ weights[1] @ weights[0])  # of each unstable neuron, with slope 1
    best = Interval(terms.clamp(max=0).sum(0, keepdim=True), terms.clamp(min=0).sum(0, keepdim=True))
    for method in METHODS[1:]:
        found = enclose(graph, Ball(torch.zeros(2), 1.0), method)
        assert int(sum((slope.lower != slope.upper).sum() for slope in found.slopes.values())) == 5
        assert close(found.entries, best)
    intervals = enclose(graph, Ball(torch.zeros(2), 1.0), FastLip()).entries
    assert float((intervals.upper - intervals.lower).sum()) > 1.5 * float((best.upper - best.lower).sum())


@pytest.mark.parametrize("activation", ("relu", "leaky_relu:0.3", "tanh"))
def test_chords_are_not_worse_than_constants(activation: str) -> None:
    """Three layers: one relaxed layer, and the chord lies below the constant everywhere."""
    for seed in range(6):
        _, graph = network((3, 6, 5, 2), seed, activation)
        region = Ball(torch.zeros(3), 0.4)
        published, tight = (enclose(graph, region, method) for method in METHODS[1:])
        slack = 1e-11
        assert bool((tight.entries.lower >= published.entries.lower - slack).all())
        assert bool((tight.entries.upper <= published.entries.upper + slack).all())
        assert (
            float(from_entries(tight, math.inf, math.inf)) <= float(from_entries(published, math.inf, math.inf)) + slack
        )


@methods
def test_merged_rows_are_not_longer_than_plain_ones(method: JacobianMethod) -> None:
    gains = []
    for seed in range(6):
        _, graph = network((8, 6, 6, 2), seed)
        found = enclose(graph, Ball(torch.zeros(8), 0.1), method)
        merged, plain = merged_row_sums(found), found.entries.magnitude().sum(1)
        assert bool((merged <= plain * (1 + 1e-12) + 1e-300).all())
        gains.append(float((plain / merged).max()))
    assert max(gains) > 1.01 or isinstance(method, FastLip)


@pytest.mark.parametrize("activation", ("relu", "leaky_relu:0.3", "tanh", "sigmoid"))
def test_crown_on_one_neuron_is_the_best_line(activation: str) -> None:
    """s(z) - k z for a slope k between: the bounds are those of the best single line, found by search."""
    value = torch.relu if activation == "relu" else getattr(torch, activation, None)
    value = value or (lambda z: torch.where(z > 0, z, 0.3 * z))
    for low, high in ((-1.0, 2.0), (-2.0, 1.0), (-0.5, 0.6)):
        z = torch.linspace(low, high, 2001, dtype=torch.float64)
        graph = from_layers([[[1.0]], [[1.0]]], None, activation)
        found = bound_output(graph, Box([low], [high]), CROWN())
        assert abs(float(found.upper) - float(value(z).max())) <= 1e-9
        assert abs(float(found.lower) - float(value(z).min())) <= 1e-9


@pytest.mark.parametrize("method", (IBP(), FastLin(), CROWN()), ids=str)
def test_affine_networks_are_exact_over_every_ball(method: IBP) -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    graph = from_layers([weight], [[0.5]])
    centre = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    for p, dual in ((1, 3.0), (2, math.sqrt(14.0)), (math.inf, 6.0)):
        found = bound_output(graph, Ball(centre, 0.25, p), method)
        assert float(found.upper) == pytest.approx(-3.5 + 0.25 * dual, abs=1e-12)
        assert float(found.lower) == pytest.approx(-3.5 - 0.25 * dual, abs=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("p", (1, 2, math.inf))
def test_bounds_of_nested_regions_are_nested_for_fixed_lines(method: JacobianMethod, p: float) -> None:
    """Intervals are monotone; so are the Jacobian bounds that are built on them by the published rule."""
    _, graph = network((3, 6, 2), 4)
    method = type(method)(preactivation=IBP()) if isinstance(method, FastLip) else RecurJac(method.relaxation, IBP())
    found = bound_jacobian(graph, Ball(torch.zeros(3), [0.0, 0.05, 0.1, 0.3, 1.0], p), method)
    slack = 1e-11
    assert bool((found.lower.diff(dim=0) <= slack).all()) and bool((found.upper.diff(dim=0) >= -slack).all())
    assert bool((found.unstable.diff() >= 0).all())


@pytest.mark.slow
def test_a_margin_is_bounded_better_than_by_the_difference_of_bounds() -> None:
    row = torch.tensor([[1.0, -1.0]])
    for seed in range(5):
        _, graph = network((4, 8, 8, 2), seed)
        region = Ball(torch.zeros(4), 0.3)
        both, margin = bound_output(graph, region), bound_output(graph, region, rows=row)
        assert float(margin.upper) <= float(both.upper[0] - both.lower[1]) + 1e-12
        assert float(margin.lower) >= float(both.lower[0] - both.upper[1]) - 1e-12
        slopes, slope = bound_jacobian(graph, region), bound_jacobian(graph, region, rows=row)
        assert float((slope.upper - slope.lower).sum()) <= float((slopes.upper - slopes.lower).sum()) + 1e-12
        assert bool((margin.upper - margin.lower < both.upper[0] - both.lower[1] - both.lower[0] + both.upper[1]).all())


def test_crown_is_not_looser_than_intervals_and_usually_tighter() -> None:
    for seed in range(5):
        _, graph = network((3, 8, 8, 2), seed)
        widths = []
        for method in (IBP(), FastLin(), CROWN()):
            found = bound_output(graph, Ball(torch.zeros(3), 0.2), method)
            widths.append(float((found.upper - found.lower).sum()))
        assert widths[2] < widths[0] and widths[1] < widths[0]


def test_global_constants_of_one_layer_are_its_norms() -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=torch.float64)
    graph = from_layers([weight])
    for norm, value in (((2, 2), 4.0), ((1, 1), 4.0), ((math.inf, 1), 7.0), ((2, 1), 5.0), ((math.inf, 2), 5.0)):
        found = lipschitz(graph, Ball(torch.zeros(2), 1.0), norm=norm)
        assert float(found.upper) == pytest.approx(value, rel=1e-6)
