"""Adversarial points: projected gradient descent over balls, from several starts, with a search for the radius.

What is found is checked afterwards in certified arithmetic (`robustness`); the search itself is plain floating point.
Source: Madry et al., ICLR 2018 (projected gradient descent); projection onto the l1 ball: Duchi et al., ICML 2008.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from jacobound.budget import checkpoint
from jacobound.checks import whole
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.regions import Balls
from jacobound.method import Budget, products_of

SEGMENT = 64  # places that are tried between a point and an adversarial one
CLEARLY = 1e-9  # a margin counts as lost when it is below minus this share of its size at the point
SPARSE = 0.02  # share of the inputs that one step in the l1 norm changes

# Steps down the gradient, in radii at which a linear margin would be lost.
SHARES = (1.02, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent on every margin.

    Args:
        restarts: starts per radius: the point itself, the best adversarial point so far, and random ones.
        steps: descent steps of each.
        rounds: radii that are tried: doubled until the attack succeeds, then between the last failure and success.
        seed: of the random starts.
    """

    restarts: int = 4
    steps: int = 20
    rounds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("restarts", "steps", "rounds"):
            whole(getattr(self, name), f"{name} of an attack", 1)
        whole(self.seed, "seed of an attack", -(1 << 62))

    def nearest(self, graph: Graph, balls: Balls, rows: Tensor, near: Tensor, budget: Budget) -> Tensor:
        """The nearest adversarial points found.

        Args:
            balls: around T points.
            rows: the margin of each that is to become negative, shape (T, outputs).
            near: radii (T,), float64, at which no attack can succeed; 0 where nothing is known.

        Returns:
            Points (T, *input shape) in the graph's dtype; NaN where none was found. Estimates until checked.
        """
        generator = torch.Generator().manual_seed(self.seed)
        points = balls.points.to(graph.dtype)
        rows = rows.to(points)
        failed, tried = near.clone(), near.clone()
        best, first = _along_gradients(graph, balls, points, rows, budget)
        first = first.to(near)
        reached = _length(best - points, balls.p).to(near).nan_to_num(nan=inf)
        for round_ in range(self.rounds):
            if budget.is_over:
                break
            budget.tell(round_, self.rounds, "attack")
            rising = torch.where(tried > 0, 2 * tried, first)
            tried = torch.where(reached.isinf(), rising, (failed + reached) / 2)
            found = self.within(graph, balls, rows, tried, generator, budget, best)
            found = _nearest_on_segment(graph, points, found, rows)
            distance = _length(found - points, balls.p).to(near).nan_to_num(nan=inf)
            better = distance < reached
            failed = torch.where(distance.isinf(), torch.maximum(failed, tried), failed)
            reached = torch.where(better, distance, reached)
            best = torch.where(_wide(better, best), found, best)
        return best

    def within(
        self,
        graph: Graph,
        balls: Balls,
        rows: Tensor,
        radii: Tensor,
        generator: torch.Generator,
        budget: Budget,
        known: Tensor | None = None,
    ) -> Tensor:
        """A point of each ball where its margin is negative, NaN where none was found; (T, *input shape).

        Args:
            known: points (T, *input shape) to start from as well, NaN where there are none.
        """
        each = 8 * self.restarts * sum(size(node) for node in graph.nodes) * graph.example.element_size()
        work = 3 * self.restarts * (self.steps + 1) * products_of(graph)
        parts = []
        for part in budget.chunks(len(radii), each, work):
            some = Balls(balls.points[part], balls.p, balls.dtype, balls.valid)
            start = None if known is None else known[part]
            parts.append(self._within(graph, some, rows[part].to(graph.example), radii[part], generator, start))
        return torch.cat(parts)

    def _within(
        self, graph: Graph, balls: Balls, rows: Tensor, radii: Tensor, generator: torch.Generator, known: Tensor | None
    ) -> Tensor:
        centre = balls.points.to(graph.dtype).unsqueeze(1)
        radius = _wide(radii.to(graph.dtype), centre)
        inside = _projection(balls, centre, radius)
        shape = (len(radii), self.restarts, *centre.shape[2:])
        noise = 2 * torch.rand(shape, generator=generator, dtype=torch.float64).to(centre) - 1
        noise[:, 0] = 0
        x = inside(centre + radius * noise)
        if known is not None and self.restarts > 1:
            x[:, 1] = inside(torch.where(known.isnan(), centre[:, 0], known).unsqueeze(1))[:, 0]
        scale = (graph(centre[:, 0]).flatten(1) * rows).sum(1).abs()
        lost = torch.full_like(centre[:, 0], torch.nan)
        lowest = torch.full_like(radii, inf).to(centre)
        for step in range(self.steps + 1):
            checkpoint()
            margin, gradient = _margins(graph, x, rows)
            least, where = margin.min(1)
            hit = (least < -CLEARLY * scale) & (least < lowest)
            lowest = torch.where(hit, least, lowest)
            lost = torch.where(_wide(hit, lost), x[torch.arange(len(x)), where], lost)
            width = 2.5 / self.steps * (1 - step / (self.steps + 1)) + 0.25 / self.steps
            x = inside(x - radius * width * _steepest(gradient, balls.p))
        return lost


