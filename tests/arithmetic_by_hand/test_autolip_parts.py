"""Products of norms in parts: products and sums are rounded up, parts join as they must, and who overlaps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from flint import fmpq
from torch import Tensor

from exact import rational
from jacobound import AutoLip, Budget, Graph, WholeSpace
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.constants import autolip
from jacobound.constants.affine_folding import (
    MOST_CHAINS,
    Folding,
    direct_parts,
    groups_of,
    rows_alone,
    touched_entries,
)
from jacobound.constants.autolip import Sweeps
from jacobound.constants.enclosures import Enclosures
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Part, Vector
from jacobound.graph.vector.comparisons import Maximum
from jacobound.method import Query
from jacobound.method.candidates import LITTLE_PART, conversion
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Dense, Identity, Scale, Select
from jacobound.operators.norms import LITTLE_WORK, MOST_WORK, PRODUCTS, Chain
from small_cases import vector
from zoo import concatenation

INF = math.inf
UNIT = fmpq(1, 2**53)
EXPONENTS = (1.0, 2.0, INF)


LIKE = vector(0.0)[0]


def times(weight: float, source: Node) -> Affine:
    return Affine(((Dense(vector(weight).reshape(1, 1)), source),))


def steep(slope: float, source: Node) -> Elementwise:
    return Elementwise(activation(f"leaky_relu:{slope!r}"), source)


def constant(graph: Graph, p: float) -> fmpq:
    (domain,), _ = WholeSpace().domains(graph.lowered())
    return rational(float(AutoLip().constant(Query(graph, domain, Budget(), (p, p))).value))


@pytest.fixture
def plain_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms of single numbers that miss nothing, so that only what is done with them rounds."""

    def size(operator: LinearOperator) -> Tensor:
        return operator.abs().apply(operator.example().new_ones(operator.in_shape)).amax()

    def of_chains(chains: tuple[Chain, ...], p: float, most_work: int = 0) -> Tensor:
        return torch.stack([torch.stack([size(operator) for operator in chain]).prod() for chain in chains]).sum()

    def of_rows(operator: LinearOperator, p: float, kept: Tensor | None, most_work: int = 0) -> Tensor:
        return of_chains(((operator,),), p)

    monkeypatch.setattr(autolip, "linear_norm", of_chains)
    monkeypatch.setattr(autolip, "operator_norm", of_rows)


def drawn(count: int) -> list[list[float]]:
    generator = torch.Generator().manual_seed(1)
    return (0.5 + torch.rand(16, count, generator=generator, dtype=torch.float64)).tolist()


@pytest.mark.usefixtures("plain_norms")
@pytest.mark.parametrize("p", EXPONENTS)
def test_products_along_a_chain_are_rounded_up(p: float) -> None:
    for a, b, c, s in drawn(4):
        s += 1.0
        one = constant(Graph(times(b, steep(s, times(a, Input((1,)))))), p)
        exact = rational(a) * rational(b) * rational(s)
        assert exact <= one <= exact * (1 + 20 * UNIT)
        two = constant(Graph(times(c, steep(s, times(b, steep(s, times(a, Input((1,)))))))), p)
        exact *= rational(c) * rational(s)
        assert exact <= two <= exact * (1 + 30 * UNIT)
        assert rational(s) <= constant(Graph(steep(s, Input((1,)))), p) <= rational(s) * (1 + 8 * UNIT)
        assert rational(a) <= constant(Graph(times(a, Input((1,)))), p) <= rational(a) * (1 + 8 * UNIT)


@pytest.mark.usefixtures("plain_norms")
@pytest.mark.parametrize("p", EXPONENTS)
def test_sums_of_branches_are_rounded_up(p: float) -> None:
    for a, b, c, s in drawn(4):
        x = Input((1,))
        branches = [steep(1.0 + s, times(weight, x)) for weight in (a, b, c)]
        graph = Graph(Affine(tuple((Identity((1,), (1,), LIKE), branch) for branch in branches)))
        exact = rational(1.0 + s) * sum(map(rational, (a, b, c)), fmpq(0))
        assert exact <= constant(graph, p) <= exact * (1 + 30 * UNIT)


