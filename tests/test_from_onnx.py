"""`from_onnx`: small models of every operation against ONNX's own evaluator, exactness, and every refusal."""

from __future__ import annotations

import importlib.util
import itertools
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jacobound.errors import InvalidModelError, JacoboundError, MissingExtraError, UnsupportedOpError
from jacobound.graph import Affine, Elementwise, Graph
from jacobound.importers.onnx import from_onnx
from jacobound.operator_kinds import Convolution, Dense, Identity, Scale, Select

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

        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        yield lambda x: session.run(None, {"x": x})[0]


def agree(data: bytes, points: int = 3, judges: slice = slice(None)) -> Graph:
    """Import, and compare with other engines in the file's precision, one point at a time."""
    graph = from_onnx(data)
    double = onnx.load_from_string(data).graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    x = RANDOM.standard_normal((points, *graph.in_shape))
    got = graph(torch.tensor(x))
    for run, k in itertools.product(list(engines(data))[judges], range(points)):
        expected = run(x[k : k + 1].astype(np.float64 if double else np.float32))
        assert got[k].numel() == expected.size
        np.testing.assert_allclose(got[k].numpy().reshape(expected.shape), expected, rtol=2e-4, atol=2e-5)
    return graph


def only(graph: Graph, kind: type) -> Any:
    """The only operator of a kind in a graph."""
    found = [op for n in graph.nodes if isinstance(n, Affine) for op, _ in n.terms if isinstance(op, kind)]
    assert len(found) == 1
    return found[0]


