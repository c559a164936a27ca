"""Truncation, enumeration, branching and covers of SeqLip on their own: what rounding costs, and when they stop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import identity, is_positive_semidefinite, rational, rational_matrix, rationals
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unrounded
from jacobound.constants.pairs import branching as seqlip_branching
from jacobound.constants.pairs import truncated as seqlip_truncated
from jacobound.constants.pairs.branching import enumerated, exact_bound
from jacobound.constants.pairs.chain import Edge, Stretch, shortest
from jacobound.constants.pairs.dual import (
    Pair,
    PairBound,
    product_bound,
)
from jacobound.constants.pairs.layers import Layer, View
from jacobound.constants.pairs.search import dual_bound
from jacobound.constants.pairs.truncated import _largest_eigenvalue, _rank_one, _shrunken, truncated, truncated_bound
from jacobound.operators.kinds import Dense
from small_cases import drawn, drawn_pair, number, single, vector

INF = math.inf
UNIT = fmpq(1, 2**53)
CLOSE = 1 + fmpq(1, 10**5)  # gamma itself is rounded up by 1e-6


# --- leading triplets ------------------------------------------------------------------------------------------------


def test_truncated_bounds_join_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = single(1.0, 1.0, 0.0, 1e9)
    for value, error in drawn(Generator().manual_seed(10), 300, 2).abs().tolist():
        monkeypatch.setattr(seqlip_truncated, "truncated", lambda *parts, e=error: (pair, vector(e)[0]))
        found = number(truncated_bound(pair, 1, lambda _, v=value: v))
        square = rational(value) ** 2 + rational(error)
        assert square <= found**2 <= square * (1 + 60 * UNIT)


def test_bounds_of_one_triplet_are_sums_from_both_sides() -> None:
    """Whole numbers, whose products and sums do not round: what is added is that of n + 1 roundings or a few more."""
    generator = Generator().manual_seed(11)
    for count in (1, 1, 1, 1, 2, 7, 40):
        numbers = torch.randint(-9, 10, (4, count), generator=generator).double()
        lower, upper = numbers[2:].amin(0), numbers[2:].amax(0)
        pair = Pair(numbers[:1], numbers[1:2].T.contiguous(), lower, upper)
        rows = zip(*(rationals(part) for part in (pair.left, pair.right, lower, upper)), strict=True)
        ends = [(a * b * low, a * b * high) for a, b, low, high in rows]
        truth = max(sum(map(max, ends), fmpq(0)), -sum(map(min, ends), fmpq(0)))
        size = sum((max(map(abs, pair)) for pair in ends), fmpq(0))
        found = number(_rank_one(pair))
        assert truth + (count + 1) * UNIT * size <= found
        assert found <= truth * (1 + 3 * UNIT) + (count + 5) * CLOSE * UNIT * size + fmpq(1, 10**280)
    assert 0.0 < _rank_one(single(1e-200, 1e-200, 0.0, 1.0)) < 1e-280


@pytest.mark.parametrize("low", [0.0, -0.3])
def test_sums_of_one_triplet_that_round_away_are_paid(low: float) -> None:
    """Beside 1 every product below a unit of roundoff is lost; all of them together are not."""
    count = 4000
    left = torch.full((1, count), 0.9 * 2.0**-54, dtype=torch.float64)
    left[0, 0] = 1.0
    exactly = torch.Tensor.sum
    pair = Pair(left, torch.ones(count, 1).double(), torch.full((count,), low).double(), torch.ones(count).double())
    with pytest.MonkeyPatch.context() as worst:
        worst.setattr(Tensor, "sum", lambda x, *rest: exactly(x, *rest) * (1 - (count - 1) * 2.0**-53))
        found = number(_rank_one(pair))
    assert found >= sum(rationals(left), fmpq(0))


def test_errors_of_truncation_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With norms and remainders that miss nothing: ``beta^2 (d^2 |A_k|^2 + d'^2 |B|^2)``."""
    generator = Generator().manual_seed(12)
    monkeypatch.setattr(seqlip_truncated, "spectral_norm_upper", lambda matrix: matrix.abs().amax())
    for a, b, s, one, other in drawn(generator, 200, 5).tolist():
        rests = iter((abs(one), abs(other)))
        monkeypatch.setattr(
            seqlip_truncated, "_shrunken", lambda matrix, k, rests=rests: (matrix * 2, vector(next(rests))[0])
        )
        small, error = truncated(single(a, b, min(s, 0.0), max(s, 0.0)), 1)
        assert float(small.left) == 2 * a and float(small.right) == 2 * b
        assert (float(small.lower), float(small.upper)) == (min(s, 0.0), max(s, 0.0))
        slope, left, right = (rational(x) ** 2 for x in (s, 2 * a, b))
        exact = slope * (abs(rational(one)) * left + abs(rational(other)) * right)
        assert exact <= number(error) <= exact * (1 + 30 * UNIT)


