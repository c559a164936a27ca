"""Attained values of a pair: alternating ascent and greedy flips. Lower ends of the pair's value, never bounds of it.

A product of such values over the pairs of a network bounds nothing: it may lie below or above the network's constant.
Source of the greedy searches: Scaman and Virmaux (NeurIPS 2018), algorithm 3.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from jacobound.constants.pairs.dual import Pair

STARTS = 8
STEPS = 50
SWEEPS = 11
NARROW = 96  # up to here singular vectors of whole matrices are cheap
POWER_STEPS = 60


def attained(pair: Pair, slopes: Tensor) -> float:
    """The norm at given slopes, in floating point."""
    return float(torch.linalg.matrix_norm(pair.at(slopes), 2)) if pair.neurons and _has_sides(pair) else 0.0


def _has_sides(pair: Pair) -> bool:
    return 0 not in (*pair.left.shape, *pair.right.shape)


def ascend(pair: Pair, starts: int = STARTS) -> Tensor:
    """Slopes of a large norm by alternating ascent from several starts, shape (n,).

    For fixed singular vectors the best slopes are read off the signs; for fixed slopes the singular vectors are best.
    """
    if not (pair.neurons and _has_sides(pair)):
        return pair.upper
    generator = Generator().manual_seed(0)
    best, value = pair.upper, -1.0
    for start in range(starts):
        chosen = torch.rand(pair.neurons, generator=generator) < 0.5
        slopes = torch.where(chosen, pair.lower, pair.upper) if start else pair.upper
        found, slopes = _ascent(pair, slopes)
        if found > value:
            best, value = slopes, found
    return best


def rough_value(pair: Pair) -> float:
    """A value that the pair attains, found without its matrices' products: cheap for wide pairs, and often near."""
    pair, factor = pair.scaled
    return factor * _rough_value(pair)


def _rough_value(pair: Pair) -> float:
    if min(len(pair.left), pair.right.shape[1]) <= NARROW:
        return attained(pair, ascend(pair, 2))
    v = torch.randn(pair.right.shape[1], generator=Generator().manual_seed(0), dtype=torch.float64)
    slopes, value = pair.upper, 0.0
    for _ in range(POWER_STEPS):
        z = pair.right @ (v / v.norm().clamp(min=1e-300))
        u = pair.left @ (slopes * z)
        value = float(u.norm())
        back = pair.left.T @ (u / max(value, 1e-300))
        slopes = torch.where(back * z > 0, pair.upper, pair.lower)
        v = pair.right.T @ (slopes * back)
    return value


def _ascent(pair: Pair, slopes: Tensor) -> tuple[float, Tensor]:
    value = -1.0
    best = slopes
    for _ in range(STEPS):
        u, v, size = _singular(pair.at(slopes))
        if not size > value * (1 + 1e-13):
            break
        value, best = size, slopes
        slopes = torch.where((pair.left.T @ u) * (pair.right @ v) > 0, pair.upper, pair.lower)
    return value, best


def _singular(matrix: Tensor) -> tuple[Tensor, Tensor, float]:
    """The leading singular vectors and value."""
    p, q = matrix.shape
    if q <= p:
        v = torch.linalg.eigh(matrix.T @ matrix)[1][:, -1]
        u = matrix @ v
        size = float(u.norm())
        return u / max(size, 1e-300), v, size
    v, u, size = _singular(matrix.T)
    return u, v, size


def greedy(pair: Pair, first: bool = False) -> Tensor:
    """Slopes of a large norm by flipping one neuron at a time, starting from the upper slopes, shape (n,).

    Args:
        first: accept every flip that improves, in sweeps over the neurons (the authors' published program); otherwise
            the best flip each time (the algorithm of the paper).
    """
    slopes = pair.upper.clone()
    if not (pair.neurons and _has_sides(pair)):
        return slopes
    return _first_improvement(pair, slopes) if first else _best_improvement(pair, slopes)


def _best_improvement(pair: Pair, slopes: Tensor) -> Tensor:
    value = attained(pair, slopes)
    rows = torch.arange(len(pair.undecided))
    for _ in range(4 * len(rows)):
        neurons = pair.undecided
        tried = slopes.expand(len(neurons), -1).clone()
        tried[rows, neurons] = (pair.lower + pair.upper)[neurons] - slopes[neurons]
        sizes = torch.cat([_norms(pair, part) for part in tried.split(64)])
        if not float(sizes.max()) > value * (1 + 1e-12):
            break
        value, slopes = float(sizes.max()), tried[int(sizes.argmax())]
    return slopes


def _norms(pair: Pair, slopes: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(pair.at(slopes), 2)


def _first_improvement(pair: Pair, slopes: Tensor) -> Tensor:
    value = attained(pair, slopes)
    for _ in range(SWEEPS):
        improved = False
        for neuron in pair.undecided.tolist():
            tried = slopes.clone()
            at_lower = bool(slopes[neuron] == pair.lower[neuron])
            tried[neuron] = pair.upper[neuron] if at_lower else pair.lower[neuron]
            found = attained(pair, tried)
            if found > value * (1 + 1e-12):
                value, slopes, improved = found, tried, True
        if not improved:
            break
    return slopes
