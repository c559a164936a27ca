"""`from_layers`: matrices become a graph, or are refused by name."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from jacobound import InvalidModelError, ShapeError, UnsupportedOpError, from_layers, from_torch
from jacobound.activations import activation
from jacobound.graph.nodes import Affine


def test_layers() -> None:
    generator = torch.Generator().manual_seed(2)
    weights = [
        torch.randn(5, 4, generator=generator),
        torch.randn(6, 5, generator=generator).numpy(),
        torch.randn(2, 6, generator=generator, dtype=torch.float64),
    ]
    biases = [torch.randn(5, generator=generator), None, numpy.ones(2)]
    graph = from_layers(weights, biases, activation=["leaky_relu:0.3", activation("tanh")])
    assert [node.name for node in graph.nodes] == [
        "input",
        "layer1",
        "layer1.activation",
        "layer2",
        "layer2.activation",
        "layer3",
    ]
    x = torch.randn(3, 4, dtype=torch.float64)
    hidden = functional.leaky_relu(x @ weights[0].double().T + biases[0].double(), 0.3)
    hidden = torch.tanh(hidden @ torch.as_tensor(weights[1]).double().T)
    torch.testing.assert_close(graph(x), hidden @ weights[2].T + 1)
    same = from_torch(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double(), torch.zeros(1, 4))
    dense = [node for node in same.nodes if isinstance(node, Affine)]
    copied = from_layers([node.terms[0][0].materialise() for node in dense], [node.bias for node in dense])
    assert copied.fingerprint == same.fingerprint


def test_layers_do_not_follow_later_changes() -> None:
    weight = torch.ones(2, 3, dtype=torch.float64)
    frozen = numpy.ones((2, 2))
    frozen.setflags(write=False)
    graph = from_layers([weight, frozen])
    weight.zero_()
    assert torch.equal(graph(torch.ones(3)), torch.full((2,), 6.0, dtype=torch.float64))
    assert torch.equal(from_layers([[[1, 2], [3, 4.5]]])(torch.ones(2)), torch.tensor([3, 7.5], dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (([],), ShapeError, "at least one"),
        (([torch.ones(3)],), ShapeError, r"weights\[0\] has shape \(3,\)"),
        (([torch.ones(3, 2), torch.ones(2, 2)],), ShapeError, r"weights\[1\].*transpose"),
        (([torch.ones(3, 2)], [torch.ones(2)]), ShapeError, r"biases\[0\] has shape \(2,\)"),
        (([torch.ones(3, 2)], []), ShapeError, "1 weights and 0 biases"),
        (([torch.ones(3, 2)], None, ["relu"]), ShapeError, "0 hidden layers and 1 activations"),
        (([torch.ones(3, 2), torch.ones(1, 3)], None, "nonsense"), UnsupportedOpError, "nonsense"),
        (([torch.full((3, 2), float("nan"))],), InvalidModelError, r"weights\[0\].* NaN"),
        (([torch.ones(3, 2)], [torch.full((3,), float("inf"))]), InvalidModelError, r"biases\[0\]"),
        (([numpy.ones((3, 2), dtype=numpy.float16)],), InvalidModelError, "float16"),
        (([numpy.ones((3, 2), dtype=numpy.int64)],), InvalidModelError, "int64"),
        (([[[1.0], [1.0, 2.0]]],), ShapeError, r"weights\[0\] can not be read"),
        (([object()],), ShapeError, r"weights\[0\] can not be read"),
    ],
)
def test_layers_that_are_refused(arguments: tuple[object, ...], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        from_layers(*arguments)  # type: ignore[arg-type]
