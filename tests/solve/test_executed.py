"""Executed semantics: what engines really compute stays within the bounds, and the bounds are not far away."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

import jacobound as jb
from jacobound import Graph
from jacobound.activations import activation, families
from jacobound.graph.execution import FUNCTION_UNITS
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.operators.kinds import Dense
from zoo import KINDS, MULTIPLYING, realised

INFINITY = math.inf


def run(graph: Graph, points: Tensor, dtype: torch.dtype, generator: Generator) -> Tensor:
    """Evaluate like an engine: every node rounded to `dtype`, sums accumulated in a random order in float32."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found: dict[Node, Tensor] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            value = points.to(dtype)
        elif isinstance(node, Elementwise):
            value = node.activation.to("cpu", wide).value(found[node.source].to(wide))
        else:
            assert isinstance(node, Affine)
            value = torch.zeros(len(points), *node.shape, dtype=wide)
            for operator, source in node.terms:
                x = found[source].to(wide)
                if isinstance(operator, Dense):
                    order = torch.randperm(operator.weight.shape[1], generator=generator)
                    value = value + x[..., order] @ operator.weight.to(wide)[:, order].T
                else:
                    value = value + operator.to(torch.device("cpu"), wide).apply(x)
            value = value if node.bias is None else value + node.bias.to(wide)
        found[node] = value.to(dtype)
    return found[graph.output].double()


def dense_net(generator: Generator, widths: tuple[int, ...], activation: str, dtype: torch.dtype) -> Graph:
    weights = [
        (torch.randn(b, a, generator=generator) / math.sqrt(a)).to(dtype).double()
        for a, b in itertools.pairwise(widths)
    ]
    biases = [(0.3 * torch.randn(b, generator=generator)).to(dtype).double() for b in widths[1:]]
    return jb.from_layers(weights, biases, activation=activation)


