"""What commands read: options, networks, points, regions."""

from __future__ import annotations
