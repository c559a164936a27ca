"""`element`: HTML in which everything that is not an element is escaped, whoever wrote it."""

from __future__ import annotations

import html

from jacobound.words import printable


class Markup(str):
    """Text that is HTML already: made by `element`, or a part of the page that no file has written."""

    __slots__ = ()


EMPTY = Markup("")
VOID = frozenset({"meta", "input"})


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element; children that are no `Markup` are escaped, control characters spelled out.

    Args:
        name: of the element.
        children: in their order.
        attributes: by name; underscores stand for hyphens, one at the end is left out (`class_`); None and False leave
            the attribute out, True sets it without a value.
    """
    told = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{joined(*children)}</{name}>")


def joined(*children: object) -> Markup:
    """Children side by side, escaped where they are no `Markup`."""
    return Markup("".join(child if isinstance(child, Markup) else escaped(child) for child in children))


def escaped(value: object) -> Markup:
    """Text that HTML shows as it is, in an element or an attribute."""
    return Markup(html.escape(printable(value), quote=True))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(value)}"'
