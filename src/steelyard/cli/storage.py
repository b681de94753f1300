"""`steelyard storage`: how much a project may have, and what imaging is at."""

from typing import Annotated

import typer

from steelyard.cli.output import show_table
from steelyard.cli.service import AsJson, ProjectName, connected, own_project, show_operations, show_thing
from steelyard.cli.sizes import parse_size, size_words
from steelyard.client import imaging
from steelyard.client.imaging_objects import Storage

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Room for images and volumes, and imaging's operations."
)


@app.command()
def show(
    project: Annotated[str | None, typer.Argument(metavar="PROJECT", help="Without it, your only one.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what a project may have, what it has, and the room that it really takes.

    Example: `steelyard storage show blue`
    """
    with connected() as client:
        _show(client.ask(imaging.read_storage(own_project(client, project))), as_json=as_json)


def _show(storage: Storage, *, as_json: bool) -> None:
    if as_json:
        show_thing(storage, as_json=True)
        return
    quota, used = storage.quota, storage.used
    rows = [
        ("images", str(used.images), str(quota.images)),
        ("volumes", str(used.volumes), str(quota.volumes)),
        ("size, as nodes see it", size_words(used.size_bytes), size_words(quota.size_bytes)),
        ("room that it takes", size_words(storage.real_bytes), "-"),
    ]
    show_table((storage.project, "has", "may have"), rows)


@app.command("set")
def set_quota(
    project: ProjectName,
    *,
    images: Annotated[int | None, typer.Option(min=0, help="How many images.")] = None,
    volumes: Annotated[int | None, typer.Option(min=0, help="How many volumes.")] = None,
    size: Annotated[str | None, typer.Option(metavar="SIZE", help="How large all is together, as 500G.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a project may have (provider); what is not named stays, and so does what it has already.

    Example: `steelyard storage set blue --images 20 --size 2T`
    """
    with connected() as client:
        now = client.ask(imaging.read_storage(project))
        call = imaging.put_storage_quota(
            project,
            images=now.quota.images if images is None else images,
            volumes=now.quota.volumes if volumes is None else volumes,
            size_bytes=now.quota.size_bytes if size is None else parse_size(size),
            version=now.version,
        )
        _show(client.ask(call), as_json=as_json)


@app.command()
def operations(
    *,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    verb: Annotated[str | None, typer.Option(help="Only make-image, make-volume, boot ...")] = None,
    state: Annotated[str | None, typer.Option(help="Only pending, running, done, failed or cancelled.")] = None,
    as_json: AsJson = False,
) -> None:
    """List imaging's operations, the oldest first; `steelyard operation` shows, awaits and cancels one.

    Example: `steelyard storage operations --state running`
    """
    with connected() as client:
        call = imaging.list_operations(project=project, verb=verb, state=state)
        show_operations(client.every(call), as_json=as_json)
