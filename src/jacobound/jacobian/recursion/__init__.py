"""RecurJac and its kin: the recursion over the unstable core, forwards, backwards and both."""

from __future__ import annotations
