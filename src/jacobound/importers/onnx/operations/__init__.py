"""How operations of ONNX become nodes."""

from __future__ import annotations
