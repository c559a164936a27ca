"""Certified norms and definiteness proofs against exact rational decisions and against what they should cost."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Tensor

from exact import (
    DTYPE_NAMES,
    DTYPES,
    at_least,
    bounds_spectral_norm,
    corners,
    identity,
    is_positive_semidefinite,
    random_floats,
    rational,
    rational_matrix,
    rationals,
    special_numbers,
)
from jacobound import JacoboundError, ShapeError
from jacobound.arithmetic import linalg
from jacobound.arithmetic.linalg import (
    dual_exponent,
    frobenius_norm_upper,
    induced_norm_upper,
    is_positive_definite,
    psd_upper_shift,
    spectral_norm_upper,
    spectral_norm_upper_interval,
    vector_norm_upper,
)
from jacobound.arithmetic.rounding import tiny, unit, unrounded

INF = math.inf
EXPONENTS = (1, 2, INF)

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)
every_exponent = pytest.mark.parametrize("p", EXPONENTS)


def holds(bound: float, entries: list[fmpq], p: float) -> bool:
    """Whether a float is at least the l_p norm of exact numbers."""
    sizes = [abs(entry) for entry in entries]
    if p == 2:
        return bound == INF or (bound >= 0 and rational(bound) ** 2 >= sum((a * a for a in sizes), fmpq(0)))
    return at_least(bound, max(sizes, default=fmpq(0)) if p == INF else sum(sizes, fmpq(0)))


# Vectors.


@both_dtypes
@every_exponent
def test_vector_norms_hold_and_are_tight(p: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    far = (-1000, 1000) if dtype == torch.float64 else (-120, 100)
    for exponents, count in itertools.product(((-3, 3), far, (-800, -790), (-140, -130), (90, 100)), (1, 3, 40)):
        x = random_floats((5, count), dtype, generator, exponents)
        found = vector_norm_upper(x, p)
        assert found.dtype == dtype
        for row, bound in zip(x, found.tolist(), strict=True):
            entries = rationals(row)
            assert holds(bound, entries, p)
            smaller = bound * (1 - (1e-6 if dtype == torch.float32 else 1e-12)) - 4 * tiny(dtype)
            assert smaller <= 0 or not holds(smaller, entries, p)


@pytest.mark.parametrize("p", [1, 2])
def test_vector_norms_cover_the_worst_sum(p: float) -> None:
    """One large term and many of one unit of roundoff, a good part of which the computed sum loses."""
    term = 0.99 * unit(torch.float64)
    for count in (10, 100, 400, 1000):
        x = torch.full((count,), term if p == 1 else term**0.5, dtype=torch.float64)
        x[0] = 1.0
        assert holds(vector_norm_upper(x, p).item(), rationals(x), p)


@both_dtypes
@every_exponent
def test_vector_norms_of_special_numbers(p: float, dtype: torch.dtype) -> None:
    numbers = special_numbers(dtype)
    pairs = torch.tensor(list(itertools.product(numbers, numbers)), dtype=dtype)
    for row, bound in zip(pairs, vector_norm_upper(pairs, p).tolist(), strict=True):
        assert holds(bound, rationals(row), p)
    assert vector_norm_upper(torch.zeros(3, 4, dtype=dtype), p).tolist() == [0.0] * 3
    assert vector_norm_upper(torch.zeros(3, 0, dtype=dtype), p).tolist() == [0.0] * 3
    broken = torch.tensor([[1.0, math.nan], [INF, 1.0], [-INF, 0.0], [math.nan, INF]], dtype=dtype)
    assert vector_norm_upper(broken, p).tolist() == [INF] * 4


@every_exponent
def test_vector_norms_along_other_axes_and_their_gradients(p: float) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    assert torch.equal(vector_norm_upper(x, p, dim=1), vector_norm_upper(x.transpose(1, 2), p))
    assert torch.allclose(vector_norm_upper(x, p, dim=0), torch.linalg.vector_norm(x, ord=p, dim=0))
    with_zero = torch.cat((x[0], torch.zeros(1, 5, dtype=torch.float64))).requires_grad_()
    (gradient,) = torch.autograd.grad(vector_norm_upper(with_zero, p).sum(), with_zero)
    assert torch.isfinite(gradient).all()
    plain = with_zero.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(torch.linalg.vector_norm(plain[:4], ord=p, dim=1).sum(), plain)
    assert torch.allclose(gradient[:4], expected[:4])


def test_dual_exponents() -> None:
    assert [dual_exponent(p) for p in (1, 2, INF)] == [INF, 2, 1]
    for p in (3, 0.5, math.nan, -1):
        with pytest.raises(ShapeError, match="1, 2 or inf"):
            dual_exponent(p)
        with pytest.raises(JacoboundError, match="1, 2 or inf"):
            vector_norm_upper(torch.ones(2), p)
        with pytest.raises(ShapeError, match="1, 2 or inf"):
            induced_norm_upper(torch.ones(2, 2), torch.ones(2, 2), 2, p)


# Spectral norms.


def matrices(generator: torch.Generator) -> list[Tensor]:
    """Small float64 matrices: random shapes and scales, rank one, nearly equal singular values, nearly singular."""
    found = []
    for rows, columns in itertools.product((1, 2, 3, 5), (1, 2, 4)):
        scale = float(torch.rand((), generator=generator) * 400 - 200)
        mixed = random_floats((rows, columns), torch.float64, generator, (-30, 30))
        plain = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
        left = torch.randn(rows, 1, dtype=torch.float64, generator=generator)
        found += [plain, mixed, plain * 10**scale, left @ plain[:1], (left @ plain[:1]) * 10**-scale]
        found.append(torch.eye(max(rows, columns), dtype=torch.float64)[:rows, :columns] + 1e-9 * plain)
        found.append(torch.ones(rows, columns, dtype=torch.float64) * (1 + 1e-15 * plain))
        found.append(torch.randint(-3, 4, (rows, columns), generator=generator).double())
    return found


def is_tight(matrix: fmpq_mat, bound: float, relative: float) -> bool:
    return bound == 0 or not bounds_spectral_norm(matrix, bound * (1 - relative))


def test_spectral_norms_hold_and_are_tight_in_float64(generator: torch.Generator) -> None:
    for matrix in matrices(generator):
        exact, bound = rational_matrix(matrix), spectral_norm_upper(matrix)
        assert bound.shape == ()
        assert bound.dtype == torch.float64
        assert bounds_spectral_norm(exact, bound.item()), matrix
        assert is_tight(exact, bound.item(), 1e-12), matrix


def test_spectral_norms_hold_and_are_tight_in_float32(generator: torch.Generator) -> None:
    for matrix in matrices(generator):
        single = matrix.float()
        bound = spectral_norm_upper(single)
        assert bound.dtype == torch.float32
        if not torch.isfinite(single).all():
            assert bound == INF
            continue
        exact = rational_matrix(single)
        assert bounds_spectral_norm(exact, bound.item()), single
        assert bound < 1e-30 or is_tight(exact, bound.item(), 4e-7), single


def test_the_plain_norm_is_sometimes_too_small(generator: torch.Generator) -> None:
    """What the proof is for: without it, a good part of these norms would be wrong."""
    plain = [(rational_matrix(m), torch.linalg.matrix_norm(m, 2).item()) for m in matrices(generator)]
    assert sum(not bounds_spectral_norm(exact, norm) for exact, norm in plain) > len(plain) // 10


@pytest.mark.parametrize(("rows", "columns"), [(120, 90), (90, 120), (200, 200), (3, 300)])
def test_spectral_norms_of_larger_matrices_are_tight(rows: int, columns: int) -> None:
    matrix = torch.randn(rows, columns, dtype=torch.float64)
    estimate = torch.linalg.svdvals(matrix)[0]
    slack = (spectral_norm_upper(matrix) / estimate - 1).item()
    assert 0 < slack < 2e-11


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-100, 1.0, 1e100, 1e200, 1e300])
def test_spectral_norms_do_not_depend_on_scale(scale: float) -> None:
    matrix = torch.randn(6, 4, dtype=torch.float64)
    power = 2.0 ** round(math.log2(scale))
    assert math.isclose(
        spectral_norm_upper(matrix * power).item() / power,
        spectral_norm_upper(matrix).item(),
        rel_tol=1e-6 if scale < 1e-250 else 1e-14,
    )


@pytest.mark.slow
def test_the_estimate_is_not_believed(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """Whatever the eigenvalue routine says, the bound holds; an estimate that is a little low costs a little."""
    matrix = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    exact, truth = rational_matrix(matrix), spectral_norm_upper(matrix).item()
    eigenvalues, roundoff = torch.linalg.eigvalsh, unit(torch.float64)
    for too_low in (*(j * roundoff for j in range(300)), 1e-12, 1e-9, 1e-3, 0.5, 1.0, math.nan, -1.0):
        with monkeypatch.context() as patch:
            patch.setattr(torch.linalg, "eigvalsh", lambda x, factor=1 - too_low: eigenvalues(x) * factor)
            bound = spectral_norm_upper(matrix).item()
        assert bounds_spectral_norm(exact, bound), too_low
        assert not 0 <= too_low < 1e-6 or bound <= truth * (1 + 8 * too_low + 1e-13)


@pytest.mark.slow
def test_a_gram_matrix_that_lost_something_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares that round away in the Gram matrix: with an estimate that is low as well, only its error bound helps."""
    rows, roundoff = 400, unit(torch.float64)
    matrix = torch.zeros(rows, 2, dtype=torch.float64)
    matrix[:, 0] = (0.99 * roundoff) ** 0.5
    matrix[0, 0] = 1.0
    matrix[0, 1] = 2.0**-30
    lost = sum((entry**2 for entry in rationals(matrix[:, 0])), fmpq(0)) - rational((matrix.T @ matrix)[0, 0].item())
    exact, eigenvalues = rational_matrix(matrix), torch.linalg.eigvalsh
    assert lost > 10 * rational(roundoff)
    for steps in range(0, 8 * rows, 8):
        with monkeypatch.context() as patch:
            low = 1 - steps * roundoff
            patch.setattr(torch.linalg, "eigvalsh", lambda x, factor=low: eigenvalues(x) * factor)
            assert bounds_spectral_norm(exact, spectral_norm_upper(matrix).item()), steps


