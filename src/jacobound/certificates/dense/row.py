"""A few cheap steps towards the best multipliers of one row, from multipliers that serve many. Plain floating point.

For fixed multipliers the constant of a row is a maximum over the tangents of the neurons; its derivatives follow from
those that attain it. At the optimum the weight of an input is inverse to what arrives there, and what a neuron emits is
as large as what it receives: multipliers move some way towards that, as far as the constant falls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.certificates.dense.barrier import Barrier

LONGEST_INPUT, LONGEST_NEURON = 2.0, 0.25  # changes of a logarithm in a full step
SMALLEST = 0.01  # share of a full step below which none is tried
RISE = 1.5  # of the share after a step that succeeded
GAIN = 0.01  # relative; a smaller one ends the search


def polished(barrier: Barrier, logs: Tensor, enough: float, over: Callable[[], bool]) -> tuple[float, Tensor]:
    """The constant of a single row and the multipliers behind it.

    Args:
        barrier: of a core with one output.
        logs: logarithms of feasible multipliers, neurons first, then inputs where they are free.
        enough: a constant at which the search ends.
        over: asked before every step; true ends the search.

    Returns:
        The constant, an estimate until proved, and logarithms of multipliers; the given ones where nothing is better.
    """
    found = _constant(barrier, logs)
    if found is None:
        return torch.inf, logs
    best, share = found[0], 0.5
    while best > enough and not over():
        step = _towards_balance(barrier, logs, found[1])
        tried = None
        while share >= SMALLEST:
            tried = _constant(barrier, logs + share * step)
            if tried is not None and tried[0] < best:
                break
            tried, share = None, share / 2
        if tried is None:
            break
        logs, found, before, best = logs + share * step, tried, best, tried[0]
        share = min(1.0, RISE * share)
        if best > (1 - GAIN) * before:
            break
    return best, logs


def _constant(barrier: Barrier, logs: Tensor) -> tuple[float, Tensor] | None:
    """The constant, and the tangents of the neurons that attain it; None where the multipliers are not feasible."""
    found = barrier.worst(logs)
    if found is None:
        return None
    inputs = barrier.weights_of(logs)[1]
    entering = float((1 / inputs).sum()) if barrier.free_inputs else 1.0
    return (max(float(found[0]), 0.0) * entering) ** 0.5, found[1]


def _towards_balance(barrier: Barrier, logs: Tensor, emitted: Tensor) -> Tensor:
    """A full step in the logarithms."""
    core = barrier.core
    received = core.matrix[0] + emitted @ core.matrix[1:]
    arrived, received = received[: core.inputs].square(), received[core.inputs :].square()
    floor = 1e-12 * received.mean().clamp(min=1e-300)
    neurons = (emitted.square() + floor).log() - (received + floor).log()
    step = LONGEST_NEURON * neurons.clamp(-1.0, 1.0)
    if not barrier.free_inputs:
        return step
    inputs = -(logs[core.neurons :] + 0.5 * (arrived + 1e-12 * arrived.mean().clamp(min=1e-300)).log())
    return torch.cat((step, (inputs - inputs.mean()).clamp(-LONGEST_INPUT, LONGEST_INPUT)))
