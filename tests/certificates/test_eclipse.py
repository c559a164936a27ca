"""`ECLipsE`: proofs layer by layer checked without rounding, constants against Jacobians and known values."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from certificate_cases import NORMS, network, norm_of, random_chain
from exact import is_positive_semidefinite, rational_matrix, rationals
from jacobound import (
    IBP,
    AutoLip,
    Ball,
    Budget,
    ECLipsE,
    Graph,
    InvalidOptionError,
    LipSDP,
    Status,
    UnsupportedOpError,
    WholeSpace,
    from_layers,
    from_onnx,
)
from jacobound.certificates.layered.chain import LayeredChain, layered_chain
from jacobound.certificates.layered.driver import LayeredSolver, by_closed_form, layered_problems, proved
from jacobound.certificates.layered.proof import (
    LayeredCertificate,
    _definite_share,
    layered_constant,
    through_layer,
    through_neurons,
)
from jacobound.certificates.layered.search import Sweep, best_closed_form, improved
from jacobound.certificates.lipsdp import recheck
from jacobound.graph.nodes import Affine, Elementwise, Input
from jacobound.inputs.regions import Region
from jacobound.method import ConstantBound, Query
from jacobound.operators.kinds import Dense
from oracles import observe
from single import lifted
from zoo import KINDS, REGIONS, realised

INF = math.inf
CHAINS = ("mlp", "convolution", "batch_norm", "elementwise_input", "elementwise_chain", "convolution_of_any_axes")


def bound(graph: Graph, region: Region, norm: tuple[float, float], budget: Budget | None = None) -> ConstantBound:
    (domain,), _ = region.domains(graph)
    return ECLipsE().constant(Query(graph, domain, budget or Budget(), norm))


def jacobians(chain: LayeredChain) -> Tensor:
    """Products for all vertices of the slope cube, shape (vertices, outputs, inputs)."""
    found = [torch.eye(chain.inputs, dtype=torch.float64)]
    for k, matrix in enumerate(chain.matrices):
        found = [matrix @ part for part in found]
        if k < len(chain.halves):
            signs = itertools.product((-1.0, 1.0), repeat=len(chain.unstable[k]))
            corners = [
                chain.middles[k].index_add(
                    0, chain.unstable[k], torch.tensor(s, dtype=torch.float64) * chain.halves[k][chain.unstable[k]]
                )
                for s in signs
            ]
            found = [slope.unsqueeze(1) * part for part in found for slope in corners]
    return torch.stack(found)


def difference(form: Tensor, exact: fmpq_mat) -> fmpq_mat:
    return rational_matrix(form) - exact


def diagonal(entries: list[fmpq]) -> fmpq_mat:
    size = len(entries)
    return fmpq_mat(size, size, [entries[i] if i == j else fmpq(0) for i in range(size) for j in range(size)])


def semidefinite(generator: Generator, size: int, scale: float = 1.0) -> Tensor:
    part = torch.randn(size, size + 1, generator=generator, dtype=torch.float64) * scale
    product = part @ part.T
    return (product + product.T) / 2 + 1e-9 * scale * scale * torch.eye(size, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e20])
def test_a_layer_is_dominated_without_rounding(scale: float, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    form, matrix = semidefinite(generator, 5, scale), torch.randn(4, 5, generator=generator, dtype=torch.float64)
    image = through_layer(form, matrix, 0.0)
    exact = rational_matrix(matrix) * rational_matrix(form) * rational_matrix(matrix).transpose()
    assert torch.equal(image, image.T)
    assert is_positive_semidefinite(difference(image, exact))
    assert float((image - matrix @ form @ matrix.T).abs().max()) < 1e-12 * float(image.abs().max())


def test_errors_of_a_layer_are_paid(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    form, matrix = semidefinite(generator, 4), torch.randn(3, 4, generator=generator, dtype=torch.float64)
    error = 1e-3
    image = through_layer(form, matrix, error)
    for _ in range(30):
        other = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        moved = matrix + other * (error * (1 - 1e-9) / torch.linalg.matrix_norm(other, 2))
        exact = rational_matrix(moved) * rational_matrix(form) * rational_matrix(moved).transpose()
        assert is_positive_semidefinite(difference(image, exact))


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("margin", [1.0 + 1e-5, 1.5, 30.0])
def test_neurons_are_dominated_without_rounding(margin: float, scale: float, seed: int) -> None:
    """Against the exact inverse, for the V that was asked for: the one that is used lies within rounding of it."""
    generator = Generator().manual_seed(seed)
    for unstable in ([0, 1, 2, 3], [1, 3], []):
        form = semidefinite(generator, 4, scale)
        middle = torch.tensor([0.5, 1.0, 0.0, -0.3], dtype=torch.float64)
        half = torch.zeros(4, dtype=torch.float64)
        half[unstable] = torch.rand(len(unstable), generator=generator, dtype=torch.float64) + 0.1
        inner = form[unstable][:, unstable]
        weights = margin * inner.abs().sum(1)
        found = through_neurons(form, middle, half, torch.tensor(unstable, dtype=torch.int64), weights)
        assert found is not None
        z, v = rational_matrix(form), rationals(weights)
        total = z
        if unstable:
            s = diagonal(v) - rational_matrix(inner)
            reads = rational_matrix(form[unstable])
            total = z + reads.transpose() * s.inv() * reads
        m, r = rationals(middle), rationals(half)
        behind = [fmpq(0)] * 4
        for k, i in enumerate(unstable):
            behind[i] = r[i] * r[i] * v[k]
        exact = diagonal(m) * total * diagonal(m) + diagonal(behind)
        # The V in use is below the given one by its rounding at most, which is left out of the comparison.
        slack = [abs(x) * fmpq(1, 10**14) for x in behind]
        assert is_positive_semidefinite(difference(found, exact) + diagonal(slack))
        rows = [[int(exact[i, j].p) / int(exact[i, j].q) for j in range(4)] for i in range(4)]
        rough = torch.tensor(rows, dtype=torch.float64)
        assert float((found - rough).abs().max()) <= 1e-7 * float(found.abs().max())


@pytest.mark.parametrize("margin", [1 + 1e-5, 1.01, 3.0])
def test_shares_of_the_diagonal_are_proved(margin: float, seed: int) -> None:
    form = semidefinite(Generator().manual_seed(seed), 4)
    size = form.diagonal().rsqrt()
    largest = torch.linalg.eigvalsh(form * size * size.unsqueeze(1))[-1]
    entries = form.diagonal() * (margin * largest - 1)
    share = _definite_share(entries, form)
    assert share is not None
    whole = diagonal([x + y for x, y in zip(rationals(entries), rationals(form.diagonal()), strict=True)])
    lowered = diagonal([x * fmpq(*share.as_integer_ratio()) for x in rationals(entries)])
    assert is_positive_semidefinite(whole - rational_matrix(form) - lowered)
    assert _definite_share(form.diagonal() * (0.99 * largest - 1), form) is None


def test_solutions_that_are_off_only_loosen_the_bound(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds for any approximate solution; its error counts by its square."""
    exactly = torch.cholesky_solve
    monkeypatch.setattr(torch, "cholesky_solve", lambda *parts: 1.001 * exactly(*parts))
    form, ones = semidefinite(Generator().manual_seed(seed), 3), torch.ones(3, dtype=torch.float64)
    weights = 1.5 * form.abs().sum(1)
    found = through_neurons(form, ones, ones, torch.arange(3), weights)
    assert found is not None
    z, v = rational_matrix(form), diagonal(rationals(weights))
    exact = z + z * (v - z).inv() * z + v
    slack = diagonal([x * fmpq(1, 10**14) for x in rationals(weights)])
    assert is_positive_semidefinite(difference(found, exact) + slack)
    monkeypatch.undo()
    better = through_neurons(form, ones, ones, torch.arange(3), weights)
    assert better is not None and float(better.trace()) < float(found.trace()) < float(better.trace()) * 1.01


