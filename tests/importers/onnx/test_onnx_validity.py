"""`from_onnx`: what onnxruntime refuses to load is refused, whether it is installed or not; batches mix nothing."""

from __future__ import annotations

import random
import sys
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from jacobound import InvalidModelError, JacoboundError, from_onnx
from onnx_models import model, node, weight, whole

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
TWICE = np.ones(4)  # float64
W = {"w": weight(4, 3), "t": TWICE, "i": whole(1, 2, 3, 4), "yes": np.array(True)}


def branching(*kinds: int) -> NodeProto:
    """An If with branches of these element types."""
    graphs = [
        helper.make_graph(
            [node("Cast", "x", f"b{k}", to=kind)], "branch", [], [helper.make_tensor_value_info(f"b{k}", kind, None)]
        )
        for k, kind in enumerate(kinds)
    ]
    return node("If", "yes", "y", then_branch=graphs[0], else_branch=graphs[1])


def declared(name: str, kind: int) -> Any:
    """Says of a tensor inside what its elements are."""
    return lambda made: made.graph.value_info.append(helper.make_tensor_value_info(name, kind, None))


def output_type(kind: int) -> Any:
    return lambda made: setattr(made.graph.output[0].type.tensor_type, "elem_type", kind)


def no_graph(made: onnx.ModelProto) -> None:
    made.graph.node[0].attribute[0].type = onnx.AttributeProto.INT


def other_length(made: onnx.ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [7]))


def graph_for_a_number(made: onnx.ModelProto) -> None:
    inner = helper.make_graph([node("Neg", "x", "n")], "inner", [], [helper.make_tensor_value_info("n", FLOAT, None)])
    made.graph.node[0].attribute.append(helper.make_attribute("body", inner))


def one_branch(made: onnx.ModelProto) -> None:
    del made.graph.node[0].attribute[1]


REFUSED: dict[str, tuple[Sequence[NodeProto], int, Any]] = {
    "operation of a newer opset": ([node("Gelu", "x")], 17, None),
    "operation that was removed": ([node("Upsample", "x w", mode="nearest")], 13, None),
    "unknown operation": ([node("Nope", "x")], 17, None),
    "unknown attribute": ([node("Elu", "x", colour=1.0)], 17, None),
    "attribute of another type": ([node("Elu", "x", alpha=1)], 17, None),
    "attribute of an older opset": ([node("Squeeze", "x", axes=[0])], 13, None),
    "input of a newer opset": ([node("Squeeze", "x i")], 11, None),
    "too few inputs": ([node("Add", "x")], 17, None),
    "too many inputs": ([node("Relu", "x x")], 17, None),
    "input that nothing gives": ([node("Add", "x nothing")], 17, None),
    "two element types": ([node("Add", "x t")], 17, None),
    "two element types, one of them inside": ([node("Cast", "x", "d", to=DOUBLE), node("Mul", "d x")], 17, None),
    "integers where floats are taken": (
        [node("Elu", "i", "e"), node("Cast", "e", "f", to=FLOAT), node("Add", "x f")], 17, None),
    "floats where integers are taken": ([node("Gather", "x w")], 17, None),
    "lengths that do not fit": ([node("Add", "x i")], 17, None),
    "output declared of another type": ([node("Relu", "x")], 17, output_type(DOUBLE)),
    "tensor declared of another type": ([node("Relu", "x", "r"), node("Neg", "r")], 17, declared("r", DOUBLE)),
    "branches of two types": ([branching(FLOAT, DOUBLE)], 17, None),
    "branch that is no graph": ([branching(FLOAT, FLOAT)], 17, no_graph),
    "one branch": ([branching(FLOAT, FLOAT)], 17, one_branch),
    "inner graph where none is taken": ([node("Relu", "x")], 17, graph_for_a_number),
    "stored input of another shape": ([node("MatMul", "x w")], 17, other_length),
    "constant without a value": ([helper.make_node("Constant", [], ["c"]), node("Add", "x c")], 17, None),
    "unread operation that is unknown": ([node("Relu", "x"), node("Nope", "x", "q")], 17, None),
    "unread operation of a newer opset": ([node("Relu", "x"), node("Gelu", "x", "q")], 17, None),
    "unread operation of two types": ([node("Relu", "x"), node("Add", "x t", "q")], 17, None),
    "unread operation of another domain": (
        [node("Relu", "x"), helper.make_node("A", ["x"], ["q"], domain="my")], 17, None),
    "two operations of one name": ([helper.make_node("Relu", ["x"], ["r"], name="n"),
                                    helper.make_node("Neg", ["r"], ["y"], name="n")], 17, None),
    "circle": ([node("Add", "x z"), node("Relu", "y", "z")], 17, None),
    "made twice": ([node("Relu", "x"), helper.make_node("Neg", ["x"], ["y"])], 17, None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_onnxruntime_refuses_is_refused_without_it_too(case: str, engine: str) -> None:
    nodes, opset, edit = REFUSED[case]
    data = model(nodes, (1, 4), W, opset=opset, edit=edit)
    with pytest.raises(JacoboundError):
        from_onnx(data)
    if engine == "onnxruntime":  # the case is about what it refuses
        import onnxruntime

        with pytest.raises(Exception, match="ONNXRuntimeError"):
            onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


ORDER = [node("Relu", "a"), node("Add", "m b", "a"), node("MatMul", "x w", "m")]


def test_operations_may_stand_in_any_order(engine: str) -> None:
    weights = {"w": weight(4, 3), "b": weight(3)}
    graph = from_onnx(model(ORDER, ("N", 4), weights))
    assert graph.fingerprint == from_onnx(model(ORDER[::-1], ("N", 4), weights)).fingerprint


def test_both_names_of_the_default_domain_mean_the_same(engine: str) -> None:
    long = [helper.make_node(one.op_type, one.input, one.output, domain="ai.onnx") for one in ORDER]
    weights = {"w": weight(4, 3), "b": weight(3)}
    folded = [helper.make_node("Neg", ["b0"], ["b"], domain="ai.onnx"), *long]
    assert (
        from_onnx(model(long, ("N", 4), weights)).fingerprint == from_onnx(model(ORDER, ("N", 4), weights)).fingerprint
    )
    assert from_onnx(model(folded, ("N", 4), {"w": weights["w"], "b0": weight(3)})).out_shape == (3,)


def test_shapes_that_are_declared_wrongly_do_not_count(engine: str) -> None:
    def edit(made: onnx.ModelProto) -> None:
        made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [7, 7]))

    assert from_onnx(model([node("Relu", "x")], (1, 4), edit=edit)).out_shape == (4,)


