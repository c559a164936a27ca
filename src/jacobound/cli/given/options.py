"""The options that commands share, each said once; cyclopts makes flags of the fields and help of the docstrings."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import torch
from cyclopts import Parameter
from torch import Tensor

from jacobound.cli.given.networks import NUMBERS, on_device
from jacobound.cli.shown.progress import progress
from jacobound.errors import InvalidRegionError, JacoboundError, MissingExtraError
from jacobound.given import Semantics
from jacobound.graph.execution import Executed
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.exponents import Norm as Exponent
from jacobound.inputs.exponents import Weighted
from jacobound.inputs.grammar import (
    parse_clip,
    parse_fraction,
    parse_indices,
    parse_numbers,
    parse_rows,
    row_matrix,
    row_names,
)
from jacobound.inputs.points import Point, read_point
from jacobound.method import JacobianMethod, Method, OutputMethod
from jacobound.methods import (
    Budget,
    RecurJac,
    SeqLip,
    every,
)
from jacobound.results.kinds import Result

Made = TypeVar("Made")


def _words(kind: type[object]) -> tuple[str, ...]:
    return tuple(one.__name__.lower() for one in every(kind))


def _of_word(kind: type[Made], word: str) -> type[Made]:
    """The exported class of one kind that a word of the command line means."""
    return next(one for one in every(kind) if one.__name__.lower() == word)


if TYPE_CHECKING:
    OutputWord = JacobianWord = ConstantWord = str
else:
    OutputWord, JacobianWord, ConstantWord = (Literal[_words(kind)] for kind in (OutputMethod, JacobianMethod, Method))

Norm = Literal["1", "2", "inf"]
FIGURES = (".png", ".pdf", ".svg")
GIBIBYTE = 1 << 30
REGION = Parameter(group="Region", allow_leading_hyphen=True)
MOST_ROWS = 20


@Parameter(name="*", group="Input")
@dataclass(frozen=True, kw_only=True)
class PointOptions:
    """The points that the region lies around.

    Args:
        input: The point: .npy, .npz, .csv, .png, .jpg; several are answered one by one. Or a .vnnlib property,
            whose box is the region.
        key: Which array of an .npz file.
        index: Which entry of the array along its first axis; 0,3,5 or 0:10 are several.
        scale: The point is values * SCALE + SHIFT; a number or a ratio. [default: 1/255 for images, else 1]
        shift: See --scale. [default: 0]
        clip: Lowest and highest value that an input can have; the rest of the ball does not count.
    """

    input: Annotated[tuple[Path, ...] | None, Parameter(consume_multiple=True)] = None
    key: str | None = None
    index: str | None = None
    scale: Annotated[str | None, NUMBERS] = None
    shift: Annotated[str | None, NUMBERS] = None
    clip: Annotated[tuple[str, str] | None, NUMBERS] = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The inputs that there must be.

        Raises:
            InvalidRegionError: when they are missing.
        """
        if not self.input:
            raise InvalidRegionError("--input is missing: give a file with the point or a .vnnlib property")
        return self.input

    def points(self, graph: Graph) -> list[Point]:
        """All points in the network's input shape, file by file."""
        scale = None if self.scale is None else parse_fraction(self.scale, "--scale")
        shift = parse_fraction(self.shift or "0", "--shift")
        entries = [None] if self.index is None else parse_indices(self.index)
        return [
            read_point(file, graph.in_shape, key=self.key, index=index, scale=scale, shift=shift)
            for file in self.files
            for index in entries
        ]

    @property
    def limits(self) -> tuple[float, float] | None:
        """The valid range, rounded outward."""
        return None if self.clip is None else parse_clip(self.clip)


@Parameter(name="*", group="Method")
@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """How bounds are found.

    Args:
        preactivation: How the ranges of the neurons are bounded. [default: crown]
        relaxation: How recurjac bounds slope times derivative. [default: chord]
        direction: Which way recurjac goes; forward is dear with many inputs. [default: backward]
        rows: Outputs and margins: 3 is output 3, 3,5 two outputs, 3-5 output 3 minus output 5. [default: all]
    """

    preactivation: OutputWord | None = None
    relaxation: Literal["chord", "constant"] | None = None
    direction: Literal["backward", "forward", "forward-shifted", "both"] | None = None
    rows: Annotated[str | None, NUMBERS] = None

    def output_method(self) -> OutputMethod:
        """How the outputs and the arguments of the activations are bounded."""
        kind: Any = _of_word(OutputMethod, self.preactivation or "crown")
        return kind()

    def with_ranges(self, kind: type[Made]) -> Made:
        """A method of a class, with the ranges that were asked for."""
        if self.preactivation is None:
            return kind()
        if "preactivation" not in {part.name for part in fields(cast(Any, kind))}:
            raise JacoboundError(f"--preactivation does not belong to {kind.__name__.lower()}; leave it out there")
        return cast(Any, kind)(preactivation=self.output_method())

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


