"""The command line, run in-process on the packaged network: numbers, JSON, exit codes, refusals."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import cli, methods
from jacobound.cli import bound, demo, lipschitz, options, text
from jacobound.cli.grammar import parse_clip, parse_fraction, parse_radii, parse_rows, row_matrix, row_names
from jacobound.cli.points import read_point
from jacobound.cli.summaries import certain_signs, row_sum
from jacobound.methods.base import JacobianMethod, OutputMethod

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


# --- the grammars ---------------------------------------------------------------------------------------------------


def test_a_radius_stays_the_decimal_that_was_given() -> None:
    assert parse_radii("0.1") == [Decimal("0.1")]
    assert parse_radii(" 1e-3 , 0.10") == [Decimal("0.001"), Decimal("0.1")]
    assert parse_radii("0") == [Decimal(0)]


def test_even_steps_are_exact() -> None:
    assert parse_radii("0.1:0.4:4") == [Decimal("0.1"), Decimal("0.2"), Decimal("0.3"), Decimal("0.4")]
    assert parse_radii("0:1:3") == [Decimal(0), Decimal("0.5"), Decimal(1)]


def test_even_ratios_keep_both_ends_and_round_between() -> None:
    assert parse_radii("0.001:0.1:3log") == [Decimal("0.001"), Decimal("0.01"), Decimal("0.1")]
    found = parse_radii("0.0001:0.1:8log")
    assert len(found) == 8 and found[0] == Decimal("0.0001") and found[-1] == Decimal("0.1")
    ratios = [float(high / low) for low, high in zip(found[:-1], found[1:], strict=True)]
    assert ratios == pytest.approx([10 ** (3 / 7)] * 7, rel=1e-10)
    assert all(len(radius.as_tuple().digits) <= 12 for radius in found)


def test_ranges_and_numbers_mix() -> None:
    assert [str(radius) for radius in parse_radii("0.5,1:2:2")] == ["0.5", "1", "2"]


@pytest.mark.parametrize(
    "given",
    ["", "x", "1,", "nan", "inf", "-1", "1:2", "1:2:3:4", "1:2:1", "1:2:0", "1:2:x", "0:1:3log", "-1:1:3", "1:nan:3",
     "1:2:99999", "1:2:3.5", "1:2:3lin", "1:2:³"],
)  # fmt: skip
def test_what_is_no_radius_is_refused(given: str) -> None:
    with pytest.raises(jb.InvalidRegionError):
        parse_radii(given)


def test_rows_are_outputs_and_margins() -> None:
    rows = parse_rows("3, 5-0")
    assert rows == [(3, None), (5, 0)]
    assert row_matrix(rows, 6).tolist() == [[0, 0, 0, 1, 0, 0], [-1, 0, 0, 0, 0, 1]]
    assert row_names(rows, 6) == ["3", "5-0"]
    assert row_names(None, 2) == ["0", "1"]


@pytest.mark.parametrize("given", ["", "a", "3-", "-3", "3--5", "3.0", "3:5", "1-2-3"])
def test_what_is_no_row_is_refused(given: str) -> None:
    with pytest.raises(jb.ShapeError, match="margin"):
        parse_rows(given)


@pytest.mark.parametrize(
    ("given", "complaint"), [("10", "outputs 0 to 9"), ("0-10", "outputs 0 to 9"), ("4-4", "always 0")]
)
def test_rows_that_the_network_lacks_are_refused(given: str, complaint: str) -> None:
    with pytest.raises(jb.ShapeError, match=complaint):
        row_matrix(parse_rows(given), 10)


def test_the_clip_range_is_rounded_outward() -> None:
    low, high = parse_clip(("0.1", "0.7"))
    assert Decimal(low) <= Decimal("0.1") and Decimal(high) >= Decimal("0.7")
    assert low == math.nextafter(0.1, -1) and high == math.nextafter(0.7, 1)
    assert parse_clip(("-0.5", "0.5")) == (-0.5, 0.5)


@pytest.mark.parametrize("ends", [("1", "0"), ("x", "1"), ("nan", "1"), ("0", "nan"), ("snan", "1")])
def test_what_is_no_clip_range_is_refused(ends: tuple[str, str]) -> None:
    with pytest.raises(jb.InvalidRegionError):
        parse_clip(ends)


@pytest.mark.parametrize("given", ["x", "1/0", "nan", "inf", ""])
def test_what_is_no_factor_is_refused(given: str) -> None:
    assert parse_fraction("1/255", "--scale") == Fraction(1, 255)
    with pytest.raises(jb.InvalidRegionError, match="--scale"):
        parse_fraction(given, "--scale")


def test_every_method_has_its_word() -> None:
    hints = get_type_hints(options.MethodOptions)
    exported = [getattr(methods, name) for name in methods.__all__]
    for hint, base in ((hints["method"], JacobianMethod), (hints["preactivation"], OutputMethod)):
        wanted = {kind.__name__.lower() for kind in exported if issubclass(kind, base)}
        assert set(get_args(hint)) == wanted
    for word in get_args(hints["method"]):
        assert type(options.MethodOptions(method=word).jacobian_method()).__name__.lower() == word
    for word in get_args(hints["preactivation"]):
        assert type(options.MethodOptions(preactivation=word).output_method()).__name__.lower() == word


# --- numbers and names in print -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.1, -0.1, 1 / 3, -2 / 3, 123456789.123, 1e-9, 179.2998149, 5e-324, 1e300, 0.0])
def test_printed_bounds_still_hold(value: float) -> None:
    assert Decimal(text.rounded_down(value)) <= Decimal(value) <= Decimal(text.rounded_up(value))
    assert float(text.rounded_up(value)) == pytest.approx(value, rel=2e-5, abs=0)


def test_printed_infinities() -> None:
    assert text.rounded_up(math.inf) == "inf" and text.rounded_down(-math.inf) == "-inf"


def test_a_name_can_not_steer_the_terminal() -> None:
    assert text.printable("a\x1b[31m\r\n") == "a\\x1b[31m\\r\\n"


def test_the_row_sum_is_an_upper_bound() -> None:
    lower = torch.tensor([-0.1, 0.2, math.nan])
    assert certain_signs(lower, torch.tensor([0.1, 0.3, 1.0])).tolist() == [False, True, False]
    low, high = torch.full((1000,), -0.1, dtype=torch.float64), torch.full((1000,), 0.05, dtype=torch.float64)
    assert Decimal(row_sum(low, high)) >= 1000 * Decimal(0.1)
    assert row_sum(torch.tensor([-math.inf]), torch.tensor([1.0])) == math.inf


# --- reading points -------------------------------------------------------------------------------------------------


def test_points_from_all_kinds_of_files(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "one.npz", values)
    np.savez(tmp_path / "two.npz", other=np.zeros(1), values=values)
    np.savetxt(tmp_path / "a.csv", values, delimiter=",")
    keys = {"a.npy": None, "one.npz": None, "two.npz": "values", "a.csv": None}
    for name, key in keys.items():
        whole = read_point(tmp_path / name, (3, 2), key=key)
        assert whole.values.tolist() == values.reshape(3, 2).tolist() and whole.values.dtype is torch.float64
        second = read_point(tmp_path / name, (3,), key=key, index=1, scale=Fraction(2), shift=Fraction(-1, 2))
        assert second.values.tolist() == (values[1] * 2 - 0.5).tolist()
        assert second.story.endswith("[1] * 2 - 1/2")


def test_a_point_in_fortran_order(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(tmp_path / "a.npy", values)
    assert read_point(tmp_path / "a.npy", (6,)).values.tolist() == [0, 1, 2, 3, 4, 5]


def test_images_become_pixels_over_255(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    image.fromarray(grey).save(tmp_path / "grey.png")
    point = read_point(tmp_path / "grey.png", (1, 2, 3))
    assert point.values.tolist() == [(grey / 255).tolist()] and "1/255" in point.story and "grey" in point.story
    three = read_point(tmp_path / "grey.png", (3, 2, 3), scale=Fraction(1)).values
    assert three.tolist() == [grey.tolist()] * 3
    colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    image.fromarray(colour).save(tmp_path / "colour.png")
    first = read_point(tmp_path / "colour.png", (3, 2, 3), scale=Fraction(1))
    assert first.values.tolist() == colour.transpose(2, 0, 1).tolist() and "channels first" in first.story
    last = read_point(tmp_path / "colour.png", (2, 3, 3), scale=Fraction(1))
    assert last.values.tolist() == colour.tolist() and "channels last" in last.story
    with pytest.raises(jb.ShapeError, match="grey"):
        read_point(tmp_path / "colour.png", (2, 3))
    with pytest.raises(jb.ShapeError, match="resize"):
        read_point(tmp_path / "colour.png", (5, 5))
    clear = np.zeros((2, 3, 4), dtype=np.uint8)
    image.fromarray(clear).save(tmp_path / "clear.png")
    with pytest.raises(jb.InvalidRegionError, match="transparent"):
        read_point(tmp_path / "clear.png", (2, 3))
    image.fromarray(grey.astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(jb.InvalidRegionError, match="8 bits"):
        read_point(tmp_path / "deep.png", (2, 3))


def test_an_image_without_pillow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(jb.MissingExtraError, match=r"jacobound\[report\]"):
        read_point(tmp_path / "a.png", (2,))


def object_array() -> bytes:
    """An .npy file of Python objects, as a header alone: its content must never be reached."""
    return npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04}\x94.")


def npy(header: str, content: bytes) -> bytes:
    """A file in numpy's format with any header."""
    line = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + content


