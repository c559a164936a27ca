"""The parts that norms of operators are put together from: exact cases, choices of work, rounding from both sides."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq
from torch import Tensor

from exact import at_least, bounds_spectral_norm, rational, rational_matrix, rationals
from jacobound import ShapeError
from jacobound.arithmetic.rounding import unrounded
from jacobound.operators import norms
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Blocks, Convolution, Dense, Identity, Scale, Scatter, Select, Sparse
from jacobound.operators.linear_maps import LinearMap
from jacobound.operators.norms import linear_norm, norms_of_rows, operator_norm
from small_cases import normal

EXPONENTS = (1.0, 2.0, math.inf)
LIKE = torch.zeros((), dtype=torch.float64)


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def refuse(*_: object) -> None:
    pytest.fail("asked for more than is needed")


def lossy(count: int) -> Tensor:
    """One large number and so many small ones, each of which alone is lost beside it."""
    found = torch.full((count,), 2.0**-53, dtype=torch.float64)
    found[0] = 1.0
    return found


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [3, 0.5, math.nan])
def test_other_exponents_are_refused(p: float) -> None:
    operator = Dense(normal(2, 2))
    with pytest.raises(ShapeError, match="p = 1, 2 and inf"):
        operator_norm(operator, p)
    with pytest.raises(ShapeError, match="p = 1, 2 and inf"):
        norms_of_rows(operator, p, torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="p = 1, 2 and inf"):
        linear_norm([(operator,)], p)
    with pytest.raises(ShapeError, match="p = 1, 2 and inf"):
        linear_norm([], p)


def test_norms_without_rounding_are_not_remembered_as_certified() -> None:
    for seed in range(10):
        operator, other = (Dense(normal(4, 3, seed=seed)) for _ in range(2))
        with unrounded():
            plain = float(operator_norm(operator, 2)), float(linear_norm([(operator, Dense(torch.eye(4).double()))], 2))
        assert float(operator_norm(operator, 2)) == float(operator_norm(other, 2)) > plain[0]
        assert bounds_spectral_norm(rational_matrix(operator.weight), float(operator_norm(operator, 2)))
        with unrounded():
            assert float(operator_norm(operator, 2)) == plain[0]


def test_more_work_is_done_when_it_is_allowed() -> None:
    hadamard = Dense(torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double())
    assert float(operator_norm(hadamard, 2, None, 10)) == pytest.approx(4, rel=1e-14)
    assert float(operator_norm(hadamard, 2, None, 1000)) == pytest.approx(2, rel=1e-9)
    assert float(operator_norm(hadamard, 2, None, 10)) == pytest.approx(2, rel=1e-9)  # the better one is kept
    some = torch.tensor([True, False, True, False])
    assert float(operator_norm(hadamard, 2, some, 10)) == pytest.approx(2, rel=1e-9)  # that of all rows
    first = Dense(torch.tensor([[1.0, 1.0], [30.0, 40.0]]).double())
    assert float(operator_norm(first, 2, torch.tensor([True, False]), 0)) == pytest.approx(math.sqrt(2), rel=1e-12)


def test_a_chain_of_one_operator_is_that_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Dense(normal(3, 4))
    found = [operator_norm(operator, p) for p in EXPONENTS]
    monkeypatch.setattr(norms, "LinearMap", refuse)
    for p, norm in zip(EXPONENTS, found, strict=True):
        assert norm <= float(linear_norm([(operator,)], p)) <= norm * (1 + 1e-15)


# --- norms of rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", EXPONENTS)
def test_different_selections_of_rows_have_their_own_norms(p: float) -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, -5.0], [0.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    masks = [[1, 0, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]
    found = norms_of_rows(Dense(weight), p, torch.tensor(masks, dtype=torch.bool))
    assert found.tolist() == pytest.approx([3, 2, 3, 0, 5], rel=1e-9, abs=1e-300)
    blocks = Blocks(weight.reshape(2, 2, 2))
    found = norms_of_rows(blocks, p, torch.tensor(masks, dtype=torch.bool).reshape(5, 2, 2))
    assert found.tolist() == pytest.approx([3, 2, 3, 0, 5], rel=1e-9, abs=1e-300)


def test_sums_of_rows_and_columns_are_rounded_up(seed: int) -> None:
    for k in range(10):
        weight = normal(5, 7, seed=10 * seed + k)
        exact = rationals(weight.abs())
        every = torch.ones(1, 5, dtype=torch.bool)
        row = max((sum(exact[7 * i : 7 * i + 7], fmpq(0)) for i in range(5)), key=lambda x: x)
        column = max((sum(exact[i::7], fmpq(0)) for i in range(7)), key=lambda x: x)
        for p, truth in ((math.inf, row), (1.0, column)):
            for found in (norms_of_rows(Dense(weight), p, every)[0], operator_norm(Dense(weight), p)):
                assert at_least(float(found), truth)
                assert at_least(float(truth.p) / float(truth.q), rational(float(found)) * (1 - fmpq(1, 10**14)))


def test_long_sums_of_rows_and_columns_are_paid_for() -> None:
    """However short the sums of the other direction are."""
    row = lossy(4001)
    truth = sum(rationals(row), fmpq(0))
    every = torch.ones(1, 1, dtype=torch.bool)
    assert at_least(float(norms_of_rows(Dense(row[None]), math.inf, every)), truth)
    assert at_least(float(operator_norm(Dense(row[None]), math.inf)), truth)
    assert at_least(float(norms_of_rows(Dense(row[:, None]), 1, every.expand(1, 4001))), truth)
    assert at_least(float(operator_norm(Dense(row[:, None]), 1)), truth)


# --- sums and products ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", EXPONENTS)
def test_sums_and_products_of_norms_are_rounded_up(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against rationals, where the norm of each factor is exact and nothing better is known."""
    for name, found in (("largest_sums", (None, number(math.inf))), ("_of_map", number(math.inf))):
        monkeypatch.setattr(norms, name, lambda *_, found=found: found)
    for k in range(30):
        one, two = normal(2, seed=k).abs().tolist()
        first, second, third = (Scale(number(x).expand(3)) for x in (one, two, 1.0))
        for chains, truth in (
            ([(first, second, first)], rational(one) ** 2 * rational(two)),
            ([(first,), (second,), (third,)], rational(one) + rational(two) + 1),
        ):
            found = rational(float(linear_norm(chains, p, 0)))
            assert truth <= found <= truth * (1 + fmpq(3, 10**15))


