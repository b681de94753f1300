"""`steelyard volume`: disks for nodes."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.files import write_secret_file
from steelyard.cli.output import show_good
from steelyard.cli.service import (
    AsJson,
    NoWait,
    Seconds,
    completing,
    connected,
    follow,
    place_of,
    raise_failures,
    show_operations,
    show_thing,
    show_things,
)
from steelyard.cli.sizes import parse_size, size_words
from steelyard.client import imaging
from steelyard.client.call import Call
from steelyard.client.connection import Client
from steelyard.client.imaging import VolumeSource
from steelyard.client.imaging_objects import ImagingOperation, Opening, Volume
from steelyard.model.errors import WrongUse

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Disks for nodes. A volume is made of an image in no time, takes room for what differs, and is served to the\n"
        "one node that may have it. VOLUME is NAME, or PROJECT/NAME."
    ),
)

VolumeName = Annotated[
    str,
    typer.Argument(
        metavar="VOLUME",
        help="The volume: [PROJECT/]NAME.",
        autocompletion=completing(imaging.list_volumes, lambda volume: f"{volume.project}/{volume.name}"),
    ),
]
Project = Annotated[str | None, typer.Option(help="Whose it is; without it, your only project's.")]


class Protocol(StrEnum):
    """How a volume is served."""

    NBD = "nbd"
    ISCSI = "iscsi"


@app.command()
def create(
    volume: VolumeName,
    *,
    image: Annotated[str | None, typer.Option(metavar="IMAGE", help="What it begins as: [PROJECT/]NAME.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="As 20G; without it the image's, with it at least that.")
    ] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Thrown away when its boot or opening ends.")] = False,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Make a volume: of an image, or blank.

    Examples: `steelyard volume create root --image golden/debian --ephemeral`, `steelyard volume create data --size
    100G`
    """
    if image is None and size is None:
        raise WrongUse("making a volume", expected="--image, --size, or both", found="neither")
    size_bytes = None if size is None else parse_size(size)

    def make(owner: str, name: str) -> Call[ImagingOperation]:
        keeping = "ephemeral" if ephemeral else "kept"
        return imaging.make_volume(owner, name, image=image, keeping=keeping, size_bytes=size_bytes, seconds=seconds)

    _run(volume, project, make, no_wait=no_wait, as_json=as_json)


@app.command("list")
def list_volumes(
    *, project: Annotated[str | None, typer.Option(help="Only this project's.")] = None, as_json: AsJson = False
) -> None:
    """List your projects' volumes, and whom each is open for.

    Example: `steelyard volume list`
    """
    with connected() as client:
        columns = ("volume", "state", "size", "image", "keeping", "open for")
        show_things(client.every(imaging.list_volumes(project=project)), columns, _row, as_json=as_json)


def _row(volume: Volume) -> Sequence[str | None]:
    name = f"{volume.project}/{volume.name}"
    whom = None if volume.opening is None else _whom(volume.opening)
    return name, volume.state, size_words(volume.size_bytes), volume.image, volume.keeping, whom


def _whom(opening: Opening) -> str:
    node = f" ({opening.node})" if opening.node else ""
    return f"{opening.address}{node} by {opening.protocol}, {opening.state}"


@app.command()
def show(volume: VolumeName, *, project: Project = None, as_json: AsJson = False) -> None:
    """Show a volume.

    Example: `steelyard volume show root`
    """
    with connected() as client:
        show_thing(client.ask(imaging.read_volume(*place_of(client, volume, project))), as_json=as_json)


@app.command()
def resize(
    volume: VolumeName,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="As 40G; no less than it has.")],
    *,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Let a volume that is not open grow.

    Example: `steelyard volume resize root 40G`
    """
    size_bytes = parse_size(size)
    _run(
        volume,
        project,
        lambda owner, name: imaging.resize_volume(owner, name, size_bytes, seconds=seconds),
        no_wait=no_wait,
        as_json=as_json,
    )


@app.command()
def snapshot(
    volume: VolumeName,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image to be made: [PROJECT/]NAME.")],
    *,
    project: Project = None,
    seconds: Seconds = imaging.LONG_SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Keep what is on a volume that is not open as a new image.

    Example: `steelyard volume snapshot root web-server`
    """
    with connected() as client:
        owner, name = place_of(client, volume, project)
        into, new = place_of(client, image, owner if "/" not in image else None)
        call = imaging.make_image(into, new, source=VolumeSource(f"{owner}/{name}"), seconds=seconds)
        _finish(client, client.ask(call), no_wait=no_wait, as_json=as_json)


