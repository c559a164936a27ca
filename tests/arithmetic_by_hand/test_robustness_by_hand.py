"""Single functions behind `questions/test_robustness.py`, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

import jacobound as jb
from jacobound.questions.attack import _onto_l1
from jacobound.questions.robustness import _verified


@pytest.fixture
def generator() -> torch.Generator:
    """One seed: every call here bounds many balls."""
    return torch.Generator().manual_seed(3)


def test_a_point_counts_as_adversarial_only_where_that_is_proved() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    graph, row = jb.from_layers([weight]), torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    for point, lost in (([0.0, 1.0], True), ([1.0, 0.0], False), ([1.0, 1.0], False), ([math.nan, 0.0], False)):
        place = torch.tensor([point], dtype=torch.float64)
        assert _verified(graph, place, row, jb.Budget()).tolist() == [lost]


def test_projection_onto_l1_balls(generator: Generator) -> None:
    offsets = torch.randn(3, 4, 7, generator=generator, dtype=torch.float64)
    radius = torch.full((3, 1, 1), 0.8, dtype=torch.float64)
    projected = _onto_l1(offsets, radius)
    assert torch.allclose(projected.abs().sum(2), torch.full((3, 4), 0.8, dtype=torch.float64))
    assert torch.equal(_onto_l1(0.01 * offsets, radius), 0.01 * offsets)
    nearer = (projected - offsets).norm(dim=2)
    scaled = offsets * (0.8 / offsets.abs().sum(2, keepdim=True))
    assert (nearer <= (scaled - offsets).norm(dim=2)).all()