@pytest.mark.usefixtures("plain_norms")
@pytest.mark.parametrize("p", EXPONENTS)
def test_concatenations_join_as_the_norm_does_and_round_up(p: float) -> None:
    for a, b, c, s in drawn(4):
        x = Input((1,))
        graph = Graph(concatenation([steep(1.0 + s, times(weight, x)) for weight in (a, b, c)]))
        parts, slope = [rational(weight) for weight in (a, b, c)], rational(1.0 + s)
        found = constant(graph, p) / slope
        if p == 2:
            square = sum((part * part for part in parts), fmpq(0))
            assert square <= found**2 <= square * (1 + 150 * UNIT)
        else:
            exact = max(parts) if p == INF else sum(parts, fmpq(0))
            assert exact <= found <= exact * (1 + 30 * UNIT)


@pytest.mark.usefixtures("plain_norms")
@pytest.mark.parametrize("p", EXPONENTS)
def test_readers_of_different_entries_join_as_the_dual_norm_does(p: float) -> None:
    for a, b, c, s in drawn(4):
        x = Input((3,))
        parts = [Affine(((Select(torch.tensor([k]), (3,), LIKE), x),)) for k in range(3)]
        branches = [times(weight, steep(1.0 + s, part)) for weight, part in zip((a, b, c), parts, strict=True)]
        graph = Graph(Affine(tuple((Identity((1,), (1,), LIKE), branch) for branch in branches)))
        sizes, slope = [rational(weight) for weight in (a, b, c)], rational(1.0 + s)
        found = constant(graph, p) / slope
        if p == 2:
            square = sum((size * size for size in sizes), fmpq(0))
            assert square <= found**2 <= square * (1 + 150 * UNIT)
        else:
            exact = max(sizes) if p == 1 else sum(sizes, fmpq(0))
            assert exact <= found <= exact * (1 + 30 * UNIT)


@pytest.mark.usefixtures("plain_norms")
@pytest.mark.parametrize("p", EXPONENTS)
def test_functions_of_vectors_count_with_their_constant(p: float) -> None:
    """The maximum of two numbers of which one is taken twice: the constant of that many candidates, rounded up."""
    windows = torch.tensor([[0, 1], [0, 2]])
    for a, b, c, s in drawn(4):
        before = [steep(1.0 + s, times(weight, Input((1,)))) for weight in (a,)]
        split = concatenation([before[0], before[0], before[0]])
        function = Maximum(windows, (3,))
        graph = Graph(times(c, Affine(((Select(torch.tensor([0]), (2,), LIKE), Vector(function, split)),))))
        found = constant(graph, p)
        most = rational(a) * rational(1.0 + s) * rational(c) * 6
        exact = rational(a) * rational(1.0 + s) * rational(c)
        assert exact <= found <= most and b > 0


def sweeps(graph: Graph, p: float, budget: Budget | None = None) -> Sweeps:
    (domain,), _ = WholeSpace().domains(graph.lowered())
    known = Enclosures.of(Query(graph, domain, budget or Budget()), None)
    return Sweeps(graph, known, p, budget or Budget())


def test_lengths_of_numbers() -> None:
    found = sweeps(Graph(times(1.0, Input((1,)))), 2.0)
    for numbers in drawn(3):
        parts = [1e160 * x for x in numbers]
        square = sum((rational(x) ** 2 for x in parts), fmpq(0))
        length = rational(float(found._length([vector(x)[0] for x in parts])))
        assert square <= length**2 <= square * (1 + 100 * UNIT)
        total = rational(float(found._added(vector(x)[0] for x in numbers)))
        exact = sum(map(rational, numbers), fmpq(0))
        assert exact <= total <= exact * (1 + 12 * UNIT)
    for numbers, length in (((0.0, 0.0), 0.0), ((INF, 1.0), INF), ((7.0,), 7.0)):
        assert float(found._length([vector(x)[0] for x in numbers])) == length


