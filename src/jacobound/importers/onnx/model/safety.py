"""Reading an ONNX file that nobody vouches for: every size and place is checked before anything is allocated.

A model is data: nothing in it is executed, no file outside of its folder is opened, and a file that lies about itself
is refused with an `InvalidModelError` that says what is wrong with it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx.model.external import embed
from jacobound.importers.onnx.model.functions import inlined
from jacobound.importers.onnx.model.names import in_order
from jacobound.inputs.files import stored_bytes, unpacked
from jacobound.words import not_finite

LARGEST_FILE = 2**31 - 1  # the limit of protobuf itself
LARGEST_TENSOR = 2**28  # entries of a stored tensor: 2 GiB in float64
LARGEST_RESULT = 2**22  # entries of what an operation makes of little; a layer of 224 x 224 x 64 has 2^21.6
MOST_WORK = 2**35  # multiplications of one evaluation; VGG-16 has 2^34
LARGEST_WINDOWS = 2**28  # entries of the windows of a convolution or an average, together; channels are summed fast
OLDEST_OPSET = 7  # the first with numpy-style broadcasting

# Element types that an imported network may hold, and how many bytes one entry has in the file.
BYTES: Mapping[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.BOOL: 1,
}
FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT32: "int32_data",
    TensorProto.INT64: "int64_data",
    TensorProto.BOOL: "int32_data",
}
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)

# What other files begin with, and what to do with them.
IMPOSTORS = (
    (
        b"\x80",
        "a Python pickle",
        "unpickling runs code, so it is never opened; export the network with torch.onnx.export",
    ),
    (
        b"PK",
        "a zip archive (a PyTorch checkpoint, npz or Keras file)",
        "build the network in PyTorch and use from_torch, or export it with torch.onnx.export",
    ),
    (b"\x89HDF", "an HDF5 file", "export the network to ONNX"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run: git lfs pull"),
)


def element_type(number: int) -> str:
    """The name of an ONNX element type, for messages."""
    names = TensorProto.DataType.items()
    return next((name for name, value in names if value == number), f"type number {number}")


@dataclass(frozen=True, eq=False)
class File:
    """An ONNX file that was read and checked as far as that needs no knowledge of its operations.

    Args:
        subject: what it is called in messages.
        sha256: of the bytes as they were given, compressed or not; with weights beside it, of these bytes and the
            SHA-256 of what was read beside it.
        data: its bytes, decompressed, with all weights inside.
        model: the same as it is in the file.
        flat: with its own functions inserted, in an order in which nothing is read before it is made.
    """

    subject: str
    sha256: str
    data: bytes
    model: ModelProto
    flat: ModelProto


def read_model(source: str | os.PathLike[str] | bytes) -> File:
    """The model in a file or in bytes, after all checks that need no knowledge of its operations; gzip is read.

    Raises:
        InvalidModelError: when it is no ONNX model, is truncated, lies about sizes, or keeps weights outside of its
            folder.
    """
    if isinstance(source, bytes):
        given, folder, subject = source, None, "these bytes"
    else:
        given = stored_bytes(source, LARGEST_FILE, InvalidModelError)
        folder, subject = Path(source).parent, f"'{os.fspath(source)}'"
    data = unpacked(given, LARGEST_FILE, InvalidModelError, subject)
    if not data:
        raise InvalidModelError(f"{subject}: empty, not an ONNX model. Export it again")
    for start, what, advice in IMPOSTORS:
        if data.startswith(start):
            raise InvalidModelError(f"{subject}: this is {what}, not an ONNX model; {advice}")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InvalidModelError(
            f"{subject}: not an ONNX model, or truncated or damaged ({error}). Download or export it again"
        ) from error
    _check_texts(model, subject)
    digest = hashlib.sha256(given)
    beside = embed(_all_tensors(model), BYTES, folder)
    if beside is not None:
        digest.update(beside)
        data = model.SerializeToString()
    _check_model(model, subject)
    flat = in_order(inlined(model, subject), subject)
    if flat is not model:
        _check_model(flat, subject)
    return File(subject, digest.hexdigest(), data, model, flat)


def opset(model: ModelProto) -> int:
    """The version of the default operator set.

    Raises:
        InvalidModelError: when there is none, or it is older than 7 or newer than the installed `onnx` package.
    """
    versions = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if len(versions) != 1:
        raise InvalidModelError(f"the model names {len(versions)} versions of the ONNX operator set; it must name one")
    version = versions.pop()
    if version < OLDEST_OPSET:
        raise InvalidModelError(
            f"the model uses ONNX opset {version}; {OLDEST_OPSET} or later is needed. "
            "Convert it with onnx.version_converter.convert_version(model, 13)"
        )
    if version > onnx.defs.onnx_opset_version():
        raise InvalidModelError(
            f"the model uses ONNX opset {version}, the installed onnx {onnx.__version__} knows up to "
            f"{onnx.defs.onnx_opset_version()}; update the package onnx"
        )
    return version


def array(tensor: TensorProto, name: str) -> np.ndarray:
    """The values of a checked tensor.

    Raises:
        InvalidModelError: when its element type is not understood, it is empty, or an entry is NaN or plus infinity.
    """
    if tensor.data_type not in BYTES:
        raise InvalidModelError(f"{wrong_type(name, tensor.data_type)}")
    if (
        tensor.data_type in FLOATS and 0 in tensor.dims and len(tensor.dims) > 1
    ):  # an input left out may be of shape (0,)
        raise InvalidModelError(
            f"tensor '{name}' has shape {tuple(tensor.dims)} and no entries; export the model again"
        )
    values = numpy_helper.to_array(tensor)
    check_numbers(values, name)
    return values


def wrong_type(name: str, number: int) -> str:
    """What to say of a tensor whose elements are neither float32 nor float64 nor plain integers."""
    kind = element_type(number)
    advice = "export the unquantised float32 model" if "INT" in kind else "export the model in float32"
    return f"tensor '{name}' is {kind}; networks are understood in FLOAT and DOUBLE: {advice}"


def check_numbers(values: np.ndarray, name: str) -> None:
    """Refuse what no constant may hold: NaN and plus infinity. Minus infinity is refused where it is no mask."""
    if values.dtype.kind == "f" and not (values < np.inf).all():
        raise _not_finite(values, name)


def check_finite(values: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity by the name of the tensor."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _not_finite(values, name)


def _not_finite(values: np.ndarray, name: str) -> InvalidModelError:
    return InvalidModelError(not_finite(f"tensor '{name}'", nan=bool(np.isnan(values).any())))


def check_size(shape: tuple[int, ...], what: str, limit: int = LARGEST_TENSOR) -> None:
    """Refuse shapes that are no shapes or could not be held in memory, before anything is allocated."""
    if any(length < 0 for length in shape):
        raise InvalidModelError(f"{what} has shape {shape} with a negative length; the file is damaged")
    if prod(shape) > limit:
        raise InvalidModelError(f"{what} has shape {shape}: more than {limit} entries are not accepted here")


def check_work(count: int, what: str) -> None:
    """Refuse what would take minutes to evaluate once."""
    if count > MOST_WORK:
        raise InvalidModelError(f"{what} takes {count} multiplications; more than {MOST_WORK} are not accepted here")


def _check_texts(message: Message, subject: str) -> None:
    """Refuse names that are no text: protobuf hands them over as bytes, at any depth of the file."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for entry in [value] if isinstance(value, str | bytes | Message) else value:
            if isinstance(entry, Message):
                _check_texts(entry, subject)
            elif not isinstance(entry, str):
                raise InvalidModelError(
                    f"{subject}: the field '{field.name}' holds {entry!r:.60}, which is no text; "
                    "download or export it again"
                )


