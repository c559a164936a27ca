"""Operations of torch with random options, in all their spellings, for networks at the door."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from campaign.families import pick
from zoo import integer

Operation = Callable[[Tensor], Tensor]
Maker = Callable[[Generator], Operation]


def number(generator: Generator, low: float = 0.05, high: float = 3.0) -> float:
    """A number that is rarely a float32."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def chance(generator: Generator, share: float = 0.5) -> bool:
    return torch.rand((), generator=generator).item() < share


def constant(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def spelled(generator: Generator, *ways: Operation) -> Operation:
    """One of several spellings of the same thing."""
    return pick(ways, generator)


def _softplus(g: Generator) -> Operation:
    beta = pick([1.0, 1.0, 2.0, 0.01, number(g)], g)
    threshold = pick([20.0, 20.0, 30.0, 0.0, -1.0, 1.0, 5.0, 9.0, 12.0, 15.0, 18.0, 19.9, number(g, 0, 25)], g)
    layer = nn.Softplus(beta, threshold)
    return spelled(
        g,
        lambda x: F.softplus(x, beta, threshold),
        layer,
        lambda x: F.softplus(x, threshold=threshold, beta=beta),
        lambda x: x * torch.tanh(F.softplus(x, beta, threshold)),
        lambda x: torch.ops.aten.softplus(x, beta, threshold),
    )


def _elu(g: Generator) -> Operation:
    a, s, t = number(g), number(g), number(g)
    return spelled(
        g,
        lambda x: F.elu(x, a),
        nn.ELU(a),
        lambda x: F.celu(x, a),
        nn.CELU(a),
        F.selu,
        lambda x: torch.ops.aten.elu(x, a, s, t),
        lambda x: F.elu_(x.clone(), a),
    )


def _slopes(g: Generator) -> Operation:
    a, b = sorted((number(g, 0, 1), number(g, 0, 1)))
    weight = constant((1,), g).abs()
    return spelled(
        g,
        lambda x: F.leaky_relu(x, a),
        nn.LeakyReLU(a),
        lambda x: F.rrelu(x, a, b),
        nn.RReLU(a, b).eval(),
        lambda x: F.prelu(x, weight.to(x)),
        lambda x: F.rrelu(x, a, b, training=True),
        lambda x: F.leaky_relu(x, -a),
    )


def _limits(g: Generator) -> Operation:
    low, high = number(g, -2, 1), number(g, -1, 2)
    row = constant((6,), g)
    return spelled(
        g,
        lambda x: F.hardtanh(x, min(low, high), max(low, high)),
        nn.Hardtanh(min(low, high), max(low, high) + 0.1),
        lambda x: x.clamp(low, high),
        lambda x: x.clamp(min=low),
        lambda x: torch.clamp(x, max=high),
        lambda x: x.clamp(min=row.to(x)),
        lambda x: torch.clip(x, row.to(x) - 1, row.to(x)),
        lambda x: torch.minimum(x, x.new_full((), math.inf)),
        F.relu6,
        lambda x: x.clamp(-math.inf, high),
        lambda x: torch.maximum(x, x.new_full((), low)),
    )


def _jumps(g: Generator) -> Operation:
    a, b = number(g), number(g)
    return spelled(
        g,
        lambda x: F.threshold(x, 0.0, 0.0),
        lambda x: F.threshold(x, a, b),
        lambda x: F.threshold(x, a, a),
        nn.Threshold(a, b),
        lambda x: F.hardshrink(x, a),
        lambda x: F.hardshrink(x, 0.0),
        lambda x: F.softshrink(x, a),
        nn.Softshrink(a),
        torch.sign,
        torch.floor,
        lambda x: torch.round(x, decimals=2),
        lambda x: torch.fmod(x, a),
        lambda x: torch.where(x > a, x, torch.zeros_like(x)),
        lambda x: torch.div(x, a, rounding_mode="floor"),
        lambda x: torch.nan_to_num(x),
    )


def _smooth(g: Generator) -> Operation:
    approximate = pick(["none", "tanh"], g)
    return spelled(
        g,
        lambda x: F.gelu(x, approximate=approximate),
        nn.GELU(approximate),
        nn.GELU(),
        F.silu,
        F.mish,
        nn.Mish(),
        F.logsigmoid,
        F.tanhshrink,
        F.softsign,
        F.hardswish,
        F.hardsigmoid,
        torch.tanh,
        torch.sigmoid,
        torch.sin,
        torch.cos,
        torch.erf,
        torch.atan,
        lambda x: x * torch.sigmoid(x),
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: torch.exp(-x.abs()),
        lambda x: torch.log1p(x.abs()),
        lambda x: torch.expm1(x.clamp(max=3)),
        lambda x: torch.logaddexp(x, torch.zeros_like(x)),
        lambda x: torch.logit(torch.sigmoid(x), eps=1e-3),
        torch.asinh,
    )


def _arithmetic(g: Generator) -> Operation:
    a, b, row = number(g), number(g, -2, 2), constant((6,), g)
    return spelled(
        g,
        lambda x: torch.add(x, row.to(x), alpha=a),
        lambda x: torch.sub(x, b, alpha=a),
        lambda x: torch.rsub(x, b, alpha=a),
        lambda x: torch.addcmul(x, x, row.to(x), value=a),
        lambda x: torch.addcdiv(row.to(x), x, 1 + row.to(x).abs(), value=b),
        lambda x: torch.lerp(x, row.to(x), a),
        lambda x: torch.lerp(x, torch.flip(x, (-1,)), row.to(x)),
        lambda x: x * b + a,
        lambda x: x / a,
        lambda x: b / (1 + x.abs()),
        lambda x: (1 + x.abs()) ** b,
        lambda x: torch.float_power(1 + x.abs(), b).to(x.dtype),
        lambda x: torch.pow(a, x.clamp(-3, 3)),
        lambda x: torch.rsqrt(a + x.abs()),
        lambda x: torch.exp2(x.clamp(-3, 3)),
        lambda x: torch.log10(a + x.abs()),
        lambda x: x**2,
        lambda x: -x,
        lambda x: torch.hypot(x, x.new_full((), a)),
        lambda x: x.masked_fill(row > 0, b),
        lambda x: torch.where(row > 0, x, b),
        lambda x: torch.where(row > 0, x, x.new_full((), -math.inf)),
    )


def _casts(g: Generator) -> Operation:
    dtype = pick(
        [torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool], g
    )
    dim = pick([1, -1], g)
    return spelled(
        g,
        lambda x: x.to(dtype).to(x.dtype),
        lambda x: x.type(dtype).type_as(x),
        lambda x: F.softmax(x, dim, dtype=dtype).to(x.dtype),
        lambda x: F.log_softmax(x, dim, dtype=dtype).to(x.dtype),
        lambda x: x.sum(dim, keepdim=True, dtype=dtype).to(x.dtype) + x,
        lambda x: x.mean(dim, keepdim=True, dtype=dtype).to(x.dtype) + x,
        lambda x: torch.cumsum(x, dim, dtype=dtype).to(x.dtype),
        lambda x: torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=dtype).to(x.dtype) + x,
        lambda x: x.float().to(x.dtype),
        lambda x: x.double().to(x.dtype),
        lambda x: x + torch.full((), 0.1, dtype=dtype).to(x.dtype),
    )


