"""A certificate on disk: strict JSON in whole numbers and text, and its arrays as safetensors beside it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

KINDS = {"float64": "F64", "int64": "I64", "uint8": "U8"}


class Arrays:
    """The arrays of one certificate by name; the same tensor is written once."""

    def __init__(self) -> None:
        self.found: dict[str, np.ndarray] = {}
        self._known: dict[int, tuple[Tensor, str]] = {}

    def put(self, name: str, values: Tensor | np.ndarray) -> str:
        """The name under which the numbers stand: float64, or int64 for whole ones."""
        if isinstance(values, Tensor):
            if id(values) in self._known:
                return self._known[id(values)][1]
            array = values.detach().cpu().contiguous().numpy()
        else:
            array = np.ascontiguousarray(values)
        name = name if name not in self.found else f"{name}.{len(self.found)}"
        kind = np.int64 if array.dtype.kind in "iub" else np.float64
        self.found[name] = array.astype(kind)
        if isinstance(values, Tensor):
            self._known[id(values)] = values, name
        return name


def safetensors(arrays: dict[str, np.ndarray]) -> bytes:
    """A header of JSON behind its length, then the bytes of all arrays in order."""
    header, parts, reached = {}, [], 0
    for name, array in arrays.items():
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        place = [reached, reached + len(data)]
        header[name] = {"dtype": KINDS[array.dtype.name], "shape": list(array.shape), "data_offsets": place}
        parts.append(data)
        reached += len(data)
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)
    return struct.pack("<Q", len(told)) + told + b"".join(parts)


def sealed(told: dict[str, Any]) -> dict[str, Any]:
    """With the SHA-256 of everything else, names in order."""
    rest = {name: value for name, value in told.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return rest | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def write(path: Path, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> Path:
    """Both files, each whole or not at all; gives the place of the weights."""
    data = safetensors(arrays)
    beside = path.with_name(f"{path.stem}.safetensors")
    whole = sealed(told | {"weights": {"file": beside.name, "sha256": hashlib.sha256(data).hexdigest()}})
    for place, content in ((beside, data), (path, json.dumps(whole, indent=1).encode())):
        draft = place.with_name(f".{place.name}.{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(place)
    return beside
