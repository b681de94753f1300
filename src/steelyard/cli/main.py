"""`steelyard`: the command and its exit codes."""

import os
import sys

import typer

from steelyard.cli import evidence, lab, reference
from steelyard.cli.output import error_document, show_error, show_json
from steelyard.model.errors import ExitCode, SteelyardError

app = typer.Typer(
    name="steelyard",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Weigh bare-metal machines before you trust them.\n\n"
        "Exit codes: 0 good, 2 wrong use, 3 malformed input, 4 evidence rejected,\n"
        "5 this computer cannot hold a rack, 6 a part of the rack failed."
    ),
)
app.add_typer(evidence.app, name="evidence")
app.add_typer(reference.app, name="reference")
app.add_typer(lab.app, name="lab")


def run() -> None:
    """Run the command line; the one place where an error becomes an exit code."""
    try:
        app()
    except SteelyardError as error:
        if "--json" in sys.argv:
            show_json(error_document(error))
        show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.GOOD)
