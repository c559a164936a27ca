"""`python -m benchmarks.splits [seconds]`: branch and bound over neurons and inputs, with status and CPU seconds.

The l1 norm of one output's gradient over l_inf balls, on the networks and points that other tools were measured on;
and constants over the whole space of small networks whose exact values are published. All bounds are certified; lower
ends are proved at a point.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from math import inf

import numpy as np
import torch

import jacobound as jb
from benchmarks.plan import data_folder
from benchmarks.problems import problem

BALLS: tuple[tuple[str, float, jb.Method], ...] = (
    ("ACASXU_1_1", 0.03, jb.SplitNeurons()),
    ("ACASXU_1_1", 0.1, jb.Split()),
    ("mnist-net_256x2", 0.003, jb.SplitNeurons()),
    ("mnist-net_256x2", 0.01, jb.SplitNeurons()),
    ("mnist-net_256x4", 0.003, jb.SplitNeurons()),
    ("mnist-net_256x4", 0.01, jb.SplitNeurons()),
    ("mnist_7layer_leaky_20", 0.003, jb.SplitNeurons()),
    ("mnist_7layer_leaky_20", 0.01, jb.SplitNeurons()),
)
EVERYWHERE = ("iris_4x6x6x3_relu", "wine_11x12x12x1_relu", "abalone_9x16x16x1_relu")
SECONDS = 10.0


def told(name: str, found: jb.LipschitzBound, spent: float, method: jb.Method) -> str:
    """One row of the table."""
    note = found.details[type(method).__name__].note
    return f"| {name} | {float(found.upper):.6g} | {float(found.lower):.6g} | {spent:.2f} | {note} |"


def rows(seconds: float) -> Iterator[str]:
    """The rows, as they are measured."""
    for name, radius, method in BALLS:
        one, began = problem(name), time.process_time()
        found = jb.lipschitz(
            one.graph,
            one.ball(radius),
            method,
            norm=(inf, inf),
            rows=one.row(),
            budget=jb.Budget(cpu_seconds=seconds),
        )
        yield told(f"{name}, {radius}", found, time.process_time() - began, method)
    folder = data_folder()
    if folder is None:
        return
    for name in EVERYWHERE:
        with np.load(folder / "peers" / f"{name}.npz") as stored:
            layers = range(1, sum(key.startswith("W") for key in stored.files) + 1)
            weights, biases = ([torch.as_tensor(stored[f"{x}{k}"]).double() for k in layers] for x in "Wb")
        graph, method, began = jb.from_layers(weights, biases), jb.SplitNeurons(), time.process_time()
        found = jb.lipschitz(graph, jb.WholeSpace(), method, budget=jb.Budget(cpu_seconds=seconds))
        yield told(f"{name}, everywhere", found, time.process_time() - began, method)


def main() -> None:
    torch.set_num_threads(1)
    print("| network, radius | upper | lower | CPU s | note |\n|---|---:|---:|---:|---|")
    for row in rows(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS):
        print(row, flush=True)


if __name__ == "__main__":
    main()
