"""Ranges of every node: backward substitution of linear bounds, intervals, noise of an execution."""

from __future__ import annotations
