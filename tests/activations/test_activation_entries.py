"""What every activation states of itself: pieces, breaks, turns, names, plain values, and the numbers it refuses."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from flint import arb
from torch import Tensor

from activation_cases import CASES, Case, every_case, every_dtype, exact, is_defined, leaky, marks
from jacobound import InvalidModelError, UnsupportedOpError
from jacobound.activations import Activation, activation
from jacobound.activations.calculus.numbers import irrational
from jacobound.activations.calculus.stretches import EVERYWHERE, NOT_NEGATIVE, NOT_ZERO, POSITIVE, Stretch
from jacobound.activations.kinds.clipped import clip
from jacobound.activations.kinds.periodic import reduced
from jacobound.activations.kinds.piecewise import hard_sigmoid, leaky_relu, prelu, rrelu
from jacobound.arithmetic.intervals import Interval

INF = math.inf


POINTS = (0.0, 1e-30, 1e-3, 0.2, 0.45, 0.9, 1.0, 1.4, 2.2, 2.9, 3.2, 5.0, 7.9, 11.0, 19.0, 21.0, 40.0, 90.0, 800.0, 1e6)


def points(act: Activation, dtype: torch.dtype) -> Tensor:
    """Points of the domain, the special ones of the function among them, none at the very breaks of the dtype."""
    found = torch.tensor([*POINTS, *(-z for z in POINTS[1:])], dtype=dtype)
    return found[[is_defined(act, z) for z in found.tolist()]]


UNITS = {"gelu": 400, "gelu_tanh": 1000, "silu": 600, "silu_quick": 600, "silu_slow": 600, "mish": 600, "erf": 900,
         "power_1.5": 1400, "power_0.3": 1400, "power_-1.2": 2500}  # fmt: skip
NEAR = {"gelu": 2.0, "bell": 8.0, "wave": 8.0, "gelu_tanh": 3.0, "sin": 3.0, "cos": 3.0}


@every_dtype
@every_case
def test_values_and_slopes_at_points(case: Case, dtype: torch.dtype) -> None:
    act = case.activation.to("cpu", dtype)
    z = points(act, dtype)
    name, info = case.name, torch.finfo(dtype)
    for found, truth in (
        (act.range(Interval.exact(z)), case.value),
        (act.derivative_range(Interval.exact(z)), case.derivative),
    ):
        for at, low, high in zip(z.tolist(), found.lower.tolist(), found.upper.tolist(), strict=True):
            if at in case.kinks and truth is case.derivative:
                continue
            true = truth(arb(at))
            if not true.is_finite() or abs(float(true)) > info.max / 4:
                continue
            assert not (true < arb(low) or true > arb(high)), (at, low, high)
            if abs(at) <= NEAR.get(name, 20.0):
                assert high - low <= UNITS.get(name, 160) * info.eps * abs(float(true)) + 64 * info.tiny, at


def slope_of(case: Case, z: float) -> float:
    return float(case.derivative(arb(z)))


@every_case
def test_plain_values_slopes_and_curvatures(case: Case) -> None:
    """These only choose lines, but lines are tight only if they are right."""
    act = case.activation.to("cpu", torch.float64)
    step = arb(2) ** -60
    for z in points(act, torch.float64)[3:].tolist():
        if abs(z) > 25 or any(abs(z - mark) < 1e-6 for mark in marks(act)):
            continue
        at = torch.tensor([z], dtype=torch.float64)
        assert float(act.value(at)) == pytest.approx(float(case.value(arb(z))), rel=1e-9, abs=1e-12)
        piece = act.pieces[sum(max(ends_of(turn)) < z for turn in act.breaks)] if abs(z) < 9 or not act.reduce else None
        if piece is None:
            continue
        value, slope, bend = (float(part) for part in piece.plain(at))
        curved = float((case.derivative(arb(z) + step) - case.derivative(arb(z) - step)) / (2 * step))
        accuracy = 1e-9 if piece.jet is not None else 1e-6
        assert value == pytest.approx(float(case.value(arb(z))), rel=1e-9, abs=1e-12), z
        assert slope == pytest.approx(slope_of(case, z), rel=1e-9, abs=1e-12) == float(piece.slope(at)), z
        assert bend == pytest.approx(curved, rel=accuracy, abs=accuracy * 1e-3), z


def ends_of(turn: object) -> tuple[float, float]:
    if isinstance(turn, tuple):
        return turn
    number = float(turn)  # type: ignore[arg-type]
    return number, number


SHAPES = {"linear": "-", "convex": "u", "concave": "n"}
GELU, GELU_TANH, SILU, MISH = (
    (math.sqrt(2), -0.7517915246935645),
    (1.4185040087908284, -0.7524614220710163),
    (2.3993572805154677, -1.2784645427610738),
    (1.4905711794854284, -1.1924312145154952),
)
ENTRIES = {  # curvatures, breaks, turns
    "identity": ("-", (), ()),
    "relu": ("--", (0,), ()),
    "leaky_steep": ("--", (0,), ()),
    "leaky_negative": ("--", (0,), (0,)),
    "abs": ("--", (0,), (0,)),
    "prelu": ("--", (0,), ()),
    "rrelu": ("--", (0,), ()),
    "hard_sigmoid": ("---", (-3, 3), ()),
    "clip": ("---", (-0.3, 2), ()),
    "clip_below": ("--", (-0.5,), ()),
    "clip_above": ("--", (1.5,), ()),
    "clip_constant": ("-", (), ()),
    "relu6": ("---", (0, 6), ()),
    "soft_shrink": ("---", (-0.5, 0.5), ()),
    "bell": ("unu", (-math.sqrt(0.5), math.sqrt(0.5)), (0,)),
    "wave": ("nunu", (-math.sqrt(1.5), 0, math.sqrt(1.5)), (-math.sqrt(0.5), math.sqrt(0.5))),
    "algebraic": ("un", (0,), ()),
    "hard_swish": ("-u-", (-3, 3), (-1.5,)),
    **dict.fromkeys(("sigmoid", "tanh", "arctan", "arsinh", "softsign", "erf"), ("un", (0,), ())),
    **dict.fromkeys(("elu", "elu_scaled", "elu_steep", "selu", "celu"), ("u-", (0,), ())),
    **dict.fromkeys(("softplus", "exp", "expm1", "power_1.5", "power_-1.2", "rsqrt"), ("u", (), ())),
    **dict.fromkeys(("log_sigmoid", "log", "log1p", "sqrt", "power_0.3"), ("n", (), ())),
    **dict.fromkeys(("tanh_shrink", "power_3", "power_7"), ("nu", (0,), ())),
    **dict.fromkeys(("square", "power_4"), ("u", (), (0,))),
    **dict.fromkeys(("reciprocal", "power_-3"), ("nu", (0,), ())),
    "power_-2": ("uu", (0,), (0,)),
    "power_0": ("-", (), ()),
    "gelu": ("nun", (-GELU[0], GELU[0]), (GELU[1],)),
    "gelu_tanh": ("nun", (-GELU_TANH[0], GELU_TANH[0]), (GELU_TANH[1],)),
    "silu": ("nun", (-SILU[0], SILU[0]), (SILU[1],)),
    "silu_quick": ("nun", (-SILU[0] / 1.702, SILU[0] / 1.702), (SILU[1] / 1.702,)),
    "mish": ("nun", (-2.2563763963607931, MISH[0]), (MISH[1],)),
    "sin": ("ununun", [k * math.pi for k in range(-2, 3)], [(k + 0.5) * math.pi for k in range(-3, 4)]),
    "cos": ("unununu", [(k + 0.5) * math.pi for k in range(-3, 3)], [k * math.pi for k in range(-3, 4)]),
}
FALLING = {"power_-3", "reciprocal", "rsqrt", "power_-1.2"}
DOMAINS = {
    **dict.fromkeys(("sqrt", "power_1.5", "power_0.3"), NOT_NEGATIVE),
    **dict.fromkeys(("log", "rsqrt", "power_-1.2"), POSITIVE),
    **dict.fromkeys(("reciprocal", "power_-2", "power_-3"), NOT_ZERO),
    "log1p": (Stretch(-1.0),),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_pieces_breaks_and_turns(name: str) -> None:
    act = CASES[name].activation
    shapes, breaks, turns = ENTRIES[name]
    assert "".join(SHAPES[piece.curvature] for piece in act.pieces) == shapes
    for found, expected in ((act.breaks, breaks), (act.turns, turns)):
        assert len(found) == len(expected)
        for one, truth in zip(found, expected, strict=True):
            low, high = ends_of(one)
            assert low <= truth <= high and high - low <= 3e-15 * abs(truth)
            assert (low == high) == (truth in (0, -0.5, 0.5, -0.3, 2, 1.5, 6, 3, -3, -1.5))
    if not act.turns:
        assert act.increasing == (name not in FALLING)
    assert act.domain == DOMAINS.get(name, EVERYWHERE)


def test_stretches_hold_what_lies_inside() -> None:
    x = Interval(
        torch.tensor([-1.0, 0.0, 0.0, 0.5, -INF, 1.0, math.nan]), torch.tensor([1.0, 0.0, 1.0, 2.0, INF, INF, 0.5])
    )
    assert Stretch(0.0, 1.0).holds(x).tolist() == [False] * 7
    assert Stretch(0.0, 1.0, closed=True).holds(x).tolist() == [False, True, True, False, False, False, False]
    assert Stretch(0.0).holds(x).tolist() == [False, False, False, True, False, True, False]
    assert Stretch(0.0, closed=True).holds(x).tolist() == [False, True, True, True, False, True, False]
    assert Stretch(upper=1.0).holds(x).tolist() == [False, True, False, False, False, False, False]
    assert Stretch(upper=1.0, closed=True).holds(x).tolist() == [True, True, True, False, False, False, False]
    assert Stretch().holds(x).tolist() == [True] * 6 + [False]
    assert Stretch(-1.0, 1.0).holds(Interval(x.lower / 2, x.upper / 2)).tolist() == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    texts = [str(Stretch(*ends)) for ends in ((), (0.0,), (0.0, 1.0), (0.0, INF, True), (-INF, 1.0, True))]
    assert texts == ["(-inf, inf)", "(0, inf)", "(0, 1)", "[0, inf)", "(-inf, 1]"]


NAMES = {
    "elu": "elu:1.0",
    "elu:0.5": "elu:0.5",
    "elu:0.5,2": "elu:0.5,2.0,1.0",
    "elu:0.5,1,3": "elu:0.5,1.0,3.0",
    "celu:2": "celu:2.0",
    "silu": "silu",
    "silu:2": "silu:2.0",
    "softplus": "softplus",
    "softplus:2": "softplus:2.0",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "rrelu": f"leaky_relu:{11 / 48!r}",
    "rrelu:0.25,0.5": "leaky_relu:0.375",
    "leaky_relu:0.3": "leaky_relu:0.3",
    "hard_sigmoid": "hard_sigmoid:1/6,0.5",
    "hard_sigmoid:0.25": "hard_sigmoid:0.25,0.5",
    "clip:-1,2": "clip:-1.0,2.0",
    "clip:2,-1": "clip:2.0,-1.0",
    "relu6": "clip:0.0,6.0",
    "threshold": "clip:0.0,inf",
    "soft_shrink:0.25": "soft_shrink:0.25",
    "soft_shrink:0": "identity",
    "power": "square",
    "power:256": "power:256.0",
    "power:-256": "power:-256.0",
    "power:2.5": "power:2.5",
    "power:-3": "power:-3.0",
    "power:0": "one",
    "power:1": "identity",
    "power:0.5": "sqrt",
    "power:-0.5": "rsqrt",
    "power:-1": "reciprocal",
}


@pytest.mark.parametrize("text", NAMES)
def test_names_state_the_numbers(text: str) -> None:
    assert activation(text).name == NAMES[text]
    assert activation(text.upper()).name == NAMES[text]


@pytest.mark.parametrize(
    "text",
    ["elu:-0.1", "elu:1,0", "elu:1,1,0", "elu:1,-1", "elu:1,1,-1", "celu:0", "celu:-1", "softplus:0", "softplus:-1",
     "silu:0", "silu:-1", "hard_sigmoid:0", "hard_sigmoid:-1", "power:257", "power:-257", "soft_shrink:-0.1",
     "threshold:0,1", "relu:1", "elu:1,1,1,1", "leaky_relu:1e999", "power:x"],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedOpError):
        activation(text)


@pytest.mark.parametrize("value", [math.nan, INF, -INF])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    for make in (leaky_relu, hard_sigmoid, lambda k: hard_sigmoid(0.2, k)):
        with pytest.raises(InvalidModelError):
            make(value)
    for broken in (torch.tensor([1.0, value]),):
        with pytest.raises(InvalidModelError):
            prelu(broken)
        with pytest.raises(InvalidModelError):
            clip(broken)
        with pytest.raises(InvalidModelError):
            clip(None, broken)
    if value != -INF:
        with pytest.raises(InvalidModelError):
            clip(value)
    if value != INF:
        with pytest.raises(InvalidModelError):
            clip(None, value)


@pytest.mark.parametrize("slope", [Fraction(1, 3), Fraction(1, 4), 0.1, -0.1])
@every_dtype
def test_leaky_slopes_are_the_given_numbers(slope: float | Fraction, dtype: torch.dtype) -> None:
    case, z = leaky(slope), torch.tensor([-3.0, -0.1], dtype=dtype)
    act = leaky_relu(slope)
    found, steepness = act.range(Interval.exact(z)), act.derivative_range(Interval.exact(z))
    for k, at in enumerate(z.tolist()):
        assert arb(float(found.lower[k])) <= case[0](arb(at)) <= arb(float(found.upper[k]))
        assert arb(float(steepness.lower[k])) <= exact(slope) <= arb(float(steepness.upper[k]))
        assert float(steepness.width[k]) <= 3 * torch.finfo(dtype).eps * abs(slope)
    assert torch.equal(act.value(z), z * float(slope))


def test_irrational_numbers_lie_between_neighbours() -> None:
    low, high = irrational(math.pi)
    assert low < math.pi < high and math.nextafter(low, 4) == math.pi == math.nextafter(high, 0)


STEEPEST = {"sigmoid": 0.25, "tanh": 1.0, "arctan": 1.0, "arsinh": 1.0, "softsign": 1.0, "elu": 1.0}


@every_dtype
@pytest.mark.parametrize("name", STEEPEST)
def test_no_slope_is_steeper_than_the_steepest(name: str, dtype: torch.dtype) -> None:
    ends = torch.tensor([-1.0, 0.0], dtype=dtype)
    found = activation(name).derivative_range(Interval(ends[0], ends[1]))
    assert found.upper == STEEPEST[name]


@every_dtype
@pytest.mark.parametrize("name", ["elu", "selu", "celu:3", "elu:0.5,1.5,0.7"])
def test_exponential_units_are_not_positive_left_of_zero(name: str, dtype: torch.dtype) -> None:
    ends = torch.tensor([-1.0, 0.0], dtype=dtype)
    assert activation(name).range(Interval(ends, torch.zeros_like(ends))).upper.tolist() == [0.0, 0.0]


@every_dtype
def test_waves_are_moved_only_where_they_must_and_can(dtype: torch.dtype) -> None:
    most = 2.0**23 if dtype == torch.float64 else 2.0**12
    centre = torch.tensor([0.0, 3.0, -3.0, 2 * math.pi * most, -2 * math.pi * most], dtype=dtype)
    moved, shift = reduced(Interval(centre - 0.25, centre + 0.25))
    assert torch.equal(moved.lower[:3], (centre - 0.25)[:3]) and torch.equal(moved.upper[:3], (centre + 0.25)[:3])
    assert not shift.lower[:3].any() and not shift.upper[:3].any()
    assert (moved.magnitude() < 3.3).all() and (shift.lower[3] > 0) and (shift.upper[4] < 0)
    ends = [(-INF, INF), (0.0, INF), (-INF, 0.0), (math.nan, 0.0), (2e30, 2e30), (-20.0, 20.0)]
    moved, shift = reduced(Interval(*torch.tensor(ends, dtype=dtype).unbind(1)))
    assert (moved.lower == -INF).all() and (moved.upper == INF).all()
    assert not shift.lower.any() and not shift.upper.any()


def test_clips_that_are_constant_or_have_ends_per_entry() -> None:
    assert [len(clip(*ends).pieces) for ends in ((0.5, 0.5), (0.5, 0.75), (0.75, 0.5))] == [1, 3, 1]
    ends = torch.tensor([0.0, 1.0])
    for low, high, name in ((ends, ends, ""), (ends, None, " below"), (None, ends, " above"), (ends, 3.0, "")):
        assert clip(low, high).name == f"clip per entry{name}"


def test_the_default_slope_of_rrelu_is_that_of_torch() -> None:
    assert rrelu().name == "leaky_relu:0.22916666666666666"
