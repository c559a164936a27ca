"""Gram iteration: Schatten norms from above, what is counted for rounding, gradients, shapes."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq
from torch import Tensor

from exact import bounds_spectral_norm, rational, rational_matrix, rationals
from jacobound import ShapeError
from jacobound.arithmetic.rounding import gamma, unrounded
from jacobound.operators import gram_iteration as module
from jacobound.operators.gram_iteration import gram_iteration
from small_cases import normal


@pytest.mark.parametrize("size", [1.0, 1e-200, 1e200])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_each_step_doubles_the_order_of_the_norm(size: float, steps: int) -> None:
    """The Schatten norm of order 2^(steps + 1)."""
    order = 2 ** (steps + 1)
    for rows, columns in ((3, 5), (5, 3), (4, 4), (1, 6), (6, 1)):
        matrix = normal(rows, columns)
        values = torch.linalg.svdvals(matrix)
        expected = float((values / values[0]).pow(order).sum() ** (1 / order) * values[0]) * size
        for moved in (size * matrix, size * matrix.expand(2, 3, rows, columns)):
            found = gram_iteration(moved, steps)
            assert found.shape == moved.shape[:-2]
            assert bool((found >= expected * (1 - 1e-13)).all())
            assert bool((found <= expected * (1 + 1e-12)).all())
            with unrounded():
                assert torch.allclose(gram_iteration(moved, steps), found, rtol=1e-12)


def test_bounds_hold_over_the_rationals(seed: int) -> None:
    for k in range(20):
        matrix = normal(3, 1, seed=20 * seed + k)
        squares = sum((x * x for x in rationals(matrix)), fmpq(0))
        for steps in (0, 1, 3):
            found = rational(float(gram_iteration(matrix, steps)))
            assert squares <= found**2 <= squares * (1 + fmpq(1, 10**13))
        entry = matrix[:1]
        assert abs(rational(float(entry))) <= rational(float(gram_iteration(entry, 0)))
        wide = normal(2, 3, seed=k)
        assert all(bounds_spectral_norm(rational_matrix(wide), float(gram_iteration(wide, s))) for s in (0, 1, 6))


def test_numbers_near_the_smallest_are_bounded() -> None:
    matrix = torch.tensor([[3.0, 5.0]], dtype=torch.float64) * 5e-324
    for steps in (0, 1, 4):
        assert bounds_spectral_norm(rational_matrix(matrix), float(gram_iteration(matrix, steps)))


def test_no_entries_and_nothing_but_zeros() -> None:
    assert gram_iteration(torch.zeros(2, 0, 3)).tolist() == [0, 0]
    assert gram_iteration(torch.zeros(2, 3, 0)).tolist() == [0, 0]
    assert gram_iteration(torch.zeros(0, 3, 2)).tolist() == []
    assert float(gram_iteration(torch.zeros(0, 3))) == float(gram_iteration(torch.zeros(3, 0))) == 0
    zero = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    assert float(gram_iteration(zero.detach())) < 1e-4
    with unrounded():
        found = gram_iteration(zero)
        assert float(found.detach()) == 0
        (gradient,) = torch.autograd.grad(found, zero)
    assert not gradient.any()
    with pytest.raises(ShapeError, match="two axes"):
        gram_iteration(torch.zeros(3))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_that_are_none_unbound_their_matrix_alone(value: float) -> None:
    matrices = normal(3, 4, 2)
    matrices[1, 2, 0] = value
    found = gram_iteration(matrices)
    assert torch.isfinite(found).tolist() == [True, False, True]
    assert float(found[1]) == math.inf


def test_the_smaller_gram_matrix_is_formed_and_its_sums_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def spy(terms: int, like: Tensor) -> float:
        counted.append((terms, tuple(like.shape[-2:])))
        return gamma(terms, like)

    monkeypatch.setattr(module, "gamma", spy)
    for shape in ((7, 3), (3, 7), (2, 7, 3), (2, 3, 7), (2, 2, 3, 7)):
        counted.clear()
        gram_iteration(normal(*shape), 3)
        assert [seen for _, seen in counted] == [(7, 3), (3, 3), (3, 3)]
        assert all(terms >= rows for terms, (rows, _) in counted)


def test_no_more_than_the_rounding_of_products_is_added() -> None:
    """In float32, where it shows: one column, whose norm is that of Frobenius."""
    count = 4001
    for size in (0.53, 0.75, 0.98):
        column = torch.full((count, 1), size / math.sqrt(count))
        truth = math.sqrt(sum(float(x) ** 2 for x in column))
        allowed = 0.5 * (gamma(count + 2, column) + 4 * gamma(count + 6, column)) + 1e-5
        found = float(gram_iteration(column, 1))
        assert truth * (1 + 0.4 * gamma(count, column)) <= found <= truth * (1 + allowed)


def test_scales_are_powers_of_two() -> None:
    sizes = torch.tensor([1.0, 0.75, 0.5, 3.0, 1e-300, 0.0, math.inf, math.nan], dtype=torch.float64)
    found = module._power_of_two_above(sizes)
    assert found.tolist() == [2.0, 1.0, 1.0, 4.0, 2.0**-996, 1.0, 1.0, 1.0]
