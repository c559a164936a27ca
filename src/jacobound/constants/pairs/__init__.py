"""SeqLip: constants over pairs of layers."""

from __future__ import annotations
