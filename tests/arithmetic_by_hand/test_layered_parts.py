"""Parts of certificates layer by layer on their own: what is added for rounding, thresholds, and chains as matrices."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import is_positive_semidefinite, rational, rational_matrix, rationals
from jacobound import InvalidOptionError
from jacobound.arithmetic.rounding import gamma, unrounded
from jacobound.certificates.dense.proof import LARGEST, SMALLEST
from jacobound.certificates.layered import proof as certificate
from jacobound.certificates.layered.chain import LayeredChain
from jacobound.certificates.layered.proof import (
    LayeredCertificate,
    _complement,
    _definite_share,
    _floor,
    layered_constant,
    powers_of_two,
    through_layer,
    through_neurons,
)
from small_cases import drawn, number, symmetric, vector

INF = math.inf
UNIT = fmpq(1, 2**53)
CLOSE = 1 + 1e-5  # gamma itself is rounded up by 1e-6


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is added to diagonals, instead of adding it."""
    found: list[Tensor] = []

    def noted(form: Tensor, doubt: Tensor) -> Tensor:
        found.append(doubt)
        return form

    monkeypatch.setattr(certificate, "_raised", noted)
    return found


# --- layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 2), (2, 9)])
@pytest.mark.parametrize("error", [0.0, 1e-3, 2.0])
def test_what_a_layer_costs(shape: tuple[int, int], error: float, added: list[Tensor]) -> None:
    """Two sums of products and a mean; with an error e at most ``|Y| (2 |W| + e) e``."""
    generator = Generator().manual_seed(1)
    rows, columns = shape
    matrix, form = drawn(generator, rows, columns), symmetric(generator, columns)
    image = through_layer(form, matrix, error)
    assert torch.equal(image, image.T) and torch.allclose(image, matrix @ form @ matrix.T, rtol=1e-12, atol=1e-12)
    size, weight = form.abs(), matrix.abs()
    spread = weight @ size @ weight.T.sum(1)
    extra = size.sum(1).max() * (2 * matrix.norm() + error) * error
    least = float(2 * columns + 1) * 2.0**-53 * spread + extra
    most = gamma(2 * columns + 6, spread) * spread * CLOSE + extra * (1 + 1e-13) + 1e-170
    assert bool((least * (1 - 1e-14) <= added[0]).all()) and bool((added[0] <= most).all())


def test_an_error_counts_with_all_of_the_form() -> None:
    """One input: the exact set of images is known, ``(w + e)^2 y`` for the worst direction."""
    for w, y, error in ((1.0, 2.0, 0.5), (0.0, 3.0, 1e-3), (-2.0, 0.25, 1e-9)):
        found = through_layer(vector(y).reshape(1, 1), vector(w).reshape(1, 1), error)
        exact = (abs(rational(w)) + rational(error)) ** 2 * rational(y)
        assert exact <= number(found) <= exact * (1 + 40 * UNIT) + fmpq(1, 10**170)


def test_floors_grow_with_the_rows_and_vanish_without_rounding() -> None:
    form = torch.zeros(5, 5, dtype=torch.float64)
    for terms in (0, 1, 30):
        assert 5 * 1e-180 <= _floor(form, terms) <= 5.1 * 1e-180
    with unrounded():
        assert _floor(form, 3) == 0.0


def test_floors_are_added(added: list[Tensor]) -> None:
    zero, none = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    through_layer(zero, zero, 0.0)
    assert bool((added[0] >= 3e-180).all()) and bool((added[0] < 4e-180).all())
    through_neurons(zero, vector(0.5, 0.5, 0.5), vector(0, 0, 0), none, vector())
    assert bool((added[1] >= 3e-180).all()) and bool((added[1] < 4e-180).all())


