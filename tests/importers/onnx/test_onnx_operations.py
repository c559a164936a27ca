"""`from_onnx`: reductions, largest values, products and functions against other engines."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_models import agree, model, node, weight, whole

pytest.importorskip("onnx")

from onnx import TensorProto

IMAGE, POINT = ("N", 2, 5, 6), ("N", 7)


def number(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


REDUCTIONS = {
    **{f"{op} {opset}": ([node(op, "x", axes=[1, -1], keepdims=keep)], IMAGE, {}, opset)
       for op in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceLogSumExp")
       for opset, keep in ((7, 0), (11, 1), (13, 0))},
    **{f"{op} 18": ([node(op, "x a", keepdims=0)], IMAGE, {"a": whole(2)}, 18)
       for op in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceL1", "ReduceSumSquare")},
    "sum 7": ([node("ReduceSum", "x", axes=[3], keepdims=0)], IMAGE, {}, 7),
    "sum without axes": ([node("ReduceSum", "x", keepdims=0)], (1, 3, 4), {}, 13),
    "nothing to do": ([node("ReduceSum", "x", noop_with_empty_axes=1), ], (1, 3, 4), {}, 13),
    "norm": ([node("Abs", "x", "b"), node("Add", "b one", "c"), node("ReduceL2", "c", axes=[1])],
             IMAGE, {"one": number(1)}, 13),
    "log of sum": ([node("Exp", "x", "e"), node("ReduceLogSum", "e", axes=[1])], IMAGE, {}, 13),
    "running sum": ([node("CumSum", "x a")], IMAGE, {"a": np.array(2)}, 14),
    "running sum backwards": ([node("CumSum", "x a", exclusive=1, reverse=1)], IMAGE, {"a": np.array(-1)}, 11),
    "running sum along a single entry": ([node("CumSum", "x a")], (1, 4), {"a": np.array(0)}, 14),
}  # fmt: skip

SEVERAL = {
    "max of values": ([node("Relu", "x", "r"), node("Neg", "x", "n"), node("Max", "r n x")], IMAGE, {}, 8),
    "min of values": ([node("Sigmoid", "x", "r"), node("Min", "x r")], IMAGE, {}, 13),
    "max with constants": ([node("Max", "c x d")], IMAGE, {"c": weight(2, 1, 1), "d": number(-0.5)}, 12),
    "min that widens": ([node("Min", "x c")], POINT, {"c": weight(3, 1)}, 8),
    "max of one": ([node("Max", "x")], POINT, {}, 8),
    "mean": ([node("Relu", "x", "r"), node("Mean", "x r c x")], POINT, {"c": weight(7)}, 13),
    "mean of one": ([node("Mean", "x")], POINT, {}, 8),
    "sum with constants": ([node("Sum", "c x x")], POINT, {"c": weight(7)}, 8),
}

PRODUCTS = {
    "stack of matrices": ([node("MatMul", "x w")], ("N", 3, 2, 4), {"w": weight(3, 4, 5)}, 13),
    "stack of matrices left": ([node("MatMul", "w x")], ("N", 3, 2, 4), {"w": weight(3, 5, 2)}, 13),
    "stack that widens": ([node("MatMul", "x w")], (1, 2, 4), {"w": weight(3, 4, 5)}, 13),
    "gemm with values added": (
        [node("MatMul", "x v", "c"), node("Gemm", "x w c", alpha=0.5, beta=2.0)],
        ("N", 4), {"w": weight(4, 3), "v": weight(4, 3)}, 13),
    "einsum": ([node("Einsum", "x w", equation="nij,jk->nik")], ("N", 3, 4), {"w": weight(4, 5)}, 12),
    "einsum left": ([node("Einsum", "w x", equation="ij, ...jk -> ...ik")], ("N", 3, 4), {"w": weight(5, 3)}, 12),
    "einsum sum": ([node("Einsum", "x", equation="nij->nj")], ("N", 3, 4), {}, 12),
    "einsum diagonal": ([node("Einsum", "x w", equation="nij,i->nj")], ("N", 3, 4), {"w": weight(3)}, 12),
    "reciprocal": ([node("Abs", "x", "a"), node("Add", "a one", "s"), node("Div", "c s")], POINT,
                   {"c": weight(7), "one": number(1)}, 13),
    "one by a value": ([node("Exp", "x", "s"), node("Add", "s one", "t"), node("Div", "one t")], POINT,
                       {"one": number(1)}, 13),
    "square": ([node("Mul", "x x")], POINT, {}, 7),
    "square by power": ([node("Pow", "x c")], POINT, {"c": number(2)}, 13),
    "first power": ([node("Pow", "x c")], POINT, {"c": number(1)}, 13),
    "cube": ([node("Pow", "x c")], POINT, {"c": np.array(3)}, 13),
    "root": ([node("Abs", "x", "a"), node("Add", "a one", "b"), node("Pow", "b c")], POINT,
             {"one": number(1), "c": number(0.5)}, 13),
    "inverse power": ([node("Exp", "x", "e"), node("Pow", "e c")], POINT, {"c": number(-1.5)}, 13),
    "power of constants": ([node("Pow", "c x")], POINT, {"c": np.abs(weight(7)) + number(0.1)}, 13),
}  # fmt: skip

FUSED = {
    "silu": ([node("Sigmoid", "x", "s"), node("Mul", "x s")], POINT, {}, 13),
    "mish": ([node("Softplus", "x", "p"), node("Tanh", "p", "t"), node("Mul", "t x")], POINT, {}, 13),
    "gelu of torch": (
        [node("Div", "x c", "d"), node("Erf", "d", "e"), node("Add", "e one", "a"), node("Mul", "x a", "m"),
         node("Mul", "m half")],
        POINT, {"c": number(1.4142135), "one": number(1), "half": number(0.5)}, 13),
    "gelu with the half first": (
        [node("Mul", "x c", "d"), node("Erf", "d", "e"), node("Add", "one e", "a"), node("Mul", "a half", "b"),
         node("Mul", "b x")],
        POINT, {"c": number(0.70710677), "one": number(1), "half": number(0.5)}, 13),
    "gelu by tanh": (
        [node("Mul", "x x", "s"), node("Mul", "s x", "p"), node("Mul", "p kappa", "k"), node("Add", "x k", "i"),
         node("Mul", "i beta", "j"), node("Tanh", "j", "t"), node("Add", "t one", "a"), node("Mul", "x half", "h"),
         node("Mul", "h a")],
        POINT, {"kappa": number(0.044715), "beta": number(0.7978845608), "one": number(1), "half": number(0.5)}, 13),
    "gelu by tanh and power": (
        [node("Pow", "x three", "p"), node("Mul", "kappa p", "k"), node("Add", "x k", "i"), node("Mul", "beta i", "j"),
         node("Tanh", "j", "t"), node("Add", "one t", "a"), node("Mul", "x a", "h"), node("Mul", "h half")],
        POINT, {"kappa": number(0.044715), "beta": number(0.7978845608), "one": number(1), "half": number(0.5),
                "three": number(3)}, 13),
    "hard swish of torch": ([node("HardSigmoid", "x", "h", alpha=1 / 6, beta=0.5), node("Mul", "x h")], POINT, {}, 13),
    "hard swish by clipping": (
        [node("Add", "x three", "a"), node("Clip", "a zero six", "c"), node("Mul", "x c", "m"), node("Div", "m six")],
        POINT, {"three": number(3), "zero": number(0), "six": number(6)}, 13),
    "bell": ([node("Mul", "x x", "q"), node("Neg", "q", "m"), node("Exp", "m")], POINT, {}, 13),
    "wave": (
        [node("Pow", "x two", "q"), node("Mul", "q k", "m"), node("Exp", "m", "e"), node("Mul", "e x")],
        POINT, {"two": number(2), "k": number(-0.3)}, 13),
    "algebraic": (
        [node("Mul", "x x", "q"), node("Add", "q one", "s"), node("Sqrt", "s", "r"), node("Div", "x r")],
        POINT, {"one": number(1)}, 13),
    "softsign": ([node("Abs", "x", "a"), node("Add", "a one", "b"), node("Div", "x b")], POINT, {"one": number(1)}, 13),
    "silu by exp": (
        [node("Neg", "x", "n"), node("Exp", "n", "e"), node("Add", "e one", "b"), node("Div", "x b")],
        POINT, {"one": number(1)}, 13),
    "after batch norm": (
        [node("BatchNormalization", "x g b m v", "n"), node("Sigmoid", "n", "s"), node("Mul", "n s")],
        IMAGE, {"g": weight(2), "b": weight(2), "m": weight(2), "v": np.abs(weight(2))}, 15),
}  # fmt: skip

# Functions of their own, each with a shift that keeps it inside its domain.
FUNCTIONS = {
    **{op: ([node(op, "x")], POINT, {}, 22) for op in (
        "Abs", "Exp", "Sin", "Cos", "Erf", "Softsign", "HardSwish", "Mish", "Gelu", "Selu", "Celu", "Softplus",
        "HardSigmoid")},
    "threshold": ([node("ThresholdedRelu", "x", alpha=0.0)], POINT, {}, 22),
    **{f"{op} inside": ([node("Abs", "x", "a"), node("Add", "a c", "b"), node(op, "b")], POINT, {"c": number(0.25)}, 13)
       for op in ("Sqrt", "Log", "Reciprocal")},
    "clip 7": ([node("Clip", "x", min=-0.5, max=0.25)], POINT, {}, 7),
    "clip 7 one end": ([node("Clip", "x", max=0.25)], POINT, {}, 7),
    "clip 11": ([node("Clip", "x low high")], POINT, {"low": number(-0.5), "high": number(0.25)}, 11),
    "clip 13 one end": ([node("Clip", "x - high")], POINT, {"high": number(0.25)}, 13),
    "swish": ([node("Swish", "x", alpha=1.5)], POINT, {}, 24),
    "shrink": ([node("Shrink", "x", lambd=0.4, bias=0.4)], POINT, {}, 9),
}  # fmt: skip

MOVEMENTS = {
    "gather elements": ([node("GatherElements", "x i", axis=1)], (1, 7), {"i": np.array([[3, 0, 0]])}, 13),
    "gather places": ([node("GatherND", "x i")], (1, 3, 4), {"i": np.array([[0, 2], [0, 0]])}, 13),
    "lower triangle": ([node("Trilu", "x k", upper=0)], (1, 3, 4), {"k": np.array(1)}, 14),
    "column row depth": ([node("DepthToSpace", "x", blocksize=2, mode="CRD")], (1, 8, 2, 3), {}, 13),
    "scatter": ([node("ScatterElements", "x i u", axis=1)], (1, 7), {"i": np.array([[1, 5]]), "u": weight(1, 2)}, 18),
    "scatter places": ([node("ScatterND", "c i x")], (1, 3), {"c": weight(4, 3), "i": np.array([[2]])}, 18),
    **{f"pad {mode}": ([node("Pad", "x p", mode=mode)], IMAGE, {"p": whole(0, 0, 2, 1, 0, 0, 1, 2)}, 19)
       for mode in ("constant", "reflect", "edge", "wrap")},
    "pad edge 7": ([node("Pad", "x", mode="edge", pads=[0, 0, 2, 1, 0, 0, 1, 2])], IMAGE, {}, 7),
    "pad that crops": ([node("Pad", "x p v")], (1, 5), {"p": whole(0, -1, 0, 2), "v": number(1.5)}, 13),
    "tile": ([node("Tile", "x r")], (1, 2, 3), {"r": whole(1, 3, 2)}, 13),
    "where": ([node("Relu", "x", "r"), node("Where", "k r x")], POINT, {"k": np.arange(7) % 2 == 0}, 16),
    "shape of a cast": (
        [node("Cast", "x", "c", to=TensorProto.FLOAT), node("Size", "c", "s"), node("Unsqueeze", "s a", "t"),
         node("Reshape", "c t")],
        (1, 2, 3), {"a": whole(0)}, 13),
}  # fmt: skip

GROUPS = {**REDUCTIONS, **SEVERAL, **PRODUCTS, **FUSED, **FUNCTIONS, **MOVEMENTS}

# What onnx's own evaluator gets wrong or does not know (onnx 1.23); onnxruntime judges alone.
MISJUDGED = ("pad that crops", "clip 7", "clip 7 one end")


@pytest.mark.parametrize("case", GROUPS)
def test_operations_agree_with_other_engines(case: str) -> None:
    nodes, shape, weights, opset = GROUPS[case]
    agree(model(nodes, shape, weights, opset=opset), judges=slice(case in MISJUDGED, None), spread=2.0)
