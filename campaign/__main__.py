"""`python -m campaign`: attack the library at full size, and write what came of it to ``campaign/results``.

    python -m campaign --primitives 1000000 --exact 100000 --graphs 10000 --exchange 300 --door 3000
    python -m campaign --calls 5000 --interrupts 100 --results 500 --files 100000 --mutants

Only what is named is run. An interrupted run goes on where it stopped when it is started again with the same seed and
unchanged sources. A violation is printed with its batch; ``--replay exact:17`` runs that batch again, alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from campaign import RESULTS, mutants
from campaign.mutants import all_results, excuses, possible
from campaign.report import every_reason, outdated, render, unexcused
from campaign.runner import Part, generator_of, read, run

PARTS = (
    "primitives",
    "exact",
    "lower",
    "graphs",
    "exchange",
    "door",
    "calls",
    "interrupts",
    "results",
    "files",
    "certificates",
)


def parts() -> dict[str, Part]:
    """All parts that count cases, by name."""
    from campaign import (
        calls,
        certificates,
        claims,
        door,
        exchange,
        fuzzing,
        graphs,
        interrupts,
        lower_ends,
        primitives,
        stored,
    )

    first = (primitives.PART, claims.PART, lower_ends.PART, graphs.PART, exchange.PART, door.PART)
    found = (*first, calls.PART, interrupts.PART, stored.PART, fuzzing.PART, certificates.PART)
    return {part.name: part for part in found}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m campaign", description=(__doc__ or "").splitlines()[0])
    for name in PARTS:
        parser.add_argument(f"--{name}", type=int, default=0, metavar="CASES", help=f"how many cases of '{name}'")
    parser.add_argument("--mutants", nargs="*", metavar="FILE", help="mutation tests of all or of these source files")
    parser.add_argument("--most", type=int, metavar="COUNT", help="at most this many mistakes of each file")
    parser.add_argument("--patience", type=float, default=20.0, metavar="SECONDS", help="of tests for one mistake")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument(
        "--reasons", action="store_true", help="print why each surviving mistake may live, and nothing else"
    )
    parser.add_argument("--replay", metavar="PART:BATCH", help="run one batch again and print what is wrong")
    return parser.parse_args()


def replay(text: str, seed: int) -> int:
    """Run one batch; the number of violations."""
    name, _, index = text.partition(":")
    found = parts()[name].batch(generator_of(name, seed, int(index)))
    print("\n".join(found.violations) or "nothing is wrong")
    return len(found.violations)


def main() -> int:
    """Zero when nothing was violated, every surviving mistake has its reason, and every reason its survivor."""
    options = arguments()
    torch.set_num_threads(1)
    if options.reasons:
        print(every_reason(excuses()))
        return 0
    if options.mutants is not None:
        mutants.run(options.mutants, options.out, options.most, options.patience)
    if options.replay:
        return min(1, replay(options.replay, options.seed))
    wrong = 0
    wanted = {name: getattr(options, name) for name in PARTS}
    if any(wanted.values()):
        known = parts()
        for name, cases in wanted.items():
            if cases:
                state = run(known[name], cases, options.seed, options.out / "latest.json")
                print("\n".join(state["examples"]), file=sys.stderr)
                wrong += state["violations"]
    results, mistakes = read(options.out / "latest.json"), all_results(options.out)
    print(render(results, mistakes))
    known = excuses()
    survivors = unexcused(mistakes, known) if options.mutants is not None else []
    stale = outdated(mistakes, known, possible(known)) if options.mutants is not None else []
    print("\n".join([*survivors, *stale]), file=sys.stderr)
    return int(bool(wrong or survivors or stale))


if __name__ == "__main__":
    sys.exit(main())
