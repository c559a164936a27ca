"""`from_layers`: a plain feed-forward network given by its matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jacobound.activations import Activation
from jacobound.activations import activation as named_activation
from jacobound.errors import InvalidOptionError, ShapeError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.graph.source import Source
from jacobound.importers.lowering.common import exact_weight
from jacobound.operators.kinds import Dense

Array = Any
"""A tensor, a numpy array or nested lists of numbers."""


def from_layers(
    weights: Sequence[Array],
    biases: Sequence[Array | None] | None = None,
    activation: str | Activation | Sequence[str | Activation] = "relu",
) -> Graph:
    """The network ``W_n a(... a(W_1 x + b_1) ...) + b_n``; no activation after the last layer.

    Args:
        weights: matrices of shape (out, in), torch or numpy, float32 or float64; nested lists become float64.
        biases: vectors of shape (out,), or None for zero; None altogether when no layer has one.
        activation: "relu", "leaky_relu:0.3", "tanh", ... or an `Activation`, for all hidden layers; or a list with
            one for each hidden layer (one less than weights).

    Returns:
        A float64 graph on points of shape (in,), with nodes "layer1", "layer1.activation", "layer2", ...

    Raises:
        ShapeError: when shapes or numbers of layers, biases and activations do not fit.
        InvalidModelError: NaN or infinite weights, or weights that are not float32 or float64.
        UnsupportedOpError: when an activation's name is not known.
    """
    weights, biases = _listed(weights, "weights"), None if biases is None else _listed(biases, "biases")
    matrices = [_array(weight, f"weights[{k}]") for k, weight in enumerate(weights)]
    if not matrices:
        raise ShapeError("a network needs at least one weight matrix")
    if biases is None:
        biases = [None] * len(matrices)
    if len(biases) != len(matrices):
        raise ShapeError(f"there are {len(matrices)} weights and {len(biases)} biases; give None for a missing bias")
    vectors = [None if bias is None else _array(bias, f"biases[{k}]") for k, bias in enumerate(biases)]
    hidden = _activations(activation, len(matrices) - 1)
    for k, (matrix, vector) in enumerate(zip(matrices, vectors, strict=True)):
        _check_shapes(k, matrix, vector, matrices[k - 1] if k else None)
    node: Node = Input((matrices[0].shape[1],))
    for k, (matrix, vector) in enumerate(zip(matrices, vectors, strict=True)):
        if k:
            node = Elementwise(hidden[k - 1].to(matrix.device, torch.float64), node, f"layer{k}.activation")
        node = Affine(((Dense(matrix), node),), vector, f"layer{k + 1}")
    return Graph(node, source=Source("layers", "from_layers"))


def _listed(given: Sequence[Array | None], name: str) -> list[Any]:
    """A list of arrays.

    Raises:
        ShapeError: when it is something else.
    """
    if not isinstance(given, list | tuple):
        raise ShapeError(f"{name} is a list with one array for each layer, not a {type(given).__name__}")
    return list(given)


def _array(values: Array, name: str) -> Tensor:
    """A copy as float64, so that later changes of the caller's arrays do not reach the graph."""
    try:
        if isinstance(values, list | tuple):
            values = torch.tensor(values, dtype=torch.float64)
        elif not isinstance(values, Tensor):
            values = torch.as_tensor(values.copy())
    except (TypeError, ValueError, AttributeError) as error:
        raise ShapeError(f"{name} can not be read as an array of numbers: {error}") from error
    return exact_weight(values, name).clone()


def _activations(given: str | Activation | Sequence[str | Activation], count: int) -> list[Activation]:
    """One activation for each hidden layer."""
    if not isinstance(given, str | Activation | list | tuple):
        raise InvalidOptionError(f"activation is a name, an Activation or a list of them, not a {type(given).__name__}")
    entries = [given] * count if isinstance(given, str | Activation) else list(given)
    if not all(isinstance(one, str | Activation) for one in entries):
        raise InvalidOptionError("a list of activations holds names or Activations")
    if len(entries) != count:
        raise ShapeError(
            f"there are {count} hidden layers and {len(entries)} activations; give one for each hidden layer (none "
            "follows the last layer), or a single one for all"
        )
    return [named_activation(entry) if isinstance(entry, str) else _own(entry) for entry in entries]


def _own(activation: Activation) -> Activation:
    """An activation whose tensors are no one else's."""
    if not activation.parameters or activation.rebuild is None:
        return activation
    return activation.rebuild(*(parameter.detach().clone() for parameter in activation.parameters))


def _check_shapes(k: int, matrix: Tensor, vector: Tensor | None, before: Tensor | None) -> None:
    if matrix.dim() != 2 or 0 in matrix.shape:
        raise ShapeError(f"weights[{k}] has shape {tuple(matrix.shape)}; give a matrix (out, in)")
    if before is not None and before.shape[0] != matrix.shape[1]:
        raise ShapeError(
            f"weights[{k}] of shape {tuple(matrix.shape)} takes {matrix.shape[1]} numbers, but the layer before it "
            f"gives {before.shape[0]}; weights are (out, in), transpose them if yours are (in, out)"
        )
    if vector is not None and tuple(vector.shape) != (matrix.shape[0],):
        raise ShapeError(
            f"biases[{k}] has shape {tuple(vector.shape)}; a layer with a weight of shape {tuple(matrix.shape)} "
            f"takes a bias of shape ({matrix.shape[0]},)"
        )
