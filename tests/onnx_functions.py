"""ONNX models with functions of their own, the right ones with the values that they must have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

from onnx_models import node  # noqa: E402

FLOAT = AttributeProto.FLOAT
X = np.array([[-1.0, -2.0, 3.0, 0.5]], dtype=np.float32)


def referring(op: str, inputs: str, outputs: str, **references: str) -> NodeProto:
    """A node whose attributes are those of the function that it stands in: attribute="its name there"."""
    made = helper.make_node(op, inputs.split(), outputs.split(), domain="my" if len(op) == 1 else "")
    for name, reference in references.items():
        made.attribute.add(name=name, ref_attr_name=reference, type=FLOAT)
    return made


def function(
    name: str,
    nodes: Sequence[NodeProto],
    attributes: Sequence[str] = (),
    *,
    inputs: str = "a",
    outputs: str = "b",
    domain: str = "my",
    opset: int = 17,
    overload: str = "",
    **defaults: float,
) -> FunctionProto:
    """A function; keywords are attributes with their defaults."""
    protos = [helper.make_attribute(key, value) for key, value in defaults.items()]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("my", 1)]
    made = helper.make_function(
        domain, name, inputs.split(), outputs.split(), list(nodes), imports, list(attributes), protos
    )
    made.overload = overload
    return made


def program(
    calls: Sequence[NodeProto], functions: Sequence[FunctionProto], *, opset: int = 17, domains: Sequence[str] = ("my",)
) -> ModelProto:
    """A model from x (1, 4) to y."""
    made_of = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", (1, 4)), ("y", None))
    )
    graph = helper.make_graph(list(calls), "test", [next(made_of)], [next(made_of)])
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, ir_version=10, opset_imports=imports, functions=list(functions))


def call(name: str, inputs: str = "x", outputs: str = "y", domain: str = "my", **attributes: Any) -> NodeProto:
    return helper.make_node(
        name, [one.replace("-", "") for one in inputs.split()], outputs.split(), domain=domain, **attributes
    )


def leaky(slope: float) -> list[float]:
    return [float(entry) if entry >= 0 else slope * float(entry) for entry in X[0]]


SLOPE = referring("LeakyRelu", "a", "b", alpha="slope")
INNER = function("G", [referring("LeakyRelu", "a", "b", alpha="inner")], inner=0.25)


def branching() -> list[NodeProto]:
    """An If on a constant, whose branch reads an attribute of the function, and a name that the function makes."""
    given = helper.make_tensor_value_info
    twice = helper.make_node("Add", ["a", "a"], ["c"])
    scaled = referring("LeakyRelu", "c", "p", alpha="slope")
    then = helper.make_graph([scaled], "then", [], [given("p", TensorProto.FLOAT, None)])
    other = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["q"])], "else", [], [given("q", TensorProto.FLOAT, None)]
    )
    yes = helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(True)))
    return [twice, yes, helper.make_node("If", ["t"], ["b"], then_branch=then, else_branch=other)]


RIGHT = {
    "default": (program([call("F")], [function("F", [SLOPE], slope=0.5)]), leaky(0.5)),
    "given": (program([call("F", slope=3.0)], [function("F", [SLOPE], slope=0.5)]), leaky(3.0)),
    "required": (program([call("F", slope=0.75)], [function("F", [SLOPE], ["slope"])]), leaky(0.75)),
    "default of an inner function": (
        program([call("F")], [function("F", [referring("G", "a", "b")]), INNER]), leaky(0.25)),
    "default handed on": (
        program([call("F")], [function("F", [referring("G", "a", "b", inner="slope")], slope=0.5), INNER]), leaky(0.5)),
    "given handed on": (
        program([call("F", slope=2.0)], [function("F", [referring("G", "a", "b", inner="slope")], slope=0.5), INNER]),
        leaky(2.0)),
    "twice with different attributes": (
        program([call("F", "x", "h", slope=2.0), call("F", "h", "y", slope=0.125)],
                [function("F", [SLOPE], slope=0.5)]),
        leaky(0.25)),
    "names of the function are its own": (
        program([call("F", "x", "h"), node("Add", "h x", "y")],
                [function("F", [node("Neg", "a", "x"), node("Relu", "x", "b")])]),
        [0.0, 0.0, 3.0, 0.5]),
    "overloads": (
        program([call("F", overload="two")],
                [function("F", [node("Neg", "a", "b")], overload="one"),
                 function("F", [SLOPE], overload="two", slope=0.5)]),
        leaky(0.5)),
    "input that is left out": (
        program([node("Constant", "", "hi", value=numpy_helper.from_array(np.float32(1.0))), call("F", "x - hi")],
                [function("F", [helper.make_node("Clip", ["a", "lo", "hi"], ["b"])], inputs="a lo hi")]),
        [-1.0, -2.0, 1.0, 0.5]),
    "second result only": (
        program([call("F", "x", "unused y")],
                [function("F", [node("Neg", "a", "b"), node("Relu", "a", "c")], outputs="b c")]),
        [0.0, 0.0, 3.0, 0.5]),
    "older opset of the same definition": (
        program([call("F")], [function("F", [referring("LeakyRelu", "a", "b", alpha="slope")], opset=13, slope=0.5)]),
        leaky(0.5)),
    "not called, with the name of a built-in": (
        program([node("Neg", "x", "y")], [function("Relu", [node("Neg", "a", "b")], domain="")]),
        [1.0, 2.0, -3.0, -0.5]),
    "required but not given": (
        program([call("F")], [function("F", [SLOPE], ["slope"])]), leaky(float(np.float32(0.01)))),
    "attribute inside of a branch": (
        program([call("F")], [function("F", branching(), slope=0.5)]), [2 * entry for entry in leaky(0.5)]),
    "fewer inputs": (
        program([call("F")], [function("F", [node("Clip", "a lo hi", "b")], inputs="a lo hi")]), X[0].tolist()),
}  # fmt: skip
