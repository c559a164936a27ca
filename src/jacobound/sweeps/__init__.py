"""Sweeps: many questions from one plan, answered by many processes, kept in one file."""

from __future__ import annotations

from jacobound.sweeps.driver import run_sweep
from jacobound.sweeps.loaded import Sweep, load_sweep

__all__ = ["Sweep", "load_sweep", "run_sweep"]
