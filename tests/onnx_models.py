"""Small ONNX models and the engines that judge them, for the tests of `from_onnx`."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from jacobound import Graph, from_onnx
from jacobound.graph.nodes import Affine

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

RANDOM = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    """Random float32 weights."""
    return RANDOM.standard_normal(shape).astype(np.float32)


def whole(*entries: int) -> np.ndarray:
    """A constant of integers: a shape, axes, positions."""
    return np.array(entries, dtype=np.int64)


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node with the name of its first output; names in one text, "-" for an input that is left out."""
    names = [name.replace("-", "") for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"node_{outputs.split()[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    outputs: str = "y",
    kind: int = TensorProto.FLOAT,
    edit: Any = None,
) -> bytes:
    """A serialised model with input x; `edit` may change it before."""
    stored = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs.split()],
        stored,
    )
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    if edit is not None:
        edit(made)
    return made.SerializeToString()


# Where onnx's own evaluator is wrong (onnx 1.23): training statistics, shifted windows.
MISJUDGED = ("batch norm of features", "average pool ceil")


def engines(data: bytes) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """The model run by onnx's own evaluator and, when it is installed and can, by onnxruntime."""
    evaluator = ReferenceEvaluator(onnx.load_from_string(data))
    yield lambda x: evaluator.run(None, {"x": x})[0]
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # the model as it stands
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        yield lambda x: session.run(None, {"x": x})[0]


def agree(data: bytes, points: int = 3, judges: slice = slice(None), spread: float = 1.0) -> Graph:
    """Import, and compare with other engines in the file's precision, one point at a time."""
    graph = from_onnx(data)
    kind = onnx.load_from_string(data).graph.input[0].type.tensor_type
    double = kind.elem_type == TensorProto.DOUBLE
    shape = [max(dim.dim_value, 1) for dim in kind.shape.dim]
    x = spread * RANDOM.standard_normal((points, *graph.in_shape))
    got = graph(torch.tensor(x))
    for run, k in itertools.product(list(engines(data))[judges], range(points)):
        expected = run(x[k].reshape(shape).astype(np.float64 if double else np.float32))
        assert got[k].numel() == expected.size
        np.testing.assert_allclose(got[k].numpy().reshape(expected.shape), expected, rtol=2e-4, atol=2e-5)
    return graph


def only(graph: Graph, kind: type) -> Any:
    """The only operator of a kind in a graph."""
    found = [op for n in graph.nodes if isinstance(n, Affine) for op, _ in n.terms if isinstance(op, kind)]
    assert len(found) == 1
    return found[0]
