"""`steelyard nic`: the machines' network cards and cables."""

from typing import Annotated

import typer

from steelyard.cli.service import AsJson, NodeName, connected, show_thing, show_things
from steelyard.client import isolation
from steelyard.client.objects import Nic, PortName
from steelyard.model.errors import NotFound, WrongUse

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="The machines' network cards, and where their cables end."
)

NicName = Annotated[str, typer.Argument(metavar="NIC", help="The network card.")]


@app.command("list")
def list_nics(node: NodeName, *, as_json: AsJson = False) -> None:
    """List a node's NICs.

    Example: `steelyard nic list n1`
    """
    with connected() as client:
        show_things(client.ask(isolation.read_node(node)).nics, ("nic", "mac", "switch", "port"), _row, as_json=as_json)


def _row(nic: Nic) -> tuple[str | None, ...]:
    return nic.name, nic.mac, nic.port.switch if nic.port else None, nic.port.port if nic.port else None


@app.command()
def register(
    node: NodeName,
    nic: NicName,
    mac: Annotated[str, typer.Argument(metavar="MAC", help="Its address: aa:bb:cc:dd:ee:ff")],
    *,
    switch: Annotated[str | None, typer.Option(help="Where its cable ends; without it, nowhere.")] = None,
    port: Annotated[str | None, typer.Option(help="At which port of that switch.")] = None,
    as_json: AsJson = False,
) -> None:
    """Register a NIC of a node, and where its cable ends (provider).

    Example: `steelyard nic register n1 eth0 52:54:00:12:34:56 --switch s1 --port Ethernet1/1/3`
    """
    if (switch is None) != (port is None):
        raise WrongUse("registering a NIC", expected="--switch and --port, or neither", found="one")
    end = None if switch is None or port is None else PortName(switch, port)
    with connected() as client:
        show_thing(client.ask(isolation.put_nic(node, nic, mac=mac, port=end)), as_json=as_json)


@app.command()
def plug(
    node: NodeName,
    nic: NicName,
    switch: Annotated[str, typer.Argument(metavar="SWITCH", help="The switch.")],
    port: Annotated[str, typer.Argument(metavar="PORT", help="Its port.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Say where a NIC's cable ends now (provider).

    Example: `steelyard nic plug n1 eth0 s1 Ethernet1/1/3`
    """
    _replug(node, nic, PortName(switch, port), as_json=as_json)


@app.command()
def unplug(node: NodeName, nic: NicName, *, as_json: AsJson = False) -> None:
    """Say that a NIC's cable was pulled out (provider).

    Example: `steelyard nic unplug n1 eth0`
    """
    _replug(node, nic, None, as_json=as_json)


def _replug(node: str, name: str, port: PortName | None, *, as_json: bool) -> None:
    with connected() as client:
        for nic in client.ask(isolation.read_node(node)).nics:
            if nic.name == name:
                call = isolation.put_nic(node, name, mac=nic.mac, port=port)
                show_thing(client.ask(call), as_json=as_json)
                return
    raise NotFound(f"looking for NIC {name} of node {node}", expected="one that exists", found="none")


@app.command()
def delete(node: NodeName, nic: NicName) -> None:
    """Take a NIC out of a node that is nobody's (provider).

    Example: `steelyard nic delete n1 eth0`
    """
    with connected() as client:
        client.ask(isolation.delete_nic(node, nic))
