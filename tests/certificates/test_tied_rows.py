"""One multiplier for a row of neurons: for every D of norm 1 within the row, where one for each neuron would not do."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor, nn

import jacobound as jb
from jacobound.certificates.dense.barrier import Barrier, Weights
from jacobound.certificates.dense.matrices import SdpCore
from jacobound.certificates.dense.proof import certified_constant, certify
from jacobound.certificates.dense.search import feasible_start, search

EUCLIDEAN = (2.0, 2.0)


def core_of_one_row(read: Tensor, write: Tensor, ties: Tensor | None) -> SdpCore:
    """``J = write D read`` with neurons ``z = read x`` and ``w = D z``."""
    outputs, neurons, inputs = len(write), len(read), read.shape[1]
    matrix = torch.zeros(outputs + neurons, inputs + neurons, dtype=torch.float64)
    matrix[:outputs, inputs:], matrix[outputs:, :inputs] = write, read
    return SdpCore(matrix, torch.zeros_like(matrix), outputs, inputs, (neurons,), ties)


def constant(core: SdpCore) -> tuple[float, Weights]:
    barrier = Barrier(core, False, False)
    start = feasible_start(barrier)
    assert start is not None
    found = barrier.weights(search(barrier, start, 1e-6).point)
    return certify(barrier, found, barrier.weights(start), EUCLIDEAN).value, found


def test_a_tied_row_may_turn_vectors() -> None:
    """The largest ``||write D read||`` over all D of norm 1 is the product of both norms: D can turn."""
    generator = torch.Generator().manual_seed(0)
    read, write = (torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    truth = float(torch.linalg.matrix_norm(read, 2) * torch.linalg.matrix_norm(write, 2))
    tied, _ = constant(core_of_one_row(read, write, torch.zeros(3, dtype=torch.int64)))
    alone, _ = constant(core_of_one_row(read, write, None))
    assert truth * (1 - 1e-9) <= tied <= truth * (1 + 1e-3)
    assert alone < 0.99 * truth  # for diagonal D, which can not turn


def test_different_multipliers_within_a_row_prove_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    read, write = (torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    core = core_of_one_row(read, write, torch.tensor([4, 4, 7]))
    value, found = constant(core)
    assert value < inf
    for scale in ([1 + 1e-9, 1.0, 1.0], [1.0, 1 - 1e-9, 1.0]):
        changed = Weights(found.neurons * torch.tensor(scale, dtype=torch.float64), found.inputs, found.outputs)
        assert certified_constant(core, changed, EUCLIDEAN) == inf
    alone = Weights(found.neurons * torch.tensor([1.0, 1.0, 1 + 1e-9]).double(), found.inputs, found.outputs)
    assert certified_constant(core, alone, EUCLIDEAN) < inf  # the third is a row of its own


@pytest.mark.parametrize("middle", ["softmax", "layer norm"])
def test_whole_space_constants_are_tighter_by_rows_and_hold(middle: str) -> None:
    torch.manual_seed(0)
    row: nn.Module = nn.Softmax(-1) if middle == "softmax" else nn.LayerNorm(6, eps=0.1)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), row, nn.Linear(6, 3)).double().eval()
    graph = jb.from_torch(module, torch.zeros(1, 4, dtype=torch.float64), variance_floor=0)
    found = jb.lipschitz(graph, jb.WholeSpace(), jb.LipSDP())
    points = torch.randn(200, 4, dtype=torch.float64) * torch.logspace(-1, 1, 200, dtype=torch.float64).unsqueeze(1)
    jacobians = torch.func.vmap(torch.func.jacrev(module))(points).detach()
    attained = float(torch.linalg.matrix_norm(jacobians, 2).max())
    assert attained <= float(found.upper) <= 5 * attained