@both_dtypes
def test_spectral_norms_of_degenerate_matrices(dtype: torch.dtype) -> None:
    assert spectral_norm_upper(torch.zeros(3, 2, dtype=dtype)) == 0
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert spectral_norm_upper(torch.zeros(shape, dtype=dtype)) == 0
        assert frobenius_norm_upper(torch.zeros(shape, dtype=dtype)) == 0
    for broken in (math.nan, INF, -INF):
        matrix = torch.eye(3, dtype=dtype)
        matrix[1, 2] = broken
        assert spectral_norm_upper(matrix) == INF
        assert frobenius_norm_upper(matrix) == INF
        assert spectral_norm_upper_interval(matrix, matrix) == INF
        assert spectral_norm_upper_interval(torch.eye(3, dtype=dtype), matrix) == INF
    largest = torch.finfo(dtype).max
    assert spectral_norm_upper(torch.full((2, 2), largest, dtype=dtype)) == INF
    smallest = torch.full((2, 2), tiny(dtype) * torch.finfo(dtype).eps, dtype=dtype)
    assert bounds_spectral_norm(rational_matrix(smallest), spectral_norm_upper(smallest).item())
    with pytest.raises(ShapeError, match="two axes"):
        spectral_norm_upper(torch.zeros(3, dtype=dtype))


