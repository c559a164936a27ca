"""The noise of executed nodes is that of the model, no less and hardly more; its effect does not depend on signs."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq

from exact import at_least, outside, random_floats, rational, rationals
from jacobound import CROWN, Box, Budget, Executed, Graph, from_layers
from jacobound.activations import activation
from jacobound.activations.kinds.piecewise import prelu
from jacobound.arithmetic.intervals import Interval
from jacobound.constants.executed import executed, execution_error
from jacobound.graph.execution import FOLDED, FUNCTION_UNITS
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.domains import Domain
from jacobound.operators.kinds import Dense, Identity
from jacobound.relaxation.noise import noise_of, widened

ENGINES = ("float64", "float32", "float16", "bfloat16")
every_engine = pytest.mark.parametrize("name", ENGINES)


def noises(output: Node, ranges: dict[Node, Interval], name: str) -> torch.Tensor | None:
    graph = executed(Graph(output), Executed(name))
    node = {one.name: one for one in graph.nodes}[output.name]
    found = {one: ranges[known] for one in graph.nodes for known in ranges if known.name == one.name}
    return noise_of(graph, node, found)


def point(value: float, other: float | None = None) -> Interval:
    return Interval(*(torch.tensor([[end]]).double() for end in (value, value if other is None else other)))


@every_engine
@pytest.mark.parametrize("terms", [1, 30])
def test_shares_are_those_of_the_model(name: str, terms: int) -> None:
    engine, single = Executed(name), fmpq(1, 2**24)
    u = rational(engine.unit)
    accumulated = min(u, single)
    long = (terms + FOLDED) * accumulated
    stored = fmpq(0) if accumulated == u else (FOLDED + 2) * u
    exact = long / (1 - long) + stored * (1 + stored)
    assert at_least(engine.share(terms), exact)
    assert rational(engine.share(terms)) <= exact * fmpq(1001, 1000)


@every_engine
def test_noise_of_sums_counts_all_products_and_the_bias(name: str) -> None:
    engine, x = Executed(name), Input((3,), "x")
    weight, bias = torch.tensor([[1.0, -2.0, 0.5]]).double(), torch.tensor([-4.0]).double()
    y = Affine(((Dense(weight), x), (Dense(weight), x)), bias, "y")
    ends = torch.tensor([[-3.0, 1.0, 2.0]]).double()
    found = noises(y, {x: Interval(ends, ends + 0.5), y: point(0.0, 1.0)}, name)
    assert found is not None
    size = 2 * (3 + 2 * 1.5 + 0.5 * 2.5) + 4
    least = size * engine.share(2 * 3 + 2 + 1)
    assert least <= float(found) <= 1.0001 * least + 100 * engine.tiny
    assert float(found) - least * (1 + 1e-9) <= 100 * engine.tiny


@every_engine
@pytest.mark.parametrize(("low", "high"), [(-5.0, 1.0), (-1.0, 5.0), (-0.5, 0.25)])
def test_noise_of_functions_counts_argument_value_and_one(name: str, low: float, high: float) -> None:
    engine, x = Executed(name), Input((1,), "x")
    for value in (0.5, 7.0):
        y = Elementwise(activation("tanh"), x, "y")
        found = noises(y, {x: point(low, high), y: point(-value, 0.0)}, name)
        assert found is not None
        least = 2 * FUNCTION_UNITS * engine.unit * max(1.0, -low, high, value)
        assert least <= float(found) <= 1.001 * least + 2 * engine.tiny


@every_engine
def test_inputs_are_rounded_once_and_overflow_has_no_bound(name: str) -> None:
    engine, x = Executed(name), Input((1,), "x")
    found = noises(x, {x: point(-3.0, 2.0)}, name)
    assert found is not None and 3 * engine.unit <= float(found) <= 3.001 * engine.unit + 2 * engine.tiny
    found = noises(x, {x: point(-engine.largest, 0.0)}, name)
    assert found is not None and float(found) == math.inf


@every_engine
def test_results_below_the_normal_range_may_be_flushed(name: str) -> None:
    engine, x, zero = Executed(name), Input((3,), "x"), Interval.exact(torch.zeros(1, 3).double())
    y = Affine(((Dense(torch.ones(1, 3).double()), x),), torch.zeros(1).double(), "y")
    for node, least in ((x, engine.tiny), (y, (3 + 1 + 1 + FOLDED) * engine.tiny)):
        found = noises(node, {x: zero, y: point(0.0)}, name) if node is y else noises(x, {x: zero}, name)
        assert found is not None and torch.all(found >= least) and torch.all(found <= 2 * least + 1e-305)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_what_overflows_only_with_its_rounding_has_no_bound(name: str) -> None:
    near = Executed(name).largest * (1 - 1e-4)
    x, one = Input((1,), "x"), Dense(torch.ones(1, 1).double())
    y = Affine(((one, x),), torch.zeros(1).double(), "y")
    assert float(noises(y, {x: point(near), y: point(near)}, name)) == math.inf  # type: ignore[arg-type]
    z = Elementwise(activation("softplus"), x, "z")
    for argument, value in ((near, 1.0), (1.0, near)):
        found = noises(z, {x: point(argument), z: point(value)}, name)
        assert found is not None and (float(found) == math.inf) == (value == near)


def test_a_value_that_its_noise_carries_to_the_largest_number_has_no_bound() -> None:
    """The sum of both is the largest number itself, and a little more before it is rounded."""
    largest = Executed("float64").largest
    unit_of_it = largest - math.nextafter(largest, 0.0)
    x = Input((1,), "x")
    y = Elementwise(activation("softplus"), x, "y")
    for units, finite in ((2 * FUNCTION_UNITS, False), (2 * FUNCTION_UNITS + 40, True)):
        found = noises(
            y,
            {x: point(1.0), y: Interval.exact(torch.tensor([[largest - units * unit_of_it]], dtype=torch.float64))},
            "float64",
        )
        assert found is not None and math.isfinite(float(found)) == finite


def test_each_set_has_an_error_of_its_own() -> None:
    graph = executed(from_layers([torch.eye(2), torch.ones(2, 2)]), Executed("float32"))
    ends = torch.tensor([[1.0, 1.0], [100.0, 100.0]]).double()
    both = Domain(Interval(-ends, ends))
    for q in (1, 2, math.inf):
        found = execution_error(graph, both, Budget(), CROWN(), q)
        alone = [execution_error(graph, both[k : k + 1], Budget(), CROWN(), q) for k in (0, 1)]
        assert torch.allclose(found, torch.cat(alone), rtol=1e-9) and float(found[1]) > 50 * float(found[0])


def test_noise_widens_outward() -> None:
    generator = torch.Generator().manual_seed(1)
    ends = random_floats((2, 300), torch.float64, generator, (-3, 3)).sort(0).values
    noise = random_floats((300,), torch.float64, generator, (-40, 0)).abs()
    found = widened(Interval(ends[0], ends[1]), noise)
    low, high, more = map(rationals, (*ends, noise))
    assert outside(found.lower, [a - b for a, b in zip(low, more, strict=True)], found.upper) == []
    assert outside(found.lower, [a + b for a, b in zip(high, more, strict=True)], found.upper) == []


def test_what_rounds_nothing_has_no_noise() -> None:
    x = Input((1,), "x")
    ranges = {x: point(-3.0, 2.0)}
    exact = [Elementwise(activation(one), x, "y") for one in ("relu", "relu6")]
    exact_too = Affine(((Identity((1,), (1,), torch.zeros(1).double()), x),), None, "y")
    rounded = [Elementwise(one, x, "y") for one in (activation("leaky_relu:0.1"), prelu(torch.ones(1).double()))]
    assert all(noises(node, {**ranges, node: point(0.0, 2.0)}, "float32") is None for node in (*exact, exact_too))
    assert all(noises(node, {**ranges, node: point(0.0, 2.0)}, "float32") is not None for node in rounded)


def test_the_effect_of_noise_does_not_depend_on_signs() -> None:
    first, second = torch.randn(6, 3).double(), torch.rand(2, 6).double() + 0.1
    region, found = Box([-1.0] * 3, [1.0] * 3), []
    for sign in (1, -1):
        graph = executed(from_layers([first, sign * second], [None, None], activation="tanh"), Executed("float32"))
        (domain,), _ = region.domains(graph)
        found.append(execution_error(graph, domain, Budget(), CROWN(), 2))
    assert torch.allclose(found[0], found[1], rtol=1e-12) and 1e-7 < float(found[0]) < 1e-4
