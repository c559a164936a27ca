"""What traced operations become: one activation where torch spells several steps, sums of movements, exact factors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from flint import arb, ctx
from torch import Tensor, nn
from torch.nn import functional

import jacobound as jb
from jacobound import Graph, from_torch
from jacobound.graph.nodes import Affine, Elementwise
from jacobound.operators.kinds import Scale
from torch_agreement import agreement
from torch_calls import IMAGES, VECTORS
from torch_models import IMAGE, VECTOR, Applied, image


def imported(function: Callable[[Tensor], object], shape: tuple[int, ...] = VECTOR) -> Graph:
    module = Applied(function, nn.Identity()).eval()
    return from_torch(module, torch.zeros(1, *shape, dtype=torch.float64))


ONE_ACTIVATION: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "softsign": (functional.softsign, "softsign"),
    "tanhshrink": (functional.tanhshrink, "tanh_shrink"),
    "softshrink": (lambda x: functional.softshrink(x, 0.25), "soft_shrink"),
    "silu": (lambda x: x * torch.sigmoid(x), "silu"),
    "silu by exp": (lambda x: x / (1 + torch.exp(-x)), "silu"),
    "square": (lambda x: x * x, "square"),
    "power": (lambda x: x**2, "square"),
    "bell": (lambda x: torch.exp(-((x - 0.5) ** 2) / 0.3), "bell"),
    "wave": (lambda x: x * torch.exp(-x * x / 2), "wave"),
    "algebraic": (lambda x: x / torch.sqrt(1 + x * x), "algebraic"),
    "algebraic by a power": (lambda x: 2 * x * (3 + x.square()) ** -0.5, "algebraic"),
    "mish": (lambda x: x * torch.tanh(functional.softplus(x)), "mish"),
    "relu6": (functional.relu6, "clip"),
}


@pytest.mark.parametrize("name", ONE_ACTIVATION)
def test_one_activation(name: str) -> None:
    function, kind = ONE_ACTIVATION[name]
    found = [node for node in imported(function).nodes if isinstance(node, Elementwise)]
    assert [node.activation.name.split(":")[0] for node in found] == [kind]


@pytest.mark.slow
def test_differences_that_are_no_shrinkage() -> None:
    """Other signs, factors, limits or arguments keep both nodes."""
    for function in (
        lambda x: torch.tanh(x) - x,
        lambda x: x - 2 * torch.tanh(x),
        lambda x: x - torch.tanh(2 * x),
        lambda x: x - x.clamp(-0.5, 0.75),
        lambda x: x - torch.tanh(x) + 0,
    ):
        graph = imported(function)
        x = torch.randn(50, 4, dtype=torch.float64)
        torch.testing.assert_close(graph(x), function(x), rtol=1e-14, atol=1e-14)


def test_fold_is_one_sum_of_movements() -> None:
    graph = imported(lambda x: functional.fold(x, (5, 6), 2), (8, 20))
    assert [len(node.terms) for node in graph.nodes if isinstance(node, Affine)] == [4]
    x = torch.randn(3, 8, 20, dtype=torch.float64)
    # Sums of at most four small integers are exact.
    x = (8 * x).round()
    assert torch.equal(graph(x), functional.fold(x, (5, 6), 2))


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (lambda x: 3.0**x, lambda: arb(3).log()),
        (lambda x: torch.pow(0.1, x), lambda: arb(0.1).log()),
        (lambda x: torch.log2(x.exp()), lambda: 1 / arb(2).log()),
        (lambda x: torch.log10(x.exp()), lambda: 1 / arb(10).log()),
    ],
    ids=["power of 3", "power of 0.1", "log2", "log10"],
)
def test_logarithms_of_bases_are_enclosed(function: Callable[[Tensor], object], exact: Callable[[], arb]) -> None:
    operators = [op for node in imported(function).nodes if isinstance(node, Affine) for op, _ in node.terms]
    (scale,) = [op for op in operators if isinstance(op, Scale)]
    assert scale.radius is not None
    with ctx.workprec(200):
        value = exact()
        for middle, radius in zip(scale.factor.tolist(), scale.radius.tolist(), strict=True):
            assert arb(middle) - arb(radius) <= value <= arb(middle) + arb(radius)
            assert radius <= 1e-14 * abs(middle)


def test_constants_that_are_added_twice_into_one_entry() -> None:
    """Their sum would round; the refusal says so."""
    twice = torch.tensor([1, 1])
    with pytest.raises(jb.UnsupportedOpError, match=r"aten.index_add.default .*several constants into one entry"):
        imported(lambda x: x.index_add(1, twice, torch.full((len(x), 2), 0.1).to(x)))


BOUNDED: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **{
        name: (Applied(VECTORS[name]), VECTOR)
        for name in ("max of two", "sort", "softshrink", "silu by exp", "einsum", "scatter_add", "power of 2", "log2")
    },
    **{
        name: (image(IMAGES[name]), IMAGE)
        for name in ("max pool", "unfold, fold", "interpolate bicubic", "transposed convolution", "group sort")
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_of_an_imported_graph_hold_for_the_module(name: str) -> None:
    module, shape = BOUNDED[name]
    module = module.double().eval()
    graph = from_torch(module, torch.zeros(1, *shape, dtype=torch.float64))
    centre = torch.randn(shape, dtype=torch.float64)
    radius = 0.05
    bounds = jb.bound_output(graph, jb.Ball(centre, radius))
    points = centre + radius * (2 * torch.rand(200, *shape, dtype=torch.float64) - 1)
    values = module(points).detach()
    slack = 1e-9 * (1 + values.abs().amax())  # the module itself rounds
    assert (bounds.lower - slack <= values).all() and (values <= bounds.upper + slack).all()
    width = (bounds.upper - bounds.lower).amax()
    assert width <= 30 * radius * (1 + values.abs().amax())


@pytest.mark.parametrize(
    ("function", "steepest"),
    [
        (lambda x: torch.exp(-x * x), (2 / math.e) ** 0.5),
        (lambda x: x * torch.exp(-x * x / 2), 1.0),
        (lambda x: x / torch.sqrt(2 + 3 * x * x), 0.5**0.5),
    ],
)
def test_whole_space_constants_of_bells_are_exact(function: Callable[[Tensor], object], steepest: float) -> None:
    found = jb.lipschitz(imported(function, (1,)), jb.WholeSpace(), jb.AutoLip()).upper.item()
    assert steepest * (1 - 1e-15) <= found <= steepest * (1 + 1e-12)
    module = Applied(function, nn.Identity())
    agreement(imported(function), module.double(), VECTOR, 1e-12)


@pytest.mark.parametrize(
    "function", [lambda x: torch.exp(1 - x * x), lambda x: torch.exp(x * x), lambda x: torch.exp(-x)]
)
def test_other_exponentials_are_no_bells(function: Callable[[Tensor], Tensor]) -> None:
    graph = imported(function)
    agreement(graph, Applied(function, nn.Identity()).double(), VECTOR, 1e-12)
    assert "exp" in {node.activation.name for node in graph.nodes if isinstance(node, Elementwise)}
