"""Ctrl-C ends a call with what is certified by then and leaves no trace; a small part of the campaign."""

from __future__ import annotations

import pytest
from torch import nn

from campaign import interrupts


@pytest.mark.parametrize("question", interrupts.QUESTIONS, ids=lambda question: question.__name__)
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_an_interrupted_call_returns_what_is_certified(question, share: float) -> None:
    network = interrupts.graph(nn.Tanh, 16)
    _, seconds = interrupts.undisturbed(question, network)
    assert interrupts.interrupted(question, network, share * seconds) == []