@pytest.mark.parametrize("p", [1.0, math.inf])
def test_sums_are_taken_by_columns_when_that_is_affordable(p: float) -> None:
    """The identity less itself: nothing remains where columns are asked, which takes 4 x 2 x (4 x 2) products."""
    chains = [(Scale(torch.ones(4).double()),), (Scale(-torch.ones(4).double()),)]
    assert LinearMap(tuple(chains)).work == 16
    assert float(linear_norm(chains, p, 63)) == pytest.approx(2, rel=1e-14)
    assert float(linear_norm(chains, p, 64)) <= 1e-14
    half = [(Identity((4,), (4,), LIKE),), (Dense(-torch.eye(4).double()),)]  # 4 x (4 + 4 x 5)
    assert float(linear_norm(half, p, 95)) == pytest.approx(2, rel=1e-14)
    assert float(linear_norm(half, p, 96)) <= 1e-14


def test_columns_are_asked_for_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "MOST_WORK_FOR_SUMS", 63)
    chains = [(Scale(torch.ones(4).double()),), (Scale(-torch.ones(4).double()),)]
    assert float(linear_norm(chains, 1)) == pytest.approx(2, rel=1e-14)


def test_nothing_is_asked_where_nothing_can_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    one, scale = Dense(normal(3, 4)), Scale(normal(3))
    move = Select(torch.tensor([2, 0, 1]), (3,), LIKE)
    for name in ("column_norm", "gram_norm"):
        monkeypatch.setattr(norms, name, refuse)
    for p in (1.0, math.inf):
        truth = float(torch.linalg.matrix_norm(scale.factor[:, None] * one.weight, p))
        assert float(linear_norm([(one, move.transpose(), move, scale)], p)) == pytest.approx(truth, rel=1e-13)
    assert float(linear_norm([(scale, move, scale)], 2)) == pytest.approx(
        float((scale.factor * scale.factor[[1, 2, 0]]).abs().max()), rel=0.5
    )
    for thin in (Dense(number(-3.0).reshape(1, 1)), Sparse(number(-3.0).expand(1, 4), torch.arange(4)[None], (4,))):
        assert float(operator_norm(thin, 2)) == pytest.approx(3, rel=1e-14)
    with pytest.raises(pytest.fail.Exception):
        linear_norm([(scale,), (move,)], 1)
    with pytest.raises(pytest.fail.Exception):
        linear_norm([(one, Dense(normal(2, 3)))], 1)


