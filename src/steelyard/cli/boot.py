"""`steelyard boot`: what nodes are given when they ask the network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.files import read_file
from steelyard.cli.service import (
    AsJson,
    NodeName,
    NoWait,
    Seconds,
    connected,
    own_project,
    run_operations,
    show_thing,
    show_things,
)
from steelyard.cli.volume import Protocol
from steelyard.client import imaging, isolation
from steelyard.client.connection import Client
from steelyard.client.imaging import AirlockBoot, DirectBoot, DiskBoot, IpxeBoot, WhatToBoot
from steelyard.client.imaging_objects import Boot, BootNetwork
from steelyard.model.errors import WrongUse
from steelyard.model.limits import PARAMETERS_BYTES, SEED_BYTES, SSH_KEY_BYTES

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "What nodes boot over the network. A boot stands until it is ended: the node has an address of its own, gets\n"
        "what was said and nothing else, and nobody else gets that. Said again, it is another boot."
    ),
)

Project = Annotated[str | None, typer.Option(help="Whose the boot network is; without it, your only project's.")]
Network = Annotated[str, typer.Option(help="The boot network; `steelyard boot networks` lists them.")]
Mac = Annotated[str | None, typer.Option(help="Of the node's card there: aa:bb:cc:dd:ee:ff; or --nic.")]
NicName = Annotated[str | None, typer.Option("--nic", help="The node's card, as isolation knows it; or --mac.")]
VolumeName = Annotated[str, typer.Option("--volume", metavar="VOLUME", help="The node's disk, of the same project.")]


@app.command()
def airlock(
    node: NodeName,
    *,
    network: Network,
    parameters: Annotated[Path, typer.Option(metavar="FILE", help="What the agent is told, to the byte.")],
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Whose kernel the node may fetch: [PROJECT/]NAME.")
    ] = None,
    mac: Mac = None,
    nic: NicName = None,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Let a node boot the airlock image, to be weighed.

    Example: `steelyard boot airlock n1 --network blue-airlock --nic nic0 --parameters n1.toml`
    """
    text = _text(parameters)
    _put(node, network, mac, nic, project, AirlockBoot(text, image), seconds, no_wait=no_wait, as_json=as_json)


@app.command()
def direct(
    node: NodeName,
    *,
    network: Network,
    volume: VolumeName,
    protocol: Annotated[Protocol, typer.Option(help="How the node's system opens its disk.")] = Protocol.NBD,
    command_line: Annotated[str | None, typer.Option(help="The kernel's; without it, the image's.")] = None,
    ssh_key: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Who may sign in: a public key; may be given again.")
    ] = None,
    user_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For cloud-init, in place of --ssh-key; not secret.")
    ] = None,
    meta_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For cloud-init; without it, the node's name. Not secret.")
    ] = None,
    mac: Mac = None,
    nic: NicName = None,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Let a node boot the kernel of the image that a volume was made of, unweighed, with the volume as its disk.

    Example: `steelyard boot direct n1 --network blue-lab --nic nic0 --volume root --ssh-key ~/.ssh/id_ed25519.pub`
    """
    if ssh_key and user_data is not None:
        raise WrongUse("saying what a node boots", expected="--ssh-key or --user-data", found="both")
    seed = {
        "meta-data": f"instance-id: {node}\nlocal-hostname: {node}\n" if meta_data is None else _text(meta_data),
        "user-data": _cloud_config(ssh_key or ()) if user_data is None else _text(user_data),
    }
    what = DirectBoot(volume, protocol, command_line, seed)
    _put(node, network, mac, nic, project, what, seconds, no_wait=no_wait, as_json=as_json)


def _cloud_config(keys: Sequence[Path]) -> str:
    """Return the user data that lets the owners of these public keys sign in: YAML, of which quoted text is a part."""
    lines = [read_file(path, SSH_KEY_BYTES).decode("utf-8", "replace").strip() for path in keys]
    for path, line in zip(keys, lines, strict=True):
        if not line.startswith(("ssh-", "ecdsa-", "sk-")) or not line.isprintable():
            raise WrongUse(f"reading {path}", expected="one public key of OpenSSH's", found="something else")
    keys_listed = "".join(f"  - {json.dumps(line)}\n" for line in lines)
    return f"#cloud-config\nssh_authorized_keys:\n{keys_listed}" if lines else "#cloud-config\n"


def _text(path: Path) -> str:
    data = read_file(path, PARAMETERS_BYTES if PARAMETERS_BYTES.most > SEED_BYTES.most else SEED_BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WrongUse(f"reading {path}", expected="text, UTF-8", found="something else") from error


@app.command()
def ipxe(
    node: NodeName,
    *,
    network: Network,
    volume: VolumeName,
    mac: Mac = None,
    nic: NicName = None,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Let a node boot whatever is on a volume, by its own boot loader, read over iSCSI.

    Example: `steelyard boot ipxe n1 --network blue-lab --nic nic0 --volume root`
    """
    _put(node, network, mac, nic, project, IpxeBoot(volume), seconds, no_wait=no_wait, as_json=as_json)


