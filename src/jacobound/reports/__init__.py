"""Figures of results; needs matplotlib (the extra `report`)."""

from __future__ import annotations
