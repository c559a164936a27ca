"""Lower ends of constants: points that climb, and what is proved there."""

from __future__ import annotations
