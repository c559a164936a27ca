"""Points from files: what is read, and what is refused before anything is allocated."""

from __future__ import annotations

import math
import struct
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound.inputs.points import read_point


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
