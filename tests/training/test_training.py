"""Penalties of training: gradients against finite differences, values against the certified library, memory that is
kept, and what they do to a network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import jacobound as jb
from jacobound import training
from jacobound.arithmetic.intervals import Interval
from jacobound.operators.kinds import Convolution
from jacobound.operators.linear_maps import LinearMap
from jacobound.training.norms import frequency_blocks
from jacobound.training.pairs import dual_value, multipliers_of, oriented
from training_cases import NETWORKS, network, slope_and_difference

WHOLE = jb.WholeSpace()


networks = pytest.mark.parametrize("name", list(NETWORKS))

PENALTIES: dict[str, Callable[[training.Live], training.GlobalConstant]] = {
    "autolip": training.LogAutoLip,
    "gram": lambda live: training.LogAutoLip(live, training.GramIteration()),
    "pair": training.PairBound,
}


@networks
@pytest.mark.parametrize("penalty", list(PENALTIES))
def test_gradients_of_global_constants(name: str, penalty: str) -> None:
    module, _, live = network(name)
    value = PENALTIES[penalty](live)
    with torch.no_grad():  # away from the weights that multipliers were found for, where eigenvalues coincide
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        value()
    value.eval()  # at fixed vectors and multipliers
    slope, difference = slope_and_difference(module, value)
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-5)


@networks
def test_constants_agree_with_the_certified_ones(name: str) -> None:
    module, example, live = network(name)
    graph = jb.from_torch(module, example)
    certified = float(jb.lipschitz(graph, WHOLE, jb.AutoLip(), search=None).upper)
    pairs = float(jb.lipschitz(graph, WHOLE, jb.SeqLip(), search=None).upper)
    with torch.no_grad():
        power = float(training.LogAutoLip(live, training.PowerIteration(500))().exp())
        gram = float(training.LogAutoLip(live, training.GramIteration(10))().exp())
        pair = float(training.PairBound(live, training.PowerIteration(500))().exp())
    assert certified * (1 - 1e-3) <= power <= certified * (1 + 1e-9)
    assert certified * (1 - 1e-9) <= gram <= certified * 1.15  # of convolutions on a circle: looser on tiny maps
    assert pairs * (1 - 1e-3) <= pair <= certified * (1 + 1e-9)
    if name == "gelu":  # one pair covers the whole network
        assert pair == pytest.approx(pairs, rel=1e-6)
    if name in ("relu", "tanh"):
        assert pair < 0.95 * certified


def test_the_settled_gradient_is_that_of_the_norm() -> None:
    module, _, live = network("relu")
    weights = [layer.weight for layer in module.children() if isinstance(layer, nn.Linear)]
    found = torch.autograd.grad(training.LogAutoLip(live, training.PowerIteration(2000))(), weights)
    norms = [torch.linalg.matrix_norm(weight, 2).log() for weight in weights]
    for one, other in zip(found, torch.autograd.grad(torch.stack(norms).sum(), weights), strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_any_multipliers_bound_a_pair(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    p, n, q = (int(torch.randint(1, 6, (), generator=random)) for _ in range(3))
    left, right = oriented(normal(p, n), normal(n, q))
    ends = torch.stack((normal(n), normal(n))).sort(0)[0]
    decided = torch.rand(n, generator=random) < 0.3
    slopes = Interval(ends[0], torch.where(decided, ends[0], ends[1]))
    patterns = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * n).reshape(-1, n)
    chosen = slopes.lower + patterns * (slopes.upper - slopes.lower)
    largest = float(torch.linalg.matrix_norm((left * chosen.unsqueeze(1)) @ right, 2).amax())
    for multipliers in (normal(n).exp(), (4 * normal(n)).exp(), multipliers_of(left, right, slopes, None)):
        assert float(dual_value(left, right, slopes, multipliers)) >= largest * (1 - 1e-9)
    assert float(dual_value(left, right, slopes, multipliers_of(left, right, slopes, None))) <= 1.3 * largest + 1e-9


@given(st.integers(0, 10_000))
def test_frequencies_bound_a_convolution(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=random))

    groups, kernel, stride, dilation = number(1, 2), number(1, 3), number(1, 3), number(1, 2)
    size, padding = number(dilation * (kernel - 1) + 1, 7), number(0, 2)
    shape = (groups * number(1, 2), number(1, 2), kernel, kernel)
    weight = torch.randn(shape, generator=random, dtype=torch.float64)
    image = (groups * shape[1], size, size)
    operator = Convolution(weight, image, (stride,) * 2, (padding,) * 2, (dilation,) * 2, groups)
    exact = float(torch.linalg.matrix_norm(operator.materialise(), 2))
    blocks = torch.linalg.matrix_norm(frequency_blocks(operator), 2).amax()
    gram = training.GramIteration().norm(LinearMap(((operator,),)), torch.zeros(0))
    assert exact * (1 - 1e-9) <= float(blocks) <= float(gram) * (1 + 1e-9)


def test_multipliers_serve_weights_that_move() -> None:
    module, example, live = network("relu")
    bound = training.PairBound(live, training.PowerIteration(200))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(torch.rand_like(parameter) * 4)
        stale = float(bound().exp())
        bound.refresh()
        fresh = float(bound().exp())
    graph = jb.from_torch(module, example)
    pairs, product = (float(jb.lipschitz(graph, WHOLE, one, search=None).upper) for one in (jb.SeqLip(), jb.AutoLip()))
    assert pairs * 0.99 <= fresh <= stale * (1 + 1e-6) <= product * (1 + 2e-3)


def test_memory_moves_in_training_alone_and_is_saved() -> None:
    module, _, live = network("relu")
    penalty = training.PairBound(live)
    before = {name: value.clone() for name, value in penalty.state_dict().items()}
    assert any("memory" in name for name in before) and any("multipliers" in name for name in before)
    assert not any(parameter is other for parameter in penalty.parameters() for other in module.parameters())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    penalty.eval()
    assert torch.equal(penalty(), penalty())
    assert all(torch.equal(value, before[name]) for name, value in penalty.state_dict().items())
    penalty.train()
    for _ in range(5):
        penalty()
    assert not all(torch.equal(value, before[name]) for name, value in penalty.state_dict().items())
    other = training.PairBound(live)
    other.load_state_dict(penalty.state_dict())
    assert torch.equal(other.eval()(), penalty.eval()())


def test_a_dead_network_costs_nothing_and_breaks_nothing() -> None:
    module, _, live = network("relu")
    with torch.no_grad():
        module[2].weight.zero_()  # type: ignore[index]
    for penalty in (
        training.LogAutoLip(live),
        training.LogAutoLip(live, training.GramIteration()),
        training.PairBound(live),
    ):
        found = torch.autograd.grad(penalty(), list(module.parameters()), allow_unused=True)
        assert all(one is None or bool(torch.isfinite(one).all()) for one in found)


OPTIMISERS = [
    (training.LogAutoLip, torch.optim.SGD),
    (training.PairBound, torch.optim.AdamW),
    (training.LogAutoLip, torch.optim.RMSprop),
]


@pytest.mark.parametrize(("penalty", "optimiser"), OPTIMISERS)
def test_certified_constants_fall_with_any_optimiser(
    penalty: type[training.GlobalConstant], optimiser: type[torch.optim.Optimizer]
) -> None:
    module, example, live = network("relu")
    steps = optimiser(module.parameters(), lr=0.05)  # type: ignore[call-arg]
    value = penalty(live)

    def certified() -> float:
        return float(jb.lipschitz(jb.from_torch(module, example), WHOLE, jb.SeqLip(), search=None).upper)

    def closure() -> Tensor:
        steps.zero_grad()
        loss = value()
        loss.backward()
        return loss

    before = certified()
    for _ in range(12):
        steps.step(closure)  # type: ignore[arg-type]
    assert certified() < 0.9 * before


def test_functions_of_vectors_need_a_region_or_are_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 2)).double()
    live = training.Live(module, torch.zeros(1, 4))
    with torch.no_grad():
        found = float(training.LogAutoLip(live, training.PowerIteration(200))().exp())
    graph = jb.from_torch(module.eval(), torch.zeros(1, 4, dtype=torch.float64))
    assert found == pytest.approx(float(jb.lipschitz(graph, WHOLE, jb.AutoLip(), search=None).upper), rel=1e-4)
    with pytest.raises(jb.UnsupportedOpError, match="softmax"):
        training.LocalLipschitz(live, 0.1)

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) * self.two(x)

    gated, box = Gate().double(), jb.Box(torch.zeros(3), torch.ones(3))
    live = training.Live(gated, torch.zeros(1, 3))
    with pytest.raises(jb.InvalidRegionError):
        training.LogAutoLip(live)
    value = training.LogAutoLip(live, region=box).eval()
    slope, difference = slope_and_difference(gated, value)
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-5)
    with pytest.raises(jb.ShapeError, match="one set"):
        training.LogAutoLip(live, region=jb.Ball(torch.zeros(2, 3), 0.1))
