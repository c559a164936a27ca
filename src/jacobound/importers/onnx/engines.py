"""Engines that run an ONNX file as it stands: onnxruntime where it is installed, else onnx's own evaluator."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx.inliner
from onnx import FunctionProto, ModelProto, NodeProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_average_pool import AveragePool_19
from onnx.reference.ops.op_lp_normalization import LpNormalization as OwnLpNormalization
from onnx.reference.ops.op_max_pool import MaxPool as OwnMaxPool
from onnx.reference.ops.op_resize import Resize as OwnResize

from jacobound.errors import InvalidModelError
from jacobound.importers.onnx.model.names import all_nodes, in_order

Run = Callable[[np.ndarray], np.ndarray]
Load = Callable[[bytes, str, str], Run]
"""From the bytes of a model and the names of its input and output to a function that runs it."""

ONNXRUNTIME = "onnxruntime"
REFERENCE = "onnx.reference, whose own errors onnxruntime may not share: install that"
# What onnxruntime says of files that are valid, but not for it: newer than itself, or options that it does not have.
UNABLE = ("ValidateOpsetForDomain", "IR version", "Exception during initialization")

# Attributes of recurrent operations that onnx's own evaluator does not read, or in part.
UNREAD = ("activations", "activation_alpha", "activation_beta", "clip", "input_forget")


class UnableError(Exception):
    """The engine is absent, or does not know the operations in this version and number format."""


def by_onnxruntime(data: bytes, source: str, result: str) -> Run:
    """The model in onnxruntime.

    Raises:
        UnableError: when onnxruntime is absent, or says that it has no implementation.
        InvalidModelError: when onnxruntime refuses the file.
    """
    if importlib.util.find_spec(ONNXRUNTIME) is None:
        raise UnableError(f"{ONNXRUNTIME} is not installed")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The model as it stands: rewriting it fails for some (padding before a pool is merged into the pool).
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base
        refused = type(error).__name__ in ("Fail", "InvalidGraph", "InvalidArgument", "InvalidProtobuf")
        if not refused or any(word in str(error) for word in UNABLE):
            raise UnableError(_short(error)) from error
        raise InvalidModelError(f"onnxruntime refuses the file: {_short(error)}; export it again") from error

    def run(x: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run([result], {source: x})[0])
        except Exception as error:
            raise InvalidModelError(f"onnxruntime can not run the model: {_short(error)}") from error

    return run


def by_reference(data: bytes, source: str, result: str) -> Run:
    """The model in onnx's own evaluator, with what it leaves out of functions and old operator sets written out.

    Raises:
        UnableError: when the evaluator does not know an operation, or leaves out what is written at it.
    """
    try:
        model = _written_out(ModelProto.FromString(data))
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:  # of the inliner
        raise UnableError(_short(error)) from error
    _require_read(model)
    known: list[type[OpRun]] = [BatchNormalization, MaxPool, AveragePool, Resize, LpNormalization]
    if any(entry.version < 13 for entry in model.opset_import if entry.domain in ("", "ai.onnx")):
        known += [Softmax, LogSoftmax]
    try:
        evaluator = ReferenceEvaluator(model, new_ops=known)
    except Exception as error:  # an operation that it does not know, in a branch that is not taken
        raise UnableError(_short(error)) from error

    def run(x: np.ndarray) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):
                return np.asarray(next(iter(evaluator.run([result], {source: x}))))
        except Exception as error:
            raise InvalidModelError(f"onnx's own evaluator can not run the model: {_short(error)}") from error

    return run


ENGINES: tuple[tuple[str, Load], ...] = ((ONNXRUNTIME, by_onnxruntime), (REFERENCE, by_reference))


def _short(error: Exception) -> str:
    """The first line of a foreign message, without numbers of its own."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line.rpartition("[ONNXRuntimeError] : ")[2][:300]


def _written_out(model: ModelProto) -> ModelProto:
    """In order, with functions inserted by onnx's own inliner: the evaluator can not run most that have attributes.

    The inliner forgets the defaults of a function's attributes, so they are written into the calls before. Softmax has
    the axis 1 written in where an old operator set means it: the evaluator takes the default of today.
    """
    found = ModelProto()
    found.CopyFrom(in_order(model, "the model"))
    functions = {_key(function): function for function in found.functions}
    for nodes in (found.graph.node, *(function.node for function in found.functions)):
        for node in all_nodes(nodes):
            function = functions.get(_key(node))
            if function is not None:
                given = {entry.name for entry in node.attribute}
                node.attribute.extend(entry for entry in function.attribute_proto if entry.name not in given)
    versions = {entry.domain: entry.version for entry in found.opset_import}
    for function in found.functions:
        for entry in function.opset_import:  # whose definitions are the same, or the file were refused
            entry.version = versions.get(entry.domain, entry.version)
        function.attribute.extend(entry.name for entry in function.attribute_proto)
        del function.attribute_proto[:]
    if found.functions:
        found = onnx.inliner.inline_local_functions(found)
    _write_axes(found)
    return found


