"""Parts of the SDP certificates on their own: error terms from both sides, thresholds, and what is left out."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import at_least, rational, rational_matrix, rationals
from jacobound.arithmetic.rounding import unrounded
from jacobound.certificates.dense.barrier import Barrier, Weights
from jacobound.certificates.dense.matrices import (
    SdpCore,
)
from jacobound.certificates.dense.proof import (
    LARGEST,
    SMALLEST,
    _doubt,
    _floor,
    _scaled_form,
    certified_constant,
    certify,
    dominant,
    is_feasible,
)
from small_cases import vector

INF = math.inf
UNIT = fmpq(1, 2**53)


def small_core(matrix: list[list[float]], radius: list[list[float]], outputs: int = 1, inputs: int = 1) -> SdpCore:
    one, other = (torch.tensor(part, dtype=torch.float64) for part in (matrix, radius))
    return SdpCore(one, other, outputs, inputs, (len(one) - outputs,) if len(one) > outputs else ())


def absolute(x: Tensor) -> fmpq_mat:
    return rational_matrix(x.abs())


def row_sums(x: fmpq_mat) -> list[fmpq]:
    return [sum((x[i, j] for j in range(x.ncols())), fmpq(0)) for i in range(x.nrows())]


# --- the certificate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3), (5, 3), (3, 40)])
def test_the_error_of_the_form_is_that_of_its_sums(shape: tuple[int, int]) -> None:
    """Two products and a root (3 units) on either side, and one sum: more is counted, but not much more."""
    middle = torch.randn(shape, generator=Generator().manual_seed(1), dtype=torch.float64)
    form, error = _scaled_form(middle, torch.ones(shape[0], dtype=torch.float64))
    sizes = row_sums(absolute(middle) * absolute(middle).transpose())
    for found, size in zip(error.tolist(), sizes, strict=True):
        assert at_least(found, (shape[1] + 10) * UNIT * size)
        assert rational(found) <= (shape[1] + 24) * UNIT * size * fmpq(1001, 1000)
    assert float((form - (torch.eye(shape[0]) - middle @ middle.T)).tril().abs().max()) < 1e-13


def test_forms_are_made_in_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    middle = torch.randn(7, 3, generator=Generator().manual_seed(1), dtype=torch.float64)
    whole, _ = _scaled_form(middle, torch.ones(7, dtype=torch.float64))
    monkeypatch.setattr("jacobound.certificates.dense.proof.ROWS", 3)
    striped, _ = _scaled_form(middle, torch.ones(7, dtype=torch.float64))
    assert float((whole - striped).tril().abs().max()) < 1e-13


def test_the_floor_covers_what_vanishes_in_products() -> None:
    """An entry times two scales may lose half of the smallest number times 1e50; only zero where nothing is claimed."""
    middle = torch.zeros(3, 4, dtype=torch.float64)
    assert 1e-270 < _floor(middle) < 1e-199
    assert bool((_scaled_form(middle, torch.ones(3, dtype=torch.float64))[1] == _floor(middle)).all())
    with unrounded():
        assert _floor(middle) == 0.0


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 5)])
@pytest.mark.parametrize("size", [1e-9, 0.3, 5.0])
def test_what_the_radius_can_change(shape: tuple[int, int], size: float) -> None:
    generator = Generator().manual_seed(2)
    middle = torch.randn(shape, generator=generator, dtype=torch.float64)
    radius = size * torch.rand(shape, generator=generator, dtype=torch.float64)
    c, r = absolute(middle), absolute(radius)
    least = row_sums(c * r.transpose() + r * c.transpose() + r * r.transpose())
    most = row_sums(c * r.transpose() + r * c.transpose() + 2 * r * r.transpose())
    for found, low, high in zip(_doubt(middle, radius).tolist(), least, most, strict=True):
        assert at_least(found, low)
        assert rational(found) <= high * (1 + fmpq(1, 10**13))


@pytest.mark.parametrize(
    ("entry", "radius", "inner"), [(1.0, 0.5, 4.0), (-1.5, 0.25, 0.01), (3.0, 0.0, 7.0), (0.0, 2.0, 3.0)]
)
def test_the_proof_begins_where_the_form_becomes_definite(entry: float, radius: float, inner: float) -> None:
    """One entry b of radius r: ``own > (|b| + r)^2 inner``, with r^2 counted twice."""
    core = small_core([[entry]], [[radius]])
    least = (abs(entry) + radius) ** 2 * inner
    enough = least + radius * radius * inner
    none = torch.zeros(0, dtype=torch.float64)
    assert not is_feasible(core, Weights(none, vector(inner), vector(least * (1 - 1e-12))))
    assert is_feasible(core, Weights(none, vector(inner), vector(enough * (1 + 1e-12))))


def test_multipliers_at_the_limits_are_used_and_those_beyond_are_not() -> None:
    none = torch.zeros(0, dtype=torch.float64)
    for limit, beyond in ((LARGEST, math.nextafter(LARGEST, INF)), (SMALLEST, math.nextafter(SMALLEST, 0.0))):
        core = small_core([[0.5]], [[0.0]])
        assert is_feasible(core, Weights(none, vector(limit), vector(limit)))
        assert not is_feasible(core, Weights(none, vector(limit), vector(beyond)))
        assert not is_feasible(core, Weights(none, vector(beyond), vector(limit)))


@pytest.mark.parametrize("norm", [(p, q) for p in (1.0, 2.0, INF) for q in (1.0, 2.0, INF)])
def test_constants_of_multipliers_are_rounded_up_and_no_more(norm: tuple[float, float]) -> None:
    """Against the formula as a rational, with numbers whose sums and quotients all round."""
    generator = Generator().manual_seed(3)
    for _ in range(20):
        weights = Weights(*(torch.rand(size, generator=generator).double() + 0.1 for size in (0, 3, 2)))
        core = SdpCore(torch.full((2, 3), 1e-3, dtype=torch.float64), torch.zeros(2, 3).double(), 2, 3, ())
        inverse, leaving = [1 / x for x in rationals(weights.inputs)], rationals(weights.outputs)
        square = (sum(inverse, fmpq(0)) if norm[0] == INF else max(inverse)) * (
            sum(leaving, fmpq(0)) if norm[1] == 1 else max(leaving)
        )
        found = rational(certified_constant(core, weights, norm))
        assert square <= found**2 <= square * (1 + fmpq(1, 10**13))


def test_long_sums_of_multipliers_in_the_worst_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of n numbers that lose n - 1 roundings, which the model allows."""
    count, exactly = 300, Tensor.sum
    ones = torch.ones(count, dtype=torch.float64)
    core = SdpCore(torch.full((1, count), 1e-9, dtype=torch.float64), torch.zeros(1, count).double(), 1, count, ())
    wide = SdpCore(core.matrix.T.contiguous(), core.radius.T.contiguous(), count, 1, ())
    none = torch.zeros(0, dtype=torch.float64)
    monkeypatch.setattr(Tensor, "sum", lambda x, *rest: exactly(x, *rest) * (1 - (x.shape[0] - 1) * 2.0**-53))
    entering = certified_constant(core, Weights(none, ones, vector(1.0)), (INF, 2.0))
    leaving = certified_constant(wide, Weights(none, vector(1.0), ones), (2.0, 1.0))
    assert rational(entering) ** 2 >= count and rational(leaving) ** 2 >= count


