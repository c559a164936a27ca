"""Damage to ONNX models that protobuf does not notice: shapes, attributes, operations, types, names, circles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

LENGTHS = (0, 1, -1, 2, 3, 7, 1000, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)
REALS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("nan"), float("inf"), -float("inf"), 0.5)
TEXTS = ("", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "reflect", "edge", "wrap", "tanh", "none", "x", "ä\n\x00")
ATTRIBUTES = (
    "axis", "axes", "alpha", "beta", "pads", "strides", "dilations", "group", "kernel_shape", "epsilon", "perm", "to",
    "keepdims", "auto_pad", "ceil_mode", "mode", "transA", "transB", "value", "approximate", "num_outputs", "starts",
)  # fmt: skip
OPERATIONS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


def _length(random: Random) -> int:
    return random.choice(LENGTHS) if random.random() < 0.7 else random.randint(-5, 20)


def _node(model: ModelProto, random: Random) -> NodeProto | None:
    return random.choice(model.graph.node) if model.graph.node else None


def _names(model: ModelProto) -> list[str]:
    found = [name for node in model.graph.node for name in (*node.input, *node.output)]
    found += [tensor.name for tensor in model.graph.initializer]
    return [*found, *(value.name for value in (*model.graph.input, *model.graph.output)), "", "missing"]


def change_weight_shape(model: ModelProto, random: Random) -> None:
    if model.graph.initializer:
        tensor = random.choice(model.graph.initializer)
        if tensor.dims and random.random() < 0.7:
            tensor.dims[random.randrange(len(tensor.dims))] = _length(random)
        elif random.random() < 0.5:
            tensor.dims.append(_length(random))
        else:
            del tensor.dims[:]


def change_weight(model: ModelProto, random: Random) -> None:
    """Entries, element type, or the number of bytes."""
    if not model.graph.initializer:
        return
    tensor = random.choice(model.graph.initializer)
    kind = random.randrange(4)
    if kind == 0:
        tensor.data_type = random.randint(0, 25)
    elif kind == 1 and tensor.raw_data:
        at = random.randrange(len(tensor.raw_data))
        size = random.choice((4, 8))
        special = random.choice((b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\xff" * 8, b"\0" * 8, random.randbytes(8)))[:size]
        at -= at % 4
        tensor.raw_data = tensor.raw_data[:at] + special + tensor.raw_data[at + len(special) :]
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: random.randint(0, len(tensor.raw_data))] * random.randint(1, 3)
    else:
        tensor.float_data.extend([random.choice(REALS)] * random.randint(1, 5))


def change_whole_numbers(model: ModelProto, random: Random) -> None:
    """Shapes, axes and positions that are stored as tensors."""
    whole = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT64 and tensor.raw_data]
    if whole:
        tensor = random.choice(whole)
        at = 8 * random.randrange(max(1, len(tensor.raw_data) // 8))
        entry = _length(random).to_bytes(8, "little", signed=True)
        tensor.raw_data = tensor.raw_data[:at] + entry + tensor.raw_data[at + 8 :]


def change_declared_shape(model: ModelProto, random: Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    shape = random.choice(values).type.tensor_type.shape if values else None
    if shape is None:
        return
    if shape.dim and random.random() < 0.8:
        length = random.choice(shape.dim)
        if random.random() < 0.2:
            length.dim_param = random.choice(TEXTS)
        else:
            length.dim_value = _length(random)
    elif random.random() < 0.5:
        shape.dim.add().dim_value = _length(random)
    elif shape.dim:
        del shape.dim[-1]


def change_declared_type(model: ModelProto, random: Random) -> None:
    values = [*model.graph.input, *model.graph.output]
    if values:
        random.choice(values).type.tensor_type.elem_type = random.randint(0, 25)


def change_attribute(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    if node is None or not node.attribute:
        return add_attribute(model, random)
    attribute = random.choice(node.attribute)
    kind = random.randrange(5)
    if kind == 0:
        node.attribute.remove(attribute)
    elif kind == 1:
        attribute.type = random.randint(0, 14)  # type: ignore[assignment]
    elif attribute.ints:
        attribute.ints[random.randrange(len(attribute.ints))] = _length(random)
        if random.random() < 0.3:
            attribute.ints.append(_length(random))
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = random.choice(REALS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = random.choice(TEXTS).encode()
    elif attribute.type == AttributeProto.TENSOR:
        attribute.t.dims.extend([_length(random)] * random.randint(0, 2))
        attribute.t.data_type = random.randint(0, 25) if random.random() < 0.3 else attribute.t.data_type
    else:
        attribute.i = _length(random)
    return None


def add_attribute(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    if node is None:
        return
    name = random.choice(ATTRIBUTES)
    values = (_length(random), [_length(random) for _ in range(random.randint(1, 4))], random.choice(REALS),
              random.choice(TEXTS), [random.choice(REALS)])  # fmt: skip
    node.attribute.append(helper.make_attribute(name, random.choice(values)))


def change_operation(model: ModelProto, random: Random) -> None:
    node = _node(model, random)
    if node is not None:
        node.op_type = random.choice(OPERATIONS) if random.random() < 0.95 else random.choice(TEXTS)
        if random.random() < 0.05:
            node.domain = random.choice(("ai.onnx.ml", "com.microsoft", "nowhere", "ai.onnx"))


def change_name(model: ModelProto, random: Random) -> None:
    """A node reads or writes something else: what comes later, itself, twice, or nothing."""
    node, names = _node(model, random), _names(model)
    if node is None:
        return
    side = node.input if random.random() < 0.6 else node.output
    if side and random.random() < 0.8:
        side[random.randrange(len(side))] = random.choice(names)
    elif random.random() < 0.5:
        side.append(random.choice(names))
    elif side:
        del side[-1]


def change_order(model: ModelProto, random: Random) -> None:
    """Nodes left out, twice, or in another order."""
    nodes = list(model.graph.node)
    kind = random.randrange(3)
    if nodes and kind == 0:
        del nodes[random.randrange(len(nodes))]
    elif nodes and kind == 1:
        nodes.insert(random.randint(0, len(nodes)), random.choice(nodes))
    else:
        random.shuffle(nodes)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def change_interface(model: ModelProto, random: Random) -> None:
    """Inputs and outputs of the graph: removed, doubled, renamed."""
    side = model.graph.input if random.random() < 0.5 else model.graph.output
    kind = random.randrange(3)
    if side and kind == 0:
        del side[random.randrange(len(side))]
    elif side and kind == 1:
        side.append(random.choice(side))
    elif side:
        random.choice(side).name = random.choice(_names(model))


def change_version(model: ModelProto, random: Random) -> None:
    if model.opset_import and random.random() < 0.8:
        model.opset_import[0].version = random.choice((*range(1, 27), -1, 0, 2**40))
    else:
        model.ir_version = random.choice((-1, 0, 1, 3, 8, 13, 99, 2**40))


def change_function(model: ModelProto, random: Random) -> None:
    """What a function of the model's own takes, gives, imports and calls."""
    if not model.functions:
        return
    function = random.choice(model.functions)
    kind = random.randrange(6)
    if kind == 0 and function.opset_import:
        random.choice(function.opset_import).version = random.choice((*range(1, 30), -1, 0, 2**40, 2**62))
    elif kind == 1:
        side = random.choice((function.input, function.output, function.attribute))
        name = random.choice(("", "a", "b", "slope", "x"))
        if side and random.random() < 0.5:
            side[random.randrange(len(side))] = name
        else:
            side.append(name)
    elif kind == 2:
        function.attribute_proto.append(helper.make_attribute("slope", random.choice((0.5, 2, "x", [1.0]))))
    elif kind == 3:
        function.name = random.choice(("F", "G", "Relu", "", "LeakyRelu"))
        function.domain = random.choice(("my", "", "ai.onnx", "com.microsoft"))
    elif kind == 4 and function.node:
        node = random.choice(function.node)
        node.op_type = random.choice(("F", "G", *OPERATIONS))
    elif function.node and function.node[0].attribute:
        random.choice(function.node[0].attribute).ref_attr_name = random.choice(("", "slope", "x"))


