"""Valid ONNX models of every operation against onnxruntime: equal within rounding at random points, or refused.

A model holds one operation of ``door_recipes.py`` between plain ones, and is then written in another way that means
the same: as functions with attributes of their own, in another order, with other spellings, with what nobody reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Generator

import jacobound as jb
from campaign.door_recipes import COMPARING, FOLDED, OF_INTEGERS, OPERATIONS, Drawn, drawn
from campaign.runner import Tally
from jacobound.importers.onnx.model.evaluate import FOLDABLE

ALL = (*OPERATIONS, *FOLDED)
SCALES = (0.02, 0.3, 1.0, 4.0)
ROUNDING = 3e-5  # relative to the largest value of the network: float32 sums of a few dozen products
CANCELLING = 30.0  # times that, where an engine subtracts squares of a mean that is far from zero


@dataclass(frozen=True)
class Outcome:
    """What came of a model.

    Args:
        kind: "imported", "refused", or "unjudged" (imported, and onnxruntime has no implementation).
        wrong: what is wrong, or an empty text.
        said: the message of a refusal.
    """

    kind: str
    wrong: str = ""
    said: str = ""


# --- models --------------------------------------------------------------------------------------------------------


def base_model(found: Drawn) -> ModelProto:
    """x, an affine step, the operation, and a step behind it, with constants stored."""
    random = found.random
    stored = dict(found.constants)
    nodes: list[NodeProto] = []
    names = list(found.inputs)
    positive = found.op in ("Log", "Sqrt", "Reciprocal", "ReduceLogSum") or (found.op == "Pow" and "x" in names[:1])
    positive = positive or (found.op == "Div" and names[-1] == "x")
    if found.op == "IsNaN":  # which is understood of a softmax
        nodes.append(helper.make_node("Softmax", ["x"], ["inner"], name="before", axis=2))
        names = ["inner"]
    elif found.chance(0.5) and not positive:
        stored["shift"] = found.floats(1, low=0.1, high=0.5)
        nodes.append(helper.make_node("Add", ["x", "shift"], ["inner"], name="before"))
        names = ["inner" if name == "x" else name for name in names]
    if positive:
        stored["above"] = np.array([0.5], dtype=np.float32)
        nodes += [
            helper.make_node("Abs", ["x"], ["absolute"]),
            helper.make_node("Add", ["absolute", "above"], ["inner"]),
        ]
        names = ["inner" if name == "x" else name for name in names]
    constant = found.op in FOLDED or (found.op in FOLDABLE and found.chance(0.1))
    if constant:
        nodes = []
        stored["k"] = found.floats(*found.shape, low=0.5)
        names = ["k" if name in ("x", "inner") else name for name in names]
    while names and not names[-1]:
        names.pop()
    results = [f"r{k}" for k in range(found.outputs)]
    nodes.append(helper.make_node(found.op, names, results, name="the operation", **found.given))
    last = random.choice(results)
    if constant:
        nodes += [helper.make_node("Cast", [last], ["number"], to=TensorProto.FLOAT),
                  helper.make_node("ReduceSum", ["number"], ["sum"], keepdims=0),
                  helper.make_node("Mul", ["x", "sum"], ["weighted"])]  # fmt: skip
        last = "weighted"
    elif found.op in COMPARING:
        nodes.append(_continued(found, names, last))
        last = "continued"
    elif found.op in OF_INTEGERS:
        nodes += _as_weight(found, last)
        last = "weighted"
    elif found.op in ("Cast", "CastLike"):
        nodes.append(helper.make_node("Cast", [last], ["single"], to=TensorProto.FLOAT))
        last = "single"
    kind = random.choice(("Neg", "Relu", "Tanh", "Identity"))
    nodes.append(helper.make_node(kind, [last], ["y"], name="behind"))
    weights = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(
        nodes,
        "door",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, found.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", found.version)])


def _continued(found: Drawn, names: list[str], last: str) -> NodeProto:
    """The larger or the smaller of what was compared, or the size of what has the sign: nothing jumps."""
    if found.op == "Sign":
        return helper.make_node("Mul", [last, *names], ["continued"])
    return helper.make_node("Where", [last, *found.random.sample(names, 2)], ["continued"])


def _as_weight(found: Drawn, last: str) -> list[NodeProto]:
    """A result that holds no value of the network, summed and multiplied with one."""
    axes = {} if found.op == "Size" else {"keepdims": 0}
    nodes = [helper.make_node("Cast", [last], ["number"], to=TensorProto.FLOAT)]
    if found.op == "Shape":
        nodes.append(helper.make_node("ReduceMean", ["number"], ["mean"], **axes))
    else:
        nodes.append(helper.make_node("Identity", ["number"], ["mean"]))
    return [*nodes, helper.make_node("Mul", ["x", "mean"], ["weighted"])]


# --- other ways to write the same ----------------------------------------------------------------------------------


def open_the_batch(model: ModelProto, random: Random) -> None:
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    if dim.dim_value == 1:
        dim.dim_param = "N"


def shuffle(model: ModelProto, random: Random) -> None:
    nodes = [copy.deepcopy(node) for node in model.graph.node]
    random.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def spell_domain(model: ModelProto, random: Random) -> None:
    for node in model.graph.node:
        if not node.domain and random.random() < 0.5:
            node.domain = "ai.onnx"


def constants_as_nodes(model: ModelProto, random: Random) -> None:
    kept = [tensor for tensor in model.graph.initializer if random.random() < 0.3]
    moved = [tensor for tensor in model.graph.initializer if tensor not in kept]
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in moved]
    nodes += [copy.deepcopy(node) for node in model.graph.node]
    kept = [copy.deepcopy(tensor) for tensor in kept]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def constants_as_inputs(model: ModelProto, random: Random) -> None:
    """Stored values that are listed as inputs as well, in front of the network's own."""
    listed = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
    own = copy.deepcopy(model.graph.input[0])
    del model.graph.input[:]
    model.graph.input.extend([*listed, own])


