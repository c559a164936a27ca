"""Every exported method with every combination of its options, made from the classes alone; nobody lists them."""

from __future__ import annotations

import itertools
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from jacobound.method import OutputMethod
from jacobound.methods import every

Kind = TypeVar("Kind")


def made(kind: type[Kind]) -> tuple[Kind, ...]:
    """Instances of every exported class of a kind: all words of its options, ranges by all plain output methods."""
    return tuple(one for exported in every(kind) for one in made_of(exported))


def made_of(exported: type[Kind]) -> tuple[Kind, ...]:
    """Instances of one class."""
    if not is_dataclass(exported):
        return (exported(),)
    hints = get_type_hints(exported)
    choices = [
        [{}, *({part.name: value} for value in values)]
        for part in fields(exported)
        if part.init and (values := _values(hints[part.name]))
    ]
    given = ({key: value for part in parts for key, value in part.items()} for parts in itertools.product(*choices))
    return tuple(dict.fromkeys(exported(**options) for options in given))


def _values(hint: Any) -> tuple[Any, ...]:
    """What an option may be, as far as its type says so: words, or methods for ranges."""
    parts = get_args(hint) if get_origin(hint) is not Literal else ()
    if get_origin(hint) is Literal:
        return get_args(hint)
    if hint is OutputMethod or OutputMethod in parts:
        return plain_ranges()
    return tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))


@cache
def plain_ranges() -> tuple[OutputMethod, ...]:
    """Output methods that stand alone: without the ones that wrap another."""
    alone = (one for one in every(OutputMethod) if OutputMethod not in get_type_hints(one).values())
    return tuple(one() for one in alone)
