"""Reading one point from a file that nobody vouches for: sizes are checked first, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import re
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from jacobound.errors import InvalidRegionError, ShapeError
from jacobound.inputs.files import require_plain, stored_bytes
from jacobound.inputs.images import IMAGES, read_image

LARGEST = 1 << 30  # bytes of one array
WHOLE = re.compile(r"[+-]?[0-9]{1,4000}", flags=re.ASCII)  # an integer as a table has it

# What zipfile and numpy raise at damaged archives and headers (a place before the file's beginning, names that are no
# text, a header that is no Python literal).
BROKEN_ARCHIVE = (zipfile.BadZipFile, RuntimeError, EOFError, OSError, UnicodeDecodeError, zlib.error)
BROKEN_HEADER = (ValueError, TypeError, SyntaxError, RecursionError, tokenize.TokenError)


@dataclass(frozen=True)
class Point:
    """One input of the network.

    Args:
        values: float64, of the network's input shape.
        story: where it came from and what was done to it, for the reader.
        arranged: shape of the values in the file.
        name: of the file without its folder, and the entry.
    """

    values: Tensor
    story: str
    arranged: tuple[int, ...]
    name: str = ""


def read_point(
    path: Path,
    shape: tuple[int, ...],
    *,
    key: str | None = None,
    index: int | None = None,
    scale: Fraction | None = None,
    shift: Fraction = Fraction(0),
) -> Point:
    """One point from .npy, .npz, .csv or an image, as ``values * scale + shift``.

    Args:
        path: the file.
        shape: of the network's input; values of the same number are reshaped to it.
        key: which array of an .npz file; may be left out when there is one.
        index: which entry along the first axis; None when the file holds one point.
        scale, shift: factor and offset; scale is 1/255 for images and 1 for other files unless given.

    Raises:
        InvalidRegionError: when the file can not be read as numbers, or is too large.
        ShapeError: when the numbers do not fit the network.
        MissingExtraError: when an image is given and pillow is not installed.
    """
    if not path.exists():
        raise InvalidRegionError(f"--input: there is no file '{path}'")
    require_plain(path.stat(), f"--input: '{path}'", InvalidRegionError)
    suffix = path.suffix.lower()
    if key is not None and suffix != ".npz":
        raise InvalidRegionError(f"--key chooses an array of an .npz file, and '{path}' is none; leave it out")
    readers = {".npy": lambda: _read_npy(path), ".npz": lambda: _read_npz(path, key), ".csv": lambda: _read_csv(path)}
    if suffix in IMAGES:
        values, story = read_image(path, shape)
        scale = Fraction(1, 255) if scale is None else scale
    elif suffix in readers:
        values, story = _exactly(readers[suffix](), path), str(path)
        scale = Fraction(1) if scale is None else scale
    else:
        raise InvalidRegionError(f"'{path}': inputs are read from {', '.join((*readers, *IMAGES))} files")
    if index is not None:
        values, story = _entry(values, index, path), f"{story}[{index}]"
    point = _moved(_fitted(values, shape, path, index), scale, shift)
    name = path.name if index is None else f"{path.name}[{index}]"
    return Point(point, story + _told(scale, shift), values.shape, name)


def _fitted(values: np.ndarray, shape: tuple[int, ...], path: Path, index: int | None) -> np.ndarray:
    """The values in the network's shape."""
    wanted = math.prod(shape)
    if values.size == wanted:
        return values.reshape(shape)
    several = index is None and values.ndim > 1 and values.size == values.shape[0] * wanted
    advice = (
        f"it holds {values.shape[0]} points: choose one with --index 0 to --index {values.shape[0] - 1}"
        if several
        else "give a file with as many numbers as the network has inputs"
    )
    raise ShapeError(f"'{path}' holds an array of shape {values.shape}, the network takes {shape}; {advice}")


def _entry(values: np.ndarray, index: int, path: Path) -> np.ndarray:
    count = values.shape[0] if values.ndim else 0
    if not 0 <= index < count:
        raise ShapeError(f"--index {index}: '{path}' has {count} entries along its first axis, counted from 0")
    return values[index]


