"""`python -m benchmarks.zoo`: what small networks of the kinds people use get, on an l2 ball of 0.001 and everywhere.

Weights are random (He's initialisation, one seed), points are random; every bracket is certified at both ends. Calls
are those without a method, with 10 seconds for each; seconds are those of one processor.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import jacobound as jb

RADIUS, SECONDS = 0.001, 10.0


class Residual(nn.Module):
    """A convolution around which a skip leads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))


class Transformer(nn.Module):
    """Patches, one layer of attention, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Recurrent(nn.Module):
    """The last state of a recurrent layer, and a head."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer, self.head = kind(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Gated(nn.Module):
    """SwiGLU behind a normalisation by roots of mean squares."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two, self.last = (
            nn.RMSNorm(8),
            *(nn.Linear(8, 16) for _ in range(2)),
            nn.Linear(16, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.last(nn.functional.silu(self.one(x)) * self.two(x))


class Spectral(nn.Module):
    """A filter of frequencies between layers, as in Fourier neural operators."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 2)
        self.filter = nn.Parameter(torch.rand(9))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.one(x))
        return self.two(torch.fft.irfft(torch.fft.rfft(x) * self.filter) + x)


def perceptron(sizes: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between."""
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after), activation()]
    return nn.Sequential(*parts[:-1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron, relu": (lambda: perceptron((20, 64, 64, 10), nn.ReLU), (20,)),
    "perceptron, tanh": (lambda: perceptron((20, 64, 64, 10), nn.Tanh), (20,)),
    "policy with layer normalisation": (
        lambda: nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ELU(), nn.Linear(32, 2), nn.Tanh()), (8,)),
    "classifier with softmax": (
        lambda: nn.Sequential(perceptron((12, 32, 5), nn.GELU), nn.Softmax(-1)), (12,)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 4)),
        (1, 10, 10)),
    "residual": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), Residual(4), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 4)),
        (1, 10, 10)),
    "transformer": (Transformer, (4, 4)),
    "gated": (Gated, (8,)),
    "LSTM": (lambda: Recurrent(nn.LSTM), (4, 3)),
    "GRU": (lambda: Recurrent(nn.GRU), (4, 3)),
    "spectral": (Spectral, (16,)),
}  # fmt: skip


def main() -> None:
    """Print the table; arguments choose networks by a part of their name."""
    print(f"| network | l2 ball of {RADIUS} | by | seconds | everywhere | by | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, (build, shape) in NETWORKS.items():
        if len(sys.argv) > 1 and not any(part in name for part in sys.argv[1:]):
            continue
        torch.manual_seed(0)
        network = build()
        for part in network.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
        graph = jb.from_torch(network.eval(), torch.zeros(1, *shape))
        cells = []
        for region in (jb.Ball(torch.randn(shape), RADIUS, p=2), jb.WholeSpace()):
            began = time.process_time()
            try:
                found = jb.lipschitz(graph, region, budget=SECONDS)
                bracket, by = (
                    f"{float(found.lower):.4g} to {float(found.upper):.4g}",
                    found.method,
                )
            except jb.JacoboundError as error:
                bracket, by = type(error).__name__, ""
            cells += [bracket, by, f"{time.process_time() - began:.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
