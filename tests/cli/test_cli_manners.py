"""Manners of the command line: unused options, negative numbers, several inputs, narrow tables, exit codes, JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import cli
from jacobound.cli.commands import bound
from jacobound.inputs.grammar import parse_indices, parse_numbers, parse_radii

DATA = Path(jb.__file__).parent / "data"
NET = str(DATA / "mnist_4layer_relu_64.onnx")
PIXELS = ("--input", str(DATA / "mnist_images.npz"), "--key", "x", "--scale", "1/255", "--shift", "-1/2")
IMAGE = (*PIXELS, "--index", "3")
QUICK = {
    "bound": ("--radius", "0.001", "--rows", "3"),
    "lipschitz": ("--radius", "0.001", "--rows", "3", "--method", "fastlip", "--points", "2", "--steps", "0"),
    "radius": ("--method", "crown", "--targets", "8", "--restarts", "1", "--rounds", "1", "--steps", "1"),
    "landscape": ("--rows", "3", "--method", "fastlip", "--norm", "inf", "--largest", "0.001"),
    "monotone": ("--radius", "0.001", "--rows", "3", "--parts", "1", "--method", "fastlip"),
}
KINDS = {
    "bound": jb.OutputBounds, "lipschitz": jb.LipschitzBound, "radius": jb.RobustRadius,
    "landscape": jb.StationaryFreeRadius, "monotone": jb.MonotoneFeatures,
}  # fmt: skip

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("command", QUICK)
def test_every_command_fits_the_screen_and_ends_with_the_answer(command: str, capsys: Capture) -> None:
    code, shown, complaints = run(capsys, command, NET, *IMAGE, *QUICK[command])
    lines = shown.splitlines()
    assert code == 0 and complaints == ""
    assert max(map(len, (line for line in lines if str(DATA) not in line))) <= 80
    assert sum(line.startswith("status:") for line in lines) == 1
    last = next(k for k, line in enumerate(lines) if line.startswith("answer:"))
    assert all(line.startswith(" ") for line in lines[last + 1 :])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["bound", "lipschitz", "radius", "monotone"])
@pytest.mark.parametrize("json_too", [False, True])
def test_certificates_are_written_and_hold(command: str, json_too: bool, capsys: Capture, tmp_path: Path) -> None:
    more, file = ("--json",) if json_too else (), tmp_path / "c.json"
    code, shown, _ = run(capsys, command, NET, *IMAGE, *QUICK[command], "--certificate", file, *more)
    assert code == 0 and ("c.safetensors" in shown) != json_too
    if json_too:
        json.loads(shown)
    for written in [file, tmp_path / "c.outputs.json"] if command == "bound" else [file]:
        code, shown, _ = run(capsys, "check", written, "--model", NET)
        assert code == 0 and shown.startswith("proved")


def test_certificates_are_about_one_question(capsys: Capture, tmp_path: Path) -> None:
    several = ("--radius", "0.001,0.002", "--rows", "3", "--method", "fastlip")
    code, _, complaint = run(capsys, "lipschitz", NET, *IMAGE, *several, "--certificate", tmp_path / "c.json")
    assert code == 2 and "one question, not 2" in complaint and not list(tmp_path.iterdir())
    code, _, complaint = run(capsys, "bound", NET, *IMAGE, *QUICK["bound"], "--certificate", tmp_path / "c.txt")
    assert code == 2 and ".json" in complaint


@pytest.mark.parametrize("command", QUICK)
def test_every_command_draws(command: str, capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, _, complaints = run(capsys, command, NET, *IMAGE, *QUICK[command], "--plot", tmp_path / "a.svg")
    assert code == 0 and complaints == "" and "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("command", QUICK)
def test_json_is_a_result_that_knows_its_command(command: str, capsys: Capture) -> None:
    words = (command, NET, *IMAGE, *QUICK[command], "--json")
    code, shown, _ = run(capsys, *words)
    told = json.loads(shown, parse_constant=pytest.fail)
    found = KINDS[command].from_dict(told[0] if command == "lipschitz" else told.get("output", told))
    assert code == 0 and found.question is not None
    assert found.question.command == ("jacobound", *words)
    assert found.question.model.name == Path(NET).name and len(found.question.model.sha256 or "") == 64
    assert found.question.library == jb.__version__


@pytest.mark.parametrize(
    ("command", "unused"),
    [
        ("landscape", ("--executed", "float32")),
        ("monotone", ("--executed", "float32")),
        ("radius", ("--executed", "float32")),
        ("radius", ("--rows", "3")),
        ("radius", ("--radius", "0.1")),
        ("radius", ("--constants", "8")),
        ("radius", ("--units", "2")),
        ("landscape", ("--radius", "0.1")),
        ("landscape", ("--relaxation", "chord")),
        ("landscape", ("--units", "2")),
        ("monotone", ("--norm", "2")),
        ("monotone", ("--direction", "both")),
        ("lipschitz", ("--pairs", "dual")),
        ("lipschitz", ("--direction", "both")),
        ("bound", ("--p", "2")),
        ("bound", ("--seed", "2")),
        ("bound", ("--method", "fastlip", "--relaxation", "chord")),
        ("inspect", ("--radius", "2")),
        ("inspect", ("--plot", "a.png")),
        ("methods", ("--seconds", "2")),
        ("demo", ("--seconds", "2")),
    ],
)
def test_an_option_that_a_command_does_not_use_is_refused(
    command: str, unused: tuple[str, ...], capsys: Capture
) -> None:
    network = (NET,) if command not in ("methods", "demo") else ()
    image = IMAGE if command in QUICK else ()
    code, shown, complaints = run(capsys, command, *network, *image, *QUICK.get(command, ()), *unused)
    assert code == 2 and shown == "" and unused[-2] in complaints


@pytest.mark.parametrize(
    "unused", [("--norm", "2"), ("--units", "1"), ("--scale", "2"), ("--shift", "0"), ("--radius", "1")]
)
def test_a_property_refuses_what_is_about_points(unused: tuple[str, str], capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "box.vnnlib").write_text("(declare-const X_0 Real)")
    code, _, complaints = run(capsys, "lipschitz", NET, "--input", tmp_path / "box.vnnlib", *unused)
    assert code == 2 and unused[0] in complaints


def test_negative_numbers_are_numbers(capsys: Capture) -> None:
    one = run(capsys, "bound", NET, *IMAGE, *QUICK["bound"], "--clip", "-0.5", "0.5", "--json")
    other = run(capsys, "bound", NET, *IMAGE, *QUICK["bound"], "--clip", "-5e-1", ".5", "--json")
    assert one[0] == other[0] == 0
    assert json.loads(one[1])["output"]["upper_hex"] == json.loads(other[1])["output"]["upper_hex"]
    for wrong in (("--shift", "--json"), ("--radius", "-1"), ("--clip", "-1", "--json"), ("--rows", "-1")):
        code, _, complaints = run(capsys, "bound", NET, *PIXELS[:4], "--index", "3", "--radius", "1", *wrong)
        assert code == 2 and "Traceback" not in complaints


@pytest.mark.slow
def test_several_inputs_in_one_call(capsys: Capture, tmp_path: Path) -> None:
    for k in range(3):
        np.save(tmp_path / f"{k}.npy", np.load(DATA / "mnist_images.npz")["x"][k] / 255 - 0.5)
    files = [tmp_path / f"{k}.npy" for k in range(3)]
    code, shown, _ = run(capsys, "radius", NET, "--input", *files, *QUICK["radius"], "--json")
    entries = run(capsys, "radius", NET, *PIXELS, "--index", "0:3", *QUICK["radius"], "--json")
    one, other = (jb.RobustRadius.from_json(text) for text in (shown, entries[1]))
    assert code == entries[0] == 0 and one.radius.shape == (3, 1) and torch.equal(one.radius, other.radius)
    code, shown, _ = run(capsys, "radius", NET, *PIXELS, "--index", "0,1,2", *QUICK["radius"])
    assert code == 0 and " [2]" in shown and "3 points" in shown
    for command in ("bound", "monotone"):
        code, shown, _ = run(capsys, command, NET, "--input", *files, *QUICK[command], "--json")
        found = json.loads(shown)
        third = json.loads(run(capsys, command, NET, "--input", files[2], *QUICK[command], "--json")[1])
        ends = [(part["output"] if command == "bound" else part)["upper"] for part in (*found, third)]
        assert code == 0 and len(found) == 3 and ends[2] == ends[3] != ends[0]
        code, shown, _ = run(capsys, command, NET, "--input", *files, *QUICK[command])
        assert code == 0 and [f" {k}.npy: " in shown[shown.rindex("status:") :] for k in range(3)] == 3 * [True]
        code, _, complaints = run(capsys, command, NET, "--input", *files, *QUICK[command], "--plot", "a.png")
        assert code == 2 and "one input" in complaints
    asked = ("--radius", "0.001,0.002", "--rows", "3", "--method", "fastlip")
    code, shown, _ = run(capsys, "lipschitz", NET, *PIXELS, "--index", "0:3", *asked, "--json")
    found = [jb.LipschitzBound.from_dict(one) for one in json.loads(shown)]
    alone = json.loads(run(capsys, "lipschitz", NET, *PIXELS, "--index", "1", *asked, "--json")[1])
    assert code == 0 and [one.radii[0] for one in found] == 3 * [found[0].radii[0], found[1].radii[0]]
    assert [float(one.upper) for one in found[2:4]] == [float(jb.LipschitzBound.from_dict(one).upper) for one in alone]
    code, shown, _ = run(capsys, "lipschitz", NET, *PIXELS, "--index", "0:3", *asked)
    assert code == 0 and "[2]" in shown and "largest of 3 inputs" in shown.splitlines()[-1]
    code, _, complaints = run(capsys, "lipschitz", NET, *PIXELS, "--index", "0:3", *asked, "--plot", tmp_path / "a.png")
    assert code == 2 and "one input" in complaints
    assert parse_indices("0:3,7") == [0, 1, 2, 7]
    for wrong in ("3:0", "-1", "a", "0:", "1:1", "0:99999999"):
        with pytest.raises(jb.InvalidRegionError):
            parse_indices(wrong)


def test_units_of_the_question(capsys: Capture) -> None:
    """Pixels of 0 to 255 with preprocessing in the question, and with the input moved beforehand."""
    raw = ("--input", str(DATA / "mnist_images.npz"), "--key", "x", "--index", "3")
    units = ("--mean", "127.5", "--std", "255", "--radius", "2.55", "--rows", "3")
    code, shown, _ = run(capsys, "bound", NET, *raw, *units, "--json")
    plain = run(capsys, "bound", NET, *IMAGE, "--radius", "0.01", "--rows", "3", "--json")
    one, other = (jb.OutputBounds.from_dict(json.loads(text)["output"]) for text in (shown, plain[1]))
    assert code == 0 and float(one.upper) == pytest.approx(float(other.upper), rel=1e-6)
    assert one.question is not None and "std 255" in one.question.model.units[0]
    scaled = run(capsys, "bound", NET, *IMAGE, "--radius", "1", "--units", "0.01", "--rows", "3", "--json")
    third = jb.OutputBounds.from_dict(json.loads(scaled[1])["output"])
    assert float(third.upper) == pytest.approx(float(other.upper), rel=1e-9)
    assert parse_numbers("1/255", "--std") == "1/255" and parse_numbers("1,2.5", "--std") == [1.0, 2.5]
    for wrong in ("1,a", "1e999999999", "a", "1/0"):
        with pytest.raises(jb.InvalidRegionError):
            parse_numbers(wrong, "--std")


def test_weights_of_the_norms(capsys: Capture) -> None:
    chosen = ("--input-weights", "255", "--output-weights", "2")
    code, shown, _ = run(capsys, "lipschitz", NET, *IMAGE, *QUICK["lipschitz"], *chosen, "--json")
    plain = run(capsys, "lipschitz", NET, *IMAGE, *QUICK["lipschitz"], "--json")
    one, other = (jb.LipschitzBound.from_dict(json.loads(text)[0]) for text in (shown, plain[1]))
    assert code == 0 and float(one.upper) == pytest.approx(float(other.upper) * 2 / 255, rel=1e-6)


def test_radii_may_be_ratios() -> None:
    (found,) = parse_radii("8/255")
    assert found * 255 == 8
    for wrong in ("8/0", "8/", "-8/255", "8/255:1:3", "1/2/3"):
        with pytest.raises(jb.InvalidRegionError):
            parse_radii(wrong)


@pytest.mark.parametrize("number", ["9007199254740993", "-9007199254740993", "1" * 400])
def test_integers_that_are_no_floats_are_refused(number: str, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"1.5,{number}")
    code, _, complaints = run(capsys, "bound", NET, "--input", tmp_path / "a.csv", "--radius", "0.1")
    assert code == 2 and "2**53" in complaints


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError(), ValueError("odd"), RecursionError()])
def test_no_error_looks_like_a_bound_that_is_not_certified(
    error: Exception, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(bound, "bound_output", fail)
    code, shown, complaints = run(capsys, "bound", NET, *IMAGE, *QUICK["bound"])
    assert code == 2 and shown == "" and type(error).__name__ in complaints and "Traceback" not in complaints


@pytest.mark.slow
def test_help_is_grouped_and_has_two_examples(capsys: Capture) -> None:
    for command in cli.COMMANDS:
        code, shown, _ = run(capsys, command, "--help")
        assert code == 0 and shown.count("  jacobound ") == 2 and max(map(len, shown.splitlines())) <= 80
        if command in QUICK:
            assert all(f"─ {group} ─" in shown for group in ("Network", "Input", "Method", "Run", "Output"))