@pytest.mark.parametrize("shape", [(2, 5), (4, 4), (5, 2), (1, 3)])
@pytest.mark.parametrize("triplets", [1, 2, 4, 9])
def test_shrunken_triplets_dominate_the_matrix(shape: tuple[int, int], triplets: int) -> None:
    """``M M' <= F F' + d I`` without rounding, with d the first singular value left out, squared."""
    matrix = drawn(Generator().manual_seed(13), *shape)
    columns, beyond = _shrunken(matrix, triplets)
    exact, found = rational_matrix(matrix), rational_matrix(columns)
    rest = found * found.transpose() + identity(shape[0]) * number(beyond) - exact * exact.transpose()
    assert is_positive_semidefinite(rest)
    values = torch.linalg.svdvals(matrix)
    kept = min(triplets, len(values))
    left_out = float(values[kept]) ** 2 if kept < len(values) else 0.0
    assert float(beyond) <= left_out * (1 + 1e-9) + 1e-9
    sizes = (values[:kept].square() - left_out).clamp(min=0).sqrt()
    assert torch.allclose(columns.norm(dim=0), sizes, rtol=1e-9)


def test_products_of_triplets_have_their_rounding_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []

    def looked_at(matrix: Tensor, guess: float, lost: float, size: float) -> Tensor:
        seen.append((lost, size))
        return vector(size)[0]

    monkeypatch.setattr(seqlip_truncated, "_largest_eigenvalue", looked_at)
    for shape in ((1, 1), (3, 8), (8, 3)):
        matrix = drawn(Generator().manual_seed(14), *shape)
        columns, _ = _shrunken(matrix, 2)
        squares = sum((x * x for part in (matrix, columns) for x in rationals(part)), fmpq(0))
        lost, size = map(rational, seen.pop())
        assert squares <= size <= squares * (1 + fmpq(1, 10**12))
        assert (max(shape) + 1) * UNIT * squares <= lost <= (max(shape) + 6) * UNIT * squares * CLOSE
    _shrunken(torch.full((2, 2), 1e-160, dtype=torch.float64), 1)
    assert 1e-291 < seen.pop()[0] < 1e-280


def test_largest_eigenvalues_are_proved_for_all_matrices_nearby() -> None:
    generator = Generator().manual_seed(15)
    for size in (1, 3, 5):
        for lost in (0.0, 1e-12, 1e-3):
            part = drawn(generator, size, size)
            matrix = (part + part.T) / 2
            largest = float(torch.linalg.eigvalsh(matrix)[-1])
            if largest <= 0:
                matrix, largest = -matrix, -float(torch.linalg.eigvalsh(matrix)[0])
            for share in (1.0, 0.9, 0.1):
                found = _largest_eigenvalue(matrix, share * largest, lost, 1e3 * (largest + 1))
                above = identity(size) * (number(found) - rational(lost)) - rational_matrix(matrix)
                assert is_positive_semidefinite(above)
                if share == 1 and lost < 1e-3:
                    assert float(found) <= largest * (1 + 1e-9) + 1e-9
            assert float(_largest_eigenvalue(matrix, 2.0, lost, 1.0)) == 1.0
            assert float(_largest_eigenvalue(matrix, 0.5 * largest, lost, 0.6 * largest)) == 0.6 * largest


