"""`from_onnx`: attention and transformer blocks as exporters write them, and their Lipschitz constants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import Graph, InvalidModelError, InvalidRegionError, UnsupportedOpError, from_onnx
from jacobound.graph.nodes import Vector
from jacobound.graph.vector.attention import Attention
from onnx_models import agree, model, node, whole

pytest.importorskip("onnx")

from onnx import NodeProto, TensorProto

TOKEN, WIDTH, HEADS = 4, 6, 2
HEAD = WIDTH // HEADS


def number(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


def functions(graph: Graph) -> list[str]:
    """The functions of vectors in a graph."""
    return [entry.function.name for entry in graph.nodes if isinstance(entry, Vector)]


def heads(name: str, permutation: list[int]) -> list[NodeProto]:
    """A projection of the tokens z, parted into heads (batch, head, token, number) or permuted otherwise."""
    return [
        node("MatMul", f"z w{name}", f"{name}0"),
        node("Add", f"{name}0 b{name}", f"{name}1"),
        node("Reshape", f"{name}1 parted", f"{name}2"),
        node("Transpose", f"{name}2", name, perm=permutation),
    ]


def drawn(seed: int, scale: float, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Weights that are the same whatever was drawn before: some constants exist only where ranges are narrow."""
    generator = np.random.default_rng(seed)
    return {name: (scale * generator.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def projections() -> dict[str, np.ndarray]:
    square = drawn(0, 0.5, **{f"w{name}": (WIDTH, WIDTH) for name in "qkvo"})
    shifts = drawn(1, 0.2, **{f"b{name}": (WIDTH,) for name in "qkvo"})
    shapes = {"parted": whole(0, 0, HEADS, HEAD), "joined": whole(0, 0, WIDTH)}
    return {**square, **shifts, **shapes, "scale": number(HEAD**-0.5), "root": number(HEAD**0.5)}


QKV = [*heads("q", [0, 2, 1, 3]), *heads("k", [0, 2, 3, 1]), *heads("v", [0, 2, 1, 3])]
SCORED = [node("MatMul", "q k", "s"), node("Mul", "s scale", "t")]
MIXED_VALUES = [
    node("MatMul", "p v", "c"),
    node("Transpose", "c", "d", perm=[0, 2, 1, 3]),
    node("Reshape", "d joined", "a"),
]
CAUSAL = np.tril(np.ones((1, 1, TOKEN, TOKEN))) > 0
MASK = np.where(CAUSAL, 0.0, -np.inf).astype(np.float32)
LOWEST = np.where(CAUSAL, 0.0, np.finfo(np.float32).min).astype(np.float32)
X = [node("Identity", "x", "z")]
ATTENTION = {
    "plain": [*X, *QKV, *SCORED, node("Softmax", "t", "p", axis=-1), *MIXED_VALUES],
    "divided": [*X, *QKV, node("MatMul", "q k", "s"), node("Div", "s root", "t"), node("Softmax", "t", "p", axis=3),
                *MIXED_VALUES],
    "both sides scaled": [*X, *QKV, node("Sqrt", "scale", "r"), node("Mul", "q r", "q3"), node("Mul", "k r", "k3"),
                          node("MatMul", "q3 k3", "t"), node("Softmax", "t", "p", axis=-1), *MIXED_VALUES],
    "mask added": [*X, *QKV, *SCORED, node("Add", "t mask", "u"), node("Softmax", "u", "p", axis=-1), *MIXED_VALUES],
    "large numbers added": [*X, *QKV, *SCORED, node("Add", "t low", "u"), node("Softmax", "u", "p", axis=-1),
                            *MIXED_VALUES],
    "mask computed": [*X, *QKV, *SCORED, node("Where", "causal zero never", "m"), node("Add", "m t", "u"),
                      node("Softmax", "u", "p", axis=-1), *MIXED_VALUES],
    "scores replaced": [*X, *QKV, *SCORED, node("Where", "causal t never", "u"), node("Softmax", "u", "p", axis=-1),
                        *MIXED_VALUES],
    "rows that are no numbers put to zero": [
        *X, *QKV, *SCORED, node("Add", "t mask", "u"), node("Softmax", "u", "p0", axis=-1), node("IsNaN", "p0", "n"),
        node("Where", "n zero p0", "p"), *MIXED_VALUES],
}  # fmt: skip
MASKS = {"mask": MASK, "low": LOWEST, "causal": CAUSAL, "zero": number(0), "never": number(-np.inf)}


@pytest.mark.parametrize("shape", [("N", TOKEN, WIDTH), (1, TOKEN, WIDTH)])
@pytest.mark.parametrize("case", ATTENTION)
def test_written_out_attention_is_one_function(case: str, shape: tuple) -> None:
    graph = agree(model([*ATTENTION[case], node("MatMul", "a wo")], shape, {**projections(), **MASKS}))
    assert functions(graph) == [f"attention of {TOKEN} to {TOKEN}"]
    (function,) = (entry.function for entry in graph.nodes if isinstance(entry, Vector))
    assert isinstance(function, Attention) and function.query == (HEADS, TOKEN, HEAD)
    hidden = 0 if case in ("plain", "divided", "both sides scaled", "large numbers added") else 6 * HEADS
    assert int((~function.allowed).sum()) == hidden


def test_a_mask_that_is_not_behind_attention_is_refused() -> None:
    add = [node("Add", "x mask")]
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=r"infinit|-inf"):
        from_onnx(model(add, (1, 1, TOKEN, TOKEN), {"mask": MASK}))
    for op in ("Mul", "Sub", "MatMul", "Max"):
        with pytest.raises((InvalidModelError, UnsupportedOpError), match=r"infinit|-inf"):
            from_onnx(model([node(op, "x mask")], (1, 1, TOKEN, TOKEN), {"mask": MASK}))
    nothing = [*ATTENTION["mask added"], node("MatMul", "a wo")]
    weights = {**projections(), "mask": np.full_like(MASK, -np.inf)}
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=r"infinite|without any key|nothing left"):
        from_onnx(model(nothing, ("N", TOKEN, WIDTH), weights))


