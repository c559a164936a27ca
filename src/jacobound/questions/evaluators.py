"""What a march asks at every radius: margins over balls by linear bounds, and their Lipschitz constants by a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, concatenated
from jacobound.arithmetic.linalg import dual_exponent, vector_norm_upper
from jacobound.graph.derivative import increments
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine
from jacobound.inputs.domains import Domain
from jacobound.inputs.regions import Balls
from jacobound.method import (
    Budget,
    Facts,
    JacobianEnclosure,
    JacobianMethod,
    LipschitzMethod,
    Method,
    OutputMethod,
    Query,
)
from jacobound.method.from_entries import merged_row_sums
from jacobound.questions.common import runs
from jacobound.questions.marching import Bounds
from jacobound.relaxation.ranges import CROWN
from jacobound.results.kinds import Status

Arguments = list[Interval]
"""What the arguments of all activations are over one set, (1, *node shape) each."""


@dataclass(frozen=True, eq=False)
class Around:
    """Margins of a network around points that share them.

    Args:
        graph: the network.
        balls: around all points of the question.
        points: which of them are meant here, int64, shape (n,).
        rows: the margins as combinations of the outputs, shape (K, outputs).
        budget: time and memory.
        worst: the last status that was not plainly certified, put in by the methods.
    """

    graph: Graph
    balls: Balls
    points: Tensor
    rows: Tensor
    budget: Budget
    worst: list[Status] = field(default_factory=list)

    def target(self, rows: Tensor) -> Graph:
        """The network with some of the margins behind it."""
        return self.graph.with_rows(self.rows[rows.cpu()]).expanded()

    def domain(self, which: Tensor, radii: Tensor) -> Domain:
        """Balls around some of the points (positions among `points`)."""
        return self.balls.domain(self.points[which], radii)


@dataclass(frozen=True, eq=False)
class Margins:
    """Certified lower bounds of margins over balls, by an output method."""

    around: Around
    method: OutputMethod

    def __call__(self, which: Tensor, radii: Tensor, rows: Tensor) -> Tensor:
        """From points (n,), radii (n,) and rows (k,) to float64 bounds (n, k)."""
        target, found = self.around.target(rows), []
        for part in runs(len(which), target, self.method.bytes_per_set(target), self.around.budget):
            domain = self.around.domain(which[part], radii[part])
            found.append(self.method.ranges(target, domain, self.around.budget)[target.output].lower)
        return torch.cat(found).to(torch.float64)


@dataclass(frozen=True, eq=False)
class FromJacobian:
    """Margins, and constants of their increments by the norms of enclosures of secant matrices.

    Args:
        around: the margins and points.
        method: encloses products of the chain rule.
        with_margins: whether margins over the balls are wanted (at radius 0 they always are).
        seen: what is known of each point over the last balls, by their radii; filled here.
    """

    around: Around
    method: JacobianMethod
    with_margins: bool = True
    seen: dict[int, dict[float, Arguments]] = field(default_factory=dict)

    def __call__(self, which: Tensor, near: Tensor, far: Tensor, rows: Tensor) -> Bounds:
        target, margins, constants = self.around.target(rows), [], []
        with_output = self.with_margins or not bool(far.any())
        budget = self.around.budget
        for part in runs(len(which), target, self.method.bytes_per_set(target), budget):
            domain = self.around.domain(which[part], far[part])
            ranges = preactivation(self.method).ranges(target, domain, budget, with_output=with_output)
            known = self._known(target, which[part], near[part], far[part], ranges)
            gates = increments(target, known, ranges)
            enclosure = self.method.enclose(Query(gates.graph, domain, budget, ranges=ranges, slopes=gates.slopes))
            if enclosure.status is not Status.CERTIFIED:
                self.around.worst.append(enclosure.status)
            margins.append(ranges[target.output].lower)
            constants.append(row_constants(enclosure, self.around.balls.p))
        return Bounds(torch.cat(margins).to(torch.float64), torch.cat(constants).to(torch.float64))

    def _known(self, target: Graph, which: Tensor, near: Tensor, far: Tensor, ranges: Facts) -> Facts:
        """What activations and products read over the smaller balls; that over the larger ones is kept for later.

        Graphs with other rows have nodes of their own for the same values, in the same order.
        """
        readers = (node for node in target.nodes if not isinstance(node, Affine))
        sources = list(dict.fromkeys(source for node in readers for source in node.sources))
        parts: list[Arguments] = []
        for k, (point, inner, outer) in enumerate(zip(which.tolist(), near.tolist(), far.tolist(), strict=True)):
            here: Arguments = [ranges[node].map(lambda end, k=k: end[k : k + 1]) for node in sources]
            before = self.seen.get(point, {}).get(inner, here)
            self.seen[point] = {inner: before, outer: here}
            parts.append(before)
        return {node: concatenated([part[k] for part in parts], 0) for k, node in enumerate(sources)}


@dataclass(frozen=True, eq=False)
class FromConstants:
    """Margins, and their constants by a method that bounds constants without gradients, row by row."""

    around: Around
    method: Method
    constant: Callable[[Query], tuple[Tensor, Status]]

    def __call__(self, which: Tensor, near: Tensor, far: Tensor, rows: Tensor) -> Bounds:
        margins = Margins(self.around, preactivation(self.method))(which, far, rows)
        constants = torch.full_like(margins, torch.inf)
        p = self.around.balls.p
        norm = (2.0, 2.0) if p == 2 else (p, torch.inf)  # of one number all norms are the same; SeqLip knows one
        for column, row in enumerate(rows.split(1)):
            target = self.around.graph.with_rows(self.around.rows[row.cpu()])
            for place in range(len(which)):
                domain = self.around.domain(which[place : place + 1], far[place : place + 1])
                value, status = self.constant(Query(target, domain, self.around.budget, norm))
                if status is not Status.CERTIFIED:
                    self.around.worst.append(status)
                constants[place, column] = value
        return Bounds(margins, constants)


def evaluator(around: Around, method: Method, with_margins: bool) -> FromJacobian | FromConstants:
    """What a march asks at every radius: chords from the points where a method encloses them, else constants."""
    if isinstance(method, JacobianMethod):
        return FromJacobian(around, method, with_margins)
    known = partial(_exactly, method) if isinstance(method, LipschitzMethod) else partial(_rounded, method)
    return FromConstants(around, method, known)


def _exactly(method: LipschitzMethod, query: Query) -> tuple[Tensor, Status]:
    found = method.constant(query)
    return found.value, found.status


def _rounded(method: Method, query: Query) -> tuple[Tensor, Status]:
    found = method.constants(query)
    return found.upper[0], found.status


def preactivation(method: object) -> OutputMethod:
    """The part of a method that bounds the ranges of the nodes; CROWN for one that has none."""
    found = getattr(method, "preactivation", None)
    return found if isinstance(found, OutputMethod) else CROWN()


def row_constants(enclosure: JacobianEnclosure, p: float) -> Tensor:
    """Certified constants of every row from l_p to the real line: dual norms of the rows, shape (N, rows)."""
    if p == torch.inf:
        return merged_row_sums(enclosure)
    return vector_norm_upper(enclosure.entries.magnitude(), dual_exponent(p), dim=-1)
