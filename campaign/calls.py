"""Random calls of the public interface, with values of the right type and of wrong ones: typed errors only.

A call is a public function or class with an argument for every parameter that it has: mostly one that fits, sometimes
one that belongs elsewhere, sometimes rubbish. It may work, or raise a `JacoboundError` with a message; nothing else.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, nn

import jacobound as jb
from campaign.runner import Part, Tally
from jacobound.activations import activation
from zoo import integer  # pyright: ignore[reportMissingImports]

CALLS = 25  # in one batch
RUBBISH_EVERY, WRONG_EVERY = 12, 12

Make = Callable[[], Any]


class Odd:
    """An object that answers questions with errors of its own."""

    def __repr__(self) -> str:
        return "odd"

    def __float__(self) -> float:
        raise ArithmeticError("no number")


@functools.cache
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 3)).eval()


@functools.cache
def graph() -> jb.Graph:
    return jb.from_torch(module(), torch.zeros(1, 4))


@functools.cache
def answer() -> jb.Result:
    return jb.bound_output(graph(), jb.Box([-0.1] * 4, [0.1] * 4), jb.IBP())


RUBBISH: tuple[Make, ...] = (
    lambda: None, lambda: True, lambda: False, lambda: 0,
    lambda: -1, lambda: 3, lambda: 10**30, lambda: 0.5, lambda: -0.5,
    lambda: math.nan, lambda: math.inf, lambda: -math.inf, lambda: 1e308, lambda: 5e-324, lambda: 1j, lambda: "",
    lambda: "abc", lambda: "0.1", lambda: "8/255", lambda: "1/0", lambda: "inf", lambda: "1e999999999", lambda: "nan",
    lambda: b"", lambda: b"\x00\x01", lambda: [], lambda: (),
    lambda: {}, lambda: {"a": 1}, lambda: set(), lambda: object(),
    lambda: Odd(), lambda: Ellipsis, lambda: int,
    lambda: (lambda x: x), lambda: [None], lambda: [[]], lambda: [[1, 2], [3]],
    lambda: ["a", "b", "c", "d"], lambda: Decimal("0.1"), lambda: Decimal("nan"), lambda: Decimal("1e-9999"),
    lambda: Fraction(8, 255), lambda: np.float32(0.1), lambda: np.int64(2), lambda: np.bool_(True), lambda: np.nan,
    lambda: np.zeros(4), lambda: np.zeros((0,)), lambda: np.zeros((2, 3, 4)), lambda: np.array([1 + 1j] * 4),
    lambda: np.array(["a"] * 4), lambda: np.array([object()] * 4), lambda: np.zeros(4, dtype=np.float16),
    lambda: np.array([True] * 4), lambda: np.array([2**60] * 4), lambda: np.arange(4, dtype=np.uint64),
    lambda: torch.tensor(0.1), lambda: torch.tensor(math.nan), lambda: torch.zeros(4), lambda: torch.zeros(0),
    lambda: torch.zeros(2, 3, 4), lambda: torch.full((4,), math.nan), lambda: torch.zeros(4, dtype=torch.complex64),
    lambda: torch.zeros(4, dtype=torch.bool), lambda: torch.zeros(4, dtype=torch.float16),
    lambda: torch.zeros(4, dtype=torch.bfloat16), lambda: torch.zeros(4, dtype=torch.int64),
    lambda: torch.zeros(4, device="meta"),
    lambda: torch.zeros(4).to_sparse(), lambda: torch.zeros(4, requires_grad=True),
    lambda: nn.Parameter(torch.zeros(4)), lambda: range(3), lambda: iter([1, 2]), lambda: Path("nowhere"),
    lambda: torch.float32, lambda: torch.device("cpu"),
)  # fmt: skip

METHODS: tuple[Make, ...] = (
    lambda: jb.CROWN(), lambda: jb.IBP(), lambda: jb.FastLin(), lambda: jb.RecurJac(), lambda: jb.FastLip(),
    lambda: jb.LinearSlopes(), lambda: jb.AutoLip(), lambda: jb.SeqLip(), lambda: jb.ECLipsE(), lambda: jb.LipSDP(),
    lambda: jb.FourierSDP(),
    lambda: jb.Best(jb.FastLip(), jb.AutoLip()), lambda: jb.SinglePrecision(), lambda: jb.RecurJac, lambda: jb.CROWN,
    lambda: jb.Best, lambda: None,
)  # fmt: skip
POINTS: tuple[Make, ...] = (
    lambda: torch.zeros(4), lambda: np.full(4, 0.25), lambda: [0.1, 0.2, 0.3, 0.4], lambda: torch.rand(2, 4).double(),
    lambda: [0, 0, 0, 0], lambda: torch.zeros(5),
)  # fmt: skip
NUMBERS: tuple[Make, ...] = (
    lambda: 0.1, lambda: 0, lambda: 1, lambda: 2,
    lambda: 8, lambda: "0.1", lambda: Fraction(8, 255), lambda: Decimal("0.3"),
    lambda: np.float32(0.1), lambda: [0.1, 0.2], lambda: jb.Radii((0.1, 0.2)), lambda: torch.tensor(0.25), lambda: 1e-3,
)  # fmt: skip
NORMS: tuple[Make, ...] = (
    lambda: 1, lambda: 2, lambda: math.inf, lambda: "inf", lambda: (2, 2), lambda: (1, "inf"),
    lambda: (jb.Weighted(2, [1.0, 2.0, 3.0, 4.0]), 2), lambda: (2, jb.Weighted(1, 3.0)), lambda: 3,
)  # fmt: skip
REGIONS: tuple[Make, ...] = (
    lambda: jb.Ball(torch.zeros(4), 0.1), lambda: jb.Ball([0.0] * 4, [0.1, 0.2], 2), lambda: jb.WholeSpace(),
    lambda: jb.Box([-0.1] * 4, [0.1] * 4), lambda: jb.Ball(torch.zeros(4), 1, 1, scale=[0.1, 0.2, 0.0, 0.3]),
    lambda: jb.Ball(torch.zeros(2, 4), "1/8", clip=(-1, 1)), lambda: jb.Ball(torch.zeros(3), 0.1), lambda: jb.Ball,
)  # fmt: skip
ROWS: tuple[Make, ...] = (
    lambda: None, lambda: 0, lambda: 2,
    lambda: [0, 2], lambda: [1.0, -1.0, 0.0], lambda: torch.eye(3), lambda: range(2),
    lambda: [[1, -1, 0]], lambda: 3, lambda: [[1.0, 2.0]],
)  # fmt: skip
BUDGETS: tuple[Make, ...] = (lambda: None, lambda: 0.2, lambda: jb.Budget(0.1), lambda: 0, lambda: jb.Budget)
SEARCHES: tuple[Make, ...] = (lambda: None, lambda: jb.Sampling(points=2, steps=1), lambda: jb.Sampling)
ATTACKS: tuple[Make, ...] = (lambda: None, lambda: jb.PGD(restarts=1, steps=1, rounds=1))
GRAPHS: tuple[Make, ...] = (graph, graph, graph, module, lambda: "net.onnx")
CLIPS: tuple[Make, ...] = (lambda: None, lambda: (0, 1), lambda: (-1.0, 1.0), lambda: (torch.zeros(4), torch.ones(4)))
LABELS: tuple[Make, ...] = (lambda: None, lambda: 1, lambda: [1, 2], lambda: torch.tensor([0, 1]), lambda: 7)
WORDS: tuple[Make, ...] = (
    lambda: "real", lambda: "executed", lambda: jb.Executed("float16"), lambda: "float32", lambda: "chord",
    lambda: "constant", lambda: "both", lambda: "dual", lambda: "tanh", lambda: None,
)  # fmt: skip
WEIGHTS: tuple[Make, ...] = (
    lambda: [torch.ones(3, 4), torch.ones(2, 3)],
    lambda: [np.ones((2, 2))], lambda: [torch.ones(2, 3), torch.ones(2, 3)],
    lambda: [[[1.0, 2.0]]], lambda: None,
)  # fmt: skip
NAMES: tuple[Make, ...] = (*WORDS, lambda: activation("relu"))
SCALES: tuple[Make, ...] = (*POINTS, *NUMBERS)
TEXTS: tuple[Make, ...] = (
    lambda: "{}", lambda: "[]", lambda: '{"kind": "OutputBounds", "format": 1, "exact": {}}', lambda: "nowhere.onnx",
    lambda: "(declare-const X_0 Real)(assert (<= X_0 1))(assert (>= X_0 0))",
)  # fmt: skip
CLAIMS: tuple[Make, ...] = (
    lambda: jb.LipschitzAtMost(jb.Ball([0.0] * 4, 0.1), 3), lambda: jb.Monotone(jb.Box([-0.1] * 4, [0.1] * 4), [0]),
    lambda: jb.Property.classified_as(jb.Box([-0.1] * 4, [0.1] * 4), 1, 3), lambda: jb.Property,
)  # fmt: skip
UNSAFE: tuple[Make, ...] = (lambda: [[jb.Inequality.of({0: 1, 2: "-0.5"}, 0)]], lambda: [[]], lambda: [])
FACTORS: tuple[Make, ...] = (lambda: {0: 1}, lambda: {0: "0.1", 2: -3}, lambda: {1: 0}, lambda: {-1: 1})
PLACES: tuple[Make, ...] = (lambda: [0, 2], lambda: (), lambda: 0, lambda: [1.5], lambda: range(2))
LISTS: tuple[Make, ...] = (lambda: [1, 2, 3], lambda: ["0.1", 1, Fraction(1, 3)], lambda: None, lambda: [1])
RESULTS: tuple[Make, ...] = (answer, answer, lambda: [answer(), answer()], lambda: [])


def _page(results: Any, title: Any = "page", features: Any = (), outputs: Any = (), image: Any = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        jb.report(results, path, title=title, features=features, outputs=outputs, image=image)


def _no_plan(plan: Any, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        jb.run_sweep(plan, Path(folder) / "store.sqlite", **options)


# What is called, and what fits each parameter; positions first, then names.
TARGETS: dict[str, tuple[Callable[..., Any], tuple[tuple[Make, ...], ...], dict[str, tuple[Make, ...]]]] = {
    "Ball": (jb.Ball, (POINTS, NUMBERS), {"p": NORMS, "clip": CLIPS, "scale": (*POINTS, *NUMBERS)}),
    "Box": (jb.Box, (POINTS, POINTS), {}),
    "Radii": (jb.Radii, (NUMBERS,), {}),
    "Weighted": (jb.Weighted, (NORMS, (*POINTS, *NUMBERS)), {}),
    "Budget": (jb.Budget, (NUMBERS,), {"memory": NUMBERS, "cpu_seconds": NUMBERS, "progress": BUDGETS}),
    "Sampling": (jb.Sampling, (), dict.fromkeys(("points", "steps", "ascents", "seed", "effort", "rounds"), NUMBERS)),
    "PGD": (jb.PGD, (), {"restarts": NUMBERS, "steps": NUMBERS, "rounds": NUMBERS, "seed": NUMBERS}),
    "RecurJac": (jb.RecurJac, (WORDS, METHODS, WORDS), {}),
    "FastLip": (jb.FastLip, (METHODS,), {}),
    "LinearSlopes": (jb.LinearSlopes, (METHODS,), {}),
    "AutoLip": (jb.AutoLip, (METHODS,), {}),
    "ECLipsE": (jb.ECLipsE, (METHODS,), {}),
    "FourierSDP": (jb.FourierSDP, (METHODS, NUMBERS), {}),
    "SeqLip": (jb.SeqLip, (WORDS, METHODS), {}),
    "GreedySeqLip": (jb.GreedySeqLip, (METHODS,), {}),
    "Split": (jb.Split, (METHODS, NUMBERS), {"gap": NUMBERS}),
    "AlphaCROWN": (jb.AlphaCROWN, (), {"steps": NUMBERS}),
    "SplitNeurons": (jb.SplitNeurons, (METHODS, NUMBERS), {"most": NUMBERS, "gap": NUMBERS}),
    "LipSDP": (jb.LipSDP, (METHODS,), {"tolerance": NUMBERS, "seconds": NUMBERS}),
    "SinglePrecision": (jb.SinglePrecision, (METHODS,), {}),
    "Best": (jb.Best, (METHODS, METHODS), {}),
    "Executed": (jb.Executed, (WORDS,), {}),
    "from_layers": (jb.from_layers, (WEIGHTS,), {"biases": WEIGHTS, "activation": NAMES}),
    "from_onnx": (jb.from_onnx, (TEXTS,), {"until": WORDS, "variance_floor": NUMBERS}),
    "from_vnnlib": (jb.Box.from_vnnlib, (TEXTS,), {"shape": (lambda: (1,), lambda: (4,), lambda: None)}),
    "all_from_vnnlib": (jb.Box.all_from_vnnlib, (TEXTS,), {"shape": (lambda: (1,), lambda: None)}),
    "from_json": (jb.Result.from_json, (TEXTS,), {}),
    "from_dict": (jb.Result.from_dict, (TEXTS,), {}),
    "with_preprocessing": (lambda *given: graph().with_preprocessing(*given), (SCALES, SCALES), {}),
    "with_postprocessing": (lambda *given: graph().with_postprocessing(*given), (SCALES, NUMBERS), {}),
    "bound_output": (jb.bound_output, (GRAPHS, REGIONS, METHODS), {"rows": ROWS, "semantics": WORDS}),
    "bound_jacobian": (jb.bound_jacobian, (GRAPHS, REGIONS, METHODS), {"rows": ROWS, "budget": BUDGETS}),
    "lipschitz": (
        jb.lipschitz,
        (GRAPHS, REGIONS, METHODS),
        {"norm": NORMS, "rows": ROWS, "budget": BUDGETS, "search": SEARCHES, "semantics": WORDS},
    ),
    "robust_radius": (
        jb.robust_radius,
        (GRAPHS, POINTS),
        {
            "label": LABELS, "p": NORMS, "targets": LABELS, "method": METHODS, "budget": BUDGETS, "clip": CLIPS,
            "steps": NUMBERS, "tolerance": NUMBERS, "largest": NUMBERS, "attack": ATTACKS,
            "seconds": (lambda: 0, lambda: 0.1),
        },
    ),
    "stationary_free_radius": (
        jb.stationary_free_radius,
        (GRAPHS, POINTS),
        {
            "rows": ROWS, "p": NORMS, "method": METHODS, "budget": BUDGETS, "clip": CLIPS, "tolerance": NUMBERS,
            "largest": NUMBERS, "seed": NUMBERS,
        },
    ),
    "difference": (jb.difference, (GRAPHS, GRAPHS), {}),
    "Inequality": (jb.Inequality.of, (FACTORS, NUMBERS), {"inputs": FACTORS, "strict": RUBBISH}),
    "LipschitzAtMost": (jb.LipschitzAtMost, (REGIONS, NUMBERS), {"norm": NORMS, "rows": ROWS}),
    "Monotone": (
        jb.Monotone,
        (REGIONS,),
        {"increasing": PLACES, "decreasing": PLACES, "rows": ROWS, "negligible": NUMBERS},
    ),
    "Property": (jb.Property.never, (REGIONS, UNSAFE), {"outputs": LABELS, "name": WORDS}),
    "classified_as": (jb.Property.classified_as, (REGIONS, LABELS, LABELS), {}),
    "within": (jb.Property.within, (REGIONS,), {"lower": LISTS, "upper": LISTS}),
    "property_from_vnnlib": (jb.Property.from_vnnlib, (TEXTS,), {"shape": (lambda: (1,), lambda: None)}),
    "verify": (jb.verify, (GRAPHS, CLAIMS), {"budget": BUDGETS}),
    "load_sweep": (jb.load_sweep, (TEXTS,), {}),
    "run_sweep": (_no_plan, (TEXTS,), {"workers": NUMBERS, "executor": METHODS, "ray": RUBBISH, "again": RUBBISH}),
    "report": (_page, (RESULTS,), {"title": WORDS, "features": PLACES, "outputs": PLACES, "image": LABELS}),
    "monotone_features": (
        jb.monotone_features,
        (GRAPHS, REGIONS),
        {"rows": ROWS, "method": METHODS, "budget": BUDGETS, "most": (lambda: 3, lambda: 1), "negligible": NUMBERS},
    ),
}  # fmt: skip
# Without a limit these may take long; every call of theirs has one.
LIMITED = {
    "bound_output",
    "bound_jacobian",
    "lipschitz",
    "robust_radius",
    "stationary_free_radius",
    "monotone_features",
    "verify",
}
LIMITS: tuple[Make, ...] = (lambda: 0.2, lambda: jb.Budget(0.1), lambda: 0, lambda: "30", lambda: jb.CROWN())


def argument(fitting: tuple[Make, ...], generator: Generator) -> Any:
    """Mostly what fits, sometimes what fits elsewhere, sometimes rubbish."""
    kind = integer(0, 23, generator)
    pool = fitting
    if kind % RUBBISH_EVERY == 0:
        pool = RUBBISH
    elif kind % WRONG_EVERY == 1:
        every = (METHODS, POINTS, NUMBERS, NORMS, REGIONS, ROWS, BUDGETS, GRAPHS, CLIPS, LABELS, WORDS)
        pool = every[integer(0, len(every) - 1, generator)]
    return pool[integer(0, len(pool) - 1, generator)]()


def one_call(name: str, generator: Generator) -> tuple[str, str]:
    """How one call ended ("answered", or the name of its error), and what is wrong with that, if anything."""
    call, positions, names = TARGETS[name]
    told = ""
    try:
        given = [argument(fitting, generator) for fitting in positions]
        options = {key: argument(fitting, generator) for key, fitting in names.items() if integer(0, 1, generator)}
        if name in LIMITED:
            options["budget"] = LIMITS[integer(0, len(LIMITS) - 1, generator)]()
        told = f"{name}({given!r:.300}, {options!r:.300})"
    except jb.JacoboundError as error:  # an argument was refused when it was made
        return type(error).__name__, "" if str(error) else "an error without a message"
    try:
        call(*given, **options)
    except jb.JacoboundError as error:
        return type(error).__name__, "" if str(error) else f"{told}: an error without a message"
    except Exception as error:
        return type(error).__name__, f"{told}: {type(error).__name__}: {error!s:.200}"
    return "answered", ""


def batch(generator: Generator) -> Tally:
    """Some calls of functions and classes drawn at random."""
    tally = Tally()
    for _ in range(CALLS):
        name = list(TARGETS)[integer(0, len(TARGETS) - 1, generator)]
        ended, wrong = one_call(name, generator)
        tally.add(f"{name}: {ended}", 1, [wrong] if wrong else [])
    return tally


PART = Part("calls", "calls", batch)