def add_oddity(model: ModelProto, random: Random) -> None:
    """What a plain network does not have: inner graphs, sparse or external weights, functions."""
    kind, node = random.randrange(5), _node(model, random)
    if kind == 0 and node is not None:
        inner = GraphProto()
        inner.CopyFrom(model.graph)
        node.attribute.append(helper.make_attribute("body", inner))
    elif kind == 1 and model.graph.initializer:
        tensor = random.choice(model.graph.initializer)
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", random.choice(("../x", "/etc/hostname", "w.bin", "", "\0"))
    elif kind == 2:
        model.graph.sparse_initializer.add().values.name = "w"
    elif kind == 3:
        model.functions.add().name = random.choice(TEXTS)
    elif node is not None:
        node.name = "n" * random.choice((1, 10_000))


CHANGES: tuple[Callable[[ModelProto, Random], None], ...] = (
    change_weight_shape,
    change_weight,
    change_whole_numbers,
    change_whole_numbers,
    change_declared_shape,
    change_declared_type,
    change_attribute,
    change_attribute,
    change_attribute,
    add_attribute,
    change_operation,
    change_operation,
    change_name,
    change_name,
    change_order,
    change_interface,
    change_version,
    change_function,
    change_function,
    add_oddity,
)


def rearranged(data: bytes, pool: Sequence[bytes], random: Random) -> bytes:
    """One to three changes to a model; values that protobuf itself refuses are left as they were."""
    model = ModelProto.FromString(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        try:
            random.choice(CHANGES)(model, random)
        except (ValueError, TypeError):
            continue
    if random.random() < 0.05:  # nodes of another model at the end
        model.graph.node.extend(ModelProto.FromString(random.choice(pool)).graph.node)
    return model.SerializeToString()
