"""The three entry points: refusals, statuses, chunks, batches, reproducibility and JSON."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from torch import Generator, Tensor

import jacobound as jb
from jacobound import (
    CROWN,
    IBP,
    Ball,
    Box,
    Budget,
    FastLin,
    FastLip,
    Graph,
    InvalidModelError,
    RecurJac,
    ShapeError,
    Status,
    UnsafeArithmeticError,
    WholeSpace,
    bound_jacobian,
    bound_output,
    from_layers,
    lipschitz,
)
from jacobound.arithmetic.rounding import unrounded
from jacobound.graph.nodes import Affine, Input
from jacobound.method.candidates import worst
from jacobound.operators.kinds import Convolution, Dense, Scale
from zoo import normal

QUESTIONS = (bound_output, bound_jacobian, lipschitz)
questions = pytest.mark.parametrize("ask", QUESTIONS, ids=lambda ask: ask.__name__)
JACOBIANS = (FastLip(), RecurJac("constant"), RecurJac("chord"))


def network(seed: int = 0, activation: str = "relu", widths: tuple[int, ...] = (3, 8, 8, 2)) -> Graph:
    generator = Generator().manual_seed(seed)
    weights = [normal((b, a), generator, 1 / math.sqrt(a)) for a, b in itertools.pairwise(widths)]
    return from_layers(weights, [normal((len(w),), generator, 0.3) for w in weights], activation)


def small_ball(**options: object) -> Ball:
    return Ball(torch.tensor([0.1, 0.2, 0.3]), 0.2, **options)  # type: ignore[arg-type]


def upper(result: object) -> Tensor:
    return result.upper  # type: ignore[attr-defined]


@questions
@pytest.mark.parametrize(
    "rows",
    [
        torch.ones(3),
        torch.ones(1, 3),
        2,
        [0, -1],
        [[]],
        "0",
        True,
        [[math.nan, 1.0]],
        [[math.inf, 1.0]],
        torch.ones(1, 1, 2),
    ],
)
def test_rows_that_do_not_fit_are_refused(ask: object, rows: object) -> None:
    with pytest.raises(ShapeError):
        ask(network(), small_ball(), rows=rows)  # type: ignore[operator]


@questions
def test_points_that_do_not_fit_are_refused(ask: object) -> None:
    with pytest.raises(ShapeError):
        ask(network(), Ball([0.0, 1.0], 0.1))  # type: ignore[operator]


@pytest.mark.parametrize("norm", ((3, 2), (2, 0), (math.nan, 2), (2, -1)))
def test_norms_that_are_not_known_are_refused(norm: tuple[float, float]) -> None:
    with pytest.raises(ShapeError):
        lipschitz(network(), small_ball(), norm=norm)


def test_relaxations_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="relaxation"):
        RecurJac("tangent")  # type: ignore[arg-type]


@questions
def test_autocast_is_refused(ask: object) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(UnsafeArithmeticError, match="autocast"):
        ask(network(), small_ball())  # type: ignore[operator]


@questions
def test_reduced_precision_products_are_refused(ask: object) -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(UnsafeArithmeticError, match="precision"):
            ask(network(), small_ball())  # type: ignore[operator]
    finally:
        torch.set_float32_matmul_precision("highest")


def test_half_precision_networks_are_refused() -> None:
    with pytest.raises((InvalidModelError, UnsafeArithmeticError)):
        network().to(dtype=torch.float16)
    with pytest.raises(InvalidModelError):
        from_layers([torch.ones(1, 1, dtype=torch.float16)])


@questions
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
def test_overflow_is_never_certified(ask: object, dtype: torch.dtype) -> None:
    weight = math.sqrt(torch.finfo(dtype).max) * 0.9
    weights = [torch.full((2, 2), weight, dtype=dtype) for _ in range(3)]
    graph = from_layers(weights).to(dtype=dtype)
    found = ask(graph, Ball([1.0, 1.0], 0.5))  # type: ignore[operator]
    assert found.status is Status.OVERFLOW and not found.status.certified
    assert not bool(upper(found).isnan().any())


@pytest.mark.parametrize("method", JACOBIANS, ids=str)
def test_unbounded_regions_give_finite_slopes_where_activations_have_them(method: RecurJac) -> None:
    found = bound_jacobian(network(), WholeSpace(), method)
    assert found.status is Status.CERTIFIED and int(found.unstable) == 16 == found.activations
    outputs = bound_output(network(), WholeSpace())
    assert outputs.status is Status.OVERFLOW


@questions
def test_without_rounding_nothing_is_certified(ask: object) -> None:
    with unrounded():
        found = ask(network(), small_ball())  # type: ignore[operator]
    assert found.status is Status.NOT_RIGOROUS and not found.status.certified
    assert ask(network(), small_ball()).status is Status.CERTIFIED  # type: ignore[operator]


@pytest.mark.slow
def test_a_small_memory_gives_a_looser_bound_and_says_so() -> None:
    graph, region = network(), small_ball()
    full, poor = bound_jacobian(graph, region), bound_jacobian(graph, region, budget=Budget(memory=64))
    assert full.status is Status.CERTIFIED and poor.status is Status.MEMORY_LIMIT and poor.status.certified
    intervals = bound_jacobian(graph, region, FastLip())
    assert torch.allclose(poor.lower, intervals.lower) and torch.allclose(poor.upper, intervals.upper)
    assert bool((poor.lower <= full.lower + 1e-12).all() & (poor.upper >= full.upper - 1e-12).all())
    assert lipschitz(graph, region, RecurJac(), budget=Budget(memory=64)).status is Status.MEMORY_LIMIT


@pytest.mark.parametrize("activation", ("relu", "tanh"))
@pytest.mark.parametrize("method", (CROWN(), FastLin(), IBP()), ids=str)
def test_chunks_do_not_change_ranges(activation: str, method: CROWN) -> None:
    graph, region = network(1, activation, (5, 20, 20, 4)), Ball(torch.zeros(5), 0.3)
    whole, cut = bound_output(graph, region, method), bound_output(graph, region, method, budget=Budget(memory=2000))
    assert torch.allclose(whole.lower, cut.lower, rtol=1e-12, atol=1e-12)
    assert torch.allclose(whole.upper, cut.upper, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", JACOBIANS[1:], ids=str)
def test_chunks_do_not_change_jacobians(method: RecurJac) -> None:
    graph, region = network(1, "tanh", (40, 6, 6, 4)), Ball(torch.zeros(40), 0.3)
    calls: list[str] = []
    budget = Budget(memory=60_000, progress=lambda done, total, what: calls.append(what))
    whole, cut = bound_jacobian(graph, region, method), bound_jacobian(graph, region, method, budget=budget)
    assert cut.status is Status.CERTIFIED and calls.count("Jacobian columns") > 3
    assert torch.allclose(whole.lower, cut.lower, rtol=1e-12, atol=1e-12)
    assert torch.allclose(whole.upper, cut.upper, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@questions
def test_batches_and_radii_give_the_same_as_one_by_one(ask: object) -> None:
    graph, radii = network(2), [0.0, 0.05, 0.3]
    centres = torch.randn(2, 3, generator=Generator().manual_seed(0))
    together = ask(graph, Ball(centres, jb.Radii(radii), 2))  # type: ignore[operator]
    for r, radius in enumerate(radii):
        for k, centre in enumerate(centres):
            alone = ask(graph, Ball(centre, radius, 2))  # type: ignore[operator]
            assert torch.allclose(together.lower[r, k], alone.lower, rtol=1e-9, atol=1e-12)
            assert torch.allclose(together.upper[r, k], alone.upper, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@questions
def test_networks_do_not_influence_each_other(ask: object) -> None:
    """In either order, with other activations in between, every bit is the same."""
    first, second = network(3, "leaky_relu:0.3"), network(4, "leaky_relu:0.1")
    region = small_ball()
    forward = [upper(ask(graph, region)) for graph in (first, second)]  # type: ignore[operator]
    backward = [upper(ask(graph, region)) for graph in (second, first)]  # type: ignore[operator]
    fresh = upper(ask(network(3, "leaky_relu:0.3"), region))  # type: ignore[operator]
    assert torch.equal(forward[0], backward[1]) and torch.equal(forward[1], backward[0])
    assert torch.equal(forward[0], fresh) and not torch.equal(forward[0], forward[1])


def test_rows_select_and_combine_outputs() -> None:
    graph, region = network(5), small_ball()
    every, one = bound_jacobian(graph, region), bound_jacobian(graph, region, rows=[[0.0, 1.0]])
    assert torch.allclose(every.lower[1], one.lower[0]) and one.lower.shape == (1, 3)
    margin = bound_output(graph, region, rows=[[1.0, -1.0]])
    x = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    y = graph(x)
    assert float(margin.lower) <= float(y[0] - y[1]) <= float(margin.upper)


@questions
def test_json_is_strict_and_complete(ask: object) -> None:
    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is not JSON")

    found = ask(network(), small_ball())  # type: ignore[operator]
    read = json.loads(found.to_json(), parse_constant=refuse)
    assert read["status"]["name"] == "certified" and read["status"]["certified"] is True
    assert torch.equal(torch.tensor(read["upper"], dtype=torch.float64), found.upper)
    assert read["provenance"]["dtype"] == "torch.float64" and len(read["provenance"]["network"]) == 64
    unbounded = bound_output(network(), WholeSpace())
    read = json.loads(unbounded.to_json(indent=None), parse_constant=refuse)
    assert read["upper"] == ["inf", "inf"] and read["lower"] == ["-inf", "-inf"]
    assert read["status"]["certified"] is False


@pytest.mark.parametrize("norm", ((1, 1), (2, 2), (2, 1), (math.inf, math.inf)))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
def test_a_network_that_does_not_move_has_the_constant_zero(norm: tuple[float, float], dtype: torch.dtype) -> None:
    graph = from_layers([[[1.0], [1.0]], [[1.0, 1.0], [1.0, -1.0]]], [[-9.0, -9.0], None]).to(dtype=dtype)
    found = lipschitz(graph, Ball([0.0], 0.1, 2), norm=norm)
    assert float(found.lower) == 0.0 and 0.0 <= float(found.upper) <= 1e-30


@pytest.mark.slow
def test_the_winner_is_named_and_all_candidates_are_listed() -> None:
    found = lipschitz(network(), small_ball(p=2), norm=(2, 2))
    assert found.method in found.details and float(found.details[found.method].value) == float(found.upper)
    assert found.witness is not None and found.witness.shape == (3,)
    assert float(found.gap) == pytest.approx(float(found.upper) / float(found.lower))
    assert lipschitz(network(), small_ball(), search=None).witness is None
    assert lipschitz(network(), Box([0.0] * 3, [0.1] * 3)).radii == ()


def test_progress_may_interrupt() -> None:
    class Enough(Exception):
        pass

    def stop(done: float, total: float, what: str) -> None:
        raise Enough

    for ask in QUESTIONS:
        with pytest.raises(Enough):
            ask(network(), small_ball(), budget=Budget(progress=stop))


@questions
def test_the_arguments_are_left_as_they_were(ask: object) -> None:
    centre = torch.tensor([0.1, 0.2, 0.3])
    graph = network()
    before = graph.fingerprint
    ask(graph, Ball(centre, 0.2))  # type: ignore[operator]
    assert torch.equal(centre, torch.tensor([0.1, 0.2, 0.3])) and Graph(graph.output).fingerprint == before
    assert torch.is_grad_enabled()


def test_fingerprints_tell_networks_apart_that_hold_the_same_numbers() -> None:
    """A radius and a bias, a convolution and its adjoint, a product and its transpose."""
    numbers, kernel = torch.tensor([0.5, 0.25, 0.125]), torch.arange(9.0).reshape(1, 1, 3, 3)
    convolution = Convolution(kernel, (1, 4, 4), (1, 1), (1, 1), (1, 1))
    square = Dense(torch.arange(9.0).reshape(3, 3))
    point, image = Input((3,)), Input((1, 4, 4))
    outputs = [
        Affine(((Scale(numbers, numbers), point),), None, "scale"),
        Affine(((Scale(numbers), point),), numbers, "scale"),
        Affine(((square, point),), None, "dense"),
        Affine(((square.transpose(), point),), None, "dense"),
        Affine(((convolution, image),), None, "convolution"),
        Affine(((convolution.transpose(), image),), None, "convolution"),
    ]
    assert len({Graph(output).fingerprint for output in outputs}) == len(outputs)


@pytest.mark.parametrize("method", [jb.AutoLip(), jb.LipSDP()], ids=["AutoLip", "LipSDP"])
def test_lipschitz_methods_answer_for_every_set_and_say_what_they_are(method: jb.AutoLip | jb.LipSDP) -> None:
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 3), (6, 6), (2, 6))]
    graph = jb.from_layers(weights, activation="tanh")
    centres = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    region = jb.Ball(centres, jb.Radii([0.01, 0.3, 3.0]), 2)
    found = jb.lipschitz(graph, region, method, rows=[[1.0, -1.0]])
    assert found.upper.shape == (3, 2) and found.status is jb.Status.CERTIFIED
    assert found.method == type(method).__name__ and list(found.details) == [found.method]
    assert (found.lower <= found.upper).all() and (found.upper[0] <= found.upper[2] * (1 + 1e-2)).all()
    for k, radius in enumerate(region.radii):
        alone = jb.lipschitz(graph, jb.Ball(centres[1], radius, 2), method, rows=[[1.0, -1.0]], search=None)
        assert torch.allclose(alone.upper, found.upper[k, 1], rtol=1e-2)
    if isinstance(method, jb.LipSDP):
        assert (found.upper <= jb.lipschitz(graph, region, jb.AutoLip(), rows=[[1.0, -1.0]]).upper * 1.001).all()


def test_a_status_that_certifies_nothing_wins() -> None:
    estimates = [jb.Status.CERTIFIED, jb.Status.TIME_LIMIT, jb.Status.ESTIMATE]
    assert worst(estimates) is jb.Status.ESTIMATE
    assert worst(estimates[:2]) is jb.Status.TIME_LIMIT and worst([]) is jb.Status.CERTIFIED


def test_greedy_is_never_certified_also_through_lipschitz() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (2, 5))]
    graph = jb.from_layers(weights, activation="relu")
    greedy = jb.lipschitz(graph, jb.WholeSpace(), jb.SeqLip("greedy"), search=None)
    certified = jb.lipschitz(graph, jb.WholeSpace(), jb.SeqLip())
    assert greedy.status is jb.Status.ESTIMATE and not greedy.status.certified
    assert certified.status is jb.Status.CERTIFIED and certified.lower <= certified.upper


@pytest.mark.slow
@questions
def test_rows_are_outputs_by_index_or_combinations(ask: object) -> None:
    """Whole numbers are outputs, other lists one combination, matrices several."""
    graph, region = network(), Ball([0.1, 0.2, 0.3], 0.2)
    same = (
        (1, [[0.0, 1.0]]), ([1], [[0.0, 1.0]]), (range(2), torch.eye(2)), ([1, 0], [[0.0, 1.0], [1.0, 0.0]]),
        ([1.0, -1.0], [[1.0, -1.0]]), (torch.tensor(1), [[0.0, 1.0]]), ([[1, -1]], [[1.0, -1.0]]),
    )  # fmt: skip
    for given, meant in same:
        one, other = (ask(graph, region, rows=rows) for rows in (given, meant))  # type: ignore[operator]
        assert torch.equal(one.upper, other.upper)


@questions
def test_mistakes_of_usage_work_or_say_the_cure(ask: object) -> None:
    graph, region = network(), Ball([0.1, 0.2, 0.3], 0.2)
    module = torch.nn.Linear(3, 2)
    for wrong, error, cure in (
        ((module, region), jb.InvalidModelError, "from_torch"),
        (("net.onnx", region), jb.InvalidModelError, "from_onnx"),
        ((graph, torch.zeros(3)), jb.InvalidRegionError, "Ball"), ((graph, Ball), jb.InvalidRegionError, "Ball"),
        ((graph, region, "recurjac"), jb.InvalidOptionError, r"it takes"),
        ((graph, region, jb.Budget), jb.InvalidOptionError, r"it takes"),
    ):  # fmt: skip
        with pytest.raises(error, match=cure):
            ask(*wrong)  # type: ignore[operator]
    assert ask(graph, region, budget=30).status.certified  # type: ignore[operator]
    for limit in ("30", True, -1, math.nan):
        with pytest.raises(jb.InvalidOptionError, match="seconds"):
            ask(graph, region, budget=limit)  # type: ignore[operator]


def test_a_class_stands_for_its_default_instance_and_one_norm_for_both() -> None:
    graph, region = network(), Ball([0.1, 0.2, 0.3], 0.2)
    one, other = (lipschitz(graph, region, method) for method in (jb.RecurJac, jb.RecurJac()))
    assert torch.equal(one.upper, other.upper) and one.provenance.method == other.provenance.method
    one, other = (lipschitz(graph, region, jb.FastLip(), norm=norm) for norm in ("inf", (math.inf, math.inf)))
    assert torch.equal(one.upper, other.upper) and one.norm == other.norm == (math.inf, math.inf)
    for wrong in (3, "l2", (2,), (2, 3), True, None, jb.Weighted(2, [1.0])):
        with pytest.raises(jb.ShapeError, match="norm"):
            lipschitz(graph, region, norm=wrong)  # type: ignore[arg-type]