def test_work_of_norms_follows_the_time_that_is_left() -> None:
    """A cheap certificate first; a dear one where half of the time that is left allows it, in steps of an eighth."""
    graph, asked = Graph(times(1.0, Input((1,)))), []

    def found(budget: Budget) -> list[int]:
        asked.clear()
        sweeps(graph, 2.0, budget)._certified(lambda work: asked.append(work) or torch.ones(()))
        return list(asked)

    assert found(Budget()) == [LITTLE_WORK, MOST_WORK]
    assert found(Budget(seconds=0.0)) == [LITTLE_WORK]
    budget = Budget(seconds=10.0)
    work = found(budget)[-1]
    step = 1 << (work.bit_length() - 4)
    assert work <= 5 * PRODUCTS and work + step > budget.remaining / 2 * PRODUCTS and work % step == 0
    hurried = found(Budget(seconds=1e-3).started_now())
    assert hurried == [int(LITTLE_PART * 1e-3 * PRODUCTS)]


@pytest.mark.parametrize("norm", [(p, q) for p in EXPONENTS for q in EXPONENTS])
@pytest.mark.parametrize("known", EXPONENTS)
def test_conversion_factors_are_those_between_norms(norm: tuple[float, float], known: float) -> None:
    """``||x||_a <= n^(1/a - 1/b) ||x||_b`` for a <= b; 1 exactly where nothing is lost."""
    graph = Graph(Affine(((Dense(torch.ones(5, 3, dtype=torch.float64)), Input((3,))),)))
    p, q = norm
    before = max(0.0, 1 / known - 1 / p)  # ||x||_known <= 3^before ||x||_p
    after = max(0.0, 1 / q - 1 / known)
    square = 3 ** round(2 * before) * 5 ** round(2 * after)
    found = conversion(graph, (known, known), norm)
    assert square <= rational(found) ** 2 <= square * (1 + fmpq(1, 10**13))
    assert square > 1 or found == 1.0


def test_masks_that_overlap_are_grouped() -> None:
    masks = [torch.tensor([bool(int(digit)) for digit in text]) for text in ("1000", "0100", "0010", "1100", "0001")]
    assert sorted(sorted(group) for group in groups_of(masks)) == [[0, 1, 3], [2], [4]]
    assert sorted(sorted(group) for group in groups_of(masks[:3])) == [[0], [1], [2]]
    chain = [torch.tensor([bool(int(digit)) for digit in text]) for text in ("1100", "0011", "0110")]
    for order in ((0, 1, 2), (0, 2, 1), (2, 0, 1)):
        assert [sorted(group) for group in groups_of([chain[k] for k in order])] == [[0, 1, 2]]
    assert groups_of([]) == []


def test_entries_that_chains_reach_in_both_directions() -> None:
    weight = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    tiny = Scale(torch.full((3,), 1e-300, dtype=torch.float64))
    one: Chain = (tiny, tiny, Dense(weight))
    assert touched_entries((one,)).tolist() == [True, False]
    assert touched_entries((one,), backward=True).tolist() == [True, True, False]
    other: Chain = (Dense(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)),)
    assert touched_entries((one, other)).tolist() == [True, True]
    assert touched_entries((one, other), backward=True).tolist() == [True, True, True]
    assert touched_entries((other,), backward=True).tolist() == [False, False, True]


