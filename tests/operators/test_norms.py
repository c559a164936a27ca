"""Norms of operators, and of sums and products of them, against dense matrices, rationals and balls."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import at_least, bounds_spectral_norm, rational_matrix
from jacobound import ShapeError
from jacobound.operators.base import LinearOperator
from jacobound.operators.block_norms import Family, largest_norm
from jacobound.operators.circulant import circulant_norm
from jacobound.operators.estimates import estimate_norm_by_power_iteration, estimate_spectral_norm, lanczos
from jacobound.operators.gram_iteration import gram_iteration
from jacobound.operators.kinds import Blocks, Convolution, Dense, Identity, Scale, Scatter, Select, Sparse
from jacobound.operators.linear_maps import LinearMap, gram_norm
from jacobound.operators.norms import linear_norm, norms_of_rows, operator_norm
from small_cases import normal

EXPONENTS = (1.0, 2.0, math.inf)
BELOW = 1 - 1e-13  # what a singular value of torch may be off by


def true_norm(matrix: Tensor, p: float) -> float:
    return float(torch.linalg.matrix_norm(matrix, p)) if matrix.numel() else 0.0


def kinds(seed: int) -> list[LinearOperator]:
    """One of every kind with exact weights, and their adjoints."""
    like = torch.zeros((), dtype=torch.float64)
    index = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, -1]])
    found: list[LinearOperator] = [
        Identity((2, 3), (6,), like),
        Dense(normal(5, 4, seed=seed)),
        Dense(normal(3, 7, seed=seed), (2, 2)),
        Blocks(normal(4, 3, 5, seed=seed)),
        Blocks(normal(2, 3, 4, 1, seed=seed), (2,)),
        Scale(normal(3, 4, seed=seed)),
        Select(torch.tensor([0, 0, 1, -1, 2]), (4,), like),
        Sparse(normal(2, 6, seed=seed), index, (6,), None, (2,), (3,)),
        Convolution(normal(4, 3, 3, 3, seed=seed), (3, 7, 6), (2, 1), (1, 1), (1, 1)),
        Convolution(normal(4, 2, 3, seed=seed), (4, 9), (1,), (2,), (2,), 2),
        Convolution(normal(2, 1, 2, 2, 2, seed=seed), (1, 3, 4, 3), (1, 2, 1), (0, 1, 1), (1, 1, 2)),
    ]
    return [*found, *(operator.transpose() for operator in found)]


@pytest.mark.parametrize("p", EXPONENTS)
def test_norms_of_every_kind_are_those_of_the_matrix(p: float, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    for operator in kinds(seed):
        matrix = operator.materialise()
        truth, found = true_norm(matrix, p), float(operator_norm(operator, p))
        assert truth * BELOW <= found <= truth * (1 + 1e-9), type(operator)
        kept = torch.rand(operator.out_shape, generator=generator) < 0.5
        truth, found = true_norm(matrix[kept.flatten()], p), float(operator_norm(operator, p, kept))
        assert truth * BELOW <= found <= truth * (1 + 1e-9), type(operator)


def test_norms_hold_over_the_rationals_where_plain_singular_values_do_not(seed: int) -> None:
    below = 0
    for k in range(12):
        weight = normal(4, 3, seed=100 * seed + k)
        exact = rational_matrix(weight)
        below += not bounds_spectral_norm(exact, true_norm(weight, 2))
        for operator in (
            Dense(weight),
            Dense(weight.T),
            Convolution(weight.reshape(4, 3, 1), (3, 5), (1,), (0,), (1,)),
        ):
            assert bounds_spectral_norm(exact, float(operator_norm(operator, 2)))
        blocks = torch.stack((weight, 0.5 * weight))
        assert bounds_spectral_norm(exact, float(operator_norm(Blocks(blocks), 2)))
        embedded = Convolution(weight.reshape(4, 3, 1), (3, 5), (1,), (0,), (1,))
        assert bounds_spectral_norm(exact, float(circulant_norm(embedded)))
    assert below > 2, "the plain values would pass as well: the test shows nothing"


def test_moved_entries_have_closed_norms() -> None:
    like = torch.zeros((), dtype=torch.float64)
    twice = Select(torch.tensor([0, 0, 1, -1]), (2,), like)
    assert [float(operator_norm(twice, p)) for p in (1, math.inf)] == [2, 1]
    assert math.sqrt(2) <= float(operator_norm(twice, 2)) <= math.sqrt(2) * (1 + 1e-14)
    assert [float(operator_norm(Scatter(twice), p)) for p in (1, math.inf)] == [1, 2]
    nothing = Select(torch.tensor([-1, -1]), (2,), like)
    four = Select(torch.tensor([0, 0, 0, 0]), (2,), like)
    assert [float(operator_norm(nothing, p)) for p in EXPONENTS] == [0, 0, 0]
    assert float(operator_norm(four, 2)) == 2
    assert float(operator_norm(Identity((2, 2), (4,), like), 2)) == 1


@pytest.mark.parametrize("p", EXPONENTS)
def test_uncertain_weights_are_covered(p: float, seed: int) -> None:
    """At every corner of the box of weights; the nearest corner is nearly met."""
    radius = 0.1 * normal(2, 3, seed=seed + 5).abs()
    index = torch.tensor([[0, 1, 2], [1, 2, -1]])
    for make in (
        lambda w, r: Sparse(w, index, (3,), r),
        lambda w, r: Scale(w.flatten(), r.flatten() if r is not None else r),
    ):
        weight = normal(2, 3, seed=seed)
        operator = make(weight, radius)
        chain = (operator, Dense(normal(2, operator.out_size, seed=seed + 1)))
        single, both = float(operator_norm(operator, p)), float(linear_norm([chain], p))
        plus = float(linear_norm([(operator,), (Dense(normal(operator.out_size, operator.in_size, seed=9)),)], p))
        attained = [0.0, 0.0, 0.0]
        for signs in itertools.product((-1.0, 1.0), repeat=6):
            matrix = make(weight + radius * torch.tensor(signs).double().reshape(2, 3), None).materialise()
            maps = (
                matrix,
                chain[1].materialise() @ matrix,
                matrix + normal(operator.out_size, operator.in_size, seed=9),
            )
            attained = [max(value, true_norm(moved, p)) for value, moved in zip(attained, maps, strict=True)]
        for truth, found in zip(attained, (single, both, plus), strict=True):
            assert truth * BELOW <= found <= truth * 1.25


def test_norms_of_degenerate_operators() -> None:
    zero = Convolution(torch.zeros(2, 1, 3, dtype=torch.float64), (1, 4), (1,), (1,), (1,))
    for p in EXPONENTS:
        assert float(operator_norm(zero, p)) == 0
        assert float(operator_norm(Dense(normal(3, 3)), p, torch.zeros(3, dtype=torch.bool))) == 0
        assert float(operator_norm(Dense(torch.full((2, 2), math.nan).double()), p)) == math.inf
        assert float(operator_norm(Blocks(torch.full((2, 2, 2), math.inf).double()), p)) == math.inf
    for scale in (1e-200, 1e-160, 1e160, 1e300):
        weight = normal(8, 6) * scale
        kernel = weight.reshape(4, 4, 3)
        truth = true_norm(normal(8, 6), 2) * scale
        assert truth * BELOW <= float(operator_norm(Dense(weight), 2)) <= truth * (1 + 1e-9)
        large = Convolution(kernel, (4, 9), (1,), (1,), (1,))
        unscaled = replace(large, weight=normal(8, 6).reshape(4, 4, 3))
        assert float(circulant_norm(large)) == pytest.approx(float(circulant_norm(unscaled)) * scale, rel=1e-9)
    assert float(circulant_norm(Convolution(torch.full((2, 2, 1), math.nan), (2, 3), (1,), (0,), (1,)))) == math.inf
    with pytest.raises(ShapeError, match="p = 1, 2 and inf"):
        operator_norm(Dense(normal(2, 2)), 3)


def test_norms_in_float32_are_rounded_up(seed: int) -> None:
    for operator in kinds(seed):
        single = Dense(operator.materialise().to(torch.float32))
        exact = single.weight.to(torch.float64)
        for p in EXPONENTS:
            found = operator_norm(single, p)
            assert found.dtype == torch.float32
            assert true_norm(exact, p) <= float(found) * (1 + 1e-13)
            assert float(found) <= true_norm(exact, p) * (1 + 1e-6)


# --- families, sums and products ------------------------------------------------------------------------------------


def test_the_largest_norm_of_a_family_survives_a_bad_ranking(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The first guesses come from the smallest matrices; those that fail raise the bound."""
    matrices = normal(60, 4, 6, seed=seed) * torch.linspace(0.001, 0.1, 60, dtype=torch.float64)[:, None, None]
    truth = max(true_norm(matrix, 2) for matrix in matrices)
    family = Family(60, 4, 6, lambda numbers: matrices[numbers])  # whatever `matrices` is then
    assert truth * BELOW <= float(largest_norm(family)) <= truth * (1 + 1e-12)
    monkeypatch.setattr("jacobound.operators.block_norms.POWER_STEPS", 0)
    assert truth * BELOW <= float(largest_norm(family)) <= truth * (1 + 1e-12)
    assert float(largest_norm(family, truth * 0.5)) == math.inf
    matrices = 0.05 * normal(60, 4, 6, seed=seed)  # all about as large as the first ones
    truth = max(true_norm(matrix, 2) for matrix in matrices)
    assert truth * BELOW <= float(largest_norm(family)) <= truth * (1 + 1e-12)


