"""What the library returns: `Status`, `Provenance`, `OutputBounds`, `JacobianBounds`, `LipschitzBound`.

Every number says whether it is certified. Floats go to JSON as their shortest round-trip decimal, constants and small
results in hexadecimal too, so that a certificate loses nothing.
"""

from __future__ import annotations

import enum
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from jacobound.errors import MissingExtraError
from jacobound.intervals import Interval
from jacobound.rounding import rigorous

# Larger results are written as decimals only.
HEX_ENTRIES = 1000


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


class Result:
    """JSON for all results."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings; tensors as nested lists of shortest round-trip decimals (lossless).

        Bounds of at most `HEX_ENTRIES` numbers also stand in hexadecimal, under their name with "_hex".
        """
        plain = {name: _plain(value) for name, value in vars(self).items()}
        for name in ("lower", "upper"):
            bound = vars(self).get(name)
            if isinstance(bound, Tensor) and bound.numel() <= HEX_ENTRIES:
                plain[f"{name}_hex"] = _hexadecimal(bound.detach().cpu().tolist())
        return plain

    def to_json(self, indent: int | None = 2) -> str:
        """Strict JSON of `to_dict`: infinities are the strings "inf" and "-inf"."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)


@dataclass(frozen=True, eq=False)
class OutputBounds(Result):
    """Bounds of the network's outputs (or of chosen combinations of them) over a region.

    Args:
        lower, upper: shape (*lead, *output shape).
        status: certified or why not.
        provenance: how they were found.
        lead: (*radii, *batch), the leading shape of the region's sets.
    """

    lower: Tensor
    upper: Tensor
    status: Status
    provenance: Provenance
    lead: tuple[int, ...] = ()

    def plot(self, ax: Any = None) -> Any:
        """Bounds of every output at the first point and radius; returns the axes."""
        return _figures().plot_output(self, ax)


@dataclass(frozen=True, eq=False)
class JacobianBounds(Result):
    """Element-wise bounds of the Jacobian over a region.

    They hold for every Jacobian of the network inside the region where it exists, and for every limit of such
    Jacobians from inside the region. A ReLU whose argument is known to be >= 0 counts as the identity, also at 0.

    Args:
        lower, upper: shape (*radii, *batch, rows, *input shape).
        status: certified or why not.
        provenance: how they were found.
        unstable: number of activations whose slope is not known over the region, shape (*radii, *batch).
        activations: number of all activations.
    """

    lower: Tensor
    upper: Tensor
    status: Status
    provenance: Provenance
    unstable: Tensor
    activations: int

    @property
    def interval(self) -> Interval:
        return Interval(self.lower, self.upper)

    def plot(self, row: int = 0, ax: Any = None) -> Any:
        """Bounds of one row of the first point, entry by entry (an image where the input is one); returns the axes."""
        return _figures().plot_jacobian(self, row, ax)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One of the constants of which the smallest certified one is the answer.

    Args:
        value: of the shape of the answer's `upper`; inf where the candidate was left out or proves nothing.
        status: whether it is certified, or why it is looser than its method could do.
        seconds: what it took; 0 for those that come along with another one.
        certificates: for methods that prove by multipliers what they proved, set by set; else empty.
        note: what there is to say besides: why a method failed, or that it was given up.
    """

    value: Tensor
    status: Status
    seconds: float = 0.0
    certificates: tuple[tuple[Any, ...], ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Value, status, seconds and note as plain numbers and strings."""
        plain = {"value": _plain(self.value), "status": _plain(self.status), "seconds": self.seconds}
        return plain | ({"note": self.note} if self.note else {})


@dataclass(frozen=True, eq=False)
class LipschitzBound(Result):
    """A Lipschitz constant from l_p to l_q over a region, as a bracket ``lower <= true constant <= upper``.

    The constant of a set with an inside is the largest ``||f(x) - f(y)||_q / ||x - y||_p``. In a set without, such as a
    single point or a box with a fixed coordinate, changes out of the set count as well: it is the largest norm of the
    Jacobian at points of the set. Where the network has a kink at all of them, `lower` is what every choice of slopes
    at the kink reaches at least, and `upper` what none exceeds.

    Args:
        upper: certified when `status.certified`; shape (*radii, *batch), a 0-d tensor for one region.
        lower: certified as well, rounding included, whatever the status says of `upper` (but for `NOT_RIGOROUS`); 0
            where nothing could be proved; same shape.
        witness: the points where it is proved, float64 and exactly in the set, shape (*radii, *batch, *input shape);
            None when no search was made.
        status: certified or why not.
        norm: (p, q): ``||f(x) - f(y)||_q <= L ||x - y||_p``.
        method: the candidate that gave the smallest bound, for the first point.
        seconds: wall-clock time.
        details: every `Candidate` by name.
        unstable: number of activations whose slope is not known over the region, same shape as `upper`.
        activations: number of all activations.
        radii: the radii of the region's balls, empty when it has none.
        provenance: how it was found.
        delta: for executed semantics how far executed outputs are from the exact ones at most (l_q norm, certified,
            same shape as `upper`): ``||F(x) - F(y)||_q <= upper ||x - y||_p + 2 delta``; None for real semantics.
        partner: second points, like `witness`: where they are numbers, ``||f(witness) - f(partner)||_q`` is at least
            `lower` times their distance; where they are NaN, the norm of the Jacobian at the witness is.
        lower_reason: how `lower` is proved, or why it is 0; one sentence for each set, in row-major order.
    """

    upper: Tensor
    lower: Tensor
    witness: Tensor | None
    status: Status
    norm: tuple[float, float]
    method: str
    seconds: float
    details: Mapping[str, Candidate]
    unstable: Tensor
    activations: int
    radii: tuple[float, ...]
    provenance: Provenance
    delta: Tensor | None = None
    partner: Tensor | None = None
    lower_reason: tuple[str, ...] = ()

    @property
    def gap(self) -> Tensor:
        """upper / lower: 1 when the constant is known, large when the bound says little."""
        return self.upper / self.lower

    def plot(self, ax: Any = None) -> Any:
        """Upper and lower bound over the radii, both axes logarithmic; returns the axes."""
        return _figures().plot_lipschitz(self, ax)


def _figures() -> Any:
    """The drawing module, loaded only when a figure is wanted."""
    import importlib

    try:
        return importlib.import_module("jacobound.reports.figures")
    except ImportError as error:
        if error.name and error.name.startswith("jacobound"):
            raise
        raise MissingExtraError("matplotlib", "report") from error


def _hexadecimal(value: Any) -> Any:
    return [_hexadecimal(item) for item in value] if isinstance(value, list) else float(value).hex()


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.detach().cpu().tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Candidate):
        return value.to_dict()
    if isinstance(value, Status):
        return {"name": value.name.lower(), "certified": value.certified, "meaning": value.value}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Provenance):
        return _plain(vars(value))
    return value
