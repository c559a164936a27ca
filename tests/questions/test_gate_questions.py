"""Networks with products are asked every question: answers hold at sampled points and are near what is met there."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor, nn

import jacobound as jb


class Cell(nn.Module):
    """Two steps of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x.reshape(-1, 2, 2))[0][:, -1])


class Loop(nn.Module):
    """Two steps of a pendulum under a controller."""

    def __init__(self) -> None:
        super().__init__()
        self.controller = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            angle, speed = x[:, :1], x[:, 1:]
            turn = torch.sin(angle) - self.controller(x) * torch.cos(angle)
            x = torch.cat((angle + 0.1 * speed, speed + 0.1 * turn), 1)
        return x


class Attending(nn.Module):
    """One head of attention over two tokens, a normalisation, a read-out of the mean token."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.norm, self.out = nn.Linear(2, 6), nn.LayerNorm(2, eps=0.1), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.parts(x.reshape(-1, 2, 2)).chunk(3, -1)
        mixed = torch.softmax(query @ key.transpose(1, 2), -1) @ value
        return self.out(self.norm(x.reshape(-1, 2, 2) + mixed).mean(1))


NETWORKS = {
    "softmax": lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Softmax(-1)),
    "normalised": lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2), nn.Tanh()),
    "attention": Attending,
    "lstm": lambda: Cell(nn.LSTM(2, 3, batch_first=True)),
    "gru": lambda: Cell(nn.GRU(2, 3, batch_first=True)),
    "pendulum": Loop,
}
RADIUS = 1e-3
QUICK = ("gru", "normalised")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_every_question_has_an_answer_near_what_is_met(name: str) -> None:
    torch.manual_seed(5)
    module = NETWORKS[name]().double().eval().requires_grad_(requires_grad=False)
    centre = torch.randn(2 if name == "pendulum" else 4, dtype=torch.float64)
    graph = jb.from_torch(module, centre.unsqueeze(0))
    ball = jb.Ball(centre, RADIUS, inf)
    points = centre + RADIUS * (2 * torch.rand(64, len(centre), dtype=torch.float64) - 1)
    met = torch.stack([torch.autograd.functional.jacobian(lambda x: module(x[None])[0], point) for point in points])

    jacobian = jb.bound_jacobian(graph, ball)
    assert jacobian.status.certified
    assert bool(((jacobian.lower <= met) & (met <= jacobian.upper)).all())
    most = torch.maximum(jacobian.upper, -jacobian.lower)
    assert float(most.max()) <= 1.05 * float(met.abs().max())

    features = jb.monotone_features(graph, ball, most=20)
    assert not bool((features.increasing & (met < -features.slack).any(0)).any())
    assert not bool((features.decreasing & (met > features.slack).any(0)).any())
    assert bool((~features.undecided)[met.abs().amin(0) > 0.1 * met.abs().max()].all())

    free = jb.stationary_free_radius(graph, centre, p=inf, tolerance=0.1, largest=RADIUS)
    assert bool((free.radius == RADIUS).all()), "every gradient is far from 0"

    output = jb.bound_output(graph, ball)
    values = module(points)
    assert bool(((output.lower <= values) & (values <= output.upper)).all())
    constant = float(jb.lipschitz(graph, ball, jb.RecurJac(), norm=(inf, inf), search=None).upper)
    assert float((output.upper - output.lower).max()) <= 2 * RADIUS * constant * (1 + 1e-6)

    margin, label = module(points).topk(2).values, int(module(centre[None]).argmax())
    reach = float((margin[:, 0] - margin[:, 1]).min()) / (2 * constant)
    robust = jb.robust_radius(graph, jb.Ball(centre, RADIUS, inf), label, tolerance=0.1, attack=None)
    assert float(robust.untargeted) >= min(0.5 * RADIUS, reach)
