"""Small ONNX models of every operation: nodes, shape of the input, weights, version of the operator set."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_models import node, weight, whole

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

LINE, IMAGE, SOLID = (1, 2, 9), ("N", 2, 5, 6), (1, 2, 4, 5, 3)
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


def scales(*factors: float) -> np.ndarray:
    return np.array((1, 1, *factors), dtype=np.float32)


RESIZED = {
    "upsample 7": ([node("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0])], IMAGE, {}, 7),
    "upsample 7 linear": ([node("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0], mode="linear")], IMAGE, {}, 7),
    "upsample 9": ([node("Upsample", "x s")], IMAGE, {"s": scales(2, 1)}, 9),
    "resize 10": ([node("Resize", "x s")], IMAGE, {"s": scales(2, 3)}, 10),
    "resize 10 down": ([node("Resize", "x s")], IMAGE, {"s": scales(0.5, 0.5)}, 10),
    "resize 10 linear": ([node("Resize", "x s", mode="linear")], IMAGE, {"s": scales(1.5, 2)}, 10),
    "sizes 11": ([node("Resize", "x r r z", mode="linear")], IMAGE,
                 {"r": np.zeros(0, np.float32), "z": whole(1, 2, 9, 4)}, 11),
    "sizes 13": ([node("Resize", "x - - z", mode="nearest")], (1, *IMAGE[1:]), {"z": whole(1, 2, 9, 4)}, 13),
    "axes 18": ([node("Resize", "x - s", mode="linear", axes=[3, 2])], IMAGE, {"s": scales(2, 1.5)[2:]}, 18),
    "not larger 18": (
        [node("Resize", "x - - z", mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger")],
        IMAGE, {"z": whole(12, 9)}, 18),
    "1d": ([node("Resize", "x - s", mode="linear")], LINE, {"s": scales(2.5)}, 19),
    "3d": ([node("Resize", "x - s", mode="linear")], SOLID, {"s": scales(2, 1, 2)}, 19),
    **{f"{mode} {rule}": (
        [node("Resize", "x - s", mode=mode, coordinate_transformation_mode=rule)], IMAGE, {"s": scales(2, 0.5)}, 19)
       for mode in ("nearest", "linear", "cubic")
       for rule in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")},
    **{f"nearest {rounding}": (
        [node("Resize", "x - s", nearest_mode=rounding)], IMAGE, {"s": scales(1.75, 0.5)}, 13)
       for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")},
    "nearest for tensorflow": (
        [node("Resize", "x r s", coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor")],
        IMAGE, {"r": np.zeros(0, np.float32), "s": scales(2, 0.5)}, 11),
    "cubic outside": ([node("Resize", "x - s", mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5)],
                      IMAGE, {"s": scales(2, 1.5)}, 13),
}  # fmt: skip