@app.command("roll-back")
def roll_back(
    volume: VolumeName,
    *,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="To be this one; without it, the one that it stands on.")
    ] = None,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Make a volume what an image is; what is on it is lost.

    Example: `steelyard volume roll-back root`
    """
    _run(
        volume,
        project,
        lambda owner, name: imaging.roll_back_volume(owner, name, image, seconds=seconds),
        no_wait=no_wait,
        as_json=as_json,
    )


@app.command()
def flatten(
    volume: VolumeName,
    *,
    project: Project = None,
    seconds: Seconds = imaging.LONG_SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Let a volume stand on no image: it takes all of its room itself, and the image can be deleted.

    Example: `steelyard volume flatten root`
    """
    _run(
        volume,
        project,
        lambda owner, name: imaging.flatten_volume(owner, name, seconds=seconds),
        no_wait=no_wait,
        as_json=as_json,
    )


@app.command()
def rename(
    volume: VolumeName,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new name.")],
    *,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Give a volume another name.

    Example: `steelyard volume rename root old-root`
    """
    with connected() as client:
        show_thing(client.ask(imaging.rename_volume(*place_of(client, volume, project), new)), as_json=as_json)


@app.command()
def keep(
    volume: VolumeName,
    *,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="No: until its boot or opening ends.")] = False,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Keep a volume until it is deleted, also when its boot or opening ends.

    Example: `steelyard volume keep root`
    """
    with connected() as client:
        keeping = "ephemeral" if ephemeral else "kept"
        show_thing(client.ask(imaging.set_keeping(*place_of(client, volume, project), keeping)), as_json=as_json)


@app.command()
def delete(volume: VolumeName, *, project: Project = None) -> None:
    """Delete a volume that is not open and that no node boots; what is on it is lost.

    Example: `steelyard volume delete old-root`
    """
    with connected() as client:
        client.ask(imaging.delete_volume(*place_of(client, volume, project)))


@app.command("open")
def open_volume(
    volume: VolumeName,
    *,
    network: Annotated[str, typer.Option(help="The boot network; `steelyard boot networks` lists them.")],
    address: Annotated[str, typer.Option(help="Of the one machine that may open it, on that network.")],
    protocol: Annotated[Protocol, typer.Option(help="How.")] = Protocol.NBD,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Serve a volume to one address, for whoever has the credential; `access` tells it.

    A volume that a node boots is opened for it by `steelyard boot`.

    Example: `steelyard volume open data --network blue-lab --address 10.8.0.50`
    """
    _run(
        volume,
        project,
        lambda owner, name: imaging.open_volume(
            owner, name, network=network, protocol=protocol, address=address, seconds=seconds
        ),
        no_wait=no_wait,
        as_json=as_json,
    )


@app.command("close")
def close_volume(
    volume: VolumeName,
    *,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Serve a volume to nobody any more: sessions are cut, its credential is worth nothing.

    Example: `steelyard volume close data`
    """
    _run(
        volume,
        project,
        lambda owner, name: imaging.close_volume(owner, name, seconds=seconds),
        no_wait=no_wait,
        as_json=as_json,
    )


@app.command()
def access(
    volume: VolumeName,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A new file for it, for your eyes alone.")],
    project: Project = None,
) -> None:
    """Write what opens a volume to a file: address, port, credential. It is shown nowhere, and good until it is closed.

    Example: `steelyard volume access data --out data.json`
    """
    with connected() as client:
        secret = client.ask(imaging.read_access(*place_of(client, volume, project)))
    write_secret_file(out, secret.reveal())
    show_good(f"written to {out}")


def _run(
    volume: str,
    project: str | None,
    call: Callable[[str, str], Call[ImagingOperation]],
    *,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Ask for work on a volume, and follow it to its end."""
    with connected() as client:
        _finish(client, client.ask(call(*place_of(client, volume, project))), no_wait=no_wait, as_json=as_json)


def _finish(client: Client, begun: ImagingOperation, *, no_wait: bool, as_json: bool) -> None:
    operations = [begun] if no_wait else follow(client, [begun])
    show_operations(operations, as_json=as_json)
    if not no_wait:
        raise_failures(operations)