def test_long_sums_in_the_worst_arithmetic(monkeypatch: pytest.MonkeyPatch, added: list[Tensor]) -> None:
    """Sums and lengths of n numbers that lose n - 1 roundings, which the model allows."""
    count, exactly, length = 400, Tensor.sum, torch.linalg.vector_norm
    lost = 1 - (count - 1) * 2.0**-53
    monkeypatch.setattr(Tensor, "sum", lambda x, *rest: exactly(x, *rest) * lost)
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda x, *rest: length(x, *rest) * lost)
    error, few = 0.5, torch.full((1, 1), 2.0, dtype=torch.float64)
    through_layer(few, torch.ones(count, 1, dtype=torch.float64), error)
    assert number(added[0].amin()) >= 2 * (2 * 20 + rational(error)) * rational(error)
    wide = torch.ones(count, count, dtype=torch.float64)
    through_layer(wide, vector(1.0).expand(1, count), error)
    assert number(added[1].amin()) >= count * (2 * 20 + rational(error)) * rational(error)
    through_layer(wide, vector(2.0**-40).expand(1, count), error)
    assert number(added[2].amin()) >= count * (fmpq(40, 2**40) + rational(error)) * rational(error)
    ones = torch.ones(count, dtype=torch.float64)
    chain = LayeredChain((torch.eye(1, count, dtype=torch.float64),), (0.0,), (), ())
    monkeypatch.setattr(certificate, "_leaving", lambda *rest: vector(1.0)[0])
    found = layered_constant(chain, LayeredCertificate(0.0, (INF, 2.0), False, ones, vector(1.0), ()))
    assert number(found) ** 2 >= count
    monkeypatch.setattr(torch, "cholesky_solve", lambda reads, factor: 0.0 * reads)
    _, doubt = _complement(torch.zeros(count, count).double(), ones, ones.unsqueeze(1), 1.0)
    assert number(doubt) >= count


def test_what_is_added_is_added_upward() -> None:
    for x, y in drawn(Generator().manual_seed(2), 200, 2).tolist():
        form = certificate._raised(vector(x, 7.0, 7.0, x).reshape(2, 2), vector(abs(y), 0.0))
        assert rational(x) + abs(rational(y)) <= number(form[0, 0]) <= rational(x) + abs(rational(y)) + 4 * UNIT * 10
        assert number(form[1, 1]) >= rational(x) and form[0, 1] == form[1, 0] == 7.0
        assert float(certificate._raised(vector(x).reshape(1, 1), 0.5)) >= x + 0.5


# --- neurons -------------------------------------------------------------------------------------------------------


def test_stable_neurons_cost_their_products_alone(added: list[Tensor]) -> None:
    """Slopes of 0 and 1 round nothing but the sum; others six times a product."""
    generator = Generator().manual_seed(3)
    form, none = symmetric(generator, 3), torch.zeros(0, dtype=torch.int64)
    for middle in (vector(1, 0, 1), vector(0.3, -0.7, 1.5), vector(1, 0.3, 0)):
        found = through_neurons(form, middle, torch.zeros(3, dtype=torch.float64), none, vector())
        assert found is not None
        assert torch.allclose(found, middle.unsqueeze(1) * form * middle, rtol=1e-14)
        size = found.abs().sum(1)
        rounds = bool(((middle != 0) & (middle != 1)).any())
        expected = (gamma(3, size) + (gamma(6, size) if rounds else 0.0)) * size
        assert bool((expected * (1 - 1e-14) <= added[-1]).all())
        assert bool((added[-1] <= expected * (1 + 1e-12) + 1e-170).all())


@pytest.mark.parametrize("middle", [0.0, 1.0, 0.5, -0.7])
def test_one_unstable_neuron_by_hand(middle: float) -> None:
    """``m^2 (z + z^2 / (v - z)) + r^2 v``, a little above as a rational."""
    generator = Generator().manual_seed(4)
    for z, more, r in torch.rand(40, 3, generator=generator, dtype=torch.float64).tolist():
        v = z * (1.01 + 3 * more)
        found = through_neurons(vector(z).reshape(1, 1), vector(middle), vector(r), torch.tensor([0]), vector(v))
        assert found is not None
        m, zz, vv, rr = (rational(x) for x in (middle, z, v, r))
        # V may be lower by its rounding.
        low = vv * (1 - 8 * UNIT)
        least = m * m * (zz + zz * zz / (vv - zz)) + rr * rr * low
        most = m * m * (zz + zz * zz / (vv - zz)) * (1 + fmpq(1, 10**11)) + rr * rr * vv * (1 + 40 * UNIT)
        assert least <= number(found) <= most + fmpq(1, 10**170)


