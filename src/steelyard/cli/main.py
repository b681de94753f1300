"""`steelyard`: the command and its exit codes."""

import io
import sys
from contextlib import suppress
from importlib import metadata
from typing import Annotated

import typer

from steelyard.cli import airlock, evidence, lab, reference
from steelyard.cli.output import error_document, show_error, show_json, show_lines
from steelyard.model.errors import SteelyardError, WrongUse

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
app.add_typer(airlock.app, name="airlock")


def _show_version(wanted: bool) -> None:  # noqa: FBT001 (typer calls it so)
    if wanted:
        show_lines(f"steelyard {metadata.version('steelyard')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command line; the one place where an error becomes an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of letters that the terminal's encoding does not have
    try:
        app()
    except SteelyardError as error:
        show_error(error)
        if "--json" in sys.argv:
            with suppress(WrongUse):
                show_json(error_document(error))
        sys.exit(error.exit_code)
