"""Small networks with certificates of them, and damage that can be done to one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import jacobound as jb
from jacobound.certifying.files import safetensors, write
from jacobound_check.reading import safetensors as arrays_of
from jacobound_check.reading import strict_json


def _dense(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 9), activation(), nn.Linear(9, 7), activation(), nn.Linear(7, 3))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return self.last(torch.relu(h + torch.tanh(self.second(h))))


class _Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.sigmoid(self.first(x)) * self.second(x))


def _image() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(3),
        nn.LeakyReLU(0.25),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 2, 2, groups=1),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(2, 3),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: _dense(nn.ReLU), (4,)),
    "tanh": (lambda: _dense(nn.Tanh), (4,)),
    "sigmoid": (lambda: _dense(nn.Sigmoid), (4,)),
    "softplus": (lambda: _dense(nn.Softplus), (4,)),
    "elu": (lambda: _dense(nn.ELU), (4,)),
    "gelu": (lambda: _dense(nn.GELU), (4,)),
    "silu": (lambda: _dense(nn.SiLU), (4,)),
    "abs": (lambda: _dense(lambda: nn.LeakyReLU(-1.0)), (4,)),
    "prelu": (lambda: _dense(lambda: nn.PReLU(init=0.3)), (4,)),
    "hard sigmoid": (lambda: _dense(nn.Hardsigmoid), (4,)),
    "residual": (_Residual, (4,)),
    "product": (_Product, (4,)),
    "image": (_image, (1, 8, 8)),
}


def network(name: str, seed: int = 0) -> jb.Graph:
    """One of the networks, with weights of a seed."""
    make, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().double().eval()
    return jb.from_torch(module, torch.zeros(1, *shape, dtype=torch.float64))


def ball(graph: jb.Graph, radius: float = 0.15, p: float = math.inf) -> jb.Ball:
    """A ball around a fixed point."""
    generator = torch.Generator().manual_seed(3)
    return jb.Ball(torch.randn(graph.in_shape, generator=generator, dtype=torch.float64), radius, p=p)


def change(path: Path, damage: Callable[[dict[str, Any], dict[str, np.ndarray]], None], seal: bool = True) -> None:
    """Damage a certificate; with `seal` its digests are made anew, so that only its meaning can give it away."""
    told = strict_json(path.read_bytes())
    arrays = arrays_of((path.parent / told["weights"]["file"]).read_bytes())
    damage(told, arrays)
    if seal:
        write(path, told, arrays)
        return
    (path.parent / told["weights"]["file"]).write_bytes(safetensors(arrays))
    path.write_text(json.dumps(told), encoding="utf-8")
