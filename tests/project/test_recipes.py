"""The recipes of CONTRIBUTING.md work as they stand, and the tests that they name notice a mistake.

A recipe's block goes into a copy of the package, and the tests run there in a process of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Recipe:
    """A heading of CONTRIBUTING.md, the tests that try what it adds, and a mistake that they have to notice.

    Args:
        tests: arguments of pytest.
        least: so many tests at least are about the new thing.
        right, wrong: what is replaced in the block, and by what.
    """

    tests: tuple[str, ...]
    least: int
    right: str
    wrong: str


RECIPES = {
    "Add an activation": Recipe(
        ("tests/activations/test_registered.py", "-k", "sinh"),
        4,
        "return (formulas.exp(x) + formulas.exp(-x)) * 0.5",
        "return (formulas.exp(x) + formulas.exp(-x)) * 0.49",
    ),
    "Add an operator": Recipe(
        ("tests/operators/test_operators.py", "-k", "RunningSum or every_kind_is_tried"),
        20,
        "return self.length\n\n    def apply",
        "return 1\n\n    def apply",
    ),
    "Add a method": Recipe(
        ("tests/soundness/test_methods.py", "-k", "Frobenius"),
        3,
        "found.entries.magnitude().flatten(1)",
        "(found.entries.magnitude() / 2).flatten(1)",
    ),
}


def steps(title: str) -> list[tuple[str, str, str]]:
    """The blocks under a heading: what to do ("append to", "write"), the file, the code."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.split(f"### {title}\n")[1].split("\n## ")[0].split("\n### ")[0]
    blocks = re.findall(r"```python\n# (append to|write) (\S+)\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) == section.count("```python"), "a block says in its first line where it goes"
    return blocks


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, its tests and the campaign that they ask, in a folder of their own."""
    for name in ("src", "tests", "campaign"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(where: Path, recipe: Recipe) -> tuple[int, int]:
    """How many of the recipe's tests pass and fail there."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *recipe.tests]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(where / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    assert counts and "error" not in counts, done.stdout[-3000:] + done.stderr[-1000:]
    return counts.get("passed", 0), counts.get("failed", 0)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_and_a_mistake_in_it_is_noticed(title: str, copy: Path) -> None:
    recipe = RECIPES[title]
    before = {}
    for verb, file, code in steps(title):
        place = copy / file
        before[place] = place.read_text(encoding="utf-8") if verb == "append to" else ""
        place.write_text(f"{before[place]}\n\n{code}" if before[place] else code, encoding="utf-8")
    passed, failed = run(copy, recipe)
    assert failed == 0 and passed >= recipe.least
    changed = [place for place in before if recipe.right in place.read_text(encoding="utf-8")[len(before[place]) :]]
    assert len(changed) == 1, "the mistake has its place in one block"
    text = changed[0].read_text(encoding="utf-8")
    kept = len(before[changed[0]])
    changed[0].write_text(text[:kept] + text[kept:].replace(recipe.right, recipe.wrong), encoding="utf-8")
    assert run(copy, recipe)[1] > 0
