"""The network that a command is about: which file, how far, and what is taken for granted about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from jacobound.errors import JacoboundError
from jacobound.graph.graph import Graph
from jacobound.importers import from_onnx
from jacobound.inputs.grammar import parse_numbers

NUMBERS = Parameter(allow_leading_hyphen=True)


@Parameter(name="*", group="Network")
@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """How the file is read, and in which units its inputs and outputs are.

    Args:
        until: Tensor or node that becomes the output.
        variance_floor: Assume that no normalisation divides by a smaller variance (mean square).
        mean: The network takes (x - MEAN) / STD; one number, or one per channel or input between commas. Points and
            radii are then those of x, pixels say.
        std: See --mean; 1/255 is exact.
        output_scale: The answer is about y * OUTPUT_SCALE + OUTPUT_SHIFT; one number or one per output.
        output_shift: See --output-scale.
    """

    until: str | None = None
    variance_floor: float | None = None
    mean: Annotated[str | None, NUMBERS] = None
    std: Annotated[str | None, NUMBERS] = None
    output_scale: Annotated[str | None, NUMBERS] = None
    output_shift: Annotated[str | None, NUMBERS] = None

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
        return self._in_units(from_onnx(net, self.until, self.variance_floor))

    def _in_units(self, graph: Graph) -> Graph:
        """The network with its preprocessing and postprocessing."""
        if self.mean is not None or self.std is not None:
            mean, std = parse_numbers(self.mean or "0", "--mean"), parse_numbers(self.std or "1", "--std")
            graph = graph.with_preprocessing(mean, std)
        if self.output_scale is not None or self.output_shift is not None:
            scale = parse_numbers(self.output_scale or "1", "--output-scale")
            graph = graph.with_postprocessing(scale, parse_numbers(self.output_shift or "0", "--output-shift"))
        return graph


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
