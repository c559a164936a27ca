"""`RobustRadius`: what `robust_radius` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from jacobound.inputs.exponents import told_norm
from jacobound.reports.page.bounds import radius_sections
from jacobound.reports.page.sections import Names, Section
from jacobound.results.facts import about, apart
from jacobound.results.kinds import Provenance, Result, Status, figures
from jacobound.stored import stored
from jacobound.words import rounded_down, rounded_up, told


@stored
@dataclass(frozen=True, eq=False, repr=False)
class RobustRadius(Result):
    """Radii within which the decision of a classifier can not change, and adversarial points outside of them.

    Args:
        radius: certified when `status.certified`: for every y with ``||y - x||_p <= radius`` (and inside `clip`) the
            output of the label is larger than that of the target. 0 where nothing is certified. float64, shape
            (*batch, K) for K targets.
        attack_radius: distance of `witness`, rounded up: there the target's output is larger, which is certified as
            well. inf where no such point was found. Same shape.
        margin: certified lower bound of label minus target at x itself, same shape; -inf where time was too short.
        label: shape (*batch).
        targets: shape (*batch, K).
        details: certified radii by argument, each of the shape of `radius`, which is their maximum.
        status: certified or why not.
        p: norm of the distances.
        clip: the valid range, or None.
        witness: adversarial points, shape (*batch, K, *input shape), NaN where none was found; None without an attack.
        seconds: wall-clock time.
        provenance: how it was found.
        decided_before: last functions of the network that keep the order of its outputs; margins are those of the
            values before them.
    """

    radius: Tensor
    attack_radius: Tensor
    margin: Tensor
    label: Tensor
    targets: Tensor
    details: Mapping[str, Tensor]
    status: Status
    p: float
    clip: tuple[object, object] | None
    witness: Tensor | None
    seconds: float
    provenance: Provenance
    decided_before: tuple[str, ...] = ()
    told_as: ClassVar[str] = "Robust radius"

    @property
    def untargeted(self) -> Tensor:
        """The smallest certified radius over the targets, shape (*batch)."""
        return self.radius.amin(-1)

    @property
    def untargeted_attack(self) -> Tensor:
        """Distance of the nearest adversarial point found for any target, shape (*batch)."""
        return self.attack_radius.amin(-1)

    @property
    def method(self) -> list[str]:
        """The argument behind each radius, in row-major order."""
        names = list(self.details)
        best = torch.stack([self.details[name] for name in names]).argmax(0)
        return [names[k] for k in best.flatten().tolist()]

    def certified_accuracy(self, radii: float | Sequence[float] | Tensor) -> Tensor:
        """Share of the points whose label is certified over the whole ball of each radius; the shape of `radii`.

        With labels of a data set this is certified accuracy; with the network's own the share of stable decisions.
        """
        wanted = torch.as_tensor(radii, dtype=torch.float64)
        held = (self.margin > 0).all(-1).flatten() & (self.untargeted.flatten() >= wanted.unsqueeze(-1))
        return held.to(torch.float64).mean(-1)

    def attacked_accuracy(self, radii: float | Sequence[float] | Tensor) -> Tensor:
        """Share of the points that no attack moved within each radius: robust accuracy is at most this."""
        wanted = torch.as_tensor(radii, dtype=torch.float64)
        right = (self.margin > 0).all(-1).flatten()
        return (right & (self.untargeted_attack.flatten() > wanted.unsqueeze(-1))).to(torch.float64).mean(-1)

    def headline(self) -> str:
        held, reached, name = self.untargeted, self.untargeted_attack, told_norm(self.p)
        if held.numel() == 1:
            attack = rounded_up(float(reached))
            head = f" (decided before {', '.join(self.decided_before)})" if self.decided_before else ""
            return (
                f"class {int(self.label)} holds within {name} {rounded_down(float(held))}, attacked at {attack}{head}"
            )
        sizes = f"{rounded_down(float(held.min()))} to {rounded_down(float(held.max()))}" if held.numel() else "none"
        return f"{name} radii of {held.numel()} points: {sizes}; {int((held > 0).sum())} above 0"

    def claim(self) -> str:
        clip = "" if self.clip is None else " that is inside of the valid range"
        return (
            f"For every input{clip} within the certified radius ({told_norm(self.p)}) of the point the output of its "
            "label is larger than that of the target. At the point of the attack, which lies no farther than told, the "
            "target's output is proved to be larger."
        )

    def sections(self, names: Names) -> Sequence[Section]:
        parts = (
            *about(self.provenance),
            ("norm", told_norm(self.p)),
            ("valid range", told(self.clip)),
            *apart(self.provenance),
        )
        return radius_sections(self, self.table(), names.outputs, parts)

    def plot(self, ax: Any = None) -> Any:
        """Certified radius and nearest attack: of every point, or of every target where there is one; the axes."""
        return figures().plot_radius(self, ax)

    def table(self) -> list[dict[str, object]]:
        """One plain row per point and target; `pandas.DataFrame(result.table())` makes a frame of it."""
        count, rows = self.targets.shape[-1], []
        for k, method in enumerate(self.method):
            row: dict[str, object] = {"point": k // count, "label": int(self.label.flatten()[k // count])}
            row |= {"target": int(self.targets.flatten()[k]), "margin": float(self.margin.flatten()[k])}
            row |= {"radius": float(self.radius.flatten()[k]), "attack_radius": float(self.attack_radius.flatten()[k])}
            rows.append(row | {"method": method})
        return rows