IMAGE = ("N", 2, 5, 6)
AFFINE = {
    "gemm": ([node("Gemm", "x w b", transB=1)], ("N", 4), {"w": weight(3, 4), "b": weight(3)}, 17),
    "gemm plain": ([node("Gemm", "x w")], (1, 4), {"w": weight(4, 3)}, 11),
    "gemm alpha beta": (
        [node("Gemm", "x w b", alpha=0.3, beta=1.7)], (1, 4), {"w": weight(4, 3), "b": weight(1)}, 9),
    "gemm beta 0": ([node("Gemm", "x w b", beta=0.0)], (1, 4), {"w": weight(4, 3), "b": weight(3)}, 9),
    "gemm constant left": (
        [node("Transpose", "x", "t"), node("Gemm", "w t b", alpha=0.5)],
        (1, 4), {"w": weight(3, 4), "b": weight(3, 1)}, 13),
    "gemm constant left, both transposed": (
        [node("Gemm", "w x b", transA=1, transB=1)], (1, 4), {"w": weight(4, 3), "b": weight(3, 1)}, 13),
    "gemm many rows": (
        [node("Reshape", "x s", "r"), node("Gemm", "r w b", transA=1)],
        ("N", 6), {"s": whole(2, 3), "w": weight(2, 5), "b": weight(3, 5)}, 17),
    "matmul add": ([node("MatMul", "x w", "m"), node("Add", "b m")], ("N", 4), {"w": weight(4, 3), "b": weight(3)}, 8),
    "matmul sequence": ([node("MatMul", "x w")], (1, 5, 4), {"w": weight(4, 3)}, 17),
    "matmul left": ([node("MatMul", "w x")], (1, 4, 5), {"w": weight(3, 4)}, 17),
    "matmul left column": ([node("MatMul", "w x")], (1, 4, 1), {"w": weight(1, 3, 4)}, 17),
    "matmul vector": ([node("MatMul", "x w")], (1, 5, 4), {"w": weight(4)}, 17),
    "vector matmul": ([node("MatMul", "w x")], (1, 4, 5), {"w": weight(4)}, 17),
    "matmul of a vector": (
        [node("Squeeze", "x", "s", axes=[0]), node("MatMul", "s w")], (1, 4), {"w": weight(4, 3)}, 11),
    "conv": ([node("Conv", "x w b", pads=[1, 1, 1, 1])], IMAGE, {"w": weight(3, 2, 3, 3), "b": weight(3)}, 17),
    "conv uneven": (
        [node("Conv", "x w", pads=[0, 1, 2, 0], strides=[2, 1], dilations=[1, 2])],
        IMAGE, {"w": weight(3, 2, 2, 3)}, 7),
    "conv groups": ([node("Conv", "x w", group=2)], IMAGE, {"w": weight(4, 1, 3, 2)}, 17),
    "conv same upper": (
        [node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2])], IMAGE, {"w": weight(3, 2, 3, 2)}, 17),
    "conv same lower": ([node("Conv", "x w", auto_pad="SAME_LOWER")], IMAGE, {"w": weight(3, 2, 2, 2)}, 17),
    "conv valid": ([node("Conv", "x w", auto_pad="VALID")], IMAGE, {"w": weight(3, 2, 2, 2)}, 17),
    "conv 1d": (
        [node("Conv", "x w b", pads=[2, 1], strides=[2])], (1, 2, 9), {"w": weight(3, 2, 3), "b": weight(3)}, 17),
    "add": ([node("Add", "x c")], IMAGE, {"c": weight(2, 1, 1)}, 17),
    "add that widens": ([node("Add", "c x")], (1, 4), {"c": weight(3, 1)}, 17),
    "subtract": ([node("Sub", "x c")], (1, 4), {"c": weight(1, 4)}, 17),
    "subtract from": ([node("Sub", "c x")], (1, 4), {"c": weight(4)}, 17),
    "multiply": ([node("Mul", "c x")], IMAGE, {"c": weight(2, 1, 1)}, 17),
    "divide": ([node("Div", "x c")], IMAGE, {"c": weight(1, 2, 1, 1)}, 17),
    "negate": ([node("Neg", "x")], (1, 4), {}, 17),
    "residual": (
        [node("MatMul", "x w", "m"), node("Relu", "m", "r"), node("Add", "r x", "a"), node("Sub", "a m")],
        ("N", 4), {"w": weight(4, 4)}, 17),
    "add itself": ([node("Add", "x x")], (1, 4), {}, 17),
    "sum": ([node("Relu", "x", "r"), node("Sum", "x r c")], (1, 4), {"c": weight(4)}, 17),
    "batch norm": (
        [node("BatchNormalization", "x g b m v", epsilon=1e-3)],
        IMAGE, {"g": weight(2), "b": weight(2), "m": weight(2), "v": np.abs(weight(2))}, 15),
    "batch norm of features": (
        [node("BatchNormalization", "x g b m v")],
        (1, 3), {"g": weight(3), "b": weight(3), "m": weight(3), "v": np.abs(weight(3))}, 9),
    "average pool": ([node("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])], IMAGE, {}, 17),
    "average pool pads": (
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1])], IMAGE, {}, 17),
    "average pool counts pads": (
        [node("AveragePool", "x", kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1)], IMAGE, {}, 17),
    "average pool ceil": (
        [node("AveragePool", "x", kernel_shape=[2, 4], strides=[2, 4], ceil_mode=1)], IMAGE, {}, 17),
    "average pool same": (
        [node("AveragePool", "x", kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2])], IMAGE, {}, 17),
    "average pool 1d dilated": (
        [node("AveragePool", "x", kernel_shape=[2], dilations=[2], pads=[1, 1])], (1, 2, 7), {}, 19),
    "global average pool": ([node("GlobalAveragePool", "x")], IMAGE, {}, 17),
    "reduce mean": ([node("ReduceMean", "x", axes=[1, -1], keepdims=0)], IMAGE, {}, 13),
    "reduce mean 18": ([node("ReduceMean", "x a", keepdims=1)], IMAGE, {"a": whole(2, 3)}, 18),
    "reduce sum": ([node("ReduceSum", "x a", keepdims=0)], IMAGE, {"a": whole(-2)}, 13),
}  # fmt: skip

