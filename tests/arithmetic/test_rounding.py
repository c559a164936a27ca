"""Contracts of the rounding primitives against exact rationals, and guards that must notice unsafe arithmetic."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import math
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
import torch
from flint import fmpq
from torch import Tensor

import jacobound as jb
from exact import DTYPE_NAMES, DTYPES, at_least, at_most, outside, random_floats, rational, rationals, special_numbers
from jacobound import UnsafeArithmeticError
from jacobound.arithmetic import rounding
from jacobound.arithmetic.rounding import (
    down,
    gamma,
    inflate,
    normal_floor,
    outward,
    probe,
    rigorous,
    safe_interval,
    smallest,
    strict,
    tiny,
    underflow,
    unit,
    unrounded,
    up,
)

CPU = torch.device("cpu")
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


@pytest.fixture(autouse=True)
def forget_probes() -> Iterator[None]:
    """The probe remembers its answers; what a test did to the arithmetic must not be remembered."""
    probe.cache_clear()
    yield
    probe.cache_clear()


def operands(dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All pairs of special numbers, and random pairs over the whole range of exponents."""
    special = torch.tensor(special_numbers(dtype), dtype=dtype)
    exponents = (-1060, 1020) if dtype == torch.float64 else (-145, 126)
    wide = random_floats((2, 300), dtype, generator, exponents)
    near = random_floats((2, 300), dtype, generator, (-3, 3))
    left = torch.cat((special.repeat_interleave(len(special)), wide[0], near[0]))
    return left, torch.cat((special.repeat(len(special)), wide[1], near[1]))


@both_dtypes
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
def test_up_and_down_enclose_the_exact_result(dtype: torch.dtype, name: str, generator: torch.Generator) -> None:
    a, b = operands(dtype, generator)
    if name == "divide":
        a, b = a[b != 0], b[b != 0]
    operation: Callable[[Tensor, Tensor], Tensor] = getattr(torch, name)
    computed = operation(a, b)
    by_name: dict[str, Callable[[fmpq, fmpq], fmpq]] = {
        "add": lambda x, y: x + y,
        "subtract": lambda x, y: x - y,
        "multiply": lambda x, y: x * y,
        "divide": lambda x, y: x / y,
    }
    exact = [by_name[name](x, y) for x, y in zip(rationals(a), rationals(b), strict=True)]
    assert outside(down(computed), exact, up(computed)) == []


@both_dtypes
def test_up_and_down_step_little(dtype: torch.dtype, generator: torch.Generator) -> None:
    x, _ = operands(dtype, generator)
    x = x[(x.abs() < torch.finfo(dtype).max)]
    allowed = [2 * rational(unit(dtype)) * abs(v) * 2 + 2 * rational(tiny(dtype)) for v in rationals(x)]
    steps = zip(up(x).tolist(), rationals(x), down(x).tolist(), allowed, strict=True)
    assert all(rational(high) - v <= room and v - rational(low) <= room for high, v, low, room in steps)


def test_nan_and_overflow_become_bounds_that_hold() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf])
    assert up(x).tolist() == [math.inf, math.inf, math.inf]
    assert down(x).tolist() == [-math.inf, -math.inf, -math.inf]
    assert inflate(x[:2], 3).tolist() == [math.inf, math.inf]
    lower, upper = safe_interval(torch.tensor([math.nan, math.inf, 1.0]), torch.tensor([math.nan, -math.inf, 2.0]))
    assert lower.tolist() == [-math.inf, -math.inf, 1.0]
    assert upper.tolist() == [math.inf, math.inf, 2.0]
    with unrounded():
        assert outward(torch.tensor(math.nan), torch.tensor(-math.inf)) == (-math.inf, math.inf)


