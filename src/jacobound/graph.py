"""`Graph`: a network as a small graph of affine and elementwise nodes.

Three kinds of node. `Input` is where the point enters. `Affine` is a sum of linear operators applied to other nodes,
plus a bias. `Elementwise` is one activation. Nodes compare by identity; a node used twice is one node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.activations.base import Activation
from jacobound.errors import InvalidModelError, ShapeError
from jacobound.execution import Execution
from jacobound.operator_kinds import Dense, Identity, convert_exactly
from jacobound.operators import LinearOperator


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
    """

    terms: tuple[tuple[LinearOperator, Node], ...]
    bias: Tensor | None = None
    name: str = ""

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

    @property
    def sources(self) -> tuple[Node, ...]:
        return tuple(source for _, source in self.terms)


@dataclass(frozen=True, eq=False)
class Elementwise:
    """One activation applied to every entry of `source`."""

    activation: Activation
    source: Node
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def sources(self) -> tuple[Node, ...]:
        return (self.source,)


Node = Input | Affine | Elementwise


def size(node: Node) -> int:
    """Number of entries of a node."""
    return prod(node.shape)


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: everything that `output` depends on.

    Args:
        output: the last node.
        checked: nodes whose weights are known to be finite, because another graph holds them.
        execution: which nodes stand for rounded values of an inference engine; None for real numbers throughout.

    Raises:
        InvalidModelError: when a weight is NaN or infinite, there is not exactly one input, or weights are spread
            over several devices or dtypes.
    """

    output: Node
    checked: frozenset[Node] = frozenset()
    execution: Execution | None = None

    def __post_init__(self) -> None:
        inputs = [node for node in self.nodes if isinstance(node, Input)]
        if len(inputs) != 1:
            raise InvalidModelError(
                f"a graph has exactly one input, this one has {len(inputs)} "
                f"({', '.join(node.name for node in inputs) or 'the output does not depend on it'})"
            )
        kinds = set()
        for node in self.nodes:
            for tensor in _tensors(node):
                kinds.add((tensor.device, tensor.dtype))
                if node not in self.checked and not torch.isfinite(tensor).all():
                    raise InvalidModelError(
                        f"node '{node.name}' has a NaN or infinite weight; nothing can be certified for this model. "
                        "Check the training run or the file"
                    )
        if len(kinds) > 1:
            raise InvalidModelError(
                f"weights live in {sorted(map(str, kinds))}; move the model to one device and dtype"
            )
        if any(dtype not in (torch.float32, torch.float64) for _, dtype in kinds):
            raise InvalidModelError(f"weights are {kinds}; convert them exactly to float64 first")

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, every node after its sources."""
        order: dict[Node, None] = {}
        stack: list[tuple[Node, bool]] = [(self.output, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                order[node] = None
            elif node not in order:
                stack.append((node, True))
                stack.extend((source, False) for source in reversed(node.sources))
        return tuple(order)

    @cached_property
    def input(self) -> Input:
        return next(node for node in self.nodes if isinstance(node, Input))

    @cached_property
    def consumers(self) -> Mapping[Node, tuple[Node, ...]]:
        """For each node the nodes that read it, in topological order, each once."""
        readers: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for source in dict.fromkeys(node.sources):
                readers[source].append(node)
        return {node: tuple(found) for node, found in readers.items()}

    @cached_property
    def crossings(self) -> tuple[Elementwise, ...]:
        """Elementwise nodes, other than the output, that every path from the input to the output goes through."""
        position = {node: k for k, node in enumerate(self.nodes)}
        found, reach = [], 0  # how far an edge goes that starts earlier
        for node in self.nodes:
            if isinstance(node, Elementwise) and reach <= position[node] and node is not self.output:
                found.append(node)
            reach = max([reach, *(position[reader] for reader in self.consumers[node])])
        return tuple(found)

    @cached_property
    def example(self) -> Tensor:
        """A tensor of the graph's dtype and device."""
        for node in self.nodes:
            if isinstance(node, Affine):
                return node.terms[0][0].example()
        return torch.zeros((), dtype=torch.float64)

    @property
    def device(self) -> torch.device:
        return self.example.device

    @property
    def dtype(self) -> torch.dtype:
        return self.example.dtype

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.input.shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.output.shape

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate in plain floating point: shape (*batch, *in_shape) -> (*batch, *out_shape). An estimate."""
        return self.values(x)[self.output]

    def values(self, x: Tensor) -> dict[Node, Tensor]:
        """The value of every node, in plain floating point (an estimate)."""
        if tuple(x.shape[x.dim() - len(self.in_shape) :]) != self.in_shape:
            raise ShapeError(f"the network takes points of shape {self.in_shape}, got {tuple(x.shape)}")
        x = x.to(device=self.device, dtype=self.dtype)
        found: dict[Node, Tensor] = {}
        for node in self.nodes:
            if isinstance(node, Input):
                found[node] = x
            elif isinstance(node, Elementwise):
                found[node] = node.activation.value(found[node.source])
            else:
                images = [operator.apply(found[source]) for operator, source in node.terms]
                found[node] = sum(images[1:], images[0]) if node.bias is None else sum(images, node.bias)
        return found

    def with_rows(self, rows: Tensor | None) -> Graph:
        """The graph followed by fixed combinations of its (flattened) outputs.

        Args:
            rows: shape (k, out_size): one class, a margin e_c - e_t, ...; None for all outputs.
        """
        output = self.output
        if len(output.shape) != 1:
            flatten = Identity(output.shape, (prod(output.shape),), self.example)
            output = Affine(((flatten, output),), name="flatten")
        if rows is not None:
            if rows.dim() != 2 or rows.shape[1] != prod(output.shape):
                raise ShapeError(
                    f"rows must have shape (k, {prod(output.shape)}), one column per output, not {tuple(rows.shape)}"
                )
            weight = convert_exactly(rows, self.device, self.dtype, "a row combination")
            output = Affine(((Dense(weight), output),), name="rows")
        return Graph(output, frozenset(self.nodes), self.execution)

    def with_affine_output(self) -> Graph:
        """The same network with an affine last node: derivatives start from there."""
        if isinstance(self.output, Affine):
            return self
        last = Identity(self.output.shape, self.output.shape, self.example)
        return Graph(Affine(((last, self.output),), name="output"), frozenset(self.nodes), self.execution)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Graph:
        """A copy elsewhere; refuses a dtype that cannot hold the weights exactly.

        Raises:
            UnsafeArithmeticError: when a weight would change.
        """
        device = self.device if device is None else torch.device(device)
        dtype = self.dtype if dtype is None else dtype
        moved: dict[Node, Node] = {}
        for node in self.nodes:
            if isinstance(node, Affine):
                terms = tuple((operator.to(device, dtype), moved[source]) for operator, source in node.terms)
                bias = None if node.bias is None else convert_exactly(node.bias, device, dtype, "a bias")
                moved[node] = Affine(terms, bias, node.name)
            elif isinstance(node, Elementwise):
                moved[node] = Elementwise(node.activation.to(device, dtype), moved[node.source], node.name)
            else:
                moved[node] = node
        return Graph(moved[self.output], execution=None if self.execution is None else self.execution.on(moved))

    @cached_property
    def single(self) -> Graph:
        """The same network in float32, made once.

        Raises:
            UnsafeArithmeticError: when a weight would change.
        """
        return self if self.dtype == torch.float32 else self.to(dtype=torch.float32)

    def table(self) -> Iterator[dict[str, object]]:
        """One row per node: name, kind, operators or activation, shape, parameters, sources."""
        for node in self.nodes:
            if isinstance(node, Affine):
                detail = " + ".join(type(operator).__name__ for operator, _ in node.terms)
            else:
                detail = node.activation.name if isinstance(node, Elementwise) else ""
            yield {
                "name": node.name,
                "kind": type(node).__name__,
                "detail": detail,
                "shape": node.shape,
                "parameters": sum(tensor.numel() for tensor in _tensors(node)),
                "sources": tuple(source.name for source in node.sources),
            }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over structure and weights: names the network in a certificate."""
        digest = hashlib.sha256()
        position = {node: k for k, node in enumerate(self.nodes)}
        for node, row in zip(self.nodes, self.table(), strict=True):
            digest.update(repr((row["kind"], row["detail"], row["shape"])).encode())
            digest.update(repr([position[source] for source in node.sources]).encode())
            for operator, _ in node.terms if isinstance(node, Affine) else ():
                digest.update(operator.structure())
            for tensor in _tensors(node):
                digest.update(tensor.detach().to("cpu", torch.float64).contiguous().numpy().tobytes())
        return digest.hexdigest()


def _tensors(node: Node) -> tuple[Tensor, ...]:
    """The weights of one node."""
    if isinstance(node, Affine):
        weights = tuple(tensor for operator, _ in node.terms for tensor in operator.parameters())
        return weights if node.bias is None else (*weights, node.bias)
    return node.activation.parameters if isinstance(node, Elementwise) else ()
