"""Attention, part by part: shares, ranges and constants against their formulas, tight from both sides."""

from __future__ import annotations

import math

import pytest
import torch
from flint import arb, fmpq
from torch import Tensor

from exact import ball, outside, rational, rationals
from jacobound import InvalidModelError, InvalidRegionError, ShapeError, UnsafeArithmeticError
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import induced_norm_upper
from jacobound.graph.vector import attention as vector_attention
from jacobound.graph.vector.attention import SCALE_UNITS, Attention
from jacobound.graph.vector.smooth import softmax_constants
from small_cases import normal, numbers

INF = math.inf
EXPONENTS = (1.0, 2.0, INF)
CAUSAL = torch.zeros(4, 4, dtype=torch.float64).masked_fill(torch.ones(4, 4).triu(1) > 0, -INF)
BIAS = torch.tensor([[0.5, -1.0, 0.25, -INF, 1.0]] * 3, dtype=torch.float64)


FUNCTIONS = {
    "cross": lambda: Attention((3, 2), (5, 2), (5, 4), 0.7),
    "heads": lambda: Attention((2, 3, 2), (2, 3, 2), (2, 3, 3), -1.3),
    "causal": lambda: Attention((4, 3), (4, 3), (4, 2), 3**-0.5, CAUSAL),
    "biased": lambda: Attention((3, 2), (5, 2), (5, 1), 0.4, BIAS),
    "alone": lambda: Attention((1, 2), (1, 2), (1, 2), 2.0),
}


def box(function: Attention, width: float, seed: int, shift: float = 0.0) -> Interval:
    middle = normal(*function.in_shape, seed=seed) + shift
    radius = width * normal(*function.in_shape, seed=seed + 1).abs()
    return Interval(middle - radius, middle + radius)


def magnitude(x: Interval, about: Tensor | float = 0.0) -> Tensor:
    return torch.maximum((x.lower - about).abs(), (x.upper - about).abs())


def mean_square(sizes: Tensor, weights: Tensor) -> Tensor:
    return (sizes.square() * weights).sum(-1).sqrt()


def lengths(x: Tensor, p: float) -> Tensor:
    return torch.linalg.vector_norm(x, p, dim=-1)


def spread(x: Interval, shares: Interval, p: float) -> tuple[Tensor, Tensor]:
    """Rows and entries of the spread about the mean of the middles, and about the middle of the hull."""
    low, high = x.lower.amin(-2), x.upper.amax(-2)
    middle = (low + high) / 2
    about = lengths(magnitude(x, middle.unsqueeze(-2)), p)
    farthest = torch.minimum(about, lengths(magnitude(x), p)).amax(-1, keepdim=True)
    widest = torch.minimum((high - low) / 2, torch.maximum(low.abs(), high.abs())).unsqueeze(-2)
    means = (shares.lower + shares.upper) / 2 @ ((x.lower + x.upper) / 2)
    sizes = torch.maximum(
        (x.lower.unsqueeze(-3) - means.unsqueeze(-2)).abs(), (x.upper.unsqueeze(-3) - means.unsqueeze(-2)).abs()
    )  # (*lead, queries, tokens, width)
    rows = mean_square(lengths(sizes, p), shares.upper)
    entries = mean_square(sizes.mT, shares.upper.unsqueeze(-2))
    return torch.minimum(rows, farthest), torch.minimum(entries, widest)


def in_steps(p: float, q: Interval, k: Interval, v: Interval, shares: Interval) -> tuple[Tensor, Tensor]:
    def centred(x: Interval) -> tuple[Tensor, Tensor]:
        mean = ((x.lower + x.upper) / 2).mean(-2, keepdim=True)
        return x.lower - mean, x.upper - mean

    def norm(ends: tuple[Tensor, Tensor]) -> Tensor:
        return induced_norm_upper(*ends, p, p)

    turned = tuple(end.mT for end in centred(v))
    steep = softmax_constants(shares, p).amax(-1) * norm(turned)  # type: ignore[arg-type]
    return steep * norm(centred(k)), steep * norm((q.lower, q.upper))