def test_attention_without_heads() -> None:
    nodes = [node("MatMul", "x wq", "q"), node("MatMul", "x wk", "k0"), node("Transpose", "k0", "k", perm=[0, 2, 1]),
             *SCORED, node("Softmax", "t", "p", axis=-1), node("MatMul", "p x")]  # fmt: skip
    assert functions(agree(model(nodes, ("N", TOKEN, WIDTH), projections()))) == [f"attention of {TOKEN} to {TOKEN}"]


# --- transformer blocks --------------------------------------------------------------------------------------------

NATIVE = [node("LayerNormalization", "x g1 h1", "z", axis=-1)]
WRITTEN = [node("ReduceMean", "r", "m", axes=[-1]), node("Sub", "r m", "d0"), node("Pow", "d0 two", "d1"),
           node("ReduceMean", "d1", "d2", axes=[-1]), node("Add", "d2 eps", "d3"), node("Sqrt", "d3", "d4"),
           node("Div", "d0 d4", "d5"), node("Mul", "d5 g2", "d6"), node("Add", "d6 h2", "n")]  # fmt: skip
RESIDUAL = [node("MatMul", "a wo", "a1"), node("Add", "a1 bo", "a2"), node("Add", "a2 x", "r")]
GATED = [node("MatMul", "n w1", "f"), node("MatMul", "n w2", "e"),
         node("Sigmoid", "f", "f1"), node("Mul", "f f1", "f2"),
         node("Mul", "f2 e", "f3"), node("MatMul", "f3 w3", "f4"), node("Add", "f4 r", "o")]  # fmt: skip
ENDED = [node("ReduceMean", "o", "l", axes=[1], keepdims=0), node("Gemm", "l w4 b4", "logits"),
         node("Softmax", "logits", "y", axis=-1)]  # fmt: skip
BLOCK = [*NATIVE, *ATTENTION["mask added"][1:], *RESIDUAL, *WRITTEN, *GATED, *ENDED]


def block(kind: int = TensorProto.FLOAT) -> bytes:
    """Layer norm, masked attention with two heads, residual; written-out layer norm, SwiGLU, residual; a classifier."""
    norms = {
        name: 1 + value for name, value in drawn(2, 0.1, **dict.fromkeys(("g1", "h1", "g2", "h2"), (WIDTH,))).items()
    }
    inner = drawn(3, 0.4, w1=(WIDTH, 2 * WIDTH), w2=(WIDTH, 2 * WIDTH), w3=(2 * WIDTH, WIDTH))
    ended = drawn(4, 0.2, w4=(WIDTH, 3), b4=(3,))
    weights = {**projections(), **norms, **inner, **ended, "mask": MASK, "two": number(2), "eps": number(1e-5)}
    if kind == TensorProto.DOUBLE:
        weights = {k: value.astype(np.float64) if value.dtype == np.float32 else value for k, value in weights.items()}
    return model(BLOCK, ("N", TOKEN, WIDTH), weights, kind=kind)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_a_block_is_understood(kind: int) -> None:
    graph = agree(block(kind=kind))
    assert functions(graph) == [
        f"standardisation of {WIDTH}",
        f"attention of {TOKEN} to {TOKEN}",
        f"standardisation of {WIDTH}",
        "product of two values",
        "softmax of 3",
    ]


@pytest.mark.slow
def test_constants_of_a_block_hold() -> None:
    """Spectral, row-sum and column-sum norms of Jacobians at points of a ball are never above the constant for it."""
    graph = from_onnx(block())
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(TOKEN, WIDTH, generator=generator, dtype=torch.float64)
    steps = torch.randn(40, TOKEN, WIDTH, generator=generator, dtype=torch.float64)
    points = centre + 0.002 * steps / steps.flatten(1).norm(dim=1)[:, None, None]
    jacobians = torch.stack([torch.func.jacrev(graph)(point).flatten(1) for point in points])
    for p in (2.0, math.inf, 1.0):
        found = jb.lipschitz(graph, jb.Ball(centre, 0.002, 2), norm=(p, p), method=jb.AutoLip())
        assert found.status.certified and math.isfinite(found.upper)
        assert torch.linalg.matrix_norm(jacobians, p).amax() <= found.upper


@pytest.mark.slow
def test_what_is_claimed_about_variances() -> None:
    data, whole_space = block(), jb.WholeSpace()
    wide = jb.Ball(torch.zeros(TOKEN, WIDTH, dtype=torch.float64), 10.0, 2)
    with pytest.raises(InvalidRegionError, match=r"'z.*': standardisation of 6.*variance_floor=v"):
        jb.lipschitz(from_onnx(data), wide, method=jb.AutoLip())
    claimed, accepted = from_onnx(data, variance_floor=0.5), from_onnx(data, variance_floor=0)
    assert len(claimed.assumptions) == 2 and not accepted.assumptions and not from_onnx(data).assumptions
    small, large = (jb.lipschitz(graph, wide, method=jb.AutoLip()).upper for graph in (claimed, accepted))
    assert small < large < math.inf
    assert jb.lipschitz(claimed, whole_space, method=jb.AutoLip()).upper < math.inf
