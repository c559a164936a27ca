"""`from_torch`: what is refused, by name and place, and with what advice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jacobound import InvalidModelError, ShapeError, UnsafeArithmeticError, UnsupportedOpError, from_torch
from jacobound.arithmetic.rounding import unrounded
from jacobound.importers.torch import lowering as torch_lowering
from jacobound.importers.torch.operations.call import Call
from jacobound.importers.torch.rules import RULES
from torch_models import MATRIX, Applied, randomised

FILE = Path(__file__).name


class Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Hardshrink()
        self.before = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.before(x))


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(x)


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


def refusal(module: nn.Module) -> str:
    with pytest.raises(UnsupportedOpError) as caught:
        from_torch(module.eval(), torch.zeros(1, 4))
    return str(caught.value)


@pytest.mark.slow
def test_refusal_names_operation_line_and_module() -> None:
    message, line = refusal(Holder(Unknown())), line_of("return torch.lgamma(x)")
    assert f"aten.lgamma.default at {FILE}:{line} in Unknown.forward ('encoder'). " in message
    assert "neither affine nor elementwise" in message and "Replace it, or " in message
    message, line = refusal(Holder(Pooling())), line_of("return self.pool(self.before(x))")
    assert f"aten.le.Scalar at {FILE}:{line} in Pooling.pool ('encoder.pool'). " in message
    assert message.endswith("from_torch(module, example, until='encoder.before').")


REFUSED: dict[str, tuple[Callable[[Tensor], object], type[Exception], str]] = {
    "matrix product": (lambda x: x @ x.T.relu(), UnsupportedOpError, r"mixes the points"),
    "branch": (
        lambda x: x if x.sum() > 0 else -x,
        UnsupportedOpError,
        rf"can not be traced .* at {FILE}",
    ),
    "choice by value": (lambda x: x[x > 0], UnsupportedOpError, r"compares values .* Write relu"),
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
    "nan constant": (lambda x: x + float("nan"), InvalidModelError, r"a NaN entry"),
    "infinite constant": (lambda x: x + torch.tensor([1.0, float("inf"), 0.0, 0.0]), UnsupportedOpError, r"infinite"),
    "largest over the batch": (lambda x: x.amax(0), UnsupportedOpError, r"aten.amax.default .* mixes the points"),
    "sorted over the batch": (lambda x: x.sort(0)[0], UnsupportedOpError, r"aten.sort.default .* mixes the points"),
    "summed up over the batch": (lambda x: x.cumsum(0), UnsupportedOpError, r"aten.cumsum.default .* mixes the points"),
    "added over the batch": (
        lambda x: x.index_add(0, torch.tensor([1, 0, 1]), x),
        UnsupportedOpError,
        r"aten.index_add.default .* mixes the points",
    ),
    "one vector over the batch": (lambda x: torch.ones(len(x)) @ x, UnsupportedOpError, r"mixes the points"),
    "matrices per point": (
        lambda x: torch.arange(16.0 * len(x)).view(-1, 4, 4) @ x[..., None],
        UnsupportedOpError,
        r"different for each point",
    ),
    "limits per point": (
        lambda x: torch.maximum(x, torch.arange(float(len(x)))[:, None]),
        UnsupportedOpError,
        r"different for each point",
    ),
    "norm of order 3": (lambda x: x.norm(p=3, dim=1), UnsupportedOpError, r"order 1, 2 and infinity .* not 3"),
    "position": (lambda x: x.argmax(1), UnsupportedOpError, r"aten.argmax.default .*is a position"),
    "rank": (lambda x: x.argsort(1) * x, UnsupportedOpError, r"aten.argsort|positions that another operation"),
    "entries by rank": (lambda x: x.gather(1, x.sort(1)[1]), UnsupportedOpError, r"aten.gather.* positions"),
    "unsorted": (lambda x: x.topk(2, sorted=False)[0], UnsupportedOpError, r"aten.topk.default .*pass sorted=True"),
    "sign": (lambda x: x.sign(), UnsupportedOpError, r"aten.sign.default .*jumps"),
    "floor": (lambda x: x.floor(), UnsupportedOpError, r"aten.floor.default .*jumps"),
    "remainder": (lambda x: x % 1, UnsupportedOpError, r"aten.remainder.Scalar .*jumps"),
    "rounded quotient": (
        lambda x: torch.div(x, 3, rounding_mode="floor"),
        UnsupportedOpError,
        r"aten.div.Tensor_mode .*jumps",
    ),
    "hard shrink": (lambda x: functional.hardshrink(x), UnsupportedOpError, r"compares values|aten.hardshrink.* jumps"),
    "gap in a threshold": (lambda x: functional.threshold(x, 1.0, 0.0), UnsupportedOpError, r"aten.threshold.default"),
    "power by a value": (lambda x: x.abs() ** x, UnsupportedOpError, r"aten.pow.Tensor_Tensor .*exponent depends"),
    "table": (
        lambda x: functional.embedding(x.long(), MATRIX),
        UnsupportedOpError,
        r"rounds its input to torch.int64|looks its input up",
    ),
    "frequencies": (lambda x: torch.fft.rfft(x).angle(), UnsupportedOpError, r"aten.angle.default .*complex values"),
    "high-dimensional product": (lambda x: x @ torch.ones(2, 4, 4), UnsupportedOpError, "mixes the points"),
}


@pytest.mark.alike(27)
@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    function, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        from_torch(Applied(function).eval(), torch.zeros(1, 4))
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.slow
def test_control_flow_operation_is_refused() -> None:
    module = Applied(lambda x: torch.cond(x.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (x,))).eval()
    with pytest.raises(UnsupportedOpError, match=r"aten.gt.Scalar at .* compares values|control flow"):
        from_torch(module, torch.zeros(4), batched=False)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(), nn.RReLU(), nn.AlphaDropout()])
def test_training_mode_is_refused(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer))
    with pytest.raises(InvalidModelError, match=rf"'1\.0' \({type(layer).__name__}\).*call module\.eval\(\)"):
        from_torch(module, torch.zeros(1, 4))
    assert module.training and layer.training


class OnlyInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.training else x


@pytest.mark.slow
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
        (torch.full((2, 3), float("nan")), "'2.weight' has a NaN entry"),
        (torch.full((2, 3), float("inf")), "'2.weight' has an infinite entry"),
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
    for given, kind in ((None, "NoneType"), (nn.ReLU, "ReLU"), (torch.zeros(4), "Tensor")):
        with pytest.raises(InvalidModelError, match=rf"torch\.nn\.Module or a function of one tensor, not {kind}"):
            from_torch(given, torch.zeros(1, 4))  # type: ignore[arg-type]
    with unrounded(), pytest.raises(UnsafeArithmeticError, match="outside"):
        from_torch(nn.Linear(4, 3), torch.zeros(1, 4))


def test_wrong_graph_does_not_pass_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call: Call) -> object:
        return call.steps.add([(1.0 + 1e-7, call.args[0])], None, call.name)

    monkeypatch.setattr(torch_lowering, "RULES", {**RULES, "aten.neg.default": wrong})
    with pytest.raises(InvalidModelError, match=r"imported graph is not Applied: outputs differ by"):
        from_torch(Applied(torch.neg).eval(), torch.zeros(1, 4))
