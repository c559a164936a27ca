"""What the library returns: result types, how they were found, and their storage without loss."""

from __future__ import annotations
