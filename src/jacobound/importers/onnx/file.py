"""`from_onnx`: read a network from an ONNX file, as the real-number function that its stored weights define.

The file is checked (`jacobound.importers.onnx.model.safety`), walked once, and the result is compared with the file
itself on random points before it is returned.
"""

from __future__ import annotations

import importlib
import os
from math import prod

import torch
from torch import Tensor

from jacobound.errors import MissingExtraError
from jacobound.graph.graph import Graph
from jacobound.graph.source import Source
from jacobound.importers.lowering.common import verify
from jacobound.inputs.files import name_of

BATCH = "The file does not treat the points of a batch as it treats single points; export it for a batch of one"
MANY = 2**22  # entries of all nodes


def from_onnx(
    source: str | os.PathLike[str] | bytes, until: str | None = None, variance_floor: float | None = None
) -> Graph:
    """The network in an ONNX file, opset 7 to current.

    The network is taken for one point at a time: axis 0 of the input is the batch if it is symbolic or 1, and points
    have the remaining shape; the outputs likewise. With another first length the whole input is one point. Of several
    inputs the points have the shape (total,): their entries one behind the other in the order of the file, each row by
    row (`Box.side_by_side` joins a region for each). The file's own bytes are run in a second engine (onnxruntime where
    it is installed, else the evaluator of the package `onnx`) and must have the graph's values up to rounding, one by
    one and, where the batch is open, several at once. Weights are converted to float64 exactly. Parts that do not
    depend on the input are evaluated once, in the file's own number format, and count as weights. Nodes carry the names
    of the tensors in the file.

    Args:
        source: path of the file, or its content; gzip (.onnx.gz) is read, and so are weights in files beside it, as
            ``torch.onnx.export`` writes them (inside its folder, no links out of it, 2 GiB in all).
        until: name of a tensor or node whose result becomes the output; None for the output that the file declares.
        variance_floor: **an assumption**: what layer, group, instance, RMS and l_2 normalisation divide by is never
            smaller, as a variance (mean square) of every row, for all inputs of interest. Lipschitz constants then rest
            on it, and results name it (`Provenance.assumptions`). None assumes nothing: constants through such a layer
            are refused unless the region keeps the variance positive. 0 assumes nothing either, and accepts the
            constant that eps alone gives.

    Returns:
        A float64 graph on the CPU. It is not an approximation of the network: results for it hold for the
        real-number function. (An inference engine rounds each operation to float32; bounds do not cover that.)

    Raises:
        MissingExtraError: when the package `onnx` is not installed.
        InvalidModelError: when the file is no valid ONNX model (or onnxruntime refuses it), is damaged, has NaN
            weights, weights in half precision or outside of its folder, would become too large, has functions that
            engines read differently, depends on the length of an open batch, or does not agree with its imported graph.
        UnsupportedOpError: when an operation is not understood; it is named, with its place.
    """
    try:
        importlib.import_module("onnx")
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx") from error
    # Imported here, because these modules need the optional package.
    from jacobound.importers.onnx.model.safety import read_model
    from jacobound.importers.onnx.runtime import original
    from jacobound.importers.onnx.several import side_by_side
    from jacobound.importers.onnx.walk import select, walk

    file = side_by_side(read_model(source), until)
    origin = Source("onnx", name_of(source), file.sha256, until)
    program = select(file, until)
    graph = walk(program, variance_floor)
    check = original(file, program, until)
    example = torch.zeros(1, *graph.in_shape, dtype=torch.float64)
    name = "the ONNX model" if isinstance(source, bytes) else file.subject
    subject = f"{name} (as run by {check.engine})"
    points = 3 if sum(prod(node.shape) for node in graph.nodes) <= MANY else 1  # the values of all nodes are held
    verify(graph, check, example=example, subject=subject, dtype=check.dtype, points=points)
    if check.batched:
        subject = f"{name} run on {max(points, 2)} points at once (by {check.engine})"
        run = check.together
        verify(graph, run, example=example, subject=subject, dtype=check.dtype, points=max(points, 2), cause=BATCH)
    return graph.named(origin)


def run_onnx(
    source: str | os.PathLike[str] | bytes, points: Tensor, until: str | None = None
) -> tuple[Tensor, str, str]:
    """What an inference engine computes from a file at points, in the file's own number format; nothing certified.

    Args:
        source, until: as for `from_onnx`.
        points: shape (n, *in_shape).

    Returns:
        Outputs (n, *out_shape), the engine's name, and the SHA-256 of the file.

    Raises:
        MissingExtraError: when the package `onnx` is not installed.
        InvalidModelError, UnsupportedOpError: as `from_onnx` does.
    """
    try:
        importlib.import_module("onnx")
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx") from error
    from jacobound.importers.onnx.model.safety import read_model
    from jacobound.importers.onnx.runtime import original
    from jacobound.importers.onnx.several import side_by_side
    from jacobound.importers.onnx.walk import select

    file = side_by_side(read_model(source), until)
    run = original(file, select(file, until), until)
    return run(points.to(run.dtype)), run.engine, file.sha256
