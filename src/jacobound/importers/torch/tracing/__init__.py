"""What a module does when it is called: the trace, the process around it, the places of its parts."""

from __future__ import annotations
