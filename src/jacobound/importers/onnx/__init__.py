"""From an ONNX file to a graph."""

from __future__ import annotations
