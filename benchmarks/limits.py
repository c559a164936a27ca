"""`python -m benchmarks.limits`: whether limits of time are kept, on twelve networks of the kinds that people use.

Every call gets a limit in seconds of the processor (`Budget(cpu_seconds=...)`), so that other programs on the machine
do not count; the promise is a quarter more, and a second. Weights are random: cost depends on shapes alone.
`--seconds 2 10` and names choose; the table is written to ``benchmarks/results/limits.md``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import jacobound as jb

TABLE = Path(__file__).parent / "results" / "limits.md"
RADIUS = 0.001
QUESTIONS = ("lipschitz, ball", "lipschitz, whole space", "robust_radius")


class Residual(nn.Module):
    """Two convolutions with batch normalisation beside a skip, as in ResNet-18."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        same = stride == 1 and before == after
        self.skip = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.skip(x))


class Recurrent(nn.Module):
    """A tanh network unrolled over twenty steps."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 32)
        for step in range(20):
            state = torch.tanh(self.enter(x[:, step]) + self.again(state))
        return self.leave(state)


class Mean(nn.Module):
    """The mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def dense(*widths: int, kind: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with an activation between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), kind()]
    return nn.Sequential(*layers[:-1])


def resnet(widths: tuple[int, ...]) -> nn.Sequential:
    """Two residual blocks of every width, on images of three channels."""
    blocks: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    before = widths[0]
    for k, width in enumerate(widths):
        blocks += [Residual(before, width, 2 if k else 1), Residual(width, width, 1)]
        before = width
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width in (64, 128, 256, 512):
        layers += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 4, 256), nn.ReLU(), nn.Linear(256, 10))


def convolutions() -> nn.Sequential:
    layers = [nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4096, 512), nn.ReLU(), nn.Linear(512, 10))


def encoder() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), Mean(), nn.Linear(32, 5))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "policy 12-64-64-4, tanh": (lambda: dense(12, 64, 64, 4, kind=nn.Tanh), (12,)),
    "dense 20-64 x 50-10": (lambda: dense(20, *[64] * 50, 10), (20,)),
    "dense 784-256 x 10-10": (lambda: dense(784, *[256] * 10, 10), (784,)),
    "dense 784-1024 x 4-10": (lambda: dense(784, *[1024] * 4, 10), (784,)),
    "dense 784-4096 x 3-10": (lambda: dense(784, *[4096] * 3, 10), (784,)),
    "dense 2-256 x 5-2, tanh": (lambda: dense(2, *[256] * 5, 2, kind=nn.Tanh), (2,)),
    "dense 30-256 x 3-2, GELU": (lambda: dense(30, *[256] * 3, 2, kind=nn.GELU), (30,)),
    "tanh, 20 steps": (Recurrent, (20, 8)),
    "four convolutions, 32 x 32": (convolutions, (3, 32, 32)),
    "VGG with max-pooling, 32 x 32": (vgg, (3, 32, 32)),
    "ResNet-18, 32 x 32": (lambda: resnet((64, 128, 256, 512)), (3, 32, 32)),
    "transformer, 16 tokens": (encoder, (16, 32)),
}


def used(question: str, graph: jb.Graph, point: Tensor, seconds: float) -> tuple[float, str]:
    """CPU seconds of one call with a limit, and what it gave."""
    budget, began = jb.Budget(cpu_seconds=seconds), time.process_time()
    try:
        if question == "robust_radius":
            radius = jb.robust_radius(graph, point, budget=budget)
            given = f"{float(radius.untargeted):.3g} / {float(radius.untargeted_attack):.3g}"
        else:
            region = jb.WholeSpace() if "whole" in question else jb.Ball(point, RADIUS, 2)
            bound = jb.lipschitz(graph, region, budget=budget)
            given = f"{float(bound.lower):.4g} .. {float(bound.upper):.4g}"
    except jb.JacoboundError as error:
        given = type(error).__name__
    return time.process_time() - began, given


def rows(names: list[str], limits: list[float]) -> list[str]:
    """Lines of the table."""
    found = []
    for name in names:
        torch.manual_seed(0)
        build, shape = NETWORKS[name]
        point = torch.rand(shape)
        graph = jb.from_torch(build().eval(), point[None])
        for question in QUESTIONS:
            cells = []
            for limit in limits:
                seconds, given = used(question, graph, point, limit)
                late = "" if seconds <= 1.25 * limit + 1 else " **late**"
                cells.append(f"{seconds:.1f}{late}: {given}")
            found.append(f"| {name} | {question} | {' | '.join(cells)} |")
            print(found[-1], file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks; all when none is named")
    parser.add_argument("--seconds", nargs="+", type=float, default=[2.0, 10.0, 30.0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in NETWORKS if not given.names or any(part in name for part in given.names)]
    head = " | ".join(f"limit {limit:g} s" for limit in given.seconds)
    lines = [f"| network | question | {head} |", "|---|---|" + "---|" * len(given.seconds), *rows(names, given.seconds)]
    if not given.names:
        TABLE.write_text(
            "CPU seconds used, and lower .. upper or radius / attack.\n\n" + "\n".join(lines) + "\n", "utf-8"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
