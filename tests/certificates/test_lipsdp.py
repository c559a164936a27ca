"""`LipSDP`: above what networks do, near what is known, stoppable at any time, and checkable without the search."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from certificate_cases import NORMS, image, network, norm_of
from jacobound import (
    IBP,
    AutoLip,
    Ball,
    Budget,
    Graph,
    InvalidOptionError,
    LipSDP,
    RecurJac,
    Status,
    WholeSpace,
    from_layers,
    from_onnx,
)
from jacobound.certificates import lipsdp
from jacobound.certificates.dense import proof as sdp_certificate
from jacobound.certificates.dense.barrier import Barrier, Weights
from jacobound.certificates.dense.proof import SdpCertificate
from jacobound.certificates.layered import driver as layered_solver
from jacobound.certificates.layered import proof as layered_certificate
from jacobound.certificates.layered.proof import LayeredCertificate
from jacobound.certificates.layered.search import Multipliers, Sweep
from jacobound.certificates.lipsdp import ConstantBound, recheck
from jacobound.inputs.regions import Region
from jacobound.method import Query, derivative_ranges
from jacobound.method.from_entries import from_entries
from oracles import observe
from single import lifted
from zoo import KINDS, REGIONS, realised

INF = math.inf


def bound(
    graph: Graph, region: Region, norm: tuple[float, float], method: LipSDP | None = None, budget: Budget | None = None
) -> ConstantBound:
    (domain,), _ = region.domains(graph)
    return (LipSDP() if method is None else method).constant(Query(graph, domain, budget or Budget(), norm))


PRODUCTS = ("gates", "attentions", "quotients")  # of values that grow without limit, and so do their slopes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("region", REGIONS)
def test_no_jacobian_of_a_region_is_larger(kind: str, region: str) -> None:
    """Random graphs of every kind; all norms in turn; the evaluated Jacobians with a bound of their own error."""
    generator = Generator().manual_seed(len(kind) + 31 * len(region))
    finite = 0
    for k in range(2):
        graph = KINDS[kind](generator).with_rows(None)
        sets, points = REGIONS[region](graph.in_shape, generator)
        norm = NORMS[(5 * k + len(kind) + 2 * len(region)) % len(NORMS)]
        found = bound(graph, sets, norm)
        seen = observe(realised(graph, generator), points)
        sure = (seen.jacobian.abs() - seen.jacobian_error).clamp(min=0) * seen.jacobian.sign()
        if norm[0] == 2 and norm[1] != INF:
            attained = float(norm_of(seen.jacobian, *norm).max() - seen.jacobian_error.flatten(1).norm(dim=1).max())
        elif norm[0] == 1 or norm[1] == INF:
            attained = float(norm_of(sure, *norm).max())
        else:
            attained = float(norm_of(seen.jacobian, *norm).max() - seen.jacobian_error.flatten(1).sum(1).max())
        assert not float(found.value) < attained * (1 - 1e-9), (k, norm)
        assert found.status.certified == (float(found.value) < INF)
        finite += found.status.certified
    unbounded = region in ("whole_space", "half_infinite") and kind in PRODUCTS
    assert finite or region == "huge" or unbounded


@pytest.mark.parametrize("norm", [(2.0, 2.0), (INF, INF), (INF, 2.0), (2.0, 1.0)])
def test_tighter_than_the_recursion_where_much_is_unstable(norm: tuple[float, float]) -> None:
    graph = network((8, 16, 16, 16, 3), 1)
    (domain,), _ = Ball(torch.zeros(8), 0.5).domains(graph)
    entries = from_entries(RecurJac().enclose(Query(graph, domain, Budget())), *norm)
    assert float(LipSDP().constant(Query(graph, domain, Budget(), norm)).value) < 0.6 * float(entries)


@pytest.mark.slow
def test_radius_zero_gives_the_norm_of_the_jacobian() -> None:
    graph = network((5, 12, 12, 3), 2, "tanh")
    point = torch.linspace(-1, 1, 5, dtype=torch.float64)
    jacobian = torch.func.jacrev(graph)(point).unsqueeze(0)
    for norm in ((2.0, 2.0), (INF, INF), (1.0, 2.0), (1.0, INF), (2.0, INF), (1.0, 1.0)):
        found = float(bound(graph, Ball(point, 0.0), norm).value)
        assert found == pytest.approx(float(norm_of(jacobian, *norm)), rel=2e-3), norm


def test_more_inputs_than_outputs_or_the_other_way_round_are_the_same_problem() -> None:
    """A network and its transposed weights have the same linear core on the whole space, with dual norms."""
    generator = Generator().manual_seed(4)
    first, last = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    one = from_layers([first, last.T.contiguous()[:2]], [torch.zeros(6), torch.zeros(2)], activation="relu")
    two = from_layers([last[:, :2].contiguous(), first.T.contiguous()], [torch.zeros(6), torch.zeros(4)], "relu")
    for norm, dual in (((2.0, 2.0), (2.0, 2.0)), ((INF, 2.0), (2.0, 1.0)), ((1.0, 2.0), (2.0, INF))):
        a, b = bound(one, WholeSpace(), norm).value, bound(two, WholeSpace(), dual).value
        assert float(a) == pytest.approx(float(b), rel=2e-3)


@pytest.mark.slow
def test_rows_are_maximised_and_columns_too() -> None:
    graph = network((3, 8, 8, 4), 5)
    rows = bound(graph, Ball(torch.zeros(3), 0.4), (2.0, INF))
    assert set(rows.details) == {f"row {j}" for j in range(4)}
    assert float(rows.value) == max(float(value) for value in rows.details.values())
    columns = bound(graph, Ball(torch.zeros(3), 0.4), (1.0, 2.0))
    assert set(columns.details) == {f"column {k}" for k in range(3)}
    assert float(columns.value) <= float(bound(graph, Ball(torch.zeros(3), 0.4), (2.0, 2.0)).value) * (1 + 2e-3)
    entries = bound(graph, Ball(torch.zeros(3), 0.4), (1.0, INF))
    assert len(entries.details) == 12 and float(entries.value) <= float(rows.value) * (1 + 2e-3)


def test_monotone_in_the_radius_and_global_at_last() -> None:
    graph = network((6, 20, 20, 2), 6)
    values = [float(bound(graph, Ball(torch.zeros(6), radius), (INF, INF)).value) for radius in (0.01, 0.1, 1.0, 1e4)]
    values.append(float(bound(graph, WholeSpace(), (INF, INF)).value))
    assert all(a <= b * (1 + 2e-3) for a, b in itertools.pairwise(values))
    assert values[0] < 0.7 * values[-1]


@pytest.mark.parametrize("norm", [(2.0, 2.0), (INF, INF), (1.0, 2.0)])
def test_certificates_are_checked_again_without_the_search(norm: tuple[float, float]) -> None:
    graph = network((4, 10, 10, 3), 7)
    found = bound(graph, Ball(torch.zeros(4), 0.3), norm)
    assert recheck(graph, found.slopes, norm, found.certificates) == float(found.value)
    first = found.certificates[0]
    smaller = Weights(first.weights.neurons, first.weights.inputs, first.weights.outputs * 0.99)
    forged = (replace(first, weights=smaller), *found.certificates[1:])
    assert recheck(graph, found.slopes, norm, forged) == INF
    assert recheck(graph, found.slopes, norm, found.certificates[1:]) == INF
    wider = bound(graph, Ball(torch.zeros(4), 1.0), norm)
    assert recheck(graph, wider.slopes, norm, found.certificates) == INF


def test_stored_values_are_not_believed() -> None:
    graph = network((4, 10, 10, 3), 7)
    found = bound(graph, Ball(torch.zeros(4), 0.3), (2.0, 2.0))
    lies = tuple(SdpCertificate(0.1, c.weights, c.norm) for c in found.certificates)
    assert recheck(graph, found.slopes, (2.0, 2.0), lies) == float(found.value)


@pytest.mark.parametrize("norm", [(2.0, 2.0), (INF, INF), (INF, 1.0)])
def test_certificates_survive_a_file(norm: tuple[float, float], tmp_path: Path) -> None:
    graph = network((4, 10, 10, 3), 7)
    found = bound(graph, Ball(torch.zeros(4), 0.3), norm)
    path = tmp_path / "certificates.json"
    path.write_text(json.dumps([certificate.to_dict() for certificate in found.certificates]), encoding="utf-8")
    stored = tuple(SdpCertificate.from_dict(entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    for one, other in zip(found.certificates, stored, strict=True):
        assert (one.value, one.norm) == (other.value, other.norm)
        for name in ("neurons", "inputs", "outputs"):
            assert torch.equal(getattr(one.weights, name), getattr(other.weights, name))
    assert recheck(graph, found.slopes, norm, stored) == float(found.value)


@pytest.mark.parametrize(
    ("name", "entry"),
    [("neurons", None), ("inputs", "0x1p0"), ("outputs", ["zero"]), ("norm", ["inf"]), ("value", [1]), ("value", None)],
)
def test_damaged_files_are_refused_and_wrong_numbers_prove_nothing(name: str, entry: object) -> None:
    graph = network((4, 10, 10, 3), 7)
    found = bound(graph, Ball(torch.zeros(4), 0.3), (2.0, 2.0))
    stored = found.certificates[0].to_dict()
    with pytest.raises(InvalidOptionError, match=name):
        SdpCertificate.from_dict({**stored, name: entry})
    wrong = SdpCertificate.from_dict({**stored, "neurons": ["nan", *stored["neurons"][1:]]})
    assert recheck(graph, found.slopes, (2.0, 2.0), (wrong,)) == INF


def test_stopped_at_once_it_is_certified_and_loose() -> None:
    graph = network((6, 30, 30, 30, 3), 8)
    region = Ball(torch.zeros(6), 0.3)
    best, hasty = bound(graph, region, (2.0, 2.0)), bound(graph, region, (2.0, 2.0), LipSDP(seconds=0.0))
    assert hasty.status is Status.TIME_LIMIT and best.status is Status.CERTIFIED
    assert float(best.value) < float(hasty.value) < INF
    late = bound(graph, region, (INF, INF), budget=Budget(seconds=0.0))
    assert late.status is Status.TIME_LIMIT and float(late.value) < INF


def test_too_little_memory_gives_products_of_norms_and_says_so() -> None:
    graph = network((6, 30, 30, 3), 8)
    (domain,), _ = WholeSpace().domains(graph)
    found = bound(graph, WholeSpace(), (2.0, 2.0), budget=Budget(memory=1000))
    assert found.status is Status.MEMORY_LIMIT and not found.certificates
    assert float(found.value) == float(AutoLip().constant(Query(graph, domain, Budget(), (2.0, 2.0))).value) < INF


def layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were too many unstable neurons for Newton's method."""
    monkeypatch.setattr(lipsdp, "MANY", 0)
    monkeypatch.setattr(lipsdp, "LONGEST", 0.0)