def test_a_core_without_inputs_or_outputs_has_no_constant() -> None:
    for inputs, outputs in ((0, 2), (2, 0), (0, 0)):
        core = SdpCore(*(torch.zeros(outputs, inputs, dtype=torch.float64) for _ in range(2)), outputs, inputs, ())
        ones = [torch.ones(size, dtype=torch.float64) for size in (0, inputs, outputs)]
        for norm in ((2.0, 2.0), (INF, 1.0)):
            assert certified_constant(core, Weights(*ones), norm) == 0.0


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("free", [False, True])
def test_dominant_weights_are_those_of_row_sums(outputs: int, free: bool) -> None:
    """With one layer of neurons by hand, and for any margin above 1 the form is diagonally dominant."""
    generator = Generator().manual_seed(5)
    matrix = torch.randn(outputs + 3, 5, generator=generator, dtype=torch.float64)
    matrix[outputs:, 2:] = 0
    core = SdpCore(matrix, 0.1 * matrix.abs(), outputs, 2, (3,))
    found = dominant(Barrier(core, False, free), 1.5)
    size = 1.1 * matrix.abs()
    sums = size.sum(0)
    neurons = 1.5 * size[outputs:, :2] @ sums[:2]
    leaving = 1.5 * size[:outputs] @ torch.cat((sums[:2], neurons * sums[2:]))
    assert torch.allclose(found.neurons, neurons, rtol=1e-12)
    assert torch.allclose(found.outputs, leaving if free else leaving.max().expand(outputs), rtol=1e-12)


def test_of_candidates_that_prove_something_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    core = small_core([[1.0]], [[0.0]])
    none = torch.zeros(0, dtype=torch.float64)
    tried = [Weights(none, vector(1.0), vector(size)) for size in (0.5, 4.0, 2.0)]
    monkeypatch.setattr("jacobound.certificates.dense.proof._candidates", lambda *rest: iter(tried))
    found = certify(Barrier(core, False, False), None, None, (2.0, 2.0))
    assert found.weights is tried[1] and found.value == pytest.approx(2.0, rel=1e-14)
