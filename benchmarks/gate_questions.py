"""`python -m benchmarks.gate_questions`: every question asked of networks with products, at one radius (0.01, linf).

Columns: the largest entry of the Jacobian that is certified, and met at the centre; the robust radius beside the
nearest adversarial point found; answers to `monotone_features`; the radius without stationary points; the widest output
as a share of what radius times constant allows; CPU seconds of all. Names of networks as arguments choose among the
rows; all of them take some minutes.
"""

from __future__ import annotations

import sys
import time
from math import inf

import torch

import jacobound as jb
from benchmarks.gates import problem

NAMES = ("mlp_softmax", "mlp_softmax_tanh", "ln_policy", "vit", "lstm8x5", "gru8x5", "pendulum")
RADIUS = 0.01
CPU_SECONDS = 10.0  # of each question


def answers(name: str) -> dict[str, str]:
    """What each question of one network is answered with."""
    graph, centre = problem(name)
    ball, limit = jb.Ball(centre, RADIUS, inf), jb.Budget(cpu_seconds=CPU_SECONDS)
    began, found = time.process_time(), {}
    jacobian = jb.bound_jacobian(graph, ball, budget=limit)
    most = float(torch.maximum(jacobian.upper, -jacobian.lower).max())
    met = torch.autograd.functional.jacobian(lambda x: graph(x.unsqueeze(0)).flatten(), centre)
    found["Jacobian"] = f"{most:.4g} / {float(met.abs().max()):.4g}"
    label = int(graph(centre.unsqueeze(0)).flatten().argmax())
    robust = jb.robust_radius(graph, jb.Ball(centre, 1.0, inf), label, budget=limit)
    found["robust"] = robust.headline()
    found["features"] = jb.monotone_features(graph, ball, budget=limit, most=50).headline()
    found["stationary"] = jb.stationary_free_radius(graph, jb.Ball(centre, 1.0, inf), budget=limit).headline()
    output = jb.bound_output(graph, ball, budget=limit)
    constant = float(jb.lipschitz(graph, ball, norm=(inf, inf), budget=limit).upper)
    found["output"] = f"{float((output.upper - output.lower).max()) / (2 * RADIUS * constant):.3f}"
    found["seconds"] = f"{time.process_time() - began:.1f}"
    return found


def main(chosen: list[str]) -> None:
    torch.set_num_threads(1)
    for name in chosen or NAMES:
        told = "; ".join(f"{question} {answer}" for question, answer in answers(name).items())
        print(f"{name}: {told}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
