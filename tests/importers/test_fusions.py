"""Products that are one function: the same real function, proved with ball arithmetic of 200 bits at many points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import flint
import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import Graph
from jacobound.activations import activation
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.importers.fusions.bells import root
from jacobound.importers.fusions.fusions import product
from jacobound.importers.fusions.lines import fixed
from jacobound.operators.kinds import Identity, Scale

LIKE = torch.zeros((), dtype=torch.float64)
POINTS = (-30.0, -4.75, -3.0, -1.1, -0.5, -1e-3, 0.0, 1e-9, 0.3, 0.75, 1.0, 2.9, 3.0, 5.0, 40.0)
SHAPE = (len(POINTS),)


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    before, flint.ctx.prec = flint.ctx.prec, 200
    yield
    flint.ctx.prec = before


def line(node: Node, factor: float, shift: float = 0.0, radius: float = 0.0) -> Node:
    """``factor node + shift``; with a radius the factor is only known up to it."""
    scale = Scale(LIKE.new_full(SHAPE, factor), LIKE.new_full(SHAPE, radius) if radius else None)
    return Affine(((scale, node),), LIKE.new_full(SHAPE, shift) if shift else None, "line")


def apply(name: str, node: Node) -> Node:
    return Elementwise(activation(name), node, name)


def half(x: flint.arb) -> flint.arb:
    """min(max(x, 0), 1) of a ball."""
    return (x.max(flint.arb(0))).min(flint.arb(1))


def sigmoid(x: flint.arb) -> flint.arb:
    return 1 / (1 + (-x).exp())


REAL: dict[str, Callable[[flint.arb], flint.arb]] = {
    "sigmoid": sigmoid,
    "tanh": lambda x: x.tanh(),
    "erf": lambda x: x.erf(),
    "exp": lambda x: x.exp(),
    "abs": lambda x: abs(x),
    "square": lambda x: x * x,
    "power": lambda x: x * x * x,
    "softplus": lambda x: x.exp().log1p(),
    "reciprocal": lambda x: 1 / x,
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * x.exp().log1p().tanh(),
    "gelu": lambda x: x * (1 + (x / flint.arb(2).sqrt()).erf()) / 2,
    "softsign": lambda x: x / (1 + abs(x)),
    "sqrt": lambda x: x.sqrt(),
    "rsqrt": lambda x: x.rsqrt(),
    "bell": lambda x: (-x * x).exp(),
    "wave": lambda x: x * (-x * x).exp(),
    "algebraic": lambda x: x / (1 + x * x).sqrt(),
    "hard_swish": lambda x: x * half(x / 6 + flint.arb(1) / 2),
    "hard_sigmoid": lambda x: half(x / 6 + flint.arb(1) / 2),
}


def ball(middle: float, radius: float, side: int | None) -> flint.arb:
    return flint.arb(middle, radius) if side is None else flint.arb(middle) + side * flint.arb(radius)


def real(node: Node, x: flint.arb, side: int | None = None) -> flint.arb:
    """Enclosure of a node's value at a point; factors with a radius are balls, or their middle or an end."""
    if isinstance(node, Input):
        return x
    if isinstance(node, Elementwise):
        kind, _, numbers = node.activation.name.partition(":")
        if kind == "gelu_tanh":
            z, (low, high) = real(node.source, x, side), (flint.arb(float(part)) for part in numbers.split(","))
            return z * sigmoid((8 / flint.arb.pi()).sqrt() * (z + low.union(high) * z**3))
        if kind == "clip":
            low, high = (flint.arb(float(part)) for part in numbers.split(","))
            return real(node.source, x, side).max(low).min(high)
        return REAL[kind](real(node.source, x, side))
    assert isinstance(node, Affine)
    total = flint.arb(0 if node.bias is None else node.bias[0].item())
    for operator, source in node.terms:
        assert isinstance(operator, Scale | Identity)
        factor = flint.arb(1)
        if isinstance(operator, Scale):
            radius = 0.0 if operator.radius is None else operator.radius[0].item()
            factor = ball(operator.factor[0].item(), radius, side)
        total += factor * real(source, x, side)
    return total


X = Input(SHAPE)
C32 = float(np.float32(0.70710677))
SIXTH = float(np.float32(1 / 6))

BETA32, KAPPA32 = float(np.float32(0.7978845608)), float(np.float32(0.044715))


def cubic(node: Node, first: float, third: float) -> Node:
    """``first (node + third node^3)``."""
    cube = Elementwise(activation("power:3"), node, "cube")
    return line(Affine(((Identity(SHAPE, SHAPE, LIKE), node), (Scale(LIKE.new_full(SHAPE, third)), cube))), first)


