"""How fast, how tight, how large: `python -m benchmarks` measures, writes ``benchmarks/results`` and prints tables."""

from __future__ import annotations
