"""Radii from constants over the whole space: what is left for networks whose constants were made small in training."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import down
from jacobound.constants.autolip import AutoLip
from jacobound.errors import InvalidRegionError, UnsupportedOpError
from jacobound.inputs.regions import WholeSpace
from jacobound.method import Query
from jacobound.questions.evaluators import Around

Known = dict[bytes, Tensor]


def by_global_constants(around: Around, margin: Tensor, largest: float, known: Known) -> Tensor:
    """Certified radii ``margin / L`` for constants L of the margins over the whole space; 0 where there is none.

    Products of norms of layers: a margin changes by no more than L times the distance, whatever the activations do.

    Args:
        margin: certified lower bounds of the margins at the points, shape (n, K).
        largest: no larger radius is claimed.
        known: constants of margins that were asked for before; filled here.

    Returns:
        float64, shape (n, K).
    """
    key = around.rows.cpu().numpy().tobytes()
    if key not in known:
        known[key] = torch.stack([_constant(around, row) for row in around.rows.split(1)])
    return down(margin / known[key].to(margin.device)).nan_to_num(nan=0.0).clamp(0.0, largest)


def _constant(around: Around, row: Tensor) -> Tensor:
    """Constant of one margin from l_p, inf where the layers have none; 0-d, float64."""
    target, p = around.graph.with_rows(row), around.balls.p
    domain = WholeSpace().domains(target)[0][:1]
    try:
        # All norms of one number are the same, and for two unequal ones AutoLip converts from every norm it knows.
        norm = (p, inf if p == 2 else 2.0)
        return AutoLip().constant(Query(target, domain, around.budget, norm)).value.to("cpu", torch.float64)
    except (InvalidRegionError, UnsupportedOpError):
        return torch.tensor(inf, dtype=torch.float64)
