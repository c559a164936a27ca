"""Parts of the SDP certificates on their own: error terms from both sides, thresholds, and what is left out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import at_least, random_floats, rational, rational_matrix, rationals
from jacobound.activations import activation
from jacobound.graph import Affine, Elementwise, Graph, Input, Node
from jacobound.intervals import Interval
from jacobound.methods.sdp_barrier import Barrier, Weights
from jacobound.methods.sdp_certificate import (
    LARGEST,
    SMALLEST,
    _doubt,
    _floor,
    _scaled_form,
    certified_constant,
    certify,
    dominant,
    is_feasible,
)
from jacobound.methods.sdp_core import (
    SdpCore,
    _Backwards,
    _roundoff,
    _scaled,
    middle_slopes,
    sdp_bytes,
    sdp_core,
    unstable_count,
)
from jacobound.operator_kinds import Dense, Scale, Select
from jacobound.rounding import unrounded

INF = math.inf
UNIT = fmpq(1, 2**53)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def small_core(matrix: list[list[float]], radius: list[list[float]], outputs: int = 1, inputs: int = 1) -> SdpCore:
    one, other = (torch.tensor(part, dtype=torch.float64) for part in (matrix, radius))
    return SdpCore(one, other, outputs, inputs, (len(one) - outputs,) if len(one) > outputs else ())


def absolute(x: Tensor) -> fmpq_mat:
    return rational_matrix(x.abs())


def row_sums(x: fmpq_mat) -> list[fmpq]:
    return [sum((x[i, j] for j in range(x.ncols())), fmpq(0)) for i in range(x.nrows())]


# --- the certificate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3), (5, 3), (3, 40)])
def test_the_error_of_the_form_is_that_of_its_sums(shape: tuple[int, int]) -> None:
    """Two products and a root (3 units) on either side, and one sum: more is counted, but not much more."""
    middle = torch.randn(shape, generator=Generator().manual_seed(1), dtype=torch.float64)
    form, error = _scaled_form(middle, torch.ones(shape[0], dtype=torch.float64))
    sizes = row_sums(absolute(middle) * absolute(middle).transpose())
    for found, size in zip(error.tolist(), sizes, strict=True):
        assert at_least(found, (shape[1] + 10) * UNIT * size)
        assert rational(found) <= (shape[1] + 24) * UNIT * size * fmpq(1001, 1000)
    assert float((form - (torch.eye(shape[0]) - middle @ middle.T)).tril().abs().max()) < 1e-13


def test_forms_are_made_in_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    middle = torch.randn(7, 3, generator=Generator().manual_seed(1), dtype=torch.float64)
    whole, _ = _scaled_form(middle, torch.ones(7, dtype=torch.float64))
    monkeypatch.setattr("jacobound.methods.sdp_certificate.ROWS", 3)
    striped, _ = _scaled_form(middle, torch.ones(7, dtype=torch.float64))
    assert float((whole - striped).tril().abs().max()) < 1e-13


def test_the_floor_covers_what_vanishes_in_products() -> None:
    """An entry times two scales may lose half of the smallest number times 1e50; only zero where nothing is claimed."""
    middle = torch.zeros(3, 4, dtype=torch.float64)
    assert 1e-270 < _floor(middle) < 1e-199
    assert bool((_scaled_form(middle, torch.ones(3, dtype=torch.float64))[1] == _floor(middle)).all())
    with unrounded():
        assert _floor(middle) == 0.0


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 5)])
@pytest.mark.parametrize("size", [1e-9, 0.3, 5.0])
def test_what_the_radius_can_change(shape: tuple[int, int], size: float) -> None:
    generator = Generator().manual_seed(2)
    middle = torch.randn(shape, generator=generator, dtype=torch.float64)
    radius = size * torch.rand(shape, generator=generator, dtype=torch.float64)
    c, r = absolute(middle), absolute(radius)
    least = row_sums(c * r.transpose() + r * c.transpose() + r * r.transpose())
    most = row_sums(c * r.transpose() + r * c.transpose() + 2 * r * r.transpose())
    for found, low, high in zip(_doubt(middle, radius).tolist(), least, most, strict=True):
        assert at_least(found, low)
        assert rational(found) <= high * (1 + fmpq(1, 10**13))


@pytest.mark.parametrize(
    ("entry", "radius", "inner"), [(1.0, 0.5, 4.0), (-1.5, 0.25, 0.01), (3.0, 0.0, 7.0), (0.0, 2.0, 3.0)]
)
def test_the_proof_begins_where_the_form_becomes_definite(entry: float, radius: float, inner: float) -> None:
    """One entry b of radius r: ``own > (|b| + r)^2 inner``, with r^2 counted twice."""
    core = small_core([[entry]], [[radius]])
    least = (abs(entry) + radius) ** 2 * inner
    enough = least + radius * radius * inner
    none = torch.zeros(0, dtype=torch.float64)
    assert not is_feasible(core, Weights(none, vector(inner), vector(least * (1 - 1e-12))))
    assert is_feasible(core, Weights(none, vector(inner), vector(enough * (1 + 1e-12))))


def test_multipliers_at_the_limits_are_used_and_those_beyond_are_not() -> None:
    none = torch.zeros(0, dtype=torch.float64)
    for limit, beyond in ((LARGEST, math.nextafter(LARGEST, INF)), (SMALLEST, math.nextafter(SMALLEST, 0.0))):
        core = small_core([[0.5]], [[0.0]])
        assert is_feasible(core, Weights(none, vector(limit), vector(limit)))
        assert not is_feasible(core, Weights(none, vector(limit), vector(beyond)))
        assert not is_feasible(core, Weights(none, vector(beyond), vector(limit)))


@pytest.mark.parametrize("norm", [(p, q) for p in (1.0, 2.0, INF) for q in (1.0, 2.0, INF)])
def test_constants_of_multipliers_are_rounded_up_and_no_more(norm: tuple[float, float]) -> None:
    """Against the formula as a rational, with numbers whose sums and quotients all round."""
    generator = Generator().manual_seed(3)
    for _ in range(20):
        weights = Weights(*(torch.rand(size, generator=generator).double() + 0.1 for size in (0, 3, 2)))
        core = SdpCore(torch.full((2, 3), 1e-3, dtype=torch.float64), torch.zeros(2, 3).double(), 2, 3, ())
        inverse, leaving = [1 / x for x in rationals(weights.inputs)], rationals(weights.outputs)
        square = (sum(inverse, fmpq(0)) if norm[0] == INF else max(inverse)) * (
            sum(leaving, fmpq(0)) if norm[1] == 1 else max(leaving)
        )
        found = rational(certified_constant(core, weights, norm))
        assert square <= found**2 <= square * (1 + fmpq(1, 10**13))


def test_long_sums_of_multipliers_in_the_worst_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of n numbers that lose n - 1 roundings, which the model allows."""
    count, exactly = 300, Tensor.sum
    ones = torch.ones(count, dtype=torch.float64)
    core = SdpCore(torch.full((1, count), 1e-9, dtype=torch.float64), torch.zeros(1, count).double(), 1, count, ())
    wide = SdpCore(core.matrix.T.contiguous(), core.radius.T.contiguous(), count, 1, ())
    none = torch.zeros(0, dtype=torch.float64)
    monkeypatch.setattr(Tensor, "sum", lambda x, *rest: exactly(x, *rest) * (1 - (x.shape[0] - 1) * 2.0**-53))
    entering = certified_constant(core, Weights(none, ones, vector(1.0)), (INF, 2.0))
    leaving = certified_constant(wide, Weights(none, vector(1.0), ones), (2.0, 1.0))
    assert rational(entering) ** 2 >= count and rational(leaving) ** 2 >= count