@app.command()
def disk(
    node: NodeName,
    *,
    network: Network,
    mac: Mac = None,
    nic: NicName = None,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Let a node boot its own disk; it keeps an address.

    Example: `steelyard boot disk n1 --network blue-lab --nic nic0`
    """
    _put(node, network, mac, nic, project, DiskBoot(), seconds, no_wait=no_wait, as_json=as_json)


def _put(
    node: str,
    network: str,
    mac: str | None,
    nic: str | None,
    project: str | None,
    what: WhatToBoot,
    seconds: int,
    *,
    no_wait: bool,
    as_json: bool,
) -> None:
    with connected() as client:
        owner, card = own_project(client, project), _card(client, node, mac, nic)
    call = imaging.put_boot(owner, node, network=network, mac=card, what=what, seconds=seconds)
    run_operations([call], no_wait=no_wait, as_json=as_json)


def _card(client: Client, node: str, mac: str | None, nic: str | None) -> str:
    """Return the hardware address that was named, or that isolation knows. Raises WrongUse."""
    doing = f"choosing the network card of node {node}"
    if (mac is None) == (nic is None):
        raise WrongUse(doing, expected="--mac or --nic", found="neither" if mac is None else "both")
    if mac is not None:
        return mac.lower()
    cards: Mapping[str, str] = {card.name: card.mac for card in client.ask(isolation.read_node(node)).nics}
    if nic is None or nic not in cards:
        raise WrongUse(doing, expected=", ".join(sorted(cards)) or "one that is registered", found=f"{nic}")
    return cards[nic]


@app.command("list")
def list_boots(
    *, project: Annotated[str | None, typer.Option(help="Only this project's.")] = None, as_json: AsJson = False
) -> None:
    """List what your projects' nodes boot.

    Example: `steelyard boot list`
    """
    with connected() as client:
        columns = ("node", "project", "network", "address", "boots", "state")
        show_things(client.every(imaging.list_boots(project=project)), columns, _row, as_json=as_json)


def _row(boot: Boot) -> Sequence[str | None]:
    what = boot.boot.volume or boot.boot.image
    words = f"{boot.boot.kind} {what}" if what else boot.boot.kind
    return boot.node, boot.project, boot.network, boot.address, words, boot.state


@app.command()
def show(node: NodeName, *, project: Project = None, as_json: AsJson = False) -> None:
    """Show what a node boots, and its address.

    Example: `steelyard boot show n1`
    """
    with connected() as client:
        show_thing(client.ask(imaging.read_boot(own_project(client, project), node)), as_json=as_json)


@app.command()
def end(
    node: NodeName,
    *,
    project: Project = None,
    seconds: Seconds = imaging.SECONDS,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Give a node nothing any more: no address, no files, its volume closed; one that is ephemeral is thrown away.

    Example: `steelyard boot end n1`
    """
    with connected() as client:
        owner = own_project(client, project)
    run_operations([imaging.end_boot(owner, node, seconds=seconds)], no_wait=no_wait, as_json=as_json)


@app.command()
def networks(*, as_json: AsJson = False) -> None:
    """List the networks on which your projects' nodes are given what they boot, and what is wrong there.

    Example: `steelyard boot networks`
    """
    with connected() as client:
        columns = ("network", "project", "service", "nodes", "trouble")
        show_things(client.every(imaging.list_boot_networks()), columns, _network_row, as_json=as_json)


def _network_row(network: BootNetwork) -> Sequence[str | None]:
    return network.name, network.project, network.address, f"{network.first} to {network.last}", network.trouble
