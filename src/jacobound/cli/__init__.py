"""The command ``jacobound``: parses, calls the library, prints; exit code 0 certified, 1 not certified, 2 an error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import cyclopts

from jacobound.cli.text import say
from jacobound.errors import JacoboundError
from jacobound.version import VERSION

ERROR, INTERRUPTED = 2, 130

COMMANDS = {
    "demo": "Certify the small network that comes with the package.",
    "inspect": "Show the network as it was understood: affine maps and activations.",
    "bound": "Bound the outputs and every Jacobian entry over a ball or a VNN-LIB box.",
    "lipschitz": "Bracket the Lipschitz constant over balls, a VNN-LIB box, or the whole space.",
    "radius": "Certify the radius within which a classifier's decision can not change.",
    "landscape": "Certify the radius within which the gradient of an output does not vanish.",
    "monotone": "Certify which inputs only raise or only lower an output.",
    "methods": "List the methods: what they bound, for which networks, and what to cite.",
}


def application() -> cyclopts.App:
    """The parser with all commands."""
    app = cyclopts.App(
        name="jacobound",
        help="Certified bounds of neural-network Jacobians and Lipschitz constants, sound in floating point.",
        version=VERSION,
        default_parameter=cyclopts.Parameter(negative=()),
        suppress_keyboard_interrupt=False,
        help_format="plaintext",
    )
    for name, told in COMMANDS.items():  # loaded when they are used: help and version need no torch
        app.command(f"jacobound.cli.{name}:{name}", name=name, help=told)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after ``jacobound``; None for the process's own.

    Returns:
        The exit code: 0 bounds found and certified, 1 not certified, 2 an error, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = application()(arguments, exit_on_error=False, result_action="return_value")
    except cyclopts.CycloptsError:
        return ERROR  # it has been printed
    except KeyboardInterrupt:
        say("stopped before anything was finished", error=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except (JacoboundError, OSError) as error:
        if "--debug" in arguments:
            say(traceback.format_exc(), error=True)
        say(f"{type(error).__name__}: {error}", error=True)
        return ERROR
    return int(code or 0)
