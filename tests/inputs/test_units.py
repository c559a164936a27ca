"""Units: scaled balls, preprocessing and weighted norms hold for exact numbers, and mean what they say."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

import jacobound as jb
from jacobound import Graph
from jacobound.arithmetic.linalg import dual_exponent
from jacobound.inputs.domains import Domain

DOUBLE = torch.float64
EXPONENTS = (1, 2, math.inf)
RADII = ([0.1, 0.2, 0.3, 0.4], np.full(4, 0.1), torch.full((4,), 0.1), torch.ones(1, 4), (1, 2, 3, 4))
HALVES = (np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5), "0.5", Decimal("0.5"))


def network(inputs: int = 4, outputs: int = 3, activation: str = "tanh", seed: int = 0) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    sizes = (inputs, 8, 8, outputs)
    pairs = zip(sizes[1:], sizes[:-1], strict=True)
    weights = [torch.randn(out, into, generator=generator, dtype=DOUBLE) for out, into in pairs]
    return jb.from_layers(weights, [torch.zeros(out, dtype=DOUBLE) for out in sizes[1:]], activation)


def only(region: jb.Ball, graph: Graph) -> Domain:
    domains, _ = region.domains(graph)
    (domain,) = domains
    return domain


def fractions(values: Tensor) -> list[Fraction]:
    return [Fraction(value) for value in values.flatten().tolist()]


# --- scaled balls ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("p", EXPONENTS)
def test_a_scaled_ball_holds_its_farthest_points_exactly(p: float, dtype: torch.dtype) -> None:
    """Along every axis ``center + radius scale`` in exact arithmetic, radius a decimal that is no float."""
    generator = torch.Generator().manual_seed(1)
    center = torch.randn(4, generator=generator, dtype=DOUBLE)
    scale = torch.tensor([0.1, 3.0, 1e-3, 0.7], dtype=DOUBLE)
    domain = only(jb.Ball(center, "0.3", p, scale=scale), network().to(dtype=dtype) if dtype == DOUBLE else single())
    low, high = fractions(domain.box.lower), fractions(domain.box.upper)
    for k, (middle, unit) in enumerate(zip(fractions(center), fractions(scale), strict=True)):
        reach = Fraction("0.3") * unit
        assert low[k] <= middle - reach and middle + reach <= high[k]
        slack = Fraction(1, 10**5 if dtype == torch.float32 else 10**13)
        assert high[k] - low[k] <= 2 * reach + slack


def single() -> Graph:
    return jb.from_layers([torch.ones(3, 4), torch.ones(2, 3)]).to(dtype=torch.float32)


@pytest.mark.parametrize("p", [1, 2])
def test_ranges_over_scaled_balls_are_dual_norms_of_scaled_coefficients(p: float) -> None:
    generator = torch.Generator().manual_seed(2)
    center, rows = (torch.randn(n, 4, generator=generator, dtype=DOUBLE) for n in (1, 5))
    scale = torch.tensor([0.1, 3.0, 0.0, 0.7], dtype=DOUBLE)
    found = jb.bound_output(jb.from_layers([rows]), jb.Ball(center[0], 0.5, p, scale=scale))
    reach = 0.5 * torch.linalg.vector_norm(rows * scale, ord=dual_exponent(p), dim=1)
    middle = rows @ center[0]
    assert torch.allclose(found.upper, middle + reach, rtol=1e-12)
    assert bool((found.upper >= middle + reach * (1 - 1e-15)).all())


def test_with_radius_1_a_scale_holds_the_radii_of_the_inputs() -> None:
    graph, center = network(), torch.tensor([0.1, 0.0, 0.0, 0.2], dtype=DOUBLE)
    radii = torch.tensor([0.125, 0.25, 1.0, 0.5], dtype=DOUBLE)
    ball = jb.lipschitz(graph, jb.Ball(center, 1, scale=radii), jb.RecurJac(), search=None)
    box = jb.lipschitz(graph, jb.Box(center - radii, center + radii), jb.RecurJac(), search=None)
    assert float(ball.upper) == pytest.approx(float(box.upper), rel=1e-9)


BRIEF = jb.Sampling(points=4, steps=2, ascents=2)
METHODS = (
    jb.RecurJac(),
    jb.FastLip(),
    jb.LinearSlopes(),
    jb.AutoLip(),
    jb.SeqLip(),
    jb.LipSDP(),
    jb.ECLipsE(),
    jb.Best(),
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("p", EXPONENTS)
def test_constants_over_scaled_balls_hold_at_their_points(p: float, method: object) -> None:
    graph, center = network(seed=3), torch.full((4,), 0.25, dtype=DOUBLE)
    scale = torch.tensor([2.0, 0.1, 0.0, 0.5], dtype=DOUBLE)
    found = jb.lipschitz(graph, jb.Ball(center, 0.3, p, scale=scale), method, budget=2, search=BRIEF)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(4)
    offsets = torch.randn(200, 4, generator=generator, dtype=DOUBLE)
    offsets /= torch.linalg.vector_norm(offsets, ord=p, dim=1, keepdim=True)
    jacobians = torch.func.vmap(torch.func.jacrev(graph))(center + 0.3 * scale * offsets)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= float(found.upper)


@pytest.mark.slow
def test_small_units_give_small_constants() -> None:
    """A method that forgot the scale would give the constant of the large ball."""
    graph, center = network(seed=5), torch.zeros(4, dtype=DOUBLE)
    scale = torch.tensor([1.0, 1e-6, 1e-6, 1e-6], dtype=DOUBLE)
    for method in (jb.RecurJac(), jb.LinearSlopes(), jb.LipSDP()):
        plain = float(jb.lipschitz(graph, jb.Ball(center, 0.5, 2), method, search=None).upper)
        scaled = float(jb.lipschitz(graph, jb.Ball(center, 0.5, 2, scale=scale), method, search=None).upper)
        assert scaled < plain


def test_questions_take_scaled_boxes_and_refuse_scaled_balls_that_are_none() -> None:
    graph, center = network(outputs=1), torch.zeros(4, dtype=DOUBLE)
    radii = torch.tensor([0.5, 0.0, 0.25, 0.125], dtype=DOUBLE)
    found = jb.monotone_features(graph, jb.Ball(center, 1, scale=radii), most=20)
    other = jb.monotone_features(graph, jb.Box(-radii, radii), most=20)
    assert torch.allclose(found.lower, other.lower) and torch.allclose(found.upper, other.upper)
    with pytest.raises(jb.InvalidRegionError, match="boxes"):
        jb.monotone_features(graph, jb.Ball(center, 1, 2, scale=radii))


@pytest.mark.parametrize(
    ("scale", "error"),
    [
        (-1.0, jb.InvalidRegionError),
        (math.nan, jb.InvalidRegionError),
        (math.inf, jb.InvalidRegionError),
        ("wide", jb.ShapeError),
        ([1.0, 2.0, 3.0], jb.ShapeError),
        (torch.ones(2, 4), jb.ShapeError),
    ],
)
def test_scales_that_make_no_sense_are_refused(scale: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        jb.bound_output(network(), jb.Ball(torch.zeros(4), 0.1, scale=scale))  # type: ignore[arg-type]


# --- radii -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radii", RADII)
def test_as_many_radii_as_inputs_are_refused_with_the_cure(radii: object) -> None:
    with pytest.raises(jb.InvalidRegionError, match="scale="):
        jb.bound_output(network(), jb.Ball(torch.zeros(4), radii))  # type: ignore[arg-type]
    with pytest.raises(jb.InvalidRegionError, match="scale="):
        jb.bound_output(network(), jb.Ball(torch.zeros(3, 4), radii))  # type: ignore[arg-type]


def test_several_balls_are_asked_for_by_name() -> None:
    several = jb.bound_output(network(), jb.Ball(torch.zeros(4), jb.Radii([0.1, 0.2, 0.3, 0.4])))
    assert several.lower.shape == (4, 3)
    assert jb.bound_output(network(), jb.Ball(torch.zeros(4), [0.1, 0.2])).lower.shape == (2, 3)


@pytest.mark.parametrize("radius", ["8/255", Fraction(8, 255)])
def test_a_fraction_is_rounded_outward(radius: object) -> None:
    (found,) = jb.Ball([0.0], radius).radii  # type: ignore[arg-type]
    assert Fraction(found) >= Fraction(8, 255) > Fraction(math.nextafter(found, 0))


@pytest.mark.parametrize("radius", HALVES)
def test_a_radius_may_be_any_number(radius: object) -> None:
    assert jb.Ball([0.0], radius).radii == (0.5,)  # type: ignore[arg-type]


def test_regions_own_their_numbers() -> None:
    center, low, high, scale = (torch.full((4,), value, dtype=DOUBLE) for value in (0.0, -1.0, 1.0, 1.0))
    array = np.zeros(4)
    regions = (
        jb.Ball(center, 0.1, clip=(low, high), scale=scale), jb.Ball(array, 0.1), jb.Box(low, high),
    )  # fmt: skip
    graph = network()
    before = [jb.bound_output(graph, region) for region in regions]
    for tensor in (center, low, high, scale):
        tensor += 7
    array += 7
    for region, found in zip(regions, before, strict=True):
        assert torch.equal(jb.bound_output(graph, region).upper, found.upper)


# --- preprocessing and weighted norms --------------------------------------------------------------------------------


def test_preprocessing_is_enclosed_exactly() -> None:
    """Bounds at a point hold the exact value of ``W (x - mean) / std``, where no quotient is a float."""
    generator = torch.Generator().manual_seed(6)
    weight, mean, x = (torch.randn(n, 3, generator=generator, dtype=DOUBLE) for n in (2, 1, 1))
    std = torch.tensor([0.1, 0.3, 0.7], dtype=DOUBLE)
    graph = jb.from_layers([weight]).with_preprocessing(mean[0], std)
    found = jb.bound_output(graph, jb.Ball(x[0], 0.0))
    jacobian = jb.bound_jacobian(graph, jb.Ball(x[0], 0.0))
    for row in range(2):
        parts = list(zip(*map(fractions, (weight[row], x[0], mean[0], std)), strict=True))
        value = sum(w * (a - m) / s for w, a, m, s in parts)
        assert Fraction(float(found.lower[row])) <= value <= Fraction(float(found.upper[row]))
        for k, (w, _, _, s) in enumerate(parts):
            assert Fraction(float(jacobian.lower[row, k])) <= w / s <= Fraction(float(jacobian.upper[row, k]))
    assert float((found.upper - found.lower).max()) < 1e-12
    assert graph.source.units[0].startswith("input x enters as (x - mean) / std")


def test_preprocessing_goes_by_channel_and_by_fraction() -> None:
    module = torch.nn.Conv2d(3, 2, 3).double().eval()
    mean, std = torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0.3, 0.2, 0.1])
    plain = jb.from_torch(module, torch.zeros(1, 3, 5, 5, dtype=DOUBLE))
    x = torch.rand(3, 5, 5, dtype=DOUBLE)
    wanted = plain((x - mean.double().view(3, 1, 1)) / std.double().view(3, 1, 1))
    assert torch.allclose(plain.with_preprocessing(mean, std)(x), wanted)
    assert torch.allclose(plain.with_preprocessing(0, "1/255")(x), plain(255 * x))
    assert torch.allclose(plain.with_preprocessing(std=Fraction(1, 255))(x), plain(255 * x))
    assert torch.allclose(plain.with_postprocessing(2.0, 1.0)(x), 2 * plain(x) + 1)
    for wrong in (0.0, -1.0, math.nan, math.inf, "0", "a", "1e999999999", 5e-324):
        with pytest.raises(jb.InvalidOptionError):
            plain.with_preprocessing(0, wrong)
    for shape in ((2,), (5, 5, 5), (4, 3, 5, 5)):
        with pytest.raises(jb.ShapeError):
            plain.with_preprocessing(torch.ones(shape))
    with pytest.raises(jb.InvalidOptionError, match="exact numbers"):
        plain.with_preprocessing("1/3")


@pytest.mark.parametrize(
    ("method", "norms"),
    [*((method, (2, 2)) for method in METHODS), (jb.FastLip(), (math.inf, 1)), (jb.AutoLip(), (1, math.inf))],
)
def test_weighted_constants_hold_between_the_ends(norms: tuple[float, float], method: object) -> None:
    """``||f(x) - f(y)||_v <= L ||x - y||_w`` at random points, and the lower end does not pass the upper one."""
    graph, center = network(seed=7), torch.tensor([0.3, -0.2, 0.1, 0.0], dtype=DOUBLE)
    w, v = torch.tensor([0.1, 3.0, 0.7, 1.0], dtype=DOUBLE), torch.tensor([2.0, 0.3, 1.0], dtype=DOUBLE)
    norm = (jb.Weighted(norms[0], w), jb.Weighted(norms[1], v))
    region = jb.Ball(center, 0.3, 2, scale=[1.0, 0.5, 0.0, 2.0])
    found = jb.lipschitz(graph, region, method, norm=norm, budget=2, search=BRIEF)  # type: ignore[arg-type]
    assert 0 < float(found.lower) <= float(found.upper) and found.exponents == norms
    generator = torch.Generator().manual_seed(8)
    offsets = torch.randn(200, 4, generator=generator, dtype=DOUBLE)
    offsets /= torch.linalg.vector_norm(offsets, dim=1, keepdim=True)
    points = center + 0.3 * torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=DOUBLE) * offsets
    first, second = points[:100], points[100:]
    moved = torch.linalg.vector_norm((graph(first) - graph(second)) * v, ord=norms[1], dim=1)
    away = torch.linalg.vector_norm((first - second) * w, ord=norms[0], dim=1)
    assert bool((moved <= float(found.upper) * away * (1 + 1e-12)).all())


def test_a_linear_network_has_the_norm_of_its_weighted_matrix() -> None:
    generator = torch.Generator().manual_seed(9)
    matrix = torch.randn(3, 4, generator=generator, dtype=DOUBLE)
    w, v = torch.tensor([0.1, 3.0, 0.7, 1.0], dtype=DOUBLE), torch.tensor([2.0, 0.3, 1.0], dtype=DOUBLE)
    truth = float(torch.linalg.matrix_norm(v.unsqueeze(1) * matrix / w, 2))
    for region in (jb.WholeSpace(), jb.Ball([0.1] * 4, 0.3, 2), jb.Box([-0.1] * 4, [0.2] * 4)):
        norm = (jb.Weighted(2, w), jb.Weighted(2, v))
        found = jb.lipschitz(jb.from_layers([matrix]), region, jb.AutoLip(), norm=norm, budget=2, search=BRIEF)
        assert float(found.upper) == pytest.approx(truth, rel=1e-6) and float(found.upper) >= truth * (1 - 1e-15)
        assert float(found.lower) == pytest.approx(truth, rel=1e-6) and float(found.lower) <= truth * (1 + 1e-15)


def test_weights_that_do_not_fit_are_refused() -> None:
    graph, region = network(), jb.Ball([0.0] * 4, 0.1)
    for weights in ([1.0, 2.0], [[1.0]] * 4):
        with pytest.raises(jb.ShapeError):
            jb.lipschitz(graph, region, norm=(jb.Weighted(2, weights), 2))
        with pytest.raises(jb.ShapeError):
            jb.lipschitz(graph, region, norm=(2, jb.Weighted(2, weights)))
    for weights in ([0.0] * 4, [-1.0] * 4, [math.nan] * 4, []):
        with pytest.raises(jb.JacoboundError):
            jb.Weighted(2, weights)
