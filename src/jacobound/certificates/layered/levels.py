"""A graph as a chain of levels: what is alive at once is one state, of which neurons act on a part.

An elementwise node reads an affine map of earlier ones. In the order of the graph the state in front of a level holds
the values that something later still reads; behind it stand the new values in place of those that nothing reads any
more. So a skip and its branch are one state, and a graph that is no chain becomes a chain of wider layers: rows of a
layer are those of the new values and, for what passes by, those of the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.constants.affine_folding import Folding
from jacobound.errors import UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.operators.kinds import Identity
from jacobound.operators.norms import Chain


@dataclass(frozen=True, eq=False)
class Level:
    """One step of a graph from a state to the next.

    Args:
        node: the new values: an elementwise node, the output, or an affine node with very many paths.
        parts: the map to them (to the argument of the neurons) as sums of products of operators, by what they read.
        passing: the nodes behind `node` in the next state, in order.
    """

    node: Node
    parts: Mapping[Node, tuple[Chain, ...]]
    passing: tuple[Node, ...] = ()

    @property
    def neurons(self) -> Elementwise | None:
        """What acts on the new values."""
        return self.node if isinstance(self.node, Elementwise) else None

    @property
    def state(self) -> tuple[Node, ...]:
        """The nodes whose values stand side by side behind this level."""
        return (self.node, *self.passing)


def identity_rows(node: Node, state: Sequence[Node], width: Callable[[Node], int]) -> Tensor:
    """The rows of a layer for a node that passes by, float64.

    Args:
        state: what stands side by side in front of the layer.
        width: how many entries of a node there are.
    """
    same = torch.eye(width(node), dtype=torch.float64)
    return torch.cat([same if one is node else same.new_zeros(len(same), width(one)) for one in state], 1)


def levels(graph: Graph) -> tuple[Level, ...]:
    """The levels of a graph of affine and elementwise nodes; the last one ends at the output, on which nothing acts.

    Raises:
        UnsupportedOpError: when a node is neither; names it.
    """
    folding = Folding(graph)
    found = list[tuple[Node, Mapping[Node, tuple[Chain, ...]]]]()
    roots = {root for parts in folding.parts.values() for root in parts if isinstance(root, Affine)}
    for node in graph.nodes:
        if isinstance(node, Input):
            continue
        if isinstance(node, Elementwise):
            found.append((node, _parts(folding, node.source, roots)))
        elif not isinstance(node, Affine):
            raise UnsupportedOpError(f"node '{node.name}' is neither affine nor elementwise; expand the graph first")
        elif node in roots:
            found.append((node, folding.parts[node]))
    last = graph.output
    if isinstance(last, Affine) and last not in roots:
        found.append((last, folding.parts[last]))
    else:  # a map behind the last neurons, which is the identity
        same: Chain = (Identity(last.shape, last.shape, graph.example),)
        found.append((Affine(((same[0], last),), None, last.name), {last: (same,)}))
    return _with_passing(found, graph)


def _parts(folding: Folding, source: Node, roots: Container[Node]) -> Mapping[Node, tuple[Chain, ...]]:
    if isinstance(source, Affine) and source not in roots:
        return folding.parts[source]
    return {source: ((Identity(source.shape, source.shape, folding.graph.example),),)}


def _with_passing(found: list[tuple[Node, Mapping[Node, tuple[Chain, ...]]]], graph: Graph) -> tuple[Level, ...]:
    """Levels with what each hands on."""
    read: set[Node] = set()
    passing: list[tuple[Node, ...]] = []
    for node, parts in reversed(found):
        passing.append(tuple(one for one in (graph.input, *(other for other, _ in found)) if one in read))
        read = (read - {node}) | set(parts)
    levels = []
    for (node, parts), later in zip(found, reversed(passing), strict=True):
        levels.append(Level(node, parts, tuple(one for one in later if one is not node)))
    return tuple(levels)
