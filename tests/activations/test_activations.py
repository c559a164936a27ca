"""Laws that every activation obeys, checked against 300-bit ball arithmetic: ranges, slopes, names, spellings."""

from __future__ import annotations

import math

import pytest
import torch
from flint import arb
from torch import Tensor
from torch.nn import functional

from activation_cases import (
    CASES,
    Case,
    certainly_outside,
    each_sample,
    every_case,
    every_dtype,
    intervals,
    is_defined,
    marks,
    moderate,
)
from jacobound import InvalidModelError, UnsafeArithmeticError, UnsupportedOpError
from jacobound.activations import Activation, activation, families, onnx_builder, register, torch_builder
from jacobound.activations.calculus.stretches import EVERYWHERE
from jacobound.activations.kinds.clipped import clip
from jacobound.activations.kinds.piecewise import hard_sigmoid, prelu
from jacobound.arithmetic.intervals import Interval


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
    assert case.steep or found.is_finite()
    before = (-1, 0.0)
    for k, z in each_sample(case, act, dtype):
        low, high = float(found.lower[k]), float(found.upper[k])
        if z not in case.kinks:
            assert not certainly_outside(case.derivative(arb(z)), low, high), z
        if before[0] == k and before[1] != z:
            rise = case.value(arb(z)) - case.value(arb(before[1]))
            assert not certainly_outside(rise / (arb(z) - arb(before[1])), low, high), (z, before[1])
        before = k, z


@every_case
def test_derivative_range_is_tight(case: Case) -> None:
    act = case.activation.to("cpu", torch.float64)
    x = moderate(act)
    found = act.derivative_range(x)
    shares = torch.linspace(0, 1, 1501, dtype=torch.float64)[:, None]
    beside = (z + step for z in case.kinks for step in (-1e-9, 1e-9))
    corners = [torch.full_like(x.lower, z)[None] for z in (*marks(act), *beside)]
    points = torch.cat([x.lower + (x.upper - x.lower) * shares, *corners])
    points = torch.minimum(torch.maximum(points, x.lower + 1e-15), x.upper - 1e-15).requires_grad_()
    (act.value(points) + 0 * points).sum().backward()
    kinks = torch.isin(points.detach()[:, 0], torch.tensor(case.kinks, dtype=torch.float64))
    slopes = torch.as_tensor(points.grad)[~kinks]
    slack = 1e-6 * slopes.abs().amax(0) + 1e-12
    excess = torch.where(found.upper == math.inf, 0.0, found.upper - slopes.amax(0))  # a root is steep without limit
    wrong = ~(torch.maximum(slopes.amin(0) - found.lower, excess) <= slack)
    assert not wrong.any(), [(x.lower[k], x.upper[k], found.lower[k], found.upper[k]) for k in wrong.nonzero()[:4, 0]]


SMOOTH = ("gelu", "gelu_tanh", "silu", "silu_quick", "silu_slow", "mish", "sin", "cos")


@pytest.mark.parametrize("name", SMOOTH)
def test_turns_and_inflections_lie_between_their_floats(name: str) -> None:
    case, step = CASES[name], arb(2) ** -40
    for turn in (turn for turn in case.activation.turns if isinstance(turn, tuple)):
        first, last = (case.derivative(arb(z)) for z in turn)
        assert first * last < 0
        assert math.nextafter(math.nextafter(turn[0], math.inf), math.inf) >= turn[1] or "_" in name
    for turn in (turn for turn in case.activation.breaks if isinstance(turn, tuple)):
        first, last = (case.derivative(arb(z) + step) - case.derivative(arb(z) - step) for z in turn)
        assert first * last < 0
    for curved, z in (
        (piece.curvature, middle_of(case.activation, k)) for k, piece in enumerate(case.activation.pieces)
    ):
        bend = case.derivative(arb(z) + step) - case.derivative(arb(z) - step)
        assert (bend > 0) if curved == "convex" else (bend < 0), z


def middle_of(act: Activation, place: int) -> float:
    """A point of one piece."""
    ends = [turn if isinstance(turn, float) else turn[0] for turn in act.breaks if not isinstance(turn, Tensor)]
    ends = [ends[0] - 1, *ends, ends[-1] + 1]
    return (ends[place] + ends[place + 1]) / 2


