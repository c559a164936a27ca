"""What sums and products of operators say about their own size, doubt and rounding, against exact numbers."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import (
    DTYPE_NAMES,
    DTYPES,
    at_least,
    bounds_spectral_norm,
    outside,
    random_floats,
    rational,
    rational_matrix,
    rationals,
)
from jacobound import ShapeError
from jacobound.arithmetic.rounding import gamma, unrounded
from jacobound.operators import linear_maps
from jacobound.operators.kinds import Dense, Identity, Scale
from jacobound.operators.linear_maps import LinearMap, column_norm, doubt_norm, gram_norm, largest_sums, mixed_norm
from operator_cases import uncertain
from small_cases import normal

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def column(x: Tensor) -> fmpq_mat:
    return fmpq_mat(x.numel(), 1, rationals(x))


def image(chains: list[list[fmpq_mat]], x: fmpq_mat) -> fmpq_mat:
    total = fmpq_mat(5, 1, [fmpq(0)] * 5)
    for chain in chains:
        part = x
        for matrix in chain:
            part = matrix * part
        total = total + part
    return total


@both_dtypes
@pytest.mark.parametrize("radius", [-4, -30])
def test_sizes_and_doubts_hold_at_the_far_end_of_the_radii(dtype: torch.dtype, radius: int, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    for _ in range(10):
        linear, far = uncertain(dtype, generator, radius)
        x = random_floats((4,), dtype, generator, (-3, 3)).abs()
        stored = [[rational_matrix(operator.materialise()) for operator in chain] for chain in linear.chains]
        largest, plain = image(far, column(x)), image(stored, column(x))
        sizes, doubt = linear.sizes(x), linear.doubt(x)
        assert outside(torch.zeros_like(sizes), largest.entries(), sizes) == []
        assert outside(torch.zeros_like(doubt), (largest - plain).entries(), doubt) == []
        exact = torch.tensor([float(v.p) / float(v.q) for v in (largest - plain).entries()], dtype=torch.float64)
        assert torch.all(doubt.double() <= exact * (4 if radius == -4 else 1.001) + 1e-30)
        assert not linear.is_exact


@both_dtypes
@pytest.mark.parametrize("kind", ["sums", "products"])
def test_roundings_count_every_operator_and_every_sum(dtype: torch.dtype, kind: str) -> None:
    generator = Generator().manual_seed(4)
    if kind == "sums":  # nothing rounds but the sum of seven times x
        like = torch.zeros((), dtype=dtype)
        linear = LinearMap(tuple((Identity((200,), (200,), like),) for _ in range(7)))
        factor = [fmpq(7)] * 200
    else:
        factors = random_floats((6, 200), dtype, generator, (-2, 2)).abs()
        linear = LinearMap((tuple(Scale(one) for one in factors),))
        factor = [fmpq(1)] * 200
        for one in factors:
            factor = [a * b for a, b in zip(factor, rationals(one), strict=True)]
    x = random_floats((200,), dtype, generator, (-3, 3)).abs()
    missed = [abs(a - f * b) for a, f, b in zip(rationals(linear.apply(x)), factor, rationals(x), strict=True)]
    assert max(missed) > 0
    allowed = [rational(gamma(linear.roundings, x)) * size for size in rationals(linear.sizes(x))]
    assert all(m <= a for m, a in zip(missed, allowed, strict=True))
    assert linear.roundings <= 14


def test_products_that_vanish_on_the_way_are_in_the_floor() -> None:
    linear = LinearMap(
        (tuple(Scale(torch.tensor([value] * 2, dtype=torch.float64)) for value in (1e-300, 1e-300, 1e300)),)
    )
    assert not linear.apply(torch.ones(2).double()).any()
    assert 1e-300 <= linear.floor(0.0) <= 1e-5
    assert linear.floor(1e-200) >= 1e-200 * 1e-300


# --- counts by hand ---------------------------------------------------------------------------------------------------


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_work_and_roundings_are_counted() -> None:
    like, square = number(0.0), Dense(normal(5, 5))
    wide, tall = LinearMap(((Dense(normal(4, 6)),),)), LinearMap(((Dense(normal(6, 4)),),))
    both = LinearMap(((Identity((5,), (5,), like),), (square,)))
    chain = LinearMap(((Dense(normal(3, 5)), Dense(normal(4, 3))),))
    assert [linear.work for linear in (wide, tall, both, chain)] == [4 * 7, 6 * 5, 5 + 5 * 6, 3 * 6 + 4 * 4]
    assert wide.gram_work == tall.gram_work == 4 * (4 * 7) + 4**3 // 3
    assert both.gram_work == 5 * (35 + 35) + 5**3 // 3
    assert chain.gram_work == 4 * (3 * 5 + 5 * 4 + 34) + 4**3 // 3  # its adjoint goes forth
    assert [linear.roundings for linear in (wide, both, chain)] == [7 + 1, 6 + 2, 6 + 4 + 1]


def test_chains_must_fit() -> None:
    one, two = Dense(normal(3, 4)), Dense(normal(4, 3))
    with pytest.raises(ShapeError, match="can not be followed"):
        LinearMap(((one, one),))
    for other in (two, Dense(normal(3, 5)), Dense(normal(5, 4))):
        with pytest.raises(ShapeError, match="can not be added"):
            LinearMap(((one,), (other,)))
    linear = LinearMap(((one, two), (two.transpose(), one.transpose())))
    assert (linear.in_shape, linear.out_shape, linear.in_size, linear.out_size) == ((4,), (4,), 4, 4)
    assert linear.transposed.transposed is linear
    x = normal(2, 4)
    expected = x @ (two.weight @ one.weight + one.weight.T @ two.weight.T).T
    assert torch.allclose(linear.apply(x), expected, rtol=1e-14)


def test_columns_come_in_any_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Dense(normal(3, 7)), Dense(normal(2, 3))
    linear = LinearMap(((one, two), (Dense(normal(2, 7, seed=1)),)))
    matrix = two.weight @ one.weight + normal(2, 7, seed=1)
    for entries, sizes in ((1, [1] * 7), (10 * 3, [3, 3, 1]), (10**6, [7])):
        monkeypatch.setattr(linear_maps, "CHUNK_ENTRIES", entries)
        found = list(linear.unit_images())
        assert [len(image) for _, image in found] == sizes
        for part, image in found:
            assert torch.allclose(image, matrix.T[part], rtol=1e-14)


def test_powers_of_two_lie_above() -> None:
    for size, power in ((1.0, 2.0), (0.75, 1.0), (0.5, 1.0), (3.0, 4.0), (1e308, 2.0**1020), (5e-324, 2.0**-1073)):
        assert linear_maps.power_of_two_above(size) == power


# --- norms from both sides --------------------------------------------------------------------------------------------


def test_mixed_norms_are_rounded_up() -> None:
    for k in range(100):
        rows, columns = normal(2, seed=k).abs().mul(10.0 ** (k % 7)).unbind()
        found, truth = rational(float(mixed_norm(rows, columns))), rational(float(rows)) * rational(float(columns))
        assert truth <= found**2 <= truth * (1 + fmpq(1, 10**14))


def test_largest_sums_are_rounded_up(seed: int) -> None:
    for k in range(20):
        one, two = Dense(normal(3, 4, seed=20 * seed + k)), Dense(normal(2, 3, seed=k + 70))
        for linear, matrix in (
            (LinearMap(((one,),)), rational_matrix(one.weight.abs())),
            (LinearMap(((one, two),)), rational_matrix(two.weight.abs()) * rational_matrix(one.weight.abs())),
        ):
            rows = max(sum(row, fmpq(0)) for row in matrix.table())
            columns = max(sum(row, fmpq(0)) for row in matrix.transpose().table())
            for found, truth in zip(largest_sums(linear), (rows, columns), strict=True):
                assert truth <= rational(float(found)) <= truth * (1 + fmpq(1, 10**13))
    empty = LinearMap(((Identity((0,), (0,), number(0.0)),),))
    assert [float(x) for x in largest_sums(empty)] == [0, 0]


def test_column_norms_of_sums_that_cancel_hold_and_are_tight(seed: int) -> None:
    """What remains of large numbers is bounded up to the rounding of those."""
    for size in (1.0, 1e6):
        for k in range(5):
            inner = size * torch.ones(4, 4, dtype=torch.float64) + normal(4, 4, seed=k)
            first = normal(4, 4, seed=50 * seed + k + 1)
            chains = ((Dense(first), Dense(inner)), (Dense(-(inner @ first)),))
            exact = rational_matrix(inner) * rational_matrix(first) - rational_matrix(inner @ first)
            truth = max(sum(map(abs, row), fmpq(0)) for row in exact.transpose().table())
            found = float(column_norm(LinearMap(chains)))
            assert at_least(found, truth)
            assert found <= 1e-12 * size
            halved = LinearMap((chains[0], (Dense(-0.5 * (inner @ first)),)))
            exact = rational_matrix(inner) * rational_matrix(first) - rational_matrix(0.5 * (inner @ first))
            truth = max(sum(map(abs, row), fmpq(0)) for row in exact.transpose().table())
            found = rational(float(column_norm(halved)))
            assert truth <= found <= truth * (1 + fmpq(1, 10**9))


def test_long_products_of_columns_are_paid_for() -> None:
    """Small numbers that are lost beside a large one, which then cancels."""
    row = torch.full((1, 4001), 2.0**-54, dtype=torch.float64)
    row[0, 0] = 1.0
    ones = torch.ones(4001, 1, dtype=torch.float64)
    linear = LinearMap(((Dense(ones), Dense(row)), (Dense(-torch.ones(1, 1, dtype=torch.float64)),)))
    assert at_least(float(column_norm(linear)), 4000 * rational(2.0**-54))
    assert float(column_norm(linear)) <= 1e-11
    assert at_least(float(gram_norm(linear, number(2.0))), 4000 * rational(2.0**-54))


def test_uncertain_weights_are_added_to_what_remains() -> None:
    radius = torch.tensor([0.25, 0.5, 0.125], dtype=torch.float64)
    exact, doubtful = Scale(torch.ones(3).double()), Scale(-torch.ones(3).double(), radius)
    linear = LinearMap(((exact,), (doubtful,)))
    assert not linear.is_exact
    assert LinearMap(((exact,),)).is_exact
    for found in (column_norm(linear), doubt_norm(linear), gram_norm(linear, number(2.0))):
        assert 0.5 <= float(found) <= 0.5 + 1e-5
    rotated = LinearMap(((doubtful, Dense(torch.tensor([[3.0, 4.0, 0.0]]).double())),))  # rows and columns differ
    assert 2.75 <= float(largest_sums(rotated)[0] - 7) <= 2.75 + 1e-12
    truth = math.sqrt(2.75 * 2.0)
    assert truth <= float(doubt_norm(rotated)) <= truth * (1 + 1e-13)


def test_spectral_norms_hold_over_the_rationals_and_are_tight(seed: int) -> None:
    """Of either shape, of products, and of sizes far from one."""
    for k, (rows, columns) in enumerate(((3, 5), (5, 3), (4, 4))):
        one, two = normal(rows, columns, seed=seed + k), normal(columns, rows, seed=seed + k + 9)
        for size in (1.0, 1e-100, 1e100):
            first = Dense(size * one)
            for chains, exact, plain in (
                (((first,),), rational_matrix(size * one), one),
                (((first, Dense(two)),), rational_matrix(two) * rational_matrix(size * one), two @ one),
            ):
                linear = LinearMap(chains)
                truth = float(torch.linalg.matrix_norm(plain, 2)) * size
                for looser in (1.0, 7.0):
                    found = float(gram_norm(linear, mixed_norm(*largest_sums(linear)) * looser))
                    assert bounds_spectral_norm(exact, found)
                    assert found <= truth * (1 + 1e-9)
                with unrounded():
                    assert float(gram_norm(linear, number(truth))) == pytest.approx(truth, rel=1e-12)


def test_numbers_that_overflow_prove_nothing() -> None:
    for value in (math.inf, math.nan):
        weight = normal(3, 3)
        weight[1, 2] = value
        assert float(gram_norm(LinearMap(((Dense(weight),),)), number(1.0))) == math.inf
    huge = Dense(1e200 * normal(3, 3))
    assert float(gram_norm(LinearMap(((huge, huge),)), number(1.0))) == math.inf


@pytest.mark.parametrize("order", [3, 193, 300])
def test_estimates_start_the_proof_near_the_norm(order: int) -> None:
    """By all eigenvalues, by a Lanczos iteration with the Gram matrix, and with the map."""
    spectrum = torch.linspace(0.1, 1.0, order, dtype=torch.float64)
    scale = LinearMap(((Scale(3 * spectrum),),))
    dense = LinearMap(((Dense(torch.diag(3 * spectrum)),),))
    for linear in (scale, dense):
        found = linear_maps.gram_estimate(linear, torch.diag((3 / 4 * spectrum).square()), 4.0)
        assert found == pytest.approx(0.75, rel=1e-6)
        assert 3 <= float(gram_norm(linear, number(3.5))) <= 3 * (1 + 1e-5)


def test_floors_grow_with_what_stands_behind() -> None:
    tiny = torch.finfo(torch.float64).tiny
    ones = torch.ones(2, dtype=torch.float64)
    for factor in (1e300, -1e300):
        steep = Scale(torch.tensor([1.0, factor], dtype=torch.float64))
        assert 6e300 * tiny <= LinearMap(((Scale(ones), steep),)).floor(0.0) <= 60e300 * tiny
        assert 12e300 * tiny <= LinearMap(((Scale(ones), steep), (Scale(ones), steep))).floor(0.0) <= 120e300 * tiny
    like = number(0.0)
    assert LinearMap(((Identity((2,), (2,), like),),)).floor(1e-3) == pytest.approx(2e-3)
    assert LinearMap(((Identity((0,), (0,), like),),)).floor(1e-3) == 0


def test_doubts_of_one_operator_are_rounded_up(seed: int) -> None:
    for k in range(20):
        x, factor, radius = normal(3, 6, seed=40 * seed + k).abs()
        linear = LinearMap(((Scale(factor, radius),),))
        least = [a * b for a, b in zip(rationals(x), rationals(radius), strict=True)]
        found = rationals(linear.doubt(x))
        assert all(a <= b <= a * (1 + fmpq(1, 10**14)) for a, b in zip(least, found, strict=True))


def test_long_sums_in_front_of_an_uncertain_weight_are_paid_for() -> None:
    row = torch.full((4001,), 2.0**-53, dtype=torch.float64)
    row[0] = 1.0
    one = torch.ones(1, dtype=torch.float64)
    linear = LinearMap(((Dense(row[None]), Scale(one, one)),))
    assert at_least(float(linear.doubt(torch.ones(4001).double())), sum(rationals(row), fmpq(0)))
    twice = LinearMap(((Dense(row[:, None] / 2),), (Dense(row[:, None] / 2),)))
    assert at_least(float(column_norm(twice)), sum(rationals(row), fmpq(0)))


def test_column_norms_are_rounded_up() -> None:
    like = number(0.0)
    for k in range(60):
        weight = normal(1, seed=k).abs()
        truth = 1 + rational(float(weight))
        for radius in (None, torch.full((1,), 2.0**-90, dtype=torch.float64)):
            linear = LinearMap(((Identity((1,), (1,), like),), (Scale(weight, radius),)))
            found = rational(float(column_norm(linear)))
            assert truth <= found <= truth * (1 + fmpq(1, 10**14))
    nothing = LinearMap(((Identity((1,), (1,), like),), (Scale(-torch.ones(1).double()),)))
    least = rational(gamma(nothing.roundings, like)) * 2  # what the sum may have lost
    assert least <= rational(float(column_norm(nothing))) <= least * 2
