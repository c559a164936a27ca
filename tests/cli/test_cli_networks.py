"""What commands are told about a network: where it is cut, and what is taken for granted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from jacobound import cli
from onnx_models import model, node, weight

pytest.importorskip("onnx")

Capture = pytest.CaptureFixture[str]

NORMALISED = model(
    [node("MatMul", "x w", "hidden"), node("LayerNormalization", "hidden s", "y", axis=1)],
    (1, 4),
    {"w": weight(4, 3), "s": weight(3)},
)
CLASSIFIER = model([node("MatMul", "x w", "logits"), node("Softmax", "logits", "y")], (1, 4), {"w": weight(4, 3)})


@pytest.fixture
def normalised(tmp_path: Path) -> str:
    (tmp_path / "normalised.onnx").write_bytes(NORMALISED)
    return str(tmp_path / "normalised.onnx")


def run(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def constant(capsys: Capture, *arguments: str) -> tuple[float, list[str]]:
    code, shown, _ = run(capsys, "lipschitz", *arguments, "--global", "--json")
    (found,) = json.loads(shown)
    assert code == 0
    return found["upper"], found["provenance"]["assumptions"]


@pytest.mark.slow
def test_an_assumed_variance_scales_the_constant_and_is_named(capsys: Capture, normalised: str) -> None:
    code, _, complaint = run(capsys, "lipschitz", normalised, "--global", "--method", "autolip")
    assert code == 2 and "variance_floor" in complaint and "Traceback" not in complaint
    one, named = constant(capsys, normalised, "--method", "autolip", "--variance-floor", "0.01")
    assert len(named) == 1 and "0.01" in named[0]
    other, _ = constant(capsys, normalised, "--method", "autolip", "--variance-floor", "0.04")
    assert math.isclose(one / other, 2, rel_tol=1e-3)  # the root of the ratio, up to eps
    code, shown, _ = run(capsys, "lipschitz", normalised, "--global", "--variance-floor", "0.01")
    assert code == 0 and "assuming" in shown and "0.01" in shown


def test_a_network_is_cut_where_it_is_told(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "classifier.onnx"
    file.write_bytes(CLASSIFIER)
    whole, _ = constant(capsys, str(file))
    cut, _ = constant(capsys, str(file), "--until", "logits")
    assert whole == pytest.approx(cut / 2, rel=1e-6)
    code, shown, _ = run(capsys, "inspect", str(file), "--until", "logits")
    assert code == 0 and "softmax" not in shown.lower()
    code, _, complaint = run(capsys, "inspect", str(file), "--until", "nothing")
    assert code == 2 and "nothing" in complaint
