"""The nodes of a graph: `Input`, `Affine`, `Elementwise`, `Product`; `Vector`, a function of all entries at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.activations.kinds.base import Activation
from jacobound.arithmetic.intervals import Interval
from jacobound.errors import ShapeError, UnsupportedOpError
from jacobound.operators.base import LinearOperator


@dataclass(frozen=True, eq=False)
class Input:
    """The point at which the network is evaluated.

    Args:
        shape: shape of one point, without batch.
        name: the name in the user's model.
    """

    shape: tuple[int, ...]
    name: str = "input"

    @property
    def sources(self) -> tuple[Node, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class Affine:
    """``sum_i operator_i(source_i) + bias``.

    Args:
        terms: pairs of an operator and the node it is applied to; at least one.
        bias: tensor of the node's shape, or None for zero.
        name: the name in the user's model.
        choice: what is known besides of a node that chooses among the entries of another one.
        beside: a function of an earlier node that has the same values, kept for what it knows of them.
    """

    terms: tuple[tuple[LinearOperator, Node], ...]
    bias: Tensor | None = None
    name: str = ""
    choice: Choice | None = None
    beside: Vector | None = None

    def __post_init__(self) -> None:
        for operator, source in self.terms:
            if operator.in_shape != source.shape:
                raise ShapeError(
                    f"node '{self.name}': operator {type(operator).__name__} takes {operator.in_shape}, "
                    f"but its source '{source.name}' has shape {source.shape}"
                )
            if operator.out_shape != self.shape:
                raise ShapeError(f"node '{self.name}': terms of shapes {operator.out_shape} and {self.shape}")
        if self.bias is not None and tuple(self.bias.shape) != self.shape:
            raise ShapeError(f"node '{self.name}': bias of shape {tuple(self.bias.shape)} for a node of {self.shape}")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.terms[0][0].out_shape

    def __repr__(self) -> str:
        return _told(self, " + ".join(type(operator).__name__ for operator, _ in self.terms))

    @property
    def sources(self) -> tuple[Node, ...]:
        return tuple(source for _, source in self.terms)


@dataclass(frozen=True, eq=False)
class Elementwise:
    """One activation applied to every entry of `source`; `beside` is as for `Affine`."""

    activation: Activation
    source: Node
    name: str = ""
    beside: Vector | None = None

    def __post_init__(self) -> None:
        _ = self.shape  # kept at once: asked for later, a long chain would recurse

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def __repr__(self) -> str:
        return _told(self, self.activation.name)

    @property
    def sources(self) -> tuple[Node, ...]:
        return (self.source,)


@dataclass(frozen=True, eq=False)
class Product:
    """``first * second``, entry by entry, for two nodes of one shape; `beside` is as for `Affine`."""

    first: Node
    second: Node
    name: str = ""
    beside: Vector | None = None

    def __post_init__(self) -> None:
        if self.first.shape != self.second.shape:
            raise ShapeError(f"node '{self.name}': factors of shapes {self.first.shape} and {self.second.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.shape

    def __repr__(self) -> str:
        return _told(self, "*")

    @property
    def sources(self) -> tuple[Node, ...]:
        return (self.first, self.second)


@dataclass(frozen=True, eq=False)
class Planes:
    """Linear functions below and above every entry of a node, in terms of the entries of its sources.

    Args:
        slopes: for every source of the node, in order, the slopes below and above: shape (N, *node shape), or
            (N, *source shape) where an entry of the node reads a whole row of its source.
        lower, upper: offsets, (N, *node shape); rigorous for these slopes.
    """

    slopes: tuple[tuple[Tensor, Tensor], ...]
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Some entries of the source of a function, and how much the function can change with them.

    Args:
        entries: bool mask of the source's shape.
        constant: certified, 0-d float64 on the CPU.
    """

    entries: Tensor
    constant: Tensor


