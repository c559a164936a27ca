"""What users give of the input: norms, radii, regions, files with properties."""

from __future__ import annotations
