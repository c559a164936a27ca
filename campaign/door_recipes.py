"""Every ONNX operation that `from_onnx` knows, with random inputs and attributes that are valid for its version.

A recipe draws what one operation is given; which attributes there are comes from the definition of the operation, and
each of them is left out or written down. A law in the tests holds that every attribute of every version is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from jacobound.activations.kinds.base import families
from jacobound.importers.onnx.model.evaluate import FOLDABLE
from jacobound.importers.onnx.operations.table import LOWERINGS

OPERATIONS = tuple(sorted({*LOWERINGS, *(op for family in families() for op in family.onnx)}))
NEWEST = onnx.defs.onnx_opset_version()
OLDEST = 7


@dataclass(eq=False)
class Drawn:
    """What one operation is given.

    Args:
        op: its name.
        version: of the operator set.
        random: draws.
        shape: of the network's input, with the axis of the batch.
        inputs: "x" for the network's input, names of constants, "" for what is left out.
        constants: by name.
        given: attributes that are written down.
        outputs: how many results it has; one of them is the network's.
    """

    op: str
    version: int
    random: Random
    shape: tuple[int, ...] = (1, 3, 4)
    inputs: list[str] = field(default_factory=lambda: ["x"])
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1

    @property
    def schema(self) -> onnx.defs.OpSchema:
        return onnx.defs.get_schema(self.op, self.version, "")

    def has(self, attribute: str) -> bool:
        return attribute in self.schema.attributes

    def chance(self, share: float = 0.5) -> bool:
        return self.random.random() < share

    def floats(self, *shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
        """Random float32 numbers with few digits, so that some coincide."""
        drawn = [round(self.random.uniform(low, high), 2) for _ in range(int(np.prod(shape)))]
        return np.array(drawn, dtype=np.float32).reshape(shape)

    def add(self, value: Any, dtype: Any = None) -> None:
        """A constant as the next input."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype=dtype)
        self.inputs.append(name)

    def whole(self, *entries: int) -> None:
        """Whole numbers as the next input."""
        self.add(np.array(entries, dtype=np.int64))

    def leave_out(self) -> None:
        self.inputs.append("")

    def may(self, attribute: str, *values: Any, share: float = 0.5) -> None:
        """An attribute that the definition knows, written down or left out."""
        if self.has(attribute) and self.chance(share):
            self.given[attribute] = self.random.choice(values)

    def axis(self, rank: int, first: int = 0) -> int:
        """An axis counted from the front or the rear."""
        axis = self.random.randrange(first, rank)
        return axis - rank if self.chance(0.3) and self.version >= 11 else axis

    def axes(self, rank: int, first: int = 0) -> list[int]:
        count = self.random.randint(1, rank - first)
        found = sorted(self.random.sample(range(first, rank), count))
        return [axis - rank if self.chance(0.2) and self.version >= 11 else axis for axis in found]


Recipe = Callable[[Drawn], None]


def _unary(drawn: Drawn) -> None:
    """An activation: numbers as attributes, or as constants behind the value."""
    drawn.shape = drawn.random.choice(((1, 5), (1, 3, 4), (2, 3), (1, 2, 3, 3)))
    for name in drawn.schema.attributes:
        drawn.may(name, *ATTRIBUTES.get((drawn.op, name), (0.01, 0.25, 0.5, 1.0, 1.5, 2.0)))
    if drawn.op == "Shrink" and drawn.chance(0.8):  # else it jumps
        drawn.given["bias"] = drawn.given.get("lambd", 0.5)
    if drawn.op == "PRelu":
        drawn.add(drawn.floats(*drawn.random.choice(((1,), drawn.shape[1:])), low=0.1))
    if drawn.op == "Clip" and drawn.version >= 11:
        for low, high in ((-1.0, 0.2), (0.5, 1.5)):
            drawn.add(drawn.floats(low=low, high=high)) if drawn.chance(0.8) else drawn.leave_out()


