"""The Jacobian as an affine function of the input, for smooth activations."""

from __future__ import annotations
