"""Branch and bound over parts of a region: what a method certifies of every part holds of the whole."""

from __future__ import annotations
