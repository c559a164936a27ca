"""Forms of proof of a Lipschitz constant, in the order in which they are tried, from what a result knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jacobound.certificates.dense.proof import SdpCertificate
from jacobound.certifying.files import Arrays
from jacobound.results.kinds import LipschitzBound

NAMES = {1.0: "1", 2.0: "2", math.inf: "inf"}
FEW = 64  # as in `lipsdp.problems`: so many columns are taken one by one

Form = tuple[str, dict[str, Any]]


def forms(
    result: LipschitzBound,
    k: int,
    norm: tuple[float, float],
    sizes: tuple[int, int],
    crossings: list[int],
    arrays: Arrays,
) -> Iterator[Form]:
    """What may prove a constant over the k-th set, and what it is called.

    Args:
        sizes: of input and output.
        crossings: numbers of nodes of the checker's derivative that all paths cross.
    """
    names = [NAMES[norm[0]], NAMES[norm[1]]]
    winner = result.method
    entries = ("entries of the Jacobian", {"jacobian": "chord", "upper": {"by": "entries"}})
    sums = ("signed sums of rows of the Jacobian", {"jacobian": "chord", "upper": {"by": "rows"}})
    multipliers = list(_multipliers(result, k, norm, sizes, arrays))
    if "SDP" in winner or "ECLipsE" in winner:
        yield from multipliers
        multipliers = []
    yield sums if norm[0] == math.inf else entries
    for node in crossings:
        told = {"by": "products", "norm": names, "node": node}
        yield f"derivative behind node {node}, norms before", {"jacobian": "chord", "upper": told}
    for exponent in ("2", "inf", "1") if norm[0] != norm[1] else (names[0],):
        told = {"by": "products", "norm": [exponent, exponent], "node": None}
        yield f"products of norms in l{exponent}", {"jacobian": "none", "upper": told}
    yield from multipliers


def _multipliers(
    result: LipschitzBound, k: int, norm: tuple[float, float], sizes: tuple[int, int], arrays: Arrays
) -> Iterator[Form]:
    """Semidefinite certificates of the result's candidates, for norms that they know."""
    for name, candidate in result.details.items():
        if len(candidate.certificates) <= k or "tied" in name:
            continue
        whole = candidate.certificates[k]
        if not whole or not all(isinstance(one, SdpCertificate) for one in whole):
            continue
        own = norm if "from l2 to l2" not in name else (2.0, 2.0)
        parts = _parts(list(whole), own, sizes, f"set{k}.{name}", arrays)
        if parts is not None:
            told = {"by": "multipliers", "norm": [NAMES[x] for x in own], "parts": parts}
            yield f"multipliers of {name}", {"jacobian": "none", "upper": told}


def _parts(
    whole: list[SdpCertificate], norm: tuple[float, float], sizes: tuple[int, int], name: str, arrays: Arrays
) -> Any:
    """The problems of `lipsdp.problems`, each with its multipliers; None where they do not fit."""
    (p, q), (inputs, outputs) = norm, sizes

    def one(certificate: SdpCertificate, number: int) -> dict[str, Any]:
        weights = certificate.weights
        return {
            part: arrays.put(f"{name}.{number}.{part}", getattr(weights, part))
            for part in ("neurons", "inputs", "outputs")
        }

    if q == math.inf and len(whole) == outputs and not (p == 1 and outputs * inputs <= FEW):
        return [one(certificate, j) for j, certificate in enumerate(whole)]
    if p == 1 and q != math.inf and inputs <= FEW and len(whole) == inputs:
        return {"turned": [one(certificate, j) for j, certificate in enumerate(whole)]}
    if len(whole) != 1:
        return None
    return {"turned": one(whole[0], 0)} if outputs > inputs and q != math.inf else one(whole[0], 0)
