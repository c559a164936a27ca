"""The network of a certificate: affine maps, activations and products, read and checked; flat vectors at every node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from jacobound_check.errors import UnreadableError
from jacobound_check.functions import Function, piecewise, smooth
from jacobound_check.operators import Convolution, Dense, Entries, Moves, Operator, Scale, Turned
from jacobound_check.reading import (
    Arrays,
    array_of,
    entry,
    list_of,
    number_of,
    rational_of,
    shape_of,
    text_of,
    whole_of,
)
from jacobound_check.rounding import Array

MOST_NODES = 100_000


@dataclass(frozen=True, eq=False)
class Node:
    """One step.

    Args:
        kind: "input", "affine", "elementwise" or "product".
        size: entries of its value.
        terms: of an affine node, maps and the numbers of the nodes they read.
        bias: of an affine node.
        function: of an elementwise node.
        sources: numbers of the nodes that an elementwise node or a product reads.
    """

    kind: str
    size: int
    terms: tuple[tuple[Operator, int], ...] = ()
    bias: Array | None = None
    function: Function | None = None
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in order; the first is the input, the last the output."""

    nodes: tuple[Node, ...]

    @property
    def output(self) -> int:
        return len(self.nodes) - 1

    @property
    def inputs(self) -> int:
        return self.nodes[0].size

    @property
    def outputs(self) -> int:
        return self.nodes[-1].size

    def with_rows(self, rows: Array) -> Network:
        """The network followed by combinations of its outputs."""
        last = Node("affine", len(rows), ((Dense(rows), self.output),))
        return Network((*self.nodes, last))


def network_of(told: Any, arrays: Arrays) -> Network:
    """The network that a certificate tells of.

    Raises:
        UnreadableError: when sizes do not fit, a node reads a later one, or a kind is not known.
    """
    told = entry(told, "network", ("input", "nodes"))
    nodes = [Node("input", math.prod(shape_of(told["input"], "shape of the input")))]
    listed = list_of(told["nodes"], "nodes of the network")
    if not 1 <= len(listed) <= MOST_NODES or nodes[0].size < 1:
        raise UnreadableError("the network has no nodes, no inputs, or too many")
    for k, one in enumerate(listed, 1):
        nodes.append(_node(one, f"node {k}", nodes, arrays))
    return Network(tuple(nodes))


def _node(told: Any, where: str, nodes: list[Node], arrays: Arrays) -> Node:
    kind = told.get("kind") if isinstance(told, dict) else None

    def source(number: Any) -> int:
        return whole_of(number, f"source of {where}", 0, len(nodes) - 1)

    if kind == "affine":
        told = entry(told, where, ("kind", "terms", "bias"))
        terms = []
        for one in list_of(told["terms"], f"terms of {where}"):
            one = entry(one, f"a term of {where}", ("operator", "source"))
            operator = operator_of(one["operator"], f"operator of {where}", arrays)
            if operator.inputs != nodes[source(one["source"])].size:
                raise UnreadableError(f"{where}: an operator takes {operator.inputs} numbers, its source has others")
            terms.append((operator, source(one["source"])))
        sizes = {operator.outputs for operator, _ in terms}
        if len(sizes) != 1:
            raise UnreadableError(f"{where}: its terms have {len(sizes)} different sizes")
        (size,) = sizes
        bias = None if told["bias"] is None else array_of(arrays, told["bias"], f"bias of {where}", (size,))
        return Node("affine", size, tuple(terms), bias)
    if kind == "elementwise":
        told = entry(told, where, ("kind", "function", "source"))
        read = source(told["source"])
        function = function_of(told["function"], f"function of {where}", nodes[read].size, arrays)
        return Node("elementwise", nodes[read].size, function=function, sources=(read,))
    if kind == "product":
        told = entry(told, where, ("kind", "first", "second"))
        pair = source(told["first"]), source(told["second"])
        if nodes[pair[0]].size != nodes[pair[1]].size:
            raise UnreadableError(f"{where}: the factors have different sizes")
        return Node("product", nodes[pair[0]].size, sources=pair)
    raise UnreadableError(f"{where}: the kind {str(kind)[:60]!r} is not known")


