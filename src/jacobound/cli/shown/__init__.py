"""What commands write: text, tables, progress."""

from __future__ import annotations
