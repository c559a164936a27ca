"""The brackets of VNN-LIB: forms one by one, each with its line, within limits of size and depth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn, Union

from jacobound.errors import InvalidRegionError

DEEPEST = 100
MOST_TOKENS = 1 << 23
LONGEST_NUMBER = 400  # characters
LARGEST_EXPONENT = 400

Term = Union["Form", str]

TOKEN = re.compile(r'([ \t\r\n\f]+)|(;[^\n]*)|([()])|("[^"]*"|\|[^|]*\|)|(\[[0-9, \t\r\n]*\])|([^\s()\[\];"|]+)')
BLANK, COMMENT, BRACKET, QUOTED, LIST, SYMBOL = range(1, 7)
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?")


@dataclass(slots=True)
class Form:
    """Everything between two brackets.

    Args:
        line: where it starts, counted from 1.
        items: symbols as texts (``X[0, 1]`` is one of them, without blanks), and inner forms.
    """

    line: int
    items: list[Form | str]

    def head(self) -> str:
        """The first symbol.

        Raises:
            InvalidRegionError: when there is none.
        """
        if not self.items or isinstance(self.items[0], Form):
            fail(self.line, "a bracket starts with neither a command nor an operation")
        return self.items[0]


def read_forms(text: str) -> Iterator[Form]:
    """The forms at the top of a text, in order.

    Raises:
        InvalidRegionError: with the line, when brackets do not match or something is no VNN-LIB.
    """
    line, place, glue, tokens = 1, 0, False, 0
    open_forms: list[Form] = []
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            fail(line, f"{text[place : place + 20]!r} is no VNN-LIB")
        kind, token, place = match.lastindex, match[0], match.end()
        if kind in (BLANK, COMMENT):
            glue, line = False, line + token.count("\n")
            continue
        tokens += 1
        if tokens > MOST_TOKENS:
            fail(line, f"more than {MOST_TOKENS} words; that is too much")
        if token == "(":
            if len(open_forms) >= DEEPEST:
                fail(line, f"more than {DEEPEST} brackets inside each other")
            inner = Form(line, [])
            if open_forms:
                open_forms[-1].items.append(inner)
            open_forms.append(inner)
        elif not open_forms:
            fail(line, f"{token[:40]!r} stands outside of all brackets")
        elif token == ")":
            done = open_forms.pop()
            if not open_forms:
                yield done
        elif kind == LIST:
            items, token = open_forms[-1].items, re.sub(r"\s", "", token)
            items[-1:] = [f"{items[-1]}{token}"] if glue else [*items[-1:], token]
        else:
            open_forms[-1].items.append(token)
        glue, line = kind == SYMBOL, line + match[0].count("\n")
    if open_forms:
        fail(open_forms[0].line, "a bracket is opened here and never closed; the file is cut off or damaged")


def number(text: str, line: int) -> Fraction | None:
    """A decimal number, exactly; None when the text is none.

    Raises:
        InvalidRegionError: when it has more digits than anyone means.
    """
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    if len(text) > LONGEST_NUMBER or (match[1] is not None and abs(int(match[1])) > LARGEST_EXPONENT):
        fail(line, f"the number {text[:20]}... has too many digits")
    return Fraction(text)


def fail(line: int, reason: str) -> NoReturn:
    """Refuse a property, with the line if it is known (0: not)."""
    place = f"line {line} of the property: " if line else "the property: "
    raise InvalidRegionError(place + reason)
