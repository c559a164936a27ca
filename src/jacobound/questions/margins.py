"""Decisions of a classifier: labels, targets, and the margins ``f_label - f_target`` as rows behind a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jacobound.checks import shown
from jacobound.errors import ShapeError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size

Labels = int | Tensor | np.ndarray | Sequence[int]


@dataclass(frozen=True, eq=False)
class Decisions:
    """What has to stay true at each of N points: the label's output above those of the targets.

    Args:
        labels: int64, shape (N,).
        targets: int64, shape (N, K).
        classes: number of outputs.
    """

    labels: Tensor
    targets: Tensor
    classes: int

    def rows(self, point: int) -> Tensor:
        """The margins of a point, shape (K, classes)."""
        unit = torch.eye(self.classes, dtype=torch.float64)
        return unit[self.labels[point]] - unit[self.targets[point]]

    def groups(self, most: int) -> list[Tensor]:
        """Points with the same label and targets, at most so many together, in the order of their first ones."""
        both = torch.cat((self.labels.unsqueeze(1), self.targets), 1)
        _, place = torch.unique(both, dim=0, return_inverse=True)
        found: dict[int, list[int]] = {}
        for point, kind in enumerate(place.tolist()):
            found.setdefault(kind, []).append(point)
        return [part for points in found.values() for part in torch.tensor(points).split(most)]


def decisions(
    graph: Graph, points: Tensor, lead: tuple[int, ...], label: Labels | None, targets: Labels | None
) -> Decisions:
    """Labels and targets of N points, checked.

    Args:
        points: shape (N, *input shape).
        lead: how the points were arranged.
        label: of every point, or one for all; None for what the network says (in plain floating point).
        targets: classes that must not be reached, the same for all points (k,) or different ones (*lead, k); None for
            all but the label.

    Raises:
        ShapeError: when they do not fit the points, or a target is the label.
    """
    classes, count = size(graph.output), len(points)
    if classes < 2:
        raise ShapeError("a decision needs two outputs or more, one per class; this network has one output")
    if label is None:
        labels = graph(points).reshape(count, classes).argmax(1).cpu()
    else:
        labels = _spread(_classes(label, classes, "label"), lead, "label").reshape(count)
    if targets is None:
        others = torch.arange(classes).expand(count, classes)
        return Decisions(labels, others[others != labels.unsqueeze(1)].reshape(count, classes - 1), classes)
    given = _classes(targets, classes, "targets")
    given = given.reshape(1) if given.dim() == 0 else given
    chosen = _spread(given, (*lead, given.shape[-1]), "targets").reshape(count, -1).contiguous()
    if bool((chosen == labels.unsqueeze(1)).any()):
        raise ShapeError("a target is the label itself; leave targets out for all other classes")
    return Decisions(labels, chosen, classes)


def _spread(classes: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """Classes for every point.

    Raises:
        ShapeError: when there are other numbers of classes and points.
    """
    try:
        return classes.expand(shape)
    except RuntimeError:
        raise ShapeError(
            f"{what} of shape {tuple(classes.shape)} for points that need {shape}; give one for all"
        ) from None


def _classes(given: Labels, classes: int, what: str) -> Tensor:
    try:
        found = torch.as_tensor(given if isinstance(given, int | Tensor) else np.asarray(given)).cpu()
    except Exception as error:  # whatever numpy, torch or the user's own object says
        raise ShapeError(
            f"{what} must be numbers of classes, integers from 0 to {classes - 1}, not {shown(given)}"
        ) from error
    if found.layout is not torch.strided or found.is_meta:
        raise ShapeError(f"{what} must be a plain list of numbers of classes, not {shown(given)}")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool or not found.numel():
        raise ShapeError(f"{what} must be numbers of classes, integers from 0 to {classes - 1}")
    if bool((found < 0).any()) or bool((found >= classes).any()):
        raise ShapeError(f"{what} must lie between 0 and {classes - 1}, the last output of this network")
    return found.to(torch.int64)