def test_largest_eigenvalues_are_never_below_the_truth() -> None:
    """Guesses a few units of roundoff too low: only a proof can accept them."""
    matrix = vector(0.0, 1.0, 1.0, 0.0).reshape(2, 2)
    for units in range(60):
        assert float(_largest_eigenvalue(matrix, 1 - units * 2.0**-53, 0.0, 10.0)) >= 1.0


# --- all vertices ----------------------------------------------------------------------------------------------------


def test_enumeration_pays_for_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """With norms that miss nothing: one output, one input, and sums of products that round."""
    generator = Generator().manual_seed(16)

    def plain(family: object) -> Tensor:
        return family.matrices(torch.arange(family.count)).abs().amax()  # type: ignore[attr-defined]

    monkeypatch.setattr(seqlip_branching, "largest_norm", plain)
    for k in range(60):
        count = 1 + k % 5
        pair = drawn_pair(generator, 1, count, 1)
        pair = Pair(
            pair.left * 2.0 ** (k - 30), pair.right, pair.lower * 10.0 ** (k % 7 - 3), pair.upper * 10.0 ** (k % 7 - 3)
        )
        rows = zip(*(rationals(part) for part in (pair.left, pair.right, pair.lower, pair.upper)), strict=True)
        ends = [(a * b * low, a * b * high) for a, b, low, high in rows]
        truth = max(sum(map(max, ends), fmpq(0)), -sum(map(min, ends), fmpq(0)))
        size = UNIT * number(pair.left.norm()) * number(pair.right.norm()) * number(pair.steepest)
        found = number(enumerated(pair))
        assert truth <= found <= truth + (6 * (count + 4) + 20) * size


