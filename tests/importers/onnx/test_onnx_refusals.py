"""`from_onnx`: operations that are refused, by name and place, with advice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import InvalidModelError, UnsupportedOpError, from_onnx
from onnx_models import model, node, weight, whole

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

HEAD = [node("MatMul", "x w", "logits"), node("Softmax", "logits", "y")]


def test_executed_values_of_softmax_are_refused_where_it_can_be_cut() -> None:
    data = model(HEAD, (1, 4), {"w": weight(4, 3)})
    graph = from_onnx(data)
    region = jb.Ball(torch.zeros(4, dtype=torch.float64), 0.1)
    with pytest.raises(UnsupportedOpError, match=r"'y': softmax of 3 .*AutoLip.*until='logits'"):
        jb.bound_output(graph, region, semantics="executed")
    assert jb.bound_jacobian(graph, region).status.certified
    assert jb.lipschitz(graph, region, method=jb.AutoLip()).upper <= 0.5 * np.linalg.norm(weight_of(data), 2) * (
        1 + 1e-9
    )
    for until in ("logits", "node_logits"):
        cut = from_onnx(data, until=until)
        assert [entry.name for entry in cut.nodes] == ["x", "logits"]
        assert jb.bound_jacobian(cut, region).status.certified


def weight_of(data: bytes) -> np.ndarray:
    return onnx.numpy_helper.to_array(onnx.load_from_string(data).graph.initializer[0]).astype(np.float64)


def test_until_needs_a_known_name() -> None:
    with pytest.raises(InvalidModelError, match=r"no tensor or node 'logit' to be cut at; it has .*'logits'"):
        from_onnx(model(HEAD, (1, 4), {"w": weight(4, 3)}), until="logit")


def test_until_chooses_one_of_several_outputs_and_forgets_the_rest() -> None:
    nodes = [node("Relu", "x", "a"), node("Foo", "a", "b")]
    data = model(nodes, (1, 4), outputs="a b")
    with pytest.raises(InvalidModelError, match=r"2 outputs \('a', 'b'\); choose one with from_onnx\(path, until="):
        from_onnx(data)
    assert from_onnx(data, until="a").out_shape == (4,)


def graph(inner: onnx.NodeProto, output: str, inputs: str = "") -> onnx.GraphProto:
    """An inner graph of one operation."""
    read, given = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names.split()]
                   for names in (inputs, output))  # fmt: skip
    return helper.make_graph([inner], "inner", read, given)


W = {"w": weight(4, 4)}
SQUARE = {"w": weight(1, 1, 2, 2)}
UNSUPPORTED = {
    "unknown": ([node("Foo", "x")], (1, 4), {}, r"Op 'Foo' \(node 'node_y', output 'y'\) at position 0.*opset 17"),
    "domain": ([node("Relu", "x", domain="com.acme")], (1, 4), {}, r"Op 'Relu'.*domain 'com.acme'.*standard"),
    "no activation": ([node("Relu", "x", "r"), node("Gamma", "r")], (1, 4), {},
             r"Op 'Gamma' .*at position 1. ONNX opset 17 has no such operation"),
    "unknown activation": ([node("Relu", "x", "r"), node("Acosh", "r")], (1, 4), {},
             r"Op 'Acosh'.*at position 1. It is neither affine nor a known activation.*until='r'"),
    "matrix product of points": ([node("MatMul", "x x")], ("N", 1), {}, r"Op 'MatMul'.*mixes the points"),
    "gemm of values": ([node("Gemm", "x x", transB=1)], (1, 4), {}, r"Op 'Gemm'.*two values.*until='x'"),
    "power of values": ([node("Pow", "x x")], (1, 4), {}, r"Op 'Pow'.*Base and exponent"),
    "powers": ([node("Pow", "x p")], (1, 4), {"p": np.array([1, 2, 3, 4], np.float32)}, r"Op 'Pow'.*exponents differ"),
    "transA": ([node("Gemm", "x w", transA=1)], ("N", 4), {"w": weight(1, 3)}, r"Op 'Gemm'.*transA=1"),
    "einsum of three values": (
        [node("Einsum", "x x x", equation="ij,ij,ij->ij")], (1, 4), {}, r"Op 'Einsum'.*two values"),
    "weight from the input": ([node("Conv", "x x")], (1, 1, 2, 2), {}, r"'x' depends on the network's input"),
    "shape from values": (
        [node("Cast", "x", "s", to=TensorProto.INT64), node("Reshape", "x s")], (1, 4), {}, r"rounds.*to INT64"),
    "cast to half": ([node("Cast", "x", to=TensorProto.FLOAT16)], (1, 4), {}, r"Op 'Cast'.*FLOAT16"),
    "mean over batch": ([node("ReduceMean", "x", axes=[0])], ("N", 4), {}, r"Op 'ReduceMean'.*batch axis"),
    "maximum over all": ([node("ReduceMax", "x")], ("N", 4), {}, r"Op 'ReduceMax'.*batch axis"),
    "running sum over batch": ([node("CumSum", "x a")], ("N", 4), {"a": np.array(0)}, r"Op 'CumSum'.*batch axis"),
    "batch statistics": ([node("BatchNormalization", "x b b b b", "y m v", training_mode=1)], (1, 4),
                         {"b": np.abs(weight(4))}, r"Op 'BatchNormalization'.*training mode"),
    "dropout in training": (
        [node("Dropout", "x r t")], (1, 4), {"r": np.array(0.5, np.float32), "t": np.array(True)}, r"training mode"),
    "mask of dropout": ([node("Dropout", "x", "d m"), node("Where", "m d x")], (1, 4), {}, r"first 1 results"),
    "auto_pad": ([node("Conv", "x w", auto_pad="SOME")], (1, 1, 4, 4), SQUARE, r"Op 'Conv'.*auto_pad='SOME'"),
    "both pads": (
        [node("Conv", "x w", auto_pad="SAME_UPPER", pads=[1, 1, 1, 1])], (1, 1, 4, 4), SQUARE, "both auto_pad"),
    "four axes": ([node("Conv", "x w")], (1, 1, 2, 2, 2, 2), {"w": weight(1, 1, 1, 1, 1, 1)}, r"Op 'Conv'.*2, 2, 2, 2"),
    "several images": ([node("Conv", "x w")], (8, 1, 4, 4), SQUARE, r"Op 'Conv'.*\(8, 1, 4, 4\).*batch of one"),
    "branch on values": (
        [node("ReduceSum", "x", "s"), node("Greater", "s k", "b"),
         node("If", "b", then_branch=graph(node("Neg", "x", "t"), "t"), else_branch=graph(node("Abs", "x", "e"), "e"))],
        (1, 4), {"k": np.array(0, np.float32)}, r"Op 'If'.*depends on values"),
    "loop": ([node("Loop", "n k x", "y", body=graph(node("Neg", "c", "d"), "k d", "i k c"))],
             (1, 4), {"k": np.array(True), "n": np.array(10**9)}, r"Op 'Loop'.*over 4096 steps.*until='x'"),
    "loop on values": (
        [node("ReduceSum", "x", "s"), node("Cast", "s", "b", to=9), node("Loop", "- b x", "y", body=graph(
            node("Neg", "c", "d"), "k d", "i k c"))], (1, 4), {}, r"Op 'Cast'.*rounds values"),
    "softmax of the batch": ([node("Softmax", "x", axis=0)], ("N", 4), {}, r"Op 'Softmax'.*batch axis"),
    "layer norm of the batch": ([node("LayerNormalization", "x w", axis=0)], ("N", 4), {"w": weight(4)}, r"batch axis"),
    "layer norm behind all axes": ([node("LayerNormalization", "x w", axis=2)], (3, 4), {"w": weight(4)}, r"axis 2 of"),
    "norm of a number": (
        [node("ReduceSum", "x", "s", keepdims=0), node("LpNormalization", "s")], (3, 4), {}, r"axis -1 of"),
    "negative epsilon": ([node("LayerNormalization", "x w", epsilon=-1.0)], (3, 4), {"w": weight(4)}, r"epsilon is -1"),
    "scale from the input": ([node("LayerNormalization", "x x")], (1, 4), {}, r"'x' depends on the network's input"),
    "mean of a layer norm": ([node("LayerNormalization", "x w -", "y m"), node("Add", "y m", "z")],
                             (1, 4), {"w": weight(4)}, r"Op 'LayerNormalization'.*first 1 results"),
    "several images at once": ([node("InstanceNormalization", "x w w")], (8, 4, 2), {"w": weight(4)}, r"batch of one"),
    "l1 norm": ([node("LpNormalization", "x", p=1)], (1, 4), {}, r"Op 'LpNormalization'.*p=1"),
    "local responses": ([node("LRN", "x", size=3)], (1, 4, 2, 2), {}, r"statistic.*batch or layer normalisation"),
    "not a number": ([node("IsNaN", "x", "n"), node("Where", "n x x")], (1, 4), {}, r"Op 'IsNaN'.*Softmax"),
    "places": ([node("ArgMax", "x")], (1, 4), {}, r"Op 'ArgMax'.*places"),
    "top": ([node("TopK", "x k", "y i")], (1, 4), {"k": whole(2)}, r"Op 'TopK'.*places"),
    "indices": ([node("MaxPool", "x", "y i", kernel_shape=[2])], (1, 1, 4), {}, r"Op 'MaxPool'.*second result"),
    "storage order": (
        [node("MaxPool", "x", kernel_shape=[2], storage_order=1)], (1, 1, 4), {}, r"Op 'MaxPool'.*storage_order"),
    "norm pool": ([node("LpPool", "x", kernel_shape=[2])], (1, 1, 4), {}, r"Op 'LpPool'.*l_p norm.*max pooling"),
    "recurrent": ([node("RNN", "x w w", hidden_size=2)], (1, 1, 4), {"w": weight(1, 2, 4)}, r"Op 'RNN'.*weights have"),
    "recurrent, jumping": (
        [node("RNN", "x w r", hidden_size=2, activations=["ThresholdedRelu"])], (1, 1, 4),
        {"w": weight(1, 2, 4), "r": weight(1, 2, 2)}, r"Op 'RNN'.*'ThresholdedRelu' jumps"),
    "recurrent, of several lengths": (
        [node("GRU", "x w r - n", hidden_size=2)], (3, 2, 4),
        {"w": weight(1, 6, 4), "r": weight(1, 6, 2), "n": np.array([1, 3], np.int32)}, r"sequence_lens are \[1, 3\]"),
    "crop": ([node("Resize", "x r s", coordinate_transformation_mode="tf_crop_and_resize")], (1, 1, 4),
             {"r": np.array([0, 0, 0, 1, 1, 1], np.float32), "s": np.array([1, 1, 2], np.float32)},
             r"Op 'Resize'.*tf_crop_and_resize"),
    "added updates": ([node("ScatterElements", "x i u", axis=1, reduction="add")], (1, 4),
                      {"i": np.array([[1]]), "u": weight(1, 1)}, r"Op 'ScatterElements'.*reduction='add'"),
    "random weights": ([node("RandomNormal", "", "w", shape=[4, 4]), node("MatMul", "x w")], (1, 4), {},
                       r"Op 'RandomNormal'"),
    "quantised": ([node("QuantizeLinear", "x s")], (1, 4), {"s": np.array(0.1, np.float32)},
                  r"Op 'QuantizeLinear'.*integers.*unquantised"),
    "dequantised": ([node("DequantizeLinear", "k s", "w"), node("MatMul", "x w")],
                    (1, 4), {"k": np.ones((4, 4), np.int32), "s": np.array(0.1, np.float32)}, r"Dequant.*unquantised"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_operations_are_refused_by_name_and_place(case: str) -> None:
    nodes, shape, weights, message = UNSUPPORTED[case]
    with pytest.raises(UnsupportedOpError, match=f"(?s){message}"):
        from_onnx(model(nodes, shape, weights, outputs=nodes[-1].output[0]))
