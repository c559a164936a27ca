"""Weights that an ONNX file keeps beside itself: read from inside its own folder only, and no more than it says.

A place that is absolute, climbs out of the folder or is a link out of it is refused, and so are lengths that do not fit
the shape or the file. What is read becomes part of the model, so that everything behind sees one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from onnx import TensorProto

from jacobound.errors import InvalidModelError
from jacobound.inputs.files import stored_bytes

MOST: Final = 2**31 - 1
"""Bytes of all weights together; engines are given the model with them in one piece, which protobuf limits."""

KEYS: Final = ("location", "offset", "length", "checksum")


def embed(tensors: Iterable[tuple[str, TensorProto]], sizes: Mapping[int, int], folder: Path | None) -> bytes | None:
    """Read all weights that are kept elsewhere into their tensors.

    Args:
        tensors: by what they are called in messages; changed.
        sizes: bytes of an entry by element type.
        folder: that of the model; None for a model that is no file.

    Returns:
        A digest of what was read, or None when there is nothing elsewhere.

    Raises:
        InvalidModelError: when a place or a length is not what it may be; names the tensor.
    """
    files: dict[str, bytes] = {}
    digest, total, found = hashlib.sha256(), 0, False
    for name, tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        location, offset, length = _entry(tensor, name, sizes)
        place = _place(location, name, folder)
        if location not in files:
            files[location] = stored_bytes(place, MOST, InvalidModelError)
            digest.update(files[location])
        data = files[location]
        length = len(data) - offset if length is None else length
        if length < 0 or offset + length > len(data):
            raise InvalidModelError(
                f"tensor '{name}' wants {length} bytes from {offset} on of '{location}', which has {len(data)}; the "
                "two files do not belong together. Export the model again"
            )
        total += length
        if total > MOST:
            raise InvalidModelError(f"the weights beside the file have over {MOST} bytes; that is not accepted here")
        tensor.raw_data = data[offset : offset + length]
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        found = True
    return digest.digest() if found else None


def _entry(tensor: TensorProto, name: str, sizes: Mapping[int, int]) -> tuple[str, int, int | None]:
    """Location, offset and length; the length is that of the shape where both are known."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if not entries.keys() <= {*KEYS} or len(entries) < len(tensor.external_data) or not entries.get("location"):
        raise InvalidModelError(
            f"tensor '{name}' keeps its data in another file, described by {sorted(entries)}; location, offset and "
            "length are understood. Export the model again"
        )
    numbers: list[int | None] = []
    for key in ("offset", "length"):
        text = entries.get(key)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise InvalidModelError(f"tensor '{name}' has the {key} '{text:.40}' in another file; the file is damaged")
        numbers.append(None if text is None else int(text))
    offset, length = numbers[0] or 0, numbers[1]
    if tensor.data_type in sizes:
        wanted = prod(tensor.dims) * sizes[tensor.data_type]
        if length not in (None, wanted):
            raise InvalidModelError(
                f"tensor '{name}' has shape {tuple(tensor.dims)}, so {wanted} bytes, and takes {length} of "
                f"'{entries['location']}'; the file is damaged"
            )
        length = wanted
    return entries["location"], offset, length


def _place(location: str, name: str, folder: Path | None) -> Path:
    """The file itself, once it is known to be inside the folder of the model."""
    why = leaves(location, folder)
    if why:
        raise InvalidModelError(
            f"tensor '{name}' wants its data from '{location}', {why}. Do not trust this file; "
            "get the model as one self-contained file"
        )
    if folder is None:
        raise InvalidModelError(
            f"tensor '{name}' keeps its data in another file ('{location}'), which bytes in memory do not have beside "
            "them. Give the path of the model, or one file: onnx.save(onnx.load('net.onnx'), 'one_file.onnx')"
        )
    place = folder / location
    if not place.exists():
        raise InvalidModelError(
            f"tensor '{name}' keeps its data in '{location}' beside the model, and there is no such file; put the two "
            "into one folder, as they were exported"
        )
    return place


def leaves(location: str, folder: Path | None) -> str:
    """Why a place is outside the folder of the model, or an empty text."""
    windows, posix = PureWindowsPath(location), PurePosixPath(location)
    if posix.is_absolute() or windows.is_absolute() or windows.drive or windows.root:
        return "an absolute path"
    if ".." in (*posix.parts, *windows.parts):
        return "a path that climbs out of the model's folder"
    if "\0" in location:
        return "a name with a null character"
    if folder is None:
        return ""
    try:
        place = (folder / location).resolve()
    except (OSError, RuntimeError):  # a loop of links
        return "a link that leads nowhere"
    return "" if place.is_relative_to(folder.resolve()) else "a link that leads out of the model's folder"
