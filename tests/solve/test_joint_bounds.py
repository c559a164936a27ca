"""What the calls without a method take together: outputs by a constant, Jacobians by several methods."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor, nn

import jacobound as jb
from jacobound.jacobian.intersection import Intersection

INF = math.inf


def sampled(center: Tensor, radius: float, p: float, generator: Generator, count: int = 200) -> Tensor:
    """Points of a ball; half of them on its boundary."""
    steps = torch.randn(count, *center.shape, generator=generator, dtype=torch.float64)
    length = torch.linalg.vector_norm(steps.flatten(1), ord=p, dim=1).reshape(-1, *[1] * center.dim())
    shares = torch.rand(count, generator=generator, dtype=torch.float64).reshape(length.shape)
    shares[::2] = 1 - 1e-9
    return center + radius * shares * steps / length


def models() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True, norm_first=True)
    return {
        "attention": (nn.Sequential(encoder, nn.Flatten(), nn.Linear(8, 2)), (2, 4)),
        "normalised": (nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3)), (5,)),
        "softmax": (nn.Sequential(nn.Linear(5, 8), nn.Softmax(1), nn.Linear(8, 2)), (5,)),
        "deep tanh": (nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(5, 5), nn.Tanh())]), (5,)),
    }


@pytest.mark.alike(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", list(models()))
@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_outputs_are_no_wider_than_radius_times_constant(name: str, p: float) -> None:
    generator = Generator().manual_seed(0)
    module, shape = models()[name]
    module = module.double().eval()
    center = torch.randn(shape, generator=generator, dtype=torch.float64)
    graph = jb.from_torch(module, center[None])
    for radius in (1e-3, 1e-2):
        ball = jb.Ball(center, radius, p)
        found, constant = jb.bound_output(graph, ball), jb.lipschitz(graph, ball, norm=(p, INF)).upper
        assert bool((found.upper - found.lower <= 2 * radius * constant * (1 + 1e-6) + 1e-12).all())
        with torch.no_grad():
            values = module(sampled(center, radius, p, generator))
        assert bool((values >= found.lower - 1e-12).all() and (values <= found.upper + 1e-12).all())
        named = jb.bound_output(graph, ball, jb.CROWN())
        assert bool((found.lower >= named.lower).all() and (found.upper <= named.upper).all())


@pytest.mark.slow
def test_a_clipped_ball_reaches_no_farther_than_its_points() -> None:
    """The anchor of a clipped l_2 ball is its centre; the constant counts with the largest distance that is left."""
    generator = Generator().manual_seed(0)
    module, _ = models()["softmax"]
    module, center = module.double().eval(), torch.zeros(5, dtype=torch.float64)
    graph = jb.from_torch(module, center[None])
    found = jb.bound_output(graph, jb.Ball(center, 3.0, 2, clip=(-0.01, 1.0)))
    points = sampled(center, 3.0, 2, generator).clamp(-0.01, 1.0)
    with torch.no_grad():
        values = module(points)
    assert bool((values >= found.lower - 1e-12).all() and (values <= found.upper + 1e-12).all())


@pytest.mark.slow
def test_what_a_user_claims_is_for_constants_not_for_ranges() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)).double().eval()
    torch.manual_seed(1)
    example = torch.randn(1, 4, dtype=torch.float64)
    claimed = jb.from_torch(module, example, variance_floor=100.0)  # false, and said by the user
    ball = jb.Ball(example[0], 0.01)
    free, bold = jb.bound_output(jb.from_torch(module, example), ball, jb.CROWN()), jb.bound_output(claimed, ball)
    assert torch.equal(free.lower, bold.lower) and torch.equal(free.upper, bold.upper)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.Tanh, nn.Sigmoid, nn.GELU])
def test_jacobians_of_smooth_networks_are_the_intersection(kind: type[nn.Module]) -> None:
    generator = Generator().manual_seed(0)
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(4, 10), kind(), nn.Linear(10, 8), kind(), nn.Linear(8, 3)).double().eval()
    center = torch.randn(4, generator=generator, dtype=torch.float64)
    graph = jb.from_torch(module, center[None])
    for radius in (0.01, 0.3):
        ball = jb.Ball(center, radius)
        joint = jb.bound_jacobian(graph, ball)
        alone = [jb.bound_jacobian(graph, ball, method) for method in (jb.RecurJac(), jb.LinearSlopes())]
        assert torch.equal(joint.lower, torch.maximum(alone[0].lower, alone[1].lower))
        assert torch.equal(joint.upper, torch.minimum(alone[0].upper, alone[1].upper))
        for x in sampled(center, radius, INF, generator, 20):
            exact = torch.autograd.functional.jacobian(lambda z: module(z[None])[0], x)
            assert bool((exact >= joint.lower - 1e-12).all() and (exact <= joint.upper + 1e-12).all())
        for norm in ((2.0, 2.0), (INF, INF)):
            constant = jb.lipschitz(graph, ball, norm=norm, search=None).upper
            both = jb.lipschitz(graph, ball, Intersection(jb.RecurJac(), jb.LinearSlopes()), norm=norm, search=None)
            assert float(constant) <= float(both.upper) * (1 + 1e-9)


def test_an_intersection_needs_a_method() -> None:
    with pytest.raises(jb.InvalidOptionError, match="at least one"):
        Intersection()
    assert repr(Intersection(jb.FastLip())).startswith("Intersection(FastLip")