SLOPES = {  # smallest and largest slope on the whole line, by calculus
    "identity": (1, 1),
    "relu": (0, 1),
    "relu6": (0, 1),
    "hard_tanh": (0, 1),
    "clip:-2,0.5": (0, 1),
    "threshold:0.5,0.5": (0, 1),
    "soft_shrink": (0, 1),
    "leaky_relu:0.3": (0.3, 1),
    "leaky_relu:-2": (-2, 1),
    "rrelu": ((1 / 8 + 1 / 3) / 2, 1),
    "abs": (-1, 1),
    "elu": (0, 1),
    "elu:3": (0, 3),
    "celu:2": (0, 1),
    "selu": (0, 1.0507009873554805 * 1.6732632423543772),
    "gelu": (-0.1289041451765532, 1.1289041451765531),
    "gelu_tanh": (-0.12899306865548096, 1.128993068655481),
    "silu": (-0.09983932012852845, 1.0998393201285284),
    "silu:1.702": (-0.0998393201201001, 1.0998393201201),
    "mish": (-0.11252612238875641, 1.0884981612427538),
    "hard_swish": (-0.5, 1.5),
    "sigmoid": (0, 0.25),
    "hard_sigmoid": (0, 1 / 6),
    "log_sigmoid": (0, 1),
    "softplus": (0, 1),
    "softplus:5": (0, 1),
    "tanh": (0, 1),
    "arctan": (0, 1),
    "softsign": (0, 1),
    "tanh_shrink": (0, 1),
    "erf": (0, 2 / math.sqrt(math.pi)),
    "bell": (-math.sqrt(2 / math.e), math.sqrt(2 / math.e)),
    "wave": (-2 * math.exp(-1.5), 1),
    "algebraic": (0, 1),
    "sin": (-1, 1),
    "cos": (-1, 1),
    "exp": (0, math.inf),
    "square": (-math.inf, math.inf),
    "power:3": (0, math.inf),
    "log": (-math.inf, math.inf),  # not defined everywhere
}


@every_dtype
@pytest.mark.parametrize("name", SLOPES)
def test_slopes_on_the_whole_line(name: str, dtype: torch.dtype) -> None:
    found = activation(name).derivative_range(Interval.whole(torch.zeros((), dtype=dtype)))
    low, high = SLOPES[name]
    tolerance = 1e-6 if dtype == torch.float64 else 4e-6
    assert found.lower <= low + 1e-9 and (low == -math.inf or found.lower >= low - tolerance)
    assert found.upper >= high - 1e-9 and (high == math.inf or found.upper <= high + tolerance)


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
        assert not any(end.isnan().any() for end in vars(lines).values())
        for k, (first, last) in enumerate(reach):
            for z in (z for z in (first, 0.5 * first + 0.5 * last, last) if is_defined(act, z)):
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
    other_names = {"selu", "rrelu", "relu6", "hard_tanh", "threshold"}
    names = {case.activation.name.split(":")[0] for case in CASES.values()}
    assert {family.name for family in families()} - other_names <= names  # every family stands in the list
    assert other_names < CASES.keys()
    assert (activation("leaky:0.3").name, activation(" ReLU ").name) == ("leaky_relu:0.3", "relu")
    assert activation(activation("elu:0.5,1.5,0.7").name).name == "elu:0.5,1.5,0.7"
    for text in ("relu:1", "leaky_relu:x", "leaky_relu:nan", "elu:-1", "celu:0", "softplus:-1", "hard_sigmoid:0"):
        with pytest.raises(UnsupportedOpError):
            activation(text)
    with pytest.raises(UnsupportedOpError, match=r"known are: identity, relu, leaky_relu"):
        activation("swishy")
    with pytest.raises(UnsupportedOpError, match="exists"):
        register(families()[0])


