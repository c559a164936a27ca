"""Single functions behind `certificates/test_sdp_core.py`, number by number."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Generator, Tensor

from certificate_cases import gates_of
from exact import random_floats, rationals
from jacobound import Graph
from jacobound.arithmetic.intervals import Interval
from jacobound.certificates.dense.forwards import forward_core, sdp_core
from jacobound.certificates.dense.matrices import SdpCore, _Backwards, scaled
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian.known_slopes import KnownSlopes, middle_slopes
from jacobound.operators.kinds import Dense
from zoo import KINDS


def jacobian_of(core: SdpCore, d: Tensor) -> Tensor:
    """``R + S (1 - D Q)^-1 D P``: what the core says of the Jacobian for one choice of slopes."""
    q, n = core.outputs, core.inputs
    upper, lower = core.matrix[:q], core.matrix[q:]
    inner = torch.eye(core.neurons, dtype=torch.float64) - d.unsqueeze(1) * lower[:, n:]
    return upper[:, :n] + upper[:, n:] @ torch.linalg.solve(inner, d.unsqueeze(1) * lower[:, :n])


def by_chain_rule(graph: Graph, slopes: Mapping[Node, Tensor]) -> Tensor:
    count = size(graph.input)
    tangent: dict[Node, Tensor] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            tangent[node] = torch.eye(count, dtype=torch.float64).reshape(count, *node.shape)
        elif isinstance(node, Affine):
            tangent[node] = sum(operator.apply(tangent[source]) for operator, source in node.terms)  # type: ignore[assignment]
        else:
            assert isinstance(node, Elementwise)
            tangent[node] = slopes[node] * tangent[node.source]
    return tangent[graph.output].flatten(1).T


def drawn(slopes: Mapping[Node, Interval], generator: Generator) -> tuple[dict[Node, Tensor], Tensor]:
    """Slopes anywhere in their ranges, and the numbers d of the unstable ones in topological order."""
    chosen, numbers = {}, []
    for node, slope in slopes.items():
        middle, half = middle_slopes(slope.map(torch.flatten))
        d = 2 * torch.rand(len(half), generator=generator, dtype=torch.float64) - 1
        d = torch.where(torch.rand(len(half), generator=generator) < 0.5, d.sign(), d)
        chosen[node] = (middle + half * d).reshape(slope.shape)
        numbers.append(d[half != 0])
    return chosen, torch.cat(numbers) if numbers else torch.zeros(0).double()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("batch_norm", "convolution")])
def test_core_gives_every_jacobian_of_the_region(kind: str, seed: int) -> None:
    """Also transposed, row by row, and without what has no influence."""
    generator = Generator().manual_seed(seed)
    for _ in range(4):
        gates = gates_of(KINDS[kind](generator).with_rows(None).expanded(), 0.5, seed)
        graph, slopes = gates.graph, gates.slopes
        whole = _Backwards(graph, slopes).build()
        pruned, forwards = sdp_core(graph, slopes), forward_core(graph, slopes)
        assert forwards is not None and forwards.missed is not None
        for _ in range(3):
            chosen, d = drawn(KnownSlopes.of(slopes).ranges, generator)
            truth = by_chain_rule(graph, chosen)
            size_of = 1e-10 * (1 + float(truth.abs().max()))
            assert float((jacobian_of(whole, d) - truth).abs().max()) <= size_of
            bound = forwards.missed + 1e-13 * (1 + float(truth.abs().max()))
            assert bool(((jacobian_of(forwards, d) - truth).abs() <= bound).all())
            turned = whole.transposed()
            assert float((jacobian_of(turned, d.flip(0)) - truth.T).abs().max()) <= size_of
            lower = turned.matrix[turned.outputs :, turned.inputs :]
            assert float(lower.triu().abs().max() if lower.numel() else 0.0) == 0.0
            if pruned.neurons == whole.neurons and pruned.inputs == whole.inputs:
                row = pruned.rows(torch.tensor([truth.shape[0] - 1]))
                if row.neurons == whole.neurons and row.inputs == whole.inputs:
                    assert float((jacobian_of(row, d) - truth[-1:]).abs().max()) <= size_of


def test_products_and_sums_of_rows_pay_their_rounding(generator: Generator) -> None:
    """One product with a slope, and one sum at a node with two readers, each without any other rounding near it."""
    rows, more = (random_floats((3, 4), torch.float64, generator, (-3, 3)) for _ in range(2))
    factor = torch.tensor([0.1, -0.7, 1.0, 0.0], dtype=torch.float64)
    product, radius = scaled(rows, torch.zeros_like(rows), factor)
    for x, f, y, r in zip(*(rationals(e) for e in (rows, factor.expand(3, 4), product, radius)), strict=True):
        assert abs(x * f - y) <= r
    assert float(radius.max()) < 1e-13 and bool((radius[:, 2:] == 0).all()) and not bool(product[:, 3].any())
    x = Input((4,))
    sweep = _Backwards(Graph(Affine(((Dense(torch.ones(1, 4, dtype=torch.float64)), x),))), {})
    sweep._add(x, rows, torch.zeros_like(rows))
    sweep._add(x, more[:2], torch.zeros_like(more[:2]))
    total, radius = sweep._at[x]
    padded = torch.cat((more[:2], torch.zeros(1, 4, dtype=torch.float64)))
    for a, b, y, r in zip(*(rationals(e) for e in (rows, padded, total, radius)), strict=True):
        assert abs(a + b - y) <= r