@both_dtypes
def test_gamma_is_at_least_its_formula_and_close_to_it(dtype: torch.dtype) -> None:
    like = torch.zeros((), dtype=dtype)
    for terms in (1, 2, 3, 10, 784, 10**5, 2 * 10**6):
        exact = Fraction(terms) * Fraction(unit(dtype)) / (1 - Fraction(terms) * Fraction(unit(dtype)))
        # The constant meets tensors of the dtype, so it must hold after conversion as well.
        assert exact <= Fraction(torch.tensor(gamma(terms, like), dtype=dtype).item()) <= exact * Fraction(1.00001)
    assert gamma(0, like) == 0.0
    assert gamma(10, torch.empty((), dtype=dtype, device="meta")) >= 2 * gamma(10, like) * (1 - 1e-9)


def test_gamma_refuses_sums_that_are_too_long() -> None:
    assert gamma(2**22 - 1, torch.zeros(())) > 0
    with pytest.raises(UnsafeArithmeticError, match="use float64"):
        gamma(2**22, torch.zeros(()))


@both_dtypes
def test_underflow_covers_a_sum_of_products_that_vanish(dtype: torch.dtype) -> None:
    factor = math.sqrt(tiny(dtype)) * 0.9
    for terms in (1, 5, 100):
        exact = terms * rational(torch.tensor(factor, dtype=dtype).item()) ** 2
        assert at_least(underflow(terms, torch.zeros((), dtype=dtype)), exact)
        # Where results are flushed to zero, each product and each partial sum may lose the smallest normal number.
        assert (
            (2 * terms - 1) * tiny(dtype) <= underflow(terms, torch.zeros((), dtype=dtype)) <= 8 * terms * tiny(dtype)
        )


@both_dtypes
def test_the_smallest_number_is_the_one_after_zero(dtype: torch.dtype) -> None:
    zero = torch.zeros((), dtype=dtype)
    assert smallest(zero) == torch.nextafter(zero, zero + 1).item() > 0
    with unrounded():
        assert smallest(zero) == 0.0


def test_the_units_are_those_of_the_formats() -> None:
    assert (unit.__wrapped__(torch.float64), unit.__wrapped__(torch.float32)) == (2.0**-53, 2.0**-24)
    assert (tiny.__wrapped__(torch.float64), tiny.__wrapped__(torch.float32)) == (2.0**-1022, 2.0**-126)


@both_dtypes
def test_inflate_covers_long_sums_and_products(dtype: torch.dtype, generator: torch.Generator) -> None:
    for count in (2, 7, 60):
        x = random_floats((40, count), dtype, generator, (-6, 6)).abs()
        total, product = x[:, 0], x[:, 0]
        for column in x[:, 1:].T:
            total, product = total + column, product * column
        columns = [rationals(column) for column in x.T]
        sums = [sum(row, fmpq(0)) for row in zip(*columns, strict=True)]
        products = [math.prod(row, start=fmpq(1)) for row in zip(*columns, strict=True)]
        for computed, exact in ((total, sums), (product, products)):
            assert outside(torch.zeros_like(computed), exact, inflate(computed, count - 1)) == []
            assert torch.all(inflate(computed, count - 1) <= computed * (1 + 8 * (count + 2) * unit(dtype)))


@both_dtypes
def test_inflate_covers_the_worst_sum(dtype: torch.dtype) -> None:
    """Each term is half a unit and rounds away: the computed sum is 1, the exact one 1 + k u."""
    total = torch.ones((), dtype=dtype)
    for _ in range(100):
        total = total + unit(dtype)
    assert total == 1
    assert at_least(inflate(total, 100).item(), 1 + 100 * rational(unit(dtype)))


@both_dtypes
def test_inflate_covers_results_below_the_normal_range(dtype: torch.dtype) -> None:
    smallest = tiny(dtype) * torch.finfo(dtype).eps
    x = torch.tensor([smallest, 3 * smallest, tiny(dtype), 7 * tiny(dtype)], dtype=dtype)
    computed = (x * 0.3).sum()
    exact = sum(rationals(x), fmpq(0)) * rational(torch.tensor(0.3, dtype=dtype).item())
    assert at_least(inflate(computed, 7).item(), exact)
    assert at_least(inflate(torch.zeros_like(computed), 1).item(), rational(tiny(dtype)))  # flushed to zero


