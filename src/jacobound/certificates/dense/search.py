"""The search for multipliers: Newton's method on the logarithms, along a falling barrier. Plain floating point.

Nothing here has to be right for a certificate to be right: every feasible point is a valid one, so the search can be
stopped at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log, sqrt

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import eigenvalues
from jacobound.budget import checkpoint
from jacobound.certificates.dense.barrier import Barrier, Derivatives, Point, Weights

STEPS = 200  # Newton steps at most
FIRST, WARM, FACTOR = 10.0, 1.0, 0.2  # barrier times its size: where it starts, and how fast it falls
LONGEST = 4.0  # change of a logarithm in one step
CENTRED = 1.0  # squared Newton decrement below which the barrier falls


@dataclass(frozen=True, eq=False)
class Found:
    """What a search ended with.

    Args:
        point: the last feasible point.
        converged: whether the tolerance was reached.
        steps: Newton steps taken.
    """

    point: Point
    converged: bool
    steps: int


def feasible_start(barrier: Barrier, margin: float = 2.0) -> Point | None:
    """Weights from the first neurons to the last, each group `margin` times what the earlier ones ask for.

    The closed form behind ECLipsE-Fast in spirit: the Schur complement of every block is dominated by a diagonal.
    Returns None when the numbers overflow.
    """
    core = barrier.core
    logs = torch.zeros(core.neurons, dtype=torch.float64)
    if barrier.free_inputs:
        logs = torch.cat((logs, barrier.input_weights.log()))
    factor = torch.zeros(0, 0, dtype=torch.float64)
    start = 0
    for count in (*core.blocks, core.outputs):
        rows = (start, start + count)
        checkpoint()
        known = barrier.gram(logs, rows, start)
        border = torch.linalg.solve_triangular(factor, known[:, :start].T, upper=False)
        needed = known[:, start:] + border.T @ border
        if not bool(torch.isfinite(needed).all()):
            return None
        size = margin * _dominating(needed)
        if rows[0] < core.neurons:
            size = core.together(size, start)
        else:
            return barrier.evaluate(logs, size.log() if barrier.free_outputs else None, FIRST / (start + count))
        corner, failed = torch.linalg.cholesky_ex(torch.diag(size) - needed)
        if bool(failed):
            return None
        logs[start : start + count] = size.log()
        above = torch.zeros(start, count, dtype=torch.float64)
        factor = torch.cat((torch.cat((factor, above), 1), torch.cat((-border.T, corner), 1)))
        start += count
    return None


def warm_start(barrier: Barrier, weights: Weights) -> Point | None:
    """A start from the multipliers of another row of the same core; None when they do not fit."""
    core = barrier.core
    if len(weights.neurons) != core.neurons or len(weights.inputs) != core.inputs:
        return None
    logs = weights.neurons.log()
    if barrier.free_inputs:
        # Half of the old lambda and half of a guess for this row: at most twice the old nu. With tau doubled as well
        # the neurons' part of F stays definite.
        known, guess = 1 / weights.inputs, 1 / barrier.input_weights
        mixed = known + guess * (known.sum() / guess.sum())
        logs = torch.cat((logs + log(2), log(2) - mixed.log()))
    if not bool(torch.isfinite(logs).all()):
        return None
    outputs = weights.outputs.log() if barrier.free_outputs else None
    return barrier.evaluate(logs, outputs, WARM / len(barrier.matrix))


def _dominating(matrix: Tensor) -> Tensor:
    """A diagonal above a positive semidefinite matrix, in proportion to its own diagonal; shape (n,)."""
    size = matrix.diagonal().clone()
    size = size.clamp(min=max(1e-8 * float(size.max()), 1e-200))
    scaled = matrix * size.rsqrt() * size.rsqrt().unsqueeze(1)
    return size * eigenvalues(scaled)[-1]


def search(
    barrier: Barrier,
    start: Point,
    tolerance: float,
    enough: float = -inf,
    over: Callable[[], bool] = lambda: False,
    first: float = FIRST,
) -> Found:
    """Follow the central path from a start.

    Args:
        tolerance: the search ends when about so much, relative to the constant, is still to be gained.
        enough: logarithm of ``c_in c_out`` at which it ends as well.
        over: asked before every step; true ends the search.
        first: where the barrier starts, times the size of F.
    """
    size = len(barrier.matrix)
    last = 4 * tolerance / size  # nothing near the tolerance is left to gain from here on, whatever the problem
    beta, shift, point, centred = max(first / size, last), 1e-3, start, inf
    for step in range(STEPS):
        if point.value <= enough:
            return Found(point, True, step)
        if over():
            return Found(point, False, step)
        forces = barrier.derivatives(point)
        while True:
            slope, direction, shift = _newton(forces, beta, shift, barrier.variables)
            decrement = -float(slope @ direction) / beta
            if decrement >= CENTRED or beta <= last:
                break
            # Along the path the excess is about in proportion to beta; the value is twice the constant's logarithm.
            if FACTOR / (1 - FACTOR) * (centred - point.value) / 2 < tolerance / 2 and centred < inf:
                return Found(point, True, step)
            beta, centred = max(beta * FACTOR, last), point.value
        if not decrement < inf or (beta <= last and decrement < 0.2):
            return Found(point, decrement < inf, step)
        moved, length = _line_search(barrier, point, slope, direction, beta)
        if moved is None:
            if shift > 1e4:
                return Found(point, False, step)
            shift *= 16
            continue
        point = moved
        shift = max(1e-7, shift * (0.25 if length > 0.99 else 1.0 if length > 0.3 else 2.0))
    return Found(point, False, STEPS)


def _newton(
    forces: Derivatives, beta: float, shift: float, variables: Tensor | None = None
) -> tuple[Tensor, Tensor, float]:
    """Gradient, direction and the shift that made the Hessian positive definite."""
    slope, total = forces.combined(beta)
    whole = slope
    if variables is not None:  # some logarithms are one variable: sums over each
        count = int(variables.max()) + 1
        slope = slope.new_zeros(count).index_add_(0, variables, slope)
        full = total.tril() + total.tril(-1).T
        half = total.new_zeros(count, len(full)).index_add_(0, variables, full)
        total = total.new_zeros(count, count).index_add_(1, variables, half)
    middle = total.diagonal().clone()
    while True:
        total.diagonal().copy_(middle + shift * beta)
        factor, failed = torch.linalg.cholesky_ex(total)
        if not bool(failed) or shift > 1e8:
            break
        shift = max(4 * shift, 1e-3)
    direction = -torch.cholesky_solve(slope.unsqueeze(1), factor).squeeze(1)
    return (slope, direction, shift) if variables is None else (whole, direction[variables], shift)


def _line_search(
    barrier: Barrier, point: Point, slope: Tensor, direction: Tensor, beta: float
) -> tuple[Point | None, float]:
    """A point further down, and the length of the step; longer steps are tried while the model holds."""
    rate, count = float(slope @ direction), len(point.logs)
    longest = LONGEST / max(float(direction.abs().max()), 1e-12)
    decrement = max(-rate / beta, 1e-12)
    length = min(1.0, longest, 2 / sqrt(decrement))
    here, best = point.merit(beta), None
    for _ in range(12):
        outputs = point.output_logs + length * direction[count:] if barrier.free_outputs else None
        there = barrier.evaluate(point.logs + length * direction[:count], outputs, beta)
        fall = (there.merit(beta) if there is not None else inf) - here
        if best is not None:
            if there is None or fall >= best[2]:
                break
            best = there, length, fall
        elif there is not None and fall <= 1e-4 * length * rate:
            best = there, length, fall
        else:
            length *= 0.4
            continue
        model = length * rate * (1 - length / 2) if length < 1 else rate / 2
        if best[2] > 0.8 * model or 2 * length > min(longest, 8.0):
            break
        length *= 2
    return (None, 0.0) if best is None else (best[0], best[1])
