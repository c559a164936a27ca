"""`make house`: how the source tree is built, in numbers: sizes, imports, names, and what tests reach into.

python -m campaign.house                          this tree
python -m campaign.house ../another/checkout      another one, an older commit say
python -m campaign.house --calls                  also the functions that each entry point runs through
python -m campaign.house --seconds 60 340 9000    with seconds of the three tiers, as measured
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

from campaign import REPOSITORY

NAME = "jacobound"
CALLS = """
import sys
import torch, jacobound as jb
from importlib.resources import files
net = jb.from_onnx((files("jacobound") / "data" / "mnist_4layer_relu_64.onnx").read_bytes())
x = torch.full(net.in_shape, 0.1, dtype=torch.float64)
ball = jb.Ball(x, 0.01)
calls = {
    "bound_output": lambda: jb.bound_output(net, ball),
    "bound_jacobian": lambda: jb.bound_jacobian(net, ball),
    "lipschitz": lambda: jb.lipschitz(net, ball, norm=float("inf"), budget=jb.Budget(seconds=10)),
    "robust_radius": lambda: jb.robust_radius(net, x, p=float("inf")),
}
for name, call in calls.items():
    seen, moves, last = set(), 0, ""
    def watch(frame, event, argument):
        global moves, last
        code = frame.f_code
        if event == "call" and "/jacobound/" in code.co_filename:
            seen.add((code.co_filename, code.co_qualname))
            moves += code.co_filename != last
            last = code.co_filename
    sys.setprofile(watch)
    try:
        call()
        note = ""
    except (AttributeError, TypeError) as error:
        note = f" (was not called: {error})"
    finally:
        sys.setprofile(None)
    print(f"| `{name}` | {len({file for file, _ in seen})} | {len(seen)} | {moves:,}{note} |")
"""


def sources(folder: Path) -> dict[Path, ast.Module]:
    """The syntax of every Python file below a folder."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


def module_of(path: Path, package: Path) -> str:
    """``src/jacobound/graph/nodes.py`` is "graph.nodes", a folder's ``__init__.py`` is the folder."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, module: str, is_package: bool, known: Iterable[str]) -> Iterator[str]:
    """Modules of the package that a file imports, also in functions, and by strings in calls of import_module."""
    known = set(known)
    parents = module.split(".") if module else []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = parents[: len(parents) - node.level + is_package] if node.level else []
            base = ".".join([*([NAME] if node.level else []), *up, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        for name in names:
            inner = name.removeprefix(f"{NAME}.") if name.startswith(f"{NAME}.") else None
            while inner and inner not in known:
                inner = inner.rpartition(".")[0]
            if inner:
                yield inner


def folder_of(module: str, folders: Iterable[str]) -> str:
    """The top folder that a module belongs to, or the module itself where it is loose."""
    top = module.partition(".")[0]
    return f"{top}/" if top in set(folders) else top


def layout(package: Path) -> list[str]:
    """Files per folder, sizes, arrows between folders, and circles."""
    trees = sources(package)
    modules = {module_of(path, package): path for path in trees}
    lines = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in trees)
    per = Counter(path.parent.relative_to(package).as_posix() for path in trees if path.name != "__init__.py")
    folders = {path.relative_to(package).parts[0] for path in trees if path.parent != package}
    arrows: set[tuple[str, str]] = set()
    files: dict[str, set[str]] = {}
    for module, path in modules.items():
        targets = {name for name in imports(trees[path], module, path.name == "__init__.py", modules) if name != module}
        files[module] = targets
        if module:
            arrows |= {(folder_of(module, folders), folder_of(target, folders)) for target in targets}
    between = {(one, other) for one, other in arrows if one != other}
    rooms = {room for arrow in between for room in arrow}
    mutual = {frozenset(arrow) for arrow in between if arrow[::-1] in between}
    return [
        f"files: {len(trees)}, lines: {sum(lines):,}, median file: {median(lines):.0f}, largest file: {lines[-1]}",
        "files in a folder: " + ", ".join(f"{name} {count}" for name, count in per.most_common()),
        f"most files in a folder: {max(per.values())}, files outside of folders: {per['.']}",
        f"folders and loose files: {len(rooms)}, arrows between them: {len(between)}, "
        f"pairs in both directions: {len(mutual)}"
        + "".join(f"; {' and '.join(sorted(pair))}" for pair in sorted(mutual, key=sorted)[:12]),
        f"circle of files: {circle(files)}",
    ]


def circle(targets: Mapping[str, set[str]]) -> str:
    """One circle of imports among files, or "none"; a package that gathers what it holds is no circle."""
    leaves = {
        module: {name for name in names if not module.startswith(f"{name}.") and not name.startswith(f"{module}.")}
        for module, names in targets.items()
    }
    try:
        TopologicalSorter(leaves).prepare()
    except CycleError as error:
        return " -> ".join(error.args[1])
    return "none"


def functions(trees: Mapping[Path, ast.Module]) -> list[str]:
    """How long functions are, and names that are defined in several files."""
    found = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in found)
    rows = [f"functions: {len(found):,}, longest: {lengths[-1]}, longer than 60 lines: {sum(n > 60 for n in lengths)}"]
    for what, kind in (("classes", ast.ClassDef), ("functions", ast.FunctionDef)):
        places = Counter(
            name
            for tree in trees.values()
            for name in {node.name for node in tree.body if isinstance(node, kind) and node.name != "main"}
        )
        several = sorted((name for name, count in places.items() if count > 1), key=lambda name: (-places[name], name))
        shown = ", ".join(f"{name} {places[name]}" for name in several[:8])
        rows.append(f"names of {what} that stand in more than one file: {len(several)} ({shown})")
    return rows


def without_subject(trees: Mapping[Path, ast.Module]) -> list[str]:
    """Docstrings that begin "The same", which say nothing without the body."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [
        ast.get_docstring(node) or "" for tree in trees.values() for node in ast.walk(tree) if isinstance(node, kinds)
    ]
    return [f"docstrings: {sum(map(bool, texts)):,}, that begin \"The same\": "
            f"{sum(text.startswith('The same') for text in texts)}"]  # fmt: skip


