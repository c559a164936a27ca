"""The command line, run in-process on the packaged network: numbers, JSON, exit codes, refusals."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import cli
from jacobound.cli.commands import bound, demo, lipschitz
from jacobound.inputs.grammar import row_matrix
from jacobound.version import VERSION

DATA = Path(jb.__file__).parent / "data"
NET = str(DATA / "mnist_4layer_relu_64.onnx")
PIXELS = ["--input", str(DATA / "mnist_images.npz"), "--key", "x", "--scale", "1/255", "--shift", "-0.5"]
IMAGE = [*PIXELS, "--index", "3"]

Capture = pytest.CaptureFixture[str]


def refuse(value: str) -> None:
    """For json.loads: NaN and infinities are no strict JSON."""
    raise AssertionError(f"{value} is not strict JSON")


def strict_json(output: str) -> Any:
    return json.loads(output, parse_constant=refuse)


def run(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def subject() -> demo.Subject:
    return demo.load(3)


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_help_fits_a_screen_and_version_is_known(capsys: Capture) -> None:
    code, shown, _ = run(capsys, "--help")
    assert code == 0 and len(shown.splitlines()) <= 36
    assert all(command in shown for command in ("demo", "inspect", "bound", "lipschitz", "methods"))
    code, shown, _ = run(capsys, "--version")
    assert code == 0 and shown.strip() == VERSION
    for command in ("demo", "inspect", "bound", "lipschitz"):
        code, shown, _ = run(capsys, command, "--help")
        assert code == 0 and len(shown.splitlines()) <= 130 and "--debug" in shown and "Examples:" in shown


def test_python_m_is_the_same_command() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "jacobound", "inspect", "nowhere.onnx"], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 2 and found.stdout == ""
    assert "nowhere.onnx" in found.stderr and "Traceback" not in found.stderr


def test_inspect(capsys: Capture, subject: demo.Subject) -> None:
    code, shown, _ = run(capsys, "inspect", NET)
    assert code == 0
    for part in (
        "Dense",
        "relu",
        "784",
        "50240",
        "logits",
        "160 activations, 56810 parameters",
        subject.graph.fingerprint,
    ):
        assert part in shown
    code, shown, _ = run(capsys, "inspect", NET, "--json")
    found = strict_json(shown)
    assert code == 0 and found["totals"]["parameters"] == 56810 and found["totals"]["inputs"] == 784
    assert [node["kind"] for node in found["nodes"]] == ["Input", *["Affine", "Elementwise"] * 3, "Affine"]


def test_bound_prints_a_summary_and_saves_all(capsys: Capture, tmp_path: Path, subject: demo.Subject) -> None:
    pytest.importorskip("matplotlib")
    files = ("--output", tmp_path / "b.npz", "--plot", tmp_path / "b.png")
    code, shown, complaints = run(capsys, "bound", NET, *IMAGE, "--radius", "0.005", "--rows", "3,3-8", *files)
    assert code == 0 and complaints == ""
    assert "linf ball of radius 0.005" in shown and "* 1/255 - 1/2" in shown
    assert "of 784" in shown and "3-8" in shown and "certified: holds" in shown
    rows = row_matrix([(3, None), (3, 8)], 10)
    expected = jb.bound_jacobian(subject.graph, jb.Ball(subject.point, "0.005"), rows=rows)
    with np.load(tmp_path / "b.npz", allow_pickle=False) as saved:
        assert saved["lower"].shape == saved["upper"].shape == (2, 784)
        np.testing.assert_allclose(saved["lower"], expected.lower.numpy(), atol=1e-9)
        assert saved["output_lower"].shape == (2,) and bool(saved["certified"])
        assert bool((saved["output_lower"] <= saved["output_upper"]).all())
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "chosen",
    [
        ("--method", "fastlip", "--preactivation", "ibp"),
        ("--relaxation", "constant", "--preactivation", "fastlin"),
        ("--dtype", "float32", "--threads", "1", "--seconds", "100", "--memory", "0.5"),
        ("--norm", "2", "--clip", "-0.5", "0.5"),
        ("--norm", "1"),
    ],
    ids=lambda chosen: " ".join(chosen),
)
def test_bound_json_holds_every_entry(chosen: tuple[str, ...], capsys: Capture) -> None:
    code, shown, complaints = run(capsys, "bound", NET, *IMAGE, "--radius", "0.002", "--rows", "3", "--json", *chosen)
    found = strict_json(shown)
    assert code == 0 and complaints == ""
    lower, upper = np.array(found["jacobian"]["lower"]), np.array(found["jacobian"]["upper"])
    assert lower.shape == upper.shape == (1, 784) and bool((lower <= upper).all())
    assert found["jacobian"]["status"]["certified"] is True and found["output"]["status"]["name"] == "certified"
    assert found["output"]["lower"][0] < 6.9079 < found["output"]["upper"][0]
    if "--dtype" in chosen:
        assert found["jacobian"]["provenance"]["dtype"] == "torch.float32"


def test_bound_of_all_outputs(capsys: Capture) -> None:
    code, shown, _ = run(capsys, "bound", NET, *IMAGE, "--radius", "0")
    assert code == 0 and shown.count("784 of 784") == 10


@pytest.mark.slow
def test_lipschitz_table(capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    norms = ("--p", "inf", "--q", "inf", "--rows", "3")
    radii = ("--radius", "0.001:0.01:2log,0.05", "--plot", tmp_path / "l.svg")
    code, shown, complaints = run(capsys, "lipschitz", NET, *IMAGE, *radii, *norms)
    assert code == 0 and complaints == ""
    lines = shown.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("---")) + 1
    rows = [line.split() for line in lines[start : start + 3]]
    assert [row[0] for row in rows] == ["0.001", "0.01", "0.05"]
    uppers, attained = [float(row[1]) for row in rows], [float(row[2]) for row in rows]
    assert uppers == sorted(uppers) and all(low <= high for low, high in zip(attained, uppers, strict=True))
    assert 179 < attained[0] <= uppers[0] < 180 and all("certified" in row for row in rows)
    assert "constant  linf -> linf of the rows 3" in shown and "linf ball" in shown
    assert "<svg" in (tmp_path / "l.svg").read_text()


@pytest.mark.slow
def test_constants_of_the_whole_space_and_single_methods(capsys: Capture) -> None:
    code, shown, complaints = run(capsys, "lipschitz", NET, "--global", "--rows", "3", "--budget", "5")
    assert code == 0 and complaints == "" and "the whole space" in shown and "candidates" not in shown
    assert "method    Best()" in shown and "answer:   " in shown.splitlines()[-1]
    code, shown, _ = run(capsys, "lipschitz", NET, "--global", "--rows", "3", "--budget", "5", "--verbose")
    assert code == 0 and "candidates" in shown and "LipSDP" in shown.split("candidates")[1]
    code, shown, _ = run(capsys, "lipschitz", NET, "--global", "--method", "autolip", "--json")
    (found,) = strict_json(shown)
    assert code == 0 and found["method"] == "AutoLip" and found["status"]["certified"] and found["radii"] == []
    code, shown, _ = run(capsys, "lipschitz", NET, "--global", "--pairs", "greedy", "--json")
    (found,) = strict_json(shown)
    assert code == 1 and found["status"]["name"] == "estimate"


def test_the_list_of_methods_is_complete(capsys: Capture) -> None:
    code, shown, _ = run(capsys, "methods")
    exported = importlib.import_module("jacobound.methods").every(object)
    assert code == 0 and all(kind.__name__ in shown for kind in exported if hasattr(kind, "about"))
    code, shown, _ = run(capsys, "methods", "--json")
    found = {entry["name"]: entry for entry in strict_json(shown)}
    assert found["RecurJac"]["source"] == "Zhang et al., AAAI 2019" and found["GreedySeqLip"]["status"] == "estimate"


@pytest.mark.slow
def test_lipschitz_json_is_a_list_of_results(capsys: Capture) -> None:
    chosen = ("--radius", "0.001,0.002", "--rows", "3-8", "--clip", "-0.5", "0.5", "--seed", "7", "--points", "4")
    code, shown, _ = run(capsys, "lipschitz", NET, *IMAGE, *chosen, "--json")
    found = strict_json(shown)
    assert code == 0 and [len(result["radii"]) for result in found] == [1, 1]
    for result, decimal in zip(found, ("0.001", "0.002"), strict=True):
        assert result["lower"] <= result["upper"] and result["norm"] == [2.0, 2.0]
        assert Decimal(result["radii"][0]) >= Decimal(decimal)
        assert result["provenance"]["seed"] == 7 and len(result["witness"]) == 784


@pytest.mark.slow
def test_executed_semantics_widen_outputs_and_add_delta(capsys: Capture) -> None:
    given = (NET, *IMAGE, "--radius", "0", "--rows", "0", "--json")
    _, exact, _ = run(capsys, "bound", *given)
    code, rounded, _ = run(capsys, "bound", *given, "--executed", "float32")
    exact, rounded = strict_json(exact)["output"], strict_json(rounded)["output"]
    assert code == 0 and rounded["provenance"]["semantics"] == "executed in float32"
    assert exact["upper"][0] - exact["lower"][0] < 1e-10 < 1e-6 < rounded["upper"][0] - rounded["lower"][0] < 0.1
    code, shown, _ = run(capsys, "lipschitz", NET, *IMAGE, "--radius", "0.01", "--executed", "float16")
    assert code == 0 and "executed in float16: |F(x) - F(y)| <= constant |x - y| + 2 delta" in shown


def test_a_bound_that_is_not_certified_gives_1(capsys: Capture) -> None:
    code, shown, _ = run(capsys, "bound", NET, *IMAGE, "--radius", "1e308", "--rows", "0", "--preactivation", "ibp")
    assert code == 1 and "nothing certified" in shown


def interrupt_after(count: int, original: Callable[..., object]) -> Callable[..., object]:
    """A function that is interrupted from the keyboard when called once more than that."""
    calls: list[int] = []

    def interrupted(*arguments: Any, **options: Any) -> object:
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    return interrupted


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_finished(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("lipschitz", NET, *IMAGE, "--radius", "0.001:0.003:3", "--rows", "3")
    monkeypatch.setattr(lipschitz, "find_constant", interrupt_after(2, jb.lipschitz))
    code, shown, complaints = run(capsys, *chosen)
    assert code == 130 and "2 of 3 radii" in complaints and "0.002 " in shown and "0.003 " not in shown
    monkeypatch.setattr(lipschitz, "find_constant", interrupt_after(1, jb.lipschitz))
    code, shown, complaints = run(capsys, *chosen, "--json")
    assert code == 130 and "1 of 3 radii" in complaints and len(strict_json(shown)) == 1


def test_an_interrupt_elsewhere_is_no_traceback(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "bound_output", interrupt_after(0, jb.bound_output))
    code, shown, complaints = run(capsys, "bound", NET, *IMAGE, "--radius", "0.1")
    assert code == 130 and shown == "" and "stopped" in complaints


class Terminal:
    """A stderr that says it is a terminal."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, part: str) -> int:
        self.written.append(part)
        return len(part)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_a_terminal_only(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        code, shown, _ = run(capsys, "lipschitz", NET, *IMAGE, "--radius", "0.01", "--rows", "3")
    assert code == 0 and "radius 0.01" in "".join(terminal.written) and "\x1b" not in shown


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "missing network": (("bound", "nowhere.onnx", *IMAGE, "--radius", "1"), "nowhere.onnx"),
    "folder as network": (("bound", str(DATA), *IMAGE, "--radius", "1"), "no file"),
    "missing input": (("bound", NET, "--input", "nowhere.npy", "--radius", "1"), "nowhere.npy"),
    "wrong shape": (("bound", NET, *PIXELS, "--radius", "1"), "--index 0 to --index 9"),
    "NaN radius": (("bound", NET, *IMAGE, "--radius", "nan"), "nan"),
    "negative radius": (("lipschitz", NET, *IMAGE, "--radius", "-0.1"), "-0.1"),
    "several radii": (("bound", NET, *IMAGE, "--radius", "0.1,0.2"), "takes one"),
    "bad rows": (("bound", NET, *IMAGE, "--radius", "0.1", "--rows", "a"), "margin"),
    "row out of range": (("lipschitz", NET, *IMAGE, "--radius", "0.1", "--rows", "10"), "outputs 0 to 9"),
    "relaxation of fastlip": (("bound", NET, *IMAGE, "--radius=1", "--method=fastlip", "--relaxation=chord"), "leave"),
    "clip elsewhere": (("bound", NET, *IMAGE, "--radius", "0.1", "--clip", "2", "3"), "clip"),
    "device": (("bound", NET, *IMAGE, "--radius", "0.1", "--device", "toaster"), "toaster"),
    "device not studied": (("bound", NET, *IMAGE, "--radius", "0.1", "--device", "mps"), "mps"),
    "no such GPU": (("bound", NET, *IMAGE, "--radius", "0.1", "--device", "cuda:99"), "cuda:99"),
    "threads": (("bound", NET, *IMAGE, "--radius", "0.1", "--threads", "0"), "--threads"),
    "memory": (("bound", NET, *IMAGE, "--radius", "0.1", "--memory", "nan"), "--memory"),
    "seconds": (("bound", NET, *IMAGE, "--radius", "0.1", "--seconds", "-1"), "--seconds"),
    "global with a point": (("lipschitz", NET, *IMAGE, "--global"), "whole space"),
    "no point": (("lipschitz", NET, "--radius", "0.1"), "--input is missing"),
    "pairs of what": (("lipschitz", NET, "--global", "--method", "lipsdp", "--pairs", "dual"), "--pairs belongs"),
    "ranges of what": (("lipschitz", NET, "--global", "--preactivation", "ibp"), "choose one with --method"),
    "recursion of what": (("lipschitz", NET, "--global", "--method", "autolip", "--direction", "both"), "recurjac"),
    "search": (("lipschitz", NET, *IMAGE, "--radius", "0.1", "--points", "-1"), "points of a search"),
    "figure elsewhere": (("bound", NET, *IMAGE, "--radius", "0.1", "--plot", "nowhere/a.png"), "nowhere"),
    "figure of another kind": (("bound", NET, *IMAGE, "--radius", "0.1", "--plot", "a.txt"), "a.txt"),
    "arrays of another kind": (("bound", NET, *IMAGE, "--radius", "0.1", "--output", "a.csv"), "a.csv"),
    "digit": (("demo", "--digit", "11"), "0 to 9"),
    "scale": (("bound", NET, *PIXELS, "--index", "3", "--scale", "1/0", "--radius", "1"), "--scale"),
    # What cyclopts itself refuses.
    "no radius": (("bound", NET, *IMAGE), "--radius"),
    "unknown option": (("inspect", NET, "--colour"), "--colour"),
    "unknown command": (("certify",), "certify"),
    "unknown norm": (("bound", NET, *IMAGE, "--radius", "1", "--norm", "3"), "--norm"),
    "index is no number": (("bound", NET, *PIXELS, "--radius", "1", "--index", "x"), "--index"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_errors_give_2_and_say_why(case: str, capsys: Capture) -> None:
    arguments, complaint = REFUSED[case]
    code, shown, complaints = run(capsys, *arguments)
    assert code == 2 and shown == ""
    assert complaint in complaints and "Traceback" not in complaints


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("net.pt", b"PK\x03\x04", "zip archive"),
        ("net.pkl", b"\x80\x04\x95", "pickle"),
        ("net.onnx", b"\x80\x04\x95", "pickle"),
        ("net.pt2", b"PK\x03\x04", "torch"),
        ("net.onnx", b"", "empty"),
    ],
)
def test_networks_are_never_unpickled(
    name: str, content: bytes, complaint: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / name).write_bytes(content)
    code, shown, complaints = run(capsys, "inspect", tmp_path / name)
    assert code == 2 and shown == "" and complaint in complaints


