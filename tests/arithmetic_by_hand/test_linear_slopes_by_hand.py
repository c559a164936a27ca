"""`LinearSlopes` step by step: what it is given, what it leaves out, what it says of memory and time."""

from __future__ import annotations

import pytest
import torch

import jacobound as jb
from jacobound import Budget, FastLip, Graph, LinearSlopes, Status
from jacobound.activations import activation
from jacobound.activations.kinds.base import Lines
from jacobound.activations.lines.slope_lines import STEPS
from jacobound.arithmetic.intervals import Interval
from jacobound.constants.executed import executed
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.domains import Domain
from jacobound.jacobian.affine import linear_slopes
from jacobound.jacobian.affine.forms import Symbols
from jacobound.jacobian.affine.linear_slopes import Sweeps, forms_bytes, smooth
from jacobound.method import Query, derivative_ranges
from jacobound.operators.kinds import Dense
from zoo import normal


def network(name: str = "tanh") -> Graph:
    """Three inputs, five neurons, two outputs."""
    generator = torch.Generator().manual_seed(1)
    return jb.from_layers([normal((5, 3), generator), normal((2, 5), generator)], activation=name).with_rows(None)


def boxes(sets: int, radius: float = 0.1) -> Domain:
    middle = torch.linspace(-0.5, 0.5, 3 * sets).double().reshape(sets, 3)
    return Domain(Interval(middle - radius, middle + radius))


def plain(graph: Graph, domain: Domain, ranges: object = None, slopes: object = None) -> Interval:
    return FastLip().enclose(Query(graph, domain, Budget(), ranges=ranges, slopes=slopes)).entries  # type: ignore[arg-type]


def same(one: Interval, other: Interval) -> bool:
    return torch.equal(one.lower, other.lower) and torch.equal(one.upper, other.upper)


def test_memory_is_counted_in_numbers() -> None:
    """Symbols of three inputs and three for each of n neurons; two forms of five neurons are kept, four are at work."""
    graph = network()
    hidden = next(node for node in graph.nodes if isinstance(node, Elementwise))

    def numbers(neurons: int) -> int:
        return 8 * ((3 + 3 * neurons) * (2 * 5 + 4 * 5 * (1 + 2)) + 8 * STEPS * 5)

    low = torch.tensor([[0.0, 1.0, 0.5, 1.0, 1.0], [1.0, 1.0, 0.5, 1.0, 1.0]]).double()
    slopes: dict[Node, Interval] = {hidden: Interval(low, torch.ones_like(low))}
    assert forms_bytes(graph, slopes) == numbers(2)
    assert LinearSlopes().bytes_per_set(graph) == FastLip().bytes_per_set(graph) + numbers(5)


