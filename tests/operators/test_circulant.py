"""Circulant norms of convolutions: tables and blocks against balls, norms against dense matrices and Lanczos."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Generator, Tensor

from exact import ball
from jacobound.operators import circulant, norms
from jacobound.operators.circulant import circulant_norm, roots_of_unity
from jacobound.operators.estimates import estimate_spectral_norm
from jacobound.operators.kinds import Convolution
from jacobound.operators.norms import operator_norm
from operator_cases import convolutions
from small_cases import normal

BELOW = 1 - 1e-13  # what a singular value of torch may be off by


def true_norm(matrix: Tensor, p: float) -> float:
    return float(torch.linalg.matrix_norm(matrix, p)) if matrix.numel() else 0.0


@pytest.mark.parametrize("order", [1, 2, 3, 7, 64, 97, 1024])
def test_roots_of_unity_are_within_their_error(order: int) -> None:
    cosines, sines = roots_of_unity(order)
    for j in range(0, order, max(1, order // 40)):
        turn = ball(2 * j) / order
        for value, truth in ((cosines[j], turn.cos_pi()), (sines[j], turn.sin_pi())):
            assert abs(ball(float(value)) - truth) < ball(2.0**-53)


@pytest.mark.slow
@settings(max_examples=400)
@given(convolutions())
def test_circulant_norms_hold(convolution: Convolution) -> None:
    truth = true_norm(convolution.materialise(), 2)
    assert truth * BELOW <= float(circulant_norm(convolution))


@pytest.mark.parametrize(
    ("outputs", "inputs", "taps", "side", "stride", "padding", "most"),
    [
        (8, 8, 3, 32, 1, 1, 1.01),
        (8, 8, 3, 32, 2, 1, 1.01),
        (16, 1, 5, 28, 2, 2, 1.03),
        (12, 6, 3, 14, 1, 1, 1.03),
        (6, 4, 3, 16, 1, 0, 1.02),
    ],
)
def test_circulant_norms_are_tight_on_larger_maps(
    outputs: int, inputs: int, taps: int, side: int, stride: int, padding: int, most: float
) -> None:
    for seed in range(3):
        kernel = normal(outputs, inputs, taps, taps, seed=seed) + (0.3 if seed == 2 else 0.0)
        convolution = Convolution(kernel, (inputs, side, side), (stride,) * 2, (padding,) * 2, (1, 1))
        truth = estimate_spectral_norm(convolution)
        assert truth * (1 - 1e-9) <= float(circulant_norm(convolution)) <= truth * most


def test_groups_of_a_large_convolution_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution = Convolution(normal(6, 2, 3, 3), (6, 6, 6), (1, 1), (1, 1), (1, 1), 3)
    truth = true_norm(convolution.materialise(), 2)
    monkeypatch.setattr(norms, "LARGEST_ORDER", 80)
    assert truth * BELOW <= float(operator_norm(convolution, 2)) <= truth * (1 + 1e-9)


# --- parts ------------------------------------------------------------------------------------------------------------


def drawn(generator: Generator, axes: int, groups: int = 1) -> Convolution:
    """A convolution of random shape."""

    def number(least: int, most: int) -> tuple[int, ...]:
        return tuple(torch.randint(least, most + 1, (axes,), generator=generator).tolist())

    taps, strides, padding, dilation, room = number(1, 4), number(1, 4), number(0, 3), number(1, 2), number(1, 7)
    needed = zip(taps, padding, dilation, room, strict=True)
    size = [max(1, d * (k - 1) + 1 - 2 * p) + r for k, p, d, r in needed]
    weight = torch.randn(2 * groups, 3, *taps, generator=generator, dtype=torch.float64)
    return Convolution(weight, (3 * groups, *size), strides, padding, dilation, groups)


def test_the_circle_is_the_shortest_that_no_window_wraps_around() -> None:
    """Counted window by window; longer ones by whole strides."""
    generator = Generator().manual_seed(0)
    for _ in range(200):
        convolution = drawn(generator, 2)
        shapes = list(zip(convolution.image[1:], convolution.out_shape[1:], convolution.weight.shape[2:], strict=True))
        for extra, operator in itertools.product((0, 2), (convolution, convolution.transpose())):
            found = circulant.circle_lengths(operator, extra)
            for axis, (length, outputs, taps) in enumerate(shapes):
                stride, padding = convolution.stride[axis], convolution.padding[axis]
                reach = convolution.dilation[axis] * (taps - 1)
                last = max(min(stride * m - padding + reach, length - 1) for m in range(outputs))
                least = max(last, 0) + 1 + min(padding, reach)
                assert found[axis] == stride * (math.ceil(least / stride) + extra)


def test_some_zeros_and_some_numbers_that_are_none() -> None:
    weight = normal(2, 2, 3)
    convolution = Convolution(weight, (2, 9), (1,), (1,), (1,))
    assert float(circulant_norm(replace(convolution, weight=torch.zeros_like(weight)))) == 0
    for value in (0.0, math.inf, math.nan):
        changed = replace(convolution, weight=weight.clone().index_fill_(2, torch.tensor([1]), value))
        found = float(circulant_norm(changed))
        assert found == math.inf if value else found >= true_norm(changed.materialise(), 2)
