"""The only place that knows about machine arithmetic: unit roundoff, a-priori constants, strict mode, the probe.

Model (Higham): a classical sum of n products, in any order and with or without fused multiply-add, differs from
the exact value by at most ``gamma(n) * sum |a_i||b_i|`` plus an underflow term. It does not hold for Winograd or
FFT convolution, Strassen products, TF32, bfloat16 or emulated float64; `strict` switches those off and `probe`
checks that they are off.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.errors import UnsafeArithmeticError

_RIGOROUS: ContextVar[bool] = ContextVar("jacobound_rigorous", default=True)

SUPPORTED_DTYPES = (torch.float64, torch.float32)

_FLUSHES = "subnormal numbers are flushed to zero"
_DIRECTED = "the rounding mode is not to nearest"
# torch gives a thread of its pool at least so many entries of an elementwise operation.
_SHARE_OF_A_THREAD = 1 << 15


def rigorous() -> bool:
    """True unless inside `unrounded`: results made now may be called certified."""
    return _RIGOROUS.get()


@contextlib.contextmanager
def unrounded() -> Iterator[None]:
    """Leave out every rounding term (for benchmarks of its cost, and for training); results are `not_rigorous`."""
    token = _RIGOROUS.set(False)
    try:
        yield
    finally:
        _RIGOROUS.reset(token)


@functools.cache
def unit(dtype: torch.dtype) -> float:
    """Unit roundoff u: half the distance from 1 to the next float."""
    return torch.finfo(dtype).eps / 2


@functools.cache
def tiny(dtype: torch.dtype) -> float:
    """Smallest normal number: an absolute error that also covers results flushed to zero."""
    return torch.finfo(dtype).tiny


def gamma(terms: int, like: Tensor) -> float:
    """``n u / (1 - n u)`` for sums of `terms` products, doubled on accelerators (truncating accumulators).

    Raises:
        UnsafeArithmeticError: when n u >= 1/4, where the bound stops being useful.
    """
    if not rigorous() or terms <= 0:
        return 0.0
    return _gamma(terms, like.dtype, like.is_cpu)


@functools.cache
def _gamma(terms: int, dtype: torch.dtype, on_cpu: bool) -> float:
    nu = terms * unit(dtype) * (1 if on_cpu else 2)
    if nu >= 0.25:
        raise UnsafeArithmeticError(
            f"a sum of {terms} products is too long for {dtype}: its rounding error can not be bounded; use float64"
        )
    # The quotient itself is rounded (and later multiplied) in float64; 1e-6 relative covers that many times over.
    return nu / (1 - nu) * (1 + 1e-6)


def underflow(terms: int, like: Tensor) -> float:
    """Absolute error of a sum of `terms` products from results below the normal range."""
    return 2.0 * (terms + 2) * tiny(like.dtype) if rigorous() else 0.0


def smallest(like: Tensor) -> float:
    """The smallest positive number, which covers the underflow of one product."""
    return tiny(like.dtype) * torch.finfo(like.dtype).eps if rigorous() else 0.0


def normal_floor(like: Tensor) -> float:
    """A number above `smallest` that stays in the normal range when weights from about 1e-6 on multiply it.

    Processors take a hundred times as long for numbers below that range, and half of the values behind ReLUs are 0.
    """
    return tiny(like.dtype) * 2.0**20 if rigorous() else 0.0


def up(x: Tensor) -> Tensor:
    """A float that is >= the exact result of which `x` is the correctly rounded value; NaN becomes +inf."""
    return _stepped_up(x).nan_to_num_(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf) if rigorous() else x


def down(x: Tensor) -> Tensor:
    """A float that is <= the exact result of which `x` is the correctly rounded value; NaN becomes -inf."""
    return _stepped_down(x).nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf) if rigorous() else x


def outward(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """`down` of one end and `up` of the other; NaN and impossible infinities become bounds that hold."""
    return safe_interval(_stepped_down(lower), _stepped_up(upper)) if rigorous() else safe_interval(lower, upper)


def _stepped_up(x: Tensor) -> Tensor:
    # 2 u is a power of two: the only rounding is that of the sum, and the step is at least one unit of x.
    return torch.add(x, x.abs(), alpha=2 * unit(x.dtype)).add_(tiny(x.dtype))


def _stepped_down(x: Tensor) -> Tensor:
    return torch.sub(x, x.abs(), alpha=2 * unit(x.dtype)).sub_(tiny(x.dtype))


def inflate(x: Tensor, roundings: int) -> Tensor:
    """An upper bound of an exact non-negative quantity that was computed as `x` with at most `roundings` roundings.

    Valid for any expression of non-negative terms by sums, products and quotients in which no result below the
    normal range is multiplied by more than 1 afterwards; NaN becomes +inf.
    """
    if not rigorous():
        return x
    grown = torch.mul(x, 1 + 2 * gamma(roundings + 2, x)).add_(underflow(roundings, x))
    return grown.nan_to_num_(nan=torch.inf, posinf=torch.inf)


def safe_interval(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Replace what overflow left behind by bounds that hold: NaN, a lower of +inf, an upper of -inf."""
    lower = torch.where(lower < torch.inf, lower, -torch.inf)
    upper = torch.where(upper > -torch.inf, upper, torch.inf)
    return lower, upper


