"""Imports beside each other and under other settings of the process: right values, and no trace afterwards."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jacobound as jb
from jacobound import (
    Graph,
    InvalidModelError,
    ShapeError,
    UnsafeArithmeticError,
    UnsupportedOpError,
    from_layers,
    from_torch,
)

THREADS = 3


def network(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype).eval()


def traces() -> list[object]:
    """What an import must leave as it is."""
    return [
        sys.stdout,
        sys.stderr,
        sys.getrecursionlimit(),
        logging.root.manager.disable,
        [list(handler.filters) for handler in logging.root.handlers],
        list(warnings.filters),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_rng_state().tolist(),
        torch.backends.nnpack.is_available(),
        torch.compiler.is_compiling(),
    ]


class Talking(nn.Module):
    """Can not be traced, about which torch has much to say."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.slow
def test_threads_import_at_once_and_leave_no_trace() -> None:
    modules = [network(seed) for seed in range(THREADS)]
    example, region = torch.zeros(1, 3), jb.Ball(torch.zeros(3), 0.1)
    graphs = [from_torch(module, example) for module in modules]
    expected = [jb.lipschitz(graph, region, jb.RecurJac()).upper.item() for graph in graphs]
    before = traces()

    def work(k: int) -> list[tuple[str, float]]:
        found = []
        for _ in range(2):
            graph = from_torch(modules[k], example)
            found.append((graph.fingerprint, jb.lipschitz(graph, region, jb.RecurJac()).upper.item()))
            with pytest.raises(UnsupportedOpError):
                from_torch(Talking(), example)
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(THREADS)))
    for k, found in enumerate(results):
        assert found == [(graphs[k].fingerprint, expected[k])] * 2
    assert traces() == before


def test_other_threads_keep_their_streams_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    stop, heard = threading.Event(), []

    def speak() -> None:
        while not stop.is_set():
            sys.stderr.write("x")
            heard.append("x")
            stop.wait(0.001)

    other = threading.Thread(target=speak)
    other.start()
    try:
        for _ in range(2):
            with pytest.raises(UnsupportedOpError):
                from_torch(Talking(), torch.zeros(1, 3))
    finally:
        stop.set()
        other.join()
    assert capsys.readouterr().err == "".join(heard)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS: dict[str, Callable[[], object]] = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "meta device": lambda: default_device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
}


@pytest.mark.alike(2)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_change_no_value(setting: str) -> None:
    module, centre, like = network(0), torch.full((3,), 0.25), torch.zeros(1, 3)
    plain = from_torch(module, like)
    expected = jb.lipschitz(plain, jb.Ball(centre, 0.1), jb.RecurJac()).upper.item()
    with SETTINGS[setting]():  # type: ignore[attr-defined]
        graph = from_torch(module, like)
        ball = jb.Ball(centre, 0.1)
        inside = jb.lipschitz(graph, ball, jb.RecurJac()).upper.item()
        radius = jb.robust_radius(graph, centre, seconds=0).radius
        monotone = jb.monotone_features(graph, ball, most=20)
    assert graph.fingerprint == plain.fingerprint and inside == expected
    assert radius.dtype == torch.float64 and monotone.lower.dtype == torch.float64
    assert jb.lipschitz(graph, ball, jb.RecurJac()).upper.item() == expected


def test_autocast_is_refused_with_the_cure() -> None:
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(UnsafeArithmeticError, match=r"outside of torch\.autocast"),
    ):
        from_torch(network(0), torch.zeros(1, 3))


@pytest.mark.slow
def test_compiled_modules_are_what_they_were_made_from() -> None:
    module, example = network(0), torch.zeros(1, 3)
    expected = from_torch(module, example).fingerprint
    assert from_torch(torch.compile(module, backend="eager"), example).fingerprint == expected  # type: ignore[arg-type]
    module.compile(backend="eager")
    assert from_torch(module, example).fingerprint == expected


