"""Functions of whole vectors: comparisons, softmax, normalisation, products, attention."""

from __future__ import annotations
