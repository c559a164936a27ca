"""Certificates of results are proved anew, and say what the results say where their form of proof is held."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jacobound as jb
import jacobound_check
from certificate_files import NETWORKS, ball, change, network
from jacobound.cli import main

Ask = Callable[[jb.Graph], Any]

# Whose forms of proof certificates hold: the value of the result, up to 1e-9 of it.
HELD: dict[str, Ask] = {
    "output, intervals": lambda g: jb.bound_output(g, ball(g), jb.IBP()),
    "output, lines": lambda g: jb.bound_output(g, ball(g), jb.CROWN()),
    "output, parallel lines in an l2 ball": lambda g: jb.bound_output(g, ball(g, 0.3, 2), jb.FastLin()),
    "output, rows over two radii": lambda g: jb.bound_output(
        g, jb.Ball(ball(g).center, [0.1, 0.2], p=1), jb.CROWN(), rows=[1.0, -1.0, 0.5]
    ),
    "Jacobian, intervals": lambda g: jb.bound_jacobian(g, ball(g), jb.FastLip()),
    "Jacobian, chords": lambda g: jb.bound_jacobian(g, ball(g), jb.RecurJac()),
    "Jacobian, constants": lambda g: jb.bound_jacobian(g, ball(g), jb.RecurJac("constant"), rows=[0, 2]),
    "constant, entries": lambda g: jb.lipschitz(g, ball(g), jb.RecurJac(), budget=20),
    "constant, sums of rows": lambda g: jb.lipschitz(g, ball(g), jb.RecurJac(), norm=math.inf, budget=20),
    "constant, multipliers": lambda g: jb.lipschitz(g, ball(g), jb.LipSDP(), budget=20),
    "constant, multipliers of rows": lambda g: jb.lipschitz(g, ball(g), jb.LipSDP(), norm=(2, math.inf), budget=20),
    "constant, multipliers of columns": lambda g: jb.lipschitz(g, ball(g), jb.LipSDP(), norm=(1, 2), budget=20),
}

PLANES = [HELD[name] for name in HELD if name.startswith("output") and "intervals" not in name]


@pytest.mark.parametrize("ask", HELD.values(), ids=list(HELD))
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_proved_anew_is_what_the_result_says(name: str, ask: Ask, tmp_path: Path) -> None:
    if name == "product" and ask in PLANES:
        pytest.skip("planes through products are not held by certificates; intervals are")
    result = ask(network(name))
    written = result.save_certificate(tmp_path / "one.json")
    verdict = jacobound_check.check(written.path)
    assert written.note == ""
    for end, claim in verdict.claims.items():
        own = np.asarray(getattr(result, end)).reshape(claim.shape)
        assert np.abs(claim - own).max() <= 1e-9 * np.abs(own).max() or end == "lower"


@pytest.mark.parametrize("norm", [1, 2, math.inf, (math.inf, 1), (2, 1)])
@pytest.mark.parametrize("name", ["relu", "tanh", "residual"])
def test_constants_of_the_usual_call_are_proved_in_all_norms(name: str, norm: Any, tmp_path: Path) -> None:
    graph = network(name)
    result = jb.lipschitz(graph, ball(graph), norm=norm, budget=5)
    claims = jacobound_check.check(result.save_certificate(tmp_path / "one.json").path).claims
    assert 0.5 * float(result.lower) < claims["lower"] <= float(result.upper)
    assert claims["upper"] >= float(result.lower)
    assert claims["upper"] <= 1.5 * float(result.upper)


@pytest.mark.parametrize("name", ["relu", "tanh", "residual"])
def test_decisions_are_proved_within_radii(name: str, tmp_path: Path) -> None:
    graph = network(name)
    points = torch.stack([torch.as_tensor(ball(graph).center), torch.zeros(4, dtype=torch.float64)])
    result = jb.robust_radius(graph, points, p=2, clip=(-3.0, 3.0), budget=10)
    written = result.save_certificate(tmp_path / "one.json")
    claimed = torch.from_numpy(jacobound_check.check(written.path).claims["radius"])
    assert bool((claimed <= result.radius).all())
    assert bool((claimed >= 0.7 * result.radius).all()) and bool((claimed > 0).any())
    assert (written.note == "") == bool((claimed >= result.radius * (1 - 1e-9)).all())
    change(written.path, lambda told, arrays: arrays.update({told["claims"]["radius"]: 1.5 * claimed.numpy()}))
    with pytest.raises(jacobound_check.UnprovedError, match="margin"):
        jacobound_check.check(written.path)


def test_a_decision_before_a_head_has_no_certificate(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sigmoid()).double()
    result = jb.robust_radius(jb.from_torch(module, torch.zeros(1, 3).double()), torch.ones(3).double(), budget=5)
    with pytest.raises(jb.UnsupportedOpError, match="decided before"):
        result.save_certificate(tmp_path / "one.json")


def test_signs_are_proved_in_parts(tmp_path: Path) -> None:
    graph = network("relu")
    result = jb.monotone_features(graph, ball(graph, 0.1), budget=10)
    written = result.save_certificate(tmp_path / "one.json")
    assert written.note == "" and "in parts" in written.proof[0]
    claims = jacobound_check.check(written.path).claims
    known = (result.lower > 0).numpy().ravel()
    assert known.any() and bool((claims["lower"].ravel()[known] > 0).all())


CUTS: dict[str, tuple[Callable[[Any], None], type[Exception], str]] = {
    "a side left out": (lambda cut: cut.update(below=None), jacobound_check.UnreadableError, "no entry"),
    "a side without its name": (lambda cut: cut.pop("above"), jacobound_check.UnreadableError, "lacks"),
    "a cut elsewhere": (lambda cut: cut.update(at=(9.0).hex()), jacobound_check.UnreadableError, "leaves nothing"),
    "a cut along no input": (lambda cut: cut.update(axis=4), jacobound_check.UnreadableError, "axis"),
}


@pytest.mark.parametrize("name", CUTS)
def test_parts_cover_the_region(name: str, tmp_path: Path) -> None:
    graph = network("relu")
    result = jb.lipschitz(graph, ball(graph, 0.3), jb.Split(jb.RecurJac(), most=30), budget=10)
    written = result.save_certificate(tmp_path / "one.json")
    assert "in parts" in written.proof[0] and written.note == ""
    claims = jacobound_check.check(written.path).claims
    assert 0 < claims["lower"] <= claims["upper"]
    damage, error, reason = CUTS[name]
    change(written.path, lambda told, arrays: damage(told["proof"]["sets"][0]))
    with pytest.raises(error, match=reason):
        jacobound_check.check(written.path)


def test_a_weaker_value_is_named_beside_that_of_the_result(tmp_path: Path) -> None:
    """Bounds that are affine in the input are of a form that certificates do not hold; parts come near them."""
    graph = network("tanh")
    written = jb.bound_jacobian(graph, ball(graph)).save_certificate(tmp_path / "one.json")
    assert "where the result says" in written.note
    told = jacobound_check.check(written.path).told
    assert told["found"]["note"] == written.note


def test_whole_space_and_boxes(tmp_path: Path) -> None:
    graph = network("gelu")
    for region in (jb.WholeSpace(), jb.Box(torch.full((2, 4), -1.0), torch.full((2, 4), 0.5))):
        result = jb.lipschitz(graph, region, jb.LipSDP(), budget=20)
        written = result.save_certificate(tmp_path / "one.json")
        assert written.note == ""
        assert jacobound_check.check(written.path).claims["upper"].shape == result.upper.reshape(-1).shape


def test_results_that_can_not_be_certified_say_why(tmp_path: Path) -> None:
    graph = network("relu")
    result = jb.bound_output(graph, ball(graph))
    with pytest.raises(jb.InvalidOptionError, match="ask for it again"):
        jb.OutputBounds.from_json(result.to_json()).save_certificate(tmp_path / "one.json")
    executed = jb.bound_output(graph, ball(graph), semantics="executed")
    with pytest.raises(jb.InvalidOptionError, match="exact network"):
        executed.save_certificate(tmp_path / "one.json")
    weighted = jb.lipschitz(graph, ball(graph), jb.RecurJac(), norm=(jb.Weighted(2, [1.0, 2.0, 3.0, 1.0]), 2))
    with pytest.raises(jb.UnsupportedOpError, match="plain norms"):
        weighted.save_certificate(tmp_path / "one.json")


def test_the_commands_say_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = network("relu")
    path = jb.bound_output(graph, ball(graph)).save_certificate(tmp_path / "one.json").path
    assert main(["check", str(path)]) == 0
    assert "proved: bound_output" in capsys.readouterr().out
    path.write_text(path.read_text(encoding="utf-8").replace("one.safetensors", "two.safetensors"), encoding="utf-8")
    assert main(["check", str(path)]) == 2
    assert "digest" in capsys.readouterr().err


def test_the_checker_needs_neither_torch_nor_the_library(tmp_path: Path) -> None:
    graph = network("image")
    path = jb.bound_jacobian(graph, ball(graph), jb.RecurJac()).save_certificate(tmp_path / "one.json").path
    code = (
        "import sys; from jacobound_check.__main__ import main; code = main([sys.argv[1]]); "
        "assert not {'torch', 'jacobound', 'onnx'} & set(sys.modules); sys.exit(code)"
    )
    home = str(Path(jacobound_check.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], env={"PYTHONPATH": home}, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "proved: bound_jacobian" in run.stdout
