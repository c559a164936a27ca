"""Deliberate mistakes in source text, found by walking its syntax tree: each is one replaced stretch of one file."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from campaign.ledger_keys import Keys, Positions

# What a call is replaced by: "drop" keeps only the (first) argument or the object, others are texts or other names.
CALLS = {
    "up": ("drop", "down", "far below"),
    "down": ("drop", "up", "far above"),
    "outward": ("safe_interval",),
    "safe_interval": ("drop2",),
    "inflate": ("drop",),
    "gamma": ("0.0",),
    "underflow": ("0.0",),
    "unit": ("0.0",),
    "tiny": ("0.0",),
    "smallest": ("0.0",),
    "floor_of": ("0.0",),
    "underflow_of": ("0.0",),
    "rigorous": ("False",),
    "_stepped_up": ("drop", "_stepped_down"),
    "_stepped_down": ("drop", "_stepped_up"),
    "_product": ("first times second",),
    "dual_exponent": ("drop",),
    "vector_norm_upper": ("torch.linalg.vector_norm",),
}
# An outward step moves by two units of roundoff, twice what an operation loses. Where it is missing, the next one often
# covers for it, and no test can tell; one that is sixteen units the wrong way shows that tests look at this place.
FAR = "({x}).{step}(({x}).abs(), alpha=2.0 ** (-20 if ({x}).element_size() == 4 else -49))"
METHODS = {
    "abs": ("drop",),
    "magnitude": (".upper", ".lower"),
    "slack": ("zero",),
    "uncertainty": ("None",),
    "intersect": ("drop", ".hull"),
    "hull": ("drop", ".intersect"),
    "clamp": ("drop",),
    "nan_to_num": ("drop",),
    "nan_to_num_": ("drop",),
    "amin": (".amax",),
    "amax": (".amin",),
    "minimum": (".maximum",),
    "maximum": (".minimum",),
    "transpose": ("drop",),
    "outward": (".safe",),
    "reciprocal": ("drop",),
    "any": (".all",),
    "all": (".any",),
}
COMPARISONS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
SUMS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.FloorDiv: "*"}
ENDS = {"lower": "upper", "upper": "lower", "lower_slope": "upper_slope", "upper_slope": "lower_slope",
        "lower_offset": "upper_offset", "upper_offset": "lower_offset"}  # fmt: skip
# Arguments that are only asked for their dtype, device and shape, by position, so that either end will do.
LIKE = {
    **dict.fromkeys(("full_like", "zeros_like", "ones_like", "empty_like", "expand_as", "len", "whole"), 0),
    **dict.fromkeys(("number", "turn_ends", "extents", "zones", "exact_line", "float_ends", "curved", "signs"), 1),
    **dict.fromkeys(("gamma", "underflow", "unit_rows", "positions"), 1),
    "_image_at": 2,
}
KINDS = ("dtype", "device", "shape", "ndim", "dim", "numel", "size", "new_zeros", "new_ones", "new_full", "new_tensor",
         "new_empty")  # fmt: skip
SILENT = (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Args:
        place: function in which it is made, "Class.method".
        line: line number.
        start, end: the stretch of the text (in characters) that is replaced.
        before, after: the stretch and what stands there instead.
        within: text of that function, or of the line where there is none.
        name: identifies the mistake while the function stays as it is: place, texts, and a number where they repeat.
        key: the same for the ledger of survivors, see `campaign.ledger_keys`: local variables are numbered.
    """

    place: str
    line: int
    start: int
    end: int
    before: str
    after: str
    within: str = ""
    name: str = ""
    key: str = ""

    def applied(self, text: str) -> str:
        return text[: self.start] + self.after + text[self.end :]