@pytest.mark.parametrize("norm", [(2.0, 2.0), (2.0, 1.0)])
def test_eigenvalues_are_not_believed(norm: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    chain = random_chain(Generator().manual_seed(1), (3, 3, 4))
    found = by_closed_form(chain, norm, lambda: False)["from the inputs"]
    exactly = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: 0.9 * exactly(matrix))
    again = layered_constant(chain, found)
    assert found.value * (1 - 1e-6) <= again < 1.1 * found.value
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: 0.1 * exactly(matrix))
    assert layered_constant(chain, found) == INF


def test_weights_that_do_not_dominate_are_refused(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    form = semidefinite(generator, 4)
    everything, ones = torch.arange(4), torch.ones(4, dtype=torch.float64)
    enough = form.abs().sum(1) * 1.1
    assert through_neurons(form, ones, ones, everything, enough) is not None
    for bad in (form.diagonal() * 0.9, torch.full((4,), math.nan).double(), -enough, enough * 1e-300, enough * INF):
        assert through_neurons(form, ones, ones, everything, bad) is None
    assert through_neurons(form * math.nan, ones, ones, everything, enough) is None


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("turned", [False, True])
def test_constants_are_above_all_vertices_and_near_them(norm: tuple[float, float], turned: bool) -> None:
    generator = Generator().manual_seed(3)
    for widths in ((3, 2), (2, 3, 2), (3, 3, 2, 3), (1, 4, 1), (4, 3, 3, 1)):
        chain = random_chain(generator, widths)
        truth = float(norm_of(jacobians(chain), *norm).max())
        start = best_closed_form(Sweep.of(chain, norm, turned), lambda: False)
        closed = proved(chain, norm, turned, start[1])
        better = improved(Sweep.of(chain, norm, turned), start, lambda: False, 1e-4)
        best = proved(chain, norm, turned, better[1])
        assert truth <= best.value <= closed.value * (1 + 1e-9)
        assert best.value == pytest.approx(math.exp(better[0] / 2), rel=1e-6)
        assert closed.value <= 9 * truth


@pytest.mark.parametrize("norm", [(2.0, 2.0), (INF, 1.0), (1.0, 2.0), (INF, INF)])
def test_gradients_are_those_of_the_smoothed_value(norm: tuple[float, float]) -> None:
    chain = random_chain(Generator().manual_seed(5), (3, 4, 4, 3))
    for turned in (False, True):
        sweep = Sweep.of(chain, norm, turned)
        _, at = sweep.closed_form(1.7)
        _, value, gradient, least = sweep.evaluate(at, 0.1)
        assert gradient is not None and least <= value
        for k, part in enumerate((*at.neurons, at.entering, at.leaving)):
            slope = (*gradient.neurons, gradient.entering, gradient.leaving)[k]
            step = 1e-6
            moved = part.clone()
            moved[0] += step
            parts = [*at.neurons, at.entering, at.leaving]
            parts[k] = moved
            free = k < len(at.neurons) or (sweep.free_entering if k == len(at.neurons) else sweep.free_leaving)
            if free:
                there = sweep.evaluate(
                    replace(at, neurons=tuple(parts[:-2]), entering=parts[-2], leaving=parts[-1]), 0.1
                )
                assert (there[1] - value) / step == pytest.approx(float(slope[0]), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("region", REGIONS)
def test_no_jacobian_of_a_region_is_larger(kind: str, region: str) -> None:
    generator = Generator().manual_seed(len(kind) + 17 * len(region))
    for k in range(2):
        graph = KINDS[kind](generator).with_rows(None)
        sets, points = REGIONS[region](graph.in_shape, generator)
        norm = NORMS[(5 * k + len(kind) + 2 * len(region)) % len(NORMS)]
        try:
            found = bound(graph, sets, norm)
        except UnsupportedOpError:
            continue
        seen = observe(realised(graph, generator), points)
        sure = (seen.jacobian.abs() - seen.jacobian_error).clamp(min=0) * seen.jacobian.sign()
        if norm[0] == 1 or norm[1] == INF:
            attained = float(norm_of(sure, *norm).max())
        else:
            attained = float(norm_of(seen.jacobian, *norm).max() - seen.jacobian_error.flatten(1).sum(1).max())
        assert not float(found.value) < attained * (1 - 1e-9), (k, norm)
        assert found.status.certified == (float(found.value) < INF)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [(2.0, 2.0), (INF, 2.0), (2.0, 1.0)])
def test_a_feasible_point_of_the_problem_that_lipsdp_solves(norm: tuple[float, float]) -> None:
    """So never below its optimum; the gradients nearly reach it."""
    graph = network((6, 12, 12, 3), 4)
    for region in (WholeSpace(), Ball(torch.zeros(6), 0.4)):
        (domain,), _ = region.domains(graph)
        best = LipSDP(tolerance=1e-5).constant(Query(graph, domain, Budget(), norm))
        closed = ECLipsE().constant(Query(graph, domain, Budget(), norm, ranges=lifted(best.ranges)))
        assert float(best.value) * (1 - 1e-4) <= float(closed.value) <= 2 * float(best.value)
        chain = layered_chain(graph, best.slopes)
        reached = []
        for turned in (False, True):
            sweep = Sweep.of(chain, norm, turned)
            found = improved(sweep, best_closed_form(sweep, lambda: False), lambda: False, 1e-4)
            reached.append(proved(chain, norm, turned, found[1]).value)
        assert float(best.value) * (1 - 1e-4) <= min(reached) <= 1.01 * float(best.value)


def fast_form(chain: LayeredChain) -> float:
    """ECLipsE-Fast: a multiple of the identity, twice the largest eigenvalue, layer by layer; slopes in [0, 1]."""
    form = torch.eye(chain.inputs, dtype=torch.float64)
    for matrix in chain.matrices[:-1]:
        form = matrix @ form @ matrix.T
        weight = 2 * torch.linalg.eigvalsh(form)[-1] * torch.eye(len(form), dtype=torch.float64)
        form = (form + form @ torch.linalg.inv(weight - form) @ form) / 4 + weight / 4
    return math.sqrt(float(torch.linalg.eigvalsh(chain.matrices[-1] @ form @ chain.matrices[-1].T)[-1]))


def test_tighter_than_the_fast_form_and_than_products(seed: int) -> None:
    graph = network((8, 30, 30, 30, 4), seed)
    found = bound(graph, WholeSpace(), (2.0, 2.0))
    (domain,), _ = WholeSpace().domains(graph)
    assert float(found.value) < fast_form(layered_chain(graph, found.slopes))
    assert float(found.value) < float(AutoLip().constant(Query(graph, domain, Budget(), (2.0, 2.0))).value)


@pytest.mark.parametrize("norm", [(2.0, 2.0), (INF, INF), (INF, 1.0)])
def test_certificates_are_checked_again_without_the_search(norm: tuple[float, float]) -> None:
    graph = network((4, 10, 10, 3), 7)
    found = bound(graph, Ball(torch.zeros(4), 0.3), norm)
    (certificate,) = found.certificates
    stored = LayeredCertificate.from_dict(json.loads(json.dumps(certificate.to_dict())))
    assert recheck(graph, found.slopes, norm, (stored,)) == float(found.value) == certificate.value
    assert recheck(graph, found.slopes, norm, (replace(stored, value=0.1),)) == float(found.value)
    smaller = tuple(part * 1e-3 for part in stored.multipliers)
    assert recheck(graph, found.slopes, norm, (replace(stored, multipliers=smaller),)) == INF
    assert recheck(graph, found.slopes, norm, (replace(stored, multipliers=stored.multipliers[1:]),)) == INF
    for bad in (math.nan, -1.0, 0.0, INF, 1e-200, 1e200):
        for name in ("entering", "leaving"):
            spoiled = getattr(stored, name).clone()
            spoiled[0] = bad
            assert recheck(graph, found.slopes, norm, (replace(stored, **{name: spoiled}),)) == INF
    with pytest.raises(InvalidOptionError, match="multipliers"):
        LayeredCertificate.from_dict({**certificate.to_dict(), "multipliers": ["0x1p0"]})


@pytest.mark.parametrize("norm", NORMS)
def test_skips_pass_by_the_neurons_of_their_branch(norm: tuple[float, float]) -> None:
    """Above all vertices of the slopes, and the search near the optimum of the unstable core; one skip over another."""
    generator = Generator().manual_seed(8)
    relu = next(node for node in network((3, 3, 3), 0).nodes if isinstance(node, Elementwise)).activation
    weights = [torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(6)]
    x, same = Input((3,)), Dense(torch.eye(3, dtype=torch.float64))
    one = Elementwise(relu, Affine(((Dense(weights[0]), x),)))
    two = Elementwise(relu, Affine(((Dense(weights[1]), one), (Dense(weights[2]), x))))
    joined = Affine(((Dense(weights[3]), two), (same, one)))
    graph = Graph(Affine(((Dense(weights[4]), Elementwise(relu, joined)), (Dense(weights[5]), x), (same, one))))
    found = bound(graph, WholeSpace(), norm)
    chain = layered_chain(graph, found.slopes)
    assert [len(part) for part in chain.unstable] == [3, 3, 3] and [len(part) for part in chain.halves] == [6, 9, 9]
    truth = float(norm_of(jacobians(chain), *norm).max())
    (domain,), _ = WholeSpace().domains(graph)
    core = float(LipSDP(IBP()).constant(Query(graph, domain, Budget(), norm)).value)
    layers = LayeredSolver(1e-4, Budget())
    reached = max(part.value for part in layers.solve(layered_problems(chain, norm)).values())
    assert truth <= reached <= float(found.value) * (1 + 1e-9) and core * (1 - 1e-3) <= reached <= 1.01 * core
    if norm == (2.0, 2.0):
        # A feasible point of the dual problem: below every certificate, and near it.
        assert layers.least <= core * (1 + 1e-9) and layers.note and reached <= layers.least * 1.001


def test_linear_branches_between_activations_are_one_layer() -> None:
    """``relu -> (x + W x) -> V`` is the chain of one layer ``V (1 + W)``."""
    generator = Generator().manual_seed(2)
    weights = [torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(3)]
    x = Input((3,))
    relu = next(node for node in network((3, 3, 3), 0).nodes if isinstance(node, Elementwise)).activation
    hidden = Elementwise(relu, Affine(((Dense(weights[0]), x),)))
    inner = Affine(((Dense(torch.eye(3, dtype=torch.float64)), hidden), (Dense(weights[1]), hidden)))
    graph = Graph(Affine(((Dense(weights[2]), inner),)))
    same = from_layers(
        [weights[0], weights[2] @ (torch.eye(3).double() + weights[1])], [torch.zeros(3), torch.zeros(3)]
    )
    one, two = (float(bound(g, WholeSpace(), (2.0, 2.0)).value) for g in (graph, same))
    assert one == pytest.approx(two, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-40, 1e-12, 1e12, 1e40])
