"""Radii from constants over the whole space: exact for linear networks, the best where layers keep lengths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

import jacobound as jb
import zoo
from jacobound import PGD

NORMS = (1.0, 2.0, math.inf)
QUICK = PGD(restarts=3, steps=8, rounds=8)


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(3)


@pytest.mark.parametrize("p", NORMS)
def test_a_linear_classifier_gets_its_exact_radius_from_global_constants(p: float, generator: Generator) -> None:
    """Without activations the nearest decision is ``margin / ||w_label - w_target||_dual`` away."""
    weight, bias = zoo.normal((4, 6), generator), zoo.normal((4,), generator)
    graph, points = jb.from_layers([weight], [bias]), torch.randn(3, 6, generator=generator, dtype=torch.float64)
    found = jb.robust_radius(graph, points, p=p, attack=None, seconds=0.0)
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[p]
    rows = weight[found.label].unsqueeze(1) - weight[found.targets]
    exact = found.margin / torch.linalg.vector_norm(rows, ord=dual, dim=-1)
    radius = found.details["global constants"]
    assert (radius <= exact * (1 + 1e-12)).all() and (radius >= exact * (1 - 1e-9)).all()


@pytest.mark.slow
def test_global_constants_win_where_layers_keep_lengths(generator: Generator) -> None:
    """Rotations between activations: the product of norms is 1, whatever the neurons do."""
    turns = [torch.linalg.qr(zoo.normal((16, 16), generator))[0] for _ in range(3)]
    graph = jb.from_layers([*turns, torch.eye(3, 16)], [torch.zeros(16)] * 3 + [torch.tensor([2.0, 0.0, -1.0])])
    point = torch.zeros(16, dtype=torch.float64)
    found = jb.robust_radius(graph, point, p=2.0, attack=QUICK, seconds=0.0)
    exact = torch.tensor([2.0, 3.0], dtype=torch.float64) / math.sqrt(2)
    assert torch.allclose(found.details["global constants"], exact, rtol=1e-6)
    assert "global constants" in set(found.method) and (found.radius <= found.attack_radius).all()
    cube = jb.robust_radius(graph, point, p=math.inf, attack=None, seconds=0.0)
    assert (cube.details["global constants"] >= exact / math.sqrt(16) * (1 - 1e-6)).all()
    capped = jb.robust_radius(graph, point, p=2.0, attack=None, seconds=0.0, largest=0.5)
    assert (capped.details["global constants"] == 0.5).all()
    wrong = jb.robust_radius(graph, point, label=1, p=2.0, attack=None, seconds=0.0)
    assert (wrong.details["global constants"] > 0).tolist() == [False, True]


def test_layers_without_a_global_constant_leave_the_other_arguments(generator: Generator) -> None:
    weights = [zoo.normal((8, 3), generator), zoo.normal((3, 8), generator)]
    graph = jb.from_layers(weights, [torch.zeros(8), torch.zeros(3)], activation="square")
    found = jb.robust_radius(graph, torch.randn(3, generator=generator, dtype=torch.float64), attack=None, seconds=0.0)
    assert (found.details["global constants"] == 0).all() and (found.radius > 0).all()
