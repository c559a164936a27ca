"""Circulant norms of convolutions: tables and blocks against balls, norms against dense matrices and Lanczos."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from exact import at_least, ball, rational
from jacobound import circulant, norms
from jacobound.circulant import ROOT_ERROR, circulant_norm, roots_of_unity
from jacobound.estimates import estimate_spectral_norm
from jacobound.norms import operator_norm
from jacobound.operator_kinds import Convolution

BELOW = 1 - 1e-13  # what a singular value of torch may be off by


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def true_norm(matrix: Tensor, p: float) -> float:
    return float(torch.linalg.matrix_norm(matrix, p)) if matrix.numel() else 0.0


@pytest.mark.parametrize("order", [1, 2, 3, 7, 64, 97, 1024])
def test_roots_of_unity_are_within_their_error(order: int) -> None:
    cosines, sines = roots_of_unity(order)
    for j in range(0, order, max(1, order // 40)):
        turn = ball(2 * j) / order
        for value, truth in ((cosines[j], turn.cos_pi()), (sines[j], turn.sin_pi())):
            assert abs(ball(float(value)) - truth) < ball(ROOT_ERROR)


def test_blocks_are_within_their_error(seed: int) -> None:
    """Against balls; the error is not much larger than it must be, and not zero."""
    kernel = normal(2, 3, 3, 2, seed=seed) * 10 ** normal(2, 3, 3, 2, seed=seed + 1)
    convolution = Convolution(kernel, (3, 5, 4), (1, 2), (1, 0), (2, 1))
    torus = circulant._Torus(convolution, (10, 6))
    worst = 0.0
    blocks = torus._matrices(torch.arange(torus.family.count))
    for block, phases in zip(blocks[::3], torus.phases[::3], strict=True):
        for o, c, a in itertools.product(range(2), range(3), range(2)):
            weights = [rational(float(w)) for w in torus.kernels[0, o, c]]
            turns = [ball(2 * int(j)) / torus.order for j in phases[a]]
            sums = zip(weights, turns, strict=True)
            real, imaginary = (
                sum(parts, arb(0)) for parts in zip(*((w * t.cos_pi(), w * t.sin_pi()) for w, t in sums), strict=True)
            )
            for value, truth in ((block[o, 2 * c + a], real), (block[2 + o, 2 * c + a], imaginary)):
                error = abs(ball(float(value)) - truth)
                assert error < ball(float(torus.missed[0, o, c]))
                worst = max(worst, float(error) / float(torus.missed[0, o, c]))
    assert worst > 0.02


def test_long_sums_over_a_kernel_are_paid_for() -> None:
    """A large weight beside many small ones: at frequency zero the sum loses them."""
    kernel = torch.full((801,), 2.0**-53, dtype=torch.float64)
    kernel[0] = 1.0
    convolution = Convolution(kernel.reshape(1, 1, -1), (1, 801), (1,), (0,), (1,))
    torus = circulant._Torus(convolution, (801,))
    assert at_least(float(torus.norm(math.inf)), rational(1.0) + 800 * rational(2.0**-53))


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """Small convolutions of every stride, padding, dilation, with groups, on one to three axes, and adjoints."""
    axes = draw(st.sampled_from((1, 1, 2, 2, 3)))
    reach = 3 if axes == 3 else 5
    kernel = draw(st.tuples(*[st.integers(1, 2 if axes == 3 else 5)] * axes))
    padding = draw(st.tuples(*[st.integers(0, 2 if axes == 3 else 4)] * axes))
    dilation = draw(st.tuples(*[st.integers(1, 2)] * axes))
    stride = draw(st.tuples(*[st.integers(1, 3)] * axes))
    needed = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [draw(st.integers(least, least + reach)) for least in needed]
    groups, outputs, inputs = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    weight = normal(groups * outputs, inputs, *kernel, seed=draw(st.integers(0, 999)))
    if draw(st.booleans()):
        weight = weight.abs()
    image = (groups * inputs, *size)
    return Convolution(weight, image, stride, padding, dilation, groups, draw(st.booleans()))


@settings(max_examples=400)
@given(convolutions())
def test_circulant_norms_hold(convolution: Convolution) -> None:
    truth = true_norm(convolution.materialise(), 2)
    assert truth * BELOW <= float(circulant_norm(convolution))


@settings(max_examples=60)
@given(convolutions())
def test_small_convolutions_are_bounded_nearly_exactly(convolution: Convolution) -> None:
    truth = true_norm(convolution.materialise(), 2)
    assert truth * BELOW <= float(norms._of_reshaped(convolution, norms.MOST_WORK))
    assert truth * BELOW <= float(operator_norm(convolution, 2)) <= truth * (1 + 1e-9) + 1e-200


@pytest.mark.parametrize(("stride", "length"), [(1, 5), (1, 6), (2, 6), (3, 9)])
def test_blocks_are_those_of_the_circular_convolution(stride: int, length: int) -> None:
    """On the circle itself the norm is exact: nothing is lost among frequencies, halves and aliases."""
    for seed, (outputs, inputs, taps) in enumerate([(2, 3, 3), (4, 1, 2), (1, 2, 4), (3, 3, 1)]):
        kernel = normal(outputs, inputs, taps, seed=seed)
        matrix = torch.zeros(outputs, length // stride, inputs, length, dtype=torch.float64)
        for m, t in itertools.product(range(length // stride), range(taps)):
            matrix[:, m, :, (stride * m + t) % length] += kernel[:, :, t]
        truth = true_norm(matrix.reshape(outputs * (length // stride), -1), 2)
        torus = circulant._Torus(Convolution(kernel, (inputs, length), (stride,), (0,), (1,)), (length,))
        assert truth * BELOW <= float(torus.norm(math.inf)) <= truth * (1 + 1e-11)


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


def test_the_smallest_of_several_circles_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution = Convolution(normal(3, 3, 3, 3), (3, 8, 8), (1, 1), (1, 1), (1, 1))
    each = [
        float(circulant._Torus(convolution, circulant.circle_lengths(convolution, k)).norm(math.inf)) for k in range(3)
    ]
    assert float(circulant_norm(convolution)) == min(each)
    assert float(circulant_norm(convolution, min(each) * 0.99)) == math.inf  # not below the ceiling
    assert float(circulant_norm(convolution, most_work=10)) == math.inf
    monkeypatch.setattr(norms, "LARGEST_ORDER", 1)
    assert float(operator_norm(replace(convolution, weight=normal(3, 3, 3, 3)), 2)) == min(each)


def test_groups_of_a_large_convolution_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution = Convolution(normal(6, 2, 3, 3), (6, 6, 6), (1, 1), (1, 1), (1, 1), 3)
    truth = true_norm(convolution.materialise(), 2)
    monkeypatch.setattr(norms, "LARGEST_ORDER", 80)
    assert truth * BELOW <= float(operator_norm(convolution, 2)) <= truth * (1 + 1e-9)


def test_the_error_of_blocks_is_added_to_their_norm() -> None:
    """Each part of each alias may be off by so much: the Frobenius norm of that."""
    convolution = Convolution(normal(2, 3, 4), (3, 8), (2,), (0,), (1,))
    torus = circulant._Torus(convolution, circulant.circle_lengths(convolution, 0))
    before = float(torus.norm(math.inf))
    vars(torus)["missed"] = torch.full((1, 2, 3), 0.01, dtype=torch.float64)
    added = 0.01 * math.sqrt(6 * 2 * 2) * torus.scale / math.sqrt(2)
    assert float(torus.norm(math.inf)) == pytest.approx(before + added, rel=1e-9)
