"""`FourierSDP`: exact where a torus is, above everything that slopes can reach elsewhere, and tighter than products."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn

import jacobound as jb
from jacobound import (
    AutoLip,
    Ball,
    Budget,
    FourierSDP,
    Graph,
    InvalidOptionError,
    LipSDP,
    Status,
    UnsupportedOpError,
    WholeSpace,
)
from jacobound.certificates.frequencies import stacks
from jacobound.certificates.frequencies.proof import stacked_constant
from jacobound.certificates.frequencies.search import Joined
from jacobound.certificates.frequencies.stacks import Stacked, stacked
from jacobound.certificates.layered.chain import LayeredChain, layered_chain
from jacobound.certificates.layered.proof import through_layer
from jacobound.graph.derivative import derivative
from jacobound.inputs.regions import Region
from jacobound.method import Query, facts_of_one
from jacobound.relaxation.ranges import IBP

INF = math.inf


class Skips(nn.Module):
    """``relu(two(relu(one x)) + x)`` between a first and a last map; the skip may have a map of its own."""

    def __init__(self, first: nn.Module, one: nn.Module, two: nn.Module, skip: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.one, self.two, self.skip, self.last = first, one, two, skip, last

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.two(torch.relu(self.one(x))) + self.skip(x)))


def normalised(channels: int) -> nn.Module:
    layer = nn.BatchNorm1d(channels)
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return layer


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "padding": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv1d(3, 2, 3, padding=1)), (2, 5)),
    "no padding": (lambda: nn.Sequential(nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Conv1d(3, 1, 3)), (1, 7)),
    "wide padding": (lambda: nn.Sequential(nn.Conv1d(1, 2, 2, padding=2), nn.ReLU(), nn.Conv1d(2, 2, 3)), (1, 3)),
    "stride": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv1d(2, 3, 3, 2, padding=1), nn.ReLU(), nn.Conv1d(3, 2, 2, 2)
        ),
        (1, 8),
    ),
    "stride that leaves a rest": (lambda: nn.Sequential(nn.Conv1d(1, 2, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 2)), (1, 10)),
    "dilation and groups": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 2, dilation=2, padding=1), nn.LeakyReLU(0.2), nn.Conv1d(4, 4, 3, groups=2, padding=1)
        ),
        (2, 5),
    ),
    "two axes": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, (2, 3), (1, 2))),
        (1, 3, 4),
    ),
    "normalisation and average pool": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=1), normalised(3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(3, 2, 3, padding=1)
        ),
        (2, 6),
    ),
    "dense tail": (
        lambda: nn.Sequential(
            nn.Conv1d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 3)
        ),
        (1, 5),
    ),
    "skip": (
        lambda: Skips(
            nn.Conv1d(1, 2, 3, padding=1), nn.Conv1d(2, 2, 3, padding=1), nn.Conv1d(2, 2, 3, padding=1),
            nn.Identity(), nn.Conv1d(2, 1, 3, padding=1),
        ),
        (1, 4),
    ),
    "skip over a stride": (
        lambda: Skips(
            nn.Conv1d(1, 2, 3, padding=1), nn.Conv1d(2, 2, 3, 2, padding=1), nn.Conv1d(2, 2, 3, padding=1),
            nn.Conv1d(2, 2, 1, 2), nn.Sequential(nn.Flatten(), nn.Linear(6, 2)),
        ),
        (1, 6),
    ),
}  # fmt: skip


def drawn(name: str, seed: int) -> Graph:
    make, shape = CASES[name]
    torch.manual_seed(seed)
    return jb.from_torch(make().double().eval(), torch.zeros(1, *shape).double())


def slopes_over(graph: Graph, region: Region) -> tuple[Graph, dict]:
    (domain,), _ = region.domains(graph)
    gates = derivative(graph.expanded(), facts_of_one(IBP().ranges(graph.expanded(), domain, Budget())))
    return gates.graph, dict(gates.slopes)


def reached(chain: LayeredChain, generator: Generator, starts: int) -> float:
    """The largest norm over vertices of the slopes that alternating ascents meet: no certificate is below it."""
    best = 0.0
    for _ in range(starts):
        signs = [torch.randint(0, 2, (len(half),), generator=generator).double() * 2 - 1 for half in chain.halves]
        for _ in range(8):
            parts = [m + s * h for m, s, h in zip(chain.middles, signs, chain.halves, strict=True)]
            before = [chain.matrices[0]]
            for matrix, slope in zip(chain.matrices[1:], parts, strict=True):
                before.append(matrix @ (slope.unsqueeze(1) * before[-1]))
            u, s, v = torch.linalg.svd(before[-1])
            best = max(best, float(s[0]))
            left = u[:, 0]
            for k in reversed(range(len(parts))):
                left = chain.matrices[k + 1].T @ left
                signs[k] = torch.where(left * (before[k] @ v[0]) >= 0, 1.0, -1.0).double()
                left = (chain.middles[k] + signs[k] * chain.halves[k]) * left
    return best


def constant(graph: Graph, region: Region, budget: Budget | None = None) -> float:
    (domain,), _ = region.domains(graph)
    return float(FourierSDP().constant(Query(graph, domain, budget or Budget())).value)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_no_choice_of_slopes_is_above(name: str, seed: int) -> None:
    graph = drawn(name, seed)
    chain = layered_chain(*slopes_over(graph, WholeSpace()))
    attained = reached(chain, Generator().manual_seed(seed), 12)
    found = constant(graph, WholeSpace())
    assert attained <= found <= 6 * attained
    # Of a region with fewer slopes it is no larger, and above what they reach.
    ball = Ball(torch.zeros(graph.input.shape), 0.1)
    local = constant(graph, ball)
    assert reached(layered_chain(*slopes_over(graph, ball)), Generator().manual_seed(seed), 4) <= local * (1 + 1e-9)
    assert local <= found * (1 + 1e-3)


def test_a_layer_behind_which_no_neuron_is_unstable_keeps_nothing() -> None:
    """Where all slopes are known there is no form to move, whatever the error of the layer is."""
    moved = through_layer(torch.zeros(0, 0).double(), torch.zeros(3, 0).double(), 1e-12)
    assert moved.shape == (3, 3) and float(moved.abs().max()) < 1e-150
    graph = drawn("dense tail", 2)
    assert 0 <= constant(graph, Ball(torch.zeros(graph.input.shape), 0.1)) <= constant(graph, WholeSpace()) * (1 + 1e-3)


@pytest.mark.parametrize("strides", [(2, 2), (3, 1), (1, 3), (2, 1, 2), (2, 3)])
@pytest.mark.parametrize("axes", [1, 2])
def test_windows_side_by_side_are_exact(strides: tuple[int, ...], axes: int) -> None:
    """Where nothing overlaps a torus is the map itself; active neurons are linear: the norm of the Jacobian."""
    torch.manual_seed(len(strides))
    kind, layers, channels = (nn.Conv1d, nn.Conv2d)[axes - 1], [], 1
    for stride in strides:
        layers += [kind(channels, 2, stride, stride), nn.ReLU()]
        nn.init.constant_(layers[-2].bias, 100.0)
        channels = 2
    module = nn.Sequential(*layers).double()
    shape = (1, *[2 * math.prod(strides)] * axes)
    point = torch.zeros(shape, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(module, point.unsqueeze(0)).reshape(-1, point.numel())
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    found = constant(jb.from_torch(module, point.unsqueeze(0)), Ball(point, 0.01))
    assert truth <= found * (1 + 1e-12) and found == pytest.approx(truth, rel=1e-7)


def test_a_torus_is_long_enough_and_all_its_frequencies_count() -> None:
    """A difference of neighbours on a map of two entries: its norm is 1, on a torus of two entries it vanishes."""
    layer = nn.Conv1d(1, 1, 3, padding=1, bias=False).double()
    for taps, length, least, most in (
        ((1.0, 0.0, -1.0), 2, 1.0, 3**0.5),
        ((1.0, 1.0, 1.0), 40, 2.99, 3.0),
        ((1.0, -1.0, 1.0), 41, 2.99, 3.0),
        ((-1.0, 2.0, 1.0), 40, 2.8, 8**0.5),
    ):
        with torch.no_grad():
            layer.weight[:] = torch.tensor(taps).double()
        found = constant(jb.from_torch(layer, torch.zeros(1, 1, length).double()), WholeSpace())
        assert least <= found <= most * (1 + 1e-9)


def network_of(name: str) -> Stacked:
    return stacked(*slopes_over(drawn(name, 0), WholeSpace()))[0]


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_smoothed_value(name: str) -> None:
    joined = Joined(network_of(name))
    at = joined.start(1.5)
    assert at is not None
    at = at + 0.1 * torch.rand(len(at), generator=Generator().manual_seed(1), dtype=torch.float64)
    here = joined.evaluate(at, 0.1)
    assert here.gradient is not None and here.least <= here.value
    for k in range(len(at)):
        step = torch.zeros_like(at)
        step[k] = 1e-5
        slope = (joined.evaluate(at + step, 0.1).smooth - joined.evaluate(at - step, 0.1).smooth) / 2e-5
        assert slope == pytest.approx(float(here.gradient[k]), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["stride", "dense tail", "skip"])
def test_what_is_proved_is_what_was_searched_rounded_up(name: str) -> None:
    network = network_of(name)
    joined = Joined(network)
    at = joined.start(1.5)
    assert at is not None
    proved = stacked_constant(network, at.exp())
    assert proved == pytest.approx(math.exp(joined.value(at) / 2), rel=1e-8) and proved * proved > 0
    for bad in (torch.full_like(at, math.nan), at.exp() * 1e-6, -at.exp(), at.exp()[1:]):
        assert stacked_constant(network, bad) == INF


def test_nearly_the_dense_certificate_on_long_maps_and_below_products() -> None:
    torch.manual_seed(3)
    layers = (nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv1d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv1d(3, 2, 1))
    graph = jb.from_torch(nn.Sequential(*layers).double(), torch.zeros(1, 2, 24).double())
    (domain,), _ = WholeSpace().domains(graph)
    found = constant(graph, WholeSpace())
    dense = float(LipSDP(IBP()).constant(Query(graph, domain, Budget())).value)
    products = float(AutoLip().constant(Query(graph, domain, Budget())).value)
    assert dense * (1 - 1e-3) <= found <= 1.1 * dense and found < 0.9 * products


def test_the_default_asks_for_it_and_other_norms_are_converted() -> None:
    graph = drawn("padding", 1)
    default = jb.lipschitz(graph, WholeSpace(), norm=2)
    assert "FourierSDP" in default.details
    alone = jb.lipschitz(graph, WholeSpace(), FourierSDP(), norm=2)
    wide = jb.lipschitz(graph, WholeSpace(), jb.Best(FourierSDP()), norm=(INF, 2))
    assert float(wide.upper) == pytest.approx(float(alone.upper) * 10**0.5, rel=1e-9)


def test_refusals_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = (nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    dense = jb.from_torch(nn.Sequential(*layers).double(), torch.zeros(1, 3).double())
    (domain,), _ = WholeSpace().domains(dense)
    known = float(LipSDP(IBP()).constant(Query(dense, domain, Budget())).value)
    assert constant(dense, WholeSpace()) == pytest.approx(known, rel=1e-3)
    with monkeypatch.context() as patched:
        patched.setattr(stacks, "chain_bytes", lambda graph: None)
        with pytest.raises(UnsupportedOpError, match="Use LipSDP"):
            constant(dense, WholeSpace())
    with pytest.raises(InvalidOptionError, match="Best"):
        jb.lipschitz(dense, WholeSpace(), FourierSDP(), norm=(INF, 2))
    graph = drawn("stride", 0)
    (domain,), _ = WholeSpace().domains(graph)
    short = FourierSDP().constant(Query(graph, domain, Budget(seconds=1e-9).started_now()))
    assert short.status is Status.TIME_LIMIT and constant(graph, WholeSpace()) <= float(short.value) < INF


def test_what_lies_outside_of_the_map_is_cut_off_between_layers() -> None:
    """On a torus without the cut these three nearly linear layers have norm 3; zero padding makes it 4.97."""
    kernels = ([-1.0, 1.0, -1.0], [-1.0, 0.0, 2.0], [1.0, 1.0, 1.0])
    layers: list[nn.Module] = []
    for kernel in kernels:
        layer = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), bias=False).double()
        layer.weight.data.copy_(torch.tensor(kernel, dtype=torch.float64).reshape(1, 1, 1, 3))
        layers += [layer, nn.LeakyReLU(0.99)]
    module = nn.Sequential(*layers[:-1]).eval()
    point = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    graph = jb.from_torch(module, point)
    jacobian = torch.func.jacrev(module)(point).detach().reshape(4, 4)
    assert float(torch.linalg.matrix_norm(jacobian, 2)) > 4.8
    found = jb.lipschitz(graph, jb.WholeSpace(), jb.FourierSDP())
    assert 4.97 <= float(found.upper) < 12.0
