"""Single functions behind `operators/test_norms.py`, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from exact import bounds_spectral_norm, rational_matrix
from jacobound.operators import norms
from jacobound.operators.block_norms import _definite, gram
from jacobound.operators.kinds import Convolution, Dense, Scale
from jacobound.operators.norms import linear_norm, operator_norm
from small_cases import normal

BELOW = 1 - 1e-13  # what a singular value of torch may be off by


def true_norm(matrix: Tensor, p: float) -> float:
    return float(torch.linalg.matrix_norm(matrix, p)) if matrix.numel() else 0.0


def test_a_norm_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Dense(normal(6, 5))
    first = operator_norm(operator, 2)
    monkeypatch.setattr(norms, "_whole", lambda *_: pytest.fail("asked again"))
    assert operator_norm(operator, 2) == first
    assert operator_norm(operator, 2, torch.ones(6, dtype=torch.bool)) == first


@pytest.mark.slow
def test_no_bound_below_the_norm_is_proved() -> None:
    """The largest floats below the norm, where a plain factorisation would often succeed."""
    plain = 0
    for seed in range(120):
        matrix = normal(3, 4, seed=seed) * 0.2
        exact, bound = rational_matrix(matrix), true_norm(matrix, 2)
        while bounds_spectral_norm(exact, bound):
            bound = math.nextafter(bound, 0)
        low, batch = torch.tensor(bound, dtype=torch.float64), matrix.unsqueeze(0)
        frobenius = torch.linalg.matrix_norm(batch)
        assert not bool(_definite(gram(batch), low, frobenius, 4).any())
        _, info = torch.linalg.cholesky_ex(low * low * torch.eye(3).to(matrix) - gram(matrix))
        plain += int(info == 0)
    assert plain > 3
    # A long sum that loses its small terms: the computed Gram matrix is too small by thousands of units.
    row = torch.full((4001,), 2.0**-28, dtype=torch.float64)
    row[0] = 0.5
    matrix = torch.stack((row, 0.25 * row))
    exact, bound = rational_matrix(matrix), true_norm(matrix, 2) * (1 + 1e-12)
    while bounds_spectral_norm(exact, bound):
        bound *= 1 - 5e-16
    low, batch = torch.tensor(bound, dtype=torch.float64), matrix.unsqueeze(0)
    assert not bool(_definite(gram(batch), low, torch.linalg.matrix_norm(batch), 4001).any())


def test_scales_of_channels_are_merged_into_large_convolutions(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    kernel = Convolution(normal(4, 3, 3, 3, seed=seed), (6, 9, 8), (1, 1), (1, 1), (1, 1), 2)
    factors = normal(6, seed=seed + 1)[:, None, None].expand(6, 9, 8)
    outer = normal(4, seed=seed + 2)[:, None, None].expand(4, 9, 8)
    monkeypatch.setattr(norms, "LARGEST_ORDER", 1)
    for share, most in ((0.0, 1.2), (1e-6, 1.2), (0.5, 6.0)):
        last = Scale(outer, share * outer.abs())
        for chain in ((Scale(factors), kernel, last), (last, kernel.transpose(), Scale(factors))):
            matrix = chain[2].materialise() @ chain[1].materialise() @ chain[0].materialise()
            merged = norms._merged_convolution(chain)
            assert merged is not None
            assert true_norm(merged[0].materialise() - matrix, 2) <= float(merged[1])
            truth = true_norm(matrix, 2) * (1 + share)  # when all factors are at the same end
            assert truth * BELOW <= float(linear_norm([chain], 2)) <= truth * most
    assert norms._merged_convolution((Scale(normal(6, 9, 8)), kernel)) is None
