"""`Sampling`: how sensitive the network is at least, by a search for the point with the largest Jacobian norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.errors import InvalidOptionError
from jacobound.graph import Graph, size
from jacobound.methods.base import Budget
from jacobound.regions import Domain


@dataclass(frozen=True, eq=False)
class Witness:
    """A point and the norm of the Jacobian there.

    Args:
        point: shape of the network's input.
        value: attained norm, evaluated in floating point (an estimate with relative error near the unit roundoff).
    """

    point: Tensor
    value: Tensor


@dataclass(frozen=True)
class Sampling:
    """Lower bounds of a Lipschitz constant: the centre, random points, and a short projected ascent from the best.

    Args:
        points: how many random points are tried (half on the boundary of the box).
        steps: ascent steps.
        ascents: how many of the points ascend.
        seed: of the random points.
    """

    points: int = 64
    steps: int = 8
    ascents: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.points < 0 or self.ascents < 1 or self.steps < 0:
            raise InvalidOptionError(
                f"a search needs points >= 0, steps >= 0 and ascents >= 1, not {self.points}, {self.steps} "
                f"and {self.ascents}"
            )

    def search(self, graph: Graph, domain: Domain, norm: tuple[float, float], budget: Budget) -> Witness:
        """The best point found; only the anchor is tried when the domain is unbounded."""
        generator = torch.Generator().manual_seed(self.seed)
        points = domain.anchor.unsqueeze(0)
        if domain.bounded and not bool((domain.box.lower == domain.box.upper).all()):
            points = torch.cat((points, domain.sample(self.points, generator)))
        values = self._norms(graph, points, norm)
        for step in range(self.steps if len(points) > 1 else 0):
            if budget.is_over:
                break
            budget.tell(step, self.steps, "search for a witness")
            best = values.topk(min(self.ascents, len(values))).indices
            moved = self._ascend(graph, domain, points[best], norm, 0.5 ** (step // 2), generator)
            points = torch.cat((points[best], moved))
            values = torch.cat((values[best], self._norms(graph, moved, norm)))
        top = int(values.argmax())
        return Witness(points[top].detach(), values[top].detach())

    def _norms(self, graph: Graph, points: Tensor, norm: tuple[float, float]) -> Tensor:
        with torch.no_grad():
            return torch.cat([attained_norm(jacobian, *norm) for jacobian in _jacobians(graph, points)])

    def _ascend(
        self,
        graph: Graph,
        domain: Domain,
        points: Tensor,
        norm: tuple[float, float],
        scale: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Steps of `scale` times half the width of the box: up the norm's gradient where it has one.

        A piecewise linear network has none; its slopes change where the strongest output changes most, so there the
        steps go up and down that output, and along random corners.
        """
        points = points.detach().requires_grad_()
        jacobians = torch.cat(_jacobians(graph, points, True))
        total = attained_norm(jacobians, *norm).sum()
        gradient = torch.autograd.grad(total, points, allow_unused=True)[0] if total.requires_grad else None
        if gradient is not None and bool(gradient.abs().sum() > 0):
            directions = [gradient]
        else:
            strongest = jacobians.detach().abs().sum(2).argmax(1)
            steepest = jacobians.detach()[torch.arange(len(points)), strongest].reshape(points.shape)
            corners = torch.randn(points.shape, generator=generator, dtype=torch.float64).to(points)
            directions = [steepest, -steepest, steepest.sign() + corners, corners]
        width = domain.box.upper - domain.box.lower
        steps = [0.5 * scale * width * direction.sign() for direction in directions]
        return torch.cat([domain.project(points.detach() + step) for step in steps])


def _jacobians(graph: Graph, points: Tensor, differentiable: bool = False) -> list[Tensor]:
    """Jacobians at the points, each list entry of shape (some points, outputs, inputs)."""
    found = []
    for chunk in points.split(64):
        x = chunk if differentiable else chunk.detach().requires_grad_()
        with torch.enable_grad():
            outputs = graph(x).reshape(len(chunk), -1)
            rows = [
                torch.autograd.grad(
                    outputs[:, j].sum(),
                    x,
                    create_graph=differentiable,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )[0].reshape(len(chunk), -1)
                for j in range(size(graph.output))
            ]
        found.append(torch.stack(rows, 1))
    return found


def attained_norm(jacobian: Tensor, p: float, q: float) -> Tensor:
    """A value that the operator norm from l_p to l_q reaches; the norm itself except for (inf, 1), (inf, 2), (2, 1).

    Those three are hard to compute; the value is then ``|J u|_q / |u|_p`` for a good u found by alternation.

    Args:
        jacobian: shape (points, outputs, inputs).

    Returns:
        Shape (points,).
    """
    if p == 1:
        return torch.linalg.vector_norm(jacobian, ord=q, dim=1).amax(1)
    if q == math.inf:
        return torch.linalg.vector_norm(jacobian, ord=2 if p == 2 else 1, dim=2).amax(1)
    if p == 2 and q == 2:
        return torch.linalg.matrix_norm(jacobian, ord=2)
    start = torch.linalg.vector_norm(jacobian, ord=1, dim=2).argmax(1)
    direction = _unit_ball_point(jacobian.detach()[torch.arange(len(jacobian)), start], p)
    for _ in range(5):
        image = torch.einsum("pji,pi->pj", jacobian.detach(), direction)
        direction = _unit_ball_point(torch.einsum("pji,pj->pi", jacobian.detach(), _dual_point(image, q)), p)
    return torch.linalg.vector_norm(torch.einsum("pji,pi->pj", jacobian, direction), ord=q, dim=1)


def _unit_ball_point(gradient: Tensor, p: float) -> Tensor:
    """The point of the l_p unit ball (p = 2 or inf) that is farthest along the gradient."""
    if p == math.inf:
        return torch.where(gradient >= 0, 1.0, -1.0).to(gradient)
    return _normalised(gradient)


def _dual_point(image: Tensor, q: float) -> Tensor:
    """Gradient of the l_q norm (q = 1 or 2)."""
    if q == 1:
        return torch.where(image >= 0, 1.0, -1.0).to(image)
    return _normalised(image)


def _normalised(x: Tensor) -> Tensor:
    """x / |x|_2 for every point, and 0 for zero."""
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
