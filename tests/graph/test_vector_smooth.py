"""Functions of whole vectors: values, ranges and constants, against sampled Jacobians and attained numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from jacobound import Graph, InvalidModelError, InvalidOptionError, InvalidRegionError, ShapeError, UnsupportedOpError
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Input, VectorFunction
from jacobound.graph.vector.attention import Attention
from jacobound.graph.vector.normalising import Normalised, Standardised, least_spread
from jacobound.graph.vector.products import MatrixProduct, Product, Quotient
from jacobound.graph.vector.rows import interval_matmul
from jacobound.graph.vector.smooth import Length, LogSoftmax, LogSumExp, Softmax

EXPONENTS = (1.0, 2.0, math.inf)
CAUSAL = torch.zeros(4, 4, dtype=torch.float64).masked_fill(torch.ones(4, 4).triu(1) > 0, -math.inf)

FUNCTIONS: dict[str, Callable[[], VectorFunction]] = {
    "softmax": lambda: Softmax((2, 5)),
    "softmax of one": lambda: Softmax((3, 1)),
    "softmax of two": lambda: Softmax((2,)),
    "log-softmax": lambda: LogSoftmax((2, 5)),
    "log-softmax of two": lambda: LogSoftmax((3, 2)),
    "log-softmax of one": lambda: LogSoftmax((3, 1)),
    "logsumexp": lambda: LogSumExp((3, 4)),
    "length": lambda: Length((3, 4)),
    "layer norm": lambda: Standardised((3, 4), eps=1e-3, floor=0.0),
    "layer norm of two": lambda: Standardised((3, 2), eps=1e-1, floor=0.0),
    "layer norm of one": lambda: Standardised((3, 1), floor=0.0),
    "rms norm": lambda: Standardised((3, 4), eps=1e-2, floor=0.0, centred=False),
    "normalize": lambda: Normalised((3, 4), eps=0.3, floor=0.0),
    "product": lambda: Product((2, 3)),
    "quotient": lambda: Quotient((2, 3)),
    "matmul": lambda: MatrixProduct((2, 3, 4), (2, 4, 2)),
    "attention": lambda: Attention((2, 4, 3), (2, 4, 3), (2, 4, 2), 3**-0.5),
    "cross attention": lambda: Attention((2, 3), (5, 3), (5, 4), 1.0),
    "causal attention": lambda: Attention((4, 3), (4, 3), (4, 2), -2.0, CAUSAL),
}


def box(function: VectorFunction, generator: Generator, size: float, width: float) -> Interval:
    """A random box in the domain of a function."""
    middle = size * torch.randn(function.in_shape, generator=generator, dtype=torch.float64)
    if isinstance(function, Quotient):
        middle[1] = middle[1].abs() + 0.3 + width
    radius = width * torch.rand(function.in_shape, generator=generator, dtype=torch.float64)
    return Interval(middle - radius, middle + radius)


def points(x: Interval, generator: Generator, count: int) -> Tensor:
    """Points of a box, half of them corners."""
    share = torch.rand(count, *x.shape, generator=generator, dtype=torch.float64)
    share[::2] = share[::2].round()
    return x.lower + share * (x.upper - x.lower)


def jacobians(function: VectorFunction, at: Tensor) -> Tensor:
    """Shape (points, outputs, inputs)."""
    found = [torch.autograd.functional.jacobian(function.value, point) for point in at]
    outputs, inputs = math.prod(function.out_shape), math.prod(function.in_shape)
    return torch.stack(found).reshape(len(at), outputs, inputs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ranges_and_constants_hold(name: str, seed: int) -> None:
    function, generator = FUNCTIONS[name](), Generator().manual_seed(seed)
    for size, width in ((1.0, 1e-3), (1.0, 0.3), (3.0, 2.0), (20.0, 1.0)):
        x = box(function, generator, size, width)
        function.require(x, "node")
        at = points(x, generator, 6)
        found, values = function.range(x), function.value(at)
        single = function.to(torch.device("cpu"), torch.float32).range(
            Interval.outward(x.lower.float(), x.upper.float())
        )
        for range_ in (found, single):
            slack = 1e-12 * (1 + values.abs())
            assert ((range_.lower.double() <= values + slack) & (values - slack <= range_.upper.double())).all()
        matrices = jacobians(function, at)
        for p in EXPONENTS:
            attained = float(torch.linalg.matrix_norm(matrices, p).max())
            assert attained <= float(function.constant(p, x)) * (1 + 1e-9), (p, size, width)
            parts = function.parts(p, x)
            assert not parts or bool((sum(part.entries.int() for part in parts) == 1).all())
            for part in parts:
                columns = matrices[..., part.entries.flatten()]
                assert float(torch.linalg.matrix_norm(columns, p).max()) <= float(part.constant) * (1 + 1e-9), p


@pytest.mark.parametrize("name", FUNCTIONS)
def test_points_have_tight_ranges(name: str, seed: int) -> None:
    function, generator = FUNCTIONS[name](), Generator().manual_seed(seed)
    x = box(function, generator, 1.0, 0.0)
    found = function.range(x)
    assert float((found.upper - found.lower).max()) < 1e-12
    assert torch.allclose(found.lower, function.value(x.lower), atol=1e-12, rtol=0)


def test_constants_on_the_whole_space_are_the_known_ones() -> None:
    whole = Interval.whole(torch.zeros(7, dtype=torch.float64))
    known = {Softmax: (0.5, 0.5, 0.5), LogSoftmax: (6, 7**0.5, 2), LogSumExp: (1, 1, 1), Length: (1, 1, 7**0.5)}
    for kind, constants in known.items():
        for p, expected in zip(EXPONENTS, constants, strict=True):
            found = float(kind((7,)).constant(p, whole))
            assert expected <= found <= expected * (1 + 1e-12)


def test_known_constants_are_attained() -> None:
    near = torch.tensor([[30.0, 30.0, 0, 0]], dtype=torch.float64)
    assert float(torch.linalg.matrix_norm(jacobians(Softmax((4,)), near), 2)) == pytest.approx(0.5, abs=1e-9)
    assert float(torch.linalg.matrix_norm(jacobians(Softmax((4,)), near), 1)) == pytest.approx(0.5, abs=1e-9)
    vertex = torch.tensor([[60.0, 0, 0, 0]], dtype=torch.float64)
    for p, expected in ((2, 2.0), (math.inf, 2.0), (1, 3.0)):
        assert float(torch.linalg.matrix_norm(jacobians(LogSoftmax((4,)), vertex), p)) == pytest.approx(expected)
    flat = Standardised((4,), eps=1e-5, floor=0.0)
    whole = Interval.whole(torch.zeros(4, dtype=torch.float64))
    steep = float(torch.linalg.matrix_norm(jacobians(flat, torch.ones(1, 4, dtype=torch.float64)), 2))
    assert steep == pytest.approx(316.2277660, rel=1e-9)
    assert steep <= float(flat.constant(2.0, whole)) <= steep * (1 + 1e-9)


def test_variance_over_a_box_is_the_least_one(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    x = box(Softmax((6, 5)), generator, 1.0, 0.4)
    least = least_spread(x)
    sampled = points(x, generator, 300)
    spread = (sampled - sampled.mean(-1, keepdim=True)).square().sum(-1)
    assert (least <= spread + 1e-12).all()
    centre = x.lower.amin(-1, keepdim=True) + torch.linspace(0, 1, 4001, dtype=torch.float64) * (
        x.upper.amax(-1, keepdim=True) - x.lower.amin(-1, keepdim=True)
    )
    distance = torch.maximum(x.lower[..., None] - centre[:, None], centre[:, None] - x.upper[..., None]).clamp(min=0)
    assert torch.allclose(least, distance.square().sum(1).amin(-1), atol=1e-5)
    assert (least_spread(Interval.whole(torch.zeros(2, 3, dtype=torch.float64))) == 0).all()


def test_floors_of_normalisations() -> None:
    x = Interval(*(torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64) + end for end in (-0.1, 0.1)))
    free, claimed = Standardised((1, 3), eps=0.0), Standardised((1, 3), eps=0.0, floor=4.0)
    least = float(((0.9**2) * 2) / 3)
    assert float(free.constant(2.0, x)) == pytest.approx(least**-0.5, rel=1e-9)
    assert float(claimed.constant(2.0, x)) == pytest.approx(0.5, rel=1e-9)
    assert claimed.assumption == "the variance of every row is assumed to be at least 4"
    assert free.assumption == ""
    wide = Interval(x.lower - 3, x.upper + 3)
    with pytest.raises(InvalidRegionError, match=r"'ln'.*variance of a row be 0.*unbounded.*variance_floor=v"):
        free.require(wide, "ln")
    with pytest.raises(InvalidRegionError, match=r"mean square of a row be 0.*is 316.2, what eps alone gives"):
        Standardised((1, 3), centred=False).require(wide, "rms")
    Standardised((1, 3), floor=0.0).require(wide, "ln")
    with pytest.raises(InvalidOptionError, match="variance floor"):
        Standardised((1, 3), floor=-1.0)


def test_attention_follows_its_formula() -> None:
    """One box around zero: radii are those of its corners, and shares are not narrowed by wide scores."""
    n, d = 4, 3
    function = Attention((n, d), (n, d), (n, d), d**-0.5)
    x = Interval(*(torch.full(function.in_shape, end, dtype=torch.float64) for end in (-9.0, 9.0)))
    radius = 9 * d**0.5
    expected = [radius**2 / d**0.5, n**0.5 * radius**2 / d**0.5, n**0.5]
    for part, constant in zip(function.parts(2.0, x), expected, strict=True):
        assert constant <= float(part.constant) <= constant * (1 + 1e-9)
    assert float(function.constant(2.0, x)) == pytest.approx(math.hypot(*expected), rel=1e-9)


def test_unbounded_arguments_are_refused_by_name() -> None:
    for name in ("product", "quotient", "matmul", "attention"):
        function = FUNCTIONS[name]()
        whole = Interval.whole(torch.zeros(function.in_shape, dtype=torch.float64))
        with pytest.raises(InvalidRegionError, match=r"node 'x'.*(unbounded.*bounded region|divisor may be zero)"):
            function.require(whole, "x")
        assert not torch.isfinite(function.constant(2.0, whole))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_expansion_is_refused_by_name_or_exact(name: str, seed: int) -> None:
    function = FUNCTIONS[name]()
    source = Input(function.in_shape)
    if function.expands:
        assert isinstance(function, Length | LogSumExp)
        x = torch.randn(5, *function.in_shape, generator=Generator().manual_seed(seed), dtype=torch.float64)
        assert torch.allclose(Graph(function.expand(source, "head"))(x), function.value(x), rtol=1e-12, atol=1e-12)
        return
    with pytest.raises(UnsupportedOpError, match=r"node 'head': .*AutoLip\(\).*until='input'"):
        function.expand(source, "head")


def test_matrix_products_of_intervals(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    a, b = box(Softmax((3, 4)), generator, 1.0, 1.0), box(Softmax((4, 2)), generator, 1.0, 1.0)
    found = interval_matmul(a, b)
    for one, two in zip(points(a, generator, 50), points(b, generator, 50), strict=True):
        assert found.contains(one @ two).all()
    a.lower[0, 0] = -math.inf
    assert not torch.isfinite(interval_matmul(a, b).lower[0]).any()
    assert torch.isfinite(interval_matmul(a, b).lower[1:]).all()


def test_shapes_and_masks_are_checked() -> None:
    with pytest.raises(ShapeError, match="rows with entries"):
        Softmax((3, 0))
    with pytest.raises(ShapeError, match="have no product"):
        MatrixProduct((2, 3), (2, 3))
    with pytest.raises(ShapeError, match="do not fit together"):
        Attention((2, 3), (2, 4), (2, 3), 1.0)
    with pytest.raises(InvalidModelError, match="without any key"):
        Attention((2, 3), (2, 3), (2, 3), 1.0, torch.full((2, 2), -math.inf, dtype=torch.float64))
    with pytest.raises(InvalidModelError, match="NaN or plus infinity"):
        Attention((2, 3), (2, 3), (2, 3), 1.0, torch.full((2, 2), math.nan, dtype=torch.float64))
    same = Attention((4, 3), (4, 3), (4, 2), 1.0, CAUSAL)
    assert same.structure() != Attention((4, 3), (4, 3), (4, 2), 1.0).structure()
