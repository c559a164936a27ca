"""`Best`: the minimum over methods and norms, above what networks do and never above a candidate."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

import jacobound as jb
from certificate_cases import image, norm_of
from jacobound import Graph
from jacobound.method.candidates import Candidates, conversion, converted
from jacobound.methods import best
from oracles import observe
from zoo import KINDS, REGIONS, realised

INF = math.inf
NORMS = tuple((p, q) for p in (1.0, 2.0, INF) for q in (1.0, 2.0, INF))


def network(widths: tuple[int, ...], activation: str = "relu", seed: int = 3) -> Graph:
    generator = Generator().manual_seed(seed)
    weights = [
        torch.randn(after, before, generator=generator, dtype=torch.float64) / math.sqrt(before)
        for before, after in itertools.pairwise(widths)
    ]
    return jb.from_layers(weights, activation=activation)


def certified(found: jb.LipschitzBound) -> dict[str, Tensor]:
    return {name: one.value for name, one in found.details.items() if one.status.certified}


@pytest.mark.parametrize("kind", KINDS)
def test_no_jacobian_of_a_region_is_larger(kind: str) -> None:
    """Random graphs of every kind, every candidate of three norms over three regions against evaluated Jacobians."""
    turn = list(KINDS).index(kind)
    generator = Generator().manual_seed(turn)
    for k, norm in enumerate(NORMS[turn % 3 :: 3]):
        graph = KINDS[kind](generator).with_rows(None)
        sets, points = list(REGIONS.values())[(3 * turn + k) % len(REGIONS)](graph.in_shape, generator)
        seen = observe(realised(graph, generator), points)
        attained = float(norm_of(seen.jacobian, *norm).max() - seen.jacobian_error.flatten(1).sum(1).max())
        found = jb.lipschitz(graph, sets, norm=norm, search=None, budget=jb.Budget(2.0))
        for name, one in found.details.items():
            assert not bool((one.value < attained * (1 - 1e-9)).any()), (name, norm)
        assert bool((found.upper <= torch.stack(list(certified(found).values())).amin(0)).all()) or not certified(found)


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_network_has_its_norm(norm: tuple[float, float]) -> None:
    """Exact where norms have formulas; for l_inf -> l_1, l_2 and l_2 -> l_1 at most 1.25 above."""
    graph = network((4, 3))
    exact = float(norm_of(graph.output.terms[0][0].materialise(), *norm))  # type: ignore[union-attr]
    for region in (jb.WholeSpace(), jb.Ball([0.0] * 4, 1.0)):
        found = jb.lipschitz(graph, region, norm=norm)
        hard = norm[0] != 1 and norm[1] != INF and norm != (2, 2)
        assert exact <= float(found.upper) <= exact * (1.25 if hard else 1.002)
        assert found.lower <= found.upper and found.status is jb.Status.CERTIFIED


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
@pytest.mark.parametrize("q", [1.0, 2.0, INF])
def test_conversions_hold_and_are_attained(p: float, q: float) -> None:
    """The factor between two pairs of norms is the largest ratio over all matrices; all-ones and units attain it."""
    graph = network((4, 3))
    ones, unit = torch.ones(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    unit[0, 0] = 1.0
    row, column = unit.clone(), unit.clone()
    row[0], column[:, 0] = 1.0, 1.0
    for known in NORMS:
        factor = conversion(graph, known, (p, q))
        ratios = [float(norm_of(matrix, p, q) / norm_of(matrix, *known)) for matrix in (ones, unit, row, column)]
        assert max(ratios) <= factor * (1 + 1e-12)
        product = 4 ** max(0.0, 1 / known[0] - 1 / p) * 3 ** max(0.0, 1 / q - 1 / known[1])
        assert product <= factor <= product * (1 + 1e-10)
        one = jb.Candidate(torch.tensor([2.0], dtype=torch.float64), jb.Status.CERTIFIED)
        assert float(converted(one, graph, known, (p, q)).value) >= 2.0 * factor


@pytest.mark.slow
def test_the_smallest_of_the_methods_that_are_named() -> None:
    graph, region = network((6, 12, 12, 3)), jb.Ball(torch.zeros(6), [0.1, 3.0], INF)
    methods = (jb.RecurJac(), jb.AutoLip(), jb.SeqLip())
    found = jb.lipschitz(graph, region, jb.Best(*methods), norm=(INF, INF))
    assert {"RecurJac", "AutoLip", "SeqLip from l2 to l2"} <= set(found.details) and "LipSDP" not in found.details
    assert torch.equal(found.upper, torch.stack(list(certified(found).values())).amin(0))
    assert float(found.details[found.method].value[0]) == float(found.upper[0])
    alone = [jb.lipschitz(graph, region, method, norm=(INF, INF)).upper for method in methods[:2]]
    assert bool((found.upper <= torch.stack(alone).amin(0) * (1 + 1e-9)).all())
    assert all(one.seconds >= 0 for one in found.details.values())


def test_local_constants_go_through_l2_and_rows() -> None:
    """From l_inf: sqrt(n) times the product of l_2 norms before a layer, times the row norms of what is behind it."""
    graph = network((50, 40, 1), seed=5)
    found = jb.lipschitz(graph, jb.WholeSpace(), norm=(INF, INF))
    first, last = (graph.nodes[k].terms[0][0].materialise() for k in (1, 3))  # type: ignore[union-attr]
    through = math.sqrt(50) * float(torch.linalg.matrix_norm(first, 2)) * float(last.norm())
    name = next(name for name in found.details if name.endswith("in l_2"))
    products = jb.lipschitz(graph, jb.WholeSpace(), jb.AutoLip(), norm=(INF, INF)).upper
    assert float(found.details[name].value) == pytest.approx(through, rel=1e-6)
    assert float(found.details[name].value) < 0.7 * float(products)


def test_estimates_take_no_part() -> None:
    with pytest.raises(jb.InvalidOptionError, match="estimate"):
        jb.Best(jb.AutoLip(), jb.SeqLip(pairs="greedy"))
    sure = jb.Candidate(torch.tensor([2.0]), jb.Status.CERTIFIED)
    guess = jb.Candidate(torch.tensor([1.0]), jb.Status.ESTIMATE)
    both = Candidates({"guess": guess, "sure": sure}, torch.tensor([0]))
    assert float(both.upper) == 2.0 and both.winner == "sure" and both.status is jb.Status.CERTIFIED
    alone = Candidates({"guess": guess}, torch.tensor([0]))
    assert float(alone.upper) == 1.0 and alone.status is jb.Status.ESTIMATE


def test_what_one_set_overflows_says_nothing_of_another() -> None:
    """Values of several sets stand side by side; a candidate that one run does not have counts as infinite."""
    large = jb.Candidate(torch.tensor([INF, 1.0]), jb.Status.OVERFLOW, 1.0)
    small = jb.Candidate(torch.tensor([3.0, 4.0]), jb.Status.CERTIFIED, 2.0)
    first = Candidates({"large": large, "small": small}, torch.tensor([1, 2]))
    assert first.upper.tolist() == [3.0, 1.0] and first.winner == "small" and first.status is jb.Status.CERTIFIED
    second = Candidates({"small": jb.Candidate(torch.tensor([5.0]), jb.Status.TIME_LIMIT, 0.5)}, torch.tensor([3]))
    joined = Candidates.joined([first, second])
    assert joined.upper.tolist() == [3.0, 1.0, 5.0] and joined.unstable.tolist() == [1, 2, 3]
    assert joined.known["large"].value.tolist() == [INF, 1.0, INF] and joined.known["small"].seconds == 2.5
    assert joined.status is jb.Status.TIME_LIMIT


def test_a_candidate_that_was_cut_short_might_have_been_smaller() -> None:
    sure = jb.Candidate(torch.tensor([2.0]), jb.Status.CERTIFIED)
    late = jb.Candidate(torch.tensor([5.0]), jb.Status.TIME_LIMIT)
    assert Candidates({"sure": sure, "late": late}, torch.tensor([0])).status is jb.Status.TIME_LIMIT


def test_no_time_at_all_still_gives_a_certified_constant() -> None:
    graph, region = network((6, 30, 30, 30, 3), "tanh"), jb.Ball(torch.zeros(6), 0.5, 2)
    found = jb.lipschitz(graph, region, budget=jb.Budget(0.0))
    assert found.status is jb.Status.TIME_LIMIT and float(found.upper) < INF
    unhurried = jb.lipschitz(graph, region, budget=jb.Budget())
    assert unhurried.status is jb.Status.CERTIFIED and unhurried.lower <= unhurried.upper <= found.upper


@pytest.mark.slow
def test_sets_share_the_time() -> None:
    graph = network((6, 12, 2))
    region = jb.Ball(torch.randn(3, 6, generator=Generator().manual_seed(0)), [0.1, 1.0], 2)
    many = jb.lipschitz(graph, region)
    for (r, radius), k in itertools.product(enumerate((0.1, 1.0)), range(3)):
        alone = jb.lipschitz(graph, jb.Ball(region.center[k], radius, 2))
        assert float(many.upper[r, k]) == pytest.approx(float(alone.upper), rel=2e-3)


def test_the_default_has_a_time_limit_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network((6, 12, 2))
    assert best.SECONDS == 10.0
    monkeypatch.setattr("jacobound.solve.SECONDS", 0.0)
    assert jb.lipschitz(graph, jb.WholeSpace()).status is jb.Status.TIME_LIMIT
    monkeypatch.undo()
    twice = [float(jb.lipschitz(graph, jb.WholeSpace()).upper) for _ in range(2)]
    assert twice[0] == twice[1]


def test_details_and_multipliers_stay_with_the_result() -> None:
    found = jb.lipschitz(network((6, 12, 2)), jb.Ball([0.0] * 6, [0.5, 1.0], 2))
    (certificates,) = [one.certificates for name, one in found.details.items() if name == "LipSDP"]
    assert len(certificates) == 2 and all(len(one) == 1 for one in certificates)
    read = json.loads(found.to_json())["details"]["LipSDP"]
    assert read["status"]["certified"] and len(read["value"]) == 2 and read["seconds"] > 0
    assert "Best()" in found.provenance.method


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"),
    [("mnist_7layer_leaky_20", 354.04), ("mnist_5layer_tanh_50", 155.05), ("mnist_2layer_leaky_20", 18.1)],
)
def test_global_constants_of_trained_networks(shared_data: Path, name: str, most: float) -> None:
    """The values of the full SDP (notes on AutoLip and SeqLip, section 9, and the issue)."""
    graph = jb.from_onnx(shared_data / "nets" / f"{name}.onnx")
    found = jb.lipschitz(graph, jb.WholeSpace())
    assert float(found.lower) <= float(found.upper) <= most


@pytest.mark.slow
def test_local_constants_of_a_trained_network(shared_data: Path) -> None:
    """Image 2, row 1, radius 0.03, as in the table of the local SDP: 1092 where the recursion gives 4138."""
    graph = jb.from_onnx(shared_data / "nets" / "mnist_5layer_leaky_20.onnx")
    row = torch.eye(10)[1:2]
    found = jb.lipschitz(graph, jb.Ball(image(shared_data, graph), 0.03), norm=(INF, INF), rows=row)
    assert float(found.lower) * 1.1 > 291.7 and 291.7 <= float(found.upper) <= 1092 * 1.01
    assert found.method == "LipSDP"


@pytest.mark.slow
def test_networks_that_only_products_of_norms_can_take() -> None:
    """A softmax inside has no expansion; the default asks the methods that know its constant."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Softmax(dim=1), torch.nn.Linear(5, 2)).eval()
    graph = jb.from_torch(model, torch.zeros(1, 3))
    first, last = (float(torch.linalg.matrix_norm(model[k].weight.detach(), 2)) for k in (0, 2))
    for region in (jb.WholeSpace(), jb.Ball([0.0] * 3, [0.1, 1.0], 2)):
        found = jb.lipschitz(graph, region)
        assert {"AutoLip", "SeqLip"} <= set(found.details) and found.status is jb.Status.CERTIFIED
        assert (found.lower <= found.upper).all() and (found.upper <= 0.5 * first * last * (1 + 1e-6)).all()