def reached_by_tests(root: Path) -> list[str]:
    """What tests import from inside the package, and attributes with a leading underscore that they read."""
    trees = sources(root / "tests")
    by_hand = {path for path in trees if "arithmetic_by_hand" in path.parts}
    names: dict[bool, set[str]] = {False: set(), True: set()}
    private: dict[bool, set[str]] = {False: set(), True: set()}
    attributes = Counter[bool]()
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{NAME}."):
                names[path in by_hand] |= {f"{node.module}.{alias.name}" for alias in node.names}
                private[path in by_hand] |= {alias.name for alias in node.names if alias.name.startswith("_")}
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                attributes[path in by_hand] += 1
    cases = sum(
        node.name.startswith("test_")
        for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    )  # fmt: skip
    both, hidden = names[False] | names[True], private[False] | private[True]
    return [
        f"test functions: {cases:,}, in {len(trees)} files; by hand: {len(by_hand)} files",
        f"internal names that tests import: {len(both)} ({len(names[False])} without those by hand), "
        f"with a leading underscore: {len(hidden)} ({len(private[False])})",
        f"attributes `x._name` that tests read: {attributes.total()} ({attributes[False]} without those by hand)",
    ]


def calls(root: Path) -> list[str]:
    """How many files and functions the four entry points run through, on the packaged network."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS], cwd=root / "src", capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    return [
        "| call | files | functions | moves between files |",
        "|---|---:|---:|---:|",
        *done.stdout.splitlines(),
        *said,
    ]


def report(root: Path, with_calls: bool, seconds: list[float]) -> str:
    """All figures of one tree."""
    trees = sources(root / "src" / NAME)
    parts = [*layout(root / "src" / NAME), *functions(trees), *without_subject(trees), *reached_by_tests(root)]
    if seconds:
        tiers = zip(("quick", "test", "soundness"), seconds, strict=False)
        parts.append("seconds of the tiers: " + ", ".join(f"{name} {number:g}" for name, number in tiers))
    return "\n".join([*(f"- {part}" for part in parts), *(["", *calls(root)] if with_calls else [])])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m campaign.house", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=REPOSITORY, help="another checkout")
    parser.add_argument("--calls", action="store_true", help="also run the four entry points (a minute)")
    parser.add_argument("--seconds", nargs="*", type=float, default=[], help="of the tiers quick, test and soundness")
    options = parser.parse_args()
    print(report(options.root.resolve(), options.calls, options.seconds))


if __name__ == "__main__":
    main()