def test_entries_of_very_different_size(generator: torch.Generator) -> None:
    """The scaling to the largest entry makes small ones vanish; they still count."""
    for exponents in ((-1070, 1000), (-1074, -1000), (-1074, -40)):
        for _ in range(10):
            matrix = random_floats((3, 3), torch.float64, generator, exponents)
            assert bounds_spectral_norm(rational_matrix(matrix), spectral_norm_upper(matrix).item())


def test_frobenius_norm(generator: torch.Generator) -> None:
    for matrix in matrices(generator):
        assert holds(frobenius_norm_upper(matrix).item(), rationals(matrix), 2)
        assert frobenius_norm_upper(matrix) <= torch.linalg.matrix_norm(matrix) * (1 + 1e-14) or matrix.abs().max() < 1


def test_without_rigour_the_plain_norm_with_its_gradient() -> None:
    matrix = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    with unrounded():
        norm = spectral_norm_upper(matrix)
    assert norm == torch.linalg.matrix_norm(matrix, 2)
    (gradient,) = torch.autograd.grad(norm, matrix)
    assert gradient.abs().max() > 0
    assert not spectral_norm_upper(matrix).requires_grad


@pytest.mark.parametrize("width", [0.0, 1e-12, 1e-3, 0.3, 5.0])
def test_spectral_norms_of_intervals_hold_at_all_corners(width: float, generator: torch.Generator) -> None:
    middle = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    lower, upper = middle - width, middle + width * torch.rand(2, 3, dtype=torch.float64, generator=generator)
    bound = spectral_norm_upper_interval(lower, upper).item()
    for corner in corners(lower.flatten().tolist(), upper.flatten().tolist()):
        assert bounds_spectral_norm(fmpq_mat(2, 3, [rational(entry) for entry in corner]), bound)
    plain = torch.linalg.matrix_norm(torch.maximum(lower.abs(), upper.abs()), 2).item()
    assert bound <= plain * (1 + 1e-12)
    if width < 1e-2:
        assert bound <= torch.linalg.matrix_norm(middle, 2).item() * (1 + 1e-12) + 4 * width


