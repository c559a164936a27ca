"""What the checker of certificates proves of tiny networks, also from choices drawn by chance, against exact values."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flint import ctx
from torch import Generator, Tensor

import jacobound as jb
from campaign.claims import (
    JACOBIAN_METHODS,
    KINDS,
    NORMS,
    Truth,
    _denials,
    attempt,
    combined,
    random_rows,
    steepest_slope,
)
from campaign.families import pick
from campaign.linear import is_norm_bound
from campaign.runner import Part, Tally
from exact import BITS, ball  # pyright: ignore[reportMissingImports]
from jacobound import Graph
from jacobound.inputs.regions import Region
from jacobound_check.certificate import check, read
from jacobound_check.errors import CertificateError
from jacobound_check.proofs import proved, question_of
from zoo import integer  # pyright: ignore[reportMissingImports]

OUTPUT_METHODS = (jb.IBP(), jb.CROWN(), jb.FastLin())
CONSTANT_METHODS = (jb.RecurJac(), jb.LipSDP(), jb.AutoLip(), jb.FastLip())
# Arrays of free choices, by the end of their names.
CHOICES = (
    "below",
    "above",
    "point",
    "neurons",
    "inputs",
    "outputs",
    "direction",
)  # of arrays, by the end of their names


def examine(graph: Graph, region: Region, truth: Truth, generator: Generator) -> Tally:
    """One question, its certificate as it was written, and once more with other choices."""
    tally, rows = Tally(), random_rows(graph, generator)
    kind = ("outputs", "Jacobian entries", "constants")[integer(0, 2, generator)]
    norm = NORMS[integer(0, len(NORMS) - 1, generator)]
    if kind == "outputs":
        result: Any = jb.bound_output(graph, region, OUTPUT_METHODS[integer(0, 2, generator)], rows=rows)
    elif kind == "Jacobian entries":
        method = JACOBIAN_METHODS[integer(0, len(JACOBIAN_METHODS) - 1, generator)]
        result = jb.bound_jacobian(graph, region, method, rows=rows, budget=2.0)
    else:
        method = CONSTANT_METHODS[integer(0, len(CONSTANT_METHODS) - 1, generator)]
        search = (None, jb.Sampling(points=4, steps=2, ascents=2))[integer(0, 1, generator)]
        result = jb.lipschitz(graph, region, method, norm=norm, rows=rows, budget=2.0, search=search)
    if not result.status.certified:
        tally.add("not certified", 1, [])
        return tally
    truth = combined(None if rows is None else rows.to(torch.float64), truth)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = result.save_certificate(Path(folder) / "one.json").path
        except jb.UnsupportedOpError:
            tally.add("not held", 1, [])
            return tally
        claims: Mapping[str, np.ndarray] = check(path).claims
        told, arrays = read(path)
    tally.add(kind, 1, _wrong(kind, claims, truth, norm))
    other = _scrambled(arrays, generator)
    try:
        claims = proved(question_of(told["question"], told["network"], other), told["proof"], {}, other)
    except CertificateError:
        tally.add("choices that prove nothing", 1, [])
        return tally
    tally.add("other choices", 1, [f"other choices: {line}" for line in _wrong(kind, claims, truth, norm)])
    return tally


def _wrong(kind: str, claims: Mapping[str, np.ndarray], truth: Truth, norm: tuple[float, float]) -> list[str]:
    lower, upper = torch.from_numpy(claims["lower"]), torch.from_numpy(claims["upper"])
    if kind == "constants":
        return _constant_is_wrong(float(lower), float(upper), truth, norm)
    if bool(torch.isnan(lower).any() | torch.isnan(upper).any()):
        return ["NaN"]
    lower, upper = _without_infinities(lower, -1), _without_infinities(upper, 1)
    if kind == "outputs":
        return _denials(lower, upper, truth.values, truth.points)
    known = [(p, [e for row in j for e in row]) for p, j in zip(truth.points, truth.jacobians, strict=True) if j]
    return _denials(lower, upper, [entries for _, entries in known], [point for point, _ in known])


def _without_infinities(x: Tensor, side: int) -> Tensor:
    """No bound is the largest float, which nothing here exceeds by chance."""
    return torch.where(torch.isinf(x) & (torch.sign(x) == side), side * torch.finfo(x.dtype).max, x)


def _constant_is_wrong(lower: float, upper: float, truth: Truth, norm: tuple[float, float]) -> list[str]:
    steepest = steepest_slope(truth, *norm)
    wrong = []
    if math.isnan(upper) or (upper < math.inf and not is_norm_bound(upper, steepest)):
        wrong.append(f"l_{norm[0]} to l_{norm[1]}: {upper!r} is below {ball(steepest).sqrt()}")
    if not lower <= upper:
        wrong.append(f"the lower end {lower!r} is above {upper!r}")
    return wrong


def _scrambled(arrays: Mapping[str, np.ndarray], generator: Generator) -> dict[str, np.ndarray]:
    """Every free choice as it is, off by a little, or anything at all."""
    found = dict(arrays)
    for name, array in arrays.items():
        ending = name.rpartition(".")[2].rstrip("0123456789")
        if ending not in CHOICES or not array.size:
            continue
        noise = torch.randn(array.shape, generator=generator, dtype=torch.float64).numpy()
        how = integer(0, 2, generator)
        multipliers = ending in ("neurons", "inputs", "outputs")
        if how == 1:
            found[name] = array * (1 + 0.1 * np.abs(noise)) if multipliers else array + 0.1 * noise
        elif how == 2:
            found[name] = np.exp(2 * noise) if multipliers else 3 * noise
    return found


def batch(generator: Generator) -> Tally:
    """Twenty networks."""
    tally = Tally()
    with ctx.workprec(BITS):
        for _ in range(20):
            tally.merge(attempt(pick(KINDS, generator), generator, examine))
    return tally


PART = Part("certificates", "networks", batch, ("networks",))
