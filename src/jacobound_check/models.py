"""Is the network of a certificate the one in a model's file? A small reader of ONNX chains, and the file's SHA-256.

Layers of both sides are written in one form, stretch by stretch between activations: matrices and convolutions in
order, and the bias behind them. They have to be equal number by number. What the reader does not know (branches,
normalisations, other operators) is compared by the SHA-256 of the file that was imported: then the lowering is trusted.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jacobound_check.errors import OtherModelError, UnreadableError
from jacobound_check.reading import Arrays

Layer = tuple[Any, ...]
ZERO, ONE = Fraction(0), Fraction(1)


class _UnknownError(Exception):
    """What the reader does not know."""


def compared_with(path: Path, told: Mapping[str, Any], arrays: Arrays) -> str:
    """How the network was found to be that of a file.

    Raises:
        OtherModelError: when it is another network.
        UnreadableError: when the file can not be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"{path.name} can not be read: {error.strerror}") from error
    model = told["model"] if isinstance(told["model"], dict) else {}
    if model.get("until") or model.get("units"):
        return _by_hash(data, model, "it is a part of the model, or has units in front or behind")
    try:
        own, theirs = _of_certificate(told["network"], arrays), _of_onnx(data)
    except _UnknownError as unknown:
        return _by_hash(data, model, str(unknown))
    for k, (one, other) in enumerate(zip(own, theirs, strict=False)):
        if not _same(one, other):
            raise OtherModelError(f"layer {k} ({one[0]}) is another one in {path.name} ({other[0]})")
    if len(own) != len(theirs):
        raise OtherModelError(f"the network has {len(own)} layers, the one in {path.name} has {len(theirs)}")
    return f"{path.name}: all {len(own)} layers are the same, number by number"


def _by_hash(data: bytes, model: Mapping[str, Any], why: str) -> str:
    digest = hashlib.sha256(data).hexdigest()
    if model.get("sha256") != digest:
        raise OtherModelError(f"the file is not the one that was imported: its SHA-256 is {digest[:16]}... ({why})")
    return f"the file has the SHA-256 of what was imported; how it was lowered was not checked, because {why}"


