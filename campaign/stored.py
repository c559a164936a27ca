"""Random results through JSON: the same bits come back, here and in another process, and damage is noticed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

import jacobound as jb
from campaign import REPOSITORY
from campaign.runner import Part, Tally
from zoo import KINDS, integer

RESULTS = 10  # in one batch
LIMIT = 1.0  # seconds for one answer

READER = """
import hashlib, json, sys
import jacobound as jb
for text in json.load(open(sys.argv[1], encoding="utf-8")):
    print(hashlib.sha256(jb.Result.from_json(text).to_json(None).encode()).hexdigest())
"""


def drawn_region(graph: jb.Graph, generator: Generator) -> Any:
    """A region of any kind with numbers that no decimal of few digits holds."""
    shape = graph.in_shape
    point, scale = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    radius = ("1/7", 0.1, jb.Radii([0.1, "0.3"]), torch.rand((), generator=generator))[integer(0, 3, generator)]
    p = (1, 2, math.inf)[integer(0, 2, generator)]
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: jb.Ball(point, radius, p),
        lambda: jb.Ball(point, radius, p, scale=scale),
        lambda: jb.Ball(torch.stack((point, -point)), radius, p, clip=(-1.5, 1.5)),
        lambda: jb.Ball(point.float(), radius, p, clip=(point - 1, point + 1)),
        lambda: jb.Box(point - scale, point + scale),
        lambda: jb.WholeSpace(),
    )
    return kinds[integer(0, len(kinds) - 1, generator)]()


def drawn_result(generator: Generator) -> jb.Result:
    """An answer of any kind about a random network."""
    names = sorted(KINDS)
    graph = KINDS[names[integer(0, len(names) - 1, generator)]](generator)
    region, outputs = drawn_region(graph, generator), math.prod(graph.out_shape)
    rows = (None, 0, torch.rand(2, outputs, generator=generator, dtype=torch.float64))[integer(0, 2, generator)]
    weights = jb.Weighted(2, 1 + torch.rand(graph.in_shape, generator=generator, dtype=torch.float64))
    norm = ((2, 2), (math.inf, 1), (weights, math.inf), (weights, jb.Weighted(2, 3.7)))[integer(0, 3, generator)]
    methods = (None, jb.LipSDP(), jb.AutoLip(), jb.RecurJac(), jb.ECLipsE())
    search = jb.Sampling(points=4, steps=2, ascents=2)
    point = torch.rand(graph.in_shape, generator=generator, dtype=torch.float64)
    clip = (None, (0.0, 1.0), (point - 1, point + 1))[integer(0, 2, generator)]
    attack = (None, jb.PGD(restarts=1, steps=2, rounds=2))[integer(0, 1, generator)]
    box = jb.Box(point - 0.1, point + 0.1)
    kinds: tuple[Callable[[], jb.Result], ...] = (
        lambda: jb.bound_output(graph, region, jb.IBP(), rows=rows, budget=LIMIT),
        lambda: jb.bound_jacobian(graph, region, jb.FastLip(), rows=rows, budget=LIMIT),
        lambda: jb.lipschitz(
            graph, region, methods[integer(0, 4, generator)], norm=norm, rows=rows, budget=LIMIT, search=search
        ),
        lambda: jb.robust_radius(graph, point, clip=clip, attack=attack, seconds=0.2, budget=LIMIT),
        lambda: jb.stationary_free_radius(graph, point, rows, clip=clip, budget=LIMIT),
        lambda: jb.monotone_features(graph, box, rows, most=5, budget=LIMIT),
    )
    return kinds[integer(0, len(kinds) - 1, generator)]()


def bits(value: Any) -> Any:
    """Everything that a result holds, with the bytes of every number."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().cpu().contiguous().numpy().tobytes()
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value).__name__, [bits(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        told = [one.name for one in fields(value) if one.compare]  # the others are of this process alone
        return type(value).__name__, {name: bits(getattr(value, name)) for name in told}
    return value


def damaged(text: str, generator: Generator) -> str:
    """One character of the text changed."""
    place = integer(0, len(text) - 1, generator)
    return text[:place] + chr(33 + (ord(text[place]) - 33 + integer(1, 90, generator)) % 94) + text[place + 1 :]


def wrong_with(result: jb.Result, text: str, generator: Generator) -> str:
    """What is wrong with the way of a result through JSON; empty when nothing is."""
    if bits(type(result).from_json(text)) != bits(result):
        return f"{result!r}: other bits came back"
    for _ in range(3):
        other = damaged(text, generator)
        try:
            if bits(jb.Result.from_json(other)) != bits(result):
                return f"{result!r}: a damaged text was taken for another result"
        except jb.InvalidResultError:
            continue
    return ""


def elsewhere(texts: list[str]) -> list[str]:
    """SHA-256 of what another process writes after it has read each of the results."""
    paths = os.pathsep.join([str(REPOSITORY / "src"), *sys.path])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "results.json"
        place.write_text(json.dumps(texts), encoding="utf-8")
        found = subprocess.run(
            [sys.executable, "-c", READER, str(place)],
            capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip
    return found.stdout.split() if found.returncode == 0 else [found.stderr] * len(texts)


def batch(generator: Generator) -> Tally:
    """Some results, each back and forth here, all of them once in another process."""
    tally, texts = Tally(), []
    while len(texts) < RESULTS:
        try:
            result = drawn_result(generator)
        except jb.JacoboundError as error:
            tally.add(f"refused: {type(error).__name__}", 1, [])
            continue
        texts.append(result.to_json(None))
        wrong = wrong_with(result, texts[-1], generator)
        tally.add(type(result).__name__, 1, [wrong] if wrong else [])
    there = elsewhere(texts)
    wanted = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    different = [text[:200] for text, one, other in zip(texts, wanted, there, strict=True) if one != other]
    tally.add("read in another process", len(texts), different)
    return tally


KINDS_OF_RESULT = ("OutputBounds", "JacobianBounds", "LipschitzBound", "RobustRadius", "StationaryFreeRadius")
PART = Part("results", "results", batch, (*KINDS_OF_RESULT, "MonotoneFeatures"))
