"""`python -m campaign`: attack the library at full size, and write what came of it to ``campaign/results``.

    python -m campaign --primitives 1000000 --exact 100000 --graphs 10000 --exchange 300 --files 100000 --mutants

Only what is named is run. An interrupted run goes on where it stopped when it is started again with the same seed and
unchanged sources. A violation is printed with its batch; ``--replay exact:17`` runs that batch again, alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from campaign import RESULTS
from campaign.report import excuses, render, unexcused
from campaign.runner import Part, generator_of, read, run


def parts() -> dict[str, Part]:
    """All parts that count cases, by name."""
    from campaign import claims, exchange, fuzzing, graphs, primitives

    found = (primitives.PART, claims.PART, graphs.PART, exchange.PART, fuzzing.PART)
    return {part.name: part for part in found}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m campaign", description=(__doc__ or "").splitlines()[0])
    for name in ("primitives", "exact", "graphs", "exchange", "files"):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="CASES", help=f"how many cases of '{name}'")
    parser.add_argument("--mutants", nargs="*", metavar="FILE", help="mutation tests of all or of these source files")
    parser.add_argument("--most", type=int, metavar="COUNT", help="at most this many mistakes of each file")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other cases")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--replay", metavar="PART:BATCH", help="run one batch again and print what is wrong")
    return parser.parse_args()


def replay(text: str, seed: int) -> int:
    """Run one batch; the number of violations."""
    name, _, index = text.partition(":")
    found = parts()[name].batch(generator_of(name, seed, int(index)))
    print("\n".join(found.violations) or "nothing is wrong")
    return len(found.violations)


def main() -> int:
    """Zero when nothing was violated and every surviving mistake has its reason."""
    options = arguments()
    torch.set_num_threads(1)
    if options.mutants is not None:
        from campaign import mutants  # before anything else is imported: its tests import a private copy

        mutants.run(options.mutants, options.out / "mutants.json", options.most)
    if options.replay:
        return min(1, replay(options.replay, options.seed))
    wrong = 0
    wanted = {name: getattr(options, name) for name in ("primitives", "exact", "graphs", "exchange", "files")}
    if any(wanted.values()):
        known = parts()
        for name, cases in wanted.items():
            if cases:
                state = run(known[name], cases, options.seed, options.out / "latest.json")
                print("\n".join(state["examples"]), file=sys.stderr)
                wrong += state["violations"]
    results, mistakes = read(options.out / "latest.json"), read(options.out / "mutants.json")
    print(render(results, mistakes))
    survivors = unexcused(mistakes, excuses()) if options.mutants is not None else []
    print("\n".join(survivors), file=sys.stderr)
    return int(bool(wrong or survivors))


if __name__ == "__main__":
    sys.exit(main())