def test_unbounded_operators_have_unbounded_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("column_norm", "gram_norm"):
        monkeypatch.setattr(norms, name, refuse)
    wide = Dense(torch.full((2, 2), 1e308, dtype=torch.float64))
    for p in EXPONENTS:
        assert float(operator_norm(wide, p)) == math.inf
        assert float(linear_norm([(wide, wide)], p)) == math.inf
        assert float(linear_norm([(wide,), (wide,)], p)) == math.inf


def test_whether_a_map_mixes_entries() -> None:
    def thin(operator: LinearOperator) -> bool:
        assert norms._is_thin(operator) == norms._is_thin(operator.transpose())
        return norms._is_thin(operator)

    assert thin(Scale(normal(3)))
    assert thin(Dense(normal(1, 1)))
    assert thin(Select(torch.tensor([2, -1, 0]), (3,), LIKE))
    assert not thin(Dense(normal(1, 2)))
    assert not thin(Dense(normal(2, 1)))
    assert not thin(Select(torch.tensor([2, 0, 0]), (3,), LIKE))


def test_what_changes_no_norm_at_the_ends_of_a_chain() -> None:
    one, two = Dense(normal(3, 3, seed=1)), Dense(normal(3, 3, seed=2))
    permuted = Select(torch.tensor([2, 0, 1]), (3,), LIKE)
    padded = Select(torch.tensor([2, -1, 0, 1, -1]), (3,), LIKE)
    some, twice = Select(torch.tensor([2, 0]), (3,), LIKE), Select(torch.tensor([0, 2, 2]), (3,), LIKE)
    flat = Identity((3,), (3, 1), LIKE)
    assert [norms._keeps_lengths(x) for x in (permuted, padded, flat)] == [True] * 3
    assert [norms._keeps_lengths(x) for x in (some, twice, one, Scale(normal(3)), permuted.transpose())] == [False] * 5
    every = torch.tensor([0, 0, 1, 1])
    assert not norms._keeps_lengths(Select(every, (4,), LIKE))
    cut = norms._without_ends
    assert cut((one, permuted)) == cut((one, permuted, padded)) == cut((one, flat)) == (one,)
    assert cut((permuted.transpose(), one)) == cut((flat.transpose(), one)) == (one,)
    assert cut((padded.transpose(), one, permuted, two, padded)) == (one, permuted, two)
    for chain in ((one, some), (one, twice), (padded, padded.transpose(), one), (one, padded.transpose())):
        assert cut(chain) == chain
    assert cut((permuted,)) == (permuted,)
    assert cut((permuted, permuted)) == (permuted,)
    back = permuted.transpose()
    assert cut((back,)) == (back,)
    assert cut((back, back)) == (back,)
    empty = Identity((0,), (0,), LIKE)
    assert [float(linear_norm([(empty, empty)], p)) for p in EXPONENTS] == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("p", EXPONENTS)
