"""`checks`: which results a certificate proves anew, by the independent checker."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jacobound.errors import InvalidResultError
from jacobound.inputs.exponents import Weighted
from jacobound.inputs.regions import Ball, Box, Region, WholeSpace
from jacobound.reports.page.sections import Check
from jacobound.results.question import Question
from jacobound.results.result import Result
from jacobound.version import VERSION
from jacobound_check.certificate import Verdict, check, read
from jacobound_check.errors import CertificateError

SAME = 1e-9  # relative to the largest number: what a certificate may miss of a result
EXPONENTS = {"1": 1.0, "2": 2.0, "inf": math.inf}

Arrays = Mapping[str, np.ndarray]


def checks(results: Sequence[Result], certificate: Path, model: Path | None) -> dict[int, Check]:
    """What the checker says of each result whose question is that of a certificate.

    The question must be equal number by number: region, rows, norms, and the model as it names itself; the numbers that
    are proved must be those of the result, or better. The network of the certificate is that of the model's file where
    `model` is given, else what the certificate says; the words tell which.

    Args:
        results: by their places.
        certificate: the JSON file.
        model: a file that the network is compared with.

    Raises:
        InvalidResultError: when the certificate proves nothing, or is about none of the results.
    """
    try:
        verdict = check(certificate, model)
        told, arrays = read(certificate)
    except CertificateError as error:
        raise InvalidResultError(f"{certificate}: {error}") from error
    found = {
        k: _said(result, verdict, certificate)
        for k, result in enumerate(results)
        if result.question is not None
        and _same_question(told, arrays, result.question)
        and _same_decisions(told["question"], arrays, result)
    }
    if not found:
        raise InvalidResultError(f"{certificate}: it is about another question than the results; leave it out")
    return found


def _said(result: Result, verdict: Verdict, certificate: Path) -> Check:
    missing = [name for name, claim in verdict.claims.items() if not _proved(getattr(result, name), claim, name)]
    network = verdict.model or "the network is the one in the certificate, not compared with a file"
    words = (
        f"{' and '.join(verdict.claims)} as told here" if not missing else f"weaker numbers for {' and '.join(missing)}"
    )
    digest = hashlib.sha256(certificate.read_bytes()).hexdigest()
    return Check(
        f"jacobound_check {VERSION}", not missing, f"{words}; {network}", f"{certificate.name}, SHA-256 {digest}"
    )


def _proved(own: torch.Tensor, claim: np.ndarray, name: str) -> bool:
    """Whether the claims are as good as the result's numbers; NaN never is."""
    values = own.detach().cpu().to(torch.float64).numpy().reshape(-1)
    claims = np.asarray(claim).reshape(-1)
    if claims.shape != values.shape:
        return False
    size = SAME * float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    good = (claims <= values + size) if name == "upper" else (claims >= values - size)
    return bool(good.all())


def _same_question(told: Mapping[str, Any], arrays: Arrays, asked: Question) -> bool:
    """Whether a certificate asks what a result was asked; what can not be compared is not the same."""
    question, model = told["question"], told["model"]
    if question["asks"] != asked.asks or asked.region is None or asked.options.get("columns") is not None:
        return False
    source = asked.model
    named = {"kind": source.kind, "name": source.name, "sha256": source.sha256, "until": source.until}
    if model != named | {"units": list(source.units)}:
        return False
    norms = None if question["norm"] is None else tuple(EXPONENTS.get(name) for name in question["norm"])
    if any(isinstance(norm, Weighted) for norm in asked.norm or ()) or norms != asked.norm:
        return False
    return _equal(arrays, question["rows"], asked.rows) and _same_region(question["region"], arrays, asked.region)


def _same_decisions(told: Mapping[str, Any], arrays: Arrays, result: Result) -> bool:
    """Whether radii are about the same labels and targets; other questions have none."""
    own = [getattr(result, name, None) for name in ("label", "targets")]
    if getattr(result, "decided_before", ()):
        return False
    return all(_equal(arrays, told[name], values) for name, values in zip(("labels", "targets"), own, strict=True))


def _same_region(told: Mapping[str, Any], arrays: Arrays, region: Region) -> bool:
    if isinstance(region, WholeSpace):
        return told == {"kind": "space"}
    if isinstance(region, Box):
        ends = told.get("kind") == "box" and (("lower", region.lower), ("upper", region.upper))
        return bool(ends) and all(_equal(arrays, told[name], end) for name, end in ends or ())
    if not isinstance(region, Ball) or told.get("kind") != "ball":
        return False
    low, high = region.clip or (None, None)
    numbers = [("centre", region.center), ("low", low), ("high", high), ("scale", region.scale)]
    radii = [float.fromhex(radius) for radius in told["radii"]]
    same = tuple(radii) == region.radii and EXPONENTS.get(told["p"]) == region.p
    return same and all(_equal(arrays, told[name], values) for name, values in numbers)


def _equal(arrays: Arrays, name: str | None, values: Any) -> bool:
    """Whether an array holds these numbers in row-major order; one number stands for all."""
    if name is None or values is None:
        return name is None and values is None
    own = torch.as_tensor(values).detach().cpu().to(torch.float64).numpy().reshape(-1)
    found = arrays[name].reshape(-1)
    return bool(own.size in (1, found.size) and (found == own).all())
