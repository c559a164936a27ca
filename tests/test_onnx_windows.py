"""`from_onnx`: convolutions, pooling and resizing against other engines, over several versions of the operator set."""

from __future__ import annotations

import numpy as np
import pytest

from jacobound.errors import UnsupportedOpError
from jacobound.importers.onnx.file import from_onnx
from onnx_models import agree, model, node, weight, whole

onnx = pytest.importorskip("onnx")

LINE, IMAGE, SOLID = (1, 2, 9), ("N", 2, 5, 6), (1, 2, 4, 5, 3)


def scales(*factors: float) -> np.ndarray:
    return np.array((1, 1, *factors), dtype=np.float32)


CONVOLUTIONS = {
    "3d": (dict(pads=[1, 0, 1, 0, 1, 1], strides=[1, 2, 1]), SOLID, weight(3, 2, 2, 3, 2), weight(3)),
    "3d same": (dict(auto_pad="SAME_LOWER", strides=[2, 1, 2]), SOLID, weight(3, 2, 2, 3, 2), None),
    "2d same": (dict(auto_pad="SAME_UPPER", strides=[2, 1]), IMAGE, weight(3, 2, 2, 3), None),
    "1d": (dict(pads=[2, 0], dilations=[2], group=2), LINE, weight(4, 1, 3), weight(4)),
}

TRANSPOSED = {
    "plain": (dict(), IMAGE, weight(2, 3, 3, 2), weight(3)),
    "strides and pads": (dict(strides=[2, 3], pads=[1, 0, 0, 1]), IMAGE, weight(2, 3, 3, 2), weight(3)),
    "output padding": (dict(strides=[2, 3], output_padding=[1, 2]), IMAGE, weight(2, 3, 3, 2), None),
    "dilations": (dict(strides=[2, 1], dilations=[1, 2]), IMAGE, weight(2, 3, 3, 2), None),
    "groups": (dict(group=2, strides=[1, 2]), IMAGE, weight(2, 3, 2, 2), weight(6)),
    "output shape": (dict(strides=[2, 2], output_shape=[10, 12]), IMAGE, weight(2, 3, 3, 3), None),
    "same upper": (dict(strides=[2, 2], auto_pad="SAME_UPPER"), IMAGE, weight(2, 3, 3, 3), weight(3)),
    "same lower": (dict(strides=[2, 2], auto_pad="SAME_LOWER"), IMAGE, weight(2, 3, 3, 3), None),
    "valid": (dict(strides=[2, 2], auto_pad="VALID"), IMAGE, weight(2, 3, 3, 3), None),
    "1d": (dict(strides=[3], pads=[1, 2]), LINE, weight(2, 3, 4), weight(3)),
    "3d": (dict(strides=[1, 2, 1], pads=[0, 1, 0, 0, 1, 1]), SOLID, weight(2, 1, 2, 2, 2), weight(1)),
}

# Attributes, shape, opset.
POOLS = {
    "plain": (dict(kernel_shape=[2, 2], strides=[2, 2]), IMAGE, 7),
    "without strides": (dict(kernel_shape=[2, 3]), IMAGE, 8),
    "pads": (dict(kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1]), IMAGE, 8),
    "same upper": (dict(kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"), IMAGE, 11),
    "same lower": (dict(kernel_shape=[2, 2], strides=[2, 1], auto_pad="SAME_LOWER"), IMAGE, 12),
    "ceil": (dict(kernel_shape=[2, 4], strides=[2, 4], ceil_mode=1), IMAGE, 12),
    "ceil and pads": (dict(kernel_shape=[3, 3], strides=[2, 3], pads=[1, 1, 1, 1], ceil_mode=1), IMAGE, 19),
    "1d": (dict(kernel_shape=[3], strides=[2], pads=[1, 0]), LINE, 11),
    "3d": (dict(kernel_shape=[2, 3, 2], strides=[2, 1, 1], pads=[0, 1, 0, 1, 1, 1]), SOLID, 22),
    "dilations": (dict(kernel_shape=[2, 2], dilations=[2, 3], strides=[1, 2]), IMAGE, 19),
    "dilations and ceil": (dict(kernel_shape=[2], dilations=[3], strides=[2], ceil_mode=1), LINE, 22),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("opset", [7, 11, 22])
def test_convolutions(case: str, opset: int) -> None:
    attributes, shape, kernel, bias = CONVOLUTIONS[case]
    weights = {"w": kernel} if bias is None else {"w": kernel, "b": bias}
    agree(
        model([node("Conv", " ".join(["x", *weights]), **attributes)], shape, weights, opset=opset),
        judges=slice(-1, None),
    )


@pytest.mark.parametrize("case", TRANSPOSED)
@pytest.mark.parametrize("opset", [7, 11, 22])
def test_transposed_convolutions(case: str, opset: int) -> None:
    attributes, shape, kernel, bias = TRANSPOSED[case]
    weights = {"w": kernel} if bias is None else {"w": kernel, "b": bias}
    data = model([node("ConvTranspose", " ".join(["x", *weights]), **attributes)], shape, weights, opset=opset)
    agree(data, judges=slice(-1, None))


@pytest.mark.parametrize("case", POOLS)
def test_max_pooling(case: str) -> None:
    attributes, shape, opset = POOLS[case]
    agree(model([node("MaxPool", "x", **attributes)], shape, opset=opset), judges=slice(-1, None))


@pytest.mark.parametrize("padded", [0, 1])
@pytest.mark.parametrize("case", POOLS)
def test_average_pooling(case: str, padded: int) -> None:
    attributes, shape, opset = POOLS[case]
    if "dilations" in attributes and opset < 19:
        pytest.skip("average pooling has dilations since opset 19")
    opset = max(opset, 10) if "ceil_mode" in attributes else opset
    agree(
        model([node("AveragePool", "x", count_include_pad=padded, **attributes)], shape, opset=opset),
        judges=slice(-1, None),
    )


def test_max_pooling_of_padded_values() -> None:
    pads = {"p": whole(0, 0, 1, 0, 0, 0, 1, 2)}
    for mode in ("constant", "reflect", "edge", "wrap"):
        nodes = [node("Pad", "x p", "q", mode=mode), node("MaxPool", "q", kernel_shape=[2, 2], strides=[2, 2])]
        agree(model(nodes, IMAGE, pads, opset=19))


@pytest.mark.parametrize("op", ["GlobalMaxPool", "GlobalAveragePool"])
def test_global_pooling(op: str) -> None:
    for shape in (LINE, IMAGE, SOLID):
        agree(model([node(op, "x")], shape), judges=slice(-1, None))


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


@pytest.mark.parametrize("case", RESIZED)
def test_resizing(case: str) -> None:
    nodes, shape, weights, opset = RESIZED[case]
    agree(model(nodes, shape, weights, opset=opset), judges=slice(-1, None))


def test_resizing_is_refused_where_it_is_not_understood() -> None:
    nodes = [node("Resize", "x - s", antialias=1, mode="linear")]
    with pytest.raises(UnsupportedOpError, match=r"Op 'Resize'.*antialias"):
        from_onnx(model(nodes, LINE, {"s": scales(0.5)}, opset=18))
