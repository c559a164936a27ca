"""Copies of nodes on other sources, and nodes as a flat list: a chain of any length is copied without recursion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jacobound.graph.nodes import Affine, Choice, Elementwise, Input, Node, Product, Vector
from jacobound.operators.base import convert_exactly

Flat = tuple[Any, ...]


def on_sources(node: Node, moved: Mapping[Node, Node], device: torch.device) -> Node:
    """The node on what stands for its sources; itself when these are the same."""
    if all(moved[source] is source for source in node.sources):
        return node
    if isinstance(node, Affine):
        terms = tuple((operator, moved[source]) for operator, source in node.terms)
        return Affine(terms, node.bias, node.name, moved_choice(node, moved, device), moved_beside(node, moved))
    if isinstance(node, Elementwise):
        return Elementwise(node.activation, moved[node.source], node.name, moved_beside(node, moved))
    if isinstance(node, Product):
        return Product(moved[node.first], moved[node.second], node.name, moved_beside(node, moved))
    assert isinstance(node, Vector)
    return Vector(node.function, moved[node.source], node.name)


def moved_beside(node: Affine | Elementwise | Product, moved: Mapping[Node, Node]) -> Vector | None:
    """The function beside a node in a copy of the graph."""
    return None if node.beside is None else Vector(node.beside.function, moved[node.beside.source], node.beside.name)


def transferred(nodes: Sequence[Node], device: torch.device, dtype: torch.dtype) -> dict[Node, Node]:
    """Copies of nodes elsewhere.

    Raises:
        UnsafeArithmeticError: when a weight would change.
    """
    moved: dict[Node, Node] = {}

    def beside(node: Affine | Elementwise | Product) -> Vector | None:
        known = moved_beside(node, moved)
        return None if known is None else Vector(known.function.to(device, dtype), known.source, known.name)

    for node in nodes:
        if isinstance(node, Affine):
            terms = tuple((operator.to(device, dtype), moved[source]) for operator, source in node.terms)
            bias = None if node.bias is None else convert_exactly(node.bias, device, dtype, "a bias")
            moved[node] = Affine(terms, bias, node.name, moved_choice(node, moved, device), beside(node))
        elif isinstance(node, Elementwise):
            moved[node] = Elementwise(node.activation.to(device, dtype), moved[node.source], node.name, beside(node))
        elif isinstance(node, Product):
            moved[node] = Product(moved[node.first], moved[node.second], node.name, beside(node))
        elif isinstance(node, Vector):
            moved[node] = Vector(node.function.to(device, dtype), moved[node.source], node.name)
        else:
            moved[node] = node
    return moved


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
            known = _flat_choice(node.choice, place, device), _flat_beside(node, place)
            flat.append(("affine", terms, node.bias, node.name, *known))
        elif isinstance(node, Elementwise):
            flat.append(("elementwise", node.activation, place[node.source], node.name, _flat_beside(node, place)))
        elif isinstance(node, Product):
            flat.append(("product", place[node.first], place[node.second], node.name, _flat_beside(node, place)))
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


def _flat_beside(node: Affine | Elementwise | Product, place: Mapping[Node, int]) -> Flat | None:
    """The function beside a node, on the number of its source."""
    return None if node.beside is None else (node.beside.function, place[node.beside.source], node.beside.name)


def restored(flat: Sequence[Flat]) -> list[Node]:
    """The nodes of `flattened`."""
    nodes: list[Node] = []

    def vector(known: Flat | None) -> Vector | None:
        return None if known is None else Vector(known[0], nodes[known[1]], known[2])

    for kind, *parts in flat:
        if kind == "input":
            nodes.append(Input(*parts))
        elif kind == "affine":
            terms, bias, name, known, beside = parts
            choice = None
            if known is not None:
                stand_in, source, gate, device = known
                chosen = nodes[gate]
                assert isinstance(chosen, Elementwise)
                choice = stand_in.rebuilt(nodes[source], chosen, device)
            nodes.append(
                Affine(tuple((operator, nodes[k]) for operator, k in terms), bias, name, choice, vector(beside))
            )
        elif kind == "elementwise":
            what, source, name, beside = parts
            nodes.append(Elementwise(what, nodes[source], name, vector(beside)))
        elif kind == "product":
            first, second, name, beside = parts
            nodes.append(Product(nodes[first], nodes[second], name, vector(beside)))
        else:
            function, source, name = parts
            nodes.append(Vector(function, nodes[source], name))
    return nodes
