"""`steelyard node`: machines, from taking one to giving it back."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from steelyard.cli.console import dump, interact
from steelyard.cli.files import read_file
from steelyard.cli.output import show_lines
from steelyard.cli.service import (
    AsJson,
    NetworkName,
    NodeName,
    NodeNames,
    NoWait,
    Seconds,
    connected,
    pairs,
    read_credentials,
    run_operations,
    show_attachments,
    show_thing,
    show_things,
)
from steelyard.client import isolation
from steelyard.client.codec import decode
from steelyard.client.connection import Client
from steelyard.client.objects import Device, Hold, Identity, Node
from steelyard.model.errors import NotFound, WrongUse
from steelyard.model.limits import IDENTITY_FILE_BYTES, VERDICT_BYTES

LIMIT: Final = isolation.SECONDS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Machines: take some, put them on networks, switch them on, look at their consoles, give them back.\n\n"
        "A day with one: `steelyard node allocate web --project blue --count 2`, then `node attach n1 eth0 lab`,\n"
        "`node power on n1`, `node console n1`, and at the end `node release n1`."
    ),
)


class PowerVerb(StrEnum):
    """What to do with the power."""

    ON = "on"
    OFF = "off"
    CYCLE = "cycle"
    SOFT = "soft"
    READ = "read"


class BootDevice(StrEnum):
    """What to start from."""

    NETWORK = "network"
    DISK = "disk"
    DEFAULT = "default"


class Pool(StrEnum):
    """Where a node goes."""

    FREE = "free"
    MAINTENANCE = "maintenance"
    REJECTED = "rejected"


class Waived(StrEnum):
    """What need not be confirmed."""

    POWER = "power"
    PORTS = "ports"
    HOLDS = "holds"


NicName = Annotated[str, typer.Argument(metavar="NIC", help="Its network card.")]
Why = Annotated[str, typer.Option("--why", help="What for, in your words; it is kept in the audit log.")]


@app.command("list")
def list_nodes(
    *,
    state: Annotated[str | None, typer.Option(help="Only those that are free, allocated, releasing ...")] = None,
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only those with all of these.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the nodes that you may see: those of your projects, and those that are free.

    Example: `steelyard node list --state free --label gpu=h100`
    """
    with connected() as client:
        call = isolation.list_nodes(state=state, project=project, labels=pairs(label or [], "label"), limit=1000)
        columns = ("node", "state", "project", "power", "labels", "trouble")
        show_things(client.every(call), columns, _row, as_json=as_json)


def _row(node: Node) -> tuple[str | None, ...]:
    labels = ", ".join(f"{name}={value}" for name, value in sorted(node.labels.items()))
    return node.name, node.state, node.project, node.power, labels, node.trouble


@app.command()
def show(node: NodeName, *, as_json: AsJson = False) -> None:
    """Show everything that you may know of a node: its NICs, its identity, why it is in the state that it is in.

    Example: `steelyard node show n1`
    """
    with connected() as client:
        show_thing(client.ask(isolation.read_node(node)), as_json=as_json)


