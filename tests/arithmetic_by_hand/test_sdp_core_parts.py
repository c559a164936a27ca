"""The core of the SDP certificates in parts: what pruning keeps, what uncertain and unbounded weights cost."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq
from torch import Generator

from exact import random_floats, rational, rationals
from jacobound import Graph
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unrounded
from jacobound.certificates.dense.forwards import sdp_core
from jacobound.certificates.dense.matrices import (
    SdpCore,
    _Backwards,
    _roundoff,
    scaled,
    sdp_bytes,
    unstable_count,
    whole_core,
)
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.jacobian.known_slopes import middle_slopes
from jacobound.operators.kinds import Dense, Scale, Select
from small_cases import vector

INF = math.inf
UNIT = fmpq(1, 2**53)


# --- the core --------------------------------------------------------------------------------------------------------


def drawn_core(generator: Generator, outputs: int, inputs: int, blocks: tuple[int, ...]) -> SdpCore:
    """Mostly zeros; some entries have a radius alone."""
    neurons = sum(blocks)
    shape = (outputs + neurons, inputs + neurons)
    matrix = torch.randn(shape, generator=generator).double() * (torch.rand(shape, generator=generator) < 0.25)
    radius = torch.rand(shape, generator=generator).double() * (torch.rand(shape, generator=generator) < 0.1)
    start = 0
    for count in blocks:
        for part in (matrix, radius):
            part[outputs + start : outputs + start + count, inputs + start :] = 0
        start += count
    return SdpCore(matrix, radius, outputs, inputs, blocks)


def test_pruning_leaves_what_lies_between_inputs_and_outputs() -> None:
    """Neuron by neuron: some path from an input leads to it, and one from it to an output."""
    generator = Generator().manual_seed(7)
    kept_some = 0
    for _ in range(60):
        core = drawn_core(generator, 2, 3, (2, 3, 1))
        present = ((core.matrix != 0) | (core.radius != 0)).tolist()
        reads = [False] * 6
        for i in range(6):
            reads[i] = any(present[2 + i][:3]) or any(present[2 + i][3 + j] and reads[j] for j in range(i))
        leads = [False] * 6
        for i in reversed(range(6)):
            leads[i] = any(present[k][3 + i] for k in range(2)) or any(
                present[2 + j][3 + i] and leads[j] for j in range(i + 1, 6)
            )
        alive = [i for i in range(6) if reads[i] and leads[i]]
        rows = [0, 1, *(2 + i for i in alive)]
        inputs = [k for k in range(3) if any(present[row][k] for row in rows)]
        columns = [*inputs, *(3 + i for i in alive)]
        found = core.pruned()
        assert torch.equal(found.matrix, core.matrix[rows][:, columns])
        assert torch.equal(found.radius, core.radius[rows][:, columns])
        counts = [sum(i in alive for i in part) for part in ((0, 1), (2, 3, 4), (5,))]
        assert found.blocks == tuple(count for count in counts if count)
        assert (found.outputs, found.inputs, found.neurons) == (2, len(inputs), len(alive))
        kept_some += 0 < len(alive) < 6
    assert kept_some > 10


def test_rows_keep_all_neurons_and_the_inputs_that_are_read() -> None:
    generator = Generator().manual_seed(8)
    for _ in range(40):
        core = drawn_core(generator, 3, 4, (2, 2))
        for row in range(3):
            found = core.rows(torch.tensor([row]))
            rows = [row, 3, 4, 5, 6]
            present = (core.matrix[rows] != 0) | (core.radius[rows] != 0)
            if not bool(present[0].any()):
                assert (found.inputs, found.neurons, found.outputs, found.blocks) == (0, 0, 1, ())
                assert found.matrix.shape == found.radius.shape == (1, 0)
                continue
            inputs = [k for k in range(4) if bool(present[:, k].any())]
            columns = [*inputs, 4, 5, 6, 7]
            assert torch.equal(found.matrix, core.matrix[rows][:, columns])
            assert torch.equal(found.radius, core.radius[rows][:, columns])
            assert (found.outputs, found.inputs, found.blocks) == (1, len(inputs), (2, 2))


def test_the_transposed_core_has_its_neurons_in_reverse_order() -> None:
    core = drawn_core(Generator().manual_seed(9), 2, 3, (2, 3, 1))
    turned = core.transposed()
    assert (turned.outputs, turned.inputs, turned.blocks) == (3, 2, (1, 3, 2))
    rows, columns = [0, 1, 2, 8, 7, 6, 5, 4, 3], [0, 1, 7, 6, 5, 4, 3, 2]
    assert torch.equal(turned.matrix, core.matrix.T[rows][:, columns])
    assert torch.equal(turned.radius, core.radius.T[rows][:, columns])


def test_a_core_is_finite_when_all_of_it_is() -> None:
    core = drawn_core(Generator().manual_seed(9), 2, 2, (1,))
    assert core.is_finite
    for name, bad in itertools.product(("matrix", "radius"), (INF, math.nan)):
        parts = {"matrix": core.matrix.clone(), "radius": core.radius.clone()}
        parts[name][0, 0] = bad
        assert not SdpCore(parts["matrix"], parts["radius"], 2, 2, (1,)).is_finite


def dense(weight: list[list[float]], *sources: Node) -> Affine:
    return Affine(tuple((Dense(torch.tensor(weight, dtype=torch.float64)), source) for source in sources))


def act(source: Node) -> Elementwise:
    return Elementwise(activation("relu"), source)


def slopes_between(lower: float, upper: float, *nodes: Node) -> dict[Node, Interval]:
    ends = {node: [vector(end).expand(node.shape).clone() for end in (lower, upper)] for node in nodes}
    return {node: Interval(*pair) for node, pair in ends.items()}


def test_bytes_of_a_core() -> None:
    """Rows of the sweep at the widest node, and squares of the core's order."""
    hidden = act(dense([[1.0, 1.0]] * 7, Input((2,))))
    graph = Graph(dense([[1.0] * 7] * 3, hidden))
    slopes = slopes_between(0.0, 1.0, hidden)
    slopes[hidden].lower[:2] = 1.0
    assert unstable_count(graph, slopes) == 5
    assert sdp_bytes(graph, slopes) == 8 * (6 * (3 + 5) * 7 + 8 * (3 + 5) ** 2)
    wide = Graph(dense([[1.0] * 7], hidden))
    assert sdp_bytes(wide, slopes) == 8 * (6 * (1 + 5) * 7 + 8 * (2 + 5) ** 2)


