"""`inline`: a figure of matplotlib as SVG that belongs into a page.

Ids are the page's own, colours of text are those of the page, values appear on hover as `<title>`, and styles become
attributes, so that the page can forbid all styles but its own.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from jacobound.reports.page.markup import Markup, element, escaped, joined

# Colours of matplotlib that the page replaces by its own.
FOREGROUND = "#010203"
SVG, LINKS = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
REFERENCE = re.compile(r"url\(#([^)]+)\)")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names come from files
    "text.usetex": False,
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.grid": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), FOREGROUND)


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Meanwhile figures are drawn in the page's style, whatever the user's own is; afterwards it is back."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        # Names may be written in any script; the reader's browser has the letters.
        warnings.filterwarnings("ignore", message="(?s).*[Gg]lyph.*")
        yield


def inline(figure: Figure, hover: Mapping[str, Sequence[str]], prefix: str, label: str) -> Markup:
    """The figure as an element `svg`.

    Args:
        figure: drawn within `drawing()`.
        hover: for the gid of an artist what is shown at each of its marks, in their order.
        prefix: of the ids on the page.
        label: what the figure is, for those who do not see it.

    Raises:
        ValueError: when an artist has another number of marks than texts: a value would stand at another's place.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in (f"{SVG}metadata", f"{SVG}style")]:
            parent.remove(child)  # the page has its own
    titles = _titles(root, hover)
    found = _referenced(root)
    ids = {old: f"{prefix}-{k}" for k, old in enumerate(found)}
    size = {key: root.attrib[key] for key in ("viewBox",)}
    width = float(size["viewBox"].split()[2])
    parts = [_shown(child, ids, titles) for child in root]
    named = element("title", label, id=f"{prefix}-title")
    return element(
        "svg",
        named,
        *parts,
        role="img",
        aria_labelledby=f"{prefix}-title",
        viewBox=size["viewBox"],
        class_="wide" if width > 400 else None,
        width=f"{width * 4 / 3:.0f}" if width > 400 else None,
    )


def _titles(root: ElementTree.Element, hover: Mapping[str, Sequence[str]]) -> dict[ElementTree.Element, str]:
    """The text of every mark."""
    found: dict[ElementTree.Element, str] = {}
    groups = {group.get("id"): group for group in root.iter(f"{SVG}g")}
    for gid, texts in hover.items():
        group = groups.get(gid)
        marks = [] if group is None else list(group.iter(f"{SVG}use"))
        if group is not None and not marks:
            hidden = {path for defs in group.iter(f"{SVG}defs") for path in defs.iter(f"{SVG}path")}
            marks = [path for path in group.iter(f"{SVG}path") if path not in hidden]
        if len(marks) != len(texts):
            raise ValueError(f"the figure has {len(marks)} marks of '{gid}' for {len(texts)} values")
        found |= dict(zip(marks, texts, strict=True))
    return found


def _referenced(root: ElementTree.Element) -> list[str]:
    """Ids that something refers to, in the order of their elements."""
    wanted: set[str] = set()
    for node in root.iter():
        wanted |= {node.get(f"{LINKS}href", "#")[1:]}
        for value in node.attrib.values():
            wanted |= set(REFERENCE.findall(value))
    return [node.attrib["id"] for node in root.iter() if node.get("id") in wanted]


def _shown(node: ElementTree.Element, ids: Mapping[str, str], titles: Mapping[ElementTree.Element, str]) -> Markup:
    """One element and what is in it, as HTML has it."""
    name = node.tag.removeprefix(SVG)
    attributes = {key: value for key, value in node.attrib.items() if key not in ("style", "id", f"{LINKS}href")}
    attributes |= _presentation(node.get("style", ""))
    if node.get("id") in ids:
        attributes["id"] = ids[node.attrib["id"]]
    elif name == "g" and node.get("id", "").startswith("cells"):
        attributes["class"] = "cells"
    if f"{LINKS}href" in node.attrib:
        attributes["href"] = f"#{ids[node.attrib[f'{LINKS}href'][1:]]}"
    told = "".join(f' {key}="{escaped(_own(value, ids))}"' for key, value in attributes.items())
    inner = [_shown(child, ids, titles) for child in node]
    if node in titles:
        inner.insert(0, element("title", titles[node]))
    text = (node.text or "").strip()
    return Markup(f"<{name}{told}>{joined(text, *inner)}</{name}>")


def _own(value: str, ids: Mapping[str, str]) -> str:
    """A value with the page's ids and colours, without the spaces that matplotlib leaves."""
    value = REFERENCE.sub(lambda found: f"url(#{ids[found.group(1)]})", " ".join(value.split()))
    return value.replace(FOREGROUND, "currentColor")


def _presentation(style: str) -> dict[str, str]:
    """A style as attributes of their own; of a font the size alone, because the page has its own letters."""
    found: dict[str, str] = {}
    for rule in style.split(";"):
        name, _, value = (part.strip() for part in rule.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            found |= {"font-size": size.group(1)} if size else {}
        elif name and name not in ("font-family", "white-space"):
            found[name] = value
    return found
