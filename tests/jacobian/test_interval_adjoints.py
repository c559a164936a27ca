"""The interval chain rule, step by step, against exact numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Generator

from exact import DTYPE_NAMES, DTYPES, outside, random_floats, rationals
from jacobound import Graph
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.jacobian.fastlip import interval_adjoints, times_slope
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Dense, Scale, Sparse
from zoo import normal

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


@both_dtypes
def test_slopes_times_derivatives(dtype: torch.dtype) -> None:
    """All pairs of slopes with ends -1, 0, 0.3, 1 and of derivatives of all signs: held, and exact where they pass."""
    numbers = torch.tensor([-1.0, 0.0, 0.3, 1.0], dtype=dtype)
    pairs = [(a, b) for a, b in itertools.product(numbers.tolist(), repeat=2) if a <= b]
    ends = random_floats((40, 2), dtype, Generator().manual_seed(1), (-3, 3)).sort(1).values
    cases = list(itertools.product(pairs, ends.tolist()))
    slope = Interval(*torch.tensor([pair for pair, _ in cases], dtype=dtype).T)
    derivative = Interval(*torch.tensor([pair for _, pair in cases], dtype=dtype).T)
    found = times_slope(slope, derivative)
    for s, y in itertools.product((slope.lower, slope.upper), (derivative.lower, derivative.upper)):
        exact = [a * b for a, b in zip(rationals(s), rationals(y), strict=True)]
        assert outside(found.lower, exact, found.upper) == []
    one, dead = ((slope.lower == value) & (slope.upper == value) for value in (1.0, 0.0))
    assert torch.equal(found.lower[one], derivative.lower[one]) and torch.equal(found.upper[one], derivative.upper[one])
    assert not found.magnitude()[dead].any()
    assert not times_slope(Interval.exact(numbers[1:2]), Interval.whole(numbers[1:2])).magnitude().any()


@both_dtypes
@pytest.mark.parametrize("kind", ["scale", "sparse"])
def test_rows_of_uncertain_last_weights_hold_all_of_them(dtype: torch.dtype, kind: str, seed: int) -> None:
    generator = Generator().manual_seed(seed)
    weight = random_floats((2, 3), dtype, generator, (-2, 2))
    radius = random_floats((2, 3), dtype, generator, (-26, -20))
    index = torch.tensor([[0, 4, 2], [3, 1, 0]])
    operator: LinearOperator = Sparse(weight, index, (5,), radius.abs())
    if kind == "scale":
        operator = Scale(weight[0], radius[0].abs())
    x = Input(operator.in_shape)
    graph = Graph(Affine(((operator, x),)))
    found = interval_adjoints(graph, {}, {})[x]
    for row in range(1 if kind == "scale" else 2):
        for i in range(3):
            k = i if kind == "scale" else int(index[row, i])
            (stored,), (reach,) = rationals(weight[row, i]), rationals(radius[row, i].abs())
            entry = found[0, i, k]
            assert outside(entry.lower, [stored - reach], entry.upper) == []
            assert outside(entry.lower, [stored + reach], entry.upper) == []


def test_known_derivatives_are_used_on_the_way() -> None:
    generator = Generator().manual_seed(2)
    x = Input((3,))
    hidden = Elementwise(activation("relu"), Affine(((Dense(normal((4, 3), generator)), x),)))
    graph = Graph(Affine(((Dense(normal((2, 4), generator)), hidden),)))
    slopes: dict[Node, Interval] = {hidden: Interval(torch.zeros(1, 4).double(), torch.ones(1, 4).double())}
    plain = interval_adjoints(graph, slopes, {})
    half = Interval(plain[hidden.source].lower / 2, plain[hidden.source].upper / 2)
    found = interval_adjoints(graph, slopes, {hidden.source: half})
    assert torch.equal(found[hidden.source].upper, half.upper)
    assert torch.allclose(found[x].upper, plain[x].upper / 2, rtol=1e-12)