def test_uncertain_scales_are_paid_in_full_and_no_more() -> None:
    """Two scales f +- d one after the other: |f1| d2 + d1 |f2| + d1 d2, the last one counted once or twice."""
    x = Input((3,))
    factors, radii = (vector(0.7, -1.3, 0.9), vector(-0.4, 0.6, 1.1)), (vector(0.3, 0.2, 0.0), vector(0.1, 0.5, 0.25))
    inner = Affine(((Scale(factors[0], radii[0]), x),))
    core = whole_core(Graph(Affine(((Scale(factors[1], radii[1]), inner),))), {})
    for k in range(3):
        (f, g), (d, e) = (tuple(rational(float(part[k])) for part in pair) for pair in (factors, radii))
        exact = abs(f) * e + d * abs(g) + d * e
        assert abs(rational(float(core.matrix[k, k])) - f * g) < fmpq(1, 10**15)
        assert exact <= rational(float(core.radius[k, k])) <= (exact + d * e) * (1 + fmpq(1, 10**13))
    off = ~torch.eye(3, dtype=torch.bool)
    assert float(core.radius[off].max()) < 1e-300 and not bool(core.matrix[off].any())


def test_doubt_passes_weights_that_cancel() -> None:
    """Uncertain rows through a column (1, -1): middles cancel, doubts add."""
    split = dense([[1.0], [-1.0]], Input((1,)))
    scaled = Affine(((Scale(vector(0.5, 0.5), vector(0.1, 0.2)), split),))
    core = whole_core(Graph(dense([[1.0, 1.0]], scaled)), {})
    assert float(core.matrix[0, 0]) == 0.0
    assert 0.3 <= float(core.radius[0, 0]) <= 0.3 * (1 + 1e-13)


def test_zeros_of_the_core_are_exact_zeros() -> None:
    """Entries that no weight reaches and rows that nothing fills get no underflow; pruning relies on it."""
    x = Input((4,))
    halves = [
        Affine(((Select(torch.arange(2) + 2 * k, (4,), torch.zeros((), dtype=torch.float64)), x),)) for k in range(2)
    ]
    weights = torch.tensor([[0.1, 0.7], [0.3, 0.9]], dtype=torch.float64)
    hidden = [act(Affine(((Dense(weights), half),))) for half in halves]
    top = Affine(((Dense(torch.tensor([[0.3, 0.7], [0.0, 0.0]], dtype=torch.float64)), hidden[0]),
                  (Dense(torch.tensor([[0.0, 0.0], [0.6, 0.2]], dtype=torch.float64)), hidden[1])))  # fmt: skip
    core = _Backwards(Graph(top), slopes_between(0.0, 0.9, *hidden)).build()
    zero = torch.zeros(6, 8, dtype=torch.bool)
    zero[0, [2, 3, 6, 7]] = zero[1, [0, 1, 4, 5]] = True
    zero[2:4, 2:] = zero[4:, :2] = zero[4:, 4:] = True
    assert torch.equal(core.matrix == 0, zero) and torch.equal(core.radius[2:] == 0, zero[2:])
    assert float(core.radius[zero].max()) < 1e-300
    unread = sdp_core(Graph(dense([[0.1, 0.0, 0.7], [0.3, 0.0, 0.0]], Input((3,)))), {})
    assert unread.inputs == 2 and unread.matrix.tolist() == [[0.1, 0.7], [0.3, 0.0]]


