"""`from_onnx`: convolutions, pooling and resizing against other engines, over several versions of the operator set."""

from __future__ import annotations

import pytest

from jacobound import UnsupportedOpError, from_onnx
from onnx_cases import IMAGE, LINE, RESIZED, SOLID, scales
from onnx_models import agree, model, node, weight, whole

onnx = pytest.importorskip("onnx")


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


@pytest.mark.parametrize("case", RESIZED)
def test_resizing(case: str) -> None:
    nodes, shape, weights, opset = RESIZED[case]
    agree(model(nodes, shape, weights, opset=opset), judges=slice(-1, None))


def test_resizing_is_refused_where_it_is_not_understood() -> None:
    nodes = [node("Resize", "x - s", antialias=1, mode="linear")]
    with pytest.raises(UnsupportedOpError, match=r"Op 'Resize'.*antialias"):
        from_onnx(model(nodes, LINE, {"s": scales(0.5)}, opset=18))
