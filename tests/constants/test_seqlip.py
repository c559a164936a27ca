"""`SeqLip` on networks: against joint enumeration, attained Jacobians, reference values; estimates labelled as such."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from certificate_cases import network
from jacobound import (
    AutoLip,
    Ball,
    Budget,
    Graph,
    InvalidOptionError,
    SeqLip,
    Status,
    WholeSpace,
    from_layers,
    from_onnx,
    from_torch,
    lipschitz,
)
from jacobound.arithmetic.intervals import Interval
from jacobound.constants.pairs.branching import enumerated, exact_bound
from jacobound.constants.pairs.chain import Edge, Stretch, shortest
from jacobound.constants.pairs.dual import Pair, product_bound
from jacobound.constants.pairs.estimates import attained, greedy
from jacobound.constants.pairs.layers import Layer, stretch
from jacobound.constants.pairs.search import dual_bound
from jacobound.constants.pairs.seqlip import Pairs
from jacobound.graph.nodes import Affine, Elementwise
from jacobound.inputs.regions import Region
from jacobound.method import ConstantBound, Query
from jacobound.operators.kinds import Dense, Identity, Scale
from oracles import observe
from zoo import KINDS, REGIONS, realised

EUCLIDEAN = (2.0, 2.0)


def weights_of(graph: Graph) -> list[Tensor]:
    return [node.terms[0][0].materialise() for node in graph.nodes if isinstance(node, Affine)]


def bound(
    graph: Graph, region: Region | None = None, pairs: Pairs = "dual", budget: Budget | None = None
) -> ConstantBound:
    (domain,), _ = (region or WholeSpace()).domains(graph)
    return SeqLip(pairs).constant(Query(graph, domain, budget or Budget(), EUCLIDEAN))


def product(graph: Graph, region: Region | None = None) -> float:
    (domain,), _ = (region or WholeSpace()).domains(graph)
    return float(AutoLip().constant(Query(graph, domain, Budget(), EUCLIDEAN)).value)


def joint(weights: list[Tensor], lower: float = 0.0) -> float:
    """The largest norm over all slopes of all layers together."""
    counts = [len(weight) for weight in weights[:-1]]
    ends = torch.tensor([lower, 1.0], dtype=torch.float64)
    vertices = ends[torch.tensor(list(itertools.product((0, 1), repeat=sum(counts))))]
    found = weights[0].expand(len(vertices), -1, -1)
    for weight, slopes in zip(weights[1:], vertices.split(counts, 1), strict=True):
        found = weight @ (slopes.unsqueeze(2) * found)
    return float(torch.linalg.matrix_norm(found, 2).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("region", REGIONS)
def test_no_jacobian_of_a_region_is_larger(kind: str, region: str) -> None:
    generator = Generator().manual_seed(len(kind) + 37 * len(region))
    graph = KINDS[kind](generator).with_rows(None)
    sets, points = REGIONS[region](graph.in_shape, generator)
    found = bound(graph, sets)
    seen = observe(realised(graph, generator), points)
    slack = seen.jacobian_error.flatten(1).norm(dim=1).max()
    largest = torch.linalg.matrix_norm(seen.jacobian.flatten(2), 2).max() - slack
    assert not float(found.value) < float(largest) * (1 - 1e-9)
    assert float(found.value) <= product(graph, sets) * (1 + 1e-12)
    assert found.status.certified == (float(found.value) < math.inf)


@pytest.mark.parametrize("widths", [(4, 4, 4, 4, 3), (3, 5, 5, 5), (6, 4, 2, 4, 5), (5, 12, 4), (1, 6, 6, 1)])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_between_joint_enumeration_and_product_of_norms(widths: tuple[int, ...], activation: str, seed: int) -> None:
    graph = network(widths, seed, activation)
    elementwise = next(node for node in graph.nodes if isinstance(node, Elementwise))
    slope = float(elementwise.activation.derivative_range(_line()).lower.min())
    truth = joint(weights_of(graph), slope)
    dual, exact = float(bound(graph).value), float(bound(graph, pairs="exact").value)
    assert truth * (1 - 1e-12) <= exact <= dual * (1 + 1e-9)
    assert dual <= product(graph) * (1 + 1e-12)
    if len(widths) == 3:
        assert exact <= truth * (1 + 1e-9)


def _line() -> Interval:
    return Interval.whole(torch.zeros(1, dtype=torch.float64))


def test_exact_constant_of_one_hidden_layer_is_attained() -> None:
    """The first layer has full row rank, so that every pattern is reached: the bound is the constant."""
    graph = network((8, 8, 3), 3)
    weight, last = weights_of(graph)
    assert float(bound(graph, pairs="exact").value) == pytest.approx(joint([weight, last]), rel=1e-9)


def least_cover(chain: Stretch, value: Mapping[Edge, float], number: int = 0, split: bool = False) -> float:
    """Least product for layers from `number` on; when it is split, its first half is done already."""
    last = len(chain.layers) - 1
    norm = float(chain.layers[number].norm)
    if number == last:
        return math.inf if split else norm
    options = [] if split else [norm * least_cover(chain, value, number + 1)]
    for left in (False, True):
        edge = Edge(number, split, left)
        if edge in value:
            after = 1.0 if number + 1 == last else least_cover(chain, value, number + 2)
            options.append(value[edge] * (least_cover(chain, value, number + 1, True) if left else after))
    return min(options)


def test_cover_is_the_best_of_all(seed: int) -> None:
    """Against all covers of a chain by pairs and single layers, each bounded on its own."""
    weights = weights_of(network((5, 6, 5, 6, 4), seed))
    layers = tuple(Layer(((Dense(weight),),)) for weight in weights)
    chain = Stretch(layers, tuple(_unit_slopes(len(weight)) for weight in weights[:-1]))
    value = {edge: dual_bound(chain.pair(edge)).upper for edge in chain.edges()}
    found = shortest(chain, lambda edge: 0.999 * value[edge], value.__getitem__)
    assert float(found.value) == pytest.approx(least_cover(chain, value), rel=1e-9)
    assert float(found.value) == float(shortest(chain, value.__getitem__, value.__getitem__).value)


def _unit_slopes(count: int) -> Interval:
    return Interval(torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64))


def _exact(matrix: Tensor) -> list[list[Fraction]]:
    return [[Fraction(x) for x in row] for row in matrix.tolist()]


def _missed(matrix: Tensor, left: Tensor, right: Tensor) -> Fraction:
    """The squared Frobenius norm of ``matrix - left right`` as a rational."""
    a, b, c = _exact(matrix), _exact(left), _exact(right)
    inner = range(len(c))
    return sum(
        (
            (a[i][j] - sum((b[i][k] * c[k][j] for k in inner), Fraction(0))) ** 2
            for i in range(len(a))
            for j in range(len(a[0]))
        ),
        Fraction(0),
    )


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 5)])
@pytest.mark.parametrize("size", [1.0, 1e-9, 1e7])
def test_factors_are_near_the_layer_by_their_error(shape: tuple[int, int], size: float, seed: int) -> None:
    """As rationals: the split, and the reduced views by columns that are nearly orthonormal."""
    generator = Generator().manual_seed(seed)
    matrix = size * torch.randn(*shape, generator=generator, dtype=torch.float64)
    layer = Layer(((Dense(matrix),),))
    left, right = layer.split
    missed = _missed(matrix, left.matrix, right.matrix)
    assert 0 < missed <= Fraction(float(left.error)) ** 2
    assert float(left.error) < 1e-13 * float(matrix.norm())
    assert torch.equal(layer.whole.matrix, matrix)
    assert float(layer.whole.error) == 0
    sides = ((layer.as_left, matrix, layer.as_left.matrix), (layer.as_right, matrix.T, layer.as_right.matrix.T))
    for view, whole, reduced in sides:
        # ||map X|| <= f ||A X|| + e ||X||, for unit vectors, as rationals: (f |A x| + e)^2 >= f^2 |A x|^2.
        for x in torch.eye(whole.shape[1], dtype=torch.float64):
            before = sum((Fraction(y) ** 2 for y in (whole @ x).tolist()), Fraction(0))
            after = sum((Fraction(y) ** 2 for y in (reduced @ x).tolist()), Fraction(0))
            root = Fraction(math.sqrt(after)) * (1 + Fraction(1, 2**50))
            assert before <= (Fraction(float(view.factor)) * root + Fraction(float(view.error))) ** 2
        assert 1 <= float(view.factor) < 1 + 1e-12


@pytest.mark.parametrize("stretched", [1.0, 1.0 + 1e-9, 1.01, 1e-3])
def test_columns_that_are_not_orthonormal_are_paid_for(stretched: float, generator: Generator) -> None:
    columns = torch.linalg.qr(torch.randn(7, 3, generator=generator, dtype=torch.float64))[0]
    columns[:, 1] *= stretched
    found = float(stretch(columns))
    assert max(1.0, float(torch.linalg.matrix_norm(columns, 2))) * (1 - 1e-15) <= found <= max(1.5 * stretched, 1.5)
    assert found < 1 + 1e-12 or stretched != 1


@pytest.mark.parametrize("side", [0, 1])
def test_error_of_each_side_is_added(side: int) -> None:
    """A layer whose view lies: the chain pays for the error that it tells of, times the norm of the other layer."""
    layers = tuple(Layer(((Dense(weight),),)) for weight in weights_of(network((5, 5, 4), 1)))
    chain = Stretch(layers, (_unit_slopes(5),))
    (edge,) = chain.edges()
    value = dual_bound(chain.pair(edge)).upper
    plain = float(shortest(chain, lambda _: value, lambda _: value).value)
    view = layers[0].as_right if side == 0 else layers[1].as_left
    object.__setattr__(view, "error", view.error + 1e-3)
    worse = float(shortest(chain, lambda _: value, lambda _: value).value)
    assert plain + 1e-3 * float(layers[1 - side].norm) * (1 - 1e-9) <= worse <= plain * 1.01


def test_error_of_a_split_is_added() -> None:
    layers = tuple(Layer(((Dense(weight),),)) for weight in weights_of(network((5, 5, 5, 4), 1)))
    chain = Stretch(layers, (_unit_slopes(5), _unit_slopes(5)))
    split = {Edge(0, False, True), Edge(1, True, False)}
    bounds = {edge: dual_bound(chain.pair(edge)).upper if edge in split else 1e6 for edge in chain.edges()}
    state = shortest(chain, bounds.__getitem__, bounds.__getitem__)
    assert set(state.edges) == split
    object.__setattr__(layers[1].split[0], "error", layers[1].split[0].error + 1e-3)
    worse = float(shortest(chain, bounds.__getitem__, bounds.__getitem__).value)
    norms = [float(layer.norm) for layer in layers]
    assert float(state.value) + 1e-3 * norms[0] * norms[2] * (1 - 1e-9) <= worse
    object.__setattr__(layers[0].as_right, "error", layers[0].as_right.error + 1e-3)
    assert float(shortest(chain, bounds.__getitem__, bounds.__getitem__).value) >= worse + 1e-4


@pytest.mark.slow
def test_steeper_neurons_count_everywhere(seed: int) -> None:
    """All slopes three times as large: every cover of a chain is, to the power of the layers of neurons."""
    layers = tuple(Layer(((Dense(weight),),)) for weight in weights_of(network((4, 6, 3, 6, 4), seed)))
    slopes = [_unit_slopes(size) for size in (6, 3, 6)]
    chains = [Stretch(layers, tuple(slope * factor for slope in slopes)) for factor in (1.0, 3.0)]
    bounds = [{edge: dual_bound(chain.pair(edge)).upper for edge in chain.edges()} for chain in chains]
    one, three = (
        float(shortest(chain, known.__getitem__, known.__getitem__).value)
        for chain, known in zip(chains, bounds, strict=True)
    )
    assert three == pytest.approx(27 * one, rel=1e-4)
    alone = [float(shortest(chain, lambda _: 1e9, lambda _: 1e9).value) for chain in chains]
    assert alone[1] == pytest.approx(27 * alone[0], rel=1e-9)


def test_scales_and_products_join_their_layer() -> None:
    """Adjacent affine maps are one layer, whose rounding as a matrix is paid."""
    generator = Generator().manual_seed(0)
    first, second = (torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    factor = torch.rand(6, generator=generator, dtype=torch.float64)
    layer = Layer(((Dense(first), Scale(factor), Dense(second)),))
    truth = second @ (factor.unsqueeze(1) * first)
    assert float((layer.whole.matrix - truth).norm()) <= float(layer.whole.error) < 1e-12
    assert float(layer.whole.error) > 0


def test_branches_are_joined_and_their_chains_bounded() -> None:
    """A residual block: the identity adds its one, the block counts as a pair."""
    plain = network((6, 8, 6), 5)
    generator = Generator().manual_seed(5)
    last = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    block = plain.output
    assert isinstance(block, Affine)
    skip = Identity((6,), (6,), plain.example)
    joined = Affine((*block.terms, (skip, plain.input)), block.bias)
    graph = Graph(Affine(((Dense(last), joined),)))
    weights = weights_of(plain)
    pair = joint(weights)
    found = float(bound(graph, pairs="exact").value)
    ends = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)
    maps = last @ (torch.eye(6, dtype=torch.float64) + weights[1] @ (ends.unsqueeze(2) * weights[0]))
    truth = float(torch.linalg.matrix_norm(maps, 2).max())
    assert truth * (1 - 1e-12) <= found <= product(graph)
    merged = Pair(last @ weights[1], weights[0], torch.zeros(8).double(), torch.ones(8).double())
    assert found <= min(float(torch.linalg.matrix_norm(last, 2)) * (1 + pair), 1e9) * (1 + 1e-9)
    assert found <= (enumerated(merged) + float(torch.linalg.matrix_norm(last, 2))) * (1 + 1e-9)


def test_pairs_stop_at_pooling_and_at_readers_outside() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    ).double()
    graph = from_torch(model.eval(), torch.zeros(1, 1, 6, 6, dtype=torch.float64)).with_rows(None)
    found = bound(graph)
    assert len(found.details) == 1
    assert float(found.value) < 0.95 * product(graph)
    points = torch.randn(20, *graph.in_shape, dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(graph))(points).flatten(2)
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= float(found.value)


def test_slopes_of_a_region_make_it_local() -> None:
    graph = network((6, 10, 10, 4), 2)
    values = [float(bound(graph, Ball(torch.ones(6), radius)).value) for radius in (1e-6, 0.02, 0.05)]
    assert values == sorted(values)
    assert values[-1] < float(bound(graph).value)
    jacobian = torch.func.jacrev(graph)(torch.ones(6, dtype=torch.float64))
    norm = float(torch.linalg.matrix_norm(jacobian, 2))
    # Within a ball where every neuron is decided, pairs are products of two matrices.
    assert norm * (1 - 1e-9) <= values[0] < 0.9 * product(graph, Ball(torch.ones(6), 1e-6))


def test_one_hidden_layer_in_a_small_ball_is_its_jacobian() -> None:
    graph = network((6, 10, 4), 2)
    jacobian = torch.func.jacrev(graph)(torch.ones(6, dtype=torch.float64))
    norm = float(torch.linalg.matrix_norm(jacobian, 2))
    assert float(bound(graph, Ball(torch.ones(6), 1e-6)).value) == pytest.approx(norm, rel=1e-9)


def test_greedy_is_an_estimate_and_may_be_below_the_constant(shared_data: Path) -> None:
    data = np.load(shared_data / "reference" / "seqlip" / "greedy_counterexample.npz")
    weights, biases = ([torch.from_numpy(data[f"{name}{k}"]) for k in (1, 2)] for name in "Wb")
    graph = from_layers(weights, biases, activation="relu")
    truth = 2.2206325338
    jacobian = torch.func.jacrev(graph)(torch.from_numpy(data["x"]))
    assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(truth, rel=1e-9)
    estimate = bound(graph, pairs="greedy")
    assert estimate.status is Status.ESTIMATE
    assert not estimate.status.certified
    assert float(estimate.value) == pytest.approx(float(data["greedy"]), rel=1e-9)
    assert lipschitz(graph, WholeSpace(), SeqLip("greedy"), search=None).status is Status.ESTIMATE
    for pairs in ("dual", "exact"):
        found = bound(graph, pairs=pairs)
        assert found.status is Status.CERTIFIED
        assert truth <= float(found.value) <= 1.0001 * truth


@pytest.mark.slow
def test_time_limit_leaves_a_certified_bound() -> None:
    graph = network((6, 8, 8, 4), 4)
    for pairs in ("dual", "exact"):
        found = bound(graph, pairs=pairs, budget=Budget(seconds=0))
        assert found.status is Status.TIME_LIMIT
        assert joint(weights_of(network((6, 8, 8, 4), 4))) <= float(found.value) <= product(graph) * (1 + 1e-9)


def test_little_memory_leaves_the_product_of_norms() -> None:
    graph = network((6, 8, 8, 4), 4)
    found = bound(graph, budget=Budget(memory=1000))
    assert found.status.certified
    assert not found.details
    assert float(found.value) == pytest.approx(product(graph), rel=1e-12)


def test_options_and_norms_are_checked() -> None:
    graph = network((2, 3, 2), 0)
    (domain,), _ = WholeSpace().domains(graph)
    with pytest.raises(InvalidOptionError, match="not 'fast'"):
        SeqLip("fast")  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match="l_2 to l_2"):
        SeqLip().constant(Query(graph, domain, Budget(), (math.inf, math.inf)))


def reference_pairs(data: np.lib.npyio.NpzFile) -> list[Pair]:
    """The pairs of a stored network: all layers split but the first and the last."""
    count = sum(name.startswith("W") for name in data)
    layers = [Layer(((Dense(torch.from_numpy(data[f"W{k + 1}"]).double()),),)) for k in range(count)]
    slopes = (float(data["slope_lo"]), float(data["slope_hi"]))
    found = []
    for k, (first, second) in enumerate(itertools.pairwise(layers)):
        left = second.as_left if k == count - 2 else second.split[1]
        right = first.split[0] if k else first.as_right
        low, high = (torch.full((left.matrix.shape[1],), slope, dtype=torch.float64) for slope in slopes)
        found.append(Pair(left.matrix, right.matrix, low, high))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layers", range(2, 10))
def test_stored_pairs_of_twelve_neurons(layers: int, shared_data: Path) -> None:
    data = np.load(shared_data / "reference" / "seqlip" / f"toy_w12_{layers}layer_relu.npz")
    for k, pair in enumerate(reference_pairs(data)):
        exact, stored = float(data["pair_brute"][k]), float(data["pair_dual"][k])
        dual = dual_bound(pair).upper
        assert exact * (1 - 1e-12) <= dual <= 1.04 * exact
        assert dual == pytest.approx(stored, rel=1e-4)
        assert enumerated(pair) == pytest.approx(exact, rel=1e-9)
        assert attained(pair, greedy(pair)) == pytest.approx(float(data["pair_greedy"][k]), rel=1e-9)
        assert product_bound(pair) == pytest.approx(float(data["pair_product"][k]), rel=1e-9)
        if layers < 5:
            assert exact_bound(pair, enumerate_up_to=0).upper == pytest.approx(exact, rel=1e-9)


REFERENCE = {
    "2layer_leaky_20": 18.0855,
    "3layer_leaky_20": 56.284,
    "5layer_leaky_20": 231.817,
    "7layer_leaky_20": 955.311,
}


@pytest.mark.parametrize("name", REFERENCE)
def test_values_of_trained_networks(name: str, shared_data: Path) -> None:
    """The stored values split all layers; covers with whole layers may be tighter, never looser."""
    graph = from_onnx(shared_data / "nets" / f"mnist_{name}.onnx").with_rows(None)
    value = float(bound(graph).value)
    assert value <= REFERENCE[name] * (1 + 5e-5)
    if name.startswith(("2", "3")):
        assert value == pytest.approx(REFERENCE[name], rel=1e-4)


@pytest.mark.parametrize("exponent", (-400, -170, -30, 30, 150, 400))
@pytest.mark.parametrize("pairs", ("dual", "exact"))
def test_weights_of_any_size_break_no_search(exponent: int, pairs: str) -> None:
    """Layers whose norms or squares of norms leave the range of floats; the constant itself may or may not."""
    generator = Generator().manual_seed(exponent)
    for k in range(4):
        exponents = torch.randint(-abs(exponent), abs(exponent) + 1, (3,), generator=generator).tolist()
        exponents[k % 3] = exponent
        shapes = ((4, 3), (4, 4), (2, 4))
        weights = [
            torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0**scale
            for shape, scale in zip(shapes, exponents, strict=True)
        ]
        found = lipschitz(from_layers(weights, activation="relu"), WholeSpace(), SeqLip(pairs), search=None)  # type: ignore[arg-type]
        product = math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights)
        assert found.status.certified == (float(found.upper) < math.inf)
        if 1e-250 < product < 1e250:
            assert product * 1e-3 < float(found.upper) <= product * (1 + 1e-9)


def test_a_search_that_breaks_down_leaves_the_product_of_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*arguments: object) -> None:
        raise torch.linalg.LinAlgError("eigenvalues did not converge")

    monkeypatch.setattr("jacobound.constants.pairs.seqlip.dual_bound", breaks)
    monkeypatch.setattr("jacobound.constants.pairs.seqlip.rough_value", breaks)
    generator = Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 3), (4, 4), (2, 4))]
    graph = from_layers(weights, activation="relu")
    found = lipschitz(graph, WholeSpace(), SeqLip(), search=None)
    product = math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights)
    assert found.status is Status.INCOMPLETE and found.status.certified
    assert product <= float(found.upper) <= product * (1 + 1e-6)
