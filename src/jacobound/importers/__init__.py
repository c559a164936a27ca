"""Ways into jacobound: from a PyTorch module, an ONNX file, or plain matrices, to a `Graph`."""

from __future__ import annotations

from jacobound.importers.layers import from_layers
from jacobound.importers.onnx.file import from_onnx
from jacobound.importers.torch.module import from_torch

__all__ = ["from_layers", "from_onnx", "from_torch"]
