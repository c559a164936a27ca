"""`from_onnx`: functions of whole vectors against other engines, and what is read back from written-out forms."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import Graph, UnsupportedOpError, from_onnx
from jacobound.graph.nodes import Vector
from onnx_models import agree, model, node, weight, whole

pytest.importorskip("onnx")

from onnx import TensorProto

IMAGE, POINT, TOKENS = ("N", 4, 5, 6), ("N", 7), ("N", 5, 8)


def number(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


SHARES = {
    **{f"{op} {opset} {axis}": ([node(op, "x", axis=axis)], IMAGE, {}, opset)
       for op in ("Softmax", "LogSoftmax") for opset in (7, 11, 12, 13) for axis in (1, 2, 3)},
    **{f"{op} {opset} default": ([node(op, "x")], IMAGE, {}, opset)
       for op in ("Softmax", "LogSoftmax") for opset in (7, 11, 13)},
    "softmax 11 from behind": ([node("Softmax", "x", axis=-2)], IMAGE, {}, 11),
    "softmax 11 over everything": ([node("Softmax", "x", axis=0)], (2, 3, 4), {}, 11),
    "softmax 13 of columns": ([node("Softmax", "x", axis=0)], (2, 3, 4), {}, 13),
    "share of one": ([node("Softmax", "x", "s", axis=1), node("Add", "x s")], ("N", 1, 3), {}, 13),
    "logarithm of the share of one": ([node("LogSoftmax", "x", "s", axis=0), node("Add", "x s")], (1, 3), {}, 13),
    **{f"{op} {opset}": ([node(op, "x", axes=[1, -1], keepdims=keep)], IMAGE, {}, opset)
       for op in ("ReduceLogSumExp", "ReduceL2") for opset, keep in ((7, 0), (11, 1), (13, 0))},
    **{f"{op} 18": ([node(op, "x a", keepdims=0)], IMAGE, {"a": whole(2)}, 18)
       for op in ("ReduceLogSumExp", "ReduceL2")},
    **{f"{op} of everything": ([node(op, "x")], (3, 4), {}, 13) for op in ("ReduceLogSumExp", "ReduceL2")},
    **{f"{op} of nothing": ([node(op, "x", axes=[0])], (1, 4), {}, 13) for op in ("ReduceLogSumExp", "ReduceL2")},
}  # fmt: skip

SIX, EIGHT = {"g": weight(6), "b": weight(6)}, {"g": weight(8), "b": weight(8)}
FOUR = {"g": weight(4), "b": weight(4)}
NORMALISED = {
    "layer norm": ([node("LayerNormalization", "x g b")], IMAGE, SIX, 17),
    "layer norm without shift": ([node("LayerNormalization", "x g", epsilon=0.1)], TOKENS, EIGHT, 17),
    "layer norm over several axes": (
        [node("LayerNormalization", "x g b", axis=1)], IMAGE, {"g": weight(4, 5, 6), "b": weight(4, 5, 6)}, 17),
    "layer norm from behind": (
        [node("LayerNormalization", "x g b", axis=-2)], IMAGE, {"g": weight(5, 6), "b": weight(6)}, 17),
    "layer norm of a fixed batch": ([node("LayerNormalization", "x g b", axis=0)], (5, 6), SIX, 17),
    "rms norm": ([node("RMSNormalization", "x g", epsilon=0.01)], TOKENS, EIGHT, 23),
    "rms norm over several axes": ([node("RMSNormalization", "x g", axis=2)], IMAGE, {"g": weight(5, 6)}, 23),
    "group norm 18": ([node("GroupNormalization", "x g b", num_groups=2)], IMAGE, {"g": weight(2), "b": weight(2)}, 18),
    "group norm 21": ([node("GroupNormalization", "x g b", num_groups=2)], IMAGE, FOUR, 21),
    "group norm of points": ([node("GroupNormalization", "x g b", num_groups=2)], (1, 4, 3), FOUR, 21),
    "instance norm": ([node("InstanceNormalization", "x g b", epsilon=0.01)], IMAGE, FOUR, 17),
    "instance norm 22": ([node("InstanceNormalization", "x g b")], ("N", 4, 9), FOUR, 22),
    "lp norm": ([node("LpNormalization", "x")], TOKENS, {}, 17),
    "lp norm along channels": ([node("LpNormalization", "x", axis=1, p=2)], IMAGE, {}, 22),
}  # fmt: skip

VALUES = {
    "product": ([node("Relu", "x", "r"), node("Mul", "x r")], POINT, {}, 13),
    "product that widens": ([node("ReduceMean", "x", "m", axes=[1, 2]), node("Mul", "x m")], IMAGE, {}, 13),
    "gate": ([node("Split", "x", "a b", axis=2), node("Sigmoid", "b", "s"), node("Mul", "a s")], TOKENS, {}, 13),
    "quotient": ([node("Softplus", "x", "p"), node("Add", "p one", "q"), node("Div", "x q")],
                 POINT, {"one": number(1)}, 13),
    "quotient that widens": (
        [node("ReduceSumSquare", "x", "p", axes=[1]), node("Add", "p one", "q"), node("Div", "x q")],
        POINT, {"one": number(1)}, 13),
    "matrices": ([node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t")], TOKENS, {}, 13),
    "matrices of a fixed batch": ([node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "t x")], (5, 3), {}, 13),
    "matrix and vector": ([node("ReduceMean", "x", "v", axes=[0], keepdims=0), node("MatMul", "x v")], (5, 3), {}, 13),
    "vector and matrix": ([node("ReduceMean", "x", "v", axes=[1], keepdims=0), node("MatMul", "v x")], (5, 3), {}, 13),
    "einsum": ([node("Einsum", "x x", equation="nid,njd->nij")], TOKENS, {}, 13),
    "einsum of heads": ([node("Relu", "x", "r"), node("Einsum", "x r", equation="nhid, nhjd -> nihj")], IMAGE, {}, 13),
    "einsum by entry": ([node("Relu", "x", "r"), node("Einsum", "x r", equation="...d,...d->...")], TOKENS, {}, 13),
    "stacks that widen": ([node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("ReduceMax", "t", "m", axes=[1]),
                           node("MatMul", "m x")], IMAGE, {}, 13),
}  # fmt: skip

GROUPS = {**SHARES, **NORMALISED, **VALUES}
# onnx's own evaluator takes one axis alone in every opset (onnx 1.23); onnxruntime judges alone.
OLD_SHARES = [case for case in SHARES if "oftmax" in case and SHARES[case][-1] < 13]


@pytest.mark.parametrize("case", GROUPS)
def test_functions_of_vectors_agree_with_other_engines(case: str) -> None:
    nodes, shape, weights, opset = GROUPS[case]
    agree(model(nodes, shape, weights, opset=opset), judges=slice(case in OLD_SHARES, None), spread=2.0)


@pytest.mark.slow
def test_without_onnxruntime_the_evaluator_of_onnx_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is wrong by itself."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for case in GROUPS:
        nodes, shape, weights, opset = GROUPS[case]
        from_onnx(model(nodes, shape, weights, opset=opset))


@pytest.mark.parametrize(
    ("opset", "groups", "parameters", "message"),
    [
        (18, 2, 4, r"\(2,\) fits"),
        (21, 2, 2, r"\(4,\) fits"),
        (21, 3, 4, "4 channels.*3 groups"),
        (21, 0, 4, "0 groups"),
    ],
)
def test_groups_that_do_not_fit_are_refused(opset: int, groups: int, parameters: int, message: str) -> None:
    nodes = [node("GroupNormalization", "x g g", num_groups=groups)]
    with pytest.raises(UnsupportedOpError, match=rf"Op 'GroupNormalization'.*{message}"):
        from_onnx(model(nodes, IMAGE, {"g": weight(parameters)}, opset=opset))


# --- written-out forms ---------------------------------------------------------------------------------------------


def functions(graph: Graph) -> list[str]:
    """The functions of vectors in a graph."""
    return [entry.function.name for entry in graph.nodes if isinstance(entry, Vector)]


ONE = {
    "e": number(0.1),
    "limit": number(6),
    "two": number(2),
    "three": number(3),
    "one": number(1),
    "half": number(0.5),
    "minus": number(-0.5),
}
CENTRED = [node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x m", "d")]
SQUARED = [node("Pow", "d two", "q"), node("ReduceMean", "q", "v", axes=[-1]), node("Add", "v e", "w")]
RMS = [node("Mul", "x x", "q"), node("ReduceMean", "q", "v", axes=[2]), node("Add", "e v", "w")]
LENGTH = [node("ReduceL2", "x", "l", axes=[-1])]
STANDARD, ROOT, UNIT = ["standardisation of 8"], ["division by the root mean square of 8"], ["normalisation of 8"]
FORMS = {
    "layer norm of torch": ([*CENTRED, *SQUARED, node("Sqrt", "w", "s"), node("Div", "d s", "n"),
                             node("Mul", "n g", "h"), node("Add", "h b")], STANDARD),
    "inverse root first": ([*CENTRED, *SQUARED, node("Sqrt", "w", "s"), node("Reciprocal", "s", "r"),
                            node("Mul", "r d")], STANDARD),
    "root by power": ([*CENTRED, *SQUARED, node("Pow", "w half", "s"), node("Div", "d s")], STANDARD),
    "inverse root by power": ([*CENTRED, *SQUARED, node("Pow", "w minus", "s"), node("Mul", "d s")], STANDARD),
    "difference computed twice": (
        [*CENTRED, node("ReduceMean", "x", "m2", axes=[-1]), node("Sub", "x m2", "d2"), node("Mul", "d2 d2", "q"),
         *SQUARED[1:], node("Sqrt", "w", "s"), node("Div", "d s")], STANDARD),
    "casts in between": (
        [node("Cast", "x", "c", to=TensorProto.DOUBLE),
         node("ReduceMean", "c", "m", axes=[-1]), node("Sub", "c m", "d"),
         node("Cast", "two", "t", to=TensorProto.DOUBLE), node("Cast", "e", "f", to=TensorProto.DOUBLE),
         node("Pow", "d t", "q"), node("ReduceMean", "q", "v", axes=[-1]), node("Add", "v f", "w"),
         node("Sqrt", "w", "s"), node("Div", "d s", "n"), node("Cast", "n", "y", to=TensorProto.FLOAT)], STANDARD),
    "without eps": ([*CENTRED, *SQUARED[:2], node("Sqrt", "v", "s"), node("Div", "d s")], STANDARD),
    "rms norm": ([*RMS, node("Sqrt", "w", "s"), node("Div", "x s")], ROOT),
    "rms norm by an inverse": ([*RMS, node("Sqrt", "w", "s"), node("Div", "one s", "r"), node("Mul", "x r")], ROOT),
    "length": ([*LENGTH, node("Div", "x l")], UNIT),
    "length with a limit": (
        [*LENGTH, node("Clip", "l limit", "c"), node("Expand", "c k", "s"), node("Div", "x s")], UNIT),
    "length with a largest value": ([*LENGTH, node("Max", "limit l", "c"), node("Div", "x c")], UNIT),
    # What looks like one and is none stays a product or quotient of two values.
    "mean over another axis": (
        [node("ReduceMean", "x", "m", axes=[1]), node("Sub", "x m", "d"), *SQUARED, node("Sqrt", "w", "s"),
         node("Div", "d s")], ROOT),
    "root of the other values": ([*RMS, node("Relu", "x", "r"), node("Sqrt", "w", "s"), node("Div", "r s")],
                                 ["quotient of two values"]),
    "variance over another axis": (
        [*CENTRED, node("Pow", "d two", "q"), node("ReduceMean", "q", "v", axes=[1]), node("Add", "v e", "w"),
         node("Sqrt", "w", "s"), node("Div", "d s")], ["division by the root mean square of 5"]),
    "sum in place of mean": (
        [node("ReduceSumSquare", "x", "v", axes=[-1]), node("Add", "v e", "w"), node("Sqrt", "w", "s"),
         node("Div", "x s")], ["quotient of two values"]),
    "another power": ([node("Abs", "x", "a"), node("Pow", "a three", "p"), node("ReduceMean", "p", "v", axes=[-1]),
                       node("Add", "v one", "w"), node("Sqrt", "w", "s"), node("Div", "a s")],
                      ["quotient of two values"]),
    "another numerator": ([*RMS, node("Sqrt", "w", "s"), node("Div", "two s", "r"), node("Mul", "x r")],
                          ["product of two values"]),
    "length limited from above": ([*LENGTH, node("Clip", "l - limit", "c"), node("Div", "x c")],
                                  ["quotient of two values"]),
    "a row for every entry": ([*CENTRED, *SQUARED[:2], node("Add", "v g", "u"), node("Abs", "u", "w"),
                               node("Add", "w one", "o"), node("Sqrt", "o", "s"), node("Div", "d s")],
                              ["quotient of two values"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_written_out_normalisation_is_recognised(case: str) -> None:
    nodes, expected = FORMS[case]
    weights = {**ONE, **EIGHT, "k": whole(1, 5, 8)}
    graph = agree(model(nodes, TOKENS, weights), spread=2.0)
    assert [name for name in functions(graph) if not name.startswith("length")] == expected
    for function in (entry.function for entry in graph.nodes if isinstance(entry, Vector)):
        least = 0.0 if case in ("without eps", "length") else 6.0 if "length" in case else float(number(0.1))
        assert getattr(function, "eps", least) == least


def test_refusals_say_where_a_file_can_be_cut() -> None:
    """Whatever steps a function is made of: the name is one of the file's, and the network up to it is bounded."""
    nodes = {"Softmax": node("Softmax", "r", axis=1), "InstanceNormalization": node("InstanceNormalization", "r g b"),
             "LayerNormalization": node("LayerNormalization", "r h", axis=2)}  # fmt: skip
    region = jb.Ball(torch.ones(4, 5, 6, dtype=torch.float64), 0.1)
    for last in nodes.values():
        data = model([node("Relu", "x", "r"), last], (1, 4, 5, 6), {**FOUR, "h": weight(5, 6)})
        with pytest.raises(UnsupportedOpError, match="until='r'"):
            jb.bound_output(from_onnx(data), region, semantics="executed")
        assert jb.bound_jacobian(from_onnx(data, until="r"), region).status.certified


