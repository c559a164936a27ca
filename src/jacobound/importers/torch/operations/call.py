"""`Call`: one operation of a traced module with its arguments looked up, and what the rules ask of it.

Values are nodes (they depend on the input; their shapes have no batch axis) or tensors (they do not; they are as the
model holds them), numbers, and lists of those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.common import exact_weight
from jacobound.importers.lowering.steps import MIXED, AffineSteps

Value = Any
"""A node, a constant tensor, a number, `Absent`, or a list of those."""

PRODUCT: Final = "It multiplies two values that both depend on the input."


@dataclass(frozen=True)
class Absent:
    """A result that no node can stand for (the position of a maximum); whatever uses it is refused for the reason."""

    reason: str


@dataclass(frozen=True, eq=False)
class Turned:
    """A value whose points do not lie along the first axis; further movements may bring them back there.

    Args:
        sources: nodes and constants that it is moved from.
        run: the movement, on one tensor for each source with the batch axis in front.
        error: what to raise when anything else uses it.
        shape: as the model holds it.
    """

    sources: tuple[Value, ...]
    run: Callable[..., Any]
    error: Exception
    shape: tuple[int, ...]


TRAINING: Final = (
    "it behaves as in training although the module is in evaluation mode. Pass training=self.training to the function "
    "(F.dropout and F.rrelu leave nothing to module.eval() otherwise), or use the layer of torch.nn"
)

INFINITE: Final = (
    "It gives infinite entries, as masks with -inf do, and only numbers can be bounded. Softmax, log-softmax, maxima "
    "and activations with a limit there understand masks; a limit at infinity can be left out; a large negative number "
    "in the place of -inf is another network, but one that can be certified."
)

TRAINING_ONLY: Final = Absent("It uses a value that an operation returns for training only.")
POSITIONS: Final = Absent("It uses the positions that another operation found, which jump when the input changes.")


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of the traced module with its arguments looked up.

    Args:
        op: overload name, "aten.linear.default".
        target: the operation itself, to be run on tensors of positions.
        args, kwargs: values.
        steps: builds nodes.
        name: name for the resulting node.
        result: what torch says of the result: a tensor without data, or a list of those.
    """

    op: str
    target: Callable[..., Any]
    args: tuple[Value, ...]
    kwargs: Mapping[str, Value]
    steps: AffineSteps
    name: str
    result: Any

    def argument(self, position: int, keyword: str, default: Value = None) -> Value:
        """An argument that torch may pass by position, by keyword or not at all."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(keyword, default)

    @property
    def front(self) -> int:
        """Number of batch axes: 0 or 1."""
        return 0 if self.steps.batch is None else 1

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Shape of the result (of the first one of several) as the model holds it."""
        return tuple((self.result[0] if isinstance(self.result, (list, tuple)) else self.result).shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """`full_shape` without batch axis."""
        return self.point(self.full_shape)

    def point(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape of the model's own tensors without its batch axis."""
        if self.front and (not shape or shape[0] != self.steps.batch):
            raise UnsupportedOpError(MIXED)
        return shape[self.front :]

    def axis(self, dim: int, axes: int) -> int:
        """A node's axis for the model's axis `dim`, when the model's tensor has `axes` of them."""
        axis = dim % max(axes, 1) - self.front
        if axis < 0:
            raise UnsupportedOpError(MIXED)
        return axis

    def rank(self, value: Node | Tensor) -> int:
        """Number of axes of the model's own tensor."""
        return value.dim() if isinstance(value, Tensor) else len(value.shape) + self.front

    def weight(self, value: Value, label: str = "weight") -> Tensor:
        """A constant tensor as float64."""
        if is_node(value):
            raise UnsupportedOpError(PRODUCT)
        return exact_weight(self._finite(value), f"{self.name}.{label}")

    def _finite(self, constant: Tensor) -> Tensor:
        if bool(constant.isinf().any()):
            raise UnsupportedOpError(INFINITE)
        return constant

    def optional(self, value: Value, label: str) -> Tensor | None:
        return None if value is None else self.weight(value, label)

    def operand(self, value: Value) -> Tensor:
        """A constant operand as the float that the model computes with, in float64, for the shape of the result."""
        tensor = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64)
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
            tensor = exact_weight(self._finite(tensor), f"constant of {self.name}")
        return self.steps.constant(tensor.to(self.result.dtype), self.shape)

    def addend(self, value: Value) -> Tensor:
        """`operand` that may hold minus infinity, as masks do."""
        tensor = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64)
        gone = tensor == -math.inf
        if not tensor.dtype.is_floating_point or not bool(gone.any()):
            return self.operand(value)
        finite = self.operand(tensor.masked_fill(gone, 0.0))
        return finite.masked_fill(self.steps.constant(gone.double(), self.shape) > 0, -math.inf)

    def node(self, value: Node) -> Node:
        """A node broadcast to the shape of the result."""
        if len(value.shape) == len(self.shape):
            return self.steps.expand(value, self.shape, f"{self.name}.expand")
        # Fewer axes: torch aligns the last ones, so a batch axis would meet another axis.
        full = self.full_shape
        return self.steps.move(value, lambda x: x.broadcast_to(full), f"{self.name}.expand")

    def number(self, value: float) -> float:
        """A Python number as the module computes with it: rounded to the dtype of the result."""
        return torch.tensor(float(value), dtype=self.result.dtype).item()

    def retarget(self, op: str, *args: Value) -> Call:
        """The call of another operation with the same result, for rules that rest on another rule."""
        return replace(self, op=op, args=args, kwargs={})


Rule = Callable[[Call], Value]
"""What one operation becomes; called when at least one argument is a node."""


def is_node(value: Value) -> bool:
    """Whether a value depends on the input."""
    return isinstance(value, Node)


def map_values(value: Value, function: Callable[[Value], Value]) -> Value:
    """Apply a function to every leaf of nested lists, tuples and dictionaries."""
    if isinstance(value, (list, tuple)):
        return [map_values(entry, function) for entry in value]
    if isinstance(value, Mapping):
        return {key: map_values(entry, function) for key, entry in value.items()}
    return function(value)


def leaves(value: Value) -> list[Value]:
    """All leaves of nested lists, tuples and dictionaries."""
    found: list[Value] = []
    map_values(value, found.append)
    return found
