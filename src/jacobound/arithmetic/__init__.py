"""Numbers on the machine: rounding, intervals, certified norms of vectors and matrices."""

from __future__ import annotations