@pytest.mark.parametrize("p", EXPONENTS)
def test_what_stands_at_the_ends_of_a_product_counts(p: float) -> None:
    """Copies do, permutations and padding do not; alone and with reshapes."""
    like, weight = torch.zeros((), dtype=torch.float64), Dense(normal(4, 3))
    copies = Select(torch.tensor([0, 1, 2, 3, 3, 1]), (4,), like)
    padding = Select(torch.tensor([3, -1, 1, 0, 2]), (4,), like)
    reshape = Identity((5,), (5, 1), like)
    for chain in ((weight, copies), (weight, padding, reshape), (copies.transpose(), weight.transpose())):
        matrix = torch.eye(chain[0].in_size, dtype=torch.float64)
        for operator in chain:
            matrix = operator.materialise() @ matrix
        found = float(linear_norm([chain], p))
        assert true_norm(matrix, p) * BELOW <= found <= true_norm(matrix, p) * (1 + 1e-9)


@pytest.mark.parametrize("p", EXPONENTS)
def test_sums_and_products_are_taken_together(p: float, seed: int) -> None:
    like = torch.zeros((), dtype=torch.float64)
    identity = (Identity((6,), (6,), like),)
    one, two = Dense(normal(6, 6, seed=seed)), Dense(normal(4, 6, seed=seed + 1))
    chain = (one, Select(torch.tensor([0, 2, 2, 5, -1, 1]), (6,), like), two)
    matrices = {
        ((identity, (one,))): torch.eye(6, dtype=torch.float64) + one.weight,
        ((chain,)): two.weight @ chain[1].materialise() @ one.weight,
        ((chain, (two,))): two.weight @ chain[1].materialise() @ one.weight + two.weight,
    }
    for chains, matrix in matrices.items():
        truth, found = true_norm(matrix, p), float(linear_norm(chains, p))
        assert truth * BELOW <= found <= truth * (1 + 1e-9)


