"""`SplitNeurons`: both sides of a neuron cover its branch, leaves leave their point, and stopping is safe.

Truths are found without the library's bounds: by all activation patterns of networks with one input, in fractions, and
by automatic differentiation at many points.
"""

from __future__ import annotations

import json
from fractions import Fraction
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import jacobound as jb
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import strict
from jacobound.inputs.domains import Domain, Owners
from jacobound.inputs.half_spaces import HalfSpaces
from jacobound.splitting.best_first import BestFirst
from jacobound.splitting.branches import Sweeps, is_empty
from jacobound.splitting.homogeneous import faces, homogenised, is_homogeneous
from jacobound.splitting.interior import deepest, deepest_of
from jacobound.splitting.reduced import reduced
from jacobound.splitting.sought import Constant
from jacobound.splitting.tree import Limits
from split_cases import drawn, slopes_on_a_line, steepest

BOX = jb.Box([-1.0, -0.75], [0.5, 1.0])
NAME = "SplitNeurons"


@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.25", "hardtanh"])
@pytest.mark.parametrize("seed", range(3))
def test_constants_of_piecewise_linear_networks_are_exact(seed: int, activation: str) -> None:
    graph, box = drawn(seed, 1, activation), jb.Box([-2.0], [2.0])
    found = jb.lipschitz(graph, box, jb.SplitNeurons(), norm=(inf, inf))
    if activation == "relu":
        truth = max(max(map(abs, slopes)) for slopes in slopes_on_a_line(seed, Fraction(-2), Fraction(2)))
        assert Fraction(float(found.lower)) <= truth <= Fraction(float(found.upper))
    dense = steepest(graph, torch.linspace(-2, 2, 20001, dtype=torch.float64).unsqueeze(1), (inf, inf))
    assert dense <= float(found.upper) * (1 + 1e-12)
    assert float(found.upper) <= float(found.lower) * (1 + 1e-6), found.details[NAME].note
    assert found.details[NAME].note.startswith("exact up to") and found.status is jb.Status.CERTIFIED
    assert steepest(graph, found.witness.reshape(1, 1), (inf, inf)) >= float(found.lower) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("norm", "p", "activation"),
    [((inf, inf), inf, "relu"), ((2, 2), 2, "relu"), ((1, 1), 1, "relu"), ((2, 2), 1, "tanh"), ((inf, inf), 2, "gelu")],
)
def test_balls_are_covered_by_their_branches(norm: tuple[float, float], p: float, activation: str) -> None:
    graph, centre, radius = drawn(7, 2, activation), [0.1, -0.2], 1.0
    plain = jb.lipschitz(graph, jb.Ball(centre, radius, p=p), jb.RecurJac(), norm=norm, search=None)
    found = jb.lipschitz(graph, jb.Ball(centre, radius, p=p, clip=(-0.9, 1.0)), jb.SplitNeurons(most=60), norm=norm)
    axis = torch.linspace(-radius, radius, 201, dtype=torch.float64)
    offsets = torch.cartesian_prod(axis, axis)
    points = offsets[torch.linalg.vector_norm(offsets, p, dim=1) <= radius] + torch.tensor(centre).double()
    points = points[((points >= -0.9) & (points <= 1.0)).all(1)]
    assert float(found.upper) >= steepest(graph, points, norm)
    assert float(found.lower) <= float(found.upper) <= float(plain.upper)
    assert float(found.upper) < 0.97 * float(plain.upper)  # it is worth something


def half_spaces(seed: int) -> tuple[Domain, Tensor]:
    """Two boxes with four random constraints each, and points of each that satisfy them, or nearly do."""
    generator = torch.Generator().manual_seed(seed)
    lower = torch.randn(2, 3, generator=generator).double()
    box = Interval(lower, lower + 0.1 + torch.rand(2, 3, generator=generator).double())
    normals = torch.randn(2, 4, 3, generator=generator).double()
    inside = box.lower + 0.3 * (box.upper - box.lower)
    limits = (normals @ inside.unsqueeze(2)).squeeze(2) + 0.05 * torch.rand(2, 4, generator=generator).double()
    limits[0, 3] = torch.inf
    axes = torch.linspace(0, 1, 31, dtype=torch.float64)
    grid = torch.cartesian_prod(axes, axes, axes)
    points = box.lower.unsqueeze(1) + grid * (box.upper - box.lower).unsqueeze(1)
    return Domain(box, half_spaces=HalfSpaces(normals, limits)), points


