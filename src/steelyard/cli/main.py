"""The command `steelyard`."""

import sys

import typer

from steelyard.cli.lab import lab
from steelyard.model.errors import SteelyardError

application = typer.Typer(no_args_is_help=True)
application.add_typer(lab, name="lab")


@application.callback()
def main() -> None:
    """Weigh bare-metal machines before you trust them, and keep each tenant's machines apart."""


def run() -> None:
    """Run the command line; an error of ours is one line, what to do next, and its own exit code."""
    try:
        application()
    except SteelyardError as error:
        typer.echo(f"{error}\n{error.remedy}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run()
