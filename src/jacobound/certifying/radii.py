"""Robust radii in certificates: for every point and target the lines that keep the margin above 0 over its ball."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jacobound.certifying.choices import told_choices
from jacobound.certifying.files import Arrays
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Node
from jacobound.inputs.regions import Ball
from jacobound.relaxation.ranges import CROWN
from jacobound_check.errors import CertificateError
from jacobound_check.proofs import Question, proved

HALVINGS = 12  # of the way between what is proved and the result's radius


def told_radii(
    question: Question, base: Graph, place: dict[Node, int], points: Ball, radius: Tensor, arrays: Arrays
) -> tuple[list[Any], np.ndarray]:
    """Proofs for every point and target, None where there is none, and the radii that they prove.

    Lines over the whole ball prove a margin; where they prove none for the result's radius, the largest one for which
    they do is looked for.

    Args:
        question: as the checker reads it, with labels and targets.
        points: as balls of radius 0, with norm and valid range.
        radius: of the result, (points, targets).
    """
    assert question.labels is not None and question.targets is not None
    centres = torch.as_tensor(points.center, dtype=torch.float64).reshape(-1, *base.in_shape)
    proofs, found = [], np.zeros(question.targets.shape)
    for k in range(question.targets.size):
        point, target = divmod(k, question.targets.shape[1])
        row = torch.zeros(1, question.network.outputs, dtype=torch.float64)
        row[0, question.labels[point]], row[0, question.targets[point, target]] = 1.0, -1.0
        whole = base.with_rows(row)
        places = {**place, whole.output: len(place)}
        alone = replace(
            question,
            sets=(question.sets[point],),
            labels=question.labels[point : point + 1],
            targets=question.targets[point : point + 1, target : target + 1],
        )

        def attempt(r: float, k: int = k, whole: Graph = whole, places: Any = places, alone: Any = alone) -> Any:
            own = Arrays()
            ball = Ball(centres[k // question.targets.shape[1]], r, points.p, points.clip)  # type: ignore[union-attr]
            domain = ball.domains(whole)[0][0:1]
            proof = {"ranges": told_choices(whole, domain, CROWN(), places, own, f"radius{k}")}
            try:
                proved(alone, {"sets": [proof]}, {"radius": np.array([[r]])}, {**arrays.found, **own.found})
            except CertificateError:
                return None
            return proof, own

        found[point, target], best = _largest(float(radius.reshape(found.shape)[point, target]), attempt)
        proofs.append(None if best is None else best[0])
        if best is not None:
            for name, array in best[1].found.items():
                arrays.put(name, array)
    return proofs, found


def _largest(wanted: float, attempt: Callable[[float], Any]) -> tuple[float, Any]:
    """The wanted radius, else the largest one that bisection finds."""
    best = attempt(wanted) if wanted > 0 else None
    if best is not None or wanted <= 0:
        return (wanted if best is not None else 0.0), best
    low, high = 0.0, wanted
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        now = attempt(middle)
        low, high, best = (middle, high, now) if now is not None else (low, middle, best)
    return low, best
