"""The activations themselves, one short entry each, and the registry in which they are found."""

from __future__ import annotations