MOVEMENT = {
    "flatten": ([node("Flatten", "x")], IMAGE, {}, 9),
    "flatten axis 2": ([node("Flatten", "x", axis=2)], IMAGE, {}, 17),
    "reshape": ([node("Reshape", "x s")], IMAGE, {"s": whole(0, -1)}, 17),
    "reshape that drops the batch": ([node("Reshape", "x s")], (1, 2, 3), {"s": whole(-1)}, 17),
    "transpose": ([node("Transpose", "x", perm=[0, 3, 1, 2])], IMAGE, {}, 17),
    "transpose all": ([node("Transpose", "x")], (1, 3, 4), {}, 17),
    "squeeze 7": ([node("Squeeze", "x", axes=[2])], (1, 3, 1, 4), {}, 7),
    "squeeze 13": ([node("Squeeze", "x a")], (1, 3, 1, 4), {"a": whole(2)}, 13),
    "unsqueeze 7": ([node("Unsqueeze", "x", axes=[1])], (1, 3), {}, 7),
    "unsqueeze 13": ([node("Unsqueeze", "x a")], (1, 3), {"a": whole(-1)}, 13),
    "slice 7": ([node("Slice", "x", axes=[1, 2], starts=[1, -3], ends=[2, 1000])], IMAGE, {}, 7),
    "slice 13": (
        [node("Slice", "x s e a t")],
        IMAGE, {"s": whole(-1), "e": whole(-100), "a": whole(3), "t": whole(-2)}, 13),
    "gather": ([node("Gather", "x i", axis=1)], (1, 5), {"i": whole(3, 3, -1, 0)}, 17),
    "gather drops the batch": ([node("Gather", "x i", axis=0)], (1, 5), {"i": np.array(0)}, 17),
    "pad 7": ([node("Pad", "x", pads=[0, 0, 1, 0, 0, 0, 0, 2])], IMAGE, {}, 7),
    "pad 7 with a number": ([node("Pad", "x", pads=[0, 0, 1, 0, 0, 0, 0, 2], value=1.5)], IMAGE, {}, 7),
    "pad 13": ([node("Pad", "x p v")], (1, 3), {"p": whole(0, 1, 0, 2), "v": np.array(2.5, dtype=np.float32)}, 13),
    "pad 18 axes": ([node("Pad", "x p - a")], (1, 3, 4), {"p": whole(1, 2), "a": whole(1)}, 18),
    "pad reflect": ([node("Pad", "x p", mode="reflect")], (1, 5), {"p": whole(0, 2, 0, 1)}, 13),
    "concat": ([node("Relu", "x", "r"), node("Concat", "r c x", axis=1)], (1, 3), {"c": weight(1, 2)}, 17),
    "split 7": ([node("Split", "x", "a b", axis=1), node("Sub", "b a")], (1, 6), {}, 7),
    "split 13": ([node("Split", "x s", "a b", axis=1), node("Concat", "b a", axis=1)], (1, 6), {"s": whole(2, 4)}, 13),
    "split 18": ([node("Split", "x", "a b", axis=1, num_outputs=2), node("Add", "a b")], (1, 6), {}, 18),
    "expand": ([node("Expand", "x s")], (1, 1, 3), {"s": whole(1, 4, 3)}, 17),
    "tile": ([node("Tile", "x r")], (1, 3), {"r": whole(1, 2)}, 17),
    "depth to space": ([node("DepthToSpace", "x", blocksize=2)], (1, 4, 2, 3), {}, 17),
    "space to depth": ([node("SpaceToDepth", "x", blocksize=2)], (1, 1, 4, 2), {}, 17),
    "where": ([node("Where", "k x c")], (1, 3), {"k": np.array([[True, False, True]]), "c": weight(3)}, 17),
    "identity and dropout": ([node("Identity", "x", "i"), node("Dropout", "i")], (1, 3), {}, 17),
    "cast to the same": ([node("Cast", "x", to=TensorProto.FLOAT)], (1, 3), {}, 17),
    "shape arithmetic": (
        [
            node("Shape", "x", "s"), node("Gather", "s zero", "n", axis=0), node("Unsqueeze", "n", "n1", axes=[0]),
            node("Constant", "", "m", value=numpy_helper.from_array(whole(-1))),
            node("Concat", "n1 m", "t", axis=0), node("Reshape", "x t"),
        ],
        IMAGE, {"zero": np.array(0)}, 9),
    "shape from 15": ([node("Shape", "x", "s", start=0, end=2), node("Concat", "s m", "t", axis=0),
                       node("Reshape", "x t")], IMAGE, {"m": whole(-1)}, 15),
    "computed weights": (
        [node("ConstantOfShape", "s", "ones", value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])),
         node("Mul", "ones w", "u"), node("Sqrt", "q", "r"), node("Div", "u r", "c"), node("MatMul", "x c")],
        (1, 4), {"s": whole(4, 3), "w": weight(4, 3), "q": np.abs(weight(3))}, 17),
}  # fmt: skip