def test_entries_that_are_left_out_or_used_twice_count(p: float) -> None:
    weight = torch.tensor([[100.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    for index, chosen in (([1], [1]), ([1, 1], [1, 1]), ([1, -1, 1, 1], [1, 1, 1])):
        select = Select(torch.tensor(index), (2,), LIKE)
        truth = float(torch.linalg.matrix_norm(weight[chosen], p))
        for chain in ((Dense(weight), select), (select.transpose(), Dense(weight.T))):
            dual = {1.0: math.inf, math.inf: 1.0}.get(p, p) if chain[0] is not select and chain[1] is not select else p
            truth = float(torch.linalg.matrix_norm(weight[chosen], dual))
            assert float(linear_norm([chain], p)) == pytest.approx(truth, rel=1e-9)


# --- spectral norms ---------------------------------------------------------------------------------------------------


def test_roots_of_numbers_of_uses() -> None:
    below = 0
    for k in range(1, 300):
        root = norms._root(number(float(k)))
        whole = math.isqrt(k) ** 2 == k
        assert float(root) == math.isqrt(k) if whole else rational(float(root)) ** 2 > k
        assert rational(float(root)) ** 2 <= k * (1 + fmpq(1, 10**14))
        plain = number(float(k)).sqrt()
        below += float(plain * plain) == k and rational(float(plain)) ** 2 < k
    assert below > 0, "no plain root looks exact and is too small: the test shows nothing"
    large = (2.0**26 + 1) ** 2 + 2  # its root is a whole number only after rounding
    assert rational(float(norms._root(number(large)))) ** 2 >= rational(large)


def test_the_work_of_a_certificate_decides_whether_it_is_made() -> None:
    linear = LinearMap(((Dense(normal(4, 6)),),))
    assert norms._affordable(linear, linear.gram_work)
    assert not norms._affordable(linear, linear.gram_work - 1)


def test_the_order_of_a_certificate_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = LinearMap(((Dense(normal(4, 6)),),))
    monkeypatch.setattr(norms, "LARGEST_ORDER", 4)
    assert norms._affordable(linear, 10**9)
    monkeypatch.setattr(norms, "LARGEST_ORDER", 3)
    assert not norms._affordable(linear, 10**9)


def test_axes_that_an_operator_leaves_alone_are_left_out() -> None:
    plain, wide = Dense(normal(2, 3)), Dense(normal(2, 3), (4, 5))
    assert norms._core(plain) is plain
    assert (norms._core(wide).in_shape, norms._core(wide).out_shape) == ((3,), (2,))
    assert norms._core(Blocks(normal(2, 2, 3), (4,))).in_shape == (2, 3)
    assert norms._core(Sparse(normal(1, 2), torch.tensor([[1, 0]]), (2,), None, (3,), (4,))).in_shape == (2,)


def test_blocks_of_one_column_have_the_norm_of_a_vector() -> None:
    """From both sides, however they lie; and the power of two is given back where it rounds."""
    for k in range(30):
        pair = normal(1, 1, 2, seed=k)
        truth = sum((x**2 for x in rationals(pair)), fmpq(0))
        for weight in (pair, pair.mT):
            found = rational(float(norms._of_blocks(weight, 4.0)))
            assert truth <= found**2 <= truth * (1 + fmpq(2, 10**15) * 4)
    tiny = torch.tensor([[[3.0, 5.0]]], dtype=torch.float64) * 5e-324 * 3
    found = float(operator_norm(Blocks(tiny), 2))
    assert rational(found) ** 2 >= sum((x**2 for x in rationals(tiny)), fmpq(0))


def test_the_size_of_blocks_is_given_back_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "largest_norm", lambda _family: number(0.7))
    assert rational(float(norms._of_blocks(normal(2, 2, 2), 5.0))) >= rational(0.7) * 8
    assert float(norms._of_blocks(normal(2, 2, 2), 5.0)) <= 5.6 * (1 + 1e-15)


def along(weight: Tensor, size: int, stride: int = 1, padding: int = 0, groups: int = 1) -> Convolution:
    """A convolution over one axis."""
    return Convolution(weight, (weight.shape[1] * groups, size), (stride,), (padding,), (1,), groups)


def test_groups_are_taken_one_by_one_when_all_of_them_are_affordable() -> None:
    convolution = along(normal(6, 2, 3), 6, padding=1, groups=3)
    truth = float(torch.linalg.matrix_norm(convolution.materialise(), 2))
    work = LinearMap(((norms._groups(convolution)[0],),)).gram_work
    assert float(operator_norm(convolution, 2, None, 3 * work - 1)) > truth * (1 + 1e-3)
    for operator in (convolution, convolution.transpose()):
        found = float(operator_norm(operator, 2, None, 3 * work))
        assert truth * (1 - 1e-13) <= found <= truth * (1 + 1e-9)


def test_the_cheaper_of_two_bounds_of_a_large_convolution_is_taken() -> None:
    """By hand, for kernels of which one or the other is exact."""
    shifted = along(torch.tensor([[[1.0, 0.0, 0.0]]]).double(), 200)
    assert float(operator_norm(shifted, 2, None, 3)) == pytest.approx(1, rel=1e-12)
    rotated = along(torch.tensor([[[1.0], [1.0]], [[1.0], [-1.0]]]).double(), 200)
    assert float(operator_norm(rotated, 2, None, 14)) == pytest.approx(math.sqrt(2), rel=1e-10)
    # Twelve products for the circle of ten, of which six frequencies count: twice the limit.
    signed = along(torch.tensor([[[1.0, 1.0, -1.0]]]).double(), 9, padding=1)
    assert float(operator_norm(signed, 2, None, 5)) == pytest.approx(3, rel=1e-12)
    assert float(operator_norm(signed, 2, None, 6)) <= math.sqrt(5) * (1 + 1e-12)


def test_norms_of_reshaped_kernels_count_the_windows_over_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    for taps, stride, dilation, overlap in ((3, 1, 1, 3), (3, 2, 1, 2), (4, 2, 2, 4), (3, 3, 1, 1), (5, 3, 2, 2)):
        kernel = Convolution(torch.ones(1, 1, taps).double(), (1, 40), (stride,), (0,), (dilation,))
        found = float(norms._of_reshaped(kernel, norms.MOST_WORK))
        assert found == pytest.approx(math.sqrt(taps * overlap), rel=1e-10)
    weight = torch.tensor([1.0, 2.0, 5.0]).double().reshape(3, 1, 1)
    assert float(norms._of_reshaped(along(weight, 4, groups=3), norms.MOST_WORK)) == pytest.approx(5, rel=1e-12)
    monkeypatch.setattr(norms, "_spectral", lambda *_: number(3.0))
    for taps in (2, 3, 5, 6, 7):
        found = float(norms._of_reshaped(along(torch.ones(1, 1, taps).double(), 40), 0))
        assert rational(found) ** 2 >= 9 * taps
        assert found <= 3 * math.sqrt(taps) * (1 + 1e-14)


# --- scales around a convolution --------------------------------------------------------------------------------------


def test_only_scales_of_channels_are_merged() -> None:
    kernel = along(normal(2, 2, 3), 5, padding=1)
    scale = Scale(normal(2)[:, None].expand(2, 5))
    merged = norms._merged_convolution((scale, kernel, scale))
    assert merged is not None
    expected = scale.factor[:, :1, None] * kernel.weight * scale.factor[:, 0][None, :, None]
    assert torch.allclose(merged[0].weight, expected, rtol=1e-15)
    wide = torch.tensor([1.0, 1e300], dtype=torch.float64).expand(2, 2)[..., None]
    for chain in (
        (scale, scale),
        (kernel, kernel),
        (kernel, scale, kernel),
        (Identity((2, 5), (2, 5), LIKE), kernel),
        (kernel, Scatter(Select(torch.arange(10).reshape(2, 5), (2, 5), LIKE))),
        (kernel, Scale(normal(2, 5))),
        (Scale(torch.full((2, 5), 1e308, dtype=torch.float64)), along(wide, 5)),
    ):
        assert norms._merged_convolution(chain) is None


def test_what_merging_loses_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, scale = along(normal(2, 2, 3), 5, padding=1), Scale(normal(2)[:, None].expand(2, 5))
    linear = LinearMap(((kernel, scale),))
    monkeypatch.setattr(norms, "LARGEST_ORDER", 1)
    for k in range(20):
        one, two = normal(2, seed=k).abs().tolist()
        monkeypatch.setattr(norms, "_merged_convolution", lambda _chain, two=two: (kernel, number(two * 1e-3)))
        monkeypatch.setattr(norms, "_spectral", lambda *_, one=one: number(one * 1e-3))
        found = rational(float(norms._of_map(linear, linear.chains, 0)))
        truth = rational(one * 1e-3) + rational(two * 1e-3)
        assert truth <= found <= truth * (1 + fmpq(1, 10**15))


def test_factors_of_channels_cover_every_entry_of_them() -> None:
    factor = torch.tensor([[1.0, 1.0], [0.7, 0.7], [3.0, 3.0]], dtype=torch.float64)
    for radius in ([[0.0, 2.0**-60], [0.5, 0.25], [0.0, 0.0]], [[2.0**-80, 0.0], [0.0, 2.0**-70], [1.0, 1.0]]):
        widths = torch.tensor(radius, dtype=torch.float64)
        found = norms._channel_factors(Scale(factor, widths))
        assert found is not None
        for k, width in enumerate(widths.amax(1).tolist()):
            exact = rational(float(factor[k, 0]))
            assert rational(float(found.lower[k])) <= exact - rational(width)
            assert rational(float(found.upper[k])) >= exact + rational(width)
            assert float(found.upper[k] - found.lower[k]) <= 2 * width + 1e-14
    exact = norms._channel_factors(Scale(factor, torch.zeros_like(factor)))
    assert exact is not None
    assert torch.equal(exact.lower, factor[:, 0])
    assert torch.equal(exact.upper, factor[:, 0])
    assert norms._channel_factors(Scale(torch.zeros(2, 0).double())) is None
