"""The rigorous half of the SDP: proofs checked without rounding, constants against all vertices of the slope cube."""

from __future__ import annotations

import math

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from certificate_cases import NORMS, jacobians, norm_of, random_core
from exact import is_positive_semidefinite, rational_matrix, rationals
from jacobound.arithmetic.rounding import down
from jacobound.certificates.dense.barrier import Barrier, Weights
from jacobound.certificates.dense.matrices import SdpCore
from jacobound.certificates.dense.proof import _scaled_form, certified_constant, certify, dominant, is_feasible
from jacobound.certificates.dense.search import feasible_start, search


def searched(core: SdpCore, norm: tuple[float, float], tolerance: float = 1e-5) -> tuple[Barrier, Weights, Weights]:
    barrier = Barrier(core, norm[0] == math.inf, norm[1] == 1 and core.outputs > 1)
    start = feasible_start(barrier)
    assert start is not None
    found = search(barrier, start, tolerance)
    assert found.converged
    return barrier, barrier.weights(found.point), barrier.weights(start)


def constant_of(core: SdpCore, norm: tuple[float, float], tolerance: float = 1e-5) -> float:
    barrier, found, start = searched(core, norm, tolerance)
    return certify(barrier, found, start, norm).value


def exact_form(core: SdpCore, weights: Weights, moved: Tensor) -> fmpq_mat:
    """F over the rationals, for the core's matrix moved by `moved` times its radius."""
    b = rational_matrix(core.matrix)
    shift = [m * r for m, r in zip(rationals(moved), rationals(core.radius), strict=True)]
    b = b + fmpq_mat(b.nrows(), b.ncols(), shift)
    inner = rationals(torch.cat((weights.inputs, weights.neurons)))
    own = rationals(torch.cat((weights.outputs, weights.neurons)))
    scaled = fmpq_mat(b.nrows(), b.ncols(), [b[i, j] * inner[j] for i in range(b.nrows()) for j in range(b.ncols())])
    product = scaled * b.transpose()
    rows = range(b.nrows())
    return fmpq_mat(len(rows), len(rows), [(own[i] if i == j else fmpq(0)) - product[i, j] for i in rows for j in rows])


@pytest.mark.slow
@pytest.mark.parametrize("radius", [0.0, 1e-12, 1e-3])
def test_what_is_proved_is_positive_semidefinite_without_rounding(seed: int, radius: float) -> None:
    """Output weights are bisected to the least that is still proved; all corners of the radius that are tried hold."""
    generator = Generator().manual_seed(seed)
    proved = 0
    for _ in range(6):
        plain = random_core(generator, (2, 1))
        core = SdpCore(
            plain.matrix, radius * torch.rand(plain.matrix.shape, generator=generator).double(), 2, 3, (2, 1)
        )
        norm = (math.inf, 2.0) if seed else (2.0, 2.0)
        _, found, _ = searched(core, norm, 1e-3)
        low, high = 0.5, 4.0
        for _ in range(40):
            factor = (low + high) / 2
            good = is_feasible(core, Weights(found.neurons, found.inputs, found.outputs * factor))
            low, high = (low, factor) if good else (factor, high)
        least = Weights(found.neurons, found.inputs, found.outputs * high)
        if not is_feasible(core, least):
            continue
        proved += 1
        worst = -torch.ones_like(core.matrix)
        for k in range(12):
            moved = worst.sign() if k == 0 else torch.randint(0, 2, worst.shape, generator=generator).double() * 2 - 1
            moved = core.matrix.sign() if k == 1 else moved
            assert is_positive_semidefinite(exact_form(core, least, moved))
    assert proved >= 4


def test_proofs_are_tight_up_to_roundoff() -> None:
    """Lowering the least proved weights by a little breaks semidefiniteness itself."""
    core = random_core(Generator().manual_seed(3), (2, 2))
    barrier, found, start = searched(core, (2.0, 2.0))
    weights = certify(barrier, found, start, (2.0, 2.0)).weights
    lowered = Weights(weights.neurons, weights.inputs, weights.outputs * (1 - 1e-8))
    still = torch.zeros_like(core.matrix)
    assert is_positive_semidefinite(exact_form(core, weights, still))
    assert not is_positive_semidefinite(exact_form(core, lowered, still))


