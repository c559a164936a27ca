"""What is no plain file is refused before it is read, by everything that takes a path."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import jacobound as jb
from jacobound import InvalidModelError, InvalidRegionError
from jacobound.inputs.files import read_file, stored_bytes
from jacobound.inputs.points import read_point

READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "from_onnx": (jb.from_onnx, InvalidModelError),
    "from_vnnlib": (jb.Box.from_vnnlib, InvalidRegionError),
    **{
        suffix: (lambda path: read_point(path, (2,)), InvalidRegionError) for suffix in (".csv", ".npy", ".npz", ".png")
    },
}


@pytest.fixture
def oddities(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Places that are no files, by what they are."""
    places = {"a folder": tmp_path / "folder", "a pipe": tmp_path / "pipe", "a socket": tmp_path / "socket"}
    places["a folder"].mkdir()
    os.mkfifo(places["a pipe"])
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(places["a socket"]))
        if Path("/dev/zero").exists():
            places["a device"] = tmp_path / "zero"
            places["a device"].symlink_to("/dev/zero")
        yield places


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
@pytest.mark.parametrize("reader", READERS)
def test_folders_pipes_sockets_and_devices_are_not_read(reader: str, oddities: dict[str, Path]) -> None:
    read, wrong = READERS[reader]
    for what, place in oddities.items():
        path = place.with_suffix(reader) if reader.startswith(".") else place
        if path is not place:
            place.rename(path)
        with pytest.raises(wrong, match=f"can not be read: it is {what}"):
            read(path)


def test_files_that_say_nothing_of_their_size_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert stored_bytes(tmp_path / "empty", 10, InvalidModelError) == b""
    (tmp_path / "ten").write_bytes(bytes(10))
    assert read_file(tmp_path / "ten", 10, InvalidModelError) == bytes(10)
    with pytest.raises(InvalidModelError, match="10 bytes; at most 9"):
        stored_bytes(tmp_path / "ten", 9, InvalidModelError)
    endless = Path("/proc/self/environ")  # says that it has no bytes
    if endless.exists():
        assert stored_bytes(endless, 10, InvalidModelError) == b""


@pytest.mark.parametrize("path", [3, None, bytearray(b"abc"), 1.5])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(InvalidModelError, match=r"a path is a text or a pathlib.Path"):
        jb.from_onnx(path)  # type: ignore[arg-type]
