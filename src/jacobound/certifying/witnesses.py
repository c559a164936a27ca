"""Directions in which a derivative at a point is long: hints, which the checker measures by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import dual_exponent, eigenvectors
from jacobound.graph.graph import Graph

STEPS = 60


def steepest_direction(graph: Graph, point: Tensor, rows: Tensor | None, norm: tuple[float, float]) -> Tensor:
    """A direction u with a large ``|J u|_q / |u|_p`` at a point, shape (inputs,), by alternating between the norms.

    Args:
        graph: in float64.
        point: of the input's shape, float64.
        rows: combinations of the flattened outputs.
    """
    p, q = norm

    def outputs(x: Tensor) -> Tensor:
        flat = graph(x).flatten()
        return flat if rows is None else rows.to(flat) @ flat

    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(outputs, point).reshape(-1, point.numel()).detach()
    if p == 1:
        best = int(torch.linalg.vector_norm(jacobian, ord=q, dim=0).argmax())
        return torch.nn.functional.one_hot(torch.tensor(best), point.numel()).to(torch.float64)
    if q == math.inf:
        best = int(torch.linalg.vector_norm(jacobian, ord=dual_exponent(p), dim=1).argmax())
        return _longest(jacobian[best], p)
    wide = jacobian.shape[0] < jacobian.shape[1]
    vector = eigenvectors(jacobian @ jacobian.T if wide else jacobian.T @ jacobian)[1][:, -1].nan_to_num(nan=1.0)
    direction = jacobian.T @ vector if wide else vector
    found = direction if p == 2 else _longest(direction, p)
    if (p, q) == (2, 2):
        return found
    for _ in range(STEPS):
        found = _longest(jacobian.T @ _longest(jacobian @ found, dual_exponent(q)), p)
    return found


def _longest(functional: Tensor, p: float) -> Tensor:
    """The vector of the unit ball of l_p on which a functional is largest."""
    if p == math.inf:
        return torch.where(functional >= 0, 1.0, -1.0).to(functional)
    if p == 1:
        best = int(functional.abs().argmax())
        return torch.sign(functional[best]) * torch.nn.functional.one_hot(torch.tensor(best), len(functional))
    return functional