def _reductions(g: Generator) -> Operation:
    dim, keep = pick([1, -1, 0, (1,), None], g), chance(g)
    axis, count, order = pick([1, -1], g), integer(1, 3, g), pick([1, 2, 3, 0.5, math.inf, -math.inf, 0], g)
    descending = chance(g)

    def back(x: Tensor, y: Tensor) -> Tensor:
        return x + (y if y.dim() == x.dim() else y.unsqueeze(axis))

    return spelled(
        g,
        lambda x: back(x, x.sum(axis, keepdim=keep)),
        lambda x: x - x.mean(axis, keepdim=True),
        lambda x: x - x.mean(dim, keepdim=True) if dim is not None else x - x.mean(),
        lambda x: back(x, torch.amax(x, axis, keepdim=keep)),
        lambda x: back(x, x.min(axis, keepdim=keep).values),
        lambda x: back(x, torch.logsumexp(x, axis, keepdim=keep)),
        lambda x: torch.cumsum(x, axis),
        lambda x: x.flip(axis).cumsum(axis).flip(axis),
        lambda x: x.cumsum(0),
        lambda x: back(x, torch.linalg.vector_norm(x, order, axis, keepdim=keep)),
        lambda x: back(x, x.norm(p=order, dim=axis, keepdim=keep)),
        lambda x: x.sort(axis, descending=descending).values,
        lambda x: x.topk(count, axis, largest=descending).values.sum(axis, keepdim=True) + x,
        lambda x: back(x, x.kthvalue(count, axis, keepdim=keep).values),
        lambda x: back(x, x.median(axis, keepdim=keep).values),
        lambda x: torch.diff(x, n=1, dim=axis, prepend=x.narrow(axis, 0, 1)),
        lambda x: F.pad(torch.diff(x, dim=-1), (0, 1)),
        lambda x: back(x, x.var(axis, keepdim=keep)),
        lambda x: back(x, x.prod(axis, keepdim=keep)),
        lambda x: x.sum() + x,
        lambda x: x.max(0).values + x,
    )


