"""Parts of SeqLip on their own: error terms from both sides, thresholds of proofs, and what is left out."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import at_least, identity, is_positive_semidefinite, rational, rational_matrix, rationals
from jacobound import ShapeError
from jacobound.arithmetic.rounding import unrounded
from jacobound.constants.pairs import dual as seqlip_pairs
from jacobound.constants.pairs import layers as seqlip_layers
from jacobound.constants.pairs.branching import enumerated
from jacobound.constants.pairs.dual import (
    LARGEST,
    SMALLEST,
    Pair,
    _Form,
    certified_dual,
    frobenius,
    product_bound,
)
from jacobound.constants.pairs.layers import Layer, _missed, balanced, stretch
from jacobound.operators.kinds import Dense, Scale
from jacobound.operators.linear_maps import LinearMap, largest_sums, mixed_norm
from small_cases import drawn, drawn_pair, number, single, vector

INF = math.inf
UNIT = fmpq(1, 2**53)
CLOSE = 1 + fmpq(1, 10**5)  # gamma itself is rounded up by 1e-6


# --- pairs ---------------------------------------------------------------------------------------------------------


def test_shapes_of_a_pair_must_fit() -> None:
    ones = torch.ones(3, dtype=torch.float64)
    good = (torch.ones(2, 3).double(), torch.ones(3, 4).double(), ones, ones)
    assert Pair(*good).neurons == 3
    for k, bad in enumerate((torch.ones(2, 4), torch.ones(4, 4), torch.ones(4), torch.ones(4))):
        with pytest.raises(ShapeError, match="does not fit"):
            Pair(*(bad.double() if k == n else part for n, part in enumerate(good)))


def test_middles_and_halves_cover_the_slopes_and_no_more() -> None:
    ulp = 2.0**-52
    ends = [(1.0, 1 + k * ulp) for k in range(6)] + [(1 + ulp, 1 + 4 * ulp), (-1e-17, 1.0), (0.0, 1.0), (-2.0, -0.5)]
    ends += [tuple(sorted(pair)) for pair in drawn(Generator().manual_seed(1), 200, 2).tolist()]
    lower, upper = torch.tensor(ends, dtype=torch.float64).T
    pair = Pair(torch.ones(1, len(ends)).double(), torch.ones(len(ends), 1).double(), lower, upper)
    for low, high, c, r in zip(*(rationals(part) for part in (lower, upper, pair.middle, pair.half)), strict=True):
        assert c - r <= low and high <= c + r
        assert r <= ((high - low) / 2 + UNIT * (abs(low) + abs(high))) * (1 + 4 * UNIT) + fmpq(1, 10**300)
        assert low != high or (c, r) == (low, 0)
    assert pair.undecided.tolist() == [k for k, (low, high) in enumerate(ends) if low != high]


def test_the_steepest_slope_is_the_largest_size_of_an_end() -> None:
    for lower, upper, most in (((-3.0, 0.0), (1.0, 2.0), 3.0), ((-1.0, 0.5), (0.0, 4.0), 4.0), ((-2.0,), (-0.5,), 2.0)):
        count = len(lower)
        pair = Pair(torch.ones(1, count).double(), torch.ones(count, 1).double(), vector(*lower), vector(*upper))
        assert float(pair.steepest) == most
    empty = torch.zeros(0, dtype=torch.float64)
    assert float(Pair(torch.ones(1, 0).double(), torch.ones(0, 1).double(), empty, empty).steepest) == 0.0


def test_pairs_are_turned_scaled_and_pruned_without_rounding() -> None:
    generator = Generator().manual_seed(2)
    for p, q in ((2, 5), (5, 2), (3, 3)):
        pair = drawn_pair(generator, p, 4, q)
        turned = pair.oriented
        assert (turned is pair) == (q <= p)
        assert turned.right.shape[1] <= turned.left.shape[0]
        for slopes in (pair.lower, pair.upper):
            one, other = turned.at(slopes), pair.at(slopes)
            assert torch.allclose(one if turned is pair else one.T, other, rtol=1e-14)
        assert torch.equal(turned.lower, pair.lower) and torch.equal(turned.upper, pair.upper)
        scaled, factor = Pair(1e90 * pair.left, 1e-30 * pair.right, pair.lower, pair.upper).scaled
        assert math.frexp(factor)[0] == 0.5
        assert 0.5 <= float(scaled.left.norm()) <= 1 and 0.5 <= float(scaled.right.norm()) <= 1
        assert torch.allclose(scaled.at(pair.upper) * factor, pair.at(pair.upper) * 1e60, rtol=1e-13)
    lower, upper = vector(0, -1, 0, 0, 1, 1), vector(0, 0, 1, 1, 1, 2)
    left, right = torch.ones(2, 6, dtype=torch.float64), torch.ones(6, 3, dtype=torch.float64)
    left[0, 1] = right[2, 0] = 0.0
    left[:, 3] = right[4] = 0.0
    found = Pair(left, right, lower, upper).pruned
    kept = [1, 2, 5]
    assert torch.equal(found.left, left[:, kept]) and torch.equal(found.right, right[kept])
    assert torch.equal(found.lower, lower[kept]) and torch.equal(found.upper, upper[kept])
    assert found.pruned is found


def test_pairs_with_ends_that_are_no_interval_bound_nothing() -> None:
    ones = torch.ones(1, 2, dtype=torch.float64)
    assert Pair(ones, ones.T, vector(1, 0), vector(1, 1)).is_finite
    for bad in (Pair(ones, ones.T, vector(0, 1), vector(1, 0)), Pair(ones * INF, ones.T, vector(0, 0), vector(1, 1)),
                Pair(ones, ones.T * vector(1, math.nan).unsqueeze(1), vector(0, 0), vector(1, 1)),
                Pair(ones, ones.T, vector(-INF, 0), vector(1, 1)),
                Pair(ones, ones.T, vector(0, 0), vector(1, INF))):  # fmt: skip
        assert not bad.is_finite
        assert product_bound(bad) == enumerated(bad) == INF
        assert certified_dual(bad, vector(1, 1), 1.0) == INF


def test_products_of_norms_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With norms that miss nothing, so that only the two products round."""
    monkeypatch.setattr(seqlip_pairs, "spectral_norm_upper", lambda matrix: matrix.abs().amax())
    for a, b, s in drawn(Generator().manual_seed(3), 100, 3).tolist():
        truth = abs(rational(a) * rational(b) * rational(s))
        found = number(product_bound(single(a, b, -abs(s), abs(s) / 2)))
        assert truth <= found <= truth * (1 + 10 * UNIT)


