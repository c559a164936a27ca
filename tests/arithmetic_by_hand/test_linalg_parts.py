"""Parts of certified linear algebra that larger results hide: powers of two, shifts, single uncertain entries."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq, fmpq_mat

from exact import at_least, bounds_spectral_norm, random_floats, rational, rational_matrix, rationals, special_numbers
from jacobound import ShapeError
from jacobound.arithmetic import linalg
from jacobound.arithmetic.linalg import psd_upper_shift, spectral_norm_upper, spectral_norm_upper_interval
from jacobound.arithmetic.rounding import tiny, unit


def test_powers_of_two_are_powers_and_the_largest_below() -> None:
    generator = torch.Generator().manual_seed(1)
    special = [abs(x) for x in special_numbers(torch.float64) if x]
    numbers = torch.cat((torch.tensor(special, dtype=torch.float64),
                         random_floats((200,), torch.float64, generator, (-1070, 1020)).abs()))  # fmt: skip
    for size, power in zip(numbers.tolist(), linalg._power_of_two_below(numbers).tolist(), strict=True):
        assert math.frexp(power)[0] == 0.5
        assert power <= size < 2 * power or power == 2.0**1023
    others = torch.tensor([0.0, math.inf, math.nan], dtype=torch.float64)
    assert linalg._power_of_two_below(others).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("size", [1, 3, 40, 500])
def test_the_shift_covers_its_theorem_with_underflow(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for exponents in ((-3, 0), (-1060, -1030)):
        diagonal = random_floats((size,), torch.float64, generator, exponents).abs()
        gamma = fmpq(size + 1, 2**53) / (1 - fmpq(size + 1, 2**53))
        exact = gamma / (1 - gamma) * sum(rationals(diagonal), fmpq(0))
        floor = (size + 1) * (size + 2) * rational(tiny(torch.float64))
        shift = psd_upper_shift(diagonal).item()
        assert at_least(shift, exact + floor)
        assert rational(shift) <= 4 * exact + 20 * floor


@pytest.mark.parametrize(("row", "column"), list(itertools.product(range(2), range(3))))
def test_one_uncertain_entry_counts(row: int, column: int) -> None:
    middle = torch.randn(2, 3, dtype=torch.float64)
    for width in (1e-9, 0.5, 20.0):
        upper = middle.clone()
        upper[row, column] += width
        bound = spectral_norm_upper_interval(middle, upper).item()
        for corner in (middle, upper):
            assert bounds_spectral_norm(fmpq_mat(2, 3, rationals(corner)), bound)


@pytest.mark.slow
def test_what_a_gram_matrix_loses_grows_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares that round away beside a sum of ones: the error bound must know how large that sum is."""
    rows, roundoff = 800, unit(torch.float64)
    matrix = torch.zeros(rows, 2, dtype=torch.float64)
    matrix[: rows // 2, 0] = 1.0
    matrix[rows // 2 :, 0] = (15 * roundoff) ** 0.5
    matrix[0, 1] = 2.0**-30
    lost = sum((entry**2 for entry in rationals(matrix[:, 0])), fmpq(0)) - rational((matrix.T @ matrix)[0, 0].item())
    assert lost > 2 * rows * rational(roundoff)
    exact, eigenvalues = rational_matrix(matrix), torch.linalg.eigvalsh
    for steps in range(0, 3 * rows, 2):
        with monkeypatch.context() as patch:
            low = 1 - steps * roundoff
            patch.setattr(torch.linalg, "eigvalsh", lambda x, factor=low: eigenvalues(x) * factor)
            assert bounds_spectral_norm(exact, spectral_norm_upper(matrix).item()), steps


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_number_is_proved_whatever_the_estimate(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate that is a few units too small: none of the numbers that come may be below the norm."""
    roundoff, refused = unit(torch.float64), 0
    for entry in (1.0, 1.5, 1.0 + 2.0**-20):
        matrix = torch.full((size, size), entry, dtype=torch.float64)
        norm = size * rational(entry)
        for steps in range(400):
            with monkeypatch.context() as patch:
                low = (size * entry) ** 2 * (1 - steps * roundoff)
                patch.setattr(torch.linalg, "eigvalsh", lambda x, low=low: x.new_tensor([[low]] * len(x)))
                frobenius = linalg.frobenius_norm_upper(matrix).expand(2)
                found, again = linalg._proved_norms(matrix.expand(2, -1, -1), frobenius)
            assert torch.equal(found, again)
            assert rational(found.item()) >= norm, steps
            refused += found.item() > size * entry * (1 + 1e-14)
    assert refused, "all estimates were large enough"


def test_intervals_that_are_no_matrices_are_refused() -> None:
    for bad in (torch.zeros(3), torch.full((2, 2, 2), math.inf)):
        with pytest.raises(ShapeError, match="two axes"):
            spectral_norm_upper_interval(bad, bad)


def test_eigenvalues_of_what_has_none_are_nan_and_the_others_right() -> None:
    good = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    bad = torch.tensor([[math.inf, 0.0], [0.0, 1.0]], dtype=torch.float64)
    for spoilt in (bad, torch.full_like(bad, math.nan)):
        batch = torch.stack((good, spoilt, 3 * good))
        values, (again, vectors) = linalg.eigenvalues(batch), linalg.eigenvectors(batch)
        assert torch.equal(values.isnan(), again.isnan())
        assert values.isnan().any(1).tolist() == [False, True, False]
        torch.testing.assert_close(values[[0, 2]], torch.tensor([[1.0, 3.0], [3.0, 9.0]], dtype=torch.float64))
        rebuilt = vectors[2] @ torch.diag(again[2]) @ vectors[2].T
        torch.testing.assert_close(rebuilt, 3 * good)
    assert linalg.eigenvalues(bad).isnan().all() and linalg.eigenvectors(bad)[0].isnan().all()
