"""Monotone features: certified signs are right, pairs are real, sensitivities hold, trained monotony is found."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional

import jacobound as jb
import zoo
from oracles import autodiff


@pytest.fixture
def generator() -> torch.Generator:
    """One seed: every call here bounds many parts of boxes."""
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("kind", sorted(zoo.KINDS))
def test_sensitivities_hold_at_sampled_points_and_pairs_are_real(kind: str, generator: Generator) -> None:
    graph = zoo.KINDS[kind](generator)
    centre = torch.randn(graph.in_shape, generator=generator, dtype=torch.float64)
    result = jb.monotone_features(graph, jb.Ball(centre, 0.5), most=20)
    outputs = math.prod(graph.out_shape)
    real = zoo.realised(graph, generator)
    places = centre + (torch.rand(80, *graph.in_shape, generator=generator, dtype=torch.float64) - 0.5)
    jacobians = autodiff(real, places).reshape(80, outputs, *graph.in_shape)
    slack = 1e-9 * (1 + jacobians.abs().max())
    assert (jacobians >= result.lower - slack).all() and (jacobians <= result.upper + slack).all()
    for kind_of_pair, sign in (("rising", 1), ("falling", -1)):
        for place in itertools.product(range(outputs), *map(range, graph.in_shape)):
            low, high = result.pair(kind_of_pair, place)
            if bool(low.isnan().any()):
                continue
            moved = high - low
            assert moved[place[1:]] > 0 and int((moved != 0).sum()) == 1
            assert ((torch.stack((low, high)) - centre).abs() <= 0.5 * (1 + 1e-12)).all()
            change = float((real(high) - real(low)).flatten()[place[0]])
            assert sign * change > 0 and abs(change) <= float(result.swing[place]) + 1e-9
    assert not bool((result.increasing & _shown(result.falling, result)).any())
    assert not bool((result.decreasing & _shown(result.rising, result)).any())


def _shown(pairs: Tensor, result: jb.MonotoneFeatures) -> Tensor:
    return ~pairs.flatten(result.lower.dim()).isnan().any(-1)


def trained(generator: Generator) -> jb.Graph:
    """Three inputs; the output was trained to rise with the first two and to oscillate with the third."""
    sizes = (3, 16, 16, 1)
    weights = [
        (torch.randn(o, i, generator=generator) / math.sqrt(i)).requires_grad_() for i, o in itertools.pairwise(sizes)
    ]
    biases = [torch.zeros(size).requires_grad_() for size in sizes[1:]]
    optimiser = torch.optim.Adam([*weights, *biases], lr=0.01)
    for _ in range(300):
        x = (2 * torch.rand(128, 3, generator=generator) - 1).requires_grad_()
        y = x
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            y = torch.tanh(functional.linear(y, weight, bias))
        y = functional.linear(y, weights[-1], biases[-1])
        wanted = x[:, 0] + x[:, 1] + 0.5 * torch.sin(3 * x[:, 2])
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        loss = (y[:, 0] - wanted).square().mean() + functional.relu(0.3 - slope[:, :2]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return jb.from_layers([w.detach() for w in weights], [b.detach() for b in biases], activation="tanh")


@pytest.mark.slow
def test_a_network_trained_to_be_monotone_is_certified(generator: Generator) -> None:
    graph = trained(generator)
    box = jb.Box(-torch.ones(3), torch.ones(3))
    whole = jb.bound_jacobian(graph, box)
    assert float(whole.lower[0, :2].min()) < 0  # without parts nothing is known
    result = jb.monotone_features(graph, box, most=1500)
    assert result.increasing[0].tolist() == [True, True, False]
    assert result.neither[0].tolist() == [False, False, True]
    assert result.words() == ["increasing", "increasing", "both"]
    assert result.status is jb.Status.CERTIFIED and int(result.boxes) > 1
    assert (result.lower >= whole.lower).all() and (result.upper <= whole.upper).all()
    rows = result.table()
    assert [row["input"] for row in rows] == [0, 1, 2] and rows[2]["answer"] == "both"
    json.loads(result.to_json())


def test_simple_signs() -> None:
    weights = [torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), torch.tensor([[1.0, 2.0], [-1.0, 0.0]])]
    graph = jb.from_layers([w.double() for w in weights], activation="relu")
    result = jb.monotone_features(graph, jb.Box([-1.0] * 3, [2.0] * 3))
    assert result.words() == ["increasing", "decreasing", "constant", "decreasing", "constant", "constant"]
    assert result.swing[0, 0] == pytest.approx(3.0, rel=1e-9) and not bool(result.undecided.any())
    assert not bool(_shown(result.rising, result).any())  # none is needed where signs are certified


def linear(*coefficients: float) -> jb.Graph:
    return jb.from_layers([torch.tensor([coefficients], dtype=torch.float64)])


@pytest.mark.parametrize("large", [1.0, 1e9, 1e15, 1e200])
@pytest.mark.parametrize("small", [1e-200, -1e-3, -0.5, 0.5])
def test_certified_signs_win_whatever_the_other_features_are(large: float, small: float) -> None:
    result = jb.monotone_features(linear(large, small, -small), jb.Box([0.0] * 3, [1.0] * 3))
    falls, rises = ("decreasing", "increasing") if small < 0 else ("increasing", "decreasing")
    assert result.words() == ["increasing", falls, rises] and not bool(result.constant.any())
    assert result.slack.shape == result.lower.shape
    assert (result.slack <= 1e-8 * result.lower.abs()).all()  # of each feature's own size


def test_signs_win_over_a_slack_that_is_wider_than_the_derivative() -> None:
    result = jb.monotone_features(linear(1.0, -1.0), jb.Box([0.0] * 2, [1.0] * 2), negligible=0.99)
    assert result.words() == ["increasing", "decreasing"]
    # Many paths that nearly cancel: the scale is that of the paths, and still the strict sign is what is said.
    near = [torch.tensor([[1e6], [1e6 - 0.5]], dtype=torch.float64), torch.tensor([[-1.0, 1.0]], dtype=torch.float64)]
    result = jb.monotone_features(jb.from_layers(near, activation="identity"), jb.Box([0.0], [1.0]), negligible=0.5)
    assert float(result.slack) == pytest.approx(1e6) and result.words() == ["decreasing"]


@pytest.mark.slow
def test_constant_is_said_only_within_the_slack_on_both_sides() -> None:
    def wave(x: Tensor) -> Tensor:
        cancelled = torch.exp(x[:, :1]) - torch.exp(x[:, :1])
        return torch.cat((cancelled + 1e-6 * torch.sin(9 * x[:, 1:]), torch.sin(9 * x[:, 1:]) + cancelled), 1)

    graph = jb.from_torch(wave, torch.zeros(1, 2, dtype=torch.float64))
    result = jb.monotone_features(graph, jb.Box([0.0, 0.0], [1e-12, 2.0]), most=400)
    # The first input cancels up to its width in both rows; the second one waves in both, however little it matters.
    assert result.words() == ["constant", "both", "constant", "both"]
    inside = (result.lower >= -result.slack) & (result.upper <= result.slack)
    assert torch.equal(result.constant, inside) and torch.equal(result.constant[:, 0], torch.tensor([True, True]))
    table = result.table()
    assert [row["slack"] for row in table] == result.slack.flatten().tolist()
    for row in table:
        if row["answer"] == "constant":
            assert (
                -float(str(row["slack"]))
                <= float(str(row["lower"]))
                <= float(str(row["upper"]))
                <= float(str(row["slack"]))
            )


def test_what_no_path_reaches_is_exactly_constant() -> None:
    """Behind dead neurons and zero weights, also where everything underflows; strict signs need no slack then."""
    rows = ([[1e-200, 0.0, 1.0], [0.0, 1e-200, -1.0]], [[1e-200, 0.0]])
    weights = [torch.tensor(row, dtype=torch.float64) for row in rows]
    graph = jb.from_layers(weights, [torch.full((2,), 5.0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    result = jb.monotone_features(graph, jb.Box([-1.0] * 3, [1.0] * 3), negligible=0)
    assert result.words()[1:] == ["constant", "increasing"]
    assert float(result.lower[0, 1]) == float(result.upper[0, 1]) == 0.0
    # The derivative by the first input is 1e-400 > 0: not constant.
    assert result.words()[0] in ("increasing", "undecided")


@pytest.mark.slow
def test_limits_are_told_and_boxes_may_be_several() -> None:
    graph = trained(torch.Generator().manual_seed(1))
    boxes = jb.Box(torch.stack((-torch.ones(3), torch.zeros(3))), torch.stack((torch.ones(3), torch.full((3,), 0.01))))
    result = jb.monotone_features(graph, boxes, most=3)
    assert result.lower.shape == (2, 1, 3) and result.boxes.tolist()[0] <= 3
    assert result.status in (jb.Status.TIME_LIMIT, jb.Status.CERTIFIED)
    assert bool(result.increasing[1, 0, :2].all())
    assert len(result.table()) == 6 and result.table()[-1]["box"] == 1
    late = jb.monotone_features(graph, boxes, budget=jb.Budget(seconds=0))
    assert late.status is jb.Status.TIME_LIMIT
    with pytest.raises(jb.InvalidRegionError):
        jb.monotone_features(graph, jb.Ball(torch.zeros(3), 1.0, 2))
    with pytest.raises(jb.InvalidOptionError):
        jb.monotone_features(graph, boxes, most=0)
    everywhere = jb.monotone_features(graph, jb.WholeSpace())
    assert bool(everywhere.undecided.all()) and bool(everywhere.swing.isinf().all())
