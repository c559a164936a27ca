"""`Source`: where a graph came from, so that an answer can name the network that it is about."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jacobound.stored import stored


@stored
@dataclass(frozen=True)
class Source:
    """The user's network behind a graph.

    Args:
        kind: "onnx", "torch" or "layers".
        name: file name of the ONNX model, class of the module, or name of the function.
        sha256: of the file's bytes as they were given; None where there is no file.
        until: the tensor, node or submodule that became the output; None for the model's own output.
        units: what was put in front of or behind the network afterwards, one sentence each.
    """

    kind: str
    name: str
    sha256: str | None = None
    until: str | None = None
    units: tuple[str, ...] = ()

    def told_with(self, unit: str) -> Source:
        """The source of this network with something more in front or behind."""
        return replace(self, units=(*self.units, unit))

    def __str__(self) -> str:
        digest = "" if self.sha256 is None else f", SHA-256 {self.sha256[:16]}..."
        cut = "" if self.until is None else f" until '{self.until}'"
        return f"{self.name}{cut} ({self.kind}{digest})" + "".join(f"; {unit}" for unit in self.units)


UNKNOWN = Source("graph", "a graph made by hand")
"""Of graphs that no importer made."""


def called(thing: object) -> str:
    """What the class of a module, or a function, is called."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(kind, '__module__', None) or '?'}.{getattr(kind, '__qualname__', '?')}"
