"""`Maker`: a certified result as a certificate that `jacobound_check` proves anew; a weaker one where it must be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.certifying.choices import told_choices
from jacobound.certifying.constants import NAMES, forms
from jacobound.certifying.cuts import with_cuts
from jacobound.certifying.files import Arrays, write
from jacobound.certifying.networks import Told, told_network
from jacobound.certifying.radii import told_radii
from jacobound.certifying.witnesses import steepest_direction
from jacobound.errors import InvalidOptionError, UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.units import real_tensor, spread
from jacobound.inputs.domains import Domain
from jacobound.inputs.exponents import Weighted, plain_exponent
from jacobound.inputs.regions import Ball, Box, Region, WholeSpace
from jacobound.method import OutputMethod
from jacobound.relaxation.ranges import CROWN, IBP, FastLin
from jacobound.results.kinds import LipschitzBound, Result
from jacobound_check.certificate import CLAIMS, FORMAT
from jacobound_check.constants import crossed
from jacobound_check.errors import CertificateError
from jacobound_check.jacobians import derivative_of
from jacobound_check.proofs import Question, choices_of, proved, question_of
from jacobound_check.ranges import ranges_of
from jacobound_check.regions import Set

# Claims are so much weaker than what was proved here, for machines that sum in another order.
MARGIN, OF_ALL = 1e-11, 1e-14
# A proof whose value is so near to the result's is not improved.
SAME = 1e-9
MOST_CROSSINGS = 4


@dataclass(frozen=True)
class Written:
    """A certificate that was written.

    Args:
        path, weights: its two files.
        claims: what it proves, by name.
        proof: the forms of proof, one for each set (the same name once).
        note: empty where what it proves is what the result says, up to 1e-9 of it; else both values.
    """

    path: Path
    weights: Path
    claims: Mapping[str, np.ndarray]
    proof: tuple[str, ...]
    note: str


@dataclass(frozen=True, eq=False)
class Maker:
    """What a result needs to write its certificate: the network, and how ranges were found.

    Args:
        graph: that was asked about.
        method: that answered; None for the usual one.
    """

    graph: Graph
    method: object = None

    def __call__(self, result: Result, path: Path) -> Written:
        """Write the certificate of a result.

        Raises:
            InvalidOptionError: when the result is not certified, or is of a kind that has no certificates.
            UnsupportedOpError: when the network or the question holds what certificates do not.
        """
        return _Making(self, result, Path(path)).run()

    def ranges(self) -> OutputMethod:
        """The method behind ranges, as far as certificates know it."""
        inner = getattr(self.method, "method", self.method)
        own = inner if isinstance(inner, OutputMethod) else getattr(inner, "preactivation", None)
        return own if isinstance(own, CROWN | FastLin | IBP) else CROWN()

    @property
    def rule(self) -> str:
        """The recursion's rule, as far as certificates know it."""
        told = repr(self.method)
        if "FastLip" in told and "RecurJac" not in told:
            return "intervals"
        return "constant" if "Constant()" in told else "chord"


