"""Interpolation in traced modules: linear and cubic, by rational weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.resampling import interpolation
from jacobound.importers.torch.operations.call import Call
from jacobound.importers.torch.operations.windows import axes_of, on_image


def interpolate(call: Call) -> Node:
    """Linear and cubic interpolation along one to three axes."""
    count = axes_of(call)
    mode = "cubic" if "bicubic" in call.op else "linear"
    aligned = bool(call.args[2])
    scales = _scales(call, count)
    wanted = call.full_shape[-count:]

    def step(image: Node) -> Node:
        matrices = {
            1 + k: interpolation(
                image.shape[1 + k],
                wanted[k],
                mode=mode,
                position=_position(image.shape[1 + k], wanted[k], aligned, scales[k], mode),
                cubic_coeff=Fraction(-3, 4),
            )
            for k in range(count)
        }
        return call.steps.resample(image, matrices, call.name)

    return on_image(call, count, step)


def _scales(call: Call, count: int) -> Sequence[float | None]:
    """The scale factors per axis that the operation was given, or None where sizes decide."""
    if call.op.endswith(".vec"):
        return call.argument(3, "scale_factors") or [None] * count
    names = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}[count]
    return [call.argument(3 + k, name) for k, name in enumerate(names)]


def _position(length: int, wanted: int, aligned: bool, scale: float | None, mode: str) -> Callable[[int], Fraction]:
    """Where output entry i lies among the input's entries, as torch computes it but with rational numbers."""
    if aligned:
        step = Fraction(length - 1, wanted - 1) if wanted > 1 else Fraction(0)
        return lambda i: i * step
    if scale is not None and not scale > 0:
        raise UnsupportedOpError(f"A scale factor of {scale} is not understood.")
    step = Fraction(length, wanted) if scale is None else 1 / Fraction(scale)
    half = Fraction(1, 2)
    if mode == "linear" and length == wanted:
        return Fraction  # whatever the factor, torch copies then; cubic interpolation does not
    if mode == "linear":
        return lambda i: max((i + half) * step - half, Fraction(0))
    return lambda i: (i + half) * step - half
