"""Keys of deliberate mistakes in the ledger of survivors, which outlive new names of local variables and of files.

The key of a mistake is its function, the syntax before and after with local variables numbered in the order in which
they occur, and four digits of a hash of the statement around it, likewise numbered:

    _Search.near: torch.where($1, $2, $3) -> torch.where($1, $3, $2) @5c1e

So an entry is about one statement as it is written, whatever its variables are called, and however much is inserted
before it. A file is known by any class or function that it defines and no other file does.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Mapping

BODIES = ("body", "orelse", "finalbody", "handlers", "cases", "decorator_list", "returns", "annotation")


class Positions:
    """Positions of syntax nodes as offsets of characters."""

    def __init__(self, text: str) -> None:
        self.text, self._starts = text, [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._lines = text.splitlines()

    def at(self, line: int, column: int) -> int:
        # Columns count bytes of UTF-8.
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        return (
            self.at(node.lineno, node.col_offset),  # type: ignore[attr-defined]
            self.at(node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
        )

    def of(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]


class Keys:
    """Keys of mistakes in one source text."""

    def __init__(self, text: str, tree: ast.Module) -> None:
        positions = Positions(text)
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]  # outer ones first
        self._statements = [(*positions.span(node), node) for node in nodes]
        self._functions = [(start, end, node, local_names(node)) for start, end, node in self._statements
                           if isinstance(node, ast.FunctionDef)]  # fmt: skip
        self._shapes: dict[tuple[ast.stmt, frozenset[str]], str] = {}

    def __call__(self, place: str, start: int, before: str, after: str) -> str:
        """Without the number of those that are alike."""
        around = [node for first, last, node in self._statements if first <= start < last][-1]
        outer = [names for first, last, _, names in self._functions if first <= start < last]
        names = outer[0] if outer else local_names(around)
        if (around, names) not in self._shapes:
            self._shapes[around, names] = hashlib.sha256(shape(around, names, {}).encode()).hexdigest()[:4]
        numbers: dict[str, str] = {}
        texts = " -> ".join(numbered(text, names, numbers) for text in (before, after))
        return f"{place}: {texts} @{self._shapes[around, names]}"


def local_names(node: ast.AST) -> frozenset[str]:
    """Arguments and variables of a function; of another statement, those of its lambdas and comprehensions."""
    found = {arg.arg for arg in ast.walk(node) if isinstance(arg, ast.arg)}
    inner = (
        [node] if isinstance(node, ast.FunctionDef) else [n for n in ast.walk(node) if isinstance(n, ast.comprehension)]
    )
    for part in inner:
        found |= {n.id for n in ast.walk(part) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    return frozenset(found - {"self", "cls"})


class _Numbered(ast.NodeTransformer):
    def __init__(self, names: frozenset[str], numbers: dict[str, str]) -> None:
        self._names, self._numbers = names, numbers

    def _number(self, name: str) -> str:
        return self._numbers.setdefault(name, f"${len(self._numbers) + 1}") if name in self._names else name

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._number(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self._number(node.arg))


def numbered(text: str, names: frozenset[str], numbers: dict[str, str]) -> str:
    """An expression or a statement with local variables numbered; an operator stays as it is."""
    for mode, source in (("eval", f"({text})"), ("exec", text)):
        try:
            return ast.unparse(_Numbered(names, numbers).visit(ast.parse(source, mode=mode)))
        except SyntaxError:
            continue
    return " ".join(text.split())


def shape(node: object, names: frozenset[str], numbers: dict[str, str]) -> str:
    """The syntax of a statement as a text, without the statements inside of it, with local variables numbered."""
    if isinstance(node, list):
        return "[" + ",".join(shape(part, names, numbers) for part in node) + "]"
    if not isinstance(node, ast.AST):
        return numbers.setdefault(node, f"${len(numbers)}") if isinstance(node, str) and node in names else repr(node)
    if isinstance(node, ast.Attribute | ast.keyword):  # names of fields and of arguments of others
        return f"{shape(node.value, names, numbers)}.{node.attr if isinstance(node, ast.Attribute) else node.arg}"
    fields = [shape(value, names, numbers) for field, value in ast.iter_fields(node) if field not in BODIES]
    return f"{type(node).__name__}({','.join(fields)})"


def landmarks(texts: Mapping[str, str]) -> dict[str, str]:
    """For every class and function that one file alone defines, that file; `texts` are sources by file."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    defined = {
        file: [node.name for node in ast.parse(text).body if isinstance(node, kinds)] for file, text in texts.items()
    }
    counts = Counter(name for names in defined.values() for name in set(names))
    return {name: file for file, names in defined.items() for name in names if counts[name] == 1}
