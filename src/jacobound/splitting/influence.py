"""How much a bound would gain from halving each input: hints, in plain arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.inputs.domains import Domain
from jacobound.method import JacobianEnclosure
from jacobound.operators.base import unit_rows


def influence_bytes(graph: Graph) -> int:
    """Memory for the tangents of all inputs at the nodes in use, for one part."""
    return 6 * size(graph.input) * max(map(size, graph.nodes)) * graph.example.element_size()


def influence(graph: Graph, enclosure: JacobianEnclosure, domain: Domain) -> Tensor:
    """The sum over uncertain neurons of what they do to the bound, times the share of their range due to an input.

    Input k explains ``|T_ik| rho_k`` of ``sum_k |T_ik| rho_k``, with T_i the derivative of neuron i by the inputs at
    the middles of the slopes, and rho the half width of the part.

    Args:
        graph: the network of the enclosure's gates.
        enclosure: what a method knows of the parts.
        domain: the parts.

    Returns:
        Shape (parts, inputs), finite and not negative.
    """
    sets, inputs = len(domain), size(graph.input)
    reach = domain.box.map(lambda end: end.flatten(1)).midpoint_and_radius()[1].unsqueeze(2)
    total = domain.box.lower.new_zeros(sets, inputs)
    for _, own, weight in _uncertain(graph, enclosure):
        explained = own * reach
        share = explained / explained.sum(1, keepdim=True).clamp(min=torch.finfo(own.dtype).tiny)
        total = total + (weight.unsqueeze(1) * share).sum(2)
    return _finite(total)


def influence_of_neurons(graph: Graph, enclosure: JacobianEnclosure) -> dict[Node, Tensor]:
    """What every uncertain neuron does to the bound, by activation: shape (parts, neurons), finite, not negative."""
    return {node: _finite(weight) for node, _, weight in _uncertain(graph, enclosure)}


def _uncertain(graph: Graph, enclosure: JacobianEnclosure) -> Iterator[tuple[Node, Tensor, Tensor]]:
    """Every activation with its neurons' own derivatives, (parts, inputs, neurons), and what they do to the bound.

    What neuron i does is ``max |Y_i|`` (derivative of the outputs behind it) times ``||T_i||_1`` times the width of
    its slope, (parts, neurons).
    """
    inputs = size(graph.input)
    tangents: dict[Node, Tensor] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            tangents[node] = unit_rows(inputs, graph.example).reshape(1, inputs, *graph.in_shape)
        elif isinstance(node, Affine):
            images = [operator.apply(tangents[source]) for operator, source in node.terms]
            tangents[node] = sum(images[1:], images[0])
        elif isinstance(node, Elementwise):
            slope, arrives = enclosure.slopes[node], tangents[node.source]
            width = (slope.upper - slope.lower).nan_to_num(nan=1.0, posinf=1e30)
            middle = (slope.upper / 2 + slope.lower / 2).nan_to_num(nan=0.5, posinf=1.0, neginf=-1.0)
            behind = enclosure.adjoints[node].magnitude().amax(1).nan_to_num(nan=1e30, posinf=1e30)
            own = arrives.abs().flatten(2)
            yield node, own, (behind * width).flatten(1) * own.sum(1)
            tangents[node] = middle.unsqueeze(1) * arrives


def _finite(total: Tensor) -> Tensor:
    return total.nan_to_num(nan=0.0, posinf=1e300 if total.dtype is torch.float64 else 1e38)
