"""The certificate of a chain, eliminated layer by layer: matrices, search, proof, driver."""

from __future__ import annotations
