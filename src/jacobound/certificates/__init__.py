"""Constants by semidefinite certificates: on the unstable core, and eliminated layer by layer."""

from __future__ import annotations
