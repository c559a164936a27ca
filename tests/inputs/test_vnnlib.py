"""`Box.from_vnnlib`: numbers rounded outward, both versions of the format, disjunctions, and every refusal."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
from fractions import Fraction
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import jacobound as jb
from jacobound import InvalidRegionError, JacoboundError, ShapeError, cli

DECLARED = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
UNIT = "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= X_1 1))"


def bounds(*asserted: str) -> list[tuple[list[float], list[float]]]:
    """The boxes of a property with two inputs."""
    boxes = jb.Box.all_from_vnnlib(DECLARED + "".join(f"(assert {text})\n" for text in asserted))
    return [(torch.as_tensor(box.lower).tolist(), torch.as_tensor(box.upper).tolist()) for box in boxes]


def test_numbers_are_rounded_outward() -> None:
    ((lower, upper),) = bounds("(>= X_0 0.1)", "(<= X_0 0.3)", "(>= X_1 -0.7)", "(<= X_1 12345678901234567890.1)")
    exact = [(Fraction("0.1"), Fraction("0.3")), (Fraction("-0.7"), Fraction("12345678901234567890.1"))]
    for low, high, (least, most) in zip(lower, upper, exact, strict=True):
        assert Fraction(low) <= least and most <= Fraction(high)
        one = torch.tensor([low, high], dtype=torch.float64)
        inward = torch.nextafter(one, one.flip(0))
        assert Fraction(inward[0].item()) > least and Fraction(inward[1].item()) < most
    # Numbers that are floats stay as they are.
    assert bounds("(>= X_0 0.5)", "(<= X_0 0.5)", "(>= X_1 -1e3)", "(<= X_1 2.5e-1)") == [([0.5, -1000.0], [0.5, 0.25])]


def test_the_smallest_numbers_are_rounded_outward_too() -> None:
    assert bounds("(>= X_0 -1e-400)", "(<= X_0 1e-400)", "(= X_1 0.0)") == [([-5e-324, 0.0], [5e-324, 0.0])]


def test_the_tightest_of_several_bounds_counts_before_rounding() -> None:
    (found,) = bounds(
        "(and (<= 0.25 X_0 0.75) (> X_0 0.5))", "(<= X_0 0.5000000000000000000001)", "(< X_1 2)", "(>= X_1 1)"
    )
    assert found == ([0.5, 1.0], [0.5000000000000001, 2.0])


@pytest.mark.parametrize(
    ("condition", "lower", "upper"),
    [
        ("(<= (* 3 X_0) 1)", 0.0, 1 / 3 + 1e-16),
        ("(<= (* -4.0 X_0) -1)", 0.25, 1.0),
        ("(<= (+ X_0 0.5) (- 1 0.25))", 0.0, 0.25),
        ("(>= 0.5 (/ X_0 2 0.5))", 0.0, 0.5),
        ("(<= (- X_0) (- 0.5))", 0.5, 1.0),
        ("(<= (- (+ X_0 X_1) X_1) 0.5)", 0.0, 0.5),
        ("(== X_0 0.5)", 0.5, 0.5),
        ("(<= 0 1)", 0.0, 1.0),
        ("true", 0.0, 1.0),
    ],
)
def test_linear_conditions_on_one_input_are_bounds(condition: str, lower: float, upper: float) -> None:
    ((low, high),) = bounds(condition, "(and (<= 0 X_0 1) (<= 0 X_1 1))")
    assert low == [lower, 0.0] and high[0] == pytest.approx(upper, abs=1e-15) and high[0] >= upper - 1e-16


def test_a_bound_of_one_third_is_above_it() -> None:
    ((_, high),) = bounds("(<= (* 3 X_0) 1)", "(and (<= 0 X_0) (<= 0 X_1 1))")
    assert Fraction(high[0]) > Fraction(1, 3) > Fraction(math.nextafter(high[0], 0.0))


def test_conditions_on_outputs_never_make_the_box_smaller() -> None:
    unit = [([0.0, 0.0], [1.0, 1.0])]
    whole = "(and (<= 0 X_0 1) (<= 0 X_1 1))"
    for condition in (
        "(<= Y_0 Y_1)",
        "(or (and (>= Y_0 Y_1)) (<= X_0 0.5))",
        "(<= X_0 Y_0)",
        "(or (and (<= Y_1 0)) (and (>= Y_1 1)))",
        "(not (<= Y_0 0.5))",
        "(<= (relu Y_0) (* Y_0 Y_1))",
        "(<= (+ X_0 (* 2 Y_1)) 0.5)",
    ):
        assert bounds(whole, condition) == unit, condition
    assert bounds(whole, "(or (and (<= X_0 0.5) (>= Y_0 1)) (and (<= X_0 0.5) (>= Y_1 1)))") == [([0, 0], [0.5, 1])]


def test_several_boxes() -> None:
    text = DECLARED + UNIT + "(assert (or (and (<= X_0 0.25) (>= Y_0 0)) (>= X_0 0.5) (>= X_0 3)))"
    with pytest.raises(InvalidRegionError, match=r"2 boxes of inputs; Box\.all_from_vnnlib gives all"):
        jb.Box.from_vnnlib(text)
    first, second = jb.Box.all_from_vnnlib(text)
    assert (first.lower.tolist(), first.upper.tolist()) == ([0, 0], [0.25, 1])
    assert (second.lower.tolist(), second.upper.tolist()) == ([0.5, 0], [1, 1])


def test_every_combination_of_disjunctions_is_a_box() -> None:
    found = bounds(
        "(and (<= 0 X_0 3) (<= 0 X_1 3))", "(or (<= X_0 1) (>= X_0 2))", "(or (<= X_1 1) (and (>= X_1 2) (<= X_0 1)))"
    )
    assert sorted(found) == [([0, 0], [1, 1]), ([0, 2], [1, 3]), ([2, 0], [3, 1])]


VERSION_2 = dedent(
    """
    (vnnlib-version <2.0>)
    ; a comment with ( brackets
    (declare-network f
        (declare-input X float32 [1, 2,2])
        (declare-hidden H float32 [7] "layer (1)")
        (declare-output Y float32 [1,3])
    )
    (assert (and (<= X[0,0,0] 0.1) (>= X[0,0,0] -0.1)))
    (assert (and (<= X[0, 0, 1] 0.2) (>= X[0,0,1] -0.2)))
    (assert (and (<= X[0,1,0] 0.3) (>= X[0,1,0] -0.3)))
    (assert (<= -0.4 X[0,1,1] 0.4))
    (assert (or (<= Y[0,0] Y[0,1]) (<= H[3] Y[0,2])))
    """
)


def test_version_2_has_tensors() -> None:
    box = jb.Box.from_vnnlib(VERSION_2)
    assert box.upper.shape == (1, 2, 2)
    assert box.upper.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert jb.Box.from_vnnlib(VERSION_2, shape=(4,)).lower.tolist() == (-box.upper).flatten().tolist()
    with pytest.raises(ShapeError, match=r"\(1, 2, 2\).*\(5,\)"):
        jb.Box.from_vnnlib(VERSION_2, shape=(5,))
    scalar = "(declare-network f (declare-input X Real []) (declare-output Y Real [])) (assert (<= 0 X 1))"
    assert jb.Box.from_vnnlib(scalar).lower.shape == ()


@pytest.mark.slow
def test_files_and_gzip(tmp_path: Path) -> None:
    text = DECLARED + UNIT
    (tmp_path / "a.vnnlib").write_text(text)
    (tmp_path / "a.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    for source in (tmp_path / "a.vnnlib", str(tmp_path / "a.vnnlib.gz"), gzip.compress(text.encode()), text.encode()):
        assert jb.Box.from_vnnlib(source, shape=(1, 2)).upper.tolist() == [[1.0, 1.0]]
    with pytest.raises(InvalidRegionError, match=r"'.*none\.vnnlib': can not be read"):
        jb.Box.from_vnnlib(tmp_path / "none.vnnlib")
    with pytest.raises(InvalidRegionError, match="cut off"):
        jb.Box.from_vnnlib(gzip.compress(text.encode())[:-9])
    with pytest.raises(InvalidRegionError, match="more than 67108864 bytes inside"):
        jb.Box.from_vnnlib(gzip.compress(b" " * (1 << 26) + b" "))


REFUSED = {
    "unbounded above": (DECLARED + "(assert (>= X_0 0))", r"X_0 has no upper bound"),
    "unbounded below": (DECLARED + "(assert (<= X_0 0))", r"X_0 has no lower bound"),
    "unbounded tensor": (VERSION_2.replace("-0.4 X[0,1,1]", "-0.4"), r"input \[0, 1, 1\] of 'X' has no lower bound"),
    "contradiction": (DECLARED + UNIT + "(assert (>= X_1 2))", "no input satisfies"),
    "false": (DECLARED + UNIT + "(assert (or false (<= 1 0)))", "no input satisfies"),
    "two inputs related": (DECLARED + UNIT + "\n\n(assert (<= X_0\n X_1))", "line 7 .*several inputs.*no box"),
    "negation": (DECLARED + "(assert (not (<= X_0 1)))", r"line 5 .*\(not \.\.\.\) with inputs"),
    "product": (DECLARED + "(assert (<= (* X_0 X_0) 1))", "line 5 .*product of two inputs"),
    "division": (DECLARED + "(assert (<= (/ 1 X_0) 1))", "line 5 .*division"),
    "division by zero": (DECLARED + "(assert (<= (/ X_0 0.0) 1))", "line 5 .*division"),
    "function": (DECLARED + "(assert (<= (exp X_0) 1))", r"line 5 .*\(exp"),
    "undeclared": (DECLARED + "(assert (<= X_2 1))", "line 5 .*'X_2' is neither a number nor declared"),
    "undeclared output": (DECLARED + "(assert (<= Y_2 1))", "line 5 .*'Y_2'"),
    "gap": ("(declare-const X_1 Real)", "not X_0"),
    "other name": ("(declare-const Z Real)", "line 1 .*not 'Z'"),
    "no inputs": ("(declare-const Y_0 Real)", "no inputs"),
    "never closed": (DECLARED + "(assert (<= X_0", "line 5 .*never closed"),
    "closed twice": (DECLARED + "(assert (<= X_0 1)))", r"line 5 .*'\)' stands outside"),
    "outside": ("hello\n", "line 1 .*'hello' stands outside"),
    "unknown": (DECLARED + "(minimise X_0)", r"line 5 .*\(minimise"),
    "empty form": (DECLARED + "()", "line 5 .*neither a command"),
    "no condition": (DECLARED + "(assert X_0)", "line 5 .*no condition"),
    "outside of the tensor": (VERSION_2.replace("X[0,1,1]", "X[0,1,2]"), r"line 12 .*'X\[0,1,2\]' is no entry"),
    "too few positions": (VERSION_2.replace("X[0,1,1]", "X[3]"), r"line 12 .*'X\[3\]' is no entry"),
    "two networks": (VERSION_2 + "(declare-network g (declare-input Z Real [1]))", "line 14 .*second network"),
    "two tensors": (VERSION_2.replace("declare-hidden", "declare-input"), "has 2 inputs"),
    "declared twice": (VERSION_2.replace("-hidden H", "-input X"), "line 6 .*declared twice"),
    "huge tensor": (VERSION_2.replace("[1, 2,2]", "[999999999,999999999]"), "line 5 .*at most"),
    "deep": ("(" * 200, "line 1 .*more than 100 brackets"),
    "long number": (DECLARED + f"(assert (<= X_0 {'1' * 1000}))", "line 5 .*too many digits"),
    "large exponent": (DECLARED + "(assert (<= X_0 1e999999999))", "line 5 .*too many digits"),
    "too large": (DECLARED + UNIT.replace("X_1 1)", "X_1 1e399)"), "too large for a float"),
    "growing product": (
        DECLARED + f"(assert (<= X_0 (* {' '.join(['1e399'] * 100)})))", "line 5 .*too many digits"),
    "many boxes": (
        DECLARED + "(assert (or" + "".join(f"(<= X_0 {k})" for k in range(5000)) + "))", "more than 4096 boxes"),
    "control": ("(assert \x00 \"abc)", "line 1 .*is no VNN-LIB"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused_with_its_line(case: str) -> None:
    text, message = REFUSED[case]
    with pytest.raises(InvalidRegionError, match=f"(?s){message}"):
        jb.Box.all_from_vnnlib(text + "\n")


def test_damaged_texts_give_nothing_but_our_errors() -> None:
    choose = random.Random(0)
    refused = 0
    for k in range(600):
        text = list(VERSION_2 if k % 2 else DECLARED + UNIT + "(assert (or (<= X_0 0.5) (and (>= Y_0 1))))\n")
        for _ in range(choose.randrange(1, 4)):
            text[choose.randrange(len(text))] = choose.choice(["", "(", ")", "9", "e", "[", " ", "X", "-", ";", '"'])
        try:
            jb.Box.all_from_vnnlib("\n" + "".join(text))
        except JacoboundError:
            refused += 1
    assert refused > 200


NET = Path(jb.__file__).parent / "data" / "mnist_4layer_relu_64.onnx"


@pytest.fixture(scope="module")
def around_zero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed property: all pixels between -0.001 and 0.001."""
    lines = [f"(declare-const X_{k} Real)(assert (<= -1e-3 X_{k} 1e-3))" for k in range(784)]
    path = tmp_path_factory.mktemp("property") / "zero.vnnlib.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.mark.slow
def test_commands_take_a_property_for_a_region(around_zero: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compressed = around_zero.with_name("net.onnx.gz")
    compressed.write_bytes(gzip.compress(NET.read_bytes()))
    for command in (["bound"], ["lipschitz", "--p", "inf"]):
        chosen = ["--input", str(around_zero), "--rows", "3", "--json"]
        assert cli.main([*command, str(compressed), *chosen]) == 0
        found = json.loads(capsys.readouterr().out)
        graph = jb.from_onnx(NET)
        ball = jb.Ball(torch.zeros(784), "0.001")
        if command == ["bound"]:
            expected = jb.bound_output(graph, ball, jb.CROWN(), rows=torch.eye(10)[3:4])
            assert found["output"]["upper"] == pytest.approx(expected.upper.tolist(), rel=1e-9)
        else:
            expected = jb.lipschitz(graph, ball, norm=(math.inf, 2), rows=torch.eye(10)[3:4])
            assert found[0]["upper"] == pytest.approx(float(expected.upper), rel=1e-9)
    assert cli.main(["bound", str(compressed), *chosen[:-1]]) == 0
    assert "region    box of inputs of" in capsys.readouterr().out


@pytest.mark.parametrize("given", [("--radius", "0.1"), ("--index", "0"), ("--clip", "0", "1")])
def test_commands_refuse_what_a_property_does_not_need(
    given: tuple[str, ...], around_zero: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bound", str(NET), "--input", str(around_zero), *given]) == 2
    assert "leave out --radius" in capsys.readouterr().err


def test_commands_need_a_radius_for_a_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bound", str(NET), "--input", str(tmp_path / "x.npy")]) == 2
    assert "--radius is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_properties_of_others_have_the_numbers_of_the_file(shared_data: Path) -> None:
    files = sorted((shared_data / "vnnlib").glob("*.vnnlib"))
    assert len(files) >= 6
    for file in files:
        box, text = jb.Box.from_vnnlib(file), file.read_text()
        for sign, end in (("<=", torch.as_tensor(box.upper)), (">=", torch.as_tensor(box.lower))):
            stated = {int(k): value for k, value in re.findall(rf"\(assert \({sign} X_(\d+) ([-\d.e]+)\)\)", text)}
            assert sorted(stated) == list(range(end.numel()))
            for k, value in stated.items():
                here = end[k].item()
                assert abs(here - float(value)) <= 1e-15 * abs(here)
                assert Fraction(here) >= Fraction(value) if sign == "<=" else Fraction(here) <= Fraction(value)