def _moved(values: np.ndarray, scale: Fraction, shift: Fraction) -> Tensor:
    """``values * scale + shift`` in float64; what comes out is the point, exactly."""
    try:
        moved = values * float(scale.numerator) / float(scale.denominator) + float(shift)
    except OverflowError:
        raise InvalidRegionError("--scale or --shift is too large or has too many digits for a float") from None
    if not bool(np.isfinite(moved).all()):
        raise InvalidRegionError("the input holds NaN or infinite numbers; check how it was saved, and --scale")
    return torch.from_numpy(np.ascontiguousarray(moved, dtype=np.float64))


def _told(scale: Fraction, shift: Fraction) -> str:
    told = f" * {scale}" if scale != 1 else ""
    return told + (f" {'+' if shift > 0 else '-'} {abs(shift)}" if shift else "")


def _exactly(values: np.ndarray, path: Path) -> np.ndarray:
    """The numbers as float64, refused where that would change them."""
    if values.dtype.kind not in "fiu" or values.dtype.itemsize > 8:
        raise InvalidRegionError(f"'{path}' holds {values.dtype}; save floats (up to float64) or integers")
    if values.size == 0:
        raise InvalidRegionError(f"'{path}' holds no numbers")
    if values.dtype.kind in "iu" and max(int(values.max()), -int(values.min())) > 1 << 53:
        raise InvalidRegionError(f"'{path}' holds integers above 2**53, which float64 can not hold exactly")
    return values.astype(np.float64)


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as stream:
        return _read_array(stream, path.stat().st_size, str(path))


def _read_npz(path: Path, key: str | None) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if key is None and len(members) == 1:
                key = next(iter(members))
            if key not in members:
                missing = "has several arrays" if key is None else f"has no array '{key}'"
                raise InvalidRegionError(f"'{path}' {missing}; choose with --key: {_list(members)}")
            with archive.open(members[key]) as stream:
                return _read_array(stream, members[key].file_size, f"{path}:{key}")
    except BROKEN_ARCHIVE as error:
        raise InvalidRegionError(f"'{path}' is not an .npz file, or damaged ({error}); save it again") from error


def _list(names: Sequence[str] | dict[str, zipfile.ZipInfo]) -> str:
    return ", ".join(list(names)[:20]) or "(it is empty)"


def _read_array(stream: IO[bytes], size: int, what: str) -> np.ndarray:
    """An array in numpy's format whose header agrees with the number of bytes that there are."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise InvalidRegionError(f"'{what}' is in version {version} of the npy format; save plain numbers")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.hasobject or dtype.kind not in "fiu":
            raise InvalidRegionError(f"'{what}' holds {dtype}, not plain numbers; Python objects are never unpickled")
        needed = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or needed != size - stream.tell():
            raise InvalidRegionError(
                f"'{what}' declares {shape} of {dtype}, {needed} bytes, but holds {size - stream.tell()}; it is damaged"
            )
        if needed > LARGEST:
            raise InvalidRegionError(f"'{what}' is {needed} bytes, more than {LARGEST}; save the one point by itself")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
    except BROKEN_HEADER as error:
        if isinstance(error, InvalidRegionError):
            raise
        raise InvalidRegionError(f"'{what}' is not a numpy array, or damaged ({error}); save it again") from error


def _read_csv(path: Path) -> np.ndarray:
    data = stored_bytes(path, LARGEST, InvalidRegionError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of an empty file; it is refused later, by name
            cells = np.loadtxt(io.BytesIO(data), delimiter=",", ndmin=2, dtype=str)
        for cell in cells.flat:
            if WHOLE.fullmatch(cell.strip()) and abs(int(cell)) > 1 << 53:
                raise InvalidRegionError(f"'{path}' holds integers above 2**53, which float64 can not hold exactly")
        return cells.astype(np.float64)
    except ValueError as error:
        if isinstance(error, InvalidRegionError):
            raise
        raise InvalidRegionError(f"'{path}' is not a table of numbers separated by commas: {error}") from error
