"""`from_onnx`: small models of every operation against ONNX's own evaluator and onnxruntime, and exactness."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from jacobound import from_onnx
from jacobound.graph.nodes import Affine, Elementwise
from jacobound.operators.kinds import Convolution, Dense, Identity, Scale, Select
from onnx_cases import CASES, IMAGE
from onnx_models import MISJUDGED, RANDOM, agree, model, node, only, weight, whole

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402


@pytest.mark.parametrize("case", CASES)
def test_every_operation_agrees_with_other_engines(case: str) -> None:
    nodes, shape, weights, opset = CASES[case]
    graph = agree(model(nodes, shape, weights, opset=opset), judges=slice(case in MISJUDGED, None))
    assert graph.in_shape == tuple(shape[1:])
    assert graph.dtype == torch.float64


def test_points_have_no_batch_axis() -> None:
    flatten = [node("Flatten", "x")]
    shapes = {(1, 784, 1): (784, 1), ("N", 784): (784,), (None, 784): (784,), (1, 1, 1, 5): (1, 1, 5)}
    for shape, point in shapes.items():
        assert from_onnx(model(flatten, shape)).in_shape == point
    assert from_onnx(model(flatten, (1, 1, 1, 5))).out_shape == (5,)


def test_double_models_are_taken_in_double() -> None:
    weights = {"w": RANDOM.standard_normal((4, 3)), "c": RANDOM.standard_normal(3)}
    nodes = [node("MatMul", "x w", "m"), node("Div", "m c", "d"), node("Relu", "d")]
    graph = agree(model(nodes, (1, 4), weights, kind=TensorProto.DOUBLE))
    assert torch.equal(only(graph, Dense).weight, torch.tensor(weights["w"].T))


def test_initialisers_listed_as_inputs_are_no_inputs() -> None:
    def list_them(made: onnx.ModelProto) -> None:
        made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))
        made.ir_version = 3

    assert agree(model([node("MatMul", "x w")], (1, 4), {"w": weight(4, 3)}, edit=list_them)).in_shape == (4,)


def test_weights_are_exact_and_nodes_keep_their_names() -> None:
    w, b = weight(3, 4), weight(3)
    nodes = [node("Gemm", "x w b", "hidden", transB=1), node("Relu", "hidden", "active"), node("Neg", "active")]
    graph = from_onnx(model(nodes, ("N", 4), {"w": w, "b": b}))
    assert [entry.name for entry in graph.nodes] == ["x", "hidden", "active", "y"]
    assert [type(entry) for entry in graph.nodes[1:3]] == [Affine, Elementwise]
    assert np.array_equal(only(graph, Dense).weight.numpy(), w.astype(np.float64))
    hidden = graph.nodes[1]
    assert isinstance(hidden, Affine) and hidden.bias is not None
    assert np.array_equal(hidden.bias.numpy(), b.astype(np.float64))


def test_alpha_times_weight_is_exact() -> None:
    w = weight(4, 3)
    operator = only(from_onnx(model([node("Gemm", "x w", alpha=0.3)], (1, 4), {"w": w})), Dense)
    alpha = Fraction(float(np.float32(0.3)))
    for i, j in np.ndindex(4, 3):
        assert Fraction(operator.weight[j, i].item()) == alpha * Fraction(float(w[i, j]))


def test_division_encloses_the_reciprocal_of_the_stored_divisor() -> None:
    divisor = np.array([3.0, 0.3081, 255.0, 8.0], dtype=np.float32)
    scale = only(from_onnx(model([node("Div", "x c")], (1, 4), {"c": divisor})), Scale)
    assert scale.radius is not None
    for factor, radius, c in zip(scale.factor.tolist(), scale.radius.tolist(), divisor.tolist(), strict=True):
        assert abs(Fraction(factor) - 1 / Fraction(c)) <= Fraction(radius) <= Fraction(abs(factor)) * Fraction(1, 2**48)
    assert scale.radius[3] == 0


def test_batch_norm_encloses_its_factor() -> None:
    g, v = np.abs(weight(2)) + np.float32(0.1), np.abs(weight(2))
    weights = {"g": g, "b": weight(2), "m": weight(2), "v": v}
    scale = only(from_onnx(model([node("BatchNormalization", "x g b m v")], (1, 2), weights)), Scale)
    epsilon = Fraction(float(np.float32(1e-5)))
    for k in range(2):
        low = Fraction(scale.factor[k].item()) - Fraction(scale.radius[k].item())
        high = Fraction(scale.factor[k].item()) + Fraction(scale.radius[k].item())
        square = Fraction(float(g[k])) ** 2 / (Fraction(float(v[k])) + epsilon)
        assert low**2 <= square <= high**2
        assert high - low <= Fraction(1, 2**45) * high


def test_movements_of_movements_are_one_selection() -> None:
    nodes = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("Reshape", "t s", "r"), node("Slice", "r a b c")]
    weights = {"s": whole(1, 12), "a": whole(2), "b": whole(7), "c": whole(1)}
    graph = agree(model(nodes, (1, 3, 4), weights))
    assert isinstance(graph.output, Affine)
    assert [(type(op), source) for op, source in graph.output.terms] == [(Select, graph.input)]


def test_a_constant_added_to_a_product_is_its_bias() -> None:
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b")]
    graph = from_onnx(model(nodes, (1, 4), {"w": weight(4, 3), "b": weight(3)}))
    assert [entry.name for entry in graph.nodes] == ["x", "y"]


def test_uneven_padding_is_a_selection_before_the_convolution() -> None:
    graph = from_onnx(model([node("Conv", "x w", pads=[0, 1, 2, 0])], IMAGE, {"w": weight(3, 2, 2, 2)}))
    assert only(graph, Convolution).padding == (0, 0)
    assert (only(graph, Select).index == -1).any()


def test_identity_is_no_node() -> None:
    graph = from_onnx(model([node("Identity", "x", "i"), node("Relu", "i")], (1, 3)))
    assert len(graph.nodes) == 2
    assert not any(isinstance(op, Identity) for n in graph.nodes if isinstance(n, Affine) for op, _ in n.terms)