def test_pairs_that_pass_nothing_on_are_zero_and_others_are_not() -> None:
    some = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert 4.0 <= product_bound(Pair(some, some, vector(0, 0), vector(1, 0))) <= 4.0 * (1 + 1e-12)
    for left, right, high in ((0 * some, some, 1.0), (some, 0 * some, 1.0), (some, some, 0.0)):
        assert product_bound(Pair(left, right, vector(0, 0), vector(high, high))) == 0.0
    empty = Pair(torch.ones(0, 2).double(), some, vector(0, 0), vector(1, 1))
    assert certified_dual(empty, torch.ones(2).double(), 1.0) == 0.0
    assert frobenius(torch.zeros(0, 3).double()) == 0.0 and 5.0 <= frobenius(vector(3, 4).unsqueeze(0)) <= 5 + 1e-13


def test_multipliers_of_decided_neurons_do_not_matter_and_limits_count() -> None:
    pair = Pair(torch.ones(1, 2).double(), torch.ones(2, 1).double(), vector(0, 1), vector(1, 1))
    plain = certified_dual(pair, vector(1.0, 1.0), 2.6)
    assert plain == certified_dual(pair, vector(1.0, math.nan), 2.6) < 2.7
    for limit, beyond, steep in ((SMALLEST, 0.0, 1e-31), (LARGEST, INF, 1e29)):
        wide = single(1.0, 1.0, 0.0, steep)
        value = math.sqrt(limit) * 2.2
        assert certified_dual(wide, vector(limit), value) < INF
        assert certified_dual(wide, vector(math.nextafter(limit, beyond)), value) == INF
    for guess in (0.0, -1.0, math.nan, INF, 1e-300, 1e300):
        assert certified_dual(pair, vector(1.0, 1.0), guess) == INF


