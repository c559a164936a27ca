"""`from_torch`: the graph is the module."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from jacobound import from_torch
from jacobound.graph.nodes import Affine, Elementwise, Input
from jacobound.operators.kinds import Convolution, Dense, Identity, Scale, Select
from torch_agreement import agreement
from torch_models import ACTIVATIONS, IMAGE, MATRIX, MODELS, VECTOR, Applied, Residual, built, image, randomised


@pytest.mark.alike(26)
@pytest.mark.parametrize("name", MODELS)
def test_graph_is_the_module(name: str) -> None:
    module, shape = built(name)
    before = copy.deepcopy(module.state_dict())
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    graph = from_torch(module, torch.zeros(1, *shape, dtype=dtype))
    assert graph.in_shape == shape and graph.dtype == torch.float64
    # Constants that are rounded to float32 make the module in float64 a slightly different function.
    agreement(graph, module, shape, 2e-6 if dtype == torch.float32 else 1e-12)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "residual, input skip, layer called twice",
        "cnn with batch norm and pooling",
        "dense block",
        "adaptive pool",
        "stack, split, chunk",
    ],
)
def test_no_rounding_is_added(name: str) -> None:
    module, shape = built(name)
    agreement(from_torch(module, torch.zeros(2, *shape)), module, shape, 1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    module = nn.Sequential(nn.Linear(4, 6), Applied(ACTIVATIONS[name], nn.Identity()), nn.Linear(6, 2)).eval()
    graph = from_torch(module, torch.zeros(1, 4))
    # The derivative of torch's own hard sigmoid holds 1/6 as a float32.
    agreement(graph, module, VECTOR, 1e-8 if name == "hardsigmoid" else 1e-12)
    assert [node.activation.name.split(":")[0] for node in graph.nodes if isinstance(node, Elementwise)]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil", "counted", "divisor"),
    [
        (2, 2, 0, False, True, None),
        (3, 2, 1, False, True, None),
        (3, 2, 1, False, False, None),
        ((3, 2), (1, 2), 1, True, True, None),
        ((3, 2), (2, 1), (1, 0), True, False, None),
        (2, 2, 1, True, True, None),
        (2, 3, 1, True, False, None),
        (3, 1, 1, False, False, 5),
        (3, 2, 0, True, True, 4),
    ],
)
def test_average_pooling(
    kernel: Any, stride: Any, padding: Any, ceil: bool, counted: bool, divisor: int | None
) -> None:
    pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil, count_include_pad=counted, divisor_override=divisor)
    agreement(from_torch(pool, torch.zeros(1, 2, 5, 6)), pool, (2, 5, 6), 1e-13)


def test_batch_norm_factor_is_enclosed() -> None:
    module = randomised(nn.BatchNorm1d(50, eps=1e-3))
    graph = from_torch(module, torch.zeros(1, 50))
    (scale,) = [op for node in graph.nodes if isinstance(node, Affine) for op, _ in node.terms if isinstance(op, Scale)]
    assert scale.radius is not None and isinstance(module, nn.BatchNorm1d)
    assert (scale.radius <= 1e-14 * scale.factor.abs() + 1e-300).all()
    assert module.running_var is not None
    for k in range(50):
        gamma, variance = Fraction(module.weight[k].item()), Fraction(module.running_var[k].item())
        middle, radius = Fraction(scale.factor[k].item()), Fraction(scale.radius[k].item())
        exact_square = gamma**2 / (variance + Fraction(1e-3))
        low, high = abs(middle) - radius, abs(middle) + radius
        assert low**2 <= exact_square <= high**2 and (middle > 0) == (gamma > 0)


@pytest.mark.slow
def test_division_is_enclosed_and_powers_of_two_are_exact() -> None:
    graph = from_torch(Applied(lambda x: x / torch.tensor([1.0, 3.0, -4.0, 7.0])).eval(), torch.zeros(1, 4))
    assert isinstance(graph.output, Affine)
    scale = graph.output.terms[0][0]
    assert isinstance(scale, Scale) and scale.radius is not None
    for k, divisor in enumerate((1, 3, -4, 7)):
        error = abs(Fraction(scale.factor[k].item()) - Fraction(1, divisor))
        assert error <= Fraction(scale.radius[k].item())
    assert scale.radius[0] == 0 and scale.radius[2] == 0 and scale.radius[1] > 0
    halved = from_torch(Applied(lambda x: x / 8).eval(), torch.zeros(1, 4)).output
    assert isinstance(halved, Affine)
    exact = halved.terms[0][0]
    assert isinstance(exact, Scale) and exact.radius is None and (exact.factor == 0.125).all()


@pytest.mark.slow
def test_python_numbers_are_what_the_module_computes_with() -> None:
    single = from_torch(Applied(lambda x: x + 0.1).eval(), torch.zeros(1, 4)).output
    double = from_torch(Applied(lambda x: x + 0.1).double().eval(), torch.zeros(1, 4, dtype=torch.float64)).output
    assert isinstance(single, Affine) and isinstance(double, Affine)
    assert single.bias is not None and double.bias is not None
    assert (single.bias == torch.tensor(0.1).double()).all()
    assert (double.bias == 0.1).all()


def test_weights_are_taken_exactly_and_nothing_is_folded() -> None:
    first, second = nn.Conv2d(2, 3, 3), nn.Linear(48, 2)
    module = randomised(nn.Sequential(first, nn.BatchNorm2d(3), nn.Flatten(), second))
    graph = from_torch(module, torch.zeros(1, *IMAGE))
    found = {node.name: node for node in graph.nodes}
    assert list(found) == ["input", "0", "1.centre", "1", "2", "3"]
    conv, last = found["0"], found["3"]
    assert isinstance(conv, Affine) and isinstance(conv.terms[0][0], Convolution) and conv.bias is not None
    assert torch.equal(conv.terms[0][0].weight, first.weight.detach().double())
    assert isinstance(last, Affine) and isinstance(last.terms[0][0], Dense)
    assert torch.equal(last.terms[0][0].weight, second.weight.detach().double())


@pytest.mark.slow
def test_movements_are_composed() -> None:
    graph = from_torch(
        image(lambda x: x.permute(0, 2, 1, 3).flip(1).flatten(1)[:, 3:17].view(-1, 7, 2)).eval(), torch.zeros(1, *IMAGE)
    )
    assert [type(node) for node in graph.nodes] == [Input, Affine, Affine]
    assert isinstance(graph.output, Affine) and isinstance(graph.output.terms[0][0], Select)
    there_and_back = from_torch(
        image(lambda x: x.transpose(1, 3).transpose(1, 3).contiguous().flatten(1)).eval(), torch.zeros(1, *IMAGE)
    ).output
    assert isinstance(there_and_back, Affine) and isinstance(there_and_back.terms[0][0], Identity)


def test_module_without_batch_axis() -> None:
    vector = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), Applied(lambda x: torch.cat([x, x[:1]]), nn.Identity())).eval()
    graph = from_torch(vector, torch.zeros(4), batched=False)
    x = torch.randn(6, 4, dtype=torch.float64)
    expected = torch.stack([copy.deepcopy(vector).double()(point) for point in x])
    torch.testing.assert_close(graph(x), expected)
    conv = Applied(lambda x: x.mean(), Applied(lambda x: nn.functional.avg_pool2d(x, 2)[0], nn.Conv2d(2, 3, 3))).eval()
    points = torch.randn(3, 1, *IMAGE, dtype=torch.float64)
    graph = from_torch(conv, points[0].float(), batched=False)
    torch.testing.assert_close(graph(points), torch.stack([copy.deepcopy(conv).double()(point) for point in points]))


@pytest.mark.slow
def test_nodes_have_the_names_of_the_module() -> None:
    graph = from_torch(Residual().eval(), torch.zeros(1, 5))
    names = [node.name for node in graph.nodes]
    assert names[:3] == ["input", "inner", "relu"] and "inner#2" in names and names[-1] == "outer"


def test_module_is_left_in_its_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    module[1].eval()
    from_torch(module, torch.zeros(1, 4))
    assert module.training and module[0].training and not module[1].training


@pytest.mark.slow
def test_example_only_gives_the_shape() -> None:
    module = nn.Linear(4, 3)
    prints = {
        from_torch(module, example).fingerprint
        for example in (torch.zeros(1, 4), torch.ones(5, 4), torch.ones(2, 4, dtype=torch.float64))
    }
    assert len(prints) == 1


def test_module_that_only_runs_in_its_own_dtype() -> None:
    graph = from_torch(Applied(lambda x: x @ MATRIX[:4]).eval(), torch.zeros(1, 4))
    assert isinstance(graph.output, Affine) and isinstance(graph.output.terms[0][0], Dense)
    assert torch.equal(graph.output.terms[0][0].weight, MATRIX[:4].T.double())
