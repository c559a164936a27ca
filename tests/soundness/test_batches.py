"""Several sets at once against sampled points and autodiff: what is certified holds in every one of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from jacobound import CROWN, IBP, Budget, FastLin, FastLip, Graph, RecurJac, SinglePrecision
from jacobound.arithmetic.rounding import strict
from jacobound.graph.derivative import derivative
from jacobound.method import Query
from jacobound.method.from_entries import from_entries, split_products
from oracles import NORMS, Observation, not_enclosed, observe
from single import nth, together
from zoo import KINDS, REGIONS, integer, realised

OUTPUT_METHODS = (IBP(), FastLin(), CROWN())
JACOBIAN_METHODS = (FastLip(), RecurJac("constant"), RecurJac(), RecurJac(direction="forward-shifted"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=max(1, settings().max_examples // 6))
@given(region=st.sampled_from(sorted(REGIONS)), seed=st.integers(0, 2**30), single=st.booleans())
def test_bounds_hold_in_every_set_of_a_batch(kind: str, region: str, seed: int, single: bool) -> None:
    """Balls of one norm, or boxes of every kind: unbounded ones, points and small ones side by side."""
    generator = Generator().manual_seed(seed)
    graph = KINDS[kind](generator)
    alike = sorted((region, "radius_zero") if region in ("l1", "l2") else set(REGIONS) - {"l1", "l2"})
    names = [region, *(alike[integer(0, len(alike) - 1, generator)] for _ in range(2))]
    drawn = [REGIONS[name](graph.in_shape, generator) for name in names]
    twin = realised(graph, generator).with_rows(None)
    graph = (graph.to(dtype=torch.float32) if single else graph).with_rows(None)
    seen = [observe(twin, points) for _, points in drawn]
    domain = together([described.domains(graph)[0][:] for described, _ in drawn])
    with torch.no_grad(), strict(graph.device, graph.dtype):
        for method in OUTPUT_METHODS:
            ranges = method.ranges(graph, domain, Budget())
            pairs = zip(graph.nodes, twin.nodes, strict=True)
            for (node, other), (k, one) in itertools.product(pairs, enumerate(seen)):
                wrong = not_enclosed(ranges[node][k], one.values[other], one.value_error[other])
                assert not wrong, f"{method}, node {node.name}, set {k}: {wrong[:3]}"
        for method in JACOBIAN_METHODS:
            ranges = CROWN().ranges(graph, domain, Budget())
            gates = derivative(graph, ranges)
            enclosure = method.enclose(Query(gates.graph, domain, Budget(), ranges=ranges, slopes=gates.slopes))
            directions = torch.randn(enclosure.entries.shape, generator=generator).to(graph.dtype)
            along = enclosure.along(directions)
            p, q = NORMS[integer(0, 8, generator)]
            constants = [from_entries(enclosure, p, q), *split_products(gates.graph, enclosure, p, q).values()]
            for k, one in enumerate(seen):
                wrong = not_enclosed(enclosure.entries[k], one.jacobian, one.jacobian_error)
                assert not wrong, f"{method}, set {k}: {wrong[:3]}"
                weights = directions[k].double()
                image = (one.jacobian * weights).sum(2)
                error = (one.jacobian_error * weights.abs()).sum(2) + 1e-12 * image.abs()
                assert not not_enclosed(along[k], image, error), f"{method}, set {k}, along"
                check_slopes(
                    one.values[twin.output].flatten(1), drawn[k][1].flatten(1), constants, k, (p, q), one, twin
                )


def check_slopes(
    outputs: Tensor,
    points: Tensor,
    constants: list[Tensor],
    k: int,
    norm: tuple[float, float],
    one: Observation,
    twin: Graph,
) -> None:
    """Slopes between pairs of points of the k-th set stay below every constant."""
    half, (p, q) = len(points) // 2, norm
    run = torch.linalg.vector_norm(points[:half] - points[half : 2 * half], ord=p, dim=1)
    height = torch.linalg.vector_norm(outputs[:half] - outputs[half : 2 * half], ord=q, dim=1)
    spread = 2 * one.value_error[twin.output].flatten(1).amax(0)
    doubt = torch.linalg.vector_norm(spread, ord=q) + 1e-13 * height
    for constant in constants:
        # Two equal points have no slope; an infinite constant times their distance is no number.
        reach = torch.where(run > 0, float(nth(constant, k)) * run * (1 + 1e-13), 0.0)
        assert bool((height <= reach + doubt).all()), (norm, k)


@pytest.mark.parametrize("kind", ("mlp", "residual", "convolution", "several_consumers"))
@settings(max_examples=max(1, settings().max_examples // 6))
@given(region=st.sampled_from(("l2", "linf", "box", "radius_zero")), seed=st.integers(0, 2**30))
def test_ranges_in_single_precision_hold_for_networks_of_either_precision(kind: str, region: str, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    graph = KINDS[kind](generator)
    described, points = REGIONS[region](graph.in_shape, generator)
    twin = realised(graph, generator).with_rows(None)
    graph, seen = graph.with_rows(None), observe(twin, points)
    with torch.no_grad(), strict(graph.device, graph.dtype):
        method = SinglePrecision(CROWN())
        ranges = method.ranges(graph, described.domains(graph)[0][:], Budget())
        for node, other in zip(graph.nodes, twin.nodes, strict=True):
            assert ranges[node].lower.dtype == torch.float64
            wrong = not_enclosed(nth(ranges[node]), seen.values[other], seen.value_error[other])
            assert not wrong, f"node {node.name}: {wrong[:3]}"
        enclosure = RecurJac(preactivation=method).enclose(Query(graph, described.domains(graph)[0][:], Budget()))
        assert enclosure.entries.lower.dtype == torch.float64
        assert not not_enclosed(nth(enclosure.entries), seen.jacobian, seen.jacobian_error)
