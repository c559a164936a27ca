"""`python -m benchmarks.choosing`: what every method gives on eleven kinds of network, for docs/choosing.md.

Networks are small and have random weights (seed 0, He's initialisation), so that nothing has to be downloaded; the
limit of each call counts seconds of the processor. Names of kinds choose; `--show` writes the page again from the
stored numbers.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import jacobound as jb
from benchmarks.layout import table
from benchmarks.page import with_tables
from benchmarks.plan import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results" / "choosing.json"
PAGE = REPOSITORY / "docs" / "choosing.md"
SECONDS, RADIUS = 5.0, 0.05
LOCAL = ("FastLip", "RecurJac", "LinearSlopes", "LipSDP", "ECLipsE", "AutoLip", "SeqLip")
GLOBAL = ("LipSDP", "ECLipsE", "AutoLip", "SeqLip")


class Residual(nn.Module):
    """Two convolutions with batch normalisation beside a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


def perceptron(widths: list[int], activation: Callable[[], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def image_network(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), *middle, nn.Flatten(), nn.LazyLinear(10))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ReLU, narrow (2 x 50)": (lambda: perceptron([20, 50, 50, 5], nn.ReLU), (20,)),
    "ReLU, wide (2 x 400)": (lambda: perceptron([100, 400, 400, 10], nn.ReLU), (100,)),
    "ReLU, deep (10 x 30)": (lambda: perceptron([20, *[30] * 10, 5], nn.ReLU), (20,)),
    "leaky ReLU (4 x 50)": (lambda: perceptron([20, *[50] * 4, 5], nn.LeakyReLU), (20,)),
    "tanh (3 x 50)": (lambda: perceptron([20, *[50] * 3, 5], nn.Tanh), (20,)),
    "GELU (3 x 50)": (lambda: perceptron([20, *[50] * 3, 5], nn.GELU), (20,)),
    "convolutions": (lambda: image_network(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU()), (1, 14, 14)),
    "convolutions, residual": (lambda: image_network(Residual()), (1, 14, 14)),
    "convolution, max-pooling": (lambda: image_network(nn.MaxPool2d(2, 2)), (1, 14, 14)),
    "LSTM, 5 steps": (lambda: Last(nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)), (5, 3)),
    "attention, residual": (lambda: Attention(), (4, 8)),
}


class Attention(nn.Module):
    """Two heads of self-attention beside a skip, then a dense layer of every position."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.dense = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x + self.heads(x, x, x, need_weights=False)[0])


class Last(nn.Module):
    """A recurrent layer whose last output is read by a dense one."""

    def __init__(self, layer: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


def network(kind: str) -> tuple[jb.Graph, Tensor]:
    """The graph of that kind, and the point in the middle of the balls."""
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    module, point = make().double().eval(), torch.randn(shape, dtype=torch.float64)
    module(point.unsqueeze(0))  # lazy layers find their size
    with torch.no_grad():
        for weight in module.parameters():
            if weight.dim() > 1 and not isinstance(module, Attention | Last):
                nn.init.kaiming_normal_(weight)
    return jb.from_torch(module, point.unsqueeze(0)), point


def measured(kind: str) -> dict[str, Any]:
    """Constants and CPU seconds of every method over a ball and, where they exist, over the whole space."""
    graph, point = network(kind)
    regions = {"local": (jb.Ball(point, RADIUS, p=2), LOCAL), "global": (jb.WholeSpace(), GLOBAL)}
    return {
        name: {method: _asked(graph, region, method) for method in ("default", *methods)}
        for name, (region, methods) in regions.items()
    }


def _asked(graph: jb.Graph, region: jb.Ball | jb.WholeSpace, name: str) -> dict[str, Any]:
    from benchmarks.measure import Samples

    samples, method = Samples(), None if name == "default" else getattr(jb, name)()
    search = jb.Sampling() if name == "default" else None
    limit = jb.Budget(cpu_seconds=SECONDS)
    try:
        bound = samples.time(lambda: jb.lipschitz(graph, region, method, norm=(2, 2), search=search, budget=limit))
    except jb.JacoboundError as error:
        return {"refused": type(error).__name__}
    numbers = {"bound": float(bound.upper), "lower": float(bound.lower), "status": bound.status.name.lower()}
    return {**numbers, "cpu": samples.summary()["cpu"], "winner": bound.method}


def rendered(results: dict[str, Any]) -> str:
    """The two tables."""
    parts = [
        f"Constants from l2 to l2 of random networks, limit {SECONDS:g} CPU seconds for each call. Each cell: "
        "certified bound and CPU seconds of one thread, `-` where the method refuses the network by name, a star where "
        "its limit cut the search short. `lower` is proved at a point of the region; the truth lies between."
    ]
    titles = {"local": f"### In an l2 ball of radius {RADIUS:g}", "global": "### In the whole space"}
    for name, methods in (("local", LOCAL), ("global", GLOBAL)):
        rows = [
            (kind, *(_cell(results[kind][name][method]) for method in ("default", *methods)), _lower(found[name]))
            for kind, found in results.items()
        ]
        parts += [titles[name], table(("network", "default", *methods, "`lower`"), rows)]
    return "\n\n".join(parts)


def _cell(entry: dict[str, Any]) -> str:
    if "refused" in entry:
        return "-"
    star = "" if entry["status"] == "certified" else "*"
    return f"{entry['bound']:.4g}{star}, {entry['cpu']:.2g} s"


def _lower(entries: dict[str, Any]) -> str:
    return f"{entries['default']['lower']:.4g}" if "lower" in entries["default"] else "-"


def main() -> None:
    if "--show" not in sys.argv:
        torch.set_num_threads(1)
        wanted = [kind for kind in KINDS if kind in sys.argv[1:]] or list(KINDS)
        results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        for kind in wanted:
            print(kind, file=sys.stderr, flush=True)
            results[kind] = measured(kind)
            ordered = {kind: results[kind] for kind in KINDS if kind in results}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), rendered(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