def test_unrounded_leaves_everything_out_and_ends() -> None:
    x = torch.tensor([1.0, -2.0])
    with pytest.raises(KeyError), unrounded():
        assert not rigorous()
        assert torch.equal(up(x), x)
        assert torch.equal(down(x), x)
        assert torch.equal(inflate(x, 5), x)
        assert gamma(5, x) == 0.0
        assert underflow(5, x) == 0.0
        raise KeyError
    assert rigorous()
    assert torch.all(up(x) > x)


@both_dtypes
def test_the_probe_passes_here(dtype: torch.dtype) -> None:
    assert probe(CPU, dtype, torch.get_num_threads()).failures == ()


def test_the_probe_refuses_other_dtypes() -> None:
    with pytest.raises(UnsafeArithmeticError, match="float64 or float32"):
        probe(CPU, torch.float16, 1)


@pytest.fixture
def flushing() -> Iterator[None]:
    """Subnormal results become zero."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can not flush subnormal numbers")
    yield
    torch.set_flush_denormal(False)


@both_dtypes
@pytest.mark.usefixtures("flushing")
def test_the_probe_notices_flushing(dtype: torch.dtype) -> None:
    assert any("subnormal" in failure for failure in probe(CPU, dtype, 1).failures)
    with pytest.raises(UnsafeArithmeticError, match="subnormal"), strict(CPU, dtype):
        pytest.fail("strict mode was entered")


@both_dtypes
def test_flushing_is_noticed_even_after_the_probe_has_passed(dtype: torch.dtype) -> None:
    with strict(CPU, dtype):
        pass
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can not flush subnormal numbers")
    try:
        with pytest.raises(UnsafeArithmeticError, match="subnormal"), strict(CPU, dtype):
            pytest.fail("strict mode was entered")
    finally:
        torch.set_flush_denormal(False)


def kept_bits(x: Tensor, bits: int) -> Tensor:
    """x with fewer bits in its mantissa."""
    mantissa, exponent = torch.frexp(x.double())
    return ((mantissa * 2.0**bits).round() * 2.0**-bits * torch.exp2(exponent.double())).to(x.dtype)


def strassen(a: Tensor, b: Tensor) -> Tensor:
    """One level of Strassen's seven products."""
    n, m, k = a.shape[0] // 2, a.shape[1] // 2, b.shape[1] // 2
    if 2 * n != a.shape[0] or 2 * m != a.shape[1] or 2 * k != b.shape[1]:
        return torch.mm(a, b)
    a11, a12, a21, a22 = a[:n, :m], a[:n, m:], a[n:, :m], a[n:, m:]
    b11, b12, b21, b22 = b[:m, :k], b[:m, k:], b[m:, :k], b[m:, k:]
    m1, m2 = torch.mm(a11 + a22, b11 + b22), torch.mm(a21 + a22, b11)
    m3, m4 = torch.mm(a11, b12 - b22), torch.mm(a22, b21 - b11)
    m5, m6, m7 = torch.mm(a11 + a12, b22), torch.mm(a21 - a11, b11 + b12), torch.mm(a12 - a22, b21 + b22)
    top = torch.cat((m1 + m4 - m5 + m7, m3 + m5), 1)
    return torch.cat((top, torch.cat((m2 + m4, m1 - m2 + m3 + m6), 1)))


@both_dtypes
@pytest.mark.parametrize("lost", [1, 3, 13])
def test_the_probe_notices_products_of_lower_precision(
    dtype: torch.dtype, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = (53 if dtype == torch.float64 else 24) - lost
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: torch.matmul(kept_bits(a, bits), kept_bits(b, bits)))
    assert any("reduced precision" in failure for failure in probe(CPU, dtype, 1).failures)
    with pytest.raises(UnsafeArithmeticError, match="rounding model"), strict(CPU, dtype):
        pytest.fail("strict mode was entered")


