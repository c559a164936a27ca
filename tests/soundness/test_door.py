"""Valid ONNX models of every operation are imported with onnxruntime's values or refused; mistakes are noticed."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx

from campaign import door_onnx
from campaign.door_recipes import OPERATIONS, RECIPES, drawn
from campaign.runner import generator_of
from jacobound.importers.onnx import engines as onnx_engines
from jacobound.importers.onnx import node as onnx_node
from jacobound.importers.onnx.model import evaluate as onnx_evaluate

# Attributes whose only other values are refused, or change nothing that is run.
NOT_DRAWN = {("Upsample", "height_scale"), ("Upsample", "width_scale")}


PADDING: tuple[dict[str, Any], ...] = (
    {},
    {"ceil_mode": 1},
    {"pads": (0, 1)},
    {"pads": (1, 0), "ceil_mode": 1},
    {"pads": (1, 1), "auto_pad": "NOTSET"},
    {"auto_pad": "VALID"},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER"},
)


@pytest.mark.slow
def test_one_model_of_every_operation_is_imported_as_it_is_or_refused() -> None:
    tally = door_onnx.check(generator_of("door", 5, 0))
    assert not tally.violations
    assert tally.cases["ONNX models tried"] == len(door_onnx.ALL) > 110
    assert tally.cases["ONNX models imported"] > 0.85 * len(door_onnx.ALL)


def test_every_operation_that_is_understood_has_a_recipe_that_draws_every_attribute() -> None:
    assert set(RECIPES) == set(OPERATIONS)
    random = Random(0)
    for op in door_onnx.ALL:
        wanted = {name for name in door_onnx.attributes_of(op) if (op, name) not in NOT_DRAWN}
        seen: set[str] = set()
        for _ in range(400):
            if seen >= wanted:
                break
            seen.update(drawn(op, random).given)
        assert seen >= wanted, (op, wanted - seen)


def wrong_imports(monkeypatch: pytest.MonkeyPatch, *operations: str, seeds: int = 6) -> int:
    """How many models are imported with other values, once the check at the door is left out."""
    monkeypatch.setattr("jacobound.importers.onnx.file.verify", lambda *arguments, **options: None)
    tallies = [door_onnx.check(generator_of("door", 6, k), operations) for k in range(seeds)]
    return sum("values differ" in line or "outputs" in line for tally in tallies for line in tally.violations)


def test_other_defaults_of_attributes_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = onnx_evaluate.attributes

    def shifted(node: Any, version: int) -> dict[str, object]:
        found = dict(honest(node, version))
        given = {attribute.name for attribute in node.attribute}
        return {
            name: value * 2 if isinstance(value, float) and name not in given else value
            for name, value in found.items()
        }

    monkeypatch.setattr(onnx_node, "attributes", shifted)
    assert wrong_imports(monkeypatch, "Elu", "Selu", "Gemm", "HardSigmoid", "LeakyRelu") > 0


def test_attributes_that_are_ignored_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = onnx_evaluate.attributes

    def bare(node: Any, version: int) -> Any:
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        del plain.attribute[:]
        return honest(plain, version)

    monkeypatch.setattr(onnx_node, "attributes", bare)
    assert wrong_imports(monkeypatch, "Softmax", "Elu", "CumSum", "Gemm") > 0


def test_the_check_at_the_door_notices_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = onnx_evaluate.attributes
    monkeypatch.setattr(onnx_node, "attributes", lambda node, version: {**honest(node, version), "alpha": 0.125})
    tallies = [door_onnx.check(generator_of("door", 7, k), ("LeakyRelu", "Celu", "Elu")) for k in range(4)]
    assert not any(tally.violations for tally in tallies)
    assert sum(tally.cases["ONNX models refused"] for tally in tallies) > 6


def test_both_engines_compute_the_same() -> None:
    """onnx's own evaluator judges where onnxruntime is absent: it may refuse, but not have other values."""
    random, compared = Random(1), 0
    for _, model in door_onnx.models(random):
        data = model.SerializeToString()
        x = np.random.default_rng(0).standard_normal(door_onnx.shape_of(model)).astype(np.float32)
        try:
            one, two = (load(data, "x", "y")(x) for load in (onnx_engines.by_onnxruntime, onnx_engines.by_reference))
        except (onnx_engines.UnableError, ValueError):
            continue
        compared += 1
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4, err_msg=str(model.graph.node))
    assert compared > 70


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_both_engines_pool_the_same(op: str) -> None:
    """Every way of padding with every step: onnx's own evaluator has other ways for some of them."""
    compared = 0
    for size, strides, dilation, padding in product(((6,), (6, 5)), (None, 1, 2), (None, 1, 2), PADDING):
        axes, given = len(size), dict(padding)
        given |= {name: [value] * axes for name, value in (("strides", strides), ("dilations", dilation)) if value}
        given |= {"pads": [value for value in given["pads"] for _ in size]} if "pads" in given else {}
        node = onnx.helper.make_node(op, ["x"], ["y"], kernel_shape=[2, 3][:axes], **given)
        ends = [
            onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", (1, 2, *size)), ("y", None))
        ]
        graph = onnx.helper.make_graph([node], "pool", ends[:1], ends[1:])
        data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=8)
        x = np.random.default_rng(0).standard_normal((1, 2, *size)).astype(np.float32)
        loads = (onnx_engines.by_onnxruntime, onnx_engines.by_reference)
        try:
            one, two = (load(data.SerializeToString(), "x", "y")(x) for load in loads)
        except ValueError:
            continue
        compared += 1
        np.testing.assert_allclose(one, two, rtol=1e-6, err_msg=str(node))
    assert compared > 100
