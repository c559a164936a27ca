"""Single functions behind `operators/test_circulant.py`, number by number."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from flint import arb, fmpq
from hypothesis import given, settings
from torch import Generator, Tensor

from exact import at_least, ball, rational, rationals
from jacobound.arithmetic.rounding import unrounded
from jacobound.operators import circulant, norms
from jacobound.operators.circulant import circulant_norm
from jacobound.operators.kinds import Convolution
from jacobound.operators.norms import operator_norm
from operator_cases import convolutions
from small_cases import normal

BELOW = 1 - 1e-13  # what a singular value of torch may be off by


def true_norm(matrix: Tensor, p: float) -> float:
    return float(torch.linalg.matrix_norm(matrix, p)) if matrix.numel() else 0.0


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


@pytest.mark.slow
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


def test_the_error_of_blocks_is_added_to_their_norm() -> None:
    """Each part of each alias may be off by so much: the Frobenius norm of that."""
    convolution = Convolution(normal(2, 3, 4), (3, 8), (2,), (0,), (1,))
    torus = circulant._Torus(convolution, circulant.circle_lengths(convolution, 0))
    before = float(torus.norm(math.inf))
    vars(torus)["missed"] = torch.full((1, 2, 3), 0.01, dtype=torch.float64)
    added = 0.01 * math.sqrt(6 * 2 * 2) * torus.scale / math.sqrt(2)
    assert float(torus.norm(math.inf)) == pytest.approx(before + added, rel=1e-9)


def test_blocks_are_as_many_as_frequencies_that_differ() -> None:
    """One of each frequency and its mirror image, none left out; a family knows the shape of its matrices."""
    for lengths, taps, stride in (
        ((4, 6), (2, 3), (1, 1)),
        ((5, 6), (3, 2), (1, 2)),
        ((6, 7), (2, 1), (3, 1)),
        ((8,), (1,), (2,)),
        ((3, 4, 4), (2, 1, 2), (1, 1, 2)),
    ):
        weight = normal(2, 3, *taps)
        convolution = Convolution(weight, (3, *lengths), stride, (0,) * len(taps), (1,) * len(taps))
        torus = circulant._Torus(convolution, lengths)
        axes = zip(lengths, taps, stride, strict=True)
        every = list(itertools.product(*(range(n // s if k > 1 else 1) for n, k, s in axes)))

        def phases(coarse: tuple[int, ...], torus: circulant._Torus = torus) -> frozenset[tuple[int, ...]]:
            """Those of all aliases of a frequency; also those of its mirror image."""
            periods = [n // s for n, s in zip(torus.lengths, torus.convolution.stride, strict=True)]
            found = set()
            for alias in itertools.product(*map(range, torus.convolution.stride)):
                fine = [v + a * p for v, a, p in zip(coarse, alias, periods, strict=True)]
                turns = [
                    sum(w * t * torus.order // n for w, t, n in zip(fine, tap, torus.lengths, strict=True))
                    for tap in itertools.product(*map(range, torus.convolution.weight.shape[2:]))
                ]
                found |= {tuple(turn % torus.order for turn in turns), tuple(-turn % torus.order for turn in turns)}
            return frozenset(found)

        expected = {phases(coarse) for coarse in every}
        found = [
            frozenset(tuple(row) for alias in block.tolist() for row in (alias, [-j % torus.order for j in alias]))
            for block in torus.phases
        ]
        assert set(found) == expected
        sizes = [max(column) + 1 for column in zip(*every, strict=True)]
        own = sum(all((2 * v) % n == 0 for v, n in zip(one, sizes, strict=True)) for one in every)
        assert len(found) == (len(every) + own) // 2
        matrices = torus.family.matrices(torch.arange(torus.family.count))
        assert matrices.shape == (torus.family.count, torus.family.rows, torus.family.columns)
        assert torus.family.rows <= torus.family.columns


def test_blocks_are_scaled_below_one_and_not_far_below(seed: int) -> None:
    """A bound above the largest norm by a factor that sums allow."""
    generator = Generator().manual_seed(seed)
    kernels = [torch.full((2, 1, 1), 1.99, dtype=torch.float64)]
    kernels += [torch.exp2(6 * torch.randn(3, 2, k, generator=generator, dtype=torch.float64)) for k in (1, 2, 5)]
    for kernel, groups, stride in itertools.product(kernels, (1, 2), (1, 2, 3)):
        weight = torch.cat((kernel, 300 * kernel)) if groups == 2 else kernel
        convolution = Convolution(weight, (kernel.shape[1] * groups, 12), (stride,), (0,), (1,), groups)
        torus = circulant._Torus(convolution, (12,))
        largest = float(torch.linalg.matrix_norm(torus._matrices(torch.arange(torus.family.count)), 2).max())
        sums = weight.sum((1, 2)).max() * weight.reshape(groups, len(kernel), *kernel.shape[1:]).sum((1, 3)).max()
        assert largest < 1
        assert torus.scale <= 6 * math.sqrt(float(sums) * stride)
        assert math.frexp(torus.scale)[0] == 0.5


@pytest.mark.parametrize("taps", [1, 2, 3, 5, 40])
def test_what_blocks_miss_is_that_of_the_derivation(taps: int) -> None:
    """(gamma_T + 2^-52) times the sizes of the weights, over the rationals."""
    convolution = Convolution(normal(4, 3, taps), (6, 50), (1,), (0,), (1,), 2)
    torus = circulant._Torus(convolution, (50,))
    unit = fmpq(1, 2**53)
    rate = taps * unit / (1 - taps * unit) + 2 * unit
    for row, found in zip(torus.kernels.flatten(0, 2), torus.missed.flatten().tolist(), strict=True):
        least = sum(map(abs, rationals(row)), fmpq(0)) * rate
        assert least <= rational(found) <= least * (1 + fmpq(1, 10**5))
    nothing = circulant._Torus(Convolution(torch.zeros(2, 3, taps).double(), (3, 50), (1,), (0,), (1,)), (50,))
    assert bool((nothing.missed >= 0).all())
    with unrounded():
        assert not circulant._Torus(convolution, (50,)).missed.any()


def test_norms_of_blocks_are_given_back_in_the_size_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded up, over the rationals; with the largest error of all groups."""
    generator = Generator().manual_seed(0)
    for stride in (1, 2, 3, 5):
        convolution = Convolution(torch.ones(2, 1, 2).double(), (2, 30), (stride,), (0,), (1,), 2)
        torus = circulant._Torus(convolution, (30,))
        for _ in range(100):
            part, error = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            monkeypatch.setattr(
                circulant, "largest_norm", lambda *_, part=part: torch.tensor(part, dtype=torch.float64)
            )
            vars(torus)["missed"] = torch.tensor([0.5, 1.0], dtype=torch.float64).reshape(2, 1, 1) * error * 1e-3
            truth = (ball(part) + ball(error * 1e-3) * ball(2 * stride).sqrt()) * ball(torus.scale)
            found = float(torus.norm(math.inf))
            assert at_least(found, truth / ball(stride).sqrt())
            assert found <= float(truth / ball(stride).sqrt()) * (1 + 1e-14)


