"""Running the file itself, for the check at the door: by onnxruntime when installed, else by onnx's own evaluator."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx_call import point_shape
from jacobound.importers.onnx_walk import Program, input_shape

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Original:
    """The file as a function of points (n, *in_shape) in its own number format, run one point at a time."""

    run: Run
    engine: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __call__(self, points: Tensor) -> Tensor:
        outputs = [self.run(point.numpy().reshape(self.shape)) for point in points]
        return torch.stack([torch.tensor(output).reshape(point_shape(output.shape)) for output in outputs])


def original(program: Program) -> Original:
    """What was imported, to be run by the engine at hand."""
    kind, shape = program.input.type.tensor_type.elem_type, input_shape(program)
    model = _model(program, kind, shape)
    dtype = torch.float32 if kind == TensorProto.FLOAT else torch.float64
    run = _by_onnxruntime(model)
    if run is not None:
        return Original(run, "onnxruntime", dtype, shape)
    return Original(
        _by_reference(model), "onnx.reference, whose own errors onnxruntime may not share: install that", dtype, shape
    )


def _model(program: Program, kind: int, shape: tuple[int, ...]) -> ModelProto:
    """The imported part of the file as a model of its own, for one point."""
    graph = helper.make_graph(
        [node for _, node in program.nodes],
        "imported",
        [helper.make_tensor_value_info(program.input.name, kind, shape)],
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
    # The model as it stands: rewriting it fails for some (padding before a pool is merged into the pool).
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
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
    known: list[type[OpRun]] = [BatchNormalization]
    if model.opset_import[0].version < 13:
        known += [Softmax, LogSoftmax]
        model = _with_axes(model)
    try:
        evaluator = ReferenceEvaluator(model, new_ops=known)
    except Exception as error:  # an operation that it does not know, in a branch that is not taken
        raise InvalidModelError(f"no engine at hand can run the model, so it can not be checked: {error}") from error
    name = model.graph.input[0].name

    def run(x: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):
                return np.asarray(next(iter(evaluator.run(None, {name: x}))))
        except Exception as error:
            raise InvalidModelError(f"the model can not be run for one point: {error}") from error

    return run


class BatchNormalization(OpRun):
    """Inference as every opset defines it; onnx's own evaluator updates the statistics below opset 14."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        epsilon: float = 1e-5,
        **unused: object,
    ) -> tuple[np.ndarray, ...]:
        del unused

        def per_channel(parameter: np.ndarray) -> np.ndarray:
            return parameter.reshape(-1, *(1 for _ in x.shape[2:]))

        factor = per_channel(scale) / np.sqrt(per_channel(variance) + np.asarray(epsilon, x.dtype))
        return ((x - per_channel(mean)) * factor + per_channel(bias),)


def _with_axes(model: ModelProto) -> ModelProto:
    """With the axis 1 written into Softmax where it is left out: the evaluator would take the default of today."""
    found = ModelProto()
    found.CopyFrom(model)
    for node in found.graph.node:
        if node.op_type in ("Softmax", "LogSoftmax") and not any(entry.name == "axis" for entry in node.attribute):
            node.attribute.append(helper.make_attribute("axis", 1))
    return found


class Softmax(OpRun):
    """Before opset 13, where an axis and all behind it are one; onnx's own evaluator takes that axis alone."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int = 1) -> tuple[np.ndarray, ...]:
        return (np.exp(_log_softmax(x, axis)),)


class LogSoftmax(OpRun):
    """The same for its logarithm."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int = 1) -> tuple[np.ndarray, ...]:
        return (_log_softmax(x, axis),)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Along an axis and all behind it together."""
    rows = x.reshape(*x.shape[: axis % x.ndim], -1)
    rows = rows - rows.max(-1, keepdims=True)
    return (rows - np.log(np.exp(rows).sum(-1, keepdims=True))).reshape(x.shape)