def _check_model(model: ModelProto, subject: str) -> None:
    if not model.HasField("graph") or not model.graph.node:
        raise InvalidModelError(f"{subject}: not an ONNX model, or one without operations. Export it again")
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise InvalidModelError(f"{subject}: tensor '{name}' is sparse; export the model with dense weights")
    names = set()
    for tensor in model.graph.initializer:
        if tensor.name in names:
            raise InvalidModelError(f"{subject}: two tensors are called '{tensor.name}'; the file is damaged")
        if not tensor.name or tensor.data_type == TensorProto.UNDEFINED:
            raise InvalidModelError(
                f"{subject}: tensor '{tensor.name}' has no name or no element type; export it again"
            )
        names.add(tensor.name)
    for name, tensor in _all_tensors(model):
        _check_tensor(tensor, name)


def _all_tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """All dense tensors of a model and of its functions."""
    yield from _tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _attribute_tensors(node)


def _tensors(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """All dense tensors of a graph, also those in attributes and inner graphs (nested 100 deep at most)."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        yield from _attribute_tensors(node)


def _attribute_tensors(node: NodeProto) -> Iterator[tuple[str, TensorProto]]:
    label = node.output[0] if node.output else node.name
    for attribute in node.attribute:
        if attribute.type in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
            raise InvalidModelError(f"attribute '{attribute.name}' of '{label}' is a sparse tensor; use dense ones")
        if attribute.HasField("t"):
            yield label, attribute.t
        for tensor in attribute.tensors:
            yield label, tensor
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _tensors(inner)


def _check_tensor(tensor: TensorProto, name: str) -> None:
    """Refuse bad shapes, and data that does not have the declared length."""
    if tensor.HasField("segment"):
        raise InvalidModelError(f"tensor '{name}' is stored in segments; save the model again with onnx.save")
    shape = tuple(tensor.dims)
    check_size(shape, f"tensor '{name}'")
    if tensor.data_type not in BYTES:
        return  # its use is refused by name in `array`; a part of the file that is not needed may hold anything
    entries, field = prod(shape), FIELDS[tensor.data_type]
    found = [kind for kind in sorted({*FIELDS.values(), "string_data", "uint64_data"}) if len(getattr(tensor, kind))]
    if tensor.HasField("raw_data"):
        complete = not found and len(tensor.raw_data) == entries * BYTES[tensor.data_type]
        held = f"{len(tensor.raw_data)} bytes"
    else:
        complete = found in ([], [field]) and len(getattr(tensor, field)) == entries
        held = f"{len(getattr(tensor, field))} entries"
    if not complete:
        raise InvalidModelError(
            f"tensor '{name}' says it has shape {shape} of {element_type(tensor.data_type)} but holds {held}"
            f"{' besides ' + ', '.join(found) if found else ''}; the file is damaged"
        )