ACTIVATIONS = {
    **{op: ([node(op, "x")], (1, 7), {}, 20) for op in (
        "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Atan", "Elu", "Softplus", "HardSigmoid", "Gelu")},
    "leaky": ([node("LeakyRelu", "x", alpha=0.3)], (1, 7), {}, 7),
    "elu": ([node("Elu", "x", alpha=0.7)], (1, 7), {}, 7),
    "hard sigmoid": ([node("HardSigmoid", "x", alpha=0.3, beta=0.4)], (1, 7), {}, 7),
    "gelu tanh": ([node("Gelu", "x", approximate="tanh")], (1, 7), {}, 20),
    "prelu": ([node("PRelu", "x s")], IMAGE, {"s": np.abs(weight(2, 1, 1))}, 9),
    "prelu with batch axis": ([node("PRelu", "x s")], IMAGE, {"s": np.abs(weight(1, 2, 1, 1))}, 16),
}  # fmt: skip

CASES = {**AFFINE, **MOVEMENT, **ACTIVATIONS}


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


HEAD = [node("MatMul", "x w", "logits"), node("Softmax", "logits", "y")]


def test_softmax_is_cut_where_the_message_says() -> None:
    data = model(HEAD, (1, 4), {"w": weight(4, 3)})
    with pytest.raises(
        UnsupportedOpError,
        match=r"Op 'Softmax' \(node 'node_y', output 'y'\) at position 1.*"
        r"cut the network before it with from_onnx\(path, until='logits'\)",
    ):
        from_onnx(data)
    for until in ("logits", "node_logits"):
        assert [entry.name for entry in from_onnx(data, until=until).nodes] == ["x", "logits"]


def test_until_needs_a_known_name() -> None:
    with pytest.raises(InvalidModelError, match=r"no tensor or node 'logit' to be cut at; it has .*'logits'"):
        from_onnx(model(HEAD, (1, 4), {"w": weight(4, 3)}), until="logit")


def test_until_chooses_one_of_several_outputs_and_forgets_the_rest() -> None:
    nodes = [node("Relu", "x", "a"), node("Foo", "a", "b")]
    data = model(nodes, (1, 4), outputs="a b")
    with pytest.raises(InvalidModelError, match=r"2 outputs \('a', 'b'\); choose one with from_onnx\(path, until="):
        from_onnx(data)
    assert from_onnx(data, until="a").out_shape == (4,)


