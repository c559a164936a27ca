"""Pairs of SeqLip: exact, dual and truncated bounds against all vertices, and what makes them certified."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import Generator, Tensor

from jacobound import ShapeError
from jacobound.constants.pairs import estimates as seqlip_estimates
from jacobound.constants.pairs import search as seqlip_search
from jacobound.constants.pairs.branching import enumerated, exact_bound
from jacobound.constants.pairs.dual import Pair, certified_dual, product_bound
from jacobound.constants.pairs.estimates import ascend, attained, greedy, rough_value
from jacobound.constants.pairs.search import Dual, dual_bound
from jacobound.constants.pairs.truncated import top_triplet_bound, truncated, truncated_bound

SHAPES = ((1, 7, 1), (3, 8, 5), (8, 8, 8), (2, 9, 11), (12, 6, 12), (1, 8, 6))


def tensor(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_pair(shape: tuple[int, int, int], seed: int, kind: str = "mixed") -> Pair:
    """With slopes [0, 1], or mixed ones: fixed, negative, narrow and wide."""
    generator = Generator().manual_seed(seed)
    p, n, q = shape
    left, right = tensor(p, n, generator=generator), tensor(n, q, generator=generator)
    if kind == "relu":
        return Pair(left, right, torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64))
    choices = torch.tensor([(0.0, 1.0), (0.3, 1.0), (-0.129, 1.1), (1.0, 1.0), (0.0, 0.0), (-2.0, -0.5), (0.7, 0.7001)])
    picked = choices.to(torch.float64)[torch.randint(len(choices), (n,), generator=generator)]
    return Pair(left, right, picked[:, 0].contiguous(), picked[:, 1].contiguous())


def brute(pair: Pair) -> float:
    """The largest norm over all vertices, in floating point."""
    ends = torch.stack((pair.lower, pair.upper))
    vertices = torch.tensor(list(itertools.product((0, 1), repeat=pair.neurons)))
    slopes = ends[vertices, torch.arange(pair.neurons)]
    return float(torch.linalg.matrix_norm(pair.at(slopes), 2).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["relu", "mixed"])
def test_exact_below_dual_below_product(shape: tuple[int, int, int], kind: str, seed: int) -> None:
    pair = random_pair(shape, seed, kind)
    truth, product = brute(pair), product_bound(pair)
    listed, branched = enumerated(pair), exact_bound(pair, enumerate_up_to=0)
    assert truth * (1 - 1e-14) <= listed <= truth * (1 + 1e-9)
    assert branched.complete
    assert truth * (1 - 1e-14) <= branched.upper <= truth * (1 + 1e-9)
    assert truth * (1 - 1e-14) <= dual_bound(pair).upper <= min(product, 1.07 * truth) * (1 + 1e-9)
    for slopes in (ascend(pair), greedy(pair), greedy(pair, first=True)):
        assert bool(((slopes == pair.lower) | (slopes == pair.upper)).all())
        assert attained(pair, slopes) <= truth * (1 + 1e-12)


@pytest.mark.slow
def test_one_neuron_is_exact_and_rounded_up() -> None:
    """Products of three floats, compared as rationals."""
    generator = Generator().manual_seed(3)
    for _ in range(20):
        a, b = (tensor(1, 1, generator=generator) for _ in range(2))
        pair = Pair(a, b, torch.tensor([0.1], dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64))
        truth = abs(Fraction(float(a)) * Fraction(float(b)) * Fraction(0.9))
        for value in (enumerated(pair), exact_bound(pair).upper, dual_bound(pair).upper, top_triplet_bound(pair)):
            assert truth <= Fraction(value) <= truth * (1 + Fraction(1, 10**6))


def test_bound_holds_as_rationals_where_it_is_attained() -> None:
    """One output, one input: the largest value is a sum of positive parts, which rationals add exactly."""
    generator = Generator().manual_seed(4)
    for count in (3, 10, 40, 200):
        left, right = tensor(1, count, generator=generator), tensor(count, 1, generator=generator)
        pair = Pair(left, right, torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64))
        parts = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(left[0], right[:, 0], strict=True)]
        truth = max(sum(part for part in parts if part > 0), -sum(part for part in parts if part < 0))
        values = [dual_bound(pair).upper, top_triplet_bound(pair)] + ([enumerated(pair)] if count <= 10 else [])
        for value in values:
            assert truth <= Fraction(value)
        assert Fraction(top_triplet_bound(pair)) <= truth * (1 + Fraction(1, 10**9))


def test_any_multipliers_prove_something_true_or_nothing(seed: int) -> None:
    """Random multipliers, most of them bad; the guess may be far off as well."""
    generator = Generator().manual_seed(seed)
    proved = 0
    for number in range(10):
        pair = random_pair((4, 6, 3), 100 * seed + number)
        truth, logs = brute(pair), tensor(6, generator=generator)
        for scale in (1e-3, 1.0, 10.0):
            multipliers = scale * logs.exp()
            for guess in (1e-3 * truth, 0.5 * truth, 0.9999999 * truth, 1.5 * truth, 4 * truth):
                value = certified_dual(pair, multipliers, guess)
                assert value >= truth * (1 - 1e-14)
                proved += value < math.inf
    assert proved > 3


def test_a_certificate_needs_positive_finite_multipliers() -> None:
    pair = random_pair((3, 4, 3), 0, "relu")
    good = dual_bound(pair)
    assert good.multipliers is not None
    assert certified_dual(pair, good.multipliers, good.upper) < math.inf
    for bad in (math.nan, math.inf, 0.0, -1.0, 1e-200):
        spoilt = good.multipliers.clone()
        spoilt[1] = bad
        assert certified_dual(pair, spoilt, good.upper) == math.inf


def test_a_guess_below_the_truth_proves_nothing(seed: int) -> None:
    """With one neuron the best multipliers are exact, so that the smallest provable number is the truth itself."""
    pair = random_pair((4, 1, 3), seed, "relu")
    truth, found = brute(pair), dual_bound(pair)
    assert found.multipliers is not None
    assert found.upper <= truth * (1 + 1e-6)
    for share in (0.5, 0.9, 0.97, 0.98, 0.989, 0.9899, 0.995, 0.99999):
        assert certified_dual(pair, found.multipliers, share * truth) >= truth * (1 - 1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-140, 1e-12, 1e12, 1e140])
def test_sizes_of_the_matrices_do_not_matter(scale: float) -> None:
    pair = random_pair((4, 9, 5), 1)
    other = Pair(pair.left * scale, pair.right, pair.lower, pair.upper)
    for bound in (lambda one: dual_bound(one).upper, enumerated, lambda one: exact_bound(one, enumerate_up_to=0).upper):
        assert bound(other) / scale == pytest.approx(bound(pair), rel=1e-5)
        assert bound(other) >= brute(other) * (1 - 1e-14)


def test_what_is_not_finite_bounds_nothing() -> None:
    pair = random_pair((3, 4, 3), 0, "relu")
    for spoilt in (math.nan, math.inf):
        left = pair.left.clone()
        left[0, 0] = spoilt
        bad = Pair(left, pair.right, pair.lower, pair.upper)
        assert dual_bound(bad).upper == exact_bound(bad).upper == truncated_bound(bad, 2) == enumerated(bad) == math.inf
        wide = Pair(pair.left, pair.right, pair.lower, pair.upper.clone().fill_(spoilt))
        assert dual_bound(wide).upper == exact_bound(wide).upper == math.inf


def test_rough_values_of_wide_pairs_are_attained(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    pair = random_pair((5, 9, 7), seed)
    monkeypatch.setattr(seqlip_estimates, "NARROW", 0)
    assert 0.8 * brute(pair) <= rough_value(pair) <= brute(pair) * (1 + 1e-12)


def test_nothing_passes_on() -> None:
    pair = random_pair((3, 4, 5), 0, "relu")
    zeros = torch.zeros(4, dtype=torch.float64)
    for dead in (Pair(pair.left, pair.right, zeros, zeros), Pair(0 * pair.left, pair.right, pair.lower, pair.upper)):
        assert dual_bound(dead).upper == exact_bound(dead).upper == truncated_bound(dead, 1) == 0.0
    with pytest.raises(ShapeError, match="does not fit 3 and 4 slopes"):
        Pair(pair.left, pair.right, pair.lower[:3], pair.upper)


def test_decided_neurons_leave_the_norm_of_one_matrix() -> None:
    pair = random_pair((5, 9, 7), 2)
    fixed = pair.fixed(torch.arange(9), pair.upper)
    truth = attained(fixed, pair.upper)
    for bound in (dual_bound(fixed).upper, exact_bound(fixed).upper, exact_bound(fixed, enumerate_up_to=0).upper):
        assert truth * (1 - 1e-14) <= bound <= truth * (1 + 1e-10)


def test_the_transpose_has_the_same_bound() -> None:
    pair = random_pair((4, 16, 9), 5)
    flipped = Pair(pair.right.T.contiguous(), pair.left.T.contiguous(), pair.lower, pair.upper)
    assert dual_bound(flipped).upper == pytest.approx(dual_bound(pair).upper, rel=1e-4)


@pytest.mark.slow
def test_branch_and_bound_beyond_enumeration() -> None:
    """20 neurons: the bracket closes, and every stop before is certified."""
    pair = random_pair((10, 20, 20), 7, "relu")
    found = exact_bound(pair)
    assert found.complete
    assert found.lower * (1 - 1e-12) <= found.upper <= found.lower * (1 + 1e-9)
    stopped = exact_bound(pair, nodes=1, enumerate_up_to=0)
    assert not stopped.complete
    assert found.lower * (1 - 1e-12) <= stopped.upper <= dual_bound(pair).upper * (1 + 1e-9)


def test_stopped_at_once_it_is_still_certified() -> None:
    pair = random_pair((6, 10, 6), 8, "relu")
    found = dual_bound(pair, lambda: True)
    assert not found.complete
    assert brute(pair) <= found.upper <= product_bound(pair)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 12, 6), (1, 12, 9), (9, 12, 4)])
def test_a_wide_pair_is_searched_on_its_leading_triplets(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The multipliers are only a start: the proof is made for the whole pair, so the bound holds."""
    pair = random_pair(shape, 11, "relu")
    plain = dual_bound(pair).upper
    monkeypatch.setattr(seqlip_search, "WIDE_WORK", 0)
    monkeypatch.setattr(seqlip_search, "TRIPLETS", 3)
    found = dual_bound(pair).upper
    assert brute(pair) * (1 - 1e-14) <= found <= 1.01 * plain
    start = seqlip_search._extended(Dual(pair.oriented), seqlip_search.never)
    assert Dual(pair.oriented).value(start) < math.inf


