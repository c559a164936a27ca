"""Strict reading: JSON in which every name stands once and every number is finite, and arrays in safetensors files.

Nothing is taken on trust: an entry that is missing, unknown, of another kind or too large is an error with its name.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from jacobound_check.errors import UnreadableError

LONGEST_JSON = 1 << 26  # bytes
DEEPEST = 100  # of entries in each other; each cut of a region is one
TYPES = {"F64": ("<f8", np.float64), "I64": ("<i8", np.int64), "U8": ("|u1", np.uint8)}
LARGEST_EXPONENT = 1100  # of two; beyond there are no floats


def strict_json(data: bytes) -> Any:
    """What JSON text holds.

    Raises:
        UnreadableError: for duplicate names, NaN and infinities, floats (numbers that count are text), what is too deep
            or too long, and what is no JSON.
    """
    if len(data) > LONGEST_JSON:
        raise UnreadableError(f"the certificate has {len(data)} bytes; at most {LONGEST_JSON} are read")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise UnreadableError(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice")
        return found

    def refuse(text: str) -> None:
        raise UnreadableError(f"{text[:40]} stands where a whole number or text should")

    def whole(text: str) -> int:
        if len(text) > 18:
            raise UnreadableError("a whole number has more than 18 digits")
        return int(text)

    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_float=refuse, parse_int=whole
        )
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"no JSON text: {error}") from error
    _not_deeper(found, 0)
    return found


def _not_deeper(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise UnreadableError(f"entries are more than {DEEPEST} deep")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _not_deeper(one, depth + 1)


def entry(told: Any, where: str, wanted: Collection[str], optional: Collection[str] = ()) -> Mapping[str, Any]:
    """A mapping with exactly these names.

    Raises:
        UnreadableError: when it is none, or names are missing or unknown.
    """
    if not isinstance(told, dict):
        raise UnreadableError(f"{where} is no entry with names")
    missing, unknown = set(wanted) - set(told), set(told) - set(wanted) - set(optional)
    if missing or unknown:
        what = f"lacks {sorted(missing)}" if missing else f"has unknown names {sorted(unknown)}"
        raise UnreadableError(f"{where} {what}"[:300])
    return told


def text_of(told: Any, where: str, known: Collection[str] | None = None) -> str:
    """Text, one of the known words where they are given."""
    if not isinstance(told, str) or (known is not None and told not in known):
        raise UnreadableError(f"{where} is {str(told)[:60]!r}" + (f", not one of {sorted(known)}" if known else ""))
    return told


def whole_of(told: Any, where: str, least: int = 0, most: int = 1 << 40) -> int:
    """A whole number between two others."""
    if type(told) is not int or not least <= told <= most:
        raise UnreadableError(f"{where} is {str(told)[:60]!r}, not a whole number from {least} to {most}")
    return told


def list_of(told: Any, where: str) -> list[Any]:
    """A list."""
    if not isinstance(told, list):
        raise UnreadableError(f"{where} is no list")
    return told


def shape_of(told: Any, where: str) -> tuple[int, ...]:
    """A shape whose entries can be counted."""
    shape = tuple(whole_of(side, where) for side in list_of(told, where))
    if len(shape) > 8 or math.prod(shape) > 1 << 31:
        raise UnreadableError(f"{where}: a shape of {math.prod(shape)} entries is too large")
    return shape


def number_of(told: Any, where: str) -> float:
    """A finite float in hexadecimal."""
    try:
        found = float.fromhex(text_of(told, where))
    except (ValueError, OverflowError) as error:
        raise UnreadableError(f"{where}: {str(told)[:60]!r} is no float in hexadecimal") from error
    if not math.isfinite(found) or "x" not in told:
        raise UnreadableError(f"{where}: {told[:60]!r} is no finite float in hexadecimal")
    return found


def rational_of(told: Any, where: str) -> Fraction:
    """A rational number: a float in hexadecimal, or "p/q"."""
    text = text_of(told, where)
    if "/" not in text:
        return Fraction(number_of(text, where))
    top, _, bottom = text.partition("/")
    digits = all(part.lstrip("-").isascii() and part.lstrip("-").isdigit() for part in (top, bottom))
    if not digits or len(text) > 700 or int(bottom) == 0:
        raise UnreadableError(f"{where}: {text[:60]!r} is no rational number")
    found = Fraction(int(top), int(bottom))
    if found and not 2.0**-LARGEST_EXPONENT < abs(found) < Fraction(2) ** 1023:
        raise UnreadableError(f"{where}: {text[:60]!r} is too large or too small")
    return found


Arrays = Mapping[str, np.ndarray]


def safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Arrays by name: a header of JSON behind its length, then their bytes, little endian, in order, without gaps.

    Raises:
        UnreadableError: when sizes, shapes and bytes do not agree, before anything is allocated.
    """
    if len(data) < 8:
        raise UnreadableError("the weights are no safetensors file: it is shorter than its header")
    length = struct.unpack("<Q", data[:8])[0]
    if length > min(len(data) - 8, LONGEST_JSON):
        raise UnreadableError(f"the header of the weights would have {length} bytes; the file has {len(data)}")
    header = strict_json(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise UnreadableError("the header of the weights is no entry with names")
    body, found, reached = memoryview(data)[8 + length :], {}, 0
    header.pop("__metadata__", None)
    placed = sorted(header.items(), key=lambda item: str(item[1]) if not isinstance(item[1], dict) else _start(item))
    for name, told in placed:
        told = entry(told, f"the header of {name[:60]!r}", ("dtype", "shape", "data_offsets"))
        kind, dtype = TYPES[text_of(told["dtype"], f"type of {name[:60]!r}", TYPES)]
        shape = shape_of(told["shape"], f"shape of {name[:60]!r}")
        ends = [whole_of(x, f"place of {name[:60]!r}") for x in list_of(told["data_offsets"], "a place")]
        size = math.prod(shape) * np.dtype(kind).itemsize
        if len(ends) != 2 or ends[0] != reached or ends[1] - ends[0] != size or ends[1] > len(body):
            raise UnreadableError(f"array {name[:60]!r} of shape {shape} does not lie where the header says")
        found[name] = np.frombuffer(body[ends[0] : ends[1]], kind).astype(dtype).reshape(shape)
        if dtype == np.float64 and np.isnan(found[name]).any():
            raise UnreadableError(f"array {name[:60]!r} holds NaN")
        reached = ends[1]
    if reached != len(body):
        raise UnreadableError(f"{len(body) - reached} bytes of the weights belong to no array")
    return found


def _start(item: tuple[str, Any]) -> str:
    place = item[1].get("data_offsets")
    first = place[0] if isinstance(place, list) and place and type(place[0]) is int else 0
    last = place[1] if isinstance(place, list) and len(place) == 2 and type(place[1]) is int else 0
    return f"{first:020d} {last:020d}"


def array_of(
    arrays: Arrays, name: Any, where: str, shape: tuple[int, ...] | None = None, kind: type = np.float64
) -> Any:
    """An array of the certificate by its name, finite unless it is of whole numbers.

    Raises:
        UnreadableError: when it is missing, of another type or shape, or not finite.
    """
    found = arrays.get(text_of(name, where))
    if found is None:
        raise UnreadableError(f"{where}: there is no array {name[:60]!r}")
    if found.dtype != kind or (shape is not None and found.shape != shape):
        raise UnreadableError(f"{where}: array {name[:60]!r} has shape {found.shape} and type {found.dtype}")
    if kind is np.float64 and not np.isfinite(found).all():
        raise UnreadableError(f"{where}: array {name[:60]!r} holds numbers that are not finite")
    return found
