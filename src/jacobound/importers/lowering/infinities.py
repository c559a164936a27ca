"""Entries that a mask sets to minus infinity: what reads them gets exactly what is left, or they are refused.

Importers keep such entries as biases of minus infinity; a graph holds numbers only. Softmax of a row with k entries
left is the softmax of these k, and exactly 0 for the others; maxima leave them out; activations have their limit there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.copies import on_sources
from jacobound.graph.nodes import Affine, Elementwise, Node, Vector
from jacobound.graph.vector.comparisons import Maximum
from jacobound.graph.vector.rows import RowFunction
from jacobound.graph.vector.smooth import LogSoftmax, LogSumExp, Softmax
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Identity, Scale, Select

LIMITS: Final[Mapping[str, float]] = MappingProxyType(
    {"exp": 0.0, "relu": 0.0, "sigmoid": 0.0, "softplus": 0.0, "tanh": -1.0, "erf": -1.0, "softsign": -1.0}
)
"""Activations at minus infinity."""


class InfiniteError(UnsupportedOpError):
    """Something reads entries that are minus infinity and gives no numbers.

    Args:
        origin: the node that puts them in.
    """

    def __init__(self, reason: str, origin: Node) -> None:
        super().__init__(reason)
        self.origin = origin


def without_infinities(output: Node, like: Tensor) -> Node:
    """An elementwise function with numbers only; the node itself when there are no infinite entries before it.

    Raises:
        InfiniteError: when an infinite entry reaches the output, or what has no limit there; a row of a softmax with
            nothing left is one.
    """
    order = _ordered(output)
    if not any(isinstance(node, Affine) and node.bias is not None and bool(node.bias.isinf().any()) for node in order):
        return output
    rewriter = _Rewriter(like)
    for node in order:
        rewriter.take(node)
    if output in rewriter.gone:
        raise InfiniteError("Infinite entries reach the output.", rewriter.origin[output])
    return rewriter.moved[output]


@dataclass(eq=False)
class _Rewriter:
    """Nodes in order, each with its new form and the mask of entries that are minus infinity in the old one.

    Args:
        like: any float64 tensor on the device of the weights.
    """

    like: Tensor
    moved: dict[Node, Node] = field(default_factory=dict)
    gone: dict[Node, Tensor] = field(default_factory=dict)
    origin: dict[Node, Node] = field(default_factory=dict)

    def take(self, node: Node) -> None:
        """Find the new form of a node whose sources have theirs."""
        infinite = [source for source in node.sources if source in self.gone]
        if infinite:
            self.origin[node] = self.origin[infinite[0]]
        if isinstance(node, Affine):
            self._affine(node)
        elif not infinite:
            self.moved[node] = on_sources(node, self.moved, self.like.device)
        elif isinstance(node, Elementwise) and node.activation.name in LIMITS:
            self._limit(node, LIMITS[node.activation.name])
        elif isinstance(node, Vector) and isinstance(node.function, Softmax | LogSoftmax | LogSumExp):
            self._rows(node)
        elif isinstance(node, Vector) and isinstance(node.function, Maximum):
            self._largest(node, node.function)
        else:
            raise self._refusal(node, "has no number for them")

    def _refusal(self, node: Node, why: str) -> InfiniteError:
        return InfiniteError(f"'{node.name}' reads entries that are minus infinity and {why}.", self.origin[node])

    def _affine(self, node: Affine) -> None:
        mask = torch.zeros(node.shape, dtype=torch.bool, device=self.like.device)
        bias = node.bias
        if bias is not None and bool(bias.isinf().any()):
            self.origin.setdefault(node, node)
            if bool((bias == inf).any()):
                raise self._refusal(node, "plus infinity")
            mask = mask | (bias == -inf)
            bias = torch.where(mask, 0.0, bias)
        for operator, source in node.terms:
            if source in self.gone:
                mask = mask | self._through(node, operator, self.gone[source])
        if not bool(mask.any()):
            self.moved[node] = on_sources(node, self.moved, self.like.device)
            return
        if node.choice is not None:
            raise self._refusal(node, "compares them")
        terms = tuple((operator, self.moved[source]) for operator, source in node.terms)
        self.moved[node] = Affine(terms, None if bias is None or not bool(bias.any()) else bias, node.name)
        self.gone[node] = mask

    def _through(self, node: Affine, operator: LinearOperator, gone: Tensor) -> Tensor:
        """Where an operator puts infinite entries; factors must be positive."""
        if isinstance(operator, Identity):
            return gone.reshape(operator.out_shape)
        if isinstance(operator, Select):
            return (operator.index >= 0) & gone.flatten()[operator.index.clamp(min=0)]
        if isinstance(operator, Scale):
            least = operator.factor if operator.radius is None else operator.factor - operator.radius
            if bool((least.broadcast_to(gone.shape)[gone] > 0).all()):
                return gone
        raise self._refusal(node, "mixes them with others, or takes them times zero or a negative number")

    def _kept(self, node: Node, gone: Tensor, name: str) -> Affine:
        """A node with zeros in the place of entries that are gone."""
        return self._picked(node, torch.where(gone, -1, _places(gone)), name)

    def _picked(self, node: Node, index: Tensor, name: str) -> Affine:
        return Affine(((Select(index, node.shape, self.like), node),), None, name)

    def _limit(self, node: Elementwise, limit: float) -> None:
        gone = self.gone[node.source]
        found = Elementwise(node.activation, self._kept(self.moved[node.source], gone, f"{node.name}.left"), node.name)
        kept = self._kept(found, gone, f"{node.name}.masked")
        bias = torch.where(gone, self.like.new_full((), limit), 0.0) if limit else None
        self.moved[node] = Affine(kept.terms, bias, kept.name)

    def _rows(self, node: Vector) -> None:
        """A function of rows, those with as many entries left together."""
        source, gone = self.moved[node.source], self.gone[node.source]
        length = gone.shape[-1]
        kept, places = ~gone.reshape(-1, length), _places(gone).reshape(-1, length)
        counts = kept.sum(-1)
        if bool((counts == 0).any()):
            raise self._refusal(node, "has a row with nothing left, which is no number (softmax gives NaN there)")
        reduces = isinstance(node.function, LogSumExp)
        goal = _places(gone[..., :1]).reshape(-1, 1) if reduces else places
        terms: list[tuple[LinearOperator, Node]] = []
        bias = self.like.new_zeros(node.shape)
        for count in torch.unique(counts).tolist():
            rows = counts == count
            taken = places[rows][kept[rows]].reshape(-1, count)
            target = goal[rows] if reduces else goal[rows][kept[rows]].reshape(-1, count)
            part: Node = self._picked(source, taken, f"{node.name}.left{count}")
            if count == 1 and not reduces:
                if isinstance(node.function, Softmax):
                    bias.flatten()[target.flatten()] = 1.0
                continue
            if count > 1:
                function: type[RowFunction] = type(node.function)  # type: ignore[assignment]
                part = Vector(function(part.shape, self.like), part, f"{node.name}.of{count}")
            index = torch.full((bias.numel(),), -1, device=self.like.device)
            index[target.flatten()] = torch.arange(target.numel(), device=self.like.device)
            terms.append((Select(index.reshape(node.shape), part.shape, self.like), part))
        if not terms:
            nowhere = torch.full(tuple(node.shape), -1, device=self.like.device)
            terms.append((Select(nowhere, source.shape, self.like), source))
        self.moved[node] = Affine(tuple(terms), bias if bool(bias.any()) else None, node.name)
        if isinstance(node.function, LogSoftmax):
            self.gone[node] = gone

    def _largest(self, node: Vector, function: Maximum) -> None:
        """Candidates that are gone are absent."""
        gone, windows = self.gone[node.source].flatten(), function.windows
        kept = torch.where((windows < 0) | gone[windows.clamp(min=0)], -1, windows)
        none = (kept < 0).all(0)
        kept[0] = torch.where(none, windows.amax(0), kept[0])
        self.moved[node] = Vector(Maximum(kept, node.source.shape, self.like), self.moved[node.source], node.name)
        if bool(none.any()):
            self.gone[node] = none


def _places(mask: Tensor) -> Tensor:
    """Flat positions in the shape of a mask."""
    return torch.arange(mask.numel(), device=mask.device).reshape(mask.shape)


def _ordered(output: Node) -> list[Node]:
    """All nodes before one, each after its sources."""
    order: dict[Node, None] = {}
    stack = [(output, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order[node] = None
        elif node not in order:
            stack.append((node, True))
            stack.extend((source, False) for source in node.sources)
    return list(order)
