"""A mistake made in running code: functions that are already loaded get the code of the changed source.

A process that has imported everything can then be forked for each mistake, which is far cheaper than importing
the changed sources. What is computed at import (defaults, fields, tables) stays as it was; `swap` says so.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from types import CodeType, FunctionType

Functions = Mapping[tuple[str, str, int], list[FunctionType]]


def loaded_functions(folder: Path) -> Functions:
    """All functions that exist now and come from files below a folder, by file, name and first line."""
    found: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename.startswith(str(folder)):
            code = thing.__code__
            found[code.co_filename, code.co_qualname, code.co_firstlineno].append(thing)
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _own(code: CodeType) -> tuple[object, ...]:
    """What a piece of code does itself, without its inner functions and its line numbers."""
    constants = tuple(
        (None, constant.co_qualname) if isinstance(constant, CodeType) else (type(constant), repr(constant))
        for constant in code.co_consts
    )
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags


def swap(place: Path, before: str, after: str, functions: Functions) -> bool:
    """Give all loaded functions the code of the changed text; False when that does not carry the whole change.

    Args:
        place: the file as it was imported.
        before, after: its text, and the changed one.
        functions: from `loaded_functions`.
    """
    old, new = (list(_codes(compile(text, str(place), "exec", dont_inherit=True))) for text in (before, after))
    changed = [
        first is None or second is None or first.co_qualname != second.co_qualname or _own(first) != _own(second)
        for first, second in zip_longest(old, new)
    ]
    if len(old) != len(new) or not any(changed):
        return False
    carried: set[int] = set()
    for number, (first, second) in enumerate(zip(old, new, strict=True)):
        inside = range(number, number + sum(1 for _ in _codes(first)))
        if not any(changed[k] for k in inside):
            continue
        known = [
            function
            for function in functions.get((first.co_filename, first.co_qualname, first.co_firstlineno), ())
            if function.__code__ == first
        ]
        for function in known:
            if len(function.__code__.co_freevars) != len(second.co_freevars):
                return False
            function.__code__ = second
        if known:
            carried.update(inside)
    return all(k in carried for k, different in enumerate(changed) if different)