@Parameter(name="*", group="Method")
@dataclass(frozen=True, kw_only=True)
class ExecutedOptions:
    """Which values of the network are meant.

    Args:
        executed: Number format that the network runs in; outputs and pairs of points then include its rounding.
            [default: exact real numbers]
    """

    executed: Literal["float64", "float32", "float16", "bfloat16"] | None = None

    @property
    def semantics(self) -> Semantics:
        """Which values of the network are meant."""
        return "real" if self.executed is None else Executed(self.executed)


@Parameter(name="*", group="Method")
@dataclass(frozen=True, kw_only=True)
class JacobianOptions(MethodOptions):
    """How bounds of the Jacobian are found.

    Args:
        method: How the Jacobian is bounded.
    """

    method: JacobianWord = "recurjac"

    def jacobian_method(self) -> JacobianMethod:
        """The method with its parts."""
        if self.method == "recurjac":
            return self.recurjac()
        self.refuse_recursion(self.method)
        return self.with_ranges(_of_word(JacobianMethod, self.method))


@Parameter(name="*", group="Method")
@dataclass(frozen=True, kw_only=True)
class ConstantOptions(MethodOptions):
    """How constants are found.

    Args:
        method: How the constant is bounded; `jacobound methods` tells about them. [default: the best of several]
        pairs: How seqlip bounds pairs of layers; greedy is an estimate. [default: dual]
    """

    method: ConstantWord | None = None
    pairs: Literal["dual", "exact", "greedy"] | None = None

    def constant_method(self) -> Method | None:
        """The method with its parts; None chooses, and has a time limit of its own."""
        asks_recursion = self.relaxation is not None or self.direction is not None
        method = self.method or ("recurjac" if asks_recursion else "seqlip" if self.pairs else "best")
        if method != "seqlip" and self.pairs is not None:
            raise JacoboundError(f"--pairs belongs to --method seqlip; leave it out with {method}")
        if method == "recurjac":
            return self.recurjac()
        self.refuse_recursion(method)
        if method == "best":
            if self.preactivation is not None:
                raise JacoboundError("--preactivation belongs to a single method; choose one with --method")
            return None
        if method == "seqlip" and self.pairs is not None:
            return SeqLip(self.pairs, None if self.preactivation is None else self.output_method())
        return self.with_ranges(_of_word(Method, method))


@Parameter(name="*", group="Constant")
@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """Weights of the norms of a constant.

    Args:
        input_weights: The norm of the input is |W x|_p; one number, or one per channel or input between commas.
        output_weights: The norm of the output is |W y|_q; one number, or one per row.
    """

    input_weights: Annotated[str | None, NUMBERS] = None
    output_weights: Annotated[str | None, NUMBERS] = None

    def of_input(self, p: float) -> Exponent:
        """The norm of the input."""
        return _weighted(p, self.input_weights, "--input-weights")

    def of_output(self, q: float) -> Exponent:
        """The norm of the output."""
        return _weighted(q, self.output_weights, "--output-weights")


def _weighted(p: float, weights: str | None, option: str) -> Exponent:
    if weights is None:
        return p
    found = parse_numbers(weights, option)
    return Weighted(p, float(Fraction(found)) if isinstance(found, str) else found)


@Parameter(name="*", group="Run")
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


@Parameter(name="*", group="Output")
@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """What is written.

    Args:
        json: Write the whole result as strict JSON on stdout and nothing else there.
        plot: Draw a figure into this .png, .pdf or .svg file.
        verbose: Show every row of the tables, and every candidate of a constant.
        debug: Show where in the program an error came from.
    """

    json: bool = False
    plot: Path | None = None
    verbose: bool = False
    debug: bool = False

    def check(self) -> None:
        """Refuse a figure that could not be written before the work is done, not after it."""
        if self.plot is not None:
            check_target(self.plot, FIGURES, "--plot")
            if importlib.util.find_spec("matplotlib") is None:
                raise MissingExtraError("matplotlib", "report")

    @property
    def most(self) -> int:
        """Rows of a printed table; JSON and arrays hold all."""
        return 1 << 30 if self.verbose else MOST_ROWS

    def draw(self, result: Result) -> None:
        """The figure of a result, where one is wanted."""
        if self.plot is not None:
            result.plot().figure.savefig(self.plot, dpi=150)


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


def one_radius(radii: list[Decimal | Fraction], text: str | None) -> None:
    """Refuse several radii where a command takes one; a region that holds its own has none.

    Raises:
        InvalidRegionError: with what was given.
    """
    if text is not None and len(radii) != 1:
        raise InvalidRegionError(f"'{text}' is {len(radii)} radii; this command takes one, lipschitz takes several")