class Locked(nn.Module):
    """Can not be copied."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.lock = inner, threading.Lock()
        self.register_buffer("shift", torch.full((2,), 0.5, dtype=torch.float64))
        self.slope = torch.full((1,), 0.25, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.prelu(self.inner(x) + self.shift, self.slope)


def owners() -> dict[str, tuple[Graph, Callable[[], None]]]:
    """Graphs, and what a user may do afterwards to what they were made from."""
    closed, locked, table = network(1, torch.float64), Locked(network(2, torch.float64)).eval(), np.full((2, 3), 0.5)
    matrix, vector, slope = (torch.full(shape, 0.75, dtype=torch.float64) for shape in ((2, 3), (2,), (2,)))
    mask = torch.tensor([True, False, True])
    prelu = jb.from_layers  # keeps the line below short
    example = torch.zeros(1, 3, dtype=torch.float64)

    def spoil(*tensors: Tensor) -> None:
        with torch.no_grad():
            for tensor in tensors:
                tensor.logical_not_() if tensor.dtype == torch.bool else tensor.mul_(10.0)

    from jacobound.activations.kinds.piecewise import prelu as sloped

    return {
        "function": (from_torch(lambda x: closed(x), example), lambda: spoil(*closed.parameters())),
        "locked": (from_torch(locked, example), lambda: spoil(*locked.parameters(), locked.shift, locked.slope)),  # type: ignore[arg-type]
        "closure": (
            from_torch(lambda x: torch.where(mask, x, 0.0) @ matrix.T + vector, example),
            lambda: spoil(matrix, vector, mask),
        ),
        "numpy": (from_torch(lambda x: x @ torch.from_numpy(table).T, example), lambda: table.__imul__(10.0)),
        "layers": (
            prelu([matrix.clone().requires_grad_(), torch.eye(2)], [vector, None], sloped(slope)),
            lambda: spoil(matrix, vector, slope),
        ),
        "layers of numpy": (from_layers([table]), lambda: table.__imul__(10.0)),
    }


@pytest.mark.alike(2)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["function", "locked", "closure", "numpy", "layers", "layers of numpy"])
def test_graphs_own_their_weights(kind: str) -> None:
    graph, spoil = owners()[kind]
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    before = graph(x).clone()
    spoil()
    assert torch.equal(graph(x), before)


MESSAGES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "half": (lambda: from_torch(network(0), torch.zeros(1, 3).half()), ShapeError, r"half precision.*example\.float"),
    "whole numbers": (lambda: from_torch(network(0), torch.zeros(1, 3).long()), ShapeError, "no real numbers"),
    "meta": (lambda: from_torch(network(0), torch.zeros(1, 3, device="meta")), ShapeError, "meta device"),
    "text": (lambda: from_torch(network(0), "abc"), ShapeError, "can not be read as a tensor"),  # type: ignore[arg-type]
    "dropout": (
        lambda: from_torch(lambda x: nn.functional.dropout(x, 0.5), torch.zeros(1, 3)),
        InvalidModelError,
        r"although the module is in evaluation mode.*training=self\.training",
    ),
    "infinite limit": (
        lambda: from_torch(lambda x: torch.minimum(x, torch.tensor(torch.inf)), torch.zeros(1, 3)),
        UnsupportedOpError,
        r"aten\.minimum.*infinite entries",
    ),
    "mask": (
        lambda: from_torch(lambda x: x + torch.tensor([0.0, -torch.inf, 0.0]), torch.zeros(1, 3)),
        UnsupportedOpError,
        "only numbers can be bounded|masks with -inf",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_name_the_cause(name: str) -> None:
    call, kind, text = MESSAGES[name]
    with pytest.raises(kind, match=text):
        call()


def test_hooks_that_fail_are_named() -> None:
    for hook in (lambda *_: {}["mine"], lambda _m, _i, out: print(float(out.mean()))):
        module = network(0)
        module[0].register_forward_hook(hook)  # type: ignore[index]
        with pytest.raises((InvalidModelError, UnsupportedOpError), match=r"has a hook that fails.*handle\.remove"):
            from_torch(module, torch.zeros(1, 3))


@pytest.mark.alike(4)
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.0, 5.0, 9.0, 13.0, 15.0, 19.0, 20.0, 25.0])
@pytest.mark.parametrize("beta", [1.0, 0.01])
def test_softplus_jumps_are_refused(threshold: float, beta: float, dtype: torch.dtype) -> None:
    for spelling in (
        nn.Softplus(beta, threshold),
        lambda x: nn.functional.softplus(x, beta, threshold),
        lambda x: x * torch.tanh(nn.functional.softplus(x, beta, threshold)),
    ):
        if threshold >= 20:
            from_torch(spelling, torch.zeros(1, 3, dtype=dtype))
        else:
            with pytest.raises(UnsupportedOpError, match=r"threshold=.* jumps by"):
                from_torch(spelling, torch.zeros(1, 3, dtype=dtype))


def test_attention_takes_its_mask_of_minus_infinity() -> None:
    mask = torch.triu(torch.full((4, 4), -torch.inf), 1)

    def attend(x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, 0.5 * x, 2.0 * x, attn_mask=mask.to(x))

    x = torch.randn(2, 4, 5, dtype=torch.float64)
    assert torch.allclose(from_torch(attend, x)(x), attend(x), rtol=1e-12, atol=1e-14)
