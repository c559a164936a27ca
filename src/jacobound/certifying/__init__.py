"""Results as certificates: question, lowered network, and the choices that a proof needs, for another program."""

from __future__ import annotations
