"""Which lines of the sources a stretch of running code reaches."""

from __future__ import annotations

import ast
import os
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any


class Recorder:
    """Notes every line of the files below one folder that is run between `start` and `stop`."""

    def __init__(self, folder: Path) -> None:
        self._prefix = str(folder) + os.sep
        self._lines: dict[str, set[int]] = defaultdict(set)

    def start(self) -> None:
        self._lines.clear()
        sys.settrace(self._call)

    def stop(self) -> dict[str, list[int]]:
        """Lines by file, named from the folder."""
        sys.settrace(None)
        return {name.removeprefix(self._prefix): sorted(lines) for name, lines in self._lines.items()}

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(self._prefix):
            return None
        lines = self._lines[name]
        lines.add(frame.f_lineno)

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            lines.add(frame.f_lineno)
            return line

        return line


def statement_lines(text: str) -> Mapping[int, range]:
    """For every line the lines of the statement (or of the head of the block) it belongs to.

    An expression over several lines may be counted at any of them, so that a line alone says too little. A function
    that remembers its results is run by the first test that needs it: its lines stand for the whole file.
    """
    found: dict[int, range] = {}
    tree = ast.parse(text)
    for node in ast.walk(tree):  # outer statements come before those inside them
        if isinstance(node, ast.stmt):
            inside = [part for part in ast.walk(node) if isinstance(part, ast.stmt) and part is not node]
            first = min((part.lineno for part in inside), default=(node.end_lineno or node.lineno) + 1)
            head = range(node.lineno, max(first, node.lineno + 1))
            found.update(dict.fromkeys(head, head))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and {"functools.cache", "cache"} & set(
            map(ast.unparse, node.decorator_list)
        ):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found.update(dict.fromkeys(lines, range(1, len(text.splitlines()) + 1)))
    return found
