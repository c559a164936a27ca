"""Any call of the public interface works or raises a typed error that says something; a small part of the campaign."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

import jacobound as jb
from campaign import calls, stored
from campaign.runner import generator_of

# Made by the library, not by users; or plain names of kinds.
NOT_CALLED = {name for name in jb.__all__ if name.endswith("Bounds")}
NOT_CALLED |= {
    "Candidate",
    "Decision",
    "Graph",
    "LipschitzBound",
    "MonotoneFeatures",
    "Provenance",
    "Question",
    "Result",
    "Verdict",
}
NOT_CALLED |= {
    "RobustRadius",
    "StationaryFreeRadius",
    "Status",
    "Sweep",
    "CROWN",
    "IBP",
    "FastLin",
    "WholeSpace",
    "from_torch",
}


@pytest.mark.parametrize("name", calls.TARGETS)
def test_random_calls_raise_typed_errors_only(name: str) -> None:
    generator = generator_of(f"test of {name}", 0, 0)
    found = [calls.one_call(name, generator) for _ in range(10)]
    assert [wrong for _, wrong in found if wrong] == []


def test_every_public_function_and_class_is_called() -> None:
    public = {name: getattr(jb, name) for name in jb.__all__}
    functions = {name for name, thing in public.items() if inspect.isfunction(thing)}
    classes = {name for name, thing in public.items() if inspect.isclass(thing) and not issubclass(thing, Exception)}
    assert (functions | classes) - set(calls.TARGETS) == NOT_CALLED


@pytest.mark.slow
def test_results_come_back_from_json_bit_for_bit() -> None:
    generator = generator_of("test of results", 0, 0)
    kinds: set[str] = set()
    for _ in range(12):
        try:
            result = stored.drawn_result(generator)
        except jb.JacoboundError:
            continue
        kinds.add(type(result).__name__)
        assert stored.wrong_with(result, result.to_json(None), generator) == ""
    assert len(kinds) >= 4


@pytest.mark.slow
def test_a_result_is_read_in_another_process() -> None:
    generator = generator_of("test of results", 0, 1)
    text = stored.drawn_result(generator).to_json(None)
    assert stored.elsewhere([text]) == [stored.hashlib.sha256(text.encode()).hexdigest()]


@pytest.mark.slow
def test_every_result_says_itself_briefly() -> None:
    """Four lines at most, a table that escapes what it shows, and plain rows."""
    generator = generator_of("test of words", 0, 0)
    graph = calls.graph().named(replace(calls.graph().source, name="<script>alert(1)</script>"))
    box, point = jb.Box([-0.1] * 4, [0.1] * 4), torch.rand(3, 4, generator=generator)
    answers: tuple[jb.Result, ...] = (
        jb.bound_output(graph, box, jb.IBP()), jb.bound_jacobian(graph, box, jb.FastLip()),
        jb.lipschitz(graph, box, jb.AutoLip(), search=None), jb.monotone_features(graph, box, most=1),
        jb.robust_radius(graph, point, method=jb.CROWN(), attack=None), jb.stationary_free_radius(graph, point, 0),
    )  # fmt: skip
    for answer in answers:
        lines, rows = repr(answer).split("\n"), answer.table()
        assert len(lines) <= 4 and max(map(len, lines)) < 80 and type(answer).__name__ in lines[0]
        assert rows and all(row.keys() == rows[0].keys() for row in rows)
        shown = answer._repr_html_()
        assert "<table>" in shown and "<script>" not in shown and "&lt;script&gt;" in shown
