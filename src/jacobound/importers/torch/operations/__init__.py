"""How operations of PyTorch become nodes."""

from __future__ import annotations
