"""`Call` and `Traced`: one ONNX operation as its lowering sees it, and a tensor that depends on the input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.common import exact_weight
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.onnx.model.safety import check_finite


@dataclass(frozen=True, eq=False)
class Traced:
    """A tensor that depends on the network's input.

    Args:
        node: its node; the entries stand in the same order as in the ONNX tensor.
        shape: of the ONNX tensor, for a batch of one point.
        dtype: element type in the file; the node itself stands for real numbers.
    """

    node: Node
    shape: tuple[int, ...]
    dtype: np.dtype


Value = Traced | np.ndarray


def point_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the node for an ONNX tensor: without a leading axis of length one."""
    return shape[1:] if shape[:1] == (1,) else shape


@dataclass(frozen=True, eq=False)
class Call:
    """One operation with its inputs.

    Args:
        proto: as in the file.
        version: of the operator set.
        attributes: with defaults.
        inputs: None for optional ones that are left out.
        shapes: of the results, as ONNX's shape inference gives them.
        steps: builds the nodes.
        open_batch: the input's axis 0 has no fixed length, so that it holds a batch.
        made: for the nodes so far the operation that each is the result of.
    """

    proto: NodeProto
    version: int
    attributes: Mapping[str, object]
    inputs: tuple[Value | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    steps: AffineSteps
    open_batch: bool = False
    made: Mapping[Node, Call] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the first result: the new node gets it."""
        return self.proto.output[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0]

    def get(self, position: int) -> Value | None:
        """An input; None when it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def traced(self, position: int = 0) -> Traced:
        """An input that must depend on the network's input."""
        value = self.get(position)
        if not isinstance(value, Traced):
            raise UnsupportedOpError(f"Input {position} is a constant where a value of the network is expected.")
        return value

    def constant(self, position: int) -> np.ndarray | None:
        """An input that must not depend on the network's input; None when it is left out."""
        value = self.get(position)
        if isinstance(value, Traced):
            raise UnsupportedOpError(
                f"Its input '{self.proto.input[position]}' depends on the network's input; it must be a constant."
            )
        if value is not None:
            check_finite(value, self.proto.input[position])
        return value

    def addend(self, position: int) -> Tensor:
        """A constant that is added or put in, as float64; minus infinity is a number here, as masks have it."""
        value = self.get(position)
        if not isinstance(value, np.ndarray) or not np.isneginf(value).any():
            return self.needed(position)
        finite = np.where(np.isneginf(value), np.zeros_like(value), value)
        hidden = torch.tensor(np.isneginf(value))
        return self.exactly(finite, self.proto.input[position]).masked_fill(hidden, -math.inf)

    def weight(self, position: int) -> Tensor | None:
        """A constant input as float64, exactly."""
        value = self.constant(position)
        return None if value is None else self.exactly(value, self.proto.input[position])

    def needed(self, position: int) -> Tensor:
        """A constant input that may not be left out."""
        weight = self.weight(position)
        if weight is None:
            raise UnsupportedOpError(f"Its input {position} is missing.")
        return weight

    def exactly(self, value: np.ndarray, name: str) -> Tensor:
        """A constant of the file as float64."""
        return exact_weight(torch.tensor(value), name)

    def spread(self, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A constant broadcast to an ONNX shape, in the shape of its node."""
        self.fits(value, shape)
        return value.broadcast_to(shape).reshape(point_shape(shape)).clone()

    def fits(self, value: Tensor | Traced, shape: tuple[int, ...]) -> None:
        """Refuse an input that does not broadcast to an ONNX shape."""
        given = tuple(value.shape)
        rear = shape[len(shape) - len(given) :] if len(given) <= len(shape) else None
        if rear is None or any(have not in (1, want) for have, want in zip(given, rear, strict=True)):
            what = "constant" if isinstance(value, Tensor) else "input"
            raise UnsupportedOpError(f"Its {what} of shape {given} does not fit {shape}.")

    def widened(self, value: Traced) -> Node:
        """The node of an input broadcast to the shape of the result."""
        if value.shape == self.shape:
            return value.node
        target = self.shape
        self.fits(value, target)
        return self.steps.move(
            value.node,
            lambda x: x.reshape(value.shape).broadcast_to(target).reshape(point_shape(target)),
            f"{self.name}.expand",
        )

    def full(self, value: Traced) -> Node:
        """The node of an input in the shape of its ONNX tensor, a leading axis of length one included."""
        return self.steps.reshape(value.node, value.shape, f"{self.name}.full")

    def own_axes(self, value: Traced, axes: Iterable[int]) -> list[int]:
        """Axes of an ONNX tensor as axes of its node; the one that the node does not have is left out.

        Raises:
            UnsupportedOpError: when that one is the batch.
        """
        dropped = len(value.shape) - len(value.node.shape)
        found = sorted({axis % len(value.shape) for axis in axes})
        if dropped and 0 in found and self.open_batch:
            raise UnsupportedOpError("It mixes the points of a batch: it works along the batch axis.")
        return [axis - dropped for axis in found if axis >= dropped]

    def reduced_axes(self) -> list[int]:
        """The axes of the argument's node that a reduction works along."""
        value = self.traced()
        listed = self.constant(1) if len(self.inputs) > 1 else self.attributes.get("axes")
        given = [] if listed is None else [int(axis) for axis in np.ravel(np.asarray(listed))]
        whole = not given and not self.flag("noop_with_empty_axes")
        if self.proto.op_type.startswith("Global"):
            given, whole = list(range(2, len(value.shape))), False
        return self.own_axes(value, range(len(value.shape)) if whole else given)

    def result(self, node: Node, name: str | None = None) -> tuple[Value, ...]:
        """The only result; its node gets the shape that ONNX says."""
        return (self.shaped(node, 0, name),)

    def shaped(self, node: Node, position: int, name: str | None = None) -> Traced:
        """One of the results; its node gets the shape that ONNX says."""
        shape = self.shapes[position]
        if prod(node.shape) != prod(shape):
            raise UnsupportedOpError(f"Its result would have shape {node.shape}, where ONNX says {shape}.")
        called = name or self.proto.output[position]
        return Traced(self.steps.reshape(node, point_shape(shape), called), shape, self.dtype)

    @property
    def dtype(self) -> np.dtype:
        """Element type of the values of the network that enter."""
        return next(value.dtype for value in self.inputs if isinstance(value, Traced))

    def text(self, name: str, allowed: tuple[str, ...]) -> str:
        """A text attribute; refuses values that are not understood."""
        value = str(self.attributes.get(name, allowed[0]))
        if value not in allowed:
            raise UnsupportedOpError(f"Attribute {name}='{value}' is not understood; {' or '.join(allowed)} is.")
        return value

    def number(self, name: str, default: float = 0) -> float:
        """A number attribute, exactly as stored (a float32 number as a float64)."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise UnsupportedOpError(f"Attribute {name}={value!r} is not a number.")
        return value

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list attribute of the length of its default."""
        value = self.attributes.get(name)
        if value is None:
            return default
        found = tuple(int(entry) for entry in value)  # type: ignore[attr-defined]
        if len(found) != len(default):
            raise UnsupportedOpError(f"Attribute {name}={found} should have {len(default)} entries.")
        return found

    def flag(self, name: str) -> bool:
        return bool(self.number(name))
