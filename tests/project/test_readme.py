"""The code in the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


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
