"""From a PyTorch module to a graph."""

from __future__ import annotations
