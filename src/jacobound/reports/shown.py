"""What figures read of results: so they stand below the results, which draw themselves."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from jacobound.inputs.exponents import Norm


class Bounds(Protocol):
    """Lower and upper bounds, with leading axes of sets."""

    @property
    def lower(self) -> Tensor: ...
    @property
    def upper(self) -> Tensor: ...


class Outputs(Bounds, Protocol):
    """Bounds of outputs; `lead` is the shape of the leading axes."""

    @property
    def lead(self) -> tuple[int, ...]: ...


class Entries(Bounds, Protocol):
    """Bounds of a Jacobian's entries; `unstable` has the leading axes alone."""

    @property
    def unstable(self) -> Tensor: ...


class Bracket(Bounds, Protocol):
    """Both ends of a constant, over radii."""

    @property
    def radii(self) -> tuple[float, ...]: ...
    @property
    def norm(self) -> tuple[Norm, Norm]: ...


class Radius(Protocol):
    """Robust radii of points and targets."""

    @property
    def radius(self) -> Tensor: ...
    @property
    def attack_radius(self) -> Tensor: ...
    @property
    def untargeted(self) -> Tensor: ...
    @property
    def untargeted_attack(self) -> Tensor: ...
    @property
    def margin(self) -> Tensor: ...
    @property
    def label(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...
    @property
    def p(self) -> float: ...


class Landscape(Protocol):
    """Radii without and with a zero gradient."""

    @property
    def radius(self) -> Tensor: ...
    @property
    def vanishing_radius(self) -> Tensor: ...
    @property
    def p(self) -> float: ...


class Features(Bounds, Protocol):
    """Bounds of derivatives over boxes, and the answers in words."""

    @property
    def boxes(self) -> Tensor: ...
    def words(self) -> list[str]: ...


class Margins(Bounds, Protocol):
    """The bracket of a least margin."""

    def headline(self) -> str: ...
