"""Nodes in words and numbers: a row for each, sizes, the fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Vector, size
from jacobound.words import SCREEN, not_finite, sizes_text, table_text, told

TITLES = ("<name", "<kind", "<detail", "<shape", "parameters", "<sources")


def weights_of(node: Node) -> tuple[Tensor, ...]:
    """The weights of one node."""
    if isinstance(node, Affine):
        weights = tuple(tensor for operator, _ in node.terms for tensor in operator.parameters())
        return weights if node.bias is None else (*weights, node.bias)
    return node.activation.parameters if isinstance(node, Elementwise) else ()


def check_weights(nodes: Sequence[Node], checked: Collection[Node]) -> None:
    """Refuse weights that are not finite, of several dtypes or devices, or of a dtype that nothing is proved for.

    Args:
        checked: nodes whose weights are known to be finite.

    Raises:
        InvalidModelError: says which.
    """
    kinds = set()
    for node in nodes:
        for tensor in weights_of(node):
            kinds.add((tensor.device, tensor.dtype))
            if node not in checked and not torch.isfinite(tensor).all():
                raise InvalidModelError(not_finite(f"node '{node.name}'", nan=bool(tensor.isnan().any())))
    if len(kinds) > 1:
        raise InvalidModelError(f"weights live in {sorted(map(str, kinds))}; move the model to one device and dtype")
    if any(dtype not in (torch.float32, torch.float64) for _, dtype in kinds):
        raise InvalidModelError(f"weights are {kinds}; convert them exactly to float64 first")


def rows(nodes: Sequence[Node]) -> Iterator[dict[str, object]]:
    """One row per node: name, kind, operators or activation, shape, parameters, sources."""
    for node in nodes:
        detail = ""
        if isinstance(node, Affine):
            detail = " + ".join(type(operator).__name__ for operator, _ in node.terms)
        elif isinstance(node, Elementwise | Vector):
            detail = node.activation.name if isinstance(node, Elementwise) else node.function.name
        yield {
            "name": node.name,
            "kind": type(node).__name__,
            "detail": detail,
            "shape": node.shape,
            "parameters": sum(tensor.numel() for tensor in weights_of(node)),
            "sources": tuple(source.name for source in node.sources),
        }


def totals(nodes: Sequence[Node], entry: Input, output: Node) -> dict[str, object]:
    """Sizes of a network."""
    activations = [node for node in nodes if isinstance(node, Elementwise)]
    return {
        "inputs": size(entry),
        "input_shape": entry.shape,
        "outputs": size(output),
        "output_shape": output.shape,
        "nodes": len(nodes),
        "activations": sum(size(node) for node in activations),
        "parameters": sum(tensor.numel() for node in nodes for tensor in weights_of(node)),
    }


def whole_text(nodes: Sequence[Node], entry: Input, output: Node) -> str:
    """The table of all nodes, and the sizes below it."""
    cells = [[told(row[title.lstrip("<")]) for title in TITLES] for row in rows(nodes)]
    return f"{table_text(TITLES, cells, SCREEN)}\n\n{sizes_text(totals(nodes, entry, output))}"


def fingerprint(nodes: Sequence[Node]) -> str:
    """SHA-256 over structure and weights."""
    digest = hashlib.sha256()
    position = {node: k for k, node in enumerate(nodes)}
    for node, row in zip(nodes, rows(nodes), strict=True):
        digest.update(repr((row["kind"], row["detail"], row["shape"])).encode())
        digest.update(repr([position[source] for source in node.sources]).encode())
        for operator, _ in node.terms if isinstance(node, Affine) else ():
            digest.update(operator.structure())
            # A radius is told from a bias that follows.
            digest.update(repr(len(operator.parameters())).encode())
        if isinstance(node, Vector):
            digest.update(node.function.structure())
        for tensor in weights_of(node):
            digest.update(tensor.detach().to("cpu", torch.float64).contiguous().numpy().tobytes())
    return digest.hexdigest()
