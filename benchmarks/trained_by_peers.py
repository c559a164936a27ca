"""`python -m benchmarks.trained_by_peers [names]`: global constants of the networks of other tools' tables.

Prints the value that was published, what the default proves in 10 CPU seconds, and what the method for the kind of
network proves: `FourierSDP` behind convolutions, `LipSDP` else, within 60. All bounds are certified, and for l2.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from benchmarks.plan import data_folder

# Columns of the tables that are other quantities than a certified constant.
NO_BOUNDS = ("time_", "Lip_lb", "Lip_SepLip", "Lip_MP", "Lip_LT", "Lip_LiPopt")


@dataclass(frozen=True, eq=False)
class Trained:
    """One network of a table.

    Args:
        name: as it is called there.
        module: float64.
        shape: of its input.
        row: the output that is meant; None for all.
        published: the smallest valid upper bound there; None when there is none.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    row: int | None
    published: float | None


class Residual(nn.Module):
    """A linear layer, blocks ``relu(fc2(relu(fc1 x)) + x)``, a linear layer."""

    def __init__(self, first: nn.Module, blocks: list[tuple[nn.Module, nn.Module]], last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.blocks = nn.ModuleList(nn.ModuleList(pair) for pair in blocks)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        x = torch.relu(self.first(x))
        for one, two in self.blocks:  # type: ignore[misc]
            x = torch.relu(two(torch.relu(one(x))) + x)
        return self.last(x)


class GroupSort(nn.Module):
    """The two numbers of every pair of neighbours, in ascending order."""

    def forward(self, x: Tensor) -> Tensor:
        """Sorted pairs."""
        return x.reshape(*x.shape[:-1], -1, 2).sort(-1).values.flatten(-2)


def trained_by_peers(folder: Path) -> Iterator[Trained]:
    """All networks of the index in `folder`."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    for name, told in index.items():
        weights = {key: torch.tensor(value).double() for key, value in numpy.load(folder / f"{name}.npz").items()}
        module, shape = _module(weights, told["kind"])
        yield Trained(name, module.double().eval(), shape, told.get("row"), _published(told))


def _published(told: dict[str, Any]) -> float | None:
    only = "only the published GLipSDP column" in told.get("remark", "")
    values = [
        value
        for key, value in told.get("published", {}).items()
        if not key.startswith(NO_BOUNDS) and (not only or key == "Lip_GLipSDP_c")
    ]
    if told.get("what") == "exact":
        values.append(told["value"])
    return min(values, default=None)


def _module(weights: dict[str, Tensor], kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    if "input_layer_weight" in weights:
        blocks = []
        while f"blocks_{len(blocks)}_fc1_weight" in weights:
            of = f"blocks_{len(blocks)}_fc"
            one, two = (_dense(weights, f"{of}{k}_weight", f"{of}{k}_bias") for k in (1, 2))
            blocks.append((one, two))
        first, last = (_dense(weights, f"{of}_layer_weight", f"{of}_layer_bias") for of in ("input", "output"))
        return Residual(first, blocks, last), (weights["input_layer_weight"].shape[1],)
    act = GroupSort if "GroupSort" in kind else nn.ReLU
    layers: list[nn.Module] = []
    k = 1
    while f"K{k}" in weights or f"W{k}" in weights:
        if f"K{k}" in weights:
            layers += [_convolution(weights[f"K{k}"], weights.get(f"kb{k}")), act()]
        else:
            layers += [_dense(weights, f"W{k}", f"b{k}"), act()]
        k += 1
    if "W" in weights:
        return nn.Sequential(*layers, nn.Flatten(), _dense(weights, "W", "b")), (1, 8, 8)
    side = (weights["K1"].shape[1], 14, 14) if "K1" in weights else (weights["W1"].shape[1],)
    return nn.Sequential(*layers[:-1]), side


def _dense(weights: dict[str, Tensor], weight: str, bias: str) -> nn.Module:
    matrix = weights[weight]
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias in weights)
    with torch.no_grad():
        layer.weight = nn.Parameter(matrix)
        if bias in weights:
            layer.bias = nn.Parameter(weights[bias])
    return layer


def _convolution(kernel: Tensor, bias: Tensor | None) -> nn.Module:
    layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:], padding=1, bias=bias is not None)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight = nn.Parameter(kernel)
        if bias is not None:
            layer.bias = nn.Parameter(bias)
    return layer


def main(names: list[str]) -> None:
    """Print the table of the networks whose names begin with one of these; all without names."""
    import jacobound as jb

    folder = data_folder()
    if folder is None:
        raise SystemExit("the reference data are not here: set JACOBOUND_SHARED_DATA to their folder")
    sys.stdout.write("| network | published | default, 10 s | s | method for it | s | method | note |\n")
    sys.stdout.write("|---|---:|---:|---:|---:|---:|---|---|\n")
    for one in trained_by_peers(folder / "peers"):
        if names and not one.name.startswith(tuple(names)):
            continue
        graph = jb.from_torch(one.module, torch.zeros(1, *one.shape, dtype=torch.float64))
        method = jb.FourierSDP() if len(one.shape) > 1 else jb.LipSDP()
        cells, note = [], ""
        for asked, seconds in ((None, 10.0), (method, 60.0)):
            began = time.process_time()
            bound = jb.lipschitz(
                graph, jb.WholeSpace(), asked, norm=2, rows=one.row, search=None, budget=jb.Budget(cpu_seconds=seconds)
            )
            cells += [f"{float(bound.upper):.7g}", f"{time.process_time() - began:.1f}"]
            note = next(iter(bound.details.values())).note
        published = "-" if one.published is None else f"{one.published:.7g}"
        line = (one.name, published, *cells, type(method).__name__, note)
        sys.stdout.write(f"| {' | '.join(line)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
