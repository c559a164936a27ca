"""The contracts of the unstable core, of product lines and of the recursion, recomputed without rounding."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Generator

from exact import DTYPE_NAMES, DTYPES, random_floats, rational
from jacobound import Box, Graph, RecurJac
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unit
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.jacobian import core as cores
from jacobound.jacobian import fastlip
from jacobound.jacobian import rounding_weights as defects
from jacobound.jacobian.recursion.product_lines import ProductRelaxation, chord, constant
from jacobound.operators.kinds import Dense
from single import enclosure_of, single

build_core, interval_adjoints = single(cores.build_core), single(fastlip.interval_adjoints)
defect_weights = single(defects.defect_weights)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def test_an_output_that_is_an_activation_has_its_own_place_in_the_core() -> None:
    x = Input((1,))
    graph = Graph(Elementwise(activation("tanh"), Affine(((Dense(torch.ones(1, 1, dtype=torch.float64)), x),))))
    for relaxation in ("constant", "chord"):
        found = enclosure_of(RecurJac(relaxation), graph, Box([-1.0], [1.0])).entries  # type: ignore[arg-type]
        assert float(found.lower) <= 1 - math.tanh(1.0) ** 2 and float(found.upper) >= 1.0


# --- slope times derivative ------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("relax", (constant, chord))
@pytest.mark.parametrize("exponents", ((-3, 3), (-100, 100), (-3, 3)), ids=("plain", "mixed", "specks"))
def test_product_lines_hold_at_all_slopes_and_derivatives(
    dtype: torch.dtype, relax: ProductRelaxation, exponents: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    generator = Generator().manual_seed(9)
    half = (exponents[0] // 2, exponents[1] // 2)
    slope_ends, ends = random_floats((2, 40), dtype, generator, half), random_floats((2, 3, 40), dtype, generator, half)
    ends[:, :, :6], slope_ends[:, 6:9] = 0.0, slope_ends[0, 6:9]
    ends[0, :, 2:4], ends[1, :, 4:6] = -1.0, 1.0
    if "specks" in request.node.name:  # one end just beside zero
        ends[0, :, 10:25] = -ends[0, :, 10:25].abs() * unit(dtype)
        ends[1, :, 10:25] = ends[1, :, 10:25].abs()
        ends[0, :, 25:] = -ends[0, :, 25:].abs()
        ends[1, :, 25:] = ends[1, :, 25:].abs() * unit(dtype)
    slope, derivative = (Interval(x.amin(0), x.amax(0)) for x in (slope_ends, ends))
    speck = torch.full((3, 40), 1e-3, dtype=dtype)
    lines = single(relax)(slope.map(lambda end: end.unsqueeze(0)), derivative, speck)
    assert bool((lines.upper_offset >= 0).all()) and bool((lines.lower_offset <= 0).all())
    fixed = slope.lower == slope.upper
    assert bool((lines.upper_slope == slope.upper)[:, fixed].all() & (lines.lower_slope == slope.lower)[:, fixed].all())
    assert not bool(lines.upper_offset[:, fixed].any()) and not bool(lines.lower_offset[:, fixed].any())
    for j, i in itertools.product(range(3), range(40)):
        s_ends = [rational(float(end[i])) for end in (slope.lower, slope.upper)]
        y_ends = [rational(float(end[j, i])) for end in (derivative.lower, derivative.upper)]
        au, bu, al, bl = (
            rational(float(x[j, i]))
            for x in (lines.upper_slope, lines.upper_offset, lines.lower_slope, lines.lower_offset)
        )
        for s, y in itertools.product([*s_ends, sum(s_ends) / 2], [*y_ends, sum(y_ends) / 2]):
            assert al * y + bl <= s * y <= au * y + bu


@pytest.mark.parametrize("relax", (constant, chord))
def test_product_lines_of_unbounded_derivatives_claim_nothing(relax: ProductRelaxation) -> None:
    slope = Interval(torch.zeros(3), torch.ones(3))
    derivative = Interval(torch.tensor([[-math.inf, 0.0, -1.0]]), torch.tensor([[math.inf, math.inf, math.inf]]))
    lines = relax(slope, derivative, torch.zeros(1, 3))
    assert lines.upper_offset[0, 0] == math.inf and lines.lower_offset[0, 0] == -math.inf
    assert lines.upper_slope[0, 1] == 1 and lines.upper_offset[0, 1] == 0  # the sign is known
    assert lines.upper_offset[0, 2] == math.inf
    assert not any(bool(x.isnan().any()) for x in vars(lines).values())


def test_weights_do_not_blow_up_through_layers_without_doubt() -> None:
    """Interval adjoints grow by the row sums of every layer; the backward sweep knows that nothing is uncertain."""
    generator = Generator().manual_seed(12)
    node: Node = Input((16,))
    for layer in range(12):
        rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator).double()).Q
        shift = torch.zeros(16, dtype=torch.float64) if layer == 11 else torch.full((16,), 40.0, dtype=torch.float64)
        affine = Affine(((Dense(rotation), node),), shift)
        node = Elementwise(activation("relu"), affine) if layer < 11 else affine
    graph = Graph(node)
    slopes: dict[Node, Interval] = {}
    for each in graph.nodes:
        if isinstance(each, Elementwise):
            low = torch.ones(16, dtype=torch.float64)
            low[0] = 0.0 if len(slopes) == 10 else 1.0  # one unstable neuron in the last hidden layer
            slopes[each] = Interval(low, torch.ones(16, dtype=torch.float64))
    adjoints = interval_adjoints(graph, slopes)
    weights = defect_weights(graph, slopes, adjoints)
    assert float(adjoints[graph.input].magnitude().max()) > 1e3
    assert all(float(weight.max()) <= 3.0 for weight in weights.values())
    for node in graph.nodes:
        assert bool((weights[node] <= adjoints[node].magnitude()).all())
