"""`difference`: exact values, bounds that hold, and bounds as small as what two copies of a network differ by."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

import jacobound as jb
from jacobound.graph.nodes import Affine
from jacobound.operators.kinds import Dense


def perturbed(build: type[nn.Module], size: float, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """A network and a copy with other weights."""
    torch.manual_seed(seed)
    one, two = build().double().eval(), build().double().eval()
    noise = {k: v + size * torch.randn_like(v) if v.is_floating_point() else v for k, v in one.state_dict().items()}
    two.load_state_dict({k: v.abs() if "running_var" in k else v for k, v in noise.items()})
    return one, two


class Layers(nn.Sequential):
    """Three layers."""

    activation: type[nn.Module] = nn.Tanh

    def __init__(self) -> None:
        of = self.activation
        super().__init__(nn.Linear(4, 7), of(), nn.Linear(7, 7), of(), nn.Linear(7, 3))


class Relu(Layers):
    activation = nn.ReLU


class Trained(Layers):
    activation = nn.PReLU


class Attentive(nn.Module):
    """A gate, a normalisation and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(4, 5), nn.Linear(4, 5), nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.norm(self.one(x)) * torch.sigmoid(self.two(x)), -1)


class Image(nn.Sequential):
    """A convolution, a stored normalisation, a skip and maxima."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.SiLU(), nn.MaxPool2d(3),
            nn.Flatten(), nn.Linear(3, 2),
        )  # fmt: skip
        self[2].running_mean += 0.1


KINDS = [Layers, Trained, Attentive, Image]


def pair(build: type[nn.Module], size: float) -> tuple[jb.Graph, jb.Graph, jb.Graph]:
    graphs = [jb.from_torch(module, torch.zeros(1, 4, dtype=torch.float64)) for module in perturbed(build, size)]
    return graphs[0], graphs[1], jb.difference(*graphs)


@pytest.mark.parametrize("build", KINDS)
@pytest.mark.parametrize(("size", "radius"), [(1e-3, 0.2), (0.3, 1.0)])
def test_bounds_hold_at_points_and_for_derivatives(build: type[nn.Module], size: float, radius: float) -> None:
    one, two, apart = pair(build, size)
    region = jb.Ball(torch.full((4,), 0.1, dtype=torch.float64), radius)
    points = region.domains(apart)[0][:1].sample(100, torch.Generator().manual_seed(0))[0]
    exact = one(points) - two(points)
    assert torch.allclose(apart(points), exact, rtol=0, atol=1e-13)
    outputs, entries = jb.bound_output(apart, region), jb.bound_jacobian(apart, region)
    assert bool(((outputs.lower - 1e-13 <= exact) & (exact <= outputs.upper + 1e-13)).all())
    for x in points[:30]:
        jacobian = torch.autograd.functional.jacobian(lambda z: one(z) - two(z), x)  # type: ignore[no-untyped-call]
        assert bool(((entries.lower - 1e-12 <= jacobian) & (jacobian <= entries.upper + 1e-12)).all())
    if build not in (Layers, Attentive):
        return
    constant = jb.lipschitz(apart, region, jb.Best(jb.AutoLip(), jb.RecurJac(), jb.LipSDP()), budget=2)
    assert float(constant.lower) <= float(constant.upper)
    sizes = (exact[1:] - exact[:-1]).norm(dim=1) / (points[1:] - points[:-1]).norm(dim=1)
    assert float(sizes.max()) <= float(constant.upper) * (1 + 1e-9)


@pytest.mark.parametrize(("build", "outputs", "entries"), [(Layers, 12, 4), (Relu, 10, 0.99)])
def test_copies_that_are_near_get_small_bounds(build: type[nn.Module], outputs: float, entries: float) -> None:
    """As so many times smaller than those of the plain difference as is given."""
    one, two = perturbed(build, 1e-3)
    example, region = torch.zeros(1, 4, dtype=torch.float64), jb.Ball(torch.zeros(4, dtype=torch.float64), 0.7)
    apart = jb.difference(jb.from_torch(one, example), jb.from_torch(two, example))
    plain = jb.from_torch(lambda x: one(x) - two(x), example)

    def largest(bounds: jb.OutputBounds | jb.JacobianBounds) -> float:
        return float(torch.maximum(bounds.lower.abs(), bounds.upper.abs()).max())

    assert largest(jb.bound_output(plain, region)) >= outputs * largest(jb.bound_output(apart, region))
    assert largest(jb.bound_jacobian(plain, region)) >= entries * largest(jb.bound_jacobian(apart, region))


def test_the_difference_of_floats_is_exact() -> None:
    """Weights whose difference is no float, by fractions at points that are floats."""
    weights = [torch.tensor([[1.0, 2.0**-30], [3.0, -0.1]]), torch.tensor([[1.0, -3.0]])]
    others = [torch.tensor([[2.0**-28, 1.0], [3.0, 0.1]]), torch.tensor([[0.1, -3.0]])]
    biases, changed = [torch.tensor([0.1, 1.0]), torch.zeros(1)], [torch.tensor([0.1, 0.7]), torch.tensor([1.0])]
    graphs = [jb.from_layers(w, b, "relu") for w, b in ((weights, biases), (others, changed))]
    apart = jb.difference(*graphs)

    def exactly(w: list[Tensor], b: list[Tensor], x: list[Fraction]) -> list[Fraction]:
        for k, (matrix, shift) in enumerate(zip(w, b, strict=True)):
            rows = matrix.double().tolist()
            x = [
                sum((Fraction(a) * v for a, v in zip(row, x, strict=True)), Fraction(c))
                for row, c in zip(rows, shift.double().tolist(), strict=True)
            ]
            x = [max(v, Fraction(0)) for v in x] if k < len(w) - 1 else x
        return x

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        point = torch.randn(2, generator=generator)
        found = jb.bound_output(apart.double, jb.Ball(point.double(), 0.0))
        at = [Fraction(v) for v in point.double().tolist()]
        exact = exactly(weights, biases, at)[0] - exactly(others, changed, at)[0]
        assert Fraction(float(found.lower)) <= exact <= Fraction(float(found.upper))
        assert float(found.upper - found.lower) <= 1e-13


def test_weights_are_exact_sums_of_floats() -> None:
    """What rounding of a difference leaves is below what bounds show, so the weights themselves are looked at."""
    pairs = [(1.0, 2.0**-60), (0.1, 1e9), (1e30, -1.0), (0.3, 0.1)]
    for a, b in pairs:
        entries = [torch.tensor([x], dtype=torch.float64) for x in (a, b)]
        one, two = (jb.from_layers([x.reshape(1, 1)], [x], "relu") for x in entries)
        node = jb.difference(one, two).output
        weight, bias = Fraction(0), Fraction(0)
        while isinstance(node, Affine):
            dense = [operator.weight for operator, _ in node.terms if isinstance(operator, Dense)]
            weight += sum((Fraction(float(x)) for x in dense), Fraction(0))
            bias += Fraction(0) if node.bias is None else Fraction(float(node.bias))
            node = node.terms[0][1]
        assert weight == bias == Fraction(a) - Fraction(b)


def test_equal_networks_differ_by_nothing() -> None:
    one, _, _ = pair(Attentive, 0.1)
    apart = jb.difference(one, one)
    bounds = jb.bound_output(apart, jb.WholeSpace())
    assert not bounds.lower.any() and not bounds.upper.any()
    assert float(jb.lipschitz(apart, jb.WholeSpace()).upper) < 1e-300


def test_other_architectures_are_subtracted() -> None:
    torch.manual_seed(0)
    one = jb.from_torch(nn.Sequential(nn.Linear(4, 3)), torch.zeros(1, 4))
    two = jb.from_torch(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.zeros(1, 4))
    x = torch.randn(10, 4)
    for apart, sign in ((jb.difference(one, two), 1), (jb.difference(two, one), -1)):
        assert torch.allclose(apart(x), sign * (one(x) - two(x)), atol=1e-6)


def test_what_has_no_difference_is_refused() -> None:
    one = jb.from_layers([torch.ones(2, 3)], [torch.zeros(2)], "relu")
    with pytest.raises(jb.ShapeError, match="have no difference"):
        jb.difference(one, jb.from_layers([torch.ones(2, 4)], [torch.zeros(2)], "relu"))
    with pytest.raises(jb.InvalidModelError, match="takes two graphs"):
        jb.difference(one, nn.Linear(3, 2))  # type: ignore[arg-type]
