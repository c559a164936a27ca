"""`Status` and `Provenance`: whether a number may be relied upon, and how it was found."""

from __future__ import annotations

import enum
import platform
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import rigorous
from jacobound.results.question import Question
from jacobound.stored import stored


@stored
class Status(enum.Enum):
    """Whether a bound may be relied upon; the value is what to tell the user."""

    CERTIFIED = "certified: holds for the real-number network with the stored weights, rounding included"
    TIME_LIMIT = "certified, but stopped by the time limit: a tighter bound may exist"
    INTERRUPTED = "certified, but interrupted by the user: a tighter bound may exist"
    MEMORY_LIMIT = "certified, but a cheaper method was used to stay within the memory limit: raise Budget.memory"
    INCOMPLETE = "certified, but the search for a tighter bound broke down on these numbers: one may exist"
    OVERFLOW = "nothing certified: a bound overflowed or is unbounded; use a smaller region or float64"
    NOT_RIGOROUS = "not certified: rounding errors were left out by request"
    ESTIMATE = "an estimate: neither an upper nor a lower bound"
    FAILED = "nothing certified: the method could not answer; its note says why"

    @property
    def certified(self) -> bool:
        """Whether the bound holds."""
        return self not in (Status.OVERFLOW, Status.NOT_RIGOROUS, Status.ESTIMATE, Status.FAILED)

    @staticmethod
    def of(status: Status, *bounds: Tensor) -> Status:
        """The status that a method reported, unless rounding was off or a bound is not a finite number."""
        if not rigorous():
            return Status.NOT_RIGOROUS
        if not all(bool(torch.isfinite(bound).all()) for bound in bounds):
            return Status.OVERFLOW
        return status


@stored
@dataclass(frozen=True)
class Provenance:
    """Under what circumstances a number was found.

    Args:
        method: the method with its options.
        network: SHA-256 of the lowered graph, structure and weights.
        device, dtype: where and in what precision bounds were computed.
        seconds: wall-clock time of the call.
        torch_version, python_version, cpu: versions and the processor's capability, on which kernels depend.
        threads: number of torch threads.
        seed: seed of the search for a lower bound, or None where nothing is random.
        semantics: what the network means: "real" or "executed" with the dtype.
        assumptions: what the user claims about the network (`from_torch(variance_floor=...)`), one sentence for each
            node; Lipschitz constants hold under them.
        question: what was asked.
    """

    method: str
    network: str
    device: str
    dtype: str
    seconds: float
    torch_version: str = field(default_factory=lambda: str(torch.__version__))
    python_version: str = field(default_factory=platform.python_version)
    cpu: str = field(default_factory=torch.backends.cpu.get_cpu_capability)
    threads: int = field(default_factory=torch.get_num_threads)
    seed: int | None = None
    semantics: str = "real"
    assumptions: tuple[str, ...] = ()
    question: Question | None = None
