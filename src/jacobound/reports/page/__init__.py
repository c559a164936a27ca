"""Results as one page that needs nothing else: what it says, its figures, its HTML."""

from __future__ import annotations
