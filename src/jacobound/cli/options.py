"""The options that commands share, each said once; cyclopts makes flags of the fields and help of the docstrings."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import torch
from cyclopts import Parameter
from torch import Tensor

from jacobound.cli.grammar import parse_clip, parse_fraction, parse_rows, row_matrix, row_names
from jacobound.cli.networks import on_device
from jacobound.cli.points import Point, read_point
from jacobound.cli.progress import progress
from jacobound.errors import InvalidRegionError, JacoboundError, MissingExtraError
from jacobound.execution import Executed
from jacobound.graph import Graph, size
from jacobound.methods import (
    CROWN,
    IBP,
    AutoLip,
    Best,
    Budget,
    ECLipsE,
    FastLin,
    FastLip,
    LinearSlopes,
    LipSDP,
    RecurJac,
    SeqLip,
    SinglePrecision,
)
from jacobound.methods.base import JacobianMethod, OutputMethod
from jacobound.methods.lipschitz_method import LipschitzMethod
from jacobound.solve import Semantics

Norm = Literal["1", "2", "inf"]
FIGURES = (".png", ".pdf", ".svg")
GIBIBYTE = 1 << 30


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PointOptions:
    """The point that the region lies around.

    Args:
        input: The point: .npy, .npz, .csv, .png, .jpg. Or a .vnnlib property: its box is the region. Needed for all but
            --global.
        key: Which array of an .npz file.
        index: Which entry of the array along its first axis.
        scale: The point is values * SCALE + SHIFT; a number or a ratio. [default: 1/255 for images, else 1]
        shift: See --scale; a number or a ratio.
        clip: Lowest and highest value that an input can have; the rest of the ball does not count.
    """

    input: Path | None = None
    key: str | None = None
    index: int | None = None
    scale: str | None = None
    shift: str = "0"
    clip: tuple[str, str] | None = None

    @property
    def file(self) -> Path:
        """The input that there must be.

        Raises:
            InvalidRegionError: when it is missing.
        """
        if self.input is None:
            raise InvalidRegionError("--input is missing: give a file with the point or a .vnnlib property")
        return self.input

    def point(self, graph: Graph) -> Point:
        """The point in the network's input shape."""
        scale = None if self.scale is None else parse_fraction(self.scale, "--scale")
        shift = parse_fraction(self.shift, "--shift")
        return read_point(self.file, graph.in_shape, key=self.key, index=self.index, scale=scale, shift=shift)

    @property
    def limits(self) -> tuple[float, float] | None:
        """The valid range, rounded outward."""
        return None if self.clip is None else parse_clip(self.clip)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """How bounds are found.

    Args:
        preactivation: How the ranges of the neurons are bounded. [default: crown]
        relaxation: How recurjac bounds slope times derivative. [default: chord]
        direction: Which way recurjac goes; forward is dear with many inputs. [default: backward]
        rows: Outputs and margins: 3 is output 3, 3,5 two outputs, 3-5 output 3 minus output 5. [default: all]
        executed: Number format that the network runs in; outputs and pairs of points then include its rounding.
            [default: exact real numbers]
    """

    preactivation: Literal["crown", "fastlin", "ibp", "singleprecision"] | None = None
    relaxation: Literal["chord", "constant"] | None = None
    direction: Literal["backward", "forward", "forward-shifted", "both"] | None = None
    rows: str | None = None
    executed: Literal["float64", "float32", "float16", "bfloat16"] | None = None

    @property
    def semantics(self) -> Semantics:
        """Which values of the network are meant."""
        return "real" if self.executed is None else Executed(self.executed)

    def output_method(self) -> OutputMethod:
        """How the outputs and the arguments of the activations are bounded."""
        words = {"crown": CROWN, "fastlin": FastLin, "ibp": IBP, "singleprecision": SinglePrecision}
        return words[self.preactivation or "crown"]()

    def recurjac(self) -> RecurJac:
        """RecurJac with its parts."""
        return RecurJac(self.relaxation or "chord", self.output_method(), self.direction or "backward")

    def refuse_recursion(self, method: str) -> None:
        """Refuse options that only recurjac has."""
        if self.relaxation is not None or self.direction is not None:
            raise JacoboundError(
                f"--relaxation and --direction belong to --method recurjac; leave them out with {method}"
            )

    def matrix(self, graph: Graph) -> Tensor | None:
        """The chosen rows as combinations of the outputs, None for all."""
        return None if self.rows is None else row_matrix(parse_rows(self.rows), size(graph.output))

    def names(self, graph: Graph) -> list[str]:
        """What the rows are called."""
        return row_names(None if self.rows is None else parse_rows(self.rows), size(graph.output))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JacobianOptions(MethodOptions):
    """How bounds of the Jacobian are found.

    Args:
        method: How the Jacobian is bounded.
    """

    method: Literal["recurjac", "fastlip", "linearslopes"] = "recurjac"

    def jacobian_method(self) -> JacobianMethod:
        """The method with its parts."""
        if self.method == "recurjac":
            return self.recurjac()
        self.refuse_recursion(self.method)
        return (FastLip if self.method == "fastlip" else LinearSlopes)(self.output_method())


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ConstantOptions(MethodOptions):
    """How constants are found.

    Args:
        method: How the constant is bounded; `jacobound methods` tells about them. [default: the best of several]
        pairs: How seqlip bounds pairs of layers; greedy is an estimate. [default: dual]
    """

    method: Literal["best", "recurjac", "fastlip", "linearslopes", "autolip", "seqlip", "lipsdp", "eclipse"] | None = (
        None
    )
    pairs: Literal["dual", "exact", "greedy"] | None = None

    def constant_method(self) -> JacobianMethod | LipschitzMethod | Best | None:
        """The method with its parts; None chooses, and has a time limit of its own."""
        asks_recursion = self.relaxation is not None or self.direction is not None
        method = self.method or ("recurjac" if asks_recursion else "seqlip" if self.pairs else "best")
        if method != "seqlip" and self.pairs is not None:
            raise JacoboundError(f"--pairs belongs to --method seqlip; leave it out with {method}")
        if method == "recurjac":
            return self.recurjac()
        self.refuse_recursion(method)
        given = None if self.preactivation is None else self.output_method()
        if method == "best":
            if given is not None:
                raise JacoboundError("--preactivation belongs to a single method; choose one with --method")
            return None
        if method in ("autolip", "eclipse"):
            return (AutoLip if method == "autolip" else ECLipsE)(given)
        if method == "seqlip":
            return SeqLip(self.pairs or "dual", given)
        words = {"lipsdp": LipSDP, "linearslopes": LinearSlopes, "fastlip": FastLip}
        return words[method](self.output_method())


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where the work is done and what it may use.

    Args:
        device: cpu, cuda or cuda:1.
        dtype: Number format of the computation; bounds are sound in both.
        threads: Number of CPU threads. [default: torch's choice]
        seconds: Soft time limit; the bound that is held then is returned. [default: none; 10 for the best of several]
        memory: Working memory in GiB.
    """

    device: str = "cpu"
    dtype: Literal["float64", "float32"] = "float64"
    threads: int | None = None
    seconds: Annotated[float | None, Parameter(name=("--seconds", "--budget"))] = None
    memory: float = 1.0

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise JacoboundError("--threads must be at least 1")
        if not 0 < self.memory < 1 << 20:
            raise JacoboundError("--memory is a number of GiB above 0")
        if self.seconds is not None and not self.seconds > 0:
            raise JacoboundError("--seconds must be above 0")

    def placed(self, graph: Graph) -> Graph:
        """The network where the work is done.

        Raises:
            JacoboundError: when there is no such device.
            UnsafeArithmeticError: when the number format can not hold the weights.
        """
        return on_device(graph, self.device, self.dtype)

    @contextlib.contextmanager
    def budget(self, what: str, limit: float | None = None) -> Iterator[Budget]:
        """Time (`limit` when none was given), memory and a progress bar, with the number of threads set meanwhile."""
        with cpu_threads(self.threads), progress(what) as tell:
            yield Budget(self.seconds if self.seconds is not None else limit, int(self.memory * GIBIBYTE), tell)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """What is written.

    Args:
        json: Write the whole result as strict JSON on stdout and nothing else there.
        plot: Draw a figure into this .png, .pdf or .svg file.
        debug: Show where in the program an error came from.
    """

    json: bool = False
    plot: Path | None = None
    debug: bool = False

    def check(self) -> None:
        """Refuse a figure that could not be written before the work is done, not after it."""
        if self.plot is not None:
            check_target(self.plot, FIGURES, "--plot")
            if importlib.util.find_spec("matplotlib") is None:
                raise MissingExtraError("matplotlib", "report")


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """That many threads meanwhile; None leaves torch's choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_target(path: Path, suffixes: tuple[str, ...], option: str) -> None:
    """Refuse a file that could not be written.

    Raises:
        JacoboundError: when the folder does not exist or the suffix is another.
    """
    if path.suffix.lower() not in suffixes:
        raise JacoboundError(f"{option} writes {' or '.join(suffixes)} files; '{path}' ends differently")
    if not path.parent.is_dir() or path.is_dir():
        raise JacoboundError(f"{option}: '{path}' can not be written there; make the folder '{path.parent}' first")


def one_radius(radii: list[Decimal], text: str) -> str:
    """The one radius of a command that takes one, as the decimal that was given."""
    if len(radii) != 1:
        raise InvalidRegionError(f"'{text}' is {len(radii)} radii; this command takes one, lipschitz takes several")
    return str(radii[0])