def operator_of(told: Any, where: str, arrays: Arrays) -> Operator:
    """The linear map that a certificate tells of."""
    kind = told.get("kind") if isinstance(told, dict) else None
    if kind == "transposed":
        return Turned(operator_of(entry(told, where, ("kind", "of"))["of"], where, arrays))
    if kind == "same":
        size = whole_of(entry(told, where, ("kind", "size"))["size"], where, 1)
        return Moves(np.arange(size), size)
    if kind == "moves":
        told = entry(told, where, ("kind", "index", "inputs"))
        index, inputs = array_of(arrays, told["index"], where, kind=np.int64), whole_of(told["inputs"], where, 1)
        _within(index, inputs, where, -1)
        return Moves(index.ravel(), inputs)
    if kind == "dense":
        told = entry(told, where, ("kind", "weight", "count"))
        weight = array_of(arrays, told["weight"], where)
        if weight.ndim != 2:
            raise UnreadableError(f"{where}: a matrix has two axes")
        return Dense(weight, whole_of(told["count"], where, 1))
    if kind == "scale":
        told = entry(told, where, ("kind", "factor", "radius"))
        factor = array_of(arrays, told["factor"], where).ravel()
        return Scale(factor, _radius(told["radius"], where, arrays, factor.shape))
    if kind == "entries":
        told = entry(told, where, ("kind", "row", "column", "weight", "outputs", "inputs", "radius"))
        weight = array_of(arrays, told["weight"], where).ravel()
        row, column = (array_of(arrays, told[name], where, weight.shape, np.int64) for name in ("row", "column"))
        sizes = whole_of(told["outputs"], where, 1), whole_of(told["inputs"], where, 1)
        for index, size in ((row, sizes[0]), (column, sizes[1])):
            _within(index, size, where, 0)
        return Entries(row, column, weight, *sizes, _radius(told["radius"], where, arrays, weight.shape))
    if kind == "convolution":
        return _convolution(told, where, arrays)
    raise UnreadableError(f"{where}: the kind {str(kind)[:60]!r} is not known")


def _convolution(told: Any, where: str, arrays: Arrays) -> Convolution:
    names = ("stride", "padding", "dilation")
    told = entry(told, where, ("kind", "weight", "image", "groups", *names))
    weight, image = array_of(arrays, told["weight"], where), shape_of(told["image"], where)
    steps = [shape_of(told[name], f"{name} of {where}") for name in names]
    groups, axes = whole_of(told["groups"], where, 1), len(image) - 1
    fits = axes >= 1 and weight.ndim == axes + 2 and all(len(step) == axes for step in steps) and 0 not in weight.shape
    if not fits or 0 in steps[0] or 0 in steps[2] or weight.shape[1] * groups != image[0] or weight.shape[0] % groups:
        raise UnreadableError(f"{where}: a kernel of shape {weight.shape} does not fit an image of shape {image}")
    found = Convolution(weight, image, steps[0], steps[1], steps[2], groups)
    if min(found.result) < 1 or max(steps[1]) > max(image):
        raise UnreadableError(f"{where}: a kernel of shape {weight.shape} does not fit an image of shape {image}")
    return found


def _within(index: np.ndarray, size: int, where: str, least: int) -> None:
    if index.size and not (least <= index.min() and index.max() < size):
        raise UnreadableError(f"{where}: a position lies outside")


def _radius(name: Any, where: str, arrays: Arrays, shape: tuple[int, ...]) -> Array | None:
    if name is None:
        return None
    found = array_of(arrays, name, where).ravel()
    if found.shape != shape or not (found >= 0).all():
        raise UnreadableError(f"{where}: a radius is negative, or there are too few or too many")
    return found


def function_of(told: Any, where: str, size: int, arrays: Arrays) -> Function:
    """The activation that a certificate tells of."""
    if isinstance(told, dict) and "slopes" in told:
        told = entry(told, where, ("slopes", "offsets", "breaks"))
        numbers = {
            name: [_numbers(x, where, size, arrays) for x in list_of(told[name], where)]
            for name in ("slopes", "offsets", "breaks")
        }
        return piecewise(**numbers)
    told = entry(told, where, ("name", "numbers"))
    return smooth(text_of(told["name"], where), [number_of(x, where) for x in list_of(told["numbers"], where)])


def _numbers(told: Any, where: str, size: int, arrays: Arrays) -> list[Any]:
    """One rational number, or one for each entry."""
    if isinstance(told, Mapping):
        name = entry(told, where, ("array",))["array"]
        return [Fraction(x) for x in array_of(arrays, name, where, (size,)).tolist()]
    return [rational_of(told, where)]