def rename(model: ModelProto, random: Random) -> None:
    """Other names: odd letters, a node called as another's tensor, none at all."""
    for k, node in enumerate(model.graph.node):
        node.name = random.choice(("", f"{k}/ä.b:0", ("y", "x", "r0", "inner", "c0")[k % 5] + "'" * (k // 5)))


def unread(model: ModelProto, random: Random) -> None:
    """What nobody reads: operations, weights, a function with the name of a built-in."""
    model.graph.node.insert(0, helper.make_node("Exp", ["x"], ["nobody"]))
    model.graph.initializer.append(numpy_helper.from_array(np.full(3, np.nan, dtype=np.float32), "nobody's"))
    if random.random() < 0.5:
        body = [helper.make_node("Neg", ["a"], ["b"])]
        imports = [helper.make_opsetid("", model.opset_import[0].version)]
        model.functions.append(helper.make_function("", "Relu6", ["a"], ["b"], body, imports))
        model.ir_version = max(model.ir_version, 8)


def another_version(model: ModelProto, random: Random) -> None:
    model.ir_version = random.choice((7, 8, 9, 10))


def into_branch(model: ModelProto, random: Random) -> None:
    """The operation inside of an If on a constant, whose other branch is another function."""
    k = _position(model)
    node = model.graph.node[k]
    if len(node.output) > 1 or node.op_type in (*OF_INTEGERS, *FOLDED):
        return
    kind = TensorProto.FLOAT
    if node.op_type == "Cast":
        kind = next(a.i for a in node.attribute if a.name == "to")
    elif node.op_type == "CastLike":
        kind = next(t.data_type for t in model.graph.initializer if t.name == node.input[1])
    graphs = []
    for name in ("taken", "other"):
        inner = copy.deepcopy(node)
        inner.output[0], inner.name = name, f"{node.name} {name}"
        behind = [] if name == "taken" else [helper.make_node("Neg", [name], ["opposite"])]
        last = "opposite" if behind else name
        info = helper.make_tensor_value_info(last, kind, None)
        graphs.append(helper.make_graph([inner, *behind], "branch", [], [info]))
    yes = random.random() < 0.5
    model.graph.initializer.append(numpy_helper.from_array(np.array(yes), "condition"))
    branching = helper.make_node(
        "If", ["condition"], list(node.output), name=node.name, then_branch=graphs[not yes], else_branch=graphs[yes]
    )
    model.graph.node[k].CopyFrom(branching)


def into_function(model: ModelProto, random: Random) -> None:
    """The operation as a function, in another one at times; attributes become its own, with and without defaults."""
    k = _position(model)
    node = model.graph.node[k]
    if any(graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else [])):
        return
    inner, call, function = _function(node, "inner", model.opset_import[0].version, random)
    model.functions.append(function)
    if random.random() < 0.4:
        inner, call, function = _function(call, "outer", model.opset_import[0].version, random)
        model.functions.append(function)
    del inner
    if random.random() < 0.3:
        order = [copy.deepcopy(entry) for entry in model.functions]
        random.shuffle(order)
        del model.functions[:]
        model.functions.extend(order)
    model.graph.node[k].CopyFrom(call)
    model.ir_version = max(model.ir_version, 9)
    if not any(entry.domain == "own" for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("own", 1))


def _function(node: NodeProto, name: str, version: int, random: Random) -> tuple[NodeProto, NodeProto, Any]:
    """The operation with attributes that refer to the function's, its call, and the function."""
    body = NodeProto()
    body.CopyFrom(node)
    del body.attribute[:], body.input[:], body.output[:]
    parameters = {given: f"p{k}" for k, given in enumerate(dict.fromkeys(filter(None, node.input)))}
    body.input.extend(parameters.get(given, "") for given in node.input)
    body.output.extend(f"q{k}" for k in range(len(node.output)))
    call = helper.make_node(name, list(parameters), list(node.output), domain="own", name=node.name)
    required, defaults = [], []
    for k, attribute in enumerate(node.attribute):
        if random.random() < 0.3:
            body.attribute.append(attribute)
            continue
        own = f"a{k}"
        body.attribute.add(name=attribute.name, ref_attr_name=own, type=attribute.type)
        named = AttributeProto()
        named.CopyFrom(attribute)
        named.name = own
        kind = random.randrange(3)
        if kind == 0:  # the default is what counts
            defaults.append(named)
        elif kind == 1:  # a default that the call overrides
            wrong = AttributeProto()
            wrong.CopyFrom(named)
            if wrong.type == AttributeProto.FLOAT:
                wrong.f += 1
            defaults.append(wrong)
            call.attribute.append(named)
        else:
            required.append(own)
            call.attribute.append(named)
    imports = [helper.make_opsetid("", version), helper.make_opsetid("own", 1)]
    function = helper.make_function(
        "own", name, list(parameters.values()), list(body.output), [body], imports, required, defaults
    )
    return body, call, function


def _position(model: ModelProto) -> int:
    return next(k for k, node in enumerate(model.graph.node) if node.name == "the operation")


WAYS: tuple[tuple[float, Callable[[ModelProto, Random], None]], ...] = (
    (0.3, into_branch),
    (0.5, into_function),
    (0.3, open_the_batch),
    (0.3, constants_as_nodes),
    (0.2, constants_as_inputs),
    (0.3, unread),
    (0.3, spell_domain),
    (0.4, another_version),
    (0.3, rename),
    (0.4, shuffle),
)


def models(random: Random, operations: Sequence[str] = ALL) -> Iterator[tuple[Drawn, ModelProto]]:
    """One model of every operation."""
    for op in operations:
        found = drawn(op, random)
        model = base_model(found)
        for share, write in WAYS:
            if random.random() < share:
                write(model, random)
        yield found, model


# --- the judge -----------------------------------------------------------------------------------------------------


def judged(found: Drawn, model: ModelProto) -> Outcome:
    """Import a model, and compare with onnxruntime at random points."""
    data = model.SerializeToString()
    try:
        graph = jb.from_onnx(data)
    except jb.JacoboundError as error:
        return Outcome("refused", said=str(error))
    except Exception as error:
        return Outcome("refused", f"an untyped error: {type(error).__name__}: {error}")
    session = _session(data)
    if isinstance(session, Exception):
        unable = type(session).__name__ in ("NotImplemented", "RuntimeException") or "initialization" in str(session)
        if unable:
            return Outcome("unjudged", said=str(session))
        return Outcome("imported", f"a file that onnxruntime refuses: {str(session)[:200]}")
    return Outcome("imported", _difference(found, graph, session))


def _session(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return error


def _difference(found: Drawn, graph: jb.Graph, session: Any) -> str:
    random = np.random.default_rng(found.random.randrange(2**32))
    name = session.get_inputs()[0].name
    for scale in SCALES:
        x = (scale * random.standard_normal(found.shape)).astype(np.float32)
        expected = session.run(["y"], {name: x})[0].astype(np.float64)
        point = torch.from_numpy(x.astype(np.float64)).reshape(graph.in_shape)
        values = graph.values(point)
        got = values[graph.output].numpy()
        if got.size != expected.size:
            return f"{got.size} outputs, onnxruntime has {expected.size}"
        largest = max(float(value.abs().nan_to_num(0, 0, 0).max()) for value in values.values())
        error = np.abs(got.reshape(expected.shape) - expected)
        both = np.isfinite(got.reshape(expected.shape)) & np.isfinite(expected)
        allowed = ROUNDING * (CANCELLING if found.op.endswith("Normalization") else 1.0)
        if float(np.where(both, error, 0).max()) > allowed * max(largest, 1e-6):
            return f"values differ by {float(error.max()):.3g} at scale {scale}, where the largest is {largest:.3g}"
    return ""


def told(found: Drawn, model: ModelProto) -> str:
    """An operation in one line, to find it again."""
    ways = [function.name for function in model.functions]
    inputs = {name: value.tolist() if value.size < 10 else value.shape for name, value in found.constants.items()}
    return (
        f"{found.op} of opset {found.version}, {found.given}, {found.shape}, {found.inputs} {inputs}, functions {ways}"
    )


def check(generator: Generator, operations: Sequence[str] = ALL) -> Tally:
    """One model of each operation."""
    random, tally = Random(generator.initial_seed()), Tally()
    for found, model in models(random, operations):
        outcome = judged(found, model)
        tally.add("ONNX models tried", 1, [])
        tally.add(f"ONNX models {outcome.kind}", 1, [f"{told(found, model)}: {outcome.wrong}"] if outcome.wrong else [])
    return tally


def attributes_of(op: str) -> dict[str, set[int]]:
    """The attributes of an operation and the versions that have them, from opset 7 on."""
    known: dict[str, set[int]] = {}
    for version in range(7, onnx.defs.onnx_opset_version() + 1):
        if onnx.defs.has(op, version, ""):
            schema = onnx.defs.get_schema(op, version, "")
            for name in () if schema.deprecated else schema.attributes:
                known.setdefault(name, set()).add(schema.since_version)
    return known


def shape_of(model: ModelProto) -> tuple[int, ...]:
    """The shape of the network's input, which stands last, for one point."""
    return tuple(max(dim.dim_value, 1) for dim in model.graph.input[-1].type.tensor_type.shape.dim)
