"""Many sets at once: the same as one by one, whatever else is in the batch, and within the memory that was given."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo
from jacobound import (
    CROWN,
    IBP,
    Ball,
    Box,
    Budget,
    FastLin,
    FastLip,
    Graph,
    LinearSlopes,
    RecurJac,
    SinglePrecision,
    Status,
    UnsafeArithmeticError,
    bound_jacobian,
    bound_output,
    from_layers,
    lipschitz,
)
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import strict
from jacobound.graph.nodes import Affine, Elementwise, Input
from jacobound.inputs.domains import Domain, Owners
from jacobound.jacobian.core import unstable_counts
from jacobound.jacobian.recursion.groups import grouped, put_back
from jacobound.jacobian.tangents import Neurons
from jacobound.method import JacobianMethod, OutputMethod, Query, derivative_ranges
from jacobound.operators.kinds import Identity
from single import nth, together

OUTPUT_METHODS = (IBP(), FastLin(), CROWN(), SinglePrecision())
JACOBIAN_METHODS = (
    FastLip(),
    RecurJac("constant"),
    RecurJac(),
    RecurJac(direction="forward"),
    RecurJac(direction="forward-shifted"),
    RecurJac(direction="both"),
    LinearSlopes(),
)
# The lines of other activations come from a search, which stops where more steps would gain next to nothing.
NOT_SEARCHED = {"identity", "relu", "leaky_relu", "prelu", "tanh", "sigmoid", "arctan"}


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def layered(widths: tuple[int, ...], seed: int, activation: str = "relu") -> Graph:
    draw = generator(seed)
    weights = [zoo.normal((b, a), draw, 1.3 / math.sqrt(a)) for a, b in itertools.pairwise(widths)]
    return from_layers(weights, [zoo.normal((b,), draw, 0.3) for b in widths[1:]], activation)


def mixed_boxes(shape: tuple[int, ...], draw: Generator) -> list[Box]:
    """A point, a small, a large, a half-infinite and an unbounded box: none to all neurons unstable."""
    centre = torch.randn(shape, generator=draw, dtype=torch.float64)
    boxes = [Box(centre - r, centre + r) for r in (0.0, 1e-3, 0.05, 1.0)]
    inf = torch.full(shape, math.inf, dtype=torch.float64)
    return [*boxes, Box(centre - 0.1, inf), Box(-inf, inf)]


def assert_same(many: Tensor, alone: Tensor, tolerance: float, what: object) -> None:
    scale = alone[torch.isfinite(alone)].abs().amax() if bool(torch.isfinite(alone).any()) else 1.0
    gap = torch.where(many == alone, 0.0, (many - alone).abs())
    assert bool((gap <= tolerance * (float(scale) + 1e-3)).all()), (what, float(gap.max()))


def tolerance_of(graph: Graph) -> float:
    names = {node.activation.name.partition(":")[0] for node in graph.nodes if isinstance(node, Elementwise)}
    return 1e-9 if names <= NOT_SEARCHED else 1e-4


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("method", OUTPUT_METHODS + JACOBIAN_METHODS, ids=repr)
@pytest.mark.parametrize("kind", zoo.KINDS)
def test_a_batch_of_mixed_boxes_is_bounded_as_one_by_one(
    kind: str, method: OutputMethod | JacobianMethod, seed: int
) -> None:
    graph = zoo.KINDS[kind](generator(seed)).with_rows(None)
    boxes = [box.domains(graph)[0][:] for box in mixed_boxes(graph.in_shape, generator(seed + 50))]
    domain, tolerance = together(boxes), tolerance_of(graph)
    with torch.no_grad(), strict(graph.device, graph.dtype):
        if isinstance(method, JacobianMethod):
            check_enclosures(graph, method, domain, boxes, tolerance)
        elif not isinstance(method, SinglePrecision) or tolerance == 1e-9:
            loose = 1e-5 if isinstance(method, SinglePrecision) else tolerance
            found = method.ranges(graph, domain, Budget())
            for k, box in enumerate(boxes):
                for node, alone in method.ranges(graph, box, Budget()).items():
                    assert_same(found[node].lower[k], alone.lower[0], loose, (method, node.name, k))
                    assert_same(found[node].upper[k], alone.upper[0], loose, (method, node.name, k))


def check_enclosures(
    graph: Graph, method: JacobianMethod, domain: Domain, sets: list[Domain], tolerance: float
) -> None:
    found = method.enclose(Query(graph, domain, Budget()))
    directions = torch.randn(found.entries.shape, generator=generator(9), dtype=torch.float64)
    along = found.along(directions)
    across = None if found.across is None else found.across(directions)
    for k, one in enumerate(sets):
        alone = method.enclose(Query(graph, one, Budget()))
        pairs = [(found.entries[k], alone.entries[0]), (along[k], alone.along(directions[k : k + 1])[0])]
        if across is not None and alone.across is not None:
            pairs.append((across[k], alone.across(directions[k : k + 1])[0]))
        shared = [node for node in graph.nodes if node in found.adjoints]  # products have gates of their own
        pairs += [(nth(found.adjoints[node], k), nth(alone.adjoints[node])) for node in shared]
        for many, single in pairs:
            assert_same(many.lower, single.lower, tolerance, (method, k))
            assert_same(many.upper, single.upper, tolerance, (method, k))


@pytest.mark.parametrize("ask", (bound_output, bound_jacobian, lipschitz), ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("p", (1, 2, math.inf))
@pytest.mark.parametrize("activation", ("relu", "leaky_relu:0.2", "tanh"))
def test_radii_and_points_are_answered_as_one_by_one(ask: Callable[..., Any], p: float, activation: str) -> None:
    graph, radii = layered((6, 12, 12, 12, 3), 1, activation), [0.0, 1e-4, 0.02, 0.5]
    centres = zoo.normal((3, 6), generator(2))
    methods = {bound_output: {"method": CROWN()}, bound_jacobian: {"method": RecurJac()}}
    options = {"norm": (2, 2), "method": RecurJac()} if ask is lipschitz else methods[ask]
    many = ask(graph, Ball(centres, radii, p), **options)
    for (r, radius), (k, centre) in itertools.product(enumerate(radii), enumerate(centres)):
        alone = ask(graph, Ball(centre, radius, p), **options)
        assert_same(many.lower[r, k], alone.lower, 1e-9, (radius, k))
        assert_same(many.upper[r, k], alone.upper, 1e-9, (radius, k))
        if ask is not bound_output:
            assert int(many.unstable[r, k]) == int(alone.unstable) and many.activations == alone.activations
        for name, value in alone.details.items() if ask is lipschitz else ():
            assert_same(many.details[name].value[r, k], value.value, 1e-9, name)


def test_a_network_without_activations_has_one_derivative_for_all_sets() -> None:
    weight = zoo.normal((2, 3), generator(0))
    graph, centres = from_layers([weight]), zoo.normal((4, 3), generator(1))
    for method in (FastLip(), RecurJac(), RecurJac(direction="both")):
        found = bound_jacobian(graph, Ball(centres, [0.1, 0.2]), method)
        assert found.lower.shape == (2, 4, 2, 3) and bool((found.lower <= weight).all() & (found.upper >= weight).all())
        assert found.unstable.tolist() == [[0] * 4] * 2
    assert lipschitz(graph, Ball(centres, [0.1, 0.2])).upper.shape == (2, 4)


def test_rows_pick_what_belongs_to_their_set() -> None:
    x, rows = zoo.normal((3, 5), generator(0)), zoo.normal((2, 4, 5), generator(1))
    sets = torch.tensor([0, 0, 2, 2])
    several, one = Owners.of(sets, 3), Owners.of(torch.tensor([1, 1]), 3)
    assert one.index is None and one.only == 1 and several.index is not None
    assert torch.equal(several.pick(x), x[sets]) and torch.equal(one.pick(x), x[1])
    assert torch.allclose(several.dot(rows, x), torch.einsum("srk,rk->sr", rows, x[sets]))
    assert torch.allclose(one.dot(rows, x), rows @ x[1])
    assert torch.equal(several.at(x, torch.tensor([0, 1, 2, 4])), x[sets, torch.tensor([0, 1, 2, 4])])


def test_chosen_neurons_are_padded_with_zeros() -> None:
    mask = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]]).bool()
    chosen = Neurons.of(mask)
    assert chosen.union.tolist() == [0, 1, 2, 4] and len(chosen) == 3
    assert chosen.entries(5).tolist() == [[0, 2, 5], [5, 5, 5], [1, 2, 4]]
    values = torch.arange(1.0, 13.0).reshape(3, 1, 4)
    assert chosen.pick(values).squeeze(1).tolist() == [[1, 3, 0], [0, 0, 0], [10, 11, 12]]
    assert chosen.pick(values[:1]).squeeze(1).tolist() == [[1, 3, 0], [0, 0, 0], [2, 3, 4]]
    rows = chosen.rows(torch.eye(4))
    assert rows.sum((1, 2)).tolist() == [2, 0, 3] and rows[0].argmax(1)[:2].tolist() == [0, 2]


def test_groups_hold_every_set_once_and_do_not_pad_much() -> None:
    graph = layered((4, 30, 30, 2), 0)
    counts = torch.tensor([[0, 30, 1, 29, 2, 0], [0, 30, 0, 30, 1, 1]])
    groups = grouped(graph, counts, Budget())
    assert sorted(torch.cat(groups).tolist()) == list(range(6)) and len(groups) >= 2
    assert {frozenset(group.tolist()) for group in groups} >= {frozenset((1, 3))}
    assert [group.tolist() for group in grouped(graph, counts[:, :1], Budget())] == [[0]]
    small = grouped(graph, counts, Budget(memory=1))
    assert [len(group) for group in small] == [1] * 6
    parts = [Interval.exact(10.0 * group.double().unsqueeze(1)) for group in groups]
    assert put_back(groups, parts).lower.flatten().tolist() == [0, 10, 20, 30, 40, 50]


def test_one_set_that_does_not_fit_does_not_spoil_the_others() -> None:
    """The memory is enough for the core of a few unstable neurons, not for that of all of them."""
    graph, centre = layered((4, 40, 40, 2), 3), zoo.normal((4,), generator(0))
    budget = Budget(memory=60_000)
    narrow, wide = (bound_jacobian(graph, Ball(centre, radius), budget=budget) for radius in (1e-3, 5.0))
    assert narrow.status is Status.CERTIFIED and wide.status is Status.MEMORY_LIMIT
    both = bound_jacobian(graph, Ball(centre, [1e-3, 5.0]), budget=budget)
    assert both.status is Status.MEMORY_LIMIT
    assert torch.allclose(both.lower[0], narrow.lower, rtol=1e-9) and torch.allclose(
        both.upper[1], wide.upper, rtol=1e-9
    )


def test_when_time_is_over_the_rest_is_bounded_by_intervals() -> None:
    graph, centres = layered((4, 9, 9, 2), 3), zoo.normal((5, 4), generator(0))
    found = bound_output(graph, Ball(centres, 0.1), budget=Budget(seconds=0.0))
    plain = bound_output(graph, Ball(centres, 0.1), IBP())
    assert found.status is Status.TIME_LIMIT
    assert bool((found.upper <= plain.upper + 1e-12).all()) and torch.allclose(found.upper, plain.upper)


def test_an_accelerator_that_runs_out_of_memory_gets_smaller_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, ball = layered((4, 9, 9, 2), 3), Ball(zoo.normal((13, 4), generator(0)), 0.1)
    honest, sizes = IBP.ranges, []

    def ranges(self: IBP, graph: Graph, domain: Domain, budget: Budget, **options: Any) -> Any:
        sizes.append(len(domain))
        if len(domain) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return honest(self, graph, domain, budget, **options)

    expected = bound_output(graph, ball, IBP())
    monkeypatch.setattr(IBP, "ranges", ranges)
    found = bound_output(graph, ball, IBP())
    assert torch.allclose(found.upper, expected.upper, rtol=1e-12) and sizes == [13, 6, 3, 3, 3, 3, 1]

    def never(self: IBP, graph: Graph, domain: Domain, budget: Budget, **options: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(IBP, "ranges", never)
    with pytest.raises(torch.OutOfMemoryError):
        bound_output(graph, ball, IBP())


@pytest.mark.parametrize("p", (1, 2, math.inf))
def test_sets_in_another_dtype_lose_nothing(p: float) -> None:
    graph, centres = from_layers([torch.ones(1, 3, dtype=torch.float64)]), zoo.normal((4, 3), generator(0))
    domain = Ball(centres, [0.0, 0.1], p).domains(graph)[0][:]
    moved = domain.to(torch.float32)
    assert moved.box.lower.dtype == torch.float32
    assert bool((moved.box.lower.double() <= domain.box.lower).all())
    assert bool((moved.box.upper.double() >= domain.box.upper).all())
    if domain.centre is not None and domain.radius is not None:
        assert moved.centre is not None and moved.radius is not None
        off = torch.linalg.vector_norm(moved.centre.double() - domain.centre, ord=p, dim=1)
        assert bool((moved.radius.double() >= domain.radius + off).all())


def test_single_precision_keeps_a_point_that_float32_lacks() -> None:
    """Nothing is rounded on the way through this network, so only the set itself can hold the point."""
    like = torch.zeros((), dtype=torch.float64)
    gate = Elementwise(activation("relu"), Input((2,)))
    graph = Graph(Affine(((Identity((2,), (2,), like), gate),)))
    found = bound_output(graph, Box([0.1, 0.7], [0.1, 0.7]), SinglePrecision(IBP()))
    assert float(found.lower[0]) <= 0.1 <= float(found.upper[0]) and float(found.lower[1]) <= 0.7 <= float(
        found.upper[1]
    )
    assert bool((found.upper - found.lower <= 1e-6).all())
    with pytest.raises(UnsafeArithmeticError):
        bound_output(from_layers([[[0.1]]]), Box([0.0], [1.0]), SinglePrecision())


# --- memory -----------------------------------------------------------------------------------------------------


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside hold at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        found = function(*arguments, **(named or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return found

    def _see(self, storage: Any) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._known:
            return
        self._known.add(place)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


def test_slopes_are_counted_set_by_set() -> None:
    graph = layered((4, 9, 9, 2), 3)
    domain = Ball(zoo.normal((5, 4), generator(0)), [0.0, 0.3]).domains(graph)[0][:]
    slopes = derivative_ranges(graph, CROWN().ranges(graph, domain, Budget()))
    counts = unstable_counts(graph, slopes)
    assert counts.shape == (2, 10) and counts[:, :5].sum() == 0 and int(counts[:, 5:].sum()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", (64, pytest.param(160, marks=pytest.mark.soundness)))
@pytest.mark.parametrize(
    "ask",
    (bound_output, *(pytest.param(ask, marks=pytest.mark.soundness) for ask in (bound_jacobian, lipschitz))),
    ids=lambda ask: ask.__name__,
)
def test_the_memory_is_filled_but_not_exceeded(ask: Callable[..., Any], megabytes: int) -> None:
    """Beside the weights with their absolute values; by all tensors that are alive at one time."""
    graph, allowed = layered((784, 60, 60, 60, 10), 0), megabytes << 20
    ball = Ball(zoo.normal((150, 784), generator(1)), 0.004)
    with Peak() as peak:
        options = {"method": CROWN()} if ask is bound_output else {"method": RecurJac()}
        options |= {"search": None} if ask is lipschitz else {}
        found = ask(graph, ball, budget=Budget(memory=allowed), **options)
    assert found.status is Status.CERTIFIED
    assert allowed // 8 <= peak.most <= 1.3 * allowed
