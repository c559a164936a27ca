"""Single functions behind `operators/test_linear_maps.py`, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Tensor

from exact import (
    rational,
    rational_matrix,
)
from jacobound.arithmetic.rounding import gamma
from jacobound.operators import linear_maps
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Dense, Scale
from jacobound.operators.linear_maps import LinearMap, doubt_norm, gram_norm
from small_cases import normal


@pytest.mark.parametrize("error", [0.0, 1e-6, 1e-3])
def test_a_proved_norm_covers_the_error_of_its_gram_matrix(error: float) -> None:
    """Whatever was estimated: also numbers a little too low, of which the first try may lie just above the norm."""
    gram = torch.diag(torch.tensor([0.25, 0.125])).double()
    for step in range(100):
        estimate = 0.5 * (1 - 5e-7 * step)
        found = linear_maps._proved(gram.clone(), estimate, torch.tensor(error, dtype=torch.float64))
        assert rational(float(found)) ** 2 >= fmpq(1, 4) + rational(error)
        assert float(found) ** 2 <= (0.25 + error) * 9


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize("error", [0.0, 1e-3])
def test_what_a_gram_matrix_proves_is_nearly_its_norm(error: float) -> None:
    for entry in (0.81, 0.25, 1e-3):
        gram = torch.diag(torch.tensor([entry, entry / 2], dtype=torch.float64))
        found = linear_maps._proved(gram, math.sqrt(entry), number(error))
        assert rational(float(found)) ** 2 >= rational(entry) + rational(error)
        if error == 0:
            assert float(found) <= math.sqrt(entry) * (1 + 1e-10)
    assert float(linear_maps._proved(torch.eye(2).double() * 4, 2.0, number(0.0))) == math.inf
    assert float(linear_maps._proved(torch.eye(2).double() * 0.25, 0.1, number(0.0))) == math.inf
    broken = torch.eye(2).double() * 0.25
    broken[1, 0] = math.nan
    assert float(linear_maps._proved(broken, 0.5, number(0.0))) == math.inf


def test_a_number_is_proved_to_bound_an_entry_from_just_above(monkeypatch: pytest.MonkeyPatch) -> None:
    """No float whose square is smaller passes, and one that is larger by some units does; with an error and without."""
    for k in range(200):
        entry, error = normal(2, seed=k).abs().clamp(0.01, 0.7).tolist()
        for lost in (0.0, error):
            for wanted in ((entry, 0.01)[k % 2],):
                square = rational(wanted) + rational(lost)
                for share, proved in ((fmpq(0), False), (fmpq(40, 2**53), True)):
                    goal = square * (1 + share)
                    bound = math.sqrt(float(goal.p) / float(goal.q))
                    while not proved and rational(bound) ** 2 > square:
                        bound = math.nextafter(bound, 0)
                    monkeypatch.setattr(linear_maps, "_tries", lambda *_, bound=bound: iter((bound,)))
                    found = float(linear_maps._proved(number([[wanted]]), 0.0, number(lost)))
                    assert found == (bound if proved else math.inf)


def test_the_error_of_a_gram_matrix_counts_every_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """gamma of all sums, forth and back, times the largest row sum of |M|' |M|; and what is found is rounded up."""
    seen = []

    def prove(gram: Tensor, estimate: float, error: Tensor) -> Tensor:
        seen.append((gram.clone(), float(error)))
        return number(0.7)

    monkeypatch.setattr(linear_maps, "_proved", prove)
    one, two = normal(3, 4), normal(4, 3, seed=1)
    one[0] *= 100
    uncertain = Scale(torch.ones(4).double(), torch.full((4,), 0.001, dtype=torch.float64))
    for linear in (
        LinearMap(((Dense(one),),)),
        LinearMap(((Dense(one.T),),)),
        LinearMap(((Dense(one), Dense(two)), (Scale(normal(4)),))),
        LinearMap(((Dense(two), uncertain),)),
    ):
        unit = 1024.0
        found = rational(float(gram_norm(linear, number(600.0))))
        gram, error = seen.pop()
        side = linear if linear.in_size <= linear.out_size else linear.transposed
        size = sum((_product(chain, True) for chain in side.chains[1:]), _product(side.chains[0], True))
        exact = sum((_product(chain) for chain in side.chains[1:]), _product(side.chains[0]))
        units = linear.roundings + linear.transposed.roundings
        reach = max(sum(row, fmpq(0)) for row in (size.transpose() * size).table()) / rational(unit) ** 2
        least = rational(gamma(units, gram)) * reach * (1 - fmpq(1, 10**5))
        assert least <= rational(error) <= least * (1 + fmpq(8, units))
        missed = exact.transpose() * exact * (1 / rational(unit) ** 2) - rational_matrix(gram)
        assert all(sum(map(abs, row), fmpq(0)) <= rational(error) for row in missed.table())
        doubt = fmpq(0) if linear.is_exact else rational(float(doubt_norm(linear)))
        assert rational(0.7) * 1024 + doubt <= found <= (rational(0.7) * 1024 + doubt) * (1 + fmpq(1, 10**15))


def _product(chain: tuple[LinearOperator, ...], absolute: bool = False) -> fmpq_mat:
    found = rational_matrix(torch.eye(chain[0].in_size).double())
    for operator in chain:
        matrix = operator.abs().materialise() if absolute else operator.materialise()
        found = rational_matrix(matrix) * found
    return found


def test_sums_of_norms_and_doubts_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_maps, "_proved", lambda *_: number(0.7))
    linear = LinearMap(((Scale(torch.ones(1).double(), torch.ones(1).double()),),))
    for k in range(40):
        doubt = float(normal(1, seed=k).abs())
        monkeypatch.setattr(linear_maps, "doubt_norm", lambda _linear, doubt=doubt: number(doubt))
        assert rational(float(gram_norm(linear, number(0.9)))) >= rational(0.7) + rational(doubt)


def test_entries_beside_the_diagonal_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """[[0, c], [c, 0]] has the eigenvalue c."""
    for k in range(100):
        entry = float(normal(1, seed=k).abs().clamp(0.01, 0.9))
        bound = math.sqrt(entry)
        while rational(bound) ** 2 > rational(entry):
            bound = math.nextafter(bound, 0)
        for tried, proved in ((bound, False), (bound * (1 + 2.0**-47), True)):
            monkeypatch.setattr(linear_maps, "_tries", lambda *_, tried=tried: iter((tried,)))
            gram = torch.tensor([[0.0, entry], [entry, 0.0]], dtype=torch.float64)
            assert float(linear_maps._proved(gram, 0.0, number(0.0))) == (tried if proved else math.inf)