def directly(p: float, q: Interval, k: Interval, v: Interval, shares: Interval) -> tuple[Tensor, Tensor, Tensor]:
    columns = shares.upper.sum(-2).amax(-1).clamp(max=float(shares.shape[-2]))
    if p == 2:
        values = spread(v, shares, 2)[0]
        steep = values * lengths(magnitude(q), 2)
        by_columns = mean_square(steep.unsqueeze(-2), shares.upper.mT).amax(-1)
        pairs = torch.minimum(by_columns, steep.amax(-1) * columns.sqrt())
        whole = torch.minimum(columns.sqrt(), induced_norm_upper(shares.lower, shares.upper, 2, 2))
        return (values * spread(k, shares, 2)[0]).amax(-1), pairs, whole
    if p == INF:
        values = spread(v, shares, INF)[1].amax(-1)
        keys, queries = spread(k, shares, 1)[0], lengths(magnitude(q), 1)
        return (values * keys).amax(-1), (values * queries).amax(-1), torch.ones_like(columns)
    far = lengths((v.upper.amax(-2) - v.lower.amin(-2)) / 2, 1)
    quarters = shares.upper.clamp(max=0.25).sum(-2).amax(-1).clamp(max=float(shares.shape[-2]))
    pairs = 2 * far * lengths(magnitude(q), INF).amax(-1) * quarters
    return (spread(v, shares, 1)[1].sum(-1) * spread(k, shares, INF)[0]).amax(-1), pairs, columns


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("p", EXPONENTS)
def test_constants_follow_their_formulas(name: str, p: float) -> None:
    """The smaller of two derivations for queries and keys; the largest of all heads."""
    function = FUNCTIONS[name]()
    for seed, (width, shift) in enumerate(((0.0, 0.0), (1e-3, 0.0), (0.2, 0.0), (1.0, 0.0), (0.1, 4.0), (5.0, 0.0))):
        x = box(function, width, 10 * seed, shift)
        q, k, v = function.pieces(x)
        shares = function.shares(q, k)
        straight, steps = directly(p, q, k, v, shares), in_steps(p, q, k, v, shares)
        scale = abs(function.scale)
        expected = [scale * torch.minimum(a, b).max() for a, b in zip(straight[:2], steps, strict=True)]
        expected.append(straight[2].max())
        parts = function.parts(p, x)
        for part, constant in zip(parts, expected, strict=True):
            assert float(part.constant) == pytest.approx(float(constant), rel=1e-9, abs=1e-12)
        found = torch.stack([part.constant for part in parts])
        dual = {1.0: INF, 2.0: 2.0, INF: 1.0}[p]
        assert float(function.constant(p, x)) == pytest.approx(float(lengths(found, dual)), rel=1e-12)
        sizes = [math.prod(shape) for shape in function.shapes]
        assert [int(part.entries.sum()) for part in parts] == sizes
        assert bool(parts[0].entries[0]) and bool(parts[2].entries[-1])
        assert int(parts[1].entries.nonzero()[0]) == sizes[0]


def exact_shares(function: Attention, q: Tensor, k: Tensor) -> list[list[arb]]:
    found = []
    for i, query in enumerate(q.tolist()):
        scores = []
        for j, key in enumerate(k.tolist()):
            bias = 0.0 if function.bias is None else float(function.bias.broadcast_to(len(q), len(k))[i, j])
            score = ball(function.scale) * sum((ball(a) * ball(b) for a, b in zip(query, key, strict=True)), arb(0))
            scores.append(arb(0) if bias == -INF else (score + ball(bias)).exp())
        whole = sum(scores, arb(0))
        found.append([score / whole for score in scores])
    return found