COUNT = [node("Shape", "x", "s"), node("Gather", "s zero", "n")]
NUMBERS = {
    "zero": np.array(0),
    "one": np.array(1),
    "row": whole(1, -1),
    "back": whole(-1),
    "none": np.zeros((1, 4), np.float32),
}
MIXED = {
    "length of the batch": [*COUNT, node("Cast", "n", "f", to=FLOAT), node("Mul", "x f")],
    "choice by the length": [*COUNT, node("Equal", "n one", "c"), node("Where", "c x none")],
    "one row": [node("Reshape", "x row")],
    "first point": [node("Gather", "x zero", axis=0)],
    "batch twice": [node("Concat", "x x", axis=0)],
    "sum over points": [node("ReduceSum", "x zeros")],
    "softmax over points": [node("Softmax", "x", axis=0)],
    "running sum over points": [node("CumSum", "x zero")],
}


@pytest.mark.parametrize("case", MIXED)
def test_files_that_depend_on_the_length_of_an_open_batch_are_refused(case: str, engine: str) -> None:
    weights = {**NUMBERS, "zeros": whole(0)}
    with pytest.raises(JacoboundError, match=r"batch|at once"):
        from_onnx(model(MIXED[case], ("N", 4), weights))


def test_a_fixed_length_is_compared_as_it_is(engine: str) -> None:
    graph = from_onnx(model([node("Transpose", "x", "t"), node("MatMul", "t v")], (3, 4), {"v": weight(3, 2)}))
    assert (graph.in_shape, graph.out_shape) == ((3, 4), (4, 2))


def test_a_weight_that_is_infinite_is_called_a_mask() -> None:
    with pytest.raises(InvalidModelError, match=r"'w' has an infinite entry.*mask"):
        from_onnx(model([node("Mul", "x w")], (1, 4), {"w": np.full(4, -np.inf, dtype=np.float32)}))
    for factor in ({"alpha": float("nan")}, {"beta": float("inf")}):
        with pytest.raises(JacoboundError, match="no finite number"):
            from_onnx(model([node("Gemm", "x w", **factor)], (1, 4), {"w": weight(4, 3)}))


def test_inputs_that_are_all_stored_are_named() -> None:
    def edit(made: onnx.ModelProto) -> None:
        made.graph.initializer.append(numpy_helper.from_array(np.ones((1, 4), dtype=np.float32), "x"))

    with pytest.raises(InvalidModelError, match="for 'x' the file stores values"):
        from_onnx(model([node("Relu", "x")], (1, 4), edit=edit))


def settings() -> list[object]:
    """What the whole process shares."""
    return [
        sys.getrecursionlimit(), list(warnings.filters), warnings.showwarning, sys.stdout, sys.stderr,
        random.getstate(), str(np.random.get_state()), np.geterr(), torch.get_rng_state().tolist(),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), threading.active_count(),
    ]  # fmt: skip


def test_imports_in_threads_have_the_same_values_and_leave_no_trace(engine: str) -> None:
    files = [
        model([node("MatMul", "x w", "m"), node("Softmax", "m", axis=1)], ("N", 4), {"w": weight(4, 3)}),
        model([node("LayerNormalization", "x g", "n"), node("Gemm", "n w", alpha=0.5)], (1, 4),
              {"g": weight(4), "w": weight(4, 2)}),
        model([node("Add", "x t")], (1, 4), W),
        model([node("Elu", "x", "e", alpha=0.5), node("CumSum", "e one")], (1, 4), NUMBERS),
    ]  # fmt: skip

    def read(data: bytes) -> str:
        try:
            return from_onnx(data).fingerprint
        except JacoboundError as error:
            return str(error)

    expected, before = [read(data) for data in files], settings()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, files * 10)) == expected * 10
    assert settings() == before
