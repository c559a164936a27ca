"""A graph as a certificate tells of it: nodes in order, operators and activations by kind, weights as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import Piece
from jacobound.activations.kinds.base import Activation
from jacobound.certifying.files import Arrays
from jacobound.errors import UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Product
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Blocks, Convolution, Dense, Identity, Scale, Scatter, Select, Sparse
from jacobound_check.functions import SMOOTH as SMOOTH_FUNCTIONS

# Entries of a matrix that is written out for want of a smaller form.
MOST_ENTRIES = 1 << 22
# Functions that the checker knows by name; those of lines it knows by their numbers.
SMOOTH = frozenset(SMOOTH_FUNCTIONS)


@dataclass(frozen=True, eq=False)
class Told:
    """A network as a certificate tells of it.

    Args:
        network: the entry of the certificate.
        place: number of every node.
    """

    network: dict[str, Any]
    place: Mapping[Node, int]


def told_network(graph: Graph, arrays: Arrays) -> Told:
    """The nodes of a graph.

    Raises:
        UnsupportedOpError: for what the checker does not know; names the node.
    """
    place: dict[Node, int] = {graph.input: 0}
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Input):
            continue
        place[node] = len(nodes) + 1
        nodes.append(_node(node, place, arrays, f"node{place[node]}"))
    return Told({"input": list(graph.in_shape), "nodes": nodes}, place)


def _node(node: Node, place: Mapping[Node, int], arrays: Arrays, name: str) -> dict[str, Any]:
    if isinstance(node, Affine):
        terms = [
            {"operator": told_operator(operator, arrays, f"{name}.{k}"), "source": place[source]}
            for k, (operator, source) in enumerate(node.terms)
        ]
        bias = None if node.bias is None else arrays.put(f"{name}.bias", node.bias.flatten())
        return {"kind": "affine", "terms": terms, "bias": bias}
    if isinstance(node, Elementwise):
        function = _function(node, arrays, name)
        return {"kind": "elementwise", "function": function, "source": place[node.source]}
    if isinstance(node, Product):
        return {"kind": "product", "first": place[node.first], "second": place[node.second]}
    raise UnsupportedOpError(
        f"node '{node.name}' is a function of whole vectors, which certificates do not hold; the result itself stands"
    )


def told_operator(operator: LinearOperator, arrays: Arrays, name: str) -> dict[str, Any]:
    """One linear map."""
    match operator:
        case Identity():
            return {"kind": "same", "size": prod(operator.in_shape)}
        case Dense():
            # A transposed matrix is the same numbers in another order; they are written as they are applied.
            weight = arrays.put(f"{name}.weight", operator.weight)
            return {"kind": "dense", "weight": weight, "count": prod(operator.lead)}
        case Convolution():
            return _told_convolution(operator, arrays, name)
        case Select():
            index = arrays.put(f"{name}.index", operator.index)
            return {"kind": "moves", "index": index, "inputs": prod(operator.in_shape)}
        case Scatter():
            return {"kind": "transposed", "of": told_operator(operator.selection, arrays, name)}
        case Scale():
            factor = arrays.put(f"{name}.factor", operator.factor)
            radius = None if operator.radius is None else arrays.put(f"{name}.radius", operator.radius)
            return {"kind": "scale", "factor": factor, "radius": radius}
        case Sparse():
            return _told_sparse(operator, arrays, name)
        case Blocks() if operator.in_size * operator.out_size <= MOST_ENTRIES:
            matrix = operator.materialise()
            row, column = matrix.nonzero(as_tuple=True)
            return _entries(row, column, matrix[row, column], None, operator, arrays, name)
    raise UnsupportedOpError(f"{type(operator).__name__} is an operator that certificates do not hold")


def _told_convolution(operator: Convolution, arrays: Arrays, name: str) -> dict[str, Any]:
    told = {
        "kind": "convolution",
        "weight": arrays.put(f"{name}.weight", operator.weight),
        "image": list(operator.image),
        "groups": operator.groups,
        "stride": list(operator.stride),
        "padding": list(operator.padding),
        "dilation": list(operator.dilation),
    }
    return {"kind": "transposed", "of": told} if operator.adjoint else told


def _told_sparse(operator: Sparse, arrays: Arrays, name: str) -> dict[str, Any]:
    """Every copy of the core by itself."""
    core, outer, inner = tuple(operator.index.shape[1:]), prod(operator.before), prod(operator.after)
    present = operator.index.flatten(1) >= 0
    term, row = present.nonzero(as_tuple=True)
    column, weight = operator.index.flatten(1)[term, row], operator.weight.flatten(1)[term, row]
    radius = None if operator.radius is None else operator.radius.flatten(1)[term, row]
    before = torch.arange(outer).reshape(-1, 1, 1)
    after = torch.arange(inner).reshape(1, -1, 1)

    def spread(index: Tensor, size: int) -> Tensor:
        return ((before * size + index.cpu()) * inner + after).flatten()

    def again(x: Tensor) -> Tensor:
        return x.expand(outer, inner, -1).flatten()

    places = spread(row, prod(core)), spread(column, prod(operator.core_in))
    return _entries(*places, again(weight), None if radius is None else again(radius), operator, arrays, name)


def _entries(
    row: Tensor,
    column: Tensor,
    weight: Tensor,
    radius: Tensor | None,
    operator: LinearOperator,
    arrays: Arrays,
    name: str,
) -> dict[str, Any]:
    return {
        "kind": "entries",
        "row": arrays.put(f"{name}.row", row),
        "column": arrays.put(f"{name}.column", column),
        "weight": arrays.put(f"{name}.weight", weight),
        "radius": None if radius is None else arrays.put(f"{name}.radius", radius),
        "outputs": operator.out_size,
        "inputs": operator.in_size,
    }


def _function(node: Elementwise, arrays: Arrays, name: str) -> dict[str, Any]:
    """The activation by its name and numbers, or by those of its lines."""
    activation = node.activation
    kind, _, numbers = activation.name.partition(":")
    if kind in SMOOTH:
        return {"name": kind, "numbers": [float(one).hex() for one in numbers.split(",") if one]}
    rational = _rational_lines(kind, numbers)
    if rational is not None:
        return {part: [str(one) if one.denominator > 1 else _text(one) for one in x] for part, x in rational.items()}
    if activation.reduce is not None or any(piece.line is None for piece in activation.pieces):
        raise UnsupportedOpError(
            f"node '{node.name}': the activation {activation.name} is none that certificates hold; the result itself "
            "stands"
        )
    lines = [_line(piece) for piece in activation.pieces]
    turns = [turn[0] if isinstance(turn, tuple) else turn for turn in activation.breaks]
    parts = {"slopes": [one for one, _ in lines], "offsets": [one for _, one in lines], "breaks": turns}
    return {
        part: [_number(one, node, arrays, f"{name}.{part}.{k}") for k, one in enumerate(numbers)]
        for part, numbers in parts.items()
    }


def _rational_lines(kind: str, numbers: str) -> dict[str, list[Fraction]] | None:
    """Slopes, offsets and breaks of functions of lines whose numbers may be no floats."""
    if kind not in ("leaky_relu", "hard_sigmoid"):
        return None
    given = [Fraction(float(one)) if "/" not in one else Fraction(one) for one in numbers.split(",")]
    if kind == "leaky_relu":
        return {"slopes": [given[0], Fraction(1)], "offsets": [Fraction(0)] * 2, "breaks": [Fraction(0)]}
    alpha, beta = given
    slopes, offsets = [Fraction(0), alpha, Fraction(0)], [Fraction(0), beta, Fraction(1)]
    return {"slopes": slopes, "offsets": offsets, "breaks": [-beta / alpha, (1 - beta) / alpha]}


def _line(piece: Piece) -> tuple[Any, Any]:
    assert piece.line is not None
    return piece.line


def _text(number: Fraction) -> str:
    return float(number).hex() if Fraction(float(number)) == number else f"{number.numerator}/{number.denominator}"


def _number(number: Any, node: Elementwise, arrays: Arrays, name: str) -> Any:
    if isinstance(number, Tensor):
        return {"array": arrays.put(name, number.to(torch.float64).expand(node.shape).flatten())}
    return float(number).hex()


def points_of(activation: Activation, points: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Where tangents are taken, for every piece; None on lines."""
    return [None if piece.curvature == "linear" else one for piece, one in zip(activation.pieces, points, strict=True)]