def test_debug_shows_the_traceback(capsys: Capture) -> None:
    code, _, complaints = run(capsys, "inspect", "nowhere.onnx", "--debug")
    assert code == 2 and "Traceback" in complaints


# --- the demo -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "RADII", ("0.001", "0.1"))
    code, shown, complaints = run(capsys, "demo")
    assert code == 0 and complaints == ""
    for part in ("97.72 %", "10 of the 10", "no such change alters the answer", "certified sign", "linf->linf", "0.1 "):
        assert part in shown
    assert (tmp_path / "jacobound-demo.png").read_bytes().startswith(b"\x89PNG")
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_demo_json(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "RADII", ("0.001",))
    code, shown, complaints = run(capsys, "demo", "--digit", "0", "--json")
    found = strict_json(shown)
    assert code == 0 and complaints == "" and list(tmp_path.iterdir()) == []
    assert found["digit"] == 0 and len(found["jacobian"]["lower"][0]) == 784
    assert found["constants"]["output"][0]["lower"] <= found["constants"]["output"][0]["upper"]


@pytest.mark.slow
def test_demo_goes_on_without_matplotlib(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "RADII", ("0.001",))
    monkeypatch.delitem(sys.modules, "jacobound.reports.figures", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, shown, complaints = run(capsys, "demo")
    assert code == 0 and "certified: holds" in shown and "pip install 'jacobound[report]'" in complaints
    code, shown, complaints = run(capsys, "bound", NET, *IMAGE, "--radius", "0.1", "--plot", "a.png")
    assert code == 2 and shown == "" and "jacobound[report]" in complaints
