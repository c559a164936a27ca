"""Parts of the backward pass on their own: which entries matter, and what its steps look up."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobound.activations.base import Lines
from jacobound.linear_bounds import Relaxation


def unit_lines(sets: int = 2) -> tuple[Lines, Tensor]:
    """Lines over five neurons: each of the first four has one number that is not zero, in the last set alone."""
    parts = [torch.zeros(sets, 5, dtype=torch.float64) for _ in range(4)]
    for k, part in enumerate(parts):
        part[-1, k] = 0.5
    return Lines(*parts), torch.ones(sets, 5, dtype=torch.float64)


def test_every_slope_and_every_offset_keeps_a_neuron_alive() -> None:
    lines, magnitude = unit_lines()
    alive = Relaxation(lines, magnitude).alive
    assert alive is not None and alive.tolist() == [0, 1, 2, 3]
    noise = torch.zeros_like(magnitude)
    noise[0, 4] = 1e-3
    assert Relaxation(lines, magnitude, noise).alive is None


def test_neurons_with_two_lines_or_an_offset_are_bent() -> None:
    lines, magnitude = unit_lines()
    lines.upper_slope[:, 4] = lines.lower_slope[:, 4] = 1.0
    _, bent, rounded, *_, parallel = Relaxation(lines, magnitude).on_alive
    assert bent.tolist() == [0, 1, 2, 3] and rounded.tolist() == [0, 1, 2, 3] and not parallel
    same = Lines(lines.upper_slope, lines.lower_offset, lines.upper_slope, lines.lower_offset)
    assert Relaxation(same, magnitude).on_alive[-1]