ATTRIBUTES: Mapping[tuple[str, str], tuple[Any, ...]] = {
    ("Gelu", "approximate"): ("none", "tanh"),
    ("ThresholdedRelu", "alpha"): (0.0,),
    ("Clip", "min"): (-1.0, -0.5, 0.0),
    ("Clip", "max"): (0.5, 1.0, 6.0),
    ("Shrink", "bias"): (0.0, 0.5, 0.75),
    ("Shrink", "lambd"): (0.5, 0.75),
}


def _arithmetic(drawn: Drawn) -> None:
    """Of the value with constants in front or behind, with itself, broadcast either way."""
    other = drawn.random.choice(((4,), (1,), (3, 1), (1, 3, 4), ()))
    positive = drawn.op in ("Div", "Pow")
    constant = drawn.floats(*other, low=0.5 if positive else -2.0)
    if drawn.op == "Pow":
        constant = np.float32(drawn.random.choice((1, 2, 3, 0.5, -1, 2.5)))
    kind = drawn.random.randrange(4)
    drawn.inputs = []
    several = drawn.op in ("Sum", "Mean", "Max", "Min")
    if kind == 0 and drawn.op != "Pow":
        drawn.add(constant)
        drawn.inputs.append("x")
    elif kind == 1 and several:
        drawn.inputs = ["x"] * drawn.random.randint(1, 3)
    elif kind == 2 and drawn.op not in ("Pow", "Div"):
        drawn.inputs = ["x", "x"]
    else:
        drawn.inputs = ["x"]
        drawn.add(constant)


def _reduction(drawn: Drawn) -> None:
    drawn.shape = (1, 2, 3, 2)
    if drawn.op.startswith("Global"):
        return
    axes = drawn.axes(4, 1)
    if drawn.has("axes"):
        drawn.may("axes", axes, share=0.8)
    elif drawn.chance(0.8):
        drawn.whole(*axes) if drawn.chance(0.9) else drawn.whole()
    drawn.may("keepdims", 0, 1)
    drawn.may("noop_with_empty_axes", 0, 1)


def _axes_of_shape(drawn: Drawn) -> None:
    """Squeeze and Unsqueeze."""
    squeeze = drawn.op == "Squeeze"
    drawn.shape = (1, 3, 1, 2, 1) if squeeze else (1, 3, 2)
    axes = drawn.random.choice(([2], [4], [2, 4], [-1]) if squeeze else ([1], [3], [1, 4], [-1]))
    if drawn.version < 11:
        axes = [axis % 5 if squeeze else axis % 4 for axis in axes]
    if drawn.has("axes"):
        drawn.given["axes"] = axes
    else:
        drawn.whole(*axes)


def _movement(drawn: Drawn) -> None:
    random, rank = drawn.random, 3
    if drawn.op == "Reshape":
        drawn.whole(*random.choice(((1, 12), (0, -1), (-1,), (1, 2, 6), (0, 4, 3), (1, -1, 2))))
        drawn.may("allowzero", 0)
    elif drawn.op == "Flatten":
        drawn.may("axis", 0, 1, 2, 3, *((-1, -2) if drawn.version >= 11 else ()))
    elif drawn.op == "Transpose":
        drawn.may("perm", [0, 2, 1], [0, 1, 2], [2, 0, 1], share=0.8)
    elif drawn.op == "Expand":
        drawn.whole(*random.choice(((1, 3, 4), (2, 1, 1, 1), (1, 1, 1), (3, 4))))
    elif drawn.op == "Tile":
        drawn.whole(1, random.randint(1, 3), random.randint(1, 2))
    elif drawn.op == "Concat":
        axis = drawn.axis(rank, 1)
        drawn.given["axis"] = axis
        drawn.inputs = ["x", "x"] if drawn.chance() else ["x"]
        drawn.add(drawn.floats(1, 3, 4))
    elif drawn.op == "Split":
        _split(drawn)
    elif drawn.op == "Trilu":
        drawn.may("upper", 0, 1)
        if drawn.chance():
            drawn.add(random.randint(-2, 2), np.int64)
    elif drawn.op == "Where":
        condition = np.array([drawn.chance() for _ in range(4)])
        drawn.inputs = []
        drawn.add(condition)
        drawn.inputs.append("x")
        drawn.add(drawn.floats(3, 4))
    elif drawn.op in ("Shape", "Size"):
        drawn.may("start", 0, 1, -2, -5)
        drawn.may("end", 2, 3, -1, 7)


