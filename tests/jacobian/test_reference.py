"""Agreement with the RecurJac authors' code on its own pre-activation bounds, and constants of trained networks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import shared_data
from jacobound import CROWN, IBP, Ball, Budget, FastLip, Graph, RecurJac, from_layers, from_onnx
from jacobound.activations import Activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import induced_norm_upper
from jacobound.arithmetic.rounding import strict
from jacobound.graph.nodes import Affine, Elementwise, Node, size
from jacobound.inputs.domains import ONE_SET
from jacobound.jacobian.tangents import unstable_entries
from jacobound.method import JacobianEnclosure, JacobianMethod, Query
from jacobound.method import from_entries as constants
from jacobound.relaxation.linear_bounds import BackwardPass, Relaxation
from jacobound.relaxation.sweep import LinesOf
from single import enclosure_of, lifted, nth, single

PACKAGED = sorted((Path(__file__).parents[1] / "data").glob("recurjac_*.npz"))
KINDS = ("relu", "leaky", "tanh", "sigmoid", "arctan")
EXACT = 1e-10
from_entries, merged_row_sums = single(constants.from_entries), single(constants.merged_row_sums)


@dataclass(frozen=True, eq=False)
class Reference:
    """One file: a network, and what the reference found under several tags "p.._eps.._layer bounds"."""

    data: Mapping[str, np.ndarray]
    graph: Graph

    @property
    def tags(self) -> list[str]:
        return sorted(key.removesuffix("_LB1") for key in self.data if key.endswith("_LB1"))

    def get(self, key: str) -> Tensor | None:
        return torch.as_tensor(self.data[key]) if key in self.data else None

    def region(self, tag: str) -> Ball:
        p, eps, _ = tag.split("_")
        return Ball(self.data["x0"], float(eps.removeprefix("eps")), float(p.removeprefix("p")))

    @property
    def affine(self) -> list[Node]:
        return [node for node in self.graph.nodes if isinstance(node, Affine)]

    def ranges(self, tag: str) -> dict[Node, Interval]:
        """The pre-activation bounds of the reference."""
        found: dict[Node, Interval] = {self.graph.input: Interval.whole(torch.as_tensor(self.data["x0"]))}
        for layer, node in enumerate(self.affine, 1):
            found[node] = Interval(*(torch.as_tensor(self.data[f"{tag}_{end}{layer}"]) for end in ("LB", "UB")))
        return found

    def enclose(self, tag: str, method: JacobianMethod) -> JacobianEnclosure:
        (domain,), _ = self.region(tag).domains(self.graph)
        with torch.no_grad(), strict(self.graph.device, self.graph.dtype):
            return nth(method.enclose(Query(self.graph, domain, Budget(), ranges=lifted(self.ranges(tag)))))


@cache
def load(path: Path) -> Reference:
    with np.load(path) as archive:
        data = dict(archive)
    layers = range(1, len(data["dims"]))
    graph = from_layers(
        [data[f"W{k}"] for k in layers], [data[f"b{k}"] for k in layers], activation=str(data["activation"])
    )
    return Reference(data, graph)


@pytest.fixture(params=[*(path.name for path in PACKAGED), *KINDS])
def references(request: pytest.FixtureRequest) -> list[Reference]:
    """A packaged file by its name, or all files of one activation in the reference data."""
    if request.param.endswith(".npz"):
        return [load(path) for path in PACKAGED if path.name == request.param]
    found = sorted((shared_data() / "reference" / "recurjac").glob(f"small_{request.param}_seed*.npz"))
    assert found, "the reference data has no such files"
    return [load(path) for path in found]


def cases(references: list[Reference], key: str) -> Iterator[tuple[Reference, str]]:
    found = [(reference, tag) for reference in references for tag in reference.tags if f"{tag}_{key}" in reference.data]
    assert found
    return iter(found)


def assert_same(ours: Tensor, theirs: Tensor | None, scale: Tensor, what: str) -> None:
    assert theirs is not None
    worst = float((ours - theirs).abs().max()) / max(float(scale.abs().max()), 1e-3)
    assert worst <= EXACT, f"{what}: {worst}"


def test_the_packaged_files_are_there() -> None:
    assert len(PACKAGED) == 5


@pytest.mark.parametrize(("name", "direction"), [("B", "backward"), ("F0", "forward"), ("F1", "forward-shifted")])
def test_recurjac_with_constants_is_the_published_one(
    references: list[Reference], name: str, direction: Literal["backward", "forward", "forward-shifted"]
) -> None:
    for reference, tag in cases(references, f"{name}_L"):
        found = reference.enclose(tag, RecurJac("constant", direction=direction))
        low, high = reference.get(f"{tag}_{name}_L"), reference.get(f"{tag}_{name}_U")
        scale = found.entries.magnitude()
        assert_same(found.entries.lower, low, scale, f"{tag} lower")
        assert_same(found.entries.upper, high, scale, f"{tag} upper")


def test_derivatives_with_respect_to_unstable_neurons_are_the_published_ones(references: list[Reference]) -> None:
    compared = 0
    for reference, tag in cases(references, "B_L"):
        found = reference.enclose(tag, RecurJac("constant"))
        for layer, node in enumerate(node for node in reference.graph.nodes if isinstance(node, Elementwise)):
            low, high = (reference.get(f"{tag}_B_{end}_layer{layer + 2}") for end in ("L", "U"))
            columns = unstable_entries(found.slopes[node])
            if low is None or high is None or not len(columns):
                continue
            ours, scale = found.adjoints[node][:, columns], torch.maximum(low.abs(), high.abs())
            assert_same(ours.lower, low[:, columns], scale, f"{tag} layer {layer + 2}")
            assert_same(ours.upper, high[:, columns], scale, f"{tag} layer {layer + 2}")
            compared += 1
    assert compared


def test_fastlip_is_the_published_one(references: list[Reference]) -> None:
    if not any(f"{tag}_fastlip_L" in reference.data for reference in references for tag in reference.tags):
        assert all("relu" not in str(r.data["activation"]) for r in references)  # they have it for ReLU
        return
    for reference, tag in cases(references, "fastlip_L"):
        found = reference.enclose(tag, FastLip()).entries
        assert_same(found.lower, reference.get(f"{tag}_fastlip_L"), found.magnitude(), tag)
        assert_same(found.upper, reference.get(f"{tag}_fastlip_U"), found.magnitude(), tag)


def test_merged_row_sums_are_never_looser_and_norms_are_the_published_ones(references: list[Reference]) -> None:
    for reference, tag in cases(references, "B_linf_rows"):
        found = reference.enclose(tag, RecurJac("constant"))
        rows = reference.get(f"{tag}_B_linf_rows")
        assert bool((merged_row_sums(found) <= rows * (1 + EXACT) + 1e-12).all()), tag
        low, high = found.entries.lower, found.entries.upper
        for name, p in (("1", 1), ("inf_naive", math.inf)):
            theirs = reference.get(f"{tag}_B_ind_{name}")
            assert theirs is not None
            assert_same(induced_norm_upper(low, high, p, p), theirs, theirs, f"{tag} {name}")
        spectral = reference.get(f"{tag}_B_ind_2")
        assert spectral is not None  # ours also knows the signs
        assert float(induced_norm_upper(low, high, 2, 2)) <= float(spectral) * (1 + EXACT) + 1e-12, tag
        for name, p in (("1", 1.0), ("2", 2.0), ("inf_naive", math.inf)):
            theirs = reference.get(f"{tag}_B_row_{name}")
            assert theirs is not None
            ours = induced_norm_upper(low.unsqueeze(1), high.unsqueeze(1), p, math.inf)
            assert_same(ours, theirs, theirs, f"{tag} row {name}")


@pytest.mark.soundness
@pytest.mark.slow
@pytest.mark.parametrize(("name", "direction"), [("F0", "forward"), ("F1", "forward-shifted")])
def test_merged_row_sums_of_the_forward_versions_are_the_published_ones(
    name: str, direction: Literal["forward", "forward-shifted"]
) -> None:
    """Row 0 alone: the reference repeats its bound for every other row, which is wrong (brute force, test_constants).

    Where merging makes the reference's forward bound longer than its plain row sum, ours is the row sum.
    """
    folder = shared_data() / "reference" / "recurjac"
    references = [load(path) for kind in KINDS for path in sorted(folder.glob(f"small_{kind}_seed*.npz"))]
    for reference, tag in cases(references, f"{name}_linf_rows"):
        found = reference.enclose(tag, RecurJac("constant", direction=direction))
        rows = reference.get(f"{tag}_{name}_linf_rows")
        assert rows is not None
        low, high, sizes = found.entries.lower, found.entries.upper, found.entries.magnitude()
        signs = torch.where(low >= 0, 1.0, torch.where(high <= 0, -1.0, 0.0)).to(low)
        ours = found.along(signs).upper + torch.where(signs == 0, sizes, 0.0).sum(1)
        theirs = torch.minimum(rows[0], sizes[0].sum())
        assert_same(ours[0], theirs, theirs, f"{tag} {name}")
        assert float(merged_row_sums(found)[0]) <= float(theirs) * (1 + EXACT) + 1e-12, tag


@pytest.mark.parametrize(
    ("theirs", "lines_of"),
    [
        ("crown-general", Activation.lines),
        ("crown-adaptive", Activation.lines),
        ("fastlin", Activation.parallel_lines),
    ],
)
def test_linear_bounds_on_their_ranges_are_not_looser(
    references: list[Reference], theirs: str, lines_of: LinesOf
) -> None:
    """Every layer from the reference's bounds of the layers before it, for ReLU-like activations.

    (The reference's lines for S-shaped ones are not sound and prove nothing. With our own ranges single entries may
    be looser, because slopes adapt to ranges that are tighter.)
    """
    for reference in references:
        graph = reference.graph
        if not str(reference.data["activation"]).startswith(("relu", "leaky")):
            continue
        for tag in [tag for tag in reference.tags if tag.endswith(theirs)]:
            (domain,), _ = reference.region(tag).domains(graph)
            ranges = {**lifted(reference.ranges(tag)), graph.input: domain.box}
            relaxations: dict[Node, Relaxation] = {}
            for node in graph.nodes:
                if isinstance(node, Elementwise):
                    argument = ranges[node.source]
                    ranges[node] = node.activation.range(argument)
                    relaxations[node] = Relaxation(lines_of(node.activation, argument), argument.magnitude())
            steps = BackwardPass(graph, domain, ranges, relaxations, {})
            for layer, node in enumerate(reference.affine, 1):
                found, known = steps.enclose(node, torch.arange(size(node)), ONE_SET), nth(ranges[node])
                slack = 1e-9 * known.magnitude().clamp(min=1.0)
                assert bool((found.lower >= known.lower - slack).all()), (tag, layer)
                assert bool((found.upper <= known.upper + slack).all()), (tag, layer)


def test_intervals_are_not_looser(references: list[Reference]) -> None:
    for reference in references:
        for tag in [tag for tag in reference.tags if tag.endswith("interval")]:
            (domain,), _ = reference.region(tag).domains(reference.graph)
            with torch.no_grad(), strict(reference.graph.device, reference.graph.dtype):
                ours = nth(IBP().ranges(reference.graph, domain, Budget()))
            for layer, node in enumerate(reference.affine, 1):
                known, found = reference.ranges(tag)[node], ours[node]
                if node is not reference.graph.output:  # neurons that intervals show stable are not bounded further
                    reader = reference.graph.consumers[node][0]
                    assert isinstance(reader, Elementwise)
                    open_ends = ~reader.activation.settled(found)
                    known, found = known[open_ends], found[open_ends]
                slack = 1e-9 * known.magnitude().clamp(min=1.0)
                assert bool((found.lower >= known.lower - slack).all()), (tag, layer)
                assert bool((found.upper <= known.upper + slack).all()), (tag, layer)


def test_our_own_ranges_are_tighter_in_the_sum(references: list[Reference]) -> None:
    """CROWN with everything that it intersects, against each of the reference's methods, over all files and regions."""
    ours, theirs = 0.0, 0.0
    for reference in references:
        for tag in [tag for tag in reference.tags if str(reference.data["activation"]).startswith(("relu", "leaky"))]:
            (domain,), _ = reference.region(tag).domains(reference.graph)
            with torch.no_grad(), strict(reference.graph.device, reference.graph.dtype):
                found = nth(CROWN().ranges(reference.graph, domain, Budget())[reference.graph.output])
            known = reference.ranges(tag)[reference.graph.output]
            ours += float((found.upper - found.lower).sum())
            theirs += float((known.upper - known.lower).sum())
    assert ours <= theirs


