"""`python -m benchmarks.page`: put the tables of the stored results into docs/benchmarks.md, between two comments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.plan import REPOSITORY
from benchmarks.tables import render

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
LATEST = REPOSITORY / "benchmarks" / "results" / "latest.json"


def with_tables(text: str, tables: str) -> str:
    """The text with everything between the two comments replaced.

    Raises:
        ValueError: unless each comment stands there once, in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text needs the lines '{BEGIN}' and '{END}', once and in this order")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{rest.partition(END)[2]}"


def update(page: Path, latest: Path = LATEST) -> None:
    """Rewrite a file in place from the results of a run.

    Raises:
        FileNotFoundError: when there are no results yet.
        ValueError: when the file has no place for them.
    """
    results = json.loads(latest.read_text(encoding="utf-8"))
    page.write_text(with_tables(page.read_text(encoding="utf-8"), render(results)), encoding="utf-8")


def main() -> None:
    try:
        update(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "benchmarks.md")
    except FileNotFoundError as error:
        sys.exit(f"no such file: {error.filename}; run python -m benchmarks first")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
