"""The check at the door of `from_torch`: the graph against the module itself, run in the ways that users run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jacobound.arithmetic.rounding import unit
from jacobound.errors import InvalidModelError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.importers.lowering.agreement import Evaluation, evaluated
from jacobound.importers.lowering.common import compare, refuse_infinite, test_points
from jacobound.importers.torch.door.copies import copied, evaluation, settle_eps
from jacobound.importers.torch.tracing.trace import first_line, trace
from jacobound.importers.torch.tracing.until import Cut, ended_at, steps_until

POINTS: Final = 5
"""How many points a graph is compared on at once: not the length of the batch that modules are traced with."""

WAYS: Final = ((3, False), (1, False), (3, True), (1, True), (POINTS, True), (POINTS, False))
"""Lengths of batches, and whether gradients are recorded, beside `POINTS` points without gradients."""

CAUSE: Final = (
    "The model does something when it is run that its traced operations do not show (torch.compiler.is_exporting() or "
    "is_compiling(), a branch on values behind try, numbers taken out of tensors, a library other than torch); make it "
    "one function of its input, or report this"
)

LARGER: Final = 2.0**28
"""Rounding of a float32 and a float64 evaluation together in units of that of two in float64."""

MANY: Final = 2**18
"""Entries of all nodes above which fewer points are compared."""

COARSE: Final = "(Compared up to the rounding of float32, in which it computes; smaller differences can not be seen.)"

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The module that a graph is compared with, in the mode that the user left it in.

    Args:
        module: the user's own.
        points: examples (n, *in_shape).
        batched: whether the module takes batches.
        rounded: whether the module in float64 is a slightly different function.
        cut: the call of a submodule at which it ends, or None.
        until: the operation at which it ends, or None.
    """

    module: nn.Module
    points: Tensor
    batched: bool
    rounded: bool
    cut: Cut | None
    until: str | None

    def check(self, graph: Graph) -> None:
        """Compare on random points.

        Raises:
            InvalidModelError: when values differ, or do only in evaluation mode agree.
        """
        try:
            self._check_in_mode(graph)
        except InvalidModelError:
            if not any(layer.training for layer in self.module.modules()):
                raise
            with evaluation(self.module):
                self._check_in_mode(graph)  # raises when the graph itself is wrong
            raise InvalidModelError(
                f"{self._subject} is in training mode and gives other values there than in evaluation mode; call "
                "module.eval() first"
            ) from None

    @property
    def _subject(self) -> str:
        return type(self.module).__name__

    def _check_in_mode(self, graph: Graph) -> None:
        """In float64 where the module can be run in float64, and as the user runs it."""
        held = self.points.dtype
        batches = test_points(graph, self.points, POINTS, held)
        if sum(size(node) for node in graph.nodes) > MANY:
            batches = batches[:2]
        with kept(self.module):
            whole = self.cut is None and self.until is None
            module = self.module if whole else copied(self.module) or self.module
            run = self._runner(module, held) or self._in_points(module)
            precise = self._double()
            other, other_run = (module, run) if precise is None else precise
            with ended_at(other, self.cut):
                single = narrows(other_run, batches[0].double())
            coarse = (
                torch.float32
                if self.rounded or single or (precise is None and held == torch.float32)
                else torch.float64
            )
            found = [evaluated(graph, x, coarse, unit(coarse)) for x in batches]
            if precise is not None:
                with ended_at(other, self.cut):
                    self._compare(other, other_run, found, torch.float64, coarse, single)
                found = found[:1]
                if held == torch.float32 != coarse:
                    found = [found[0].scaled(LARGER)]  # the points are the same, and errors are larger
            with ended_at(module, self.cut):
                self._compare(module, run, found, held, held if precise is not None else coarse, single)

    def _double(self) -> tuple[nn.Module, Run] | None:
        """A copy of the module in float64, or the module itself where it takes float64 as it is."""
        own = copied(self.module)
        if own is not None:
            settle_eps(own, self.points.dtype)
            own = own.double()
        elif self.points.dtype == torch.float64:
            return None  # as it is run in any case
        own = self.module if own is None else own
        run = self._runner(own, torch.float64)
        if run is None:
            return None
        held = self.points.dtype

        def settled(points: Tensor) -> Tensor:
            with _Eps(held):
                return run(points)

        return own, settled

    def _compare(
        self,
        module: nn.Module,
        run: Run,
        batches: Sequence[Evaluation],
        dtype: torch.dtype,
        coarse: torch.dtype,
        single: bool,
    ) -> None:
        """Compare a run of the module in a dtype with the graph, and then with other ways to run it.

        Args:
            coarse: number format whose rounding `batches` allow for.
            single: whether it computes in float32 even when it is given float64.
        """
        cause = CAUSE if coarse == torch.float64 else f"{COARSE} {CAUSE}"
        compared: Tensor | None = None
        for k, found in enumerate(batches):
            x, before = found.points.to(dtype), attributes(module)
            expected = self._run(run, x, False)
            if not k and self.until is None and expected.shape == found.values.shape:
                fine = dtype == torch.float64 != coarse and not single
                strict = found.scaled(1 / LARGER if fine else 1.0)
                self._repeat(module, run, Evaluation(x, expected, strict.allowed), before)
            finite = compare(expected, found, self._subject, cause).any(0)
            compared = finite if compared is None else compared | finite
        refuse_infinite(compared, self._subject)

    def _repeat(self, module: nn.Module, run: Run, first: Evaluation, before: Mapping[str, object]) -> None:
        """Run the module in other ways; it must give the same values.

        Raises:
            InvalidModelError: names what the values depend on.
        """
        again = [
            (count, gradients)
            for count, gradients in WAYS
            if self.batched or count == POINTS  # the others differ in their length only
        ]
        results = {}
        for count, gradients in again:
            try:
                results[count, gradients] = self._run(run, first.points[:count], gradients)
            except InvalidModelError:
                if not gradients:
                    raise  # what only fails while gradients are recorded has no other values

        def differs(count: int, gradients: bool, others: Tensor | None) -> bool:
            got = results.get((count, gradients))
            return got is not None and others is not None and not _alike(others, got, first.allowed[:count])

        if differs(POINTS, False, first.values):
            changed = [name for name, value in attributes(module).items() if before.get(name) != value]
            what = f" ('{changed[0]}' changes)" if changed else ""
            raise InvalidModelError(
                f"{self._subject} gives other values when it is called again with the same input{what}, so it is not "
                "one function; keep random numbers, and what it counts or remembers, out of its result"
            )
        for count in (POINTS, 3, 1):
            if differs(count, True, results.get((count, False))):
                raise InvalidModelError(
                    f"{self._subject} gives other values while gradients are recorded than under torch.no_grad() "
                    "(torch.is_grad_enabled(), requires_grad of its input); make both the same function"
                )
        for count in (3, 1):
            if differs(count, False, first.values[:count]):
                raise InvalidModelError(
                    f"{self._subject} gives other values for a batch of {count} than for the same points in a batch of "
                    f"{POINTS}: it depends on the size of the batch. Make it treat every point alike"
                )

    def _run(self, run: Run, x: Tensor, gradients: bool) -> Tensor:
        """The module at points, with an output of the same shape for one point as for several."""
        try:
            with torch.set_grad_enabled(gradients):
                found = run(x.clone().requires_grad_().clone() if gradients else x.clone())
        except Exception as error:
            raise InvalidModelError(
                f"{self._subject} does not take a batch of {len(x)} points ({type(error).__name__}: "
                f"{first_line(error)}); it depends on the size of the batch. Make it treat every point alike"
            ) from error
        if not isinstance(found, Tensor):
            raise InvalidModelError(
                f"{self._subject} returns {type(found).__name__} for a batch of {len(x)} points, and a tensor for "
                "others: it depends on the size of the batch. Make it treat every point alike"
            )
        return found.detach()

    def _runner(self, module: nn.Module, dtype: torch.dtype) -> Run | None:
        """Runs a module up to the cut on `POINTS` points of a dtype; None when it does not take them."""
        points = self.points[torch.arange(POINTS, device=self.points.device) % len(self.points)].to(dtype)
        try:
            with torch.no_grad(), ended_at(module, self.cut):
                run = self._in_points(module if self.until is None else self._traced(module, points, self.until))
                return run if run(points).dtype == dtype else None
        except Exception:
            return None

    def _traced(self, module: nn.Module, points: Tensor, until: str) -> Run:
        return steps_until(trace(module, points if self.batched else points[0]), until)

    def _in_points(self, run: Run) -> Run:
        if self.batched:
            return lambda points: run(points.clone())  # a module may change its argument
        return lambda points: torch.stack([run(point.clone()) for point in points])