@pytest.mark.slow
def test_newton_goes_first_where_it_will_come_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, region = network((6, 12, 12, 3), 3), Ball(torch.zeros(6), 0.15)
    best = bound(graph, region, (2.0, 2.0))
    monkeypatch.setattr(lipsdp, "MANY", 0)
    assert float(bound(graph, region, (2.0, 2.0)).value) == float(best.value)
    for name, number in (("STARTS", 10**12), ("RATE", 1e9)):
        with monkeypatch.context() as slow:
            slow.setattr(lipsdp, name, number)
            (certificate,) = bound(graph, region, (2.0, 2.0)).certificates
            assert isinstance(certificate, LayeredCertificate)
    monkeypatch.setattr(lipsdp, "chain_bytes", lambda graph: None)
    monkeypatch.setattr(lipsdp, "LONGEST", 0.0)
    assert float(bound(graph, region, (2.0, 2.0)).value) == float(best.value)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [(2.0, 2.0), (INF, INF), (1.0, 2.0), (INF, 1.0)])
def test_many_neurons_are_solved_layer_by_layer(norm: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same problem: within 1 % of the optimum and never below; checked again without the search."""
    graph, region = network((6, 12, 12, 12, 3), 3), Ball(torch.zeros(6), 0.15)
    best = bound(graph, region, norm, LipSDP(tolerance=1e-5))
    layer_by_layer(monkeypatch)
    found = bound(graph, region, norm)
    assert all(isinstance(certificate, LayeredCertificate) for certificate in found.certificates)
    assert set(found.details) == ({f"row {j}" for j in range(3)} if norm[1] == INF else {"all"})
    share = 1.01 if norm[0] != 1 else 1.5  # the other way takes columns one by one
    assert float(best.value) * (1 - 1e-4) <= float(found.value) <= share * float(best.value)
    assert found.status is Status.CERTIFIED
    assert recheck(graph, found.slopes, norm, found.certificates) == float(found.value)
    twice = (*found.certificates, *found.certificates)
    assert recheck(graph, found.slopes, norm, twice) == INF
    wider = bound(graph, Ball(torch.zeros(6), 3.0), norm)
    assert recheck(graph, wider.slopes, norm, found.certificates) > float(found.value)
    hasty = bound(graph, region, norm, LipSDP(seconds=0.0))
    assert hasty.status is Status.TIME_LIMIT and float(found.value) <= float(hasty.value) < INF


@pytest.mark.parametrize("many", [0, 10**9])
def test_multipliers_that_break_down_leave_a_weaker_bound_and_say_so(
    many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that returns NaN, one that has no start, and one whose proofs all fail."""
    if not many:
        layer_by_layer(monkeypatch)
    graph, region = network((4, 10, 10, 3), 7), Ball(torch.zeros(4), 0.3)
    best = bound(graph, region, (2.0, 2.0))
    with monkeypatch.context() as broken:
        nothing = torch.full_like
        broken.setattr(Barrier, "weights", lambda self, point: Weights(*(nothing(x, math.nan) for x in _parts(self))))
        broken.setattr(layered_solver, "improved", lambda *rest: (-INF, _nothing(rest[1][1]), -INF))
        found = bound(graph, region, (2.0, 2.0))
        assert float(best.value) <= float(found.value) < INF and found.status.certified
    with monkeypatch.context() as broken:
        broken.setattr(lipsdp, "feasible_start", lambda *rest: None)
        broken.setattr(Sweep, "closed_form", lambda self, margin: (INF, Multipliers((), torch.ones(1), torch.ones(1))))
        found = bound(graph, region, (2.0, 2.0))
        assert float(best.value) < float(found.value) < INF and found.status is Status.TIME_LIMIT
    with monkeypatch.context() as broken:
        broken.setattr(layered_certificate, "is_positive_definite", lambda *rest: False)
        broken.setattr(sdp_certificate, "is_positive_definite", lambda *rest: False)
        found = bound(graph, region, (2.0, 2.0))
        assert float(best.value) < float(found.value) < INF and found.status is Status.TIME_LIMIT
        assert set(found.details) == {"products of norms"} and not found.certificates


def _parts(barrier: Barrier) -> tuple[Tensor, Tensor, Tensor]:
    core = barrier.core
    return torch.ones(core.neurons), torch.ones(core.inputs), torch.ones(core.outputs)


def _nothing(found: Multipliers) -> Multipliers:
    return Multipliers(tuple(part * math.nan for part in found.neurons), found.entering, found.leaving)


@pytest.mark.parametrize("scale", [1e-45, 1e-20, 1e30, 1e120])
def test_huge_and_tiny_weights_leave_a_bound_above_the_truth(scale: float) -> None:
    weights = [torch.ones(3, 2).double() * scale, torch.ones(2, 3).double()]
    graph = from_layers(weights, [torch.zeros(3), torch.zeros(2)])
    for norm in ((2.0, 2.0), (INF, INF)):
        found = bound(graph, WholeSpace(), norm)
        truth = float(norm_of((weights[1] @ weights[0]).unsqueeze(0), *norm))
        assert truth * (1 - 1e-12) <= float(found.value) <= truth * 3
        assert found.status.certified


def test_no_unstable_neurons_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [torch.ones(3, 2).double(), torch.ones(2, 3).double()]
    for bias, truth in ((100.0, 6.0), (-100.0, 0.0)):
        graph = from_layers(weights, [torch.full((3,), bias), torch.zeros(2)])
        for many in (10**9, 0):
            if not many:
                layer_by_layer(monkeypatch)
            found = bound(graph, Ball(torch.zeros(2), 0.3), (2.0, 2.0))
            assert truth <= float(found.value) <= truth * (1 + 1e-3) and found.status is Status.CERTIFIED


def test_no_certificate_is_begun_that_can_not_end_in_time() -> None:
    """About 30 s for layers of 4000 neurons; products of norms, and the word for it, at once."""
    first = torch.randn(4000, 2, generator=Generator().manual_seed(0)).double()
    graph = from_layers([first, first.T.contiguous()], activation="relu")
    found = bound(graph, WholeSpace(), (2.0, 2.0), LipSDP(seconds=0.5))
    assert found.status is Status.TIME_LIMIT and float(found.value) < INF
    assert set(found.details) == {"products of norms"} and not found.certificates


def test_many_neurons_of_a_graph_that_is_no_chain_stay_in_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = KINDS["residual"](Generator().manual_seed(1)).with_rows(None)
    region, _ = REGIONS["box"](graph.in_shape, Generator().manual_seed(1))
    best = bound(graph, region, (2.0, 2.0))
    monkeypatch.setattr(lipsdp, "MANY", 0)
    assert float(bound(graph, region, (2.0, 2.0)).value) == float(best.value)


def test_progress_can_interrupt_the_search() -> None:
    class Enough(Exception):
        pass

    def stop(done: float, total: float, what: str) -> None:
        if what == "multipliers":
            raise Enough

    with pytest.raises(Enough):
        bound(network((6, 30, 30, 3), 8), WholeSpace(), (2.0, 2.0), budget=Budget(progress=stop))


def test_the_same_call_gives_the_same_number() -> None:
    graph = network((6, 30, 30, 3), 9)
    values = {float(bound(graph, Ball(torch.zeros(6), 0.2), (INF, 2.0)).value) for _ in range(2)}
    assert len(values) == 1


def test_options_that_make_no_sense_are_refused() -> None:
    for tolerance, seconds in ((0.0, None), (math.nan, None), (1e-3, -1.0), (2.0, None)):
        with pytest.raises(InvalidOptionError):
            LipSDP(tolerance=tolerance, seconds=seconds)


def test_float32_networks_and_constant_ones() -> None:
    graph = network((4, 10, 3), 7)
    single = from_layers(
        [torch.randn(5, 4, generator=Generator().manual_seed(1)), torch.ones(2, 5)], [torch.zeros(5), torch.zeros(2)]
    ).to(dtype=torch.float32)
    same = single.to(dtype=torch.float64)
    one, two = (bound(g, WholeSpace(), (2.0, 2.0)).value for g in (single, same))
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    zero = graph.with_rows(torch.zeros(1, 3))
    for norm in NORMS:
        assert float(bound(zero, Ball(torch.zeros(4), 0.3), norm).value) == 0.0


def test_ranges_and_the_method_behind_them_are_taken_as_given() -> None:
    graph = network((6, 20, 20, 2), 6)
    (domain,), _ = Ball(torch.zeros(6), 0.1).domains(graph)
    ranges = IBP().ranges(graph, domain, Budget())
    given = LipSDP().constant(Query(graph, domain, Budget(), (2.0, 2.0), ranges=lifted(ranges)))
    asked = LipSDP(preactivation=IBP()).constant(Query(graph, domain, Budget(), (2.0, 2.0)))
    assert given.ranges.keys() == ranges.keys() and float(given.value) == float(asked.value)
    assert all(torch.equal(given.ranges[node].lower, known.lower) for node, known in ranges.items())
    assert all(torch.equal(given.ranges[node].upper, known.upper) for node, known in ranges.items())
    assert float(LipSDP().constant(Query(graph, domain, Budget(), (2.0, 2.0))).value) < float(given.value)
    assert all(
        torch.equal(given.slopes[node].lower, slope.lower) for node, slope in derivative_ranges(graph, ranges).items()
    )


# --- known values ------------------------------------------------------------------------------------------------


def stored(shared_data: Path, name: str, row: int | None = None) -> Graph:
    graph = from_onnx(shared_data / "nets" / f"{name}.onnx")
    return graph if row is None else graph.with_rows(torch.eye(10, dtype=torch.float64)[[row]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "radius", "known"),
    [
        ("mnist_5layer_leaky_20", 0.003, 292.5),
        ("mnist_5layer_leaky_20", 0.01, 505.1),
        ("mnist_5layer_leaky_20", 0.03, 1092),
        ("mnist_5layer_leaky_20", 0.1, 1416),
        ("mnist_10layer_leaky_20", 0.003, 860.5),
        ("mnist_10layer_leaky_20", 0.01, 5712),
        ("mnist_10layer_leaky_20", 0.03, 1.586e4),
        ("mnist_7layer_relu_1024", 0.001, 158.1),
        ("mnist_7layer_relu_1024", 0.003, 191.4),
        ("mnist_3layer_relu_1024", 0.003, 135.8),
    ],
)
def test_local_constants_of_trained_networks(shared_data: Path, name: str, radius: float, known: float) -> None:
    """l_inf balls, one logit; a first-order search to convergence gave these values."""
    graph = stored(shared_data, name, 1)
    found = bound(graph, Ball(image(shared_data, graph), radius), (INF, INF))
    assert float(found.value) <= known * 1.003
    assert found.status is Status.CERTIFIED


@pytest.mark.parametrize(("name", "known"), [("mnist_7layer_leaky_20", 354.034)])
def test_global_constants_of_trained_networks(shared_data: Path, name: str, known: float) -> None:
    """A conic solver's optimum of LipSDP-neuron: the same problem, so neither much above nor below."""
    found = float(bound(stored(shared_data, name), WholeSpace(), (2.0, 2.0)).value)
    assert known * (1 - 1e-5) <= found <= known * 1.002


@pytest.mark.slow
def test_global_constants_of_small_networks_agree_with_conic_solvers(shared_data: Path) -> None:
    """LipSDP-neuron for (2, 2), and for every row the SDP of GeoLIP for (inf, inf), both by Clarabel."""
    with (shared_data / "reference" / "peers" / "results.json").open() as file:
        rows = json.load(file)["rows"]
    seen = 0
    for row in rows:
        euclidean = row["tool"].startswith("LipSDP-Neuron (cvxpy")
        uniform = row["tool"].startswith("GeoLIP linf")
        if not (euclidean or uniform) or not row["net"].startswith("tiny") or "value" not in row:
            continue
        with np.load(shared_data / "reference" / "peers" / f"{row['net']}.npz") as file:
            count = sum(name.startswith("W") for name in file)
            weights = [torch.as_tensor(file[f"W{k + 1}"], dtype=torch.float64) for k in range(count)]
            biases = [torch.as_tensor(file[f"b{k + 1}"], dtype=torch.float64) for k in range(count)]
        found = float(bound(from_layers(weights, biases), WholeSpace(), (2.0, 2.0) if euclidean else (INF, INF)).value)
        assert found == pytest.approx(row["value"], rel=2e-3) if euclidean else found <= row["value"] * 1.002
        seen += 1
    assert seen >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "until", "scale"),
    [
        ("mnist_7layer_leaky_20", "nets/mnist_7layer_leaky_20.onnx", None, 1),
        ("mnist_5layer_tanh_50", "nets/mnist_5layer_tanh_50.onnx", None, 1),
        ("tansig200_50", "third_party/tansig_200_50_onnx.onnx", "softmax_3_Flatten", 255),
        ("mnist256x2", "third_party/mnist-net_256x2.onnx", None, 1),
        ("mnist256x4", "third_party/mnist-net_256x4.onnx", None, 1),
        ("mnist_3layer_relu_1024", "nets/mnist_3layer_relu_1024.onnx", None, 1),
    ],
)
def test_global_rows_are_tighter_than_conversions_of_euclidean_ones(
    shared_data: Path, name: str, file: str, until: str | None, scale: int
) -> None:
    """l_inf to one output, the whole space: other tools' l_2 constants of the row times the root of its inputs."""
    with (shared_data / "reference" / "peers" / "results.json").open() as stored_rows:
        rows = [row for row in json.load(stored_rows)["rows"] if row["file"] == "rowsdp" and row["net"] == name]
    known = min(row[key] for row in rows for key in ("linf_from_eclfast", "linf_from_lipsdp") if key in row)
    graph = from_onnx(shared_data / file, until=until).with_rows(torch.eye(10, dtype=torch.float64)[[rows[0]["c"]]])
    wide = name in ("mnist256x4", "mnist_3layer_relu_1024")  # where the first closed form is enough
    method = LipSDP(seconds=1.0) if wide else LipSDP(tolerance=0.05)
    found = bound(graph, WholeSpace(), (INF, INF), method)
    assert float(found.value) * scale < 0.95 * known
