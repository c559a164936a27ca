"""Lower ends of Lipschitz constants: proved at their witnesses, close to what is known, silent where nothing holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor, nn
from torch.nn import functional

import jacobound as jb
import zoo
from campaign.lower_ends import Facts, check_lower, reaches
from exact import rationals
from jacobound.lower_ends.inner_sets import InnerSets
from jacobound.lower_ends.sampling import Witness
from oracles import NORMS, autodiff

INF = math.inf
BRIEF = jb.Sampling(points=16, steps=8, ascents=4)
REGIONS: dict[str, jb.Ball | jb.Box | jb.WholeSpace] = {
    "whole space": jb.WholeSpace(),
    "point": jb.Ball([0.0], 0.0),
    "nearly a point": jb.Ball([0.0], 1e-300),
    "ball": jb.Ball([0.0], 1.0),
    "far ball": jb.Ball([1e9], 1e-3),
    "line": jb.Box([-INF], [INF]),
    "half line": jb.Box([0.0], [INF]),
    "from the kink": jb.Box([0.0], [1.0]),
    "to the kink": jb.Box([-1.0], [0.0]),
}
# Functions of one number with their constants on the left and on the right of 0.
KINKED: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "zero": (lambda x: x - torch.relu(x) + torch.relu(-x), 0.0, 0.0),
    "six": (lambda x: functional.leaky_relu(x, 5.0) - functional.leaky_relu(-x, 5.0), 6.0, 6.0),
    "minimum": (lambda x: x - torch.relu(x), 1.0, 0.0),
    "absolute value": (lambda x: torch.relu(x) + torch.relu(-x), 1.0, 1.0),
    "identity": (lambda x: torch.relu(x) - torch.relu(-x), 1.0, 1.0),
    "nothing twice": (lambda x: torch.relu(torch.relu(x) - torch.relu(x)), 0.0, 0.0),
    "maximum": (lambda x: torch.maximum(x, 2 * x) - torch.minimum(x, 2 * x), 1.0, 1.0),
    "clipped": (lambda x: functional.hardtanh(x) - torch.clamp(x, -1.0, 1.0), 0.0, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINKED)
def test_kinks_are_not_taken_for_slopes(name: str) -> None:
    function, left, right = KINKED[name]
    graph = jb.from_torch(function, torch.zeros(1, 1, dtype=torch.float64))
    known = {"half line": right, "from the kink": right, "far ball": right, "to the kink": left}
    for region, where in REGIONS.items():
        found = jb.lipschitz(graph, where, jb.FastLip(), search=BRIEF)
        truth, lower = known.get(region, max(left, right)), float(found.lower)
        assert lower <= truth <= float(found.upper) and lower <= found.upper, region
        assert "point" in region or lower >= truth * (1 - 1e-4), region
        assert found.lower_reason[0].startswith("proved" if lower > 0 else "nothing proved"), region


def test_at_a_single_point_the_norm_of_the_jacobian_counts() -> None:
    graph = jb.from_layers([[[3.0, 4.0]], [[2.0]]], activation="relu")
    at = jb.lipschitz(graph, jb.Ball([[1.0, 1.0], [-1.0, -1.0], [4.0, -3.0]], 0.0), jb.FastLip())
    assert at.lower.tolist() == pytest.approx([10.0, 0.0, 0.0], rel=1e-12) and float(at.lower[0]) <= 10.0
    assert "zero" in at.lower_reason[1] and "kink" in at.lower_reason[2]
    fixed = jb.lipschitz(graph, jb.Box([1.0, 0.0], [1.0, 1.0]), jb.FastLip())  # one coordinate can not move
    assert float(fixed.lower) == pytest.approx(10.0, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_exact_arithmetic_confirms_every_witness(norm: tuple[float, float], dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(3)
    weights = [torch.randn(b, a, generator=generator).to(dtype) for a, b in itertools.pairwise([2, 4, 4, 2])]
    biases = [torch.randn(len(w), generator=generator).to(dtype) for w in weights]
    graph = jb.from_layers(weights, biases, activation="leaky_relu:0.25").to(dtype=dtype)
    rows = torch.tensor([[1.0, -1.0], [0.5, 1.0], [0.0, 2.0]])
    regions = (
        jb.WholeSpace(),
        jb.Box([-1.0, 0.5], [1.0, 0.5]),
        *(jb.Ball([0.3, -0.2], "0.7", p) for p in (1, 2, INF)),
        jb.Ball([0.3, -0.2], "1e-9", 2),
        jb.Ball([0.3, -0.2], 0.7, 2, clip=(-0.25, 0.4)),
    )
    for region, asked in zip(regions, itertools.cycle((None, rows)), strict=False):
        found = jb.lipschitz(graph, region, jb.FastLip(), norm=norm, rows=asked, search=BRIEF)
        assert not check_lower(found, region, Facts(graph, None, asked), norm)
        assert float(found.lower) > 0
        assert found.lower.dtype == dtype and found.witness is not None and found.witness.dtype == torch.float64


@pytest.mark.parametrize("kind", sorted(zoo.KINDS))
def test_what_is_proved_is_close_to_the_norm_at_the_witness(kind: str) -> None:
    generator = Generator().manual_seed(11)
    graph = zoo.KINDS[kind](generator)
    centre = torch.randn(graph.in_shape, generator=generator, dtype=torch.float64)
    for norm in ((INF, INF), (2, 2), (1, 1)):
        found = jb.lipschitz(graph, jb.Ball(centre, jb.Radii([0.0, 0.3])), jb.FastLip(), norm=norm, search=BRIEF)
        assert found.witness is not None and bool((found.lower <= found.upper).all())
        # One realisation of uncertain weights; the other ones are as good.
        jacobian = autodiff(zoo.realised(graph, generator), found.witness).double()
        order = {INF: INF, 2: 2, 1: 1}[norm[0]]
        attained = torch.linalg.matrix_norm(jacobian, order)
        assert bool((found.lower <= attained * (1 + 1e-6)).all()) and bool(found.lower[1] >= 0.9 * attained[1])


def deep(layers: int) -> jb.Graph:
    generator = Generator().manual_seed(0)
    sizes = [20] * (layers + 1)
    weights = [1.2 * torch.randn(b, a, generator=generator).double() / a**0.5 for a, b in itertools.pairwise(sizes)]
    return jb.from_layers(weights, activation="leaky_relu:0.5")


def test_rounding_counts_once_and_not_layer_by_layer() -> None:
    found = jb.lipschitz(deep(12), jb.Ball(torch.ones(20), 0.0), jb.RecurJac(), norm=(INF, INF))
    assert float(found.lower) >= float(found.upper) * (1 - 1e-9)


VECTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: torch.softmax(3 * x, -1),
    "product": lambda x: x[..., :2] * x[..., 2:],
    "layer norm": lambda x: functional.layer_norm(x, (4,)),
    "length": lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True),
    "quotient": lambda x: x[..., :2] / (2 + x[..., 2:].square()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VECTORS)
def test_two_points_prove_what_functions_of_whole_vectors_do(name: str) -> None:
    function, centre = VECTORS[name], torch.tensor([0.3, -0.5, 0.9, 0.2], dtype=torch.float64)
    graph = jb.from_torch(function, torch.zeros(1, 4, dtype=torch.float64))
    for norm in NORMS:
        proved_by_two_points(graph, function, centre, norm)


def proved_by_two_points(
    graph: jb.Graph, function: Callable[[Tensor], Tensor], centre: Tensor, norm: tuple[float, float]
) -> None:
    found = jb.lipschitz(graph, jb.Ball(centre, 0.1), jb.AutoLip(), norm=norm, search=BRIEF)
    assert found.witness is not None and found.partner is not None
    lower, x, y = float(found.lower), found.witness, found.partner
    jacobian = torch.autograd.functional.jacobian(function, centre)
    near = torch.linalg.vector_norm(torch.linalg.vector_norm(jacobian, dim=1)) / 4  # far below any of the norms
    assert near < lower <= float(found.upper)
    if bool(y.isfinite().all()):
        rise, run = function(x) - function(y), x - y
        ratio = torch.linalg.vector_norm(rise, norm[1]) / torch.linalg.vector_norm(run, norm[0])
        assert lower == pytest.approx(float(ratio), rel=1e-3) and lower <= float(ratio) * (1 + 1e-6)
        assert bool(((torch.stack((x, y)) - centre).abs() <= 0.1).all())
    alone = jb.lipschitz(graph, jb.Ball(centre, 0.0), jb.AutoLip(), norm=norm, search=BRIEF)
    assert float(alone.lower) <= float(alone.upper) and alone.lower_reason[0]


def test_witnesses_lie_in_the_set_that_was_asked_for() -> None:
    """Also where floats hold neither its ends nor its centre."""
    graph = jb.from_layers([torch.randn(3, 2, generator=Generator().manual_seed(1))], activation="relu")
    for low, high in (([0.1, 0.2], [0.3, 0.7]), ([0.1, 0.2], [0.1, 0.7]), ([-INF, 0.0], [0.3, INF])):
        found = jb.lipschitz(graph, jb.Box(low, high), jb.FastLip(), search=BRIEF)
        witness = found.witness
        ends = torch.tensor([low, high], dtype=torch.float64)
        assert witness is not None and bool(((witness >= ends[0]) & (witness <= ends[1])).all()), (low, high)
    generator = Generator().manual_seed(4)
    for p, radius in itertools.product((1, 2), ("0.3", "1e-12", "3e5")):
        region = jb.Ball(torch.randn(5, 2, generator=generator).double() + 1 / 3, radius, p)
        graph64 = graph.double
        domains, _ = region.domains(graph64)
        inner = InnerSets(domains[0:5])
        tried = inner.clamp(inner.anchor.unsqueeze(1) + torch.randn(5, 40, 2, generator=generator).double())
        for k, point in itertools.product(range(5), range(40)):
            offset = [
                a - b
                for a, b in zip(rationals(tried[k, point]), rationals(torch.as_tensor(region.center)[k]), strict=True)
            ]
            length = sum(map(abs, offset)) ** 2 if p == 1 else sum(a * a for a in offset)
            assert length <= fmpq(*float(radius).as_integer_ratio()) ** 2


def test_the_search_depends_on_its_seed_alone() -> None:
    graph = deep(3)
    region = jb.Ball(torch.ones(20), [0.1, 1.0])
    first, again, other = (
        jb.lipschitz(graph, region, jb.FastLip(), search=jb.Sampling(points=8, steps=8, seed=seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.lower, again.lower) and first.witness is not None and again.witness is not None
    assert torch.equal(first.witness, again.witness) and not torch.equal(first.lower, other.lower)
    single = jb.lipschitz(
        graph, jb.Ball(torch.ones(20), 1.0), jb.FastLip(), search=jb.Sampling(points=8, steps=8, seed=1)
    )
    assert float(single.lower) == pytest.approx(float(first.lower[1]), rel=1e-9)


@pytest.mark.slow
def test_larger_searches_follow_while_a_limited_budget_has_time() -> None:
    """They only ever gain; without a limit of time, or with none of them, the first search is all there is."""
    graph, region = deep(3), jb.Ball(torch.ones(3, 20) * torch.tensor([[0.0], [0.5], [1.0]]), 1.0)

    def lower(rounds: int, budget: float | None) -> Tensor:
        search = jb.Sampling(points=4, steps=4, ascents=1, rounds=rounds)
        found = jb.lipschitz(graph, region, jb.FastLip(), search=search, budget=budget)
        assert found.witness is not None
        for k in range(3):
            slope = autodiff(graph, found.witness[k : k + 1])[0]
            assert float(torch.linalg.matrix_norm(slope, 2)) >= float(found.lower[k]) * (1 - 1e-9)
        return found.lower

    once, again, unlimited = lower(0, 60.0), lower(3, 60.0), lower(3, None)
    assert torch.equal(once, unlimited)
    assert bool((again >= once).all()) and float((again / once).max()) > 1.02


def test_a_better_witness_is_put_in_its_place() -> None:
    def witness(*values: float) -> Witness:
        value = torch.tensor(values, dtype=torch.float64)
        point = value.unsqueeze(1)
        return Witness(point, value, -point, tuple(f"reason {x}" for x in values))

    found = witness(1, 2, 3).improved(torch.tensor([0, 2]), witness(1, 5))
    assert found.value.tolist() == [1, 2, 5] and found.point.flatten().tolist() == [1, 2, 5]
    assert found.partner.flatten().tolist() == [-1, -2, -5] and found.reason == ("reason 1", "reason 2", "reason 5")


def test_steep_places_are_found_that_random_points_miss() -> None:
    """Between 0 and 1 lies one steep stretch, a thousandth of the box wide, and slopes lead towards it."""
    graph = jb.from_layers([[[1000.0], [1000.0]], [[1.0, -1.0]]], [[-371.0, -372.0], [0.0]], activation="relu")
    for region in (jb.Box([0.0], [1.0]), jb.Ball([0.5], 0.5, 2), jb.WholeSpace()):
        found = jb.lipschitz(graph, region, jb.FastLip(), norm=(INF, INF))
        assert float(found.lower) == pytest.approx(1000.0, rel=1e-9)


def test_the_whole_space_is_searched_at_many_scales() -> None:
    for scale in (0.02, 1.0, 50.0, 500.0):  # kinks at this distance from 0
        weights = torch.eye(3, dtype=torch.float64).repeat(2, 1)
        bias = torch.tensor([-scale] * 3 + [-2 * scale] * 3, dtype=torch.float64)
        out = torch.tensor([[1.0] * 3 + [-1.0] * 3], dtype=torch.float64)
        graph = jb.from_layers([weights, out], [bias, torch.zeros(1, dtype=torch.float64)], activation="relu")
        found = jb.lipschitz(graph, jb.WholeSpace(), jb.AutoLip(), norm=(INF, INF))
        assert float(found.lower) == pytest.approx(3.0, rel=1e-9)


def test_no_search_says_so_and_wrong_options_are_refused() -> None:
    graph = deep(1)
    found = jb.lipschitz(graph, jb.WholeSpace(), jb.AutoLip(), search=None)
    assert float(found.lower) == 0 and found.lower_reason == ("no lower bound was searched for",)
    assert found.witness is None and found.partner is None
    for wrong in (
        {"points": -1},
        {"steps": -1},
        {"ascents": 0},
        {"effort": -1.0},
        {"effort": math.nan},
        {"rounds": -1},
    ):
        with pytest.raises(jb.InvalidOptionError):
            jb.Sampling(**wrong)  # type: ignore[arg-type]


def test_exact_norms_are_told_apart_from_smaller_ones() -> None:
    matrix = [[fmpq(3), fmpq(0)], [fmpq(0), fmpq(-4)]]
    known = {
        (1, 1): 4,
        (2, 2): 4,
        (INF, INF): 4,
        (1, 2): 4,
        (1, INF): 4,
        (2, INF): 4,
        (INF, 1): 7,
        (INF, 2): 5,
        (2, 1): 5,
    }
    for (p, q), norm in known.items():
        assert reaches(matrix, float(norm), float(p), float(q))
        assert not reaches(matrix, math.nextafter(norm, INF), float(p), float(q))


class Tail(nn.Module):
    """A network whose output leaves the range where its last function is defined."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x + 1)


def test_points_where_the_network_is_not_defined_prove_nothing() -> None:
    graph = jb.from_torch(Tail(), torch.ones(1, 2, dtype=torch.float64))
    found = jb.lipschitz(graph, jb.Box([-0.999, 0.0], [1.0, 1.0]), jb.FastLip(), norm=(INF, INF))
    assert 15.0 < float(found.lower) <= 0.5 / math.sqrt(0.001) * (1 + 1e-9) <= float(found.upper) * (1 + 1e-8)
