"""Runs the code of pages: every block of Python in order; the block of text after one is what it printed.

``python docs/executed.py PAGE...`` compares, and complains by page and line; with ``--write`` it writes what was
printed into the pages. Numbers may differ by a few percent (a search ends elsewhere on another machine), seconds
altogether. A block that imports a tool which is not installed is left out, and so is the rest of its section.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<text>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## ", re.MULTILINE)
TOOLS = ("keras", "sklearn", "skl2onnx", "stable_baselines3", "gymnasium", "onnxscript", "scipy", "pandas", "ray")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
ALIKE = 0.05


@dataclass(frozen=True)
class Ran:
    """One block: its line, what the page says that it prints, what it prints (None: a tool is missing)."""

    line: int
    code: str
    told: str
    printed: str | None


def run(page: Path) -> list[Ran]:
    """All blocks of a page in one namespace, in an empty folder."""
    text, names, found, here = page.read_text(encoding="utf-8"), {"__name__": "__main__"}, [], os.getcwd()
    missing = -1  # the section whose tool is missing
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for block in BLOCK.finditer(text):
                line = text.count("\n", 0, block.start()) + 2
                section = len(HEADING.findall(text, 0, block.start()))
                stream, printed = io.StringIO(), None
                if section != missing:
                    try:
                        with contextlib.redirect_stdout(stream):
                            exec(compile("\n" * (line - 1) + block["code"], str(page), "exec"), names)
                        printed = stream.getvalue()
                    except ModuleNotFoundError as error:
                        if (error.name or "").partition(".")[0] not in TOOLS:
                            raise
                        print(f"{page}:{line}: left out, {error.name} is not installed")
                        missing = section
                found.append(Ran(line, block["code"], block["text"] or "", printed))
        finally:
            os.chdir(here)
    return found


def alike(told: str, printed: str) -> bool:
    """Whether two lines say the same: numbers up to a few percent, no seconds, nothing behind three dots."""
    told, printed = (re.sub(r" in \d+\.\d+ s\b", "", line).partition("...")[0] for line in (told, printed))
    if "..." in (told + printed) or min(len(told), len(printed)) > 60:
        told, printed = told[:40], printed[:40]
    numbers = [list(map(float, NUMBER.findall(line))) for line in (told, printed)]
    words = [NUMBER.sub("#", line).split() for line in (told, printed)]
    close = (math.isclose(a, b, rel_tol=ALIKE, abs_tol=1e-3) for a, b in zip(*numbers, strict=False))
    return words[0] == words[1] and all(close)


def complaints(page: Path) -> list[str]:
    """What the page says wrongly."""
    found = []
    for block in run(page):
        if block.printed is None:
            continue
        told, printed = block.told.splitlines(), block.printed.splitlines()
        if len(told) != len(printed) or not all(map(alike, told, printed)):
            found.append(f"{page}:{block.line}: the page says\n{block.told}but it prints\n{block.printed}")
    return found


def write(page: Path) -> None:
    """Put what the code prints into the page, below each block that prints something."""
    ran = iter(run(page))

    def block(found: re.Match[str]) -> str:
        told = next(ran)
        text = told.told if told.printed is None else told.printed
        return f"```python\n{told.code}```\n" + (f"\n```text\n{text.rstrip()}\n```\n" if text else "")

    page.write_text(BLOCK.sub(block, page.read_text(encoding="utf-8")), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """The exit code."""
    warnings.simplefilter("ignore")  # of the tools
    pages = [Path(name).resolve() for name in arguments if name != "--write"]
    if "--write" in arguments:
        for page in pages:
            write(page)
        return 0
    found = [complaint for page in pages for complaint in complaints(page)]
    print("\n".join(found) or f"{len(pages)} pages print what they say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