def _split(drawn: Drawn) -> None:
    axis = drawn.random.choice((1, 2))
    drawn.shape = (1, 4, 4)
    drawn.outputs = 2
    drawn.may("axis", axis, axis - 3 if drawn.version >= 11 else axis, share=0.8)
    drawn.given["axis"] = drawn.given.get("axis", axis)
    if drawn.has("num_outputs") and drawn.chance():
        drawn.given["num_outputs"] = drawn.outputs
    elif drawn.has("split"):
        drawn.may("split", [1, 3], [2, 2], [3, 1])
    elif drawn.version >= 18 or drawn.chance():
        drawn.whole(1, 3)


def _slices(drawn: Drawn) -> None:
    drawn.shape = (1, 5, 6)
    starts, ends, axes = [1, -4], [4, 100], drawn.random.choice(([1, 2], [2, 1]))
    if drawn.has("starts"):
        drawn.given.update(starts=starts, ends=ends)
        drawn.may("axes", axes, share=1.0)
        return
    drawn.whole(*starts)
    drawn.whole(*ends)
    drawn.whole(*axes)
    if drawn.chance():
        drawn.whole(1, drawn.random.choice((1, 2)))


def _gathering(drawn: Drawn) -> None:
    random = drawn.random
    if drawn.op == "Gather":
        axis = drawn.axis(3, 1)
        drawn.given["axis"] = axis
        low = -3 if drawn.version >= 11 else 0
        drawn.add(np.array([random.randint(low, 2) for _ in range(random.randint(1, 4))], dtype=np.int64))
    elif drawn.op == "GatherND":
        drawn.may("batch_dims", 0, 1)
        drawn.add(np.array([[[random.randint(-3, 2)] for _ in range(2)]]))
        if not drawn.given.get("batch_dims"):
            drawn.constants["c0"] = np.array([[0, random.randint(-3, 2)], [0, 1]])
    else:
        drawn.may("axis", 1, 2, -1, share=0.8)
        axis = drawn.given.setdefault("axis", 1)
        index = np.array([[[random.randint(0, 2) for _ in range(4)] for _ in range(3)]])
        if drawn.op == "ScatterElements":  # each place once
            order = np.argsort(np.array([random.random() for _ in range(12)]).reshape(1, 3, 4), axis=axis)
            index = np.take(order, [0, 1], axis=axis)
            drawn.add(index.astype(np.int64))
            drawn.add(drawn.floats(*index.shape))
            drawn.may("reduction", "none", "add", share=0.3)
        else:
            drawn.add(index)


def _scatter_places(drawn: Drawn) -> None:
    drawn.add(np.array([[0, 1], [0, 2]]))
    drawn.add(drawn.floats(2, 4))
    drawn.may("reduction", "none", "mul", share=0.3)


def _depth(drawn: Drawn) -> None:
    drawn.shape = (1, 8, 2, 4)
    drawn.given["blocksize"] = 2
    drawn.may("mode", "DCR", "CRD")


def _pads(drawn: Drawn) -> None:
    drawn.shape = (1, 2, 4, 5)
    modes = ("constant", "reflect", "edge", *(("wrap",) if drawn.version >= 19 else ()))
    drawn.may("mode", *modes, share=0.8)
    pads = [0, 0, *drawn.random.choice(((1, 2), (0, 1), (2, 0))), 0, 0, *drawn.random.choice(((1, 1), (0, 2), (3, 0)))]
    constant = drawn.given.get("mode", "constant") == "constant"
    if constant and drawn.chance(0.2):
        pads[2] = -1
    if drawn.has("pads"):
        drawn.given["pads"] = pads
        drawn.may("value", 0.5, -1.0)
        return
    axes = drawn.version >= 18 and drawn.chance()
    drawn.whole(*(pads[2:4] + pads[6:8] if axes else pads))
    if constant and drawn.chance():
        drawn.add(drawn.floats(low=0.1))
    elif axes:
        drawn.leave_out()
    if axes:
        if len(drawn.inputs) < 3:
            drawn.leave_out()
        drawn.whole(2, 3)