def _normalising(g: Generator) -> Operation:
    eps, order = pick([1e-5, 1e-12, 0.1, 1.0, number(g)], g), pick([1, 2, 3], g)
    mean, var = constant((6,), g), constant((6,), g).abs() + 0.1
    gamma, beta = constant((6,), g), constant((6,), g)
    groups, momentum = pick([1, 2, 3, 6], g), pick([0.0, 0.1, 0.9], g)
    weights = chance(g)

    def scaled(x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return (gamma.to(x), beta.to(x)) if weights else (None, None)

    return spelled(
        g,
        lambda x: F.layer_norm(x, x.shape[-1:], eps=eps),
        lambda x: F.layer_norm(x, x.shape[2:] or x.shape[1:], eps=eps),
        lambda x: F.rms_norm(x, x.shape[-1:], eps=pick([eps, None], g)),
        lambda x: F.rms_norm(x, x.shape[1:]),
        lambda x: F.group_norm(x, groups, *scaled(x), eps=eps),
        lambda x: F.batch_norm(x, mean.to(x), var.to(x), *scaled(x), False, momentum, eps),
        lambda x: F.batch_norm(x, mean.to(x), var.to(x), *scaled(x), True, momentum, eps),
        lambda x: F.instance_norm(x, None, None, *scaled(x), True, momentum, eps),
        lambda x: F.instance_norm(x, mean.to(x), var.to(x), *scaled(x), False, momentum, eps),
        lambda x: F.normalize(x, order, 1, eps),
        lambda x: F.normalize(x, 2.0, -1, eps),
        lambda x: F.softmax(x, pick([1, -1], g)),
        lambda x: F.softmin(x, 1),
        lambda x: F.log_softmax(x, -1),
        lambda x: F.local_response_norm(x, 2, eps),
    )


def _products(g: Generator) -> Operation:
    matrix, bias, alpha, beta = constant((6, 6), g), constant((6,), g), number(g), pick([0.0, 1.0, number(g)], g)
    return spelled(
        g,
        lambda x: F.linear(x, matrix.to(x), bias.to(x)),
        lambda x: x @ matrix.to(x),
        lambda x: torch.addmm(bias.to(x), x, matrix.to(x), beta=beta, alpha=alpha),
        lambda x: torch.addmm(x, x, matrix.to(x), beta=beta, alpha=alpha),
        lambda x: torch.einsum("...i,ij->...j", x, matrix.to(x)),
        lambda x: torch.tensordot(x, matrix.to(x), dims=1),
        lambda x: torch.inner(x, matrix.to(x)),
        lambda x: torch.linalg.multi_dot([x, matrix.to(x), matrix.T.to(x)]),
        lambda x: torch.bilinear(x, x, matrix[:1, None].expand(6, 6, 6).to(x), bias.to(x)),
        lambda x: (matrix.to(x) @ x.unsqueeze(-1)).squeeze(-1),
        lambda x: x * x.flip(-1),
        lambda x: x / (1 + x.flip(-1) ** 2),
        lambda x: F.glu(torch.cat([x, x.flip(-1)], -1), -1),
        lambda x: x @ x.T,
    )


def _movement(g: Generator) -> Operation:
    shift, dim, order = integer(-3, 3, g), pick([1, -1, 0], g), torch.randperm(6, generator=g)
    places = torch.randint(0, 6, (6,), generator=g)
    row, alpha, diagonal = constant((6,), g), number(g), integer(-2, 2, g)
    return spelled(
        g,
        lambda x: x.roll(shift, dim),
        lambda x: x.flip(dim),
        lambda x: x[..., order],
        lambda x: x.index_select(-1, order),
        lambda x: x.index_add(-1, order, x, alpha=alpha),
        lambda x: x.index_fill(-1, order[:2], alpha),
        lambda x: x.index_copy(-1, order[:2], x[..., 2:4]),
        lambda x: torch.gather(x, -1, places.expand_as(x)),
        lambda x: x.scatter(-1, order[:2].expand(*x.shape[:-1], 2), alpha),
        lambda x: x.scatter_add(-1, places.expand_as(x), x),
        lambda x: torch.scatter_reduce(x, -1, places.expand_as(x), x, "amax", include_self=chance(g)),
        lambda x: torch.cat([x[..., :2], x[..., 2:]], -1),
        lambda x: torch.cat([x, x], 0)[: len(x)],
        lambda x: torch.tril(x, diagonal) if x.dim() > 2 else x,
        lambda x: F.pad(x[..., 1:-1], (1, 1), value=alpha),
        lambda x: F.pad(x.unsqueeze(1)[..., 1:-1], (1, 1), pick(["reflect", "replicate", "circular"], g)).squeeze(1),
        lambda x: x.repeat_interleave(2, -1)[..., ::2],
        lambda x: x.unfold(-1, 2, 2).flatten(-2),
        lambda x: torch.take_along_dim(x, order.expand_as(x), -1),
        lambda x: x.squeeze().reshape(x.shape),
        lambda x: F.dropout(x, 0.3, training=pick([True, False], g)),
        lambda x: F.alpha_dropout(x, 0.3),
        lambda x: x + torch.ones_like(x) * row.to(x),
        lambda x: torch.index_put(x, (torch.arange(1), order[:1]), x.new_ones(1), accumulate=chance(g)),
        lambda x: x.swapaxes(0, -1).swapaxes(0, -1),
    )


def _windows(g: Generator) -> Operation:
    options: dict[str, Any] = {"kernel_size": integer(1, 3, g), "stride": integer(1, 3, g), "padding": integer(0, 1, g)}
    ceil, count, divisor = chance(g), chance(g), pick([None, None, 3, 7], g)
    dilation, groups, size = integer(1, 2, g), pick([1, 2, 3], g), integer(1, 5, g)
    weight, other = constant((6, 6 // groups, 2, 3), g), constant((6, 2, 3, 2), g)
    conv = {"stride": options["stride"], "padding": options["padding"], "dilation": dilation, "groups": groups}
    extra = integer(0, options["stride"] - 1, g)
    lp = pick([1.0, 2.0, 3.0], g)
    return spelled(
        g,
        lambda x: F.avg_pool2d(x, **options, ceil_mode=ceil, count_include_pad=count, divisor_override=divisor),
        nn.AvgPool2d(**options, ceil_mode=ceil, count_include_pad=count, divisor_override=divisor),
        lambda x: F.max_pool2d(x, **options, dilation=dilation, ceil_mode=ceil),
        nn.MaxPool2d(**options, dilation=dilation, ceil_mode=ceil),
        lambda x: F.adaptive_avg_pool2d(x, size),
        lambda x: F.adaptive_max_pool2d(x, (size, None)),
        lambda x: F.conv2d(x, weight.to(x), None, **conv),
        lambda x: F.conv_transpose2d(x, other.to(x), stride=options["stride"], padding=1, output_padding=extra),
        lambda x: F.lp_pool2d(x, lp, 2),
        lambda x: F.unfold(x, 2, dilation=dilation, stride=options["stride"]),
        lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1, ceil, count),
        lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1, dilation, ceil),
        lambda x: F.pixel_shuffle(x[:, :4], 2),
        lambda x: F.channel_shuffle(x, groups),
    )


def _resizing(g: Generator) -> Operation:
    mode = pick(["nearest", "nearest-exact", "bilinear", "bicubic", "area"], g)
    size, factor = integer(1, 11, g), pick([2.0, 0.5, 1.7, number(g, 0.4, 2.5)], g)
    how: dict[str, Any] = {"size": size} if chance(g) else {"scale_factor": factor}
    if mode in ("bilinear", "bicubic"):
        how["align_corners"] = chance(g)
        how["antialias"] = chance(g, 0.2)
    if "scale_factor" in how and chance(g):
        how["recompute_scale_factor"] = True
    return spelled(
        g,
        lambda x: F.interpolate(x, mode=mode, **how),
        lambda x: F.interpolate(x.flatten(2), size=size, mode="linear", align_corners=chance(g)),
        lambda x: F.pad(x, (1, 2, 0, 1), pick(["reflect", "replicate", "circular", "constant"], g)),
        lambda x: F.grid_sample(
            x, constant((1, 3, 3, 2), g).tanh().to(x).expand(len(x), -1, -1, -1), align_corners=True
        ),
    )


ELEMENTWISE: tuple[Maker, ...] = (_softplus, _elu, _slopes, _limits, _jumps, _smooth, _arithmetic, _casts)
ROWS: tuple[Maker, ...] = (_reductions, _normalising, _products, _movement)
IMAGES: tuple[Maker, ...] = (_windows, _resizing, _normalising, _reductions)
MAKERS: dict[str, Maker] = {make.__name__.strip("_"): make for make in (*ELEMENTWISE, *ROWS, *IMAGES)}
"""By name."""
