"""The certificate on the unstable core: matrices, search, proof."""

from __future__ import annotations
