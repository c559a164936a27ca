"""What an import does to the process around it: imports go one at a time, quietly, and leave everything as it was.

torch.export keeps what it is doing in variables of its modules, so only one thread can trace at a time.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.distributions import Distribution

from jacobound.asking import undisturbed
from jacobound.errors import JacoboundError, UnsupportedOpError

IMPORTING: Final = threading.RLock()
"""Held while a module is imported."""

FRAMES_PER_LEVEL: Final = 60
"""More than what copying and tracing take of Python's stack for one level of modules inside modules."""

USUAL_LEVELS: Final = 8
"""Levels of modules for which the usual room on the stack is enough."""

EVERYTHING: Final = r"(?s)(?#while jacobound imports).*"


@contextmanager
def alone(module: nn.Module) -> Iterator[None]:
    """One import at a time, without gradients, inference mode or warnings, and with room for deep modules."""
    held = next((one for one in (*module.parameters(), *module.buffers()) if not one.is_meta), None)
    device = torch.device("cpu") if held is None else held.device
    with IMPORTING, undisturbed(device), torch.no_grad(), _trusting(), _without_warnings(), _deep(module):
        yield


@contextmanager
def eager() -> Iterator[None]:
    """Parts that torch.compile has made run as they are written.

    Compiling them for every length of batch would fill the memory that torch has for that. The first use waits a second
    for torch to load its compiler.
    """
    with torch.compiler.set_stance("force_eager"):  # which takes effect, and notes what was before, when it is made
        yield


@contextmanager
def _trusting() -> Iterator[None]:
    """Distributions take their parameters unseen: to look whether they are valid is a branch on values.

    Policies of reinforcement learning make a distribution and return its mean; what is checked at the door is the mean.
    """
    before = Distribution._validate_args
    Distribution._validate_args = _ElsewhereOnly(before, threading.get_ident())  # type: ignore[assignment]
    try:
        yield
    finally:
        Distribution._validate_args = before


class _ElsewhereOnly:
    """A switch that is off in one thread and as it was in all others."""

    def __init__(self, before: bool, thread: int) -> None:
        self._before, self._thread = before, thread

    def __bool__(self) -> bool:
        return bool(self._before) and threading.get_ident() != self._thread


@contextmanager
def known(module: nn.Module) -> Iterator[None]:
    """What goes wrong inside comes out as an error of this package.

    Raises:
        UnsupportedOpError: for whatever else a module or torch raises.
    """
    try:
        yield
    except JacoboundError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise UnsupportedOpError(
            f"{type(module).__name__} can not be imported: {type(error).__name__}: {said}. Look at the cause above; if "
            "the module runs by itself, import a part of it (until='NAME'), or report this"
        ) from error


@contextmanager
def silent() -> Iterator[None]:
    """Keep what torch.export writes to the terminal when it fails off it; other threads write as before."""
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stack.enter_context(_muted(name))
        quiet = _OtherThreads(threading.get_ident())
        for handler in _handlers():
            handler.addFilter(quiet)
            stack.callback(handler.removeFilter, quiet)
        yield


def _handlers() -> set[logging.Handler]:
    """Those that torch's messages reach; some of its loggers have their own."""
    known = dict(logging.root.manager.loggerDict)
    loggers = [one for name, one in known.items() if name.partition(".")[0] == "torch"]
    found = {handler for one in loggers if isinstance(one, logging.Logger) for handler in one.handlers}
    return found | set(logging.root.handlers)


class _OtherThreads(logging.Filter):
    """Leaves out what torch logs in one thread."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.thread == self._thread and record.name.partition(".")[0] == "torch")


class _Muted:
    """A standard stream without what one thread writes."""

    def __init__(self, stream: Any, thread: int) -> None:
        self.stream, self.thread = stream, thread

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self.thread else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _muted(name: str) -> Iterator[None]:
    before = getattr(sys, name)
    muted = _Muted(before, threading.get_ident())
    setattr(sys, name, muted)
    try:
        yield
    finally:
        muted.thread = -1  # whoever kept it writes again
        if getattr(sys, name) is muted:
            setattr(sys, name, before)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """One filter more inside; taken out again by itself, so that filters which others set meanwhile stay."""
    warnings.filterwarnings("ignore", message=EVERYTHING)
    inside = warnings.filters
    added = inside[0]
    try:
        yield
    finally:
        for filters in (inside, warnings.filters):
            if added in filters:
                filters.remove(added)  # type: ignore[attr-defined]


@contextmanager
def _deep(module: nn.Module) -> Iterator[None]:
    """Room on Python's stack for modules nested deeply; the limit is put back as it was."""
    levels = _levels(module)
    if levels <= USUAL_LEVELS:
        yield
        return
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(limit + FRAMES_PER_LEVEL * levels)
        yield
    finally:
        sys.setrecursionlimit(limit)


def _levels(module: nn.Module) -> int:
    """Levels of modules inside modules, found without recursion."""
    level, depth, seen = [module], 0, {module}
    while level:
        level = [child for layer in level for child in layer.children() if child not in seen]
        seen.update(level)
        depth += 1
    return depth
