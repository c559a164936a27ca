"""Clocks and counters: medians of interleaved repetitions, peak memory, counted and attainable arithmetic."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import monotonic, perf_counter, process_time
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import jacobound as jb
from benchmarks.plan import FEWEST, GEMM_SIZE, LONG
from jacobound.method import OutputMethod

Found = TypeVar("Found")


@dataclass
class Samples:
    """Times of repeated calls, in seconds.

    Args:
        cpu: CPU time of the process, all threads together.
        wall: time on the clock.
    """

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def time(self, call: Callable[[], Found]) -> Found:
        """Add one call, and give what it returns."""
        cpu, wall = process_time(), perf_counter()
        found = call()
        self.cpu.append(process_time() - cpu)
        self.wall.append(perf_counter() - wall)
        return found

    def summary(self) -> dict[str, float]:
        """Medians and the fastest call."""
        return {"cpu": median(self.cpu), "cpu_least": min(self.cpu), "wall": median(self.wall)}


def interleaved(calls: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, Samples]:
    """Times of several calls in turn, in an order that changes, so that drift of the machine meets all alike.

    Every call is made once before, untimed. Long calls are repeated less often, `FEWEST` times at least.
    """
    for call in calls.values():
        call()
    found = {name: Samples() for name in calls}
    names, started = list(calls), monotonic()
    for done in range(repetitions):
        if done >= FEWEST and monotonic() - started > LONG:
            break
        for name in names:
            found[name].time(calls[name])
        names.reverse()
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of neighbouring measurements."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return {
        "median": median(ratios),
        "lower_quartile": ratios[len(ratios) // 4],
        "upper_quartile": ratios[(3 * len(ratios)) // 4],
    }


def peak_megabytes() -> float:
    """Largest resident memory of this process so far, in megabytes of 2^20 bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 2**20 if sys.platform == "darwin" else size / 2**10


def counted_products(call: Callable[[], object]) -> float:
    """Floating-point operations of all matrix products and convolutions of a call: two for each product and sum."""
    vector = {torch.ops.aten.mv: _matrix_times_vector, torch.ops.aten.dot: _dot}
    with FlopCounterMode(display=False, custom_mapping=vector) as counter:
        call()
    return float(counter.get_total_flops())


def _matrix_times_vector(matrix: Sequence[int], vector: Sequence[int], **_unused: Any) -> int:
    return 2 * matrix[0] * vector[0]


def _dot(left: Sequence[int], right: Sequence[int], **_unused: Any) -> int:
    del right
    return 2 * left[0]


def attainable_rate(repetitions: int = 5) -> float:
    """Operations per CPU second of a large float64 matrix product, the best of a few."""
    matrix = torch.rand(GEMM_SIZE, GEMM_SIZE, dtype=torch.float64)
    samples = Samples()
    for _ in range(repetitions + 1):
        samples.time(lambda: _product(matrix))
    return 2 * GEMM_SIZE**3 / min(samples.cpu[1:])


def _product(matrix: Tensor) -> Tensor:
    return matrix @ matrix


@dataclass(frozen=True, eq=False)
class Timed(OutputMethod):
    """Another method, with the CPU seconds it took."""

    method: OutputMethod
    samples: Samples

    def ranges(self, graph: jb.Graph, domain: Any, budget: jb.Budget, *, with_output: bool = True) -> Mapping[Any, Any]:
        found: list[Mapping[Any, Any]] = []
        self.samples.time(lambda: found.append(self.method.ranges(graph, domain, budget, with_output=with_output)))
        return found[0]
