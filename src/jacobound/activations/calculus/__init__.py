"""Facts about one real function: where it is defined, its pieces of one curvature, its constants on the machine."""

from __future__ import annotations