# Definiteness.


def symmetric(entries: Tensor) -> Tensor:
    return entries.tril() + entries.tril(-1).T


def nearly_singular(generator: torch.Generator, size: int) -> Tensor:
    """B B^T + t I with the smallest eigenvalue around a few units of roundoff of the largest, of either sign."""
    factor = torch.randn(size, max(1, size - 1), dtype=torch.float64, generator=generator)
    nudge = float(torch.randn((), generator=generator)) * 10 ** float(torch.rand((), generator=generator) * 4 - 17)
    return symmetric(factor @ factor.T + nudge * torch.eye(size, dtype=torch.float64))


def test_no_matrix_is_proved_definite_that_is_not(generator: torch.Generator) -> None:
    proved = fooled = 0
    for k in range(240):
        size = 1 + k % 6
        matrix = nearly_singular(generator, size) * 10.0 ** ((k % 5) * 60 - 120)
        truth = is_positive_semidefinite(rational_matrix(matrix))
        found = is_positive_definite(matrix)
        assert truth or not found, matrix
        proved += found
        fooled += not truth and bool(torch.linalg.cholesky_ex(matrix).info == 0)
    assert fooled > 0, "plain Cholesky should have been fooled by some of these"
    assert proved > 0


def test_sums_that_round_away_do_not_fool_the_proof() -> None:
    """Identity with a last row (1, e, ..., e), e^2 about one unit of roundoff: subtracted after the 1, they vanish.

    The matrix is definite exactly if its corner is larger than the sum of squares of that row. In which order a sum is
    taken depends on the processor and the size, so plain Cholesky need not be fooled at every size.
    """
    roundoff, fooled = unit(torch.float64), 0
    for size in (8, 32, 64, 300):
        row = torch.full((size - 1,), (0.99 * roundoff) ** 0.5, dtype=torch.float64)
        row[0] = 1.0
        needed = sum((entry**2 for entry in rationals(row)), fmpq(0))
        matrix = torch.eye(size, dtype=torch.float64)
        matrix[-1, :-1] = row
        for steps in range(0, size, 2):
            matrix[-1, -1] = 1.0 + 2 * roundoff * steps
            if rational(matrix[-1, -1].item()) <= needed:
                fooled += int(torch.linalg.cholesky_ex(matrix).info == 0)
                assert not is_positive_definite(matrix)
        matrix[-1, -1] = 1.0 + 1e-9
        assert is_positive_definite(matrix)
    assert fooled > 0, "plain Cholesky should have been fooled"