def _gemm(drawn: Drawn) -> None:
    drawn.shape = (1, 4)
    drawn.may("alpha", 0.5, 2.0, 0.3)
    drawn.may("beta", 0.0, 0.5, -1.0)
    drawn.may("transB", 0, 1)
    drawn.may("transA", 0, share=0.3)
    drawn.add(drawn.floats(*((3, 4) if drawn.given.get("transB") else (4, 3))))
    if drawn.version < 11 or drawn.chance(0.7):
        drawn.add(drawn.floats(*drawn.random.choice(((3,), (1, 3), (1,), ()))))
    if drawn.has("transA") and drawn.chance(0.2):
        drawn.shape, drawn.given["transA"] = (4, 2), 1
    if drawn.chance(0.2):  # the network's input is the second factor
        drawn.shape = (3, 2) if drawn.given.get("transB") else (2, 3)
        drawn.constants["c0"] = drawn.floats(*((2, 4) if drawn.given.get("transA") else (4, 2)))
        drawn.inputs[:2] = ["c0", "x"]


def _matmul(drawn: Drawn) -> None:
    kind = drawn.random.randrange(4)
    if kind == 0:
        drawn.add(drawn.floats(4, 2))
    elif kind == 1:
        drawn.inputs = []
        drawn.add(drawn.floats(2, 3))
        drawn.inputs.append("x")
    elif kind == 2:
        drawn.add(drawn.floats(1, 4, 2))
    else:
        drawn.shape = (1, 4, 4)
        drawn.inputs = ["x", "x"]


def _einsum(drawn: Drawn) -> None:
    equation = drawn.random.choice(("nij,jk->nik", "...j,kj->...k", "nij,i->nj", "nij,ij->n", "nij,kj", "nij->nji"))
    drawn.given["equation"] = equation
    sizes = {"j": 4, "i": 3, "k": 2, "n": 1}
    if "," in equation:
        drawn.add(drawn.floats(*(sizes[letter] for letter in equation.partition("->")[0].partition(",")[2])))


def _running(drawn: Drawn) -> None:
    drawn.add(drawn.axis(3, 1), np.int64)
    drawn.may("exclusive", 0, 1)
    drawn.may("reverse", 0, 1)


def _windows(drawn: Drawn) -> None:
    """Convolutions and pools over one or two axes."""
    axes = drawn.random.choice((1, 2))
    size, kernel = (6, 5)[:axes], [drawn.random.randint(1, 3) for _ in range(axes)]
    convolving = drawn.op.startswith("Conv")
    drawn.shape = (1, 4, *size)
    drawn.may("strides", [1] * axes, [2] * axes, [1, 2][:axes])
    drawn.may("dilations", [1] * axes, [2] * axes, share=0.3)
    if any(entry > 1 for entry in drawn.given.get("dilations", ())):
        drawn.may("auto_pad", "NOTSET", "VALID", share=0.2)
    else:
        drawn.may("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", share=0.4)
    if drawn.given.get("auto_pad", "NOTSET") == "NOTSET":
        most = max(0, min(kernel) - 1)
        drawn.may("pads", [drawn.random.randint(0, most) for _ in range(2 * axes)])
    for name in ("ceil_mode", "count_include_pad"):
        drawn.may(name, 0, 1)
    drawn.may("storage_order", 0, share=0.2)
    if not convolving:
        drawn.given["kernel_shape"] = kernel
        return
    drawn.may("group", 1, 2, 4)
    drawn.may("kernel_shape", kernel)
    group = drawn.given.get("group", 1)
    channels = (4, 4 // group) if drawn.op == "Conv" else (4, 2)
    drawn.add(drawn.floats(*channels, *kernel))
    if drawn.chance():
        drawn.add(drawn.floats(4 if drawn.op == "Conv" else 2 * group))
    if drawn.op == "ConvTranspose":
        strides = drawn.given.get("strides", [1] * axes)
        if min(strides) > 1:
            drawn.may("output_padding", [1] * axes, [0] * axes)
        if "pads" not in drawn.given and "auto_pad" not in drawn.given and drawn.chance(0.3):
            spread = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in
                      zip(size, strides, drawn.given.get("dilations", [1] * axes), kernel, strict=True)]  # fmt: skip
            drawn.given["output_shape"] = [max(1, length - drawn.random.randint(0, 2)) for length in spread]


