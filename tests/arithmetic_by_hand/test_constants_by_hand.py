"""Constants from given enclosures: every number is known, so that each choice and each rounding counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import random_floats, rational, rationals
from jacobound import Graph
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.arithmetic.rounding import unrounded
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.method import JacobianEnclosure
from jacobound.method.from_entries import (
    from_entries,
    merged_column_sums,
    merged_row_sums,
    norms_before,
    split_products,
)
from jacobound.operators.kinds import Dense

INF = math.inf
ENDS = ([[-0.5, 2.0, -4.0], [-3.0, 0.0, 0.0]], [[1.0, 3.0, -1.0], [1.0, 5.0, 0.0]])
CHORDS = [[1 / 3, 1.0, -1.0], [-0.5, 1.0, 1.0]]
SIGNS = [[0.0, 1.0, -1.0], [0.0, 1.0, 1.0]]


class Sums:
    """Ranges that are given for sums with weights; the weights that were asked for are kept."""

    def __init__(self, *upper: Sequence[float]) -> None:
        self.upper, self.asked = list(upper), list[Tensor]()

    def __call__(self, weights: Tensor) -> Interval:
        self.asked.append(weights)
        upper = torch.tensor([self.upper[len(self.asked) - 1]], dtype=torch.float64)
        return Interval(torch.full_like(upper, -INF), upper)


def tensor(numbers: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def knowing(along: Sums, across: Sums | None = None, ends: tuple = ENDS, **more: object) -> JacobianEnclosure:
    return JacobianEnclosure(Interval(*map(tensor, ends)), along, {}, {}, {}, across=across, **more)  # type: ignore[arg-type]


def near(found: Tensor, expected: Sequence[float]) -> bool:
    wanted = torch.tensor([expected], dtype=torch.float64)
    return found.shape == wanted.shape and bool((found >= wanted * (1 - 1e-15)).all()) and torch.allclose(
        found, wanted, rtol=1e-13, atol=1e-300
    )  # fmt: skip


def test_sums_are_asked_for_with_signs_and_with_chords() -> None:
    along = Sums([INF, INF], [INF, INF])
    assert near(merged_row_sums(knowing(along)), [8.0, 8.0])  # nothing but the entries is known then
    assert torch.equal(along.asked[0], tensor(SIGNS)) and torch.allclose(along.asked[1], tensor(CHORDS))


def test_signs_count_uncertain_entries_in_full() -> None:
    assert near(merged_row_sums(knowing(Sums([1.0, 2.0], [INF, INF]))), [1 + 1, 2 + 3])


def test_chords_count_their_distance_at_the_ends() -> None:
    """|x| - x / 3 is 2/3 at -1/2 and at 1; |x| + x / 2 is 3/2 at -3 and at 1."""
    assert near(merged_row_sums(knowing(Sums([INF, INF], [1.0, 2.0]))), [1 + 2 / 3, 2 + 3 / 2])


def test_entries_without_bound_have_the_chord_zero() -> None:
    along = Sums([1.0], [1.0])
    found = merged_row_sums(knowing(along, ends=([[-INF, -1.0]], [[1.0, INF]])))
    assert float(found) == INF and torch.equal(along.asked[1], torch.zeros(1, 1, 2).double())


def test_gradients_are_finite_where_entries_are_known() -> None:
    ends = torch.tensor([[[1.0, 0.0, -2.0]]]).double().requires_grad_()
    with unrounded():
        merged_row_sums(
            JacobianEnclosure(Interval(ends, ends), lambda u: interval_dot(u, Interval(ends, ends)), {}, {}, {})
        ).sum().backward()
    assert ends.grad is not None and bool(torch.isfinite(ends.grad).all())


@pytest.mark.parametrize("which", [0, 1])
def test_the_sum_of_two_parts_is_rounded_up(which: int) -> None:
    """1 and 2^-54: the nearest float is 1."""
    sums = Sums(*([1.0] if k == which else [INF] for k in range(2)))
    wide = 1e300 if which == 0 else 2.0**-54  # by the entries the chord, or the plain sum, is worse
    ends = ([[-(2.0**-54), -1.0]], [[2.0**-54, wide]])
    if which == 0:
        ends = ([[1.0, -(2.0**-54)]], [[1.0, 2.0**-54]])
    found = float(merged_row_sums(knowing(sums, ends=ends)))
    assert rational(found) >= 1 + fmpq(1, 2**54) and found <= 2.0


def test_columns_are_merged_where_several_outputs_share_them() -> None:
    plain = merged_column_sums(knowing(Sums()))
    assert near(plain, [4.0, 8.0, 4.0])
    across = Sums([0.5, INF, INF], [INF, 7.5, INF])
    assert near(merged_column_sums(knowing(Sums(), across)), [4.0, 7.5, 4.0])
    assert torch.equal(across.asked[0], tensor(SIGNS)) and torch.allclose(across.asked[1], tensor(CHORDS))
    one_output = knowing(Sums(), Sums(), ends=([[-1.0, 2.0]], [[3.0, 4.0]]))
    assert near(merged_column_sums(one_output), [3.0, 4.0])


def test_what_is_known_of_rows_is_used() -> None:
    asked = []

    def rows(p: float) -> Tensor:
        asked.append(p)
        return torch.tensor([[0.5, 100.0]]).double()

    known = knowing(Sums([INF, INF], [INF, INF]), rows=rows)
    assert near(merged_row_sums(known), [0.5, 8.0]) and asked == [INF]


ROWS = {2.0: [[0.5, 0.25], [3.0, 4.0]], INF: [[100.0, 100.0], [100.0, 100.0]]}


@pytest.mark.parametrize(("q", "expected"), [(1, [0.75, 7.0]), (2, [math.hypot(0.5, 0.25), 5.0]), (INF, [0.5, 4.0])])
def test_euclidean_norms_of_rows_give_constants_from_l2(q: float, expected: list[float]) -> None:
    """Two sets, whose entries alone would say far more."""
    ends = torch.full((2, 2, 3), 50.0).double()
    entries = Interval(-ends, ends)
    known = JacobianEnclosure(entries, Sums(), {}, {}, {}, rows=lambda p: torch.tensor(ROWS[p]).double())
    found = from_entries(known, 2, q)
    assert near(found[None], expected)
    bare = from_entries(JacobianEnclosure(entries, Sums(), {}, {}, {}), 2, q)
    assert bool((bare > 80).all())
    loose = JacobianEnclosure(entries, Sums(), {}, {}, {}, rows=lambda p: torch.full((2, 2), 1e9).double())
    assert torch.equal(from_entries(loose, 2, q), bare)

    def rows(p: float) -> Tensor:
        return torch.tensor(ROWS[2.0 if p == INF else INF]).double()

    merged = JacobianEnclosure(entries, lambda u: Interval.whole(u[..., 0]), {}, {}, {}, rows=rows)
    assert near(from_entries(merged, INF, q)[None], expected)


@pytest.mark.parametrize(("q", "expected"), [(1, 1 + 2 / 3 + 3.5), (2, math.hypot(1 + 2 / 3, 3.5)), (INF, 3.5)])
def test_merged_rows_give_constants_from_l_inf(q: float, expected: float) -> None:
    known = knowing(Sums([INF, INF], [1.0, 2.0]))
    assert near(from_entries(known, INF, q)[None], [expected])


@pytest.mark.parametrize(("p", "expected"), [(1, 7.5), (2, math.sqrt(4**2 + 7.5**2 + 4**2))])
def test_merged_columns_give_constants_to_l1(p: float, expected: float) -> None:
    """The largest column sum from l1; from l2 the Euclidean norm of all column sums, where that is less."""
    known = knowing(Sums(), Sums([INF] * 3, [INF, 7.5, INF]))
    plain = from_entries(knowing(Sums()), p, 1)
    found = from_entries(known, p, 1)
    assert near(found[None], [min(expected, float(plain))])
    ends = torch.stack([torch.full((2, 3), end).double() for end in (1.0, 3.0)])
    sums = Interval.exact(torch.zeros(2, 3).double())
    both = JacobianEnclosure(Interval(-ends, ends), Sums(), {}, {}, {}, across=lambda u: sums)
    assert near(from_entries(both, p, 1)[None], [2.0, 6.0] if p == 1 else [math.sqrt(12), math.sqrt(108)])
    zero = knowing(Sums(), Sums([0.0] * 3, [0.0] * 3), ends=([[-1.0] * 3] * 2, [[1.0] * 3] * 2))
    assert near(from_entries(zero, p, 1)[None], [2.0 if p == 1 else math.sqrt(12)])


# --- products of norms ---------------------------------------------------------------------------------------------


def skipping(weights: Tensor, names: tuple[str, str] = ("first", "second")) -> Graph:
    """w3 act(w1 act(w0 x) + w2 act(w0 x)), one number each."""
    a, b, c, d = (Dense(one.reshape(1, 1)) for one in weights)
    first = Elementwise(activation("relu"), Affine(((a, Input((1,))),)), name=names[0])
    second = Elementwise(activation("relu"), Affine(((b, first), (c, first))), name=names[1])
    return Graph(Affine(((d, second),)))


def activations(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if isinstance(node, Elementwise)]


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_products_and_sums_of_norms_hold_to_the_last_digit(p: float) -> None:
    generator = Generator().manual_seed(1)
    for _ in range(12):
        weights = random_floats((4,), torch.float64, generator, (-3, 3))
        ends = random_floats((2, 2), torch.float64, generator, (-3, 3)).sort(0).values
        graph = skipping(weights)
        slopes = {node: Interval(*ends[:, k].reshape(2, 1, 1)) for k, node in enumerate(activations(graph))}
        found = norms_before(graph, slopes, p)
        a, b, c, d = map(abs, rationals(weights))
        s, t = (max(map(abs, rationals(end))) for end in ends.T)
        z, h, y, g, out = graph.nodes[1:]
        exact = {z: a, h: a * s, y: (b + c) * a * s, g: (b + c) * a * s * t, out: d * (b + c) * a * s * t}
        room = 1 if p != 2 else 1 + fmpq(1, 10**6)
        for node, value in exact.items():
            assert value <= rational(float(found[node])) <= value * room * (1 + fmpq(1, 10**14))
        behind = {h: d * (b + c) * t, g: d}
        upper = {node: torch.tensor([[[float(value)]]]).double() for node, value in behind.items()}
        adjoints = {node: Interval(-end, end / 2) for node, end in upper.items()}
        enclosure = JacobianEnclosure(adjoints[g], Sums(), adjoints, slopes, {})
        split = split_products(graph, enclosure, p, INF)
        for node in (h, g):
            value = rational(float(upper[node])) * rational(float(found[node]))
            named = rational(float(split[f"derivative behind {node.name}, product of norms before"]))
            assert value <= named <= value * (1 + fmpq(1, 10**13))
        assert ("product of norms" in split) == (p == INF)


def test_of_places_with_one_name_the_smaller_product_counts() -> None:
    graph = skipping(torch.ones(4).double(), ("same", "same"))
    first, second = activations(graph)
    one = torch.ones(1, 1, 1).double()
    slopes = {node: Interval.exact(one[0]) for node in (first, second)}
    for sizes in ((5.0, 1.0), (1.0, 5.0)):  # before them 1 and 2
        adjoints = {node: Interval.exact(size * one) for node, size in zip((first, second), sizes, strict=True)}
        split = split_products(graph, JacobianEnclosure(Interval.exact(one), Sums(), adjoints, slopes, {}), INF, 1)
        assert near(split["derivative behind same, product of norms before"][None], [min(sizes[0], 2 * sizes[1])])


def test_only_rows_that_are_passed_on_count_and_the_steepest_slope() -> None:
    """Rows 3, 100 and 7 before slopes -1/2, 0 and [0, 1/4]; behind two readers, or at the output, all rows count."""
    x = Input((1,))
    before = Affine(((Dense(torch.tensor([[3.0], [100.0], [7.0]]).double()), x),))
    hidden = Elementwise(activation("relu"), before)
    ones = Dense(torch.ones(1, 3).double())
    graph = Graph(Affine(((ones, hidden),)))
    slope = Interval(*torch.tensor([[[-0.5, 0.0, 0.0]], [[-0.5, 0.0, 0.25]]]).double())
    found = norms_before(graph, {hidden: slope}, INF)
    assert [float(found[node]) for node in (before, hidden)] == pytest.approx([7.0, 3.5], rel=1e-14)
    below = Interval(*torch.tensor([[[0.0, -0.5, 0.0]], [[0.5, 0.0, 0.25]]]).double())
    assert float(norms_before(graph, {hidden: below}, INF)[before]) == pytest.approx(100.0, rel=1e-14)
    shared = Graph(Affine(((ones, hidden), (ones, before))))
    assert float(norms_before(shared, {hidden: slope}, INF)[before]) == pytest.approx(100.0, rel=1e-14)
    negative = Interval(*torch.tensor([[[-3.0, 0.0, 0.0]], [[0.25, 0.0, 0.0]]]).double())
    found = norms_before(graph, {hidden: negative}, INF)
    assert [float(found[node]) for node in (before, hidden)] == pytest.approx([3.0, 9.0], rel=1e-14)
    empty = Elementwise(activation("relu"), Affine(((Dense(torch.ones(0, 1).double()), x),)))
    nothing = norms_before(Graph(empty), {empty: Interval.exact(torch.zeros(1, 0).double())}, INF)
    assert 0.0 <= float(nothing[empty]) <= 1e-300
