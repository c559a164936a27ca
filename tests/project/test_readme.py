"""The code in the README runs as it stands; its ways to install name what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_ten_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("import")]) <= 10
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # our own file
    printed = capsys.readouterr().out
    assert "certified" in printed
    constant = names["constant"]
    assert (constant.lower <= constant.upper).all()  # type: ignore[attr-defined]
    assert names["jacobian"].lower.shape == (2, 2, 4)  # type: ignore[attr-defined]


def test_the_container_is_made_from_what_its_file_copies() -> None:
    """All that the build reads is copied, and the extras that it asks for exist."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    copied = {name for line in re.findall(r"^COPY (.*)", lines, flags=re.MULTILINE) for name in line.split()[:-1]}
    assert {"pyproject.toml", "src", project["readme"], *project["license-files"]} <= copied
    assert all((ROOT / name).exists() for name in copied)
    (extras,) = re.findall(r"/build\[([\w,]+)\]", lines)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (version,) = re.findall(r"^FROM python:(3\.\d+)", lines, flags=re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
