"""Signs and landscapes of smooth networks without a method: affine slopes are asked as well."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import jacobound as jb


class Normalised(nn.Module):
    """Values are multiplied in a layer normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def network(kind: str) -> jb.Graph:
    torch.manual_seed(3)
    made = {
        "gelu": lambda: nn.Sequential(nn.Linear(3, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 1)),
        "normalised": Normalised,
    }
    return jb.from_torch(made[kind]().eval(), torch.zeros(1, 3))


@pytest.mark.parametrize("kind", ["gelu", "normalised"])
def test_what_no_single_method_decides_alone(kind: str) -> None:
    graph, point = network(kind), torch.tensor([0.2, -0.3, 0.4])
    radius = float(jb.stationary_free_radius(graph, point).radius)
    alone = [float(jb.stationary_free_radius(graph, point, method=one).radius) for one in (jb.RecurJac(), jb.FastLip())]
    assert radius > 1.1 * max(alone)
    parts = [jb.monotone_features(graph, jb.Ball(point, 0.2), method=one, most=40) for one in (None, jb.RecurJac())]
    usual, single = ((one.words().count("undecided"), int(one.boxes)) for one in parts)
    assert usual < single and usual[0] <= single[0]
