"""`from_torch`: weights that modules derive from others, modules that nest deeply, and that nothing is changed."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from jacobound import InvalidModelError, from_torch
from jacobound.graph.nodes import Affine
from jacobound.operators.kinds import Convolution, Dense
from torch_agreement import agreement
from torch_models import Applied


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class Branching(nn.Module):
    """A function of the weights that no tracer can follow."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.detach().abs().max().item() if weight.detach().sum().item() > -1e9 else weight


class Drawing(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * torch.rand(weight.shape)


def registered(layer: nn.Module, parametrization: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", parametrization)
    return layer


def older(function: Callable[..., nn.Module], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(layer)


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Linear(4, 3), "weight", 0.5)


DERIVED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), (4,)),
    "spectral norm of a convolution": (lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)), (2, 5, 5)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), (4,)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), (4,)),
    "orthogonal by Cayley": (lambda: parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map="cayley"), (4,)),
    "orthogonal by Householder": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map="householder"),
        (4,),
    ),
    "older spectral norm": (lambda: older(nn.utils.spectral_norm, nn.Linear(4, 3)), (4,)),
    "older weight norm": (lambda: older(nn.utils.weight_norm, nn.Conv1d(2, 3, 3)), (2, 6)),
    "pruned": (pruned, (4,)),
    "symmetric": (lambda: registered(nn.Linear(4, 4), Symmetric()), (4,)),
    "two in a row": (lambda: registered(registered(nn.Linear(4, 4), Symmetric()), Branching()), (4,)),
    "not traceable": (lambda: registered(nn.Linear(4, 3), Branching()), (4,)),
}


def weights(module: nn.Module) -> list[Tensor]:
    """The weights of all layers as the module has them in evaluation mode."""
    return [layer.weight.detach() for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)]


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_derived_weights_are_those_of_the_module(name: str, dtype: torch.dtype) -> None:
    make, shape = DERIVED[name]
    module = nn.Sequential(make(), nn.ReLU()).to(dtype).eval()
    with torch.no_grad():
        module(torch.zeros(1, *shape, dtype=dtype))
        # The older hooks set the weight in each call; a parametrisation computes it when it is read.
        expected = weights(module)[0].clone()
    graph = from_torch(module, torch.zeros(1, *shape, dtype=dtype))
    found = [op for node in graph.nodes if isinstance(node, Affine) for op, _ in node.terms]
    (operator,) = [op for op in found if isinstance(op, Dense | Convolution)]
    assert torch.equal(operator.weight.reshape(expected.shape), expected.double())
    agreement(graph, module, shape, 1e-12 if dtype == torch.float64 else 1e-5)


def test_a_weight_that_is_drawn_at_random_is_noticed() -> None:
    with pytest.raises(InvalidModelError, match="random"):
        from_torch(registered(nn.Linear(4, 3), Drawing()).eval(), torch.zeros(1, 4))


def everything(module: nn.Module) -> list[object]:
    """All that a module holds: types, flags, hooks, names and values of tensors."""
    found: list[object] = []
    for name, layer in module.named_modules():
        found.append((name, type(layer), layer.training, sorted(vars(layer))))
        found.append([list(hooks) for key, hooks in sorted(vars(layer).items()) if key.endswith("hooks")])
        found.append([(key, id(value)) for key, value in sorted(vars(layer).items()) if isinstance(value, Tensor)])
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        found.append((name, id(tensor), tensor.requires_grad, tensor._version, tensor.grad, tensor.tolist()))
    return found


@pytest.mark.parametrize("name", [*DERIVED, "plain"])
def test_the_module_is_not_changed(name: str) -> None:
    make, shape = DERIVED.get(name, (lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), (4,)))
    module = make().eval()
    for until in (None, "1") if name == "plain" else (None,):
        module.train(name == "plain")
        before = everything(module)
        from_torch(module, torch.zeros(1, *shape), until=until)
        assert everything(module) == before


class Uncopied(nn.Module):
    """Holds what can not be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.stream = sys.stdout

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


@pytest.mark.slow
def test_a_module_that_can_not_be_copied() -> None:
    module = Uncopied()
    with pytest.raises(TypeError):
        copy.deepcopy(module)
    before = everything(module)
    for until in (None, "relu", "layer"):
        graph = from_torch(module, torch.zeros(1, 4), until=until)
        agreement(graph, module.layer if until == "layer" else nn.Sequential(module.layer, nn.ReLU()), (4,), 1e-12)
    assert everything(module) == before


@pytest.mark.slow
def test_long_and_deep_nesting() -> None:
    long = nn.Sequential(*(layer for _ in range(100) for layer in (nn.Linear(3, 3), nn.Tanh())))
    agreement(from_torch(long, torch.zeros(1, 3)), long, (3,), 1e-12)
    deep: nn.Module = nn.Linear(3, 3)
    for _ in range(200):
        deep = nn.Sequential(deep)
    limit = sys.getrecursionlimit()
    graph = from_torch(deep, torch.zeros(1, 3))
    assert sys.getrecursionlimit() == limit
    assert [node.name for node in graph.nodes] == ["input", ".".join(["0"] * 200)]


class Containers(nn.Module):
    """Modules in lists and dictionaries, one of them called several times; buffers; arguments with defaults."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.kinds = nn.ModuleDict({"relu": nn.ReLU(), "tanh": nn.Tanh()})
        self.register_buffer("offset", torch.arange(4.0), persistent=False)
        self.extra = nn.ParameterList([nn.Parameter(torch.randn(4))])

    def forward(self, x: Tensor, times: int = 3, mask: Tensor | None = None, kind: str = "relu") -> Tensor:
        for k in range(times):
            x = self.kinds[kind if k else "tanh"](self.steps[k % 2](x)) + self.offset
        return x * self.extra[0] if mask is None else x * mask


def test_containers_buffers_and_defaults() -> None:
    module = Containers()
    graph = from_torch(module, torch.zeros(1, 4))
    agreement(graph, module, (4,), 1e-12)
    names = [node.name for node in graph.nodes]
    assert {"steps.0", "steps.0#2", "steps.1", "kinds.tanh", "kinds.relu", "kinds.relu#2"} <= set(names)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_examples_of_any_size(count: int) -> None:
    module = Applied(lambda x: x.view(x.size(0), -1).reshape(-1, 2, 2).flatten(1) + torch.zeros(x.shape[0], 4)).eval()
    agreement(from_torch(module, torch.ones(count, 4)), module, (4,), 1e-12)
