"""What is asked of a module before and after: copies, arguments, agreement with the module itself."""

from __future__ import annotations
