"""The pages are true where that can be tried: links lead somewhere, places in the code exist, versions agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import jacobound

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "paper" / "README.md"])
SOURCES = ROOT / "src" / "jacobound"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_public_names_on_pages_exist(page: Path) -> None:
    for name in re.findall(r"\bjb\.(\w+)", text_of(page)):
        assert hasattr(jacobound, name), name


def places() -> list[tuple[str, tuple[str, ...]]]:
    """Files that ARCHITECTURE.md names in "Where is it?", with the names that it says are in them."""
    page = text_of(ROOT / "ARCHITECTURE.md")
    rows = page[page.index("## Where is it?") : page.index("## Layers")]
    found = re.findall(r"`((?:[\w]+/)*[\w]+(?:\.py|/))`(?: \((`[^)]+`)\))?", rows)
    return [(file, tuple(re.findall(r"`(\w+)`", names))) for file, names in found]


def test_the_places_are_many() -> None:
    assert len(places()) > 25


@pytest.mark.parametrize(("file", "names"), places())
def test_places_in_the_code_exist(file: str, names: tuple[str, ...]) -> None:
    assert (SOURCES / file).exists()
    for name in names:
        assert re.search(rf"^\s*(def|class) {name}\b|^{name}\b", text_of(SOURCES / file), flags=re.MULTILINE), name


def test_every_public_name_has_its_place_in_the_documentation() -> None:
    shown = "".join(text_of(page) for page in (ROOT / "docs" / "api").glob("*.md"))
    named = set(re.findall(r":: jacobound\.(\w+)$", shown, flags=re.MULTILINE))
    assert set(jacobound.__all__) - {"__version__"} == named


def test_files_that_decisions_name_exist() -> None:
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        for file in re.findall(r"`(src/jacobound/[\w/.]+)`", text_of(page)):
            assert (ROOT / file).exists(), (page.name, file)


def test_every_decision_is_in_the_index() -> None:
    index = text_of(ROOT / "docs" / "decisions" / "README.md")
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


@pytest.mark.parametrize(("page", "most"), [("README.md", 150), ("ARCHITECTURE.md", 200)])
def test_first_pages_stay_short(page: str, most: int) -> None:
    assert len(text_of(ROOT / page).splitlines()) <= most


def test_one_version_everywhere() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"]
    cited = re.search(r"^version: (\S+)$", text_of(ROOT / "CITATION.cff"), flags=re.MULTILINE)
    assert cited is not None
    assert project == cited[1] == jacobound.__version__


def test_make_targets_on_pages_exist() -> None:
    known = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", text_of(page), flags=re.MULTILINE):
            assert "".join(target) in known, (page.name, target)


def test_every_folder_of_the_package_has_its_row() -> None:
    page = text_of(ROOT / "ARCHITECTURE.md")
    rows = page[page.index("## Layers") : page.index("## Where rounding lives")]
    for marker in sorted(SOURCES.rglob("__init__.py")):
        folder = marker.parent.relative_to(SOURCES)
        if folder.parts and any(marker.parent.glob("[a-z]*.py")):
            assert f"`{folder}/`" in rows or f"`{folder.parts[0]}/" in rows, folder