def zipped(content: bytes) -> Callable[[Path], None]:
    """Writes an .npz file whose one array has that content."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", content)

    return write


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
NEGATIVE = "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }"
UNREADABLE: dict[str, tuple[str, Callable[[Path], object] | bytes, str]] = {
    "objects": ("a.npy", object_array(), "never unpickled"),
    "objects in npz": ("a.npz", zipped(object_array()), "never unpickled"),
    "pickle as npy": ("a.npy", b"\x80\x04\x95\x05\x00", "not a numpy array"),
    "huge header": ("a.npy", npy(HUGE, bytes(8)), "declares"),
    "huge header in npz": ("a.npz", zipped(npy(HUGE, bytes(8))), "declares"),
    "negative shape": ("a.npy", npy(NEGATIVE, bytes(8)), "declares"),
    "truncated": ("a.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", bytes(8)), "declares"),
    "header is code": ("a.npy", npy("__import__('os')", b""), "not a numpy array"),
    "no zip": ("a.npz", b"PK", "not an .npz"),
    "empty zip": ("a.npz", lambda path: zipfile.ZipFile(path, "w").close(), "it is empty"),
    "complex": ("a.npy", lambda path: np.save(path, np.zeros(2, complex)), "complex"),
    "text": ("a.npy", lambda path: np.save(path, np.array(["a"])), "never unpickled"),
    "no numbers": ("a.npy", lambda path: np.save(path, np.zeros(0)), "no numbers"),
    "large integers": ("a.npy", lambda path: np.save(path, np.array([2**53 + 1])), "2\\*\\*53"),
    "NaN": ("a.npy", lambda path: np.save(path, np.array([1.0, math.nan])), "NaN"),
    "words": ("a.csv", b"one,two\n", "table of numbers"),
    "ragged": ("a.csv", b"1,2\n3\n", "table of numbers"),
    "empty": ("a.csv", b"", "no numbers"),
    "no image": ("a.png", b"\x89PNG\r\n", "not a PNG or JPEG"),
    "other suffix": ("a.pt", b"PK", "inputs are read from"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_files_that_are_no_points_are_refused(case: str, tmp_path: Path) -> None:
    name, content, complaint = UNREADABLE[case]
    path = tmp_path / name
    if name.endswith(".png"):
        pytest.importorskip("PIL")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(jb.InvalidRegionError, match=complaint):
        read_point(path, (2,))


def test_points_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    for index, shape, complaint in (
        (None, (3,), "--index 0 to --index 3"),
        (None, (5,), "takes"),
        (4, (3,), "4 entries"),
    ):
        with pytest.raises(jb.ShapeError, match=complaint):
            read_point(tmp_path / "a.npy", shape, index=index)
    np.savez(tmp_path / "b.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(jb.InvalidRegionError, match="--key: x, y"):
        read_point(tmp_path / "b.npz", (3,))
    with pytest.raises(jb.InvalidRegionError, match="no array 'z'"):
        read_point(tmp_path / "b.npz", (3,), key="z")
    with pytest.raises(jb.InvalidRegionError, match="--key"):
        read_point(tmp_path / "a.npy", (3,), key="x", index=0)


# --- the commands ---------------------------------------------------------------------------------------------------


def test_help_fits_a_screen_and_version_is_known(capsys: Capture) -> None:
    code, shown, _ = run(capsys, "--help")
    assert code == 0 and len(shown.splitlines()) <= 24
    assert all(command in shown for command in ("demo", "inspect", "bound", "lipschitz"))
    code, shown, _ = run(capsys, "--version")
    assert code == 0 and shown.strip() == "0.1.0"
    for command in ("demo", "inspect", "bound", "lipschitz"):
        code, shown, _ = run(capsys, command, "--help")
        assert code == 0 and len(shown.splitlines()) <= 66 and "--debug" in shown


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


def test_lipschitz_json_is_a_list_of_results(capsys: Capture) -> None:
    chosen = ("--radius", "0.001,0.002", "--rows", "3-8", "--clip", "-0.5", "0.5", "--seed", "7", "--points", "4")
    code, shown, _ = run(capsys, "lipschitz", NET, *IMAGE, *chosen, "--json")
    found = strict_json(shown)
    assert code == 0 and [len(result["radii"]) for result in found] == [1, 1]
    for result, decimal in zip(found, ("0.001", "0.002"), strict=True):
        assert result["lower"] <= result["upper"] and result["norm"] == [2.0, 2.0]
        assert Decimal(result["radii"][0]) >= Decimal(decimal)
        assert result["provenance"]["seed"] == 7 and len(result["witness"]) == 784


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
    "relaxation of fastlip": (("bound", NET, *IMAGE, "--radius", "1", "--method", "fastlip", "--relaxation", "chord"), "leave"),
    "clip elsewhere": (("bound", NET, *IMAGE, "--radius", "0.1", "--clip", "2", "3"), "clip"),
    "device": (("bound", NET, *IMAGE, "--radius", "0.1", "--device", "toaster"), "toaster"),
    "device not studied": (("bound", NET, *IMAGE, "--radius", "0.1", "--device", "mps"), "mps"),
    "no such GPU": (("bound", NET, *IMAGE, "--radius", "0.1", "--device", "cuda:99"), "cuda:99"),
    "threads": (("bound", NET, *IMAGE, "--radius", "0.1", "--threads", "0"), "--threads"),
    "memory": (("bound", NET, *IMAGE, "--radius", "0.1", "--memory", "nan"), "--memory"),
    "seconds": (("bound", NET, *IMAGE, "--radius", "0.1", "--seconds", "-1"), "--seconds"),
    "search": (("lipschitz", NET, *IMAGE, "--radius", "0.1", "--points", "-1"), "--points"),
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


def test_demo_json(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "RADII", ("0.001",))
    code, shown, complaints = run(capsys, "demo", "--digit", "0", "--json")
    found = strict_json(shown)
    assert code == 0 and complaints == "" and list(tmp_path.iterdir()) == []
    assert found["digit"] == 0 and len(found["jacobian"]["lower"][0]) == 784
    assert found["constants"]["output"][0]["lower"] <= found["constants"]["output"][0]["upper"]


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
