"""Running the file itself, for the check at the door: by onnxruntime when installed, else by onnx's own evaluator."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx_call import point_shape
from jacobound.importers.onnx_walk import Program

Run = Callable[[np.ndarray], np.ndarray]


def runner(program: Program, in_shape: tuple[int, ...]) -> tuple[Callable[[Tensor], Tensor], torch.dtype]:
    """A function from points (n, *in_shape) to outputs (n, *out) in the file's number format, one point at a time.

    Args:
        program: what was imported.
        in_shape: of a point.
    """
    kind = program.input.type.tensor_type.elem_type
    model = _model(program, kind, in_shape)
    run = _by_onnxruntime(model) or _by_reference(model)

    def original(points: Tensor) -> Tensor:
        outputs = [run(point.numpy()[None]) for point in points]
        return torch.stack([torch.tensor(output).reshape(point_shape(output.shape)) for output in outputs])

    return original, torch.float32 if kind == TensorProto.FLOAT else torch.float64


def _model(program: Program, kind: int, in_shape: tuple[int, ...]) -> ModelProto:
    """The imported part of the file as a model of its own, for a batch of one."""
    graph = helper.make_graph(
        [node for _, node in program.nodes],
        "imported",
        [helper.make_tensor_value_info(program.input.name, kind, (1, *in_shape))],
        [helper.make_empty_tensor_value_info(program.output)],
        list(program.weights.values()),
    )
    # Before version 4 stored tensors had to be listed as inputs too.
    version = min(max(program.ir_version, 4), onnx.IR_VERSION)
    return helper.make_model(graph, ir_version=version, opset_imports=[helper.make_opsetid("", program.version)])


def _by_onnxruntime(model: ModelProto) -> Run | None:
    """None when onnxruntime is absent or does not know the operations in this version and number format."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its exceptions share no base; the reference evaluator then decides
        return None
    name = model.graph.input[0].name

    def run(x: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run(None, {name: x})[0])
        except Exception as error:
            raise InvalidModelError(f"onnxruntime can not run the model for one point: {error}") from error

    return run


def _by_reference(model: ModelProto) -> Run:
    name = model.graph.input[0].name

    def run(x: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):
                return np.asarray(next(iter(ReferenceEvaluator(model).run(None, {name: x}))))
        except Exception as error:
            raise InvalidModelError(f"the model can not be run for one point: {error}") from error

    return run