class _StrictSettings:
    """The settings of the process that strict arithmetic switches off; the last of its users switches them on again.

    They are the process's, not a thread's: while any call works in strict arithmetic none of them may come back.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._users = 0
        self._restore = contextlib.ExitStack()

    def enter(self) -> None:
        with self._lock:
            if not self._users:
                self._restore = self._switched_off()
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._restore.close()

    @staticmethod
    def _switched_off() -> contextlib.ExitStack:
        matmul = torch.backends.cuda.matmul
        reduced = (matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction)
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, benchmark=False, allow_tf32=False)
            )
            stack.enter_context(torch.backends.nnpack.flags(enabled=False))
            stack.callback(_set_reduced_precision, *reduced)
            _set_reduced_precision(False, False)
            return stack.pop_all()


_SETTINGS = _StrictSettings()


@contextlib.contextmanager
def strict(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Classical arithmetic inside: TF32, reduced precision, autocast, cuDNN search and NNPACK off; restored on exit.

    Calls may be nested and may run in several threads; settings are restored when the last of them leaves.

    Raises:
        UnsafeArithmeticError: when an active setting can not be switched off here, or when the probe fails.
    """
    _refuse_active_settings(device)
    _SETTINGS.enter()
    try:
        # Flushing and rounding are switches of each thread that may have been thrown since the remembered probe, which
        # itself goes wrong (and would be remembered) when they are.
        failures = _thread_failures(dtype, device)
        failures = failures or probe(device, dtype, torch.get_num_threads()).failures
        if failures:
            raise UnsafeArithmeticError(
                f"arithmetic on {device} in {dtype} breaks the rounding model ({'; '.join(failures)}); unset fast-math "
                "flags and the rounding mode (fesetround) of the process, or use float64 on the CPU"
            )
        yield
    finally:
        _SETTINGS.leave()


