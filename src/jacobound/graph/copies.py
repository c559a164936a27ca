"""Copies of nodes on other sources, and nodes as a flat list: a chain of any length is copied without recursion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jacobound.graph.nodes import Affine, Choice, Elementwise, Input, Node, Vector

Flat = tuple[Any, ...]


def on_sources(node: Node, moved: Mapping[Node, Node], device: torch.device) -> Node:
    """The node on what stands for its sources; itself when these are the same."""
    if all(moved[source] is source for source in node.sources):
        return node
    if isinstance(node, Affine):
        terms = tuple((operator, moved[source]) for operator, source in node.terms)
        return Affine(terms, node.bias, node.name, moved_choice(node, moved, device))
    if isinstance(node, Elementwise):
        return Elementwise(node.activation, moved[node.source], node.name)
    assert isinstance(node, Vector)
    return Vector(node.function, moved[node.source], node.name)


def moved_choice(node: Affine, moved: Mapping[Node, Node], device: torch.device) -> Choice | None:
    """The choice of a node in a copy of the graph."""
    if node.choice is None:
        return None
    gate = moved[node.choice.gate]
    assert isinstance(gate, Elementwise)
    return node.choice.rebuilt(moved[node.choice.source], gate, device)


def flattened(nodes: Sequence[Node], device: torch.device) -> tuple[Flat, ...]:
    """Every node with numbers in place of its sources; nodes stand after their sources."""
    place = {node: k for k, node in enumerate(nodes)}
    flat: list[Flat] = []
    for node in nodes:
        if isinstance(node, Affine):
            terms = tuple((operator, place[source]) for operator, source in node.terms)
            flat.append(("affine", terms, node.bias, node.name, _flat_choice(node.choice, place, device)))
        elif isinstance(node, Elementwise):
            flat.append(("elementwise", node.activation, place[node.source], node.name))
        elif isinstance(node, Vector):
            flat.append(("vector", node.function, place[node.source], node.name))
        else:
            flat.append(("input", node.shape, node.name))
    return tuple(flat)


def _flat_choice(choice: Choice | None, place: Mapping[Node, int], device: torch.device) -> Flat | None:
    """The choice on stand-ins of its nodes, and the numbers of these nodes."""
    if choice is None:
        return None
    stand_in = Elementwise(choice.gate.activation, Input(choice.gate.shape))
    return (
        choice.rebuilt(Input(choice.source.shape), stand_in, device),
        place[choice.source],
        place[choice.gate],
        device,
    )


def restored(flat: Sequence[Flat]) -> list[Node]:
    """The nodes of `flattened`."""
    nodes: list[Node] = []
    for kind, *parts in flat:
        if kind == "input":
            nodes.append(Input(*parts))
        elif kind == "affine":
            terms, bias, name, known = parts
            choice = None
            if known is not None:
                stand_in, source, gate, device = known
                chosen = nodes[gate]
                assert isinstance(chosen, Elementwise)
                choice = stand_in.rebuilt(nodes[source], chosen, device)
            nodes.append(Affine(tuple((operator, nodes[k]) for operator, k in terms), bias, name, choice))
        else:
            what, source, name = parts
            nodes.append((Elementwise if kind == "elementwise" else Vector)(what, nodes[source], name))
    return nodes
