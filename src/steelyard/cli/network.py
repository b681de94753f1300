"""`steelyard network`: layer-2 networks and who may use them."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.files import read_file
from steelyard.cli.service import AsJson, NetworkName, connected, show_attachments, show_thing, show_things
from steelyard.client import isolation
from steelyard.client.connection import Client
from steelyard.client.objects import Network, VerdictAdmission
from steelyard.model.errors import WrongUse
from steelyard.model.limits import SIGNING_KEY_BYTES

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Layer-2 networks. A network belongs to a project and is private until it is shared;\n"
        "the provider's can be public, and an airlock's members do not hear one another."
    ),
)


class Sharing(StrEnum):
    """For whom a network is."""

    PRIVATE = "private"
    PUBLIC = "public"


@app.command("list")
def list_networks(
    *, owner: Annotated[str | None, typer.Option(help="Only this project's.")] = None, as_json: AsJson = False
) -> None:
    """List the networks that you may use.

    Example: `steelyard network list --owner blue`
    """
    with connected() as client:
        columns = ("network", "owner", "vlan", "for", "members", "admission")
        show_things(client.every(isolation.list_networks(owner=owner)), columns, _row, as_json=as_json)


def _row(network: Network) -> tuple[str | None, ...]:
    whom = ", ".join(network.shared_with) if network.sharing == "shared" else network.sharing
    admission = "by verdict" if network.admission else "open"
    return network.name, network.owner, str(network.vlan), whom, network.members, admission


@app.command()
def show(network: NetworkName, *, as_json: AsJson = False) -> None:
    """Show a network.

    Example: `steelyard network show lab`
    """
    with connected() as client:
        show_thing(client.ask(isolation.read_network(network)), as_json=as_json)


@app.command()
def create(
    network: NetworkName,
    *,
    project: Annotated[str | None, typer.Option(help="Whose it is; without it, the provider's.")] = None,
    vlan: Annotated[int | None, typer.Option(help="The provider's choice; without it, one of the pool.")] = None,
    public: Annotated[bool, typer.Option("--public", help="For every project; the provider's choice.")] = False,
    isolated: Annotated[bool, typer.Option("--isolated", help="Members do not hear one another: an airlock.")] = False,
    verdict_key: Annotated[Path | None, typer.Option(help="Demand a verdict signed by this key: Ed25519, PEM.")] = None,
    verdict_seconds: Annotated[int | None, typer.Option(metavar="N", help="How old a verdict may be.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a network, private to its project.

    Examples: `steelyard network create lab --project blue`, `steelyard network create airlock --vlan 100 --public
    --isolated`
    """
    if (verdict_key is None) != (verdict_seconds is None):
        raise WrongUse("making a network", expected="--verdict-key and --verdict-seconds, or neither", found="one")
    admission = None
    if verdict_key is not None and verdict_seconds is not None:
        key = read_file(verdict_key, SIGNING_KEY_BYTES).decode("ascii", "replace")
        admission = VerdictAdmission(key, verdict_seconds)
    call = isolation.put_network(
        network,
        owner=project,
        sharing=Sharing.PUBLIC if public else Sharing.PRIVATE,
        vlan=vlan,
        members="isolated" if isolated else "together",
        admission=admission,
        version=0,
    )
    with connected() as client:
        show_thing(client.ask(call), as_json=as_json)


@app.command()
def share(
    network: NetworkName,
    projects: Annotated[list[str], typer.Argument(metavar="PROJECT...", help="With whom, besides those it is for.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Let other projects use a network.

    Example: `steelyard network share lab green red`
    """
    with connected() as client:
        now = client.ask(isolation.read_network(network))
        if now.sharing == "public":
            raise WrongUse("sharing a network", expected="one that is not for everybody already", found="public")
        _share(client, now, {*now.shared_with, *projects}, as_json=as_json)


@app.command()
def unshare(
    network: NetworkName,
    projects: Annotated[list[str], typer.Argument(metavar="PROJECT...", help="Who is not to use it any more.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Take a network from projects that none of their nodes is on. Without any left, it is private.

    Example: `steelyard network unshare lab green`
    """
    with connected() as client:
        now = client.ask(isolation.read_network(network))
        if strangers := set(projects) - set(now.shared_with):
            raise WrongUse(
                "taking a network from projects", expected="some that it is shared with", found=", ".join(strangers)
            )
        _share(client, now, set(now.shared_with) - set(projects), as_json=as_json)


@app.command()
def publish(network: NetworkName, *, as_json: AsJson = False) -> None:
    """Let every project use a network (provider).

    Example: `steelyard network publish airlock`
    """
    with connected() as client:
        now = client.ask(isolation.read_network(network))
        _put(client, replace(now, sharing="public", shared_with=()), as_json=as_json)


@app.command()
def withdraw(network: NetworkName, *, as_json: AsJson = False) -> None:
    """Let nobody but its owner use a network any more; no other project's node is on it.

    Example: `steelyard network withdraw lab`
    """
    with connected() as client:
        now = client.ask(isolation.read_network(network))
        _put(client, replace(now, sharing="private", shared_with=()), as_json=as_json)


def _share(client: Client, network: Network, projects: set[str], *, as_json: bool) -> None:
    sharing = "shared" if projects else "private"
    _put(client, replace(network, sharing=sharing, shared_with=tuple(sorted(projects))), as_json=as_json)


def _put(client: Client, network: Network, *, as_json: bool) -> None:
    """Write a network that was read and changed; what somebody else changed meanwhile is not overwritten."""
    call = isolation.put_network(
        network.name,
        owner=network.owner,
        sharing=network.sharing,
        shared_with=network.shared_with,
        members=network.members,
        admission=network.admission,
        version=network.version,
    )
    show_thing(client.ask(call), as_json=as_json)


@app.command()
def attachments(network: NetworkName, *, as_json: AsJson = False) -> None:
    """List what is on a network, every NIC of every node.

    Example: `steelyard network attachments lab`
    """
    with connected() as client:
        show_attachments(client.every(isolation.list_attachments(network=network)), as_json=as_json)


@app.command()
def delete(network: NetworkName) -> None:
    """Forget a network that nothing is on; its VLAN goes back to the pool.

    Example: `steelyard network delete lab`
    """
    with connected() as client:
        client.ask(isolation.delete_network(network))
