"""Laws of every operator kind, and the two sound verbs (`enclose`, `slack`) against exact rationals.

A new kind brings `samples`, or enters `KINDS` in `operator_cases`, and inherits all laws.
"""

from __future__ import annotations

import itertools
import math
from math import prod

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Tensor

from exact import (
    DTYPE_NAMES,
    DTYPES,
    at_least,
    outside,
    rational,
    rational_matrix,
    rationals,
)
from jacobound import ShapeError, UnsafeArithmeticError
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import tiny, underflow, unit, unrounded
from jacobound.operators import base as operators
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Blocks, Convolution, Dense, Identity, Scale, Select, Sparse
from operator_cases import KINDS, Draw, final_kinds, integers, reals

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


every_kind = pytest.mark.parametrize("kind", KINDS)


def draw_point(operator: LinearOperator, draw: Draw, lead: tuple[int, ...] = ()) -> Tensor:
    return draw((*lead, *operator.in_shape))


# Laws, on small integers, where floating point is exact.


@both_dtypes
@every_kind
def test_transpose_is_the_adjoint(kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    draw = integers(dtype, generator)
    operator = KINDS[kind](draw)
    transposed = operator.transpose()
    assert (transposed.in_shape, transposed.out_shape) == (operator.out_shape, operator.in_shape)
    x, y = draw(operator.in_shape), draw(operator.out_shape)
    assert (operator.apply(x) * y).sum() == (x * transposed.apply(y)).sum()
    assert torch.equal(transposed.materialise(), operator.materialise().T)
    assert torch.equal(transposed.transpose().materialise(), operator.materialise())


@both_dtypes
@every_kind
def test_apply_is_the_matrix_and_keeps_leading_axes(kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    draw = integers(dtype, generator)
    operator = KINDS[kind](draw)
    matrix = operator.materialise()
    assert matrix.shape == (operator.out_size, operator.in_size)
    assert matrix.dtype == dtype
    x = draw_point(operator, draw, (2, 3))
    image = operator.apply(x)
    assert image.shape == (2, 3, *operator.out_shape)
    assert torch.equal(image.reshape(2, 3, -1), x.reshape(2, 3, -1) @ matrix.T)
    assert torch.equal(operator.apply(x[1, 2]), image[1, 2])
    assert operator.apply(x[:0]).shape == (0, 3, *operator.out_shape)


@both_dtypes
@every_kind
def test_abs_is_the_matrix_of_absolute_values(kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    operator = KINDS[kind](integers(dtype, generator))
    assert torch.equal(operator.abs().materialise(), operator.materialise().abs())
    assert torch.equal(operator.transpose().abs().materialise(), operator.materialise().abs().T)


@both_dtypes
@every_kind
def test_columns_and_parts(kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    draw = integers(dtype, generator)
    operator = KINDS[kind](draw)
    matrix = operator.materialise()
    index = torch.randperm(operator.in_size, generator=generator)[: max(1, operator.in_size // 2)]
    rows = torch.randperm(operator.out_size, generator=generator)[: max(1, operator.out_size // 2)]
    assert torch.equal(operator.columns(index), matrix[:, index].T)
    for vectors in (2, 40):  # a kind may prepare differently for few and for many
        whole, part = draw((vectors, operator.in_size)), draw((vectors, len(index)))
        assert torch.equal(operator.between(None, None, vectors)(whole), whole @ matrix.T)
        assert torch.equal(operator.between(None, rows, vectors)(whole), whole @ matrix[rows].T)
        assert torch.equal(operator.between(index, None, vectors)(part), part @ matrix[:, index].T)
        assert torch.equal(operator.between(index, rows, vectors)(part), part @ matrix[rows][:, index].T)
        assert operator.between(index[:0], rows, vectors)(part[:, :0]).shape == (vectors, len(rows))
        assert operator.between(index, rows, vectors)(part.unsqueeze(0)).shape == (1, vectors, len(rows))
    assert operator.columns(index[:0]).shape == (0, operator.out_size)


@every_kind
def test_terms_counts_the_longest_sum(kind: str) -> None:
    operator = KINDS[kind](lambda shape: torch.ones(*shape, dtype=torch.float64))
    matrix = operator.materialise()
    assert operator.terms >= int(matrix.sum(1).max()) or operator.terms == 0
    if operator.terms == 0:
        assert matrix.unique().tolist() in ([0.0, 1.0], [1.0])
        assert matrix.sum(1).max() <= 1
    assert operator.longest_sum >= int(matrix.sum(0).max()) or matrix.sum(0).max() <= 1
    if isinstance(operator, Convolution):  # the taps that fall outside the image count as well
        taps = prod(operator.weight.shape[2:])
        channels = {False: operator.weight.shape[1], True: operator.weight.shape[0] // operator.groups}
        assert operator.terms == taps * channels[operator.adjoint]
    assert operator.longest_sum == operator.transpose().longest_sum


@every_kind
def test_moving_to_another_dtype(kind: str) -> None:
    operator = KINDS[kind](integers(torch.float64, torch.Generator().manual_seed(3)))
    there = operator.to(torch.device("cpu"), torch.float32)
    back = there.to(torch.device("cpu"), torch.float64)
    assert there.example().dtype == torch.float32
    assert all(weights.dtype == torch.float32 for weights in there.parameters())
    assert torch.equal(back.materialise(), operator.materialise())


@pytest.mark.parametrize("kind", ["dense", "conv 2d", "scale", "conv 3d", "sparse", "sparse adjoint", "blocks"])
def test_weights_that_do_not_fit_are_refused(kind: str) -> None:
    operator = KINDS[kind](lambda shape: torch.full(tuple(shape), 0.1, dtype=torch.float64))
    with pytest.raises(UnsafeArithmeticError, match="does not fit"):
        operator.to(torch.device("cpu"), torch.float32)
    huge = KINDS[kind](lambda shape: torch.full(tuple(shape), 1e300, dtype=torch.float64))
    with pytest.raises(UnsafeArithmeticError, match="does not fit"):
        huge.to(torch.device("cpu"), torch.float32)


# Soundness against exact rationals.


def exact_matrix(operator: LinearOperator) -> fmpq_mat:
    return rational_matrix(operator.materialise())


def random_ball(operator: LinearOperator, draw: Draw, generator: torch.Generator) -> Interval:
    """Intervals of which about a third have width zero."""
    ends = torch.stack((draw_point(operator, draw), draw_point(operator, draw)))
    ends[1] = torch.where(torch.rand(operator.in_shape, generator=generator) < 0.3, ends[0], ends[1])
    return Interval(ends.amin(0), ends.amax(0))


def chosen_points(x: Interval, matrix: fmpq_mat) -> list[fmpq_mat]:
    """Exact points of an interval: for some rows the vertices where they are extreme, and one inside."""
    lower, upper = rationals(x.lower), rationals(x.upper)
    size = len(lower)
    found = [[low + (high - low) * fmpq(2, 7) for low, high in zip(lower, upper, strict=True)]]
    for row in range(min(matrix.nrows(), 6)):
        rises = [matrix[row, k] >= 0 for k in range(size)]
        found.append([upper[k] if rises[k] else lower[k] for k in range(size)])
        found.append([lower[k] if rises[k] else upper[k] for k in range(size)])
    return [fmpq_mat(size, 1, point) for point in found]


SCALES = {"ordinary": (-3, 3), "mixed": (-40, 40), "vanishing": (-520, -500), "vanishing32": (-80, -60)}


@both_dtypes
@pytest.mark.parametrize("scale", SCALES)
@every_kind
def test_enclose_holds_the_exact_image(kind: str, scale: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    draw = reals(dtype, generator, SCALES[scale])
    operator = KINDS[kind](draw)
    matrix = exact_matrix(operator)
    for x in (random_ball(operator, draw, generator), Interval.exact(draw_point(operator, draw))):
        result = operator.enclose(x)
        assert result.shape == operator.out_shape
        for point in chosen_points(x, matrix):
            assert outside(result.lower, (matrix * point).entries(), result.upper) == []


@both_dtypes
@every_kind
def test_enclose_is_tight(kind: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    draw = reals(dtype, generator)
    operator = KINDS[kind](draw)
    x = random_ball(operator, draw, generator)
    matrix = operator.materialise().double().abs()
    width = (matrix @ (x.upper.double() - x.lower.double()).flatten()).reshape(operator.out_shape)
    size = (matrix @ x.magnitude().double().flatten()).reshape(operator.out_shape)
    room = 16 * (operator.longest_sum + 8) * unit(dtype) * size + 1000 * tiny(dtype)
    assert torch.all(operator.enclose(x).width.double() <= width + room)


@pytest.mark.parametrize("kind", ["identity", "select", "select, moving", "scatter, moving"])
def test_moving_entries_rounds_nothing(kind: str) -> None:
    operator = KINDS[kind](lambda shape: torch.ones(*shape, dtype=torch.float64))
    x = torch.rand(operator.in_shape, dtype=torch.float64)
    result = operator.enclose(Interval(-x, x))
    assert torch.equal(result.upper, operator.apply(x))
    assert torch.equal(result.lower, -operator.apply(x))
    assert operator.longest_sum or not operator.slack(x).any()  # the slack is that of the adjoint too


@both_dtypes
@every_kind
def test_enclose_of_unbounded_and_overflowing_intervals(
    kind: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    operator = KINDS[kind](integers(dtype, generator))
    used = operator.abs().materialise().any(1).reshape(operator.out_shape)
    largest = torch.finfo(dtype).max
    ones = torch.ones(operator.in_shape, dtype=dtype)
    for end in (math.inf, math.nan, largest):
        result = operator.enclose(Interval(-end * ones, end * ones))
        assert not result.upper.isnan().any() or operator.terms == 0
        assert torch.all((result.upper >= largest)[used] | result.upper[used].isnan())
        assert torch.all((result.lower <= -largest)[used] | result.lower[used].isnan())
        assert torch.all(result.lower < math.inf) or operator.terms == 0
    single = Interval(
        torch.zeros_like(ones),
        torch.zeros_like(ones).flatten().index_fill(0, torch.tensor([0]), math.inf).reshape(operator.in_shape),
    )
    result = operator.enclose(single)
    assert not result.upper.isnan().any()
    touched = operator.columns(torch.tensor([0])).reshape(operator.out_shape)
    assert torch.all(result.upper[touched > 0] == math.inf)
    assert torch.all(result.lower[touched < 0] == -math.inf)


def wrong_slack(operator: LinearOperator, x: Tensor, matrix: fmpq_mat) -> list[str]:
    """Entries in which the computed image of x differs from the exact one by more than the slack."""
    slack = operator.slack(x.abs())
    assert slack.shape == operator.out_shape
    exact = (matrix * fmpq_mat(x.numel(), 1, rationals(x))).entries()
    image = operator.apply(x)
    return outside(-slack, [found - value for found, value in zip(rationals(image), exact, strict=True)], slack)


def wrong_transposed_slack(
    operator: LinearOperator, coefficients: Tensor, magnitude: Tensor, matrix: fmpq_mat
) -> list[str]:
    """Rows A where ``max |(A W - fl(A W)) x|`` over |x| <= magnitude is more than |A| slack plus the floor."""
    computed = rational_matrix(operator.transpose().apply(coefficients).reshape(len(coefficients), -1))
    rows = rational_matrix(coefficients.reshape(len(coefficients), -1))
    missing = rows * matrix - computed
    slack, reach = rationals(operator.slack(magnitude)), rationals(magnitude)
    floor = rational(underflow(operator.longest_sum, magnitude)) * sum(reach, fmpq(0))
    found = []
    for i in range(rows.nrows()):
        error = sum((abs(missing[i, k]) * reach[k] for k in range(len(reach))), fmpq(0))
        allowed = sum((abs(rows[i, k]) * slack[k] for k in range(len(slack))), floor)
        if error > allowed:
            found.append(f"row {i}: {float(error.p) / float(error.q)}")
    return found


@both_dtypes
@pytest.mark.parametrize("scale", SCALES)
@every_kind
def test_slack_covers_both_products(kind: str, scale: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    draw = reals(dtype, generator, SCALES[scale])
    operator = KINDS[kind](draw)
    matrix = exact_matrix(operator)
    assert wrong_slack(operator, draw_point(operator, draw), matrix) == []
    coefficients = draw((3, *operator.out_shape))
    magnitude = draw_point(operator, draw).abs()
    assert wrong_transposed_slack(operator, coefficients, magnitude, matrix) == []


@both_dtypes
@every_kind
def test_slack_covers_subnormal_arguments_under_large_weights(
    kind: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """The roundoff of such an argument is no number any more, but that of its image is."""
    tiny_exponents, large = ((-1074, -1040), (900, 1000)) if dtype == torch.float64 else ((-149, -130), (90, 120))
    operator = KINDS[kind](reals(dtype, generator, large))
    matrix = exact_matrix(operator)
    x = draw_point(operator, reals(dtype, generator, tiny_exponents))
    assert wrong_slack(operator, x, matrix) == []
    coefficients = reals(dtype, generator, tiny_exponents)((3, *operator.out_shape))
    assert wrong_transposed_slack(operator, coefficients, x.abs(), matrix) == []


@both_dtypes
@every_kind
def test_slack_of_a_doubtful_argument_covers_its_image(
    kind: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """With nothing but doubt the slack is |W| doubt, rounded up: no margin of another term hides what it loses."""
    draw = reals(dtype, generator)
    operator = KINDS[kind](draw)
    doubt = draw_point(operator, draw).abs()
    exact = rational_matrix(operator.materialise().abs()) * fmpq_mat(doubt.numel(), 1, rationals(doubt))
    slack = operator.slack(torch.zeros_like(doubt), doubt)
    assert outside(torch.zeros_like(slack), exact.entries(), slack) == []


def test_without_rigour_the_image_is_the_plain_one() -> None:
    for operator in (Dense(torch.tensor([[-1.0, 2.0]])), Dense(torch.tensor([[1.0, 2.0]]))):
        ends = (operator.weight.abs().sum().item(), -operator.weight.abs().sum().item())
        with unrounded():
            found = operator.enclose(Interval(torch.full((2,), -1.0), torch.ones(2)))
        assert (found.upper.item(), found.lower.item()) == ends


@every_kind
def test_vectors_may_go_through_in_chunks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    draw = integers(torch.float64, generator)
    operator = KINDS[kind](draw)
    x = draw((5, operator.in_size))
    whole = LinearOperator.between(operator, None, None, 5)(x)
    for entries in (1, 2 * (operator.in_size + operator.out_size)):
        monkeypatch.setattr(operators, "CHUNK_ENTRIES", entries)
        assert torch.equal(LinearOperator.between(operator, None, None, 5)(x), whole)


@both_dtypes
def test_slack_covers_cancellation(dtype: torch.dtype) -> None:
    """Duplicated rows that cancel in the exact sum, or lose the 1 between them, depending on the order."""
    big = 1e16 if dtype == torch.float64 else 1e8
    rows = torch.tensor(list(itertools.permutations((big, 1.0, -big))), dtype=dtype)
    for matrix in (rows, rows.T, torch.cat((rows, rows * 3), 1)):
        operator = Dense(matrix.contiguous())
        exact = exact_matrix(operator)
        x = torch.ones(operator.in_shape, dtype=dtype)
        assert wrong_slack(operator, x, exact) == []
        assert wrong_slack(operator, x * 1.1, exact) == []
        coefficients = torch.eye(operator.out_size, dtype=dtype)
        coefficients = torch.cat((coefficients, torch.ones(1, operator.out_size, dtype=dtype)))
        assert wrong_transposed_slack(operator, coefficients, x, exact) == []
        assert wrong_transposed_slack(operator, coefficients * 0.7, x * 1e3, exact) == []
        result = operator.enclose(Interval.exact(x))
        assert outside(result.lower, (exact * fmpq_mat(len(x), 1, rationals(x))).entries(), result.upper) == []


@both_dtypes
@pytest.mark.parametrize("transposed", [False, True])
def test_slack_covers_the_worst_order_of_a_long_sum(dtype: torch.dtype, transposed: bool) -> None:
    """One large term and many of half a unit: summed after it, each of them rounds away.

    The slack holds for sums of any order, so for this one too: in `apply` of the row, and in the transposed product
    of ones with the column.
    """
    weight = torch.full((1, 300), unit(dtype), dtype=dtype)
    weight[0, 0] = 1.0
    total = torch.zeros((), dtype=dtype)
    for entry in weight[0]:
        total = total + entry
    missing = sum(rationals(weight), fmpq(0)) - rational(total.item())
    assert missing == 299 * rational(unit(dtype))
    operator = Dense(weight.T if transposed else weight)
    slack = operator.slack(torch.ones(operator.in_shape, dtype=dtype))
    assert sum(rationals(slack), fmpq(0)) >= missing


@both_dtypes
@every_kind
def test_slack_of_infinite_magnitudes(kind: str, dtype: torch.dtype) -> None:
    operator = KINDS[kind](lambda shape: torch.ones(*shape, dtype=dtype))
    slack = operator.slack(torch.full(operator.in_shape, math.inf, dtype=dtype))
    assert not slack.isnan().any()
    if operator.longest_sum:
        assert torch.all(slack[operator.materialise().any(1).reshape(operator.out_shape)] == math.inf)


# Scale with a radius: factors that are no floats.


@both_dtypes
@pytest.mark.parametrize("exact_factor", [fmpq(1, 9), fmpq(-1, 49), fmpq(2, 3)])
def test_scale_with_a_radius_covers_the_rational_factor(
    exact_factor: fmpq, dtype: torch.dtype, generator: torch.Generator
) -> None:
    stored = torch.full((6,), float(exact_factor.p) / float(exact_factor.q), dtype=torch.float64).to(dtype)
    operator = Scale(stored, stored.abs() * unit(dtype))
    assert rational(stored[0].item()) != exact_factor
    assert all(at_least(entry, abs(exact_factor)) for entry in operator.abs().factor.tolist())
    draw = reals(dtype, generator)
    ends = draw((2, 6)).sort(0).values
    for x in (Interval(ends[0], ends[1]), Interval.exact(ends[0])):
        result = operator.enclose(x)
        for point in (rationals(x.lower), rationals(x.upper)):
            assert outside(result.lower, [exact_factor * entry for entry in point], result.upper) == []
    matrix = fmpq_mat(6, 6, [exact_factor if i == j else fmpq(0) for i in range(6) for j in range(6)])
    assert wrong_slack(operator, ends[0], matrix) == []
    assert wrong_transposed_slack(operator, draw((3, 6)), ends[1].abs(), matrix) == []
    wide = operator.slack(ends[0].abs())
    assert torch.all(wide <= 12 * unit(dtype) * stored.abs() * ends[0].abs() + 40 * tiny(dtype))


@both_dtypes
def test_scale_with_a_wide_radius(dtype: torch.dtype, generator: torch.Generator) -> None:
    """A radius far above the roundoff: it must be paid in `enclose`, in `slack` and in the transposed product."""
    stored = torch.full((6,), 0.1111, dtype=dtype)
    operator = Scale(stored, torch.full((6,), 1.2e-5, dtype=dtype))
    matrix = fmpq_mat(6, 6, [fmpq(1, 9) if i == j else fmpq(0) for i in range(6) for j in range(6)])
    draw = reals(dtype, generator)
    x = draw((6,))
    image = operator.enclose(Interval.exact(x))
    assert outside(image.lower, [fmpq(1, 9) * entry for entry in rationals(x)], image.upper) == []
    assert wrong_slack(operator, x, matrix) == []
    assert wrong_transposed_slack(operator, draw((3, 6)), x.abs(), matrix) == []
    image = operator.enclose(Interval(-x.abs(), x.abs()))  # around zero only the radius of the argument counts
    for sign in (-1, 1):
        exact = [sign * fmpq(1, 9) * entry for entry in rationals(x)]
        assert outside(image.lower, exact, image.upper) == []


@both_dtypes
def test_sizes_and_doubts_of_uncertain_factors_are_rounded_up(dtype: torch.dtype, generator: torch.Generator) -> None:
    draw = reals(dtype, generator, (-8, 8))
    factor, radius, magnitude = draw((40,)), draw((40,)).abs(), draw((40,)).abs()
    absent = torch.zeros((), dtype=torch.int64).expand(1, 40)
    for operator in (Scale(factor, radius), Sparse(factor.unsqueeze(0), absent, (1,), radius.unsqueeze(0))):
        argument = magnitude if isinstance(operator, Scale) else magnitude[:1]
        size, doubt = operator.abs().parameters()[0].flatten(), operator.uncertainty(argument)
        assert doubt is not None
        parts = zip(*map(rationals, (factor, radius, argument.expand(40))), strict=True)
        exact = [(abs(f) + r, r * x) for f, r, x in parts]
        assert outside(torch.zeros_like(size), [sizes for sizes, _ in exact], size) == []
        assert outside(torch.zeros_like(doubt), [doubts for _, doubts in exact], doubt) == []


def test_scale_with_a_radius_moves_to_another_dtype() -> None:
    factor = torch.tensor([1 / 9, -2 / 3, 1e-42, 0.5, 1e300], dtype=torch.float64)
    radius = torch.tensor([1e-17, 1e-9, 1e-60, 0.0, 1e290], dtype=torch.float64)
    there = Scale(factor, radius).to(torch.device("cpu"), torch.float32)
    assert there.radius is not None
    for k in range(4):
        centre, reach = rational(there.factor[k].item()), rational(there.radius[k].item())
        assert centre - reach <= rational(factor[k].item()) - rational(radius[k].item())
        assert centre + reach >= rational(factor[k].item()) + rational(radius[k].item())
    lost = 2 * unit(torch.float32) * factor[:4].abs() + 2 * tiny(torch.float32)
    assert torch.all(there.radius[:4] <= 1.01 * radius[:4] + lost)
    assert there.radius[4] == math.inf  # the factor does not fit: nothing is known
    image = there.enclose(Interval.exact(torch.ones(5)))
    assert image.upper[4] == math.inf
    assert image.lower[4] == -math.inf
    back = there.to(torch.device("cpu"), torch.float64)
    assert torch.equal(back.factor, there.factor.double())


# Sparse with a radius: weights that are no floats.

THIRDS = [[fmpq(1, 3), fmpq(2, 3)], [fmpq(-1, 9), fmpq(10, 9)], [fmpq(1, 7), fmpq(6, 7)]]


def thirds(dtype: torch.dtype, wider: float = 1.0) -> tuple[Sparse, fmpq_mat]:
    """Three outputs of two rational weights each over four entries, and their exact matrix."""
    index = torch.tensor([[0, 1, 3], [1, 2, 0]])
    exact = [fmpq(0)] * 12
    weight = torch.zeros(2, 3, dtype=dtype)
    for i, row in enumerate(THIRDS):
        for k, entry in enumerate(row):
            exact[4 * i + int(index[k, i])] = entry
            weight[k, i] = float(entry.p) / float(entry.q)
    radius = wider * unit(dtype) * 2 * weight.abs()
    return Sparse(weight, index, (4,), radius), fmpq_mat(3, 4, exact)


@both_dtypes
@pytest.mark.parametrize("adjoint", [False, True])
def test_sparse_with_a_radius_covers_the_rational_weights(
    adjoint: bool, dtype: torch.dtype, generator: torch.Generator
) -> None:
    operator, matrix = thirds(dtype)
    if adjoint:
        operator, matrix = operator.transpose(), matrix.transpose()
    assert rational_matrix(operator.materialise()) != matrix
    draw = reals(dtype, generator)
    ends = draw((2, operator.in_size)).sort(0).values
    for x in (Interval(ends[0], ends[1]), Interval.exact(ends[0])):
        result = operator.enclose(x)
        for point in chosen_points(x, matrix):
            assert outside(result.lower, (matrix * point).entries(), result.upper) == []
    assert wrong_slack(operator, ends[0], matrix) == []
    assert wrong_transposed_slack(operator, draw((3, operator.out_size)), ends[1].abs(), matrix) == []
    absolute = operator.abs().materialise()
    for found, entry in zip(absolute.flatten().tolist(), matrix.entries(), strict=True):
        assert at_least(found, abs(entry))
    extra = operator.uncertainty(ends[0].abs())
    assert extra is not None
    reach = 2 * operator.materialise().abs() @ ends[0].abs()
    assert torch.all(extra <= 2 * unit(dtype) * reach * (1 + 1e-3) + 100 * tiny(dtype))  # tight as well


@both_dtypes
def test_sparse_with_a_wide_radius(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Weights at the far end of the radius: it must be paid in `enclose`, `slack`, and both products."""
    operator, _ = thirds(dtype, 2.0**10)
    assert operator.radius is not None
    ends = Sparse(operator.weight.double() + 0.999 * operator.radius.double(), operator.index, (4,))
    for one, other in ((operator, ends), (operator.transpose(), ends.transpose())):
        matrix = exact_matrix(other)
        x = reals(dtype, generator)((one.in_size,))
        image = one.enclose(Interval.exact(x))
        exact = (matrix * fmpq_mat(one.in_size, 1, rationals(x))).entries()
        assert outside(image.lower, exact, image.upper) == []
        assert wrong_slack(one, x, matrix) == []
        assert wrong_transposed_slack(one, reals(dtype, generator)((3, one.out_size)), x.abs(), matrix) == []


def test_sparse_with_a_radius_moves_to_another_dtype() -> None:
    operator, matrix = thirds(torch.float64)
    there = operator.to(torch.device("cpu"), torch.float32)
    assert there.radius is not None
    for tight in (there, there.to(torch.device("cpu"), torch.float64)):
        assert tight.radius is not None
        assert torch.all(tight.radius <= 4 * unit(torch.float32) * tight.weight.abs())
        for k, i in itertools.product(range(2), range(3)):
            stored, reach = rational(tight.weight[k, i].item()), rational(tight.radius[k, i].item())
            exact = matrix[i, int(operator.index[k, i])]
            assert stored - reach <= exact <= stored + reach
    exact = Sparse(
        torch.tensor([[0.5, 0.1]]).double(), torch.tensor([[0, 1]]), (2,), torch.tensor([[0.0, 1e-17]]).double()
    )
    moved = exact.to(torch.device("cpu"), torch.float32).radius
    assert moved is not None and moved[0, 0] == 0 and moved[0, 1] > 0


def test_sparse_ignores_absent_entries_even_if_the_first_entry_is_infinite() -> None:
    operator = Sparse(torch.ones(2, 2), torch.tensor([[1, 2], [-1, 1]]), (3,))
    x = torch.tensor([math.inf, 2.0, 3.0])
    assert operator.apply(x).tolist() == [2.0, 5.0]
    assert operator.enclose(Interval(-x, x)).is_finite()


@pytest.mark.parametrize(
    ("index", "radius", "message"),
    [
        ([[0, 3]], None, "outside"),
        ([[-2, 0]], None, "outside"),
        ([[0, 1], [0, 2]], None, "twice"),
        ([[0, 1, 2]], None, "positions"),
        ([[0, 1]], [[1.0]], "radii"),
    ],
)
def test_sparse_weights_that_make_no_sense(index: list, radius: list | None, message: str) -> None:
    weight = torch.ones(len(index), 2)
    with pytest.raises(ShapeError, match=message):
        Sparse(weight, torch.tensor(index), (3,), None if radius is None else torch.tensor(radius))


def test_structure_tells_tables_apart() -> None:
    weight = torch.ones(1, 2)
    one, two = (Sparse(weight, torch.tensor([index]), (3,)) for index in ([0, 1], [0, 2]))
    three = Sparse(weight, torch.tensor([[0, 1]]), (3,), None, (1,))
    assert len({operator.structure() for operator in (one, two, three)}) == 3


def test_structure_tells_movements_apart() -> None:
    selections = [Select(torch.tensor(index), (3,), torch.zeros(1)) for index in ([0, 1, 2], [0, 2, 1], [0, -1, 1])]
    operators = [*selections, *(selection.transpose() for selection in selections), Identity((3,), (3,), torch.ones(1))]
    assert len({operator.structure() for operator in operators}) == len(operators)


def test_structure_tells_convolutions_of_equal_weights_and_shapes_apart() -> None:
    """The adjoint of one channel has the shapes of the convolution, and other entries."""
    weight = torch.arange(9.0).reshape(1, 1, 3, 3)
    plain = Convolution(weight, (1, 5, 5), (1, 1), (1, 1), (1, 1))
    dilated = Convolution(weight, (1, 5, 5), (1, 1), (2, 2), (2, 2))
    strided = [Convolution(torch.ones(2, 1, 1, 1), (2, 1, 1), (s, 1), (0, 0), (1, 1), 2) for s in (1, 2)]
    larger = Convolution(weight, (1, 6, 5), (1, 1), (1, 1), (1, 1))
    operators = [plain, plain.transpose(), dilated, dilated.transpose(), larger, *strided]
    assert len({(operator.in_shape, operator.out_shape) for operator in operators[:4]}) == 1
    assert len({operator.structure() for operator in operators}) == len(operators)


# Convolution: the products that replace the library in float32 and on accelerators.

ONE_AXIS = [
    ((channels * groups, size), (k,), (s,), (p,), (d,), groups)
    for channels, size, k, s, p, d, groups in itertools.product(
        (1, 2), (6, 9), (1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2), (1, 2)
    )
]
TWO_AXES = [
    ((2 * groups, *size), k, s, p, d, groups)
    for size, k, s, p, d, groups in itertools.product(
        ((5, 7), (6, 6)), ((3, 3), (2, 1)), ((1, 1), (2, 3)), ((0, 0), (1, 2)), ((1, 1), (2, 1)), (1, 2)
    )
]


THREE_AXES = [
    ((2 * groups, *size), k, s, p, d, groups)
    for size, k, s, p, d, groups in itertools.product(
        ((3, 5, 4), (4, 6, 6)),
        ((3, 3, 2), (1, 2, 3)),
        ((1, 1, 1), (2, 1, 3)),
        ((0, 0, 0), (1, 2, 0)),
        ((1, 1, 1), (1, 2, 1)),
        (1, 2),
    )
]


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("configurations", [ONE_AXIS, TWO_AXES, THREE_AXES], ids=["1d", "2d", "3d"])
def test_convolution_by_products_is_the_library_convolution(
    configurations: list[tuple], adjoint: bool, generator: torch.Generator
) -> None:
    draw = integers(torch.float64, generator)
    leftover = 0
    for image, kernel, stride, padding, dilation, groups in configurations:
        weight = draw((2 * groups, image[0] // groups, *kernel))
        by_library = Convolution(weight, image, stride, padding, dilation, groups, adjoint)
        by_products = by_library.to(torch.device("cpu"), torch.float32)
        x = draw((2, *by_library.in_shape))
        expected = by_library.apply(x)
        assert expected.shape == (2, *by_library.out_shape)
        assert torch.equal(by_products.apply(x.float()).double(), expected)
        spans = zip(image[1:], kernel, stride, padding, dilation, strict=True)
        leftover += any((n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in spans)
    assert leftover > len(configurations) // 8  # sizes that the adjoint must be told (output padding) are among them


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), ("meta", torch.float64), ("meta", torch.float32)]
)
def test_the_library_is_asked_only_where_it_is_classical(
    device: str, dtype: torch.dtype, adjoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 and on other devices it may choose Winograd or FFT."""
    for name in ("conv2d", "conv_transpose2d"):
        monkeypatch.setattr(torch.nn.functional, name, lambda *_: pytest.fail("the library was asked"))
    weight = torch.ones(2, 1, 3, 3, dtype=dtype, device=device)
    operator = Convolution(weight, (1, 5, 5), (1, 1), (1, 1), (1, 1), adjoint=adjoint)
    x = torch.ones(operator.in_shape, dtype=dtype, device=device)
    assert operator.apply(x).shape == operator.out_shape
    classical = Convolution(torch.ones(2, 1, 3, 3).double(), (1, 5, 5), (1, 1), (1, 1), (1, 1), adjoint=adjoint)
    with pytest.raises(pytest.fail.Exception, match="was asked"):
        classical.apply(torch.ones(operator.in_shape, dtype=torch.float64))


def test_convolution_is_that_of_torch() -> None:
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    layer = torch.nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2), bias=False, dtype=torch.float64)
    operator = Convolution(layer.weight.detach(), (3, 8, 7), (2, 1), (1, 0), (1, 2))
    assert torch.equal(operator.apply(x), layer(x).detach())


@pytest.mark.parametrize(
    ("weight", "image", "groups", "message"),
    [
        ((2, 3, 3, 3), (2, 5, 5), 1, "does not fit"),
        ((3, 2, 3, 3), (4, 5, 5), 2, "does not fit"),
        ((2, 2, 7, 7), (2, 5, 5), 1, "kernel"),
        ((2, 2, 3), (2, 5, 5), 1, "not known"),
        ((2, 2, 1, 1, 1, 1), (2, 3, 3, 3, 3), 1, "not known"),
    ],
)
def test_convolutions_that_make_no_sense(
    weight: tuple[int, ...], image: tuple[int, ...], groups: int, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        Convolution(torch.zeros(weight), image, (1, 1), (0, 0), (1, 1), groups)


def test_other_operators_that_make_no_sense() -> None:
    like = torch.zeros(1)
    with pytest.raises(ShapeError, match="sizes differ"):
        Identity((2, 3), (5,), like)
    with pytest.raises(ShapeError, match="two axes"):
        Dense(torch.zeros(3))
    with pytest.raises(ShapeError, match="at least three"):
        Blocks(torch.zeros(3, 2))
    for index in ([0, 6], [-2, 0]):
        with pytest.raises(ShapeError, match="outside"):
            Select(torch.tensor(index), (2, 3), like)


def test_select_and_scatter_of_repeats_and_gaps() -> None:
    operator = KINDS["select"](lambda shape: torch.ones(*shape))
    x = torch.arange(1.0, 7.0).reshape(2, 3)
    assert operator.apply(x).tolist() == [[4.0, 0.0, 1.0], [4.0, 6.0, 4.0]]
    back = operator.transpose()
    assert back.apply(torch.ones(2, 3)).tolist() == [[1.0, 0.0, 0.0], [3.0, 0.0, 1.0]]
    assert back.terms == 3
    assert operator.longest_sum == 3
    nothing = Select(torch.full((2,), -1), (3,), x)
    assert nothing.apply(torch.ones(3)).tolist() == [0.0, 0.0]
    assert nothing.transpose().apply(torch.ones(2)).tolist() == [0.0, 0.0, 0.0]
    assert prod(nothing.out_shape) == nothing.out_size


def test_padding_with_zeros_survives_infinite_entries() -> None:
    operator = Select(torch.tensor([-1, 0]), (1,), torch.zeros(1))
    assert operator.apply(torch.tensor([math.inf])).tolist() == [0.0, math.inf]


def test_every_kind_is_tried() -> None:
    tried = {type(make(integers(torch.float64, torch.Generator().manual_seed(0)))) for make in KINDS.values()}
    assert set(final_kinds()) <= tried, "a kind of operator needs `samples`, which the laws try"


@pytest.mark.parametrize("radius", [None, torch.full((2, 3), 0.25)], ids=["exact", "uncertain"])
def test_sums_of_products_with_exact_zeros_are_exact_zeros(radius: Tensor | None) -> None:
    index = torch.tensor([[0, 1, 2], [1, -1, 3]])
    operator = Sparse(torch.tensor([[1.0, -2.0, 3.0], [-1.0, 0.0, 1.0]]), index, (4,), radius)
    found = operator.enclose(Interval(torch.tensor([0.0, 0.0, 0.0, -1.0]), torch.tensor([0.0, 0.0, 0.0, 2.0])))
    assert found.lower[:2].tolist() == found.upper[:2].tolist() == [0.0, 0.0]
    assert found.lower[2] <= -1.0 and found.upper[2] >= 2.0
    unbounded = operator.enclose(Interval(torch.full((4,), -torch.inf), torch.full((4,), torch.inf)))
    assert bool(unbounded.lower.isneginf().all() and unbounded.upper.isposinf().all())