def _margins(graph: Graph, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Margins (T, restarts) at points (T, restarts, *shape), and their gradients."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        outputs = graph(x.flatten(0, 1)).reshape(*x.shape[:2], -1)
        margins = (outputs * rows.unsqueeze(1)).sum(2)
        (gradient,) = torch.autograd.grad(margins.sum(), x, allow_unused=True, materialize_grads=True)
    return margins.detach(), gradient


def _along_gradients(graph: Graph, balls: Balls, points: Tensor, rows: Tensor, budget: Budget) -> tuple[Tensor, Tensor]:
    """The first lost points straight down the gradients of the margins, NaN where none is; and `linear_radii`.

    A few evaluations of the network: what there is nearly always time for.
    """
    margin, gradient = _margins(graph, points.unsqueeze(1), rows)
    first, start = _linear(margin, gradient, balls.p), margin[:, 0]
    down, best = _steepest(gradient, balls.p), torch.full_like(points, torch.nan)
    for share in reversed(SHARES):
        if budget.is_over:
            break
        inside = _projection(balls, points.unsqueeze(1), _wide(share * first, gradient))
        moved = inside(points.unsqueeze(1) - _wide(share * first, gradient) * down).squeeze(1)
        lost = (graph(moved).flatten(1) * rows).sum(1) < -CLEARLY * start.abs()
        best = torch.where(_wide(lost, best), moved, best)
    return best, first


def linear_radii(graph: Graph, points: Tensor, rows: Tensor, p: float) -> Tensor:
    """The radius at which the margins would be lost if they were linear, shape (T,)."""
    return _linear(*_margins(graph, points.unsqueeze(1), rows), p)


def _linear(margin: Tensor, gradient: Tensor, p: float) -> Tensor:
    """The radius at which margins (T, 1) with these gradients would be lost if they were linear, shape (T,)."""
    steepness = _length(gradient[:, 0], {1: inf, 2: 2, inf: 1}[p])
    found = (margin[:, 0].abs() / steepness).nan_to_num(nan=1.0, posinf=1.0)
    return torch.where(found > 0, found, 1e-6)


def _steepest(gradient: Tensor, p: float) -> Tensor:
    """Directions of length 1 (l_p) along which a margin rises most; sparse ones for p = 1."""
    if p == inf:
        return gradient.sign()
    flat = gradient.flatten(2)
    if p == 2:
        return (flat / flat.norm(dim=2, keepdim=True).clamp(min=1e-30)).reshape(gradient.shape)
    count = max(1, int(SPARSE * flat.shape[2]))
    chosen = flat.abs().topk(count, dim=2).indices
    return torch.zeros_like(flat).scatter(2, chosen, flat.gather(2, chosen).sign() / count).reshape(gradient.shape)


def _projection(balls: Balls, centre: Tensor, radius: Tensor) -> Callable[[Tensor], Tensor]:
    """Pulls points (T, restarts, *shape) into the balls and the valid box."""
    valid = balls.valid

    def inside(x: Tensor) -> Tensor:
        for _ in range(1 if valid is None or balls.p == inf else 3):
            x = x if valid is None else torch.minimum(torch.maximum(x, valid.lower), valid.upper)
            offset = x - centre
            if balls.p == inf:
                offset = torch.minimum(torch.maximum(offset, -radius), radius)
            elif balls.p == 2:
                length = _wide(_length(offset.flatten(0, 1), 2).reshape(x.shape[:2]), offset)
                offset = offset * (radius / length.clamp(min=1e-30)).clamp(max=1.0)
            else:
                offset = _onto_l1(offset.flatten(2), radius.flatten(2)).reshape(x.shape)
            x = centre + offset
        return x if valid is None else torch.minimum(torch.maximum(x, valid.lower), valid.upper)

    return inside


def _onto_l1(offset: Tensor, radius: Tensor) -> Tensor:
    """The nearest points of l1 balls around 0: soft thresholding; shapes (T, restarts, n) and (T, 1, 1)."""
    sizes = offset.abs()
    ordered = sizes.sort(dim=2, descending=True).values
    excess = ordered.cumsum(2) - radius
    counts = torch.arange(1, ordered.shape[2] + 1, device=offset.device).to(offset)
    last = (ordered * counts > excess).to(torch.int64).sum(2, keepdim=True).clamp(min=1)
    threshold = (excess.gather(2, last - 1) / last).clamp(min=0.0)
    return offset.sign() * (sizes - threshold).clamp(min=0.0)


def _nearest_on_segment(graph: Graph, points: Tensor, found: Tensor, rows: Tensor) -> Tensor:
    """The first place on the way from each point to its adversarial one where the margin is negative."""
    shares = torch.linspace(0, 1, SEGMENT + 1, dtype=points.dtype, device=points.device)[1:]
    shares = shares.reshape(-1, *[1] * (points.dim() - 1))
    best = found.clone()
    for k in (~found.flatten(1).isnan().any(1)).nonzero().squeeze(1).tolist():
        places = points[k] + shares * (found[k] - points[k])
        places[-1] = found[k]
        margins = graph(places).reshape(len(places), -1) @ rows[k]
        size_there = (graph(points[k]).flatten() @ rows[k]).abs()
        lost = (margins < -CLEARLY * size_there).nonzero().squeeze(1)
        if len(lost):
            best[k] = places[lost[0]]
    return best


def _length(offset: Tensor, p: float) -> Tensor:
    return torch.linalg.vector_norm(offset.flatten(1), ord=p, dim=1)


def _wide(x: Tensor, like: Tensor) -> Tensor:
    """With as many axes as another tensor that has the same first ones."""
    return x.reshape(*x.shape, *[1] * (like.dim() - x.dim()))