class _Eps(TorchFunctionMode):
    """Root mean squares are normalised with the eps of a dtype where none is given, whatever they are computed in."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._eps = torch.finfo(dtype).eps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if (
            func in (torch.rms_norm, nn.functional.rms_norm)
            and kwargs.get("eps") is None
            and (len(args) < 4 or args[3] is None)
        ):
            args, kwargs = args[:3], {**kwargs, "eps": self._eps}
        return func(*args, **kwargs)


class _Narrowing(TorchDispatchMode):
    """Notices when something is made in float32 of something in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled meanwhile, and torch would load its compiler to say so

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.dtype == torch.float32:
            given = tree_leaves((args, kwargs))
            self.seen |= any(isinstance(one, Tensor) and one.dtype == torch.float64 for one in given)
        return found


def narrows(run: Run, points: Tensor) -> bool:
    """Whether a run on float64 points computes in float32 somewhere; False when it does not take them."""
    try:
        with torch.no_grad(), _Narrowing() as mode:
            run(points)
    except Exception:
        return False
    return mode.seen


def _alike(expected: Tensor, got: Tensor, allowed: Tensor) -> bool:
    """Whether two runs give the same values up to rounding; a single point may come without its axis."""
    if expected.shape != got.shape and not (len(expected) == 1 and expected.numel() == got.numel()):
        return False
    got = got.reshape(expected.shape)
    same = (expected == got) | (expected.isnan() & got.isnan()) | ~torch.isfinite(allowed)
    return bool((same | ((expected - got).abs() <= allowed)).all())


