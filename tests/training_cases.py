"""Small networks that penalties of training are tried on, each traced once, and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from jacobound import training


def perceptron(activation: type[nn.Module], *widths: int) -> nn.Sequential:
    """Layers whose norms are above 1, so that a forgotten factor shows."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        linear.weight = nn.Parameter(3 * linear.weight.detach())
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1]).double()


class Skip(nn.Module):
    """Convolutions with a skip, pooling that overlaps, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = y + torch.tanh(self.second(y))
        return self.last(nn.functional.max_pool2d(y, 3, 2).flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: perceptron(nn.ReLU, 5, 8, 7, 3), (5,)),
    "leaky": (lambda: perceptron(nn.LeakyReLU, 4, 6, 5, 1), (4,)),
    "tanh": (lambda: perceptron(nn.Tanh, 6, 7, 8, 6), (6,)),
    "gelu": (lambda: perceptron(nn.GELU, 3, 6, 2), (3,)),
    "skip": (lambda: Skip().double(), (1, 5, 5)),
}


@cache
def _traced(name: str) -> tuple[nn.Module, Tensor, training.Live, dict[str, Tensor]]:
    make, shape = NETWORKS[name]
    module, example = make().eval(), torch.zeros(1, *shape, dtype=torch.float64)
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    return module, example, training.Live(module, example), weights


def network(name: str) -> tuple[nn.Module, Tensor, training.Live]:
    """A module with the same weights every time, an example, and the live graph, which is made once."""
    module, example, live, weights = _traced(name)
    module.load_state_dict(weights)
    module.zero_grad()
    return module, example, live


def slope_and_difference(module: nn.Module, value: Callable[[], Tensor], step: float = 1e-7) -> tuple[float, float]:
    """The derivative of a value along a random direction of the parameters: by gradients, and by finite differences."""
    parameters = list(module.parameters())
    directions = [torch.randn_like(parameter) for parameter in parameters]
    found = torch.autograd.grad(value(), parameters, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True) if g is not None)
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(sign * step * direction)
            ends.append(float(value()))
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(step * direction)
    return slope, (ends[0] - ends[1]) / (2 * step)
