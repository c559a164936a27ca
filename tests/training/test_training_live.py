"""The live graph of a module: it follows parameters and statistics, gradients reach them, and what it can not follow
is refused by name."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import jacobound as jb
from jacobound import training
from jacobound.training.tape import Tape


class Residual(nn.Module):
    """Convolution, stored statistics, slopes that are trained, a skip, a bias that starts at zero, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.statistics, self.slopes = nn.BatchNorm2d(4), nn.PReLU(4)
        self.shift, self.last = nn.Parameter(torch.zeros(4, 1, 1)), nn.Linear(36, 3)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.slopes(self.statistics(self.first(x)))
        y = y + torch.tanh(self.second(y)) + self.shift
        return self.last(self.drop(nn.functional.max_pool2d(y, 2).flatten(1)))


class Joined(nn.Module):
    """A trained constant among the inputs, and trained divisors."""

    def __init__(self) -> None:
        super().__init__()
        self.constant, self.last, self.divisor = (
            nn.Parameter(torch.zeros(5)),
            nn.Linear(9, 3),
            nn.Parameter(torch.ones(3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x, self.constant.expand(len(x), -1)], 1)) / self.divisor


class Attentive(nn.Module):
    """Packed projections, a parametrised layer, normalisation by own statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.last = nn.LayerNorm(8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x + self.attention(x, x, x)[0])).mean(1)


def resizing() -> nn.Sequential:
    convolution = nn.ConvTranspose2d(2, 3, 3, stride=2)
    return nn.Sequential(convolution, nn.GELU(), nn.AvgPool2d(3, 2), nn.Flatten(), nn.Linear(27, 2))


CASES = [(Residual, (1, 6, 6)), (Joined, (4,)), (Attentive, (4, 8)), (resizing, (2, 3, 3))]
kinds = pytest.mark.parametrize(("make", "shape"), CASES, ids=["residual", "joined", "attention", "resizing"])


def assert_same(module: nn.Module, live: training.Live, x: Tensor) -> None:
    """Values of both graphs and their gradients are those of the module."""
    graphs = live.graphs()
    for graph in filter(None, graphs):
        expected = module(x)
        wanted = torch.autograd.grad(expected.square().sum(), list(module.parameters()))
        values = graph(x)
        assert torch.allclose(values, expected.flatten(1), rtol=1e-12, atol=1e-12)
        found = torch.autograd.grad(values.square().sum(), list(module.parameters()), retain_graph=True)
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@kinds
def test_values_and_gradients_are_those_of_the_module(make: type[nn.Module], shape: tuple[int, ...]) -> None:
    module, x = make().double(), torch.randn(3, *shape, dtype=torch.float64)
    live = training.Live(module.train(), x)
    module.eval()
    assert_same(module, live, x)  # with entries that are equal, and zero
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.add_(0.5)
    assert_same(module, live, x)
    assert (live.graphs().expanded is None) == (make is Attentive)


def test_it_computes_in_the_dtype_of_the_module() -> None:
    module = Residual()
    graphs = training.Live(module, torch.zeros(1, 1, 6, 6)).graphs()
    assert graphs.whole.dtype == torch.float32
    x = torch.randn(3, 1, 6, 6)
    assert torch.allclose(graphs.whole(x), module.eval()(x), atol=1e-5)


def test_certified_values_are_not_touched_by_training() -> None:
    """The graph of `from_torch` is a copy: it stays as it was."""
    module = nn.Linear(3, 2).double()
    graph, x = jb.from_torch(module, torch.zeros(1, 3, dtype=torch.float64)), torch.ones(1, 3, dtype=torch.float64)
    before = graph(x)
    live = training.Live(module, x)
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(graph(x), before)
    assert torch.equal(live.graphs().whole(x)[0], module.bias)


class Power(nn.Module):
    """Its activation is another one for every value of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.pow(torch.relu(x) + 1, self.exponent)


def test_what_can_not_be_followed_is_refused_by_name() -> None:
    with pytest.raises(jb.InvalidModelError, match=r"node 'pow\w*' depends on the weights"):
        training.Live(Power(), torch.zeros(1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = nn.utils.spectral_norm(nn.Linear(3, 2))
    with pytest.raises(jb.InvalidModelError, match=r"'weight' is computed by a hook.*parametrizations"):
        training.Live(hooked, torch.zeros(1, 3))
    with pytest.raises(jb.InvalidModelError, match=r"torch\.nn\.Module, not function"):
        training.Live(lambda x: x, torch.zeros(1, 3))  # type: ignore[arg-type]
    with pytest.raises(jb.UnsupportedOpError, match="sign"):
        training.Live(nn.Sequential(nn.Linear(3, 2), Sign()), torch.zeros(1, 3))


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


def test_a_tape_plays_what_is_needed() -> None:
    source, other = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    with torch.no_grad(), Tape([source]) as tape:
        doubled = source.detach() * 2
        doubled.add_(1)
        _unused = doubled.exp()
        joined = torch.cat([doubled, other])
    number = tape.slot(joined)
    assert number is not None and tape.slot(other) is None
    programme = tape.programme([number])
    assert "exp" not in " ".join(str(step.function) for step in programme.steps)
    x = torch.tensor([5.0, -1.0], requires_grad=True)
    played = programme.run([x])[number]
    assert played.tolist() == [11.0, -1.0, 3.0, 4.0]
    (gradient,) = torch.autograd.grad(played.sum(), x)
    assert gradient.tolist() == [2.0, 2.0]
    assert x.tolist() == [5.0, -1.0]
