"""Lists of instances and files of results in the forms of VNN-COMP, the competition of network verifiers.

A list has lines ``network,property,seconds``; results have lines ``category,network,property,seconds to prepare,
result,seconds`` with result one of unsat (the property holds), sat (violated), timeout, unknown, error. Source: the
scripts of VNN-COMP 2022 and later (https://github.com/VNN-COMP).
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from jacobound.errors import InvalidOptionError, InvalidRegionError
from jacobound.inputs.files import read_file
from jacobound.results.kinds import Status
from jacobound.verifying.verdict import Decision, Verdict

LARGEST_LIST = 1 << 24  # bytes


@dataclass(frozen=True)
class Instance:
    """One line of a list.

    Args:
        network, claim: paths of the network and the property, as the list has them.
        seconds: its time-out.
        line: where it stands, from 1.
    """

    network: str
    claim: str
    seconds: float
    line: int


@dataclass(frozen=True)
class ResultRow:
    """One line of results."""

    category: str
    network: str
    claim: str
    prepared: float
    result: str
    seconds: float

    @property
    def key(self) -> tuple[str, str, str]:
        """Which instance it is about."""
        return self.category, self.network, self.claim

    def text(self) -> str:
        """The line, with its end."""
        stream = io.StringIO()
        prepared, seconds = f"{self.prepared:.6f}", f"{self.seconds:.6f}"
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((self.category, self.network, self.claim, prepared, self.result, seconds))
        return stream.getvalue()


def read_instances(path: str | os.PathLike[str]) -> list[Instance]:
    """The instances of a list, in order, each once.

    Raises:
        InvalidRegionError: when it can not be read; with the line where that is wrong.
    """
    try:
        text = read_file(path, LARGEST_LIST, InvalidRegionError).decode()
    except UnicodeDecodeError as error:
        raise InvalidRegionError(
            f"'{os.fspath(path)}' is no text ({error}); give a list of instances as CSV"
        ) from error
    found: dict[tuple[str, str], Instance] = {}
    for line, cells in enumerate(csv.reader(io.StringIO(text)), 1):
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        try:
            one = Instance(cells[0], cells[1], float(cells[2]), line)
        except (ValueError, IndexError):
            one = Instance("", "", 0.0, line)
        if not (len(cells) == 3 and one.network and one.claim and 0 < one.seconds < float("inf")):
            raise InvalidRegionError(
                f"'{os.fspath(path)}', line {line}: an instance is 'network.onnx,property.vnnlib,seconds' with seconds "
                f"above 0, not {','.join(cells)[:80]!r}"
            )
        found.setdefault((one.network, one.claim), one)
    if not found:
        raise InvalidRegionError(f"'{os.fspath(path)}' lists no instances: lines are 'network.onnx,property.vnnlib,60'")
    return list(found.values())


def read_results(path: Path) -> tuple[list[ResultRow], int]:
    """Finished rows of a file of results that may have been cut off while it was written.

    Returns:
        The rows, and how many bytes of the file are whole lines; 0 where there is no file.

    Raises:
        InvalidOptionError: when it holds something else: it is then left alone.
    """
    if not path.exists():
        return [], 0
    data = read_file(path, LARGEST_LIST, InvalidRegionError)
    whole = data[: data.rfind(b"\n") + 1]
    rows: list[ResultRow] = []
    for line, cells in enumerate(csv.reader(io.StringIO(whole.decode(errors="replace"))), 1):
        try:
            category, network, claim, prepared, result, seconds = cells
            rows.append(ResultRow(category, network, claim, float(prepared), result, float(seconds)))
        except ValueError:
            raise InvalidOptionError(
                f"'{path}', line {line}: no line of results, so nothing is appended to the file; give another one"
            ) from None
    return rows, len(whole)


def located(folder: Path, name: str) -> Path:
    """A file of a list beside it, compressed or not.

    Raises:
        InvalidRegionError: when there is none.
    """
    for path in (folder / name, folder / f"{name}.gz", folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise InvalidRegionError(f"there is no file '{folder / name}', compressed or not; paths stand beside the list")


def result_word(verdict: Verdict) -> str:
    """A verdict in the competition's words."""
    if verdict.decision is Decision.HOLDS:
        return "unsat"
    if verdict.decision is Decision.VIOLATED:
        return "sat"
    return "timeout" if verdict.status is Status.TIME_LIMIT else "unknown"


def counterexample_text(verdict: Verdict) -> str:
    """The witness of a violation in the competition's form: ``((X_0 value) ... (Y_0 value))``.

    Outputs are those of the engine that was asked, else the middles of their certified enclosure.

    Raises:
        InvalidOptionError: when there is no violation, or it is not about outputs at one point.
    """
    if verdict.decision is not Decision.VIOLATED or verdict.witness is None or verdict.outputs_lower is None:
        raise InvalidOptionError(f"a {verdict.decision.name.lower()} property has no counterexample at one point")
    assert verdict.outputs_upper is not None
    middles = (verdict.outputs_lower / 2 + verdict.outputs_upper / 2).tolist()
    outputs = middles if verdict.engine is None else list(verdict.engine.outputs)
    lines = [f"(X_{k} {x!r})" for k, x in enumerate(verdict.witness.flatten().tolist())]
    lines += [f"(Y_{k} {y!r})" for k, y in enumerate(outputs)]
    return "(" + "\n".join(lines) + ")\n"