def test_enumeration_counts_as_many_roundings_as_products_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm of zero leaves the error alone."""
    monkeypatch.setattr(seqlip_branching, "largest_norm", lambda family: vector(0.0)[0])
    for count in (1, 5):
        pair = Pair(
            torch.ones(2, count).double(),
            torch.ones(count, 3).double(),
            vector(*[0.0] * count),
            vector(*[0.75] * count),
        )
        size = rational(math.sqrt(2 * count)) * rational(math.sqrt(3 * count)) * UNIT
        found = number(enumerated(pair))
        assert (count + 1) * size <= found <= (count + 4) * size * CLOSE + fmpq(1, 10**240)
        with unrounded():
            assert enumerated(pair) == 0.0


def test_enumeration_of_vertices_is_complete_and_in_either_orientation() -> None:
    generator = Generator().manual_seed(17)
    for p, q in ((1, 3), (3, 1), (2, 2)):
        pair = drawn_pair(generator, p, 4, q)
        ends = torch.stack((pair.lower, pair.upper))
        numbers = torch.cartesian_prod(*[torch.arange(2)] * 4)
        truth = float(torch.linalg.matrix_norm(pair.at(ends[numbers, torch.arange(4)]), 2).max())
        for one in (pair, Pair(pair.right.T.contiguous(), pair.left.T.contiguous(), pair.lower, pair.upper)):
            assert truth * (1 - 1e-14) <= enumerated(one) <= truth * (1 + 1e-12)
            assert exact_bound(one).upper == pytest.approx(truth, rel=1e-12)
    none = Pair(torch.ones(0, 2).double(), torch.ones(2, 3).double(), vector(0, 0), vector(1, 1))
    assert enumerated(none) == exact_bound(none).upper == 0.0


def test_enumerated_norms_below_the_normal_range_are_rounded_up() -> None:
    tiny = 2.0**-537
    for k in range(20):
        pair = single(10 * tiny, (10 + 1e-3 * (k + 1)) * tiny, 0.25, 1.0)
        assert number(enumerated(pair)) >= number(pair.left) * number(pair.right)


@pytest.mark.slow
def test_any_order_of_branching_ends_at_the_largest_vertex(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator().manual_seed(18)
    pair = drawn_pair(generator, 3, 5, 4)
    truth = enumerated(pair)
    for _ in range(2):
        monkeypatch.setattr(
            seqlip_branching, "_worst", lambda one, _: int(torch.randint(len(one.undecided), (), generator=generator))
        )
        found = exact_bound(pair, enumerate_up_to=2)
        assert found.complete and truth * (1 - 1e-14) <= found.upper <= truth * (1 + 1e-8)


def test_branching_stops_when_it_is_told_and_says_so() -> None:
    """No time, or no nodes left: the bracket that is known by then."""
    pair = drawn_pair(Generator().manual_seed(19), 4, 7, 4)
    truth = enumerated(pair)
    for found in (
        exact_bound(pair, lambda: True, enumerate_up_to=2),
        exact_bound(pair, enumerate_up_to=2, nodes=1),
    ):
        assert not found.complete
        assert truth * (1 - 1e-12) <= found.upper <= product_bound(pair)
        assert 0 < found.lower <= truth * (1 + 1e-12)


@pytest.mark.slow
def test_children_are_enumerated_when_few_neurons_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked for its dual bound or for all of its vertices, and dead neurons are left out on the way."""
    generator = Generator().manual_seed(21)
    slopes = vector(-1, 0, 0, -1, -0.5, 0.25), vector(0, 1, 1, 0, 2, 0.5)
    pair = Pair(drawn(generator, 3, 6), drawn(generator, 6, 3), *slopes)
    truth = enumerated(pair)
    listed, dual = seqlip_branching.enumerated, seqlip_branching.dual_bound

    def few(one: Pair) -> float:
        assert len(one.undecided) <= 2
        return listed(one)

    def many(one: Pair, *rest: Any) -> PairBound:
        assert len(one.undecided) > 2
        return dual(one, *rest)

    monkeypatch.setattr(seqlip_branching, "enumerated", few)
    monkeypatch.setattr(seqlip_branching, "dual_bound", many)
    found = exact_bound(pair, enumerate_up_to=2)
    assert found.complete and truth * (1 - 1e-14) <= found.upper <= truth * (1 + 1e-8)
    small = pair.fixed(torch.arange(4), pair.upper[:4])
    assert exact_bound(small, enumerate_up_to=2).upper == listed(small.pruned.oriented)
    # Duals that prove nothing have no multipliers to go on from.
    monkeypatch.setattr(seqlip_branching, "dual_bound", lambda one, *rest: PairBound(product_bound(one)))
    found = exact_bound(pair, enumerate_up_to=2)
    assert found.multipliers is None and truth * (1 - 1e-14) <= found.upper <= truth * (1 + 1e-8)


def test_too_many_neurons_get_their_dual_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = drawn_pair(Generator().manual_seed(20), 2, 5, 2)
    monkeypatch.setattr(seqlip_branching, "BRANCHED", 4)
    found = exact_bound(pair, enumerate_up_to=2)
    assert not found.complete and found.upper == dual_bound(pair.pruned.oriented).upper
    monkeypatch.setattr(seqlip_branching, "BRANCHED", 5)
    assert exact_bound(pair, enumerate_up_to=2).complete


# --- chains ----------------------------------------------------------------------------------------------------------


def told(norm: float, views: dict[str, tuple[float, float, float]]) -> Layer:
    """A layer that says of itself what it is told to: its norm; size, factor and error of its views."""
    one = Layer(((Dense(torch.ones(1, 1, dtype=torch.float64)),),))
    vars(one)["norm"] = vector(norm)[0]
    made = {}
    for name, (size, factor, error) in views.items():
        made[name] = View(vector(1.0).reshape(1, 1), vector(factor)[0], vector(error)[0])
        vars(made[name])["size"] = vector(size)[0]
    vars(one).update({name: made[name] for name in ("as_left", "as_right") if name in made})
    if "left half" in made:
        vars(one)["split"] = (made["left half"], made["right half"])
    return one


def slopes_up_to(*sizes: float) -> tuple[Interval, ...]:
    return tuple(Interval(vector(-size), vector(0.5 * size)) for size in sizes)


