"""Everything that is certified holds at sampled points: random graphs, regions and activations against autodiff."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from campaign.claims import JACOBIAN_METHODS
from campaign.graphs import check_bracket, check_jacobians, check_ranges, example
from campaign.runner import Tally
from jacobound import IBP, FastLip, RecurJac
from jacobound.arithmetic.intervals import Interval
from jacobound.method import JacobianMethod
from oracles import NORMS, not_enclosed
from zoo import KINDS, REGIONS, integer

METHODS = (
    FastLip(),
    RecurJac("constant"),
    RecurJac("chord"),
    RecurJac("chord", IBP()),
    RecurJac("constant", direction="forward-shifted"),
    RecurJac(direction="both"),
)

kinds = pytest.mark.parametrize("kind", KINDS)
some = settings(max_examples=max(1, settings().max_examples // 3))
seeds = st.integers(0, 2**30)
regions = st.sampled_from(sorted(REGIONS))


def holds(found: Tally) -> None:
    assert not found.violations, f"{len(found.violations)}: {found.violations[:3]}"


@kinds
@some
@given(region=regions, seed=seeds, single=st.booleans(), methods=st.sets(st.sampled_from(METHODS), min_size=1))
def test_values_jacobians_and_slopes_stay_within_their_bounds(
    kind: str, region: str, seed: int, single: bool, methods: set[JacobianMethod]
) -> None:
    generator = Generator().manual_seed(seed)
    case = example(kind, region, single, generator)
    holds(check_ranges(case))
    for method in sorted(methods, key=repr):
        holds(check_jacobians(case, method, generator))


@some
@given(
    kind=st.sampled_from(sorted(KINDS)), region=regions, seed=seeds, single=st.booleans(), norm=st.sampled_from(NORMS)
)
def test_the_bracket_of_lipschitz_is_one(
    kind: str, region: str, seed: int, single: bool, norm: tuple[float, float]
) -> None:
    generator = Generator().manual_seed(seed)
    case = example(kind, region, single, generator)
    holds(check_bracket(case, norm, JACOBIAN_METHODS[integer(0, len(JACOBIAN_METHODS) - 1, generator)]))


def test_the_oracle_sees_a_bound_that_is_too_small() -> None:
    truth, error = torch.ones(1, 2, dtype=torch.float64), torch.full((1, 2), 1e-12, dtype=torch.float64)
    bounds = Interval(torch.tensor([0.0, 0.5]), torch.tensor([1.0, math.nan]))
    assert len(not_enclosed(bounds, truth, error)) == 1
    assert len(not_enclosed(Interval(bounds.lower, torch.tensor([1 - 1e-6, 2.0])), truth, error)) == 1
