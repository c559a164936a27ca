"""Search for the multipliers of a pair: a convex problem, by L-BFGS on a smoothed largest eigenvalue.

Nothing here is trusted: `seqlip_pairs.certified_dual` proves what any multipliers are worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.constants.pairs.dual import LARGEST, SMALLEST, Pair, PairBound, certified_dual, product_bound
from jacobound.operators.estimates import lanczos

HISTORY = 12
LONGEST_STEP = 2.0  # of the logarithm of a multiplier
FULL = ((0.1, 40), (0.03, 40), (0.01, 40), (0.003, 40), (0.001, 40), (0.0003, 40))  # smoothing, iterations
FAST = ((0.1, 15), (0.01, 15))
QUICK = ((0.01, 12), (0.001, 12))  # from multipliers of a pair nearby
NARROW = 128  # up to so many neurons the whole schedule is run
TRIPLETS = 200  # singular vectors of each side that a wide pair is searched on first
FEW_ENTRIES = 1 << 16  # up to here all singular values are cheap
LANCZOS_STEPS = 40
WIDE_WORK = 1 << 31  # products of one evaluation from which that is done

Over = Callable[[], bool]


def never() -> bool:
    """No time limit."""
    return False


def dual_bound(pair: Pair, over: Over = never, start: Tensor | None = None) -> PairBound:
    """The certified dual bound of a pair, never above the product of norms.

    Args:
        over: asked between evaluations; the search stops when it says so, and what was found is certified.
        start: multipliers of a pair nearby, shape (n,), for the oriented and pruned pair.
    """
    product = product_bound(pair)
    pair = pair.pruned.oriented
    if not pair.is_finite or not 0 < product < math.inf:
        return PairBound(product)
    problem = Dual(pair)
    if not len(problem.undecided):
        found = certified_dual(pair, torch.ones(pair.neurons, dtype=torch.float64), problem.guess(None))
        return PairBound(min(product, found), multipliers=torch.ones(pair.neurons, dtype=torch.float64))
    schedule = FULL if pair.neurons <= NARROW else FAST
    logs = None if start is None else start.to(torch.float64)[problem.undecided].log()
    if logs is not None and math.isfinite(problem.value(logs)):
        schedule = QUICK
    elif problem.work > WIDE_WORK:
        logs = _extended(problem, over)
    else:
        logs = None
    logs, complete = minimise(problem, problem.start(over) if logs is None else logs, schedule, over)
    multipliers = torch.ones(pair.neurons, dtype=torch.float64)
    multipliers[problem.undecided] = logs.exp().clamp(SMALLEST, LARGEST)
    value = certified_dual(pair, multipliers, problem.guess(logs))
    return PairBound(min(product, value), 0.0, multipliers if value < math.inf else None, complete)


class Dual:
    """``rho(t)``, the least ``a`` for b = 1, of an oriented pair, with its gradient by the logarithms of t; floats."""

    def __init__(self, pair: Pair) -> None:
        scaled, self.factor = pair.scaled
        self.pair = scaled
        self.undecided = (scaled.half > 0).nonzero().squeeze(1)
        self.outer = (scaled.left * scaled.half)[:, self.undecided]
        self.inner = scaled.right[self.undecided]
        self.passed = scaled.at(scaled.middle)
        p, q = self.passed.shape
        self.work = (p * p + q * q) * len(self.undecided) + p * p * p // 3 + p * p * q + 8 * q * q * q

    def guess(self, logs: Tensor | None) -> float:
        """The bound that multipliers are worth; None where no neuron is undecided."""
        if logs is None:
            return float(torch.linalg.matrix_norm(self.passed, 2)) * self.factor
        return math.sqrt(max(self.value(logs), 0.0)) * self.factor

    def _gram(self, logs: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """The matrix whose largest eigenvalue is rho, the Cholesky factor and the solved C; None if infeasible."""
        t = logs.exp()
        identity = torch.eye(len(self.outer), dtype=torch.float64)
        factor, info = torch.linalg.cholesky_ex(identity - (self.outer / t) @ self.outer.T)
        if int(info) or not bool(torch.isfinite(factor).all()):
            return None
        solved = torch.linalg.solve_triangular(factor, self.passed, upper=False)
        matrix = self.inner.T @ (self.inner * t.unsqueeze(1)) + solved.T @ solved
        return (matrix, factor, solved) if bool(torch.isfinite(matrix).all()) else None

    def value(self, logs: Tensor) -> float:
        """rho; inf where infeasible."""
        found = self._gram(logs)
        return math.inf if found is None else float(torch.linalg.eigvalsh(found[0])[-1])

    def smoothed(self, logs: Tensor, smoothing: float) -> tuple[float, Tensor, float] | None:
        """Logarithm of the smoothed rho, its gradient, and rho itself; None where infeasible.

        Args:
            smoothing: how far the smoothed value may lie above, relative to rho.
        """
        found = self._gram(logs)
        if found is None:
            return None
        matrix, factor, solved = found
        values, vectors = torch.linalg.eigh(matrix)
        largest = values[-1]
        width = smoothing * largest.clamp(min=1e-300) / math.log(max(len(values), 2))
        smooth = largest + width * torch.logsumexp((values - largest) / width, 0)
        weights = torch.softmax((values - largest) / width, 0)
        used = weights > 1e-12
        x = vectors[:, used] * weights[used].sqrt()
        z = self.inner @ x
        y = torch.linalg.solve_triangular(factor.T, solved @ x, upper=True)
        w = (self.outer.T @ y) / logs.exp().unsqueeze(1)
        gradient = logs.exp() * (z.square().sum(1) - w.square().sum(1))
        # The width grows with the largest eigenvalue, which changes the gradient by a term of its own size.
        return float(smooth.log()), gradient / smooth, float(largest)

    def violations(self, logs: Tensor) -> Tensor:
        """How far the maximiser of the bound is from what a neuron can do: ``| |w| - |z| |`` times its size."""
        found = self._gram(logs)
        if found is None:
            return self.outer.norm(dim=0)
        matrix, factor, solved = found
        top = torch.linalg.eigh(matrix)[1][:, -1:]
        back = torch.linalg.solve_triangular(factor.T, solved @ top, upper=True)
        w, z = (self.outer.T @ back).squeeze(1) / logs.exp(), (self.inner @ top).squeeze(1)
        return (w.abs() - z.abs()).abs() * self.outer.norm(dim=0)

    def start(self, over: Over = never) -> Tensor:
        """The best of a few closed forms, scaled to be feasible; the first that there is time for."""
        best, logs = math.inf, None
        for tried in self._shapes(1.5):
            value = self.value(tried)
            best, logs = (value, tried) if logs is None or value < best else (best, logs)
            if over():
                return logs
        assert logs is not None
        for scale in (0.75, 0.85, 1.4, 2.0):
            if over():
                break
            value = self.value(logs + math.log(scale))
            best, logs = (value, logs + math.log(scale)) if value < best else (best, logs)
        return logs

    def _shapes(self, margin: float) -> Iterator[Tensor]:
        a, b = self.outer.norm(dim=0), self.inner.norm(dim=1)
        floor = 1e-8 * max(float(a.max()), float(b.max()), 1e-150)
        a, b = a.clamp(min=floor), b.clamp(min=floor)
        for shape in (torch.ones_like(a), a / b, a, 1 / b, (a / b).sqrt(), a * a):
            yield self.feasible(shape, margin).log()

    def feasible(self, shape: Tensor, margin: float) -> Tensor:
        """A multiple of the shape that is above the least feasible one by the margin."""
        shape = shape.clamp(SMALLEST, LARGEST)
        least = _squared_norm(self.outer / shape.sqrt())
        return (shape * (margin * max(least, 1e-150))).clamp(SMALLEST, LARGEST)


def _squared_norm(matrix: Tensor) -> float:
    """Estimate of the square of the spectral norm."""
    if matrix.numel() <= FEW_ENTRIES:
        return float(torch.linalg.matrix_norm(matrix, 2).square())
    return lanczos(lambda x: matrix @ (matrix.T @ x), len(matrix), LANCZOS_STEPS)


def _extended(problem: Dual, over: Over) -> Tensor:
    """Multipliers of the pair of the top singular vectors alone, raised until they are feasible for the whole pair."""
    pair = problem.pair
    left = _top(pair.left @ pair.left.T, TRIPLETS).T @ pair.left
    right = pair.right @ _top(pair.right.T @ pair.right, TRIPLETS)
    small = Dual(Pair(left, right, pair.lower, pair.upper).oriented)
    logs, _ = minimise(small, small.start(over), FAST, over)
    found = logs.exp() if left.shape[0] >= right.shape[1] else _turned(small, logs)
    best, chosen = math.inf, problem.start(over) if over() else None
    for share in (0.03, 0.1, 0.3):
        shape = found + share * found.median()
        for margin in (1.03, 1.15):
            tried = problem.feasible(shape, margin).log()
            value = problem.value(tried)
            if value < best:
                best, chosen = value, tried
            if over():
                break
    return problem.start(over) if chosen is None else chosen


def _turned(problem: Dual, logs: Tensor) -> Tensor:
    """Multipliers for the transposed pair: t becomes ``r^2 / t`` times the bound."""
    half = problem.pair.half[problem.undecided]
    return half * half * problem.value(logs) / logs.exp()


def _top(gram: Tensor, count: int) -> Tensor:
    """The leading eigenvectors."""
    return torch.linalg.eigh(gram)[1][:, -count:]


def minimise(problem: Dual, start: Tensor, schedule: tuple[tuple[float, int], ...], over: Over) -> tuple[Tensor, bool]:
    """The best multipliers met, by L-BFGS with backtracking at each smoothing; and whether there was time for all.

    Returns:
        Logarithms of the multipliers, and False when the search was cut short.
    """
    best = _Best(problem.value(start), start)
    for smoothing, iterations in schedule:
        if _descend(problem, best, smoothing, iterations, over):
            return best.logs, False
    return best.logs, True


@dataclass
class _Best:
    value: float
    logs: Tensor

    def see(self, value: float, logs: Tensor) -> None:
        if value < self.value:
            self.value, self.logs = value, logs


def _descend(problem: Dual, best: _Best, smoothing: float, iterations: int, over: Over) -> bool:
    """One smoothing; whether time is over."""
    logs = best.logs
    now = problem.smoothed(logs, smoothing)
    steps: list[tuple[Tensor, Tensor]] = []
    for _ in range(iterations):
        if over():
            return True
        if now is None:
            return False
        value, gradient, _ = now
        direction = _direction(gradient, steps)
        slope = float(direction @ gradient)
        if not slope < 0:
            steps.clear()
            direction, slope = -gradient, -float(gradient @ gradient)
        direction = direction * min(1.0, LONGEST_STEP / max(float(direction.abs().max()), 1e-300))
        slope = float(direction @ gradient)
        moved = None
        for halvings in range(12):
            length = 0.5**halvings
            moved = problem.smoothed(logs + length * direction, smoothing)
            if moved is not None and moved[0] <= value + 1e-4 * length * slope:
                step = length * direction
                break
        else:
            return False
        best.see(moved[2], logs + step)
        steps.append((step, moved[1] - gradient))
        del steps[:-HISTORY]
        logs, now = logs + step, moved
        if value - moved[0] < 1e-3 * smoothing * 1e-2:
            return False
    return False


def _direction(gradient: Tensor, steps: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The two-loop recursion of L-BFGS."""
    direction = -gradient
    used = [(s, y, float(s @ y)) for s, y in steps if float(s @ y) > 1e-14 * float(y @ y)]
    if not used:
        return direction / max(float(gradient.abs().max()), 1e-300) * 0.3
    weights = []
    for s, y, product in reversed(used):
        weights.append(float(s @ direction) / product)
        direction = direction - weights[-1] * y
    s, y, product = used[-1]
    direction = direction * (product / float(y @ y))
    for (s, y, product), weight in zip(used, reversed(weights), strict=True):
        direction = direction + (weight - float(y @ direction) / product) * s
    return direction