@pytest.mark.parametrize("name", ["cross", "causal", "biased", "alone"])
def test_points_are_enclosed_and_tight(name: str, seed: int) -> None:
    function = FUNCTIONS[name]()
    x = box(function, 0.0, seed)
    q, k, v = function.pieces(x)
    shares, truth = function.shares(q, k), exact_shares(function, q.lower, k.lower)
    assert outside(shares.lower, [entry for row in truth for entry in row], shares.upper) == []
    assert float((shares.upper - shares.lower).max()) < 1e-13
    if function.bias is not None:
        closed = ~(function.bias > -INF).broadcast_to(shares.shape)
        assert not shares.upper[closed].any()
        assert torch.equal(function.allowed, ~closed)
    else:
        assert function.allowed.all()
    tokens = [[ball(entry) for entry in row] for row in v.lower.tolist()]
    means = [
        sum((share * token[e] for share, token in zip(row, tokens, strict=True)), arb(0))
        for row in truth
        for e in range(len(tokens[0]))
    ]
    found = function.range(x)
    assert outside(found.lower, means, found.upper) == []
    assert float((found.upper - found.lower).max()) < 1e-13
    assert torch.allclose(function.value(x.lower).flatten(), numbers([float(mean) for mean in means]), rtol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("width", [1e-6, 0.1, 3.0])
def test_ranges_are_the_product_within_the_hull(name: str, width: float, seed: int) -> None:
    function = FUNCTIONS[name]()
    x = box(function, width, seed)
    q, k, v = function.pieces(x)
    shares, found = function.shares(q, k), function.range(x)
    middle, radius = (shares.lower + shares.upper) / 2, (shares.upper - shares.lower) / 2
    centre, wide = (v.lower + v.upper) / 2, (v.upper - v.lower) / 2
    spread = middle.abs() @ wide + radius @ (centre.abs() + wide)
    lower = torch.maximum(middle @ centre - spread, v.lower.amin(-2, keepdim=True))
    upper = torch.minimum(middle @ centre + spread, v.upper.amax(-2, keepdim=True))
    assert torch.allclose(found.lower, lower, rtol=0, atol=1e-12)
    assert torch.allclose(found.upper, upper, rtol=0, atol=1e-12)


def test_scores_cover_all_numbers_near_the_scale() -> None:
    """Eight units either way: the share of the larger score is monotone in the scale."""
    for k in range(40):
        one, two = normal(2, seed=k).abs().mul(20).tolist()
        scale = float(normal(1, seed=k + 100))
        function = Attention((1, 1), (2, 1), (2, 1), scale)
        q, keys = Interval.exact(numbers([[1.0]])), Interval.exact(numbers([[one], [two]]))
        found = function.shares(q, keys)
        for units in (-SCALE_UNITS, SCALE_UNITS):
            factor = ball(rational(scale) * (1 + units * fmpq(1, 2**53)))
            parts = [(factor * ball(size)).exp() for size in (one, two)]
            assert outside(found.lower, [part / (parts[0] + parts[1]) for part in parts], found.upper) == []


def test_the_scale_stands_for_a_neighbourhood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen alone, where scores are one and shares are the scores."""
    one = Interval.exact(numbers([[1.0]]))
    monkeypatch.setattr(vector_attention, "interval_matmul", lambda *_: one)
    monkeypatch.setattr(vector_attention, "softmax_range", lambda scores, _allowed: scores)
    unit = fmpq(1, 2**53)
    for k in range(60):
        scale = float(normal(1, seed=k))
        found = Attention((1, 1), (1, 1), (1, 1), scale).shares(one, one)
        ends = sorted(rational(scale) * (1 + units * unit) for units in (-SCALE_UNITS, SCALE_UNITS))
        assert rational(float(found.lower)) <= ends[0]
        assert rational(float(found.upper)) >= ends[1]
        assert rational(float(found.upper)) - rational(float(found.lower)) <= 50 * unit * abs(rational(scale))


def test_masks_of_several_heads() -> None:
    """A key may be hidden from all queries, a query not from all keys; heads have their own masks."""
    bias = torch.zeros(2, 3, 4, dtype=torch.float64)
    bias[0, :, 1] = -INF
    function = Attention((2, 3, 2), (2, 4, 2), (2, 4, 5), 1.0, bias)
    assert function.out_shape == (2, 3, 5)
    q, k, _ = function.pieces(box(function, 0.1, 0))
    shares = function.shares(q, k)
    assert not shares.upper[0, :, 1].any()
    assert bool((shares.lower[1, :, 1] > 0).all())
    bias[1, 2] = -INF
    with pytest.raises(InvalidModelError, match="without any key"):
        Attention((2, 3, 2), (2, 4, 2), (2, 4, 5), 1.0, bias)
    heads = FUNCTIONS["heads"]()
    x = box(heads, 0.0, 0).lower
    q, k, v = (part[1] for part in (end.lower for end in heads.pieces(Interval.exact(x))))
    alone = Attention((3, 2), (3, 2), (3, 3), -1.3).value(torch.cat((q.flatten(), k.flatten(), v.flatten())))
    assert torch.allclose(heads.value(x)[1], alone, rtol=1e-13)


def test_roots_of_mean_squares_and_sums_of_columns_are_rounded_up(seed: int) -> None:
    for k in range(20):
        sizes, weights = normal(3, seed=20 * seed + k).abs(), normal(3, seed=k + 200).abs() / 4
        truth = sum((a * a * b for a, b in zip(rationals(sizes), rationals(weights), strict=True)), fmpq(0))
        found = rational(float(vector_attention._root_mean_square(sizes, weights)))
        assert truth <= found**2 <= truth * (1 + fmpq(1, 10**13))
        shares = normal(3, 2, seed=k).abs().clamp(max=0.9)
        columns = [sum(rationals(shares[:, j]), fmpq(0)) for j in range(2)]
        found = rational(float(vector_attention._column_sums(shares)))
        assert max(columns) <= found <= max(columns) * (1 + fmpq(1, 10**14))
    assert float(vector_attention._column_sums(torch.ones(3, 2).double())) == 3
    weights = torch.full((4001,), 2.0**-53, dtype=torch.float64)
    weights[0] = 1.0
    found = rational(float(vector_attention._root_mean_square(torch.ones(4001).double(), weights)))
    assert found**2 >= sum(rationals(weights), fmpq(0))
    small = torch.full((2,), 1e-200, dtype=torch.float64)  # its squares vanish
    assert float(vector_attention._root_mean_square(small, torch.ones(2).double())) >= 1.5e-200


def test_pieces_keep_their_ends_and_shapes() -> None:
    function = FUNCTIONS["heads"]()
    x = box(function, 1.0, 0)
    lower, upper = ([part.reshape(-1) for part in x_.split([12, 12, 18])] for x_ in (x.lower, x.upper))
    for piece, low, high, shape in zip(function.pieces(x), lower, upper, function.shapes, strict=True):
        assert torch.equal(piece.lower, low.reshape(shape))
        assert torch.equal(piece.upper, high.reshape(shape))


@pytest.mark.slow
def test_columns_that_are_full_are_rounded_up() -> None:
    """Every query looks at one key alone."""
    for n in range(2, 40):
        ones = Interval.exact(torch.ones(n, 1, dtype=torch.float64))
        one = Interval.exact(numbers([[1.0]]))
        found = vector_attention._euclidean(ones, one, one, ones)
        assert n <= rational(float(found[2])) ** 2 <= n * (1 + fmpq(1, 10**13))


def test_long_sums_over_coordinates_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products behind them: a spread of the keys of one."""
    entries = torch.full((1, 1, 4001), 2.0**-53, dtype=torch.float64)
    entries[..., 0] = 1.0
    known = vector_attention._Spread(numbers([[1.0]]), entries)
    monkeypatch.setattr(vector_attention._Spread, "of", staticmethod(lambda *_: known))
    one = Interval.exact(numbers([[[1.0]]]))
    found = vector_attention._in_l1(one, one, one, one)[0]
    assert rational(float(found)) >= sum(rationals(entries), fmpq(0))


def test_products_of_spreads_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sizes of spreads, queries and norms given."""
    function = Attention((1, 1), (1, 1), (1, 1), 0.3)
    one = Interval.exact(numbers([[1.0]]))
    monkeypatch.setattr(vector_attention, "_by_steps", lambda *_: (numbers([INF]), numbers([INF])))
    for k in range(60):
        row, entry, size, scale = normal(4, seed=k).abs().tolist()
        known = vector_attention._Spread(numbers([row]), numbers([[entry]]))
        monkeypatch.setattr(vector_attention._Spread, "of", staticmethod(lambda *_, known=known: known))
        q = Interval.exact(numbers([[size]]))
        r, e, s = rational(row), rational(entry), rational(size)
        euclidean = vector_attention._euclidean(q, one, one, one)
        uniform = vector_attention._in_linf(q, one, one, one)
        wide = Interval(numbers([[-entry]]), numbers([[entry]]))
        manhattan = vector_attention._in_l1(q, one, wide, one)
        for found, truth in (
            (euclidean[0], r * r),
            (euclidean[1], r * s),
            (euclidean[2], fmpq(1)),
            (uniform[0], e * r),
            (uniform[1], e * s),
            (manhattan[0], e * r),
            (manhattan[1], 2 * e * s / 4),
            (manhattan[2], fmpq(1)),
        ):
            assert truth <= rational(float(found)) <= truth * (1 + fmpq(1, 10**13))
        scaled = Attention((1, 1), (1, 1), (1, 1), scale)
        monkeypatch.setattr(vector_attention, "_in_linf", lambda *_, size=size: (numbers([size]),) * 3)
        parts = scaled.parts(INF, Interval.exact(numbers([1.0, 1.0, 1.0])))
        near = rational(scale) * (1 + SCALE_UNITS * fmpq(1, 2**53))
        for part, truth in zip(parts, (near * s, near * s, s), strict=True):
            assert truth <= rational(float(part.constant)) <= truth * (1 + fmpq(1, 10**14))
        monkeypatch.undo()
        monkeypatch.setattr(vector_attention, "_by_steps", lambda *_: (numbers([INF]), numbers([INF])))
    assert function.name == "attention of 1 to 1"


def test_constants_by_steps_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Interval.exact(numbers([[1.0]]))
    for k in range(60):
        steep, size = normal(2, seed=k).abs().tolist()
        monkeypatch.setattr(vector_attention, "softmax_constants", lambda *_, steep=steep: numbers([steep]))
        monkeypatch.setattr(vector_attention, "_norms", lambda *_, size=size: numbers(size))
        for found in vector_attention._by_steps(2.0, one, one, one, one):
            truth = rational(steep) * rational(size) ** 2
            assert truth <= rational(float(found)) <= truth * (1 + fmpq(1, 10**14))


def test_attentions_that_make_no_sense() -> None:
    for shapes in (
        ((3,), (5, 3), (5, 2)),
        ((2, 3), (3,), (5, 2)),
        ((2, 3), (5, 3), (2,)),
        ((2, 3), (5, 2), (5, 2)),
        ((2, 3), (5, 3), (4, 2)),
        ((2, 2, 3), (5, 3), (5, 2)),
        ((2, 2, 3), (2, 5, 3), (3, 5, 2)),
        ((0, 3), (5, 3), (5, 2)),
    ):
        with pytest.raises(ShapeError, match="do not fit together"):
            Attention(*shapes, 1.0)
    for scale in (math.nan, INF, -INF):
        with pytest.raises(InvalidModelError, match="scale of an attention"):
            Attention((1, 1), (1, 1), (1, 1), scale)
    for bad in (math.nan, INF):
        bias = torch.zeros(3, 5, dtype=torch.float64)
        bias[1, 2] = bad
        with pytest.raises(InvalidModelError, match="NaN or plus infinity"):
            Attention((3, 2), (5, 2), (5, 4), 1.0, bias)
    bias = torch.zeros(3, 5, dtype=torch.float64)
    bias[1] = -INF
    with pytest.raises(InvalidModelError, match="without any key"):
        Attention((3, 2), (5, 2), (5, 4), 1.0, bias)


def test_attentions_are_moved_and_told_apart() -> None:
    function = FUNCTIONS["biased"]()
    moved = function.to(torch.device("cpu"), torch.float32)
    assert moved.like.dtype == torch.float32
    assert moved.bias is not None
    assert moved.bias.dtype == torch.float32
    assert function.structure() == Attention((3, 2), (5, 2), (5, 1), 0.4, BIAS.clone()).structure()
    others = [
        function,
        Attention((3, 2), (5, 2), (5, 1), 0.4),
        Attention((3, 2), (5, 2), (5, 1), 0.5, BIAS),
        Attention((3, 2), (5, 2), (5, 1), 0.4, BIAS + 1),
        Attention((3, 2), (5, 2), (5, 2), 0.4, BIAS),
    ]
    assert len({other.structure() for other in others}) == len(others)
    with pytest.raises(UnsafeArithmeticError, match="mask of an attention"):
        Attention((3, 2), (5, 2), (5, 1), 0.4, BIAS + 0.1).to(torch.device("cpu"), torch.float32)
    with pytest.raises(InvalidRegionError, match="attention of 3 to 5"):
        function.require(Interval.whole(torch.zeros(function.in_shape, dtype=torch.float64)), "x")
