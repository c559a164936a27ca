"""Calls of functions and methods of tensors that `from_torch` must take, by name.

Each is applied to the result of a linear layer of four outputs (`VECTORS`), or of a convolution of shape (4, 6, 6)
(`IMAGES`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

GENERATOR = torch.Generator().manual_seed(5)
ROW = torch.randn(4, generator=GENERATOR)
MATRIX = torch.randn(4, 5, generator=GENERATOR)
STACK = torch.randn(3, 6, 6, generator=GENERATOR)
SQUARE = torch.randn(6, 6, generator=GENERATOR)
ORDER = torch.tensor([2, 0, 1, 3, 5, 4])


def like(constant: Tensor, x: Tensor) -> Tensor:
    """A constant in the dtype of the module."""
    return constant.to(x)


def positive(x: Tensor) -> Tensor:
    return functional.softplus(x) + 0.25


VECTORS: dict[str, Callable[[Tensor], object]] = {
    "max of two": lambda x: torch.max(x, x.roll(1, 1)),
    "min with a constant": lambda x: torch.min(like(ROW, x), x),
    "maximum": lambda x: torch.maximum(x, like(ROW, x)),
    "minimum broadcast": lambda x: torch.minimum(x[:, None, :], x[:, :2, None]),
    "fmax": lambda x: torch.fmax(x, like(ROW, x)),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: torch.amin(x, dim=(1,), keepdim=True),
    "max over an axis": lambda x: x.max(1).values + torch.min(x, dim=1)[0],
    "aminmax": lambda x: torch.stack(torch.aminmax(x, dim=1), 1),
    "median": lambda x: x.median(1).values,
    "kth value": lambda x: x.kthvalue(2, dim=1, keepdim=True).values,
    "topk": lambda x: x.topk(3, dim=1).values,
    "lowest": lambda x: torch.topk(x, 2, dim=1, largest=False)[0],
    "sort": lambda x: x.sort(1)[0],
    "sort falling": lambda x: torch.sort(x, dim=-1, descending=True, stable=True).values,
    "clamp": lambda x: x.clamp(-0.5, 0.75),
    "clamp above": lambda x: x.clamp(max=0.5),
    "clip below": lambda x: torch.clip(x, -0.5),
    "clamp to tensors": lambda x: x.clamp(like(ROW, x) - 1, like(ROW, x)),
    "clamp to one tensor": lambda x: torch.clamp(x, max=like(ROW, x)),
    "clamp_min": lambda x: x.clamp_min(0.25),
    "clamp_max of a tensor": lambda x: torch.clamp_max(x, like(ROW, x)),
    "abs": lambda x: x.abs() + torch.absolute(x),
    "square": lambda x: torch.square(x),
    "power 2": lambda x: x**2,
    "power 3": lambda x: x.pow(3),
    "power 1/2": lambda x: positive(x) ** 0.5,
    "power -1": lambda x: positive(x) ** -1,
    "power -1/2": lambda x: positive(x) ** -0.5,
    "power of 2": lambda x: 2.0**x,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": lambda x: torch.log(positive(x)),
    "log2": lambda x: torch.log2(positive(x)),
    "log10": lambda x: torch.log10(positive(x)),
    "log1p": lambda x: torch.log1p(positive(x)),
    "sqrt": lambda x: positive(x).sqrt(),
    "rsqrt": lambda x: torch.rsqrt(positive(x)),
    "reciprocal": lambda x: positive(x).reciprocal(),
    "number over x": lambda x: 3 / positive(x),
    "constant over x": lambda x: like(ROW, x) / positive(x),
    "sin, cos": lambda x: torch.sin(x) - x.cos(),
    "erf, erfc": lambda x: torch.erf(x) + 2 * torch.erfc(x / 2),
    "x x": lambda x: x * x,
    "x sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "sigmoid(x) x": lambda x: x.sigmoid() * x,
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.erf(x / 2.0)),
    "silu by exp": lambda x: x / (1 + torch.exp(-x)),
    "softsign by hand": lambda x: x / (1 + x.abs()),
    "tanhshrink by hand": lambda x: x - torch.tanh(x),
    "relu_": lambda x: (x + 1).relu_(),
    "in place": lambda x: (x + 1).mul_(2).add_(like(ROW, x)).clamp_(-1, 1),
    "relu6": functional.relu6,
    "hardtanh": lambda x: functional.hardtanh(x, -0.5, 0.25),
    "logsigmoid": functional.logsigmoid,
    "softshrink": lambda x: functional.softshrink(x, 0.25),
    "threshold": lambda x: functional.threshold(x, -0.5, -0.5),
    "rrelu": lambda x: functional.rrelu(x, 0.25, 0.5),
    "addcmul": lambda x: torch.addcmul(x, like(ROW, x), x.relu(), value=0.5),
    "addcmul of a constant": lambda x: torch.addcmul(like(ROW, x), x, like(ROW, x)),
    "addcdiv": lambda x: torch.addcdiv(x, x.relu(), like(ROW, x).abs() + 1, value=2),
    "lerp": lambda x: torch.lerp(x, x.relu(), 0.25),
    "lerp by a tensor": lambda x: torch.lerp(like(ROW, x), x, like(ROW, x)),
    "cumsum": lambda x: x.cumsum(1),
    "diff": lambda x: x.diff(dim=1).diff(n=2, dim=1),
    "norm 1": lambda x: x.norm(p=1, dim=1),
    "norm inf": lambda x: torch.linalg.vector_norm(x, ord=float("inf"), dim=1, keepdim=True),
    "norm 2": lambda x: torch.linalg.vector_norm(positive(x), dim=1),
    "sum of what is a number": lambda x: torch.nansum(x, -1, keepdim=True) - 0.5 * x.nansum((1,), keepdim=True),
    "mean over negative axes": lambda x: x.mean((-1,), keepdim=True),
    "matmul": lambda x: x @ like(MATRIX, x),
    "matmul with a vector": lambda x: x @ like(ROW, x),
    "einsum": lambda x: torch.einsum("bi,ij->bj", x, like(MATRIX, x)),
    "einsum, constant first": lambda x: torch.einsum("ij,bi->bj", like(MATRIX, x), x),
    "einsum with dots": lambda x: torch.einsum("...i,ij->...j", x, like(MATRIX, x)),
    "einsum, outer": lambda x: torch.einsum("bi,j->bji", x, like(ROW, x)),
    "tensordot": lambda x: torch.tensordot(x, like(MATRIX, x), dims=1),
    "inner": lambda x: torch.inner(x, like(MATRIX, x).T),
    "vecdot": lambda x: torch.linalg.vecdot(x, like(ROW, x)),
    "multi_dot": lambda x: torch.linalg.multi_dot([x, like(MATRIX, x), like(MATRIX, x).T]),
    "addmm": lambda x: torch.addmm(like(MATRIX, x)[0], x, like(MATRIX, x), beta=2, alpha=0.5),
    "addmm of two nodes": lambda x: torch.addmm(x, x, like(MATRIX, x)[:, :4], beta=0.5),
    "gather": lambda x: x.gather(1, torch.tensor([[3, 1]]).expand(len(x), -1)),
    "take_along_dim": lambda x: torch.take_along_dim(x, torch.tensor([[1, 0, 1]]), dim=1),
    "index": lambda x: x[:, [3, 0, 0]][..., None],
    "scatter": lambda x: torch.zeros(len(x), 6).to(x).scatter(1, torch.tensor([[0, 1, 4, 5]]).expand(len(x), -1), x),
    "scatter a number": lambda x: (x + 1).scatter(1, torch.tensor([[2]]).expand(len(x), -1), 0.5),
    "scatter_add": lambda x: x.scatter_add(1, torch.tensor([[0, 1, 0, 0]]).expand(len(x), -1), x.relu()),
    "index_add": lambda x: x.index_add(1, torch.tensor([0, 1, 0]), x[:, :3], alpha=0.5),
    "index_add of a constant": lambda x: x.index_add(1, torch.tensor([2, 1]), torch.ones(len(x), 2).to(x)),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([2, 1]), x[:, :2] * 2),
    "accumulate": lambda x: x.index_put((torch.arange(len(x))[:, None], ORDER[1:3]), x[:, 2:], accumulate=True),
    "stack, cat with constants": lambda x: torch.cat([torch.stack([x, x * 2], 2), torch.ones(len(x), 4, 1).to(x)], 2),
    "diag_embed": lambda x: torch.diag_embed(x),
    "expand, repeat": lambda x: x[:, :, None].expand(-1, -1, 2).repeat(1, 2, 1),
    "where by a constant": lambda x: torch.where(ROW > 0, x, like(ROW, x)),
    "maximum of relus": lambda x: torch.maximum(x.relu(), (-x).relu()),
    "half square": lambda x: 0.5 * x.square().sum(1),
}

IMAGES: dict[str, Callable[[Tensor], object]] = {
    "max pool": lambda x: functional.max_pool2d(x, 2, padding=1),
    "max over two axes": lambda x: x.amax((2, 3)),
    "sort along channels": lambda x: x.sort(1).values,
    "cumsum along rows": lambda x: x.cumsum(2),
    "batched matrices on the right": lambda x: x[:, :3] @ like(STACK, x),
    "batched matrices on the left": lambda x: like(STACK, x) @ x[:, 1:],
    "one matrix on the left": lambda x: torch.matmul(like(SQUARE, x), x),
    "vector on the left": lambda x: like(SQUARE, x)[0] @ x,
    "bmm": lambda x: torch.bmm(x[:, 0], like(SQUARE, x).expand(len(x), -1, -1)),
    "baddbmm": lambda x: torch.baddbmm(
        like(SQUARE, x)[None], like(SQUARE, x).expand(len(x), -1, -1), x[:, 0], beta=0.5, alpha=2
    ),
    "einsum over channels": lambda x: torch.einsum("bchw,cd->bdwh", x, like(MATRIX, x)),
    "einsum with a shared axis": lambda x: torch.einsum("bchw,chk->bck", x[:, :3], like(STACK, x)),
    "tensordot over two axes": lambda x: torch.tensordot(x, like(SQUARE, x), dims=([2, 3], [0, 1])),  # type: ignore[arg-type]
    "unfold, fold": lambda x: functional.fold(functional.unfold(x, 3, padding=1), (6, 6), 3, padding=1),
    "transposed convolution": lambda x: torch.convolution(
        x,
        like(STACK, x)[:, :4].reshape(-1)[: 4 * 2 * 9].reshape(4, 2, 3, 3),
        None,
        [2, 2],
        [1, 1],
        [1, 1],
        True,
        [1, 1],
        1,
    ),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x, like(SQUARE, x).reshape(4, 1, 3, 3), stride=2),
    "interpolate nearest": lambda x: functional.interpolate(x, scale_factor=(2.0, 0.5)),
    "interpolate bilinear": lambda x: functional.interpolate(x, (9, 4), mode="bilinear"),
    "interpolate bicubic": lambda x: functional.interpolate(x, scale_factor=1.4, mode="bicubic", align_corners=True),
    "interpolate area": lambda x: functional.interpolate(x, (4, 5), mode="area"),
    "pad with numbers": lambda x: functional.pad(x, (1, 2, 0, -1), value=0.5),
    "pad by reflection": lambda x: functional.pad(x, (1, 2, 2, 1), mode="reflect"),
    "pad by replication": lambda x: functional.pad(x, (1, 2, 0, 1), mode="replicate"),
    "pad circular": lambda x: functional.pad(x, (1, 2, 2, 1), mode="circular"),
    "pixel shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "take along channels": lambda x: x.index_select(2, ORDER).flip(3).roll(1, 2),
    "adaptive pools": lambda x: functional.adaptive_max_pool2d(x, 4) + functional.adaptive_avg_pool2d(x, 4),
    "sums over axes": lambda x: x.sum((1, 2)) + x.mean(3).sum(1),
    "depthwise means": lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "local contrast": lambda x: x - functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1),
    "maxout": lambda x: x.unflatten(1, (2, 2)).amax(2),
    "squeeze and sort": lambda x: torch.sort(x.mean((2, 3)), dim=1)[0],
    "group sort": lambda x: x.unflatten(1, (2, 2)).sort(2)[0].flatten(1, 2),
}