@pytest.mark.parametrize(("sets", "status"), [(1, Status.CERTIFIED), (2, Status.MEMORY_LIMIT)])
def test_the_forms_of_all_sets_must_fit_the_memory(sets: int, status: Status) -> None:
    graph, domain = network(), boxes(sets)
    ranges = jb.CROWN().ranges(graph, domain, Budget())
    budget = Budget(memory=forms_bytes(graph, derivative_ranges(graph, ranges)) * 3 // 2)
    found = LinearSlopes().enclose(Query(graph, domain, budget, ranges=ranges))
    assert found.status is status and found.entries.shape == (sets, 2, 3)
    assert same(found.entries, plain(graph, domain, ranges)) == (status is Status.MEMORY_LIMIT)


def test_progress_goes_forward_and_back() -> None:
    graph, domain = network(), boxes(1)
    ranges = jb.CROWN().ranges(graph, domain, Budget())
    calls: list[tuple[float, float, str]] = []
    LinearSlopes().enclose(Query(graph, domain, Budget(progress=lambda *call: calls.append(call)), ranges=ranges))
    assert calls == [(k, 8, "linear slopes") for k in range(8)]


@pytest.mark.parametrize("moment", range(8))
def test_a_sweep_that_is_cut_short_is_fast_lip(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, domain = network(), boxes(2)
    ranges = jb.CROWN().ranges(graph, domain, Budget())
    now = [0.0]
    monkeypatch.setattr("jacobound.budget.monotonic", lambda: now[0])

    def tick(done: float, total: float, what: str) -> None:
        now[0] = 100.0 if done >= moment else 0.0

    found = LinearSlopes().enclose(Query(graph, domain, Budget(50.0, progress=tick, started=0.0), ranges=ranges))
    assert found.status is Status.TIME_LIMIT and same(found.entries, plain(graph, domain, ranges))
    late = LinearSlopes().enclose(Query(graph, domain, Budget(50.0, started=-1000.0), ranges=ranges))
    assert late.status is Status.TIME_LIMIT


def test_slopes_that_are_no_derivatives_are_intervals() -> None:
    graph, domain = network(), boxes(1)
    ranges = jb.CROWN().ranges(graph, domain, Budget())
    wide = {node: Interval(one.lower - 1, one.upper + 1) for node, one in derivative_ranges(graph, ranges).items()}
    found = LinearSlopes().enclose(Query(graph, domain, Budget(), ranges=ranges, slopes=wide))
    assert same(found.entries, plain(graph, domain, ranges, wide)) and found.status is Status.CERTIFIED


def test_an_execution_has_no_linear_slopes() -> None:
    graph = jb.from_layers([torch.tensor([[1.0, 0.5, -0.25]]), torch.ones(2, 1)], activation="tanh").with_rows(None)
    run = executed(graph, jb.Executed())
    assert same(LinearSlopes().enclose(Query(run, boxes(1), Budget())).entries, plain(run, boxes(1)))


def test_smooth_networks_have_a_curved_piece() -> None:
    assert smooth(network("tanh")) and not smooth(network("relu")) and not smooth(jb.from_layers([torch.ones(1, 1)]))
    mixed = Elementwise(activation("relu"), Elementwise(activation("tanh"), Input((2,))))
    assert smooth(Graph(mixed))


def one_neuron() -> tuple[Graph, Node]:
    z = Affine(((Dense(torch.tensor([[1.0, 1.0]]).double()), Input((2,))),))
    return Graph(Affine(((Dense(torch.ones(1, 1).double()), Elementwise(activation("tanh"), z)),))), z


def test_ranges_and_forms_know_different_things() -> None:
    """The argument of the only neuron: as a form it is exact, and known ranges may be narrower or wider."""
    graph, z = one_neuron()
    x = torch.zeros(1, 2).double()
    domain = Domain(Interval(x - 0.5, x + 0.5))
    ranges = dict(jb.CROWN().ranges(graph, domain, Budget()))
    symbols = Symbols.of(domain)

    def width(low: float, high: float) -> float:
        known = {**ranges, z: Interval(*(torch.tensor([[end]]).double() for end in (low, high)))}
        slopes = derivative_ranges(graph, ranges)
        jacobian = Sweeps(graph, symbols, slopes, known, Budget()).jacobian()
        assert jacobian is not None
        return float(symbols.range(jacobian).width.max())

    usual = width(-1.0, 1.0)
    assert width(-1.5, 1.5) <= usual * (1 + 1e-9) and width(-0.1, 0.1) <= 0.2 * usual


def test_entries_and_directions_are_never_wider_than_intervals() -> None:
    """On a large region linear slopes are worse; what intervals say is kept."""
    graph = network()
    for radius in (0.01, 3.0, 30.0):
        domain = boxes(2, radius)
        ranges = jb.CROWN().ranges(graph, domain, Budget())
        found, intervals = (
            LinearSlopes().enclose(Query(graph, domain, Budget(), ranges=ranges)),
            plain(graph, domain, ranges),
        )
        assert bool((found.entries.lower >= intervals.lower).all() & (found.entries.upper <= intervals.upper).all())
        u = normal((2, 2, 3), torch.Generator().manual_seed(2))
        sums = found.along(u)
        most = (u.abs() * found.entries.magnitude()).sum(2) * (1 + 1e-12)
        assert bool((sums.upper <= most).all() & (sums.lower >= -most).all())
        alone = torch.zeros(2, 2, 3).double()
        alone[:, 0, 1], alone[:, 1, 2] = 1.0, -1.0
        single = found.along(alone)
        assert bool((single.upper[:, 0] <= found.entries.upper[:, 0, 1] * (1 + 1e-12) + 1e-12).all())
        assert bool((single.upper[:, 1] <= -found.entries.lower[:, 1, 2] * (1 + 1e-12) + 1e-12).all())
        narrow = jb.FastLip().enclose(Query(graph, domain, Budget(), ranges=ranges)).along(u)
        if radius == 0.01:
            assert bool((sums.width < narrow.width).all())


def test_known_slopes_are_constants_and_others_have_their_lines() -> None:
    numbers = (torch.tensor([[k + 1.0, k + 2.0, k + 3.0]]).double() for k in (0, 10, 20, 30))
    lines = Lines(*numbers)
    slope = Interval(*torch.tensor([[[0.0, 0.5, 0.25]], [[0.0, 0.5, 0.75]]]).double())
    lines = Lines(lines.upper_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset)
    found = linear_slopes._known_or(slope, lines)
    assert found.upper_slope.tolist() == found.lower_slope.tolist() == [[0.0, 0.0, 23.0]]
    assert found.lower_offset.tolist() == [[0.0, 0.5, 13.0]] and found.upper_offset.tolist() == [[0.0, 0.5, 33.0]]
    square = Lines(*(torch.full((2, 3, 4), float(k)) for k in range(4)))
    flat = linear_slopes._flat(square)
    ends = (flat.lower_slope, flat.lower_offset, flat.upper_slope, flat.upper_offset)
    assert [float(end[0, 0]) for end in ends] == [0, 1, 2, 3] and all(end.shape == (2, 12) for end in ends)


def test_values_that_nobody_needs_are_let_go() -> None:
    """Forms of values are kept until the last reader has seen them, and no longer."""
    graph, domain = network(), boxes(1)
    ranges = jb.CROWN().ranges(graph, domain, Budget())
    sweeps = Sweeps(graph, Symbols.of(domain), derivative_ranges(graph, ranges), ranges, Budget())
    images = []
    honest = sweeps._symbols.image
    object.__setattr__(sweeps._symbols, "image", lambda *given: images.append(given) or honest(*given))
    assert sweeps.jacobian() is not None
    assert len(images) == 1 + 2  # the values of the last layer are not needed


def test_values_that_several_nodes_read_are_kept() -> None:
    generator = torch.Generator().manual_seed(3)
    x = Input((3,))
    z = Affine(((Dense(normal((4, 3), generator)), x),))
    first = Elementwise(activation("tanh"), z)
    both = Affine(((Dense(normal((4, 4), generator)), first), (Dense(normal((4, 4), generator)), z)))
    graph = Graph(Affine(((Dense(normal((2, 4), generator)), Elementwise(activation("tanh"), both)),)))
    domain = boxes(1, 0.01)
    found = LinearSlopes().enclose(Query(graph, domain, Budget()))
    middle = domain.box.lower[0] / 2 + domain.box.upper[0] / 2
    exact = torch.autograd.functional.jacobian(lambda point: graph(point), middle)
    assert bool((found.entries.lower[0] <= exact).all() & (exact <= found.entries.upper[0]).all())
    assert float(found.entries.width.max()) < 1.0