def test_definite_matrices_are_proved(generator: torch.Generator) -> None:
    for size in (1, 2, 5, 30, 100):
        factor = torch.randn(size, 2 * size, dtype=torch.float64, generator=generator)
        matrix = factor @ factor.T + 0.1 * torch.eye(size, dtype=torch.float64)
        for scale in (1e-290, 1.0, 1e290):
            assert is_positive_definite(matrix * scale)
            assert not is_positive_definite(-matrix * scale)
        assert is_positive_definite(matrix, error=0.05)
        smallest = torch.linalg.eigvalsh(matrix)[0].item()
        assert is_positive_definite(matrix, error=smallest * (1 - 1e-9))
        assert not is_positive_definite(matrix, error=smallest * (1 + 1e-9))


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_the_error_is_taken_off_in_full(scale: float, generator: torch.Generator) -> None:
    """With an error, the matrix less error times the identity must still be semidefinite, exactly."""
    for k in range(60):
        size = 1 + k % 4
        matrix = symmetric(torch.randn(size, size, dtype=torch.float64, generator=generator)) * scale
        matrix += 2 * size * scale * torch.eye(size, dtype=torch.float64)
        smallest = torch.linalg.eigvalsh(matrix)[0].item()
        error = smallest * (1 + (k % 7 - 3) * 2e-16)
        exact = rational_matrix(symmetric(matrix))
        moved = exact - rational(error) * identity(size)
        assert is_positive_semidefinite(moved) or not is_positive_definite(matrix, error)


def test_only_the_lower_triangle_is_read() -> None:
    matrix = torch.tensor([[2.0, 1e9], [1.0, 2.0]], dtype=torch.float64)
    assert is_positive_definite(matrix)
    assert not is_positive_definite(matrix.T.contiguous())
    assert is_positive_definite(matrix.float())


def test_matrices_about_which_nothing_is_proved() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    for broken in (math.nan, INF, -INF):
        for place in ((1, 1), (2, 0)):
            matrix = eye.clone()
            matrix[place] = broken
            assert not is_positive_definite(matrix)
        assert not is_positive_definite(eye, error=broken)
    assert not is_positive_definite(eye, error=-1.0)
    assert not is_positive_definite(torch.zeros(2, 2, dtype=torch.float64))
    assert not is_positive_definite(torch.tensor([[1.0, 0.0], [1e308, 1.0]], dtype=torch.float64))
    assert not is_positive_definite(torch.tensor([[1e-300, 0.0], [1e300, 1e-300]], dtype=torch.float64))
    assert is_positive_definite(torch.zeros(0, 0))
    with pytest.raises(ShapeError, match="square"):
        is_positive_definite(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="two axes"):
        is_positive_definite(torch.zeros(2))


def test_the_shift_is_that_of_the_theorem() -> None:
    """gamma_{n+1} / (1 - gamma_{n+1}) times the trace at least, in exact numbers, and not more than twice as much."""
    for size in (1, 4, 50, 1000):
        diagonal = torch.rand(size, dtype=torch.float64) + 0.5
        ratio = fmpq(size + 1, 2**53) / (1 - fmpq(size + 1, 2**53))
        exact = ratio / (1 - ratio) * sum(rationals(diagonal), fmpq(0))
        shift = psd_upper_shift(diagonal).item()
        assert at_least(shift, exact)
        assert rational(shift) <= 3 * exact


