"""The commands verify and vnncomp: exit codes, the files of the competition, and going on where a run was stopped."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from jacobound import cli
from onnx_models import model, node, weight

HEAD = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)\n"
BOX = "".join(f"(assert (>= X_{k} -1))(assert (<= X_{k} 1))\n" for k in (0, 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network of two inputs and outputs, a property that holds, one that does not, and a list."""
    data = model([node("MatMul", "x w", "h"), node("Relu", "h")], (1, 2), {"w": weight(2, 2)})
    (tmp_path / "net.onnx").write_bytes(data)
    (tmp_path / "holds.vnnlib").write_text(f"{HEAD}{BOX}(assert (< Y_0 0))\n")
    (tmp_path / "fails.vnnlib.gz").write_bytes(gzip.compress(f"{HEAD}{BOX}(assert (<= Y_0 0.01))\n".encode()))
    lines = ["net.onnx,holds.vnnlib,5", "net.onnx,fails.vnnlib,5", "none.onnx,holds.vnnlib,5"]
    (tmp_path / "instances.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_exit_codes_say_the_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = str(folder / "net.onnx")
    assert cli.main(["verify", net, str(folder / "holds.vnnlib")]) == 0
    assert "answer:   holds" in capsys.readouterr().out
    target = folder / "point.txt"
    assert cli.main(["verify", net, str(folder / "fails.vnnlib.gz"), "--counterexample", str(target)]) == 3
    assert target.read_text().startswith("sat\n((X_0 ") and "(Y_1 " in target.read_text()
    assert cli.main(["verify", net]) == 2
    assert "what is claimed" in capsys.readouterr().err
    assert cli.main(["verify", net, str(folder / "holds.vnnlib"), "--rows", "0"]) == 2


def test_lists_are_worked_off_and_gone_on_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = folder / "results.csv"
    command = ["vnncomp", str(folder / "instances.csv"), "--results", str(results), "--category", "tiny"]
    assert cli.main([*command, "--counterexamples", str(folder / "found")]) == 1
    lines = results.read_text().splitlines()
    assert [line.split(",")[4] for line in lines] == ["unsat", "sat", "error"]
    assert lines[0].startswith("tiny,net.onnx,holds.vnnlib,") and "none.onnx" in capsys.readouterr().err
    (found,) = (folder / "found").iterdir()
    assert gzip.decompress(found.read_bytes()).startswith(b"((X_0 ")
    results.write_text(f"{lines[0]}\n{lines[1][:20]}")  # stopped while it wrote
    assert cli.main(command) == 1
    again = results.read_text().splitlines()
    assert again[0] == lines[0] and [line.split(",")[4] for line in again] == ["unsat", "sat", "error"]
    results.write_text("something else\n")
    assert cli.main(command) == 2 and results.read_text() == "something else\n"
    (folder / "instances.csv").write_text("net.onnx,holds.vnnlib\n")
    assert cli.main(command) == 2 and "line 1" in capsys.readouterr().err
