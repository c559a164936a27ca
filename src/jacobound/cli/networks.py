"""The network that a command is about: which file, how far, and what is taken for granted about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from cyclopts import Parameter

from jacobound.errors import JacoboundError
from jacobound.graph import Graph
from jacobound.importers import from_onnx


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """How the file is read.

    Args:
        until: Tensor or node that becomes the output.
        variance_floor: Assume that no normalisation divides by a smaller
            variance (mean square).
    """

    until: str | None = None
    variance_floor: float | None = None

    def read(self, net: Path) -> Graph:
        """The network in a file; it is data and never unpickled.

        Raises:
            JacoboundError: when there is no such file.
            InvalidModelError, UnsupportedOpError: when it is no ONNX model, or one that is not understood.
        """
        if net.suffix.lower() == ".pt2":
            raise JacoboundError(f"'{net}': .pt2 archives are not read; export the module to ONNX or use from_torch")
        if not net.is_file():
            raise JacoboundError(f"there is no file '{net}'; NET is the path of an .onnx file")
        return from_onnx(net, self.until, self.variance_floor)


def on_device(graph: Graph, device: str, dtype: str = "float64") -> Graph:
    """The graph on a device.

    Raises:
        JacoboundError: when there is no such device.
        UnsafeArithmeticError: when the number format can not hold the weights.
    """
    try:
        place = torch.device(device)
    except RuntimeError:
        raise JacoboundError(f"--device takes cpu, cuda or cuda:1, not '{device}'") from None
    if place.type not in ("cpu", "cuda"):
        raise JacoboundError(f"--device takes cpu, cuda or cuda:1; rounding on '{device}' has not been studied")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise JacoboundError(f"there is no device '{device}' here: torch sees {torch.cuda.device_count()} CUDA devices")
    return graph.to(place, getattr(torch, dtype))
