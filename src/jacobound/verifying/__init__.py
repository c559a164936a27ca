"""Verdicts: whether a property holds, is violated, or stays open."""

from __future__ import annotations

from jacobound.verifying.claims import LipschitzAtMost, Monotone
from jacobound.verifying.decide import verify
from jacobound.verifying.verdict import Decision, EngineRun, Verdict

__all__ = ["Decision", "EngineRun", "LipschitzAtMost", "Monotone", "Verdict", "verify"]
