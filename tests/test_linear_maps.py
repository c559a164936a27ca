"""What sums and products of operators say about their own size, doubt and rounding, against exact numbers."""

from __future__ import annotations

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, outside, random_floats, rational, rational_matrix, rationals
from jacobound import linear_maps
from jacobound.linear_maps import LinearMap
from jacobound.operator_kinds import Dense, Identity, Scale
from jacobound.operators import LinearOperator
from jacobound.rounding import gamma

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def column(x: Tensor) -> fmpq_mat:
    return fmpq_mat(x.numel(), 1, rationals(x))


def uncertain(dtype: torch.dtype, generator: Generator, radius: int) -> tuple[LinearMap, list[list[fmpq_mat]]]:
    """Two chains of non-negative weights, some uncertain; and the matrices at the far end of their radii."""

    def draw(*shape: int, exponents: tuple[int, int] = (-3, 3)) -> Tensor:
        return random_floats(shape, dtype, generator, exponents).abs()

    scales = [Scale(draw(5), draw(5, exponents=(radius, radius))) for _ in range(3)]
    chains: tuple[tuple[LinearOperator, ...], ...] = (
        (Dense(draw(5, 4)), scales[0], Dense(draw(5, 5)), scales[1]),
        (Dense(draw(5, 4)), scales[2]),
    )

    def far(operator: LinearOperator) -> fmpq_mat:
        found = rational_matrix(operator.materialise())
        if isinstance(operator, Scale) and operator.radius is not None:
            found = found + rational_matrix(torch.diag(operator.radius))
        return found

    return LinearMap(chains), [[far(operator) for operator in chain] for chain in chains]


def image(chains: list[list[fmpq_mat]], x: fmpq_mat) -> fmpq_mat:
    total = fmpq_mat(5, 1, [fmpq(0)] * 5)
    for chain in chains:
        part = x
        for matrix in chain:
            part = matrix * part
        total = total + part
    return total


@both_dtypes
@pytest.mark.parametrize("radius", [-4, -30])
def test_sizes_and_doubts_hold_at_the_far_end_of_the_radii(dtype: torch.dtype, radius: int, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    for _ in range(10):
        linear, far = uncertain(dtype, generator, radius)
        x = random_floats((4,), dtype, generator, (-3, 3)).abs()
        stored = [[rational_matrix(operator.materialise()) for operator in chain] for chain in linear.chains]
        largest, plain = image(far, column(x)), image(stored, column(x))
        sizes, doubt = linear.sizes(x), linear.doubt(x)
        assert outside(torch.zeros_like(sizes), largest.entries(), sizes) == []
        assert outside(torch.zeros_like(doubt), (largest - plain).entries(), doubt) == []
        exact = torch.tensor([float(v.p) / float(v.q) for v in (largest - plain).entries()], dtype=torch.float64)
        assert torch.all(doubt.double() <= exact * (4 if radius == -4 else 1.001) + 1e-30)
        assert not linear.is_exact


@both_dtypes
@pytest.mark.parametrize("kind", ["sums", "products"])
def test_roundings_count_every_operator_and_every_sum(dtype: torch.dtype, kind: str) -> None:
    generator = Generator().manual_seed(4)
    if kind == "sums":  # nothing rounds but the sum of seven times x
        like = torch.zeros((), dtype=dtype)
        linear = LinearMap(tuple((Identity((200,), (200,), like),) for _ in range(7)))
        factor = [fmpq(7)] * 200
    else:
        factors = random_floats((6, 200), dtype, generator, (-2, 2)).abs()
        linear = LinearMap((tuple(Scale(one) for one in factors),))
        factor = [fmpq(1)] * 200
        for one in factors:
            factor = [a * b for a, b in zip(factor, rationals(one), strict=True)]
    x = random_floats((200,), dtype, generator, (-3, 3)).abs()
    missed = [abs(a - f * b) for a, f, b in zip(rationals(linear.apply(x)), factor, rationals(x), strict=True)]
    assert max(missed) > 0
    allowed = [rational(gamma(linear.roundings, x)) * size for size in rationals(linear.sizes(x))]
    assert all(m <= a for m, a in zip(missed, allowed, strict=True))
    assert linear.roundings <= 14


def test_products_that_vanish_on_the_way_are_in_the_floor() -> None:
    linear = LinearMap(
        (tuple(Scale(torch.tensor([value] * 2, dtype=torch.float64)) for value in (1e-300, 1e-300, 1e300)),)
    )
    assert not linear.apply(torch.ones(2).double()).any()
    assert 1e-300 <= linear.floor(0.0) <= 1e-5
    assert linear.floor(1e-200) >= 1e-200 * 1e-300


@pytest.mark.parametrize("error", [0.0, 1e-6, 1e-3])
def test_a_proved_norm_covers_the_error_of_its_gram_matrix(error: float) -> None:
    """Whatever was estimated: also numbers a little too low, of which the first try may lie just above the norm."""
    gram = torch.diag(torch.tensor([0.25, 0.125])).double()
    for step in range(100):
        estimate = 0.5 * (1 - 5e-7 * step)
        found = linear_maps._proved(gram.clone(), estimate, torch.tensor(error, dtype=torch.float64))
        assert rational(float(found)) ** 2 >= fmpq(1, 4) + rational(error)
        assert float(found) ** 2 <= (0.25 + error) * 9