def test_rows_that_are_needed_alone() -> None:
    """Of a matrix and a choice of its rows only the rows behind the entries that are kept are left, each once."""
    weight = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    select = Select(torch.tensor([3, 1, -1, 0]), (4,), LIKE)
    chain: Chain = (Dense(weight), select)
    kept = torch.tensor([True, True, True, False])
    found = rows_alone((chain,), kept)
    assert found is not None and len(found) == 1 and len(found[0]) == 1
    assert isinstance(found[0][0], Dense) and torch.equal(found[0][0].weight, weight[[1, 3]])
    scaled: Chain = (Scale(torch.ones(3, dtype=torch.float64)), *chain)
    longer = rows_alone((scaled,), kept)
    assert longer is not None and longer[0][0] is scaled[0] and len(longer[0]) == 2
    assert rows_alone((chain,), torch.tensor([False, False, True, False])) == ()
    assert rows_alone(((Dense(weight),),), kept) is None
    assert rows_alone(((select,),), kept) is None
    twice: Chain = (Dense(weight), Select(torch.tensor([3, 3, 1, 0]), (4,), LIKE))
    assert rows_alone((twice,), kept) is None
    assert rows_alone((twice,), torch.tensor([True, False, True, True])) is not None


def test_folding_joins_adjacent_layers_and_keeps_nodes_with_many_paths() -> None:
    x = Input((2,))
    eye: Callable[[], Identity] = lambda: Identity((2,), (2,), LIKE)  # noqa: E731
    node: Node = x
    for _ in range(4):  # 2, 4, 8 and 16 paths
        node = Affine(((eye(), node), (eye(), node)))
    graph = Graph(node)
    view = Folding(graph)
    affine = [one for one in graph.nodes if isinstance(one, Affine)]
    assert [len(view.parts[one][x]) if x in view.parts[one] else 0 for one in affine] == [2, 4, MOST_CHAINS, 16]
    assert view.targets == {affine[3]}
    last = Graph(Affine(((eye(), node), (eye(), node))))
    view = Folding(last)
    assert dict(view.parts[last.output]) == direct_parts(last.output)  # type: ignore[index, arg-type]
    assert view.targets == {affine[3], last.output}
    hidden = steep(2.0, affine[0])
    assert Folding(Graph(Affine(((eye(), hidden), (eye(), x))))).targets >= {affine[0]}


def test_other_pairs_of_norms_take_the_best_of_three() -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    graph = Graph(Affine(((Dense(weight), Input((5,))),)))
    (domain,), _ = WholeSpace().domains(graph)
    for p in EXPONENTS:
        for q in EXPONENTS:
            of = [float(torch.linalg.matrix_norm(weight, r)) * conversion(graph, (r, r), (p, q)) for r in EXPONENTS]
            expected = of[EXPONENTS.index(p)] if p == q else min(of)
            found = AutoLip().constant(Query(graph, domain, Budget(), (p, q)))
            assert float(found.value) == pytest.approx(expected, rel=1e-9)


def test_neurons_count_by_the_size_of_their_slopes() -> None:
    """Slopes in [-2, 0] pass something on; those that are zero hide their neuron, where a layer stands before them."""
    x = Input((2,))
    behind = steep(2.0, Affine(((Dense(torch.diag(vector(3.0, 5.0))), x),)))
    found = sweeps(Graph(behind), 2.0)
    for ends, expected in (((vector(-2.0, 0.0), vector(0.0, 0.0)), 6.0), ((vector(0.0, -2.0), vector(0.0, 0.0)), 10.0)):
        found._slopes = {behind: Interval(*ends)}
        found._steepest[behind] = found._largest(found._slopes[behind])
        assert float(found._forward(behind)) == pytest.approx(expected, rel=1e-9)
    first = steep(2.0, x)
    found = sweeps(Graph(first), 2.0)
    found._slopes = {first: Interval(vector(-2.0, 0.0), vector(0.0, 0.0))}
    assert float(found._forward(first)) == pytest.approx(2.0, rel=1e-9)
    assert float(found._largest(Interval(vector(), vector()))) == 0.0


