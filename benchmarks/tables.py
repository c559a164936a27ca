"""Results as text: aligned Markdown tables that read well in a terminal and in a README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import constants, sdp
from benchmarks.layout import circumstances, table
from benchmarks.peers import TOOLS, with_attained
from benchmarks.plan import DEMO, FEWEST, GEMM_SIZE, NETWORKS, SOUND_LIMIT

Results = dict[str, Any]
KINDS = ("target", "network", "peers", "sdp", "constants", "growth")


def render(results: Results) -> str:
    """All tables of the stored runs, with a sentence on what each shows; headings of level three."""
    parts = [
        "Everything in float64, every measurement in a process of its own; times are medians of "
        f"{results['repetitions']} calls after a first one ({FEWEST} or more where one takes long, the first one "
        "itself where it takes a minute). CPU seconds count all threads. Under each heading stands on which machine "
        "its rows were measured and what else ran there meanwhile: bounds do not depend on that, except where a limit "
        "of time cut a search short (such cells are marked); seconds do."
    ]
    if not results["with_data"]:
        parts.append(
            "The reference networks were not at hand, so only the demo network that comes with the package was "
            "measured (set `JACOBOUND_SHARED_DATA` to the folder of the reference data for the rest)."
        )
    of_kind = {kind: [run for run in results["runs"] if run["task"]["kind"] == kind] for kind in KINDS}
    parts += _targets(of_kind["target"])
    parts += _networks(of_kind["network"])
    others = with_attained(results["peers"])
    parts += _peers(of_kind["peers"], others)
    parts += sdp.rendered(of_kind["sdp"], others["row"])
    parts += constants.rendered(of_kind["constants"], of_kind["growth"], results.get("global", {}))
    return "\n\n".join(parts) + "\n"


def _targets(runs: Sequence[Results]) -> list[str]:
    if not runs:
        return []
    speed = table(
        (
            "",
            "network",
            "radius",
            "rows",
            "threads",
            "CPU s",
            "at most",
            "wall s",
            "first call",
            "CROWN",
        ),
        (
            (
                run["task"]["label"],
                run["task"]["name"],
                f"{run['task']['radii'][0]:g}",
                "all" if run["task"]["rows"] == "all" else "1",
                str(run["task"]["threads"]),
                _seconds(run["sound"]["cpu"]),
                _limit(run),
                _seconds(run["sound"]["wall"]),
                _seconds(run["first_call"]["cpu"]),
                f"{run['ranges']['cpu_least'] / run['sound']['cpu_least']:.0%}",
            )
            for run in runs
        ),
    )
    cost = table(
        ("", "threads", "unstable", "peak MB", "above torch", "sound / plain", "quartiles", "GFLOP", "of peak rate"),
        (
            (
                run["task"]["label"],
                str(run["task"]["threads"]),
                f"{run['unstable']} of {run['activations']}",
                f"{run['megabytes_peak']:.0f}",
                f"{run['megabytes_peak'] - run['megabytes_torch']:.0f}",
                _cost(run),
                f"{run['ratio']['lower_quartile']:.2f} to {run['ratio']['upper_quartile']:.2f}",
                f"{run['operations'] / 1e9:.2f}",
                f"{run['share_of_peak']:.0%}",
            )
            for run in runs
        ),
    )
    memory = "".join(
        f" ({run['task']['label']}) is to stay below {run['task']['megabytes']:.0f} MB."
        for run in runs
        if run["task"]["megabytes"] and run["task"]["threads"] == 1
    )
    return [
        "## Certified Jacobian bounds: pre-activation bounds (CROWN) and RecurJac",
        "CPU s and wall s are medians; `first call` is CPU seconds of the very first one; `CROWN` is the share of the "
        "pre-activation bounds.",
        circumstances(runs),
        speed,
        f"What rounding costs: `sound / plain` is the CPU time over that of plain float64 arithmetic, measured in turn "
        f"(at most {SOUND_LIMIT:g} is wanted). GFLOP counts matrix products and convolutions; the peak rate is that of "
        f"a {GEMM_SIZE} x {GEMM_SIZE} float64 product in the same process. Memory is the peak of the process; `above "
        f"torch` leaves out what `import torch` takes.{memory}",
        cost,
    ]


def _networks(runs: Sequence[Results]) -> list[str]:
    if not runs:
        return []
    return [
        "## Networks: the whole Jacobian over an l_inf ball, one thread",
        "`linf` and `l2` are certified Lipschitz constants over the ball, from l_inf to l_inf and from l_2 to l_2.",
        circumstances(runs),
        table(
            ("network", "radius", "CPU s", "unstable", "linf", "l2", "peak MB", "status"),
            (
                (
                    run["task"]["name"],
                    f"{run['task']['radii'][0]:g}",
                    _seconds(run["sound"]["cpu"]),
                    f"{run['unstable']} of {run['activations']}",
                    _number(run["constants"]["linf"]),
                    _number(run["constants"]["l2"]),
                    f"{run['megabytes_peak']:.0f}",
                    run["status"].replace("_", " "),
                )
                for run in runs
            ),
        ),
    ]


def _peers(runs: Sequence[Results], others: Results) -> list[str]:
    parts = []
    titles = {
        "row": (
            "## The same work in other tools: the l_1 norm of one output's gradient over an l_inf ball",
            f"Each cell: bound, and CPU seconds of one thread. {sdp.WORDS_BELOW}",
        ),
        "rows": (
            "## The same work in other tools: the l_1 norms of all outputs' gradients over an l_inf ball",
            "Each cell: the largest of the bounds, and CPU seconds of one thread for all of them.",
        ),
        "full": (
            "## The same work in other tools: all entries of the Jacobian over an l_inf ball",
            "Each cell: largest row sum of absolute entry bounds, and CPU seconds of one thread.",
        ),
    }
    for question, (title, explanation) in titles.items():
        known = {tool for cells in others[question].values() for cell in cells.values() for tool in cell}
        tools = [tool for tool in TOOLS if tool in known]
        rows = list(_peer_rows(runs, others[question], question, tools))
        if rows:
            heads = ("network", "radius", "jacobound", *tools, *(sdp.BELOW if question == "row" else ()))
            parts += [title, explanation, circumstances(runs), table(heads, rows)]
    if parts:
        parts.append(
            "The other tools' numbers are stored with the results: auto_LiRPA 0.7.1 in float32, the RecurJac "
            "authors' code in float32 with compilation not counted. Neither accounts for rounding."
        )
    return parts


def _peer_rows(
    runs: Sequence[Results], others: Results, question: str, tools: Sequence[str]
) -> Iterable[tuple[str, ...]]:
    """One row for each network and radius that at least one other tool has done."""
    for run in runs:
        name = run["task"]["name"]
        point = "" if name == DEMO else NETWORKS[name].point or ""
        for radius, ours in run[question].items():
            theirs = others.get(point, {}).get(radius, {})
            if any(tool in theirs for tool in tools):
                ends = sdp.below(ours, theirs) if question == "row" else ()
                yield (name, radius, _cell(ours), *(_cell(theirs.get(tool)) for tool in tools), *ends)


def _cell(entry: Results | None) -> str:
    if entry is None:
        return ""
    bound = _number(entry["bound"])
    return bound if entry["cpu"] is None else f"{bound}, {_seconds(entry['cpu'])} s"


def _limit(run: Results) -> str:
    """The wanted time and whether it was kept; it is meant for one thread."""
    limit = run["task"]["seconds"]
    if limit is None or run["task"]["threads"] > 1:
        return ""
    return f"{limit:g} {'kept' if run['sound']['cpu'] <= limit else 'MISSED'}"


def _cost(run: Results) -> str:
    """Time with rounding over time without; where a target was set for the case, whether this one was kept as well."""
    found = run["ratio"]["median"]
    if run["task"]["seconds"] is None or run["task"]["threads"] > 1:
        return f"{found:.2f}"
    return f"{found:.2f} {'kept' if found <= SOUND_LIMIT else 'MISSED'}"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _number(value: float) -> str:
    return f"{value:.4g}"
