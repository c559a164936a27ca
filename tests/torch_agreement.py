"""How tests of `from_torch` compare a graph with its module."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from jacobound import Graph


def agreement(graph: Graph, module: nn.Module, shape: tuple[int, ...], relative: float, *, slopes: bool = True) -> None:
    """Values for batches of several sizes, and Jacobians by automatic differentiation, in float64."""
    generator = torch.Generator().manual_seed(3)
    double = copy.deepcopy(module).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of "same" padding with even kernels
        for count in (1, 2, 7):
            x = 2 * torch.randn(count, *shape, generator=generator, dtype=torch.float64)
            expected = double(x.clone()).detach()
            torch.testing.assert_close(graph(x), expected, rtol=relative, atol=relative, equal_nan=True)
            assert graph.out_shape == tuple(expected.shape[1:])
        if not slopes:
            return
        point = torch.randn(shape, generator=generator, dtype=torch.float64)
        alone = graph if graph.out_shape else lambda x: graph(x[None])[0]
        ours = torch.func.jacrev(alone)(point)
        theirs = torch.autograd.functional.jacobian(lambda x: double(x[None].clone())[0], point)
    torch.testing.assert_close(ours, theirs, rtol=10 * relative, atol=10 * relative, equal_nan=True)
