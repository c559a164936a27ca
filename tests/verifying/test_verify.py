"""Verdicts about networks of one input, whose violations are found exactly, piece by piece, in fractions."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import jacobound as jb

Line = tuple[Fraction, Fraction]  # slope, constant


def vnnlib(conditions: str, outputs: int, low: str = "-1", high: str = "1") -> str:
    """A property of one input and some outputs."""
    names = ["X_0", *(f"Y_{k}" for k in range(outputs))]
    declared = "".join(f"(declare-const {name} Real)\n" for name in names)
    return f"{declared}(assert (>= X_0 {low}))\n(assert (<= X_0 {high}))\n{conditions}\n"


class Drawn:
    """A network of one input and relu neurons with small whole weights, and its exact pieces."""

    def __init__(self, choose: random.Random, hidden: int = 4, outputs: int = 2) -> None:
        def draw(rows: int, columns: int) -> list[list[int]]:
            return [[choose.randint(-3, 3) for _ in range(columns)] for _ in range(rows)]

        self.first, self.shift = draw(hidden, 1), draw(1, hidden)[0]
        self.last, self.out = draw(outputs, hidden), draw(1, outputs)[0]

    def graph(self) -> jb.Graph:
        weights = [torch.tensor(one, dtype=torch.float64) for one in (self.first, self.last)]
        return jb.from_layers(weights, [torch.tensor(one, dtype=torch.float64) for one in (self.shift, self.out)])

    def pieces(self, low: Fraction, high: Fraction) -> list[tuple[Fraction, Fraction, list[Line]]]:
        kinks = {Fraction(-b, w[0]) for w, b in zip(self.first, self.shift, strict=True) if w[0]}
        ends = sorted({low, high, *(kink for kink in kinks if low < kink < high)})
        found = []
        for left, right in pairwise(ends) if len(ends) > 1 else [(low, high)]:
            middle = (left + right) / 2
            on = [w[0] * middle + b > 0 for w, b in zip(self.first, self.shift, strict=True)]
            lines = []
            for row, c in zip(self.last, self.out, strict=True):
                slope = sum((Fraction(v * w[0]) for v, w, a in zip(row, self.first, on, strict=True) if a), Fraction(0))
                shift = sum((Fraction(v * b) for v, b, a in zip(row, self.shift, on, strict=True) if a), Fraction(c))
                lines.append((slope, shift))
            found.append((left, right, lines))
        return found

    def violated(self, unsafe: list[list[jb.Inequality]], low: Fraction, high: Fraction) -> bool:
        """Whether some x of the interval satisfies all inequalities of an alternative."""
        return any(
            _meet(lines, alternative, left, right)
            for left, right, lines in self.pieces(low, high)
            for alternative in unsafe
        )


def _meet(lines: list[Line], alternative: list[jb.Inequality], left: Fraction, right: Fraction) -> bool:
    open_left = open_right = False
    for one in alternative:
        slope = sum((factor * lines[k][0] for k, factor in one.outputs), Fraction(sum(f for _, f in one.inputs)))
        shift = sum((factor * lines[k][1] for k, factor in one.outputs), Fraction(0))
        if slope == 0:
            if not (shift < one.bound or (shift == one.bound and not one.strict)):
                return False
            continue
        end = (one.bound - shift) / slope
        if slope > 0 and (end, not one.strict) < (right, not open_right):
            right, open_right = end, one.strict
        if slope < 0 and (end, one.strict) > (left, open_left):
            left, open_left = end, one.strict
    return left < right or (left == right and not open_left and not open_right)


def drawn_unsafe(choose: random.Random) -> list[list[jb.Inequality]]:
    def one() -> jb.Inequality:
        factors = {k: choose.choice((-2, -1, 1, 2, 3)) for k in choose.sample((0, 1), choose.randint(1, 2))}
        inputs = {0: choose.choice((-1, 2))} if choose.random() < 0.3 else None
        bound = Fraction(choose.randint(-12, 12), choose.choice((1, 2, 3)))
        return jb.Inequality.of(factors, bound, inputs=inputs, strict=choose.random() < 0.5)

    return [[one() for _ in range(choose.randint(1, 3))] for _ in range(choose.randint(1, 3))]


def test_verdicts_agree_with_exact_pieces() -> None:
    choose, counts = random.Random(1), {answer: 0 for answer in jb.Decision}
    for _ in range(60):
        net, unsafe = Drawn(choose), drawn_unsafe(choose)
        low = Fraction(choose.randint(-8, 4), 4)
        high = low + Fraction(choose.randint(1, 8), 4)
        claim = jb.Property.never(jb.Box([float(low)], [float(high)]), unsafe, outputs=2)
        found = jb.verify(net.graph(), claim, budget=jb.Budget(cpu_seconds=0.5))
        counts[found.decision] += 1
        if found.holds is not None:
            assert found.holds is not net.violated(unsafe, low, high), claim
        if found.decision is jb.Decision.VIOLATED:
            assert found.witness is not None
            x = Fraction(float(found.witness))
            assert low <= x <= high and net.violated(unsafe, x, x)
        assert found.status.certified
        assert float(found.lower) <= float(found.upper)
    assert counts[jb.Decision.HOLDS] > 10 and counts[jb.Decision.VIOLATED] > 15
    assert counts[jb.Decision.UNKNOWN] <= 3  # ties


def decide(graph: jb.Graph, text: str, seconds: float = 2.0) -> jb.Verdict:
    return jb.verify(graph, jb.Property.from_vnnlib(text), budget=jb.Budget(cpu_seconds=seconds))


@pytest.fixture
def hat() -> jb.Graph:
    """Outputs |x| and relu(x), the first of them a sum."""
    first, last = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    return jb.from_layers([first.double(), last.double()])


CASES = {
    "above the largest value": ("(assert (>= Y_0 1.001))", True),
    "below the largest value": ("(assert (>= Y_0 0.999))", False),
    "one inequality forgotten of two": ("(assert (>= Y_0 0.5))(assert (<= Y_1 0.1))(assert (>= X_0 0.2))", True),
    "both of two": ("(assert (>= Y_0 0.5))(assert (<= Y_1 0.1))", False),
    "the second alternative": ("(assert (or (>= Y_0 1.5) (and (>= Y_1 0.5) (<= Y_0 0.6))))", False),
    "no alternative": ("(assert (or (>= Y_0 1.5) (and (>= Y_1 0.5) (<= Y_0 0.4))))", True),
    "either of two conditions, both of two pairs": (
        "(assert (or (>= Y_0 0.9) (<= Y_0 -1)))(assert (or (<= Y_1 0.1) (>= Y_1 2)))",
        False,
    ),
    "input and output": ("(assert (<= Y_0 (- (* 0.5 X_0) 0.01)))", True),
    "input and output met": ("(assert (<= Y_0 (+ (* 0.5 X_0) 0.01)))", False),
    "equality that is crossed": ("(assert (= Y_0 0.3))(assert (>= X_0 0.2))(assert (<= X_0 0.29))", True),
    "chained": ("(assert (<= 0.4 Y_1 0.5))", False),
    "decimals of many digits": ("(assert (<= (* 0.12345678901234567 Y_0) -0.001))", True),
}


@pytest.mark.parametrize("case", CASES)
def test_conditions_of_files_are_all_read(case: str, hat: jb.Graph) -> None:
    text, holds = CASES[case]
    assert decide(hat, vnnlib(text, 2)).holds is holds


@pytest.mark.parametrize(("sign", "holds"), [("<", True), ("<=", False)])
def test_strict_conditions_leave_out_equality(sign: str, holds: bool) -> None:
    # The last node is a relu: its values are moved without rounding, so that its bound 0 is exact.
    graph = jb.from_torch(
        torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU()).double().eval(), torch.zeros(1, 1)
    )
    found = decide(graph, vnnlib(f"(assert ({sign} Y_0 0))", 1, "-100", "100"))
    assert found.holds is holds


def test_a_file_of_version_2_with_positions() -> None:
    text = """(vnnlib-version <2.0>)
    (declare-network f (declare-input X real [1,2]) (declare-output Y real [1,2]))
    (assert (and (<= 0 X[0,0] 1) (<= -1 X[0,1] 0)))
    (assert (or (> Y[0,1] 2.5) (< Y[0,0] -0.5)))
    """
    swap = jb.from_layers([torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=torch.float64)])
    found = decide(swap, text)
    assert found.decision is jb.Decision.VIOLATED and found.witness is not None
    assert float(found.witness[1]) < -0.5
    assert decide(swap, text.replace("-0.5", "-1.01")).holds is True


def test_an_input_fixed_at_a_decimal_has_a_proof_about_the_decimal() -> None:
    graph = jb.from_layers([torch.tensor([[10.0]], dtype=torch.float64)])
    found = decide(graph, vnnlib("(assert (<= Y_0 1.0000001))", 1, "0.1", "0.1"))
    assert found.decision is jb.Decision.VIOLATED
    assert decide(graph, vnnlib("(assert (<= Y_0 0.9999999))", 1, "0.1", "0.1")).holds is True


def test_boxes_that_are_cut_hold_what_lines_leave() -> None:
    from jacobound.arithmetic.intervals import Interval
    from jacobound.verifying.lines import cut_boxes

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1

    slopes, constants, bounds = draw(40, 2, 3, 4), draw(40, 2, 3), draw(2, 3)
    box = Interval(-draw(40, 4).abs(), draw(40, 4).abs())
    cuts, gone = cut_boxes(box, slopes, constants, bounds)
    share = torch.rand(500, 1, 4, generator=generator, dtype=torch.float64)
    points = box.lower + share * (box.upper - box.lower)  # (500, 40, 4)
    sides = (slopes * points[:, :, None, None]).sum(-1) + constants if points.dim() == 3 else None
    assert sides is not None
    left = (sides <= bounds - 1e-12).all(-1)
    inside = ((cuts.lower <= points.unsqueeze(2)) & (points.unsqueeze(2) <= cuts.upper)).all(-1) & ~gone
    assert bool(left.any()) and not bool((left & ~inside).any())
    assert bool((cuts.upper - cuts.lower < (box.upper - box.lower).unsqueeze(1)).any())


def test_constants_and_signs_are_claims_too(hat: jb.Graph) -> None:
    box = jb.Box([0.25], [1.0])
    for bound, holds in ((2, True), ("1.4", False)):
        assert jb.verify(hat, jb.LipschitzAtMost(box, bound), budget=5).holds is holds
    assert jb.verify(hat, jb.Monotone(box, increasing=[0]), budget=5).holds is True
    found = jb.verify(hat, jb.Monotone(jb.Box([-1.0], [1.0]), increasing=[0], rows=0), budget=5)
    assert found.holds is False and found.witness is not None and found.partner is not None
    assert hat(found.partner)[0] < hat(found.witness)[0] and found.witness < found.partner


def test_what_is_proved_comes_back_from_json(hat: jb.Graph, tmp_path: Path) -> None:
    found = decide(hat, vnnlib("(assert (>= Y_0 0.5))", 2))
    again = jb.Verdict.from_json(found.to_json())
    assert again.decision is jb.Decision.VIOLATED and again.question is not None
    claim = again.question.options["property"]
    assert isinstance(claim, jb.Property) and str(claim.cases[0].unsafe[0][0]) == "-Y_0 <= -0.5"
    page = again.report(tmp_path / "verdict.html").read_text(encoding="utf-8")
    assert "The violation" in page and "violated: proved at the witness" in page
    assert "violated" in repr(again) and math.isinf(float(again.lower))


REFUSED = {
    "nothing of outputs": ("", "says nothing of the outputs"),
    "hidden value": ("(declare-hidden H real [1])(assert (<= H[0] 1))", "line 6 .*hidden value"),
    "negation": ("(assert (not (<= Y_0 1)))", r"line 6 .*\(not ...\) is not understood; write"),
    "product of outputs": ("(assert (<= (* Y_0 Y_1) 1))", "line 6 .*product of two inputs or outputs"),
    "no such output": ("(assert (<= Y_7 1))", "line 6 .*'Y_7' is neither"),
    "contradiction": ("(assert (<= Y_0 1))(assert (>= Y_0 2))", "contradict each other"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_conditions_that_are_not_understood_are_refused_with_their_line(case: str) -> None:
    text, message = REFUSED[case]
    with pytest.raises(jb.InvalidRegionError, match=f"(?s){message}"):
        jb.Property.from_vnnlib(vnnlib(text, 2))


def test_properties_that_do_not_fit_are_refused(hat: jb.Graph) -> None:
    with pytest.raises(jb.ShapeError, match="about 3 outputs, the network has 2"):
        decide(hat, vnnlib("(assert (>= Y_2 0.5))", 3))
    with pytest.raises(jb.InvalidOptionError, match="it takes a Property"):
        jb.verify(hat, 3)  # type: ignore[arg-type]
    with pytest.raises(jb.InvalidRegionError, match="bounded"):
        jb.Property.within(jb.Box([0.0], [math.inf]), upper=[1, 1])


def test_what_is_violated_is_never_said_to_hold_where_no_points_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacobound.verifying.points import PointSearch

    monkeypatch.setattr(PointSearch, "start", lambda *_: None)
    monkeypatch.setattr(PointSearch, "look", lambda *_: None)
    choose, closed = random.Random(2), 0
    for _ in range(12):
        net, low, high = Drawn(choose, hidden=12), Fraction(-3), Fraction(3)
        ends = [(left, right, lines[0]) for left, right, lines in net.pieces(low, high)]
        least = min(slope * x + shift for left, right, (slope, shift) in ends for x in (left, right))
        for violated, gap in ((True, Fraction(1, 1000)), (False, Fraction(-1, 100))):
            never = jb.Inequality.of({0: 1}, least - 50), jb.Inequality.of({0: 1}, least + gap)
            claim = jb.Property.never(jb.Box([-3.0], [3.0]), [[never[0]], [never[1]]], outputs=2)
            found = jb.verify(net.graph(), claim, budget=jb.Budget(cpu_seconds=0.1))
            assert not (violated and found.holds)
            assert Fraction(float(found.lower)) <= least - (least + gap) if math.isfinite(found.lower) else True
            closed += found.holds is True
    assert closed > 6


def test_decimals_are_rounded_out_of_the_box_and_points_into_it() -> None:
    for low, high in (("0.1", "0.3"), ("-0.7", "-0.1"), ("0.1234567890123456789", "0.2")):
        (case,) = jb.Property.from_vnnlib(vnnlib("(assert (<= Y_0 0))", 1, low, high)).cases
        lower, upper = (Fraction(float(torch.as_tensor(end))) for end in (case.box.lower, case.box.upper))
        assert lower <= Fraction(low) and upper >= Fraction(high)
        for x in (float(low) - 1, float(high) + 1, float(low), float(high)):
            inside, same = case.enclosing(torch.tensor([[x]], dtype=torch.float64))
            assert Fraction(low) <= Fraction(float(inside)) <= Fraction(high) and inside == same


def test_a_property_may_be_named_by_its_file(hat: jb.Graph, tmp_path: Path) -> None:
    text = vnnlib("(assert (>= Y_0 1.001))", 2)
    file = tmp_path / "property.vnnlib"
    file.write_text(text)
    for named in (file, str(file), text):
        assert jb.verify(hat, named, budget=2.0).decision is jb.Decision.HOLDS
    with pytest.raises(jb.InvalidRegionError, match="absent"):
        jb.verify(hat, tmp_path / "absent.vnnlib")
