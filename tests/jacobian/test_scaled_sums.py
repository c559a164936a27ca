"""Sums of absolute values of affine forms: above every value that is possible, and near the best bound of its kind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import at_least, at_most, ball, random_floats, rational, rationals
from jacobound import Budget
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import unrounded, up
from jacobound.inputs.domains import Domain
from jacobound.jacobian.affine import scaled_sums
from jacobound.jacobian.affine.forms import Forms, Symbols
from jacobound.jacobian.affine.scaled_sums import scaled_row_norms
from zoo import normal

GROTHENDIECK = 1.7823  # Krivine's bound: how far the semidefinite bound of a norm from l_inf to l_1 can be off


def sums(symbols: Symbols, forms: Forms, budget: Budget) -> Tensor:
    return scaled_row_norms(symbols, forms, budget, math.inf)


def symbols_of(half: list[float]) -> Symbols:
    ends = torch.tensor([half], dtype=torch.float64)
    return Symbols.of(Domain(Interval(-ends, ends)))


def forms_of(centre: Tensor, linear: Tensor, error: float = 0.0) -> Forms:
    return Forms(
        centre.reshape(1, 1, -1), linear.reshape(1, 1, *linear.shape), torch.full_like(centre, error)[None, None]
    )


def largest(found: Forms, sizes: list[float]) -> fmpq:
    """The exact largest sum: it is convex in the symbols, so at a corner."""
    centre, error = rationals(found.centre), rationals(found.error)
    rows = [rationals(row) for row in found.linear[0, 0]]
    best = fmpq(0)
    for signs in itertools.product((-1, 1), repeat=len(rows)):
        total = sum(error, fmpq(0))
        for k, number in enumerate(centre):
            moves = (s * rational(size) * row[k] for s, size, row in zip(signs, sizes, rows, strict=True))
            total += abs(sum(moves, number))
        best = max(best, total)
    return best


@pytest.mark.parametrize("scale", [1.0, 1e-150, 1e150])
@pytest.mark.parametrize("seed", range(12))
def test_no_sum_is_larger_and_the_best_bound_is_near(seed: int, scale: float) -> None:
    generator = Generator().manual_seed(seed)
    sizes = [0.25, 3.0, 1.0, 1.0]
    given = forms_of(normal((6,), generator, 0.5) * scale, normal((4, 6), generator) * scale, 0.01 * scale)
    found = float(sums(symbols_of(sizes[:2]), given, Budget()))
    truth = largest(given, sizes)
    assert rational(found) >= truth
    assert found <= 1.15 * GROTHENDIECK * float(truth)


def test_without_symbols_that_matter_it_is_the_sum() -> None:
    """Rank one has no gap; unused symbols, inputs that are known and empty entries cost nothing."""
    centre = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    linear = torch.zeros(3, 4, dtype=torch.float64)
    linear[1] = 7.0  # of an input that can not move
    found = float(sums(symbols_of([1.0, 0.0]), forms_of(centre, linear), Budget()))
    assert 6.0 <= found <= 6.0 * (1 + 1e-9)
    along = forms_of(centre, centre * torch.tensor([[0.5], [0.0], [0.25]], dtype=torch.float64))
    assert 10.5 <= float(sums(symbols_of([1.0, 0.0]), along, Budget())) <= 10.5 * (1 + 1e-3)
    nothing = forms_of(0 * centre, 0 * linear, 0.5)
    assert 2.0 <= float(sums(symbols_of([1.0, 0.0]), nothing, Budget())) <= 2.0 * (1 + 1e-9)


def test_one_sign_for_all_entries_is_far_less_than_one_for_each() -> None:
    """A Hadamard matrix: n^1.5 in place of n^2."""
    signs = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        signs = torch.cat((torch.cat((signs, signs), 1), torch.cat((signs, -signs), 1)))
    given = forms_of(torch.zeros(64, dtype=torch.float64), signs)
    found = float(sums(symbols_of([1.0] * 64), given, Budget()))
    assert 64**1.5 <= found <= 64**1.5 * (1 + 1e-6)


def test_several_sets_and_outputs_each_have_their_own() -> None:
    generator = Generator().manual_seed(1)
    half = torch.tensor([[0.5, 1.0], [2.0, 0.25], [0.0, 0.0]], dtype=torch.float64)
    symbols = Symbols.of(Domain(Interval(-half, half)))
    given = Forms(normal((3, 2, 4), generator), normal((3, 2, 3, 4), generator), torch.zeros(3, 2, 4).double())
    found = sums(symbols, given, Budget())
    for n, j in itertools.product(range(3), range(2)):
        part = forms_of(given.centre[n, j], given.linear[n, j])
        assert float(found[n, j]) == float(sums(symbols_of(half[n].tolist()), part, Budget()))
        assert rational(float(found[n, j])) >= largest(part, [*half[n].tolist(), 1.0])


def test_what_can_not_be_searched_is_left_open() -> None:
    symbols = symbols_of([1.0, 1.0])
    given = forms_of(torch.ones(3).double(), torch.ones(2, 3).double())
    late = sums(symbols, given, Budget(seconds=0.0, started=-1.0))
    broken = sums(symbols, forms_of(torch.full((3,), math.nan).double(), torch.ones(2, 3).double()), Budget())
    wide = forms_of(torch.ones(2000).double(), torch.ones(2, 2000).double())
    for found in (late, broken, sums(symbols, wide, Budget())):
        assert torch.equal(found, torch.full((1, 1), math.inf, dtype=torch.float64))
    single = Forms(given.centre.float(), given.linear.float(), given.error.float())
    rounded = sums(Symbols.of(Domain(Interval(-torch.ones(1, 2), torch.ones(1, 2)))), single, Budget())
    assert rounded.dtype == torch.float32 and 9 <= float(rounded) <= 9.01


@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize("seed", range(8))
def test_norms_over_balls(seed: int, p: float) -> None:
    """No point on the sphere, or in an l1 ball, gives more; a matrix that is all of the form has its spectral norm."""
    generator = Generator().manual_seed(seed)
    centre = torch.zeros(1, 3, dtype=torch.float64)
    ball = Domain(Interval(centre - 9, centre + 9), centre, torch.tensor([0.5], dtype=torch.float64), 2)
    given = forms_of(normal((5,), generator, 0.5), normal((4, 5), generator), 0.01)
    found = float(scaled_row_norms(Symbols.of(ball), given, Budget(), p))
    points = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator, dtype=torch.float64)) * 0.5
    for last in (-1.0, 1.0):
        values = given.centre[0, 0] + torch.cat((points, points[:, :1] * 0 + last), 1) @ given.linear[0, 0]
        attained = float(((values.abs() + 0.01).norm(dim=1) if p == 2 else (values.abs() + 0.01).sum(1)).max())
        assert (
            attained <= found <= 2.2 * max(attained, float(given.centre.abs().sum() if p != 2 else given.centre.norm()))
        )
    diamond = Domain(ball.box, centre, ball.radius, 1)
    assert found == float(scaled_row_norms(Symbols.of(diamond), given, Budget(), p))
    alone = forms_of(torch.zeros(5).double(), given.linear[0, 0, :3])
    if p == 2:
        spectral = 0.5 * float(torch.linalg.matrix_norm(given.linear[0, 0, :3], 2))
        assert spectral <= float(scaled_row_norms(Symbols.of(ball), alone, Budget(), p)) <= spectral * (1 + 1e-9)


# --- by hand -------------------------------------------------------------------------------------------------------

U = 2.0**-53


def never() -> bool:
    return False


def known_parts(
    monkeypatch: pytest.MonkeyPatch, weights: Tensor, shares: Tensor, norm: float | None = None
) -> list[Tensor]:
    """Given scales, and a norm without the rounding of its certificate (that of one number, if none is given)."""
    asked = []

    def spectral(matrix: Tensor) -> Tensor:
        asked.append(matrix)
        return matrix.abs().max() if norm is None else matrix.new_tensor(norm)

    monkeypatch.setattr(scaled_sums, "_shares", lambda *_: (weights, shares))
    monkeypatch.setattr(scaled_sums, "spectral_norm_upper", spectral)
    monkeypatch.setattr(scaled_sums, "frobenius_norm_upper", lambda matrix: matrix.new_zeros(()))
    return asked


def test_one_number_is_rounded_up_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """All scales are powers of two, so that nothing rounds but what is stepped up."""
    (matrix,) = random_floats((1, 1, 1), torch.float64, Generator().manual_seed(1), (-3, 3))
    exact = abs(rationals(matrix)[0]) * 4
    one, sizes = torch.ones(1).double(), torch.full((1,), 4.0).double()
    monkeypatch.setattr(scaled_sums, "vector_norm_upper", lambda x, p: x.abs().max())
    for p, tied in itertools.product((2.0, math.inf), (False, True)):
        asked = known_parts(monkeypatch, one * 0.25, one * 16)
        found = rational(float(scaled_sums._norm(matrix, sizes, one * tied > 0, p, never)))
        assert exact <= found <= exact * (1 + 40 * rational(U))
        assert torch.equal(asked[0], matrix * 8 / (4 if p == math.inf else 1))


@pytest.mark.parametrize("part", ["rows", "columns"])
def test_lengths_of_scales_hold_for_long_sums(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares 1 + u + u + ...: a plain norm loses many of the small ones."""
    many = torch.full((4096,), 0.9 * U, dtype=torch.float64)
    many[0] = 1.0
    one = torch.ones(1).double()
    shares = (many, one) if part == "rows" else (one, many)
    known_parts(monkeypatch, *shares, norm=1.0)
    matrix = torch.ones(len(shares[0]), len(shares[1])).double()
    found = scaled_sums._norm(matrix, torch.ones(len(matrix)).double(), torch.zeros(len(matrix)) > 0, math.inf, never)
    exact = sum((ball(rational(math.sqrt(x))) ** 2 for x in many.tolist()), ball(0.0)).sqrt()
    assert at_least(float(found), exact) and at_most(float(found), exact * (1 + ball(1e-11)))


