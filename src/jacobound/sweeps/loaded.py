"""`Sweep`: what a store holds, as rows, results, files and figures."""

from __future__ import annotations

import csv
import importlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from jacobound.errors import InvalidResultError, MissingExtraError
from jacobound.results.result import Result
from jacobound.sweeps.store import Store
from jacobound.sweeps.tasks import ANSWERED, Task


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """The tasks of a store, and how they ended.

    Args:
        entries: every task with its outcome, None where it has not been asked; in the order of the plans.
    """

    entries: tuple[tuple[Task, Mapping[str, Any] | None], ...]

    def __repr__(self) -> str:
        states = self.states
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        return f"Sweep: {len(self.entries)} tasks, {told or 'nothing asked'}"

    @property
    def states(self) -> dict[str, int]:
        """How many tasks ended in which way: answered, failed, late, memory, crashed; "open" have not been asked."""
        return dict(Counter("open" if one is None else str(one["state"]) for _, one in self.entries))

    def table(self) -> list[dict[str, Any]]:
        """Plain rows: for every row of a result's own table one, with the task's columns in front.

        A task without an answer is one row, with its state and error. `certified` says whether bounds are proved.
        `radius` is the float nearest to the radius that was planned; bounds hold for the exact one.
        """
        found: list[dict[str, Any]] = []
        for task, outcome in self.entries:
            radii = [float(Fraction(one)) for one in task.radii]
            place = {"task": task.identity[:12], **task.called, "state": "open"}
            place |= {"radius": radii[0]} if len(radii) == 1 else {}
            if outcome is None:
                found.append(place)
                continue
            costs = {name: outcome[name] for name in ("state", "seconds", "cpu_seconds", "megabytes")}
            rows = [_own(row, radii) for row in json.loads(outcome["rows"])]
            if outcome["state"] != ANSWERED:
                rows = [{"error": outcome["error"]}]
            found += [place | costs | row for row in rows]
        names = list(dict.fromkeys(name for row in found for name in row))
        return [{name: row.get(name) for name in names} for row in found]

    def results(self) -> Iterator[Result]:
        """The answers, bit for bit, in order."""
        for _, outcome in self.entries:
            if outcome is not None and outcome["result"] is not None:
                yield Result.from_json(outcome["result"])

    def to_dataframe(self) -> Any:
        """`table` as a pandas DataFrame.

        Raises:
            MissingExtraError: without pandas.
        """
        return _needed("pandas").DataFrame(self.table())

    def write_csv(self, file: str | os.PathLike[str]) -> None:
        """`table` as a file of comma-separated values; every number is written so that it reads back the same."""
        rows = self.table()
        with Path(file).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)

    def write_parquet(self, file: str | os.PathLike[str]) -> None:
        """`table` as a Parquet file.

        Raises:
            MissingExtraError: without pyarrow.
        """
        arrow = _needed("pyarrow")
        _needed("pyarrow.parquet").write_table(arrow.Table.from_pylist(self.table()), str(file))

    def plot_constants(self, ax: Any = None) -> Any:
        """Both ends of constants over the radius: the median over the points, and the range of the upper ends.

        Returns:
            The axes.

        Raises:
            InvalidResultError: when there are no constants over balls.
            MissingExtraError: without matplotlib.
        """
        return _figures().plot_constants(self.table(), ax)

    def plot_accuracy(self, ax: Any = None) -> Any:
        """The share of points whose class is certified, and not yet attacked, over the radius.

        Returns:
            The axes.

        Raises:
            InvalidResultError: when there are no robust radii.
            MissingExtraError: without matplotlib.
        """
        return _figures().plot_accuracy(self.table(), ax)


def load_sweep(store: str | os.PathLike[str]) -> Sweep:
    """What a store holds by now; a sweep may still be running.

    Raises:
        InvalidResultError: when the file is no store.
    """
    with Store(store) as kept:
        entries = tuple(kept.entries())
    if not entries:
        raise InvalidResultError(f"{store} holds no tasks")
    return Sweep(entries)


def _own(row: Mapping[str, Any], radii: Sequence[float]) -> dict[str, Any]:
    """What a row of a result says besides the task; infinities are text in JSON, sets are the radii of one point."""
    found = {name: float(value) if value in ("inf", "-inf", "nan") else value for name, value in row.items()}
    if "method" in found:
        found["by"] = found.pop("method")
    place = found.pop("set", None)
    if place is not None and radii:
        found["radius"] = radii[int(place)]
    found.pop("point", None)
    return found


def _figures() -> Any:
    try:
        return importlib.import_module("jacobound.reports.sweeps")
    except ImportError as error:
        if error.name and error.name.startswith("jacobound"):
            raise
        raise MissingExtraError("matplotlib", "report") from error


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package.partition(".")[0], "sweep") from error