def _same(one: Layer, other: Layer) -> bool:
    if len(one) != len(other):
        return False
    for a, b in zip(one, other, strict=True):
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            if one[0] == "bias" and a.size and b.size and a.size % b.size == 0:
                b = np.repeat(b, a.size // b.size)  # one number for each channel of an image
            if a.shape != b.shape or not (a == b).all():
                return False
        elif type(a) is not type(b) or a != b:
            return False
    return True


def _joined(layers: list[Layer]) -> list[Layer]:
    """Without biases of zeros."""
    return [one for one in layers if not (one[0] == "bias" and not one[1].any())]


def _of_certificate(network: Mapping[str, Any], arrays: Arrays) -> list[Layer]:
    found: list[Layer] = []
    for k, node in enumerate(network["nodes"]):
        if node["kind"] == "elementwise" and node["source"] == k:
            function = node["function"]
            if "slopes" in function:
                if any(not isinstance(x, str) for part in function.values() for x in part):
                    raise _UnknownError("a function has numbers for each entry")
                lines = (tuple(map(_rational, function[part])) for part in ("slopes", "offsets", "breaks"))
                found.append(("function", "lines", *lines))
            else:
                found.append(("function", function["name"], *map(_rational, function["numbers"])))
            continue
        if node["kind"] != "affine" or len(node["terms"]) != 1 or node["terms"][0]["source"] != k:
            raise _UnknownError("the network is no chain")
        found += _of_operator(node["terms"][0]["operator"], arrays)
        if node["bias"] is not None:
            found.append(("bias", arrays[node["bias"]]))
    return _joined(found)


def _rational(text: str) -> Fraction:
    return Fraction(text) if "/" in text else Fraction(float.fromhex(text))


def _of_operator(told: Mapping[str, Any], arrays: Arrays) -> list[Layer]:
    if told["kind"] == "same":
        return []
    if told["kind"] == "dense" and told["count"] == 1:
        return [("matrix", arrays[told["weight"]])]
    if told["kind"] == "convolution":
        steps = (tuple(told[name]) for name in ("stride", "padding", "dilation"))
        return [("convolution", arrays[told["weight"]], *steps, told["groups"])]
    raise _UnknownError(f"a map of the kind {told['kind']} is no layer that is read from files")


def _of_onnx(data: bytes) -> list[Layer]:
    """The layers of a chain in an ONNX file."""
    try:
        graph = next(value for field, value in _fields(data) if field == 7)
        weights = dict(_tensor(value) for field, value in _fields(graph) if field == 5)
        nodes = [_node(value) for field, value in _fields(graph) if field == 1]
        inputs = [_text(_first(value, 1)) for field, value in _fields(graph) if field == 11]
        outputs = [_text(_first(value, 1)) for field, value in _fields(graph) if field == 12]
    except (StopIteration, IndexError, ValueError, struct.error, TypeError, UnicodeDecodeError) as error:
        raise _UnknownError(f"it is no ONNX file that is read here ({error})") from error
    free = [name for name in inputs if name not in weights]
    if len(free) != 1 or len(outputs) != 1:
        raise _UnknownError("the model has several inputs or outputs")
    at, found = free[0], list[Layer]()
    for kind, read, written, attributes in nodes:
        if kind == "Constant" and "value" in attributes:
            weights[written[0]] = attributes["value"]
            continue
        if at not in read or len(written) != 1 or read.count(at) != 1:
            raise _UnknownError("the model is no chain")
        others = [weights.get(name) for name in read if name != at]
        if any(one is None for one in others):
            raise _UnknownError("the model is no chain")
        try:
            found += _layers(kind, others, attributes, read.index(at))
        except (KeyError, IndexError, ValueError) as error:
            raise _UnknownError(f"{kind} is used in a way that is not read here") from error
        at = written[0]
    if at != outputs[0]:
        raise _UnknownError("the model is no chain")
    return _joined(found)


def _layers(kind: str, weights: list[Any], attributes: Mapping[str, Any], place: int) -> list[Layer]:
    """One node of the chain."""
    if kind in ("Flatten", "Reshape", "Identity", "Dropout") and attributes.get("axis", 1) == 1:
        return []
    if kind == "Gemm" and place == 0 and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0:
        if attributes.get("transA", 0):
            raise ValueError("transA")
        matrix = weights[0] if attributes.get("transB", 0) else weights[0].T
        return [("matrix", matrix), *([("bias", weights[1].ravel())] if len(weights) > 1 else [])]
    if kind == "MatMul" and weights[0].ndim == 2:
        return [("matrix", weights[0].T if place == 0 else weights[0])]
    if kind == "Add" and weights[0].ndim == 1:
        return [("bias", weights[0].ravel())]
    if kind == "Conv" and attributes.get("auto_pad", b"NOTSET") == b"NOTSET":
        axes = weights[0].ndim - 2
        pads = attributes.get("pads", [0] * (2 * axes))
        if pads[:axes] != pads[axes:]:
            raise ValueError("pads")
        steps = (tuple(attributes.get(name, [1] * axes)) for name in ("strides", "dilations"))
        stride, dilation = steps
        layer = ("convolution", weights[0], stride, tuple(pads[:axes]), dilation, attributes.get("group", 1))
        return [layer, *([("bias", weights[1])] if len(weights) > 1 else [])]
    functions: dict[str, Any] = {
        "Relu": lambda: ("lines", (ZERO, ONE), (ZERO, ZERO), (ZERO,)),
        "LeakyRelu": lambda: ("lines", (Fraction(attributes["alpha"]), ONE), (ZERO, ZERO), (ZERO,)),
        "Tanh": lambda: ("tanh",),
        "Sigmoid": lambda: ("sigmoid",),
        "Softplus": lambda: ("softplus",),
    }
    if kind in functions and not weights:
        return [("function", *functions[kind]())]
    raise _UnknownError(f"{kind} is not read here")


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Fields of a protocol buffer: numbers as whole numbers, the rest as bytes."""
    place = 0
    while place < len(data):
        key, place = _number(data, place)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _number(data, place)
        else:
            length, place = _number(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            if place + length > len(data):
                raise ValueError("it ends too early")
            value, place = data[place : place + length], place + length
        yield field, value


def _number(data: Any, place: int) -> tuple[int, int]:
    found = shift = 0
    while True:
        byte = data[place]
        found |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return found, place
        if shift > 63:
            raise ValueError("a number is too long")


def _first(data: Any, wanted: int) -> Any:
    return next(value for field, value in _fields(data) if field == wanted)


def _text(data: Any) -> str:
    return bytes(data).decode("utf-8")


def _whole(parts: list[Any]) -> list[int]:
    """Whole numbers, each by itself or packed."""
    found = []
    for part in parts:
        place = 0
        while not isinstance(part, int) and place < len(part):
            value, place = _number(part, place)
            found.append(value)
        found += [part] if isinstance(part, int) else []
    return [value - (1 << 64) if value >> 63 else value for value in found]


def _tensor(data: Any) -> tuple[str, Any]:
    """Name and values of a tensor of floats (or whole numbers), in float64."""
    fields: dict[int, list[Any]] = {}
    for field, value in _fields(data):
        fields.setdefault(field, []).append(value)
    name, kind = _text(fields.get(8, [b""])[0]), fields[2][0]
    if 13 in fields or kind not in (1, 7, 11):
        return name, None
    shape, (raw, number) = _whole(fields.get(1, [])), {1: (4, "<f4"), 7: (7, "<i8"), 11: (10, "<f8")}[kind]
    if 9 in fields:
        values = np.frombuffer(bytes(fields[9][0]), number)
    else:
        values = np.array(_whole(fields[7])) if kind == 7 else np.frombuffer(b"".join(map(bytes, fields[raw])), number)
    return name, values.astype(np.float64).reshape(shape)


def _node(data: Any) -> tuple[str, list[str], list[str], dict[str, Any]]:
    """Operator, inputs, outputs and attributes of a node."""
    fields: dict[int, list[Any]] = {}
    for field, value in _fields(data):
        fields.setdefault(field, []).append(value)
    attributes: dict[str, Any] = {}
    for one in fields.get(5, []):
        parts: dict[int, list[Any]] = {}
        for field, value in _fields(one):
            parts.setdefault(field, []).append(value)
        kind = parts[20][0]
        if kind == 1:
            attributes[_text(parts[1][0])] = struct.unpack("<f", bytes(parts[2][0]))[0]
        elif kind in (2, 7):
            numbers = _whole(parts.get(3 if kind == 2 else 8, []))
            attributes[_text(parts[1][0])] = numbers[0] if kind == 2 else numbers
        elif kind == 3:
            attributes[_text(parts[1][0])] = bytes(parts[4][0])
        elif kind == 4:
            attributes[_text(parts[1][0])] = _tensor(parts[5][0])[1]
    return _text(fields[4][0]), *([_text(x) for x in fields.get(n, [])] for n in (1, 2)), attributes  # type: ignore[return-value]
