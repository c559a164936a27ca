"""Where a module is cut: at the result of a submodule, or of one traced operation."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jacobound.errors import InvalidModelError
from jacobound.importers.torch.tracing.places import step_names
from jacobound.importers.torch.tracing.program import Program


@dataclass(frozen=True)
class Cut:
    """The result of one call of a submodule.

    Args:
        path: qualified name of the submodule.
        call: which of its calls, counted from 1.
    """

    path: str
    call: int


class _Reached(BaseException):
    """Ends a run at the cut; no Exception, so that no handler of the user's own catches it."""


def find_cut(module: nn.Module, example: Tensor, until: str) -> Cut | None:
    """The call of a submodule that `until` names; None when it must be the name of an operation, if anything.

    Raises:
        InvalidModelError: when the submodule exists but is not called.
        Exception: of any kind, when the module fails before the submodule is called.
    """
    path, _, number = until.rpartition("#")
    if not (path and number.isdigit()):
        path, number = until, ""
    layers = dict(module.named_modules())
    if not path or path not in layers:
        return None
    calls = _count(module, layers[path], example)
    if number:
        return Cut(path, int(number)) if 1 <= int(number) <= calls else None
    if calls == 0:
        raise InvalidModelError(
            f"the submodule '{path}' is not called for this example, so the model can not be cut there; choose one "
            "that is"
        )
    return Cut(path, calls)


def _count(module: nn.Module, layer: nn.Module, example: Tensor) -> int:
    """How often a submodule is called."""
    calls: Counter[str] = Counter()
    handle = layer.register_forward_hook(lambda *_: calls.update(["call"]))
    try:
        module(example.clone())
    except Exception:
        if not calls:
            raise  # what comes behind the cut need not run, but what comes before must
    finally:
        handle.remove()
    return calls["call"]


@contextmanager
def ended_at(module: nn.Module, cut: Cut | None, *, early: bool = True) -> Iterator[None]:
    """Inside, the module returns what the submodule returns in that call.

    Args:
        early: leave out the rest of the module; False runs it too, which asks less of a tracer.
    """
    if cut is None:
        yield
        return
    layer, forward = module.get_submodule(cut.path), module.forward
    own = vars(module).get("forward")

    def shortened(*args: object, **kwargs: object) -> object:
        results: list[object] = []

        def watch(_layer: nn.Module, _args: object, result: object) -> None:
            results.append(result)
            if early and len(results) == cut.call:
                raise _Reached

        handle = layer.register_forward_hook(watch)
        try:
            forward(*args, **kwargs)
        except _Reached as reached:
            _leave_modules(reached)
        finally:
            handle.remove()
        if len(results) < cut.call:
            raise InvalidModelError(f"'{cut.path}' was called {len(results)} times, and {cut.call} times before")
        return results[cut.call - 1]

    vars(module)["forward"] = shortened
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


def _leave_modules(reached: _Reached) -> None:
    """Tell the tracer, if there is one, that the modules between the cut and the outermost one are left."""
    trace = reached.__traceback__
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_code is torch.fx.Tracer.call_module.__code__:
            frame.f_locals["self"].module_stack.popitem(last=True)


def unknown_name(until: str, module: nn.Module, program: Program) -> InvalidModelError:
    """The error for a name that is neither a submodule nor an operation, with names like it."""
    names = list(dict.fromkeys([*(path for path, _ in module.named_modules() if path), *step_names(program).values()]))
    near = difflib.get_close_matches(until, names, n=3, cutoff=0.4) or names[-3:]
    return InvalidModelError(
        f"the module has no submodule or operation '{until}' to be cut at (a submodule that is called several times "
        f"has calls 'name#1', 'name#2', ...); it has {', '.join(map(repr, near)) or 'none'}, ..."
    )


def steps_until(program: Program, until: str) -> Callable[[Tensor], Tensor]:
    """Runs a traced module up to the operation with a name, on a batch of the size that it was traced with."""
    names = step_names(program)

    def run(x: Tensor) -> Tensor:
        values = program.given(x)
        for step in program.graph.nodes:
            if step.op == "call_function" and step in names:
                args = torch.fx.map_arg(tuple(step.args), values.__getitem__)
                kwargs = torch.fx.map_arg(dict(step.kwargs), values.__getitem__)
                values[step] = step.target(*args, **kwargs)  # type: ignore[operator]
                if names[step] == until and isinstance(values[step], Tensor):
                    return values[step]
        raise InvalidModelError(f"the module has no operation '{until}' when it is traced again")

    return run
