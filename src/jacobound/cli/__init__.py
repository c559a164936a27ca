"""The command ``jacobound``: parses, calls the library, prints; exit code 0 certified, 1 not certified, 2 an error.

``verify`` says its verdict: 0 holds, 3 violated, 1 unknown.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import cyclopts

from jacobound.cli.shown.text import COMMAND, say
from jacobound.errors import JacoboundError
from jacobound.version import VERSION

ERROR, INTERRUPTED = 2, 130

EXIT = "Exit code: 0 when the bounds are certified, 1 when they are not, 2 for an error."

# What each command is for, what more there is to say, and two examples.
COMMANDS = {
    "demo": (
        "Certify the small network that comes with the package.",
        EXIT,
        ("jacobound demo", "jacobound demo --digit 7 --plot seven.pdf"),
    ),
    "inspect": (
        "Show the network as it was understood: affine maps and activations.",
        "",
        ("jacobound inspect policy.onnx", "jacobound inspect classifier.onnx --until logits --json"),
    ),
    "bound": (
        "Bound the outputs and every Jacobian entry over a ball or a VNN-LIB box.",
        EXIT,
        (
            "jacobound bound policy.onnx --input state.csv --radius 0.01 --norm inf",
            "jacobound bound policy.onnx --input state.csv --radius 1 --units 0.1,0.5,2,1",
        ),
    ),
    "lipschitz": (
        "Bracket the Lipschitz constant over balls, a VNN-LIB box, or the whole space.",
        "L with ||f(x) - f(y)||_q <= L ||x - y||_p for all x, y of the set: a certified upper bound and an attained "
        f"value. {EXIT}",
        (
            "jacobound lipschitz policy.onnx --input state.csv --radius 0.001:0.1:10log --p inf --q inf",
            "jacobound lipschitz policy.onnx --global --budget 30",
        ),
    ),
    "radius": (
        "Certify the radius within which a classifier's decision can not change.",
        f"Adversarial points are looked for as well. {EXIT}",
        (
            "jacobound radius classifier.onnx --input a.png b.png c.png --clip 0 1",
            "jacobound radius net.onnx --input images.npz --key x --index 0:10 --scale 1/255 --norm 2",
        ),
    ),
    "landscape": (
        "Certify the radius within which the gradient of an output does not vanish.",
        EXIT,
        (
            "jacobound landscape policy.onnx --input state.csv --rows 1",
            "jacobound landscape net.onnx --input image.png --rows 3-5 --norm inf --largest 1",
        ),
    ),
    "verify": (
        "Decide a VNN-LIB property, a bound of a constant or signs of derivatives, with a proof either way.",
        "Exit code: 0 holds, 3 violated, 1 unknown within the limits, 2 for an error.",
        (
            "jacobound verify net.onnx property.vnnlib --seconds 100",
            "jacobound verify net.onnx --input x.csv --radius 0.1 --increasing 0,2",
        ),
    ),
    "vnncomp": (
        "Decide every instance of a VNN-COMP list within its time-out.",
        "Appends one line per instance to the results and goes on where it was stopped. Exit code: 0 when every "
        "instance was decided, 1 when one was not, 2 for an error.",
        (
            "jacobound vnncomp instances.csv --results results.csv",
            "jacobound vnncomp instances.csv --results out.csv --counterexamples found",
        ),
    ),
    "sweep": (
        "Answer all questions of a plan, and keep the answers in one file.",
        "The same command goes on where it was stopped. Exit code: 0 when every task is answered, 1 when one is not, 2 "
        "for an error.",
        (
            "jacobound sweep plan.toml --store results.sqlite --workers 4",
            "jacobound sweep plan.toml --store results.sqlite --csv rows.csv",
        ),
    ),
    "monotone": (
        "Certify which inputs only raise or only lower an output.",
        f"Over a linf ball or the box of a VNN-LIB property. {EXIT}",
        (
            "jacobound monotone policy.onnx --input state.csv --radius 0.1",
            "jacobound monotone policy.onnx --input state.csv --radius 1 --units 0.1,0.5,2,1 --negligible 0",
        ),
    ),
    "report": (
        "Write results as one HTML page: questions, what is proved, tables, figures.",
        "The page needs no network and runs no script but its own. Exit code: 0 when every answer is certified, 1 when "
        "not, 2 for an error.",
        (
            "jacobound report constants.json radii.json -o report.html",
            "jacobound report bounds.json -o report.html --image 28x28 --title 'Release 3'",
        ),
    ),
    "check": (
        "Prove a certificate anew, by an independent checker.",
        "Exit code: 0 proved, 1 refused (with the reason), 2 unreadable.",
        ("jacobound check certificate.json", "jacobound check certificate.json --model policy.onnx"),
    ),
    "methods": (
        "List the methods: what they bound, for which networks, and what to cite.",
        "",
        ("jacobound methods", "jacobound methods --json"),
    ),
}


def application() -> cyclopts.App:
    """The parser with all commands; they are loaded when they are used, so that help and version need no torch."""
    app = cyclopts.App(
        name="jacobound",
        help="Certified bounds of neural-network Jacobians and Lipschitz constants, sound in floating point.",
        version=VERSION,
        default_parameter=cyclopts.Parameter(negative=()),
        suppress_keyboard_interrupt=False,
        help_format="plaintext",
    )
    for name, (purpose, more, examples) in COMMANDS.items():
        epilogue = "\n\n".join(["Examples:", *(f"  {example}" for example in examples)])
        told = f"{purpose}\n\n{more}" if more else purpose
        app.command(f"jacobound.cli.commands.{name}:{name}", name=name, help=told, help_epilogue=epilogue)
    app.register_install_completion_command(help="Install completion of commands and options for your shell.")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after ``jacobound``; None for the process's own.

    Returns:
        The exit code: 0 bounds found and certified (a property holds), 1 not certified (unknown), 2 an error of any
        kind, 3 a property is violated, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    running = COMMAND.set(("jacobound", *arguments))
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
    except Exception as error:  # any error is 2: 1 would say that a bound is not certified
        if "--debug" in arguments:
            say(traceback.format_exc(), error=True)
        say(_told(error), error=True)
        return ERROR
    finally:
        COMMAND.reset(running)
    return int(code or 0)


def _told(error: Exception) -> str:
    """What went wrong, and what to do when it is our own fault."""
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return f"MemoryError: {error or 'out of memory'}; lower --memory, or take fewer outputs with --rows"
    if isinstance(error, JacoboundError | OSError):
        return told
    return f"internal error: {told}\nNothing was certified. Run again with --debug and report what it shows, please."