@both_dtypes
@pytest.mark.parametrize("columns", [slice(None), slice(-1, None)])
def test_the_probe_notices_short_accumulators(
    dtype: torch.dtype, columns: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact products, but partial sums lose their last bit: everywhere, or in the last column alone."""
    bits = 52 if dtype == torch.float64 else 23

    def product(a: Tensor, b: Tensor) -> Tensor:
        found = torch.matmul(a, b)
        total = torch.zeros_like(found)
        for k in range(a.shape[1]):
            total = kept_bits(total + a[:, k : k + 1] * b[k], bits)
        found[:, columns] = total[:, columns]
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    assert any("three terms" in failure for failure in probe(CPU, dtype, 1).failures)


@both_dtypes
def test_the_probe_notices_strassen(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "__matmul__", strassen)
    assert any("mixed scale" in failure for failure in probe(CPU, dtype, 1).failures)


def low_precision_convolution(image: Tensor, kernel: Tensor, padding: int) -> Tensor:
    return torch.conv2d(image.bfloat16(), kernel.bfloat16(), padding=padding).to(image.dtype)


def fourier_convolution(image: Tensor, kernel: Tensor, padding: int) -> Tensor:
    size = [n + 2 * padding for n in image.shape[-2:]]
    spectrum = torch.einsum("bi...,oi...->bo...", torch.fft.rfft2(image, size), torch.fft.rfft2(kernel, size).conj())
    found = torch.fft.irfft2(spectrum, size)
    return found.roll((padding, padding), (-2, -1))[..., : image.shape[-2], : image.shape[-1]].contiguous()


def winograd_convolution(image: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Columns by direct sums, rows two at a time by the four products of F(2, 3)."""
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    g = [kernel[:, :, r].unsqueeze(2) for r in range(3)]
    filters = (g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2])
    d = [padded[:, :, r : padded.shape[2] - 3 + r : 2] for r in range(4)]
    inputs = (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])
    m = [torch.conv2d(x, w) for x, w in zip(inputs, filters, strict=True)]
    return torch.stack((m[0] + m[1] + m[2], m[1] - m[2] - m[3]), 3).flatten(2, 3)


@both_dtypes
@pytest.mark.parametrize("replacement", [low_precision_convolution, fourier_convolution, winograd_convolution])
def test_the_probe_notices_other_convolutions(
    dtype: torch.dtype, replacement: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randint(-3, 4, (2, 8, 16, 16)).to(dtype)
    kernel = torch.randint(-3, 4, (8, 8, 3, 3)).to(dtype)
    expected = torch.conv2d(image, kernel, padding=1)
    assert (replacement(image, kernel, padding=1) - expected).abs().max() < 2.0  # a convolution, but for rounding
    monkeypatch.setattr(torch.nn.functional, "conv2d", replacement)
    assert any("convolution" in failure for failure in probe(CPU, dtype, 1).failures)


@both_dtypes
def test_strict_mode_switches_off_and_restores(dtype: torch.dtype) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, cudnn.benchmark, matmul.allow_fp16_reduced_precision_reduction)
    cudnn.benchmark = True
    cudnn.allow_tf32 = True
    try:
        with pytest.raises(KeyError), strict(CPU, dtype):
            assert not cudnn.allow_tf32
            assert not cudnn.benchmark
            assert not matmul.allow_fp16_reduced_precision_reduction
            assert not matmul.allow_bf16_reduced_precision_reduction
            assert not torch._C._get_nnpack_enabled()
            assert torch.get_float32_matmul_precision() == "highest"
            with strict(CPU, dtype):
                assert not cudnn.allow_tf32
            assert not cudnn.allow_tf32
            raise KeyError
        assert cudnn.benchmark
        assert cudnn.allow_tf32
        assert matmul.allow_fp16_reduced_precision_reduction == before[2]
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        cudnn.allow_tf32, cudnn.benchmark = before[:2]


