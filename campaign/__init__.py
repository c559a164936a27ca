"""The soundness campaign: bounds against exact arithmetic, damaged files, and deliberate mistakes, at any length.

The tests in ``tests/soundness`` run the same cases in small numbers; `python -m campaign` runs them at full size.
Oracles and random networks live with the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "campaign" / "results"

for folder in ("tests", "src"):  # what is beside this file is attacked, wherever a package may be installed
    if str(REPOSITORY / folder) not in sys.path:
        sys.path.insert(0, str(REPOSITORY / folder))