def test_bounds_below_the_normal_range_are_rounded_up() -> None:
    """About a hundred times the smallest number: a product with a power of two rounds to a multiple of it."""
    tiny = 2.0**-537
    for k in range(20):
        pair = single(10 * tiny, (10 + 1e-7 * (k + 1)) * tiny, 0.25, 1.0)
        truth = number(pair.left) * number(pair.right)
        found = certified_dual(pair, vector(0.375 * 0.390625), 100 * tiny * tiny)
        assert found < INF and number(found) >= truth


def exact_form(pair: Pair, t: list[fmpq], size: fmpq) -> tuple[fmpq_mat, fmpq_mat]:
    """K without its diagonal a and b, and the sums of absolute products, over the rationals."""
    found = []
    for turn in (lambda x: x, abs):
        a, b = rational_matrix(pair.left), rational_matrix(pair.right)
        c, r = rationals(pair.middle), rationals(pair.half)
        p, n, q = a.nrows(), a.ncols(), b.ncols()
        sign = -1 if turn is not abs else 1
        whole = fmpq_mat(p + q, p + q)
        for i in range(q):
            for j in range(q):
                whole[i, j] = sign * sum((turn(b[k, i] * t[k] * b[k, j]) for k in range(n)), fmpq(0)) / size**2
            for j in range(p):
                entry = sum((turn(a[j, k] * c[k] * b[k, i]) for k in range(n)), fmpq(0)) / size
                whole[i, q + j] = whole[q + j, i] = entry
        for i in range(p):
            for j in range(p):
                products = (turn(a[i, k] * r[k] ** 2 / t[k] * a[j, k]) for k in range(n))
                whole[q + i, q + j] = sign * sum(products, fmpq(0))
        found.append(whole)
    return found[0], found[1]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (2, 5, 1)])