W = {"w": weight(4, 4)}
SQUARE = {"w": weight(1, 1, 2, 2)}
UNSUPPORTED = {
    "unknown": ([node("Foo", "x")], (1, 4), {}, r"Op 'Foo' \(node 'node_y', output 'y'\) at position 0.*opset 17"),
    "domain": ([node("Relu", "x", domain="com.acme")], (1, 4), {}, r"Op 'Relu'.*domain 'com.acme'.*standard"),
    "max pool": ([node("MaxPool", "x", kernel_shape=[2, 2])], (1, 1, 4, 4), {}, r"Op 'MaxPool'.*until='x'"),
    "sine": ([node("Relu", "x", "r"), node("Sin", "r")], (1, 4), {},
             r"Op 'Sin'.*at position 1. It is neither affine nor a known activation.*until='r'"),
    "product of values": ([node("Mul", "x x")], (1, 4), {}, r"Op 'Mul'.*two values"),
    "matrix product of values": ([node("MatMul", "x x")], (1, 4, 4), {}, r"Op 'MatMul'.*two values"),
    "division by a value": ([node("Div", "w x")], (1, 4), W, r"Op 'Div'.*divides by a value"),
    "transA": ([node("Gemm", "x w", transA=1)], (1, 4), {"w": weight(1, 3)}, r"Op 'Gemm'.*transA=1"),
    "stacked matrices": ([node("MatMul", "x w")], (1, 2, 4), {"w": weight(2, 4, 4)}, r"Op 'MatMul'.*stack of matrices"),
    "weight from the input": ([node("Conv", "x x")], (1, 1, 2, 2), {}, r"'x' depends on the network's input"),
    "shape from values": (
        [node("Cast", "x", "s", to=TensorProto.INT64), node("Reshape", "x s")], (1, 4), {}, r"rounds.*to INT64"),
    "cast to half": ([node("Cast", "x", to=TensorProto.FLOAT16)], (1, 4), {}, r"Op 'Cast'.*FLOAT16"),
    "mean over batch": ([node("ReduceMean", "x", axes=[0])], (1, 4), {}, r"Op 'ReduceMean'.*batch axis"),
    "mean over all": ([node("ReduceMean", "x")], (1, 4), {}, r"Op 'ReduceMean'.*batch axis"),
    "batch statistics": ([node("BatchNormalization", "x b b b b", "y m v", training_mode=1)], (1, 4),
                         {"b": np.abs(weight(4))}, r"Op 'BatchNormalization'.*training mode"),
    "dropout in training": (
        [node("Dropout", "x r t")], (1, 4), {"r": np.array(0.5, np.float32), "t": np.array(True)}, r"training mode"),
    "mask of dropout": ([node("Dropout", "x", "d m"), node("Where", "m d x")], (1, 4), {}, r"first 1 results"),
    "auto_pad": ([node("Conv", "x w", auto_pad="SOME")], (1, 1, 4, 4), SQUARE, r"Op 'Conv'.*auto_pad='SOME'"),
    "both pads": (
        [node("Conv", "x w", auto_pad="SAME_UPPER", pads=[1, 1, 1, 1])], (1, 1, 4, 4), SQUARE, "both auto_pad"),
    "negative pads": ([node("Pad", "x p")], (1, 4), {"p": whole(0, -1, 0, 0)}, r"Op 'Pad'.*Negative pads"),
    "volume": ([node("Conv", "x w")], (1, 1, 3, 3, 3), {"w": weight(1, 1, 2, 2, 2)}, r"Op 'Conv'.*\(1, 1, 3, 3, 3\)"),
    "loop": ([node("If", "k", then_branch=helper.make_graph([], "t", [], []),
                   else_branch=helper.make_graph([], "e", [], [])), node("Add", "x y", "z")],
             (1, 4), {"k": np.array(True)}, r"Op 'If'.*evaluated"),
    "random weights": ([node("RandomNormal", "", "w", shape=[4, 4]), node("MatMul", "x w")], (1, 4), {},
                       r"Op 'RandomNormal'"),
    "quantised": ([node("QuantizeLinear", "x s")], (1, 4), {"s": np.array(0.1, np.float32)},
                  r"Op 'QuantizeLinear'.*unquantised"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_operations_are_refused_by_name_and_place(case: str) -> None:
    nodes, shape, weights, message = UNSUPPORTED[case]
    with pytest.raises(UnsupportedOpError, match=f"(?s){message}"):
        from_onnx(model(nodes, shape, weights, outputs=nodes[-1].output[0]))


def stored(made: onnx.ModelProto) -> onnx.TensorProto:
    return made.graph.initializer[0]


def with_dims(*dims: int) -> Any:
    def edit(made: onnx.ModelProto) -> None:
        del stored(made).dims[:]
        stored(made).dims.extend(dims)

    return edit


def with_entry(value: float) -> Any:
    def edit(made: onnx.ModelProto) -> None:
        values = np.ones((4, 4), np.float32)
        values[1, 2] = value
        stored(made).CopyFrom(numpy_helper.from_array(values, "w"))

    return edit


def with_type(dtype: Any) -> Any:
    return lambda made: stored(made).CopyFrom(numpy_helper.from_array(np.ones((4, 4), dtype), "w"))


def external(location: str) -> Any:
    def edit(made: onnx.ModelProto) -> None:
        tensor = stored(made)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location

    return edit


def second_input(made: onnx.ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4]))
    made.graph.node.append(node("Add", "y z", "t"))
    made.graph.output[0].name = "t"


