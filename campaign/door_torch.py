"""Valid modules of torch with options and behaviour changed at random: imported with their own values, or refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import torch
from torch import Generator, Tensor, nn

from campaign.door_operations import ELEMENTWISE, IMAGES, ROWS, Maker, Operation, chance, constant
from campaign.families import pick
from campaign.runner import Tally
from jacobound import Graph, JacoboundError, from_torch
from zoo import integer

LENGTHS: Final = (1, 3, 5)
SCALES: Final = (0.03, 1.0, 6.0, 40.0)
SINGLE, DOUBLE = 1e-4, 1e-9
SHORTCUT: Final = 2.1e-7  # softplus at its usual threshold, with the smallest beta here
MISMATCH: Final = "the imported graph is not"


class Chain(nn.Module):
    """A linear map and some operations behind it; a behaviour adds to the result."""

    def __init__(self, operations: list[Operation], image: bool, generator: Generator) -> None:
        super().__init__()
        self.mix = nn.Conv2d(6, 6, 1) if image else nn.Linear(6, 6)
        for parameter in self.mix.parameters():
            parameter.data = constant(tuple(parameter.shape), generator).to(parameter) * 0.6
        self.operations = operations
        self.calls = 0
        self.seen: list[int] = []
        self.register_buffer("count", torch.zeros(()))
        self.behaviour: Callable[[Chain, Tensor], float | Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        shift = 0.0 if self.behaviour is None else self.behaviour(self, x)
        x = self.mix(x)
        for operation in self.operations:
            x = operation(x)
        return x if self.behaviour is None else x + shift


def behaviours(generator: Generator) -> tuple[Callable[[Chain, Tensor], float | Tensor], str]:
    """Something that a traced module does not show, as big as `size`, and its name."""
    size = pick([1.0, 1e-3, 5e-5, 1e-6], generator)
    length = pick(LENGTHS, generator)

    def remembers(module: Chain, x: Tensor) -> float:
        module.seen.append(len(x))
        return size * len(module.seen)

    def counts(module: Chain, x: Tensor) -> Tensor:
        module.count += 1
        return size * module.count

    def tries(_module: Chain, x: Tensor) -> float:
        try:
            return size * float(x.sum() > -1e9)
        except Exception:
            return 0.0

    table: dict[str, Callable[[Chain, Tensor], float | Tensor]] = {
        "length": lambda _, x: size if len(x) == length else 0.0,
        "several": lambda _, x: size if len(x) > 1 else 0.0,
        "odd": lambda _, x: size * (len(x) // 4),
        "gradients": lambda _, x: size if torch.is_grad_enabled() else 0.0,
        "no gradients": lambda _, x: 0.0 if torch.is_grad_enabled() else size,
        "requires_grad": lambda _, x: size if x.requires_grad else 0.0,
        "exporting": lambda _, x: size if torch.compiler.is_exporting() else 0.0,
        "compiling": lambda _, x: size if torch.compiler.is_compiling() else 0.0,
        "training": lambda module, x: size if module.training else 0.0,
        "calls": lambda module, x: size * module.calls,
        "calls modulo": lambda module, x: size * (module.calls % 2),
        "memory": remembers,
        "buffer": counts,
        "random": lambda _, x: size * torch.rand(()),
        "random by python": lambda _, x: size * torch.rand(()).item(),
        "try": tries,
        "mean of the batch": lambda _, x: size * x.mean(),
        "nothing": lambda _, x: 0.0,
        "constant": lambda _, x: size,
        "fake": lambda _, x: 0.0 if type(x) is Tensor else size,
    }
    name = pick([*table], generator)
    return table[name], f"{name} {size:g}"


def made(generator: Generator, makers: Sequence[Maker] = ()) -> tuple[nn.Module, tuple[int, ...], str] | None:
    """A module that torch runs on batches, the shape of its points, and what it is; None when it does not run.

    Args:
        makers: of operations on rows, to choose from; none for all.
    """
    image = not makers and chance(generator, 0.35)
    makers = makers or (*ELEMENTWISE, *(IMAGES if image else ROWS) * 2)
    chosen = [pick(makers, generator) for _ in range(integer(1, 2, generator))]
    module: nn.Module = Chain([make(generator) for make in chosen], image, generator)
    what = " ".join(make.__name__.strip("_") for make in chosen)
    assert isinstance(module, Chain)
    if chance(generator, 0.25):
        module.behaviour, name = behaviours(generator)
        what = f"{what} with {name}"
    shape = (6, 5, 5) if image else (6,)
    if chance(generator):
        module = module.double()
    module.train(chance(generator, 0.05))
    try:
        with torch.no_grad():
            found = module(torch.randn(4, *shape, generator=generator).to(next(module.parameters()).dtype))
    except Exception:
        return None
    return (module, shape, what) if isinstance(found, Tensor) and found.dim() and len(found) == 4 else None


def check(generator: Generator, makers: Sequence[Maker] = ()) -> Tally:
    """One module at the door."""
    tally, case = Tally(), None
    while case is None:
        case = made(generator, makers)
    module, shape, what = case
    dtype = next(module.parameters()).dtype
    subject: object = module if chance(generator, 0.8) else lambda x: module(x)
    tally.add("modules tried", 1, [])
    hidden = " with " in what or module.training
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = from_torch(subject, 0.1 * constant((1, *shape), generator).to(dtype))  # type: ignore[arg-type]
    except JacoboundError as error:
        # Of a module without hidden behaviour this says that a rule is wrong, or the alarm false.
        wrong = [f"{what}: {error}"] if MISMATCH in str(error) and not hidden else []
        tally.add("modules refused", 1, wrong)
        return tally
    except Exception as error:
        tally.add("modules refused", 1, [f"{what}: {type(error).__name__}: {error}"])
        return tally
    tally.add(
        "modules imported",
        1,
        [f"{what}: {line}" for line in differences(graph, module, shape, generator, "casts" in what)],
    )
    return tally


def differences(
    graph: Graph, module: nn.Module, shape: tuple[int, ...], generator: Generator, single: bool
) -> Iterator[str]:
    """How an import differs from its module, run in float64 and in its own dtype, in all ways."""
    own = copy.deepcopy(module)
    precise = next(module.parameters()).dtype == torch.float64 and not single
    double = copy.deepcopy(module).double()
    for scale in SCALES:
        points = scale * constant((max(LENGTHS), *shape), generator)
        points = points.float().double()
        values = graph(points)
        for runs, tolerance in ((double, DOUBLE if precise else SINGLE), (own, DOUBLE if precise else SINGLE)):
            for length in LENGTHS:
                for gradients in (False, True):
                    x = points[:length].to(next(runs.parameters()).dtype)
                    with torch.set_grad_enabled(gradients):
                        try:
                            found = runs(x.clone().requires_grad_(gradients)).detach().double()
                        except RuntimeError:
                            continue  # a module that takes no gradients has no other values
                    line = _differs(values[:length], found, tolerance, precise and runs is double)
                    if line:
                        yield f"scale {scale}, {length} points, gradients {gradients}: {line}"
                        return


def _differs(ours: Tensor, theirs: Tensor, tolerance: float, finite: bool) -> str:
    if ours.numel() != theirs.numel():
        return f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    theirs = theirs.reshape(ours.shape)
    both = torch.isfinite(ours) & torch.isfinite(theirs)
    if finite and not torch.equal(torch.isfinite(ours), torch.isfinite(theirs)):
        return "not finite at the same entries"
    size = theirs[both].abs().max().item() if both.any() else 0.0
    error = (ours - theirs)[both].abs().max().item() if both.any() else 0.0
    allowed = tolerance * (1 + size) + (SHORTCUT if size > 5 else 0.0)
    return f"values differ by {error:.3g} where the largest is {size:.3g}" if error > allowed else ""
