"""`python -m benchmarks.row_slopes`: what slopes that every neuron chooses for itself do for ranges and constants.

The l1 norm of one output's gradient over an l_inf ball by LipSDP on ranges by CROWN and by AlphaCROWN; certified, with
the neurons whose slope is not known and seconds of one processor.
"""

from __future__ import annotations

import time
from math import inf

import torch

import jacobound as jb
from benchmarks.problems import problem
from jacobound.graph.nodes import size

ROWS = (
    ("ACASXU_1_1", 0.1),
    ("mnist-net_256x2", 0.01),
    ("mnist-net_256x2", 0.03),
    ("mnist-net_256x4", 0.003),
    ("mnist-net_256x4", 0.01),
    ("mnist-net_256x4", 0.03),
    ("mnist_7layer_leaky_20", 0.01),
    ("mnist_7layer_leaky_20", 0.03),
    ("mnist_5layer_tanh_50", 0.01),
)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| network | radius | CROWN | unstable | seconds | AlphaCROWN | unstable | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, radius in ROWS:
        asked, cells = problem(name), [f"{name} | {radius:g}"]
        row = torch.eye(size(asked.graph.output), dtype=torch.float64)[[asked.label]]
        for method in (jb.CROWN(), jb.AlphaCROWN()):
            began, ball = time.process_time(), jb.Ball(asked.centre, radius, inf)
            found = jb.lipschitz(
                asked.graph, ball, jb.LipSDP(preactivation=method), norm=(inf, inf), rows=row, search=None,
                budget=jb.Budget(cpu_seconds=120),
            )  # fmt: skip
            cells.append(f"{float(found.upper):.5g} | {int(found.unstable)} | {time.process_time() - began:.1f}")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
