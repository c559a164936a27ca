"""Functions and methods of tensors in traced modules, also in the form of torch's core operations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from jacobound import Graph, from_torch
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.torch.lowering import lower
from jacobound.importers.torch.tracing.program import Program
from torch_agreement import agreement
from torch_calls import IMAGES, VECTORS
from torch_models import IMAGE, MODELS, VECTOR, Applied, built, image

CALLS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (lambda f=f: Applied(f), VECTOR) for name, f in VECTORS.items()},
    **{name: (lambda f=f: image(f), IMAGE) for name, f in IMAGES.items()},
}


@pytest.mark.alike(44)
@pytest.mark.parametrize("name", CALLS)
def test_call_is_imported(name: str) -> None:
    make, shape = CALLS[name]
    module = make().double().eval()
    agreement(from_torch(module, torch.zeros(1, *shape, dtype=torch.float64)), module, shape, 1e-11)


def together(functions: Iterable[Callable[[Tensor], object]]) -> Callable[[Tensor], Tensor]:
    """Several functions of a batch side by side, which costs one trace."""
    listed = list(functions)

    def both(x: Tensor) -> Tensor:
        results = [function(x) for function in listed]
        return torch.cat([result.reshape(len(x), -1) for result in results if isinstance(result, Tensor)], 1)

    return both


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_calls_without_batch_axis(part: int) -> None:
    """A module that takes one point and gives it a batch axis itself."""
    functions = together(list(VECTORS.values())[part::6])
    module = Applied(lambda x: functions(x[None])[0]).double().eval()
    points = 2 * torch.randn(3, 4, dtype=torch.float64)
    graph = from_torch(module, torch.zeros(4, dtype=torch.float64), batched=False)
    expected = torch.stack([module(point) for point in points])
    torch.testing.assert_close(graph(points), expected, rtol=1e-11, atol=1e-11)


CORE_VECTORS = """max of two|min with a constant|amax|max over an axis|aminmax|median|topk|sort falling|clamp|abs|square
power 3|power of 2|expm1|erf, erfc|x sigmoid(x)|gelu by hand|relu6|hardtanh|logsigmoid|addcmul|addcdiv|lerp|cumsum
norm 1|norm inf|matmul|tensordot|addmm|addmm of two nodes|gather|index|scatter_add|index_add|accumulate|diag_embed"""
CORE_IMAGES = """max pool|max over two axes|sort along channels|unfold, fold|transposed convolution|conv_transpose2d
interpolate nearest|interpolate bilinear|interpolate bicubic|interpolate area|pad by reflection|pad by replication
pixel shuffle|adaptive pools|depthwise means|local contrast|maxout|group sort|bmm|baddbmm"""
CORE_MODELS = (
    "cnn with batch norm and pooling",
    "dense block",
    "in place",
    "weight norm",
    "strided convolution",
    "padding same, even kernel",
    "adaptive pool of sequences",
)


def listed(text: str, calls: dict[str, Callable[[Tensor], object]]) -> list[Callable[[Tensor], object]]:
    return [calls[name] for line in text.splitlines() for name in line.split("|")]


CORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (lambda name=name: built(name)[0], MODELS[name][1]) for name in CORE_MODELS},
    **{f"vectors {k}": (lambda k=k: Applied(together(listed(CORE_VECTORS, VECTORS)[k::3])), VECTOR) for k in range(3)},
    **{f"images {k}": (lambda k=k: image(together(listed(CORE_IMAGES, IMAGES)[k::3])), IMAGE) for k in range(3)},
}


@pytest.mark.parametrize("name", CORE)
def test_core_operations(name: str) -> None:
    """The same operations in the form into which torch decomposes them by default."""
    make, shape = CORE[name]
    module = make().double().eval()
    steps = AffineSteps(torch.zeros((), dtype=torch.float64), 3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (torch.zeros(3, *shape, dtype=torch.float64),), strict=False)
        graph = Graph(lower(Program.of(program.run_decompositions()), steps, shape).output)
    agreement(graph, module, shape, 1e-11, slopes=False)


def test_constants_are_those_of_the_module() -> None:
    """A clamp in float32 is at the float that the module computes with, an option of a layer at the number given."""

    def values(function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
        module = Applied(function, nn.Identity()).to(dtype)
        return from_torch(module, torch.zeros(1, 2, dtype=dtype))(torch.full((2,), -9.0, dtype=torch.float64))

    single = values(lambda x: x.clamp(min=0.1), torch.float32)
    double = values(lambda x: x.clamp(min=0.1), torch.float64)
    assert (single == torch.tensor(0.1).double()).all() and (double == 0.1).all()
