"""Builds the documentation: Markdown by MyST, docstrings by autodoc, pages of the repository beside those of docs."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from jacobound.version import VERSION

ROOT = Path(__file__).resolve().parents[1]

project = "jacobound"
author = "jacobound developers"
project_copyright = author
version = release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"jacobound {VERSION}"
html_show_sourcelink = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"
toc_object_entries_show_parents = "hide"

# Pages that stand at the top of the repository, by the page of the documentation that shows them.
REPOSITORY = {
    "project/readme": "README.md",
    "project/architecture": "ARCHITECTURE.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/changelog": "CHANGELOG.md",
    "project/security": "SECURITY.md",
    "project/paper": "examples/paper/README.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
LITERAL = re.compile(r"(``.+?``|`[^`]+`)")


def _shown(app: Sphinx, name: str, source: list[str]) -> None:
    """A page as Sphinx reads it: the repository's page where one is meant, with links that lead inside of the site."""
    place = REPOSITORY.get(name, f"docs/{name}.md")
    text = (ROOT / place).read_text(encoding="utf-8") if name in REPOSITORY else source[0]

    def link(found: re.Match[str]) -> str:
        picture, label, target = found.groups()
        if "://" in target or target.startswith("#"):
            return found[0]
        file, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(place), file))
        pages = {repository: page for page, repository in REPOSITORY.items()}
        if file in pages:
            page = f"{pages[file]}.md"
        elif file.startswith("docs/") and (ROOT / file).is_file():
            page = file.removeprefix("docs/")
        else:  # a file of the source tree: the site does not show it
            return label
        page = posixpath.relpath(page, posixpath.dirname(name) or ".")
        return f"{picture}[{label}]({page}{'#' if anchor else ''}{anchor})"

    pages_of_folder = "\n\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n" if name == "decisions/README" else ""
    source[0] = LINK.sub(link, text) + pages_of_folder


def _escaped(app: Sphinx, what: str, name: str, of: object, options: Any, lines: list[str]) -> None:
    """Docstrings are prose with code in backticks: stars, bars and trailing underscores elsewhere are themselves."""
    for k, line in enumerate(lines):
        parts = LITERAL.split(line)
        parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([*|])", r"\\\1", part)) for part in parts[::2]]
        lines[k] = "".join(parts)


def setup(app: Sphinx) -> None:
    """The two hooks above; docstrings before napoleon sees them."""
    app.connect("source-read", _shown)
    app.connect("autodoc-process-docstring", _escaped, priority=100)
