"""What the commands write: lines, tables and JSON, on stdout or stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from jacobound.words import printable, table_text


def say(*parts: object, error: bool = False) -> None:
    """One or more lines for the reader, on stdout or stderr."""
    stream = sys.stderr if error else sys.stdout
    for line in " ".join(map(str, parts)).split("\n"):
        clean = printable(line)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        print(clean.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def say_json(value: Any) -> None:
    """Strict JSON on stdout: no NaN, no infinities; results write those as strings."""
    print(json.dumps(value, indent=2, allow_nan=False), flush=True)


def say_table(titles: tuple[str, ...], rows: Iterable[Sequence[object]]) -> None:
    """A table with columns as wide as their content."""
    say(table_text(titles, rows))
