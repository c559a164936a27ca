"""Small undamaged files of every kind that is read, from which damaged ones are made."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

import onnx_cases
from onnx_functions import RIGHT
from onnx_models import model

PROPERTIES = (
    """; a box
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 0.1))
(assert (<= X_0 0.30000001))
(assert (>= X_1 -1e-3))
(assert (<= X_1 12.5))
(assert (<= Y_0 Y_1))
""",
    """(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)
(assert (or (and (>= X_0 0)(<= X_0 1)(>= X_1 0)(<= X_1 1)) (and (>= X_0 2)(<= X_0 3)(>= X_1 2)(<= X_1 3))))
(assert (or (and (>= Y_0 0.5)) (and (<= Y_0 (- 1)))))
""",
    """(vnnlib-version <2.0>)
(declare-network N
  (declare-input X float32 [1, 2])
  (declare-output Y float32 [1, 2]))
(assert (and (>= X[0,0] 0.0) (<= X[0,0] (+ 0.5 (* 2 0.25))) (<= -1.5 X[0,1] 1.5)))
(assert (<= Y[0,0] Y[0,1]))
""",
    """(declare-const X_0 Real)
(assert (<= (* -4.0 X_0) (- 1 0.25)))
(assert (<= (/ X_0 2 0.5) 7))
""",
)


def _saved(*arrays: np.ndarray, zipped: bool = False, compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    if zipped:
        named: dict[str, Any] = {f"x{k}": array for k, array in enumerate(arrays)}
        (np.savez_compressed if compressed else np.savez)(stream, **named)
    else:
        np.save(stream, arrays[0])
    return stream.getvalue()


def _images() -> list[bytes]:
    """Tiny PNG and JPEG files; none without pillow."""
    try:
        from PIL import Image
    except ImportError:
        return []
    found = []
    for form, mode in (("PNG", "L"), ("PNG", "RGB"), ("PNG", "P"), ("JPEG", "L"), ("JPEG", "RGB")):
        stream = io.BytesIO()
        Image.new(mode, (2, 2), 7).save(stream, form)
        found.append(stream.getvalue())
    return found


def _models() -> Iterator[bytes]:
    """Every small model of the tests of the importer."""
    tables = (onnx_cases.CASES, onnx_cases.RESIZED)
    for nodes, shape, weights, opset in (entry for table in tables for entry in table.values()):
        yield model(nodes, shape, weights, opset=opset)
    for made, _ in RIGHT.values():
        yield made.SerializeToString()


@cache
def seeds() -> Mapping[str, tuple[bytes, ...]]:
    """Files by kind: "onnx", "vnnlib", and those that hold a point, by their suffix."""
    x = np.array([[0.5, -1.25], [3.0, 1e-3]])
    arrays = [x[0], x, x.astype(np.float32), np.arange(4).reshape(2, 2), np.asfortranarray(x), x.astype(">f8")]
    zipped = [_saved(x[0], zipped=True), _saved(x, x[0], zipped=True), _saved(x, zipped=True, compressed=True)]
    return {
        "onnx": tuple(dict.fromkeys(_models())),
        "vnnlib": tuple(text.encode() for text in PROPERTIES),
        ".npy": tuple(map(_saved, arrays)),
        ".npz": tuple(zipped),
        ".csv": (b"0.5,-1.25\n3,1e-3\n", b"1,2,3,4\n", b"# comment\n1;2\n"),
        ".png": tuple(_images()),
    }
