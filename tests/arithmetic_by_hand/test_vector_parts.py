"""Functions of rows, part by part: exact values of balls and rationals, tight from both sides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from flint import arb, fmpq
from torch import Generator, Tensor

from exact import ball, outside, rational, rational_matrix, rationals
from jacobound import Graph, InvalidOptionError, InvalidRegionError, ShapeError
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Input, Part
from jacobound.graph.vector import normalising as vector_normalising
from jacobound.graph.vector import smooth as vector_smooth
from jacobound.graph.vector.normalising import Dividing, Normalised, Standardised, least_spread, least_squares
from jacobound.graph.vector.products import MatrixProduct, Product, Quotient
from jacobound.graph.vector.rows import RowFunction, flat_part, interval_matmul, joined, largest, longest, split, total
from jacobound.graph.vector.smooth import Length, LogSoftmax, LogSumExp, Softmax, softmax_constants, softmax_range
from small_cases import normal, numbers

INF = math.inf
EXPONENTS = (1.0, 2.0, INF)


def around(middle: Tensor, width: float, seed: int = 1) -> Interval:
    radius = width * normal(*middle.shape, seed=seed).abs()
    return Interval(middle - radius, middle + radius)


def close(found: Tensor, truth: list[arb], tolerance: float = 1e-12) -> bool:
    return torch.allclose(found.flatten(), numbers([float(x) for x in truth]), rtol=tolerance, atol=tolerance)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_sums_of_rows_hold_exactly(seed: int) -> None:
    x = around(normal(30, 4, seed=seed), 0.5)
    found = total(x)
    assert tuple(found.shape) == (30, 1)
    low, high = (rational_matrix(end) * rational_matrix(torch.ones(4)) for end in (x.lower, x.upper))
    assert outside(found.lower, low.entries(), found.upper) == []
    assert outside(found.lower, high.entries(), found.upper) == []
    assert torch.allclose(found.lower, x.lower.sum(-1, keepdim=True), rtol=0, atol=1e-13)
    assert torch.allclose(found.upper, x.upper.sum(-1, keepdim=True), rtol=0, atol=1e-13)


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_products_of_interval_matrices_are_those_of_centres_and_radii(terms: int, seed: int) -> None:
    """Over the rationals: all products of ends lie inside, and radii are no larger than the rule has it."""
    for wide in (0.0, 1e-9, 0.5):
        a, b = around(normal(3, terms, seed=seed), wide), around(normal(terms, 4, seed=seed + 5), wide, 2)
        found = interval_matmul(a, b)
        for one, two in itertools.product((a.lower, a.upper), (b.lower, b.upper)):
            product = rational_matrix(one) * rational_matrix(two)
            assert outside(found.lower, product.entries(), found.upper) == []
        (c, r), (d, s) = a.midpoint_and_radius(), b.midpoint_and_radius()
        radius = c.abs() @ s + r @ (d.abs() + s)
        assert torch.allclose(found.upper, c @ d + radius, rtol=0, atol=1e-14 * terms)
        assert torch.allclose(found.lower, c @ d - radius, rtol=0, atol=1e-14 * terms)


def test_interval_matrices_about_zero_keep_their_radii() -> None:
    """Nothing but radii: whichever factor is uncertain."""
    for k in range(50):
        r, b = normal(2, seed=k).abs().tolist()
        wide, point = Interval(numbers([[-r]]), numbers([[r]])), Interval.exact(numbers([[b]]))
        for one, two in ((wide, point), (point, wide), (wide, wide)):
            truth = rational(r) * rational(r if one is two else b)
            found = interval_matmul(one, two)
            assert outside(found.lower, [truth], found.upper) == outside(found.lower, [-truth], found.upper) == []
            assert rational(float(found.upper)) <= truth * (1 + fmpq(1, 10**14))


def test_long_products_of_interval_matrices_are_paid_for() -> None:
    row = torch.full((1, 4001), 2.0**-54, dtype=torch.float64)
    row[0, 0] = 1.0
    ones = torch.ones(4001, 1, dtype=torch.float64)
    truth = 1 + 4000 * rational(2.0**-54)
    found = interval_matmul(Interval.exact(row), Interval.exact(ones))
    assert outside(found.lower, [truth], found.upper) == []
    stacked = interval_matmul(Interval.exact(row[None]), Interval.exact(ones[None]))
    assert outside(stacked.lower, [truth], stacked.upper) == []
    flat = interval_matmul(Interval(-row, row), Interval.exact(ones))
    assert outside(flat.lower, [truth], flat.upper) == outside(flat.lower, [-truth], flat.upper) == []


def test_small_parts_of_functions_of_rows() -> None:
    assert float(largest(numbers([1.0, math.nan, 2.0]))) == INF
    assert float(largest(numbers([1.0, INF]))) == INF
    assert float(largest(numbers([1.0, 3.0, 2.0]))) == 3
    x = Interval(numbers([[1.0, -4.0]]), numbers([[3.0, 0.0]]))
    assert [float(longest(x, p)) for p in EXPONENTS] == pytest.approx([7, 5, 4], rel=1e-13)
    assert [float(longest(x, p, True)) for p in EXPONENTS] == pytest.approx([3, math.sqrt(5), 2], rel=1e-13)
    assert flat_part(5, 1, 3).tolist() == [False, True, True, False, False]
    parts = [Part(flat_part(2, k, k + 1), numbers(c)) for k, c in enumerate((3.0, 4.0))]
    assert [float(joined(parts, p)) for p in EXPONENTS] == pytest.approx([4, 5, 7], rel=1e-13)
    for k in range(60):
        pair = normal(2, seed=k).abs()
        parts = [Part(flat_part(2, j, j + 1), constant) for j, constant in enumerate(pair)]
        truth = sum((v * v for v in rationals(pair)), fmpq(0))
        assert truth <= rational(float(joined(parts, 2.0))) ** 2 <= truth * (1 + fmpq(1, 10**13))
        assert rational(float(joined(parts, INF))) >= sum(rationals(pair), fmpq(0))
    one, two = split(torch.arange(20).reshape(2, 10), ((2, 3), (4,)))
    assert one[1].tolist() == [[10, 11, 12], [13, 14, 15]]
    assert two.tolist() == [[6, 7, 8, 9], [16, 17, 18, 19]]
    assert (LogSumExp((3, 4)).out_shape, Softmax((3, 4)).out_shape, Softmax((3, 4)).length) == ((3, 1), (3, 4), 4)
    assert LogSumExp((2, 3, 4)).out_shape == (2, 3, 1)
    for shape in ((), (0,), (2, 0), (0, 2)):
        with pytest.raises(ShapeError, match="rows with entries"):
            Softmax(shape)


def test_copies_of_row_functions_move() -> None:
    function: RowFunction = Standardised((2, 3), eps=0.5, floor=0.25, centred=False)
    moved = function.to(torch.device("cpu"), torch.float32)
    assert moved.like.dtype == torch.float32
    assert vars(moved).items() >= {"eps": 0.5, "floor": 0.25, "centred": False, "in_shape": (2, 3)}.items()
    different = [
        Standardised((2, 3), eps=0.5, floor=0.25),
        Standardised((2, 3), eps=0.25, floor=0.25, centred=False),
        Standardised((2, 3), eps=0.5, centred=False),
        Normalised((2, 3), eps=0.5, floor=0.25),
        Standardised((3, 2), eps=0.5, floor=0.25, centred=False),
        function,
        Softmax((2, 3)),
        LogSoftmax((2, 3)),
    ]
    assert len({one.structure() for one in different}) == len(different)


# --- softmax and its relatives ----------------------------------------------------------------------------------------


def shares_of(x: Interval, i: int, allowed: list[bool] | None = None) -> tuple[arb, arb]:
    """Least and largest share of an entry over a box, in balls."""
    others = [j for j in range(x.shape[-1]) if j != i and (allowed is None or allowed[j])]
    low, high = ([ball(v).exp() for v in end.tolist()] for end in (x.lower, x.upper))
    least = low[i] / (low[i] + sum((high[j] for j in others), arb(0)))
    most = high[i] / (high[i] + sum((low[j] for j in others), arb(0)))
    return least, most


@pytest.mark.parametrize("width", [0.0, 1e-6, 0.5, 3.0])
@pytest.mark.parametrize("shift", [0.0, -800.0, 800.0])
def test_shares_are_exact_on_boxes(width: float, shift: float) -> None:
    """With a mask and without; and the logarithms of shares, and of the sum."""
    x = around(normal(12, 5) + shift, width)
    mask = torch.rand(12, 5, generator=Generator().manual_seed(0)) < 0.7
    mask[:, 2] = True
    plain, masked, logs = softmax_range(x), softmax_range(x, mask), LogSoftmax((12, 5)).range(x)
    sums = LogSumExp((12, 5)).range(x)
    for k, i in itertools.product(range(12), range(5)):
        row = Interval(x.lower[k], x.upper[k])
        for found, (least, most) in (
            (plain, shares_of(row, i)),
            (masked, shares_of(row, i, mask[k].tolist()) if mask[k, i] else (arb(0), arb(0))),
            (logs, tuple(share.log() for share in shares_of(row, i))),
        ):
            lower, upper = found.lower[k, i], found.upper[k, i]
            assert not ball(float(lower)) > least
            assert not ball(float(upper)) < most
            assert close(lower, [least], 1e-11 * max(1.0, abs(shift) / 10))
            assert close(upper, [most], 1e-11 * max(1.0, abs(shift) / 10))
    for k in range(12):
        for end, found in ((x.lower, sums.lower), (x.upper, sums.upper)):
            truth = sum((ball(v).exp() for v in end[k].tolist()), arb(0)).log()
            assert close(found[k], [truth], 1e-12)
            assert outside(sums.lower[k], [truth], sums.upper[k]) == []


def test_shares_where_ends_are_infinite() -> None:
    x = Interval(numbers([[-INF, 0.0], [0.0, 0.0], [-INF, -INF]]), numbers([[0.0, 0.0], [INF, 0.0], [INF, INF]]))
    found = softmax_range(x)
    assert torch.allclose(found.lower, numbers([[0.0, 0.5], [0.0, 0.0], [0.0, 0.0]]), atol=1e-14)
    assert torch.allclose(found.upper, numbers([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), atol=1e-14)
    assert bool((found.upper <= 1).all() and (found.lower >= 0).all())
    hidden = softmax_range(x, torch.tensor([False, True]))
    assert torch.equal(hidden.upper, numbers([[0.0, 1.0]] * 3))
    assert torch.allclose(hidden.lower, numbers([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), atol=1e-14)
    sums = LogSumExp((3, 2)).range(x)
    assert torch.allclose(sums.lower[1, 0], numbers(math.log(2)), atol=1e-14)
    assert sums.lower[2, 0] == -INF
    assert torch.allclose(sums.upper[0, 0], numbers(math.log(2)), atol=1e-14)
    assert bool((sums.upper[1:] == INF).all())
    nothing = LogSumExp((2,)).range(Interval(numbers([-INF, -INF]), numbers([-INF, -INF])))
    assert float(nothing.lower) == -INF
    logs = LogSoftmax((3, 2)).range(x)
    assert bool((logs.upper <= 0).all() and (logs.lower[:, 0] == -INF).all())
    far = LogSoftmax((2,)).range(Interval.exact(numbers([5.0, -995.0])))  # its share is no float
    assert torch.allclose(far.lower, numbers([0.0, -1000.0]), atol=1e-9)
    assert torch.allclose(far.upper, numbers([0.0, -1000.0]), atol=1e-9)
    lost = softmax_range(Interval(numbers([-745.0, -900.0]), numbers([-745.0, 0.0])))  # all but nothing beside nothing
    assert float(lost.upper[0]) == 1


SHARES = Interval(numbers([[0.1, 0.3, 0.2], [0.6, 0.1, 0.0]]), numbers([[0.2, 0.4, 0.3], [0.8, 0.2, 0.1]]))


def test_constants_of_softmax_follow_their_formula() -> None:
    """2 p (1 - p) at the share nearest to one half; the largest share too, for l2."""
    assert softmax_constants(SHARES, 1).tolist() == pytest.approx([0.48, 0.48], rel=1e-15)
    assert softmax_constants(SHARES, 2).tolist() == pytest.approx([0.4, 0.48], rel=1e-15)
    assert softmax_constants(SHARES, INF).tolist() == pytest.approx([0.48, 0.48], rel=1e-15)
    across = Interval(numbers([0.4, 0.1]), numbers([0.6, 0.3]))
    assert [float(softmax_constants(across, p)) for p in EXPONENTS] == [0.5] * 3
    alone = Interval(numbers([[0.9]]), numbers([[1.0]]))
    assert [float(softmax_constants(alone, p)) for p in EXPONENTS] == [0.0] * 3
    for k in range(60):
        share = float(normal(1, seed=k).abs().clamp(max=2.0)) / 5
        found = softmax_constants(Interval.exact(numbers([share, 0.0])), 1)
        truth = 2 * rational(share) * (1 - rational(share))
        assert truth <= rational(float(found)) <= truth * (1 + fmpq(1, 10**14))


def test_constants_of_logarithms_follow_their_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Interval.whole(torch.zeros(2, 3, dtype=torch.float64))
    monkeypatch.setattr(vector_smooth, "softmax_range", lambda _x, _mask=None: SHARES)
    squares = [0.04 + 0.16 + 0.09, 0.64 + 0.04 + 0.01]
    found = [float(LogSoftmax((2, 3)).constant(p, whole)) for p in EXPONENTS]
    assert found == pytest.approx([1 + 0.8, math.sqrt(3 * squares[1]), 2.0], rel=1e-14)
    assert [float(LogSoftmax((2, 1)).constant(p, whole)) for p in EXPONENTS] == [0.0] * 3
    found = [float(LogSumExp((2, 3)).constant(p, whole)) for p in EXPONENTS]
    assert found == pytest.approx([0.8, math.sqrt(squares[1]), 1.0], rel=1e-14)
    first = Interval(SHARES.lower[:1], SHARES.upper[:1])
    monkeypatch.setattr(vector_smooth, "softmax_range", lambda _x, _mask=None: first)
    assert float(LogSoftmax((1, 3)).constant(INF, whole)) == pytest.approx(1.8, rel=1e-15)
    narrow = Interval(numbers([[0.0, 0.0, 0.0]]), numbers([[0.5, 0.5, 0.5]]))  # 0.75 is more than the largest share
    monkeypatch.setattr(vector_smooth, "softmax_range", lambda _x, _mask=None: narrow)
    assert float(LogSumExp((1, 3)).constant(2, whole)) == pytest.approx(math.sqrt(0.5), rel=1e-14)
    full = Interval(numbers([[0.0, 0.0]]), numbers([[1.0, 1.0]]))
    monkeypatch.setattr(vector_smooth, "softmax_range", lambda _x, _mask=None: full)
    assert [float(LogSumExp((1, 2)).constant(p, whole)) for p in EXPONENTS] == [1.0] * 3
    for k in range(120):
        pair = (normal(1, 3, seed=k).abs() / (5 if k % 2 else 1)).clamp(max=0.4 if k % 2 else 0.99)
        monkeypatch.setattr(vector_smooth, "softmax_range", lambda _x, _mask=None, pair=pair: Interval.exact(pair))
        exact = [rational(x) for x in pair.flatten().tolist()]
        squared = sum((x * x for x in exact), fmpq(0))
        for function, p, truth, power in (
            (LogSoftmax((1, 3)), 1, 1 + max(exact), 1),
            (LogSoftmax((1, 3)), 2, 3 * min(squared, max(exact)), 2),
            (LogSoftmax((1, 3)), INF, 2 * (1 - min(exact)), 1),
            (LogSumExp((1, 3)), 2, min(squared, max(exact)), 2),
        ):
            found = rational(float(function.constant(p, whole))) ** power
            assert truth <= found <= truth * (1 + fmpq(1, 10**13))


def test_sums_of_squares_are_rounded_up() -> None:
    for k in range(100):
        share = normal(1, 3, seed=k).abs().clamp(max=0.99)
        exact = rationals(share)
        truth = min(sum((v * v for v in exact), fmpq(0)), max(exact))
        found = rational(float(vector_smooth._square_sum(Interval.exact(share))))
        assert truth <= found <= truth * (1 + fmpq(1, 10**14))


def test_squares_that_vanish_are_paid_for() -> None:
    assert float(vector_smooth._square_sum(Interval.exact(numbers([[1e-200, 1e-201]])))) > 0


def test_long_sums_of_squares_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    share = torch.full((1, 4001), 2.0**-28, dtype=torch.float64)
    share[0, 0] = 0.5
    monkeypatch.setattr(vector_smooth, "softmax_range", lambda _x, _mask=None: Interval.exact(share))
    truth = sum((v * v for v in rationals(share)), fmpq(0))
    whole = Interval.whole(share)
    assert rational(float(LogSumExp((1, 4001)).constant(2, whole))) ** 2 >= truth
    assert rational(float(LogSoftmax((1, 4001)).constant(2, whole))) ** 2 >= 4001 * truth


def test_sums_around_rows_of_several_axes() -> None:
    x = normal(5, 2, 3, 4)
    for function in (LogSumExp((2, 3, 4)), Length((2, 3, 4))):
        assert torch.allclose(Graph(function.expand(Input((2, 3, 4)), "head"))(x), function.value(x), rtol=1e-12)


def test_lengths_of_rows(seed: int) -> None:
    x = normal(20, 3, seed=seed)
    found = Length((20, 3)).range(Interval.exact(x))
    truths = [sum((ball(v) ** 2 for v in row), arb(0)).sqrt() for row in x.tolist()]
    assert outside(found.lower, truths, found.upper) == []
    assert close(found.lower, truths, 1e-14)
    assert close(found.upper, truths, 1e-14)
    box = Length((2,)).range(Interval(numbers([-1.0, 3.0]), numbers([2.0, 4.0])))
    assert (float(box.lower), float(box.upper)) == (pytest.approx(3.0), pytest.approx(math.sqrt(20)))
    for n in (2, 3, 5, 7, 10):
        assert float(Length((n,)).constant(1, box)) == float(Length((n,)).constant(2, box)) == 1
        assert n <= rational(float(Length((n,)).constant(INF, box))) ** 2 <= n * (1 + fmpq(1, 10**14))
    assert float(Length((3, 1)).constant(INF, box)) == 1


# --- normalisations ---------------------------------------------------------------------------------------------------


def standardised(row: list[float], eps: float, centred: bool) -> list[arb]:
    x = [ball(v) for v in row]
    mean = sum(x, arb(0)) / len(x) if centred else arb(0)
    x = [v - mean for v in x]
    size = (sum((v * v for v in x), arb(0)) / len(x) + ball(eps)).sqrt()
    return [v / size for v in x]


def normalised(row: list[float], eps: float) -> list[arb]:
    x = [ball(v) for v in row]
    size = sum((v * v for v in x), arb(0)).sqrt()
    return [v / (size if size > ball(eps) else ball(eps)) for v in x]


VALUES: tuple[tuple[Dividing, Callable[[list[float]], list[arb]]], ...] = (
    (Standardised((30, 4), eps=1e-3), lambda row: standardised(row, 1e-3, True)),
    (Standardised((30, 4), eps=1e-3, centred=False), lambda row: standardised(row, 1e-3, False)),
    (Normalised((30, 4), eps=0.1), lambda row: normalised(row, 0.1)),
    (Normalised((30, 4), eps=30.0), lambda row: normalised(row, 30.0)),
)


@pytest.mark.parametrize(("function", "value"), VALUES)
def test_normalised_points_are_enclosed_and_tight(
    function: Dividing, value: Callable[[list[float]], list[arb]]
) -> None:
    x = normal(30, 4)
    found = function.range(Interval.exact(x))
    truth = [entry for row in x.tolist() for entry in value(row)]
    assert outside(found.lower, truth, found.upper) == []
    assert close(found.lower, truth)
    assert close(found.upper, truth)
    assert torch.allclose(function.value(x).flatten(), numbers([float(entry) for entry in truth]), rtol=1e-12)


@pytest.mark.parametrize("width", [1e-3, 0.3, 2.0])
def test_ranges_of_normalised_boxes_follow_their_rule(width: float, seed: int) -> None:
    """Deviations over the divisor's range; never beyond the largest entry that a row can have."""
    x = around(normal(10, 4, seed=seed), width)
    n = 4
    below, above = x.lower.sum(-1, keepdim=True), x.upper.sum(-1, keepdim=True)
    high = ((n - 1) * x.upper + x.lower - below) / n
    low = ((n - 1) * x.lower + x.upper - above) / n
    middle = ((x.lower + x.upper) / 2).mean(-1, keepdim=True)

    def squares(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest sum of squares."""
        size = torch.maximum(a.abs(), b.abs())
        least = torch.where((a <= 0) & (b >= 0), 0.0, torch.minimum(a.abs(), b.abs()))
        return least.square().sum(-1, keepdim=True), size.square().sum(-1, keepdim=True)

    def divided(a: Tensor, b: Tensor, least: Tensor, most: Tensor, cap: float) -> tuple[Tensor, Tensor]:
        ends = torch.stack((a / least, a / most, b / least, b / most))
        return ends.amin(0).clamp(min=-cap), ends.amax(0).clamp(max=cap)

    spread, (plain_least, plain_most) = least_spread(x)[:, None], squares(x.lower, x.upper)
    wide = squares(x.lower - middle, x.upper - middle)[1]
    for function, expected in (
        (
            Standardised((10, 4), eps=0.1),
            divided(low, high, (spread / n + 0.1).sqrt(), (wide / n + 0.1).sqrt(), math.sqrt(3)),
        ),
        (
            Standardised((10, 4), eps=0.1, centred=False),
            divided(x.lower, x.upper, (plain_least / n + 0.1).sqrt(), (plain_most / n + 0.1).sqrt(), 2.0),
        ),
        (
            Normalised((10, 4), eps=0.7),
            divided(x.lower, x.upper, plain_least.sqrt().clamp(min=0.7), plain_most.sqrt().clamp(min=0.7), 1.0),
        ),
    ):
        found = function.range(x)
        assert torch.allclose(found.lower, expected[0], rtol=2e-6, atol=1e-12)
        assert torch.allclose(found.upper, expected[1], rtol=2e-6, atol=1e-12)
        assert bool((found.lower <= expected[0] + 1e-15).all() and (found.upper >= expected[1] - 1e-15).all())


def test_constants_of_normalisations_follow_their_rule() -> None:
    x = Interval(numbers([[1.0, 2.0], [3.0, 1.0]]), numbers([[1.5, 2.0], [3.0, 1.5]]))
    variance = min(0.5**2, 1.5**2) / 4
    for eps in (0.0, 0.25):
        size = math.sqrt(variance + eps)
        function = Standardised((2, 2), eps=eps)
        top = float(function.range(x).magnitude().max())
        for p, stretch in ((2.0, 1.0), (1.0, min(math.sqrt(2), 2 + top)), (INF, min(math.sqrt(2), 2 + top))):
            assert float(function.constant(p, x)) == pytest.approx(stretch / size, rel=1e-10)
        mean = (1 + 4) / 2
        plain = Standardised((2, 2), eps=eps, centred=False)
        for p, stretch in ((2.0, 1.0), (1.0, math.sqrt(2))):
            assert float(plain.constant(p, x)) == pytest.approx(stretch / math.sqrt(mean + eps), rel=1e-12)
    assert float(Normalised((2, 2)).constant(2.0, x)) == pytest.approx(1 / math.sqrt(5), rel=1e-12)
    assert float(Normalised((2, 2)).constant(1.0, x)) == pytest.approx(math.sqrt(2 / 5), rel=1e-12)
    assert float(Normalised((2, 2), eps=10.0).constant(2.0, x)) == pytest.approx(0.1, rel=1e-12)
    assert float(Normalised((2, 2), floor=8.0).constant(2.0, x)) == pytest.approx(0.25, rel=1e-12)
    alone = Interval(numbers([[1.0], [2.0]]), numbers([[1.0], [2.0]]))
    assert float(Standardised((2, 1)).constant(1.0, alone)) <= 1e-300
    assert float(Normalised((2, 1)).constant(1.0, alone)) == pytest.approx(1.0, rel=1e-12)
    many = Interval.exact(torch.linspace(-1, 1, 101, dtype=torch.float64)[None])
    short = Standardised((1, 101), eps=0.0)
    size = math.sqrt(sum((k / 50) ** 2 for k in range(-50, 51)) / 101)
    assert float(short.constant(INF, many)) == pytest.approx((2 + 1 / size) / size, rel=1e-9)
    plain = Standardised((1, 101), eps=0.0, centred=False)
    assert float(plain.constant(1.0, many)) == pytest.approx((1 + 1 / size) / size, rel=1e-9)


def test_constants_of_normalisations_are_rounded_up() -> None:
    for k in range(60):
        pair = normal(1, 2, seed=k)
        exact = [rational(v) for v in pair.flatten().tolist()]
        squares = exact[0] ** 2 + exact[1] ** 2
        variance = (exact[0] - exact[1]) ** 2 / 4
        x = Interval.exact(pair)
        for function, truth in (
            (Standardised((1, 2), eps=0.0, centred=False), 2 / squares),
            (Normalised((1, 2)), 1 / squares),
            (Standardised((1, 2), eps=0.0), 1 / variance),
        ):
            assert truth <= rational(float(function.constant(2.0, x))) ** 2 <= truth * (1 + fmpq(1, 10**10))


def test_least_squares_and_spreads_are_rounded_down() -> None:
    for k in range(60):
        row = normal(3, seed=k)
        exact = [rational(v) for v in row.tolist()]
        mean = sum(exact, fmpq(0)) / 3
        x = Interval.exact(row)
        for found, truth in (
            (least_squares(x), sum((v * v for v in exact), fmpq(0))),
            (least_spread(x), sum(((v - mean) ** 2 for v in exact), fmpq(0))),
        ):
            assert truth * (1 - fmpq(1, 10**10)) <= rational(float(found)) <= truth
    x = Interval(numbers([[0.0, 2.0, 5.0], [-1.0, -1.0, 0.0]]), numbers([[1.0, 3.0, 6.0], [1.0, 0.0, 2.0]]))
    assert least_spread(x).tolist() == pytest.approx([8.0, 0.0], abs=1e-9)
    assert least_squares(x).tolist() == pytest.approx([29.0, 0.0], rel=1e-12)


def test_wide_rows_about_zero_leave_eps_to_normalisations() -> None:
    """The rounding of sums of squares of 1e8 is far above eps, and takes nothing from it."""
    x = Interval(torch.full((1, 4), -1e8, dtype=torch.float64), torch.full((1, 4), 1e8, dtype=torch.float64))
    assert least_squares(x).tolist() == [0.0]
    function = Standardised((1, 4), eps=1e-6, centred=False)
    assert float(function.divisor(function.least_square(x))) == pytest.approx(1e-3, rel=1e-9)


def test_least_spreads_of_boxes_are_attained() -> None:
    """By hand: the best centre lies between the nearest ends."""
    for lower, upper, spread in (
        ([0.0, 3.0], [1.0, 5.0], 2.0),
        ([0.0, 3.0, 0.0], [1.0, 5.0, 9.0], 2.0),
        ([0.0, 4.0, 4.0], [1.0, 5.0, 5.0], 6.0),
        ([0.0, 1.0], [2.0, 3.0], 0.0),
        ([-7.0, -2.0, -2.5], [-5.0, -1.0, -2.0], 31 / 6),
    ):
        x = Interval(numbers(lower), numbers(upper))
        assert float(least_spread(x)) == pytest.approx(spread, abs=1e-9)
    wide = Interval(numbers([[0.0, -INF], [0.0, 1.0]]), numbers([[1.0, INF], [0.0, 1.0]]))
    assert least_spread(wide)[0] == 0
    assert float(least_spread(wide)[1]) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.slow
def test_least_spreads_hold_for_any_centre(monkeypatch: pytest.MonkeyPatch, generator: Generator) -> None:
    """Also for one outside the row; inside it the bound is that of the tangent."""
    for k in range(60):
        x = around(normal(4, seed=k), (0.0, 0.3)[k % 2], seed=k + 1)
        plain = float(least_spread(x))
        low, high = float(x.lower.min()), float(x.upper.max())
        share = float(torch.rand((), generator=generator))
        for wanted in (low + share * (high - low), low - 10 * share, high + 10 * share, plain, math.nan, INF):
            monkeypatch.setattr(vector_normalising, "_best_centre", lambda _x, c=wanted: numbers([c]))
            found, centre = float(least_spread(x)), min(max(wanted, low), high)
            assert found <= plain * (1 + 1e-9) + 1e-12
            right, left = (x.lower - centre).clamp(min=0.0), (centre - x.upper).clamp(min=0.0)
            square, slope = float((right.square() + left.square()).sum()), float((right - left).sum())
            expected = max(0.0, square - 2 * abs(slope) * (high - low))
            assert found == (0.0 if math.isnan(wanted) else pytest.approx(expected, rel=1e-9, abs=1e-12))
            monkeypatch.undo()
    wide = Interval(numbers([0.0, 0.0, 0.0, 0.0, 1.0]), numbers([0.1, 0.1, 0.1, 0.1, 1.0]))
    for centre in (0.7, 0.8):  # on either side of the best one
        monkeypatch.setattr(vector_normalising, "_best_centre", lambda _x, c=centre: numbers([c]))
        assert float(least_spread(wide)) <= 4 * 0.18**2 + 0.72**2 + 1e-12


def test_rows_of_several_axes_are_those_of_one() -> None:
    for make in (
        lambda shape: Standardised(shape, eps=0.1),
        lambda shape: Standardised(shape, eps=0.1, centred=False),
        lambda shape: Normalised(shape, eps=0.1),
        Softmax,
        LogSoftmax,
        LogSumExp,
        Length,
    ):
        flat = around(normal(6, 4), 0.3)
        deep = flat.map(lambda end: end.reshape(2, 3, 4))
        one, two = make((6, 4)), make((2, 3, 4))
        assert torch.equal(two.range(deep).lower.reshape(6, -1), one.range(flat).lower)
        assert torch.equal(two.range(deep).upper.reshape(6, -1), one.range(flat).upper)
        assert torch.equal(two.value(deep.lower).reshape(6, -1), one.value(flat.lower))
        for p in EXPONENTS:
            assert float(two.constant(p, deep)) == float(one.constant(p, flat))


def test_the_largest_entry_of_a_standardised_row_is_enclosed() -> None:
    """One entry apart from the others has the value sqrt(n - 1), or sqrt(n) when the mean stays."""
    for n in range(2, 12):
        x = torch.zeros(n, dtype=torch.float64)
        x[0] = 1.0
        for centred, square in ((True, n - 1), (False, n)):
            found = Standardised((n,), eps=0.0, centred=centred).range(Interval.exact(x)).upper[0]
            assert square <= rational(float(found)) ** 2 <= square * (1 + fmpq(1, 10**5))


def test_stretches_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x = Interval.exact(torch.ones(1, 101, dtype=torch.float64))
    for n in range(2, 50):
        assert n <= rational(float(Normalised((n,))._stretch(1.0, x))) ** 2 <= n * (1 + fmpq(1, 10**14))
    for k in range(60):
        size = float(normal(1, seed=k).abs())
        for centred, least in ((True, 2), (False, 1)):
            function = Standardised((1, 101), centred=centred)
            known = Interval.exact(numbers([[size]]))
            monkeypatch.setattr(Standardised, "range", lambda _self, _x, known=known: known)
            found = rational(float(function._stretch(1.0, x)))
            assert least + rational(size) <= found <= (least + rational(size)) * (1 + fmpq(1, 10**15))


def test_least_squares_of_rows_of_one_entry_are_rounded_down() -> None:
    for k in range(60):
        x = Interval.exact(normal(1, 1, seed=k))
        truth = rational(float(x.lower)) ** 2
        for function in (Normalised((1, 1)), Standardised((1, 1), centred=False)):
            assert truth * (1 - fmpq(1, 10**14)) <= rational(float(function.least_square(x))) <= truth


def test_senseless_normalisations_are_refused() -> None:
    for function in (Standardised, Normalised):
        with pytest.raises(ShapeError, match="rows with entries"):
            function((2, 0))
    for eps in (-1e-9, math.nan, INF):
        with pytest.raises(InvalidOptionError, match="eps"):
            Standardised((2,), eps=eps)
        with pytest.raises(InvalidOptionError, match="floor"):
            Standardised((2,), floor=eps)
    zero = Interval(numbers([[-1.0, -1.0], [3.0, 5.0]]), numbers([[1.0, 1.0], [3.0, 5.0]]))
    Standardised((1, 2), eps=0.0, floor=0.5).require(zero, "x")
    Standardised((1, 2), eps=0.5, floor=0.0).require(zero, "x")
    Standardised((1, 2), eps=0.0).require(Interval(zero.lower[1:], zero.upper[1:]), "x")
    for function in (Standardised((1, 2), eps=0.5), Standardised((1, 2), eps=0.0, floor=0.0)):
        with pytest.raises(InvalidRegionError, match="variance of a row be 0"):
            function.require(zero, "x")


# --- products ---------------------------------------------------------------------------------------------------------


def test_constants_of_products_follow_their_rules() -> None:
    x = Interval(numbers([[-3.0, 1.0], [2.0, -1.0]]), numbers([[1.0, 2.0], [4.0, -0.5]]))
    assert [float(Product((2,)).constant(p, x)) for p in EXPONENTS] == pytest.approx([4, 5, 7], rel=1e-13)
    assert [float(part.constant) for part in Product((2,)).parts(2.0, x)] == [4, 3]
    pairs = [(1 / 2, 3 / 4), (2.0, 8.0)]
    expected = [8.0, math.hypot(*pairs[1]), 10.0]
    assert [float(Quotient((2,)).constant(p, x)) for p in EXPONENTS] == pytest.approx(expected, rel=1e-13)
    assert [float(part.constant) for part in Quotient((2,)).parts(2.0, x)] == pytest.approx([2, 8], rel=1e-13)
    for function in (Product((2,)), Quotient((2,))):
        assert [part.entries.tolist() for part in function.parts(1.0, x)] == [
            [[True, True], [False, False]],
            [[False, False], [True, True]],
        ]
    assert Product((2,)).structure() != Quotient((2,)).structure() != Quotient((3,)).structure()
    with pytest.raises(ShapeError, match="no entries"):
        Product((2, 0))


def test_constants_of_matrix_products_are_norms_of_the_factors() -> None:
    """The right factor transposed, because it acts on rows."""
    one, two = normal(2, 3, 4), normal(2, 4, 5, seed=1)
    x = Interval.exact(torch.cat((one.flatten(), two.flatten())))
    function = MatrixProduct((2, 3, 4), (2, 4, 5))
    for p in EXPONENTS:
        left, right = function.parts(p, x)
        assert float(left.constant) == pytest.approx(float(torch.linalg.matrix_norm(two.mT, p).max()), rel=1e-9)
        assert float(right.constant) == pytest.approx(float(torch.linalg.matrix_norm(one, p).max()), rel=1e-9)
        assert (int(left.entries.sum()), int(right.entries.sum())) == (24, 40)
        assert float(function.constant(p, x)) == pytest.approx(float(joined((left, right), p)), rel=1e-12)
    assert torch.allclose(function.value(x.lower), one @ two)
    assert (function.in_shape, function.out_shape) == ((64,), (2, 3, 5))
    assert function.structure() != MatrixProduct((2, 3, 4), (2, 4, 6)).structure()
    for left_shape, right_shape in (((3,), (3, 2)), ((2, 3), (4, 2)), ((2, 2, 3), (3, 3, 2)), ((0, 3), (3, 2))):
        with pytest.raises(ShapeError, match="no product"):
            MatrixProduct(left_shape, right_shape)


def test_divisors_around_zero_and_unbounded_factors_are_refused() -> None:
    def quotient(low: float, high: float) -> None:
        x = Interval(numbers([[1.0, 1.0], [1.0, low]]), numbers([[2.0, 2.0], [2.0, high]]))
        Quotient((2,)).require(x, "q")

    quotient(0.5, 1.0)
    quotient(-1.0, -0.5)
    for ends in ((-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0)):
        with pytest.raises(InvalidRegionError, match=r"entry \(1,\)"):
            quotient(*ends)
    for lower, upper in ((1.0, INF), (-INF, 1.0)):
        x = Interval(numbers([[lower, 1.0], [1.0, 1.0]]), numbers([[upper, 2.0], [2.0, 2.0]]))
        for function in (Product((2,)), Quotient((2,))):
            with pytest.raises(InvalidRegionError, match="1 of 4 entries"):
                function.require(x, "q")
        matrix = MatrixProduct((1, 2), (2, 1))
        with pytest.raises(InvalidRegionError, match="1 of 4 entries"):
            matrix.require(x.map(lambda end: end.flatten()), "q")