# Norms between other spaces.


def exact_norm_holds(matrix: fmpq_mat, bound: float, p: float, q: float) -> bool:
    """Whether a float is at least the operator norm from l_p to l_q, decided without rounding.

    Exact where the extreme points of the unit ball are few (p = 1, p = inf) or those of the dual one (q = 1, q = inf).
    """
    rows, columns = matrix.nrows(), matrix.ncols()
    if (p, q) == (2, 2):
        return bounds_spectral_norm(matrix, bound)
    if p == 2:
        return exact_norm_holds(matrix.transpose(), bound, 1 if q == INF else INF, 2)
    if p == 1:
        vertices = [[int(j == k) for j in range(columns)] for k in range(columns)]
    else:
        vertices = [list(signs) for signs in itertools.product((1, -1), repeat=columns)]
    images = [(matrix * fmpq_mat(columns, 1, [fmpq(v) for v in vertex])).entries() for vertex in vertices]
    assert all(len(image) == rows for image in images)
    return all(holds(bound, image, q) for image in images)


every_pair = pytest.mark.parametrize(("p", "q"), list(itertools.product(EXPONENTS, EXPONENTS)))


@both_dtypes
@every_pair
def test_induced_norms_hold_for_exact_matrices(
    p: float, q: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    for rows, columns in ((1, 1), (1, 4), (3, 1), (2, 3), (4, 3)):
        for exponents in ((-2, 2), (-20, 20), (-100, -90), (90, 100)):
            matrix = random_floats((rows, columns), dtype, generator, exponents)
            bound = induced_norm_upper(matrix, matrix, p, q)
            assert bound.shape == ()
            assert bound.dtype == dtype
            assert exact_norm_holds(rational_matrix(matrix), bound.item(), p, q)


@every_pair
def test_induced_norms_hold_for_intervals(p: float, q: float, generator: torch.Generator) -> None:
    ends = torch.randn(2, 2, 3, dtype=torch.float64, generator=generator).sort(0).values
    for lower, upper in ((ends[0], ends[1]), (ends[0], ends[0] + 1e-3), (ends[0].abs(), ends[0].abs() + 1)):
        bound = induced_norm_upper(lower, upper, p, q).item()
        for corner in corners(lower.flatten().tolist(), upper.flatten().tolist()):
            assert exact_norm_holds(fmpq_mat(2, 3, [rational(entry) for entry in corner]), bound, p, q)


@every_pair
def test_induced_norms_of_non_negative_matrices_are_exact(p: float, q: float, generator: torch.Generator) -> None:
    """There the table is attained: hardly smaller numbers are no bounds any more."""
    for rows, columns in ((1, 4), (3, 1), (3, 4)):
        matrix = torch.rand(rows, columns, dtype=torch.float64, generator=generator)
        bound = induced_norm_upper(matrix / 2, matrix, p, q).item()
        assert exact_norm_holds(rational_matrix(matrix), bound, p, q)
        assert not exact_norm_holds(rational_matrix(matrix), bound * (1 - 1e-12), p, q)


@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 2), (1, INF), (2, 2), (2, INF), (INF, INF)])
def test_induced_norms_of_signed_matrices_are_exact(p: float, q: float, generator: torch.Generator) -> None:
    matrix = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    bound = induced_norm_upper(matrix, matrix, p, q).item()
    assert not exact_norm_holds(rational_matrix(matrix), bound * (1 - 1e-12), p, q)


