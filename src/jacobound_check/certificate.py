"""One certificate: read from its two files, compared with its digest, and proved anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jacobound_check.errors import UnprovedError, UnreadableError
from jacobound_check.proofs import proved, question_of
from jacobound_check.reading import Arrays, entry, safetensors, strict_json, text_of
from jacobound_check.rounding import Array

FORMAT = 1
NAMES = ("certificate", "format", "question", "network", "model", "weights", "proof", "claims", "found", "digest")
CLAIMS = {
    "bound_output": ("lower", "upper"),
    "bound_jacobian": ("lower", "upper"),
    "monotone_features": ("lower", "upper"),
    "lipschitz": ("lower", "upper"),
    "robust_radius": ("radius",),
}


@dataclass(frozen=True, eq=False)
class Verdict:
    """A certificate that was proved.

    Args:
        asks: the question by its name.
        claims: what it claims, by name: certified by this check.
        told: the certificate.
        model: how the network was compared with the model's file; empty when it was not.
    """

    asks: str
    claims: Mapping[str, Array]
    told: Mapping[str, Any]
    model: str = ""


def digest_of(told: Mapping[str, Any]) -> str:
    """SHA-256 of everything but the digest, names in order."""
    rest = {name: value for name, value in told.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(path: str | Path) -> tuple[Mapping[str, Any], dict[str, np.ndarray]]:
    """The certificate and its arrays.

    Raises:
        UnreadableError: when a file is missing or damaged, or is not the one that the certificate was made with.
    """
    path = Path(path)
    told = entry(strict_json(_bytes(path)), "the certificate", NAMES)
    text_of(told["certificate"], "certificate", ("jacobound",))
    if told["format"] != FORMAT or isinstance(told["format"], bool):
        raise UnreadableError(f"the certificate has format {str(told['format'])[:20]!r}; this version reads {FORMAT}")
    if digest_of(told) != told["digest"]:
        raise UnreadableError("the certificate was changed: its digest is another")
    weights = entry(told["weights"], "weights", ("file", "sha256"))
    name = text_of(weights["file"], "file of weights")
    if Path(name).name != name or name in ("", ".", ".."):
        raise UnreadableError(f"the weights lie beside the certificate, not at {name[:60]!r}")
    data = _bytes(path.parent / name)
    if hashlib.sha256(data).hexdigest() != weights["sha256"]:
        raise UnreadableError("the file of weights was changed: its SHA-256 is another")
    return told, safetensors(data)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"{path.name} can not be read: {error.strerror}") from error


def claims_of(told: Any, asks: str, arrays: Arrays) -> dict[str, Array]:
    """The claimed numbers, arrays by name; infinite where nothing is claimed."""
    told = entry(told, "claims", CLAIMS[asks])
    found = {}
    for name in CLAIMS[asks]:
        array = arrays.get(text_of(told[name], f"claim {name}"))
        if array is None or array.dtype != np.float64:
            raise UnreadableError(f"claim {name}: there is no such array of numbers")
        found[name] = array
    return found


def check(path: str | Path, model: str | Path | None = None) -> Verdict:
    """Prove a certificate anew.

    Args:
        path: the JSON file; the weights lie beside it.
        model: a file that the network is compared with.

    Raises:
        UnreadableError: when it is damaged or is no certificate.
        UnprovedError: when a claim does not follow from it.
        OtherModelError: when the network is not the one of the model.
    """
    told, arrays = read(path)
    compared = ""
    if model is not None:
        from jacobound_check.models import compared_with

        compared = compared_with(Path(model), told, arrays)
    question = question_of(told["question"], told["network"], arrays)
    claims = claims_of(told["claims"], question.asks, arrays)
    compare(claims, proved(question, told["proof"], claims, arrays))
    return Verdict(question.asks, claims, told, compared)


def compare(claims: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    """Raises UnprovedError where a claim says more than was proved; NaN never passes."""
    for name, claimed in claims.items():
        value = found[name]
        if claimed.shape != value.shape:
            raise UnreadableError(f"claim {name} has shape {claimed.shape}, what is proved has {value.shape}")
        held = claimed >= value if name == "upper" else claimed <= value
        if not held.all():
            place = tuple(int(k) for k in np.argwhere(~held)[0])
            raise UnprovedError(f"claim {name}{list(place)} is {claimed[place]!r}, only {value[place]!r} is proved")
