"""Functions of vectors rewritten into other nodes, and what that asks of the nodes behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from jacobound.graph.copies import on_sources
from jacobound.graph.nodes import Affine, Node, Vector, VectorFunction, no_expansion
from jacobound.operators.kinds import with_shapes


def rewritten(
    nodes: Sequence[Node],
    wanted: Callable[[VectorFunction], bool],
    expand: Callable[[Vector, Node, frozenset[str]], Node],
    device: torch.device,
) -> dict[Node, Node]:
    """For every node the one that stands for it when the functions that are wanted are expanded.

    Args:
        nodes: every node after its sources.
        expand: other nodes with the values of a function's node, from what stands for its source; names of all nodes
            are for messages.
    """
    moved: dict[Node, Node] = {}
    names = frozenset(node.name for node in nodes)
    for node in nodes:
        if isinstance(node, Vector) and wanted(node.function):
            found = expand(node, moved[node.source], names)
            moved[node] = _with_axis(found, found.sources) if isinstance(found, Affine) else found
        elif isinstance(node, Affine) and () in (node.shape, *(source.shape for source in node.sources)):
            moved[node] = _with_axis(node, [moved[source] for source in node.sources])
        else:
            moved[node] = on_sources(node, moved, device)
    return moved


def _with_axis(node: Affine, sources: Sequence[Node]) -> Affine:
    """An affine node on other sources, with one axis if it has none."""
    shape = node.shape or (1,)
    if node.shape == shape and all(one is other for one, other in zip(sources, node.sources, strict=True)):
        return node
    terms = tuple(
        (with_shapes(operator, source.shape, shape), source)
        for (operator, _), source in zip(node.terms, sources, strict=True)
    )
    return Affine(terms, None if node.bias is None else node.bias.reshape(shape), node.name)


def in_steps(node: Vector, source: Node, names: frozenset[str]) -> Node:
    """A function's expansion in affine maps and activations.

    Raises:
        UnsupportedOpError: when it has none.
    """
    if not node.function.expands:
        raise no_expansion(node.function, node.source, node.name, names)
    return node.function.expand(source, node.name)


def in_gates(node: Vector, source: Node, names: frozenset[str]) -> Node:
    """A function's form with products and log-sum-exp.

    Raises:
        UnsupportedOpError: when it has none.
    """
    if not node.function.lowers:
        raise no_expansion(node.function, node.source, node.name, names)
    return node.function.lower(source, node.name)
