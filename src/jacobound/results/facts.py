"""A result as a page tells it: its question, what is proved, how it was found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from jacobound.inputs.regions import Ball, Box, Region, WholeSpace
from jacobound.reports.page.sections import Answer, Names, Section
from jacobound.results.exact_json import digest as exact_digest
from jacobound.results.exact_json import encoded
from jacobound.results.provenance import Provenance, Status
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
    found += [(name.replace("_", " "), _option(value)) for name, value in question.options.items()]
    found += [("jacobound", question.library)]
    found += [("command", words["command"])] if question.command else []
    return tuple(found)


def _option(value: object) -> str:
    """A value in words; of many numbers how many there are."""
    if not isinstance(value, Tensor):
        return cut(told(value), LONG)
    if value.numel() > LISTED:
        return f"{told(tuple(value.shape))} numbers, SHA-256 {digest(value)[:16]}..."
    return ", ".join(map(str, value.flatten().tolist()))


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
        ("method", provenance.method.strip("'")),
        ("network as it was understood", f"SHA-256 {provenance.network}"),
        ("meaning", "exact real numbers" if provenance.semantics == "real" else provenance.semantics),
        (
            "computed on",
            f"{provenance.device} in {provenance.dtype.removeprefix('torch.')}, {provenance.threads} threads",
        ),
        ("processor", provenance.cpu),
        ("versions", f"PyTorch {provenance.torch_version}, Python {provenance.python_version}"),
        ("seed", seed),
        ("seconds", f"{provenance.seconds:.2f}"),
        ("SHA-256 of the result", sha256),
    )


def digest(value: object) -> str:
    """SHA-256 of plain data, by its exact form."""
    return exact_digest(encoded(value))


def row_names(question: Question | None, count: int, names: Names) -> list[str]:
    """What `count` rows are called."""
    return names.rows(None if question is None else question.rows, count)


def columns_of(question: Question | None) -> list[int] | None:
    """The inputs that derivatives are taken by, where they were chosen."""
    columns = None if question is None else question.options.get("columns")
    return columns.tolist() if isinstance(columns, Tensor) else None


class Told(Protocol):
    """A result, as far as a page is concerned."""

    status: Status
    provenance: Provenance
    told_as: ClassVar[str]

    @property
    def question(self) -> Question | None: ...
    def headline(self) -> str: ...
    def claim(self) -> str: ...
    def sections(self, names: Names) -> Sequence[Section]: ...
    def failures(self) -> tuple[tuple[str, str], ...]: ...


def told_answer(result: Told, names: Names) -> Answer:
    """A result as a page tells it."""
    found, question = result.provenance, result.question
    return Answer(
        kind=result.told_as or type(result).__name__,
        headline=result.headline(),
        status=result.status.name.lower().replace("_", " "),
        meaning=result.status.value,
        certified=result.status.certified,
        claim=result.claim(),
        assumptions=found.assumptions,
        asked=question_facts(question),
        found=found_facts(found, digest(result)),
        sections=tuple(result.sections(names)),
        failures=result.failures(),
        network=found.network[:12] if question is None else question.model.name,
        method=found.method.strip("'"),
        seconds=found.seconds,
    )


def about(provenance: Provenance) -> Facts:
    """What a constant or a radius is about, apart from where: equal for answers that belong into one figure."""
    question = provenance.question
    if question is None:
        return (("network", provenance.network[:12]),)
    found = [("network", question.model.name)]
    if question.norm is not None:
        found.append(("norms", f"{question.told()['norms']}{_weights(question)}"))
    if question.rows is not None:
        found.append(("rows", f"rows {digest(question.rows)[:6]}"))
    chosen = columns_of(question)
    if chosen is not None:
        found.append(("columns", f"by inputs {cut(', '.join(map(str, chosen)), 24)} ({digest(chosen)[:6]})"))
    return (*found, ("meaning", provenance.semantics))


def apart(provenance: Provenance) -> Facts:
    """What else keeps answers apart, told only where nothing else does."""
    return (("method", provenance.method), ("fingerprint", provenance.network[:12]))


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
        names = [hashlib.sha256(f"{digest(point)}{rest}".encode()).hexdigest()[:6] for point in points]
        return [(("point", f"point {k} ({name})" if count > 1 else f"point {name}"),) for k, name in enumerate(names)]
    return [(("region", f"region {digest(region)[:6]}" + (f", {k}" if count > 1 else "")),) for k in range(count)]