@pytest.mark.parametrize("t", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("value", [0.3, 3.0])
def test_the_form_of_a_pair_misses_no_more_than_its_error(shape: tuple[int, int, int], t: float, value: float) -> None:
    """Sums of n products with up to three more roundings each; five more are counted."""
    pair = drawn_pair(Generator().manual_seed(4), *shape)
    weights = t * (1 + torch.arange(shape[1], dtype=torch.float64) / 7)
    form = _Form.of(pair, torch.ones(shape[1], dtype=torch.bool), weights, value)
    assert value < form.size <= 2 * value and math.frexp(form.size)[0] == 0.5 and form.columns == shape[2]
    exact, absolute = exact_form(pair, rationals(weights), rational(form.size))
    order = exact.nrows()
    largest = max(sum((absolute[i, j] for j in range(order)), fmpq(0)) for i in range(order))
    assert at_least(form.error, (shape[1] + 3) * UNIT * largest)
    assert rational(form.error) <= (shape[1] + 8) * UNIT * largest * CLOSE + fmpq(1, 10**140)
    for i in range(order):
        for j in range(i + 1):
            assert abs(number(form.matrix[i, j]) - exact[i, j]) <= (shape[1] + 3) * UNIT * absolute[i, j]


@pytest.mark.parametrize(
    ("left", "right", "slopes", "t"),
    [
        ([[1.0]], [[1.0, -1.0]], (0.0, 1.0), 100.0),  # the sums of B' D B
        ([[1.0], [-1.0]], [[1.0]], (0.0, 10.0), 0.01),  # those of A D A'
        ([[1.0], [1.0]], [[-1.0]], (10.0, 10.01), 0.01),  # those of C', with a negative B, A or slope
        ([[1.0], [-1.0]], [[1.0]], (10.0, 10.01), 0.01),
        ([[1.0], [1.0]], [[1.0]], (-10.01, -10.0), 0.01),
        ([[1.0]], [[1.0, -1.0]], (10.0, 10.01), 0.01),  # and of C
        ([[-1.0]], [[1.0, 1.0]], (10.0, 10.01), 0.01),
    ],
)
def test_signs_do_not_hide_what_a_form_misses(
    left: list[list[float]], right: list[list[float]], slopes: tuple[float, float], t: float
) -> None:
    one, other = (torch.tensor(part, dtype=torch.float64) for part in (left, right))
    form = _Form.of(
        Pair(one, other, vector(slopes[0]), vector(slopes[1])), torch.ones(1, dtype=torch.bool), vector(t), 0.75
    )
    assert form.error >= 4 * 2.0**-53 * float(form.matrix.abs().max()) * 1.9


def test_underflow_of_a_form_is_counted() -> None:
    pair = single(0.0, 0.0, 0.0, 1.0)
    everything = torch.ones(1, dtype=torch.bool)
    assert 1e-200 < _Form.of(pair, everything, vector(1.0), 1.0).error < 1e-140
    with unrounded():
        assert _Form.of(pair, everything, vector(1.0), 1.0).error == 0.0


def test_a_form_is_proved_from_its_bound_on() -> None:
    """Slopes [-1, 1] and t = 1: K is diagonal, with a - 1 and 3/4."""
    form = _Form.of(single(0.5, 1.0, -1.0, 1.0), torch.ones(1, dtype=torch.bool), vector(1.0), 0.75)
    assert form.size == 1.0
    assert not form.proves(vector(1.0)[0])
    assert form.proves(vector(1.0 + 60 * 2.0**-53)[0])
    # A middle: a - 1/4 and 3/4 with an entry 1/4 beside them: a > 1/4 + 1/12.
    form = _Form.of(single(0.5, 0.5, 0.0, 2.0), torch.ones(1, dtype=torch.bool), vector(1.0), 0.5)
    least = math.sqrt(1 / 4 + 1 / 12)
    assert not form.proves(vector(least * (1 - 1e-14))[0]) and form.proves(vector(least * (1 + 1e-13))[0])


# --- layers --------------------------------------------------------------------------------------------------------


def layer(*weights: Tensor) -> Layer:
    return Layer((tuple(Dense(weight) for weight in weights),))


def test_sizes_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    chains = layer(torch.ones(3, 5, dtype=torch.float64)).chains
    assert Layer.bytes(chains) == 64 * (15 + 2 * 9)
    assert Layer.seconds(chains) == pytest.approx(3 * 45 / seqlip_layers.FLOPS, rel=1e-12)
    for most, fits in ((5, True), (4, False), (3, False)):
        monkeypatch.setattr(seqlip_layers, "LARGEST_SIDE", most)
        assert Layer.fits(chains) is fits
        assert Layer.fits(layer(torch.ones(5, 3, dtype=torch.float64)).chains) is fits


def test_making_a_matrix_of_a_product_costs_its_rounding() -> None:
    generator = Generator().manual_seed(5)
    joined = layer(drawn(generator, 4, 6), drawn(generator, 3, 4))
    linear = LinearMap(joined.chains)
    found = number(joined.whole.error)
    mixed = number(mixed_norm(*largest_sums(linear)))
    assert linear.roundings * UNIT * mixed <= found <= (linear.roundings + 2) * UNIT * mixed * CLOSE * fmpq(1001, 1000)
    truth = rational_matrix(joined.chains[0][1].weight) * rational_matrix(joined.chains[0][0].weight)  # type: ignore[attr-defined]
    missed = rational_matrix(joined.whole.matrix) - truth
    assert is_positive_semidefinite(identity(3) * found**2 - missed * missed.transpose())


def test_products_that_vanish_before_they_grow_are_counted() -> None:
    chain = tuple(Scale(vector(size, size)) for size in (1e-200, 1e-200, 1e300))
    found = Layer((chain,)).whole
    assert not bool(found.matrix.any())
    assert float(found.error) >= 2 * LinearMap((chain,)).floor(0.0) > 1e-20


def test_uncertain_weights_count_in_every_view(monkeypatch: pytest.MonkeyPatch) -> None:
    uncertain = Layer(((Scale(vector(2.0, 3.0), vector(0.25, 0.125)),),))
    assert 0.25 <= float(uncertain.whole.error) <= 0.25 * (1 + 1e-12)
    assert uncertain.as_left is uncertain.whole and uncertain.as_right is uncertain.whole
    assert 0.25 <= float(uncertain.split[0].error) == float(uncertain.split[1].error) <= 0.25 * (1 + 1e-12)
    # What factors miss is added to it, rounded up.
    for missed in (2.0**-54, 0.25):
        monkeypatch.setattr(seqlip_layers, "_missed", lambda *parts, missed=missed: vector(missed)[0])
        tall, wide = (layer(drawn(Generator().manual_seed(6), *shape)) for shape in ((5, 2), (2, 5)))
        for one in (tall, wide):
            object.__setattr__(one.whole, "error", vector(1.0)[0])
        for view in (tall.as_left, wide.as_right, tall.split[0], wide.split[1]):
            assert 1 + rational(missed) <= number(view.error) <= 1 + rational(missed) + 8 * UNIT
        assert tall.as_right is tall.whole and wide.as_left is wide.whole


def test_balanced_factors_give_the_matrix_and_share_its_size() -> None:
    generator = Generator().manual_seed(7)
    for shape in ((3, 5), (5, 3), (4, 4), (1, 1), (0, 2)):
        matrix = 1e3 * drawn(generator, *shape)
        left, right = balanced(matrix)
        assert left.shape[1] == right.shape[0] == min(shape)
        assert float((left @ right - matrix).abs().sum()) <= 1e-10
        values = torch.linalg.svdvals(matrix).sqrt()
        for part in (left, right):
            assert torch.allclose(torch.linalg.svdvals(part), values, rtol=1e-7)


def test_factors_may_be_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The split is only a proposal: what its product misses is certified."""
    generator = Generator().manual_seed(8)
    for _ in range(20):
        matrix = drawn(generator, 3, 4)
        factors = drawn(generator, 3, 3), drawn(generator, 3, 4) * 10.0 ** float(drawn(generator, 1))
        monkeypatch.setattr(seqlip_layers, "balanced", lambda _, found=factors: found)
        left, right = layer(matrix).split
        missed = float(torch.linalg.matrix_norm(matrix - left.matrix @ right.matrix, 2))
        assert missed <= float(left.error) <= 2 * missed


def test_columns_of_unit_vectors_cost_the_rounding_of_their_products() -> None:
    columns = torch.eye(60, 50, dtype=torch.float64)
    found = number(stretch(columns))
    assert 1 + 60 * 50 * UNIT <= found**2 <= 1 + 64 * 50 * UNIT * CLOSE + 40 * UNIT
    one = torch.zeros(3, 1, dtype=torch.float64)
    for length in (1.5, 1 - 2.0**-20, 2.0):
        one[1] = length
        gap = abs(rational(length) ** 2 - 1)
        assert 1 + gap <= number(stretch(one)) ** 2 <= (1 + gap) * (1 + fmpq(1, 10**11))


@pytest.mark.parametrize("inner", [1, 3, 12])
@pytest.mark.parametrize("size", [0.0, 1e-12, 1.0])
def test_what_a_product_misses_is_known_from_both_sides(inner: int, size: float) -> None:
    generator = Generator().manual_seed(9)
    left, right = (torch.randint(-4, 5, shape, generator=generator).double() for shape in ((4, inner), (inner, 3)))
    matrix = left @ right + size * drawn(generator, 4, 3)
    rest = rational_matrix(matrix) - rational_matrix(left) * rational_matrix(right)
    missed = sum((rest[i, j] ** 2 for i in range(4) for j in range(3)), fmpq(0))
    sums = [sum((x**2 for x in rationals(part)), fmpq(0)) for part in (left, right, matrix)]
    lengths = [rational(math.sqrt(x)) for x in sums]
    rounding = UNIT * lengths[0] * lengths[1]
    found, length = number(_missed(matrix, left, right)), rational(math.sqrt(missed))
    assert found >= (length + inner * rounding) * (1 - 4 * UNIT)
    most = length + (inner + 4) * UNIT * (lengths[0] * lengths[1] + lengths[2]) * CLOSE
    assert found <= most * (1 + fmpq(1, 10**12)) + fmpq(1, 10**280)


def test_what_vanishes_in_products_is_missed() -> None:
    zero = torch.zeros(2, 2, dtype=torch.float64)
    assert 1e-291 < float(_missed(zero, zero, zero)) < 1e-280
