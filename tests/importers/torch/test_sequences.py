"""Sequences of torch's own layers are imported without a tracer, and are what the tracer makes of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import jacobound as jb
from jacobound.importers.torch.tracing.sequence import LAYERS


class Traced(nn.Sequential):
    """The same as Sequential with a forward of its own, which only a tracer understands."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def activations() -> list[nn.Module]:
    plain = [nn.ReLU(), nn.ReLU6(), nn.Hardsigmoid(), nn.Hardswish(), nn.SELU(), nn.SiLU(), nn.Mish(), nn.Sigmoid()]
    more = [nn.LogSigmoid(), nn.Tanh(), nn.GELU(), nn.GELU("tanh"), nn.Softplus(), nn.Softplus(2.0), nn.Hardtanh()]
    given = [nn.Hardtanh(-0.3, 1.2), nn.LeakyReLU(), nn.LeakyReLU(-0.2), nn.PReLU(), nn.PReLU(6), nn.ELU(), nn.ELU(1.6)]
    return [*plain, *more, *given, nn.CELU(0.4), nn.CELU(), nn.ReLU(inplace=True), nn.Softmax(-1), nn.LogSoftmax(1)]


def flat() -> list[nn.Module]:
    normed = [nn.BatchNorm1d(5), nn.LayerNorm(5), nn.LayerNorm(5, 0.1, False), nn.GroupNorm(5, 5)]
    return [nn.Linear(6, 5), *normed[:3], nn.Linear(5, 5, bias=False), nn.Identity(), nn.Dropout(), nn.Linear(5, 6)]


def line() -> list[nn.Module]:
    convolutions = [nn.Conv1d(2, 4, 3, 1, 1), nn.Conv1d(4, 4, 2, padding="same", groups=2), nn.BatchNorm1d(4)]
    back = [nn.ConvTranspose1d(4, 2, 3, 2, 1, 1), nn.GroupNorm(2, 2), nn.Dropout1d(), nn.AlphaDropout()]
    pools = [nn.MaxPool1d(2, 1), nn.AvgPool1d(3, 1, 1, True, False), nn.AdaptiveAvgPool1d(4)]
    return [*convolutions, *back, *pools, nn.Flatten(), nn.Linear(8, 3)]


def plane() -> list[nn.Module]:
    convolutions = [nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, (2, 1), dilation=(1, 2)), nn.BatchNorm2d(4, 0.1)]
    back = [nn.ConvTranspose2d(4, 2, 3, 2, dilation=2, bias=False), nn.BatchNorm2d(2, affine=False), nn.Dropout2d()]
    pools = [nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(2, 1, divisor_override=3), nn.AdaptiveAvgPool2d(2)]
    return [nn.Sequential(*convolutions), nn.Sequential(nn.Sequential(*back), *pools), nn.Flatten(2), nn.Flatten()]


def space() -> list[nn.Module]:
    layers = [nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.ConvTranspose3d(2, 1, 2), nn.Dropout3d(), nn.MaxPool3d(2, 1)]
    return [*layers, nn.AvgPool3d(2, 1), nn.AdaptiveAvgPool3d((1, 2, 1)), nn.Flatten()]


NETWORKS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "activations": (activations, (6,)),
    "flat": (flat, (6,)),
    "line": (line, (2, 9)),
    "plane": (plane, (2, 9, 8)),
    "space": (space, (1, 5, 5, 4)),
}


def described(graph: jb.Graph) -> tuple[object, ...]:
    """A graph down to the last bit of its weights."""
    return graph.fingerprint, [(node.name, tuple(node.shape)) for node in graph.nodes]


def settled(module: nn.Module) -> nn.Module:
    """With statistics as after training."""
    generator = torch.Generator().manual_seed(1)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand(buffer.shape, generator=generator))
    return module.eval()


@pytest.fixture
def untraceable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("torch.export was called")

    monkeypatch.setattr(torch.export, "export", refuse)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sequence_is_what_the_tracer_makes_of_it(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, shape = NETWORKS[name][0](), NETWORKS[name][1]
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    traced = jb.from_torch(settled(Traced(*layers).to(dtype)), x)
    monkeypatch.setattr(torch.export, "export", None)
    assert described(jb.from_torch(nn.Sequential(*layers), x)) == described(traced)


def test_every_known_layer_is_compared_with_the_tracer() -> None:
    seen = {type(layer) for make, _ in NETWORKS.values() for part in make() for layer in part.modules()}
    assert seen - {nn.Sequential} == set(LAYERS)


@pytest.mark.usefixtures("untraceable")
def test_layers_and_weights_that_stand_in_several_places() -> None:
    layer, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.weight = layer.weight
    graph = jb.from_torch(nn.Sequential(layer, nn.Tanh(), layer, other), torch.zeros(1, 3))
    assert [node.name for node in graph.nodes] == ["input", "0", "1", "0#2", "3"]


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda _layer, _given, found: 2 * found)
    return layer


def patched(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x.relu() * 3  # type: ignore[method-assign]
    return layer


class Doubling(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Backwards(nn.Sequential):
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(list(super().__iter__())[::-1])


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(3, 3), hooked(nn.ReLU())),
        nn.Sequential(nn.Linear(3, 3), patched(nn.ReLU())),
        nn.Sequential(nn.Linear(3, 3), Doubling()),
        Backwards(nn.Linear(3, 3), nn.ReLU()),
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), nn.ReLU()),
        hooked(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
        nn.Sequential(nn.Linear(3, 3), nn.Softsign(), nn.InstanceNorm1d(3)),
    ],
    ids=["hook", "forward", "subclass", "order", "parametrised", "hook of all", "unknown layers"],
)
def test_what_is_no_sequence_of_known_layers_is_traced(module: nn.Module) -> None:
    x = torch.randn(5, 3, 3) if isinstance(module[-1], nn.InstanceNorm1d) else torch.randn(5, 3)
    module.eval()
    torch.testing.assert_close(jb.from_torch(module, x)(x.double()), module(x).double(), rtol=1e-5, atol=1e-5)


def test_a_first_import_and_a_first_constant_do_not_wait_for_a_compiler() -> None:
    code = (
        "import sys, torch, jacobound as jb; "
        "net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)); "
        "graph = jb.from_torch(net, torch.zeros(1, 3)); "
        "jb.lipschitz(graph, jb.Ball(torch.zeros(3), 0.1)); "
        "print([name for name in ('sympy', 'torch._dynamo', 'onnx', 'matplotlib') if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(Path(jb.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
