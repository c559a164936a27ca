"""Functions that ONNX files write with comparisons, signs and masks: continuous ones are proved so, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import jacobound as jb
from onnx_models import agree, model, node

NUMBERS = {
    "zero": np.float32(0), "one": np.float32(1), "minus": np.float32(-1), "half": np.float32(0.5),
    "tenth": np.float32(0.125),
}  # fmt: skip
WEIGHTS = {k: np.array(v) for k, v in NUMBERS.items()} | {
    "w": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
}
SQUARE = [node("Mul", "h h", "q"), node("Mul", "q half", "s"), node("Abs", "h", "a"), node("Sub", "a half", "l")]

CONTINUOUS = {
    "leaky by where": ([node("Greater", "h zero", "c"), node("Mul", "h tenth", "s"), node("Where", "c h s")], 1.0),
    "relu by mask": ([node("Greater", "h zero", "c"), node("Cast", "c", "m", to=1), node("Mul", "h m")], 1.0),
    "relu by less": ([node("Less", "h zero", "c"), node("Not", "c", "n"), node("Where", "n h zero")], 1.0),
    "huber by or": (
        [*SQUARE, node("Less", "h minus", "b"), node("Greater", "h one", "u"), node("Or", "b u", "c"),
         node("Where", "c l s")], 3.0),
    "huber by size": ([*SQUARE, node("LessOrEqual", "a one", "c"), node("Where", "c s l")], 3.0),
    "elu": (
        [node("GreaterOrEqual", "h zero", "c"), node("Exp", "h", "e"), node("Sub", "e one", "n"),
         node("Where", "c h n")], 2.0),
    "symlog": (
        [node("Sign", "h", "g"), node("Abs", "h", "a"), node("Add", "a one", "p"), node("Log", "p", "l"),
         node("Mul", "g l")], 2.0),
    "size by sign": ([node("Sign", "h", "g"), node("Mul", "h g")], 1.5),
    "clip by two": (
        [node("Less", "h minus", "c"), node("Where", "c minus h", "t"), node("Greater", "t one", "d"),
         node("Where", "d one t")], 2.0),
    "clip by and": (
        [node("Greater", "h minus", "b"), node("Less", "h one", "u"), node("And", "b u", "c"), node("Sign", "h", "g"),
         node("Where", "c h g")], 2.0),
    "larger": ([node("Neg", "h", "n"), node("Greater", "h n", "c"), node("Where", "c h n")], 1.5),
    "larger of halves": (
        [node("Split", "h", "f g", axis=1), node("Less", "f g", "c"), node("Where", "c g f")], 1.5),
}  # fmt: skip


@pytest.mark.parametrize("called", CONTINUOUS)
def test_what_is_continuous_is_imported(called: str) -> None:
    nodes, loose = CONTINUOUS[called]
    graph = agree(model([node("MatMul", "x w", "h"), *nodes], (1, 3), WEIGHTS), points=20, spread=2.0)
    region = jb.Ball(torch.zeros(3, dtype=torch.float64), 0.5)
    bound = jb.lipschitz(graph.double, region, jb.RecurJac())
    norm = float(np.linalg.norm(WEIGHTS["w"].astype(np.float64), 2))
    assert 0 < float(bound.lower) <= float(bound.upper) <= loose * norm * (1 + 1e-6)
    points = region.domains(graph.double)[0][:1].sample(200, torch.Generator().manual_seed(0))[0]
    values = graph.double(points)
    steep = (values[1:] - values[:-1]).norm(dim=1) / (points[1:] - points[:-1]).norm(dim=1)
    assert float(steep.max()) <= float(bound.upper)


JUMPING = {
    "a mask": [node("Greater", "h zero", "c"), node("Cast", "c", "y", to=1)],
    "a step": [node("Greater", "h one", "c"), node("Mul", "h tenth", "k"), node("Where", "c h k")],
    "a sign": [node("Sign", "h")],
    "two masks": [node("Greater", "h zero", "c"), node("Greater", "x zero", "d"), node("Cast", "c", "m", to=1),
                  node("Cast", "d", "n", to=1), node("MatMul", "n w", "k"), node("Mul", "m k")],
}  # fmt: skip


@pytest.mark.parametrize("called", JUMPING)
def test_what_jumps_is_refused(called: str) -> None:
    with pytest.raises(jb.UnsupportedOpError, match="jumps, or is not seen to be continuous"):
        jb.from_onnx(model([node("MatMul", "x w", "h"), *JUMPING[called]], (1, 3), WEIGHTS))


@pytest.mark.parametrize("op", ["Floor", "Ceil", "Round", "Mod", "Equal"])
def test_roundings_are_refused_by_name(op: str) -> None:
    last = node(op, "h one", fmod=1) if op == "Mod" else node(op, "h one" if op == "Equal" else "h")
    with pytest.raises(jb.UnsupportedOpError, match=rf"Op '{op}'.*jumps where"):
        jb.from_onnx(model([node("MatMul", "x w", "h"), last], (1, 3), WEIGHTS))


@pytest.mark.parametrize(("axes", "keep"), [([1], 1), ([1], 0), (None, 0)])
def test_products_along_axes(axes: list[int] | None, keep: int) -> None:
    along = {} if axes is None else {"axes": axes}
    last = node("ReduceProd", "h", keepdims=keep, **along)
    graph = agree(model([node("MatMul", "x w", "h"), last], (1, 3), WEIGHTS, opset=13), points=10)
    bound = jb.lipschitz(graph.double, jb.Ball(torch.ones(3, dtype=torch.float64), 0.01))
    assert 0.9 * float(bound.upper) <= float(bound.lower) <= float(bound.upper)
