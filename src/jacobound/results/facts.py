"""The question and the provenance of a result as named facts for a page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import torch
from torch import Tensor

from jacobound.inputs.regions import Ball, Box, Region, WholeSpace
from jacobound.results.exact_json import encoded
from jacobound.results.provenance import Provenance
from jacobound.results.question import Question
from jacobound.words import cut, told

Facts = tuple[tuple[str, str], ...]
LISTED = 32  # numbers that are written out
LONG = 400  # characters of an option


def question_facts(question: Question | None) -> Facts:
    """What was asked, with hashes of what is too long to be told."""
    if question is None:
        return ()
    source, words = question.model, question.told()
    found = [("asked", question.asks), ("model", f"{source.name} ({source.kind})")]
    found += [("output taken at", source.until)] if source.until else []
    found += [("around the network", unit) for unit in source.units]
    found += [("SHA-256 of the file", source.sha256)] if source.sha256 else []
    if question.region is not None:
        found += [("region", words["region"]), *_numbers(question.region)]
        found.append(("SHA-256 of the region", digest(question.region)))
    if question.rows is not None:
        found += [("rows", words["rows"]), ("SHA-256 of the rows", digest(question.rows))]
    found += [("norms", words["norms"])] if question.norm is not None else []
    found += [("budget", words.get("budget", "none given"))]
    found += [(name.replace("_", " "), cut(told(value), LONG)) for name, value in question.options.items()]
    found += [("jacobound", question.library)]
    found += [("command", words["command"])] if question.command else []
    return tuple(found)


def _numbers(region: Region) -> Facts:
    """The numbers of a small region, exactly."""
    if isinstance(region, Box):
        named = [("from", region.lower), ("to", region.upper)]
    elif isinstance(region, Ball):
        radii = ("radii" if len(region.radii) > 1 else "radius", torch.tensor(region.radii, dtype=torch.float64))
        named = [("centre", region.center), radii]
    else:
        named = []
    return tuple(
        (name, ", ".join(map(repr, values.flatten().tolist())))
        for name, values in named
        if isinstance(values, Tensor) and values.numel() <= LISTED
    )


def found_facts(provenance: Provenance, sha256: str) -> Facts:
    """How an answer was found: method, versions, hashes.

    Args:
        provenance: of the result.
        sha256: of the exact part of the result.
    """
    seed = "none: nothing is random" if provenance.seed is None else str(provenance.seed)
    return (
        ("method", provenance.method),
        ("network as it was understood", f"SHA-256 {provenance.network}"),
        ("meaning", "exact real numbers" if provenance.semantics == "real" else provenance.semantics),
        ("computed on", f"{provenance.device} in {provenance.dtype.removeprefix('torch.')}, {provenance.threads} threads"),
        ("processor", provenance.cpu),
        ("versions", f"PyTorch {provenance.torch_version}, Python {provenance.python_version}"),
        ("seed", seed),
        ("seconds", f"{provenance.seconds:.2f}"),
        ("SHA-256 of the result", sha256),
    )


def digest(value: object) -> str:
    """SHA-256 of plain data, by its exact form."""
    return hashlib.sha256(json.dumps(encoded(value), sort_keys=True).encode()).hexdigest()


def about(provenance: Provenance) -> Facts:
    """What a constant or a radius is about, apart from where: equal for answers that belong into one figure."""
    question = provenance.question
    if question is None:
        return (("network", provenance.network[:12]),)
    found = [("network", f"{question.model.name} {provenance.network[:8]}"), ("method", provenance.method)]
    if question.rows is not None:
        found.append(("rows", digest(question.rows)[:8]))
    if question.norm is not None:
        found.append(("norms", f"{question.told()['norms']}{_weights(question)}"))
    return (*found, ("meaning", provenance.semantics))


def _weights(question: Question) -> str:
    weighted = question.told()["norms"].count("weighted")
    return f" {digest(question.norm)[:8]}" if weighted else ""


def radii_of(question: Question | None, lead: tuple[int, ...]) -> tuple[float, ...]:
    """The radii of the question's balls, where they make the first axis of the results, or stand for all."""
    region = None if question is None else question.region
    if not isinstance(region, Ball) or not (len(region.radii) == 1 or lead[:1] == (len(region.radii),)):
        return ()
    return region.radii


def places(question: Question | None, count: int) -> list[Facts]:
    """Where each of `count` points lies, in a few characters: equal for equal centres, norms and valid ranges."""
    region = None if question is None else question.region
    if isinstance(region, WholeSpace) or region is None:
        return [() for _ in range(count)]
    if isinstance(region, Ball):
        centre = torch.as_tensor(region.center)
        rest = digest(replace(region, center=torch.zeros(1), radius=0.0))
        points = centre.reshape(count, -1) if centre.numel() % max(1, count) == 0 else centre.expand(count, -1)
        return [(("point", hashlib.sha256(f"{digest(point)}{rest}".encode()).hexdigest()[:8]),) for point in points]
    return [(("region", f"{digest(region)[:8]}, {k}"),) for k in range(count)]
