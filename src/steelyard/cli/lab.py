"""`steelyard lab`: the emulated rack from the command line."""

import json
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from steelyard.lab import control, rack
from steelyard.lab.namespace import inside
from steelyard.lab.plan import Firmware, Machines, NetworkBoot
from steelyard.lab.state import RackDirectory
from steelyard.model.errors import WrongUse
from steelyard.model.inventory import encode_inventory

LEAVE_KEY: Final = b"\x1d"
"""Ctrl-], as in telnet and virsh."""
DIRECTORY: Final = Path("/var/lib/steelyard/lab")

app = typer.Typer(
    add_completion=False,
    help="A rack of bare-metal machines on this computer: real firmware, TPMs, switch and BMCs.",
    no_args_is_help=True,
)

Directory = Annotated[Path, typer.Option("--dir", help="Where the rack lives.", envvar="STEELYARD_LAB_DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


class State(StrEnum):
    """Whether a fault is to be there."""

    ON = "on"
    OFF = "off"


def _rack(directory: Path) -> RackDirectory:
    return RackDirectory(directory.resolve())


def _say(words: str) -> None:
    Console(stderr=True).print(words, highlight=False)


@app.command()
def up(
    *,
    directory: Directory = DIRECTORY,
    machines: Annotated[Machines | None, typer.Option(help="Real firmware, or by the thousand.")] = None,
    nodes: Annotated[int | None, typer.Option(help="How many.", show_default="2")] = None,
    nics: Annotated[int | None, typer.Option(help="Network cards in each node.", show_default="1")] = None,
    memory: Annotated[int | None, typer.Option(help="MiB in each node.", show_default="512")] = None,
    firmware: Annotated[Firmware | None, typer.Option(show_default="ovmf")] = None,
    network_boot: Annotated[NetworkBoot | None, typer.Option(show_default="http")] = None,
    as_json: AsJson = False,
) -> None:
    """Build what is missing, start the rack, and print what it holds. All nodes are off, all ports shut."""
    wish = rack.ShapeWish(machines, nodes, nics, memory, firmware, network_boot)
    place = _rack(directory)
    inventory = rack.up(place, wish, _say)
    if as_json:
        typer.echo(encode_inventory(inventory))
        return
    table = Table("node", "BMC", "NIC", "switch port", box=None)
    for node in inventory.nodes:
        for nic in node.nics:
            table.add_row(node.name, node.bmc.address, nic.mac, nic.port)
    output = Console()
    output.print(table)
    output.print(f"BMC passwords and certificates: {place.inventory}", highlight=False, soft_wrap=True)
    output.print(f"namespace: {inventory.namespace}", highlight=False)


@app.command()
def down(*, directory: Directory = DIRECTORY) -> None:
    """End everything that `up` started, also after a crash. Disks, TPMs and passwords stay."""
    rack.down(_rack(directory), _say)


@app.command()
def status(*, directory: Directory = DIRECTORY, as_json: AsJson = False) -> None:
    """Say how each node is, and what is wrong on purpose."""
    found = rack.status(_rack(directory))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("node", "power", "BMC", "faults", box=None)
    for node in found["nodes"]:
        faults = [*node["faults"], *(f"bmc: {fault}" for fault in node["bmc_faults"])]
        table.add_row(node["name"], node["power"], node["bmc"], ", ".join(faults))
    table.add_row("switch", "on", "", ", ".join(found["switch"]["faults"]))
    Console().print(table)


@app.command()
def console(node: str, *, directory: Directory = DIRECTORY) -> None:
    """Sit at a node's serial line; Ctrl-] leaves it. Others may be at it as well."""
    files = _rack(directory).node(node)
    with socket.socket(socket.AF_UNIX) as wire:
        try:
            wire.connect(str(files.console_socket))
        except OSError as cause:
            raise WrongUse("opening a console", expected="a node of a rack that runs", found=node) from cause
        if not sys.stdin.isatty():
            _talk(wire, sys.stdin.fileno())
            return
        before = termios.tcgetattr(sys.stdin)
        tty.setraw(sys.stdin)
        try:
            _talk(wire, sys.stdin.fileno())
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _talk(wire: socket.socket, keyboard: int) -> None:
    """Pass keys and characters on until the leave key, the end of the keyboard's input, or the rack's end."""
    while True:
        ready, _, _ = select.select([wire.fileno(), keyboard], [], [])
        if wire.fileno() in ready:
            said = wire.recv(4096)
            if not said:
                return
            sys.stdout.buffer.write(said)
            sys.stdout.buffer.flush()
        if keyboard in ready:
            keys = os.read(keyboard, 4096)
            before, leave, _ = keys.partition(LEAVE_KEY)
            wire.sendall(before)
            if leave or not keys:
                return


@app.command()
def logs(
    part: Annotated[str | None, typer.Argument(help="A node, `switch`, or nothing: the supervisor.")] = None,
    *,
    directory: Directory = DIRECTORY,
) -> None:
    """Print what a part of the rack had to say: a node's console and programs, the switch, or the supervisor."""
    place = _rack(directory)
    match part:
        case None:
            files = [place.supervisor_log]
        case "switch":
            files = sorted(place.switch.glob("*.log"))
        case node:
            files = [place.node(node).log, place.node(node).console_record]
    present = [file for file in files if file.is_file()]
    if not present:
        raise WrongUse("reading logs", expected="a part of the rack that was started", found=str(part))
    for file in present:
        typer.echo(f"== {file}")
        typer.echo(file.read_text("utf-8", "replace"))


@app.command()
def fault(
    target: Annotated[str, typer.Argument(help="NODE, NODE/bmc, or switch.")],
    name: Annotated[str, typer.Argument(metavar="FAULT", help="As in docs/lab.md; another name lists them.")],
    state: Annotated[State, typer.Argument()] = State.ON,
    *,
    image: Annotated[Path | None, typer.Option(help="The EFI application of the fault other-image.")] = None,
    directory: Directory = DIRECTORY,
) -> None:
    """Make a part of the rack fail, or work again."""
    where = None if image is None else str(image.resolve())
    _ask(directory, "fault", target=target, fault=name, state=state, image=where)


@app.command("restart-switch")
def restart_switch(*, directory: Directory = DIRECTORY) -> None:
    """Cut the switch's power and give it back."""
    _ask(directory, "restart")


@app.command()
def service(
    vlan: int,
    address: Annotated[str, typer.Argument(help="With its prefix: 10.0.0.1/24.")],
    *,
    directory: Directory = DIRECTORY,
) -> None:
    """Give the services' side an address on a VLAN, in the rack's namespace."""
    _ask(directory, "leg", vlan=vlan, address=address)


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def execute(command: list[str], *, directory: Directory = DIRECTORY) -> None:
    """Run a command in the rack's network namespace, where its BMCs and services are."""
    place = _rack(directory)
    if place.read_running() is None:
        raise WrongUse("running a command in the rack", expected="a rack that runs", found=f"none in {place.root}")
    line = inside(place.namespace, command)
    os.execvp(line[0], line)  # noqa: S606  what the caller asked for, with the caller's rights


def _ask(directory: Path, verb: str, **arguments: object) -> Mapping[str, Any]:
    return control.ask(_rack(directory).control_socket, verb, **arguments)
