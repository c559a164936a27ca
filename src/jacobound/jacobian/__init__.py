"""What all bounds of a Jacobian share: tangents, the unstable core, its rounding weights, the interval chain."""

from __future__ import annotations
