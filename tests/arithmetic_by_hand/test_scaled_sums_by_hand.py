"""Single functions behind `jacobian/test_scaled_sums.py`, number by number."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from exact import at_least, at_most, ball, random_floats, rational, rationals
from jacobound.arithmetic.rounding import unrounded
from jacobound.jacobian.affine import scaled_sums

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
