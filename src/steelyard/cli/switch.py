"""`steelyard switch`: switches and their ports."""

from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.service import (
    AsJson,
    SwitchName,
    connected,
    pairs,
    read_credentials,
    show_thing,
    show_things,
)
from steelyard.client import isolation
from steelyard.client.objects import Port, Switch

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Switches and what their ports carry (provider).")

PortArgument = Annotated[str, typer.Argument(metavar="PORT", help="As the switch calls it: Ethernet1/1/3")]


@app.command("list")
def list_switches(*, as_json: AsJson = False) -> None:
    """List the switches, and what is wrong with them.

    Example: `steelyard switch list`
    """
    with connected() as client:
        show_things(
            client.every(isolation.list_switches()), ("switch", "driver", "trouble"), _switch_row, as_json=as_json
        )


def _switch_row(switch: Switch) -> tuple[str | None, ...]:
    return switch.name, switch.driver, switch.trouble


@app.command()
def show(switch: SwitchName, *, as_json: AsJson = False) -> None:
    """Show how a switch is reached, and what is wrong with it; never its credentials.

    Example: `steelyard switch show s1`
    """
    with connected() as client:
        show_thing(client.ask(isolation.read_switch(switch)), as_json=as_json)


@app.command()
def register(
    switch: SwitchName,
    *,
    driver: Annotated[str, typer.Option(help="How it is spoken to: openvswitch.")],
    address: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="Where it is, as the driver wants it; several times.")
    ],
    credentials: Annotated[
        Path | None,
        typer.Option(help="File, yours alone: lines NAME=VALUE. Without it, those that are known stay."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a switch, or change how it is reached.

    Example: `steelyard switch register s1 --driver openvswitch --address bridge=br0 --address
    ovsdb=ssl:10.0.0.2:6640 --credentials s1.txt`
    """
    call = isolation.put_switch(
        switch, driver=driver, address=pairs(address, "address"), credentials=read_credentials(credentials)
    )
    with connected() as client:
        show_thing(client.ask(call), as_json=as_json)


@app.command()
def delete(switch: SwitchName) -> None:
    """Forget a switch that has no ports left.

    Example: `steelyard switch delete s1`
    """
    with connected() as client:
        client.ask(isolation.delete_switch(switch))


@app.command()
def ports(switch: SwitchName, *, as_json: AsJson = False) -> None:
    """List a switch's ports: what each was last read to carry, and whether that is what it should.

    Example: `steelyard switch ports s1`
    """
    with connected() as client:
        columns = ("port", "carries", "up to date", "read at", "trouble")
        show_things(client.every(isolation.list_ports(switch)), columns, _port_row, as_json=as_json)


def _port_row(port: Port) -> tuple[str | None, ...]:
    read_at = None if port.read_at is None else port.read_at.isoformat(timespec="seconds")
    return port.port, _carried(port), "yes" if port.applied >= port.wanted else "no", read_at, port.trouble


def _carried(port: Port) -> str:
    if port.carries is None:
        return "in doubt"
    untagged = [] if port.carries.untagged is None else [str(port.carries.untagged)]
    vlans = ", ".join(untagged + [f"{vlan} tagged" for vlan in port.carries.tagged])
    return f"{vlans or 'nothing'}{', isolated' if port.carries.isolated else ''}"


@app.command("add-port")
def add_port(switch: SwitchName, port: PortArgument, *, as_json: AsJson = False) -> None:
    """Take charge of a port: it is shut, and read back.

    Example: `steelyard switch add-port s1 Ethernet1/1/3`
    """
    with connected() as client:
        show_thing(client.ask(isolation.put_port(switch, port)), as_json=as_json)


@app.command("delete-port")
def delete_port(switch: SwitchName, port: PortArgument) -> None:
    """Leave a port alone from now on; nothing is plugged into it.

    Example: `steelyard switch delete-port s1 Ethernet1/1/3`
    """
    with connected() as client:
        client.ask(isolation.delete_port(switch, port))
