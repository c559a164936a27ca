"""Laws of every exported method, known or new: nobody has to list it. Truths are exact or balls of 300 bits."""

from __future__ import annotations

import pytest
import torch
from flint import ctx

import jacobound as jb
from campaign.claims import KINDS, attempt, examine_by
from campaign.registered import made, made_of
from campaign.runner import Tally, generator_of
from exact import BITS
from jacobound.method import JacobianMethod, Method, OutputMethod
from jacobound.methods import every

NETWORKS = 12
EVERY = (*every(OutputMethod), *every(Method))
BOUNDING = tuple(kind for kind in EVERY if kind.about.certified)
ESTIMATES = tuple(kind for kind in EVERY if not kind.about.certified)


def name(kind: type[object]) -> str:
    return kind.__name__


@pytest.mark.parametrize("kind", BOUNDING, ids=name)
def test_nothing_that_a_method_certifies_is_denied(kind: type[OutputMethod | Method]) -> None:
    """All its options in turn, budgets without time or memory among them; what it refuses it refuses with a reason."""
    tally, methods = Tally(), [one for one in made_of(kind) if isinstance(one, OutputMethod) or one.is_certified]
    with ctx.workprec(BITS):
        for index in range(max(NETWORKS, len(methods))):
            ask = examine_by(methods[index % len(methods)])
            tally.merge(attempt(KINDS[index % len(KINDS)], generator_of("methods", 0, index), ask))
    assert not tally.violations, f"{len(tally.violations)}: {tally.violations[:3]}"
    assert tally.cases["networks"] >= NETWORKS // 4


@pytest.mark.parametrize("kind", ESTIMATES, ids=name)
def test_an_estimate_says_that_it_is_one(kind: type[Method]) -> None:
    graph = jb.from_layers([torch.eye(3), torch.ones(2, 3)])
    found = jb.lipschitz(graph, jb.Ball([0.1] * 3, 0.5), kind())
    assert found.status is jb.Status.ESTIMATE and not found.status.certified
    with pytest.raises(jb.InvalidOptionError, match="estimate"):
        jb.Best(jb.RecurJac(), kind())


@pytest.mark.parametrize("kind", every(Method), ids=name)
def test_constants_of_linear_networks_are_norms(kind: type[Method]) -> None:
    weight = torch.tensor([[3.0, -4.0], [0.0, 5.0], [1.0, 1.0]]).double()
    graph, norm = jb.from_layers([weight]), float(torch.linalg.matrix_norm(weight, 2))
    found = jb.lipschitz(graph, jb.Ball([0.0, 0.0], 1.0), kind(), budget=jb.Budget())
    longest = float(weight.norm())  # what bounds of entries alone give
    assert norm * (1 - 1e-12) <= float(found.upper) <= longest * (1 + 1e-9)


@pytest.mark.parametrize("kind", every(JacobianMethod), ids=name)
def test_the_jacobian_at_a_point_is_exact_up_to_rounding(kind: type[JacobianMethod]) -> None:
    graph = jb.from_layers([torch.ones(4, 3), torch.eye(4)[:2]], activation="tanh")
    point = torch.tensor([[0.1, -0.2, 0.3], [0.0, 1.0, -2.0]]).double()
    found = jb.bound_jacobian(graph, jb.Box(point, point), kind())
    assert float((found.upper - found.lower).max()) <= 1e-5 and bool((found.lower <= found.upper).all())


@pytest.mark.parametrize("kind", every(Method), ids=name)
def test_sets_together_get_what_they_get_alone(kind: type[Method]) -> None:
    graph = jb.from_layers([torch.ones(4, 3).tril(), torch.ones(2, 4).triu()], activation="tanh")
    points = torch.tensor([[0.1, -0.2, 0.3], [0.0, 1.0, -2.0], [3.0, 3.0, 3.0]]).double()
    together = jb.lipschitz(graph, jb.Ball(points, 0.2), kind(), budget=jb.Budget(), search=None).upper
    alone = [jb.lipschitz(graph, jb.Ball(x, 0.2), kind(), budget=jb.Budget(), search=None).upper for x in points]
    assert torch.allclose(together, torch.stack(alone), rtol=1e-3)


def test_options_are_combined() -> None:
    names = [str(method) for method in (*made(OutputMethod), *made(Method))]
    for what in ("IBP", "FastLin", "SinglePrecision", "Constant", "Chord", "Backward", "ForwardShifted", "Both"):
        assert any(what in name for name in names), what
    assert len(names) == len(set(names))
