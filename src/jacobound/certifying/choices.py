"""The free choices behind ranges: slopes of lines, where tangents are taken, and which entries they are worth for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jacobound.activations.lines.rules import parallel
from jacobound.arithmetic.intervals import Interval
from jacobound.budget import Budget
from jacobound.certifying.files import Arrays
from jacobound.certifying.networks import points_of
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Product
from jacobound.inputs.domains import Domain
from jacobound.method import OutputMethod
from jacobound.relaxation.ranges import CROWN, FastLin, Sweeping


def told_choices(
    graph: Graph, domain: Domain, method: OutputMethod, place: Mapping[Node, int], arrays: Arrays, name: str
) -> Any:
    """What a certificate needs to find the ranges of a method over one set again.

    Args:
        method: CROWN or FastLin; every other one, and an unbounded set, gives "intervals".
        place: number of every node in the certificate.
    """
    if not (isinstance(method, CROWN | FastLin) and bool(domain.bounded.all())):
        return "intervals"
    assert isinstance(method, Sweeping)
    ranges = method.ranges(graph, domain, Budget())
    slopes, entries = {}, {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            slopes[str(place[node])] = _told_lines(node, ranges[node.source], method, arrays, f"{name}.{place[node]}")
        elif not isinstance(node, Input):
            better = _bounded_by_lines(node, ranges)
            if len(better):
                entries[str(place[node])] = arrays.put(f"{name}.{place[node]}.entries", better)
    return {"slopes": slopes, "entries": entries}


def _told_lines(node: Elementwise, x: Interval, method: Sweeping, arrays: Arrays, name: str) -> dict[str, Any]:
    activation, rule = node.activation, parallel if isinstance(method, FastLin) else node.activation.choose
    lines = activation.parallel_lines(x) if isinstance(method, FastLin) else activation.lines(x)
    chosen = rule(activation, x)
    points = [None if one is None else _finite(one) for one in points_of(activation, chosen.points)]
    return {
        "below": arrays.put(f"{name}.below", _finite(lines.lower_slope)),
        "above": arrays.put(f"{name}.above", _finite(lines.upper_slope)),
        "points": [None if one is None else arrays.put(f"{name}.point{k}", one) for k, one in enumerate(points)],
    }


def _finite(x: Tensor) -> Tensor:
    return x.flatten().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _bounded_by_lines(node: Node, ranges: Mapping[Node, Interval]) -> Tensor:
    """Flat entries whose range is narrower than what intervals alone make of the ranges that the node reads."""
    if isinstance(node, Affine):
        images = [operator.enclose(ranges[source]) for operator, source in node.terms]
        plain = sum(images[1:], images[0])
        plain = plain if node.bias is None else plain + node.bias
    elif isinstance(node, Product):
        plain = ranges[node.first] * ranges[node.second]
    else:
        return torch.zeros(0, dtype=torch.int64)
    known = ranges[node]
    narrower = (known.lower > plain.lower) | (known.upper < plain.upper)
    return narrower[0].flatten().nonzero().squeeze(1)
