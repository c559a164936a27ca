"""Values that a model writes out in several operations and that are one known function."""

from __future__ import annotations
