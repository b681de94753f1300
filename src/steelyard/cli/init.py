"""`steelyard init`: what a first start of the services needs."""

from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.output import show_good, show_json, show_lines
from steelyard.cli.serve import SERVICES
from steelyard.service.configuration import DIRECTORY
from steelyard.service.init import TOKEN_FILE, Wish, initialise

app = typer.Typer(add_completion=False, help="Make what a first start of the services needs.")


@app.command()
def init(
    *,
    directory: Annotated[Path, typer.Option(help="Where the installation lives.", envvar="STEELYARD_DIR")] = DIRECTORY,
    database_url: Annotated[
        str, typer.Option(metavar="URL", help="sqlite:///FILE, in the directory, or postgresql://USER@HOST/NAME.")
    ] = "sqlite:///steelyard.db",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8443,
    name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What else clients call it; for its certificate.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Make configuration, keys, certificates, database and the first provider's token: what of it is missing.

    Done again it changes nothing. What is to be made anew is taken away before.
    """
    directory = directory.resolve()
    wish = Wish(database_url, host, port, tuple(name or ()))
    made = initialise(directory, wish, frozenset(SERVICES), [service.schema for service in SERVICES.values()])
    if as_json:
        show_json({"directory": str(directory), "made": list(made)})
        return
    show_lines(*(f"made {part}" for part in made))
    show_good(f"ready: steelyard serve --directory {directory}")
    show_lines(
        f"to use it: steelyard login https://{host}:{port} --ca {directory}/authority.pem"
        f" --token-file {directory}/{TOKEN_FILE}"
    )
