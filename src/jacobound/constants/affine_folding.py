"""Edges of a graph as products of norms see them: node by node, or with adjacent affine nodes folded into one map.

A step leads from the nodes it reads to one node. In the folded view an affine node is written as a sum of products of
operators applied to nodes that are not affine, so that ``x + W x`` is one map ``I + W`` and a scale joins its layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Node
from jacobound.operators.kinds import Dense, Select
from jacobound.operators.norms import Chain

# An affine node with more chains than that stays a node of its own in the folded view.
MOST_CHAINS = 8

Parts = Mapping[Node, tuple[Chain, ...]]


def direct_parts(node: Affine) -> Parts:
    """The operators of an affine node by source; several terms of one source are one sum."""
    found: dict[Node, tuple[Chain, ...]] = {}
    for operator, source in node.terms:
        found[source] = (*found.get(source, ()), (operator,))
    return found


@dataclass(frozen=True, eq=False)
class Folding:
    """The folded view of a graph."""

    graph: Graph

    @cached_property
    def parts(self) -> Mapping[Affine, Parts]:
        """Every affine node as sums of chains applied to roots."""
        found: dict[Affine, Parts] = {}
        for node in self.graph.nodes:
            if isinstance(node, Affine):
                chains: dict[Node, tuple[Chain, ...]] = {}
                for operator, source in node.terms:
                    for root, before in self._of_source(source, found).items():
                        chains[root] = (*chains.get(root, ()), *((*chain, operator) for chain in before))
                found[node] = chains
        return found

    def _of_source(self, source: Node, found: Mapping[Affine, Parts]) -> Parts:
        if isinstance(source, Affine):
            parts = found[source]
            if sum(len(chains) for chains in parts.values()) <= MOST_CHAINS:
                return parts
        return {source: ((),)}

    @cached_property
    def targets(self) -> frozenset[Node]:
        """Affine nodes that stay in the folded view: read by something else, a root of another one, or the output."""
        roots = {root for parts in self.parts.values() for root in parts if isinstance(root, Affine)}
        readers = {source for node in self.graph.nodes if not isinstance(node, Affine) for source in node.sources}
        return frozenset(node for node in self.parts if node in roots or node in readers or node is self.graph.output)


def groups_of(masks: Sequence[Tensor]) -> list[list[int]]:
    """Numbers of masks of one shape, gathered into groups such that masks overlap within groups only."""
    groups: list[tuple[list[int], Tensor]] = []
    for number, mask in enumerate(masks):
        joined, members = mask, [number]
        apart = []
        for others, entries in groups:
            if bool((entries & mask).any()):
                joined, members = joined | entries, [*others, *members]
            else:
                apart.append((others, entries))
        groups = [*apart, (members, joined)]
    return [members for members, _ in groups]


def rows_alone(chains: tuple[Chain, ...], kept: Tensor) -> tuple[Chain, ...] | None:
    """Chains whose norm is not below that of some rows of a sum of chains, without the rows that play no part.

    A part of a matrix that was packed with others (queries, keys and values by one product) is a matrix of its own.

    Args:
        kept: mask of the result's entries.

    Returns:
        None when nothing better than the whole chains is known; chains that reach none of the entries are left out.
    """
    found = []
    for chain in chains:
        last = chain[-1]
        if not isinstance(last, Select):
            return None
        index = last.index[kept.to(last.index.device)]
        index = index[index >= 0]
        if not len(index):
            continue
        before = chain[-2] if len(chain) > 1 else None
        if not isinstance(before, Dense) or int(torch.bincount(index).max()) > 1:
            return None
        rows = torch.unique(index % len(before.weight))
        found.append((*chain[:-2], Dense(before.weight[rows], before.lead)))
    return tuple(found)


def touched_entries(chains: tuple[Chain, ...], backward: bool = False) -> Tensor:
    """Mask of the result's entries (the argument's, when backward) that a sum of chains can depend on (act on)."""
    mask = None
    for chain in chains:
        operators = [operator.transpose() for operator in reversed(chain)] if backward else list(chain)
        example = operators[0].example()
        entries = example.new_ones(operators[0].in_shape)
        for operator in operators:
            # Ones again after every step, so that no product of small weights vanishes.
            entries = (operator.abs().apply(entries) != 0).to(example)
        mask = entries != 0 if mask is None else mask | (entries != 0)
    assert mask is not None
    return mask
