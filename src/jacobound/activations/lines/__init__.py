"""Lines around a function and around its derivative: free slopes, rigorous offsets."""

from __future__ import annotations
