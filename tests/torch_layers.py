"""What `from_torch` makes of every class in torch.nn: examples of those it takes, and reasons for those it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

Shape = tuple[int, ...]
VECTOR, LINE, PLANE, SPACE = (8,), (4, 9), (4, 7, 6), (2, 5, 4, 6)
SPATIAL: dict[int, Shape] = {1: LINE, 2: PLANE, 3: SPACE}

TAKEN: dict[str, list[tuple[Callable[[], nn.Module], Shape]]] = {}
"""For each class the examples that must be imported, each with the shape of its points."""


def take(kind: str, shape: Shape, *options: dict[str, Any]) -> None:
    """Examples of one class, one for each set of options (at least one, with none)."""
    if not hasattr(nn, kind):
        return  # an older torch
    make = getattr(nn, kind)
    TAKEN.setdefault(kind, [])
    TAKEN[kind] += [(lambda one=one: make(**one), shape) for one in options or ({},)]


for d, shape in SPATIAL.items():
    channels, tail = shape[0], shape[1:]
    take(
        f"Conv{d}d",
        shape,
        {"in_channels": channels, "out_channels": 3, "kernel_size": 3, "padding": 1, "stride": 2},
        {"in_channels": channels, "out_channels": 4, "kernel_size": 2, "groups": 2, "dilation": 2, "bias": False},
        {"in_channels": channels, "out_channels": 2, "kernel_size": 4, "padding": "same"},
        {"in_channels": channels, "out_channels": 2, "kernel_size": 2, "padding": "valid"},
        *(
            {"in_channels": channels, "out_channels": 2, "kernel_size": 3, "padding": 2, "padding_mode": mode}
            for mode in ("reflect", "replicate", "circular")
        ),
    )
    take(
        f"ConvTranspose{d}d",
        shape,
        {"in_channels": channels, "out_channels": 3, "kernel_size": 3},
        {
            "in_channels": channels,
            "out_channels": 4,
            "kernel_size": 3,
            "stride": 2,
            "padding": 1,
            "output_padding": 1,
            "groups": 2,
            "bias": False,
        },
        {"in_channels": channels, "out_channels": 2, "kernel_size": 2, "dilation": 2, "stride": 2, "padding": 2},
    )
    take(
        f"AvgPool{d}d",
        shape,
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        *([{"kernel_size": 2, "stride": 1, "divisor_override": 3}] if d > 1 else []),
    )
    take(
        f"MaxPool{d}d",
        shape,
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 1, "dilation": 2, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    )
    for kind in (f"AdaptiveAvgPool{d}d", f"AdaptiveMaxPool{d}d"):
        take(kind, shape, {"output_size": 1}, {"output_size": 3})
        if d > 1:
            take(kind, shape, {"output_size": (2, *(None for _ in range(d - 1)))})
    take(f"BatchNorm{d}d", shape, {"num_features": channels}, {"num_features": channels, "affine": False, "eps": 0.1})
    take(f"InstanceNorm{d}d", shape, {"num_features": channels, "track_running_stats": True, "affine": True})
    take(f"ZeroPad{d}d", shape, {"padding": 1}, {"padding": (2, 1) * d})
    take(f"ConstantPad{d}d", shape, {"padding": (1, 2) * d, "value": 0.7})
    for kind in ("ReflectionPad", "ReplicationPad", "CircularPad"):
        take(f"{kind}{d}d", shape, {"padding": 2}, {"padding": (1, 2) * d})
    take(f"Dropout{d}d", shape)

take("BatchNorm1d", VECTOR, {"num_features": 8})
take("SyncBatchNorm", PLANE, {"num_features": 4})
for kind in ("Dropout", "AlphaDropout", "FeatureAlphaDropout", "Identity"):
    take(kind, PLANE)
take("Linear", VECTOR, {"in_features": 8, "out_features": 3}, {"in_features": 8, "out_features": 1, "bias": False})
take("Linear", LINE, {"in_features": 9, "out_features": 2})
take("Flatten", PLANE, {}, {"start_dim": 2}, {"start_dim": 1, "end_dim": 2})
take("Unflatten", VECTOR, {"dim": 1, "unflattened_size": (2, 2, 2)})
take("PixelShuffle", PLANE, {"upscale_factor": 2})
take("PixelUnshuffle", (2, 4, 6), {"downscale_factor": 2})
take("ChannelShuffle", PLANE, {"groups": 2})
take("Unfold", PLANE, {"kernel_size": 3}, {"kernel_size": (2, 3), "stride": 2, "padding": 1, "dilation": (1, 2)})
take("Fold", (8, 20), {"output_size": (5, 6), "kernel_size": 2})
take("Fold", (12, 6), {"output_size": (4, 5), "kernel_size": (2, 3), "stride": 2, "padding": (0, 1)})
take("Fold", (8, 15), {"output_size": (5, 5), "kernel_size": 2, "stride": (2, 1), "dilation": (1, 2), "padding": 1})
take("UpsamplingNearest2d", PLANE, {"scale_factor": 2}, {"size": (5, 9)})
take("UpsamplingBilinear2d", PLANE, {"scale_factor": 1.5}, {"size": (3, 9)})
for mode, shapes in {
    "nearest": (LINE, PLANE, SPACE),
    "nearest-exact": (LINE, PLANE, SPACE),
    "area": (LINE, PLANE, SPACE),
}.items():
    for shape in shapes:
        take("Upsample", shape, {"scale_factor": 1.7, "mode": mode}, {"size": 5, "mode": mode})
for mode, shape in {"linear": LINE, "bilinear": PLANE, "bicubic": PLANE, "trilinear": SPACE}.items():
    take(
        "Upsample",
        shape,
        {"scale_factor": 2, "mode": mode},
        {"scale_factor": 1.7, "mode": mode},
        {"scale_factor": 0.6, "mode": mode, "recompute_scale_factor": True},
        {"size": 11, "mode": mode},
        {"size": 5, "mode": mode, "align_corners": True},
        {"size": 1, "mode": mode, "align_corners": True},
    )
ACTIVATIONS = (
    "ReLU ReLU6 Hardtanh Hardswish Hardsigmoid SiLU Mish GELU Softplus Softsign Tanhshrink Softshrink LogSigmoid "
    "PReLU RReLU CELU SELU ELU LeakyReLU Sigmoid Tanh"
)
for kind in ACTIVATIONS.split():
    take(kind, VECTOR)
take("GELU", VECTOR, {"approximate": "tanh"})
take("Hardtanh", VECTOR, {"min_val": -0.3, "max_val": 1.2})
take("Softplus", VECTOR, {"beta": 2.0})
take("Softshrink", VECTOR, {"lambd": 0.0}, {"lambd": 1.5})
take("Threshold", VECTOR, {"threshold": 0.5, "value": 0.5})
take("PReLU", PLANE, {"num_parameters": 4, "init": -0.3})
take("RReLU", VECTOR, {"lower": 0.2, "upper": 0.5})
take("CELU", VECTOR, {"alpha": 0.4})
take("ELU", VECTOR, {"alpha": 1.6})
take("LeakyReLU", VECTOR, {"negative_slope": -0.2}, {"negative_slope": 1.5})
for kind in ("ReLU", "ReLU6", "Hardtanh", "Hardswish", "SiLU", "ELU", "LeakyReLU"):
    take(kind, VECTOR, {"inplace": True})
for kind in ("Softmax", "LogSoftmax", "Softmin"):
    take(kind, VECTOR, {"dim": 1})
    take(kind, PLANE, {"dim": 1}, {"dim": -1})
take("Softmax2d", PLANE)
take("GLU", VECTOR)
take("GLU", PLANE, {"dim": 1}, {"dim": 3})
for d, shape in SPATIAL.items():
    take(f"InstanceNorm{d}d", shape, {"num_features": shape[0]}, {"num_features": shape[0], "affine": True, "eps": 0.1})
take("GroupNorm", PLANE, {"num_groups": 2, "num_channels": 4}, {"num_groups": 4, "num_channels": 4, "affine": False})
take("LayerNorm", VECTOR, {"normalized_shape": 8}, {"normalized_shape": 8, "eps": 0.1, "elementwise_affine": False})
take("LayerNorm", PLANE, {"normalized_shape": 6}, {"normalized_shape": (7, 6), "bias": False})
take("RMSNorm", VECTOR, {"normalized_shape": 8}, {"normalized_shape": 8, "eps": 0.1, "elementwise_affine": False})
take("RMSNorm", PLANE, {"normalized_shape": (7, 6), "eps": 1e-3})
take("LocalResponseNorm", PLANE, {"size": 2}, {"size": 3, "alpha": 0.1, "k": 2.0})
TOKENS = {"d_model": 8, "nhead": 2, "dim_feedforward": 6, "batch_first": True}
take("TransformerEncoderLayer", (4, 8), TOKENS, {**TOKENS, "norm_first": True, "activation": "gelu", "bias": False})
TAKEN["TransformerEncoder"] = [
    (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(**TOKENS), 2, enable_nested_tensor=False), (4, 8))
]
TAKEN["Sequential"] = [(lambda: nn.Sequential(nn.Sequential(nn.Linear(8, 3)), nn.Sequential()), VECTOR)]

REFUSED: dict[str, tuple[Callable[[], nn.Module], Shape, str]] = {}
"""For each class an example, the shape of its points, and what the error says of it."""


def refuse(kind: str, shape: Shape, text: str, *arguments: Any, **options: Any) -> None:
    make = getattr(nn, kind, None)
    if make is None:
        return

    def quietly() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(*arguments, **options)

    REFUSED[kind] = (quietly, shape, text)


refuse("Hardshrink", VECTOR, "a Hardshrink: it jumps at its limits.*Use Softshrink")
for d, shape in SPATIAL.items():
    refuse(f"LPPool{d}d", shape, f"LPPool{d}d: it takes roots.*Use AvgPool{d}d", 2, 2)
    refuse(f"MaxUnpool{d}d", shape, r"takes 2 arguments \(input, indices\)", 2)
    for kind in ("Conv", "ConvTranspose"):
        refuse(f"Lazy{kind}{d}d", shape, "has no shape yet; run the module once", 2, 2)
    refuse(f"LazyBatchNorm{d}d", shape, "has no shape yet; run the module once")
    refuse(f"LazyInstanceNorm{d}d", shape, "has no shape yet; run the module once", affine=True)
refuse("LazyLinear", VECTOR, "has no shape yet; run the module once", 2)
for d in (2, 3):
    refuse(f"FractionalMaxPool{d}d", SPATIAL[d], "random numbers", 2, output_size=2)
refuse("CrossMapLRN2d", PLANE, "CrossMapLRN2d can not be traced", 2)
refuse("RNN", LINE, "RNN returns 2 values.*wrap it", 9, 3)
for kind in ("LSTM", "GRU"):
    refuse(kind, LINE, "returns 2 values.*wrap it in a module", 9, 3)
take(
    "RNNCell", VECTOR, {"input_size": 8, "hidden_size": 3}, {"input_size": 8, "hidden_size": 3, "nonlinearity": "relu"}
)
take("GRUCell", VECTOR, {"input_size": 8, "hidden_size": 3}, {"input_size": 8, "hidden_size": 3, "bias": False})
refuse("LSTMCell", VECTOR, "returns 2 values", 8, 3)
REFUSED["TransformerDecoder"] = (
    lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, dim_feedforward=4, batch_first=True), 1),
    (4, 8),
    r"takes 2 arguments \(tgt, memory\)",
)
refuse("TransformerDecoderLayer", LINE, r"takes 2 arguments \(tgt, memory\)", 9, 3, dim_feedforward=4)
refuse("Transformer", LINE, r"takes 2 arguments \(src, tgt\)", 9, 3, 1, 1, 4)
refuse("MultiheadAttention", LINE, r"takes 3 arguments \(query, key, value\); give one tensor for each", 9, 3)
refuse("Bilinear", VECTOR, r"takes 2 arguments \(input1, input2\); give one tensor for each", 8, 8, 2)
refuse("Embedding", VECTOR, "Embedding does not take", 8, 2)
refuse("EmbeddingBag", VECTOR, "EmbeddingBag does not take", 8, 2)
for kind in ("CosineSimilarity", "PairwiseDistance"):
    refuse(kind, VECTOR, r"takes 2 arguments \(x1, x2\)")
LOSSES = (
    "BCELoss BCEWithLogitsLoss CrossEntropyLoss HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss MSELoss "
    "MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss NLLLoss2d PoissonNLLLoss SmoothL1Loss "
    "SoftMarginLoss CTCLoss CosineEmbeddingLoss GaussianNLLLoss MarginRankingLoss TripletMarginLoss "
    "TripletMarginWithDistanceLoss"
)
for kind in LOSSES.split():
    refuse(kind, VECTOR, rf"{kind} takes \d arguments|NLLLoss takes 2 arguments")
refuse("LinearCrossEntropyLoss", VECTOR, "takes . arguments", 8, 3)
refuse("AdaptiveLogSoftmaxWithLoss", VECTOR, r"takes 2 arguments \(input_, target_?\)", 8, 4, [2])
for kind in ("Module", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Container"):
    refuse(kind, VECTOR, "does not take a batch .*(forward|should not be called)")

NO_MODULES = {"RNNBase", "RNNCellBase", "LinearCrossEntropyOptions"}
"""Bases of classes above, and records of options."""