def test_kinks_on_the_boundary_are_not_attained() -> None:
    """The slope 2 of the other side of 0 is nowhere in [0, 1]; nor is that of two neurons that turn at one point."""
    graph = jb.from_layers([[[1.0]], [[1.0]]], [None, None], activation="leaky_relu:2")
    assert float(jb.lipschitz(graph, jb.Box([0.0], [1.0])).lower) == pytest.approx(1.0)
    both = jb.from_layers([[[1.0], [-1.0]], [[1.0, -1.0]]], [None, None], activation="leaky_relu:2")
    found = jb.lipschitz(both, jb.Ball([0.0], 1.0))  # 3 x: at 0 both neurons turn, and 4 is what two slopes 2 would be
    assert float(found.lower) == pytest.approx(3.0) and found.lower <= found.upper


@pytest.mark.slow
def test_a_method_that_is_looser_leaves_the_others() -> None:
    """The length of a vector has the constant 1; its entries know sqrt(3), also at 0, where it has no derivative."""
    graph = jb.from_torch(lambda x: torch.linalg.vector_norm(x, dim=1), torch.ones(1, 3))
    region = jb.Ball([0.0] * 3, 1.0, 2)
    found = jb.lipschitz(graph, region)
    assert float(found.upper) == pytest.approx(1.0, rel=1e-6) and found.lower <= found.upper
    named = jb.lipschitz(graph, region, jb.Best(jb.RecurJac(), jb.AutoLip()))
    assert float(named.upper) == pytest.approx(1.0, rel=1e-6)
    # Entry by entry a share of a length is only known to lie within [-1, 1].
    assert float(named.details["RecurJac"].value) == pytest.approx(3**0.5, rel=1e-6)