@pytest.mark.parametrize("shape", SHAPES)
def test_truncation_pays_for_what_it_leaves_out(shape: tuple[int, int, int], seed: int) -> None:
    pair = random_pair(shape, seed + 20)
    truth, product = brute(pair), product_bound(pair)
    for triplets in (1, 2, 4, 12):
        value = truncated_bound(pair, triplets)
        assert truth * (1 - 1e-14) <= value <= product
    assert truncated_bound(pair, 12) <= dual_bound(pair).upper * (1 + 1e-5)
    assert truth * (1 - 1e-14) <= top_triplet_bound(pair) <= truncated_bound(pair, 1) * (1 + 1e-9)


def test_truncation_without_its_error_would_be_wrong() -> None:
    pair = random_pair((8, 8, 8), 1, "relu")
    small, error = truncated(pair, 1)
    assert dual_bound(small).upper < 0.9 * brute(pair) < dual_bound(pair).upper
    assert float(error) > 0


def test_paper_theorem_follows(seed: int) -> None:
    """factor^2 <= (1 - r - r') max <s v, u>^2 + r + r' + r r' with ratios of singular values of unsplit layers."""
    generator = Generator().manual_seed(seed)
    first, second = tensor(9, 9, generator=generator), tensor(9, 9, generator=generator)
    (u, s, _), (_, t, vh) = (torch.linalg.svd(matrix) for matrix in (first, second))
    s, t = s * torch.tensor([5.0] + 8 * [0.3]).to(s), t * torch.tensor([5.0] + 8 * [0.3]).to(t)
    zeros, ones = torch.zeros(9, dtype=torch.float64), torch.ones(9, dtype=torch.float64)
    pair = Pair(t.sqrt().unsqueeze(1) * vh, u * s.sqrt(), zeros, ones)
    products = u[:, 0] * vh[0]
    top = max(float(products.clamp(min=0).sum()), -float(products.clamp(max=0).sum())) ** 2
    r, other = float(s[1] / s[0]), float(t[1] / t[0])
    theorem = math.sqrt((1 - r - other) * top + r + other + r * other) * product_bound(pair)
    assert brute(pair) <= top_triplet_bound(pair) <= theorem * (1 + 1e-9)
