"""`Budget`: what a call may use; how long work learns that its time is over or that its user interrupted it.

There are two ends. At the *limit* every search stops where it stands and what is known by then is put together
(`Budget.is_over`, asked at every step). A little later, at the *alarm*, work that had no step to ask at is given up
(`alarmed`): `checkpoint`, which the lowest layers call, raises `OutOfTimeError` there, and whoever set the alarm goes
on with what other work has found.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from time import monotonic, process_time

from jacobound.checks import seconds, whole
from jacobound.errors import InvalidOptionError

# What is left for putting results together after the limit, before the alarm: a share of the limit, and seconds.
GRACE, LEAST_GRACE = 0.1, 0.3

# Products in a second on one core, about: of matrices of a useful size, in float64.
PRODUCTS = 4e9
# The part of a limited time that work without a look at the clock may take.
CHUNK_PART = 0.05


class OutOfTimeError(Exception):
    """Raised by `checkpoint` where an alarm has gone off; never leaves the library."""


class Interrupt:
    """Whether the user has asked a call to stop; shared by the budgets of all its parts, and by nobody else."""

    def __init__(self) -> None:
        self._since: float | None = None
        self.raised: Exception | None = None  # by the user's own progress function

    def ask(self) -> None:
        """Let the call end with what it has."""
        self._since = monotonic() if self._since is None else self._since

    @property
    def is_asked(self) -> bool:
        return self._since is not None

    @property
    def remaining(self) -> float:
        """Seconds until work should stop: infinite, or how long ago it was asked to, as a negative number."""
        return inf if self._since is None else min(-1e-9, self._since - monotonic())


@dataclass(frozen=True)
class Budget:
    """What a call may use.

    Args:
        seconds: time limit of one call, in seconds of the wall clock; None for no limit. When it is over the remaining
            refinements are left out, and what is known by then is returned with `Status.TIME_LIMIT`: certified, only
            looser. A call takes at most a quarter longer, and a second.
        memory: working memory in bytes; work is cut into chunks that fit. The network and copies of its weights
            (absolute values, parts) come on top.
        progress: called with (work done, work in total, what is being done); it may raise to interrupt.
        cpu_seconds: time limit in seconds of the processor (all threads of the process together), which do not pass
            while other programs run: the same call then does the same work on a busy machine.
        started, cpu_started, interrupt, of_call: kept by calls: when a part began, whether the user interrupted, and
            the limit of the whole call.
    """

    seconds: float | None = None
    memory: int = 1 << 31
    progress: Callable[[float, float, str], None] | None = None
    cpu_seconds: float | None = None
    started: float = field(default_factory=monotonic, repr=False, compare=False)
    cpu_started: float = field(default_factory=process_time, repr=False, compare=False)
    interrupt: Interrupt = field(default_factory=Interrupt, repr=False, compare=False)
    of_call: float = field(default=inf, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("seconds", "cpu_seconds"):
            object.__setattr__(self, name, seconds(getattr(self, name), f"{name} of a budget (None is no limit)"))
        object.__setattr__(self, "memory", whole(self.memory, "memory of a budget (bytes)", 1))
        if self.progress is not None and not callable(self.progress):
            raise InvalidOptionError("progress of a budget is a function of (work done, work in total, what is done)")

    def started_now(self) -> Budget:
        """The budget of a call that begins at this moment."""
        interrupt = Interrupt()
        return replace(self, started=monotonic(), cpu_started=process_time(), interrupt=interrupt, of_call=self.limit)

    def chunks(self, count: int, bytes_each: int, work_each: float = 0.0) -> Iterator[slice]:
        """Slices of range(count) whose work fits the memory, at least one item each.

        Args:
            work_each: multiplications for one item; a chunk takes a small part of a limited time.
        """
        step = max(1, min(count, self.memory // max(1, bytes_each)))
        if work_each and isfinite(self.of_call):
            step = max(1, min(step, int(CHUNK_PART * self.of_call * PRODUCTS / work_each)))
        for start in range(0, count, step):
            checkpoint()
            yield slice(start, min(count, start + step))

    def fits(self, size_in_bytes: int) -> bool:
        return size_in_bytes <= self.memory

    @property
    def limit(self) -> float:
        """The seconds that it began with; infinite without a limit."""
        return min(inf if given is None else given for given in (self.seconds, self.cpu_seconds))

    @property
    def is_over(self) -> bool:
        return self.remaining <= 0

    @property
    def remaining(self) -> float:
        """Seconds until the time limit; negative when it is over or the user interrupted, infinite without one."""
        found = self.interrupt.remaining
        if self.seconds is not None:
            found = min(found, self.seconds - (monotonic() - self.started))
        if self.cpu_seconds is not None:
            found = min(found, self.cpu_seconds - (process_time() - self.cpu_started))
        return found

    @property
    def spent(self) -> float:
        """Seconds since it began, on the clock that is limited (the wall clock when none is)."""
        by_cpu = self.seconds is None and self.cpu_seconds is not None
        return process_time() - self.cpu_started if by_cpu else monotonic() - self.started

    def within(self, seconds: float) -> Budget:
        """This budget with at most so many seconds from now; no limit stays none when seconds is inf."""
        limit = min(self.remaining, seconds)
        if limit == self.remaining or self.interrupt.is_asked:
            return self
        limit = max(0.0, limit)
        if self.cpu_seconds is None:
            return replace(self, seconds=limit, started=monotonic())
        wall = None if self.seconds is None else min(limit, self.seconds - (monotonic() - self.started))
        return replace(
            self,
            seconds=None if wall is None else max(0.0, wall),
            cpu_seconds=limit,
            started=monotonic(),
            cpu_started=process_time(),
        )

    def unlimited(self) -> Budget:
        """This budget without a time limit; an interrupt still ends it."""
        return replace(self, seconds=None, cpu_seconds=None)

    def tell(self, done: float, total: float, what: str) -> None:
        """Report progress; a place where work that is out of time is given up."""
        checkpoint()
        if self.progress is not None:
            try:
                self.progress(done, total, what)
            except Exception as error:
                self.interrupt.raised = error
                raise


def stopping(budget: Budget, reserved: float = 0.0, tell: Callable[[], None] | None = None) -> Callable[[], bool]:
    """Whether a search should stop now: its next step takes about as long as the longest so far.

    Args:
        budget: of the search and of what follows.
        reserved: seconds that what follows will take.
        tell: called each time, to report progress.
    """
    before, longest = budget.spent, 0.0

    def over() -> bool:
        nonlocal before, longest
        if tell is not None:
            tell()
        now = budget.spent
        longest, before = max(longest, now - before), now
        return budget.remaining < longest + reserved

    return over


_ALARM: ContextVar[Callable[[], bool] | None] = ContextVar("jacobound_alarm", default=None)


@contextlib.contextmanager
def alarmed(*budgets: Budget, grace: float | None = None) -> Iterator[None]:
    """Give work up (`OutOfTimeError`) that goes on for longer than some grace after the end of any of the budgets.

    Args:
        grace: seconds; None for a share of the limit of the call.
    """
    limit = budgets[-1].of_call
    extra = LEAST_GRACE + GRACE * (limit if isfinite(limit) else 10.0) if grace is None else grace
    outer = _ALARM.get()
    token = _ALARM.set(lambda: any(budget.remaining < -extra for budget in budgets) or (outer is not None and outer()))
    try:
        yield
    finally:
        _ALARM.reset(token)


@contextlib.contextmanager
def unalarmed() -> Iterator[None]:
    """Nothing is given up inside: what is cheap and has to come to its end."""
    token = _ALARM.set(None)
    try:
        yield
    finally:
        _ALARM.reset(token)


def checkpoint() -> None:
    """A place where work that is out of time is given up.

    Raises:
        OutOfTimeError: inside `alarmed`, past its end.
    """
    alarm = _ALARM.get()
    if alarm is not None and alarm():
        raise OutOfTimeError


@contextlib.contextmanager
def interruptible(interrupt: Interrupt) -> Iterator[None]:
    """Let a first Ctrl-C end the work inside with what it has; a second one raises `KeyboardInterrupt` as ever.

    Only in the main thread, and only where Python's own handler stands: a program's own is left alone.
    """
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return

    def first(number: int, frame: object) -> None:
        del number, frame
        signal.signal(signal.SIGINT, usual)
        interrupt.ask()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