class _Making:
    """One certificate; lives for one call."""

    def __init__(self, maker: Maker, result: Result, path: Path) -> None:
        asked = result.question
        if asked is None or asked.region is None:
            raise InvalidOptionError("a result without its question has no certificate; ask the library for it again")
        if not result.status.certified or result.provenance.semantics != "real" or maker.graph.assumptions:
            raise InvalidOptionError(
                "certificates are for certified results about the exact network, without assumptions; this one is "
                f"{result.status.name.lower()}, {result.provenance.semantics}"
            )
        if asked.options.get("columns") is not None:
            raise UnsupportedOpError("certificates are about all inputs, not about some columns; ask without columns=")
        self._maker, self._result, self._path, self._asked = maker, result, path, asked
        self._arrays = Arrays()
        base = maker.graph.double.expanded().with_rows(None)
        self._base, self._rows = base, None if asked.rows is None else asked.rows.to(torch.float64)
        self._target = base if self._rows is None else base.with_rows(self._rows)
        self._told: Told = told_network(base, self._arrays)
        self._place = dict(self._told.place)
        if self._target is not base:
            self._place[self._target.output] = len(self._place)

    def run(self) -> Written:
        kind = self._asked.asks
        if kind not in CLAIMS:
            raise InvalidOptionError(f"a {type(self._result).__name__} has no certificate; ask for bounds instead")
        told = {"asks": kind, "region": self._region(), "rows": None, "norm": None, "labels": None, "targets": None}
        if self._rows is not None:
            told["rows"] = self._arrays.put("rows", self._rows)
        if isinstance(self._result, LipschitzBound):
            if any(isinstance(one, Weighted) for one in self._result.norm):
                raise UnsupportedOpError("certificates hold plain norms; put the weights into the network as a layer")
            told["norm"] = [NAMES[plain_exponent(one)] for one in self._result.norm]
        if kind == "robust_radius":
            return self._radii(told)
        question = question_of(told, self._told.network, self._arrays.found)
        domains = self._asked.region.domains(self._target)[0]  # type: ignore[union-attr]
        sets, names = [], []
        for k in range(len(question.sets)):
            name, leaf = self._of_set(question, k, domains[k : k + 1])
            sets.append(leaf)
            names.append(name)
        found = proved(question, {"sets": sets}, {}, self._arrays.found)
        return self._written(told, sets, tuple(dict.fromkeys(names)), found)

    def _radii(self, told: dict[str, Any]) -> Written:
        """The certificate of robust radii."""
        result: Any = self._result
        if result.decided_before:
            raise UnsupportedOpError(
                f"the radii are decided before {', '.join(result.decided_before)}; certificates hold decisions by the "
                "network's own outputs: import it until there"
            )
        count = result.targets.shape[-1]
        told |= {"labels": self._arrays.put("labels", result.label.reshape(-1))}
        told |= {"targets": self._arrays.put("targets", result.targets.reshape(-1, count))}
        question = question_of(told, self._told.network, self._arrays.found)
        region: Any = self._asked.region
        sets, radii = told_radii(question, self._base, self._place, region, result.radius, self._arrays)
        return self._written(told, sets, ("lines over the balls",), {"radius": radii})

    def _of_set(self, question: Question, k: int, domain: Domain) -> tuple[str, dict[str, Any]]:
        """The proof over one set; cut into parts where it is weaker than the result."""
        name, leaf = self._leaf(question, k, self._ranges(domain, f"set{k}"))
        numbers = itertools.count()

        def of_part(region: Set) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
            part = replace(domain, box=Interval(*(self._shaped(x) for x in (region.box.low, region.box.high))))
            _, proof = self._leaf(question, k, self._ranges(part, f"set{k}.part{next(numbers)}"), region)
            return proof, self._found(question, region, proof)

        def missing(found: dict[str, np.ndarray]) -> float:
            return max(_missing(self._result, k, len(question.sets), end, found[end]) for end in self._ends)

        region = question.sets[k]
        told = with_cuts(region, (leaf, self._found(question, region, leaf)), of_part, missing)
        lower = {"lower": leaf["lower"]} if told is not leaf and question.asks == "lipschitz" else {}
        return (name if told is leaf else f"{name}, in parts"), told | lower

    @property
    def _ends(self) -> tuple[str, ...]:
        """Of what parts can tighten; the lower end of a constant is that of a point."""
        return ("upper",) if self._asked.asks == "lipschitz" else ("lower", "upper")

    def _found(self, question: Question, region: Set, proof: dict[str, Any]) -> dict[str, np.ndarray]:
        alone = replace(question, sets=(region,))
        return {end: x[0] for end, x in proved(alone, {"sets": [proof]}, {}, self._arrays.found).items()}

    def _shaped(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.copy()).reshape(1, *self._base.in_shape)

    def _ranges(self, domain: Domain, name: str) -> Any:
        return told_choices(self._target, domain, self._maker.ranges(), self._place, self._arrays, name)

    def _region(self) -> dict[str, Any]:
        """The region as exact numbers, points flattened."""
        region: Region = self._asked.region  # type: ignore[assignment]
        shape, size = self._base.in_shape, math.prod(self._base.in_shape)

        def points(values: Any, name: str) -> str:
            return self._arrays.put(name, real_tensor(values, name).to(torch.float64).reshape(-1, size))

        if isinstance(region, WholeSpace):
            return {"kind": "space"}
        if isinstance(region, Box):
            return {"kind": "box", "lower": points(region.lower, "lower"), "upper": points(region.upper, "upper")}
        if not isinstance(region, Ball):
            raise UnsupportedOpError(f"a {type(region).__name__} is a region that certificates do not hold")

        def ends(values: Any, name: str) -> str | None:
            if values is None:
                return None
            return self._arrays.put(name, spread(real_tensor(values, name).to(torch.float64), shape, name).flatten())

        low, high = (None, None) if region.clip is None else region.clip
        return {
            "kind": "ball",
            "centre": points(region.center, "centre"),
            "radii": [float(radius).hex() for radius in region.radii],
            "p": NAMES[float(region.p)],
            "low": ends(low, "clip.low"),
            "high": ends(high, "clip.high"),
            "scale": ends(region.scale, "scale"),
        }

    def _leaf(self, question: Question, k: int, ranges: Any, part: Set | None = None) -> tuple[str, dict[str, Any]]:
        """The choices for one set or a part of it, and what the proof is called."""
        if question.asks == "bound_output":
            return ("intervals" if ranges == "intervals" else "lines"), {"ranges": ranges}
        if question.asks != "lipschitz":
            rule = self._maker.rule
            return f"Jacobian by {rule}", {"ranges": ranges, "jacobian": rule}
        return self._constant(question, k, ranges, part)

    def _constant(self, question: Question, k: int, ranges: Any, part: Set | None) -> tuple[str, dict[str, Any]]:
        """The form of proof with the smallest constant; none is tried once one reaches the result."""
        result = self._result
        assert isinstance(result, LipschitzBound) and question.norms is not None
        wanted = float(result.upper.flatten()[k])
        best, name, chosen = math.inf, "nothing", {"jacobian": "none", "upper": {"by": "nothing"}}
        alone = Question("lipschitz", question.network, (part or question.sets[k],), question.norms)
        sizes = question.network.inputs, question.network.outputs
        for called, form in forms(result, k, question.norms, sizes, self._crossings(alone, ranges), self._arrays):
            try:
                proof = {"sets": [form | {"ranges": ranges, "lower": None}]}
                value = float(proved(alone, proof, {}, self._arrays.found)["upper"][0])
            except CertificateError:
                continue
            if value < best:
                best, name, chosen = value, called, form
            if best <= wanted * (1 + SAME):
                break
        lower = None if part is not None else self._witness(k, question.norms)
        return name, chosen | {"ranges": ranges, "lower": lower}

    def _crossings(self, question: Question, ranges: Any) -> list[int]:
        """Nodes of the checker's derivative that all paths cross, the last ones."""
        choices = choices_of(ranges, question.network, "set", self._arrays.found)
        gates = derivative_of(question.network, ranges_of(question.network, question.sets[0], choices))
        return crossed(gates)[-MOST_CROSSINGS:]

    def _witness(self, k: int, norms: tuple[float, float]) -> dict[str, Any] | None:
        result = self._result
        assert isinstance(result, LipschitzBound)
        if result.witness is None or not float(result.lower.flatten()[k]) > 0:
            return None
        shape = self._base.in_shape
        point, partner = (
            None if one is None else one.reshape(-1, *shape)[k].to(torch.float64)
            for one in (result.witness, result.partner)
        )
        assert point is not None
        if not bool(torch.isfinite(point).all()):
            return None
        told = {"point": self._arrays.put(f"set{k}.witness", point.flatten()), "other": None, "direction": None}
        if partner is not None and bool(torch.isfinite(partner).all()):
            return told | {"other": self._arrays.put(f"set{k}.partner", partner.flatten())}
        direction = steepest_direction(self._base, point, self._rows, norms)
        return told | {"direction": self._arrays.put(f"set{k}.direction", direction.flatten())}

    def _written(
        self, told: dict[str, Any], sets: list[Any], names: tuple[str, ...], found: Mapping[str, np.ndarray]
    ) -> Written:
        exact = told["asks"] == "robust_radius"  # the balls are those of the claim
        claims = {name: found[name] if exact else _cautious(found[name], name) for name in CLAIMS[told["asks"]]}
        note = self._compared(claims)
        source = self._maker.graph.source
        whole = {
            "certificate": "jacobound",
            "format": FORMAT,
            "question": told,
            "network": self._told.network,
            "model": {
                "kind": source.kind,
                "name": source.name,
                "sha256": source.sha256,
                "until": source.until,
                "units": list(source.units),
            },
            "proof": {"sets": sets},
            "claims": {name: self._arrays.put(f"claim.{name}", claim) for name, claim in claims.items()},
            "found": {"method": self._result.provenance.method, "proof": "; ".join(names), "note": note},
        }
        used = {name: self._arrays.found[name] for name in self._arrays.found if name in _texts(whole)}
        return Written(self._path, write(self._path, whole, used), claims, names, note)

    def _compared(self, claims: Mapping[str, np.ndarray]) -> str:
        """What the certificate proves less than the result says."""
        notes = []
        for name, claim in claims.items():
            own = getattr(self._result, name).detach().cpu().to(torch.float64).numpy().reshape(claim.shape)
            size = float(np.abs(own[np.isfinite(own)]).max(initial=0.0))
            with np.errstate(invalid="ignore"):
                missing = claim - own if name == "upper" else own - claim
            missing = np.where(np.isfinite(missing), missing, np.where(claim == own, 0.0, np.inf))
            if missing.size and missing.max() > SAME * size:
                place = np.unravel_index(int(missing.argmax()), missing.shape)
                notes.append(f"{name}: the certificate proves {claim[place]!s} where the result says {own[place]!s}")
        return "; ".join(notes)


def _missing(result: Any, k: int, count: int, end: str, found: np.ndarray) -> float:
    """How far bounds of one set or of a part of it are from those of the result, beyond what counts as the same."""
    whole = getattr(result, end).detach().cpu().to(torch.float64).numpy().reshape(count, -1)
    own, size = whole[k], float(np.abs(whole[np.isfinite(whole)]).max(initial=0.0))
    with np.errstate(invalid="ignore"):
        gap = (found.ravel() - own) if end == "upper" else (own - found.ravel())
    return float(np.where(np.isnan(gap), 0.0, gap).max(initial=0.0)) - SAME * size


def _cautious(values: np.ndarray, name: str) -> np.ndarray:
    """Claims a little weaker than what was proved; exact zeros stay."""
    size = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    margin = np.where(values == 0, 0.0, MARGIN * np.abs(values) + OF_ALL * size)
    return values + margin if name == "upper" else values - margin


def _texts(told: Any) -> set[str]:
    """All text of a certificate: the names of its arrays are among it."""
    if isinstance(told, dict):
        return set().union(*map(_texts, told.values()))
    if isinstance(told, list):
        return set().union(*map(_texts, told))
    return {told} if isinstance(told, str) else set()
