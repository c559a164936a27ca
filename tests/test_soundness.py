"""Everything that is certified holds at sampled points: random graphs, regions and activations against autodiff."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from jacobound import CROWN, IBP, FastLin, FastLip, RecurJac, Sampling, lipschitz
from jacobound.graph import Graph, size
from jacobound.intervals import Interval
from jacobound.methods.base import Budget, JacobianEnclosure
from jacobound.methods.constants import from_entries, split_products
from jacobound.regions import Domain
from jacobound.rounding import strict
from oracles import NORMS, Observation, not_enclosed, observe
from single import nth, together
from zoo import KINDS, REGIONS, integer, realised

OUTPUT_METHODS = (IBP(), FastLin(), CROWN())
JACOBIAN_METHODS = (
    FastLip(),
    RecurJac("constant"),
    RecurJac("chord"),
    RecurJac("chord", IBP()),
    RecurJac("constant", direction="forward-shifted"),
    RecurJac(direction="both"),
)

kinds = pytest.mark.parametrize("kind", KINDS)
some = settings(max_examples=max(1, settings().max_examples // 3))
seeds = st.integers(0, 2**30)
regions = st.sampled_from(sorted(REGIONS))


def check_ranges(graph: Graph, domain: Domain, seen: list[Observation], nodes: list) -> None:
    """`nodes` are those of the graph that was observed, in the order of the graph that is bounded."""
    with torch.no_grad(), strict(graph.device, graph.dtype):
        for method in OUTPUT_METHODS:
            ranges = method.ranges(graph, domain, Budget())
            for (node, twin), (k, one) in itertools.product(zip(graph.nodes, nodes, strict=True), enumerate(seen)):
                wrong = not_enclosed(ranges[node][k], one.values[twin], one.value_error[twin])
                assert not wrong, f"{method}, node {node.name}, set {k}: {wrong[:3]}"


def check_jacobians(graph: Graph, domain: Domain, seen: list[Observation]) -> list[JacobianEnclosure]:
    found = []
    with torch.no_grad(), strict(graph.device, graph.dtype):
        for method in JACOBIAN_METHODS:
            enclosure = method.enclose(graph, domain, Budget())
            assert len(enclosure.entries.lower) == len(seen)
            for k, one in enumerate(seen):
                wrong = not_enclosed(enclosure.entries[k], one.jacobian, one.jacobian_error)
                assert not wrong, f"{method}, set {k}: {wrong[:3]}"
                check_directions(nth(enclosure, k), one, f"{method}, set {k}")
            found.append(enclosure)
    return found


def check_directions(enclosure: JacobianEnclosure, seen: Observation, name: str) -> None:
    """`along` bounds directional derivatives as a whole, `across` signed sums over the outputs."""
    shape = enclosure.entries.shape
    directions = torch.randn(shape, generator=Generator().manual_seed(0)).to(enclosure.entries.lower)
    image = (seen.jacobian * directions.double()).sum(2)
    error = (seen.jacobian_error * directions.double().abs()).sum(2) + 1e-12 * image.abs()
    wrong = not_enclosed(enclosure.along(directions), image, error)
    assert not wrong, f"{name}, along: {wrong[:3]}"
    if enclosure.across is not None:
        image = (seen.jacobian * directions.double()).sum(1)
        error = (seen.jacobian_error * directions.double().abs()).sum(1) + 1e-12 * image.abs()
        wrong = not_enclosed(enclosure.across(directions), image, error)
        assert not wrong, f"{name}, across: {wrong[:3]}"


def check_constants(
    graph: Graph,
    enclosure: JacobianEnclosure,
    norms: list[tuple[float, float]],
    points: Tensor,
    seen: Observation,
    twin: Graph,
    k: int,
) -> None:
    """Slopes between pairs of points of the k-th set stay below every constant."""
    outputs = seen.values[twin.output].flatten(1)
    spread = 2 * seen.value_error[twin.output].flatten(1).amax(0)
    half = len(points) // 2
    if not half:
        return
    first, second = points[:half].flatten(1), points[half : 2 * half].flatten(1)
    rise = outputs[:half] - outputs[half : 2 * half]
    with torch.no_grad(), strict(graph.device, graph.dtype):
        for p, q in norms:
            run = torch.linalg.vector_norm(first - second, ord=p, dim=1)
            height = torch.linalg.vector_norm(rise, ord=q, dim=1)
            doubt = torch.linalg.vector_norm(spread, ord=q) + 1e-13 * height
            constants = {"entries": from_entries(enclosure, p, q), **split_products(graph, enclosure, p, q)}
            for name, constant in constants.items():
                allowed = float(nth(constant, k)) * run * (1 + 1e-13) + doubt
                assert bool((height <= allowed).all()), f"{(p, q)} {name}: {height} > {allowed}"


@kinds
@some
@given(region=regions, seed=seeds, single=st.booleans(), more=st.integers(0, 2))
def test_values_jacobians_and_slopes_stay_within_their_bounds(
    kind: str, region: str, seed: int, single: bool, more: int
) -> None:
    """Over one set or several at once: balls of one norm, or boxes of every kind, unbounded ones among them."""
    generator = Generator().manual_seed(seed)
    graph = KINDS[kind](generator)
    alike = (region, "radius_zero") if region in ("l1", "l2") else tuple(set(REGIONS) - {"l1", "l2"})
    names = [region, *(sorted(alike)[integer(0, len(alike) - 1, generator)] for _ in range(more))]
    drawn = [REGIONS[name](graph.in_shape, generator) for name in names]
    twin = realised(graph, generator).with_rows(None)
    graph = (graph.to(dtype=torch.float32) if single else graph).with_rows(None)
    seen = [observe(twin, points) for _, points in drawn]
    domain = together([described.domains(graph)[0][:] for described, _ in drawn])
    check_ranges(graph, domain, seen, list(twin.nodes))
    enclosures = check_jacobians(graph, domain, seen)
    norms = [NORMS[integer(0, 8, generator)], NORMS[integer(0, 8, generator)]]
    enclosure, k = enclosures[integer(0, len(enclosures) - 1, generator)], integer(0, more, generator)
    check_constants(graph, enclosure, norms, drawn[k][1], seen[k], twin, k)


@some
@given(
    kind=st.sampled_from(sorted(KINDS)), region=regions, seed=seeds, single=st.booleans(), norm=st.sampled_from(NORMS)
)
def test_the_bracket_of_lipschitz_is_one(
    kind: str, region: str, seed: int, single: bool, norm: tuple[float, float]
) -> None:
    generator = Generator().manual_seed(seed)
    graph = KINDS[kind](generator)
    described, points = REGIONS[region](graph.in_shape, generator)
    twin = realised(graph, generator)
    rows = torch.tensor([[1.0, -1.0] + [0.0] * (size(graph.output) - 2)]) if size(graph.output) > 1 else None
    graph = graph.to(dtype=torch.float32) if single else graph
    found = lipschitz(graph, described, norm=norm, rows=rows, search=Sampling(points=6, steps=2, ascents=2))
    assert bool(found.lower <= found.upper) and bool(found.lower >= 0)
    seen = observe(twin.with_rows(rows), points)
    largest = attained(seen.jacobian, *norm) - seen.jacobian_error.sum((1, 2))
    assert bool((largest * (1 - 1e-12) <= float(found.upper)).all()), f"{largest} above {found.upper}"
    assert found.status.certified == math.isfinite(float(found.upper))
    assert all(bool(value >= found.upper) for value in found.details.values())


def attained(jacobian: Tensor, p: float, q: float) -> Tensor:
    """Norms of the images of some unit vectors, including the corners that matter for p = 1 and inf."""
    inputs = jacobian.shape[2]
    units = torch.eye(inputs, dtype=jacobian.dtype)
    signs = torch.where(jacobian >= 0, 1.0, -1.0).transpose(1, 2)  # the best corner for every row
    candidates = torch.cat((units.expand(len(jacobian), -1, -1), signs, jacobian.transpose(1, 2)), 2)
    length = torch.linalg.vector_norm(candidates, ord=p, dim=1).clamp(min=1e-300)
    return (torch.linalg.vector_norm(jacobian @ candidates, ord=q, dim=1) / length).amax(1)


def test_the_oracle_sees_a_bound_that_is_too_small() -> None:
    truth, error = torch.ones(1, 2, dtype=torch.float64), torch.full((1, 2), 1e-12, dtype=torch.float64)
    bounds = Interval(torch.tensor([0.0, 0.5]), torch.tensor([1.0, math.nan]))
    assert len(not_enclosed(bounds, truth, error)) == 1
    assert len(not_enclosed(Interval(bounds.lower, torch.tensor([1 - 1e-6, 2.0])), truth, error)) == 1
