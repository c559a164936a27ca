"""What `import jacobound` offers: public names, loaded when they are asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jacobound as jb

PACKAGE = Path(jb.__file__).parent
ENVIRONMENT = {"PYTHONPATH": str(PACKAGE.parent), "PATH": "/usr/bin:/bin"}


def test_every_public_name_is_what_its_module_defines() -> None:
    """The table for loading says the same as the imports that type checkers read."""
    tree = ast.parse(Path(jb.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert set(homes) | {"__version__"} == set(jb.__all__)
    for name, home in homes.items():
        module = sys.modules.get(f"{home}.{name}") or getattr(__import__(str(home), fromlist=[name]), name)
        assert getattr(jb, name) is module


def test_only_public_names_are_offered() -> None:
    assert dir(jb) == sorted(jb.__all__)
    with pytest.raises(AttributeError, match="no 'bound_hessian'"):
        _ = jb.bound_hessian  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert jb.__version__ == project["version"]


@pytest.mark.parametrize("words", ["--version", "--help"])
def test_help_does_not_wait_for_torch(words: str) -> None:
    code = f"import sys; from jacobound.cli import main; main([{words!r}]); assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