# The two factors, and the activation that their product becomes.
PRODUCTS: dict[str, tuple[Node, Node, str]] = {
    "silu": (X, apply("sigmoid", X), "silu"),
    "silu turned round": (apply("sigmoid", X), X, "silu"),
    "silu of a line": (line(X, 0.3, 0.7), apply("sigmoid", line(X, 0.3, 0.7)), "silu"),
    "silu of the same line": ((z := line(X, 0.3, 0.7, 1e-17)), apply("sigmoid", z), "silu"),
    "steep silu": (line(X, -3.0), line(apply("sigmoid", line(X, 1.7)), 0.1), "silu"),
    "silu falling": (X, apply("sigmoid", line(X, -1.0)), "silu"),
    "silu of the complement": (X, line(apply("sigmoid", X), -2.0, 2.0), "silu"),
    "silu by tanh": (line(X, 0.5), line(apply("tanh", line(X, 0.5)), 1.0, 1.0), "silu"),
    "silu by exp": (X, apply("reciprocal", line(apply("exp", line(X, -1.0)), 1.0, 1.0)), "silu"),
    "silu by a third": (line(X, 1 / 3, 0.0, 2e-17), apply("sigmoid", X), "silu"),
    "mish": (X, apply("tanh", apply("softplus", X)), "mish"),
    "steep mish": (line(X, 2.0), apply("tanh", apply("softplus", line(X, 3.0))), "mish"),
    "gelu": (line(X, 0.5), line(apply("erf", line(X, C32)), 1.0, 1.0), "gelu"),
    "gelu with a quotient": (X, line(apply("erf", line(X, 0.70710681, 0.0, 6e-17)), 0.5, 0.5), "gelu"),
    "gelu falling": (X, line(apply("erf", line(X, C32)), -0.5, 0.5), "gelu"),
    "hard swish": (X, apply("hard_sigmoid", X), "hard_swish"),
    "steep hard swish": (line(X, 5.0), apply("hard_sigmoid", line(X, 0.3)), "hard_swish"),
    "hard swish by clip": (line(X, SIXTH), apply("clip:0.0,6.0", line(X, 1.0, 3.0)), "hard_swish"),
    "hard swish by a steep clip": (X, apply("clip:0.0,2.0", line(X, 0.7, 1.0)), "hard_swish"),
    "softsign": (X, apply("reciprocal", line(apply("abs", X), 1.0, 1.0)), "softsign"),
    "softsign scaled": (line(X, 3.0), apply("reciprocal", line(apply("abs", line(X, -0.4)), 0.3, 1.7)), "softsign"),
    "square": (X, X, "square"),
    "wave": (X, apply("bell", X), "wave"),
    "wave turned round": (line(X, -0.7), line(apply("bell", line(X, -0.3)), 1.3), "wave"),
    "algebraic": (X, apply("rsqrt", line(apply("square", X), 1.0, 1.0)), "algebraic"),
    "algebraic of a line": (
        line(X, 2.0),
        apply("rsqrt", line(apply("square", line(X, -0.3)), 0.7, 1.9)),
        "algebraic",
    ),
    "algebraic by a quotient": (
        line(X, -3.0),
        apply("reciprocal", line(apply("sqrt", line(apply("power:2", X), 0.3, 0.1)), 0.7)),
        "algebraic",
    ),
    "gelu by tanh": (line(X, 0.5), line(apply("tanh", cubic(X, BETA32, KAPPA32)), 1.0, 1.0), "gelu_tanh"),
    "gelu by tanh falling": (X, line(apply("tanh", cubic(line(X, -1.0), BETA32, KAPPA32)), 0.5, 0.5), "gelu_tanh"),
    "steep gelu by tanh": (
        line(X, 0.25),
        line(apply("tanh", cubic(line(X, 3.0), BETA32, KAPPA32)), -2.0, 2.0),
        "gelu_tanh",
    ),
    "cube": (line(X, -0.3), line(apply("square", line(X, 0.7)), 0.2), "power"),
    "square of a line": (line(X, 0.3), line(X, -0.1, 0.0, 1e-18), "square"),
    "square of a shifted line": (line(X, 2.0, 6.0), line(X, 1.0, 3.0), "square"),
    "completed square": (X, line(X, -1.0, 1.0), "square"),
    "variance of a gate": ((s := apply("sigmoid", X)), line(s, -1.0, 1.0), "square"),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_keep_their_real_values(case: str) -> None:
    left, right, kind = PRODUCTS[case]
    found = product(left, right, "y")
    assert found is not None and found.name == "y"
    kinds = [node.activation.name.partition(":")[0] for node in Graph(found).nodes if isinstance(node, Elementwise)]
    assert kinds[-1] == kind and len(kinds) == (2 if case == "variance of a gate" else 1)
    for point in POINTS:
        x = flint.arb(point)
        got = real(found, x) + flint.arb(0, 1e-50 * (1 + abs(point)))  # that much for the arithmetic of this test
        # The enclosure holds every real value that the factors within their radii can give, and hardly more.
        for side in (-1, 0, 1):
            expected = real(left, x, side) * real(right, x, side)
            assert got.contains(expected.mid()), (point, side, got, expected)
        assert float(got.rad()) <= 1e-49 + 3e-15 * (float(abs(expected).mid()) + abs(point))


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_agree_in_plain_floating_point(case: str) -> None:
    left, right, _ = PRODUCTS[case]
    found, x = product(left, right, "y", LIKE), torch.tensor(POINTS, dtype=torch.float64)
    assert found is not None

    def plain(node: Node) -> torch.Tensor:
        return x if node is X else Graph(node)(x)

    torch.testing.assert_close(plain(found), plain(left) * plain(right), rtol=1e-12, atol=1e-13)


NO_PRODUCTS: dict[str, tuple[Node, Node]] = {
    "sigmoid of a shifted line": (X, apply("sigmoid", line(X, 1.0, 0.5))),
    "tanh of another cubic": (X, line(apply("tanh", cubic(X, BETA32, 0.0448)), 1.0, 1.0)),
    "tanh of a cubic without its one": (X, line(apply("tanh", cubic(X, BETA32, KAPPA32)), 1.0, 1.5)),
    "tanh of a cubic with a shifted cube": (
        X, line(apply("tanh", Affine(((Scale(LIKE.new_full(SHAPE, BETA32)), X), (Scale(
            LIKE.new_full(SHAPE, BETA32 * KAPPA32)), line(apply("power:3", X), 1.0, 0.1))))), 1.0, 1.0)),
    "tanh of a shifted cubic": (X, line(apply("tanh", line(cubic(X, BETA32, KAPPA32), 1.0, 0.1)), 1.0, 1.0)),
    "cube with a rest": (X, line(apply("square", X), 1.0, 1.0)),
    "gate with a rest": (X, line(apply("sigmoid", X), 1.0, 0.25)),
    "erf without its one": (X, line(apply("erf", X), 1.0, 1.0000001)),
    "erf alone": (X, apply("erf", X)),
    "unknown factor of the one": (X, line(apply("erf", X), 1.0, 1.0, 1e-18)),
    "unknown shift": (line(X, 1.0, 1.0, 1e-18), apply("sigmoid", line(X, 1.0, 1.0))),
    "hard sigmoid off its middle": (X, apply("hard_sigmoid", line(X, 1.0, 0.1))),
    "clip from one": (X, apply("clip:1.0,6.0", line(X, 1.0, 3.0))),
    "two gates": (apply("sigmoid", X), apply("tanh", X)),
    "tanh of another softplus": (X, apply("tanh", apply("softplus:2.0", X))),
    "exp without its one": (X, apply("reciprocal", line(apply("exp", X), 1.0, 2.0))),
    "vanishing factor": (line(X, 1e-320), apply("sigmoid", line(X, 1e300))),
    "square that can not be completed": (X, line(X, 1.0, 0.1, 0.0)),
    "different factors": (
        Affine(((Scale(torch.arange(1.0, 1 + len(POINTS), dtype=LIKE.dtype)), X),), name="rows"), apply("sigmoid", X)),
    "other shapes": (X, Input((3,))),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_PRODUCTS)
def test_other_products_are_none(case: str) -> None:
    left, right = NO_PRODUCTS[case]
    assert product(left, right, "y", LIKE) is None
    assert product(right, left, "y", LIKE) is None


def test_fused_products_are_bounded_tightly() -> None:
    fused = product(X, apply("sigmoid", line(X, 1.7)), "y", LIKE)
    assert fused is not None
    graph = Graph(fused)
    centre = torch.tensor(POINTS, dtype=torch.float64)
    found = jb.bound_output(graph, jb.Ball(centre, 0.25), jb.IBP())
    grid = centre + torch.linspace(-0.25, 0.25, 2001, dtype=torch.float64).unsqueeze(1)
    values = grid * torch.sigmoid(1.7 * grid)
    assert (found.lower <= values.amin(0)).all() and (found.upper >= values.amax(0)).all()
    torch.testing.assert_close(found.lower, values.amin(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.upper, values.amax(0), rtol=1e-6, atol=1e-6)


def test_roots_hold_the_root_and_little_more() -> None:
    """By squaring fractions; of what is a square exactly the root."""
    assert root(fixed(Fraction(9, 16))) == fixed(Fraction(3, 4))
    for number in (Fraction(2), Fraction(1, 3), Fraction(10**40 + 1), Fraction(1, 10**40 + 7), Fraction(0.1)):
        low, high = root(fixed(number))
        assert low * low < number < high * high and high - low < high / 10**25
