"""`Sampling`: how sensitive the network is at least, by a search for the point with the largest Jacobian norm."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.domains import Domain
from jacobound.errors import InvalidOptionError
from jacobound.graph import Elementwise, Graph, Vector, size
from jacobound.methods.base import Budget, flat_indices
from jacobound.operators import positions

INWARD = 2.0**-18  # of the way to the inside; float32 can tell such points apart


@dataclass(frozen=True, eq=False)
class Witness:
    """A point of each of N sets, and the norm of the Jacobian there.

    Args:
        point: shape (N, *input shape).
        value: attained norms, shape (N,), evaluated in floating point (estimates with a relative error near the unit
            roundoff).
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
        """The best points found; only the anchor is tried in sets that are unbounded or a single point.

        All sets try the same shares of their boxes, so a set's witness does not depend on the others.
        """
        points = domain.anchor
        values = _norms(graph, points, norm, budget)
        spacious = domain.bounded & (domain.box.lower != domain.box.upper).flatten(1).any(1)
        if bool(spacious.any()):
            sets = flat_indices(spacious)
            best = self._climb(graph, domain[sets], norm, budget)
            points, values = points.index_copy(0, sets, best.point), values.index_copy(0, sets, best.value)
        return Witness(points, values)

    def _climb(self, graph: Graph, domain: Domain, norm: tuple[float, float], budget: Budget) -> Witness:
        """The search in sets with room: points (N, tries, *input shape), values (N, tries)."""
        generator = torch.Generator().manual_seed(self.seed)
        points = torch.cat((domain.anchor.unsqueeze(1), domain.sample(self.points, generator)), 1)
        points = _inside(domain, points, generator)
        values = _norms(graph, points.flatten(0, 1), norm, budget).reshape(points.shape[:2])
        for step in range(self.steps if points.shape[1] > 1 else 0):
            if budget.is_over:
                break
            budget.tell(step, self.steps, "search for a witness")
            best = _ranked(values, self.ascents)
            points, values = _taken(points, best), values.gather(1, best)
            moved = _ascended(graph, domain, points, norm, 0.5 ** (step // 2), generator, budget)
            moved = _inside(domain, moved, generator)
            there = _norms(graph, moved.flatten(0, 1), norm, budget).reshape(moved.shape[:2])
            points, values = torch.cat((points, moved), 1), torch.cat((values, there), 1)
        top = values.argmax(1, keepdim=True)
        return Witness(_taken(points, top).squeeze(1), values.gather(1, top).squeeze(1))


def _inside(domain: Domain, points: Tensor, generator: torch.Generator) -> Tensor:
    """The points moved a little towards a point of the inside that nothing is special about.

    At a kink on the boundary, or one that several neurons share, automatic differentiation may choose a slope that the
    network has nowhere in the set.
    """
    lower, upper = domain.box.lower, domain.box.upper
    shares = 0.25 + 0.5 * torch.rand(lower.shape[1:], generator=generator, dtype=torch.float64).to(lower)
    inner = domain.project((lower + shares * (upper - lower)).unsqueeze(1))
    moved = points + INWARD * (inner - points)
    return torch.minimum(torch.maximum(moved, lower.unsqueeze(1)), upper.unsqueeze(1))


def _ranked(values: Tensor, count: int) -> Tensor:
    """Positions of the largest values of every row, first ones first among equal ones (up to rounding)."""
    return values.to(torch.float32).argsort(dim=1, descending=True, stable=True)[:, :count]


def _taken(points: Tensor, index: Tensor) -> Tensor:
    """Some points of every set: (N, tries, *shape) and (N, k) to (N, k, *shape)."""
    return points[positions(len(points), points).unsqueeze(1), index]


def _norms(graph: Graph, points: Tensor, norm: tuple[float, float], budget: Budget) -> Tensor:
    """The attained norms at points (k, *input shape), shape (k,)."""
    found = []
    for chunk in budget.chunks(len(points), _bytes_per_point(graph)):
        jacobian = _jacobian(graph, points[chunk].detach().requires_grad_())
        with torch.no_grad():
            found.append(attained_norm(jacobian, *norm))
    return torch.cat(found)


def _ascended(
    graph: Graph,
    domain: Domain,
    points: Tensor,
    norm: tuple[float, float],
    scale: float,
    generator: torch.Generator,
    budget: Budget,
) -> Tensor:
    """Steps of `scale` times half the width of the box from points (N, k, *input shape): up the norm's gradient.

    A piecewise linear network has none; its slopes change where the strongest output changes most, so there the steps
    go up and down that output, and along random corners. Shape (N, steps k, *input shape).
    """
    flat = points.flatten(0, 1)
    pieces = [piece for node in graph.nodes if isinstance(node, Elementwise) for piece in node.activation.pieces]
    curved = any(piece.curvature != "linear" for piece in pieces)
    curved |= any(isinstance(node, Vector) and not node.function.compares for node in graph.nodes)
    parts = [
        _directions(graph, flat[chunk], norm, curved)
        for chunk in budget.chunks(len(flat), _bytes_per_point(graph) * (size(graph.output) if curved else 1))
    ]
    best = torch.cat(parts).reshape(points.shape)
    directions = [best]
    if not curved:
        corners = torch.randn(points.shape[1:], generator=generator, dtype=torch.float64).to(points)
        directions = [best, -best, best.sign() + corners, corners.expand_as(best)]
    width = (domain.box.upper - domain.box.lower).unsqueeze(1)
    return torch.cat([domain.project(points + 0.5 * scale * width * one.sign()) for one in directions], 1)


def _directions(graph: Graph, points: Tensor, norm: tuple[float, float], curved: bool) -> Tensor:
    """The gradient of the attained norm at every point; that of the strongest output where it is zero."""
    points = points.detach().requires_grad_()
    jacobian = _jacobian(graph, points, differentiable=curved)
    strongest = jacobian.detach().abs().sum(2).argmax(1)
    steepest = jacobian.detach()[positions(len(points), points), strongest].reshape(points.shape)
    with torch.enable_grad():
        total = attained_norm(jacobian, *norm).sum() if curved else None
    if total is None or not total.requires_grad:
        return steepest
    gradient = torch.autograd.grad(total, points, allow_unused=True, materialize_grads=True)[0]
    flat = (gradient == 0).flatten(1).all(1).reshape(-1, *[1] * (points.dim() - 1))
    return torch.where(flat, steepest, gradient)


def _bytes_per_point(graph: Graph) -> int:
    """Memory for the Jacobian at one point, a small part of the whole: more points at once gain little."""
    kept = 4 * size(graph.output) * size(graph.input) + 8 * sum(size(node) for node in graph.nodes)
    return 16 * kept * graph.example.element_size()


def _jacobian(graph: Graph, points: Tensor, differentiable: bool = False) -> Tensor:
    """Jacobians at points that require gradients, shape (points, outputs, inputs)."""
    with torch.enable_grad():
        outputs = graph(points).reshape(len(points), -1)
        rows = [
            torch.autograd.grad(
                outputs[:, j].sum(),
                points,
                create_graph=differentiable,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )[0].reshape(len(points), -1)
            for j in range(size(graph.output))
        ]
        return torch.stack(rows, 1)


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