Simple = int | float | bool | str | bytes | None


def attributes(module: nn.Module) -> dict[str, object]:
    """What a module remembers: plain values, and which tensors with how many changes, by qualified names."""
    found: dict[str, object] = {}
    of_torch = vars(nn.Module())
    for path, layer in module.named_modules():
        for name, value in (*vars(layer).items(), *layer._buffers.items()):
            if name.startswith("_") and name in of_torch:
                continue
            full = f"{path}.{name}" if path else name
            if isinstance(value, Tensor):
                found[full] = (id(value), value._version if not value.is_inference() else 0)
            elif isinstance(value, Simple):
                found[full] = value
            elif isinstance(value, list | dict | set | tuple):
                found[full] = len(value)
    return found


@contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """Attributes and buffers of a module are put back as they were (containers by their own entries only)."""
    layers = [(layer, dict(vars(layer)), dict(layer._buffers)) for layer in module.modules()]
    buffers = {id(one): (one, one._version, one.detach().clone()) for one in _plain(module)}
    try:
        yield
    finally:
        for layer, own, registered in layers:
            _put_back(vars(layer), own)
            _put_back(layer._buffers, registered)
        with torch.no_grad():
            for one, version, value in buffers.values():
                if one._version != version:
                    one.copy_(value)


def _put_back(now: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name in [name for name in now if name not in before]:
        del now[name]
    for name, value in before.items():
        if name not in now or now[name] is not value:
            now[name] = value


def _plain(module: nn.Module) -> Iterator[Tensor]:
    """Buffers that are ordinary tensors."""
    for buffer in module.buffers():
        if not buffer.is_inference():
            yield buffer
