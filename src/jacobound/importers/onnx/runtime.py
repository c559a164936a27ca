"""The file itself as a function of points, for the check at the door: its own bytes in a second engine.

Operations that the output does not need are left out (an engine would run them all), and an output is added where the
file is cut; functions, operator sets and everything else stay as they are in the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import Tensor

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx.engines import ENGINES, Run, UnableError, by_onnxruntime
from jacobound.importers.onnx.model.names import needed
from jacobound.importers.onnx.model.safety import File
from jacobound.importers.onnx.model.types import check_types
from jacobound.importers.onnx.operations.call import point_shape
from jacobound.importers.onnx.walk import Program, input_shape, open_batch


@dataclass(frozen=True, eq=False)
class Original:
    """The file as a function of points (n, *in_shape) in its own number format.

    Args:
        run: maps one input tensor of the file to its output.
        engine: what runs it.
        dtype: of the points.
        shape: of the input tensor for one point.
        batched: whether the file takes several points at once.
    """

    run: Run
    engine: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    batched: bool

    def __call__(self, points: Tensor) -> Tensor:
        """One point at a time."""
        outputs = [self.run(point.numpy().reshape(self.shape)) for point in points]
        return torch.stack([torch.tensor(output).reshape(point_shape(output.shape)) for output in outputs])

    def together(self, points: Tensor) -> Tensor:
        """All points at once, as one batch.

        Raises:
            InvalidModelError: when the output is not one entry for each point.
        """
        output = self.run(points.numpy().reshape(len(points), *self.shape[1:]))
        single = self.run(points[:1].numpy().reshape(self.shape))
        if not output.ndim or output.shape[0] % len(points) or output.size != len(points) * single.size:
            raise InvalidModelError(
                f"the file maps one point to an output of shape {single.shape}, and {len(points)} points to one of "
                f"{output.shape}: it does not treat the points of a batch alike. Export it for a batch of one"
            )
        return torch.tensor(output).reshape(len(points), *point_shape(single.shape))


def original(file: File, program: Program, until: str | None) -> Original:
    """What was imported, to be run by the engine at hand.

    Raises:
        InvalidModelError: when onnxruntime refuses the file, or no engine can run it.
    """
    if until is None:
        _require_valid(file, program)
    kind, shape = program.input.type.tensor_type.elem_type, input_shape(program)
    data = _data(file, program, until)
    run, engine = _loaded(data, program)
    run(np.zeros(shape, dtype=np.float32 if kind == TensorProto.FLOAT else np.float64))  # what can not be run says so
    dtype = torch.float32 if kind == TensorProto.FLOAT else torch.float64
    batched = open_batch(program) and _takes_batches(run, shape, dtype)
    if program.output not in _tensors(file.model):
        _require_same(file, program, shape, dtype)
    return Original(run, engine, dtype, shape, batched)


def _require_valid(file: File, program: Program) -> None:
    """Refuse what onnxruntime refuses; without it, what the definitions of the operations tell."""
    try:
        by_onnxruntime(file.data, program.input.name, program.output)
    except UnableError:
        check_types(file.flat, file.subject)


def _loaded(data: bytes, program: Program) -> tuple[Run, str]:
    reasons: list[str] = []
    for name, load in ENGINES:
        try:
            return load(data, program.input.name, program.output), name
        except UnableError as error:
            reasons.append(str(error))
    raise InvalidModelError(
        f"no engine at hand can run the model, so it can not be checked: {'; '.join(reasons)}. Install onnxruntime"
    )


def _tensors(model: ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


def _data(file: File, program: Program, until: str | None) -> bytes:
    """The bytes of the file when its output needs all of them, else of the part that is needed."""
    model = file.model if program.output in _tensors(file.model) else file.flat
    nodes = list(model.graph.node)
    kept = needed(nodes, program.output)
    part = ModelProto()
    part.CopyFrom(model)
    entry = next(entry for entry in part.graph.input if entry.name == program.input.name)
    first = entry.type.tensor_type.shape.dim[0]
    nothing = first.HasField("dim_value") and first.dim_value == 0  # how some exporters leave the batch open
    stored = {tensor.name for tensor in model.graph.initializer}
    unused = [entry for entry in part.graph.input if entry.name not in stored and entry.name != program.input.name]
    if until is None and len(kept) == len(nodes) and not nothing and not unused:
        return file.data
    for other in unused:
        part.graph.input.remove(other)
    if nothing:
        first.Clear()
    copies = [NodeProto.FromString(nodes[k].SerializeToString()) for k in kept]
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(copies)
    part.graph.output.append(helper.make_empty_tensor_value_info(program.output))
    return part.SerializeToString()


def _takes_batches(run: Run, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether several points are taken at once: some files write the length 1 into a shape."""
    try:
        run(torch.zeros(2, *shape[1:], dtype=dtype).numpy())
    except InvalidModelError:
        return False
    return True


def _require_same(file: File, program: Program, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Compare the file with what was made of it by inserting functions, where the cut is inside of one.

    Raises:
        InvalidModelError: when they differ, or can not be run.
    """
    if len(file.model.graph.output) == 0:
        raise InvalidModelError(f"{file.subject}: declares no output")
    output = file.model.graph.output[0].name
    x = np.random.default_rng(0).standard_normal(prod(shape)).reshape(shape)
    x = x.astype(np.float32 if dtype == torch.float32 else np.float64)
    found: list[np.ndarray] = []
    for data in (file.data, file.flat.SerializeToString()):
        part = Program(program.version, program.input, program.nodes, program.weights, output)
        found.append(_loaded(data, part)[0](x))
    if not np.array_equal(*found, equal_nan=True):
        raise InvalidModelError(
            f"{file.subject}: with its functions inserted it has other values; cut it at a tensor of its main graph"
        )