def _resizing(drawn: Drawn) -> None:
    random = drawn.random
    drawn.shape = (1, 2, 3, 4)
    scales = np.array([1, 1, random.choice((1, 2, 1.5, 0.75)), random.choice((2, 1, 2.5, 0.5))], dtype=np.float32)
    drawn.may("mode", "nearest", "linear", *(("cubic",) if drawn.version >= 11 else ()), share=0.8)
    if drawn.op == "Upsample" or drawn.version < 11:
        scales = np.maximum(scales, 1)
        if drawn.has("scales"):
            drawn.given["scales"] = scales.tolist()
        else:
            drawn.add(scales)
        return
    mode = drawn.given.get("mode", "nearest")
    rules = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    drawn.may("coordinate_transformation_mode", *rules, *(("half_pixel_symmetric",) if drawn.version >= 19 else ()))
    drawn.may("nearest_mode", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    drawn.may("cubic_coeff_a", -0.75, -0.5)
    drawn.may("exclude_outside", *((0, 1) if mode == "cubic" else (0,)))
    drawn.may("extrapolation_value", 0.0, 1.5)
    drawn.may("antialias", 0, share=0.2)
    axes = drawn.has("axes") and drawn.chance(0.3)
    if axes:
        drawn.given["axes"] = [2, 3]
    drawn.leave_out() if drawn.version >= 13 else drawn.add(np.zeros(0, dtype=np.float32))
    if drawn.chance(0.6):
        drawn.add(scales[2:] if axes else scales)
        return
    drawn.leave_out() if drawn.version >= 13 else drawn.add(np.zeros(0, dtype=np.float32))
    sizes = [1, 2, random.randint(2, 6), random.randint(2, 7)]
    drawn.whole(*(sizes[2:] if axes else sizes))
    drawn.may("keep_aspect_ratio_policy", "stretch", *(("not_larger", "not_smaller") if axes else ()))


def _normalising(drawn: Drawn) -> None:
    random, op = drawn.random, drawn.op
    drawn.shape = (
        (1, 4, 3, 2) if op in ("BatchNormalization", "InstanceNormalization", "GroupNormalization") else (1, 3, 4)
    )
    drawn.may("epsilon", 1e-5, 1e-3, 0.1, 0.0 if op == "LpNormalization" else 0.5)
    drawn.may("stash_type", 1)
    if op in ("LayerNormalization", "RMSNormalization"):
        drawn.may("axis", -1, 1, 2)
        axis = drawn.given.get("axis", -1) % 3
        drawn.add(drawn.floats(*drawn.shape[axis:]))
        if op == "LayerNormalization" and drawn.chance():
            drawn.add(drawn.floats(*drawn.shape[axis:]))
    elif op == "LpNormalization":
        drawn.may("axis", -1, 1, 2)
        drawn.may("p", 1, 2, share=0.3)
    elif op == "GroupNormalization":
        drawn.given["num_groups"] = random.choice((1, 2, 4))
        count = 4 if drawn.version >= 21 else drawn.given["num_groups"]
        drawn.add(drawn.floats(count))
        drawn.add(drawn.floats(count))
    elif op == "MeanVarianceNormalization":
        drawn.shape = (1, 4, 3, 2)
        drawn.may("axes", [2, 3], [1, 2, 3], [0, 2, 3])
    else:
        drawn.add(drawn.floats(4))
        drawn.add(drawn.floats(4))
        if op == "BatchNormalization":
            drawn.add(drawn.floats(4))
            drawn.add(drawn.floats(4, low=0.2))
            drawn.may("momentum", 0.9, 0.5)
            drawn.may("spatial", 1)
            drawn.may("training_mode", 0)


def _plain(drawn: Drawn) -> None:
    """Softmax, casts, dropout: a value and attributes."""
    if drawn.op in ("Softmax", "LogSoftmax"):
        drawn.may("axis", 1, 2, *((-1, -2) if drawn.version >= 11 else ()))
    elif drawn.op in ("Cast", "CastLike"):
        if drawn.op == "Cast":
            drawn.given["to"] = drawn.random.choice((TensorProto.FLOAT, TensorProto.DOUBLE))
        else:
            drawn.add(np.zeros(1, dtype=drawn.random.choice((np.float32, np.float64))))
        drawn.may("saturate", 0, 1)
        drawn.may("round_mode", "up", share=0.3)
    elif drawn.op == "Dropout":
        drawn.may("ratio", 0.1, 0.5)
        drawn.may("seed", 7)
        if drawn.version >= 12 and drawn.chance():
            drawn.add(np.float32(0.3))
            if drawn.chance():
                drawn.add(np.array(False))


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
# The activations of recurrent operations with the numbers that they take.
RESPONSES: Mapping[str, tuple[bool, bool]] = {
    "Tanh": (False, False),
    "Relu": (False, False),
    "Sigmoid": (False, False),
    "Softsign": (False, False),
    "Softplus": (False, False),
    "Affine": (True, True),
    "LeakyRelu": (True, False),
    "ScaledTanh": (True, True),
    "HardSigmoid": (True, True),
    "Elu": (True, False),
}


def _recurrent(drawn: Drawn) -> None:
    """A recurrent operation over a few steps, in every direction and layout, with what may be left out."""
    random, size, gates = drawn.random, 2, GATES[drawn.op]
    steps, lead, features = random.randint(1, 3), random.randint(1, 2), 3
    drawn.may("direction", "forward", "reverse", "bidirectional", share=0.8)
    drawn.may("layout", 0, 1, share=0.3)
    drawn.may("linear_before_reset", 0, 1)
    drawn.may("input_forget", 0, 1)
    drawn.may("clip", 0.3, 1.0, share=0.3)
    drawn.given["hidden_size"] = size
    sides = 2 if drawn.given.get("direction") == "bidirectional" else 1
    first = bool(drawn.given.get("layout"))
    drawn.shape = (lead, steps, features) if first else (steps, lead, features)
    if drawn.chance():
        _responses(drawn, sides * {"RNN": 1, "GRU": 2, "LSTM": 3}[drawn.op])
    start = (lead, sides, size) if first else (sides, lead, size)
    drawn.add(drawn.floats(sides, gates * size, features))
    drawn.add(drawn.floats(sides, gates * size, size))
    drawn.add(drawn.floats(sides, 2 * gates * size)) if drawn.chance() else drawn.leave_out()
    length = random.randint(1, steps)
    drawn.add(np.full(lead, length, dtype=np.int32)) if drawn.chance(0.3) else drawn.leave_out()
    for _ in range(2 if drawn.op == "LSTM" else 1):
        drawn.add(drawn.floats(*start)) if drawn.chance() else drawn.leave_out()
    if drawn.op == "LSTM" and drawn.chance():
        drawn.add(drawn.floats(sides, 3 * size))
    drawn.outputs = 3 if drawn.op == "LSTM" else 2


def _responses(drawn: Drawn, count: int) -> None:
    """Activations of every gate and direction; those that take numbers take the next ones of two lists."""
    names = [drawn.random.choice(tuple(RESPONSES)) for _ in range(count)]
    drawn.given["activations"] = names
    for k, attribute in enumerate(("activation_alpha", "activation_beta")):
        numbers = [drawn.random.choice((0.25, 0.5, 1.5)) for name in names if RESPONSES[name][k]]
        if numbers:
            drawn.given[attribute] = numbers


def _comparison(drawn: Drawn) -> None:
    """With a number, on either side; the model behind it chooses so that nothing jumps."""
    if drawn.op != "Sign":
        drawn.add(drawn.floats())
        if drawn.chance():
            drawn.inputs.reverse()


def _each(recipe: Recipe, *operations: str) -> dict[str, Recipe]:
    return dict.fromkeys(operations, recipe)


COMPARING = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Sign")  # whose results a choice or a factor must take

RECIPES: Mapping[str, Recipe] = {
    **_each(_unary, *(op for family in families() for op in family.onnx)),
    **_each(_arithmetic, "Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min"),
    **_each(_reduction, *(op for op in OPERATIONS if op.startswith(("Reduce", "Global")))),
    **_each(_axes_of_shape, "Squeeze", "Unsqueeze"),
    **_each(_movement, "Reshape", "Flatten", "Transpose", "Expand", "Tile", "Concat", "Split", "Trilu", "Where",
            "Shape", "Size", "Identity", "Neg", "IsNaN"),
    **_each(_gathering, "Gather", "GatherElements", "GatherND", "ScatterElements"),
    **_each(_depth, "DepthToSpace", "SpaceToDepth"),
    **_each(_windows, "Conv", "ConvTranspose", "AveragePool", "MaxPool"),
    **_each(_resizing, "Resize", "Upsample"),
    **_each(_normalising, *(op for op in OPERATIONS if op.endswith("Normalization"))),
    **_each(_plain, "Softmax", "LogSoftmax", "Cast", "CastLike", "Dropout"),
    **_each(_recurrent, "RNN", "GRU", "LSTM"),
    **_each(_comparison, *COMPARING),
    "Slice": _slices,
    "ScatterND": _scatter_places,
    "Pad": _pads,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "CumSum": _running,
}  # fmt: skip


def _folded(drawn: Drawn) -> None:
    """Operations on constants alone: whole numbers, comparisons, positions."""
    op = drawn.op
    if op == "ReduceProd":
        _reduction(drawn)
        return
    drawn.inputs = []
    if op in ("ConstantOfShape", "Range", "OneHot", "EyeLike"):
        if op == "ConstantOfShape":
            drawn.whole(2, 3)
            kind = drawn.random.choice((np.float32, np.int64))
            drawn.may("value", onnx.numpy_helper.from_array(np.array([3], dtype=kind)))
        elif op == "Range":
            for entry in drawn.random.choice(((0, 5, 1), (7, -2, -3), (1, 2, 4))):
                drawn.add(np.int64(entry))
            drawn.may("stash_type", 1)
        elif op == "OneHot":
            drawn.whole(0, 2, -1)
            drawn.add(np.int64(4))
            drawn.add(np.array([-1, 2], dtype=np.float32))
            drawn.may("axis", -1, 0, 1)
        else:
            drawn.add(np.zeros((3, 4), dtype=np.float32))
            drawn.may("k", -1, 1, 2)
            drawn.may("dtype", TensorProto.FLOAT, TensorProto.INT64)
        return
    if op in ("And", "Or", "Xor", "Not"):
        for _ in range(1 if op == "Not" else 2):
            drawn.add(np.array([drawn.chance() for _ in range(6)]))
        return
    values = drawn.floats(2, 3)
    whole = op == "Mod" and drawn.chance()
    drawn.add((values * 4).astype(np.int64) if whole else np.where(np.abs(values) < 0.2, 0, values).astype(np.float32))
    if op in ("Mod", "Equal"):
        drawn.add(np.array([3, -2, 2], dtype=np.int64 if whole else np.float32))
        if op == "Mod":
            drawn.given["fmod"] = 0 if whole and drawn.chance() else 1
    for name, choices in (("axis", (0, 1, -1) if drawn.version >= 11 else (0, 1)), ("keepdims", (0, 1)),
                          ("select_last_index", (0, 1)), ("noop_with_empty_axes", (0, 1))):  # fmt: skip
        drawn.may(name, *choices)


FOLDED = tuple(sorted(FOLDABLE - set(OPERATIONS)))  # which stand between constants only
OF_INTEGERS = ("Shape", "Size", "IsNaN")  # whose results are no values of the network: a cast makes them weights


def versions(op: str) -> Sequence[int]:
    """The operator sets that know an operation."""
    return [version for version in range(OLDEST, NEWEST + 1) if onnx.defs.has(op, version, "")
            and not onnx.defs.get_schema(op, version, "").deprecated]  # fmt: skip


def drawn(op: str, random: Random) -> Drawn:
    """One operation with what it is given."""
    found = Drawn(op, random.choice(versions(op)), random)
    RECIPES.get(op, _folded)(found)
    return found