def test_what_cancels_is_nearly_zero_and_never_below() -> None:
    like = torch.zeros((), dtype=torch.float64)
    opposite = Scale(-torch.ones(5, dtype=torch.float64))
    for p in EXPONENTS:
        assert 0 <= float(linear_norm([(Identity((5,), (5,), like),), (opposite,)], p)) <= 1e-5
    third = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    almost = [(Dense(third), Dense(third)), (Dense(-third),)]
    exact = rational_matrix(third) * rational_matrix(third) - rational_matrix(third)
    assert bounds_spectral_norm(exact, float(linear_norm(almost, 2)))
    column = sum((abs(exact[i, 0]) for i in range(3)), fmpq(0))  # all rows and columns are equal
    assert column > 0
    assert all(at_least(float(linear_norm(almost, p)), column) for p in (1, math.inf))


def test_a_wrong_estimate_proves_nothing(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    weight = Dense(normal(7, 5, seed=seed))
    truth = true_norm(weight.weight, 2)
    for share in (0.5, 0.97, 1 - 1e-4, 1 - 1e-9, 1.5):
        with monkeypatch.context() as patch:
            patch.setattr(
                "jacobound.operators.linear_maps.gram_estimate",
                lambda _map, _gram, unit, share=share: share * truth / unit,
            )
            assert truth * BELOW <= float(gram_norm(LinearMap(((weight,),)), torch.tensor(50.0).double()))


def test_errors_of_the_gram_matrix_are_paid_for() -> None:
    """Weights of very different size, whose products lose what the bound must keep."""
    for seed, size in itertools.product(range(6), (3, 4)):
        generator = Generator().manual_seed(seed)
        weight = torch.randn(size, size, generator=generator, dtype=torch.float64)
        weight = weight * 2.0 ** torch.randint(-20, 20, (size, 1), generator=generator)
        inner = 1e8 * torch.ones(size, size, dtype=torch.float64) + weight
        chains = [(Dense(weight), Dense(inner)), (Dense(-(inner @ weight)),)]  # nearly zero
        exact = rational_matrix(inner) * rational_matrix(weight) - rational_matrix(inner @ weight)
        linear = LinearMap(tuple(chains))
        assert bounds_spectral_norm(exact, float(gram_norm(linear, torch.tensor(1e12).double())))


# --- estimates and Gram iteration -------------------------------------------------------------------------------------


def test_estimates_lie_below_the_norm_and_close_to_it(seed: int) -> None:
    for operator in kinds(seed):
        truth = true_norm(operator.materialise(), 2)
        assert truth * (1 - 1e-9) <= estimate_spectral_norm(operator) <= truth * (1 + 1e-12)
    weight, offset = normal(20, 30, seed=seed), normal(20, seed=seed)
    power = estimate_norm_by_power_iteration(lambda x: weight @ x + offset, (30,), 100)
    assert true_norm(weight, 2) * 0.99 <= power <= true_norm(weight, 2) * (1 + 1e-12)
    assert estimate_norm_by_power_iteration(lambda x: 0 * x, (3,)) == 0
    assert lanczos(lambda x: 0 * x, 300) == 0


def test_power_iteration_stays_below_on_flat_spectra() -> None:
    """Why it is called an estimate."""
    spectrum = torch.linspace(1.0, 0.999, 100, dtype=torch.float64)
    assert estimate_norm_by_power_iteration(lambda x: spectrum * x, (100,), 100) < 1 - 1e-5
    assert 1 <= float(operator_norm(Dense(torch.diag(spectrum)), 2)) <= 1 + 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gram_iteration_holds_and_converges(dtype: torch.dtype, seed: int) -> None:
    for rows, columns, scale in ((1, 4, 1.0), (5, 3, 1e-30), (3, 5, 1e30), (40, 60, 1.0)):
        matrix = (scale * normal(rows, columns, seed=seed)).to(dtype)
        found = [float(gram_iteration(matrix, steps)) for steps in (0, 2, 5, 9)]
        if rows < 40:
            assert all(bounds_spectral_norm(rational_matrix(matrix), value) for value in found)
        truth = true_norm(matrix.to(torch.float64), 2)
        assert truth * BELOW <= found[3] <= truth * (1.001 if dtype == torch.float32 else 1 + 1e-7)
    batch = normal(2, 3, 6, 4, seed=seed).to(dtype)
    each = torch.stack([gram_iteration(matrix) for matrix in batch.flatten(0, 1)]).reshape(2, 3)
    assert torch.allclose(gram_iteration(batch), each)
    assert float(gram_iteration(torch.full((2, 2), math.nan, dtype=dtype))) == math.inf


@pytest.mark.parametrize(("dtype", "small"), [(torch.float64, 2.0**-28), (torch.float32, 2.0**-13 * 0.8)])
def test_gram_iteration_pays_for_products_that_lose_terms(dtype: torch.dtype, small: float) -> None:
    column = torch.full((4001,), small, dtype=dtype)
    column[0] = 0.5
    matrix = torch.stack((column, 0.25 * column), 1)
    assert all(bounds_spectral_norm(rational_matrix(matrix), float(gram_iteration(matrix, k))) for k in (1, 2, 5))


def test_gradients_of_gram_iteration_are_those_of_the_norm(seed: int) -> None:
    matrix = normal(6, 4, seed=seed).requires_grad_()
    (gradient,) = torch.autograd.grad(gram_iteration(matrix, 9), matrix)
    left, _, right = torch.linalg.svd(matrix.detach())
    assert torch.allclose(gradient, torch.outer(left[:, 0], right[0]), atol=1e-6)
    zero = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(gram_iteration(zero), zero)
    assert not gradient.any()


@pytest.mark.parametrize("p", (1.0, 2.0, math.inf))
def test_operators_into_and_out_of_a_single_number_have_norms(p: float) -> None:
    """A node without axes, as the mean over everything leaves one."""
    weight = torch.tensor([0.6, -0.8, 1.5], dtype=torch.float64)
    into = Sparse(weight, torch.arange(3), (3,))
    for operator, dual in ((into, {1.0: math.inf, math.inf: 1.0}.get(p, p)), (into.transpose(), p)):
        exact = float(torch.linalg.vector_norm(weight, ord=dual))
        for found in (
            operator_norm(operator, p),
            linear_norm([(operator,), (operator,)], p) / 2,
            norms_of_rows(operator, p, torch.ones(2, *operator.out_shape, dtype=torch.bool))[1],
        ):
            assert exact <= float(found) * (1 + 1e-12) <= exact * (1 + 1e-6)