def test_a_norm_below_the_ceiling_is_found_and_one_above_is_not() -> None:
    for stride, size in ((1, 1.0), (3, 1.0), (3, 100.0)):
        convolution = Convolution(size * normal(2, 3, 2), (3, 12), (stride,), (0,), (1,))
        torus = circulant._Torus(convolution, (12,))
        found = float(torus.norm(math.inf))
        assert float(torus.norm(found * (1 + 1e-9))) == found
        assert float(torus.norm(found * (1 - 1e-9))) == math.inf


def test_work_is_limited_to_what_is_allowed() -> None:
    convolution = Convolution(normal(3, 3, 3, 3), (3, 8, 8), (1, 1), (1, 1), (1, 1))
    least = circulant._Torus(convolution, circulant.circle_lengths(convolution, 0)).family.work
    assert float(circulant_norm(convolution, most_work=least - 1)) == math.inf
    assert float(circulant_norm(convolution, most_work=least)) < math.inf


@pytest.mark.parametrize("stride", [1, 2])
def test_every_group_has_its_own_blocks(stride: int) -> None:
    kernel = normal(4, 3, 2) * torch.tensor([1.0, 1.0, 5.0, 5.0]).double()[:, None, None]
    both = circulant._Torus(Convolution(kernel, (6, 6), (stride,), (0,), (1,), 2), (6,))
    each = [
        float(circulant._Torus(Convolution(part, (3, 6), (stride,), (0,), (1,)), (6,)).norm(math.inf))
        for part in kernel.chunk(2)
    ]
    assert each[1] > each[0]
    assert float(both.norm(math.inf)) == pytest.approx(each[1], rel=1e-12)
    turned = circulant._Torus(Convolution(kernel.flip(0), (6, 6), (stride,), (0,), (1,), 2), (6,))
    assert float(turned.norm(math.inf)) == pytest.approx(each[1], rel=1e-12)
