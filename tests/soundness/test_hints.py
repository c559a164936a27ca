"""What only chooses may choose anything: bounds hold for whatever slopes, contacts, multipliers and guesses come.

This is why mistakes in code that searches need not be noticed by tests of soundness (``campaign/survivors``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flint
import pytest
import torch
from flint import arb
from torch import Generator, Tensor

import jacobound as jb
from activation_cases import Case, certainly_outside, each_sample, every_case, intervals
from certificate_cases import jacobians, norm_of, random_core
from exact import rationals
from jacobound.activations.calculus.pieces import Curve
from jacobound.activations.lines import slope_lines
from jacobound.activations.lines.offsets import Slopes
from jacobound.arithmetic import linalg
from jacobound.arithmetic.intervals import Interval
from jacobound.certificates import lipsdp
from jacobound.certificates.dense import proof as sdp_certificate
from jacobound.certificates.dense.barrier import Barrier, Weights
from jacobound.certificates.layered import driver as layered_solver
from jacobound.certificates.layered.search import Multipliers, Sweep
from jacobound.constants.pairs import search as seqlip_search
from jacobound.constants.pairs import seqlip
from jacobound.inputs.domains import Domain
from jacobound.jacobian.affine import scaled_sums
from jacobound.jacobian.affine.forms import Forms, Symbols
from jacobound.jacobian.recursion.product_lines import _lines
from jacobound.operators import block_norms, linear_maps
from jacobound.operators.block_norms import Family, largest_norm
from jacobound.operators.kinds import Dense
from jacobound.operators.linear_maps import LinearMap, gram_norm

INF = math.inf
WILD = (0.0, -0.0, INF, -INF, math.nan, 1e300, -1e300, 5e-324)


def anything(shape: tuple[int, ...], generator: Generator, kind: torch.dtype = torch.float64) -> Tensor:
    """Numbers of every size and sign, some of them none."""
    sizes = 10.0 ** torch.randint(-8, 9, shape, generator=generator).double()
    found = torch.randn(shape, generator=generator, dtype=torch.float64) * sizes
    wild = torch.tensor(WILD, dtype=torch.float64)[torch.randint(len(WILD), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.1, wild, found).to(kind)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_lines_hold_for_any_slopes_and_contacts(case: Case, dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(1)

    def choose(curve: Curve, x: Interval) -> Slopes:
        lower, upper = (anything(tuple(x.shape), generator, dtype) for _ in range(2))
        near = x.lower + (x.upper - x.lower) * torch.rand(x.shape, generator=generator).to(dtype)
        contacts = (torch.where(torch.rand(x.shape, generator=generator) < 0.5, near, upper) for _ in curve.pieces)
        linear = (piece.curvature == "linear" for piece in curve.pieces)
        return Slopes(lower, upper, tuple(None if no else point for no, point in zip(linear, contacts, strict=True)))

    act = replace(case.activation.to("cpu", dtype), choose=choose)
    x = intervals(act, dtype)
    numbers = [end.tolist() for end in vars(act.lines(x)).values()]
    with flint.ctx.workprec(300):
        for k, z in each_sample(case, act, dtype):
            below, lower, above, upper = (end[k] for end in numbers)
            truth = case.value(arb(z))
            assert not certainly_outside(truth - arb(below) * arb(z), lower, INF), (z, below, lower)
            assert not certainly_outside(truth - arb(above) * arb(z), -INF, upper), (z, above, upper)


@every_case
def test_lines_around_derivatives_hold_for_any_slope(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = Generator().manual_seed(2)
    act = case.activation.to("cpu", torch.float64)
    x = intervals(act, torch.float64)
    monkeypatch.setattr(slope_lines, "_fitted", lambda curve, inside: anything(tuple(inside.shape), generator))
    numbers = [end.tolist() for end in vars(act.slope_lines(x)).values()]
    with flint.ctx.workprec(300):
        for k, z in each_sample(case, act, torch.float64):
            below, lower, above, upper = (end[k] for end in numbers)
            if z not in case.kinks:
                truth = case.derivative(arb(z))
                assert not certainly_outside(truth - arb(below) * arb(z), lower, INF), (z, below, lower)
                assert not certainly_outside(truth - arb(above) * arb(z), -INF, upper), (z, above, upper)


def test_products_of_slopes_and_derivatives_hold_for_any_slopes(generator: Generator) -> None:
    ends = torch.randn(2, 2, 1, 1, 400, generator=generator, dtype=torch.float64).sort(1).values
    slope, derivative = (Interval(*pair) for pair in ends.unbind())
    below, above = (torch.randn(1, 1, 400, generator=generator).double() * 3 for _ in range(2))
    found = _lines(Interval(slope.lower[0], slope.upper[0]), derivative, below, above)
    low, bottom, high, top = (rationals(part) for part in vars(found).values())
    for s in (slope.lower, slope.upper):
        for y in (derivative.lower, derivative.upper):
            for n, (a, b) in enumerate(zip(rationals(s), rationals(y), strict=True)):
                assert low[n] * b + bottom[n] <= a * b <= high[n] * b + top[n]


def steepest(graph: jb.Graph, region: jb.Region, norm: tuple[float, float]) -> float:
    """A slope that is attained."""
    found = jb.lipschitz(graph, region, jb.FastLip(), norm=norm, search=jb.Sampling(points=64))
    return float(found.lower)


def multipliers_of(sweep: Sweep, generator: Generator) -> tuple[float, Multipliers]:
    """Random multipliers of a chain, said to be excellent."""
    known = sweep.closed_form(1.5)[1]
    size = 10.0 ** -float(torch.rand((), generator=generator) * 3)
    parts = [torch.randn(len(part), generator=generator).double() * size for part in known.neurons]
    ends = (part + torch.randn(len(part), generator=generator).double() for part in (known.entering, known.leaving))
    neurons = tuple(part + noise for part, noise in zip(known.neurons, parts, strict=True))
    return -1e3, Multipliers(neurons, *ends)


def wild_weights(generator: Generator) -> Callable[..., Weights]:
    def weights(self: Barrier, point: object) -> Weights:
        core = self.core
        sizes = (core.neurons, core.inputs, core.outputs)
        return Weights(*(torch.randn(size, generator=generator).double().mul(2).exp() for size in sizes))

    return weights


METHODS: tuple[tuple[Any, tuple[float, float]], ...] = (
    (jb.LipSDP(), (2.0, 2.0)),
    (jb.LipSDP(), (INF, INF)),
    (jb.LipSDP(), (INF, 2.0)),
    (jb.ECLipsE(), (2.0, 2.0)),
    (jb.SeqLip(), (2.0, 2.0)),
)


@pytest.mark.parametrize("many", [0, 10**9], ids=["layers", "core"])
@pytest.mark.parametrize(("method", "norm"), METHODS, ids=lambda value: str(value))
def test_searches_may_return_anything(
    method: Any, norm: tuple[float, float], many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, sizes = Generator().manual_seed(3), (4, 9, 8, 3)
    shapes = zip(sizes[1:], sizes, strict=False)
    graph = jb.from_layers([torch.randn(shape, generator=generator).double() for shape in shapes], activation="relu")
    proved = 0
    for seed in range(6):
        noise = Generator().manual_seed(seed)
        region = jb.Ball(torch.zeros(4), (0.2, 1.0, 4.0)[seed % 3])
        usual = float(jb.lipschitz(graph, region, method, norm=norm, search=None).upper)
        with monkeypatch.context() as broken:
            broken.setattr(lipsdp, "MANY", many)
            broken.setattr(Barrier, "weights", wild_weights(noise))
            for name in ("improved", "best_closed_form"):
                broken.setattr(layered_solver, name, lambda sweep, *rest, noise=noise: multipliers_of(sweep, noise))
            broken.setattr(
                seqlip_search,
                "minimise",
                lambda problem, start, *rest, noise=noise: (start + anything((1,), noise), True),
            )
            broken.setattr(seqlip_search.Dual, "guess", lambda self, logs, noise=noise: float(anything((1,), noise)))
            broken.setattr(seqlip, "rough_value", lambda pair, noise=noise: float(anything((1,), noise)))
            found = float(jb.lipschitz(graph, region, method, norm=norm, search=None).upper)
        assert found >= steepest(graph, region, norm) * (1 - 1e-9)
        proved += usual * (1 + 1e-9) < found < INF
    assert proved, "the guesses had no effect"


def test_candidates_of_multipliers_may_be_anything(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a few random ones that proves something is above all vertices of the slope cube."""
    proved = refused = 0
    for _ in range(20):
        core = random_core(generator, (2, 2))
        barrier = Barrier(core, True, True)
        known = sdp_certificate.dominant(barrier, 1.0)
        wild = [
            Weights(
                *(part * torch.randn(len(part), generator=generator).mul(0.7).exp() for part in vars(known).values())
            )
            for _ in range(3)
        ]
        monkeypatch.setattr(sdp_certificate, "_candidates", lambda *rest, wild=wild: iter(wild))
        found = sdp_certificate.certify(barrier, None, None, (INF, 1.0)).value
        assert found >= float(norm_of(jacobians(core), INF, 1.0).max())
        proved, refused = proved + (found < INF), refused + (found == INF)
    assert proved and refused


