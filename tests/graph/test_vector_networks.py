"""Networks that mix functions of whole vectors with everything else: constants hold at sampled points and secants."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from jacobound import (
    CROWN,
    IBP,
    AutoLip,
    Ball,
    Box,
    Budget,
    Graph,
    InvalidRegionError,
    Sampling,
    SeqLip,
    Status,
    UnsupportedOpError,
    WholeSpace,
    bound_output,
    lipschitz,
)
from jacobound.activations import activation
from jacobound.arithmetic.rounding import unrounded
from jacobound.constants.affine_folding import rows_alone
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.operators.kinds import Dense, Select
from jacobound.operators.norms import linear_norm
from oracles import autodiff
from zoo import integer, normal

TOKENS, WIDTH = 3, 4
STEPS = AffineSteps(torch.zeros((), dtype=torch.float64), None, 0.0)
EXPONENTS = (1, 2, math.inf)
BRIEF = Sampling(points=4, steps=1, ascents=2)


def linear(node: Node, width: int, generator: Generator, name: str = "linear") -> Affine:
    """One matrix for every token."""
    scale = 1.2 / math.sqrt(node.shape[-1])
    weight = Dense(normal((width, node.shape[-1]), generator, scale), node.shape[:-1])
    return Affine(((weight, node),), normal(weight.out_shape, generator, 0.5), name)


def softmaxed(node: Node, generator: Generator) -> Node:
    return STEPS.softmax(linear(node, WIDTH, generator), integer(0, 1, generator), "softmax")


def log_softmaxed(node: Node, generator: Generator) -> Node:
    return STEPS.log_softmax(node, -1, "log-softmax")


def summed(node: Node, generator: Generator) -> Node:
    """Log-sum-exp and length of the tokens, spread over the width."""
    parts = [STEPS.logsumexp(node, [1], True, "logsumexp"), STEPS.length(linear(node, 3, generator), [1], True, "norm")]
    wide = [STEPS.expand(part, node.shape, f"wide{k}") for k, part in enumerate(parts)]
    return STEPS.add([(1.0, wide[0]), (-0.5, wide[1])], None, "sums")


def normed(node: Node, generator: Generator) -> Node:
    gamma, beta = normal((WIDTH,), generator), normal((WIDTH,), generator)
    kind = integer(0, 3, generator)
    if kind == 0:
        return STEPS.layer_norm(node, [1], gamma, beta, 0.1, "layer norm")
    if kind == 1:
        return STEPS.rms_norm(node, [0, 1], gamma, 0.1, "rms norm")
    if kind == 2:
        return STEPS.group_norm(node, TOKENS, None, normal((TOKENS,), generator), 0.1, "group norm")
    return STEPS.normalize(node, [integer(0, 1, generator)], 0.2, "normalised")


def gated(node: Node, generator: Generator) -> Node:
    gate = Elementwise(activation("silu"), linear(node, WIDTH, generator, "gate"), "silu")
    return STEPS.product(gate, linear(node, WIDTH, generator, "up"), "product")


def divided(node: Node, generator: Generator) -> Node:
    positive = Elementwise(activation("softplus"), linear(node, WIDTH, generator), "softplus")
    shifted = STEPS.add([(1.0, positive)], torch.full(positive.shape, 0.5, dtype=torch.float64), "shifted")
    return STEPS.quotient(node, shifted, "quotient")


def mixed(node: Node, generator: Generator) -> Node:
    other = linear(node, WIDTH, generator)
    turned = STEPS.move(other, lambda x: x.mT, "turned")
    return STEPS.matrix_product(STEPS.matrix_product(node, turned, "scores"), other, "matmul")


def attended(node: Node, generator: Generator) -> Node:
    """With one packed projection, two heads, and a causal mask now and then."""
    packed = linear(node, 3 * WIDTH, generator, "packed")

    def part(k: int) -> Node:
        return STEPS.move(
            packed,
            lambda x: x.narrow(-1, k * WIDTH, WIDTH).reshape(TOKENS, 2, WIDTH // 2).transpose(0, 1),
            f"part{k}",
        )

    bias = torch.zeros(TOKENS, TOKENS, dtype=torch.float64).masked_fill(
        torch.ones(TOKENS, TOKENS).triu(1) > 0, -math.inf
    )
    found = STEPS.attention(part(0), part(1), part(2), 2**-0.5, bias if integer(0, 1, generator) else None, "attention")
    return STEPS.move(found, lambda x: x.transpose(0, 1).reshape(TOKENS, WIDTH), "heads")


def written_out(node: Node, generator: Generator) -> Node:
    q, k, v = (linear(node, WIDTH, generator, name) for name in "qkv")
    scores = STEPS.matrix_product(q, STEPS.move(k, lambda x: x.mT, "turned"), "scores")
    return STEPS.matrix_product(STEPS.softmax(STEPS.divide(scores, 3.0, "scaled"), -1, "shares"), v, "mixed")


def pooled(node: Node, generator: Generator) -> Node:
    image = STEPS.reshape(node, (1, TOKENS, WIDTH), "image")
    pool = STEPS.max_pool(image, [2, 3], [1, 1], [(1, 0), (1, 1)], "pool")
    return STEPS.reshape(pool, (TOKENS, WIDTH), "pooled")


def sorted_(node: Node, generator: Generator) -> Node:
    return STEPS.sort(node, -1, False, "sorted")


def activated(node: Node, generator: Generator) -> Node:
    kinds = ("relu", "tanh", "gelu", "leaky_relu:-0.5")
    return Elementwise(activation(kinds[integer(0, 3, generator)]), linear(node, WIDTH, generator), "activation")


FUNCTIONS = (softmaxed, log_softmaxed, summed, normed, gated, divided, mixed, attended, written_out)
BLOCKS: dict[str, Callable[[Node, Generator], Node]] = {
    one.__name__: one for one in (*FUNCTIONS, pooled, sorted_, activated)
}


def network(generator: Generator, first: str) -> Graph:
    """Three blocks in a row, each alone, with a skip, or with all earlier ones added; a linear map may come twice."""
    node: Node = linear(Input((TOKENS, WIDTH)), WIDTH, generator, "first")
    earlier, names = [node], list(BLOCKS)
    shared = Dense(normal((WIDTH, WIDTH), generator, 0.4), (TOKENS,))
    for depth in range(3):
        name = first if depth == 0 else names[integer(0, len(names) - 1, generator)]
        found = BLOCKS[name](node, generator)
        kind = integer(0, 3, generator)
        if kind == 1:
            found = STEPS.add([(1.0, node), (0.5, found)], None, "skip")
        if kind == 2:
            found = STEPS.add([(1.0, found), *((0.3, one) for one in earlier)], None, "dense")
        if kind == 3:
            found = Affine(((shared, found),), None, "shared")
        earlier.append(found)
        node = found
    return Graph(linear(node, 2, generator, "last"))


@pytest.mark.parametrize(("radius", "p"), [(1e-3, 2), (0.1, 2), (0.1, 1), (0.1, math.inf), (0.5, 2)])
@pytest.mark.parametrize("first", BLOCKS)
def test_constants_hold_over_random_networks(first: str, radius: float, p: float, seed: int) -> None:
    generator = Generator().manual_seed(1000 + seed)
    graph = network(generator, first)
    centre = normal((TOKENS, WIDTH), generator, 0.7)
    region = Ball(centre, radius, p=2 if seed else math.inf)
    domains, _ = region.domains(graph)
    points = domains[0:1].sample(12, generator)[0]
    found = lipschitz(graph, region, AutoLip(), norm=(p, p), search=BRIEF)
    upper = float(found.upper)
    jacobians = autodiff(graph, points)
    assert float(torch.linalg.matrix_norm(jacobians, p).max()) <= upper * (1 + 1e-9), (radius, p)
    values = graph(points).flatten(1)
    for x, y, one, two in zip(points, points.roll(1, 0), values, values.roll(1, 0), strict=True):
        distance = float(torch.linalg.vector_norm((x - y).flatten(), p))
        gap = float(torch.linalg.vector_norm(one - two, p))
        assert gap <= upper * distance + 1e-12 * (1 + float(one.abs().max()))
    assert float(found.lower) <= upper
    if p == 2 and radius == 0.1:
        pairs = lipschitz(graph, region, SeqLip(), search=None)
        assert pairs.status.certified
        assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= float(pairs.upper) * (1 + 1e-9)
        assert float(pairs.upper) <= upper * (1 + 1e-9)
    for method in (IBP(), CROWN()):
        bounds = bound_output(graph, region, method)
        assert ((bounds.lower - 1e-9 <= graph(points)) & (graph(points) <= bounds.upper + 1e-9)).all()


@pytest.mark.slow
def test_a_packed_projection_costs_no_more_than_three_of_its_own(seed: int) -> None:
    """Queries, keys and values by one matrix or by its parts: the same constant."""
    generator = Generator().manual_seed(seed)
    x, weight = Input((TOKENS, WIDTH)), normal((3 * WIDTH, WIDTH), generator)
    packed = Affine(((Dense(weight, (TOKENS,)), x),), None, "packed")
    together = [STEPS.move(packed, lambda t, k=k: t.narrow(-1, k * WIDTH, WIDTH), f"part{k}") for k in range(3)]
    apart: list[Node] = [Affine(((Dense(part, (TOKENS,)), x),)) for part in weight.chunk(3)]
    region = Ball(normal((TOKENS, WIDTH), generator), 0.2)
    for p in EXPONENTS:
        one, two = (
            float(lipschitz(Graph(STEPS.attention(*parts, 0.5, None, "a")), region, AutoLip(), norm=(p, p)).upper)
            for parts in (together, apart)
        )
        assert one == pytest.approx(two, rel=1e-9)


def test_rows_of_a_packed_matrix_have_their_own_norm(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    packed = Dense(normal((5, WIDTH), generator), (TOKENS,))
    order = torch.randperm(TOKENS * 5, generator=generator).reshape(TOKENS, 5)
    taken = Select(torch.where(order % 5 == 4, -1, order), (TOKENS, 5), STEPS.like)
    kept = (order % 5 == 1) | (order % 5 == 3)
    matrix = (taken.materialise() @ packed.materialise())[kept.flatten()]
    for p in EXPONENTS:
        truth = float(torch.linalg.matrix_norm(matrix, p))
        alone = rows_alone(((packed, taken),), kept)
        assert alone is not None and truth <= float(linear_norm(alone, p)) <= truth * (1 + 1e-9)
    assert rows_alone(((packed, taken),), order % 5 == 4) == ()
    twice = Select(torch.zeros(2, 1, dtype=torch.int64), (TOKENS, 5), STEPS.like)
    assert rows_alone(((packed, twice),), torch.ones(2, 1, dtype=torch.bool)) is None
    assert rows_alone(((packed,),), kept) is None


def test_parts_of_a_product_count_with_their_own_constants() -> None:
    """x y with |x| <= 1 behind a steep map and |y| <= 3: 3 L_x + 1 L_y, not the joint constant of the pair."""
    x = Input((1,))
    steep = Affine(((Dense(torch.tensor([[100.0]]).double()), x),), None, "steep")
    one = Elementwise(activation("tanh"), steep, "bounded")
    two = Affine(((Dense(torch.tensor([[3.0]]).double()), x),), None, "gentle")
    graph = Graph(STEPS.product(one, two, "product"))
    found = float(lipschitz(graph, Box([-1.0], [1.0]), AutoLip()).upper)
    assert found == pytest.approx(3 * 100 + 1 * 3, rel=1e-6)


@pytest.mark.slow
def test_attention_as_one_function_is_tighter_than_its_steps() -> None:
    generator, x = Generator().manual_seed(0), Input((12, WIDTH))
    q, k, v = (linear(x, WIDTH, generator, name) for name in "qkv")
    scores = STEPS.matrix_product(q, STEPS.move(k, lambda t: t.mT, "turned"), "scores")
    shares = STEPS.softmax(STEPS.divide(scores, 3.0, "scaled"), -1, "shares")
    whole = Graph(STEPS.matrix_product(shares, v, "mixed"))
    doubled = STEPS.add([(0.5, shares), (0.5, shares)], None, "hidden")  # no longer seen as a softmax
    steps = Graph(STEPS.matrix_product(doubled, v, "mixed"))
    centre = normal((12, WIDTH), generator)
    torch.testing.assert_close(whole(centre), steps(centre))
    for radius in (0.01, 0.1, 1.0):
        fused, apart = (float(lipschitz(g, Ball(centre, radius), AutoLip(), search=None).upper) for g in (whole, steps))
        assert fused < 0.7 * apart


def test_ranges_in_front_of_the_first_function_are_those_of_crown() -> None:
    generator = Generator().manual_seed(1)
    node: Node = Input((TOKENS, WIDTH))
    for _ in range(3):
        node = Elementwise(activation("relu"), linear(node, WIDTH, generator))
    graph, region = Graph(STEPS.softmax(linear(node, WIDTH, generator), -1, "softmax")), Ball(torch.zeros(3, 4), 0.3)
    (domain,), _ = region.domains(graph)
    tight, loose = (method.ranges(graph, domain, Budget())[graph.output] for method in (CROWN(), IBP()))
    assert float(tight.width.sum()) < 0.95 * float(loose.width.sum())
    one, two = (float(lipschitz(graph, region, AutoLip(method)).upper) for method in (CROWN(), IBP()))
    assert one <= two


@pytest.mark.slow
def test_whole_space_and_refusals() -> None:
    generator = Generator().manual_seed(0)
    x = Input((TOKENS, WIDTH))
    for block in (softmaxed, log_softmaxed, summed, normed):
        assert lipschitz(Graph(block(x, generator)), WholeSpace(), AutoLip()).status is Status.CERTIFIED
    careful = AffineSteps(STEPS.like, None)
    graph = Graph(careful.layer_norm(x, [1], None, None, 1e-5, "norm"))
    with pytest.raises(InvalidRegionError, match=r"node 'norm': standardisation of 4 .* 316\.2.*variance_floor=v"):
        lipschitz(graph, WholeSpace(), AutoLip())
    for block, name in ((gated, "product"), (mixed, "scores"), (attended, "attention"), (written_out, "mixed")):
        with pytest.raises(InvalidRegionError, match=rf"node '{name}': .*unbounded.*bounded region"):
            lipschitz(Graph(block(x, generator)), WholeSpace(), AutoLip())
    bounded = Elementwise(activation("tanh"), linear(x, WIDTH, generator), "tanh")
    assert lipschitz(Graph(attended(bounded, generator)), WholeSpace(), AutoLip()).status is Status.CERTIFIED
    quotient = Graph(STEPS.quotient(x, linear(x, WIDTH, generator), "quotient"))
    with pytest.raises(InvalidRegionError, match=r"node 'quotient': .*divisor may be zero.*softplus"):
        lipschitz(quotient, Ball(torch.zeros(TOKENS, WIDTH), 1.0), AutoLip())
    for ask in (lambda: lipschitz(graph, Ball(torch.zeros(3, 4), 1.0), semantics="executed", method=AutoLip()),):
        with pytest.raises((UnsupportedOpError, InvalidRegionError)):
            ask()
    with pytest.raises(UnsupportedOpError, match=r"node 'softmax': softmax of .*real semantics"):
        bound_output(Graph(softmaxed(x, generator)), Ball(torch.zeros(3, 4), 1.0), semantics="executed")


def test_a_call_without_a_method_chooses_one_that_can() -> None:
    generator, region = Generator().manual_seed(4), Ball(torch.zeros(TOKENS, WIDTH), 0.1)
    graph = Graph(softmaxed(activated(Input((TOKENS, WIDTH)), generator), generator))
    chosen = lipschitz(graph, region, norm=(2, 2), search=BRIEF)
    assert chosen.status.certified and {"AutoLip", "SeqLip"} <= set(chosen.details)
    assert float(chosen.upper) <= float(lipschitz(graph, region, AutoLip(), search=None).upper) * (1 + 1e-9)


@pytest.mark.slow
def test_modes_batches_and_copies() -> None:
    generator = Generator().manual_seed(3)
    graph = Graph(linear(attended(softmaxed(Input((TOKENS, WIDTH)), generator), generator), 2, generator))
    centres = normal((2, TOKENS, WIDTH), generator)
    found = lipschitz(graph, Ball(centres, [0.1, 0.2]), AutoLip(), search=BRIEF)
    assert found.upper.shape == (2, 2) and bool((found.upper[0] < found.upper[1]).all())
    alone = lipschitz(graph, Ball(centres[1], 0.2), AutoLip(), search=BRIEF)
    assert float(alone.upper) == pytest.approx(float(found.upper[1, 1]), rel=1e-12)
    single = lipschitz(graph.to(dtype=torch.float32), Ball(centres[1], 0.2), AutoLip(), search=BRIEF)
    assert float(alone.upper) <= float(single.upper) <= float(alone.upper) * (1 + 1e-3)
    assert graph.to(dtype=torch.float32).fingerprint == graph.fingerprint
    with unrounded():
        assert lipschitz(graph, Ball(centres[1], 0.2), AutoLip(), search=None).status is Status.NOT_RIGOROUS


def test_lengths_are_expanded_where_entries_are_asked_for() -> None:
    x = Input((2, 3))
    graph = Graph(STEPS.length(x, [1], False, "length"))
    assert graph.expands and not graph.assumptions
    region = Ball(torch.ones(2, 3, dtype=torch.float64), 0.1)
    by_entries, by_norms = lipschitz(graph, region), lipschitz(graph, region, AutoLip())
    assert float(by_norms.upper) == pytest.approx(1.0, rel=1e-9)
    assert 1.0 <= float(by_entries.upper) < 1.3
    ran = lipschitz(graph, region, semantics="executed")
    assert ran.delta is not None and 0 < float(ran.delta) < 1e-5
    points: Tensor = torch.ones(1, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(graph.expanded()(points), graph(points))
