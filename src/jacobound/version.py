"""The version of the library, for answers and for `--version`; `pyproject.toml` says the same (a test compares)."""

from __future__ import annotations

VERSION = "0.1.0"
