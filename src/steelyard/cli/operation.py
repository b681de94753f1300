"""`steelyard operation`: work that takes longer than an answer."""

from typing import Annotated

import typer

from steelyard.cli.service import (
    AsJson,
    connected,
    follow,
    raise_failures,
    show_operations,
    show_thing,
)
from steelyard.client import imaging, isolation
from steelyard.client.connection import Client
from steelyard.client.imaging_objects import ImagingOperation
from steelyard.client.objects import Operation
from steelyard.model.errors import NotFound

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Operations: work that takes longer than an answer.")

Identifier = Annotated[str, typer.Argument(metavar="ID", help="The operation's.")]


@app.command("list")
def list_operations(
    *,
    node: Annotated[str | None, typer.Option(help="Only of this node.")] = None,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    verb: Annotated[str | None, typer.Option(help="Only attach, release, power-on ...")] = None,
    state: Annotated[str | None, typer.Option(help="Only pending, running, done, failed or cancelled.")] = None,
    as_json: AsJson = False,
) -> None:
    """List operations on nodes, the oldest first; those of imaging: `steelyard storage operations`.

    Example: `steelyard operation list --state pending`
    """
    with connected() as client:
        call = isolation.list_operations(node=node, project=project, verb=verb, state=state)
        show_operations(client.every(call), as_json=as_json)


@app.command()
def show(identifier: Identifier, *, as_json: AsJson = False) -> None:
    """Show how far an operation is, what it waits for, or what ended it.

    Example: `steelyard operation show 01JD...`
    """
    with connected() as client:
        show_thing(_find(client, identifier), as_json=as_json)


@app.command()
def wait(
    identifiers: Annotated[list[str], typer.Argument(metavar="ID...", help="One or more.")], *, as_json: AsJson = False
) -> None:
    """Wait for operations to end; end with the code of the first that failed.

    Example: `steelyard operation wait 01JD...`
    """
    with connected() as client:
        operations = follow(client, [_find(client, each) for each in identifiers])
    show_operations(operations, as_json=as_json)
    raise_failures(operations)


@app.command()
def cancel(identifier: Identifier, *, as_json: AsJson = False) -> None:
    """Give an operation up: an attachment is taken back, power work not begun any more, half an image thrown away.

    Example: `steelyard operation cancel 01JD...`
    """
    with connected() as client:
        if isinstance(_find(client, identifier), Operation):
            show_thing(client.ask(isolation.cancel_operation(identifier)), as_json=as_json)
        else:
            show_thing(client.ask(imaging.cancel_operation(identifier)), as_json=as_json)


def _find(client: Client, identifier: str) -> Operation | ImagingOperation:
    """Return an operation of whichever service has it. Raises NotFound."""
    try:
        return client.ask(isolation.read_operation(identifier))
    except NotFound:
        return client.ask(imaging.read_operation(identifier))