@pytest.mark.parametrize(("p", "q"), [(2, 1), (INF, 2), (INF, 1)])
def test_signs_are_used_where_the_table_ignores_them(p: float, q: float) -> None:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    for _ in range(4):
        signs = torch.kron(signs, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    table = {(2, 1): 32 * 32**0.5, (INF, 2): 32 * 32**0.5, (INF, 1): 1024.0}[p, q]
    conversion = {(2, 1): 32.0, (INF, 2): 32.0, (INF, 1): 32 * 32**0.5}[p, q]
    bound = induced_norm_upper(signs, signs, p, q).item()
    assert conversion <= bound <= conversion * (1 + 1e-9) < table


@every_pair
def test_induced_norms_of_degenerate_matrices(p: float, q: float) -> None:
    assert induced_norm_upper(torch.zeros(2, 3), torch.zeros(2, 3), p, q) == 0
    for shape in ((0, 3), (2, 0)):
        assert induced_norm_upper(torch.zeros(shape), torch.zeros(shape), p, q) == 0
    ones = torch.ones(2, 3)
    for broken in (INF, math.nan):
        upper = ones.clone()
        upper[0, 1] = broken
        assert induced_norm_upper(ones, upper, p, q) == INF
        assert induced_norm_upper(-upper, ones, p, q) == INF
    with pytest.raises(ShapeError, match="two axes"):
        induced_norm_upper(ones[0], ones[0], p, q)


@every_pair
def test_induced_norms_of_a_batch_are_those_of_its_matrices(p: float, q: float, generator: torch.Generator) -> None:
    lower = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)
    upper = lower + 0.1
    batch = induced_norm_upper(lower, upper, p, q)
    assert batch.shape == (2, 3)
    assert batch[1, 2] == induced_norm_upper(lower[1, 2], upper[1, 2], p, q)
    assert induced_norm_upper(lower[:0], upper[:0], p, q).shape == (0, 3)


@every_pair
def test_narrower_intervals_have_smaller_norms(p: float, q: float, generator: torch.Generator) -> None:
    middle = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    bounds = [induced_norm_upper(middle - r, middle + r, p, q).item() for r in (0.0, 1e-6, 1e-2, 0.5)]
    assert bounds == sorted(bounds)


def test_matrices_together_get_what_they_get_alone() -> None:
    """Of all sizes of numbers, with zeros, NaN and infinite entries among them; intervals of all widths."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((4, 3), (2, 7), (1, 5), (3, 3)):
        many = torch.randn(12, *shape, generator=generator, dtype=torch.float64)
        many *= 10.0 ** torch.randint(-200, 100, (12, 1, 1), generator=generator).double()
        many[3], many[5, 0, 0], many[7, 0, -1] = 0.0, math.nan, math.inf
        together = linalg.spectral_norms_upper(many)
        for one, found in zip(many, together, strict=True):
            torch.testing.assert_close(found, spectral_norm_upper(one), rtol=1e-13, atol=0.0)
        assert together[3] == 0 and together[5] == math.inf == together[7]
        width = torch.rand(12, 1, 1, generator=generator, dtype=torch.float64) * many.abs().nan_to_num()
        width[::4] = 0.0
        lower, upper = many - width, many + width
        together = linalg.spectral_norms_upper_interval(lower, upper)
        for k, found in enumerate(together):
            alone = linalg.spectral_norm_upper_interval(lower[k], upper[k])
            torch.testing.assert_close(found, alone, rtol=1e-13, atol=0.0)


def test_proofs_together_are_proofs_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(10, 4, 4, generator=generator, dtype=torch.float64)
    many = factors @ factors.mT
    many[2], many[4, 1, 1], many[6, 0, 0] = -many[2], math.nan, 0.0
    errors = torch.tensor([0.0, 1e3] * 5, dtype=torch.float64)
    found = linalg.are_positive_definite(many, errors)
    assert found.tolist() == [linalg.is_positive_definite(one, e) for one, e in zip(many, errors.tolist(), strict=True)]
    assert found[0] and not found[1] and not found[2] and not found[4] and not found[6]
