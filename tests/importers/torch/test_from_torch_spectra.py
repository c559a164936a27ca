"""Fourier transforms, complex numbers, angles and means of scattered entries, from torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import jacobound as jb

PLACES = torch.tensor([[0, 0, 1, 1, 2, 2, 0, 1]])


def gathered(kind: str, include: bool, fill: float) -> Callable[[Tensor], Tensor]:
    def function(h: Tensor) -> Tensor:
        start = torch.full((len(h), 4), fill, dtype=h.dtype)
        return start.scatter_reduce(1, PLACES.expand(len(h), 8), h, kind, include_self=include)

    return function


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "rfft": lambda h: torch.view_as_real(torch.fft.rfft(h)),
    "rfft of more": lambda h: torch.view_as_real(torch.fft.rfft(h, n=11, norm="forward")),
    "rfft of less": lambda h: torch.fft.rfft(h, n=5, norm="ortho").imag,
    "filter": lambda h: torch.fft.irfft(torch.fft.rfft(h) * torch.tensor([1.0, 0.5, 0.25, 0.0, 0.0])),
    "odd irfft": lambda h: torch.fft.irfft(torch.fft.rfft(h)[:, :3] / 3, n=7),
    "fft": lambda h: torch.fft.fft(h).real - torch.fft.fft(h).imag,
    "fft of planes": lambda h: torch.fft.ifft2(torch.fft.fft2(h.reshape(-1, 2, 4)) * (1 + 2j)).imag,
    "rfft of planes": lambda h: torch.fft.irfft2(torch.fft.rfft2(h.reshape(-1, 2, 4), norm="ortho") + 1, norm="ortho"),
    "along channels": lambda h: torch.fft.ifft(h.reshape(-1, 4, 2), dim=1).real,
    "turned pairs": lambda h: torch.view_as_real(
        torch.view_as_complex(h.reshape(-1, 4, 2)) * torch.polar(torch.ones(4), torch.arange(4.0))
    ),
    "mean": gathered("mean", True, 0.5),
    "mean of own": gathered("mean", False, 0.5),
    "sum of own": gathered("sum", False, 0.5),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "largest of own": gathered("amax", False, 9.0),
    "smallest of own": gathered("amin", False, -9.0),
    "spectrum": lambda h: torch.fft.rfft(h).abs(),
    "product": lambda h: torch.fft.irfft(torch.fft.rfft(h[:, :4]) * torch.fft.rfft(h[:, 4:])),
    "angle": lambda h: torch.atan2(h[:, :4], h[:, 4:] + 3),
    "angle above": lambda h: torch.atan2(h[:, :4] + 4, h[:, 4:]),
}


def imported(function: Callable[[Tensor], Tensor]) -> tuple[jb.Graph, Callable[[Tensor], Tensor]]:
    torch.manual_seed(0)
    layer = nn.Linear(4, 8).double()

    def network(x: Tensor) -> Tensor:
        return function(layer(x))

    return jb.from_torch(network, torch.zeros(1, 4, dtype=torch.float64)), network


@pytest.mark.parametrize("called", [*LINEAR, *OTHERS])
def test_values_and_derivatives_are_those_of_torch(called: str) -> None:
    graph, network = imported((LINEAR | OTHERS)[called])
    points = 0.3 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([network(x[None])[0] for x in points])
    assert torch.allclose(graph(points).reshape(expected.shape), expected, rtol=0, atol=1e-6)
    bounds = jb.bound_jacobian(graph, jb.Ball(points, 1e-6))
    for x, low, high in zip(points, bounds.lower, bounds.upper, strict=True):
        exact = torch.autograd.functional.jacobian(lambda z: network(z[None])[0].flatten(), x)  # type: ignore[no-untyped-call]
        assert bool(((low - 1e-7 <= exact) & (exact <= high + 1e-7)).all())
        if called in LINEAR:
            assert float((high - low).max()) <= 1e-6


def test_what_stays_complex_or_jumps_is_refused() -> None:
    with pytest.raises(jb.UnsupportedOpError, match="complex; make real numbers"):
        imported(torch.fft.rfft)
    with pytest.raises(jb.UnsupportedOpError, match="complex"):
        imported(lambda h: torch.exp(torch.fft.rfft(h)).real)
    graph, _ = imported(lambda h: torch.atan2(h[:, :4], h[:, 4:]))
    with pytest.raises(jb.InvalidRegionError, match="reciprocal"):
        jb.bound_jacobian(graph, jb.Ball(torch.zeros(4, dtype=torch.float64), 3.0))