@pytest.mark.parametrize("seed", range(6))
def test_half_spaces_bound_forms_nearly_as_well_as_is_possible(seed: int) -> None:
    domain, points = half_spaces(seed)
    cut = domain.half_spaces
    assert cut is not None
    forms = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)).double()
    owners = Owners.of(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 2)
    found, plain = domain.highest(forms, owners), domain.range_of(forms, owners).upper
    for k, form in enumerate(forms):
        own = points[k // 4]
        allowed = own[((own @ cut.normals[k // 4].T) <= cut.limits[k // 4]).all(1)]
        best = float((allowed @ form).max())
        assert best <= float(found[k]) <= float(plain[k])
        assert float(found[k]) - best <= 0.5 * (float(plain[k]) - best) + 0.1
    any_multipliers = torch.rand(8, 4, generator=torch.Generator().manual_seed(seed)).double()
    assert bool((domain.lowered(forms, owners, any_multipliers) >= found - 1e-12).any())
    for k, value in enumerate(domain.lowered(forms, owners, any_multipliers).tolist()):
        own = points[k // 4]
        allowed = own[((own @ cut.normals[k // 4].T) <= cut.limits[k // 4]).all(1)]
        assert value >= float((allowed @ forms[k]).max())


@pytest.mark.parametrize("seed", range(8))
def test_the_deepest_point_or_a_proof_that_there_is_none(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    normals = torch.randn(9, 4, generator=generator).double()
    limits = normals.norm(dim=1) * (0.3 if seed % 2 else -0.4)
    middle, radius = torch.zeros(4).double(), torch.full((4,), 0.5).double()
    there = deepest(normals, limits, middle, radius)
    reach = normals.abs() @ radius
    dual = float(there.multipliers @ limits + (there.multipliers @ normals).abs() @ radius)
    assert there.depth == pytest.approx(dual / float(there.multipliers @ reach), abs=1e-6)
    assert bool((normals @ there.point + there.depth * reach <= limits + 1e-9).all())
    assert (there.depth > 0) == bool(seed % 2) or dual >= 0


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_the_deepest_point_within_a_ball_or_a_proof_that_there_is_none(p: int, seed: int) -> None:
    """Half-spaces that the box around the ball meets, near its corner, and only sometimes the ball."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(4, generator=generator).double() + 0.5
    centre = torch.randn(1, 4, generator=generator).double()
    radius = torch.tensor([0.7]).double()
    box = Interval(centre - radius * scale, centre + radius * scale)
    domain = Domain(box, centre, radius, float(p), scale)
    normals = -torch.rand(5, 4, generator=generator).double() - 0.1  # low values lie towards one corner of the box
    reach = radius * torch.linalg.vector_norm(normals * scale, 2 if p == 2 else inf, dim=1)
    beyond = normals @ centre[0] - 1.02 * reach  # below all values over the ball, above some over the box
    inside = centre[0] + 0.4 * radius * scale / 4 ** (1 / p)
    for limits in (beyond, normals @ inside + 0.05):
        there = deepest_of(domain, normals, limits)
        cut = HalfSpaces(normals.unsqueeze(0), limits.unsqueeze(0))
        assert deepest(normals, limits, centre[0], radius * scale).depth > 0
        if limits is beyond:
            assert is_empty(domain, cut, there.multipliers)
        else:
            assert float(torch.linalg.vector_norm((there.point - centre[0]) / scale, p)) <= 0.7 * (1 + 1e-6)
            assert there.depth > 0 and bool((normals @ there.point < limits).all())
            assert not is_empty(domain, cut, there.multipliers)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2])
def test_constants_over_balls_are_exact(p: int) -> None:
    """Leaves that lie in the box around the ball but not in the ball are dropped with a proof."""
    graph = drawn(3, 4, "relu")
    found = jb.lipschitz(graph, jb.Ball([0.1, 0.2, -0.3, 0.05], 1.0, p), jb.SplitNeurons(), budget=jb.Budget())
    assert float(found.upper) <= float(found.lower) * (1 + 2e-6), found.details[NAME].note


@pytest.mark.slow
def test_the_default_goes_on_while_its_time_lasts() -> None:
    """Far more branches than without a limit of time, of which each has a piece of the gap."""
    generator = torch.Generator().manual_seed(1)
    widths = ((24, 4), (24, 24), (2, 24))
    weights = [torch.randn(n, m, generator=generator).double() / m**0.5 for n, m in widths]
    biases = [0.3 * torch.randn(n, generator=generator).double() for n, _ in widths]
    graph = jb.from_layers(weights, biases, activation="relu")
    ball = jb.Ball([0.1, 0.2, -0.3, 0.05], 0.5)
    short, longer = (jb.lipschitz(graph, ball, budget=jb.Budget(cpu_seconds=limit)) for limit in (1.0, 5.0))
    assert longer.method == NAME and float(longer.upper) < 0.98 * float(short.upper)
    counts = [int(one.details[NAME].note.split(" branches")[0].split()[-1]) for one in (short, longer)]
    assert counts[1] > 1.5 * counts[0]


def test_a_call_that_is_stopped_returns_what_is_proved() -> None:
    graph, told = drawn(5, 2, "tanh"), []
    truth = steepest(graph, torch.cartesian_prod(*[torch.linspace(-0.75, 0.5, 101).double()] * 2), (2, 2))
    for limit in (0.0, 0.05, 0.3):
        budget = jb.Budget(cpu_seconds=limit, progress=lambda done, total, what: told.append((done, total, what)))
        found = jb.lipschitz(graph, BOX, jb.SplitNeurons(), budget=budget, search=None)
        assert float(found.upper) >= truth and found.status.certified
    assert all(done <= total for done, total, _ in told)
    assert any("upper" in what and "lower" in what and "gap" in what for _, _, what in told)
    tight = jb.lipschitz(
        graph, BOX, jb.SplitNeurons(together=4, most=30), budget=jb.Budget(memory=1 << 14), search=None
    )
    assert float(tight.upper) >= truth
    values = [float(jb.lipschitz(graph, BOX, jb.SplitNeurons(most=n), search=None).upper) for n in (1, 20, 60)]
    assert values == sorted(values, reverse=True) and truth <= values[-1] < values[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "norm"), [("relu", (2, 2)), ("leaky_relu:0.25", (inf, inf)), ("abs", (1, 1))], ids=str
)
def test_constants_over_the_whole_space_are_exact(activation: str, norm: tuple[float, float]) -> None:
    graph = drawn(11, 2, activation)
    found = jb.lipschitz(graph, jb.WholeSpace(), jb.SplitNeurons(), norm=norm, budget=jb.Budget(), search=None)
    scales = 10.0 ** torch.linspace(-2, 3, 40, dtype=torch.float64)
    angles = torch.linspace(0, 2 * torch.pi, 500, dtype=torch.float64)
    directions = torch.stack((angles.cos(), angles.sin()), 1)
    points = (scales[:, None, None] * directions).flatten(0, 1)
    dense = steepest(graph, points, norm)
    assert dense * (1 - 1e-9) <= float(found.upper) <= dense * 1.02
    assert found.details[NAME].note.startswith("exact up to"), found.details[NAME].note


def test_the_network_of_rays_has_the_same_values() -> None:
    graph = drawn(3, 3, "leaky_relu:0.25").expanded()
    scaled, points = homogenised(graph), torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    weights = torch.rand(40, 1, generator=torch.Generator().manual_seed(1)).double()
    there = scaled(torch.cat((points * weights, weights), 1))
    assert torch.allclose(there, weights * graph(points), rtol=1e-10)
    assert is_homogeneous(graph) and not is_homogeneous(drawn(3, 3, "hardtanh").expanded())
    covered = sum(int(((box.lower <= 1) & (box.upper <= 1)).all()) for box in faces(3))
    assert covered == 7 and all(int((box.lower == box.upper).sum()) == 1 for box in faces(3))


@pytest.mark.slow
def test_the_stored_exact_constant_over_the_whole_space(shared_data: Path) -> None:
    with np.load(shared_data / "peers" / "iris_4x6x6x3_relu.npz") as stored:
        weights, biases = ([torch.as_tensor(stored[f"{x}{k}"]).double() for k in (1, 2, 3)] for x in "Wb")
    found = jb.lipschitz(jb.from_layers(weights, biases), jb.WholeSpace())  # the default asks for it
    assert found.method == NAME and found.details[NAME].note.startswith("exact up to")
    assert float(found.lower) == pytest.approx(11.634355134114875, rel=1e-6)
    assert float(found.upper) == pytest.approx(11.634355134114875, rel=1e-6)


@pytest.mark.parametrize("method", [jb.SplitNeurons(most=10), jb.Split(most=10)], ids=repr)
def test_what_overflows_stays_infinite(method: jb.SplitNeurons) -> None:
    layers = [torch.full((2, 2), 1e200, dtype=torch.float64)] * 3
    found = jb.lipschitz(jb.from_layers(layers), jb.Ball([0.1, -0.1], 1.0), method, search=None)
    assert float(found.upper) == inf and found.status is jb.Status.OVERFLOW


def test_other_networks_and_regions_are_refused() -> None:
    graph = drawn(1, 2, "tanh")
    with pytest.raises(jb.UnsupportedOpError, match="bounded regions"):
        jb.lipschitz(graph, jb.WholeSpace(), jb.SplitNeurons())
    with pytest.raises(jb.InvalidOptionError, match="at least 2"):
        jb.SplitNeurons(together=1)
    single = jb.lipschitz(graph.to(dtype=torch.float32), BOX, jb.SplitNeurons(), search=None)
    double = jb.lipschitz(graph, BOX, jb.SplitNeurons(), search=None)
    assert float(double.upper) <= float(single.upper) <= float(double.upper) * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_2_10_10_1", "tiny_2_16_16_2", "tiny_4_20_20_20_1"])
def test_tiny_networks_have_their_stored_exact_constants(shared_data: Path, name: str) -> None:
    folder = shared_data / "reference" / "peers"
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    truths = {one["eps"]: one["value"] for one in rows if one["net"] == name and one["tool"].startswith("exact")}
    with np.load(folder / f"{name}.npz") as stored:
        layers = range(1, sum(key.startswith("W") for key in stored.files) + 1)
        weights, biases = ([torch.as_tensor(stored[f"{x}{k}"]).double() for k in layers] for x in "Wb")
        centre, row = torch.as_tensor(stored["x0_0"]).double(), int(stored["c_0"])
    for radius, truth in truths.items():
        ball = jb.Ball(centre, radius)
        found = jb.lipschitz(jb.from_layers(weights, biases), ball, jb.SplitNeurons(), norm=(inf, inf), rows=row)
        assert float(found.lower) <= truth * (1 + 1e-9) and truth <= float(found.upper) * (1 + 1e-9)
        assert float(found.upper) <= float(found.lower) * (1 + 1e-6), (radius, found.details[NAME].note)


@pytest.mark.parametrize("seed", range(2))
def test_open_branches_cover_the_set(seed: int) -> None:
    """Every point lies in some branch that is still open: within its half-spaces, its arguments within its ranges."""
    graph = drawn(seed, 2).expanded().with_affine_output()
    with strict(graph.device, graph.dtype), torch.no_grad():
        domain = BOX.domains(graph)[0][:]
        part = reduced(graph, domain, jb.CROWN().ranges(graph, domain, jb.Budget()), jb.Budget())
        assert part is not None
        sought = Constant((2.0, 2.0), graph, domain)
        search = BestFirst(Sweeps(part), sought, Limits(0.0, 8, 24), inf)
        search.run(jb.Budget())
        points = domain.sample(400, torch.Generator().manual_seed(seed))[0]
        values = part.graph.values(points)
    arguments = torch.cat([values[node] for node in part.arguments], 1)
    norms = torch.tensor([steepest(graph, point.unsqueeze(0), (2, 2)) for point in points], dtype=torch.float64)
    covered = norms <= search.held * (1 + 1e-6)
    for one in search.open:
        inside = ((arguments >= one.ranges.lower - 1e-12) & (arguments <= one.ranges.upper + 1e-12)).all(1)
        if one.normals:
            inside &= (points @ torch.stack(one.normals).T <= torch.stack(one.limits) + 1e-12).all(1)
        covered |= inside
    assert bool(covered.all()) and search.bounded > 4


@pytest.mark.parametrize("seed", range(3))
def test_only_what_is_empty_is_proved_empty(seed: int) -> None:
    domain, _ = half_spaces(seed)
    cut, one = domain.half_spaces, domain[1:2]
    assert cut is not None
    for beta in torch.rand(20, 4, generator=torch.Generator().manual_seed(seed)).double():
        assert not is_empty(one, cut[1:2], beta)
    against = HalfSpaces(
        torch.cat((cut.normals, -cut.normals), 1)[1:2], torch.cat((cut.limits, -cut.limits - 1), 1)[1:2]
    )
    assert is_empty(one, against, torch.ones(8, dtype=torch.float64))
