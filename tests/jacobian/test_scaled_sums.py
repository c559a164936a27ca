"""Sums of absolute values of affine forms: above every value that is possible, and near the best bound of its kind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import at_least, ball, rational, rationals
from jacobound import Budget
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import up
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
