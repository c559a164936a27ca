"""`from_onnx`: whole programs: shapes that are computed, branches, functions, layouts, batches, compression."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jacobound import InvalidModelError, from_onnx
from jacobound.graph.nodes import Affine
from jacobound.operators.kinds import Select
from onnx_models import RANDOM, agree, model, node, only, weight, whole

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def constant(name: str, *entries: int) -> onnx.NodeProto:
    return node("Constant", "", name, value=numpy_helper.from_array(whole(*entries)))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_networks_without_a_batch_axis(shape: tuple[int, ...]) -> None:
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Relu", "a", "r"), node("MatMul", "r v")]
    graph = agree(model(nodes, shape, {"w": weight(4, 5), "b": weight(5), "v": weight(5, 2)}))
    assert graph.in_shape == shape and graph.out_shape == (*shape[:-1], 2)


def test_an_image_without_a_batch_axis() -> None:
    nodes = [node("Unsqueeze", "x a", "u"), node("Conv", "u w", "c"), node("Flatten", "c")]
    graph = agree(model(nodes, (2, 5, 6), {"a": whole(0), "w": weight(3, 2, 3, 3)}))
    assert graph.in_shape == (2, 5, 6) and graph.out_shape == (36,)


@pytest.mark.parametrize("open_length", ["N", "", -1, 0, None])
def test_every_way_to_leave_the_batch_open(open_length: Any) -> None:
    def edit(made: onnx.ModelProto) -> None:
        dim = made.graph.input[0].type.tensor_type.shape.dim[0]
        dim.Clear()
        if isinstance(open_length, str):
            dim.dim_param = open_length
        elif open_length is not None:
            dim.dim_value = open_length

    graph = from_onnx(model([node("MatMul", "x w")], (1, 4), {"w": weight(4, 3)}, edit=edit))
    assert (graph.in_shape, graph.out_shape) == ((4,), (3,))


def test_reductions_over_an_axis_of_length_one_are_no_mixing_without_a_batch() -> None:
    graph = agree(model([node("ReduceSum", "x a", keepdims=0)], (1, 4, 3), {"a": whole(0, 1)}))
    assert graph.out_shape == (3,)


def test_shapes_are_computed_by_all_kinds_of_operations() -> None:
    nodes = [
        node("Shape", "x", "s"),
        constant("zero", 0), constant("one", 1), constant("two", 2), constant("minus", -1), constant("four", 4),
        node("Slice", "s one four zero", "inner"),
        node("Gather", "inner zero", "channels", axis=0),
        node("Cast", "channels", "f", to=TensorProto.FLOAT), node("Cast", "f", "i", to=TensorProto.INT64),
        node("Sub", "s s", "nothing"), node("Equal", "nothing zero", "all"), node("Where", "all s nothing", "same"),
        node("ReduceProd", "inner", "rest", keepdims=1),
        node("Concat", "one rest", "flat", axis=0), node("Reshape", "x flat", "r"),
        node("ConstantOfShape", "one", "filled", value=helper.make_tensor("v", TensorProto.INT64, [1], [3])),
        node("Mul", "filled two", "six"), node("Range", "start stop step", "range"),
        node("Add", "range six", "places"), node("Gather", "r places", "g", axis=1),
        node("Shape", "g", "gs"), node("Expand", "i gs", "e"), node("Shape", "e", "es"),
        node("Reshape", "g es", "h"), node("NonZero", "inner", "n"), node("Size", "x", "size"),
        node("Squeeze", "size", "q"), node("Unsqueeze", "q zero", "u"), node("Div", "u u", "k"),
        node("Reshape", "h tail", "y0"), node("ReduceMax", "same", "unused"), node("Gather", "y0 k", axis=1),
    ]  # fmt: skip
    weights = {"start": np.array(0), "stop": np.array(9), "step": np.array(2), "tail": whole(1, 5)}
    graph = agree(model(nodes, ("N", 2, 3, 4), weights))
    assert [type(operator) for node in graph.nodes if isinstance(node, Affine) for operator, _ in node.terms] == [
        Select
    ]


def test_layouts_of_keras() -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w b", "c", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Relu", "c", "r"), node("AveragePool", "r", "p", kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID"),
        node("Transpose", "p", "back", perm=[0, 2, 3, 1]),
        node("Shape", "back", "s"), node("Slice", "s one two zero", "n"), node("Reshape", "back flat", "f"),
        node("MatMul", "f v", "m"), node("Add", "m d"),
    ]  # fmt: skip
    weights = {
        "w": weight(3, 2, 3, 3), "b": weight(3), "one": whole(0), "two": whole(1), "zero": whole(0),
        "flat": whole(-1, 12), "v": weight(12, 5), "d": weight(5),
    }  # fmt: skip
    assert agree(model(nodes, ("batch", 7, 9, 2), weights)).in_shape == (7, 9, 2)


def branches(test: str) -> list[onnx.NodeProto]:
    """An If on the rank of a shape: one branch squeezes, the other scales by a weight from outside."""
    given = helper.make_tensor_value_info
    squeezed = helper.make_graph(
        [node("Constant", "", "axis", value=numpy_helper.from_array(whole(1))), node("Squeeze", "x axis", "t")],
        "then", [], [given("t", TensorProto.FLOAT, None)])  # fmt: skip
    inner = helper.make_graph([node("Mul", "x w", "a")], "inner", [], [given("a", TensorProto.FLOAT, None)])
    other = helper.make_graph([node("Neg", "x", "b")], "other", [], [given("b", TensorProto.FLOAT, None)])
    scaled = helper.make_graph(
        [node("If", "yes", "e", then_branch=inner, else_branch=other)],
        "else",
        [],
        [given("e", TensorProto.FLOAT, None)],
    )
    return [
        node("Shape", "x", "s"), node("Gather", "s one", "n"), node("Equal", f"n {test}", "c"),
        node("If", "c", "i", then_branch=squeezed, else_branch=scaled), node("Relu", "i"),
    ]  # fmt: skip


def test_branches_on_constants_are_taken() -> None:
    weights = {"one": np.array(1), "three": np.array(3), "w": weight(3), "yes": np.array(True)}
    graph = agree(model(branches("one"), ("N", 1, 3), weights))
    assert [entry.name for entry in graph.nodes] == ["x", "t", "y"] and graph.out_shape == (3,)
    graph = agree(model(branches("three"), ("N", 1, 3), weights))
    assert [entry.name for entry in graph.nodes] == ["x", "a", "y"] and graph.out_shape == (1, 3)


def with_functions(made: onnx.ModelProto) -> None:
    """leaky(x, w; slope) calls pair(x), whose results are x and relu(x)."""
    made.opset_import.append(helper.make_opsetid("mine", 1))
    pair = helper.make_function(
        "mine", "pair", ["a"], ["same", "size"],
        [helper.make_node("Identity", ["a"], ["same"]), helper.make_node("Relu", ["a"], ["size"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    alpha = helper.make_node("LeakyRelu", ["p"], ["l"])
    alpha.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    leaky = helper.make_function(
        "mine", "leaky", ["a", "w"], ["b"],
        [helper.make_node("pair", ["a"], ["p", "q"], domain="mine"), alpha,
         helper.make_node("MatMul", ["l", "w"], ["m"]), helper.make_node("Add", ["m", "q"], ["b"])],
        [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)], ["slope"],
    )  # fmt: skip
    made.functions.extend([pair, leaky])


def test_functions_of_the_model_are_inserted() -> None:
    calls = [
        node("leaky", "x w", "h", domain="mine", slope=0.25),
        node("leaky", "h w", "k", domain="mine", slope=0.5),
        node("Neg", "k"),
    ]
    graph = agree(model(calls, ("N", 3), {"w": weight(3, 3)}, edit=with_functions), judges=slice(1, None))
    kinds = [entry.activation.name for entry in graph.nodes if hasattr(entry, "activation")]
    assert sorted(kinds) == ["leaky_relu:0.25", "leaky_relu:0.5", "relu", "relu"]


def test_casts_between_floats_are_the_identity() -> None:
    nodes = [node("Cast", "x", "d", to=TensorProto.DOUBLE), node("MatMul", "d w", "m"),
             node("Cast", "m", "f", to=TensorProto.FLOAT), node("CastLike", "f x", "l"), node("Relu", "l")]  # fmt: skip
    graph = agree(model(nodes, ("N", 3), {"w": RANDOM.standard_normal((3, 2))}))
    assert [entry.name for entry in graph.nodes] == ["x", "m", "y"]


def test_dropout_of_every_version_is_the_identity() -> None:
    for opset in (7, 10, 12, 13, 22):
        assert len(agree(model([node("Dropout", "x", "d"), node("Relu", "d")], (1, 3), opset=opset)).nodes) == 2


def test_compressed_files_are_read(tmp_path: Path) -> None:
    data = model([node("MatMul", "x w")], ("N", 4), {"w": weight(4, 3)})
    plain, path = from_onnx(data), tmp_path / "net.onnx.gz"
    path.write_bytes(gzip.compress(data))
    for source in (path, str(path), gzip.compress(data), gzip.compress(data[:50]) + gzip.compress(data[50:])):
        assert from_onnx(source).fingerprint == plain.fingerprint


@pytest.mark.slow
def test_compressed_files_that_are_damaged_or_grow_without_end() -> None:
    data = gzip.compress(model([node("MatMul", "x w")], ("N", 4), {"w": weight(4, 3)}))
    for damaged, message in {
        data[:-4]: "cut off",
        data[:20] + b"\xff\xff" + data[22:]: "damaged",
        data + b"more": "something else behind",
        gzip.compress(bytes(1 << 28)): "more than 67108864 bytes inside",
        gzip.compress(data): "not an ONNX model",
    }.items():
        with pytest.raises(InvalidModelError, match=message):
            from_onnx(damaged)


def test_a_cut_before_the_last_operation_needs_no_knowledge_of_it() -> None:
    data = model([node("Relu", "x", "r"), node("TopK", "r k", "y i")], ("N", 4), {"k": whole(2)})
    assert from_onnx(data, until="r")(torch.tensor([[-1.0, 2, 3, 0]])).tolist() == [[0, 2, 3, 0]]
    assert only(from_onnx(model([node("Trilu", "x")], (1, 3, 3))), Select) is not None
