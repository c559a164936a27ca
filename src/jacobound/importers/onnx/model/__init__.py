"""What stands in an ONNX file, read with every size known before it is allocated."""

from __future__ import annotations
