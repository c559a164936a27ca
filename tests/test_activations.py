"""Laws that every activation obeys, checked against 300-bit ball arithmetic, and the tightness of what they state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from jacobound.activations import Activation, activation, families, onnx_builder, register, torch_builder
from jacobound.activations.piecewise import hard_sigmoid, prelu
from jacobound.errors import InvalidModelError, UnsafeArithmeticError, UnsupportedOpError
from jacobound.intervals import Interval

flint = pytest.importorskip("flint")
arb = flint.arb
Ball = object
Pair = tuple[Callable[..., Ball], Callable[..., Ball]]


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    with flint.ctx.workprec(300):
        yield


def exact(x: float | Fraction) -> Ball:
    return arb(flint.fmpq(*Fraction(x).as_integer_ratio()))


@dataclass(frozen=True)
class Case:
    """One activation, its true value and derivative as functions of a ball, and its kinks."""

    activation: Activation
    value: Callable[..., Ball]
    derivative: Callable[..., Ball]
    kinks: tuple[float, ...] = ()


def leaky(k: float) -> Pair:
    return lambda z: z if z >= 0 else z * arb(k), lambda z: arb(1) if z >= 0 else arb(k)


def exponential(a: float, s: float, i: float | Fraction) -> Pair:
    return (
        lambda z: arb(s) * z if z >= 0 else arb(s) * arb(a) * (exact(i) * z).expm1(),
        lambda z: arb(s) if z >= 0 else arb(s) * arb(a) * exact(i) * (exact(i) * z).exp(),
    )


def clipped(alpha: Fraction) -> Pair:
    return (
        lambda z: min(max(exact(alpha) * z + arb(0.5), arb(0)), arb(1)),
        lambda z: exact(alpha) if abs(exact(alpha) * z) <= 0.5 else arb(0),
    )


def sigma(z: Ball) -> Ball:
    return 1 / (1 + (-z).exp()) if z > 0 else z.exp() / (1 + z.exp())


def normal(z: Ball) -> tuple[Ball, Ball]:
    return (-z / arb(2).sqrt()).erfc() / 2, (-z * z / 2).exp() / (2 * arb.pi()).sqrt()


def skewed(z: Ball) -> Ball:
    return (8 / arb.pi()).sqrt() * (z + exact(Fraction("0.044715")) * z**3)


def skewed_derivative(z: Ball) -> Ball:
    y, slope = skewed(z), (8 / arb.pi()).sqrt() * (1 + exact(Fraction("0.134145")) * z * z)
    return sigma(y) + z * slope * sigma(y) * sigma(-y)


def softplus(b: float) -> Pair:
    return lambda z: (z if z > 0 else 0 * z) + (-abs(z * b)).exp().log1p() / b, lambda z: sigma(z * b)


ALPHA, SCALE, FIFTH = 1.6732632423543772, 1.0507009873554805, Fraction(float(torch.tensor(0.2)))
CASES = {
    "identity": Case(activation("identity"), lambda z: z, lambda z: arb(1)),
    "relu": Case(activation("relu"), *leaky(0.0), (0.0,)),
    "leaky_relu": Case(activation("leaky:0.3"), *leaky(0.3), (0.0,)),
    "leaky_steep": Case(activation("leaky_relu:2"), *leaky(2.0), (0.0,)),
    "leaky_negative": Case(activation("leaky_relu:-0.5"), *leaky(-0.5), (0.0,)),
    "prelu": Case(prelu(torch.tensor(0.25)), *leaky(0.25), (0.0,)),
    "sigmoid": Case(activation("sigmoid"), sigma, lambda z: sigma(z) * sigma(-z)),
    "tanh": Case(activation("tanh"), lambda z: z.tanh(), lambda z: 1 / z.cosh() ** 2),
    "arctan": Case(activation("arctan"), lambda z: z.atan(), lambda z: 1 / (1 + z * z)),
    "elu": Case(activation("elu"), *exponential(1.0, 1.0, 1.0), (0.0,)),
    "elu_scaled": Case(activation("elu:0.5,1.5,0.7"), *exponential(0.5, 1.5, 0.7), (0.0,)),
    "elu_steep": Case(activation("elu:2"), *exponential(2.0, 1.0, 1.0), (0.0,)),
    "selu": Case(activation("selu"), *exponential(ALPHA, SCALE, 1.0), (0.0,)),
    "celu": Case(activation("celu:3"), *exponential(3.0, 1.0, Fraction(1, 3)), (0.0,)),
    "softplus": Case(activation("softplus"), *softplus(1.0)),
    "softplus_sharp": Case(activation("softplus:3"), *softplus(3.0)),
    "hard_sigmoid": Case(activation("hard_sigmoid"), *clipped(Fraction(1, 6)), (-3.0, 3.0)),
    "hard_sigmoid_onnx": Case(hard_sigmoid(float(FIFTH)), *clipped(FIFTH), (-2.49999996, 2.49999996)),
    "gelu": Case(activation("gelu"), lambda z: z * normal(z)[0], lambda z: normal(z)[0] + z * normal(z)[1]),
    "gelu_tanh": Case(activation("gelu_tanh"), lambda z: z * sigma(skewed(z)), skewed_derivative),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def marks(act: Activation) -> list[float]:
    """Breaks and turns, with the floats around those that are none."""
    found = [turn for turn in (*act.breaks, *act.turns) if not isinstance(turn, Tensor)]
    return [end for turn in found for end in (turn if isinstance(turn, tuple) else (turn,))]


def intervals(act: Activation, dtype: torch.dtype) -> Interval:
    """Pairs of special numbers, degenerate and infinite intervals, and random ones of many sizes."""
    limits, source = torch.finfo(dtype), torch.Generator().manual_seed(1)
    special = [0.0, limits.tiny, limits.tiny / 8, 1e-8, 0.3, 1.0, 3.0, 20.0, 1e3, 1e30, limits.max, math.inf]
    special = torch.tensor([*special, *(-x for x in special), *marks(act)], dtype=dtype)
    near = special[-len(marks(act)) :] if marks(act) else special[:0]
    special = torch.cat([special, near.nextafter(near + 1), near.nextafter(near - 1)]).unique()
    pairs = torch.combinations(special)
    pairs = pairs[torch.randperm(len(pairs), generator=source)[:200]]
    random = torch.randn(100, 2, generator=source) * 10.0 ** torch.randint(-6, 3, (100, 1), generator=source)
    narrow = torch.randn(30, 1, generator=source).to(dtype).repeat(1, 2)
    narrow[:, 1] = narrow[:, 1].nextafter(torch.tensor(math.inf, dtype=dtype))
    points = special[special.isfinite()][:, None].repeat(1, 2)
    return Interval(*torch.cat([pairs, random.to(dtype).sort(1).values, narrow, points]).unbind(1))


def each_sample(case: Case, act: Activation, dtype: torch.dtype) -> Iterator[tuple[int, float]]:
    """Finite points of every interval: its ends, where the function changes, and some between."""
    x = intervals(act, dtype)
    for k, (low, high) in enumerate(zip(x.lower.tolist(), x.upper.tolist(), strict=True)):
        first, last = max(low, -1e4), min(high, 1e4)
        points = [first + (last - first) * share for share in (0.03, 0.4, 0.5, 0.8)] if first < last else []
        points += [low, high, *marks(case.activation)]
        yield from ((k, z) for z in points if low <= z <= high and math.isfinite(z))


def certainly_outside(truth: Ball, low: float, high: float) -> bool:
    """Whether the truth lies outside, beyond doubt; NaN bounds and impossible infinities count as outside."""
    if math.isnan(low) or math.isnan(high) or low == math.inf or high == -math.inf:
        return True
    return (math.isfinite(low) and truth < arb(low)) or (math.isfinite(high) and truth > arb(high))


@every_dtype
@every_case
def test_range_holds_every_value(case: Case, dtype: torch.dtype) -> None:
    act = case.activation.to("cpu", dtype)
    found = act.range(intervals(act, dtype))
    for k, z in each_sample(case, act, dtype):
        assert not certainly_outside(case.value(arb(z)), float(found.lower[k]), float(found.upper[k])), z


@every_dtype
@every_case
def test_derivative_range_holds_every_slope(case: Case, dtype: torch.dtype) -> None:
    act = case.activation.to("cpu", dtype)
    x = intervals(act, dtype)
    found = act.derivative_range(x)
    assert found.is_finite()
    before = (-1, 0.0)
    for k, z in each_sample(case, act, dtype):
        low, high = float(found.lower[k]), float(found.upper[k])
        if z not in case.kinks:
            assert not certainly_outside(case.derivative(arb(z)), low, high), z
        if before[0] == k and before[1] != z:
            rise = case.value(arb(z)) - case.value(arb(before[1]))
            assert not certainly_outside(rise / (arb(z) - arb(before[1])), low, high), (z, before[1])
        before = k, z


@every_dtype
@every_case
@pytest.mark.parametrize("parallel", [False, True], ids=["lines", "parallel"])
def test_lines_hold(case: Case, dtype: torch.dtype, parallel: bool) -> None:
    act = case.activation.to("cpu", dtype)
    x = intervals(act, dtype)
    lines = act.parallel_lines(x) if parallel else act.lines(x)
    assert not parallel or torch.equal(lines.lower_slope, lines.upper_slope)
    ends = [*vars(lines).values()]
    assert all(end.dtype == dtype and end.shape == x.shape for end in ends)
    numbers, steepness = [end.tolist() for end in ends], act.derivative_range(x)
    for k in ends[::2]:  # a tiny interval leaves only noise in its chord; no line may be steeper than the function
        assert ((k == 0) | ((k >= steepness.lower - 1e-5) & (k <= steepness.upper + 1e-5))).all()
    for k, z in each_sample(case, act, dtype):
        below, lower, above, upper = (end[k] for end in numbers)
        truth = case.value(arb(z))
        assert not certainly_outside(truth - arb(below) * arb(z), lower, math.inf), (z, below, lower)
        assert not certainly_outside(truth - arb(above) * arb(z), -math.inf, upper), (z, above, upper)


def moderate() -> Interval:
    ends = torch.tensor([-30.0, -6.0, -2.5, -1.0, -0.2, 0.0, 0.3, 1.3, 3.5, 8.0, 40.0], dtype=torch.float64)
    return Interval(*torch.combinations(ends).unbind(1))


@every_case
def test_derivative_range_is_tight(case: Case) -> None:
    act = case.activation.to("cpu", torch.float64)
    x = moderate()
    found = act.derivative_range(x)
    shares = torch.linspace(0, 1, 1501, dtype=torch.float64)[:, None]
    corners = [torch.full_like(x.lower, z)[None] for z in marks(act)]
    points = torch.cat([x.lower + (x.upper - x.lower) * shares, *corners])
    points = torch.minimum(torch.maximum(points, x.lower + 1e-12), x.upper - 1e-12).requires_grad_()
    act.value(points).sum().backward()
    kinks = torch.isin(points.detach()[:, 0], torch.tensor(case.kinks, dtype=torch.float64))
    slopes = torch.as_tensor(points.grad)[~kinks]
    scale = slopes.abs().amax(0)
    assert (torch.maximum(slopes.amin(0) - found.lower, found.upper - slopes.amax(0)) <= 1e-6 * scale).all()


@pytest.mark.parametrize("case", [CASES["gelu"], CASES["gelu_tanh"]], ids=["gelu", "gelu_tanh"])
def test_turns_and_inflections_lie_between_their_floats(case: Case) -> None:
    step = arb(2) ** -40
    for turn in case.activation.turns:
        first, last = (case.derivative(arb(z)) for z in turn)  # type: ignore[union-attr]
        assert first < 0 < last
    for turn in case.activation.breaks:
        first, last = (case.derivative(arb(z) + step) - case.derivative(arb(z) - step) for z in turn)  # type: ignore
        assert first * last < 0


def best_heights(act: Activation, x: Interval) -> tuple[Tensor, Tensor]:
    """Height at the middle of the best lines below and above, by brute force over all chords of a fine grid."""
    shares = torch.linspace(0, 1, 140, dtype=torch.float64)
    shares = shares.square() * (3 - 2 * shares)
    middle = (x.lower + x.upper)[:, None] / 2
    corners = [z for z, after in itertools.pairwise([*sorted(marks(act)), math.inf]) if after - z > 1e-9]
    ends = [x.lower, *(torch.full_like(x.lower, z) for z in corners), x.upper]
    ends = [torch.minimum(torch.maximum(end, x.lower), x.upper)[:, None] for end in ends]
    points = torch.cat([first + (last - first) * shares for first, last in itertools.pairwise(ends)], 1)
    values = act.value(points)
    right, left = (points - middle)[:, None, :], (middle - points)[:, :, None]
    height = (values[:, :, None] * right + values[:, None, :] * left) / (right + left)
    usable, at_middle = (left > 0) & (right > 0), act.value(middle[:, 0])
    highest = torch.where(usable, height, -math.inf).flatten(1).amax(1).maximum(at_middle)
    return torch.where(usable, height, math.inf).flatten(1).amin(1).minimum(at_middle), highest


@every_case
def test_lines_are_tight(case: Case) -> None:
    act = case.activation.to("cpu", torch.float64)
    x = moderate()
    lines, middle, (below, above) = act.lines(x), (x.lower + x.upper) / 2, best_heights(act, x)
    slack = 3e-4 * (above - below) + 1e-9
    excess = lines.upper_slope * middle + lines.upper_offset - above
    assert (torch.maximum(excess, below - lines.lower_slope * middle - lines.lower_offset) <= slack).all()


@pytest.mark.parametrize(("name", "low"), [("tanh", -4.0), ("sigmoid", -6.3), ("arctan", -15.8)])
def test_s_shaped_lines_are_sound_and_tight_on_wide_intervals(name: str, low: float) -> None:
    act = activation(name)
    sizes = torch.logspace(-3, 3, 20, dtype=torch.float64)
    sizes = torch.cat([-sizes, sizes.new_zeros(1), sizes])
    first, last = (end.flatten() for end in torch.meshgrid(sizes, sizes, indexing="ij"))
    first, last = torch.minimum(first, last), torch.maximum(first, last)
    x = Interval(torch.cat([first, first.new_tensor([low])]), torch.cat([last, first.new_tensor([1e3])]))
    lines = act.lines(x)
    shares = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    points = x.lower + (x.upper - x.lower) * torch.cat([shares, shares**6, 1 - shares**6])
    points = torch.cat([points, sizes[:, None].expand(-1, len(x.lower))])
    points = torch.minimum(torch.maximum(points, x.lower), x.upper)
    values = act.value(points)
    rounding = 4e-16 * (1 + lines.upper_slope * points.abs() + lines.lower_slope * points.abs())
    above = lines.upper_slope * points + lines.upper_offset - values
    below = values - lines.lower_slope * points - lines.lower_offset
    assert ((above >= -rounding) & (below >= -rounding)).all()
    assert max(above.amin(0).max(), below.amin(0).max()) <= 2e-3  # each line touches the function somewhere


@pytest.mark.parametrize("slope", [0.0, 0.3, 2.0])
def test_kinked_lines_are_the_classical_ones_without_dust(slope: float) -> None:
    act = activation(f"leaky_relu:{slope}") if slope else activation("relu")
    sizes = torch.tensor([5e-324, 1e-310, 1e-300, 1e-17, 0.1, 1.0, 3.0, 1e17, 1e300], dtype=torch.float64)
    low, high = (-sizes).repeat_interleave(9), sizes.repeat(9)
    lines = act.lines(Interval(low, high))
    through_zero = torch.where(high >= -low, torch.ones_like(low), slope)
    ratio = (high - slope * low) / (high - low)
    usual = sizes.repeat_interleave(9).gt(1e-299) & sizes.repeat(9).gt(1e-299)
    by_kink, by_chord = ("lower", "upper") if slope <= 1 else ("upper", "lower")
    assert torch.equal(getattr(lines, f"{by_kink}_slope"), through_zero)
    assert (getattr(lines, f"{by_kink}_offset") == 0).all()
    assert torch.equal(getattr(lines, f"{by_chord}_slope")[usual], ratio[usual])


@every_dtype
def test_exact_pieces_are_never_rounded(dtype: torch.dtype) -> None:
    size = torch.tensor([0.0, torch.finfo(dtype).tiny / 4, 0.1, 1e7, torch.finfo(dtype).max, math.inf], dtype=dtype)
    for act, slope in ((activation("relu"), 0.0), (activation("leaky_relu:0.25"), 0.25), (activation("identity"), 1.0)):
        alive, dead = Interval(size[:-1] / 2, size[1:]), Interval(-size[1:], -size[:-1] / 2)
        for x, k in ((alive, 1.0), (dead, slope)):
            lines, derivative = act.lines(x), act.derivative_range(x)
            for found in (lines.lower_slope, lines.upper_slope, derivative.lower, derivative.upper):
                assert (found == k).all()
            assert (lines.lower_offset == 0).all() and (lines.upper_offset == 0).all()
            assert act.settled(x).all()
            if k in (0.0, 1.0):
                assert torch.equal(act.range(x).lower, k * size[:-1] / 2 if x is alive else act.value(x.lower))


def test_derivative_at_a_kink_depends_on_the_side_and_inexact_slopes_are_enclosed() -> None:
    x = Interval(torch.tensor([0.0, -1.0, 0.0, -1.0]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    found = activation("relu").derivative_range(x)
    assert (found.lower.tolist(), found.upper.tolist()) == ([1, 0, 0, 0], [1, 0, 1, 1])
    single = activation("leaky_relu:0.01").derivative_range(x)[1]
    assert float(single.lower) < 0.01 < float(single.upper) < float(single.lower) + 2e-9
    assert activation("sigmoid").derivative_range(x + 40.0).lower.min() > 1e-18  # sigma (1 - sigma) would give 0


@every_dtype
@every_case
def test_damaged_intervals_give_bounds_that_hold(case: Case, dtype: torch.dtype) -> None:
    act = case.activation.to("cpu", dtype)
    nan, inf = math.nan, math.inf
    ends = [(nan, 1.0), (-1.0, nan), (nan, nan), (1.0, -1.0), (inf, inf), (-inf, -inf), (2.0, -inf)]
    x = Interval(*torch.tensor(ends, dtype=dtype).unbind(1))
    found, slopes = act.range(x), act.derivative_range(x)
    assert not act.settled(x)[:4].any()
    reach = [(-5, 5), (-5, 5), (-5, 5), (-1, 1), (-5, 5), (-5, 5), (-5, 2)]
    for lines in (act.lines(x), act.parallel_lines(x)):
        for k, (first, last) in enumerate(reach):
            for z in (first, 0.5 * first + 0.5 * last, last):
                truth = case.value(arb(z))
                assert not certainly_outside(truth, float(found.lower[k]), float(found.upper[k]))
                assert not certainly_outside(case.derivative(arb(z)), float(slopes.lower[k]), float(slopes.upper[k]))
                assert float(lines.lower_slope[k]) * z + float(lines.lower_offset[k]) <= float(truth) + 1e-5
                assert float(lines.upper_slope[k]) * z + float(lines.upper_offset[k]) >= float(truth) - 1e-5


def test_settled_marks_what_lies_in_one_linear_piece() -> None:
    x = Interval(*torch.tensor([[-2.0, 0.0, -1.0, -9.0, 1.0], [-1.0, 1.0, 1e-9, 0.0, 2.0]], dtype=torch.float64))
    assert activation("relu").settled(x).tolist() == [True, True, False, True, True]
    assert activation("tanh").settled(x).any().logical_not()
    assert hard_sigmoid(0.25, 0.5).settled(x).tolist() == [True, True, True, False, True]


def test_names_are_read_and_refused() -> None:
    names = {case.activation.name.split(":")[0] for case in CASES.values()}
    assert {family.name for family in families()} - {"selu"} <= names  # every family stands in the list above
    assert (activation("leaky:0.3").name, activation(" ReLU ").name) == ("leaky_relu:0.3", "relu")
    assert activation(activation("elu:0.5,1.5,0.7").name).name == "elu:0.5,1.5,0.7"
    for text in ("relu:1", "leaky_relu:x", "leaky_relu:nan", "elu:-1", "celu:0", "softplus:-1", "hard_sigmoid:0"):
        with pytest.raises(UnsupportedOpError):
            activation(text)
    with pytest.raises(UnsupportedOpError, match=r"known are: identity, relu, leaky_relu"):
        activation("swishy")
    with pytest.raises(UnsupportedOpError, match="exists"):
        register(families()[0])


def test_every_aten_spelling_exists_and_computes_the_same() -> None:
    z = torch.linspace(-5, 5, 41, dtype=torch.float64).reshape(1, 41)
    for family in families():
        for op in family.torch:
            _, name, overload = op.split(".")
            arguments = (torch.tensor([0.25], dtype=torch.float64),) if "prelu" in name else ()
            expected = getattr(getattr(torch.ops.aten, name), overload)(z.clone(), *arguments)
            assert torch.allclose(torch_builder(op)(*arguments).value(z), expected, atol=1e-8)  # type: ignore[misc]
    assert torch_builder("aten.sort.default") is None
    assert torch_builder("aten.gelu.default")(approximate="tanh").name == "gelu_tanh"  # type: ignore[misc]
    assert torch_builder("aten.softplus.default")(2.0, threshold=20.0).name == "softplus:2.0"  # type: ignore[misc]


def test_every_onnx_spelling_computes_the_same() -> None:
    onnx, reference = pytest.importorskip("onnx"), pytest.importorskip("onnx.reference")
    z = torch.linspace(-5, 5, 41)
    for op in (op for family in families() for op in family.onnx):
        inputs, further = (["x", "w"], (torch.tensor([0.25]),)) if op == "PRelu" else (["x"], ())
        node = onnx.helper.make_node(op, inputs, ["y"])
        info = [onnx.helper.make_tensor_value_info(name, 1, None) for name in (*inputs, "y")]
        graph = onnx.helper.make_graph([node], "one", info[:-1], info[-1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
        feed = dict(zip(inputs, (z.numpy(), *(w.numpy() for w in further)), strict=True))
        expected = torch.tensor(reference.ReferenceEvaluator(model).run(None, feed)[0])
        assert torch.allclose(onnx_builder(op)(*further).value(z), expected, atol=1e-6), op  # type: ignore[misc]
    assert onnx_builder("Gelu")(approximate=b"tanh").name == "gelu_tanh"  # type: ignore[misc]


def test_prelu_has_one_slope_per_channel_and_moves_exactly() -> None:
    weight = torch.tensor([0.25, 2.0, -1.0], dtype=torch.float64).reshape(3, 1, 1)
    act, z = prelu(weight), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    x = Interval(z - 0.5, z + 0.5)
    for channel, k in enumerate((0.25, 2.0, -1.0)):
        alone, part = activation(f"leaky_relu:{k}"), x[:, channel]
        for verb in (Activation.lines, Activation.parallel_lines, Activation.range, Activation.derivative_range):
            for name, expected in vars(verb(alone, part)).items():
                found = getattr(verb(act, x), name)[:, channel]
                assert torch.allclose(found, expected, rtol=1e-14, atol=1e-300), (verb, name)
    assert [weight.dtype for weight in act.to("cpu", torch.float32).parameters] == [torch.float32]
    with pytest.raises(UnsafeArithmeticError, match="float64"):
        prelu(torch.tensor([0.1], dtype=torch.float64)).to("cpu", torch.float32)
    with pytest.raises(InvalidModelError):
        prelu(torch.tensor([math.nan]))