def test_single_layers_multiply_and_round_up() -> None:
    for a, b, c, s, t in torch.rand(100, 5, generator=Generator().manual_seed(21), dtype=torch.float64).tolist():
        chain = Stretch(tuple(told(norm, {}) for norm in (a, b, c)), slopes_up_to(s, t))
        found = number(shortest(chain, lambda _: INF, lambda _: INF).value)
        exact = rational(a) * rational(b) * rational(c) * rational(s) * rational(t)
        assert exact <= found <= exact * (1 + 20 * UNIT)
    for a, s in torch.rand(100, 2, generator=Generator().manual_seed(22), dtype=torch.float64).tolist():
        assert number(shortest(Stretch((told(a, {}),), ()), lambda _: INF, lambda _: INF).value) >= rational(a)
        chain = Stretch((told(1.0, {}), told(a, {})), slopes_up_to(s))
        found = number(shortest(chain, lambda _: INF, lambda _: INF).value)
        assert rational(a) * rational(s) <= found <= rational(a) * rational(s) * (1 + 12 * UNIT)


def test_a_pair_counts_with_its_factors_and_errors() -> None:
    """``f_A f_B v + f_A |A| beta e_B + e_A beta |W|``, rounded up; large norms make it the shortest way."""
    samples = torch.rand(200, 7, generator=Generator().manual_seed(23), dtype=torch.float64)
    for k, numbers in enumerate(samples.tolist()):
        fa, fb, v, size, ea, eb, beta = (0.5 + x for x in numbers)
        ea, eb = ((ea, eb), (1e-9 * ea, eb), (1e-9 * ea, 1e-9 * eb))[k % 3]  # each part is the largest in its turn
        layers = told(1e3, {"as_right": (9.0, fb, eb)}), told(1e9, {"as_left": (size, fa, ea)})
        chain = Stretch(layers, slopes_up_to(beta))
        state = shortest(chain, lambda _, v=v: v, lambda _, v=v: v)
        assert state.edges == (Edge(0, False, False),)
        fa, fb, v, size, ea, eb, beta = map(rational, (fa, fb, v, size, ea, eb, beta))
        exact = fa * fb * v + fa * size * beta * eb + ea * beta * 1000
        assert exact <= number(state.value) <= exact * (1 + 16 * UNIT)


def test_halves_of_a_layer_count_with_its_error_once() -> None:
    samples = torch.rand(80, 14, generator=Generator().manual_seed(24), dtype=torch.float64)
    for k, numbers in enumerate(samples.tolist()):
        fa, fb, v, size, eb, fc, fd, w, other, ec, ed, beta, delta, norm = (0.5 + x for x in numbers)
        ec, ed, eb = ((ec, ed, eb), (1e-9 * ec, ed, eb), (1e-9 * ec, 1e-9 * ed, eb), (1e-9 * ec, 1e-9 * ed, 1e-9 * eb))[
            k % 4
        ]
        chain = Stretch(
            (
                told(1e3, {"as_right": (9.0, fb, eb)}),
                told(
                    norm,
                    {
                        "as_left": (9.0, 9.0, 9.0),
                        "as_right": (9.0, 9.0, 9.0),
                        "left half": (9.0, fd, ed),
                        "right half": (size, fa, 9.0),
                    },
                ),
                told(1e6, {"as_left": (other, fc, ec)}),
            ),
            slopes_up_to(beta, delta),
        )
        values = {Edge(0, False, True): v, Edge(1, True, False): w}
        state = shortest(chain, lambda edge: values.get(edge, INF), values.__getitem__)  # noqa: B023
        assert set(state.edges) == set(values)
        fa, fb, v, size, eb, fc, fd, w, other, ec, ed, beta, delta, norm = map(
            rational, (fa, fb, v, size, eb, fc, fd, w, other, ec, ed, beta, delta, norm)
        )
        half = fa * fb * v + fa * size * beta * eb
        before = beta * 1000
        exact = fc * fd * w * half + fc * other * delta * ed * before + ec * delta * norm * before
        assert exact <= number(state.value) <= exact * (1 + 24 * UNIT)
