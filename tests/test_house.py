"""The rules of the house that no reader sees at a glance: import order, sizes, what may appear where."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "jacobound"

# A module may import only from lines above its own. Files of one folder ("methods.*") may import each other without a
# circle; folders inside of it have lines of their own. The bare name of a package is its __init__.py, which has no
# line where it imports nothing; "__init__" is that of jacobound.
LAYERS = (
    "version",
    "stored",
    "errors",
    "checks",
    "words",
    "budget",
    "arithmetic.*",
    "operators.*",
    "activations.calculus.*",
    "activations.lines.*",
    "activations.kinds.*",
    "activations",
    "graph.*",
    "graph.vector.*",
    "inputs.*",
    "reports.*",
    "reports.page.*",
    "results.*",
    "method.*",
    "method",
    "relaxation.*",
    "jacobian.*",
    "jacobian.recursion.*",
    "jacobian.affine.*",
    "constants.*",
    "constants.pairs.*",
    "certificates.dense.*",
    "certificates.layered.*",
    "certificates.frequencies.*",
    "certificates.*",
    "certifying.*",
    "lower_ends.*",
    "splitting.*",
    "methods.*",
    "methods",
    "given",
    "asking",
    "solve",
    "questions.*",
    "questions",
    "importers.fusions.*",
    "importers.lowering.*",
    "importers.onnx.model.*",
    "importers.onnx.operations.*",
    "importers.onnx.*",
    "importers.torch.tracing.*",
    "importers.torch.door.*",
    "importers.torch.operations.*",
    "importers.torch.*",
    "importers.*",
    "importers",
    "verifying.*",
    "verifying",
    "sweeps.*",
    "sweeps",
    "training.*",
    "training",
    "cli.shown.*",
    "cli.given.*",
    "cli.commands.*",
    "cli",
    "__init__",
    "__main__",
)

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MARKS = ("TO" + "DO", "FIX" + "ME", "X" * 3)  # joined, so that this file passes its own test
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}


def module_name(path: Path) -> str:
    """``methods/base.py`` is "methods.base", ``methods/__init__.py`` is "methods"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def python_files(*folders: str) -> list[Path]:
    """All Python files below folders of the repository, in a fixed order."""
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def nodes(paths: Iterable[Path]) -> Iterator[tuple[str, ast.AST]]:
    """Every syntax node of every file with its place, "src/.../file.py:line"."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            yield f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 1)}", node


def layer(module: str) -> int | None:
    """The line of `LAYERS` that a module belongs to; its exact name comes before a pattern."""
    names = (module, f"{module.rpartition('.')[0]}.*")
    return next((LAYERS.index(name) for name in names if name in LAYERS), None)


def package_of(module: str, known: Iterable[str]) -> str:
    """The package that relative imports of a module start from."""
    if module == "__init__":
        return "jacobound"
    is_package = any(name.startswith(f"{module}.") for name in known)
    parent = module if is_package else module.rpartition(".")[0]
    return f"jacobound.{parent}".rstrip(".")


def imported(source: str, module: str, known: Iterable[str]) -> set[str]:
    """The modules of jacobound that a source text imports, also inside functions and under TYPE_CHECKING."""
    targets: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            targets |= {found.value for found in node.args if isinstance(found, ast.Constant)}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package_of(module, known))
            names = {f"{base}.{alias.name}" for alias in node.names}
            submodules = {name for name in names if name.removeprefix("jacobound.") in known}
            targets |= submodules if submodules == names else submodules | {base}
    ours = {target for target in targets if target.split(".")[0] == "jacobound"}
    return {target.removeprefix("jacobound").removeprefix(".") or "__init__" for target in ours}


def order_offences(sources: Mapping[str, str]) -> list[str]:
    """What breaks the order of `LAYERS` among modules given as name and source text."""
    offences, within_a_layer = [], {}
    for module, source in sources.items():
        if not imported(source, module, sources) and f"{module}.*" in LAYERS:
            continue  # the __init__.py of a folder that says what it holds
        mine = layer(module)
        if mine is None:
            offences.append(f"{module} is in no layer: add it to LAYERS in tests/test_house.py")
            continue
        within_a_layer[module] = set()
        for other in sorted(imported(source, module, sources) - {module}):
            theirs = layer(other)
            if theirs is None:
                offences.append(f"{module} imports {other}, which is in no layer: add it to LAYERS")
            elif theirs > mine:
                offences.append(f"{module} imports {other}, which stands below it in LAYERS")
            elif theirs == mine:
                within_a_layer[module].add(other)
    try:
        TopologicalSorter(within_a_layer).prepare()
    except CycleError as error:
        offences.append(f"modules of one layer import each other in a circle: {' -> '.join(error.args[1])}")
    return offences


def test_modules_import_only_from_layers_above() -> None:
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in python_files("src/jacobound")}
    assert order_offences(sources) == []


TINY_PACKAGE: dict[str, str] = {
    "errors": "import torch",
    "methods": "from jacobound.relaxation.ranges import IBP",
    "methods.base": "from jacobound import errors",
    "methods.ibp": "from . import base",
    "methods.crown": "from .ibp import IBP",
    "solve": "from .methods import IBP",
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("methods.ibp", "from jacobound.solve import bound", "methods.ibp imports solve"),
        ("errors", "def later():\n    import jacobound.solve as solve", "errors imports solve"),
        ("errors", "importlib.import_module('jacobound.solve')", "errors imports solve"),
        ("methods", "from ..solve import bound", "methods imports solve"),
        ("solve", "import jacobound as jb", "solve imports __init__"),
        ("solve", "from jacobound.novelty import bound", "in no layer: add it to LAYERS"),
        ("novelty", "", "novelty is in no layer: add it to LAYERS"),
        ("methods.ibp", "from .crown import CROWN", "in a circle"),
    ],
)
def test_the_import_order_test_notices(module: str, source: str, complaint: str) -> None:
    assert order_offences(TINY_PACKAGE) == []
    (offence,) = order_offences(TINY_PACKAGE | {module: source})
    assert complaint in offence


def test_the_checker_imports_numpy_alone() -> None:
    """It must not share a mistake with the library whose certificates it proves, nor need what the library needs."""
    offences = []
    for place, node in nodes(python_files("src/jacobound_check")):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        else:
            roots = (
                {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) and not node.level else set()
            )
        foreign = roots - sys.stdlib_module_names - {"numpy", "jacobound_check"}
        offences += [f"{place} imports {root}" for root in sorted(foreign)]
    assert offences == []


def test_nothing_prints_outside_the_command_line() -> None:
    commands = {PACKAGE / "cli", PACKAGE.parent / "jacobound_check" / "__main__.py"}
    files = [path for path in python_files("src") if not commands & {path, *path.parents}]
    calls = [(place, node.func) for place, node in nodes(files) if isinstance(node, ast.Call)]
    assert [place for place, called in calls if isinstance(called, ast.Name) and called.id == "print"] == []


def test_files_and_functions_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files("src")}
    assert [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > LONGEST_FILE] == []
    functions = (
        (f"{place} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for place, node in nodes(python_files("src"))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert [f"{place}: {lines} lines" for place, lines in functions if lines > LONGEST_FUNCTION] == []


def test_every_file_says_what_it_is_for() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in python_files("src")}
    assert [str(path) for path, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_no_global_statement() -> None:
    assert [place for place, node in nodes(python_files("src")) if isinstance(node, ast.Global)] == []


def test_methods_do_not_choose_a_device_or_dtype() -> None:
    offences = []
    folders = ("relaxation", "jacobian", "constants", "certificates", "lower_ends", "methods")
    for place, node in nodes(python_files(*(f"src/jacobound/{folder}" for folder in folders))):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("cuda", "double"):
            offences.append(f"{place} .{node.func.attr}()")
        devices = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "device"]
        offences += [f"{place} device={value}" for value in devices if not value.endswith(".device")]
    assert offences == [], "create tensors with new_* or *_like instead"


def has_keyword(call: ast.Call, name: str, value: object) -> bool:
    """Whether a call passes the constant `value` for the keyword `name`."""
    return any(
        keyword.arg == name and isinstance(keyword.value, ast.Constant) and keyword.value.value is value
        for keyword in call.keywords
    )


def test_decompositions_that_may_not_converge_stand_where_that_is_handled() -> None:
    """torch raises its own error for such a matrix; `linalg` makes NaN of it, `SeqLip` falls back on products."""
    raising = {
        "eig",
        "eigh",
        "eigvals",
        "eigvalsh",
        "svd",
        "svdvals",
        "matrix_norm",
        "inv",
        "solve",
        "cholesky",
        "lstsq",
    }
    handled = ("/linalg.py:", "/block_norms.py:", "/constants/pairs/", "/training/")
    calls = ((place, node.func) for place, node in nodes(python_files("src")) if isinstance(node, ast.Call))
    found = [
        place
        for place, call in calls
        if isinstance(call, ast.Attribute) and ast.unparse(call.value).endswith("torch.linalg") and call.attr in raising
    ]
    assert [place for place in found if not any(one in place for one in handled)] == []


def test_nothing_is_unpickled() -> None:
    offences = []
    for place, node in nodes(python_files("src", "tests", "examples", "benchmarks", "campaign")):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        else:
            roots = {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
        offences += [f"{place} import {root}" for root in sorted(roots & UNSAFE_MODULES)]
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) == "torch.load" and not has_keyword(node, "weights_only", True):
            offences.append(f"{place} torch.load without weights_only=True")
        if has_keyword(node, "allow_pickle", True):
            offences.append(f"{place} allow_pickle=True")
    assert offences == []


def test_no_marks_of_unfinished_work() -> None:
    offences = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in python_files("src", "tests", "examples", "benchmarks", "campaign")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(mark in line for mark in MARKS)
    ]
    assert offences == []