def test_products_that_overflow_or_meet_unbounded_slopes_are_unknown() -> None:
    """An infinite radius and a middle of zero; no NaN anywhere, whatever they are multiplied by."""
    x = Input((2,))
    huge = dense([[1e200, 0.0], [0.0, 1.0]], dense([[1e200, 0.0], [0.0, 1.0]], x))
    core = _Backwards(Graph(huge), {}).build()
    assert core.matrix.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert core.radius[0, 0] == INF and float(core.radius[1, 1]) < 1e-14
    inner = act(dense([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], x))
    graph = Graph(
        dense(
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            act(dense([[0.0, 1.0, 2.0], [1e-300, 0.0, 0.0], [3.0, 0.0, 1.0]], inner)),
        )
    )
    for lower, upper in ((0.0, INF), (-INF, 1.0), (math.nan, 1.0), (0.0, 1e308)):
        slopes = slopes_between(lower, upper, *(node for node in graph.nodes if isinstance(node, Elementwise)))
        core = _Backwards(graph, slopes).build()
        assert bool(torch.isfinite(core.matrix).all()) and not bool(core.radius.isnan().any())
        assert bool((core.radius == INF).any())
        with unrounded():
            assert not bool(_Backwards(graph, slopes).build().radius.isnan().any())


@pytest.mark.parametrize("factor", [-0.7, 0.3, 3.0, 1.0, 0.0, 1e-3])
def test_scaled_rows_have_their_error_and_no_more(factor: float) -> None:
    generator = Generator().manual_seed(3)
    middle, radius = (random_floats((3, 4), torch.float64, generator, (-3, 3)) for _ in range(2))
    radius = radius.abs()
    radius[0], middle[1, :2], radius[1, :2] = 0.0, 0.0, 0.0
    factors = torch.full((4,), factor, dtype=torch.float64)
    product, doubt = scaled(middle, radius, factors)
    f = rational(factor)
    for m, r, y, d in zip(*(rationals(part) for part in (middle, radius, product, doubt)), strict=True):
        least = abs(m * f - y) + r * abs(f)
        assert least <= d <= r * abs(f) * (1 + fmpq(1, 10**14)) + abs(m * f) * 3 * UNIT + fmpq(1, 10**300)
        assert d == r * f or f not in (0, 1)
        assert d == 0 or m != 0 or r != 0


def test_products_that_vanish_keep_a_doubt() -> None:
    unknown = scaled(vector(0.5).unsqueeze(0), vector(INF).unsqueeze(0), vector(0.0))
    assert float(unknown[0]) == 0.0 and float(unknown[1]) == INF
    one, tiny = vector(1e-200).unsqueeze(0), vector(1e-200)
    product, doubt = scaled(one, torch.zeros_like(one), tiny)
    assert float(product) == 0.0 and 0.0 < float(doubt) < 1e-300
    with unrounded():
        assert float(scaled(one, torch.zeros_like(one), vector(0.3))[1]) == 0.0
        assert float(_roundoff(vector(0.3))) == 0.0
    assert 0.3 * 2.0**-53 <= float(_roundoff(vector(-0.3))) <= 0.3 * 2.0**-51
    assert float(_roundoff(vector(0.0))) == 0.0


def test_sums_of_rows_add_their_doubts() -> None:
    x = Input((2,))
    sweep = _Backwards(Graph(dense([[1.0, 1.0]], x)), {})
    first, second = vector(0.1, 0.0).unsqueeze(0), torch.stack((vector(0.7, 0.0), vector(0.2, 0.0)))
    sweep._add(x, first, vector(0.25, 0.0).unsqueeze(0))
    sweep._add(x, second, torch.stack((vector(0.5, 0.0), vector(0.125, 0.0))))
    total, radius = sweep._at[x]
    assert total.tolist() == [[0.1 + 0.7, 0.0], [0.2, 0.0]]
    assert 0.75 + 0.8 * 2.0**-53 <= float(radius[0, 0]) <= 0.75 * (1 + 1e-14)
    assert 0.125 <= float(radius[1, 0]) <= 0.125 * (1 + 1e-14)
    assert radius[:, 1].tolist() == [0.0, 0.0]
    generator = Generator().manual_seed(4)
    for one, other in torch.rand(100, 2, generator=generator, dtype=torch.float64):
        sweep = _Backwards(Graph(dense([[1.0, 1.0]], x)), {})
        for part in (one, other):
            sweep._add(x, torch.zeros(1, 2, dtype=torch.float64), part.expand(1, 2))
        assert rational(float(sweep._at[x][1][0, 0])) >= rational(float(one)) + rational(float(other))


def test_middle_slopes_of_ends_that_make_no_interval_are_unknown() -> None:
    middle, half = middle_slopes(Interval(vector(1.0, -INF, 0.25), vector(0.0, INF, 0.25)))
    assert half.tolist() == [INF, INF, 0.0] and middle.tolist() == [0.0, 0.0, 0.25]


def test_an_output_that_reads_no_input_has_an_empty_core() -> None:
    x = Input((2,))
    hidden = act(x)
    graph = Graph(dense([[0.0, 0.0]], hidden))
    assert sdp_core(graph, slopes_between(0.0, 1.0, hidden)).matrix.shape == (1, 0)
