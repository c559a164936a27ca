"""Parts of operators: uncertain weights that are moved, told apart, or wide beside their middle."""

from __future__ import annotations

import pytest
import torch
from flint import fmpq

from exact import rational, rationals
from jacobound import ShapeError
from jacobound.operators.kinds import Scale, Sparse
from small_cases import normal

CPU = torch.device("cpu")


def test_radii_are_kept_where_nothing_is_rounded(seed: int) -> None:
    weight, radius = normal(1, 50, seed=seed), normal(1, 50, seed=seed + 1).abs()
    index = torch.arange(50)[None]
    for moved in (
        Scale(weight[0], radius[0]).to(CPU, torch.float64).radius,
        Sparse(weight, index, (50,), radius).to(CPU, torch.float64).radius,
    ):
        assert moved is not None
        for found, exact in zip(rationals(moved), rationals(radius), strict=True):
            assert exact <= found <= exact * (1 + fmpq(1, 10**14))


def test_radii_grow_by_what_rounding_moves(seed: int) -> None:
    weight, radius = normal(1, 50, seed=seed), 1e-9 * normal(1, 50, seed=seed + 1).abs()
    index = torch.arange(50)[None]
    for operator in (Scale(weight[0], radius[0]), Sparse(weight, index, (50,), radius)):
        moved = operator.to(CPU, torch.float32)
        assert moved.radius is not None
        factor = moved.factor if isinstance(moved, Scale) else moved.weight
        numbers = zip(rationals(factor), rationals(moved.radius), rationals(weight), rationals(radius), strict=True)
        for there, wide, here, narrow in numbers:
            least = abs(there - here) + narrow
            assert least <= wide <= least * (1 + fmpq(1, 10**6))


def test_wide_radii_beside_small_factors_are_rounded_up() -> None:
    for k in range(60):
        radius, size = normal(2, seed=k).abs().tolist()
        truth = rational(radius) * rational(size)
        for weight in (0.0, 1e-200):
            table, wide = torch.full((1, 1), weight).double(), torch.full((1, 1), radius, dtype=torch.float64)
            magnitude = torch.tensor([size], dtype=torch.float64)
            for operator in (Scale(table[0], wide[0]), Sparse(table, torch.tensor([[0]]), (1,), wide)):
                assert truth <= rational(float(operator.slack(magnitude))) <= truth * (1 + fmpq(1, 10**14))


def test_axes_beside_a_sparse_map_tell_it_from_another() -> None:
    """Of the same shapes, weights and positions."""
    weight, index = torch.ones(1, 2, dtype=torch.float64), torch.tensor([[1, 0]])
    before, after = Sparse(weight, index, (2,), None, (2,), ()), Sparse(weight, index, (2,), None, (), (2,))
    assert (before.in_shape, before.out_shape) == (after.in_shape, after.out_shape)
    assert before.structure() != after.structure()
    assert before.structure() == Sparse(2 * weight, index, (2,), None, (2,), ()).structure()


@pytest.mark.parametrize("column", [[0, 1, 1], [1, 0, 1], [2, 2, 0], [-1, 2, 2]])
def test_a_position_twice_for_one_output_is_refused_wherever_it_stands(column: list[int]) -> None:
    index = torch.tensor([[0, 1], [1, 2], [2, 0]])
    Sparse(torch.ones(3, 2).double(), index, (3,))
    index[:, 1] = torch.tensor(column)
    with pytest.raises(ShapeError, match="twice for one output"):
        Sparse(torch.ones(3, 2).double(), index, (3,))
