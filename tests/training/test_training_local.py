"""Local constants in training: gradients against finite differences, values against the certified library and against
gradients at points; the penalty of a critic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import jacobound as jb
from jacobound import training
from training_cases import network, perceptron, slope_and_difference

INF = math.inf
METHODS = {
    "fastlip": jb.FastLip(jb.IBP()),
    "constant": jb.RecurJac("constant", jb.IBP()),
    "chord": jb.RecurJac("chord", jb.IBP()),
    "crown": jb.RecurJac("constant"),
}


# At curved activations the lines of CROWN are held fixed in the derivative.
EXACT = [
    (name, method) for name in ("relu", "tanh", "skip") for method in METHODS if name == "relu" or method != "crown"
]


@pytest.mark.parametrize(("name", "method"), EXACT)
@pytest.mark.parametrize("norm", [(2, 2), (INF, INF)], ids=["l2", "linf"])
def test_gradients_of_local_constants(name: str, method: str, norm: tuple[float, float]) -> None:
    module, example, live = network(name)
    points = torch.randn(3, *example.shape[1:], dtype=torch.float64)
    local = training.LocalLipschitz(live, 0.05, norm[0], METHODS[method], norm)
    slope, difference = slope_and_difference(module, lambda: local(points).sum())
    assert math.isfinite(slope)
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["relu", "gelu", "skip"])
@pytest.mark.parametrize("method", ["fastlip", "constant", "chord"])
def test_local_constants_bound_gradients_and_are_as_tight_as_the_library(name: str, method: str) -> None:
    module, example, live = network(name)
    centres = torch.randn(3, *example.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        found = training.LocalLipschitz(live, 0.1, INF, METHODS[method], (INF, INF))(centres)
    graph, ball = jb.from_torch(module, example), jb.Ball(centres, 0.1)
    certified = jb.lipschitz(graph, ball, METHODS[method], norm=(INF, INF), search=None).upper
    assert bool((found >= certified * (1 - 1e-9) - 1e-300).all())
    best = jb.bound_jacobian(graph, ball, METHODS[method])
    rows = torch.maximum(best.lower.abs(), best.upper.abs()).flatten(2).sum(2).amax(1)
    assert bool((found <= rows * (1 + 1e-9)).all())
    for offset in 0.2 * torch.rand(20, *centres.shape, dtype=torch.float64) - 0.1:
        points = (centres + offset).requires_grad_()
        values = module(points)
        sizes = [
            torch.autograd.grad(one.sum(), points, retain_graph=True)[0].flatten(1).abs().sum(1) for one in values.T
        ]
        assert bool((torch.stack(sizes).amax(0) <= found).all())


def test_a_ball_of_no_radius_gives_the_norm_of_the_gradient() -> None:
    module, _, live = network("tanh")
    points = torch.randn(4, 6, dtype=torch.float64)
    found = training.LocalLipschitz(live, 0.0)(points)
    jacobians = torch.func.vmap(torch.func.jacrev(module))(points)
    assert torch.allclose(found, torch.linalg.matrix_norm(jacobians, 2), rtol=1e-9)


def test_the_penalty_of_a_critic() -> None:
    critic = perceptron(nn.LeakyReLU, 2, 8, 8, 1)
    real, generated = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64) + 2
    local = training.LocalLipschitz(training.Live(critic, real), 0.1)
    largest = float(torch.stack([local(point).max().detach() for point in (real, generated)]).max())
    assert not bool(training.CriticPenalty(local, 100 * largest)(real, generated))
    seeds = (3, 3, 4)
    values = [training.CriticPenalty(local, 0.01, torch.Generator().manual_seed(k))(real, generated) for k in seeds]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert bool(values[0] > 0)
    found = torch.autograd.grad(values[0], [layer.weight for layer in critic if isinstance(layer, nn.Linear)])
    assert all(bool(one.any()) for one in found)


@pytest.mark.parametrize("radius", [-0.1, INF, math.nan])
def test_radii_that_are_none(radius: float) -> None:
    _, _, live = network("relu")
    with pytest.raises(jb.InvalidOptionError, match="radius"):
        training.LocalLipschitz(live, radius)
