"""Operations that `from_onnx` knows by ONNX's own definitions of them, against onnxruntime (every import compares)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jacobound import UnsupportedOpError, from_onnx
from onnx_models import model, node, weight, whole

pytest.importorskip("onnxruntime")

HEADS = (1, 2, 3, 4)
TURNS = {"c": weight(1, 3, 2), "s": weight(1, 3, 2)}
LOWER = np.tril(np.ones((3, 3), bool))
SHORT = {"a": whole(1), "b": whole(0), "e": whole(1)}
CASES: dict[str, tuple[list[Any], tuple[Any, ...], dict[str, np.ndarray], int]] = {
    "mean and variance": ([node("MeanVarianceNormalization", "x")], (1, 2, 3, 3), {}, 18),
    "mean and variance, axes": ([node("MeanVarianceNormalization", "x", axes=[1])], (1, 5, 2, 1), {}, 13),
    "attention": ([node("Attention", "x x x", scale=0.3)], HEADS, {}, 23),
    "attention, causal": ([node("Attention", "x x x", is_causal=1)], ("N", *HEADS[1:]), {}, 23),
    "attention, added": ([node("Attention", "x x x m", is_causal=1)], HEADS, {"m": weight(3, 3)}, 23),
    "attention, left out": ([node("Attention", "x x x m")], HEADS, {"m": LOWER}, 23),
    "attention, minus infinity": (
        [node("Attention", "x x x m")], HEADS, {"m": np.where(LOWER, 0, -np.inf).astype(np.float32)}, 23),
    "attention, heads in one axis": ([node("Attention", "x x x", q_num_heads=2, kv_num_heads=2)], (1, 3, 4), {}, 23),
    "attention, heads shared": ([node("Slice", "x b e a", "k"), node("Attention", "x k k")], HEADS, SHORT, 23),
    "attention, softly limited": ([node("Attention", "x x x", softcap=2.0)], HEADS, {}, 23),
    "rotations": ([node("RotaryEmbedding", "x c s")], HEADS, TURNS, 23),
    "rotations of neighbours": ([node("RotaryEmbedding", "x c s", interleaved=1)], HEADS, TURNS, 23),
    "rotations of a part": (
        [node("RotaryEmbedding", "x c s p", rotary_embedding_dim=2)], HEADS,
        {"c": weight(9, 1), "s": weight(9, 1), "p": np.array([[0, 4, 2]])}, 23),
    "crop and pad": ([node("CenterCropPad", "x s")], (5, 4), {"s": whole(3, 7)}, 18),
    "constant in another's type": (
        [node("CastLike", "c x", "d"), node("Add", "x d")], (1, 4), {"c": np.arange(4, dtype=np.float64)}, 18),
    "window": ([node("HannWindow", "n", "w"), node("Mul", "x w")], (1, 4), {"n": np.array(4)}, 18),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_engine(name: str) -> None:
    nodes, shape, weights, opset = CASES[name]
    from_onnx(model(nodes, shape, weights, opset=opset))


def test_what_a_definition_holds_is_refused_by_the_name_of_both() -> None:
    nodes = [node("Attention", "x x x x")]
    with pytest.raises(UnsupportedOpError, match=r"Op 'Attention'.*defines it by other operations, of which \w+: "):
        from_onnx(model(nodes, (1, 3, 3, 3), opset=23))