def twice(made: onnx.ModelProto) -> None:
    made.graph.node.append(node("MatMul", "x w", "y"))


def own_function(made: onnx.ModelProto) -> None:
    made.functions.append(helper.make_function("me", "Mine", ["a"], ["b"], [node("Relu", "a", "b")], []))


def sparse(made: onnx.ModelProto) -> None:
    values = helper.make_tensor("thin", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))


def version(number: int) -> Any:
    return lambda made: setattr(made.opset_import[0], "version", number)


def change(attribute: str, value: Any) -> Any:
    return lambda made: made.graph.node[0].attribute.append(helper.make_attribute(attribute, value))


INVALID = {
    "nan": (with_entry(np.nan), r"tensor 'w' has a NaN or infinite entry"),
    "infinite": (with_entry(-np.inf), r"tensor 'w' has a NaN or infinite entry"),
    "half": (with_type(np.float16), r"tensor 'w' is FLOAT16.*float32"),
    "int8": (with_type(np.int8), r"tensor 'w' is INT8.*unquantised"),
    "negative": (with_dims(-1, 4), r"tensor 'w' has shape \(-1, 4\) with a negative length"),
    "huge": (with_dims(2**31, 2**31), r"tensor 'w' has shape .*more than"),
    "empty": (with_dims(0, 4), r"tensor 'w' says it has shape \(0, 4\).*holds 64 bytes"),
    "too long": (with_dims(4, 3), r"tensor 'w' says it has shape \(4, 3\) of FLOAT but holds 64 bytes"),
    "two fields": (lambda made: stored(made).float_data.append(1.0), r"holds 64 bytes besides float_data"),
    "external": (external("w.bin"), r"tensor 'w' keeps its data in another file \('w.bin'\).*onnx.save"),
    "external above": (external("../../secret"), r"'\.\./\.\./secret', a path that climbs out"),
    "external absolute": (external("/etc/passwd"), r"'/etc/passwd', an absolute path. Do not trust"),
    "external drive": (external("C:\\secret"), r"an absolute path"),
    "two inputs": (second_input, r"2 inputs \('x', 'z'\)"),
    "made twice": (twice, r"'y' exists already"),
    "missing tensor": (lambda made: made.graph.ClearField("initializer"), r"reads 'w', which nothing before it gives"),
    "function": (own_function, r"its own functions \('Mine'\); inline"),
    "sparse": (sparse, r"tensor 'thin' is sparse"),
    "old": (version(6), r"opset 6; 7 or later"),
    "new": (version(1000), r"opset 1000, the installed onnx .* update"),
    "attribute": (change("colour", 3), r"Op 'MatMul'.*Unrecognized attribute: colour"),
    "no nodes": (lambda made: made.graph.ClearField("node"), r"without operations"),
    "constant": (lambda made: made.graph.node[0].input.__setitem__(0, "w"), r"depends on none"),
    "integer input": (
        lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64),
        r"input 'x' holds INT64"),
    "half input": (
        lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        r"input 'x' holds FLOAT16"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_bad_files_are_refused_with_the_reason(case: str) -> None:
    edit, message = INVALID[case]
    with pytest.raises(InvalidModelError, match=f"(?s){message}"):
        from_onnx(model([node("MatMul", "x w")], (1, 4), W, edit=edit))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 4), r"\[8, 4\]: a batch of 8 or no batch; export it with a batch axis in front"),
        ((4,), r"a batch of 4 or no batch"),
        (("N", "M"), r"\['N', 'M'\]: only axis 0 may be left open"),
        ((1, 0), r"no entries"),
        ((1, 2**40), r"more than"),
        (None, r"declares no shape"),
    ],
)
def test_inputs_of_unclear_shape_are_refused(shape: Any, message: str) -> None:
    with pytest.raises(InvalidModelError, match=message):
        from_onnx(model([node("Relu", "x")], shape))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "s", "c"), node("Add", "x c")],
        [node("Expand", "x s")],
        [node("Tile", "x s")],
        [node("Pad", "x p")],
        [node("Conv", "x w", pads=[0, 0, 2**30, 2**30], strides=[2**29, 2**29])],
        [node("AveragePool", "x", kernel_shape=[2**20, 2**20], pads=[2**20] * 4, strides=[2**20] * 2)],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_operations_that_would_fill_the_memory_are_refused_first(nodes: list[onnx.NodeProto]) -> None:
    large = {"s": whole(1, 1, 2**31, 2**31), "p": whole(0, 0, 0, 0, 0, 0, 2**31, 2**31), "w": weight(1, 1, 1, 1)}
    with pytest.raises(InvalidModelError, match="more than"):
        from_onnx(model(nodes, (1, 1, 1, 1), large))