def test_ill_scaled_weights_are_judged_right(seed: int) -> None:
    """Rows that differ by 1e30 and nearly dependent ones: no proof of what is false."""
    generator = Generator().manual_seed(seed)
    for _ in range(20):
        core = random_core(generator, (1, 1))
        scale = torch.exp(40 * torch.randn(4, 1, generator=generator, dtype=torch.float64).clamp(-1.5, 1.5))
        matrix = core.matrix.clone()
        matrix[1] = matrix[0] * (1 + 1e-14)
        core = SdpCore(scale * matrix, core.radius, 2, 3, (1, 1))
        own = (core.matrix.square().sum(1) * (1 + 1e-13 * torch.randn(4, generator=generator).double())).clamp(1e-90)
        weights = Weights(own[2:] * 1e-60, torch.ones(3).double(), own[:2] * 2)
        if is_feasible(core, weights):
            assert is_positive_semidefinite(exact_form(core, weights, torch.zeros_like(core.matrix)))


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_constants_are_above_all_vertices_and_near_them(norm: tuple[float, float]) -> None:
    generator = Generator().manual_seed(7)
    ratios = []
    for blocks in ((1,), (3,), (2, 2), (2, 1, 2), (3, 3)):
        for outputs, inputs in ((1, 3), (2, 2), (3, 4)):
            core = random_core(generator, blocks, outputs, inputs)
            truth = float(norm_of(jacobians(core), *norm).max())
            found = constant_of(core, norm)
            assert found >= truth
            ratios.append(found / truth)
    worst = {2.0: 1.2, 1.0: 1.9, math.inf: 1.9}  # for p = 1 and q = inf all rows or columns share their multipliers
    assert max(ratios) <= (1.25 if norm == (2, 2) else 2.2 if norm[0] == 1 or norm[1] == math.inf else worst[norm[0]])
    assert min(ratios) >= 1


@pytest.mark.parametrize("norm", [(2.0, 2.0), (math.inf, 2.0), (2.0, 1.0), (math.inf, 1.0)])
def test_without_unstable_neurons_the_norm_of_the_matrix_comes_out(norm: tuple[float, float]) -> None:
    """(2, 2) exactly, (inf, 1) and its kin up to the factor of Grothendieck's inequality."""
    core = random_core(Generator().manual_seed(1), ())
    truth = float(norm_of(core.matrix.unsqueeze(0), *norm))
    found = constant_of(core, norm, 1e-6)
    assert truth <= found <= truth * (1 + 1e-5 if norm == (2, 2) else 1.3 if 2 in norm else 1.8)
    row = core.rows(torch.tensor([0]))
    assert constant_of(row, (math.inf, 2.0), 1e-6) == pytest.approx(float(row.matrix.abs().sum()), rel=1e-4)


@pytest.mark.slow
def test_one_neuron_is_solved_exactly(seed: int) -> None:
    """(2, 2): the S-lemma loses nothing. One row, p = inf: the dual is concave in one number, found on a grid."""
    generator = Generator().manual_seed(seed)
    for _ in range(5):
        core = random_core(generator, (1,), 2, 3)
        truth = float(norm_of(jacobians(core), 2, 2).max())
        assert truth <= constant_of(core, (2.0, 2.0)) <= truth * (1 + 1e-4)
        row = core.rows(torch.tensor([0]))
        r, s, p = row.matrix[0, :3], row.matrix[0, 3], row.matrix[1, :3]
        x = torch.linspace(-1, 1, 20001, dtype=torch.float64).unsqueeze(1) * s
        dual = float((r * r + 2 * r * p * x + p * p * s * s).clamp(min=0).sqrt().sum(1).max())
        assert dual * (1 - 1e-7) <= constant_of(row, (math.inf, 2.0)) <= dual * (1 + 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [(2.0, 2.0), (math.inf, 2.0)])
def test_the_search_finds_what_random_search_finds(norm: tuple[float, float], seed: int) -> None:
    """Three neurons; multipliers drawn around the best so far, in ever smaller steps."""
    generator = Generator().manual_seed(seed)
    core = random_core(generator, (1, 2), 1, 2)
    barrier, found, start = searched(core, norm)
    ours = certify(barrier, found, start, norm).value
    free = 3 + (2 if norm[0] == math.inf else 0)
    best, at = math.inf, torch.cat((start.neurons, start.inputs)).log()[:free]
    for k in range(4000):
        trial = at + 2.0 ** (-k / 300) * torch.randn(free, generator=generator, dtype=torch.float64)
        needed = barrier.needed(trial)
        if needed is None:
            continue
        value = math.sqrt(float(needed[0, 0]) * (float((-trial[3:]).exp().sum()) if free > 3 else 1.0))
        best, at = (value, trial) if value < best else (best, at)
    assert best * (1 - 1e-2) <= ours <= best * (1 + 1e-4)


