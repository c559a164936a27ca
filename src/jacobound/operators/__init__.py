"""Linear operators and their certified norms; nothing here knows of networks."""

from __future__ import annotations
