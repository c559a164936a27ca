"""Columns that are pushed together: neurons that none of them reaches drop out, and no bound changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

import jacobound as jb
from jacobound.jacobian.recursion import recursion

CHAINS = {
    "strides": (nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 2, dilation=2), nn.ReLU()),
    "pool": (nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, groups=2), nn.ReLU()),
    "smooth": (nn.Conv2d(1, 2, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 2), nn.Sigmoid()),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_bounds_do_not_depend_on_what_is_pushed_together(chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    layers = CHAINS[chain]
    body = nn.Sequential(*layers, nn.Flatten()).double()
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=0.6)
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    model = nn.Sequential(body, nn.Linear(body(x).shape[1], 3).double()).eval()
    region = jb.Ball(x[0], radius=0.15, p=float("inf"))
    found = []
    for together in (1, 5, 10**9):
        monkeypatch.setattr(recursion, "TOGETHER", together)
        monkeypatch.setattr(recursion, "SPARSE", 2.0 if together < 10**9 else 0.0)
        found.append(jb.bound_jacobian(jb.from_torch(model, x), region, jb.RecurJac()))
    for other in found[:2]:
        torch.testing.assert_close(other.lower, found[2].lower, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(other.upper, found[2].upper, rtol=1e-10, atol=1e-12)
    for _ in range(20):
        at = x + 0.15 * (2 * torch.rand_like(x) - 1)
        true = torch.autograd.functional.jacobian(model, at).reshape(3, 64)
        for each in found:
            lower, upper = each.lower.reshape(3, 64), each.upper.reshape(3, 64)
            assert (true >= lower - 1e-12).all() and (true <= upper + 1e-12).all()