def test_a_core_without_inputs_or_outputs_has_no_constant() -> None:
    for inputs, outputs in ((0, 2), (2, 0), (0, 0)):
        core = SdpCore(*(torch.zeros(outputs, inputs, dtype=torch.float64) for _ in range(2)), outputs, inputs, ())
        ones = [torch.ones(size, dtype=torch.float64) for size in (0, inputs, outputs)]
        for norm in ((2.0, 2.0), (INF, 1.0)):
            assert certified_constant(core, Weights(*ones), norm) == 0.0


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("free", [False, True])
def test_dominant_weights_are_those_of_row_sums(outputs: int, free: bool) -> None:
    """With one layer of neurons by hand, and for any margin above 1 the form is diagonally dominant."""
    generator = Generator().manual_seed(5)
    matrix = torch.randn(outputs + 3, 5, generator=generator, dtype=torch.float64)
    matrix[outputs:, 2:] = 0
    core = SdpCore(matrix, 0.1 * matrix.abs(), outputs, 2, (3,))
    found = dominant(Barrier(core, False, free), 1.5)
    size = 1.1 * matrix.abs()
    sums = size.sum(0)
    neurons = 1.5 * size[outputs:, :2] @ sums[:2]
    leaving = 1.5 * size[:outputs] @ torch.cat((sums[:2], neurons * sums[2:]))
    assert torch.allclose(found.neurons, neurons, rtol=1e-12)
    assert torch.allclose(found.outputs, leaving if free else leaving.max().expand(outputs), rtol=1e-12)


def test_of_candidates_that_prove_something_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    core = small_core([[1.0]], [[0.0]])
    none = torch.zeros(0, dtype=torch.float64)
    tried = [Weights(none, vector(1.0), vector(size)) for size in (0.5, 4.0, 2.0)]
    monkeypatch.setattr("jacobound.methods.sdp_certificate._candidates", lambda *rest: iter(tried))
    found = certify(Barrier(core, False, False), None, None, (2.0, 2.0))
    assert found.weights is tried[1] and found.value == pytest.approx(2.0, rel=1e-14)


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
    core = sdp_core(Graph(Affine(((Scale(factors[1], radii[1]), inner),))), {})
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
    core = sdp_core(Graph(dense([[1.0, 1.0]], scaled)), {})
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
    product, doubt = _scaled(middle, radius, factors)
    f = rational(factor)
    for m, r, y, d in zip(*(rationals(part) for part in (middle, radius, product, doubt)), strict=True):
        least = abs(m * f - y) + r * abs(f)
        assert least <= d <= r * abs(f) * (1 + fmpq(1, 10**14)) + abs(m * f) * 3 * UNIT + fmpq(1, 10**300)
        assert d == r * f or f not in (0, 1)
        assert d == 0 or m != 0 or r != 0


def test_products_that_vanish_keep_a_doubt() -> None:
    one, tiny = vector(1e-200).unsqueeze(0), vector(1e-200)
    product, doubt = _scaled(one, torch.zeros_like(one), tiny)
    assert float(product) == 0.0 and 0.0 < float(doubt) < 1e-300
    with unrounded():
        assert float(_scaled(one, torch.zeros_like(one), vector(0.3))[1]) == 0.0
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
