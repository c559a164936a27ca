"""Lipschitz constants from Jacobian bounds and from products of norms."""

from __future__ import annotations