def test_external_data_behind_a_link_is_called_that(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    (inside / "w.bin").symlink_to(tmp_path / "secret")
    (inside / "net.onnx").write_bytes(model([node("MatMul", "x w")], (1, 4), W, edit=external("w.bin")))
    with pytest.raises(InvalidModelError, match=r"'w\.bin', a link that leads out of the model's folder"):
        from_onnx(inside / "net.onnx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\x80\x04\x95abc", "Python pickle.*never opened"),
        (b"PK\x03\x04rest", "zip archive.*from_torch"),
        (b"\x1f\x8b\x08rest", "gzip-compressed; decompress|gzip-compressed, not an ONNX model; decompress"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer.*git lfs pull"),
        (b"\xff" * 100, "not an ONNX model"),
        (b"hello, this is text", "not an ONNX model"),
    ],
)
def test_other_files_are_called_what_they_are(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=message):
        from_onnx(data)
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(InvalidModelError, match=f"net.onnx': .*(?:{message})"):
        from_onnx(tmp_path / "net.onnx")


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", tmp_path, str(tmp_path / "a\0b")):
        with pytest.raises(InvalidModelError, match="can not be read"):
            from_onnx(path)


def test_damaged_files_give_nothing_but_our_errors() -> None:
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("AveragePool", "c", "p", kernel_shape=[2, 2], ceil_mode=1),
        node("Shape", "p", "s"), node("Gather", "s zero", "n", axis=0), node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 minus", "t", axis=0), node("Reshape", "p t", "f"), node("LeakyRelu", "f", "y", alpha=0.3),
    ]  # fmt: skip
    weights = {"w": weight(2, 1, 3, 3), "b": weight(2), "zero": np.array(0), "axes": whole(0), "minus": whole(-1)}
    data = model(nodes, ("N", 1, 4, 4), weights)
    choose = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        if choose.random() < 0.2:
            del damaged[choose.randrange(len(damaged)) :]
        else:
            damaged[choose.randrange(len(damaged))] = choose.choice([0, 1, 255, choose.randrange(256)])
        try:
            from_onnx(bytes(damaged))
        except JacoboundError:
            refused += 1
    assert refused > 75


def test_names_that_are_no_text_are_refused() -> None:
    data = model([node("MatMul", "x w")], (1, 4), W).replace(b"node_y", b"node\xff\xfe")
    with pytest.raises(InvalidModelError, match="no text"):
        from_onnx(data)


