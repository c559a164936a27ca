"""Single functions behind `operators/test_block_norms.py`, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq
from torch import Tensor

from exact import rational
from jacobound.operators import block_norms
from jacobound.operators.block_norms import Family, _definite, gram, largest_norm
from small_cases import normal


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def family(matrices: Tensor) -> Family:
    return Family(*matrices.shape, lambda numbers: matrices[numbers])


def test_the_ceiling_is_not_part_of_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = 0.1 * normal(30, 3, 4)
    found = float(largest_norm(family(matrices)))
    assert float(largest_norm(family(matrices), found * (1 + 1e-9))) == found
    assert float(largest_norm(family(matrices), found)) == math.inf
    flat = normal(5, 3, 1) * 0.1 * normal(5, 1, 4, seed=1)  # of rank one: nothing has to be factorised
    alone = float(largest_norm(family(flat)))
    assert float(largest_norm(family(flat), alone)) == math.inf
    assert float(largest_norm(family(flat), alone * (1 + 1e-15))) == alone
    monkeypatch.setattr(block_norms, "_definite", lambda *_: pytest.fail("above the ceiling nothing is worth a proof"))
    assert float(largest_norm(family(matrices), found * 0.9)) == math.inf


def test_nothing_is_proved_where_the_search_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refused(grams: Tensor, bound: Tensor, *_: object) -> Tensor:
        tried.append(float(bound))
        return torch.zeros(len(grams), dtype=torch.bool)

    monkeypatch.setattr(block_norms, "_definite", refused)
    assert float(largest_norm(family(0.1 * normal(3, 2, 2)))) == math.inf
    assert tried == sorted(tried)
    assert 1.001 < tried[-1] / tried[0] < 1.01


def definite(gram_entry: float, square: fmpq, frobenius: float = 0.0, terms: int = 0) -> bool:
    """Whether a root of `square`, not rounded up, is proved to bound a single entry."""
    bound = math.sqrt(float(square.p) / float(square.q))
    while rational(bound) ** 2 > square:
        bound = math.nextafter(bound, 0)
    grams = torch.full((1, 1, 1), gram_entry, dtype=torch.float64)
    return bool(_definite(grams, number(bound), torch.tensor([frobenius]).double(), terms))


@pytest.mark.parametrize("terms", [10, 1000, 100000])
@pytest.mark.parametrize("frobenius", [0.5, 1.0, 40.0])
def test_the_error_of_gram_matrices_is_paid_for(terms: int, frobenius: float) -> None:
    """gamma times the square of the Frobenius norm, and not much more."""
    unit = fmpq(1, 2**53)
    lost = terms * unit / (1 - terms * unit) * rational(frobenius) ** 2
    entry = rational(0.25)
    assert not definite(0.25, entry + lost, frobenius, terms)
    assert definite(0.25, entry + lost * (1 + fmpq(3, terms)) + fmpq(1, 10**14), frobenius, terms)


def test_a_single_entry_is_proved_from_just_above() -> None:
    """No float whose square is smaller passes, and one that is larger by some units does."""
    for k in range(200):
        entry = float(normal(1, seed=k).abs().clamp(0.01, 0.9))
        assert not definite(entry, rational(entry))
        assert definite(entry, rational(entry) * (1 + fmpq(32, 2**53)))


def test_what_vanishes_in_a_gram_matrix_is_paid_for() -> None:
    tiny = fmpq(1, 2**1022)
    assert not definite(0.0, 1000 * tiny, 0.0, 1000)
    assert definite(0.0, 10**5 * tiny, 0.0, 1000)
    assert definite(0.0, 10**4 * tiny, 0.0, 10)


def test_larger_numbers_are_not_trusted() -> None:
    """The scale of a family keeps norms below 1; beyond the square root of 2 nothing is said."""
    grams = torch.full((2, 1, 1), 0.25, dtype=torch.float64)
    assert _definite(grams, number(1.4), torch.zeros(2).double(), 1).tolist() == [True, True]
    assert _definite(grams, number(1.5), torch.zeros(2).double(), 1).tolist() == [False, False]
    assert _definite(grams, number(math.nan), torch.zeros(2).double(), 1).tolist() == [False, False]


def test_each_matrix_of_a_batch_is_judged_by_itself() -> None:
    matrices = torch.stack((0.5 * torch.eye(3), 0.7 * torch.eye(3), torch.full((3, 3), 0.2))).double()
    matrices[0, 0, 0] = math.nan
    grams = gram(matrices)
    assert _definite(grams, number(0.65), torch.ones(3).double(), 3).tolist() == [False, False, True]
    grams[2, 2, 0] = math.inf
    assert _definite(grams, number(0.8), torch.ones(3).double(), 3).tolist() == [False, True, False]


def test_the_matrix_that_is_factorised_lies_low_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below ``t^2 I - G`` by what the Gram matrix and the factorisation may lose, over the rationals."""
    seen = []
    factorise = torch.linalg.cholesky_ex

    def spy(matrices: Tensor) -> object:
        seen.append(matrices.clone())
        return factorise(matrices)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", spy)
    unit = fmpq(1, 2**53)
    for k, frobenius in enumerate((0.0, 1e-6, 0.3, 2.0)):
        matrices = 0.1 * normal(2, 4, 6, seed=k)
        _definite(gram(matrices), number(0.8), torch.tensor([frobenius, frobenius]).double(), 6)
        lost = 6 * unit / (1 - 6 * unit) * rational(frobenius) ** 2
        rate = 7 * unit / (1 - 7 * unit)
        for matrix, low in zip(gram(matrices), seen.pop(), strict=True):
            trace = sum((rational(x) for x in low.diagonal().tolist()), fmpq(0))
            for entry, lowered in zip(matrix.diagonal().tolist(), low.diagonal().tolist(), strict=True):
                taken = rational(0.8) ** 2 - rational(entry) - rational(lowered)
                least = lost + rate / (1 - rate) * trace
                assert least <= taken <= 2 * least + 10 * unit
            assert torch.equal(low.tril(-1), -matrix.tril(-1))


def test_entries_beside_the_diagonal_are_paid_for() -> None:
    """[[0, c], [c, 0]] has the norm c."""
    for k in range(100):
        entry = float(normal(1, seed=k).abs().clamp(0.01, 0.9))
        bound = math.sqrt(entry)
        while rational(bound) ** 2 > rational(entry):
            bound = math.nextafter(bound, 0)
        grams = torch.tensor([[[0.0, entry], [entry, 0.0]]], dtype=torch.float64)
        assert not _definite(grams, number(bound), torch.zeros(1).double(), 0).any()
        assert _definite(grams, number(bound * (1 + 2.0**-47)), torch.zeros(1).double(), 0).all()
