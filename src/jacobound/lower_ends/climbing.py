"""`Climb`: points where the Jacobian is large, by random points of several scales and ascents; all estimates.

Ascents follow the gradient of a smoothed network whose breaks get sharper from stage to stage, and are judged by the
network itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from jacobound.arithmetic.linalg import dual_exponent
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.lower_ends.ascents import FEW_OUTPUTS, At, best_rows, is_piecewise_linear
from jacobound.lower_ends.attained import dual_vector
from jacobound.lower_ends.inner_sets import InnerSets
from jacobound.method import Budget, products_of
from jacobound.operators.base import positions

TEMPERATURES = (1.0, 0.3, 0.1, 0.03)
SHARES = (1.0, 0.5, 0.25, 0.1)  # of a bounded set that starting points are drawn from
EXPONENTS = (-2.0, 3.0)  # of the scales where a set is unbounded
LONGEST, SHORTEST = 0.2, 0.005  # steps, as shares of the half width
MOST_CORNERS = 64
FEWEST_ASCENTS = 4
# A set whose best value grew by less than this share in so many steps goes on to the next stage.
GAINED, PATIENCE = 1e-5, 8
VARIETY = 1.5  # standard deviation of the logarithm of the widths


@dataclass(frozen=True)
class Plan:
    """How much is tried: see `Sampling`."""

    points: int
    steps: int
    ascents: int
    effort: float


@dataclass(eq=False)
class Climb:
    """One search over N sets; lives for one call.

    Args:
        plan: how much is tried.
        graph: in float64, without comparisons.
        inner: the sets.
        norm: (p, q).
        budget: no more is begun when its time is over, but for the anchor.
        target: values at which a set is left alone, shape (N,), or None.
        generator: of the random points.
        near: points to look at besides, (N, points, *input shape), or None.

    Attributes:
        points: what has been looked at, the anchor first, shape (N, K, *input shape).
        rows: combinations of the outputs whose gradients are long there, shape (N, K, outputs).
        values: estimates of the norms of the Jacobians, shape (N, K).
    """

    plan: Plan
    graph: Graph
    inner: InnerSets
    norm: tuple[float, float]
    budget: Budget
    target: Tensor | None
    generator: Generator
    near: Tensor | None = None

    def run(self) -> None:
        """Look at the anchor, at random points and corners, and climb from the best of them."""
        anchor = self.inner.anchor.unsqueeze(1)
        self.points, (self.rows, self.values) = anchor, self._judged(anchor)
        self._spread: dict[Node, Tensor] = {}
        if self.near is not None and not bool(self.inner.tight.all()):
            near = self.inner.clamp(self.near.to(anchor))
            self._keep(near, *self._judged(near))
            if self._is_done:
                return
        if not self.plan.points or self.budget.is_over or bool(self.inner.tight.all()):
            return
        self._start()
        if self._spread or self._is_curved():
            self._climb()

    # What has been found.

    def _keep(self, points: Tensor, rows: Tensor, values: Tensor) -> None:
        """Points with their rows and values beside those that are known."""
        self.points = torch.cat((self.points, points), 1)
        self.rows = torch.cat((self.rows, rows), 1)
        self.values = torch.cat((self.values, values), 1)

    def best(self, count: int) -> Tensor:
        """Positions of the best points of every set, (N, count); first ones first among equal ones up to rounding."""
        rounded = self.values.to(torch.float32)
        return rounded.argsort(dim=1, descending=True, stable=True)[:, :count]

    @property
    def _is_done(self) -> bool:
        if self.budget.is_over:
            return True
        # Automatic differentiation may take slopes at the anchor, at a kink, that the network has nowhere.
        others = self.values[:, 1:]
        return self.target is not None and others.shape[1] > 0 and bool((others.amax(1) >= self.target).all())

    # Estimates.

    @cached_property
    def work(self) -> float:
        """Products of one evaluation of the network."""
        return 1.0 + products_of(self.graph)

    def _chunks(self, count: int) -> Iterator[slice]:
        rows = min(FEW_OUTPUTS, size(self.graph.output))
        kept = 12 * sum(map(size, self.graph.nodes)) + 4 * size(self.graph.input) * rows
        return self.budget.chunks(count, 8 * kept, 3 * self.work * (1 + rows))

    def _judged(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (N, K, outputs) and norms (N, K) at points, by the network itself."""
        flat = points.flatten(0, 1)
        rows, values = flat.new_ones(len(flat), size(self.graph.output)), flat.new_zeros(len(flat))
        for chunk in self._chunks(len(flat)):
            if chunk.start and self.budget.is_over:
                break  # what has not been looked at counts as flat
            rows[chunk], values[chunk] = best_rows(At.of(self.graph, flat[chunk]), self.norm)
        values = values.nan_to_num(nan=0.0, posinf=0.0)
        return rows.reshape(*points.shape[:2], -1), values.reshape(points.shape[:2])

    # The search.

    def _start(self) -> None:
        """Random points of several scales, and corners where there are few."""
        lower, upper = self.inner.box.lower, self.inner.box.upper
        self._groups = groups = min(len(SHARES), self.plan.points)
        affordable = int(self.plan.effort / (self.work * (1 + min(FEW_OUTPUTS, size(self.graph.output)))))
        each = max(groups, min(self.plan.points, affordable)) // groups
        self._reach = torch.stack([self._reach_of(lower, upper, group) for group in range(groups)], 1)
        shape = (self._groups, each, *lower.shape[1:])
        shares = (2 * torch.rand(shape, generator=self.generator, dtype=torch.float64) - 1).to(lower)
        corners = shares.sign() if bool(self.inner.domain.bounded.all()) else shares * self._scales(shares)
        shares[:, ::2] = corners[:, ::2]
        tried = self.inner.anchor[:, None, None] + shares * self._reach.unsqueeze(2)
        tried = self.inner.clamp(tried.flatten(1, 2))
        self._measure(tried)
        self._keep(tried, *self._judged(tried))
        free = ~self.inner.tight.flatten(1)
        if bool((free.sum(1) <= math.log2(MOST_CORNERS)).all()) and bool(self.inner.domain.bounded.all()):
            corners = self._corners(free)
            self._keep(corners, *self._judged(corners))

    def _scales(self, shares: Tensor) -> Tensor:
        """Random factors between the scales of two groups, one for each point, (groups, each, 1, ...)."""
        low, high = EXPONENTS
        drawn = torch.rand(shares.shape[:2], generator=self.generator, dtype=torch.float64).to(shares)
        factors = 10.0 ** ((high - low) / self._groups * (drawn - 0.5))
        return factors.reshape(*shares.shape[:2], *[1] * (shares.dim() - 2))

    def _reach_of(self, lower: Tensor, upper: Tensor, group: int) -> Tensor:
        """How far points of a group are from the anchor in every coordinate, (N, *input shape)."""
        low, high = EXPONENTS
        scale = 10.0 ** (low + (high - low) * (group + 0.5) / self._groups)
        half = (upper - lower) / 2
        return torch.where(half.isfinite(), half * SHARES[group], scale)

    def _corners(self, free: Tensor) -> Tensor:
        """All corners of sets with few coordinates, (N, corners, *input shape)."""
        lower, upper = self.inner.box.lower.flatten(1), self.inner.box.upper.flatten(1)
        most = int(free.sum(1).max())
        bits = positions(2**most, lower).unsqueeze(1) >> positions(most, lower) & 1
        place = (free.cumsum(1) - 1).clamp(min=0)
        high = bits.T[place].movedim(2, 1) == 1  # (N, corners, inputs)
        corners = torch.where(high & free.unsqueeze(1), upper.unsqueeze(1), lower.unsqueeze(1))
        return self.inner.clamp(corners.reshape(len(lower), -1, *self.inner.anchor.shape[1:]))

    def _measure(self, tried: Tensor) -> None:
        """How much the arguments of piecewise linear activations vary in every group, (N, groups, *node shape)."""
        nodes = [node for node in self.graph.nodes if is_piecewise_linear(node)]
        for node in nodes:
            self._spread[node] = tried.new_zeros(len(tried), self._groups, *node.shape)
        step = max(1, self.budget.memory // (64 * sum(map(size, self.graph.nodes)) * tried.shape[1]))
        for first in range(0, len(tried) if nodes else 0, step):
            some = slice(first, first + step)
            values = self.graph.values(tried[some])
            for node in nodes:
                z = values[node.sources[0]].unflatten(1, (self._groups, -1))
                deviation = z.std(2, correction=0) + 1e-3 * z.abs().amax(2)
                self._spread[node][some] = deviation.nan_to_num(nan=1.0, posinf=1.0).clamp(min=1e-30)

    def _climb(self) -> None:
        """Ascents on the smoothed network, from its widest to its sharpest form."""
        plan, affordable = self.plan, self.plan.effort / (6 * self.work)
        fewest = min(plan.ascents, FEWEST_ASCENTS)
        count = max(fewest, min(plan.ascents, int(affordable / max(1, plan.steps))))
        steps = int(min(plan.steps, affordable / count))
        stages = TEMPERATURES if self._spread else (1.0,)
        groups = positions(count, self.values) % self._groups
        self._widths = {node: one[:, groups] * self._variety(node, count) for node, one in self._spread.items()}
        for stage, temperature in enumerate(stages):
            if self._is_done or steps < len(stages):
                return
            self._ascend(temperature, stage, steps // len(stages), count)

    def _variety(self, node: Node, count: int) -> Tensor:
        """Random factors for the widths of every ascent but the first: all would climb the same hill otherwise."""
        drawn = torch.randn((count, *node.shape), generator=self.generator, dtype=torch.float64).to(self.values)
        drawn[0] = 0.0
        return (VARIETY * drawn).exp()

    def _is_curved(self) -> bool:
        """Whether the Jacobian changes other than at kinks that are smeared."""
        nodes = self.graph.nodes
        pieces = [piece for node in nodes if isinstance(node, Elementwise) for piece in node.activation.pieces]
        others = any(not isinstance(node, Input | Affine | Elementwise) for node in nodes)
        return others or any(piece.curvature != "linear" for piece in pieces)

    def _ascend(self, temperature: float, stage: int, steps: int, count: int) -> None:
        """One stage, from the best points so far and from where the last stage ended on its smoothed network."""
        index = self.best(count)
        place = positions(len(index), index).unsqueeze(1)
        points, rows = self.points[place, index], self.rows[place, index]
        if stage:
            half = min(self._moved.shape[1], count - count // 2)
            points = torch.cat((points[:, : count - half], self._moved[:, :half]), 1)
            rows = torch.cat((rows[:, : count - half], self._moved_rows[:, :half]), 1)
        groups = positions(points.shape[1], points) % self._groups
        best, best_values = points, self._valued(points, rows)
        stale = positions(len(points), points) * 0  # steps of each set since the last one that gained
        for step in range(steps):
            moving = stale < PATIENCE
            if self.budget.is_over or not bool(moving.any()):
                break
            self.budget.tell(stage * steps + step, len(TEMPERATURES) * steps, "search for a witness")
            share = LONGEST * (SHORTEST / LONGEST) ** (step / max(1, steps - 1))
            wide = moving.reshape(-1, *[1] * (points.dim() - 1))
            points = torch.where(wide, self._stepped(points, rows, groups, temperature, share), points)
            values = self._valued(points, rows)
            before = best_values.amax(1)
            better = (values > best_values) & moving.unsqueeze(1)
            best_values = torch.where(better, values, best_values)
            best = torch.where(better.reshape(*better.shape, *[1] * (points.dim() - 2)), points, best)
            top = best_values.amax(1)
            stale = torch.where((top > before * (1 + GAINED)) | (top == 0), 0, stale + 1)
            if self.target is not None:  # what reaches it has nothing left to win
                stale = torch.where(top >= self.target, PATIENCE, stale)
        self._moved, self._moved_rows = points, rows
        self._keep(best, *self._judged(best))

    def _valued(self, points: Tensor, rows: Tensor) -> Tensor:
        """Norms of row combinations of the Jacobians, (N, K)."""
        flat, behind, found = points.flatten(0, 1), rows.flatten(0, 1), []
        for chunk in self._chunks(len(flat)):
            gradient = At.of(self.graph, flat[chunk]).gradient(behind[chunk])
            found.append(torch.linalg.vector_norm(gradient, dual_exponent(self.norm[0]), dim=1))
        return torch.cat(found).nan_to_num(nan=0.0, posinf=0.0).reshape(points.shape[:2])

    def _stepped(self, points: Tensor, rows: Tensor, groups: Tensor, temperature: float, share: float) -> Tensor:
        """Every point one step up the smoothed network, inside its set."""
        reach = self._reach[:, groups]
        bounded = self.inner.domain.bounded.reshape(-1, *[1] * (reach.dim() - 1))
        reach = torch.where(bounded, reach, 2 * reach)
        widths = {node: (temperature * one[:, : points.shape[1]]).flatten(0, 1) for node, one in self._widths.items()}
        flat, behind, found = points.flatten(0, 1), rows.flatten(0, 1), []
        for chunk in self._chunks(len(flat)):
            some: dict[Node, Tensor] = {node: width[chunk] for node, width in widths.items()}
            found.append(At.of(self.graph, flat[chunk]).uphill(behind[chunk], self.norm[0], some))
        uphill = torch.cat(found).reshape(points.shape)
        ball = math.inf if self.inner.domain.centre is None else self.inner.domain.p
        if ball == math.inf:
            move = uphill.sign() * reach
        else:
            size_of = reach.flatten(2).amax(2).reshape(*reach.shape[:2], *[1] * (points.dim() - 2))
            flat_up = uphill.flatten(2)
            along = dual_vector(flat_up.flatten(0, 1), 2).reshape(flat_up.shape)
            if ball == 1:  # mostly along the few steepest coordinates
                along = along * along.abs()
            along = along / torch.linalg.vector_norm(along, ball, dim=2, keepdim=True).clamp(min=1e-300)
            move = along.reshape(points.shape) * size_of
        return self.inner.clamp(points + share * move)