def _set_reduced_precision(half: bool | str, brain: bool | str) -> None:
    """Whether CUDA may accumulate half and bfloat16 products in reduced precision."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = half
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = brain


def _refuse_active_settings(device: torch.device) -> None:
    """Refuse what the user switched on knowingly and we may not silently switch off."""
    if torch.is_autocast_enabled(device.type):
        raise UnsafeArithmeticError(
            f"autocast is active for {device.type}: products would run in half precision; call jacobound outside it"
        )
    try:
        precision = torch.get_float32_matmul_precision()
        _ = torch.backends.cudnn.allow_tf32
    except RuntimeError as error:  # torch refuses to answer when its old and new switches disagree
        raise UnsafeArithmeticError(
            "float32 products may run in TF32 or bfloat16: some torch.backends...fp32_precision is set, and torch "
            "can not say what holds; set it back to 'none' and call torch.set_float32_matmul_precision('highest')"
        ) from error
    if precision != "highest":
        raise UnsafeArithmeticError(
            "float32 products may run in TF32 or bfloat16 (torch.get_float32_matmul_precision() is "
            f"'{precision}'); call torch.set_float32_matmul_precision('highest') first"
        )
    for name, value in os.environ.items():
        if name.startswith("CUBLAS_EMULATE") and value not in ("", "0"):
            raise UnsafeArithmeticError(f"{name}={value} replaces IEEE products by emulation; unset it")


@dataclass(frozen=True)
class ArithmeticReport:
    """What `probe` found on one device and dtype; `failures` is empty when the rounding model holds there."""

    device: str
    dtype: str
    failures: tuple[str, ...]


@functools.cache
def probe(device: torch.device, dtype: torch.dtype, threads: int) -> ArithmeticReport:
    """Check on exact cases that products are classical and in full precision (a few milliseconds, cached).

    Args:
        device: where the arithmetic runs.
        dtype: torch.float64 or torch.float32.
        threads: part of the cache key, because kernels differ with the number of threads.
    """
    if dtype not in SUPPORTED_DTYPES:
        raise UnsafeArithmeticError(f"bounds need float64 or float32, not {dtype}; call graph.to(dtype=torch.float64)")
    failures = []
    bits = 53 if dtype == torch.float64 else 24
    half = 2.0 ** (bits // 2)
    eye = torch.eye(64, dtype=dtype, device=device)
    count = torch.arange(64 * 64, dtype=dtype, device=device).reshape(64, 64)
    odd = (1 + count * 2.0**-12 + count * 2.0 ** -(bits - 1)) * half  # fills every bit of the mantissa
    if not torch.equal(odd @ eye, odd):
        failures.append("the product with the identity is not exact (reduced precision)")
    # Strassen-like schemes add rows of very different size, and lose the small ones.
    scaled = torch.diag(2.0 ** torch.linspace(-40, 40, 64, dtype=torch.float64).round().to(dtype)).to(device)
    if not torch.equal((scaled @ eye) @ torch.diag(1 / scaled.diagonal()), eye):
        failures.append("products of mixed scale are not componentwise accurate (Strassen)")
    if not _cancels(dtype, device):
        failures.append("a sum of three terms lost what it must keep")
    failures.extend(_thread_failures(dtype, device))
    # On accelerators `Convolution` spells its products out and never asks the library.
    if device.type == "cpu" and not _classical_convolution(dtype, device):
        failures.append("convolution is not componentwise accurate (Winograd or FFT)")
    return ArithmeticReport(str(device), str(dtype), tuple(failures))


def _cancels(dtype: torch.dtype, device: torch.device) -> bool:
    """2^p + 1 - 2^p must be 1 with p one less than the mantissa, in a product of any order."""
    p = 52 if dtype == torch.float64 else 23
    row = torch.tensor([[2.0**p, 1.0, -(2.0**p)]], dtype=dtype, device=device)
    return bool((row.expand(32, 3) @ torch.ones(3, 32, dtype=dtype, device=device) == 1).all())


def _thread_failures(dtype: torch.dtype, device: torch.device) -> tuple[str, ...]:
    """What is wrong with the switches of the calling thread, or of a thread that torch would share its work with."""
    large, small, bits = _switch_cases(dtype, device, torch.get_num_threads() if device.type == "cpu" else 1)
    # By bit pattern: under denormals-are-zero the comparison ``0 == tiny`` would be true.
    sums = (large + small).view(bits.dtype)
    if torch.equal(sums, bits):
        return ()
    wrong = (sums != bits).any(0)
    return tuple(name for name, failed in ((_FLUSHES, wrong[0]), (_DIRECTED, wrong[1:].any())) if bool(failed))


@functools.cache
def _switch_cases(dtype: torch.dtype, device: torch.device, threads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers, what is added to them, and the bits of the sums; rows of cases, enough for every thread to get some.

    A sum below the normal range, and 1 and -1 beside which less than half a unit is lost on both sides; rounding in
    another direction keeps a whole unit on one.
    """
    integers, mantissa = (torch.int64, 52) if dtype == torch.float64 else (torch.int32, 23)
    step = unit(dtype) / 8
    large = torch.tensor([[tiny(dtype), 1, 1, -1, -1, 1, 1, 1]], dtype=dtype)
    small = torch.tensor([[0, step, -step, step, -step, 0, 0, 0]], dtype=dtype)
    bits = large.view(integers).clone()
    # Half of the smallest normal number, written as bits: this very thread may flush it.
    bits[0, 0] = 1 << (mantissa - 1)
    small.view(integers)[0, 0] = torch.iinfo(integers).min + (1 << (mantissa - 1))
    rows = 2 if threads == 1 else threads * _SHARE_OF_A_THREAD // 8
    large, small, bits = (x.view(integers).repeat(rows, 1).to(device) for x in (large, small, bits))
    return large.view(dtype), small.view(dtype), bits


def _classical_convolution(dtype: torch.dtype, device: torch.device) -> bool:
    """A 3x3 convolution of mixed scale and full mantissas; Winograd mixes neighbouring pixels and fails."""
    for batch in (1, 16, 32):
        full_mantissa = 2.0 - torch.finfo(dtype).eps  # TF32 and bfloat16 would round it
        image = torch.full((batch, 8, 16, 16), full_mantissa, dtype=dtype, device=device)
        image[:, :, ::2, ::2] *= 2.0**60
        kernel = torch.zeros(8, 8, 3, 3, dtype=dtype, device=device)
        kernel[torch.arange(8), torch.arange(8), 1, 1] = 1.0
        if not torch.equal(torch.nn.functional.conv2d(image, kernel, padding=1), image):
            return False
    return True