def test_means_that_broadcast_along_another_axis_are_no_normalisation() -> None:
    """Without their axis the means of rows stand where those of columns should."""
    mean = [node("Mul", "x x", "q"), node("ReduceMean", "q", "v", axes=[-1], keepdims=0), node("Add", "v e", "w")]
    graph = agree(model([*mean, node("Sqrt", "w", "s"), node("Div", "x s")], (6, 6), ONE))
    assert functions(graph) == ["quotient of two values"]
    centred = [node("ReduceMean", "x", "m", axes=[-1], keepdims=0), *CENTRED[1:], *SQUARED, node("Sqrt", "w", "s")]
    assert functions(agree(model([*centred, node("Div", "d s")], (6, 6), ONE))) == [
        "division by the root mean square of 6"
    ]


LOWER = np.where(np.tril(np.ones((4, 4), bool)), 0, -np.inf).astype(np.float32)
MASKED: dict[str, list[Any]] = {
    "softmax": [node("Add", "x m", "a"), node("Softmax", "a")],
    "log-softmax": [node("Add", "x m", "a"), node("LogSoftmax", "a", "l"), node("Slice", "l three four one")],
    "log-sum-exp": [node("Add", "x m", "a"), node("ReduceLogSumExp", "a", axes=[-1])],
    "chosen": [node("Where", "b none x", "a"), node("Softmax", "a")],
    "exponentials": [node("Add", "x m", "a"), node("Exp", "a")],
    "largest": [node("Add", "x m", "a"), node("ReduceMax", "a", axes=[-1])],
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_leave_entries_out(name: str) -> None:
    stored = {"m": LOWER, "b": LOWER < 0, "none": np.array(-np.inf, np.float32)}
    from_onnx(model(MASKED[name], (1, 4, 4), {**stored, "three": whole(3), "four": whole(4), "one": whole(1)}))


def test_masks_that_nothing_takes_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match=r"'a' has entries that are minus infinity.*'y' reads.*large negative"):
        from_onnx(model([node("Add", "x m", "a"), node("Sin", "a")], (1, 4, 4), {"m": LOWER}))
