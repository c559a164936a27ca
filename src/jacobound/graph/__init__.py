"""Networks as graphs of affine, elementwise and vector nodes."""

from __future__ import annotations
