"""Piecewise linear activations with a flat part: clip and its names, threshold, softshrink."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import linear_piece
from jacobound.activations.kinds.base import Activation, Family, register
from jacobound.activations.kinds.piecewise import identity, relu
from jacobound.activations.lines.envelope import envelope
from jacobound.activations.lines.rules import bent
from jacobound.errors import InvalidModelError, UnsupportedOpError

End = float | Tensor | None
"""One end of a clip; None, and an infinite one, is no end."""


def clip(low: End = None, high: End = None) -> Activation:
    """min(max(z, low), high), which is `high` everywhere when the ends are crossed.

    Args:
        low, high: numbers, or tensors broadcastable to the node's shape without batch with one end per entry.

    Raises:
        InvalidModelError: when an end is NaN, or one entry of a tensor infinite.
    """
    low, high = _checked(low, -math.inf), _checked(high, math.inf)
    if low is None and high is None:
        return identity()
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return _clip_per_entry(low, high)
    if low is not None and high is not None and low >= high:
        return Activation(
            f"clip:{low!r},{high!r}",
            lambda z: z.clamp(low, high),
            (linear_piece(0.0, high),),
            rebuild=partial(clip, low, high),
        )
    pieces = [linear_piece(0.0, low)] if low is not None else []
    pieces += [linear_piece(1.0), *([linear_piece(0.0, high)] if high is not None else [])]
    return Activation(
        f"clip:{low if low is not None else -math.inf!r},{high if high is not None else math.inf!r}",
        lambda z: z.clamp(low, high),
        tuple(pieces),
        breaks=tuple(end for end in (low, high) if end is not None),
        choose=envelope if len(pieces) == 3 else bent(low is not None),
        rebuild=partial(clip, low, high),
    )


def _clip_per_entry(low: float | Tensor | None, high: float | Tensor | None) -> Activation:
    tensor = low if isinstance(low, Tensor) else high
    assert isinstance(tensor, Tensor)
    ends = [end if end is None or isinstance(end, Tensor) else tensor.new_tensor(end) for end in (low, high)]
    first, last = ends
    if first is not None and last is not None:
        first, last = torch.broadcast_tensors(torch.minimum(first, last), last)
    pieces = [linear_piece(0.0, first)] if first is not None else []
    pieces += [linear_piece(1.0), *([linear_piece(0.0, last)] if last is not None else [])]
    given = tuple(end for end in (first, last) if end is not None)
    both = len(given) == 2
    return Activation(
        "clip per entry" if both else "clip per entry below" if first is not None else "clip per entry above",
        lambda z: torch.clamp(z, first, last),
        tuple(pieces),
        breaks=given,
        choose=envelope if both else bent(first is not None),
        parameters=given,
        rebuild=clip if both or last is None else partial(clip, None),
    )


def _checked(end: End, missing: float) -> float | Tensor | None:
    """A finite end; None for one that does not clip."""
    if end is None:
        return None
    if isinstance(end, Tensor):
        end = end.detach()
        if end.numel() == 1:
            return _checked(float(end), missing)
        if not bool(torch.isfinite(end).all()):
            raise InvalidModelError("an end of a clip is NaN or infinite in some entries; write a large number instead")
        return end if end.is_floating_point() else end.to(torch.float64)
    end = float(end)
    if math.isnan(end) or end == -missing:
        raise InvalidModelError(f"an end of a clip is {end}; the network has no finite value there")
    return None if end == missing else end


def relu6() -> Activation:
    """min(max(z, 0), 6)."""
    return clip(0.0, 6.0)


def hard_tanh(low: float = -1.0, high: float = 1.0) -> Activation:
    """min(max(z, low), high)."""
    return clip(low, high)


def threshold(at: float = 0.0, value: float = 0.0) -> Activation:
    """z for z > at, else `value`; continuous only when the two are equal.

    Raises:
        UnsupportedOpError: when they are not.
    """
    if at != value:
        raise UnsupportedOpError(
            f"threshold jumps from {value} to {at} at z = {at}; only value == threshold makes it continuous"
        )
    return clip(at, None)


def soft_shrink(lambd: float = 0.5) -> Activation:
    """z - lambd for z > lambd, z + lambd for z < -lambd, 0 between.

    Raises:
        UnsupportedOpError: when lambd is negative or not finite.
    """
    lambd = float(lambd)
    if not 0 <= lambd < math.inf:
        raise UnsupportedOpError(f"softshrink needs a finite lambd >= 0, not {lambd}")
    if lambd == 0.0:
        return identity()
    return Activation(
        f"soft_shrink:{lambd!r}",
        lambda z: torch.nn.functional.softshrink(z, lambd),
        (linear_piece(1.0, lambd), linear_piece(0.0), linear_piece(1.0, -lambd)),
        breaks=(-lambd, lambd),
        choose=envelope,
    )


def _hard_shrink(lambd: float = 0.5) -> Activation:
    if lambd != 0:
        raise UnsupportedOpError(f"hardshrink jumps at z = ±{lambd}; use softshrink, which is continuous")
    return identity()


def _spellings(build: Callable[..., Activation], *names: str) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}{suffix}": build for name in names for suffix in (".default", "_.default")}


def _ends(min: End = None, max: End = None) -> Activation:
    return clip(min, max)


def _low_end(min: End) -> Activation:
    return clip(min, None)


def _high_end(max: End) -> Activation:
    return clip(None, max)


def _per_entry(build: Callable[..., Activation], *names: str) -> dict[str, Callable[..., Activation]]:
    return {f"aten.{name}{suffix}": build for name in names for suffix in (".Tensor", "_.Tensor")}


def _clip_of_onnx(low: Tensor | None = None, high: Tensor | None = None, **ends: float) -> Activation:
    """Ends are further inputs, or attributes in old operator sets, where the largest float32 is the default."""
    unknown = set(ends) - {"min", "max"}
    if unknown:
        raise TypeError(f"Clip has no attribute {sorted(unknown)}")
    largest = torch.finfo(torch.float32).max
    attributes = [None if abs(end) >= largest else end for end in (ends.get("min", -largest), ends.get("max", largest))]
    return clip(attributes[0] if low is None else low, attributes[1] if high is None else high)


def _shrink_of_onnx(bias: float = 0.0, lambd: float = 0.5) -> Activation:
    if bias != lambd:
        raise UnsupportedOpError(f"Shrink jumps at z = ±{lambd} unless bias equals lambd; here bias is {bias}")
    return soft_shrink(lambd)


def _thresholded_relu(alpha: float = 1.0) -> Activation:
    if alpha != 0:
        raise UnsupportedOpError(
            f"ThresholdedRelu jumps at z = {alpha} from 0 to {alpha}; only alpha = 0 is continuous"
        )
    return relu()


register(
    Family(
        "clip",
        clip,
        _spellings(_ends, "clamp", "clip")
        | _per_entry(_ends, "clamp", "clip")
        | _spellings(_low_end, "clamp_min")
        | _per_entry(_low_end, "clamp_min")
        | _spellings(_high_end, "clamp_max")
        | _per_entry(_high_end, "clamp_max"),
        {"Clip": _clip_of_onnx},
        aliases=("clamp",),
    )
)
register(Family("relu6", relu6, _spellings(relu6, "relu6")))
register(Family("hard_tanh", hard_tanh, _spellings(hard_tanh, "hardtanh"), aliases=("hardtanh",)))
register(Family("threshold", threshold, _spellings(threshold, "threshold"), {"ThresholdedRelu": _thresholded_relu}))
register(
    Family(
        "soft_shrink",
        soft_shrink,
        {"aten.softshrink.default": soft_shrink, "aten.hardshrink.default": _hard_shrink},
        {"Shrink": _shrink_of_onnx},
        aliases=("softshrink",),
    )
)
