"""Results in words and tables, for `bound`, `lipschitz` and `demo`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from jacobound.cli.shown.text import say, say_fact, say_table
from jacobound.graph.graph import Graph
from jacobound.inputs.regions import Ball
from jacobound.results.kinds import JacobianBounds, LipschitzBound, OutputBounds, Status
from jacobound.words import Table, nearest, rounded_down, rounded_up

MOST_ROWS = 20  # of a printed table; JSON and arrays hold all

CONSTANTS = Table(
    ("radius", "upper", "lower", "gap", "unstable", "seconds", "<status"),
    (9, 10, 10, 8, 8, 7, 11),
)


def told_ball(ball: Ball, decimal: object, story: str) -> str:
    """The region in words."""
    clip = "" if ball.clip is None else f", clipped to [{ball.clip[0]}, {ball.clip[1]}]"
    units = "" if ball.scale is None else " in units of each input"
    return f"l{norm_name(ball.p)} ball of radius {decimal}{units} around {story}{clip}"


def norm_name(p: float) -> str:
    return "inf" if math.isinf(p) else f"{p:g}"


def say_outputs(outputs: OutputBounds, names: Sequence[str], centre: Tensor, most: int = MOST_ROWS) -> None:
    """Certified bounds of every output beside its value at the centre."""
    lower, upper = outputs.lower.flatten().tolist(), outputs.upper.flatten().tolist()
    rows = [
        (name, nearest(value), rounded_down(low), rounded_up(high))
        for name, value, low, high in zip(names, centre.flatten().tolist(), lower, upper, strict=True)
    ]
    say_table(("output", "at the centre", "certified lower", "certified upper"), rows[:most])
    say_rest(rows, most)


def say_jacobian(jacobian: JacobianBounds, names: Sequence[str], most: int = MOST_ROWS) -> None:
    """For every row how many entries have a certified sign, the sum of magnitudes, and the widest entry."""
    rows = []
    for name, lower, upper in zip(names, jacobian.lower.double().cpu(), jacobian.upper.double().cpu(), strict=True):
        widest = int((upper - lower).argmax())
        low, high = float(lower.flatten()[widest]), float(upper.flatten()[widest])
        signs = f"{int(certain_signs(lower, upper).sum())} of {lower.numel()}"
        place = ", ".join(str(int(k)) for k in torch.unravel_index(torch.tensor(widest), lower.shape))
        rows.append((name, signs, rounded_up(row_sum(lower, upper)), place, rounded_down(low), rounded_up(high)))
    say_table(("row", "signs known", "sum of sizes <=", "widest at", "its lower", "its upper"), rows[:most])
    say_rest(rows, most)
    say(f"slopes not known over the region: {int(jacobian.unstable.sum())} of {jacobian.activations} activations")


def certain_signs(lower: Tensor, upper: Tensor) -> Tensor:
    """Mask of the entries whose bounds exclude zero; NaN counts as not excluding it."""
    return (lower > 0) | (upper < 0)


def row_sum(lower: Tensor, upper: Tensor) -> float:
    """An upper bound of the sum of magnitudes: the row's Lipschitz constant in the maximum norm."""
    magnitudes = torch.maximum(lower.abs(), upper.abs()).flatten().tolist()
    if not all(map(math.isfinite, magnitudes)):
        return math.inf
    try:
        return math.nextafter(math.fsum(magnitudes), math.inf)
    except OverflowError:
        return math.inf


def centre_values(graph: Graph, point: Tensor, matrix: Tensor | None) -> Tensor:
    """Values of the rows at the point, in plain floating point."""
    return graph.with_rows(matrix)(point).detach()


def constants_row(bound: LipschitzBound, called: str) -> str:
    """One line of the table of constants."""
    return CONSTANTS.row(
        (
            called,
            rounded_up(float(bound.upper)),
            rounded_down(float(bound.lower)) if bound.witness is not None else "-",
            told_gap(bound) if bound.witness is not None else "-",
            int(bound.unstable),
            f"{bound.seconds:.2f}",
            short(bound.status),
        )
    )


def say_candidates(bound: LipschitzBound) -> None:
    """Every constant that was found for one region, the smallest first."""
    found = sorted(bound.details.items(), key=lambda item: float(item[1].value))
    rows = [(name, rounded_up(float(one.value)), f"{one.seconds:.2f}", short(one.status)) for name, one in found]
    say_table(("<candidate", "value", "seconds", "<status"), rows)


def told_gap(bound: LipschitzBound) -> str:
    """Upper over lower, of one region."""
    gap = float(bound.gap)
    return f"{gap:.3f}" if gap < 1000 else f"{gap:.3g}"


def short(status: Status) -> str:
    return status.name.lower().replace("_", " ")


def say_status(*statuses: Status) -> None:
    """Whether the bounds hold: one line, that of the worst."""
    ranked = sorted(statuses, key=lambda status: (status.certified, status is Status.CERTIFIED))
    say_fact("status:", (ranked[0] if ranked else Status.CERTIFIED).value)


def say_answer(answer: str) -> None:
    """The last line of a command."""
    say_fact("answer:", answer)


def say_files(*files: Path | None) -> None:
    """Which files were written."""
    for file in files:
        if file is not None:
            say(f"written: {file}")


def say_rest(rows: Sequence[object], most: int) -> None:
    """How many rows of a table were left out."""
    if len(rows) > most:
        say(f"... and {len(rows) - most} more; --verbose shows them, and all are in --json")
