"""`from_torch`: the graph is the module, or the module is refused by name and place."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jacobound.errors import InvalidModelError, ShapeError, UnsafeArithmeticError, UnsupportedOpError
from jacobound.graph import Affine, Elementwise, Graph, Input
from jacobound.importers import torch_lowering
from jacobound.importers.torch import from_torch
from jacobound.operator_kinds import Convolution, Dense, Identity, Scale, Select
from jacobound.rounding import unrounded
from torch_models import ACTIVATIONS, IMAGE, MATRIX, MODELS, VECTOR, Applied, Residual, built, image, randomised


def assert_same_function(graph: Graph, module: nn.Module, shape: tuple[int, ...], relative: float) -> None:
    """Values for batches of several sizes, and Jacobians by automatic differentiation."""
    generator = torch.Generator().manual_seed(3)
    double = copy.deepcopy(module).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of "same" padding with even kernels
        for count in (1, 2, 7):
            x = 2 * torch.randn(count, *shape, generator=generator, dtype=torch.float64)
            expected = double(x)
            torch.testing.assert_close(graph(x), expected, rtol=relative, atol=relative)
            assert graph.out_shape == tuple(expected.shape[1:])
        point = torch.randn(shape, generator=generator, dtype=torch.float64)
        alone = graph if graph.out_shape else lambda x: graph(x[None])[0]
        ours = torch.func.jacrev(alone)(point)
        theirs = torch.autograd.functional.jacobian(lambda x: double(x[None])[0], point)
    torch.testing.assert_close(ours, theirs, rtol=10 * relative, atol=10 * relative)


@pytest.mark.parametrize("name", MODELS)
def test_graph_is_the_module(name: str) -> None:
    module, shape = built(name)
    before = copy.deepcopy(module.state_dict())
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    graph = from_torch(module, torch.zeros(1, *shape, dtype=dtype))
    assert graph.in_shape == shape and graph.dtype == torch.float64
    # Constants that are rounded to float32 make the module in float64 a slightly different function.
    assert_same_function(graph, module, shape, 2e-6 if dtype == torch.float32 else 1e-12)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())


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
    assert_same_function(from_torch(module, torch.zeros(2, *shape)), module, shape, 1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    module = nn.Sequential(nn.Linear(4, 6), Applied(ACTIVATIONS[name], nn.Identity()), nn.Linear(6, 2)).eval()
    graph = from_torch(module, torch.zeros(1, 4))
    # The derivative of torch's own hard sigmoid holds 1/6 as a float32.
    assert_same_function(graph, module, VECTOR, 1e-8 if name == "hardsigmoid" else 1e-12)
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
    assert_same_function(from_torch(pool, torch.zeros(1, 2, 5, 6)), pool, (2, 5, 6), 1e-13)


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


def test_nodes_have_the_names_of_the_module() -> None:
    graph = from_torch(Residual().eval(), torch.zeros(1, 5))
    names = [node.name for node in graph.nodes]
    assert names[:3] == ["input", "inner", "relu"] and "inner#2" in names and names[-1] == "outer"


def test_module_is_left_in_its_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    module[1].eval()
    from_torch(module, torch.zeros(1, 4))
    assert module.training and module[0].training and not module[1].training


def test_example_only_gives_the_shape() -> None:
    module = nn.Linear(4, 3)
    prints = {
        from_torch(module, example).fingerprint
        for example in (torch.zeros(1, 4), torch.ones(5, 4), torch.ones(2, 4, dtype=torch.float64))
    }
    assert len(prints) == 1


class Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Softmax(1)
        self.before = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.before(x))


class Sorting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x, dim=1)[0]


class Holder(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.encoder(x))


def line_of(text: str) -> int:
    """The first line of this file that holds a text."""
    with open(__file__, encoding="utf-8") as source:
        return next(number for number, line in enumerate(source, 1) if text in line)


def test_refusal_names_operation_line_and_module() -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        from_torch(Holder(Sorting()).eval(), torch.zeros(1, 4))
    line = line_of("torch.sort(x, dim=1)[0]")
    assert f"aten.sort.default at test_from_torch.py:{line} in Sorting.forward ('encoder'). " in str(caught.value)
    assert "neither affine nor elementwise" in str(caught.value) and "Replace it, or " in str(caught.value)
    with pytest.raises(UnsupportedOpError) as caught:
        from_torch(Holder(Pooling()).eval(), torch.zeros(1, 4))
    line = line_of("return self.pool(self.before(x))")
    assert f"aten.softmax.int at test_from_torch.py:{line} in Pooling.pool ('encoder.pool'). " in str(caught.value)


REFUSED: dict[str, tuple[Callable[[Tensor], object], type[Exception], str]] = {
    "product": (lambda x: x * x.relu(), UnsupportedOpError, r"aten.mul.Tensor at .*two values that both depend"),
    "matrix product": (lambda x: x @ x.T.relu(), UnsupportedOpError, r"mixes the points"),
    "division by a value": (lambda x: x / x.relu(), UnsupportedOpError, r"divides by a value that depends"),
    "reciprocal": (lambda x: 1 / x, UnsupportedOpError, r"divides by a value that depends"),
    "branch": (lambda x: x if x.sum() > 0 else -x, UnsupportedOpError, r"can not be traced .* at test_from_torch.py"),
    "choice by value": (lambda x: x[x > 0], UnsupportedOpError, r"neither affine nor elementwise|depends on the input"),
    "sum over the batch": (lambda x: x.sum(0), UnsupportedOpError, r"mixes the points"),
    "mean over the batch": (lambda x: x - x.mean(0), UnsupportedOpError, r"aten.mean.dim .* mixes the points"),
    "sum of all": (lambda x: x.sum(), UnsupportedOpError, r"mixes the points"),
    "batch folded": (lambda x: x.view(1, -1), UnsupportedOpError, r"aten.view.default .* mixes the points"),
    "batch reversed": (lambda x: x.flip(0), UnsupportedOpError, r"mixes the points"),
    "batch moved": (lambda x: x.T, UnsupportedOpError, r"mixes the points"),
    "batch rolled": (lambda x: x.roll(1), UnsupportedOpError, r"mixes the points"),
    "batch widened": (lambda x: x.expand(5, -1, -1), UnsupportedOpError, r"mixes the points"),
    "one point of the batch": (lambda x: x - x[0], UnsupportedOpError, r"mixes the points"),
    "a batch of three": (lambda x: x.view(3, 2, 2) * 2, InvalidModelError, r"depends on the size of the batch"),
    "the first three points": (lambda x: x[:3], InvalidModelError, r"depends on the size of the batch"),
    "constant per point": (lambda x: x + torch.arange(float(len(x)))[:, None], UnsupportedOpError, r"each point"),
    "half precision": (lambda x: x.half().float(), UnsupportedOpError, r"torch.float16"),
    "integers": (lambda x: x.long(), UnsupportedOpError, r"torch.int64"),
    "dropout for ever": (functional.dropout, InvalidModelError, r"random numbers.*module.eval\(\)"),
    "noise": (lambda x: x + torch.randn(4), InvalidModelError, r"random numbers"),
    "batch statistics": (
        lambda x: functional.batch_norm(x, None, None, training=True),
        UnsupportedOpError,
        r"running statistics",
    ),
    "two outputs": (lambda x: (x, x), InvalidModelError, r"returns 2 values"),
    "one output in a dictionary": (lambda x: {"out": x}, InvalidModelError, r"returns 1 values \(dict\)"),
    "no tensor": (lambda x: None, InvalidModelError, r"returns no tensor \(NoneType\)"),
    "constant output": (lambda x: torch.ones(len(x), 2), InvalidModelError, r"does not depend on its input"),
    "division by zero": (lambda x: x / 0, InvalidModelError, r"zero divisor"),
    "nan constant": (lambda x: x + float("nan"), InvalidModelError, r"NaN or infinite"),
    "infinite constant": (lambda x: x + torch.tensor([1.0, float("inf"), 0.0, 0.0]), InvalidModelError, r"infinite"),
    "high-dimensional product": (lambda x: x @ torch.ones(2, 4, 4), UnsupportedOpError, r"more than two axes|mixes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    function, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        from_torch(Applied(function).eval(), torch.zeros(1, 4))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_control_flow_operation_is_refused() -> None:
    module = Applied(lambda x: torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (x,))).eval()
    with pytest.raises(UnsupportedOpError, match=r"aten.gt.Scalar at .* neither affine|control flow"):
        from_torch(module, torch.zeros(4), batched=False)


def test_module_that_only_runs_in_its_own_dtype() -> None:
    graph = from_torch(Applied(lambda x: x @ MATRIX[:4]).eval(), torch.zeros(1, 4))
    assert isinstance(graph.output, Affine) and isinstance(graph.output.terms[0][0], Dense)
    assert torch.equal(graph.output.terms[0][0].weight, MATRIX[:4].T.double())


def test_recurrent_layers_are_refused_as_such() -> None:
    with pytest.raises(UnsupportedOpError, match=r"aten\.lstm\.input at .* neither affine"):
        from_torch(Applied(lambda found: found[0], nn.LSTM(4, 3, batch_first=True)).eval(), torch.zeros(1, 5, 4))


def test_uneven_adaptive_pool_and_pooling_by_maximum_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match=r"adaptive_avg_pool2d.* sizes that divide"):
        from_torch(nn.AdaptiveAvgPool2d(4), torch.zeros(1, *IMAGE))
    with pytest.raises(UnsupportedOpError, match=r"aten.conv3d.* at .*one or two axes|aten.conv3d"):
        from_torch(nn.Conv3d(1, 1, 2), torch.zeros(1, 1, 3, 3, 3))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(), nn.RReLU(), nn.AlphaDropout()])
def test_training_mode_is_refused(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer))
    with pytest.raises(InvalidModelError, match=rf"'1\.0' \({type(layer).__name__}\).*call module\.eval\(\)"):
        from_torch(module, torch.zeros(1, 4))
    assert module.training and layer.training


class OnlyInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


def test_own_training_behaviour_is_noticed() -> None:
    with pytest.raises(InvalidModelError, match=r"training mode and gives other values.*module\.eval\(\)"):
        from_torch(OnlyInTraining(), torch.zeros(1, 4))
    dropping = Applied(lambda x: x)
    dropping.function = lambda x: functional.dropout(x, training=dropping.training)
    with pytest.raises(InvalidModelError, match=r"module\.eval\(\)"):
        from_torch(dropping, torch.zeros(1, 4))
    graph = from_torch(OnlyInTraining().eval(), torch.zeros(1, 4))
    assert torch.equal(graph(torch.ones(4)), torch.ones(4, dtype=torch.float64))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


def test_module_that_changes_itself_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="changes 'calls'"):
        from_torch(Counting().eval(), torch.zeros(1, 4))


def with_weight(weight: Tensor) -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    module[2].weight = nn.Parameter(weight, requires_grad=False)
    return module


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (torch.full((2, 3), float("nan")), "'2.weight' has a NaN or infinite"),
        (torch.full((2, 3), float("inf")), "'2.weight' has a NaN or infinite"),
        (torch.ones(2, 3).half(), r"'2.weight' is torch.float16.*module.double\(\)"),
        (torch.ones(2, 3).bfloat16(), r"'2.weight' is torch.bfloat16.*module.double\(\)"),
        (torch.ones(2, 3).int(), "'2.weight' is torch.int32"),
        (torch.ones(2, 3, dtype=torch.complex64), "'2.weight' is torch.complex64"),
        (torch.ones(2, 3).to_sparse(), "'2.weight' is sparse"),
        (torch.ones(2, 3, device="meta"), "'2.weight' is on the meta device"),
    ],
)
def test_weights_that_are_refused(weight: Tensor, text: str) -> None:
    with pytest.raises(InvalidModelError, match=text):
        from_torch(with_weight(weight), torch.zeros(1, 4))


def test_lazy_and_derived_weights() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.LazyLinear(3)
    with pytest.raises(InvalidModelError, match="run the module once"):
        from_torch(lazy, torch.zeros(1, 4))
    broken = randomised(nn.BatchNorm1d(4))
    assert isinstance(broken, nn.BatchNorm1d) and broken.running_var is not None
    broken.running_var.fill_(-1.0)
    with pytest.raises(InvalidModelError, match="running variance"):
        from_torch(broken, torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (torch.zeros(1, 4, dtype=torch.int64), "torch.int64"),
        (torch.zeros(1, 4).half(), "torch.float16"),
        (torch.zeros(()), "batch of points"),
        (torch.zeros(0, 4), "n >= 1"),
        (torch.zeros(1, 5), r"does not take a batch of 3 points of shape \(5,\)"),
        (torch.zeros(4), "batched=False"),
    ],
)
def test_examples_that_are_refused(example: Tensor, text: str) -> None:
    with pytest.raises(ShapeError, match=text):
        from_torch(nn.Linear(4, 3), example)


def test_not_a_module_and_not_inside_unrounded() -> None:
    with pytest.raises(InvalidModelError, match=r"torch\.nn\.Module"):
        from_torch(torch.relu, torch.zeros(1, 4))  # type: ignore[arg-type]
    with unrounded(), pytest.raises(UnsafeArithmeticError, match="outside"):
        from_torch(nn.Linear(4, 3), torch.zeros(1, 4))


def test_wrong_graph_does_not_pass_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call: torch_lowering.Call) -> object:
        return call.steps.add([(1.0 + 1e-7, call.args[0])], None, call.name)

    monkeypatch.setattr(torch_lowering, "RULES", {**torch_lowering.RULES, "aten.neg.default": wrong})
    with pytest.raises(InvalidModelError, match=r"imported graph is not Applied: outputs differ by"):
        from_torch(Applied(torch.neg).eval(), torch.zeros(1, 4))
