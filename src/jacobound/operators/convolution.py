"""`Convolution`: cross-correlation and its adjoint; by the library where that is classical, else spelled out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from jacobound.errors import ShapeError
from jacobound.operators.base import LinearOperator, convert_exactly


@dataclass(frozen=True, eq=False)
class Convolution(LinearOperator):
    """Cross-correlation over one to three spatial axes (torch's convention), or its adjoint.

    Args:
        weight: shape (out_channels, in_channels / groups, *kernel).
        image: shape (in_channels, *size) of the convolution's argument, also for the adjoint.
        stride, padding, dilation: one number per spatial axis; padding is symmetric (use `Select` for other pads).
        groups: number of channel groups.
        adjoint: True for the transposed map, from (out_channels, *out_size) back to `image`.
    """

    weight: Tensor
    image: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    adjoint: bool = False

    def __post_init__(self) -> None:
        axes = len(self.image) - 1
        if axes not in (1, 2, 3) or self.weight.dim() != axes + 2:
            raise ShapeError(
                f"convolution over {axes} axes with a weight of shape {tuple(self.weight.shape)} is not known; "
                "one to three spatial axes are"
            )
        if self.weight.shape[1] * self.groups != self.image[0] or self.weight.shape[0] % self.groups:
            raise ShapeError(
                f"a weight of shape {tuple(self.weight.shape)} with {self.groups} groups does not fit {self.image}"
            )
        if min(self._size) < 1:
            raise ShapeError(f"a kernel of shape {tuple(self.weight.shape)} does not fit into {self.image}")

    @cached_property
    def _size(self) -> tuple[int, ...]:
        spans = zip(self.image[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in spans)

    @cached_property
    def _result(self) -> tuple[int, ...]:
        return (self.weight.shape[0], *self._size)

    @property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self._result if self.adjoint else self.image

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.image if self.adjoint else self._result

    @property
    def terms(self) -> int:  # type: ignore[override]
        taps = prod(self.weight.shape[2:])
        return taps * (self.weight.shape[0] // self.groups if self.adjoint else self.weight.shape[1])

    def apply(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.dim() - len(self.image)]
        flat = x.reshape(-1, *self.in_shape)
        # cuDNN and NNPACK may choose Winograd or FFT in float32 or on a GPU: there the products are spelled out.
        library = flat.device.type == "cpu" and flat.dtype == torch.float64
        if self.adjoint:
            image = self._adjoint_by_library(flat) if library else self._adjoint_by_products(flat)
        else:
            image = self._apply_by_library(flat) if library else self._apply_by_products(flat)
        return image.reshape(*lead, *self.out_shape)

    def _apply_by_library(self, x: Tensor) -> Tensor:
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(self.image) - 2]
        return convolve(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def _adjoint_by_library(self, x: Tensor) -> Tensor:
        spans = zip(
            self.image[1:], self._size, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
        )
        missing = tuple(n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in spans)
        transposed = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
        convolve = transposed[len(self.image) - 2]
        return convolve(x, self.weight, None, self.stride, self.padding, missing, self.groups, self.dilation)

    def _kernels(self) -> Tensor:
        return self.weight.reshape(self.groups, self.weight.shape[0] // self.groups, prod(self.weight.shape[1:]))

    @cached_property
    def _padded(self) -> tuple[int, ...]:
        return tuple(n + 2 * p for n, p in zip(self.image[1:], self.padding, strict=True))

    def _apply_by_products(self, x: Tensor) -> Tensor:
        """Patches are a view of the padded image: a step of the kernel is a step of `dilation` entries, one of the
        result a step of `stride`."""
        padded = x.new_zeros(len(x), self.image[0], *self._padded)
        padded[self._inside] = x
        batch, channel, *steps = padded.stride()
        taps = [step * d for step, d in zip(steps, self.dilation, strict=True)]
        moves = [step * s for step, s in zip(steps, self.stride, strict=True)]
        shape = (len(x), self.image[0], *self.weight.shape[2:], *self._size)
        patches = padded.as_strided(shape, (batch, channel, *taps, *moves))
        patches = patches.reshape(len(x), self.groups, prod(self.weight.shape[1:]), prod(self._size))
        return (self._kernels() @ patches).reshape(len(x), *self._result)

    def _adjoint_by_products(self, x: Tensor) -> Tensor:
        """Each tap of the kernel adds its share to the entries that it touches."""
        grouped = x.reshape(len(x), self.groups, self.weight.shape[0] // self.groups, prod(self._size))
        kernel = tuple(self.weight.shape[2:])
        shares = (self._kernels().transpose(1, 2) @ grouped).reshape(len(x), self.image[0], prod(kernel), *self._size)
        padded = x.new_zeros(len(x), self.image[0], *self._padded)
        for number, tap in enumerate(itertools.product(*map(range, kernel))):
            spans = zip(tap, self._size, self.stride, self.dilation, strict=True)
            touched = (slice(k * d, k * d + (m - 1) * s + 1, s) for k, m, s, d in spans)
            padded[(slice(None), slice(None), *touched)] += shares[:, :, number]
        return padded[self._inside]

    @property
    def _inside(self) -> tuple[slice, ...]:
        """The image in the padded image."""
        spans = zip(self.image[1:], self.padding, strict=True)
        return (slice(None), slice(None), *(slice(p, p + n) for n, p in spans))

    def structure(self) -> bytes:
        places = (self.stride, self.padding, self.dilation, self.groups, self.adjoint)
        return super().structure() + repr(places).encode()

    def _with(self, weight: Tensor, adjoint: bool) -> Convolution:
        return Convolution(weight, self.image, self.stride, self.padding, self.dilation, self.groups, adjoint)

    def transpose(self) -> Convolution:
        return self._with(self.weight, not self.adjoint)

    def abs(self) -> Convolution:
        return self._with(self.weight.abs(), self.adjoint)

    def to(self, device: torch.device, dtype: torch.dtype) -> Convolution:
        return self._with(convert_exactly(self.weight, device, dtype, "a convolution weight"), self.adjoint)

    def example(self) -> Tensor:
        return self.weight

    def parameters(self) -> tuple[Tensor, ...]:
        return (self.weight,)
