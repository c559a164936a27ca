"""``python -m jacobound_check certificate.json [--model net.onnx]``: exit code 0 proved, 1 refused, 2 unreadable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from jacobound_check.certificate import Verdict, check
from jacobound_check.errors import CertificateError, OtherModelError, UnprovedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Check one certificate and say what it proves."""
    parser = argparse.ArgumentParser("jacobound_check", description="Prove a certificate of jacobound anew.")
    parser.add_argument("certificate", help="the JSON file; its weights lie beside it")
    parser.add_argument("--model", help="a model file that the network is compared with")
    given = parser.parse_args(arguments)
    try:
        verdict = check(given.certificate, given.model)
    except (UnprovedError, OtherModelError) as error:
        print(f"refused: {error}")
        return 1
    except CertificateError as error:
        print(f"unreadable: {error}")
        return 2
    for line in told(verdict):
        print(line)
    return 0


def told(verdict: Verdict) -> list[str]:
    """What was proved, in a few lines."""
    lines = [f"proved: {verdict.asks}"]
    for name, claim in verdict.claims.items():
        ends = (
            f"{claim.min()!s} to {claim.max()!s}"
            if claim.size > 1
            else f"{claim.ravel()[0]!s}"
            if claim.size
            else "none"
        )
        lines.append(f"  {name}: {ends} ({np.prod(claim.shape, dtype=int)} numbers)")
    found = verdict.told["found"]
    if isinstance(found, dict):
        lines += [f"  {name}: {text}" for name, text in found.items()]
    return [*lines, f"  model: {verdict.model or 'not compared with a file'}"]


if __name__ == "__main__":
    sys.exit(main())
