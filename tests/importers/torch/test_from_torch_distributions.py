"""Policies that make a distribution and return what is not random of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Beta, Categorical, Distribution, Independent, MultivariateNormal, Normal

import jacobound as jb


class Policy(nn.Module):
    """Two heads on a layer, which become the parameters of a distribution."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk, self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        trunk = torch.tanh(self.trunk(x))
        first, second = self.first(trunk), nn.functional.softplus(self.second(trunk))
        made = {
            "normal": lambda: Normal(first, self.scale.exp()).mean,
            "squashed": lambda: torch.tanh(Independent(Normal(first, second), 1).mode),
            "categorical": lambda: Categorical(logits=first).probs,
            "beta": lambda: Beta(second + 1, torch.sigmoid(first) + 1).mean,
            "matrix": lambda: MultivariateNormal(first, scale_tril=torch.diag_embed(self.scale.exp())).mean,
        }
        return made[self.kind]()


@pytest.mark.parametrize("kind", ["normal", "squashed", "categorical", "beta", "matrix"])
def test_the_mean_of_a_distribution_is_a_network(kind: str) -> None:
    torch.manual_seed(1)
    policy, point = Policy(kind).eval().double(), torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    before = Distribution._validate_args
    graph = jb.from_torch(policy, torch.zeros(1, 3, dtype=torch.float64))
    assert Distribution._validate_args is before
    found = jb.bound_jacobian(graph, jb.Ball(point, 1e-6))
    exact = torch.autograd.functional.jacobian(lambda x: policy(x[None])[0], point)
    assert bool((found.lower <= exact).all() and (exact <= found.upper).all())
    assert float((found.upper - found.lower).max()) < 1e-4 * float(exact.abs().max())
