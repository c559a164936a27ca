"""Certified radii: sound against sampling and attack, exact for linear networks, never below their parts."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import jacobound as jb
import zoo
from jacobound import PGD
from jacobound.asking import strictly
from jacobound.inputs.regions import Balls
from jacobound.questions.certificates import MOST, Chase, Shared
from jacobound.questions.common import largest_verified
from jacobound.questions.evaluators import Around

NORMS = (1.0, 2.0, math.inf)
METHODS = (None, jb.CROWN(), jb.IBP(), jb.RecurJac(), jb.RecurJac("constant"), jb.FastLip(), jb.AutoLip())
QUICK = PGD(restarts=3, steps=8, rounds=8)


@pytest.fixture
def generator() -> torch.Generator:
    """One seed: every call here bounds many balls."""
    return torch.Generator().manual_seed(3)


def distances(offsets: Tensor, p: float) -> Tensor:
    return torch.linalg.vector_norm(offsets.flatten(1), ord=p, dim=1)


def directions(shape: tuple[int, ...], count: int, p: float, generator: Generator) -> Tensor:
    """Offsets of length 1 in the norm, many of them corners and axes."""
    found = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    found[::3] = found[::3].sign()
    found[1::3] *= (torch.rand(found[1::3].shape, generator=generator) < 0.3).to(found)
    length = distances(found, p).clamp(min=1e-12)
    return found / length.reshape(-1, *[1] * len(shape))


def margins_at(graph: jb.Graph, points: Tensor, result: jb.RobustRadius, which: int) -> Tensor:
    """label - target at points (k, *input shape), shape (k, K)."""
    outputs = graph(points).flatten(1)
    return outputs[:, result.label[which]].unsqueeze(1) - outputs[:, result.targets[which]]


def classifier(generator: Generator, *widths: int, activation: str = "relu") -> jb.Graph:
    """A random network with some unstable neurons everywhere."""
    pairs = list(itertools.pairwise(widths))
    weights = [zoo.normal((out, source), generator, 1.5 / math.sqrt(source)) for source, out in pairs]
    biases = [zoo.normal((out,), generator, 0.3) for _, out in pairs]
    return jb.from_layers(weights, biases, activation=activation)


@pytest.mark.slow
def test_pairs_of_layers_serve_euclidean_radii() -> None:
    generator = torch.Generator().manual_seed(0)
    graph = jb.from_layers([torch.randn(shape, generator=generator).double() for shape in ((8, 4), (8, 8), (3, 8))])
    points = torch.randn(2, 4, generator=generator).double()
    by_pairs, by_products = (
        jb.robust_radius(graph, points, p=2, method=method, attack=None).radius
        for method in (jb.SeqLip(), jb.AutoLip())
    )
    assert bool((by_pairs >= by_products * (1 - 1e-9)).all()) and bool((by_pairs > by_products).any())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "p"), [(kind, NORMS[k % 3]) for k, kind in enumerate(sorted(zoo.KINDS))])
def test_no_sampled_point_within_the_radius_changes_the_decision(kind: str, p: float, generator: Generator) -> None:
    graph = zoo.KINDS[kind](generator)
    if math.prod(graph.out_shape) < 2:
        pytest.skip("one output decides nothing")
    points = torch.randn(1, *graph.in_shape, generator=generator, dtype=torch.float64)
    result = jb.robust_radius(graph, points, p=p, steps=3, tolerance=0.1, attack=None, largest=100.0)
    assert result.status.certified and result.radius.shape == result.targets.shape
    real = zoo.realised(graph, generator)
    offsets = directions(graph.in_shape, 60, p, generator)
    for target in range(result.targets.shape[1]):
        radius = float(result.radius[0, target])
        shares = torch.cat((torch.ones(30), torch.rand(30, generator=generator))).to(torch.float64)
        moved = points[0] + offsets * (radius * shares).reshape(-1, *[1] * (offsets.dim() - 1))
        sizes = real(moved).abs().max() + 1
        assert (margins_at(real, moved, result, 0)[:, target] >= -1e-9 * sizes).all()


@pytest.mark.slow
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_radius_of_a_linear_network_is_exact(method: object, p: float) -> None:
    generator = torch.Generator().manual_seed(5)
    weight, bias = zoo.normal((3, 5), generator), zoo.normal((3,), generator, 0.1)
    graph = jb.from_layers([weight], [bias])
    points = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    result = jb.robust_radius(graph, points, p=p, method=method, tolerance=1e-6, attack=PGD(2, 30, 30))  # type: ignore[arg-type]
    outputs = graph(points)
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]
    for k in range(4):
        rows = weight[result.label[k]] - weight[result.targets[k]]
        exact = (outputs[k, result.label[k]] - outputs[k, result.targets[k]]) / torch.linalg.vector_norm(rows, dual, 1)
        assert (result.radius[k] <= exact * (1 + 1e-12)).all()
        assert (result.radius[k] >= exact * (1 - 3e-3)).all()
        assert (result.attack_radius[k] >= exact * (1 - 1e-12)).all()
        if p != 1:
            assert (result.attack_radius[k] <= exact * 1.2).all()


@pytest.mark.slow
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_stays_below_the_attack(method: object, p: float) -> None:
    generator = torch.Generator().manual_seed(6)
    graph = classifier(generator, 6, 12, 10, 4)
    points = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    result = jb.robust_radius(graph, points, p=p, method=method, attack=QUICK)  # type: ignore[arg-type]
    assert result.status.certified
    assert (result.radius > 0).all() and (result.radius <= result.attack_radius).all()


@pytest.mark.slow
def test_semidefinite_certificates_serve_too(generator: Generator) -> None:
    graph = classifier(generator, 4, 6, 5, 2)
    point = torch.randn(4, generator=generator, dtype=torch.float64)
    for p in NORMS:
        result = jb.robust_radius(graph, point, p=p, method=jb.LipSDP(), steps=2, attack=QUICK)
        assert 0 < float(result.untargeted) <= float(result.untargeted_attack)


@pytest.mark.slow
@pytest.mark.parametrize("p", NORMS)
def test_shared_certificates_bound_every_increment(p: float, generator: Generator) -> None:
    graph = classifier(generator, 5, 14, 12, 4, activation="leaky_relu:0.1")
    point = torch.randn(1, 5, generator=generator, dtype=torch.float64)
    rows = torch.eye(4, dtype=torch.float64)[0] - torch.eye(4, dtype=torch.float64)[1:]
    here = graph(point) @ rows.T
    with strictly(graph, None) as (budget, _):
        balls, _ = jb.Ball(point, 0.0, p).balls(graph)
        shared = Shared(Around(graph, balls, torch.tensor([0]), rows, budget), budget)
        for radius in (0.1, 0.5, 2.0):
            for margins in (torch.tensor([0.01, 1.0, 300.0]), torch.full((3,), 1e9), torch.full((3,), 1e-9)):
                constants = shared(0, radius, torch.arange(3), margins.double())
                offsets = radius * directions((5,), 400, p, generator)
                offsets[::2] *= torch.rand(200, 1, generator=generator, dtype=torch.float64)
                offsets = offsets[distances(offsets, p) > 1e-3 * radius]
                attained = ((graph(point + offsets) @ rows.T - here).abs() / distances(offsets, p)[:, None]).amax(0)
                assert (constants >= attained * (1 - 1e-12)).all()
                assert (constants <= 10 * attained).all()


def test_polished_multipliers_are_tighter(generator: Generator) -> None:
    """Constants that have to be small get cheap steps of their own; all of them stay feasible."""
    graph = classifier(generator, 8, 40, 40, 4)
    rows = torch.eye(4, dtype=torch.float64)[0] - torch.eye(4, dtype=torch.float64)[1:]
    with strictly(graph, None) as (budget, _):
        balls, _ = jb.Ball(torch.randn(1, 8, generator=generator, dtype=torch.float64), 0.0).balls(graph)
        shared = Shared(Around(graph, balls, torch.tensor([0]), rows, budget), budget)
        plain, better = (shared(0, 0.5, torch.arange(3), torch.full((3,), m).double()) for m in (2.0**40, 2.0**-40))
    assert (better < plain).all() and (better >= 0.3 * plain).all()


def test_a_chase_of_balls_ends_at_the_largest_radius() -> None:
    """Constants that grow like the square root: the best ball has radius (m / L(1)) ** (2 / 3)."""
    margins, scale = torch.tensor([3.0, 5.0, -1.0, 4.0]).double(), torch.tensor([2.0, 1.0, 1.0, 1.0]).double()
    chase = Chase(margins, torch.tensor([0.3, 0.5, 0.4, 0.0]).double(), 100.0)
    for _ in range(MOST):
        wanted = chase.next()
        if wanted is None:
            break
        radius, rows = wanted
        assert set(rows.tolist()) <= {0, 1}
        chase.put(radius, rows, scale[rows] * math.sqrt(radius))
    best = (margins / scale).clamp(min=0) ** (2 / 3)
    assert (chase.found[:2] <= best[:2] * (1 + 1e-12)).all() and (chase.found[:2] >= 0.85 * best[:2]).all()
    assert (chase.found[2:] == 0).all()


@pytest.mark.slow
def test_certificates_go_beyond_output_bounds(generator: Generator) -> None:
    graph = classifier(generator, 8, 60, 60, 3)
    point = torch.randn(8, generator=generator, dtype=torch.float64)
    result = jb.robust_radius(graph, point, attack=QUICK)
    without = jb.robust_radius(graph, point, attack=None, seconds=0.0)
    assert (result.radius >= without.radius * (1 - 1e-12)).all()
    assert (result.details["certificates of increments"] > 0).all()
    assert (without.details["certificates of increments"] == 0).all()
    assert (result.radius <= result.attack_radius).all()


@pytest.mark.slow
def test_the_default_is_never_below_its_parts(generator: Generator) -> None:
    graph = classifier(generator, 6, 16, 12, 3, activation="tanh")
    points = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    best = jb.robust_radius(graph, points, attack=None)
    for method in (jb.CROWN(), jb.RecurJac(), jb.RecurJac("constant")):
        part = jb.robust_radius(graph, points, method=method, attack=None)
        assert (best.radius >= part.radius * (1 - 3e-3)).all()
    assert (best.details["Theorem 2"] >= best.details["Lemma 1"] * (1 - 1e-12)).all()
    assert torch.equal(best.radius, torch.stack(list(best.details.values())).amax(0))
    assert set(best.method) <= set(best.details)


@pytest.mark.slow
def test_more_steps_are_tighter_and_right_end_points_converge_from_below(generator: Generator) -> None:
    graph = classifier(generator, 4, 20, 20, 3)
    point = torch.randn(4, generator=generator, dtype=torch.float64)
    radii = [
        float(jb.robust_radius(graph, point, method=jb.RecurJac(), steps=steps, attack=None).untargeted)
        for steps in (2, 10, 50)
    ]
    assert radii[0] <= 1.1 * radii[1] and radii[1] <= 1.02 * radii[2] and radii[2] <= 1.3 * radii[1]


@pytest.mark.slow
def test_the_integral_is_that_of_a_known_function() -> None:
    """In one dimension the constant of the margin jumps where the kink enters the ball."""
    # margin g(x) = 1 - 0.5 x - 2 relu(x - 1): |g'| is 0.5 up to 1, then 2.5; from 0 the margin ends at x = 1.2.
    weights = [torch.ones(2, 1), torch.tensor([[-0.5, -2.0], [0.0, 0.0]])]
    biases = [torch.tensor([10.0, -1.0]), torch.tensor([6.0, 0.0])]
    graph = jb.from_layers([w.double() for w in weights], [b.double() for b in biases], activation="relu")
    fine = jb.robust_radius(graph, torch.zeros(1), 0, method=jb.RecurJac(), steps=400, attack=None)
    coarse = jb.robust_radius(graph, torch.zeros(1), 0, method=jb.RecurJac(), steps=3, attack=None)
    assert 1.15 < float(fine.untargeted) <= 1.2
    assert 0.4 <= float(coarse.untargeted) <= float(fine.untargeted)
    assert float(fine.details["Theorem 2"]) == float(fine.untargeted)
    assert float(fine.details["Lemma 1"]) <= 1.0 + 1e-9


@pytest.mark.slow
def test_clipping_helps_and_points_outside_are_refused(generator: Generator) -> None:
    graph = classifier(generator, 6, 12, 3)
    points = torch.rand(3, 6, generator=generator, dtype=torch.float64)
    free = jb.robust_radius(graph, points, attack=None)
    clipped = jb.robust_radius(graph, points, clip=(0.0, 1.0), attack=QUICK)
    assert (clipped.radius >= 0.9 * free.radius).all() and (clipped.radius > 1.05 * free.radius).any()
    assert clipped.witness is not None
    inside = clipped.witness.isnan() | ((clipped.witness >= 0) & (clipped.witness <= 1))
    assert inside.all() and (clipped.attack_radius >= clipped.radius).all()
    with pytest.raises(jb.InvalidRegionError):
        jb.robust_radius(graph, points - 2, clip=(0.0, 1.0))


@pytest.mark.slow
def test_witnesses_change_the_decision(generator: Generator) -> None:
    graph = classifier(generator, 5, 10, 8, 3)
    points = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    for p in NORMS:
        result = jb.robust_radius(graph, points, p=p, method=jb.CROWN())
        assert result.witness is not None
        found = result.attack_radius.isfinite()
        assert found.any()
        for k, target in found.nonzero().tolist():
            witness = result.witness[k, target]
            outputs = graph(witness)
            assert outputs[result.targets[k, target]] > outputs[result.label[k]]
            assert float(distances((witness - points[k]).unsqueeze(0), p)) <= float(result.attack_radius[k, target])


@pytest.mark.slow
def test_a_wrong_label_certifies_nothing_and_is_its_own_witness(generator: Generator) -> None:
    graph = classifier(generator, 5, 10, 3)
    point = torch.randn(5, generator=generator, dtype=torch.float64)
    order = graph(point).argsort()
    result = jb.robust_radius(graph, point, int(order[0]))
    assert (result.radius == 0).all() and (result.attack_radius == 0).all() and (result.margin < 0).all()
    middle = jb.robust_radius(graph, point, int(order[1]), targets=[int(order[0]), int(order[2])])
    assert float(middle.radius[0]) > 0 and float(middle.radius[1]) == 0
    assert float(middle.certified_accuracy(0.0)) == 0.0


@pytest.mark.slow
def test_results_as_rows_and_accuracies(generator: Generator) -> None:
    graph = classifier(generator, 5, 10, 3)
    points = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    result = jb.robust_radius(graph, points, attack=QUICK)
    assert result.radius.shape == (2, 3, 2) and result.untargeted.shape == (2, 3)
    rows = result.table()
    assert len(rows) == 12 and rows[0].keys() == rows[-1].keys()
    assert rows[-1]["point"] == 5 and rows[-1]["radius"] == float(result.radius[1, 2, 1])
    accuracy = result.certified_accuracy([0.0, 1e-3, 1e3])
    assert accuracy.tolist()[0] == 1.0 and accuracy.tolist()[-1] == 0.0
    assert (result.attacked_accuracy([0.0, 1e-3, 1e3]) >= accuracy).all()
    assert json.loads(result.to_json())["status"]["certified"] is True
    alone = jb.robust_radius(graph, points[1, 2], attack=None)
    assert torch.allclose(alone.radius, result.radius[1, 2], rtol=3e-3)


def test_what_does_not_fit_is_refused(generator: Generator) -> None:
    graph = classifier(generator, 5, 4, 3)
    point = torch.zeros(5)
    for wrong in ({"label": 3}, {"label": 0, "targets": [0]}, {"label": 0.5}, {"targets": []}):
        with pytest.raises(jb.ShapeError):
            jb.robust_radius(graph, point, **wrong)  # type: ignore[arg-type]
    with pytest.raises(jb.ShapeError, match="one output"):
        jb.robust_radius(classifier(generator, 5, 4, 1), point)
    with pytest.raises(jb.InvalidRegionError):
        jb.robust_radius(graph, point * math.nan)
    for option in ({"steps": 0}, {"tolerance": 0.0}, {"largest": 0.0}):
        with pytest.raises(jb.InvalidOptionError):
            jb.robust_radius(graph, point, **option)  # type: ignore[arg-type]


def test_time_over_is_certified_and_says_so(generator: Generator) -> None:
    graph = classifier(generator, 5, 10, 3)
    point = torch.randn(5, generator=generator, dtype=torch.float64)
    result = jb.robust_radius(graph, point, budget=jb.Budget(seconds=0))
    assert result.status is jb.Status.TIME_LIMIT and (result.radius >= 0).all()


def test_the_search_for_the_largest_verified_radius() -> None:
    truth = torch.tensor([[0.3, 7.0, 0.0], [1e-7, 50.0, 0.2]], dtype=torch.float64)
    tried = []

    def check(which: Tensor, radii: Tensor, asked: Tensor) -> Tensor:
        tried.append(len(which))
        return truth[which][:, asked] - radii.unsqueeze(1) - 1e-12

    found = largest_verified(check, 3, torch.tensor([1.0, 1.0]).double(), 20.0, 1e-3, lambda: False)
    capped = truth.clamp(max=20.0)
    assert (found <= capped).all() and (found >= capped * (1 - 1.1e-3)).all()
    assert len(tried) < 150


@pytest.mark.soundness
@pytest.mark.parametrize("net", ["mnist_3layer_relu_1024"])
def test_reference_radii_are_exceeded(shared_data: Path, net: str) -> None:
    with np.load(shared_data / "mnist" / "mnist_test.npz") as archive:
        images = archive["x"][:10].reshape(10, -1)
    summary = json.loads((shared_data / "reference" / "recurjac" / "summary.json").read_text())
    graph = jb.from_onnx(shared_data / "nets" / f"{net}.onnx")
    for image in summary["robustness"][net]["images"][8:9]:
        point = images[image["idx"]].astype(np.float32) / np.float32(255) - np.float32(0.5)
        targets = list(image["targets"].values())
        published = jb.robust_radius(
            graph, point, image["label"], targets=targets, method=jb.RecurJac("constant"), steps=16, attack=None
        )
        default = jb.robust_radius(graph, point, image["label"], targets=targets, attack=None, seconds=4.0)
        assert (published.radius >= torch.tensor(image["radius"]["recurjac"], dtype=torch.float64)).all()
        assert (default.radius >= published.radius).all()
        assert (default.radius >= 0.995 * torch.tensor(image["crown_adaptive_grid"], dtype=torch.float64)).all()


def test_balls_are_those_of_the_region(generator: Generator) -> None:
    points = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    graph = jb.from_layers([torch.eye(4).double()], [torch.zeros(4).double()])
    for p in NORMS:
        region = jb.Ball(points, 0.25, p, clip=(-10.0, 10.0))
        balls, lead = region.balls(graph)
        assert isinstance(balls, Balls) and lead == (3,)
        mine = balls.domain(torch.arange(3), torch.full((3,), 0.25, dtype=torch.float64))
        theirs = region.domains(graph)[0][0:3]
        assert torch.equal(mine.box.lower, theirs.box.lower) and torch.equal(mine.box.upper, theirs.box.upper)


def test_radii_in_units_of_each_input_are_asked_of_the_network_that_holds_the_units() -> None:
    matrix, scale = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64), torch.tensor([0.25, 4.0]).double()
    layer = torch.nn.Linear(2, 2, bias=False).double()
    layer.weight.data.copy_(matrix)
    graph, x = jb.from_torch(layer, torch.zeros(1, 2, dtype=torch.float64)), torch.tensor([1.0, 0.5]).double()
    for question in (jb.robust_radius, jb.stationary_free_radius):
        with pytest.raises(jb.InvalidOptionError, match="with_preprocessing"):
            question(graph, x, scale=scale)  # pyright: ignore[reportArgumentType]
    found = jb.robust_radius(graph.with_preprocessing(0.0, 1 / scale), x / scale)
    margin = matrix[1] - matrix[0]
    truth = float((margin @ x).abs() / (margin * scale).abs().sum())
    assert truth * (1 - 1e-2) <= float(found.untargeted) <= truth


@pytest.mark.parametrize("question", [jb.robust_radius, jb.stationary_free_radius])
def test_a_ball_stands_for_its_points_norm_clip_and_largest_radius(
    question: Callable[..., Any],
) -> None:
    graph = jb.from_layers([torch.tensor([[1.0, -2.0], [3.0, 0.5]]), torch.eye(2)], activation="tanh")
    x, clip = torch.tensor([[0.3, -0.2], [0.4, 0.1]]).double(), (-1.0, 1.0)
    points = question(graph, x, p=1.0, clip=clip, largest=0.5)
    ball = question(graph, jb.Ball(x, 0.5, 1, clip))
    assert torch.equal(points.radius, ball.radius) and points.p == ball.p == 1.0
    assert ball.provenance.question.options["largest"] == 0.5
    with pytest.raises(jb.InvalidOptionError, match="leave out p=, largest="):
        question(graph, jb.Ball(x, 0.5), p=1.0, largest=0.5)
    with pytest.raises(jb.InvalidOptionError, match="with_preprocessing"):
        question(graph, jb.Ball(x, 0.5, scale=2.0))
    for region in (jb.Box(x - 1, x + 1), jb.WholeSpace(), jb.Ball(x, jb.Radii((0.1, 0.2)))):
        with pytest.raises(jb.InvalidRegionError, match="largest radius"):
            question(graph, region)


class Logarithms(torch.nn.Module):
    """Logarithms of affine functions: not defined everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = torch.nn.Linear(2, 3).double(), torch.nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(torch.log(self.before(x) + 2))


@pytest.mark.parametrize("method", [None, jb.CROWN(), jb.RecurJac(), jb.AutoLip()], ids=repr)
def test_balls_that_leave_the_domain_of_a_function_are_not_verified(method: Any) -> None:
    module = Logarithms().eval()
    graph = jb.from_torch(module, torch.zeros(1, 2, dtype=torch.float64))
    points = torch.tensor([[0.0, 0.0], [0.3, 0.3]]).double()
    found = jb.robust_radius(graph, points, method=method, budget=20.0)
    ends = (module.before(points) + 2) / module.before.weight.abs().sum(1)  # here some logarithm ends
    reach = torch.minimum(found.untargeted_attack, ends.amin(1))
    assert bool((found.untargeted > 0.1 * reach).all() and (found.untargeted <= reach * (1 + 1e-6)).all())
    for question in (jb.robust_radius, jb.stationary_free_radius):
        with pytest.raises(jb.InvalidRegionError, match="log is defined"):
            question(graph, points[0] + 50.0)
