"""What all tests of ONNX files share."""

from __future__ import annotations

import importlib.util
import sys

import pytest


@pytest.fixture(params=["onnxruntime", "onnx"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine that judges; without onnxruntime it is onnx's own."""
    if request.param == "onnx":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    elif importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    return request.param
