"""Bounds of tiny networks against exact arithmetic: rationals for piecewise linear ones, 300-bit balls otherwise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from flint import fmpq
from torch import Generator

from campaign.networks import (
    FAMILIES,
    cancelling_network,
    layered,
    plain,
    points_inside,
    random_box,
    random_network,
)
from exact import DTYPE_NAMES, DTYPES, at_least, outside, rational
from jacobound import (
    CROWN,
    IBP,
    Box,
    FastLin,
    FastLip,
    Graph,
    RecurJac,
    Sampling,
    bound_jacobian,
    bound_output,
    from_layers,
    lipschitz,
)
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unrounded
from jacobound.graph.nodes import Affine, Elementwise, Input, size
from jacobound.method import JacobianMethod, OutputMethod
from jacobound.operators.kinds import Dense
from oracles import ball_values_and_jacobian, exact_derivative, exact_slopes, exact_values

OUTPUT_METHODS = (IBP(), FastLin(), CROWN())
JACOBIAN_METHODS = (FastLip(), RecurJac("constant"), RecurJac("chord"))

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def violations(
    graph: Graph, box: Box, points: list[list[fmpq]], methods: Sequence[OutputMethod | JacobianMethod]
) -> list[str]:
    """What the methods claim and exact arithmetic denies."""
    values = [exact_values(graph, x) for x in points]
    slopes = [exact_slopes(graph, at) for at in values]
    jacobians = [exact_derivative(graph, s).entries() for s in slopes if s is not None]
    wrong = []
    for method in methods:
        if isinstance(method, OutputMethod):
            found, truths = bound_output(graph, box, method), [at[graph.output] for at in values]
        else:
            found, truths = bound_jacobian(graph, box, method), jacobians
        assert not bool((found.lower == math.inf).any() | (found.upper == -math.inf).any())
        # An infinite end is no claim; `outside` would call it wrong.
        low, high = (
            found.lower.clamp(min=-torch.finfo(graph.dtype).max),
            found.upper.clamp(max=torch.finfo(graph.dtype).max),
        )
        claims = Interval(low, high)
        for truth in truths:
            capped = [_capped(entry, graph.dtype) for entry in truth]
            wrong += [f"{method}: {line}" for line in outside(claims.lower, capped, claims.upper)]
    return wrong


def _capped(x: fmpq, dtype: torch.dtype) -> fmpq:
    """Numbers beyond the largest float are compared as that float, against ends that were clamped likewise."""
    top = rational(torch.finfo(dtype).max)
    return max(-top, min(top, x))


@both_dtypes
@pytest.mark.parametrize("family", FAMILIES)
def test_piecewise_linear_networks_stay_within_their_bounds(family: str, dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(len(family))
    for _ in range(8):
        graph = random_network(FAMILIES[family], dtype, generator)
        box = random_box(size(graph.input), dtype, generator)
        wrong = violations(graph, box, points_inside(box, generator), (*OUTPUT_METHODS, *JACOBIAN_METHODS))
        assert not wrong, f"{len(wrong)}: {wrong[:3]}"


def test_a_nan_bound_or_one_beyond_the_largest_float_would_be_seen() -> None:
    top = torch.finfo(torch.float64).max
    assert outside(torch.tensor([math.nan]), [fmpq(0)], torch.tensor([1.0]))
    assert not outside(torch.tensor([-top]), [_capped(rational(top) * 5, torch.float64)], torch.tensor([top]).double())


# --- the cancellation family: the small weight decides, and floats lose it ------------------------------------------


def cancelling_cases(dtype: torch.dtype) -> list[tuple[Graph, Box]]:
    generator = Generator().manual_seed(3)
    cases = []
    for k, order in enumerate(itertools.permutations(range(3))):
        row = 0.5 + torch.rand(1, 2, generator=generator)
        lower = torch.tensor([0.1, 0.2], dtype=dtype)
        for width in (0.0, 0.9):
            graph = cancelling_network(dtype, row, order, ("relu", "leaky_relu:0.25")[k % 2])
            cases.append((graph, Box(lower, lower + width)))
    return cases


@both_dtypes
def test_cancelling_networks_stay_within_their_bounds(dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(1)
    for graph, box in cancelling_cases(dtype):
        wrong = violations(graph, box, points_inside(box, generator), (*OUTPUT_METHODS, *JACOBIAN_METHODS))
        assert not wrong, f"{len(wrong)}: {wrong[:3]}"


@both_dtypes
@pytest.mark.parametrize("method", (*OUTPUT_METHODS, *JACOBIAN_METHODS), ids=str)
def test_without_rounding_terms_the_same_networks_do_violate(
    dtype: torch.dtype, method: OutputMethod | JacobianMethod
) -> None:
    """So that the test above can fail."""
    generator = Generator().manual_seed(1)
    wrong = []
    with unrounded():
        for graph, box in cancelling_cases(dtype):
            wrong += violations(graph, box, points_inside(box, generator), (method,))
    assert wrong


@both_dtypes
@pytest.mark.parametrize("relaxation", ("constant", "chord"))
def test_the_constants_of_cancelling_networks_hold(dtype: torch.dtype, relaxation: str) -> None:
    """The gradient is the gain times the row, exactly; floats may see none of it."""
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2)):
        row = torch.tensor([[0.75, 1.25]])
        graph, box = (
            cancelling_network(dtype, row, order, "relu"),
            Box(torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4])),
        )
        for norm, true in (((math.inf, math.inf), 2e6), ((1, 1), 1.25e6), ((2, 2), 1.4e6)):
            search = Sampling(points=4, steps=1)
            found = lipschitz(graph, box, RecurJac(relaxation), norm=norm, search=search)  # type: ignore[arg-type]
            assert all(at_least(float(one.value), rational(true)) for one in found.details.values()), found.details
            assert bool(found.lower <= found.upper)


# --- smooth activations ---------------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("name", ("tanh", "sigmoid"))
def test_smooth_networks_stay_within_their_bounds(name: str, dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(5)
    for trial in range(8):
        gain = (1.0, 3.0, 30.0, 1e-3)[trial % 4]
        widths = [2, 3, 2, 2][: 3 + trial % 2]
        weights = [gain * plain((b, a), dtype, generator) for a, b in itertools.pairwise(widths)]
        biases = [gain * plain((b,), dtype, generator) for b in widths[1:]]
        graph = layered(weights, biases, [name] * (len(weights) - 1))
        box = random_box(2, dtype, generator)
        truths = [ball_values_and_jacobian(weights, biases, name, x) for x in points_inside(box, generator)]
        for method in OUTPUT_METHODS:
            found = bound_output(graph, box, method)
            wrong = [line for values, _ in truths for line in outside(found.lower, values, found.upper)]
            assert not wrong, f"{method}: {wrong[:3]}"
        for method in JACOBIAN_METHODS:
            slopes = bound_jacobian(graph, box, method)
            flat = [[entry for row in rows for entry in row] for _, rows in truths]
            wrong = [line for entries in flat for line in outside(slopes.lower, entries, slopes.upper)]
            assert not wrong, f"{method}: {wrong[:3]}"


# --- products that vanish ------------------------------------------------------------------------------------------


def test_a_slope_that_vanishes_in_a_product_counts_with_the_derivative_behind_it() -> None:
    graph = from_layers([[[1e-25]], [[1e40]]], [[700.0], [0.0]], "sigmoid")
    biases = torch.tensor([[700.0], [0.0]], dtype=torch.float64)
    weights = [torch.tensor([[1e-25]], dtype=torch.float64), torch.tensor([[1e40]], dtype=torch.float64)]
    _, jacobian = ball_values_and_jacobian(weights, list(biases), "sigmoid", [fmpq(0)])
    for method in JACOBIAN_METHODS:
        found = bound_jacobian(graph, Box([0.0], [4.5e26]), method)
        assert not outside(found.lower, jacobian[0], found.upper), method


@both_dtypes
def test_a_coefficient_that_vanishes_in_a_product_counts_with_the_argument(dtype: torch.dtype) -> None:
    power = (-664, 830) if dtype == torch.float64 else (-80, 118)
    small_weight, large_weight = 2.0 ** power[0], 2.0 ** power[1]
    reach = small_weight * (small_weight * large_weight)

    def weight(*rows: list[float]) -> Dense:
        return Dense(torch.tensor(rows, dtype=torch.float64).to(dtype))

    x = Input((2,))
    h = Elementwise(activation(f"leaky_relu:{small_weight!r}"), Affine(((weight([large_weight, 0.0]), x),)))
    graph = Graph(Affine(((weight([small_weight]), h), (weight([0.0, 1.0]), x))))
    for method in OUTPUT_METHODS:
        found = bound_output(graph, Box([-2.0, -2 * reach], [-1.0, 2 * reach]), method)
        assert float(found.lower) <= -4 * reach, method
        assert float(found.upper) >= reach, method
