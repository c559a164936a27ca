"""The steps of all importers against torch, in float64, over random configurations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn import functional

from jacobound import Graph, InvalidModelError, UnsupportedOpError
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Vector
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.lowering.windows import adaptive_windows, pooling_windows, weight_table
from jacobound.operators.kinds import Blocks, Sparse
from zoo import integer, normal

BATCH = 3
LIKE = torch.zeros((), dtype=torch.float64)
STEPS = AffineSteps(LIKE, BATCH)
BARE = AffineSteps(LIKE, None)  # of a model without batch axis

seeds = st.integers(0, 2**30)
many = settings(max_examples=2 * settings().max_examples)


def drawn(shape: Sequence[int], generator: Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def agree(
    shape: Sequence[int], step: Callable[[Node], Node], expected: Callable[[Tensor], Tensor], generator: Generator
) -> Graph:
    """Check a step on a node of `shape` against torch on a batch; also the graph without vector nodes."""
    source = Input(tuple(shape))
    node = step(source)
    x = drawn((BATCH, *shape), generator)
    truth = expected(x)
    assert node.shape == tuple(truth.shape[1:])
    graph = Graph(node)
    for one in (graph, graph.expanded()):
        assert torch.allclose(
            one(x).reshape(truth.shape), truth, rtol=0, atol=1e-12 * max(1.0, truth.abs().max().item())
        )
    return graph


def pick(generator: Generator, low: int, high: int, count: int) -> tuple[int, ...]:
    return tuple(integer(low, high, generator) for _ in range(count))


# --- windows -------------------------------------------------------------------------------------------------------

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


@many
@given(seed=seeds, axes=st.integers(1, 3))
def test_convolution(seed: int, axes: int) -> None:
    generator = Generator().manual_seed(seed)
    groups, stride, dilation = integer(1, 2, generator), pick(generator, 1, 3, axes), pick(generator, 1, 2, axes)
    kernel = pick(generator, 1, 3, axes)
    shape = (2 * groups, *pick(generator, 5, 6, axes))
    weight, bias = drawn((2 * groups, 2, *kernel), generator), drawn((2 * groups,), generator)
    pads = [(integer(0, 2, generator), integer(0, 2, generator)) for _ in range(axes)]
    flat = [amount for pair in reversed(pads) for amount in pair]
    agree(
        shape,
        lambda node: STEPS.convolution(
            node, weight, bias, "conv", stride=stride, pads=pads, dilation=dilation, groups=groups
        ),
        lambda x: CONVOLUTIONS[axes - 1](
            functional.pad(x, flat), weight, bias, stride=stride, dilation=dilation, groups=groups
        ),
        generator,
    )


@many
@given(seed=seeds, axes=st.integers(1, 3), biased=st.booleans())
def test_transposed_convolution(seed: int, axes: int, biased: bool) -> None:
    """All options, also output padding above the stride, which torch allows below the dilation."""
    generator = Generator().manual_seed(seed)
    groups, stride, dilation = integer(1, 2, generator), pick(generator, 1, 3, axes), pick(generator, 1, 3, axes)
    kernel = pick(generator, 1, 3, axes)
    more = tuple(integer(0, max(s, d) - 1, generator) for s, d in zip(stride, dilation, strict=True))
    shape = (2 * groups, *pick(generator, 3, 5, axes))
    padding = tuple(min(integer(0, 3, generator), (n - 1) // 2) for n in shape[1:])
    weight, bias = drawn((2 * groups, 2, *kernel), generator), drawn((2 * groups,), generator) if biased else None
    agree(
        shape,
        lambda node: STEPS.transposed_convolution(
            node,
            weight,
            bias,
            "deconv",
            stride=stride,
            pads=[(p, p) for p in padding],
            dilation=dilation,
            groups=groups,
            output_padding=more,
        ),
        lambda x: TRANSPOSED[axes - 1](x, weight, bias, stride, padding, more, groups, dilation),
        generator,
    )


def test_transposed_convolution_with_uneven_crops(generator: Generator) -> None:
    weight, bias = drawn((2, 3, 4), generator), drawn((3,), generator)
    agree(
        (2, 5),
        lambda node: STEPS.transposed_convolution(
            node, weight, bias, "deconv", stride=[2], pads=[(1, 3)], dilation=[1], groups=1, output_padding=[0]
        ),
        lambda x: functional.conv_transpose1d(x, weight, bias, 2)[..., 1:-3],
        generator,
    )
    with pytest.raises(UnsupportedOpError, match="leave nothing"):
        STEPS.transposed_convolution(
            Input((2, 1)), weight, None, "d", stride=[1], pads=[(2, 2)], dilation=[1], groups=1, output_padding=[0]
        )
    with pytest.raises(UnsupportedOpError, match="does not fit"):
        STEPS.transposed_convolution(
            Input((3, 4)), weight, None, "d", stride=[1], pads=[(0, 0)], dilation=[1], groups=1, output_padding=[0]
        )


AVERAGE = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)
LARGEST = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


@many
@given(seed=seeds, axes=st.integers(1, 3), ceil_mode=st.booleans(), counted=st.booleans(), divided=st.booleans())
def test_average_pool(seed: int, axes: int, ceil_mode: bool, counted: bool, divided: bool) -> None:
    generator = Generator().manual_seed(seed)
    kernel, stride = pick(generator, 1, 4, axes), pick(generator, 1, 4, axes)
    padding = tuple(integer(0, k // 2, generator) for k in kernel)
    divisor = {"divisor_override": integer(1, 9, generator)} if divided and axes > 1 else {}
    agree(
        (2, *pick(generator, 4, 7, axes)),
        lambda node: STEPS.average_pool(
            node,
            kernel,
            stride,
            [(p, p) for p in padding],
            "pool",
            ceil_mode=ceil_mode,
            count_padding=counted,
            divisor=divisor.get("divisor_override"),
        ),
        lambda x: AVERAGE[axes - 1](
            x, kernel, stride, padding, ceil_mode=ceil_mode, count_include_pad=counted, **divisor
        ),
        generator,
    )


@many
@given(seed=seeds, axes=st.integers(1, 3), ceil_mode=st.booleans())
def test_max_pool(seed: int, axes: int, ceil_mode: bool) -> None:
    generator = Generator().manual_seed(seed)
    kernel, stride, dilation = pick(generator, 1, 3, axes), pick(generator, 1, 3, axes), pick(generator, 1, 2, axes)
    padding = tuple(integer(0, k // 2, generator) for k in kernel)
    agree(
        (2, *pick(generator, 5, 7, axes)),
        lambda node: STEPS.max_pool(
            node, kernel, stride, [(p, p) for p in padding], "pool", dilation=dilation, ceil_mode=ceil_mode
        ),
        lambda x: LARGEST[axes - 1](x, kernel, stride, padding, dilation, ceil_mode=ceil_mode),
        generator,
    )


@given(seed=seeds, counted=st.booleans(), ceil_mode=st.booleans())
def test_pools_with_uneven_pads_and_dilation(seed: int, counted: bool, ceil_mode: bool) -> None:
    """What torch does not have: each window by hand, over an axis padded with markers."""
    generator = Generator().manual_seed(seed)
    n, k, s, d = (integer(low, high, generator) for low, high in ((4, 7), (1, 3), (1, 3), (1, 2)))
    before, after = (integer(0, k * d // 2, generator) for _ in range(2))
    windows = pooling_windows([n], [k], [s], [(before, after)], [d], ceil_mode)[0]
    entries = [[tap for tap in window if 0 <= tap < n] for window in windows]
    counts = [sum(-before <= tap < n + after for tap in w) if counted else sum(0 <= t < n for t in w) for w in windows]
    step = {"dilation": [d], "ceil_mode": ceil_mode}
    if not all(entries):
        with pytest.raises(UnsupportedOpError, match="entirely in the padding"):
            STEPS.max_pool(Input((1, n)), [k], [s], [(before, after)], "pool", **step)
        return
    agree(
        (1, n),
        lambda node: STEPS.average_pool(node, [k], [s], [(before, after)], "p", count_padding=counted, **step),
        lambda x: torch.stack([x[..., w].sum(-1) / c for w, c in zip(entries, counts, strict=True)], -1),
        generator,
    )
    agree(
        (1, n),
        lambda node: STEPS.max_pool(node, [k], [s], [(before, after)], "pool", **step),
        lambda x: torch.stack([x[..., w].amax(-1) for w in entries], -1),
        generator,
    )


@given(seed=seeds, axes=st.integers(1, 3))
def test_adaptive_pools(seed: int, axes: int) -> None:
    generator = Generator().manual_seed(seed)
    wanted = pick(generator, 1, 6, axes)
    shape = (2, *pick(generator, 2, 6, axes))
    average = getattr(functional, f"adaptive_avg_pool{axes}d")
    largest = getattr(functional, f"adaptive_max_pool{axes}d")
    agree(shape, lambda x: STEPS.adaptive_average_pool(x, wanted, "pool"), lambda x: average(x, wanted), generator)
    agree(shape, lambda x: STEPS.adaptive_max_pool(x, wanted, "pool"), lambda x: largest(x, wanted), generator)


def test_windows_of_adaptive_pools_without_a_size() -> None:
    assert adaptive_windows([3, 4], [None, 2]) == [[[0], [1], [2]], [[0, 1], [2, 3]]]
    with pytest.raises(UnsupportedOpError, match="0 windows"):
        adaptive_windows([3], [0])
    with pytest.raises(UnsupportedOpError, match="does not fit"):
        pooling_windows([3], [5], [1], [(0, 0)], None, False)


def test_factors_of_pools_hold_the_rational_ones() -> None:
    """1/3 is no float: the radius of its table holds it, and 1/4 needs none."""
    weight, index, radius = weight_table([{0: Fraction(1, 3), 2: Fraction(2, 3)}, {1: Fraction(1)}])
    assert index.tolist() == [[0, 1], [2, -1]]
    assert radius is not None and radius[0, 1] == 0
    for k, exact in enumerate((Fraction(1, 3), Fraction(2, 3))):
        error = abs(exact - Fraction(weight[k, 0].item()))
        assert error <= Fraction(radius[k, 0].item()) <= error * (1 + Fraction(1, 2**50))
    assert weight_table([{0: Fraction(1, 4)}])[2] is None


def test_a_pool_over_everything_is_a_mean(generator: Generator) -> None:
    graph = agree(
        (2, 4, 4),
        lambda node: STEPS.adaptive_average_pool(node, [1, 1], "pool"),
        lambda x: x.mean((2, 3), keepdim=True),
        generator,
    )
    assert not any(isinstance(op, Sparse) for node in graph.nodes if isinstance(node, Affine) for op, _ in node.terms)


def test_overlapping_windows_share_comparisons() -> None:
    """3 x 3 windows of stride 1: two comparisons per axis and entry, not eight."""
    graph = Graph(STEPS.max_pool(Input((1, 8, 8)), [3, 3], [1, 1], [(0, 0)] * 2, "pool")).expanded()
    neurons = sum(node.shape[0] for node in graph.nodes if isinstance(node, Elementwise))
    assert neurons <= 2 * (6 * 8) + 2 * (6 * 6)


# --- comparisons ---------------------------------------------------------------------------------------------------


@given(seed=seeds, keepdim=st.booleans())
def test_extrema_over_axes(seed: int, keepdim: bool) -> None:
    generator = Generator().manual_seed(seed)
    axes = tuple(torch.randperm(3, generator=generator)[: integer(1, 3, generator)].tolist())
    full = tuple(axis + 1 for axis in axes)
    shape = (3, 1, 4)
    agree(shape, lambda x: STEPS.maximum_over(x, axes, keepdim, "m"), lambda x: x.amax(full, keepdim), generator)
    agree(shape, lambda x: STEPS.minimum_over(x, axes, keepdim, "m"), lambda x: x.amin(full, keepdim), generator)


@given(seed=seeds)
def test_extrema_of_nodes_and_constants(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    weight = drawn((4, 4), generator)
    floor = drawn((4,), generator)
    floor[torch.rand(4, generator=generator) < 0.3] = -torch.inf
    ceiling = drawn((3, 1), generator)

    def operands(x: Node) -> list[Node | Tensor]:
        return [x, floor, STEPS.dense(x, weight, None, "dense"), ceiling, x]

    def expected(x: Tensor) -> list[Tensor]:
        return [x, floor.expand_as(x), x @ weight.T, ceiling.expand_as(x)]

    agree((3, 4), lambda x: STEPS.maximum(operands(x), "m"), lambda x: torch.stack(expected(x)).amax(0), generator)
    if bool(torch.isfinite(floor).all()):
        agree((3, 4), lambda x: STEPS.minimum(operands(x), "m"), lambda x: torch.stack(expected(x)).amin(0), generator)


def test_a_maximum_with_a_constant_compares_only_where_there_is_one(generator: Generator) -> None:
    floor = torch.tensor([-torch.inf, 0.5, -torch.inf, 0.1], dtype=torch.float64)
    graph = agree((4,), lambda x: STEPS.maximum([x, floor], "m"), lambda x: torch.maximum(x, floor), generator)
    assert [node.shape for node in graph.nodes if isinstance(node, Elementwise)] == [(2,)]
    source = Input((4,))
    assert STEPS.maximum([source, torch.full((4,), -torch.inf)], "m") is source
    assert not any(isinstance(node, Vector) for node in graph.nodes)


def test_extrema_broadcast(generator: Generator) -> None:
    row = drawn((1, 4), generator)
    agree(
        (3, 1),
        lambda x: STEPS.maximum([x, row], "m"),
        lambda x: torch.maximum(x, row.expand(BATCH, 3, 4)),
        generator,
    )
    with pytest.raises(UnsupportedOpError, match="do not fit together"):
        STEPS.maximum([Input((3,)), torch.zeros(2)], "m")
    with pytest.raises(UnsupportedOpError, match="mixes the points"):
        STEPS.maximum([Input((3,)), torch.zeros(2, BATCH, 3)], "m")
    with pytest.raises(UnsupportedOpError, match="each point"):
        STEPS.maximum([Input((3,)), torch.arange(BATCH).double()[:, None]], "m")
    with pytest.raises(InvalidModelError, match="NaN"):
        STEPS.maximum([Input((3,)), torch.full((3,), torch.nan)], "m")
    with pytest.raises(UnsupportedOpError, match="constants only"):
        STEPS.maximum([torch.zeros(3)], "m")


@given(seed=seeds, descending=st.booleans())
def test_sort(seed: int, descending: bool) -> None:
    generator = Generator().manual_seed(seed)
    shape, axis = pick(generator, 1, 5, 3), integer(-3, 2, generator)
    full = axis % 3 + 1
    agree(shape, lambda x: STEPS.sort(x, axis, descending, "s"), lambda x: x.sort(full, descending).values, generator)


# --- products ------------------------------------------------------------------------------------------------------


@given(seed=seeds, exclusive=st.booleans(), reverse=st.booleans())
def test_cumsum(seed: int, exclusive: bool, reverse: bool) -> None:
    generator = Generator().manual_seed(seed)
    shape, axis = pick(generator, 1, 5, 3), integer(0, 2, generator)

    def expected(x: Tensor) -> Tensor:
        x = x.flip(axis + 1) if reverse else x
        total = x.cumsum(axis + 1)
        total = total - x if exclusive else total
        return total.flip(axis + 1) if reverse else total

    agree(shape, lambda x: STEPS.cumsum(x, axis, "c", exclusive=exclusive, reverse=reverse), expected, generator)


@many
@given(seed=seeds, on_left=st.booleans())
def test_matmul_with_a_batch_axis(seed: int, on_left: bool) -> None:
    """Shapes as numpy broadcasts them; axes of length one on either side, vectors, stacks of matrices."""
    generator = Generator().manual_seed(seed)
    stack = pick(generator, 2, 3, integer(0, 2, generator))
    m, n, p = pick(generator, 1, 4, 3)
    shape = (*(1 if integer(0, 3, generator) == 0 else length for length in stack), *((n, p) if on_left else (m, n)))
    others = (*(1 if integer(0, 2, generator) == 0 else length for length in stack), *((m, n) if on_left else (n, p)))
    others = others[integer(0, len(stack), generator) :]
    if integer(0, 3, generator) == 0:
        others = (n,)
    constant = drawn(others, generator)
    if on_left:
        agree(shape, lambda x: STEPS.matmul(constant, x, "m"), lambda x: _product(constant, x), generator)
    else:
        agree(shape, lambda x: STEPS.matmul(x, constant, "m"), lambda x: _product(x, constant), generator)


def _product(left: Tensor, right: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(np.matmul(*pair)) for pair in zip(*_points(left, right), strict=True)])


def _points(*operands: Tensor) -> list[list[np.ndarray]]:
    """Each operand point by point; one that has no batch axis is the same for all."""
    whole = max(operands, key=lambda x: x.dim() + (x.shape[:1] == (BATCH,)) * 10)
    return [[(x[k] if x is whole else x).numpy() for k in range(BATCH)] for x in operands]


def test_matmul_of_a_vector_and_without_batch_axis(generator: Generator) -> None:
    weight = drawn((5, 4, 3), generator)
    node = BARE.matmul(Input((4,)), weight, "m")
    x = drawn((4,), generator)
    assert torch.allclose(Graph(node)(x), torch.matmul(x, weight), rtol=0, atol=1e-13)
    node = BARE.matmul(weight, Input((2, 1, 3, 6)), "m")
    x = drawn((2, 1, 3, 6), generator)
    assert torch.allclose(Graph(node)(x), torch.matmul(weight, x), rtol=0, atol=1e-13)
    agree((4,), lambda x: STEPS.matmul(x, weight[0], "m"), lambda x: x @ weight[0], generator)
    for left, right in ((weight[0].T, Input((4,))), (Input((4,)), weight), (Input((2, 3)), Input((3, 2)))):
        with pytest.raises(UnsupportedOpError):
            STEPS.matmul(left, right, "m")
    with pytest.raises(UnsupportedOpError, match="do not fit"):
        STEPS.matmul(Input((2, 5)), weight[0], "m")


EQUATIONS = [  # node first, labels of its shape with the batch "b"
    ("bij,jk->bik", (2, 3), (3, 4)),
    ("bij,ij->b", (2, 3), (2, 3)),
    ("bij,ij->bij", (2, 3), (2, 3)),
    ("bij,kj->bki", (2, 3), (4, 3)),
    ("bij,hjk->bhik", (2, 3), (2, 3, 4)),
    ("bhij,hjk->bhik", (2, 2, 3), (2, 3, 4)),
    ("bhij,hkj->bkih", (2, 2, 3), (2, 4, 3)),
    ("bij,kl->bijkl", (2, 3), (2, 2)),
    ("bij,k->bij", (2, 3), (4,)),
    ("bij,j", (2, 3), (3,)),
    ("bij,bjk->bik", (2, 3), (1, 3, 4)),
    ("b...i,ij->b...j", (2, 3), (3, 4)),
    ("...ij,...jk->...ik", (2, 2, 3), (2, 3, 4)),
    ("...i,i->...", (2, 3), (3,)),
    ("bii,i->bi", (3, 3), (3,)),
    ("bij,jj->bi", (2, 3), (3, 3)),
    ("bij,jk->bk", (2, 3), (3, 4)),
    ("b i j , j k -> b k i", (2, 3), (3, 4)),
    ("bij,->bij", (2, 3), ()),
]


@pytest.mark.parametrize(("equation", "shape", "other"), EQUATIONS, ids=[equation for equation, _, _ in EQUATIONS])
def test_einsum(equation: str, shape: tuple[int, ...], other: tuple[int, ...], generator: Generator) -> None:
    constant = drawn(other, generator)
    agree(
        shape,
        lambda x: STEPS.einsum(equation, [x, constant], "e"),
        lambda x: torch.einsum(equation, x, constant),
        generator,
    )


def test_einsum_with_several_constants_and_with_none(generator: Generator) -> None:
    one, two = drawn((3, 4), generator), drawn((4, 2, 5), generator)
    agree(
        (2, 3),
        lambda x: STEPS.einsum("jk,bij,kil->bl", [one, x, two], "e"),
        lambda x: torch.einsum("jk,bij,kil->bl", one, x, two),
        generator,
    )
    for equation in ("bij->bji", "bij->b", "bij->bj", "bij"):
        agree(
            (2, 3), lambda x, e=equation: STEPS.einsum(e, [x], "e"), lambda x, e=equation: torch.einsum(e, x), generator
        )


@pytest.mark.parametrize(
    ("equation", "others", "message"),
    [
        ("bij,jk->ik", [(3, 4)], "mixes the points"),
        ("bij,jk->ibk", [(3, 4)], "mixes the points"),
        ("bij,bk->bk", [(BATCH, 4)], "each point"),
        ("bij,jk,kl->bil", [(3, 4)], "operands"),
        ("bij,jkl->bik", [(3, 4)], "does not fit"),
        ("bij,jk->bim", [(3, 4)], "not understood"),
        ("bij,jk->bik", [(4, 4)], "do not fit"),
    ],
)
def test_einsums_that_are_refused(equation: str, others: list, message: str, generator: Generator) -> None:
    constants = [drawn(shape, generator) for shape in others]
    with pytest.raises(UnsupportedOpError, match=message):
        STEPS.einsum(equation, [Input((2, 3)), *constants], "e")
    with pytest.raises(UnsupportedOpError, match="both depend"):
        STEPS.einsum("bij,bij->b", [Input((2, 3)), Input((2, 3))], "e")


def test_matrices_of_heads_are_blocks_without_copies() -> None:
    """One matrix per head is stored once, whatever the number of positions."""
    node = STEPS.einsum("bphi,hij->bphj", [Input((50, 2, 3)), normal((2, 3, 4), Generator())], "e")
    stored = [op for n in Graph(node).nodes if isinstance(n, Affine) for op, _ in n.terms if isinstance(op, Blocks)]
    assert [tuple(op.weight.shape) for op in stored] == [(2, 4, 3)]


def test_a_resample_by_identity_changes_nothing() -> None:
    node = Input((2, 3))
    assert STEPS.resample(node, {1: [{k: Fraction(1)} for k in range(3)]}, "r") is node
    turned = STEPS.resample(node, {1: [{2 - k: Fraction(1)} for k in range(3)]}, "r")
    x = torch.arange(6.0).reshape(1, 2, 3).expand(BATCH, 2, 3).double()
    assert torch.equal(Graph(turned)(x), x.flip(2))
    with pytest.raises(UnsupportedOpError, match="do not fit an axis"):
        STEPS.resample(node, {1: [{3: Fraction(1)}]}, "r")


def test_equal_pairs_of_axes_are_tried_in_both_orders(generator: Generator) -> None:
    """Resizing one axis and then the other is the same in any order; the shrinking one comes first."""
    grow, shrink = [{k // 2: Fraction(1, 3)} for k in range(6)], [{0: Fraction(1, 5), 2: Fraction(4, 5)}]
    graph = Graph(STEPS.resample(Input((3, 3)), {0: grow, 1: shrink}, "r"))
    assert [node.shape for node in graph.nodes] == [(3, 3), (3, 1), (6, 1)]
    x = drawn((BATCH, 3, 3), generator)
    rows = torch.zeros(6, 3, dtype=torch.float64)
    rows[torch.arange(6), torch.arange(6) // 2] = 1 / 3
    column = torch.tensor([[0.2], [0.0], [0.8]], dtype=torch.float64)
    assert torch.allclose(graph(x), rows @ x @ column, rtol=0, atol=1e-14)
    assert list(itertools.chain(*[node.sources for node in graph.nodes]))
