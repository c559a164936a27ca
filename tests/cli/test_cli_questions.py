"""The commands radius, landscape and monotone, run in-process on the packaged network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jacobound as jb
from jacobound import cli
from jacobound.inputs.grammar import parse_classes

DATA = Path(jb.__file__).parent / "data"
NET = str(DATA / "mnist_4layer_relu_64.onnx")
IMAGE = [
    *("--input", str(DATA / "mnist_images.npz"), "--key", "x"),
    *("--scale", "1/255", "--shift", "-0.5", "--index", "3"),
]

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def told(text: str) -> Any:
    return json.loads(text, parse_constant=pytest.fail)


@pytest.mark.slow
def test_help_fits_a_screen(capsys: Capture) -> None:
    for command in ("radius", "landscape", "monotone"):
        code, shown, _ = run(capsys, command, "--help")
        assert code == 0 and len(shown.splitlines()) <= 110 and "--debug" in shown


@pytest.mark.slow
def test_radius_prints_one_line_per_target(capsys: Capture) -> None:
    code, shown, complaints = run(
        capsys, "radius", NET, *IMAGE, "--targets", "8,5", "--method", "crown", "--restarts", "2", "--rounds", "5"
    )
    assert code == 0 and complaints == "" and "class 3" in shown and "certified: holds" in shown
    lines = [line.split() for line in shown.splitlines() if line.strip().startswith(("8 ", "5 ", "any"))]
    assert len(lines) == 3 and 0 < float(lines[0][2]) <= float(lines[0][3])
    assert float(lines[2][1]) == min(float(lines[0][2]), float(lines[1][2]))


@pytest.mark.slow
def test_radius_as_json_is_the_result(capsys: Capture) -> None:
    chosen = ("--norm", "2", "--method", "recurjac", "--clip", "-0.5", "0.5", "--rounds", "1", "--json")
    code, shown, _ = run(capsys, "radius", NET, *IMAGE, *chosen)
    found = told(shown)
    assert code == 0 and found["p"] == 2.0 and len(found["radius"]) == 9 and found["status"]["certified"]
    assert set(found["details"]) == {"Lemma 1", "Theorem 2"}
    wrong, _, _ = run(capsys, "radius", NET, *IMAGE, "--label", "4", "--method", "crown", "--rounds", "1")
    assert wrong == 0


@pytest.mark.slow
def test_landscape(capsys: Capture) -> None:
    code, shown, _ = run(capsys, "landscape", NET, *IMAGE, "--rows", "3,3-8", "--norm", "inf", "--largest", "1")
    assert code == 0 and "no zero gradient within" in shown and "3-8" in shown
    code, shown, _ = run(capsys, "landscape", NET, *IMAGE, "--rows", "3", "--method", "fastlip", "--json")
    found = told(shown)
    assert code == 0 and found["radius"][0] > 0


def test_monotone_over_a_ball_and_a_property(capsys: Capture, tmp_path: Path) -> None:
    code, shown, _ = run(capsys, "monotone", NET, *IMAGE, "--radius", "0.002", "--rows", "3-8", "--parts", "1")
    assert code == 0 and "increasing" in shown and "decreasing" in shown and "more; --verbose shows them" in shown
    code, shown, _ = run(capsys, "monotone", NET, *IMAGE, "--radius", "0.002", "--rows", "3", "--parts", "1", "--json")
    found = told(shown)
    assert code == 0 and np.asarray(found["lower"], dtype=float).shape == (1, 784)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("radius", NET, *IMAGE, "--targets", "3"), "label itself"),
        (("radius", NET, *IMAGE, "--targets", "a"), "classes"),
        (("radius", NET, *IMAGE, "--label", "10"), "between 0 and 9"),
        (("radius", NET, *IMAGE, "--plot", "a.txt"), "--plot"),
        (("radius", NET, *IMAGE, "--restarts", "0"), "restarts"),
        (("radius", NET, *IMAGE, "--clip", "2", "3"), "clip"),
        (("landscape", NET, *IMAGE, "--largest", "0"), "largest"),
        (("monotone", NET, *IMAGE), "--radius"),
        (("monotone", NET, *IMAGE, "--radius", "0.1", "--parts", "0"), "most"),
    ],
)
def test_errors_give_2_and_say_why(arguments: tuple[str, ...], complaint: str, capsys: Capture) -> None:
    code, shown, complaints = run(capsys, *arguments)
    assert code == 2 and shown == "" and complaint in complaints and "Traceback" not in complaints


def test_lists_of_classes() -> None:
    assert parse_classes(" 3, 5") == [3, 5]
    with pytest.raises(jb.ShapeError):
        parse_classes("3-5")
