"""Lower ends of constants for changes of some inputs alone: searched in slices, where the other inputs are numbers.

A slice of a set at a point holds the points that differ from it in these inputs; the network on it reads these inputs
alone. What is proved on a slice is proved for the set. The slices go through the middle of every set and through the
one of a few points where the columns are steepest.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import down, up
from jacobound.budget import Budget
from jacobound.graph.copies import on_sources
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Input, Node, size
from jacobound.inputs.domains import Domain
from jacobound.lower_ends.inner_sets import InnerSets
from jacobound.lower_ends.sampling import Sampling, Witness
from jacobound.operators.kinds import Select

# Points of every bounded set at which columns are looked at.
TRIED = 64


def searched_in_columns(
    search: Sampling,
    columns: Tensor,
    graph: Graph,
    domain: Domain,
    norm: tuple[float, float],
    budget: Budget,
    upper: Tensor,
) -> Witness:
    """The best points of every set, as `Sampling.search` finds them, for changes of some inputs.

    Args:
        columns: flat places of the inputs, int64.
        graph, domain: in float64, as for `Sampling.search`.
        upper: known upper bounds, (N,).
    """
    inner = InnerSets(domain)
    steep = _steepest(graph, inner, columns)
    found: list[Witness] = []
    for k in range(len(domain)):
        tried = [inner.anchor[k]]
        tried += [] if torch.equal(steep[k], inner.anchor[k]) else [steep[k]]
        best: Witness | None = None
        for number, point in enumerate(tried):
            if best is not None and budget.is_over:
                break
            own = budget.within(budget.remaining / ((len(domain) - k) * (len(tried) - number)))
            here = _on_slice(search, columns, graph, domain[k : k + 1], point, norm, own, upper[k : k + 1])
            best = here if best is None or bool(here.value > best.value) else best
        assert best is not None
        found.append(best)
    return Witness.joined(found)


def _steepest(graph: Graph, inner: InnerSets, columns: Tensor) -> Tensor:
    """The point of each set where the columns are longest among a few, (N, *input shape); a hint."""
    if not bool(inner.domain.bounded.all()) or bool(inner.tight.all()):
        return inner.anchor
    points = inner.clamp(inner.domain.sample(TRIED, torch.Generator().manual_seed(0)))
    points = torch.cat((inner.anchor.unsqueeze(1), points), 1)
    flat = points.flatten(0, 1).detach().requires_grad_()
    with torch.enable_grad():
        outputs = graph(flat).reshape(len(flat), -1)
        rows = [
            torch.autograd.grad(outputs[:, j].sum(), flat, retain_graph=True, materialize_grads=True)[0]
            for j in range(outputs.shape[1])
        ]
    jacobians = torch.stack(rows, 1).flatten(2)[..., columns]
    sizes = jacobians.flatten(1).norm(dim=1).nan_to_num(nan=0.0, posinf=0.0)
    best = sizes.reshape(points.shape[:2]).argmax(1)
    return points[torch.arange(len(points), device=points.device), best]


def _on_slice(
    search: Sampling,
    columns: Tensor,
    graph: Graph,
    domain: Domain,
    point: Tensor,
    norm: tuple[float, float],
    budget: Budget,
    upper: Tensor,
) -> Witness:
    """What is found on the slice of one set through a point, with points of the whole set."""
    count = len(columns)
    index = torch.full((size(graph.input),), -1, device=graph.device)
    index[columns] = torch.arange(count, device=graph.device)
    held = point.flatten().clone()
    held[columns] = 0.0
    held = held.reshape(graph.in_shape)
    spread = Select(index.reshape(graph.in_shape), (count,), graph.example)
    moved: dict[Node, Node] = {graph.input: Affine(((spread, Input((count,))),), held, "slice")}
    for node in graph.nodes:
        if node is not graph.input:
            moved[node] = on_sources(node, moved, graph.device)
    whole = Graph(moved[graph.output], frozenset(graph.nodes))
    found = search.search(whole, _slice(domain, columns, held), norm, budget, upper)

    def placed(x: Tensor) -> Tensor:
        return torch.where(x.isnan().any(), torch.nan, spread.apply(x) + held)

    return replace(found, point=placed(found.point), partner=placed(found.partner))


def _slice(domain: Domain, columns: Tensor, held: Tensor) -> Domain:
    """The points of one set whose other inputs are those of a point, by the inputs that are left.

    A ball is smaller there: distances from its centre along the other inputs are taken off, rounded down.
    """

    def part(x: Tensor) -> Tensor:
        return x.flatten(1)[:, columns]

    box = Interval(part(domain.box.lower), part(domain.box.upper))
    if domain.centre is None or domain.radius is None:
        return Domain(box)
    away = (held - domain.centre).abs().flatten(1)
    away[:, columns] = 0.0
    scale = domain.scale
    if scale is not None:
        away = torch.where(away == 0, 0.0, up(away / scale.flatten()))
    distance = vector_norm_upper(away, domain.p)
    if bool((distance == 0).all()):
        radius = domain.radius
    else:
        rest = domain.radius - distance
        if domain.p == 2:
            rest = (rest.clamp(min=0.0) * (domain.radius + distance)).sqrt()
        radius = down(rest * (1 - 1e-12)).clamp(min=0.0)
    return Domain(box, part(domain.centre), radius, domain.p, None if scale is None else scale.flatten()[columns])
