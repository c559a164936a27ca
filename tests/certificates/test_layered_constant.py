"""Constants of chains from both sides: what enters, what leaves, and weights that do not fit."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import rational, rational_matrix, rationals
from jacobound.certificates.dense.proof import LARGEST, SMALLEST
from jacobound.certificates.layered import proof as certificate
from jacobound.certificates.layered.chain import LayeredChain
from jacobound.certificates.layered.proof import (
    LayeredCertificate,
    _leaving,
    layered_constant,
)
from small_cases import drawn, number, symmetric, vector

INF = math.inf


# --- the constant ----------------------------------------------------------------------------------------------------


def one_layer(matrix: Tensor) -> LayeredChain:
    return LayeredChain((matrix,), (0.0,), (), ())


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_constants_of_one_layer_from_both_sides(p: float) -> None:
    """``sqrt(c_in max_j (W diag(y) W')_jj)``, the sum of inverses or the largest one, as rationals."""
    generator = Generator().manual_seed(6)
    for _ in range(20):
        matrix, entering = drawn(generator, 2, 3), torch.rand(3, generator=generator).double() + 0.1
        found = number(
            layered_constant(one_layer(matrix), LayeredCertificate(0.0, (p, INF), False, entering, vector(1, 1), ()))
        )
        w, y = rational_matrix(matrix), rationals(entering)
        largest = max(sum((w[j, k] ** 2 * y[k] for k in range(3)), fmpq(0)) for j in range(2))
        inverse = [1 / x for x in y]
        square = largest * (sum(inverse, fmpq(0)) if p == INF else max(inverse))
        assert square <= found**2 <= square * (1 + fmpq(1, 10**12))


@pytest.mark.parametrize(("p", "q"), [(2.0, 2.0), (INF, 1.0), (1.0, 2.0), (2.0, INF)])
def test_turned_certificates_are_of_the_transposed_chain_with_dual_norms(p: float, q: float) -> None:
    generator = Generator().manual_seed(7)
    matrix = drawn(generator, 2, 3)
    entering, leaving = (torch.rand(size, generator=generator).double() + 0.5 for size in (2, 3))
    dual = {1.0: INF, 2.0: 2.0, INF: 1.0}
    turned = LayeredCertificate(0.0, (p, q), True, entering, leaving, ())
    plain = LayeredCertificate(0.0, (dual[q], dual[p]), False, entering, leaving, ())
    found = layered_constant(one_layer(matrix), turned)
    assert found == layered_constant(one_layer(matrix.T.contiguous()), plain) < INF


def test_weights_that_do_not_fit_the_chain_prove_nothing() -> None:
    chain = one_layer(torch.ones(2, 3, dtype=torch.float64))
    good = LayeredCertificate(0.0, (2.0, 2.0), False, vector(1, 1, 1), vector(1, 1), ())
    assert layered_constant(chain, good) < INF
    for name, bad in (("entering", vector(1, 1)), ("leaving", vector(1, 1, 1)), ("multipliers", (vector(1),))):
        assert layered_constant(chain, replace(good, **{name: bad})) == INF  # type: ignore[arg-type]
    for limit, beyond in ((LARGEST, INF), (SMALLEST, 0.0)):
        assert certificate._fits(chain, replace(good, entering=vector(1, limit, 1)))
        assert not certificate._fits(chain, replace(good, entering=vector(1, math.nextafter(limit, beyond), 1)))
    huge = replace(chain, matrices=(torch.full((2, 3), 1e101, dtype=torch.float64),))
    assert layered_constant(huge, good) == INF
    assert layered_constant(replace(chain, matrices=(torch.zeros(2, 3, dtype=torch.float64),)), good) == 0.0


@pytest.mark.parametrize("q", [1.0, 2.0, INF])
def test_leaving_is_rounded_up_and_no_more(q: float) -> None:
    """Diagonal forms with weights in proportion: the answer is known."""
    for entries in ((2.0, 3.0, 0.7), (5.0,), (1e-30, 1e-28, 1e-29)):
        form = torch.diag(vector(*entries))
        weights = vector(*(1 / x for x in entries)) if q == 1 else torch.ones(len(entries), dtype=torch.float64)
        truth = sum(map(rational, entries), fmpq(0)) if q == 1 else rational(max(entries))
        assert truth <= number(_leaving(form, weights, q)) <= truth * (1 + fmpq(1, 10**9))
    for bad in (INF, math.nan):
        form = torch.eye(2, dtype=torch.float64)
        form[0, 0] = bad
        assert float(_leaving(form, vector(1, 1), q)) == INF
    generator = Generator().manual_seed(8)
    for _ in range(10):
        form = symmetric(generator, 3)
        weights = torch.rand(3, generator=generator).double() + 0.2
        largest = float(torch.linalg.eigvalsh(form * weights.sqrt().unsqueeze(1) * weights.sqrt())[-1])
        shape = largest / weights
        if q != INF:
            expected = float(shape.sum() if q == 1 else shape.max())
            assert expected * (1 - 1e-12) <= float(_leaving(form, weights, q)) <= expected * (1 + 1e-8)


def test_leaving_is_proved_whatever_the_eigenvalue_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little below the truth it is refused; sums of what was proved are rounded up."""
    monkeypatch.setattr(certificate, "EXCESS", (0.0,))
    entries = 0.5 + torch.rand(20, generator=Generator().manual_seed(1), dtype=torch.float64)
    for entry, units in itertools.product(entries.tolist(), range(12)):
        low = entry * (1 - units * 2.0**-53)
        monkeypatch.setattr(torch.linalg, "eigvalsh", lambda form, low=low: vector(low))
        assert float(_leaving(vector(0.0, entry, entry, 0.0).reshape(2, 2), vector(1, 1), 2.0)) >= entry
    count, exactly = 300, Tensor.sum
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda form: vector(1 + 100 * 2.0**-53))
    monkeypatch.setattr(Tensor, "sum", lambda x, *rest: exactly(x, *rest) * (1 - (count - 1) * 2.0**-53))
    eye = torch.eye(count, dtype=torch.float64)
    assert count <= number(_leaving(eye, torch.ones(count, dtype=torch.float64), 1.0)) < count + 1


def test_nothing_leaves_a_form_of_zero() -> None:
    for q in (1.0, 2.0, INF):
        assert 0.0 <= float(_leaving(torch.zeros(2, 2, dtype=torch.float64), vector(1, 1), q)) < 1e-240
