"""`from_onnx`: small files that would become large are refused before they do; what nobody needs is not run."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from onnx import NodeProto, TensorProto, helper

from jacobound import InvalidModelError, UnsupportedOpError, from_onnx
from onnx_models import model, node, weight, whole

ONE, HUGE = np.ones(1, dtype=np.float32), 2**40
USED = [node("ReduceSum", "big", "sum", keepdims=0), node("Cast", "sum", "one", to=1), node("Add", "x one")]


def large(size: int) -> dict[str, tuple[list[NodeProto], tuple[int, ...], dict[str, Any]]]:
    """Operations that make `size` entries of few: nodes, shape of the input, constants."""
    row, signal = (1, 4), (1, 1, 4)
    return {
        "constant": ([node("ConstantOfShape", "n", "big")], row, {"n": whole(size)}),
        "expanded": ([node("Expand", "c n", "big")], row, {"n": whole(size), "c": ONE}),
        "expanded value": ([node("Expand", "x n", "big")], row, {"n": whole(size, 4)}),
        "tiled": ([node("Tile", "c n", "big")], row, {"n": whole(size), "c": ONE}),
        "tiled value": ([node("Tile", "x n", "big")], row, {"n": whole(1, size)}),
        "range": ([node("Range", "a n d", "big")], row,
                  {"a": np.array(0), "n": np.array(size), "d": np.array(1)}),
        "padded": ([node("Pad", "c n", "big")], row, {"n": whole(0, size), "c": ONE}),
        "padded value": ([node("Pad", "x n", "big")], row, {"n": whole(0, 0, 0, size)}),
        "one hot": ([node("OneHot", "i n c", "big")], row,
                    {"i": whole(0), "n": np.array(size), "c": np.array([0, 1], dtype=np.float32)}),
        "resized": ([node("Resize", "x - - n", "big", mode="linear")], signal, {"n": whole(1, 1, size)}),
        "scaled": ([node("Resize", "x - n", "big")], signal, {"n": np.array([1, 1, size], dtype=np.float32)}),
        "transposed": ([node("ConvTranspose", "x w", "big", strides=[size])], signal, {"w": weight(1, 1, 2)}),
        "convolved": ([node("Conv", "x w", "big", pads=[size, size])], signal, {"w": weight(1, 1, 2)}),
        "averaged": ([node("AveragePool", "x", "big", pads=[size, size], kernel_shape=[size + 1])], signal, {}),
        "gathered": ([node("Expand", "i n", "many"), node("Gather", "x many", "big", axis=1)], row,
                     {"i": whole(0), "n": whole(size)}),
        "contracted": ([node("Expand", "c n", "many"), node("Einsum", "x many", "big", equation="ab,c->abc")], row,
                       {"c": ONE, "n": whole(size)}),
        "summed up": ([node("Expand", "x n", "many"), node("CumSum", "many a", "big")], row,
                      {"n": whole(1, size, 4), "a": np.array(1)}),
    }  # fmt: skip


@pytest.mark.parametrize("size", [10**9, HUGE])
@pytest.mark.parametrize("case", large(1))
def test_entries_made_of_little_are_counted_first(case: str, size: int) -> None:
    nodes, shape, weights = large(size)[case]
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=r"entries|not accepted|too large"):
        from_onnx(model([*nodes, *USED], shape, weights, opset=17))


def doubling(op: str, **attributes: Any) -> list[NodeProto]:
    names = ["x", *(f"t{k}" for k in range(60))]
    return [node(op, f"{one} {one}", two, **attributes) for one, two in pairwise(names)]


def times(count: int, size: int) -> list[NodeProto]:
    """A matrix of constants to a power."""
    return [node("Expand", "c n", "p0"), *(node("MatMul", f"p{k} p0", f"p{k + 1}") for k in range(count)),
            node("Identity", f"p{count}", "big")]  # fmt: skip


MATRIX = {"c": np.zeros((1, 1), dtype=np.float32), "n": whole(2048, 2048)}
WORK = {
    "doubled": ([*doubling("Concat", axis=1), node("Neg", "t59")], (1, 4), {}, "not accepted"),
    "products of constants": ([*times(14, 2048), *USED], (1, 4), MATRIX, "constants are multiplied"),
    "contraction of five": (
        [node("Expand", "v n", "a"), node("Einsum", "a a a a a x", equation="a,b,c,d,e,fg->fg")], (1, 4),
        {"v": ONE, "n": whole(1000)}, "multiplications"),
    "wide windows": (
        [node("Expand", "k n", "w"), node("Conv", "x w", pads=[10**6, 10**6])], (1, 1, 10**6),
        {"k": np.ones((1, 1, 1), dtype=np.float32), "n": whole(1, 1, 10**6)}, "windows"),
    "wide averages": (
        [node("AveragePool", "x", pads=[9999, 9999], kernel_shape=[20_000])], (1, 1, 10**6), {}, "windows"),
    "long running sum": ([node("CumSum", "x a")], (1, 10**5), {"a": np.array(1)}, "matrix"),
    "long resampling": ([node("Resize", "x - - n", mode="linear")], (1, 1, 4), {"n": whole(1, 1, 10**5)}, "exactly"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", WORK)
def test_work_made_of_little_is_counted_first(case: str) -> None:
    nodes, shape, weights, message = WORK[case]
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=message):
        from_onnx(model(nodes, shape, weights, opset=17))


def endless() -> list[NodeProto]:
    """A loop that doubles a value sixty times."""
    given = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Concat", "v v", "w", axis=0), node("Identity", "c", "go")],
        "body",
        [given("i", TensorProto.INT64, []), given("c", TensorProto.BOOL, []), given("v", TensorProto.FLOAT, None)],
        [given("go", TensorProto.BOOL, []), given("w", TensorProto.FLOAT, None)],
    )
    return [node("Loop", "sixty yes one", "unread", body=body)]


def test_what_the_output_does_not_need_is_not_run() -> None:
    loop = {"sixty": np.array(60), "yes": np.array(True), "one": ONE}
    for nodes, weights in (
        ([node("ConstantOfShape", "n", "unread")], {"n": whole(HUGE)}),
        ([node("Expand", "x n", "unread")], {"n": whole(HUGE, 4)}),
        (endless(), loop),
    ):
        graph = from_onnx(model([node("Neg", "x"), *nodes], (1, 4), weights))
        assert [found.name for found in graph.nodes] == ["x", "y"]
    with pytest.raises(InvalidModelError, match="entries together"):
        from_onnx(model([*endless(), node("ReduceSum", "unread", "s", keepdims=0), node("Add", "x s")], (1, 4), loop))


def test_differences_of_differences_are_compared_once() -> None:
    """Two chains that subtract each other: looking at both operands anew doubles the work at every level."""
    nodes = [node("Neg", "x", "a0"), node("Neg", "x", "b0")]
    for k in range(60):
        nodes += [node("Sub", f"a{k} b{k}", f"a{k + 1}"), node("Sub", f"b{k} a{k}", f"b{k + 1}")]
    nodes += [node("Mul", "a60 b60", "m"), node("ReduceMean", "m", "q", axes=[1]), node("Add", "q c", "p"),
              node("Sqrt", "p", "r"), node("Div", "a60 r")]  # fmt: skip
    from_onnx(model(nodes, (1, 4), {"c": ONE}))


@pytest.mark.parametrize("op", ["Relu", "Tanh"])
def test_a_thousand_operations_in_a_row_are_imported(op: str) -> None:
    """Engines compute tanh by a formula of their own, whose small errors are alike at every node."""
    names = ["x", *(f"t{k}" for k in range(1099)), "y"]
    graph = from_onnx(model([node(op, one, two) for one, two in pairwise(names)], (1, 4)))
    assert len(graph.nodes) == 1101
