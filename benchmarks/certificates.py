"""`python -m benchmarks.certificates`: results re-proved by the checker: their values, and the seconds of each step.

A row is a network and a question: CPU seconds of the answer, of writing its certificate, of checking it; the largest
relative distance of the claims from the result (0 where it is below 1e-9), and the form of proof.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import jacobound as jb
from jacobound_check import check


def _dense(activation: Callable[[], nn.Module], *widths: int) -> nn.Module:
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


def _image() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 5),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu 6-64-64-4": (lambda: _dense(nn.ReLU, 6, 64, 64, 4), (6,)),
    "tanh 6-32-32-4": (lambda: _dense(nn.Tanh, 6, 32, 32, 4), (6,)),
    "gelu 6-32-32-4": (lambda: _dense(nn.GELU, 6, 32, 32, 4), (6,)),
    "convolutions 16x16": (_image, (1, 16, 16)),
}
QUESTIONS: dict[str, Callable[[jb.Graph, jb.Ball], Any]] = {
    "output, CROWN": lambda g, b: jb.bound_output(g, b, jb.CROWN()),
    "Jacobian, FastLip": lambda g, b: jb.bound_jacobian(g, b, jb.FastLip()),
    "Jacobian, RecurJac": lambda g, b: jb.bound_jacobian(g, b, jb.RecurJac()),
    "Jacobian, default": lambda g, b: jb.bound_jacobian(g, b),
    "constant l2, RecurJac": lambda g, b: jb.lipschitz(g, b, jb.RecurJac(), budget=20),
    "constant linf, RecurJac": lambda g, b: jb.lipschitz(g, b, jb.RecurJac(), norm=math.inf, budget=20),
    "constant l2, LipSDP": lambda g, b: jb.lipschitz(g, b, jb.LipSDP(), budget=20),
    "constant l2, LipSDP, everywhere": lambda g, b: jb.lipschitz(g, jb.WholeSpace(), jb.LipSDP(), budget=20),
    "constant l2, default": lambda g, b: jb.lipschitz(g, b, budget=5),
    "radius l2": lambda g, b: jb.robust_radius(g, b.center, p=2, budget=10),
    "signs": lambda g, b: jb.monotone_features(g, b, most=50, budget=10),
}


def distance(result: Any, claims: Any) -> float:
    """The largest distance of claims from a result, as a share of the largest number."""
    found = 0.0
    for name in ("radius",) if "radius" in claims else ("upper",):
        own, claim = getattr(result, name).flatten().to(torch.float64), torch.from_numpy(claims[name]).flatten()
        found = max(found, float((own - claim).abs().max() / own.abs().max()))
    return found if found > 1e-9 else 0.0


def main() -> None:
    """Print the table, in the form of Markdown."""
    torch.set_num_threads(1)
    print("| network | question | answer s | write s | check s | distance | proof |")
    print("|---|---|---|---|---|---|---|")
    for name, (make, shape) in NETWORKS.items():
        torch.manual_seed(0)
        graph = jb.from_torch(make().double().eval(), torch.zeros(1, *shape, dtype=torch.float64))
        ball = jb.Ball(torch.randn(graph.in_shape, dtype=torch.float64), 0.1)
        for question, ask in QUESTIONS.items():
            with tempfile.TemporaryDirectory() as folder:
                times = [time.process_time()]
                result = ask(graph, ball)
                times.append(time.process_time())
                written = result.save_certificate(Path(folder) / "one.json")
                times.append(time.process_time())
                claims = check(written.path).claims
                times.append(time.process_time())
            seconds = " | ".join(f"{b - a:.2f}" for a, b in itertools.pairwise(times))
            print(
                f"| {name} | {question} | {seconds} | {distance(result, claims):.1e} | {written.proof[0]} |", flush=True
            )


if __name__ == "__main__":
    main()
