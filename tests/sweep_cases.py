"""Small plans, and what workers of tests do with tasks in place of answering them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from jacobound.sweeps.tasks import Outcome, attempt

PLAN = """
ask = "lipschitz"
models = ["net.onnx", {file = "net.onnx", name = "again", until = "hidden"}]
ball = ["inf", 2]
radii = [0.1, "8/255"]
norms = [["inf", "inf"], [2, 2]]
rows = ["all", "label"]
methods = ["recurjac", "autolip"]
together = false

[points]
files = ["points.npz"]
key = "x"
labels = "y"
index = "0:2"
clip = [-1, 1]
"""


def folder_with(place: Path, plan: str = PLAN) -> Path:
    """A folder with a network, three points with labels, and a plan; returns the plan."""
    random = np.random.default_rng(0)
    shapes = {"w": (6, 3), "v": (3, 6), "b": (6,)}
    weights = [numpy_helper.from_array(random.normal(size=s).astype(np.float32), name) for name, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "v"], ["y"], transB=1),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3))] for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "net", ends[0], ends[1], weights),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    (place / "net.onnx").write_bytes(model.SerializeToString())
    points = np.linspace(-0.5, 0.5, 9).reshape(3, 3)
    np.savez(place / "points.npz", x=points, y=np.array([0, 1, 2]))
    (place / "plan.toml").write_text(plan, encoding="utf-8")
    return place / "plan.toml"


def misbehaving(plain: Mapping[str, Any]) -> Outcome:
    """Tasks of seed 1 never end, of seed 2 take memory step by step, of seed 3 at once, of seed 4 end the process."""
    if plain["seed"] == 1:
        time.sleep(1000)
    if plain["seed"] == 2:
        held = []
        while True:
            held.append(np.ones(1 << 23))
            time.sleep(0.05)
    if plain["seed"] == 3:
        np.ones(1 << 40)
    if plain["seed"] == 4:
        os._exit(7)
    if plain["seed"] == 5:
        raise_within = dict(plain) | {"rows": "9"}
        return attempt(raise_within) | {"identity": attempt(plain)["identity"]}
    return attempt(plain)