HALF = torch.tensor([0.5], dtype=torch.float64)
FURTHER = {  # arguments after the first one, where the operation needs some
    "prelu": (HALF / 2,),
    "_prelu_kernel": (HALF / 2,),
    "clamp_min": (0.5,),
    "clamp_min_": (0.5,),
    "clamp_max": (0.5,),
    "clamp_max_": (0.5,),
    "clamp": (-0.5, 1.5),
    "clamp_": (None, 1.5),
    "clip": (-0.5,),
    "clip_": (-0.5, 1.5),
    "threshold": (0.5, 0.5),
    "threshold_": (-0.5, -0.5),
    "hardshrink": (0.0,),
    "pow": (3.0,),
    "pow_": (2,),
}


COMPOSED = {"aten.tanhshrink.default": functional.tanhshrink, "aten.softsign.default": functional.softsign}


def as_tensors(arguments: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(None if one is None else torch.as_tensor(one, dtype=torch.float64) for one in arguments)


def test_every_aten_spelling_exists_and_computes_the_same() -> None:
    line = torch.linspace(-5, 5, 41, dtype=torch.float64).reshape(1, 41)
    for family in families():
        for op in family.torch:
            _, name, overload = op.split(".")
            arguments = FURTHER.get(name, ())
            arguments = as_tensors(arguments) if "Tensor" in overload.split("_")[-1] else arguments
            act = torch_builder(op)(*arguments)  # type: ignore[misc]
            z = line if act.domain == EVERYWHERE else line.abs() + 0.1
            # Two layers have no overload of their own: exports spell them out, and importers put them together again.
            plain = COMPOSED.get(op) or getattr(getattr(torch.ops.aten, name), overload)
            expected = plain(z.clone(), *arguments)
            assert torch.allclose(act.value(z), expected, atol=1e-8), op
            inside = act.range(Interval(z - 1e-9, z + 1e-9))
            assert ((inside.lower <= expected + 1e-7) & (expected <= inside.upper + 1e-7)).all(), op
    assert torch_builder("aten.sort.default") is None
    assert torch_builder("aten.gelu.default")(approximate="tanh").name == "gelu_tanh"  # type: ignore[misc]
    assert torch_builder("aten.softplus.default")(2.0).name == "softplus:2.0"  # type: ignore[misc]
    assert torch_builder("aten.clamp.default")(max=1.0).name == "clip:-inf,1.0"  # type: ignore[misc]


ONNX = {  # further inputs and attributes, several ways of writing some
    "PRelu": [((HALF / 2,), {})],
    "Pow": [((HALF * 6,), {}), ((HALF * 4,), {})],
    "Clip": [((HALF,), {}), ((None, HALF), {}), ((-HALF, HALF), {}), ((HALF, -HALF), {})],
    "Shrink": [((), {"bias": 0.5, "lambd": 0.5}), ((), {"bias": 0.25, "lambd": 0.25})],
    "ThresholdedRelu": [((), {"alpha": 0.0})],
    "Swish": [((), {}), ((), {"alpha": 2.0})],
    "Gelu": [((), {}), ((), {"approximate": "tanh"})],
    "Elu": [((), {}), ((), {"alpha": 2.0})],
}


def test_every_onnx_spelling_computes_the_same() -> None:
    onnx, reference = pytest.importorskip("onnx"), pytest.importorskip("onnx.reference")
    for op in (op for family in families() for op in family.onnx):
        for further, attributes in ONNX.get(op, [((), {})]):
            act = onnx_builder(op)(*further, **attributes)  # type: ignore[misc]
            z = torch.linspace(-5, 5, 41)
            z = z if act.domain == EVERYWHERE else z.abs() + 0.1
            act = act.to("cpu", torch.float32)
            scalars = [None if w is None else w.float().reshape(() if op == "Clip" else (1,)) for w in further]
            names = ["x", *("" if w is None else f"w{k}" for k, w in enumerate(scalars))]
            node = onnx.helper.make_node(op, names, ["y"], **attributes)
            info = [onnx.helper.make_tensor_value_info(name, 1, None) for name in (*filter(None, names), "y")]
            graph = onnx.helper.make_graph([node], "one", info[:-1], info[-1:])
            model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)])
            feed = {name: w.numpy() for name, w in zip(names, (z, *scalars), strict=True) if w is not None}
            expected = torch.tensor(reference.ReferenceEvaluator(model).run(None, feed)[0])
            assert torch.allclose(act.value(z), expected, atol=1e-6, rtol=1e-5), (op, further, attributes)
    assert onnx_builder("Gelu")(approximate=b"tanh").name == "gelu_tanh"  # type: ignore[misc]
    old = onnx_builder("Clip")(min=0.0, max=torch.finfo(torch.float32).max)  # type: ignore[misc]
    assert old.name == "clip:0.0,inf"  # attributes of operator set 6, where the largest float32 is the default


