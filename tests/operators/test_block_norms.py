"""The largest norm in a family of matrices: what is proved, from both sides, and what is not."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq
from torch import Tensor

from exact import bounds_spectral_norm, rational, rational_matrix
from jacobound.arithmetic.rounding import unrounded
from jacobound.operators import block_norms
from jacobound.operators.block_norms import Family, largest_norm
from small_cases import normal

BELOW = 1 - 1e-13  # what a singular value of torch may be off by


def family(matrices: Tensor) -> Family:
    return Family(*matrices.shape, lambda numbers: matrices[numbers])


def test_work_is_that_of_gram_matrices_and_factors() -> None:
    assert Family(5, 6, 7, lambda numbers: numbers).work == 5 * 36 * (7 + 2)


def test_norms_of_families_hold_over_the_rationals(seed: int) -> None:
    """The matrix with the largest norm, wherever it stands."""
    for k in range(10):
        matrices = 0.1 * normal(7, 3, 4, seed=10 * seed + k)
        truths = torch.linalg.matrix_norm(matrices, 2)
        for count in (1, 2, 7):
            found = float(largest_norm(family(matrices[:count])))
            assert all(bounds_spectral_norm(rational_matrix(matrix), found) for matrix in matrices[:count])
            assert found <= float(truths[:count].max()) * (1 + 1e-12)
        with unrounded():
            assert float(largest_norm(family(matrices))) == float(truths.max())


def test_families_of_rows_have_the_norms_of_vectors() -> None:
    rows = 0.3 * normal(20, 1, 5)
    found = float(largest_norm(family(rows)))
    largest = max(sum((x**2 for x in rational_matrix(row.T).entries()), fmpq(0)) for row in rows)
    assert largest <= rational(found) ** 2 <= largest * (1 + fmpq(1, 10**13))


def test_one_matrix_that_is_no_number_unbounds_all() -> None:
    for value in (math.nan, math.inf):
        matrices = 0.1 * normal(4, 2, 3)
        matrices[2, 1, 0] = value
        assert float(largest_norm(family(matrices))) == math.inf


def test_many_at_a_time_or_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = 0.1 * normal(30, 3, 4)
    found = float(largest_norm(family(matrices)))
    monkeypatch.setattr(block_norms, "CHUNK_ENTRIES", 1)
    assert family(matrices).step == 1
    assert float(largest_norm(family(matrices))) == pytest.approx(found, rel=1e-12)
    with unrounded():
        assert float(largest_norm(family(matrices))) == pytest.approx(found, rel=1e-12)
    monkeypatch.setattr(block_norms, "CHUNK_ENTRIES", 3 * (4 + 6) * 7)
    assert family(matrices).step == 7
