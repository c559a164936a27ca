"""Radii without stationary points: sound against sampled gradients, exact where known, above the published ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

import jacobound as jb
import zoo
from oracles import autodiff

NORMS = (1.0, 2.0, math.inf)


@pytest.fixture
def generator() -> torch.Generator:
    """One seed: every call here bounds many balls."""
    return torch.Generator().manual_seed(4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "p"), [(kind, NORMS[k % 3]) for k, kind in enumerate(sorted(zoo.KINDS))])
def test_no_sampled_gradient_within_the_radius_vanishes(kind: str, p: float, generator: Generator) -> None:
    graph = zoo.KINDS[kind](generator)
    points = torch.randn(2, *graph.in_shape, generator=generator, dtype=torch.float64)
    result = jb.stationary_free_radius(graph, points, p=p, tolerance=0.05, largest=5.0)
    outputs = math.prod(graph.out_shape)
    assert result.status.certified and result.radius.shape == (2, outputs)
    real = zoo.realised(graph, generator)
    for k in range(2):
        for row in range(outputs):
            radius = float(result.radius[k, row])
            if radius == 0:
                continue
            (domain,), _ = jb.Ball(points[k], radius, p).domains(graph)
            places = domain.sample(60, generator)[0]
            gradients = autodiff(real, places)[:, row]
            assert (gradients.abs().amax(1) > 0).all()
    assert (result.vanishing_radius >= result.radius).all()


def test_a_linear_network_has_no_stationary_point_anywhere() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    result = jb.stationary_free_radius(jb.from_layers([weight]), torch.zeros(2), largest=3.0)
    assert result.radius.tolist() == [3.0, 0.0]
    assert result.vanishing_radius.tolist() == [math.inf, 0.0]
    assert float(result.smallest_gradient[0]) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("p", NORMS)
def test_a_dead_corner_is_found_from_both_sides(p: float) -> None:
    """relu(x + 1) + relu(y + 1) has no slope where both are off: from the origin at distance 1, 2, sqrt(2)."""
    weights = [torch.eye(2).double(), torch.ones(1, 2).double()]
    graph = jb.from_layers(weights, [torch.ones(2).double(), torch.zeros(1).double()], activation="relu")
    result = jb.stationary_free_radius(graph, torch.zeros(2), p=p, tolerance=1e-6, largest=50.0)
    # Over a ball that reaches x = -1 both entries lie in [0, 1] and each may be 0: what is certified ends at 1.
    assert 1 - 1e-5 < float(result.radius) <= {1.0: 2.0, 2.0: math.sqrt(2), math.inf: 1.0}[p]
    assert float(result.vanishing_radius) >= {1.0: 2.0, 2.0: math.sqrt(2), math.inf: 1.0}[p]
    assert float(result.vanishing_radius) <= 10.0


@pytest.mark.slow
def test_a_minimum_in_one_dimension_is_bracketed() -> None:
    graph = jb.from_layers([torch.ones(1, 1).double(), torch.ones(1, 1).double()], activation="abs")
    result = jb.stationary_free_radius(graph, torch.tensor([0.5]), tolerance=1e-6)
    assert 0.5 * (1 - 1e-5) <= float(result.radius) <= 0.5 <= float(result.vanishing_radius) < 1.0


def test_directions_certify_where_no_entry_has_a_sign() -> None:
    """Slopes (1 + s, 1 - s) and (s, 1 - s) for a neuron with s in [0, 1]: no entry has a sign, but their sum is 1."""
    # f = relu(x - y) + y has the gradient (s, 1 - s): along (1, 1) the derivative is 1 everywhere.
    weights = [torch.tensor([[1.0, -1.0], [0.0, 1.0], [0.0, -1.0]]), torch.tensor([[1.0, 1.0, -1.0]])]
    graph = jb.from_layers([w.double() for w in weights], activation="relu")
    shift = torch.tensor([0.1, 5.0], dtype=torch.float64)  # relu(y) is on around it, relu(-y) off, relu(x - y) off
    assert float(jb.stationary_free_radius(graph, shift, p=math.inf, largest=4.9).radius) > 2.4
    near = torch.tensor([5.0, 4.9], dtype=torch.float64)  # the kink of relu(x - y) at once
    entries = jb.bound_jacobian(graph, jb.Ball(near, 1.0))
    assert not bool(((entries.lower > 0) | (entries.upper < 0)).any())
    assert float(jb.stationary_free_radius(graph, near, p=math.inf, largest=4.8).radius) > 1.0


@pytest.mark.slow
def test_rows_batches_and_refusals(generator: Generator) -> None:
    graph = zoo.KINDS["mlp"](torch.Generator().manual_seed(1))
    points = torch.randn(2, 3, *graph.in_shape, generator=generator, dtype=torch.float64)
    rows = torch.ones(1, math.prod(graph.out_shape), dtype=torch.float64)
    result = jb.stationary_free_radius(graph, points, rows, p=2, tolerance=0.01)
    assert result.radius.shape == (2, 3, 1) and len(result.table()) == 6
    assert json.loads(result.to_json())["status"]["certified"] is True
    alone = jb.stationary_free_radius(graph, points[1, 2], rows, p=2, tolerance=0.01)
    assert float(alone.radius) == pytest.approx(float(result.radius[1, 2]), rel=0.03)
    with pytest.raises(jb.ShapeError):
        jb.stationary_free_radius(graph, points, [[1.0] * 50])
    with pytest.raises(jb.InvalidOptionError):
        jb.stationary_free_radius(graph, points, largest=-1.0)
    late = jb.stationary_free_radius(graph, points, budget=jb.Budget(seconds=0))
    assert late.status is jb.Status.TIME_LIMIT and (late.radius == 0).all()


@pytest.mark.parametrize(("depth", "p"), [(2, math.inf), (3, 2.0), (5, math.inf)])
def test_reference_radii_are_exceeded(shared_data: Path, depth: int, p: float) -> None:
    summary = json.loads((shared_data / "reference" / "recurjac" / "summary.json").read_text())["landscape"]
    with np.load(shared_data / "mnist" / "mnist_test.npz") as archive:
        images = archive["x"][summary["indices"][:3]].reshape(3, -1)
    points = images.astype(np.float32) / np.float32(255) - np.float32(0.5)
    graph = jb.from_onnx(shared_data / "nets" / f"mnist_{depth}layer_leaky_20.onnx")
    row = torch.eye(10, dtype=torch.float64)[[summary["cls"]]]
    found = summary["res"][f"depth{depth}_p{'inf' if math.isinf(p) else p}"]["eps_max"][:3]
    largest = 1.0 if math.isinf(p) else 10.0
    result = jb.stationary_free_radius(graph, points, row, p=p, largest=largest)
    assert (result.radius[:, 0] >= torch.tensor(found, dtype=torch.float64)).all()
