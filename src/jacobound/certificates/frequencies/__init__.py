"""The certificate of a convolutional network, frequency by frequency: matrices, search, proof, driver."""

from __future__ import annotations