def rounding_modes() -> dict[str, int]:
    """The directed modes by the numbers that the C library of this machine gives them."""
    if platform.machine() in ("x86_64", "AMD64"):
        return {"down": 0x400, "up": 0x800, "to zero": 0xC00}
    if platform.machine() in ("aarch64", "arm64"):
        return {"up": 0x400000, "down": 0x800000, "to zero": 0xC00000}
    pytest.skip("the numbers of the rounding modes are not known for this processor")


@contextlib.contextmanager
def rounded(mode: str) -> Iterator[None]:
    """The calling thread's arithmetic rounds in another direction inside."""
    number, library = rounding_modes()[mode], ctypes.CDLL(ctypes.util.find_library("m"))
    if library.fesetround(number):
        pytest.skip("this machine has one rounding mode")
    try:
        yield
    finally:
        library.fesetround(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", ["down", "up", "to zero"])
def test_bounds_are_refused_unless_the_process_rounds_to_nearest(mode: str, dtype: torch.dtype) -> None:
    """By every call, also after one that was fine; in the thread that calls."""
    graph = jb.from_layers([torch.eye(2, dtype=dtype)])

    def refused() -> bool:
        with rounded(mode):
            try:
                jb.bound_output(graph, jb.Ball([0.0, 0.0], 1.0))
            except UnsafeArithmeticError as error:
                return "rounding mode" in str(error)
        return False

    for _ in range(2):
        jb.bound_output(graph, jb.Ball([0.0, 0.0], 1.0))
        assert refused()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(refused).result()
    jb.bound_output(graph, jb.Ball([0.0, 0.0], 1.0))


def test_strict_mode_refuses_autocast() -> None:
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(UnsafeArithmeticError, match="autocast"),
        strict(CPU, torch.float32),
    ):
        pytest.fail("strict mode was entered")


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_strict_mode_refuses_lower_matmul_precision(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.raises(UnsafeArithmeticError, match=f"'{precision}'"), strict(CPU, torch.float32):
            pytest.fail("strict mode was entered")
        assert torch.get_float32_matmul_precision() == precision  # the user's choice is left alone
    finally:
        torch.set_float32_matmul_precision("highest")


def test_strict_mode_refuses_settings_that_torch_can_not_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after ``torch.backends.fp32_precision = "tf32"``, which the older switch can not express."""

    def mixed() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    with pytest.raises(UnsafeArithmeticError, match="fp32_precision"), strict(CPU, torch.float32):
        pytest.fail("strict mode was entered")


@pytest.mark.parametrize("name", ["CUBLAS_EMULATE_DOUBLE_PRECISION", "CUBLAS_EMULATE_SINGLE_PRECISION"])
def test_strict_mode_refuses_emulated_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(UnsafeArithmeticError, match=name), strict(CPU, torch.float64):
        pytest.fail("strict mode was entered")
    monkeypatch.setenv(name, "0")
    with strict(CPU, torch.float64):
        pass


def test_the_probe_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with strict(CPU, torch.float64):
        pass
    monkeypatch.setattr(rounding, "_cancels", lambda *_: pytest.fail("probed again"))
    with strict(CPU, torch.float64):
        pass


def test_bounds_of_infinite_ends_compare_safely() -> None:
    """The comparisons of the tests themselves: NaN and ends on the wrong side count as wrong."""
    assert at_most(-math.inf, fmpq(0))
    assert not at_most(math.inf, fmpq(0))
    assert not at_most(math.nan, fmpq(0))
    assert at_least(math.inf, fmpq(0))
    assert not at_least(-math.inf, fmpq(0))
    assert not at_least(math.nan, fmpq(0))


@both_dtypes
def test_the_floor_of_errors_covers_a_lost_product_and_slows_no_processor(dtype: torch.dtype) -> None:
    zero = torch.zeros((), dtype=dtype)
    assert normal_floor(zero) >= smallest(zero) and normal_floor(zero) * 1e-6 >= tiny(dtype)
    assert normal_floor(zero) < 1e-31  # nobody sees it
    with unrounded():
        assert normal_floor(zero) == 0.0