class VectorFunction(ABC):
    """A function of all entries of a node at once.

    Attributes:
        in_shape, out_shape: shapes without leading axes.
        name: what users read: "maximum of 4".
        like: a tensor of the function's dtype and device.
        compares: whether it only compares and moves entries: an engine rounds nothing, and its expansion loses nothing.
        expands: whether there is an expansion in affine maps and activations alone.
        runs_expanded: whether an engine takes the steps of that expansion, so that their roundings are its own.
        lowers: whether `lower` finds nodes for it; only products of norms know what to do with one that has none.
        assumption: what constants take for granted of the source, as half a sentence; empty when nothing.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    name: str
    like: Tensor
    compares: bool = False
    expands: bool = False
    runs_expanded: bool = True
    lowers: bool = True
    assumption: str = ""

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """Plain torch evaluation, differentiable: (*lead, *in_shape) -> (*lead, *out_shape). An estimate."""

    @abstractmethod
    def range(self, x: Interval) -> Interval:
        """Certified enclosure of the values: (*lead, *in_shape) -> (*lead, *out_shape), in the dtype of x."""

    @abstractmethod
    def constant(self, p: float, x: Interval) -> Tensor:
        """Certified c with ``||f(a) - f(b)||_p <= c ||a - b||_p`` for all a and b in x; 0-d float64 on the CPU.

        Args:
            p: 1, 2 or inf.
            x: certified enclosure of the source, of shape in_shape, float64 on the CPU; ends may be infinite.
        """

    def parts(self, p: float, x: Interval) -> tuple[Part, ...]:
        """Lipschitz constants for disjoint parts of the source, when they differ: constants c_k of parts k with

        ``||f(a) - f(b)||_p <= sum_k c_k ||(a - b) on part k||_p`` for all a and b in x. Empty: nothing is known besides
        `constant`.
        """
        del p, x
        return ()

    def require(self, x: Interval, node: str) -> None:
        """Check that there is a useful constant over x, which is as in `constant`.

        Raises:
            InvalidRegionError: when there is none; names the node, the reason and what to do.
        """
        del x, node

    def expand(self, source: Node, name: str) -> Node:
        """This real function in affine and elementwise nodes.

        Raises:
            UnsupportedOpError: when there is none; the message names the node and what to do.
        """
        raise no_expansion(self, source, name, ())

    def lower(self, source: Node, name: str) -> Node:
        """This real function in nodes of which lines and slopes are known; products and log-sum-exp among them.

        Raises:
            UnsupportedOpError: when there are none.
        """
        return self.expand(source, name)

    def curvature(self, node: Node, ranges: Mapping[Node, Interval]) -> Tensor | None:
        """Certified c with ``0 <= J <= c I`` for the symmetric Jacobians of all rows; None where they are not.

        So it is for gradients of convex functions. Convex sets hold means of Jacobians too.

        Args:
            node: the node that stands for this function where it is lowered.
            ranges: enclosures of the nodes' values.

        Returns:
            (*lead, *rows): one number for each vector along the last axis.
        """
        del node, ranges
        return None

    def planes(self, x: Interval) -> Planes | None:
        """Linear functions below and above the values over x, (N, *in_shape); None when none are known."""
        del x
        return None

    def parallel_planes(self, x: Interval) -> Planes | None:
        """Planes of the same slopes below and above."""
        del x
        return None

    def derivative(self, node: Node, gates: Gates) -> Node | None:
        """The derivative of a node with this function's values, in gates; None: that of the nodes it is made of."""
        del node, gates
        return None

    def increment(self, node: Node, gates: Gates) -> Node | None:
        """This function for increments between two points; gates have the ranges of slopes of chords."""
        del node, gates
        return None

    @abstractmethod
    def structure(self) -> bytes:
        """What the function is, for hashes."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> VectorFunction:
        """A copy elsewhere."""


def no_expansion(function: VectorFunction, source: Node, name: str, names: Collection[str]) -> UnsupportedOpError:
    """The error for a function that is made of nothing else; says where a model could be cut before it."""
    before, whole = source, name.removesuffix(".rowwise")  # as importers call a function that works on moved rows
    while before.sources and (before.name.startswith(f"{whole}.") or before.name.endswith(".operands")):
        before = before.sources[0]
    cut = f"{before.name}#1" if f"{before.name}#2" in names else before.name
    return UnsupportedOpError(
        f"node '{name}': {function.name} is no combination of affine maps and activations, and where it would be one "
        "of too many products no method bounds the entries of a Jacobian through it. Take lipschitz(graph, region) "
        "without a method, or with AutoLip() or SeqLip(); for outputs IBP or CROWN, in real semantics; or import the "
        f"network up to this node (until={cut!r})"
    )


@dataclass(frozen=True, eq=False)
class Vector:
    """One `VectorFunction` of a node."""

    function: VectorFunction
    source: Node
    name: str = ""

    def __post_init__(self) -> None:
        if self.function.in_shape != self.source.shape:
            raise ShapeError(
                f"node '{self.name}': {self.function.name} takes {self.function.in_shape}, "
                f"but its source '{self.source.name}' has shape {self.source.shape}"
            )

    def __repr__(self) -> str:
        return _told(self, self.function.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.function.out_shape

    @property
    def sources(self) -> tuple[Node, ...]:
        return (self.source,)


class Choice(ABC):
    """A fact about an affine node ``a + relu(b - a)``: its entries are entries of `source`, which a gate chooses.

    Interval arithmetic on the terms forgets that a cancels; these two rules do not.

    Attributes:
        source: the node whose entries are compared.
        gate: the activation of the differences; nothing but the affine node reads it.
    """

    source: Node
    gate: Elementwise

    @abstractmethod
    def range(self, x: Interval) -> Interval:
        """The node's exact range when the entries of `source` vary freely within x: (N, *source shape) to its own."""

    @abstractmethod
    def adjoint(self, slope: Interval, behind: Interval) -> Interval:
        """What the derivatives by `source` owe to this node, through all of its terms.

        Args:
            slope: of the gate over N sets, shape (N, 1, *gate shape).
            behind: derivatives by the node, shape (N or 1, outputs, *node shape).

        Returns:
            Shape (N, outputs, *source shape).
        """

    @abstractmethod
    def rebuilt(self, source: Node, gate: Elementwise, device: torch.device) -> Choice:
        """This choice in a copy of the graph."""


class Gates(ABC):
    """What the derivative of a function is made of: tangents of earlier nodes, and gates that scale them.

    Attributes:
        ranges: enclosures of the nodes' values.
    """

    ranges: Mapping[Node, Interval]

    @abstractmethod
    def tangent(self, node: Node) -> Node:
        """The derivative of an earlier node."""

    @abstractmethod
    def gate(self, tangent: Node, factor: Node) -> Node:
        """A tangent times the value of a node of the same shape."""

    @abstractmethod
    def gate_within(self, tangent: Node, slope: Interval) -> Node:
        """A tangent times numbers of which only a range is known."""

    @abstractmethod
    def standing_for(self, function: VectorFunction, source: Node) -> Node | None:
        """The node that has the values of a function of another node, if there is one."""


Node = Input | Affine | Elementwise | Product | Vector


def _told(node: Node, what: str) -> str:
    """One line; sources by their names, which keeps long chains short."""
    sources = ", ".join(repr(source.name) for source in node.sources)
    return f"{type(node).__name__}({what}, {node.shape}, name={node.name!r}, of {sources})"


def size(node: Node) -> int:
    """Number of entries of a node."""
    return prod(node.shape)
