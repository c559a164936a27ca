"""What the experiments share: options, rows that survive an interruption, tables, and the page of results."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from material import Material, cache_folder, data_folder

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
ORDER = ("figure1_constants", "figure2_landscape", "table1_radii", "seqlip_table", "ideal_scenario")

Row = dict[str, str]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Args:
        material: images and networks.
        out: folder of the results.
        size: "tiny" (seconds, for tests), "short" (the default) or "full" (the papers' size, hours).
        fresh: forget the rows of earlier runs.
    """

    material: Material
    out: Path
    size: str
    fresh: bool

    def pick(self, tiny: Any, short: Any, full: Any) -> Any:
        """One of three by the size of the run."""
        return {"tiny": tiny, "short": short, "full": full}[self.size]


def options(description: str | None, arguments: Sequence[str] | None) -> Options:
    """Parse the command line that all experiments have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder with mnist/, cifar10/ and nets/")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="for downloads and trained weights")
    parser.add_argument("--out", type=Path, help="folder of the results (results/, results/full/)")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", dest="size", action="store_const", const="full", help="the papers' size: hours")
    size.add_argument("--tiny", dest="size", action="store_const", const="tiny", help="seconds, for tests")
    parser.set_defaults(size="short")
    given = parser.parse_args(arguments)
    out = given.out or HERE / "results" / ("" if given.size == "short" else given.size)
    out.mkdir(parents=True, exist_ok=True)
    return Options(Material(given.data, given.cache, given.size == "tiny"), out, given.size, given.fresh)


@dataclass
class Ledger:
    """Rows of a CSV file, written one by one as they are found; a run goes on where the last one stopped.

    Args:
        path: the file.
        keys: columns that say what a row is about.
        values: columns that say what was found.
        fresh: start with an empty file.
    """

    path: Path
    keys: tuple[str, ...]
    values: tuple[str, ...]
    fresh: bool = False
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        columns = [*self.keys, *self.values]
        if self.path.is_file() and not self.fresh:
            with self.path.open(encoding="utf-8", newline="") as file:  # a row may be cut in two by an interruption
                complete = (row for row in csv.DictReader(file) if list(row) == columns and None not in row.values())
                self.rows = list(complete)

    def keep(self, cells: Sequence[dict[str, object]]) -> None:
        """Rewrite the file without rows that none of these cells asks for: other weights, other settings."""
        self.rows = [row for row in self.rows if any(_fits(row, cell) for cell in cells)]
        with self.path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*self.keys, *self.values], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def find(self, **cell: object) -> list[Row]:
        """Rows whose columns have these values."""
        return [row for row in self.rows if _fits(row, cell)]

    def number(self, column: str, **cell: object) -> float:
        """A number of the one row with these values; NaN when there is none."""
        found = self.find(**cell)
        return float(found[0][column]) if found else float("nan")

    def add(self, **row: object) -> None:
        """Write a row at once."""
        written = {name: _written(row[name]) for name in (*self.keys, *self.values)}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, list(written), lineterminator="\n").writerow(written)
        self.rows.append(written)

    def fill(self, cells: Sequence[dict[str, object]], work: Callable[..., Iterable[dict[str, object]]]) -> None:
        """Find what is missing.

        Args:
            cells: all that are wanted, as values of some key columns; a cell with any row counts as done.
            work: called with a cell's values; gives the other columns of its rows.
        """
        began = time.monotonic()
        self.keep(cells)
        missing = [cell for cell in cells if not self.find(**cell)]
        if len(missing) < len(cells):
            print(f"{len(cells) - len(missing)} of {len(cells)} are in {self.path} (--fresh finds them again)")
        for k, cell in enumerate(missing, 1):
            found = list(work(**cell))
            for row in found:
                self.add(**cell, **row)
            what = ", ".join(f"{value}" for value in cell.values())
            said = ", ".join(f"{found[0][name]}" for name in self.values if name in found[0]) if found else ""
            print(f"[{k}/{len(missing)}, {time.monotonic() - began:.0f} s] {what}: {said}", flush=True)


def _fits(row: Row, cell: Mapping[str, object]) -> bool:
    return all(row[name] == _written(value) for name, value in cell.items())


def _written(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def timed(work: Callable[[], Found]) -> tuple[Found, float]:
    """A result and the CPU seconds of this process that it took."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def run(main: Callable[[], None]) -> None:
    """Run an experiment; an interruption leaves the finished rows where they are."""
    try:
        main()
    except KeyboardInterrupt:
        print("\ninterrupted; finished rows are kept, and the same command goes on from there")
        sys.exit(130)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with padded columns; numbers with four digits."""
    body = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(3, *(len(line[k]) for line in [list(header), *body])) for k in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in body]
    head = " | ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True))
    return "\n".join(f"| {line} |" for line in [head, " | ".join("-" * width for width in widths), *lines])


def publish(given: Options, name: str, title: str, parts: Sequence[str]) -> None:
    """Print the tables, write them beside the figure, and put all results into README.md when they are of short size.

    Args:
        parts: paragraphs and tables.
    """
    note = f"{given.size} size, torch {torch.__version__}, {torch.get_num_threads()} threads"
    figure = f"![{title}]({{folder}}{name}.svg)"
    text = "\n\n".join([f"## {title}", *parts, figure, f"*`{name}.py`, {note}; rows: `{name}.csv`.*"]) + "\n"
    print("\n" + "\n\n".join(parts))
    (given.out / f"{name}.md").write_text(text.replace("{folder}", ""), encoding="utf-8")
    if given.out == HERE / "results":
        gather(HERE / "README.md", given.out)


def gather(page: Path, results: Path) -> None:
    """Put the results of all experiments between the two comments of a page.

    Raises:
        ValueError: unless each comment stands there once, in this order.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page} needs the lines '{BEGIN}' and '{END}', once and in this order")
    files = [results / f"{name}.md" for name in ORDER]
    found = [file.read_text(encoding="utf-8").strip() for file in files if file.is_file()]
    linked = "\n\n".join(found).replace("](", f"]({results.name}/").replace("; rows: `", f"; rows: `{results.name}/")
    page.write_text(f"{text.partition(BEGIN)[0]}{BEGIN}\n\n{linked}\n\n{END}{text.partition(END)[2]}", encoding="utf-8")
