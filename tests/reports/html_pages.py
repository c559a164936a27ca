"""What tests read of an HTML page: elements in order, their attributes and texts; broken nesting is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "link", "img"}


@dataclass(repr=False, eq=False)
class Element:
    """One element; `text` holds the text of everything in it."""

    name: str
    attributes: dict[str, str | None]
    inside: tuple[Element, ...]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def all(self, name: str) -> list[Element]:
        """Elements of a name in this one, in order."""
        return [child for child in self.walk() if child.name == name]

    def walk(self) -> list[Element]:
        """Everything in this element, in order."""
        return [found for child in self.children for found in (child, *child.walk())]


class Page(HTMLParser):
    """A page, read strictly."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {}, ())
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], [one.name for one in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> stands twice"
        made = Element(tag, dict(attrs), tuple(self.open))
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> ends <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for one in self.open:
            one.text += data
