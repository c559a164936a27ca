"""`AutoLip`: constants by norms over the graph, against attained ones, known traps and reference values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from jacobound import CROWN, IBP, AutoLip, Ball, Budget, Graph, Status, WholeSpace, from_layers, from_onnx, from_torch
from jacobound.activations import activation
from jacobound.arithmetic.rounding import unrounded
from jacobound.constants import affine_folding as folding
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Vector
from jacobound.graph.vector.comparisons import Maximum, Sort
from jacobound.inputs.regions import Region
from jacobound.method import Query
from jacobound.operators.kinds import Convolution, Dense, Identity, Scale, Select, Sparse
from oracles import NORMS, autodiff
from single import lifted
from zoo import KINDS, REGIONS, concatenation, normal

LIKE = torch.zeros((), dtype=torch.float64)
EXPONENTS = (1.0, 2.0, math.inf)


def constant(graph: Graph, norm: tuple[float, float] = (2, 2), region: Region | None = None, **budget: float) -> float:
    (domain,), _ = (WholeSpace() if region is None else region).domains(graph.lowered())
    found = AutoLip().constant(Query(graph, domain, Budget(**budget), norm))  # type: ignore[arg-type]
    assert found.status is Status.CERTIFIED
    return float(found.value)


def attained(graph: Graph, points: Tensor, norm: tuple[float, float]) -> float:
    """The largest ``||J v||_q / ||v||_p`` at some points; exact for p = q."""
    jacobians = autodiff(graph.lowered(), points)
    if norm[0] == norm[1]:
        return float(torch.linalg.matrix_norm(jacobians, norm[0]).max())
    columns = jacobians.shape[2]
    vectors = torch.cat((torch.eye(columns), torch.randn(columns, 20).sign(), torch.randn(columns, 20).T.T), 1)[
        :columns
    ]
    vectors = vectors.to(torch.float64)
    lengths = torch.linalg.vector_norm(vectors, norm[0], dim=0)
    return float((torch.linalg.vector_norm(jacobians @ vectors, norm[1], dim=1) / lengths).max())


def dense(source: Node, weight: Tensor) -> Affine:
    return Affine(((Dense(weight), source),))


def relu(source: Node) -> Elementwise:
    return Elementwise(activation("relu"), source)


@pytest.mark.parametrize("kind", KINDS)
def test_constants_hold_over_random_networks(kind: str, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    graph = KINDS[kind](generator).with_rows(None)
    expanded = graph.expanded()
    for name in ("l2", "box") if seed else ("linf_small", "whole_space"):
        region, points = REGIONS[name](graph.in_shape, generator)
        (domain,), _ = region.domains(expanded)
        ranges = (CROWN() if domain.bounded else IBP()).ranges(expanded, domain, Budget())
        for norm in NORMS:
            found = AutoLip().constant(Query(graph, domain, Budget(), norm, ranges=lifted(ranges)))
            assert (found.status is Status.CERTIFIED) == math.isfinite(found.value)  # products have none everywhere
            assert attained(graph, points, norm) <= float(found.value) * (1 + 1e-9), (name, norm)


def test_local_slopes_count(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    graph = from_layers([normal((8, 3), generator), normal((8, 8), generator), normal((2, 8), generator)])
    small = Ball(torch.randn(3, generator=generator, dtype=torch.float64), 1e-3)
    for p in EXPONENTS:
        assert constant(graph, (p, p), small) < 0.999 * constant(graph, (p, p))
    dead = Graph(
        dense(
            relu(Affine(((Dense(normal((4, 3), generator)), Input((3,))),), torch.full((4,), -9.0).double())),
            normal((2, 4), generator),
        )
    )
    assert constant(dead, (2, 2), Ball(torch.zeros(3, dtype=torch.float64), 0.1)) <= 1e-300


# --- known traps: what a product over the modules of a model gets wrong ---------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.inner(x))


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.layer.weight)
        self.layer.weight.data *= 2

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(torch.relu(self.layer(x)))))


TRAPS: dict[str, tuple[nn.Module, tuple[int, ...], float]] = {  # model, input shape, most over the truth
    "residual": (Residual(), (4,), 2.0),
    "reused": (Reused(), (3,), 1 + 1e-9),
    "overlapping maximum": (nn.MaxPool2d(3, 1), (1, 5, 5), 1 + 1e-9),
    "overlapping maximum, stride 2": (nn.MaxPool2d(3, 2), (1, 7, 7), 1 + 1e-9),
    "separate maximum": (nn.MaxPool2d(2), (1, 4, 4), 1 + 1e-9),
    "upsampled": (nn.Upsample(scale_factor=7), (1, 2, 2), 1 + 1e-9),
    "steep": (nn.ELU(3.0), (4,), 1 + 1e-9),
    "layer norm": (nn.LayerNorm(4), (4,), 1 + 1e-9),
    "uneven average": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), (1, 6, 6), 1 + 1e-9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAPS)
def test_traps_of_products_over_modules(name: str) -> None:
    model, shape, most = TRAPS[name]
    graph = from_torch(
        model.double().eval(), torch.zeros(1, *shape, dtype=torch.float64), variance_floor=0.0
    ).with_rows(None)
    middle = torch.zeros(shape, dtype=torch.float64)
    middle[..., -1:] = 1e-9 if name == "layer norm" else 1e-3
    if "maximum" in name:  # one entry that every window around it takes
        middle = torch.zeros(shape, dtype=torch.float64)
        middle[0, shape[1] // 2, shape[2] // 2] = 5.0
    points = torch.stack((middle, *(torch.randn(40, *shape, dtype=torch.float64))))
    points = torch.cat((points, points - 1e-6, points * 0.0 if name == "layer norm" else points))
    for p in EXPONENTS:
        truth, found = attained(graph, points, (p, p)), constant(graph, (p, p))
        assert truth <= found * (1 + 1e-6), p
        assert p != 2 or found <= truth * (most + 1e-4)


def test_the_largest_of_two_tensors_joins_their_constants() -> None:
    a, b = normal((4, 3), Generator().manual_seed(0)), normal((4, 3), Generator().manual_seed(1))
    x = Input((3,))
    both = concatenation([dense(x, a), dense(x, b)])
    graph = Graph(Vector(Maximum(torch.arange(8).reshape(2, 4), (8,)), both))
    norms = [float(torch.linalg.matrix_norm(weight, 2)) for weight in (a, b)]
    stacked = float(torch.linalg.matrix_norm(torch.cat((a, b)), 2))
    assert stacked <= math.hypot(*norms)
    assert constant(graph) == pytest.approx(stacked, rel=1e-9)  # both read x: one map
    split = concatenation([dense(relu(dense(x, a)), torch.eye(4).double()), relu(dense(x, b))])
    graph = Graph(Vector(Maximum(torch.arange(8).reshape(2, 4), (8,)), split))
    assert constant(graph) == pytest.approx(math.hypot(*norms), rel=1e-9)
    assert constant(graph, (math.inf, math.inf)) == pytest.approx(max(float(w.abs().sum(1).max()) for w in (a, b)))


def test_falling_activations_count_with_their_size() -> None:
    steep = Graph(Elementwise(activation("leaky_relu:-2"), dense(Input((3,)), torch.eye(3).to(torch.float64))))
    for p in EXPONENTS:
        assert 2 <= constant(steep, (p, p)) <= 2 + 1e-9


def test_sorting_changes_no_constant() -> None:
    weight = normal((6, 4), Generator().manual_seed(0))
    source = Affine(((Identity((6,), (2, 3), LIKE), dense(Input((4,)), weight)),))
    for p in EXPONENTS:
        found = constant(Graph(Vector(Sort((2, 3)), source)), (p, p))
        assert found == pytest.approx(float(torch.linalg.matrix_norm(weight, p)), rel=1e-9)


def test_repeated_and_absent_candidates_of_windows() -> None:
    windows = torch.tensor([[0, 1], [0, 2], [-1, 0]])  # entry 0 twice in the first window, once in the second
    assert Maximum(windows, (3,)).multiplicity == 2
    assert Maximum(windows[:, :1], (3,)).multiplicity == 1
    assert Sort((2, 5)).multiplicity == 1


# --- joint rules and folding ----------------------------------------------------------------


def test_differences_of_equal_branches() -> None:
    x = Input((3,))
    opposite = Scale(-torch.ones(3, dtype=torch.float64))
    one = Graph(Affine(((Identity((3,), (3,), LIKE), x), (opposite, x))))
    two = Graph(Affine(((Identity((3,), (3,), LIKE), relu(x)), (opposite, relu(x)))))
    for p in EXPONENTS:
        assert 0 <= constant(one, (p, p)) <= 1e-5  # one map, which is zero
        assert 2 <= constant(two, (p, p)) <= 2 + 1e-9  # two nodes: paths add


def test_branches_add_and_concatenations_join(seed: int) -> None:
    a, b = (normal((4, 3), Generator().manual_seed(seed + k)) for k in range(2))
    x = Input((3,))
    branches = [relu(dense(x, a)), relu(dense(x, b))]
    total = Graph(Affine(tuple((Identity((4,), (4,), LIKE), branch) for branch in branches)))
    side = Graph(concatenation(list(branches)))
    for p in EXPONENTS:
        one, two = (float(torch.linalg.matrix_norm(weight, p)) for weight in (a, b))
        joined = {1.0: one + two, 2.0: math.hypot(one, two), math.inf: max(one, two)}[p]
        assert constant(total, (p, p)) == pytest.approx(one + two, rel=1e-9)
        assert constant(side, (p, p)) == pytest.approx(joined, rel=1e-9)


def test_a_branch_that_stands_in_two_places_overlaps_in_both() -> None:
    """(h + g, h), written as three terms: the entries of h are those of both of its terms."""
    x = Input((2,))
    h, g = relu(x), relu(x)
    top, bottom = torch.tensor([0, 1, -1, -1]), torch.tensor([-1, -1, 0, 1])
    placed = ((top, h), (bottom, h), (top, g))
    graph = Graph(Affine(tuple((Select(index, (2,), LIKE), node) for index, node in placed)))
    for p in EXPONENTS:
        truth = attained(graph, torch.ones(1, 2, dtype=torch.float64), (p, p))
        assert truth * (1 - 1e-12) <= constant(graph, (p, p)) <= 3 * (1 + 1e-9)


def test_the_backward_form_joins_readers_of_different_entries(seed: int) -> None:
    """A relu(x_1) + B relu(x_2): forward adds, backward knows that x is split."""
    a, b = (normal((4, 3), Generator().manual_seed(seed + k)) for k in range(2))
    x = Input((6,))
    halves = [Affine(((Select(torch.arange(3) + 3 * k, (6,), LIKE), x),)) for k in range(2)]
    graph = Graph(Affine(((Dense(a), relu(halves[0])), (Dense(b), relu(halves[1])))))
    for p in EXPONENTS:
        one, two = (float(torch.linalg.matrix_norm(weight, p)) for weight in (a, b))
        joined = {1.0: max(one, two), 2.0: math.hypot(one, two), math.inf: one + two}[p]
        assert constant(graph, (p, p)) == pytest.approx(joined, rel=1e-9)
        points = torch.ones(1, 6, dtype=torch.float64)
        assert attained(graph, points, (p, p)) <= constant(graph, (p, p)) * (1 + 1e-12)


def test_adjacent_affine_nodes_are_one_map(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    w, v = normal((5, 5), generator), normal((4, 5), generator)
    h = relu(dense(Input((3,)), normal((5, 3), generator)))
    inner = dense(h, w)
    skip = Affine(((Identity((5,), (5,), LIKE), h), (Identity((5,), (5,), LIKE), inner)))
    scaled = Affine(((Scale(normal((4,), generator)), dense(skip, v)),))
    graph = Graph(scaled)
    matrix = torch.diag(scaled.terms[0][0].factor) @ v @ (torch.eye(5, dtype=torch.float64) + w)  # type: ignore[attr-defined]
    first = h.source.terms[0][0].weight  # type: ignore[union-attr]
    for p in EXPONENTS:
        expected = float(torch.linalg.matrix_norm(matrix, p) * torch.linalg.matrix_norm(first, p))
        assert constant(graph, (p, p)) == pytest.approx(expected, rel=1e-9)


def test_an_overlapping_average_after_a_convolution_is_one_map() -> None:
    x = Input((1, 9))
    kernel = Convolution(torch.tensor([[[1.0, -1.0]]]).double(), (1, 9), (1,), (0,), (1,))
    index = torch.arange(7)[None] + torch.arange(2)[:, None]
    mean = Sparse(torch.full((2, 7), 0.5, dtype=torch.float64), index, (8,), None, (1,))
    graph = Graph(Affine(((mean, Affine(((kernel, x),))),)))
    exact = float(torch.linalg.matrix_norm(mean.materialise() @ kernel.materialise(), 2))
    assert constant(graph) == pytest.approx(exact, rel=1e-9)
    product = math.prod(float(torch.linalg.matrix_norm(op.materialise(), 2)) for op in (mean, kernel))
    assert exact < 0.7 * product


def test_long_affine_networks_do_not_grow_paths() -> None:
    """Skips over skips double the number of paths each; nodes with many stay nodes."""
    node: Node = Input((3,))
    for k in range(30):
        inner = dense(node, 0.1 * normal((3, 3), Generator().manual_seed(k)))
        node = Affine(((Identity((3,), (3,), LIKE), node), (Identity((3,), (3,), LIKE), inner)))
    graph = Graph(node)
    view = folding.Folding(graph)
    assert max(sum(map(len, parts.values())) for parts in view.parts.values()) <= 2 * folding.MOST_CHAINS
    truth = attained(graph, torch.zeros(1, 3, dtype=torch.float64), (2, 2))
    assert truth <= constant(graph) < math.prod(1 + 0.1 * 3.0 for _ in range(30))


def test_padding_and_reused_nodes_are_counted_by_path(seed: int) -> None:
    """One node read by three others, two of which meet again."""
    generator = Generator().manual_seed(seed)
    h = relu(dense(Input((3,)), normal((4, 3), generator)))
    readers = [relu(dense(h, normal((4, 4), generator))) for _ in range(2)]
    graph = Graph(Affine(tuple((Identity((4,), (4,), LIKE), node) for node in (h, *readers))))
    sizes = [float(torch.linalg.matrix_norm(node.source.terms[0][0].weight, 2)) for node in (h, *readers)]  # type: ignore[union-attr]
    assert constant(graph) == pytest.approx(sizes[0] * (1 + sizes[1] + sizes[2]), rel=1e-9)


# --- results ----------------------------------------------------------------


def test_every_node_has_its_constant_in_the_details() -> None:
    graph = from_layers([2 * torch.eye(2).double(), 3 * torch.eye(2).double()])
    (domain,), _ = WholeSpace().domains(graph)
    found = AutoLip().constant(Query(graph, domain, Budget(), (2, 2)))
    values = [float(value) for value in found.details.values()]
    assert len(values) == len(graph.nodes)
    assert values == pytest.approx([1, 2, 2, 6], rel=1e-9)
    assert float(found.value) >= 6


def test_limits_and_modes() -> None:
    x = Input((4,))
    skip = Affine(((Identity((4,), (4,), LIKE), x), (Identity((4,), (4,), LIKE), dense(x, -torch.eye(4).double()))))
    assert constant(Graph(skip)) <= 1e-5
    assert 2 <= constant(Graph(skip), seconds=0) <= 2 + 1e-9  # no time to fold: looser, and still certified
    (domain,), _ = WholeSpace().domains(Graph(skip))
    with unrounded():
        assert AutoLip().constant(Query(Graph(skip), domain, Budget(), (2, 2))).status is Status.NOT_RIGOROUS
    huge = from_layers([*[torch.full((2, 2), 1e200, dtype=torch.float64)] * 2])
    (domain,), _ = WholeSpace().domains(huge)
    assert AutoLip().constant(Query(huge, domain, Budget(), (2, 2))).status is Status.OVERFLOW


def test_float32_networks_are_bounded_from_above(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    graph = from_layers([normal((6, 4), generator), normal((3, 6), generator)])
    double, single = constant(graph), constant(graph.to(dtype=torch.float32))
    assert double <= single * (1 + 1e-10)
    assert single <= double * (1 + 1e-6)


# --- reference values ----------------------------------------------------------------


def reference(shared_data: Path) -> dict[str, dict[str, float]]:
    return json.loads((shared_data / "reference" / "seqlip" / "summary.json").read_text())["nets"]


@pytest.mark.slow
def test_toy_networks_have_their_reference_constants(shared_data: Path) -> None:
    files = sorted((shared_data / "reference" / "seqlip").glob("toy_*_*layer_relu.npz"))
    assert len(files) > 10
    for file in files:
        values, stored = reference(shared_data)[file.stem], np.load(file)
        count = sum(key.startswith("W") for key in stored)
        weights = [torch.tensor(stored[f"W{k}"]) for k in range(1, count + 1)]
        found = constant(from_layers(weights))
        assert found == pytest.approx(values["autolip_CERT"], rel=1e-8)
        assert found >= values["autolip_svd"] * (1 - 1e-13)


@pytest.mark.parametrize("name", ["2layer_leaky_20", "10layer_leaky_20", "5layer_tanh_50", "7layer_relu_1024"])
def test_trained_networks_have_their_reference_constants(shared_data: Path, name: str) -> None:
    values = reference(shared_data)[f"mnist_{name}"]
    graph = from_onnx(shared_data / "nets" / f"mnist_{name}.onnx")
    assert constant(graph) == pytest.approx(values["autolip_CERT"], rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist_cnn", "mnist_cnn_avg", "mnist_cnn_paper4", "mnist_cnn_paper5"])
def test_convolutional_networks_have_their_reference_constants(shared_data: Path, name: str) -> None:
    """Max-pooling, average pooling and strides, with the norms of explicit matrices."""
    stored = json.loads((shared_data / "reference" / "seqlip" / "mnist_cnn.json").read_text())[name]
    found = constant(from_onnx(shared_data / "nets" / f"{name}.onnx"))
    assert found == pytest.approx(stored["autolip_dense_chol_CERT"], rel=1e-8)
    assert found >= stored["autolip_eigsh_ESTIMATE"] * (1 - 1e-9)
