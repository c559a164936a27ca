"""Weighted norms as other units: the network between diagonal layers, and its sets of inputs times weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.domains import Domain, Domains
from jacobound.inputs.exponents import Norm, spread_weights


def in_output_units(graph: Graph, norm: Norm) -> Graph:
    """The rows times the weights of their norm."""
    weights = spread_weights(norm, size(graph.output))
    return graph if weights is None else graph.with_postprocessing(weights)


def in_input_units(graph: Graph, units: Tensor | None) -> Graph:
    """The network as a function of the input times the weights of its norm."""
    return graph if units is None else graph.in_input_weights(units)


def sets_in_units(domains: Domains, units: Tensor | None) -> Domains:
    """All points of the sets times the weights of the input's norm, rounded outward."""
    if units is None:
        return domains

    def make(start: int, stop: int) -> Domain:
        sets = domains[start:stop]
        dtype, weights = sets.box.lower.dtype, units.to(sets.box.lower.device)
        return sets.to(torch.float64).times(weights).to(dtype)

    return Domains(len(domains), make)


def inner_sets_in_units(domains: Domains, units: Tensor | None) -> Domains:
    """Sets in units of the input, in float64, for a lower end: balls are not grown by what moving a centre costs.

    Where a ball is smaller than that, only its centre is left, as the box of all products that it can be.
    """
    if units is None:
        return domains

    def make(start: int, stop: int) -> Domain:
        sets = domains[start:stop]
        moved = sets.times(units.to(sets.box.lower.device))
        if sets.centre is None or sets.radius is None:
            return moved
        if moved.radius is not None:
            inside = down(2 * sets.radius - moved.radius)
            if bool((inside > 0).all()):
                return replace(moved, radius=inside)
        return Domain(Interval.exact(sets.centre)).times(units.to(sets.box.lower.device))

    return Domains(len(domains), make)


def in_plain_units(points: Tensor, units: Tensor | None) -> Tensor:
    """Points as the network takes them, the nearest floats."""
    return points if units is None else points / units.to(points)
