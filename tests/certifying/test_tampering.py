"""Damaged certificates are refused with the reason: by their digests, or by what they mean where those are new."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import jacobound as jb
from certificate_files import ball, change, network
from jacobound_check import OtherModelError, UnprovedError, UnreadableError, check

Told = dict[str, Any]
Arrays = dict[str, np.ndarray]
Damage = Callable[[Told, Arrays], None]


def _certificate(folder: Path, kind: str) -> Path:
    graph = network("relu")
    results: dict[str, Callable[[], Any]] = {
        "output": lambda: jb.bound_output(graph, ball(graph), jb.CROWN()),
        "jacobian": lambda: jb.bound_jacobian(graph, ball(graph), jb.RecurJac()),
        "constant": lambda: jb.lipschitz(graph, ball(graph), jb.LipSDP(), budget=20),
    }
    return results[kind]().save_certificate(folder / "one.json").path


def _set(told: Told, *names: Any, value: Any) -> None:
    for name in names[:-1]:
        told = told[name]
    told[names[-1]] = value


def _array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(told: Told, arrays: Arrays) -> None:
        (found,) = (key for key in arrays if key == name or key.endswith(name))
        arrays[found] = change(arrays[found].copy())

    return damage


def _at(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def changed(x: np.ndarray) -> np.ndarray:
        x.flat[0] = value
        return x

    return changed


def _steps(node: int) -> Callable[[Told], Told]:
    return lambda told: told["network"]["nodes"][node]


# What is wrong afterwards: of which certificate, how it is done, the error, and what it says.
MEANING: dict[str, tuple[str, Damage, type[Exception], str]] = {
    "a larger radius": (
        "output",
        lambda t, a: _set(t, "question", "region", "radii", value=[(0.16).hex()]),
        UnprovedError,
        "only .* is proved",
    ),
    "a moved centre": ("output", _array("centre", lambda x: x + 0.02), UnprovedError, "only .* is proved"),
    "another norm of the ball": (
        "constant",
        lambda t, a: _set(t, "question", "region", "radii", value=[(0.6).hex()]),
        UnprovedError,
        "semidefinite|fit|only",
    ),
    "a smaller upper bound": ("output", _array("claim.upper", lambda x: x - 1e-6), UnprovedError, "claim upper"),
    "a larger lower bound": ("jacobian", _array("claim.lower", lambda x: x + 1e-6), UnprovedError, "claim lower"),
    "a smaller constant": ("constant", _array("claim.upper", lambda x: x * (1 - 1e-8)), UnprovedError, "claim upper"),
    "a larger attained value": (
        "constant",
        _array("claim.lower", lambda x: x * (1 + 1e-8)),
        UnprovedError,
        "claim lower",
    ),
    "a claim of NaN": ("output", _array("claim.upper", _at(math.nan)), UnreadableError, "NaN"),
    "another weight": ("output", _array("node1.0.weight", lambda x: x * 1.01), UnprovedError, "only .* is proved"),
    "a weight of NaN": ("output", _array("node1.0.weight", _at(math.nan)), UnreadableError, "NaN"),
    "an infinite weight": ("output", _array("node1.0.weight", _at(math.inf)), UnreadableError, "not finite"),
    "swapped rows of a weight": ("output", _array("node1.0.weight", lambda x: x[::-1]), UnprovedError, "only"),
    "swapped outputs": ("jacobian", _array("node5.0.weight", lambda x: x[::-1]), UnprovedError, "only .* is proved"),
    "a bias left out": (
        "output",
        lambda t, a: _set(t, "network", "nodes", 0, "bias", value=None),
        UnprovedError,
        "only .* is proved",
    ),
    "another activation": (
        "jacobian",
        lambda t, a: _set(t, "network", "nodes", 1, "function", "slopes", value=["0x1.0p-2", "0x1.0p+1"]),
        UnprovedError,
        "only .* is proved",
    ),
    "an activation that jumps": (
        "jacobian",
        lambda t, a: _set(t, "network", "nodes", 1, "function", "offsets", value=["0x1.0p+0", "0x0.0p+0"]),
        UnreadableError,
        "jumps",
    ),
    "an unknown activation": (
        "jacobian",
        lambda t, a: _set(t, "network", "nodes", 1, "function", value={"name": "step", "numbers": []}),
        UnreadableError,
        "not known",
    ),
    "a node that reads a later one": (
        "output",
        lambda t, a: _set(t, "network", "nodes", 1, "source", value=4),
        UnreadableError,
        "whole number from 0",
    ),
    "a layer left out": (
        "output",
        lambda t, a: t["network"].update(nodes=t["network"]["nodes"][:3]),
        UnreadableError,
        "no node|shape",
    ),
    "a missing set": (
        "output",
        lambda t, a: t["proof"].update(sets=[]),
        UnreadableError,
        "speaks of 0 sets",
    ),
    "a set too many": (
        "output",
        lambda t, a: t["proof"].update(sets=t["proof"]["sets"] * 2),
        UnreadableError,
        "speaks of 2 sets",
    ),
    "slopes that prove less": ("output", _array("2.above", lambda x: x + 3.0), UnprovedError, "only .* is proved"),
    "a slope of NaN": ("output", _array("2.above", _at(math.nan)), UnreadableError, "NaN"),
    "too few slopes": ("output", _array("2.above", lambda x: x[1:]), UnreadableError, "shape"),
    "an entry that does not exist": ("output", _array("3.entries", _at(99)), UnreadableError, "does not exist"),
    "a negative multiplier": ("constant", _array("neurons", _at(-1.0)), UnprovedError, "positive number"),
    "multipliers too small": ("constant", _array("outputs", lambda x: x * 0.9), UnprovedError, "semidefinite"),
    "a multiplier left out": ("constant", _array("neurons", lambda x: x[1:]), UnprovedError, "do not fit"),
    "a point outside": ("constant", _array("witness", lambda x: x + 1.0), UnprovedError, "outside of the set"),
    "a direction of zeros": ("constant", _array("direction", lambda x: x * 0.0), UnprovedError, "claim lower"),
    "another question": (
        "jacobian",
        lambda t, a: _set(t, "question", "asks", value="bound_output"),
        UnreadableError,
        "claim lower has shape",
    ),
    "an unknown name": ("output", lambda t, a: t.update(trust=["upper"]), UnreadableError, "unknown names"),
    "a missing name": ("output", lambda t, a: t.pop("claims"), UnreadableError, "lacks"),
    "an array that is missing": ("output", lambda t, a: a.pop("node1.bias"), UnreadableError, "there is no array"),
    "a number that is no text": (
        "output",
        lambda t, a: _set(t, "question", "region", "radii", value=[1]),
        UnreadableError,
        "region: a radius",
    ),
    "an infinite radius": (
        "output",
        lambda t, a: _set(t, "question", "region", "radii", value=["inf"]),
        UnreadableError,
        "no finite float",
    ),
    "a huge shape": (
        "output",
        lambda t, a: _set(t, "network", "input", value=[1 << 31, 1 << 31]),
        UnreadableError,
        "too large",
    ),
    "a newer format": ("output", lambda t, a: t.update(format=2), UnreadableError, "format"),
    "weights from elsewhere": (
        "output",
        lambda t, a: _set(t, "weights", "file", value="../one.safetensors"),
        UnreadableError,
        "beside the certificate",
    ),
}


@pytest.mark.parametrize("name", MEANING)
def test_what_is_changed_and_sealed_anew_is_refused_for_what_it_means(name: str, tmp_path: Path) -> None:
    kind, damage, error, reason = MEANING[name]
    path = _certificate(tmp_path, kind)
    check(path)
    change(path, damage) if name != "weights from elsewhere" else _resealed(path, damage)
    with pytest.raises(error, match=reason):
        check(path)


def _resealed(path: Path, damage: Damage) -> None:
    from jacobound.certifying.files import sealed

    told = json.loads(path.read_text(encoding="utf-8"))
    damage(told, {})
    path.write_text(json.dumps(sealed(told)), encoding="utf-8")


def test_any_change_without_a_new_seal_is_noticed(tmp_path: Path) -> None:
    path = _certificate(tmp_path, "output")
    text, beside = path.read_text(encoding="utf-8"), path.with_name("one.safetensors")
    data = bytearray(beside.read_bytes())
    data[-1] ^= 1  # the last bit of the last number
    beside.write_bytes(data)
    with pytest.raises(UnreadableError, match="weights was changed"):
        check(path)
    data[-1] ^= 1
    beside.write_bytes(data)
    check(path)
    path.write_text(text.replace('"lines"', '"linens"'), encoding="utf-8")
    with pytest.raises(UnreadableError, match="digest"):
        check(path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"format": 1', '"format": 1, "format": 1', "stands twice"),
        ('"format": 1', '"format": NaN', "NaN"),
        ('"format": 1', '"format": 1e999', "1e999"),
        ('"format": 1', '"format": 1.5', "1.5"),
        ('"format": 1', '"format": ' + "9" * 5000, "18 digits"),
        ('"format": 1', '"format": ' + "[" * 120 + "]" * 120, "deep"),
        ('"format": 1', '"format": ' + "[" * 200000 + "]" * 200000, "no JSON|deep"),
        ('"format": 1', '"format" 1', "no JSON"),
    ],
)
def test_json_is_read_strictly(old: str, new: str, reason: str, tmp_path: Path) -> None:
    path = _certificate(tmp_path, "output")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UnreadableError, match=reason):
        check(path)


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F64", "shape": [1 << 30, 4], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F64", "shape": [1], "data_offsets": [0, 1 << 39]}},
        {"x": {"dtype": "F64", "shape": [1], "data_offsets": [8, 16]}},
        {"x": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 8]}},
        {"x": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F64", "shape": [1]}},
        {"x": [1, 2]},
        [],
    ],
)
def test_sizes_are_checked_before_anything_is_allocated(header: Any) -> None:
    from jacobound_check.reading import safetensors

    told = json.dumps(header).encode()
    with pytest.raises(UnreadableError):
        safetensors(struct.pack("<Q", len(told)) + told + bytes(8))
    with pytest.raises(UnreadableError, match="header"):
        safetensors(struct.pack("<Q", 1 << 60) + told)


def _exported(folder: Path, module: nn.Module, shape: tuple[int, ...], name: str) -> Path:
    pytest.importorskip("onnx")
    path = folder / name
    torch.onnx.export(module.eval(), (torch.zeros(1, *shape),), str(path), dynamo=False, input_names=["x"])
    return path


@pytest.mark.filterwarnings("ignore")
def test_the_network_is_compared_with_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    image = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, stride=2), nn.LeakyReLU(0.25), nn.Flatten(), nn.Linear(18, 2))
    for module, shape in ((dense, (3,)), (image, (1, 6, 6))):
        file = _exported(tmp_path, module, shape, "one.onnx")
        graph = jb.from_onnx(file)
        path = jb.bound_output(graph, jb.Ball(torch.zeros(shape), 0.1)).save_certificate(tmp_path / "one.json").path
        assert "number by number" in check(path, file).model
        with torch.no_grad():
            last = list(module.parameters())[-2]
            last[0, 0] = torch.nextafter(last[0, 0], torch.tensor(9.0))
        other = _exported(tmp_path, module, shape, "other.onnx")
        with pytest.raises(OtherModelError, match="layer"):
            check(path, other)


@pytest.mark.filterwarnings("ignore")
def test_other_files_are_compared_by_what_was_imported(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.one(x)) + self.two(x)

    torch.manual_seed(0)
    file = _exported(tmp_path, Branches(), (3,), "one.onnx")
    graph = jb.from_onnx(file)
    path = jb.bound_output(graph, jb.Ball(torch.zeros(3), 0.1)).save_certificate(tmp_path / "one.json").path
    assert "SHA-256" in check(path, file).model
    with pytest.raises(OtherModelError, match="SHA-256"):
        check(path, _exported(tmp_path, Branches(), (3,), "other.onnx"))
    with pytest.raises(UnreadableError, match="read"):
        check(path, tmp_path / "nowhere.onnx")
