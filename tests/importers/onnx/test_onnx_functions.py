"""`from_onnx`: functions of the model's own, with both engines: right values, or a refusal that names the function."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("onnx")

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, helper

from jacobound import InvalidModelError, JacoboundError, UnsupportedOpError, from_onnx
from onnx_functions import RIGHT, SLOPE, X, call, function, leaky, program
from onnx_models import node


def value(made: ModelProto) -> list[float]:
    graph = from_onnx(made.SerializeToString())
    return graph(torch.tensor(X[0], dtype=torch.float64)).flatten().tolist()


@pytest.mark.parametrize("case", RIGHT)
def test_a_call_is_what_the_function_says(case: str, engine: str) -> None:
    made, expected = RIGHT[case]
    assert value(made) == expected


def softmax(opset: int, **axis: int) -> ModelProto:
    return program([call("F")], [function("F", [node("Softmax", "a", "b", **axis)], opset=opset)])


TWICE = call("F", slope=0.5)
TWICE.attribute.append(helper.make_attribute("slope", 0.25))
TWO_DEFAULTS = function("F", [SLOPE], slope=0.5)
TWO_DEFAULTS.attribute_proto.append(helper.make_attribute("slope", 0.25))
RELU_IS_NEG = function("Relu", [node("Neg", "a", "b")], domain="")
NEG = function("F", [node("Neg", "a", "b")])
REFUSED = {
    "built-in": (program([node("Relu", "x", "y")], [RELU_IS_NEG]), "'Relu' has the name and domain.*built-in"),
    "built-in, other spelling": (
        program([node("Relu", "x", "y")], [function("Relu", [node("Neg", "a", "b")], domain="ai.onnx")]), "built-in"),
    "built-in of the machine-learning domain": (
        program([call("Binarizer", domain="ai.onnx.ml")],
                [function("Binarizer", [node("Neg", "a", "b")], domain="ai.onnx.ml")], domains=("ai.onnx.ml",)),
        "built-in"),
    "new name in the domain of built-ins": (
        program([node("Twice", "x", "y")], [function("Twice", [node("Add", "a a", "b")], domain="")]), "built-in"),
    "domain of an engine": (
        program([call("Gelu", domain="com.microsoft")],
                [function("Gelu", [node("Neg", "a", "b")], domain="com.microsoft")], domains=("com.microsoft",)),
        "an engine defines itself"),
    "older softmax": (softmax(11), "'F' calls 'Softmax' as ONNX opset 11 defines it.*opset 17"),
    "older softmax with its axis": (softmax(12, axis=1), "'F' calls 'Softmax' as ONNX opset 12"),
    "older reduction": (
        program([call("F")], [function("F", [node("ReduceSum", "a", "b", axes=[1])], opset=11)]),
        "'ReduceSum' as ONNX opset 11"),
    "newer operation than the model": (
        program([call("F")], [function("F", [node("Gelu", "a", "b")], opset=20)]), "'Gelu' as ONNX opset 20"),
    "domain not imported by the model": (program([call("F")], [NEG], domains=()), "which the model does not import"),
    "reads what it is not given": (
        program([call("F")], [function("F", [node("Add", "a x", "b")])]), "'F' reads 'x' before it has it"),
    "out of order": (
        program([call("F")], [function("F", [node("Relu", "t", "b"), node("Neg", "a", "t")])]), "'F' reads 't' before"),
    "does not make its output": (
        program([call("F")], [function("F", [node("Neg", "a", "c")])]), "compute its output 'b'"),
    "reference to nothing": (
        program([call("F")], [function("F", [SLOPE])]), "refers to 'slope', which is no attribute"),
    "unknown attribute": (
        program([call("F", slope=0.5, other=1.0)], [function("F", [SLOPE], ["slope"])]), "attribute 'other'"),
    "attribute of another type": (
        program([call("F", slope=2)], [function("F", [SLOPE], ["slope"])]), "of another type"),
    "attribute twice": (program([TWICE], [function("F", [SLOPE], ["slope"])]), "gives one attribute twice"),
    "default twice": (program([call("F")], [TWO_DEFAULTS]), "'F' has two defaults for one attribute"),
    "other spelling of the domain than it imports": (
        program([call("F")], [function("F", [call("Neg", "a", "b", "ai.onnx")])]), "'Neg' of a domain"),
    "too many inputs": (program([call("F", "x x")], [NEG]), "'F' .* has 2 inputs, the function 1"),
    "too many outputs": (program([call("F", "x", "y z")], [NEG]), "'F' .* has 2 outputs, the function 1"),
    "missing overload": (
        program([call("F")], [function("F", [node("Neg", "a", "b")], overload="one")]), "domain 'my'"),
    "twice": (program([call("F")], [NEG, NEG]), "defines the function 'F' twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_engines_read_differently_or_refuse_is_refused_by_name(case: str, engine: str) -> None:
    made, message = REFUSED[case]
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=message):
        value(made)


def test_functions_that_double_at_every_level_are_refused_at_once() -> None:
    chain = [function("F0", [node("Neg", "a", "b")])]
    for k in range(1, 60):
        body = [call(f"F{k - 1}", "a", "c"), call(f"F{k - 1}", "c", "b")]
        chain.append(function(f"F{k}", body))
    with pytest.raises(InvalidModelError, match="that is too much"):
        value(program([call("F59")], chain))


@pytest.mark.slow
def test_functions_that_call_each_other_in_a_long_row() -> None:
    chain = [function("F0", [SLOPE], slope=0.5)]
    chain += [function(f"F{k}", [call(f"F{k - 1}", "a", "b")]) for k in range(1, 1500)]
    assert value(program([call("F80")], chain[::-1])) == leaky(0.5)
    with pytest.raises(InvalidModelError, match="no engine at hand can run the model"):
        value(program([call("F1499")], chain[::-1]))


def test_a_cut_inside_of_a_function_is_compared_as_well(engine: str) -> None:
    made = program([call("F"), ], [function("F", [node("Neg", "a", "c"), node("Exp", "c", "b")])])  # fmt: skip
    graph = from_onnx(made.SerializeToString(), until="y/c")
    assert graph(torch.tensor([[1.0, -2, 3, 0]])).tolist() == [[-1.0, 2.0, -3.0, 0.0]]


def test_a_default_that_were_dropped_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from jacobound.importers.onnx.model import functions as onnx_functions

    given = onnx_functions.Inserter.attributes

    def without_defaults(self: Any, call: NodeProto, function: FunctionProto) -> dict[str, AttributeProto]:
        named = {attribute.name for attribute in call.attribute}
        return {name: found for name, found in given(self, call, function).items() if name in named}

    monkeypatch.setattr(onnx_functions.Inserter, "attributes", without_defaults)
    with pytest.raises(JacoboundError, match=r"outputs differ|is not the ONNX model"):
        value(RIGHT["default"][0])