@pytest.mark.parametrize("norm", [(2.0, 2.0), (INF, INF), (INF, 1.0)])
def test_huge_and_tiny_weights_only_scale_the_constant(scale: float, norm: tuple[float, float]) -> None:
    graph = network((4, 8, 8, 3), 1)
    chain = layered_chain(graph, bound(graph, WholeSpace(), norm).slopes)
    scaled = replace(chain, matrices=(chain.matrices[0] * scale, *chain.matrices[1:-1], chain.matrices[-1] * scale))
    one, two = (min(c.value for c in by_closed_form(c, norm, lambda: False).values()) for c in (chain, scaled))
    assert one * (1 - 1e-6) <= two / scale / scale <= one * 1.5


def test_constant_outputs_zero_layers_and_no_unstable_neurons() -> None:
    graph = network((4, 10, 3), 7)
    for norm in NORMS:
        assert float(bound(graph.with_rows(torch.zeros(1, 3)), Ball(torch.zeros(4), 0.3), norm).value) < 1e-80
    weights = [torch.ones(3, 2).double(), torch.ones(2, 3).double()]
    dead = from_layers(weights, [torch.full((3,), -100.0), torch.zeros(2)])
    assert float(bound(dead, Ball(torch.zeros(2), 0.3), (2.0, 2.0)).value) == 0.0
    open_ = from_layers(weights, [torch.full((3,), 100.0), torch.zeros(2)])
    for norm in NORMS:
        truth = float(norm_of((weights[1] @ weights[0]).unsqueeze(0), *norm))
        assert truth <= float(bound(open_, Ball(torch.zeros(2), 0.3), norm).value) <= truth * 2.1
    one = float(bound(open_, Ball(torch.zeros(2), 0.3), (2.0, 2.0)).value)
    assert one == pytest.approx(6.0, rel=1e-8)