@pytest.mark.slow
@every_dtype
def test_a_clip_has_its_ends_entry_by_entry_and_moves_exactly(dtype: torch.dtype) -> None:
    low = torch.tensor([-1.0, 0.25, 2.0, -(2.0**90)], dtype=torch.float64).reshape(4, 1)
    high = torch.tensor([1.0, 0.25, -1.0, 3.0], dtype=torch.float64).reshape(4, 1)
    middle = torch.linspace(-4, 4, 60, dtype=torch.float64).repeat(4, 1)
    x = Interval((middle - 0.7).to(dtype), (middle + 0.7).to(dtype))
    for ends in ((low, high), (low, None), (None, high), (low, 3.0), (-2.0, high)):
        act = clip(*ends).to("cpu", torch.float32).to("cpu", dtype)
        numbers = [end if not isinstance(end, Tensor) else end.float().double() for end in ends]
        for row in range(4):
            alone = clip(*(end if not isinstance(end, Tensor) else float(end[row]) for end in numbers))
            for verb in (Activation.lines, Activation.parallel_lines, Activation.range, Activation.derivative_range):
                for name, expected in vars(verb(alone, x[row])).items():
                    found = getattr(verb(act, x), name)[row]
                    crossed = None not in ends and row in (1, 2)  # slopes may then see the empty piece between
                    assert crossed or torch.allclose(found, expected, rtol=1e-6, atol=1e-30), (verb, name, ends, row)
            assert torch.equal(act.value(x.lower)[row], alone.value(x.lower[row]))
            inside = act.range(x)[row]
            assert ((inside.lower <= alone.value(x.lower[row])) & (alone.value(x.upper[row]) <= inside.upper)).all()
    for broken in (torch.tensor([0.0, math.nan]), torch.tensor([0.0, math.inf]), math.nan):
        with pytest.raises(InvalidModelError):
            clip(broken, None)
    assert clip(-math.inf, math.inf).name == "identity"
    with pytest.raises(InvalidModelError):
        clip(math.inf, None)


JUMPS = (
    ("aten.threshold.default", (0.0, 1.0), {}),
    ("aten.hardshrink.default", (), {}),
    ("Shrink", (), {}),
    ("ThresholdedRelu", (), {}),
)


@pytest.mark.parametrize(("op", "arguments", "attributes"), JUMPS)
def test_functions_with_a_jump_are_refused_by_name(op: str, arguments: tuple, attributes: dict) -> None:
    build = torch_builder(op) or onnx_builder(op)
    with pytest.raises(UnsupportedOpError, match=r"(?i)jumps.*z = "):
        build(*arguments, **attributes)  # type: ignore[misc]


def test_numbers_of_a_model_that_do_not_fit_are_refused() -> None:
    power, rrelu = (torch_builder(f"aten.{op}") for op in ("pow.Tensor_Scalar", "rrelu.default"))
    assert power is not None and rrelu is not None
    assert [power(n).name for n in (2, 1.0, 0, 0.5, -1)] == ["square", "identity", "one", "sqrt", "reciprocal"]
    for exponent in (torch.tensor([2.0, 3.0]), math.inf, math.nan, 1e6):
        with pytest.raises(UnsupportedOpError):
            power(exponent)
    with pytest.raises(InvalidModelError, match="eval"):
        rrelu(0.1, 0.3, True)
    assert float(rrelu(0.1, 0.3).pieces[0].derivative(Interval.exact(torch.tensor(-1.0))).upper) > 0.2


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