def mutations(text: str) -> list[Mutation]:
    """All mistakes that can be made in a source text, in the order of the text."""
    found: list[Mutation] = []
    source, tree = Positions(text), ast.parse(text)
    functions = [source.span(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]  # outer ones first
    lines = text.splitlines()
    for place, node in _walk(tree, ""):
        if not place and isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            continue  # the name of a type
        for start, end, after in _changes(node, source):
            before = text[start:end]
            if before != after:
                line = text.count("\n", 0, start) + 1
                around = [text[first:last] for first, last in functions if first <= start and end <= last]
                found.append(Mutation(place, line, start, end, before, after, (around or [lines[line - 1]])[-1]))
    found.sort(key=lambda one: (one.start, one.end, one.after))
    seen: Counter[str] = Counter()
    named, key_of = [], Keys(text, tree)
    for one in found:
        name = f"{one.place}: {' '.join(one.before.split())} -> {' '.join(one.after.split())}"
        key = key_of(one.place, one.start, one.before, one.after)
        seen.update((name, key))
        name, key = (text + (f" #{seen[text]}" if seen[text] > 1 else "") for text in (name, key))
        named.append(replace(one, name=name, key=key))
    shapes = _kinds_only(tree, source)
    return [one for one in named if (one.start, one.end) not in shapes]


def _kinds_only(tree: ast.AST, source: Positions) -> set[tuple[int, int]]:
    """Where an end of an interval only tells what kind of tensor is meant: the other end is the same program."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in KINDS:
            found.append(node.value)
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            position = LIKE.get(name, len(node.args))
            found += node.args[position : position + 1]
    return {source.span(node) for node in found if isinstance(node, ast.Attribute) and node.attr in ENDS}


def _walk(node: ast.AST, place: str) -> Iterator[tuple[str, ast.AST]]:
    """Expressions that compute something, with the function they stand in; messages and types are left out."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, SILENT):
                continue
            inner = place
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{place}.{child.name}".lstrip(".")
            elif place or not isinstance(child, ast.Expr):
                yield place, child
            yield from _walk(child, inner)


def _changes(node: ast.AST, source: Positions) -> Iterator[tuple[int, int, str]]:
    """Stretches and replacements for one syntax node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        yield _between(node.left, node.comparators[0], COMPARISONS[type(node.ops[0])], source)
    elif isinstance(node, ast.BinOp) and type(node.op) in SUMS:
        yield _between(node.left, node.right, SUMS[type(node.op)], source)
        if isinstance(node.op, ast.Add | ast.Sub):
            yield *source.span(node), source.of(node.left)
        yield from _constants(node, source)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield *source.span(node), f"({source.of(node.operand)})"
    elif isinstance(node, ast.BoolOp):
        word = "or" if isinstance(node.op, ast.And) else "and"
        yield _between(node.values[0], node.values[1], word, source)
    elif isinstance(node, ast.Attribute) and node.attr in ENDS and isinstance(node.ctx, ast.Load):
        yield *source.span(node), f"{source.of(node.value)}.{ENDS[node.attr]}"
    elif isinstance(node, ast.Call):
        yield from _calls(node, source)
    elif isinstance(node, ast.If | ast.IfExp):
        yield *source.span(node.test), f"(not ({source.of(node.test)}))"
    elif (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)) or isinstance(node, ast.AugAssign):
        yield *source.span(node), "pass"


def _between(left: ast.AST, right: ast.AST, operator: str, source: Positions) -> tuple[int, int, str]:
    """The operator between two operands, brackets around them kept."""
    start, end = source.span(left)[1], source.span(right)[0]
    gap = source.text[start:end]
    first = next(k for k, letter in enumerate(gap) if letter not in ") \n\t\\")
    last = len(gap) - next(k for k, letter in enumerate(reversed(gap)) if letter not in "( \n\t\\")
    return start + first, start + last, operator


def _constants(node: ast.BinOp, source: Positions) -> Iterator[tuple[int, int, str]]:
    """Numbers in sums and products: one less, or half as much."""
    for side in (node.left, node.right):
        if isinstance(side, ast.Constant) and isinstance(side.value, int | float) and side.value:
            number = side.value
            yield *source.span(side), repr(number - 1 if isinstance(number, int) else number / 2)


def _calls(node: ast.Call, source: Positions) -> Iterator[tuple[int, int, str]]:
    span, arguments = source.span(node), [source.of(argument) for argument in node.args]
    if isinstance(node.func, ast.Name):
        for change in CALLS.get(node.func.id, ()):
            yield *span, _changed_call(change, arguments)
        return
    if not isinstance(node.func, ast.Attribute):
        return
    dot = source.span(node.func)[1] - len(node.func.attr) - 1
    owner, rest = source.text[span[0] : dot].rstrip(), source.text[dot + 1 + len(node.func.attr) : span[1]]
    if node.func.attr == "where" and len(arguments) == 3:
        yield *span, f"{owner}.where({arguments[0]}, {arguments[2]}, {arguments[1]})"
    for change in METHODS.get(node.func.attr, ()):
        if change == "drop":
            yield *span, arguments[0] if owner == "torch" and arguments else owner
        elif change == "zero":
            yield *span, f"(0.0 * {source.of(node)})"
        elif change == "None":
            yield *span, "None"
        elif change in (".upper", ".lower"):
            yield *span, owner + change
        else:
            yield *span, owner + change + rest


def far_twin(name: str) -> str:
    """The name of the mistake that makes a missing (or turned) outward step sixteen units worse; "" for others."""
    place, _, change = name.partition(": ")
    before, _, after = change.rpartition(" -> ")
    after, number = re.sub(r" #\d+$", "", after), "".join(re.findall(r" #\d+$", after))
    for step, other, away in (("up", "down", "sub"), ("down", "up", "add")):
        inside = before.removeprefix(f"{step}(").removesuffix(")")
        if before == f"{step}({inside})" and after in (f"({inside})", f"{other}({inside})"):
            return f"{place}: {before} -> {FAR.format(step=away, x=inside)}{number}"
    return ""


def _changed_call(change: str, arguments: list[str]) -> str:
    if change == "drop":
        return f"({arguments[0]})"
    if change in ("far below", "far above"):
        return FAR.format(step="sub" if change == "far below" else "add", x=arguments[0])
    if change == "drop2":
        return f"({', '.join(arguments)})"
    if change == "first times second":
        return f"({arguments[0]} * {arguments[1]})"
    return change if change in ("0.0", "False") else f"{change}({', '.join(arguments)})"
