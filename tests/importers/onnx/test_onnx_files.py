"""`from_onnx` on networks that others made: every file of the reference data, against onnxruntime on real points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import UnsupportedOpError, from_onnx

onnx = pytest.importorskip("onnx")

# Files that end in Softmax, and the tensor that holds the logits.
SOFTMAX = {"tansig_200_50_onnx.onnx": "softmax_3_Flatten", "logsig_200_100_50_onnx.onnx": "softmax_4_Flatten"}
SLOW = ("cifar_10layer_relu_2048.onnx",)


def outputs(file: Path, until: str | None, x: np.ndarray) -> np.ndarray:
    """The file run by onnxruntime, cut at a tensor."""
    onnxruntime = pytest.importorskip("onnxruntime")
    loaded = onnx.load(file)
    if until is not None:
        del loaded.graph.output[:]
        loaded.graph.output.append(onnx.helper.make_empty_tensor_value_info(until))
    session = onnxruntime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def agree(file: Path, until: str | None = None) -> None:
    graph = from_onnx(file, until)
    loaded = onnx.load(file)
    stored = {tensor.name for tensor in loaded.graph.initializer}
    declared = next(entry for entry in loaded.graph.input if entry.name not in stored)
    shape = [max(dim.dim_value, 1) for dim in declared.type.tensor_type.shape.dim]
    x = np.random.default_rng(0).uniform(0, 1, (2, *shape)).astype(np.float32)
    for point in x:
        expected = outputs(file, until, point).reshape(-1)
        got = graph(torch.tensor(point).double().reshape(graph.in_shape)).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_networks_of_others_load_and_agree(shared_data: Path) -> None:
    files = sorted((shared_data / "third_party").glob("*.onnx")) + sorted((shared_data / "nets").glob("*.onnx"))
    assert len(files) > 30
    for file in files:
        if file.name not in SLOW:
            agree(file)
        if file.name in SOFTMAX:
            agree(file, SOFTMAX[file.name])


@pytest.mark.slow
def test_networks_that_end_in_softmax_have_constants_and_no_executed_values(shared_data: Path) -> None:
    for name in SOFTMAX:
        graph = from_onnx(shared_data / "third_party" / name)
        region = jb.Ball(torch.full(graph.in_shape, 0.5, dtype=torch.float64), 1e-3)
        with pytest.raises(UnsupportedOpError, match=r"softmax of 10.*AutoLip.*until="):
            jb.bound_output(graph, region, semantics="executed")
        found = jb.lipschitz(graph, region, method=jb.AutoLip())
        logits = jb.lipschitz(from_onnx(shared_data / "third_party" / name, SOFTMAX[name]), region, method=jb.AutoLip())
        jacobian = torch.func.jacrev(graph)(region.center)
        assert found.status.certified
        assert torch.linalg.matrix_norm(jacobian.reshape(10, -1), 2) <= found.upper <= 0.5 * logits.upper * (1 + 1e-9)


def test_networks_with_max_pooling_are_bounded(shared_data: Path) -> None:
    graph = from_onnx(shared_data / "third_party" / "Convnet_maxpool.onnx")
    centre = torch.full(graph.in_shape, 0.5, dtype=torch.float64)
    found = jb.bound_output(graph, jb.Ball(centre, 1e-3), jb.IBP())
    points = centre + 1e-3 * (2 * torch.rand(64, *graph.in_shape, dtype=torch.float64) - 1)
    values = graph(points)
    assert found.status.certified
    assert (found.lower <= values.amin(0)).all() and (values.amax(0) <= found.upper).all()
    assert (found.upper - found.lower).max() < 1.0