def _write_axes(model: ModelProto) -> None:
    version = {entry.domain: entry.version for entry in model.opset_import}
    old = version.get("", version.get("ai.onnx", 0)) < 13
    for node in all_nodes([*model.graph.node, *(node for function in model.functions for node in function.node)]):
        if old and node.op_type in ("Softmax", "LogSoftmax") and not any(a.name == "axis" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("axis", 1))


def _require_read(model: ModelProto) -> None:
    """Refuse recurrent operations with attributes or inputs that onnx's evaluator takes and does not read."""
    for node in all_nodes(model.graph.node):
        if node.op_type not in ("RNN", "GRU", "LSTM"):
            continue
        unread = [
            entry.name for entry in node.attribute if entry.name in UNREAD and (entry.type != entry.INT or entry.i)
        ]
        unread += ["sequence_lens"] if len(node.input) > 4 and node.input[4] else []
        if unread:
            raise UnableError(f"onnx's own evaluator does not read {', '.join(unread)} of {node.op_type}")


def _key(thing: NodeProto | FunctionProto) -> tuple[str, str, str]:
    return thing.domain, thing.op_type if isinstance(thing, NodeProto) else thing.name, thing.overload


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


def _padded(x: np.ndarray, given: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a pool with the rule of padding written as pads.

    Raises:
        ValueError: for equal lengths with dilations, which engines read in different ways.
    """
    rule = given.get("auto_pad") or "NOTSET"
    if rule == "NOTSET":
        return given
    lengths, kernel = x.shape[2:], given["kernel_shape"]
    strides = given.get("strides") or [1] * len(lengths)
    front, behind = [0] * len(lengths), [0] * len(lengths)
    if rule != "VALID":
        if any(dilation != 1 for dilation in given.get("dilations") or ()):
            raise ValueError(f"a pool with auto_pad {rule} and dilations; install onnxruntime")
        given = {**given, "ceil_mode": 0}
        for k, (length, stride) in enumerate(zip(lengths, strides, strict=True)):
            missing = max((-(-length // stride) - 1) * stride + kernel[k] - length, 0)
            front[k] = (missing + (rule == "SAME_LOWER")) // 2
            behind[k] = missing - front[k]
    return {**given, "auto_pad": "NOTSET", "pads": front + behind}


class MaxPool(OwnMaxPool):
    """MaxPool by the general way of onnx's evaluator: its way for steps of 1 leaves pads out or swaps them."""

    op_domain = ""

    def _run(self, x: Any, **given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides")
        return self._max_pool(x, **_padded(x, {name: given.get(name) for name in names}))


class AveragePool(AveragePool_19):
    """AveragePool with rules of padding written as pads: onnx's evaluator forgets dilations in the length of those."""

    op_domain = ""

    def _run(self, x: Any, **given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super()._run(x, **_padded(x, given))


class Resize(OwnResize):
    """Resize, but not of aligned corners where a scaled length is not whole: onnx's evaluator aligns what is behind."""

    op_domain = ""

    def _run(self, x: Any, *inputs: Any, **given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        scales = inputs[1] if len(inputs) > 1 else None
        rule = given.get("coordinate_transformation_mode")
        if scales is not None and rule in ("align_corners", "tf_crop_and_resize"):
            lengths = [x.shape[axis] for axis in given.get("axes") or range(x.ndim)]
            if any(float(length * scale) % 1 for length, scale in zip(lengths, scales.ravel(), strict=False)):
                raise ValueError("Resize aligns the corners of a length that is not whole; install onnxruntime")
        return super()._run(x, *inputs, **given)


class LpNormalization(OwnLpNormalization):
    """LpNormalization by the norm of absolute values: onnx's evaluator sums the values themselves, where p is odd."""

    op_domain = ""

    def _run(self, x: Any, **given: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (np.copysign(super()._run(np.abs(x), **given)[0], x),)


class Softmax(OpRun):
    """Softmax before opset 13, where an axis and all behind it are one; onnx's own evaluator takes that axis alone."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int = 1) -> tuple[np.ndarray, ...]:
        return (np.exp(_log_softmax(x, axis)),)


class LogSoftmax(OpRun):
    """Log-softmax with the meaning of `Softmax` above."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: int = 1) -> tuple[np.ndarray, ...]:
        return (_log_softmax(x, axis),)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Along an axis and all behind it together."""
    rows = x.reshape(*x.shape[: axis % x.ndim], -1)
    rows = rows - rows.max(-1, keepdims=True)
    return (rows - np.log(np.exp(rows).sum(-1, keepdims=True))).reshape(x.shape)
