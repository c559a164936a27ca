"""`from_onnx` on RNN, GRU and LSTM in all their forms, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from jacobound import from_onnx
from onnx_models import RANDOM, model, node, weight, whole

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, FEATURES, SIZE = 4, 2, 3, 2
FORMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "plain": ("RNN", {}, "B"),
    "relu, backward": ("RNN", {"activations": ["Relu"], "direction": "reverse"}, "B L H"),
    "both directions, scaled": (
        "RNN",
        {
            "activations": ["LeakyRelu", "Affine"],
            "activation_alpha": [0.25, 0.5],
            "activation_beta": [0.1],
            "direction": "bidirectional",
        },
        "B - H",
    ),
    "softsign": ("RNN", {"activations": ["Softsign"], "clip": 0.7}, ""),
    "gated": ("GRU", {}, "B - H"),
    "gated behind": ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}, "B L H"),
    "gated, other": ("GRU", {"activations": ["HardSigmoid", "Softplus"], "clip": 0.5, "direction": "reverse"}, "B"),
    "gated behind, without biases": ("GRU", {"linear_before_reset": 1}, ""),
    "long": ("LSTM", {}, "B - H C"),
    "long, peepholes": ("LSTM", {"direction": "bidirectional"}, "B L H C P"),
    "long, coupled": ("LSTM", {"input_forget": 1}, "B - H C P"),
    "long, limited": ("LSTM", {"clip": 0.3, "direction": "reverse"}, "B L"),
    "long, other": (
        "LSTM",
        {
            "activations": ["HardSigmoid", "ScaledTanh", "Elu"],
            "activation_alpha": [0.3, 1.5, 0.5],
            "activation_beta": [0.4, 0.6],
        },
        "B",
    ),
}


def case(kind: str, attributes: dict[str, Any], given: str, outputs: str = "seq last", opset: int = 17) -> bytes:
    """A model of one recurrent operation, whose results are put one behind the other."""
    sides, gates = 2 if attributes.get("direction") == "bidirectional" else 1, GATES[kind]
    stored = {"w": weight(sides, gates * SIZE, FEATURES), "r": weight(sides, gates * SIZE, SIZE)}
    optional = {
        "B": weight(sides, 2 * gates * SIZE),
        "L": np.full(BATCH, STEPS - 1, dtype=np.int32),
        "H": weight(sides, BATCH, SIZE),
        "C": weight(sides, BATCH, SIZE),
        "P": weight(sides, 3 * SIZE),
    }
    stored |= {name: value for name, value in optional.items() if name in given.split()}
    names = outputs.split() + (["memory"] if kind == "LSTM" else [])
    nodes = [node(kind, f"x w r {given}", " ".join(names), hidden_size=SIZE, **attributes)]
    nodes += [node("Reshape", f"{name} flat", f"{name}_flat") for name in names]
    nodes += [node("Concat", " ".join(f"{name}_flat" for name in names), axis=0)]
    return model(nodes, (STEPS, BATCH, FEATURES), {**stored, "flat": whole(-1)}, opset=opset)


@pytest.mark.parametrize("name", FORMS)
def test_values_are_those_of_onnxruntime(name: str) -> None:
    data = case(*FORMS[name])
    graph = from_onnx(data)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for scale in (0.3, 1.0, 3.0):
        x = (scale * RANDOM.standard_normal((STEPS, BATCH, FEATURES))).astype(np.float32)
        expected = session.run(None, {"x": x})[0]
        np.testing.assert_allclose(graph(torch.tensor(x)[None].double())[0].numpy(), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kind", GATES)
def test_the_batch_may_stand_first(kind: str) -> None:
    gates = GATES[kind]
    stored = {
        "w": weight(1, gates * 2, 3),
        "r": weight(1, gates * 2, 2),
        "b": weight(1, 4 * gates),
        "h": weight(2, 1, 2),
    }
    data = model([node(kind, "x w r b - h", hidden_size=2, layout=1)], (2, 4, 3), stored)
    turned = [
        node("Transpose", "x", "steps", perm=[1, 0, 2]),
        node("Transpose", "h", "start", perm=[1, 0, 2]),
        node(kind, "steps w r b - start", "found", hidden_size=2),
        node("Transpose", "found", "y", perm=[2, 0, 1, 3]),
    ]
    x = torch.randn(3, 2, 4, 3, dtype=torch.float64)
    expected = from_onnx(model(turned, (2, 4, 3), stored))(x)
    torch.testing.assert_close(from_onnx(data)(x), expected, rtol=1e-12, atol=1e-12)


def test_the_input_may_be_a_constant_and_the_state_a_value() -> None:
    nodes = [node("GRU", "zeros w r - - x", hidden_size=2)]
    stored = {"zeros": np.zeros((3, 1, 3), np.float32), "w": weight(1, 6, 3), "r": weight(1, 6, 2)}
    assert from_onnx(model(nodes, (1, 1, 2), stored)).out_shape == (3, 1, 1, 2)


def inner(nodes: list[Any], given: dict[str, tuple[int, list[int]]], results: str) -> Any:
    """The body of a loop; element types and shapes of its inputs by name."""
    helper = onnx.helper
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in given.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in results.split()]
    for entry in outputs:
        entry.type.tensor_type.elem_type = 9 if entry.name.startswith("go") else 1
    return helper.make_graph(nodes, "body", infos, outputs)


@pytest.mark.parametrize(
    ("axis", "options"),
    [
        (0, {}),
        (1, {"scan_input_axes": [1], "scan_output_axes": [1]}),
        (1, {"scan_input_axes": [1], "scan_input_directions": [1], "scan_output_directions": [1]}),
    ],
)
def test_a_scan_is_unrolled(axis: int, options: dict[str, Any]) -> None:
    body = inner(
        [
            node("MatMul", "s r", "sr"),
            node("MatMul", "part w", "pw"),
            node("Add", "sr pw", "a"),
            node("Tanh", "a", "s2"),
            node("Neg", "s2", "seen"),
        ],
        {"s": (1, [1, 2]), "part": (1, [1, 3])},
        "s2 seen",
    )
    shape = (4, 1, 3) if axis == 0 else (1, 4, 3)
    nodes = [node("Scan", "start x", "last y", body=body, num_scan_inputs=1, **options)]
    graph = from_onnx(model(nodes, shape, {"start": weight(1, 2), "w": weight(3, 2), "r": weight(2, 2)}))
    assert sum("Elementwise" in repr(found) for found in graph.nodes) == 4


@pytest.mark.parametrize("most", ["m go", "m -", "- go"])
def test_a_loop_is_unrolled(most: str) -> None:
    nodes = [
        node("MatMul", "s r", "sr"),
        node("Sin", "sr", "sin"),
        node("Add", "sin x", "s2"),
        node("Neg", "s2", "seen"),
    ]
    body = inner(
        [*nodes, node("Less", "i three", "going")], {"i": (7, []), "g": (9, []), "s": (1, [1, 2])}, "going s2 seen"
    )
    stored = {"m": np.array(3), "go": np.array(True), "three": np.array(3), "r": weight(2, 2)}
    graph = from_onnx(model([node("Loop", f"{most} x", "last y", body=body)], (1, 2), stored))
    assert graph.out_shape == (3 + (most == "- go"), 1, 2)