def test_doubt_of_the_complement_counts_with_the_middle_slopes(
    monkeypatch: pytest.MonkeyPatch, added: list[Tensor]
) -> None:
    """A complement that knows its matrix badly: m^2 of what it doubts is added; and r^2 V behind."""
    form, weights = symmetric(Generator().manual_seed(5), 3), vector(40.0, 50.0)
    solved, doubt = vector(1, 2, 3, 2, 5, 6, 3, 6, 9).reshape(3, 3), vector(10.0, 20.0, 30.0)
    monkeypatch.setattr(certificate, "_complement", lambda *parts: (solved, doubt))
    middle, half, unstable = vector(0.5, 2.0, -3.0), vector(0.0, 0.25, 4.0), torch.tensor([1, 2])
    found = through_neurons(form, middle, half, unstable, weights)
    assert found is not None
    total = form + solved
    assert torch.allclose(found, middle.unsqueeze(1) * total * middle, rtol=1e-14)
    behind = torch.cat((vector(0.0), half[1:].square() * weights))
    exact = middle.square() * doubt + behind
    rounding = (gamma(3, form) + gamma(6, form)) * found.abs().sum(1)
    assert bool(((exact + rounding) * (1 - 1e-15) <= added[0]).all())
    assert bool((added[0] <= (exact + rounding) * (1 + 1e-13)).all())
    monkeypatch.setattr(certificate, "_complement", lambda *parts: (None, doubt))
    assert through_neurons(form, middle, half, unstable, weights) is None


def test_shares_are_proved_from_their_threshold_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two neurons: ``(1 - s) x`` must exceed what lies beside it; bisected to the last place."""
    sizes = (0.5 + torch.rand(6, generator=Generator().manual_seed(1), dtype=torch.float64)).tolist()
    for share, beside, size in itertools.product((2.0**-3, 2.0**-20), sizes, (1.0, -(2.0**60))):
        monkeypatch.setattr(certificate, "SHARES", (share,))
        inner = size * vector(5.0, beside, beside, 5.0).reshape(2, 2)
        low, high = (beside / (1 - share) * (1 + slack) for slack in (-1e-14, 2e-14))
        for _ in range(9):
            middle = (low + high) / 2
            found = _definite_share(abs(size) * vector(middle, middle), inner)
            low, high = (low, middle) if found is not None else (middle, high)
        assert rational(high) * (1 - rational(share)) >= rational(beside)
        assert _definite_share(abs(size) * vector(high, high), inner) == share


def test_the_largest_share_is_taken_and_diagonals_have_limits() -> None:
    inner = vector(9.0, 0.5, 0.5, 9.0).reshape(2, 2)
    assert _definite_share(vector(1.0, 1.0), inner) == 2.0**-3
    assert _definite_share(vector(0.5 * (1 + 2.0**-6), 0.5 * (1 + 2.0**-6)), inner) == 2.0**-7
    nothing = torch.zeros(2, 2, dtype=torch.float64)
    for limit, beyond in ((LARGEST, INF), (SMALLEST, 0.0)):
        assert _definite_share(vector(limit, 1.0), nothing) is not None
        assert _definite_share(vector(1.0, math.nextafter(limit, beyond)), nothing) is None


def test_forms_that_are_not_finite_are_refused() -> None:
    none, ones = torch.zeros(0, dtype=torch.int64), vector(1, 1)
    for bad in (INF, math.nan):
        form = torch.eye(2, dtype=torch.float64)
        form[0, 1] = form[1, 0] = bad
        assert through_neurons(form, ones, 0 * ones, none, vector()) is None


def test_certificates_are_stored_as_they_are() -> None:
    stored = LayeredCertificate(0.1, (2.0, INF), True, vector(1.5), vector(0.3, 2.0), (vector(0.1), vector()))
    found = LayeredCertificate.from_dict(stored.to_dict())
    assert (found.value, found.norm, found.turned) == (0.1, (2.0, INF), True)
    for one, other in zip(
        (found.entering, found.leaving, *found.multipliers),
        (stored.entering, stored.leaving, *stored.multipliers),
        strict=True,
    ):
        assert torch.equal(one, other)
    for bad in (None, "0x1p0", {}):
        with pytest.raises(InvalidOptionError, match="multipliers"):
            LayeredCertificate.from_dict({**stored.to_dict(), "multipliers": bad})


def test_powers_of_two_lie_next_to_their_numbers() -> None:
    sizes = vector(1.0, 0.75, 3.0, 1e30, 1e-30, 1e200, 1e-200)
    for size, power in zip(sizes.tolist(), powers_of_two(sizes).tolist(), strict=True):
        assert math.frexp(power)[0] == 0.5
        assert size < power <= 2 * size or power in (2.0**400, 2.0**-400)


def complement(u: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """S (as its lower part and its diagonal), Z_U, and S as a whole."""
    generator = Generator().manual_seed(10 * u + n)
    below = drawn(generator, u, u).tril(-1)
    diagonal = 2 * (below + below.T).abs().sum(1) + 1
    return below, diagonal, drawn(generator, u, n), below + below.T + torch.diag(diagonal)


@pytest.mark.parametrize(("u", "n"), [(1, 1), (2, 3), (5, 5)])
def test_complements_are_dominated_with_their_rounding(u: int, n: int) -> None:
    """``Z' S^-1 Z`` below as a rational; the doubt is that of two products and a mean."""
    below, diagonal, reads, whole = complement(u, n)
    mean, doubt = _complement(below, diagonal, reads, 0.25)
    assert mean is not None and torch.equal(mean, mean.T)
    exact = rational_matrix(reads).transpose() * rational_matrix(whole).inv() * rational_matrix(reads)
    assert is_positive_semidefinite(rational_matrix(mean) + rational_matrix(torch.diag(doubt)) - exact)
    guess = torch.linalg.solve(whole, reads)
    size, weight, kept, double = guess.abs(), whole.abs(), reads.abs(), (2 * reads - whole @ guess).abs()

    def formula(first: int, second: int, third: int) -> Tensor:
        inner = first * (2 * kept + weight @ size) + second * double
        sums = (size.T @ inner).sum(1) + (size.T @ inner).sum(0)
        return 2.0**-53 * (sums / 2 + third * mean.abs().sum(1))

    expected = formula(u + 6, u + 3, 3)
    assert bool((expected * (1 - 1e-6) <= doubt).all()) and bool((doubt <= expected * (1 + 1e-4)).all())


