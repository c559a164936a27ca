"""ONNX `Resize` and `Upsample`: every axis is a matrix of rational weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from jacobound.errors import UnsupportedOpError
from jacobound.importers.lowering.resampling import interpolation
from jacobound.importers.onnx.operations.call import Call, Value

HALF = Fraction(1, 2)
LONGEST = 1 << 13  # entries along an axis, each with its weights as fractions
RULES = (
    "half_pixel",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "half_pixel_symmetric",
    "tf_half_pixel_for_nn",
)


def resize(call: Call) -> tuple[Value, ...]:
    value, result = call.traced(), call.shape
    if call.flag("antialias"):
        raise UnsupportedOpError("antialias=1 is not understood.")
    mode = call.text("mode", ("nearest", "linear", "cubic"))
    simple = call.version < 11  # asymmetric positions, rounded down
    rule = "asymmetric" if simple else call.text("coordinate_transformation_mode", RULES)
    rounding = "floor" if simple else call.text("nearest_mode", ROUNDINGS)
    exclude = call.flag("exclude_outside")
    cubic = _rational(call.number("cubic_coeff_a", -0.75), "cubic_coeff_a")
    dropped = len(value.shape) - len(value.node.shape)
    matrices = {}
    for axis, scale in _scales(call).items():
        before, after = value.shape[axis], result[axis]
        if (before, scale) == (after, 1):
            continue
        if axis < dropped:
            raise UnsupportedOpError("It resizes the batch axis.")
        if max(before, after) > LONGEST:
            raise UnsupportedOpError(f"It resizes {before} entries to {after}; up to {LONGEST} are weighted exactly.")
        matrices[axis - dropped] = interpolation(
            before,
            after,
            mode=mode,
            position=positions(rule, before, after, scale),
            cubic_coeff=cubic,
            exclude_outside=exclude,
            nearest_rounding=rounding,
        )
    return call.result(call.steps.resample(value.node, matrices, call.name) if matrices else value.node)


def _rational(value: float, what: str) -> Fraction:
    """A number of the file, exactly.

    Raises:
        UnsupportedOpError: when it is NaN or infinite.
    """
    if not math.isfinite(value):
        raise UnsupportedOpError(f"Its {what} holds {value}, which is no finite number.")
    return Fraction(float(value))


ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _scales(call: Call) -> dict[int, Fraction]:
    """The exact factor of each axis that is resized."""
    value, result = call.traced(), call.shape
    rank = len(value.shape)
    named = call.attributes.get("axes")
    axes = list(range(rank)) if named is None else [int(axis) % rank for axis in named]  # type: ignore[attr-defined]
    if call.proto.op_type == "Upsample" and call.version < 9:
        scales = np.array(call.attributes.get("scales", ()), dtype=np.float32)
    else:
        scales = call.constant(1 if call.version < 11 else 2)
    if scales is not None and scales.size:
        if scales.size != len(axes) or not bool((scales > 0).all()):
            raise UnsupportedOpError(f"Its scales {np.ravel(scales).tolist()} do not fit.")
        return {axis: _rational(float(scale), "scales") for axis, scale in zip(axes, np.ravel(scales), strict=True)}
    sizes = call.constant(3)
    if sizes is None or sizes.size != len(axes):
        raise UnsupportedOpError("It has neither scales nor sizes that fit.")
    ratios = {
        axis: Fraction(int(length), value.shape[axis]) for axis, length in zip(axes, np.ravel(sizes), strict=True)
    }
    policy = call.text("keep_aspect_ratio_policy", ("stretch", "not_larger", "not_smaller"))
    if policy != "stretch":
        common = (min if policy == "not_larger" else max)(ratios.values())
        return dict.fromkeys(axes, common)
    return {axis: Fraction(result[axis], value.shape[axis]) for axis in axes}


def positions(rule: str, before: int, after: int, scale: Fraction) -> Callable[[int], Fraction]:
    """Where each entry of the result lies among those of the input, for the coordinate rules of the standard."""
    if rule == "asymmetric":
        return lambda k: k / scale
    if rule == "align_corners":
        return lambda k: Fraction(k * (before - 1), after - 1) if after > 1 else Fraction(0)
    if rule == "tf_half_pixel_for_nn":
        return lambda k: (k + HALF) / scale
    if rule == "pytorch_half_pixel" and after == 1:
        return lambda k: Fraction(0)
    offset = Fraction(0)
    if rule == "half_pixel_symmetric":
        offset = Fraction(before, 2) * (1 - after / (scale * before))
    return lambda k: offset + (k + HALF) / scale - HALF