def test_no_time_is_certified_and_said_and_no_memory_is_infinite() -> None:
    graph = network((6, 30, 30, 3), 8)
    late = bound(graph, Ball(torch.zeros(6), 0.3), (2.0, 2.0), Budget(seconds=0.0))
    assert late.status is Status.TIME_LIMIT and float(late.value) < INF
    full = bound(graph, Ball(torch.zeros(6), 0.3), (2.0, 2.0), Budget(memory=100))
    assert full.status is Status.MEMORY_LIMIT and float(full.value) == INF


def test_unbounded_slopes_prove_nothing() -> None:
    chain = random_chain(Generator().manual_seed(1), (2, 3, 2))
    broken = replace(chain, halves=(torch.full((3,), INF, dtype=torch.float64),))
    for certificate in by_closed_form(broken, (2.0, 2.0), lambda: False).values():
        assert certificate.value == INF
        assert layered_constant(broken, certificate) == INF


# --- known values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "known"), [("mnist_7layer_leaky_20", 441.0), ("mnist_5layer_tanh_50", 184.5)])
def test_below_what_other_tools_give(shared_data: Path, name: str, known: float) -> None:
    graph = from_onnx(shared_data / "nets" / f"{name}.onnx")
    with (shared_data / "reference" / "peers" / "results.json").open() as file:
        rows = [row for row in json.load(file)["rows"] if row["tool"].startswith("ECLipsE") and row["net"] == name]
    found = float(bound(graph, WholeSpace(), (2.0, 2.0)).value)
    assert found <= known and found < min(row["value"] for row in rows if row["quantity"] == "global_l2_l2")


@pytest.mark.slow
def test_wide_layers(shared_data: Path) -> None:
    """ECLipsE-Fast gives 35906, products of norms 70762."""
    graph = from_onnx(shared_data / "third_party" / "mnist-net_256x4.onnx")
    assert float(bound(graph, WholeSpace(), (2.0, 2.0)).value) < 24900
