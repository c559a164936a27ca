"""What the commands write: lines, tables and JSON, on stdout or stderr."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import Any

from jacobound.words import SCREEN, printable, table_text

COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command", default=())
"""The words of the command that is running, for answers that name their question."""


def say(*parts: object, error: bool = False) -> None:
    """One or more lines for the reader, on stdout or stderr."""
    stream = sys.stderr if error else sys.stdout
    for line in " ".join(map(str, parts)).split("\n"):
        clean = printable(line)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        print(clean.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def say_fact(name: str, text: object) -> None:
    """A named line, continued below itself where it is longer than the screen."""
    start = f"{name:<10}" if len(name) < 10 else f"{name} "
    style = {"subsequent_indent": " " * 10, "break_long_words": False, "break_on_hyphens": False}
    say(textwrap.fill(start + printable(str(text).rstrip()), SCREEN, **style))
    if str(text).endswith("\n"):
        say("")


def say_json(value: Any) -> None:
    """Strict JSON on stdout: no NaN, no infinities; results write those as strings."""
    print(json.dumps(value, indent=2, allow_nan=False), flush=True)


def say_table(titles: tuple[str, ...], rows: Iterable[Sequence[object]]) -> None:
    """A table with columns as wide as their content."""
    say(table_text(titles, rows, SCREEN))