def test_the_residual_counts_by_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any solution the bound is ``sum |Z_i|^2 / (s d_i)``; with an exact one rounding alone is left."""
    below, diagonal, reads, _ = complement(3, 4)
    with monkeypatch.context() as broken:
        broken.setattr(torch, "cholesky_solve", lambda z, factor: torch.zeros_like(z))
        mean, doubt = _complement(below, diagonal, reads, 0.125)
    assert mean is not None and not bool(mean.any())
    exact = sum(
        (x * x / (d * fmpq(1, 8)) for row, d in zip(reads, rationals(diagonal), strict=True) for x in rationals(row)),
        fmpq(0),
    )
    for entry in doubt.tolist():
        assert exact <= rational(entry) <= exact * (1 + 100 * UNIT)
    # One row and one column, a solution that is exact: the residual is its rounding, divided by a tiny share.
    for s, g in ((3.0, 5.0), (0.5, 7.0)):
        with monkeypatch.context() as broken:
            broken.setattr(torch, "cholesky_solve", lambda z, factor, g=g: torch.full_like(z, g))
            mean, doubt = _complement(torch.zeros(1, 1).double(), vector(s), vector(s * g).reshape(1, 1), 2.0**-140)
        assert mean is not None and float(mean) == s * g * g
        one = (2 * s * g * 2.0**-53) ** 2 / s * 2.0**140
        assert 7**2 * one * (1 - 1e-6) <= float(doubt) <= 7**2 * one * (1 + 1e-4)


def test_complements_that_can_not_be_formed_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    below, diagonal, reads, _ = complement(2, 2)
    assert _complement(below, -diagonal, reads, 0.5)[0] is None
    found, doubt = _complement(below, diagonal, 0 * reads, 0.5)
    assert found is not None and not bool(found.any()) and bool((doubt >= 1e-180).all())
    for bad in (INF, math.nan, 1e101, -1e101, -INF):
        guess = torch.zeros(2, 2, dtype=torch.float64)
        guess[0, 0] = bad
        monkeypatch.setattr(torch, "cholesky_solve", lambda *parts, guess=guess: guess)
        assert _complement(below, diagonal, reads, 0.5)[0] is None
    monkeypatch.setattr(torch, "cholesky_solve", lambda *parts: torch.full((2, 2), 1e100, dtype=torch.float64))
    assert _complement(below, diagonal, reads, 0.5)[0] is not None
    reads[0, 0] = 1e250
    assert _complement(below, diagonal, reads, 0.5)[0] is None