@pytest.mark.parametrize(
    "wrong",
    [node("Conv", "x w", pads=[-1, 0, 0, 0]), node("Conv", "x w", strides=[0, 1]), node("Conv", "x w", group=0),
     node("Conv", "x w", kernel_shape=[3, 3]), node("Conv", "x w", pads=[1]), node("Gemm", "x w"),
     node("Reshape", "x s"), node("Conv", "x big"), node("BatchNormalization", "x w w w w"),
     node("BatchNormalization", "x b b b b"), node("PRelu", "x b"), node("Conv", "x w b")],
    ids=lambda wrong: wrong.op_type,
)  # fmt: skip
def test_operations_that_contradict_themselves_are_refused(wrong: onnx.NodeProto) -> None:
    weights = {**SQUARE, "s": whole(3, 5), "b": np.ones(3, np.float32), "big": weight(1, 1, 9, 9)}
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=f"Op '{wrong.op_type}'.*output 'y'"):
        from_onnx(model([wrong], (1, 1, 4, 4), weights))


def test_weights_computed_to_nan_are_named() -> None:
    nodes = [node("Sqrt", "w", "root"), node("MatMul", "x root")]
    with pytest.raises(InvalidModelError, match="tensor 'root' has a NaN"):
        from_onnx(model(nodes, (1, 4), {"w": -np.ones((4, 4), np.float32)}))


def test_division_by_zero_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="'y' multiplies by a factor that is not a finite number"):
        from_onnx(model([node("Div", "x c")], (1, 4), {"c": np.zeros(4, np.float32)}))


def test_the_check_at_the_door_sees_a_wrong_import(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacobound.importers import onnx_ops, onnx_walk

    wrong = {**onnx_ops.LOWERINGS, "Neg": lambda call: (call.traced(),)}
    monkeypatch.setattr(onnx_walk, "LOWERINGS", wrong)
    with pytest.raises(InvalidModelError, match=r"is not the ONNX model \(as run by onnx"):
        from_onnx(model([node("Neg", "x")], (1, 4)))


def test_without_onnxruntime_the_evaluator_of_onnx_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacobound.importers import onnx_runtime

    asked = []
    by_reference = onnx_runtime._by_reference
    monkeypatch.setattr(onnx_runtime, "_by_onnxruntime", lambda model: None)
    monkeypatch.setattr(onnx_runtime, "_by_reference", lambda model: asked.append(1) or by_reference(model))
    assert from_onnx(model([node("MatMul", "x w")], (1, 4), W)).out_shape == (4,)
    for case in ("batch norm", "batch norm of features"):
        nodes, shape, weights, opset = CASES[case]
        assert from_onnx(model(nodes, shape, weights, opset=opset)).in_shape == shape[1:]
    assert len(asked) == 3


def test_without_the_package_onnx_the_message_holds_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'jacobound\[onnx\]'"):
        from_onnx("net.onnx")


SHARED_REFUSED = {
    "mnist_cnn.onnx": "MaxPool",
    "Convnet_maxpool.onnx": "MaxPool",
    "tansig_200_50_onnx.onnx": "Softmax",
    "logsig_200_100_50_onnx.onnx": "Softmax",
}


def test_networks_of_others_load_and_agree(shared_data: Path) -> None:
    files = sorted((shared_data / "third_party").glob("*.onnx")) + sorted((shared_data / "nets").glob("mnist*.onnx"))
    assert len(files) > 30
    for file in files:
        if file.name in SHARED_REFUSED:
            with pytest.raises(UnsupportedOpError, match=f"Op '{SHARED_REFUSED[file.name]}'.*until="):
                from_onnx(file)
        else:
            graph = from_onnx(file)
            assert graph.out_shape in ((10,), (5,)), file.name


def test_networks_with_a_final_softmax_can_be_cut(shared_data: Path) -> None:
    for name, until in (("tansig_200_50", "softmax_3_Flatten"), ("logsig_200_100_50", "softmax_4_Flatten")):
        graph = from_onnx(shared_data / "third_party" / f"{name}_onnx.onnx", until=until)
        assert graph.in_shape == (1, 1, 784) and graph.out_shape == (10,)


def test_identity_is_no_node() -> None:
    graph = from_onnx(model([node("Identity", "x", "i"), node("Relu", "i")], (1, 3)))
    assert len(graph.nodes) == 2
    assert not any(isinstance(op, Identity) for n in graph.nodes if isinstance(n, Affine) for op, _ in n.terms)
