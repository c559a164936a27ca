"""`from_torch` on continuous functions that are written with comparisons, signs and masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jacobound import Ball, bound_jacobian
from jacobound.errors import UnsupportedOpError
from jacobound.importers.torch.module import from_torch
from torch_agreement import agreement
from torch_models import Applied

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky": lambda h: torch.where(h > 0, h, 0.1 * h),
    "masked": lambda h: h * (h > 0) + (h - 1) * (h >= 1).to(h.dtype),
    "filled": lambda h: h.masked_fill(h < 0, 0.0),
    "other side": lambda h: torch.where(~(2 * h + 1 <= 0), h + 0.5, torch.zeros_like(h)),
    "both": lambda h: torch.where((h > -1) & (h < 1), h, torch.sign(h)),
    "huber": lambda h: torch.where(h.abs() < 1, 0.5 * h**2, h.abs() - 0.5),
    "exponential": lambda h: torch.where(h > 0, h, torch.exp(h) - 1),
    "logarithm of size": lambda h: torch.sign(h) * torch.log1p(h.abs()),
    "root of size": lambda h: torch.sign(h) * (torch.sqrt(h.abs() + 1) - 1),
    "hat": lambda h: torch.where(h < 0, h + 1, 1 - h) * (h.abs() < 1),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_are_those_of_torch(name: str) -> None:
    torch.manual_seed(1)
    module = Applied(CASES[name]).double()
    agreement(from_torch(module, torch.randn(1, 4, dtype=torch.float64)), module, (4,), 1e-9)


def test_lines_that_meet_are_one_kink() -> None:
    graph = from_torch(Applied(CASES["leaky"], nn.Identity()), torch.zeros(1, 1))
    across = bound_jacobian(graph, Ball(torch.zeros(1), 1.0))
    assert abs(float(across.lower) - 0.1) < 1e-7 and abs(float(across.upper) - 1) < 1e-12


@pytest.mark.parametrize(
    "function",
    [
        lambda h: torch.where(h > 0, h + 1e-9, 0.1 * h),
        lambda h: (h > 0).to(h.dtype),
        lambda h: torch.sign(h),
        lambda h: torch.where(h[:, :1] > 0, h[:, 1:2], h[:, 2:3]),
        lambda h: torch.where(h.abs() < 1, 0.5 * h**2, h.abs()),
        lambda h: h * (h.square() > 1),
    ],
)
def test_what_jumps_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedOpError, match=r"jumps.*Write relu, clamp"):
        from_torch(Applied(function).double(), torch.zeros(1, 4, dtype=torch.float64))
