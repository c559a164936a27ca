"""`from_onnx`: files that lie, are damaged, or want too much."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jacobound import InvalidModelError, JacoboundError, MissingExtraError, UnsupportedOpError, from_onnx
from onnx_cases import CASES
from onnx_models import model, node, weight, whole

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

W = {"w": weight(4, 4)}
SQUARE = {"w": weight(1, 1, 2, 2)}


def stored(made: onnx.ModelProto) -> onnx.TensorProto:
    return made.graph.initializer[0]


def with_dims(*dims: int) -> Any:
    def edit(made: onnx.ModelProto) -> None:
        del stored(made).dims[:]
        stored(made).dims.extend(dims)

    return edit


def with_entry(value: float) -> Any:
    def edit(made: onnx.ModelProto) -> None:
        values = np.ones((4, 4), np.float32)
        values[1, 2] = value
        stored(made).CopyFrom(numpy_helper.from_array(values, "w"))

    return edit


def with_type(dtype: Any) -> Any:
    return lambda made: stored(made).CopyFrom(numpy_helper.from_array(np.ones((4, 4), dtype), "w"))


def external(location: str, **more: object) -> Any:
    def edit(made: onnx.ModelProto) -> None:
        tensor = stored(made)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)

    return edit


def second_input(made: onnx.ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("z", TensorProto.INT64, [1, 4]))
    made.graph.node.append(node("Cast", "z", "c", to=1))
    made.graph.node.append(node("Add", "y c", "t"))
    made.graph.output[0].name = "t"


def twice(made: onnx.ModelProto) -> None:
    made.graph.node.append(node("MatMul", "x w", "y"))


def own_functions(*calls: str) -> Any:
    """Functions A, B, ...; each calls the functions named in its text."""

    def edit(made: onnx.ModelProto) -> None:
        made.opset_import.append(helper.make_opsetid("me", 1))
        for k, called in enumerate(calls):
            inner = [helper.make_node(name, ["a"], [f"b{i}"], domain="me") for i, name in enumerate(called)]
            last = helper.make_node("Relu", ["a"], ["b"])
            imports = [helper.make_opsetid("", 17), helper.make_opsetid("me", 1)]
            made.functions.append(
                helper.make_function("me", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[k], ["a"], ["b"], [*inner, last], imports)
            )
        made.graph.node.append(helper.make_node("A", ["y"], ["z"], domain="me"))
        made.graph.output[0].name = "z"

    return edit


def sparse(made: onnx.ModelProto) -> None:
    values = helper.make_tensor("thin", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))


def version(number: int) -> Any:
    return lambda made: setattr(made.opset_import[0], "version", number)


def change(attribute: str, value: Any) -> Any:
    return lambda made: made.graph.node[0].attribute.append(helper.make_attribute(attribute, value))


INVALID = {
    "nan": (with_entry(np.nan), r"tensor 'w' has a NaN entry.*training run"),
    "infinite": (with_entry(-np.inf), r"tensor 'w' has an infinite entry, which is no weight. If it is a mask"),
    "half": (with_type(np.float16), r"tensor 'w' is FLOAT16.*float32"),
    "int8": (with_type(np.int8), r"tensor 'w' is INT8.*unquantised"),
    "negative": (with_dims(-1, 4), r"tensor 'w' has shape \(-1, 4\) with a negative length"),
    "huge": (with_dims(2**31, 2**31), r"tensor 'w' has shape .*more than"),
    "empty": (with_dims(0, 4), r"tensor 'w' says it has shape \(0, 4\).*holds 64 bytes"),
    "too long": (with_dims(4, 3), r"tensor 'w' says it has shape \(4, 3\) of FLOAT but holds 64 bytes"),
    "two fields": (lambda made: stored(made).float_data.append(1.0), r"holds 64 bytes besides float_data"),
    "external": (external("w.bin"), r"tensor 'w' keeps its data in another file \('w.bin'\).*path of the model"),
    "external above": (external("../../secret"), r"'\.\./\.\./secret', a path that climbs out"),
    "external absolute": (external("/etc/passwd"), r"'/etc/passwd', an absolute path. Do not trust"),
    "external drive": (external("C:\\secret"), r"an absolute path"),
    "two inputs": (second_input, r"2 inputs \('x', 'z'\)"),
    "made twice": (twice, r"'y' exists already"),
    "missing tensor": (lambda made: made.graph.ClearField("initializer"), r"reads 'w', which nothing before it gives"),
    "circle of functions": (own_functions("B", "C", "A"), r"function '[ABC]' calls itself"),
    "function of itself": (own_functions("A"), r"function 'A' calls itself"),
    "growing functions": (
        own_functions(*(10 * letter for letter in "BCDEF"), ""), r"that is too much"),
    "sparse": (sparse, r"tensor 'thin' is sparse"),
    "old": (version(6), r"opset 6; 7 or later"),
    "new": (version(1000), r"opset 1000, the installed onnx .* update"),
    "attribute": (change("colour", 3), r"Op 'MatMul'.*Unrecognized attribute: colour"),
    "no nodes": (lambda made: made.graph.ClearField("node"), r"without operations"),
    "constant": (lambda made: made.graph.node[0].input.__setitem__(0, "w"), r"depends on none"),
    "integer input": (
        lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64),
        r"input 'x' holds INT64"),
    "half input": (
        lambda made: setattr(made.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        r"input 'x' holds FLOAT16"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_bad_files_are_refused_with_the_reason(case: str) -> None:
    edit, message = INVALID[case]
    with pytest.raises(InvalidModelError, match=f"(?s){message}"):
        from_onnx(model([node("MatMul", "x w")], (1, 4), W, edit=edit))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("N", "M"), r"\['N', 'M'\]: only axis 0 may be left open"),
        ((1, 0), r"\[1, '\?'\]: only axis 0 may be left open"),
        ((1, 2**40), r"more than"),
        (None, r"declares no shape"),
    ],
)
def test_inputs_of_unclear_shape_are_refused(shape: Any, message: str) -> None:
    with pytest.raises(InvalidModelError, match=message):
        from_onnx(model([node("Relu", "x")], shape))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "s", "c"), node("Add", "x c")],
        [node("Expand", "x s")],
        [node("Tile", "x s")],
        [node("Pad", "x p")],
        [node("Conv", "x w", pads=[0, 0, 2**30, 2**30], strides=[2**29, 2**29])],
        [node("AveragePool", "x", kernel_shape=[2**20, 2**20], pads=[2**20] * 4, strides=[2**20] * 2)],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_operations_that_would_fill_the_memory_are_refused_first(nodes: list[onnx.NodeProto]) -> None:
    large = {"s": whole(1, 1, 2**31, 2**31), "p": whole(0, 0, 0, 0, 0, 0, 2**31, 2**31), "w": weight(1, 1, 1, 1)}
    with pytest.raises(InvalidModelError, match="more than"):
        from_onnx(model(nodes, (1, 1, 1, 1), large))


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    nodes, values = [node("MatMul", "x w")], np.arange(16, dtype=np.float32).reshape(4, 4)
    path = tmp_path / "net.onnx"
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "w.bin").write_bytes(b"head" + values.tobytes() + b"tail")
    path.write_bytes(model(nodes, (1, 4), W, edit=external("parts/w.bin", offset=4, length=64)))
    graph = from_onnx(path)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(graph(x), x @ torch.tensor(values).double())
    before = graph.source.sha256
    (tmp_path / "parts" / "w.bin").write_bytes(b"head" + (values + 1).tobytes() + b"tail")
    assert from_onnx(path).source.sha256 not in (before, None)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"length": 63}, r"shape \(4, 4\), so 64 bytes, and takes 63"),
        ({"offset": 1}, r"wants 64 bytes from 1 on of 'w.bin', which has 64"),
        ({"offset": "-1"}, r"offset '-1'"),
        ({"offset": "9" * 30}, r"offset '999"),
        ({"key": "value"}, r"described by \['key', 'location'\]"),
    ],
)
def test_places_in_a_file_beside_it_must_fit(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 64)
    path = tmp_path / "net.onnx"
    path.write_bytes(model([node("MatMul", "x w")], (1, 4), W, edit=external("w.bin", **entries)))
    with pytest.raises(InvalidModelError, match=message):
        from_onnx(path)
    (tmp_path / "w.bin").unlink()
    path.write_bytes(model([node("MatMul", "x w")], (1, 4), W, edit=external("w.bin")))
    with pytest.raises(InvalidModelError, match="no such file; put the two into one folder"):
        from_onnx(path)
    (tmp_path / "w.bin").mkdir()
    with pytest.raises(InvalidModelError, match="a folder"):
        from_onnx(path)


def test_external_data_behind_a_link_is_called_that(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    (inside / "w.bin").symlink_to(tmp_path / "secret")
    (inside / "net.onnx").write_bytes(model([node("MatMul", "x w")], (1, 4), W, edit=external("w.bin")))
    with pytest.raises(InvalidModelError, match=r"'w\.bin', a link that leads out of the model's folder"):
        from_onnx(inside / "net.onnx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\x80\x04\x95abc", "Python pickle.*never opened"),
        (b"PK\x03\x04rest", "zip archive.*from_torch"),
        (b"\x1f\x8b\x08rest", "gzip-compressed and (damaged|cut off)|cut off"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer.*git lfs pull"),
        (b"\xff" * 100, "not an ONNX model"),
        (b"hello, this is text", "not an ONNX model"),
    ],
)
def test_other_files_are_called_what_they_are(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=message):
        from_onnx(data)
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(InvalidModelError, match=f"net.onnx': .*(?:{message})"):
        from_onnx(tmp_path / "net.onnx")


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", tmp_path, str(tmp_path / "a\0b")):
        with pytest.raises(InvalidModelError, match="can not be read"):
            from_onnx(path)


@pytest.mark.slow
def test_damaged_files_give_nothing_but_our_errors() -> None:
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("AveragePool", "c", "p", kernel_shape=[2, 2], ceil_mode=1),
        node("Shape", "p", "s"), node("Gather", "s zero", "n", axis=0), node("Unsqueeze", "n axes", "n1"),
        node("Concat", "n1 minus", "t", axis=0), node("Reshape", "p t", "f"), node("LeakyRelu", "f", "y", alpha=0.3),
    ]  # fmt: skip
    weights = {"w": weight(2, 1, 3, 3), "b": weight(2), "zero": np.array(0), "axes": whole(0), "minus": whole(-1)}
    data = model(nodes, ("N", 1, 4, 4), weights)
    choose = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        if choose.random() < 0.2:
            del damaged[choose.randrange(len(damaged)) :]
        else:
            damaged[choose.randrange(len(damaged))] = choose.choice([0, 1, 255, choose.randrange(256)])
        try:
            from_onnx(bytes(damaged))
        except JacoboundError:
            refused += 1
    assert refused > 75


def test_names_that_are_no_text_are_refused() -> None:
    data = model([node("MatMul", "x w")], (1, 4), W).replace(b"node_y", b"node\xff\xfe")
    with pytest.raises(InvalidModelError, match="no text"):
        from_onnx(data)


@pytest.mark.parametrize(
    "wrong",
    [node("Conv", "x w", pads=[-1, 0, 0, 0]), node("Conv", "x w", strides=[0, 1]), node("Conv", "x w", group=0),
     node("Conv", "x w", kernel_shape=[3, 3]), node("Conv", "x w", pads=[1]), node("Gemm", "x w"),
     node("Reshape", "x s"), node("Conv", "x big"), node("BatchNormalization", "x w w w w"),
     node("BatchNormalization", "x b b b b"), node("PRelu", "x b"), node("Conv", "x w b")],
    ids=lambda wrong: wrong.op_type,
)  # fmt: skip
def test_operations_that_contradict_themselves_are_refused(wrong: onnx.NodeProto) -> None:
    weights = {**SQUARE, "s": whole(3, 5), "b": np.ones(3, np.float32), "big": weight(1, 1, 9, 9)}
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=f"Op '{wrong.op_type}'.*output 'y'"):
        from_onnx(model([wrong], (1, 1, 4, 4), weights))


def test_weights_computed_to_nan_are_named() -> None:
    nodes = [node("Sqrt", "w", "root"), node("MatMul", "x root")]
    with pytest.raises(InvalidModelError, match="tensor 'root' has a NaN"):
        from_onnx(model(nodes, (1, 4), {"w": -np.ones((4, 4), np.float32)}))


def test_division_by_zero_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="'y' multiplies by a factor that is not a finite number"):
        from_onnx(model([node("Div", "x c")], (1, 4), {"c": np.zeros(4, np.float32)}))


def test_the_check_at_the_door_sees_a_wrong_import(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacobound.importers.onnx import node as onnx_node

    wrong = {**onnx_node.LOWERINGS, "Neg": lambda call: (call.traced(),)}
    monkeypatch.setattr(onnx_node, "LOWERINGS", wrong)
    with pytest.raises(InvalidModelError, match=r"is not the ONNX model \(as run by onnx"):
        from_onnx(model([node("Neg", "x")], (1, 4)))


def test_without_onnxruntime_the_evaluator_of_onnx_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacobound.importers.onnx import engines as onnx_engines

    asked = []
    (_, by_onnxruntime), (name, by_reference) = onnx_engines.ENGINES

    def counted(*arguments: Any) -> Any:
        asked.append(1)
        return by_reference(*arguments)

    engines = (("onnxruntime", by_onnxruntime), (name, counted))
    monkeypatch.setattr("jacobound.importers.onnx.runtime.ENGINES", engines)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert from_onnx(model([node("MatMul", "x w")], (1, 4), W)).out_shape == (4,)
    for case in ("batch norm", "batch norm of features"):
        nodes, shape, weights, opset = CASES[case]
        assert from_onnx(model(nodes, shape, weights, opset=opset)).in_shape == shape[1:]
    assert len(asked) == 3


def test_without_the_package_onnx_the_message_holds_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'jacobound\[onnx\]'"):
        from_onnx("net.onnx")


def test_files_of_many_large_operations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacobound.importers.onnx import node as onnx_node

    monkeypatch.setattr(onnx_node, "MOST_ENTRIES", 1000)
    nodes = [node("Relu", "x", "t0"), *(node("Relu", f"t{k}", f"t{k + 1}") for k in range(20)), node("Relu", "t20")]
    with pytest.raises(InvalidModelError, match="more than 1000 entries together"):
        from_onnx(model(nodes, (1, 100)))


@pytest.mark.parametrize("equation", ["ij,jk\x04->ik", "ij->ij", "ij,jk,kl->il", "i..j,jk->ik", ""])
def test_equations_that_are_none_are_refused_before_anything_reads_them(equation: str) -> None:
    with pytest.raises((InvalidModelError, UnsupportedOpError), match=r"Op 'Einsum'"):
        from_onnx(model([node("Einsum", "x w", equation=equation)], (1, 4), W))
