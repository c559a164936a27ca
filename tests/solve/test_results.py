"""Results: what is called certified, and what JSON keeps."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

import pytest
import torch

from jacobound import (
    Candidate,
    JacobianBounds,
    LipschitzBound,
    MissingExtraError,
    OutputBounds,
    Provenance,
    Status,
    reports,
)
from jacobound.arithmetic.rounding import unrounded

PROVENANCE = Provenance("CROWN()", "0" * 64, "cpu", "torch.float64", 0.5, "2", "3", "AVX2", 1)


def bounds(upper: torch.Tensor, lower: torch.Tensor | None = None) -> OutputBounds:
    return OutputBounds(-upper if lower is None else lower, upper, Status.CERTIFIED, PROVENANCE)


def test_only_some_bounds_may_be_relied_upon() -> None:
    relied = {Status.CERTIFIED, Status.TIME_LIMIT, Status.INTERRUPTED, Status.MEMORY_LIMIT, Status.INCOMPLETE}
    assert {status for status in Status if status.certified} == relied


def test_the_status_of_a_bound() -> None:
    fine, broken = torch.ones(3), torch.tensor([1.0, math.nan, 1.0])
    assert Status.of(Status.TIME_LIMIT, fine, fine) is Status.TIME_LIMIT
    assert Status.of(Status.CERTIFIED, fine, broken) is Status.OVERFLOW
    assert Status.of(Status.CERTIFIED, torch.tensor([math.inf, 1.0])) is Status.OVERFLOW
    with unrounded():
        assert Status.of(Status.CERTIFIED, broken) is Status.NOT_RIGOROUS
        assert Status.of(Status.CERTIFIED, fine) is Status.NOT_RIGOROUS


def test_json_holds_every_number_twice_when_there_are_few() -> None:
    few, many = bounds(torch.full((10, 100), 0.1, dtype=torch.float64)), bounds(torch.zeros(1001))
    assert few.to_dict()["upper_hex"][9] == ["0x1.999999999999ap-4"] * 100
    assert few.to_dict()["lower_hex"][0][0] == "-0x1.999999999999ap-4"
    assert "upper_hex" not in many.to_dict()
    assert many.to_dict()["upper"] == [0.0] * 1001
    alone = bounds(torch.tensor(math.inf), torch.tensor(-math.inf))
    read = json.loads(alone.to_json(None), parse_constant=pytest.fail)
    assert (read["upper"], read["lower"], read["upper_hex"], read["lower_hex"]) == ("inf", "-inf", "inf", "-inf")


def test_json_holds_plain_values_of_everything() -> None:
    candidate = Candidate(torch.tensor([1.5, math.nan]), Status.TIME_LIMIT, 2.0)
    found = LipschitzBound(
        torch.tensor(4.0), torch.tensor(2.0), None, Status.CERTIFIED, (2.0, math.inf), "LipSDP", 1.0,
        {"LipSDP": candidate}, torch.tensor([3]), 7, (0.1, 0.2), PROVENANCE,
    )  # fmt: skip
    assert float(found.gap) == 2
    read = json.loads(found.to_json(), parse_constant=pytest.fail)
    assert read["details"]["LipSDP"]["value"] == [1.5, "nan"]
    assert read["details"]["LipSDP"]["status"] == {
        "name": "time_limit", "certified": True, "meaning": Status.TIME_LIMIT.value,
    }  # fmt: skip
    assert read["status"]["certified"] is True
    assert (read["norm"], read["radii"], read["witness"], read["unstable"]) == ([2.0, "inf"], [0.1, 0.2], None, [3])
    assert read["provenance"]["threads"] == 1
    assert read["upper_hex"] == "0x1.0000000000000p+2"


def test_the_interval_of_a_jacobian() -> None:
    lower, upper = torch.zeros(1, 2), torch.ones(1, 2)
    found = JacobianBounds(lower, upper, Status.CERTIFIED, PROVENANCE, torch.tensor(0), 1).interval
    assert torch.equal(found.lower, lower)
    assert torch.equal(found.upper, upper)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("matplotlib", MissingExtraError), (None, MissingExtraError), ("jacobound.reports.colours", ImportError)],
)
def test_figures_say_what_is_missing(
    missing: str | None, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was not installed; but an error of our own stays what it is."""

    class Refusing:
        def find_spec(self, name: str, *_rest: object) -> None:
            if name == "jacobound.reports.figures":
                raise ImportError("no such module", name=missing)

    monkeypatch.delitem(sys.modules, "jacobound.reports.figures", raising=False)
    monkeypatch.delattr(reports, "figures", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    plots: tuple[Callable[[], object], ...] = (
        bounds(torch.ones(2)).plot,
        JacobianBounds(torch.ones(1), torch.ones(1), Status.CERTIFIED, PROVENANCE, torch.tensor(0), 1).plot,
    )
    for plot in plots:
        with pytest.raises(ImportError) as caught:
            plot()
        assert type(caught.value) is expected