def test_functions_of_parts_are_multiplied_and_added_upward() -> None:
    """The constant of all of the source, or the sum over its parts, whichever is smaller."""
    node = Vector(Maximum(torch.tensor([[0, 1]]), (2,)), steep(1.5, Input((2,))))
    found = sweeps(Graph(node), 2.0)
    for constant_of, forward, one, other in drawn(4):
        found.forward[node.source] = vector(forward)[0]
        every = torch.ones(2, dtype=torch.bool)
        for parts in ((), tuple(Part(entries=every, constant=vector(0.4 * part)[0]) for part in (one, other))):
            found._vectors = {node: autolip._Changes(vector(constant_of)[0], parts)}
            sizes = [constant_of, sum((rational(0.4 * part) for part in (one, other)), fmpq(0))]
            exact = rational(forward) * (min(rational(sizes[0]), sizes[1]) if parts else rational(sizes[0]))
            value = rational(float(found._of_vector(node)))
            assert exact <= value <= exact * (1 + 16 * UNIT)


def test_parts_of_packed_layers_count_with_their_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    root = steep(3.0, Input((3,)))
    node = Affine(((Select(torch.tensor([2, 0, 3]), (4,), LIKE), Affine(((Dense(weight), root),))),))
    kept = torch.tensor([True, True, False])
    found = sweeps(Graph(node), 2.0)
    expected = 3 * float(torch.linalg.matrix_norm(weight[[0, 2]], 2))
    assert float(found._of_entries(node, kept)) == pytest.approx(expected, rel=1e-9)
    assert expected < 0.99 * 3 * float(torch.linalg.matrix_norm(weight, 2))
    assert float(found._of_entries(root, kept)) == float(found.forward[root])
    late = sweeps(Graph(node), 2.0, Budget(seconds=0.0))
    assert float(late._of_entries(node, kept)) > 1.01 * expected
    for size, forward, *_ in drawn(2):
        monkeypatch.setattr(autolip, "linear_norm", lambda *rest, size=size: vector(1e-3 * size)[0])
        found.forward[root] = vector(forward)[0]
        exact = rational(1e-3 * size) * rational(forward)
        assert exact <= rational(float(found._of_entries(node, kept))) <= exact * (1 + 12 * UNIT)


def test_a_map_that_cancels_is_folded_to_zero() -> None:
    x = Input((2,))
    eye = torch.eye(2, dtype=torch.float64)
    graph = Graph(Affine(((Dense(eye), x), (Dense(-eye), Affine(((Dense(eye), x),))))))
    found = sweeps(graph, 2.0)
    assert float(found.forward[graph.output]) < 1e-5 and float(found.value) < 1e-5


@pytest.mark.parametrize("folded", [False, True])
def test_forward_and_backward_meet_where_all_paths_do(folded: bool) -> None:
    """Branches side by side join forwards, readers of different entries backwards; neither form does both."""
    a, b, c, d = 2.0, 3.0, 5.0, 7.0
    x = Input((1,))
    middle = steep(1.5, concatenation([steep(1.5, times(weight, x)) for weight in (a, b)]))
    halves = [steep(1.5, Affine(((Select(torch.tensor([k]), (2,), LIKE), middle),))) for k in range(2)]
    last = Affine(tuple((Dense(vector(w).reshape(1, 1)), half) for w, half in zip((c, d), halves, strict=True)))
    if folded:
        same = Affine(((Identity((1,), (1,), LIKE), last),))
        last = Affine(((Identity((1,), (1,), LIKE), last), (Scale(vector(-0.5)), same)))
    expected = 1.5**3 * math.hypot(a, b) * math.hypot(c, d) * (0.5 if folded else 1.0)
    assert float(constant(Graph(last), 2.0)) == pytest.approx(expected, rel=1e-9)


def test_functions_of_vectors_count_backwards_with_their_constant() -> None:
    node = Vector(Maximum(torch.tensor([[0, 1]]), (2,)), steep(1.5, Input((2,))))
    found = sweeps(Graph(node), 2.0)
    for constant_of, slope in drawn(2):
        found._vectors = {node: autolip._Changes(vector(constant_of)[0], ())}
        found._steepest = {node.source: vector(slope)[0]}
        exact = rational(constant_of) * rational(slope)
        value = rational(float(found._backward({})[found._graph.input]))
        assert exact <= value <= exact * (1 + 16 * UNIT)
