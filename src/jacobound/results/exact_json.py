"""Values as JSON that loses no bit: floats in hexadecimal, tensors as their bytes, and what is read back strictly.

Only data: numbers, text, tensors, lists, mappings, and the dataclasses that the reader names. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import hashlib
import json
import math
import types
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from jacobound.errors import InvalidResultError, JacoboundError

DTYPES = {"float64": "<f8", "float32": "<f4", "int64": "<i8", "int32": "<i4", "uint8": "|u1", "bool": "|b1"}
DEEPEST = 50  # of lists in each other

Kinds = Mapping[str, type]


def encoded(value: Any) -> Any:
    """JSON of a value that `decoded` turns into the same value, bit for bit (tensors come back on the CPU).

    Raises:
        InvalidResultError: for what is none of the known kinds of data.
    """
    if value is None or isinstance(value, bool | str) or (isinstance(value, int) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        return {"float": float(value).hex()}
    if isinstance(value, Tensor):
        return _encoded_tensor(value)
    if isinstance(value, enum.Enum):
        return {"enum": type(value).__name__, "name": value.name}
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    if isinstance(value, Fraction):
        return {"fraction": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [encoded(item) for item in value]}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, Mapping):
        return {"mapping": [[encoded(key), encoded(item)] for key, item in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: encoded(getattr(value, one.name)) for one in dataclasses.fields(value) if one.init}
        return {"kind": type(value).__name__, "fields": fields}
    raise InvalidResultError(f"a {type(value).__name__} is no data that JSON can hold exactly")


def digest(exact: Any) -> str:
    """SHA-256 of what `encoded` made of a value: bits of a NaN show nowhere else."""
    return hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()


def _encoded_tensor(value: Tensor) -> dict[str, Any]:
    array = value.detach().cpu().contiguous().numpy()
    name = str(value.dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise InvalidResultError(f"a tensor of {value.dtype} is no data that JSON can hold exactly")
    data = base64.b64encode(array.astype(DTYPES[name], copy=False).tobytes()).decode("ascii")
    return {"tensor": data, "dtype": name, "shape": list(value.shape)}


def decoded(value: Any, kinds: Kinds, depth: int = 0) -> Any:
    """The value that was encoded.

    Args:
        value: as `json.loads` gives it.
        kinds: dataclasses and enumerations by name.

    Raises:
        InvalidResultError: when it is nothing that `encoded` makes; says what.
    """
    if depth > DEEPEST:
        raise InvalidResultError(f"lists more than {DEEPEST} deep are no result")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list):
        return [decoded(item, kinds, depth + 1) for item in value]
    if not isinstance(value, dict):
        raise InvalidResultError(f"{value!r} stands where exact data should: numbers are {{'float': '0x1.8p+1'}}")
    match value:
        case {"float": str(text)} if len(value) == 1:
            return _number(float.fromhex, text)
        case {"decimal": str(text)} if len(value) == 1:
            return _number(Decimal, text)
        case {"fraction": str(text)} if len(value) == 1:
            return _number(Fraction, text)
        case {"tensor": str(text), "dtype": str(dtype), "shape": list(shape)} if len(value) == 3:
            return _tensor(text, dtype, shape)
        case {"tuple": list(items)} if len(value) == 1:
            return tuple(decoded(item, kinds, depth + 1) for item in items)
        case {"mapping": list(items)} if len(value) == 1:
            return _mapping(items, kinds, depth)
        case {"enum": str(kind), "name": str(name)} if len(value) == 2:
            found = kinds.get(kind)
            if found is None or not issubclass(found, enum.Enum) or name not in found.__members__:
                raise InvalidResultError(f"there is no {kind[:80]!r} called {name[:80]!r}")
            return found[name]
        case {"kind": str(kind), "fields": dict(fields)} if len(value) == 2:
            return _object(kind, {name: decoded(item, kinds, depth + 1) for name, item in fields.items()}, kinds)
    raise InvalidResultError(f"an entry with the names {sorted(map(str, value))[:6]} is no exact data")


def _number(make: Any, text: str) -> Any:
    try:
        return make(text)
    except (ValueError, ArithmeticError, InvalidOperation) as error:
        raise InvalidResultError(f"{text[:80]!r} is no number") from error


def _tensor(text: str, dtype: str, shape: list[Any]) -> Tensor:
    if dtype not in DTYPES or not all(type(side) is int and side >= 0 for side in shape):
        raise InvalidResultError(f"a tensor of {dtype[:80]!r} with the shape {str(shape)[:80]} is none")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidResultError(f"the bytes of a tensor are no base64: {error}") from error
    kind = np.dtype(DTYPES[dtype])
    if math.prod(shape) * kind.itemsize != len(data):
        raise InvalidResultError(f"a tensor of shape {str(shape)[:80]} has {len(data)} bytes; the text is damaged")
    array = np.frombuffer(data, kind).astype(kind.newbyteorder("="))
    if dtype == "bool" and len(data) and max(data) > 1:
        raise InvalidResultError("a tensor of truth values holds other numbers; the text is damaged")
    try:
        return torch.from_numpy(array).reshape(shape)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise InvalidResultError(f"a tensor can not have the shape {str(shape)[:80]}") from error


def _mapping(items: list[Any], kinds: Kinds, depth: int) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for item in items:
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str) or item[0] in found:
            raise InvalidResultError("a mapping is a list of pairs of a name, once each, and a value")
        found[item[0]] = decoded(item[1], kinds, depth + 1)
    return found


def _object(kind: str, fields: dict[str, Any], kinds: Kinds) -> Any:
    cls = kinds.get(kind)
    if cls is None or not dataclasses.is_dataclass(cls):
        raise InvalidResultError(f"there is no kind of data called {kind[:80]!r}; a newer version may have written it")
    wanted = {one.name for one in dataclasses.fields(cls) if one.init}
    if set(fields) != wanted:
        wrong = sorted(map(str, wanted ^ set(fields)))
        raise InvalidResultError(f"{kind}: the entries {', '.join(wrong)[:200]} are missing or not known")
    hints = get_type_hints(cls)
    for name in wanted:
        if not fits(fields[name], hints[name]):
            raise InvalidResultError(f"{kind}: '{name}' is a {type(fields[name]).__name__}, which it can not be")
    try:
        return cls(**fields)
    except JacoboundError as error:
        raise InvalidResultError(f"{kind}: {error}") from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, for the annotations that data use."""
    if hint is Any or hint is object:
        return True
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(item, arguments[1]) for item in value.values())
    if origin is not None:
        return isinstance(value, tuple | list)
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is type(None) else isinstance(value, hint)


def strict_json(text: str | bytes) -> Any:
    """What JSON text holds; names stand once, and there are no NaN and infinities.

    Raises:
        InvalidResultError: when it is no such text.
    """
    if not isinstance(text, str | bytes | bytearray):
        raise InvalidResultError(f"JSON is text, not a {type(text).__name__}")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidResultError("a name stands twice in the JSON text")
        return found

    def refuse(constant: str) -> None:
        raise InvalidResultError(f"{constant} is no strict JSON; infinities are written as text")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidResultError):
            raise
        raise InvalidResultError(f"this is no JSON text: {error}") from error