def test_lost_digits_of_scaled_entries_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two roundings of every entry, more than are made; what underflows in a quotient grows in the next one."""
    lost = []

    def frobenius(matrix: Tensor) -> Tensor:
        lost.append(matrix)
        return matrix.new_tensor(3.0)

    matrix, one = torch.tensor([[-3.0, 1e-320, 1e-320]], dtype=torch.float64), torch.ones(1).double()
    shares = torch.tensor([4.0, 1e-20, 1e20], dtype=torch.float64)
    known_parts(monkeypatch, one, shares, norm=2.0)
    monkeypatch.setattr(scaled_sums, "frobenius_norm_upper", frobenius)
    found = float(scaled_sums._norm(matrix, one, one < 0, math.inf, never))
    smallest = 2.0**-1022
    assert 2 * U * 1.5 <= float(lost[0][0, 0]) <= 8 * U * 1.5
    assert smallest / 1e-10 * 0.999 <= float(lost[0][0, 1]) <= smallest / 1e-10 * 1.01
    assert smallest <= float(lost[0][0, 2]) <= smallest * 1.01
    assert found == pytest.approx((2.0 + 3.0) * math.sqrt(4 + 1e20), rel=1e-12)
    with unrounded():
        assert float(scaled_sums._norm(matrix, one, one < 0, math.inf, never)) == pytest.approx(2e10, rel=1e-12)


def test_rows_and_columns_without_numbers_and_symbols_without_size_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = known_parts(monkeypatch, torch.ones(2).double(), torch.ones(2).double())
    matrix = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [7.0, 8.0, 9.0]]).double()
    matrix[3] = torch.tensor([7.0, 0.0, 9.0]).double()
    sizes = torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    found = scaled_sums._norm(matrix, sizes, torch.zeros(4) > 0, 2.0, never)
    assert asked[0].tolist() == [[1.0, 2.0], [3.0, 0.0]] and float(found) == pytest.approx(3 * math.sqrt(2))
    for broken in (math.inf, math.nan):
        for where in (0, 1):
            given = [matrix.clone(), sizes.clone()]
            given[where].view(-1)[0] = broken
            assert float(scaled_sums._norm(*given, torch.zeros(4) > 0, 2.0, never)) == math.inf
    assert float(scaled_sums._norm(0 * matrix, sizes, torch.zeros(4) > 0, 2.0, never)) == 0.0


def test_tied_symbols_share_the_largest_of_their_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.tensor([9.0, 16.0, 4.0, 1.0]).double()
    known_parts(monkeypatch, weights, torch.ones(1).double(), norm=1.0)
    tied = torch.tensor([False, True, True, False])
    found = scaled_sums._norm(torch.ones(4, 1).double(), torch.ones(4).double() * 2, tied, 2.0, never)
    assert float(found) == pytest.approx(math.sqrt(9 + 16 + 1))


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_errors_are_added_and_rounded_up(p: float) -> None:
    """Nothing else is there: the sum, or the Euclidean norm, of all errors."""
    many = torch.full((1024,), 0.9 * U, dtype=torch.float64)
    many[0] = 1.0
    for errors in (many if p == math.inf else many.sqrt(), torch.tensor([1 / 3], dtype=torch.float64)):
        nothing = forms_of(torch.zeros_like(errors), torch.zeros(2, len(errors)).double())
        given = Forms(nothing.centre, nothing.linear, errors[None, None])
        found = scaled_row_norms(symbols_of([1.0, 1.0]), given, Budget(), p)
        squares = sum((ball(x) ** (1 if p == math.inf else 2) for x in errors.tolist()), ball(0.0))
        assert at_least(float(found), squares if p == math.inf else squares.sqrt())
        assert float(found) == float(up(vector_norm_upper(errors, 1 if p == math.inf else 2)))
    zero = symbols_of([1.0])
    centre = torch.tensor([1.0, 2.0**-30], dtype=torch.float32)
    single = Forms(centre[None, None], torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2))
    rounded = scaled_row_norms(Symbols(*(x.float() for x in (zero.middle, zero.half)), None, 1.0), single, Budget(), p)
    exact = ball(1 + 2.0**-30) if p == math.inf else (ball(1.0) + ball(2.0**-60)).sqrt()
    assert rounded.dtype == torch.float32 and at_least(float(rounded), exact) and float(rounded) <= 1 + 2.0**-21


def test_only_so_many_entries_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaled_sums, "WIDEST", 3)
    for count, finite in ((3, True), (4, False)):
        given = forms_of(torch.ones(count).double(), torch.ones(2, count).double())
        assert math.isfinite(float(sums(symbols_of([1.0, 1.0]), given, Budget()))) == finite
        fewer = forms_of(torch.ones(count).double(), torch.ones(1, count).double())
        assert float(sums(symbols_of([1.0, 1.0]), fewer, Budget())) == math.inf