@pytest.mark.parametrize("shape", [(6, 9), (9, 9), (5, 2)])
def test_norms_hold_for_any_guess(
    shape: tuple[int, int], generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        truth = float(torch.linalg.matrix_norm(matrix, 2))
        for guess in (*anything((3,), generator).abs(), torch.tensor(truth * (1 - 1e-6)).double()):
            with monkeypatch.context() as broken:
                broken.setattr(torch.linalg, "eigvalsh", lambda gram, guess=guess: guess.square().expand(len(gram), 1))
                assert truth * (1 - 1e-14) <= float(linalg.spectral_norm_upper(matrix)) < INF


def test_norms_of_maps_hold_for_any_guess_and_any_tries(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    proved = 0
    for _ in range(60):
        matrix = torch.randn(5, 4, generator=generator, dtype=torch.float64)
        truth = float(torch.linalg.matrix_norm(matrix, 2))
        mixed = torch.tensor(truth * 1.5, dtype=torch.float64)
        near = (
            truth
            * (1 + 0.1 * torch.randn(4, generator=generator).double())
            / linear_maps.power_of_two_above(truth * 1.5)
        )
        wild = [*anything((3,), generator).tolist(), *near.tolist()]
        with monkeypatch.context() as broken:
            broken.setattr(linear_maps, "gram_estimate", lambda *_, wild=wild: wild[0])
            assert float(gram_norm(LinearMap(((Dense(matrix),),)), mixed)) >= truth * (1 - 1e-14)
            broken.setattr(linear_maps, "_tries", lambda *_, wild=wild: iter(wild))
            found = float(gram_norm(LinearMap(((Dense(matrix),),)), mixed))
        assert found >= truth * (1 - 1e-14)
        proved += found < INF
    assert proved, "the guesses had no effect"


def test_norms_of_families_hold_for_any_guess(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes to try, the order of the matrices, and the slack."""
    proved = 0
    for _ in range(60):
        matrices = 0.1 * torch.randn(9, 3, 4, generator=generator, dtype=torch.float64)
        truth = float(torch.linalg.matrix_norm(matrices, 2).max())
        family = Family(9, 3, 4, lambda numbers, matrices=matrices: matrices[numbers])
        sizes, _ = block_norms._sizes(family, torch.arange(9))
        noise = iter(anything((400,), generator).tolist())
        with monkeypatch.context() as broken:
            broken.setattr(block_norms, "_sizes", lambda *_, s=sizes: (s, anything((9,), generator)))
            guesses = (truth * (1 + 0.1 * step) for step in noise)
            tries = (truth * (1 + 1e-9 * min(9.0, step)) for step in noise)
            broken.setattr(block_norms, "_largest", lambda _grams, guesses=guesses: next(guesses))
            broken.setattr(block_norms, "_first_slack", lambda _family, noise=noise: abs(next(noise)) * 1e-9)
            broken.setattr(block_norms, "_above", lambda _size, _slack, tries=tries: next(tries))
            found = float(largest_norm(family))
        assert found >= truth * (1 - 1e-14)
        proved += found < INF
    assert proved, "the guesses had no effect"


@pytest.mark.parametrize("p", [2.0, INF])
def test_scales_of_a_matrix_may_be_anything(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sum of forms over a ball is larger, whatever the scales; bad ones cost tightness alone."""
    generator = Generator().manual_seed(12)
    middle = torch.zeros(1, 2, dtype=torch.float64)
    symbols = Symbols.of(Domain(Interval(middle - 9, middle + 9), middle, torch.tensor([0.5]).double(), 2))
    centre, linear = (torch.randn(shape, generator=generator).double() for shape in ((1, 1, 4), (1, 1, 3, 4)))
    points = torch.nn.functional.normalize(torch.randn(2000, 2, generator=generator, dtype=torch.float64)) * 0.5
    signs = torch.ones(2000, 1).double()
    values = [centre[0, 0] + torch.cat((points, last * signs), 1) @ linear[0, 0] for last in (-1.0, 1.0)]
    attained = float(torch.cat(values).norm(dim=1, p=2 if p == 2 else 1).max())
    proved = 0
    for _ in range(60):
        wild = [anything((4,), generator) if torch.rand((), generator=generator) < 0.3 else None for _ in "ab"]
        scales = [torch.randn(4, generator=generator).double().mul(2).exp() if one is None else one for one in wild]
        monkeypatch.setattr(scaled_sums, "_shares", lambda *_, scales=scales: tuple(scales))
        found = float(scaled_sums.scaled_row_norms(symbols, Forms(centre, linear, 0 * centre), jb.Budget(), p))
        assert found >= attained
        proved += found < INF
    assert proved > 20
