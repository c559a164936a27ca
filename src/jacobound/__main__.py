"""``python -m jacobound`` is the command ``jacobound``."""

from __future__ import annotations

import sys

from jacobound.cli import main

if __name__ == "__main__":
    sys.exit(main())