@pytest.mark.parametrize("bad", [math.nan, -1.0, 0.0, math.inf, 1e-200, 1e200])
@pytest.mark.parametrize("which", ["neurons", "inputs", "outputs"])
def test_bad_multipliers_prove_nothing_and_are_replaced(bad: float, which: str) -> None:
    core = random_core(Generator().manual_seed(5), (2, 2))
    barrier, found, start = searched(core, (2.0, 2.0))
    spoiled = {name: getattr(found, name).clone() for name in ("neurons", "inputs", "outputs")}
    spoiled[which][0] = bad
    weights = Weights(**spoiled)
    assert certified_constant(core, weights, (2.0, 2.0)) == math.inf
    again = certify(barrier, weights, start, (2.0, 2.0))
    assert again.value < math.inf
    assert again.value >= float(norm_of(jacobians(core), 2, 2).max())
    assert certify(barrier, weights, None, (2.0, 2.0)).value < math.inf


def test_shapes_that_do_not_fit_prove_nothing() -> None:
    core = random_core(Generator().manual_seed(5), (2, 2))
    _, found, _ = searched(core, (2.0, 2.0))
    assert certified_constant(core, Weights(found.neurons[:3], found.inputs, found.outputs), (2.0, 2.0)) == math.inf
    assert certified_constant(core, Weights(found.neurons, found.inputs, found.outputs[:1]), (2.0, 2.0)) == math.inf


def test_a_core_that_is_not_finite_proves_nothing() -> None:
    core = random_core(Generator().manual_seed(5), (2,))
    radius = core.radius.clone()
    radius[0, 0] = math.inf
    broken = SdpCore(core.matrix, radius, 2, 3, (2,))
    _, found, start = searched(core, (2.0, 2.0))
    assert not is_feasible(broken, found)
    assert certify(Barrier(broken, False, False), found, start, (2.0, 2.0)).value == math.inf


def test_diagonally_dominant_weights_always_prove_something(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    for norm in NORMS:
        core = random_core(generator, (3, 2, 4), 2, 5)
        core = SdpCore(core.matrix, 0.01 * core.matrix.abs(), 2, 5, core.blocks)
        barrier = Barrier(core, norm[0] == math.inf, norm[1] == 1)
        assert certified_constant(core, dominant(barrier), norm) < math.inf


def test_the_radius_counts() -> None:
    """With one neuron a radius is the same as a larger matrix, to first order."""
    matrix = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    for radius in (0.0, 1e-6, 1e-2):
        core = SdpCore(matrix, torch.full_like(matrix, radius).tril(), 1, 1, (1,))
        worst = (1 + radius) * (1 + radius) * 1 + (1 + radius)
        found = constant_of(core, (2.0, 2.0))
        assert (1 + radius) + (1 + radius) <= found + 1e-12 and found <= worst * (1 + 20 * radius + 1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_any_feasible_weights_prove_what_they_say(norm: tuple[float, float], seed: int) -> None:
    """Weights that differ between inputs and between outputs, from the (inf, 1) problem, read for every norm."""
    core = random_core(Generator().manual_seed(seed), (2, 2), 2, 3)
    core = SdpCore(core.matrix * torch.tensor([1.0, 9.0, 1, 1, 1, 1]).unsqueeze(1), core.radius, 2, 3, (2, 2))
    _, found, _ = searched(core, (math.inf, 1.0))
    raised = Weights(found.neurons, found.inputs, found.outputs * 1.01)
    constant = certified_constant(core, raised, norm)
    assert float(norm_of(jacobians(core), *norm).max()) <= constant < math.inf
    inverse = 1 / raised.inputs
    entering = inverse.sum() if norm[0] == math.inf else inverse.max()
    leaving = raised.outputs.sum() if norm[1] == 1 else raised.outputs.max()
    assert constant == pytest.approx(math.sqrt(float(entering * leaving)), rel=1e-12)


def test_every_rounding_of_the_form_is_paid(seed: int) -> None:
    """Against exact products of the weights as they are, with the scales that were chosen."""
    generator = Generator().manual_seed(seed)
    own, inner = torch.rand(4, generator=generator).double() + 0.1, torch.rand(40, generator=generator).double() + 0.1
    matrix = torch.randn(4, 40, generator=generator, dtype=torch.float64)
    scale, root = own.rsqrt(), inner.sqrt()
    form, error = _scaled_form(matrix * scale.unsqueeze(1) * root, down(down(scale * scale) * own))
    b, s, d, w = rational_matrix(matrix), rationals(scale), rationals(own), rationals(inner)
    paid = rationals(error)
    for i in range(4):
        missed = fmpq(0)
        for j in range(i + 1):
            product = sum((b[i, k] * w[k] * b[j, k] for k in range(40)), fmpq(0))
            exact = s[i] * s[j] * ((d[i] if i == j else fmpq(0)) - product)
            computed = rational_matrix(form)[i, j]
            missed += max(computed - exact, fmpq(0)) if i == j else abs(computed - exact)
        assert missed <= paid[i]
    assert float(error.max()) < 1e-11
