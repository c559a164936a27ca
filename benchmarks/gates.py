"""`python -m benchmarks.gates`: constants of networks with products, beside those before products were gates.

A row is a network, a radius and a norm, with four numbers: what `lipschitz` gave when softmax, normalisation, attention
and products had constants only (None where it refused); the best of a plain float64 prototype of the gates, and its
seconds; what `lipschitz` gives now; its CPU seconds. Names of networks as arguments choose among the rows.
"""

from __future__ import annotations

import sys
import time
from math import inf

import torch

import jacobound as jb
from benchmarks.gate_networks import NETWORKS

ROWS: tuple[tuple[str, float, float, float | None, float, float], ...] = (
    ("diff", 0.1, inf, 5.767, 0.0, 0.0),
    ("glu", 0.01, inf, 3.25, 0.1576, 0.2),
    ("glu", 0.1, inf, 4.166, 0.1647, 0.2),
    ("glu", 0.1, 2, 1.154, 0.08352, 0.3),
    ("bilinear", 0.001, inf, 6.378, 0.1451, 0.1),
    ("bilinear", 0.01, inf, 6.982, 0.1531, 0.1),
    ("bilinear", 0.1, inf, 15.85, 0.2912, 0.1),
    ("bilinear", 0.1, 2, 4.577, 0.08077, 0.2),
    ("ln_policy", 0.001, inf, 12.2, 1.256, 0.4),
    ("ln_policy", 0.01, inf, 22.25, 1.276, 0.6),
    ("ln_policy", 0.1, inf, None, 18.71, 0.6),
    ("ln_policy", 0.1, 2, None, 0.7536, 0.5),
    ("mlp_softmax", 0.01, inf, 16.2, 1.676, 0.2),
    ("mlp_softmax", 0.1, inf, 20.77, 5.712, 0.3),
    ("mlp_softmax", 0.1, 2, 5.222, 1.009, 0.2),
    ("mlp_softmax_tanh", 0.001, inf, 16.93, 2.183, 0.4),
    ("mlp_softmax_tanh", 0.01, inf, 17.96, 2.324, 0.4),
    ("mlp_softmax_tanh", 0.1, inf, 31.59, 24.27, 0.4),
    ("mlp_softmax_tanh", 0.1, 2, 7.098, 2.672, 0.6),
    ("attention", 0.001, inf, 6.718, 1.872, 1.7),
    ("attention", 0.01, inf, 7.076, 1.877, 1.5),
    ("attention", 0.1, inf, 11.7, 2.198, 1.6),
    ("attention", 0.1, 2, 4.264, 1.074, 1.2),
    ("pendulum", 0.01, inf, 8.706, 2.905, 1.2),
    ("pendulum", 0.1, inf, 11.98, 3.636, 1.1),
    ("pendulum", 0.1, 2, 8.434, 3.166, 0.9),
    ("lstm8x5", 0.001, inf, 26.81, 0.1963, 0.7),
    ("lstm8x5", 0.001, 2, 8.477, 0.09802, 1.2),
    ("lstm8x5", 0.01, inf, 28.23, 0.1985, 0.9),
    ("lstm8x5", 0.01, 2, 8.9, 0.09881, 1.3),
    ("lstm8x5", 0.1, inf, 40.1, 0.2319, 0.7),
    ("lstm8x5", 0.1, 2, 12.4, 0.1079, 1.2),
    ("gru8x5", 0.01, inf, 267.7, 0.6291, 0.6),
    ("gru8x5", 0.1, inf, 818.7, 0.6898, 0.5),
    ("gru8x5", 0.1, 2, 229.6, 0.2627, 0.6),
    ("gru16x10", 0.001, inf, 2.188e05, 0.3094, 1.3),
    ("gru16x10", 0.001, 2, 4.77e04, 0.1349, 1.8),
    ("gru16x10", 0.01, inf, 5.317e06, 0.3138, 1.9),
    ("gru16x10", 0.01, 2, 9.454e05, 0.1362, 2.2),
    ("gru16x10", 0.1, inf, 8.207e08, 0.3803, 1.4),
    ("gru16x10", 0.1, 2, 1.366e08, 0.1519, 2.1),
    ("lstm16x10", 0.001, inf, 4386, 0.1914, 3.1),
    ("lstm16x10", 0.01, inf, 4890, 0.1929, 2.8),
    ("lstm16x10", 0.1, inf, 1.215e04, 0.2238, 2.4),
    ("lstm16x10", 0.1, 2, 2628, 0.1045, 3.0),
    ("enc4x16", 0.001, inf, 38.36, 2.396, 1.5),
    ("enc4x16", 0.001, 2, 4.796, 0.4343, 1.7),
    ("enc4x16", 0.01, inf, 1.514e04, 2.452, 1.8),
    ("enc4x16", 0.01, 2, 1893, 0.4379, 1.7),
    ("enc4x16", 0.1, inf, 5.25e06, 6484000.0, 0.5),
    ("enc4x16", 0.1, 2, 6.562e05, 0.582, 1.9),
    ("vit", 0.001, inf, 3.44e12, 2.637, 3.2),
    ("vit", 0.001, 2, 4.3e11, 0.4687, 3.2),
    ("vit", 0.01, inf, 5.91e14, 4.237, 3.1),
    ("vit", 0.01, 2, 7.387e13, 0.5858, 2.4),
    ("vit", 0.1, inf, 6.691e15, 6.54e22, 3.9),
    ("vit", 0.1, 2, 1.35e15, 36.86, 4.2),
    ("pendulum20", 0.001, inf, 2624, 2.576, 4.5),
    ("pendulum20", 0.001, 2, 1855, 2.175, 4.9),
)
"""Network, radius, norm of input and output, constant before, the prototype's best constant and its seconds."""

CPU_SECONDS = 10.0


def problem(name: str) -> tuple[jb.Graph, torch.Tensor]:
    """A network and the point its balls are around."""
    module, shape = NETWORKS[name]()
    module = module.double().eval().requires_grad_(requires_grad=False)
    graph = jb.from_torch(module, torch.zeros(1, *shape, dtype=torch.float64), variance_floor=0.0)
    torch.manual_seed(11)
    return graph, torch.randn(shape, dtype=torch.float64)


def main(chosen: list[str]) -> None:
    torch.set_num_threads(1)
    print("network, radius, norm: before, prototype (s), now (CPU s), method, attained")
    known: dict[str, tuple[jb.Graph, torch.Tensor]] = {}
    for name, radius, p, before, best, seconds in ROWS:
        if chosen and name not in chosen:
            continue
        graph, centre = known.setdefault(name, problem(name) if name not in known else known[name])
        began, budget = time.process_time(), jb.Budget(cpu_seconds=CPU_SECONDS)
        found = jb.lipschitz(graph, jb.Ball(centre, radius, p), norm=(p, p), budget=budget)
        spent = time.process_time() - began
        told = f"{before:.4g}" if before is not None else "refused"
        now = f"{float(found.upper):.4g} ({spent:.1f}), {found.method}, {float(found.lower):.4g}"
        print(f"{name}, {radius:g}, l{p:g}: {told}, {best:.4g} ({seconds:.1f}), {now}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
