"""What every importer does: steps that make nodes, weights taken exactly, the check at the door."""

from __future__ import annotations