# --- trained networks -------------------------------------------------------------------------------------------

ROW = 1  # the class of the image


@cache
def image() -> Tensor:
    with np.load(shared_data() / "mnist" / "mnist_test.npz") as archive:
        pixels = archive["x"][2].reshape(-1)
    return torch.tensor(pixels / 255.0 - 0.5, dtype=torch.float32).double()


@cache
def trained(name: str) -> Graph:
    graph = from_onnx(str(shared_data() / "nets" / f"{name}.onnx"))
    row = torch.zeros(1, 10, dtype=torch.float64)
    row[0, ROW] = 1.0
    return graph.with_rows(row)


def constant_of(name: str, p: float, eps: float, relaxation: str) -> float:
    """Constant of the class's logit over a ball, with our own layer bounds."""
    graph = trained(name)
    with torch.no_grad(), strict(graph.device, graph.dtype):
        return float(from_entries(enclosure_of(RecurJac(relaxation), graph, Ball(image(), eps, p)), p, math.inf))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", [*(f"mnist_{depth}layer_leaky_20" for depth in range(2, 11)), "mnist_7layer_relu_1024"]
)
def test_constants_of_trained_networks_are_nowhere_looser(name: str) -> None:
    path = shared_data() / "reference" / "recurjac" / "summary.json"
    configurations = json.loads(path.read_text())["nets"][name]["configs"]
    compared = 0
    for entry in configurations:
        p, eps, stored = float(entry["p"]), float(entry["eps"]), entry["res"].get("B")
        if entry["img"] != 2 or stored is None:
            continue
        rows = stored["row_inf"] if p == math.inf else stored["row_2"]
        known = rows[0] if len(rows) == 1 else rows[entry["cls"]]
        assert constant_of(name, p, eps, "constant") <= known * (1 + 1e-5), (p, eps)
        compared += 1
    assert compared == 14  # seven radii, two norms


@pytest.mark.parametrize(
    ("name", "eps", "known"),
    [
        ("mnist_5layer_leaky_20", 0.003, 303.4),
        ("mnist_5layer_leaky_20", 0.01, 761),
        ("mnist_5layer_leaky_20", 0.03, 4138),
        ("mnist_10layer_leaky_20", 0.003, 1010),
        ("mnist_10layer_leaky_20", 0.01, 7.80e4),
        ("mnist_10layer_leaky_20", 0.03, 7.64e5),
        ("mnist_7layer_relu_1024", 0.001, 173.8),
        ("mnist_7layer_relu_1024", 0.003, 558.7),
        ("mnist_7layer_relu_1024", 0.01, 1.37e6),
        ("mnist_3layer_relu_1024", 0.003, 367.5),
    ],
)
def test_chords_reach_the_values_of_the_prototype(name: str, eps: float, known: float) -> None:
    assert constant_of(name, math.inf, eps, "chord") <= known * 1.005


def test_exact_tangents_pay_off_on_the_tanh_network() -> None:
    """The published lines give 258.3 here."""
    assert constant_of("mnist_5layer_tanh_50", math.inf, 0.001, "constant") <= 184.3
