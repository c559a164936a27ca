"""Why operations and layers of torch that are no part of a graph are refused, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from jacobound.activations import families

LOGITS: Final = "Its input holds the logits: bound those."
STATISTICS: Final = "Batch normalisation in evaluation mode is affine: use that instead."
JUMPS: Final = "It jumps, so it has no bounded derivative."
POSITIONS: Final = "Its result is a position, which jumps when the input changes."
PRODUCTS: Final = "it multiplies values that depend on the input with one another"
BEHIND: Final = "Import the part of the model behind it, on real inputs."

LAYERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "CrossMapLRN2d": ("it divides by a power of a sum of squares", STATISTICS),
        "Embedding": ("it looks its integer input up in a table", BEHIND),
        "EmbeddingBag": ("it looks its integer input up in a table", BEHIND),
        "FractionalMaxPool2d": ("it draws its windows at random", "Use MaxPool2d instead."),
        "FractionalMaxPool3d": ("it draws its windows at random", "Use MaxPool3d instead."),
        "Hardshrink": ("it jumps at its limits, so it has no bounded derivative", "Use Softshrink instead."),
        "LPPool1d": ("it takes roots of sums of powers", "Use AvgPool1d or MaxPool1d instead."),
        "LPPool2d": ("it takes roots of sums of powers", "Use AvgPool2d or MaxPool2d instead."),
        "LPPool3d": ("it takes roots of sums of powers", "Use AvgPool3d or MaxPool3d instead."),
        "AdaptiveLogSoftmaxWithLoss": ("it is a function of the whole vector", LOGITS),
    }
)
"""Layers of torch.nn by class: why they are refused (half a sentence) and what to do."""

_OPERATIONS: Final = (
    ("_fused_rms_norm", "It divides by statistics of its own input.", STATISTICS),
    (
        "_scaled_dot_product_flash_attention_for_cpu _native_multi_head_attention _transformer_encoder_layer_fwd",
        "It is a kernel for inference, whose parts are not visible.",
        "Switch it off with torch.backends.mha.set_fastpath_enabled(False).",
    ),
    (
        "_pack_padded_sequence _pad_packed_sequence",
        "Packed sequences have lengths of their own for each point.",
        "Give the recurrent layer the padded tensor itself, all of one length.",
    ),
    ("embedding embedding_bag _embedding_bag", "It looks its input up in a table.", BEHIND),
    ("cov corrcoef", "It multiplies values that depend on the input.", ""),
    ("max_unpool2d max_unpool3d", "Which entries it fills depends on the input.", "Use a transposed convolution."),
    ("fractional_max_pool2d fractional_max_pool3d", "It draws its windows at random.", "Use max pooling instead."),
    ("argmax argmin argsort nonzero searchsorted bucketize", POSITIONS, ""),
    ("sign sgn heaviside floor ceil round trunc frac remainder fmod hardshrink", JUMPS, ""),
    (
        "gt ge lt le eq ne isnan isinf isfinite logical_not logical_and logical_or greater less signbit",
        "It compares values that depend on the input, so what is made from it may jump.",
        "Write relu, clamp, maximum or minimum instead of masks.",
    ),
    ("grid_sampler grid_sampler_2d grid_sampler_3d", "Sampling along a grid is not understood.", ""),
    (
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa",
        "Resizing with antialias=True is not understood.",
        "Pass antialias=False, or pool before resizing.",
    ),
)


def _table(rows: Iterable[tuple[str, str, str]]) -> Mapping[str, tuple[str, str]]:
    return MappingProxyType({name: (reason, advice) for names, reason, advice in rows for name in names.split()})


OPERATIONS: Final[Mapping[str, tuple[str, str]]] = _table(_OPERATIONS)
"""ATen operations without overload: why they are refused (a sentence) and what to do."""


def unknown(op: str) -> str:
    """Why an operation that has no rule is refused."""
    known = OPERATIONS.get(base_name(op))
    if known is not None:
        return known[0]
    if not op.startswith("aten."):
        return "It is control flow that depends on values of the input, or an operation of another library."
    names = ", ".join(sorted(family.name for family in families()))
    return f"It is neither affine nor elementwise with a known activation ({names})."


def base_name(op: str) -> str:
    """The name without namespace and overload: softmax for aten.softmax.int."""
    parts = op.split(".")
    return parts[1] if len(parts) > 1 else op


def advice(op: str, layer: str | None, before: str | None) -> str:
    """What to do about a refused operation.

    Args:
        layer: class of the layer of torch.nn that is refused as a whole, if it is one.
        before: what to pass as `until` to cut the model in front of it, if something is left there.
    """
    special = (LAYERS[layer] if layer is not None else OPERATIONS.get(base_name(op), ("", "")))[1]
    cut = "Replace it, or import only the part of the model before it"
    cut += "." if before is None else f": from_torch(module, example, until={before!r})."
    return " ".join(part for part in (special, cut) if part)
