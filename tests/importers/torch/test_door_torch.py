"""`from_torch` at the door: what differs from the module is refused with its cause, and what does not is taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jacobound import InvalidModelError, from_torch


class Shifted(nn.Module):
    """A small network and a shift that another class decides about."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8, dtype=dtype), nn.Linear(8, 2, dtype=dtype)

    def shift(self, x: Tensor) -> float:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x))) + self.shift(x)


class ByBatch(Shifted):
    def shift(self, x: Tensor) -> float:
        return 5e-5 if x.shape[0] == 5 else 0.0


class BySingle(Shifted):
    def shift(self, x: Tensor) -> float:
        return 5e-5 if x.shape[0] == 1 else 0.0


class ByMode(Shifted):
    def shift(self, x: Tensor) -> float:
        return 5e-5 if torch.is_grad_enabled() else 0.0


class ByGradient(Shifted):
    def shift(self, x: Tensor) -> float:
        return 5e-5 if x.requires_grad else 0.0


class ByExport(Shifted):
    def shift(self, x: Tensor) -> float:
        return 5e-5 if torch.compiler.is_exporting() else 0.0


class ByCount(Shifted):
    calls = 0

    def shift(self, x: Tensor) -> float:
        self.calls += 1
        return 5e-7 * self.calls


class ByMemory(Shifted):
    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(dtype)
        self.seen: list[int] = []

    def shift(self, x: Tensor) -> float:
        self.seen.append(len(x))
        return 1e-6 * len(self.seen)


class ByTraining(Shifted):
    def shift(self, x: Tensor) -> float:
        return 5e-5 if self.training else 0.0


BEHAVIOURS = {
    ByBatch: "depends on the size of the batch",
    BySingle: "depends on the size of the batch",
    ByMode: "while gradients are recorded",
    ByGradient: "while gradients are recorded",
    ByExport: "is_exporting",
    ByCount: "called again with the same input.*'calls' changes",
    ByMemory: "called again with the same input.*'seen' changes",
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", BEHAVIOURS, ids=lambda kind: kind.__name__)
def test_other_behaviour_is_refused_with_its_cause(kind: type[Shifted], dtype: torch.dtype) -> None:
    module = kind(dtype).eval()
    with pytest.raises(InvalidModelError, match=BEHAVIOURS[kind]):
        from_torch(module, torch.zeros(1, 3, dtype=dtype))


@pytest.mark.parametrize("kind", [ByBatch, ByMode, ByExport], ids=lambda kind: kind.__name__)
def test_functions_are_compared_as_well(kind: type[Shifted]) -> None:
    module = kind().eval()
    with pytest.raises(InvalidModelError, match=BEHAVIOURS[kind]):
        from_torch(lambda x: module(x), torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.slow
def test_a_branch_on_the_training_flag_is_named() -> None:
    with pytest.raises(InvalidModelError, match=r"call module\.eval"):
        from_torch(ByTraining().train(), torch.zeros(1, 3))
    from_torch(ByTraining().eval(), torch.zeros(1, 3))


def test_nothing_is_left_in_the_module() -> None:
    module = ByCount().eval()
    with pytest.raises(InvalidModelError):
        from_torch(module, torch.zeros(1, 3))
    assert module.calls == 0 and "calls" not in vars(module)


class Remembers(Shifted):
    """Keeps what it made for a length of batch, as position tables are kept; its values do not depend on that."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[int, Tensor] = {}
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if len(x) not in self.table:
            self.table[len(x)] = torch.ones(len(x), 3, dtype=torch.float64)
        return self.last(torch.tanh(self.first(x * 1.0)))


def test_memory_without_influence_is_no_hindrance() -> None:
    module = Remembers().eval()
    graph = from_torch(module, torch.zeros(1, 3, dtype=torch.float64))
    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.allclose(graph(x), module(x), rtol=1e-14, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 20, 50])
def test_small_differences_show_through_deep_networks(depth: int) -> None:
    layers = [part for _ in range(depth) for part in (nn.Linear(32, 32), nn.ReLU())]
    plain = nn.Sequential(nn.Linear(3, 32), *layers, nn.Linear(32, 2)).double().eval()
    for layer in plain.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    example = torch.zeros(1, 3, dtype=torch.float64)
    from_torch(plain, example)
    size = plain(torch.ones(1, 3, dtype=torch.float64)).abs().max().item()

    class Off(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + (1e-10 * size if torch.compiler.is_exporting() else 0.0)

    with pytest.raises(InvalidModelError, match="rounding explains no more than"):
        from_torch(Off(), example)


@pytest.mark.slow
def test_the_eps_of_a_dtype_is_that_of_the_module() -> None:
    example = torch.full((1, 3), 1e-3)
    for spelling in (nn.RMSNorm(3), lambda x: nn.functional.rms_norm(x, (3,)), Normalised()):
        graph = from_torch(spelling, example)
        assert torch.allclose(graph(example).float(), spelling(example), rtol=1e-6)


@pytest.mark.slow
def test_numbers_in_a_float32_module_are_those_of_float32() -> None:
    for function in (
        lambda x: torch.maximum(x, x.new_full((), 0.1)),
        lambda x: torch.minimum(x, torch.full_like(x, 0.7)),
        lambda x: x.index_fill(1, torch.tensor([1]), 0.3),
        lambda x: x + torch.full((), 0.2),
    ):
        graph = from_torch(nn.Sequential(nn.Linear(3, 3), Called(function)), torch.zeros(1, 3))
        assert graph.out_shape == (3,)


class Called(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (3,), self.scale)


class SinglePrecision(nn.Module):
    """Computes in float32 whatever it is given."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.inner, self.off = nn.Linear(3, 2), off

    def forward(self, x: Tensor) -> Tensor:
        found = nn.functional.linear(x.float(), self.inner.weight.float(), self.inner.bias.float())
        return torch.relu(found) + (self.off if torch.compiler.is_exporting() else 0.0)


def test_a_module_that_only_runs_in_float32_is_compared_there() -> None:
    from_torch(SinglePrecision(0.0).eval(), torch.zeros(1, 3))
    with pytest.raises(InvalidModelError, match="the rounding of float32"):
        from_torch(SinglePrecision(2e-5).eval(), torch.zeros(1, 3))