@app.command()
def allocate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for what you take, of your choice.")],
    *,
    project: Annotated[str, typer.Option(help="The project that gets them.")],
    count: Annotated[int | None, typer.Option(help="How many; as many as nodes are named, if they are.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Each must have all of these.")] = None,
    node: Annotated[list[str] | None, typer.Option(help="This one; may be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Take free nodes for a project: all of them or none.

    Asked again with the same name, it gives the same nodes: a script can simply try again.

    Example: `steelyard node allocate web --project blue --count 2 --label gpu=h100`
    """
    if count is None and not node:
        raise WrongUse("allocating nodes", expected="--count, or --node", found="neither")
    labels = pairs(label or [], "label")
    call = isolation.allocate(project, name, len(node or []) if count is None else count, labels=labels, nodes=node)
    with connected() as client:
        allocation = client.ask(call)
    if as_json:
        show_thing(allocation, as_json=True)
    else:
        show_lines(*(taken.name for taken in allocation.nodes))


@app.command()
def release(
    nodes: NodeNames,
    *,
    to: Annotated[Pool, typer.Option(help="Where they go; `maintenance` is the provider's choice alone.")] = Pool.FREE,
    why: Why = "given back",
    waive: Annotated[
        list[Waived] | None,
        typer.Option(help="Of the provider: what need not be confirmed. Never on the way to `free`."),
    ] = None,
    seconds: Seconds = LIMIT,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Give nodes back: each is switched off, cut off from every network, and both are read back before it is free.

    What cannot be confirmed holds the node; the service goes on trying by itself, and asking again awaits it again.

    Example: `steelyard node release n1 n2`
    """
    calls = [
        isolation.release(node, to=to, why=why, waives=[step.value for step in waive or []], seconds=seconds)
        for node in nodes
    ]
    run_operations(calls, no_wait=no_wait, as_json=as_json)


@app.command()
def attach(
    node: NodeName,
    nic: NicName,
    network: NetworkName,
    *,
    tagged: Annotated[bool, typer.Option("--tagged", help="Frames carry the VLAN's tag.")] = False,
    verdict: Annotated[
        Path | None, typer.Option(help="File with the signed verdict that admits the node, where one is demanded.")
    ] = None,
    seconds: Seconds = LIMIT,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Put a NIC on a network; done when the switch was read to carry it.

    Example: `steelyard node attach n1 eth0 lab`
    """
    word = None if verdict is None else read_file(verdict, VERDICT_BYTES).decode("ascii", "replace").strip()
    call = isolation.attach(node, nic, network, tagged=tagged, verdict=word, seconds=seconds)
    run_operations([call], no_wait=no_wait, as_json=as_json)


@app.command()
def detach(
    node: NodeName,
    nic: NicName,
    network: NetworkName,
    *,
    seconds: Seconds = LIMIT,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Take a NIC off a network; done when the switch was read to be without it.

    Example: `steelyard node detach n1 eth0 lab`
    """
    run_operations([isolation.detach(node, nic, network, seconds=seconds)], no_wait=no_wait, as_json=as_json)


@app.command()
def attachments(node: NodeName, *, as_json: AsJson = False) -> None:
    """List the networks that a node's NICs are on.

    Example: `steelyard node attachments n1`
    """
    with connected() as client:
        show_attachments(client.every(isolation.list_attachments(node=node)), as_json=as_json)


@app.command()
def power(
    verb: Annotated[PowerVerb, typer.Argument(help="`soft` asks its system to go off; `read` only looks.")],
    nodes: NodeNames,
    *,
    seconds: Seconds = LIMIT,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Switch nodes on or off; done when the power was read to be so.

    Example: `steelyard node power cycle n1 n2`
    """
    calls = [isolation.power(node, verb.value, seconds=seconds) for node in nodes]
    run_operations(calls, no_wait=no_wait, as_json=as_json)


@app.command("boot-device")
def boot_device(
    device: Annotated[BootDevice, typer.Argument(help="What to start from.")],
    nodes: NodeNames,
    *,
    once: Annotated[bool, typer.Option("--once", help="The next time only.")] = False,
    seconds: Seconds = LIMIT,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Say what nodes start from, by UEFI; it holds until said otherwise.

    Example: `steelyard node boot-device network n1 --once`
    """
    calls = [isolation.set_boot_device(node, device.value, once=once, seconds=seconds) for node in nodes]
    run_operations(calls, no_wait=no_wait, as_json=as_json)


@app.command()
def quarantine(
    nodes: NodeNames, *, why: Why, seconds: Seconds = LIMIT, no_wait: NoWait = False, as_json: AsJson = False
) -> None:
    """Cut nodes off from every network, now, ahead of everything else. Only a release leads out.

    Example: `steelyard node quarantine n1 --why "failed its weighing at run time"`
    """
    calls = [isolation.quarantine(node, why, seconds=seconds) for node in nodes]
    run_operations(calls, no_wait=no_wait, as_json=as_json)


@app.command()
def console(
    node: NodeName,
    *,
    dump_it: Annotated[
        bool, typer.Option("--dump", help="Print what was recorded, and end; for files and pipes.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="Begin to record, and end; for scripts.")] = False,
    close: Annotated[bool, typer.Option("--close", help="End the recording, and delete it.")] = False,
) -> None:
    """Sit at a node's serial line; Ctrl-] leaves it. Others may sit at it too; what it says is recorded.

    Example: `steelyard node console n1`, later `steelyard node console n1 --dump > boot.log`
    """
    if close:
        with connected() as client:
            client.ask(isolation.close_console(node))
    elif record:
        with connected() as client:
            client.ask(isolation.open_console(node))
    elif dump_it:
        with connected() as client:
            dump(client, node)
    else:
        interact(node)


@app.command()
def maintenance(node: NodeName, *, why: Why, as_json: AsJson = False) -> None:
    """Take a free or rejected node out of what can be allocated (provider). `node release` leads back.

    Example: `steelyard node maintenance n1 --why "new memory"`
    """
    with connected() as client:
        show_thing(client.ask(isolation.keep_for_maintenance(node, why)), as_json=as_json)


@app.command()
def reject(node: NodeName, *, why: Why, as_json: AsJson = False) -> None:
    """Put a node that is nobody's among those to be repaired (provider).

    Example: `steelyard node reject n1 --why "firmware of unknown origin"`
    """
    with connected() as client:
        show_thing(client.ask(isolation.reject_node(node, why)), as_json=as_json)


@app.command()
def holds(node: NodeName, *, as_json: AsJson = False) -> None:
    """List what a release of a node waits for.

    Example: `steelyard node holds n1`
    """
    with connected() as client:
        columns = ("hold", "by", "since", "why")
        show_things(client.every(isolation.list_holds(node)), columns, _hold_row, as_json=as_json)


def _hold_row(hold: Hold) -> tuple[str, ...]:
    return hold.name, hold.placed_by, hold.placed_at.isoformat(timespec="seconds"), hold.why


@app.command()
def hold(
    node: NodeName,
    name: Annotated[str, typer.Argument(metavar="HOLD", help="A name for it.")],
    *,
    why: Why,
    as_json: AsJson = False,
) -> None:
    """Let a later release of a node wait: something of its project's is still with it.

    Example: `steelyard node hold n1 volume --why "its disk is exported"`
    """
    with connected() as client:
        show_thing(client.ask(isolation.place_hold(node, name, why)), as_json=as_json)


@app.command()
def lift(node: NodeName, name: Annotated[str, typer.Argument(metavar="HOLD", help="Its name.")]) -> None:
    """Take a hold off a node.

    Example: `steelyard node lift n1 volume`
    """
    with connected() as client:
        client.ask(isolation.lift_hold(node, name))


@app.command()
def register(
    node: NodeName,
    *,
    driver: Annotated[str | None, typer.Option(help="How its BMC is spoken to: ipmi, redfish.")] = None,
    address: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Where its BMC is, as the driver wants it.")
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option(help="File, yours alone: lines username=..., password=...")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="To be found by.")] = None,
    hardware: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="What it is: memory=256GiB")] = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="JSON file: endorsement_certificates (kind: PEM), endorsement_keys, references."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a node, or change what is registered: what is not given stays (provider).

    It begins in maintenance; `node release` makes it free.

    Example: `steelyard node register n1 --driver ipmi --address host=10.0.0.7 --credentials bmc.txt`
    """
    with connected() as client:
        now = _registered(client, node)
        if now is None and (driver is None or address is None or credentials is None):
            raise WrongUse("registering a node", expected="--driver, --address and --credentials", found="not all")
        before = Device("", {}) if now is None or now.bmc is None else now.bmc
        call = isolation.put_node(
            node,
            bmc=Device(driver or before.driver, before.address if address is None else pairs(address, "address")),
            credentials=read_credentials(credentials),
            labels=pairs(label, "label") if label is not None else now.labels if now else {},
            hardware=pairs(hardware, "hardware") if hardware is not None else now.hardware if now else {},
            identity=_identity(identity) if identity is not None else now.identity if now else Identity({}, (), ()),
            version=0 if now is None else now.version,
        )
        show_thing(client.ask(call), as_json=as_json)


def _registered(client: Client, node: str) -> Node | None:
    try:
        return client.ask(isolation.read_node(node))
    except NotFound:
        return None


def _identity(path: Path) -> Identity:
    doing = f"reading {path}"
    try:
        return decode(Identity, json.loads(read_file(path, IDENTITY_FILE_BYTES)), doing)
    except ValueError as cause:
        raise WrongUse(doing, expected="JSON", found="something else") from cause


@app.command()
def delete(node: NodeName) -> None:
    """Take a node that is nobody's out of the rack (provider).

    Example: `steelyard node delete n1`
    """
    with connected() as client:
        client.ask(isolation.delete_node(node))