@pytest.mark.slow
@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(sorted(set(KINDS) - MULTIPLYING)))
def test_executed_values_stay_within_their_bounds(seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    graph = realised(KINDS[kind](generator), generator)
    centre = torch.randn(graph.in_shape, generator=generator, dtype=torch.float64)
    radius = float(10.0 ** (-6 * torch.rand((), generator=generator)))
    try:
        graph.to(dtype=torch.float32)
    except jb.UnsafeArithmeticError:
        return  # an engine could not even hold these weights
    points = centre + radius * (2 * torch.rand(20, *graph.in_shape, generator=generator, dtype=torch.float64) - 1)
    for method in (jb.IBP(), jb.CROWN()):
        found = jb.bound_output(graph, jb.Ball(centre, radius, INFINITY), method, semantics="executed")
        values = run(graph, points, torch.float32, generator)
        assert ((values >= found.lower) & (values <= found.upper)).all()
        if found.status.certified:
            real = jb.bound_output(graph, jb.Ball(centre, radius, INFINITY), method)
            assert (found.lower <= real.lower + 1e-9 * real.lower.abs()).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
def test_pairs_of_executed_values_obey_the_constant_and_twice_delta(dtype: str, activation: str) -> None:
    engine = jb.Executed(dtype)
    generator = torch.Generator().manual_seed(3)
    graph = dense_net(generator, (6, 24, 24, 4), activation, engine.torch_dtype)
    centre, radius = torch.randn(6, generator=generator, dtype=torch.float64), 1e-3
    region = jb.Ball(centre, radius, INFINITY)
    found = jb.lipschitz(graph, region, norm=(INFINITY, INFINITY), semantics=engine, search=None)
    assert found.status.certified and found.delta is not None and found.provenance.semantics == f"executed in {dtype}"
    points = centre + radius * (2 * torch.rand(400, 6, generator=generator, dtype=torch.float64) - 1)
    values, exact = run(graph, points, engine.torch_dtype, generator), graph(points)
    off = (values - exact).abs().amax()
    assert off <= found.delta
    assert found.delta <= 500 * off  # a-priori constants are pessimistic, but not without measure
    gaps = (values[:200] - values[200:]).abs().amax(1)
    distances = (points[:200] - points[200:]).abs().amax(1)
    assert (gaps <= found.upper * distances + 2 * found.delta).all()
    if (dtype, activation) == ("float16", "relu"):
        assert (gaps > found.upper * distances).any()  # the step function breaks the constant of the real network


def test_an_executed_point_has_a_width_of_the_size_of_its_rounding() -> None:
    generator = torch.Generator().manual_seed(5)
    graph = dense_net(generator, (50, 100, 100, 3), "relu", torch.float32)
    region = jb.Ball(torch.randn(50, generator=generator, dtype=torch.float64), 0.0, INFINITY)
    widths = {
        name: (lambda out: float((out.upper - out.lower).max()))(jb.bound_output(graph, region, semantics=semantics))
        for name, semantics in {"real": "real", "float64": jb.Executed("float64"), "float32": "executed"}.items()
    }
    assert widths["real"] < 1e-11 and widths["float64"] < 1e-11
    assert 1e-7 < widths["float32"] < 1e-3


def test_rows_are_exact_combinations_of_executed_outputs() -> None:
    graph = jb.from_layers([torch.tensor([[1.0], [1.0]])])
    region = jb.Ball(torch.tensor([1.0 / 3]), 0.0, INFINITY)
    one = jb.bound_output(graph, region, semantics="executed")
    margin = jb.bound_output(graph, region, rows=[[1.0, -1.0]], semantics="executed")
    # Both outputs round alike here, but an engine may round each in its own way.
    assert margin.upper[0] <= (one.upper[0] - one.lower[1]) * (1 + 1e-9)
    assert margin.upper[0] > 0


def test_a_value_that_can_overflow_in_the_engine_has_no_bound() -> None:
    graph = jb.from_layers([torch.tensor([[300.0]]), torch.tensor([[300.0]]), torch.tensor([[1e-4]])])
    region = jb.Ball(torch.tensor([1.0]), 0.1, INFINITY)
    assert jb.bound_output(graph, region, semantics="executed").status.certified
    half = jb.bound_output(graph, region, semantics=jb.Executed("float16"))
    assert half.status is jb.Status.OVERFLOW and not half.status.certified
    constant = jb.lipschitz(graph, region, semantics=jb.Executed("float16"), search=None)
    assert constant.status is jb.Status.OVERFLOW


def test_flat_stretches_of_an_activation_may_be_off_too() -> None:
    """hard_sigmoid is 0 at -3, but x / 6 + 0.5 rounded need not be; the slope 0 must not hide that."""
    graph = jb.from_layers([torch.tensor([[1.0]]), torch.tensor([[1e3]])], activation="hard_sigmoid")
    region = jb.Ball(torch.tensor([-4.0]), 0.5, INFINITY)
    out = jb.bound_output(graph, region, semantics="executed")
    assert out.upper[0] >= 1e3 * 2**-24
    delta = jb.lipschitz(graph, region, semantics="executed", search=None).delta
    assert delta is not None and delta >= 1e3 * 2**-24


def test_long_sums_in_a_narrow_dtype_are_refused() -> None:
    with pytest.raises(jb.UnsafeArithmeticError, match="wider dtype"):
        jb.Executed("float32").share(1 << 23)


@pytest.mark.parametrize("semantics", ["float32", None, 3])
def test_semantics_that_do_not_exist_are_refused(semantics: object) -> None:
    graph = jb.from_layers([torch.eye(2)])
    with pytest.raises(jb.InvalidOptionError, match="semantics is"):
        jb.bound_output(graph, jb.WholeSpace(), semantics=semantics)  # type: ignore[arg-type]
    with pytest.raises(jb.InvalidOptionError, match="one of the dtypes"):
        jb.Executed("int8")


@pytest.mark.slow
@pytest.mark.parametrize("large", ["weight", "bias"])
def test_the_worst_order_of_a_long_sum_is_covered(large: str) -> None:
    """1 + 4096 * 2^-25, small ones added one after the other to the large one: all of them are lost."""
    small = torch.full((1, 4096), 2.0**-25, dtype=torch.float64)
    weight = torch.cat([torch.ones(1, 1, dtype=torch.float64), small], 1) if large == "weight" else small
    graph = jb.from_layers([weight], None if large == "weight" else [torch.ones(1, dtype=torch.float64)])
    region = jb.Ball(torch.ones(weight.shape[1], dtype=torch.float64), 0.0, INFINITY)
    exact = jb.bound_output(graph, region)
    assert exact.lower[0] > 1 + 2.0**-14
    assert jb.bound_output(graph, region, semantics="executed").lower[0] <= 1.0


@pytest.mark.parametrize("name", [family.name for family in families() if family.name not in ("prelu", "power")])
def test_activations_of_torch_stay_below_half_of_what_engines_are_allowed(name: str) -> None:
    function = activation(name).value
    sizes = torch.tensor([1e-3, 1.0, 5.0, 30.0]).repeat_interleave(5000)
    z = (torch.randn(20000) * sizes).clamp(-80.0, 80.0)
    exact, found = function(z.double()), function(z).double()
    known = torch.isfinite(exact) & torch.isfinite(found)
    unit = 2 * jb.Executed().unit * torch.maximum(z.double().abs(), exact.abs()).clamp(min=1.0)
    assert known.sum() > 5000 and ((found - exact).abs() / unit)[known].max() <= FUNCTION_UNITS / 2


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_shares_are_those_of_the_formula(dtype: str) -> None:
    engine = jb.Executed(dtype)
    u = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert engine.unit == u
    summed = min(u, 2.0**-24)
    for terms in (1, 10, 10**5):
        long, stored = (terms + 8) * summed, 10 * u if summed < u else 0.0
        expected = (long / (1 - long) + stored + stored**2) * (1 + 1e-6)
        assert engine.share(terms) == pytest.approx(expected, rel=1e-12)
    if dtype != "float64":
        assert engine.share(2**22 - 9) < 1.0
        with pytest.raises(jb.UnsafeArithmeticError, match="float32"):
            engine.share(2**22 - 8)
    else:
        with pytest.raises(jb.UnsafeArithmeticError, match="float64"):
            engine.share(2**51)


def test_numbers_of_a_dtype() -> None:
    assert jb.Executed("float16").holds(0.5) and not jb.Executed("float16").holds(0.1)
    assert jb.Executed("float64").holds(0.1) and not jb.Executed("float32").holds(0.1)
