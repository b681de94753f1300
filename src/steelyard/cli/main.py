"""`steelyard`: the command and its exit codes."""

import io
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Annotated, Final

import typer
from typer.core import TyperCommand, TyperGroup

from steelyard.cli.output import error_document, show_error, show_json, show_lines
from steelyard.model.errors import SteelyardError, WrongUse


@dataclass(frozen=True, slots=True)
class Part:
    """A command, or a group of them: which module's `app` it is, under what heading it is listed, and as what."""

    module: str
    panel: str
    help: str


MACHINES: Final = "Machines and networks"
DISKS: Final = "Images and what machines boot"
WHO: Final = "Who may"
SERVICE: Final = "The service"
EVIDENCE: Final = "Weighing"
LAB: Final = "Trying it out"

PARTS: Final[Mapping[str, Part]] = {
    "node": Part("node", MACHINES, "Take machines, switch them on, put them on networks, give them back."),
    "nic": Part("nic", MACHINES, "The machines' network cards, and where their cables end."),
    "network": Part("network", MACHINES, "Make networks and share them."),
    "switch": Part("switch", MACHINES, "Switches and what their ports carry."),
    "operation": Part("operation", MACHINES, "Follow, await and cancel what takes its time."),
    "inventory": Part("inventory", MACHINES, "Register a whole rack from a file."),
    "enclave": Part("enclave", MACHINES, "Machines from the free pool into your wall, weighed, and back."),
    "image": Part("image", DISKS, "Golden images: import, share, export."),
    "volume": Part("volume", DISKS, "Disks for nodes, made of images in no time."),
    "boot": Part("boot", DISKS, "Say what a node boots over the network."),
    "storage": Part("storage", DISKS, "Room for images and volumes, and what imaging is at."),
    "login": Part("login", WHO, "Say where the service is and where your token lies."),
    "project": Part("project", WHO, "Tenants, their quotas and members."),
    "account": Part("account", WHO, "Users and service accounts."),
    "token": Part("token", WHO, "Make and revoke tokens."),
    "audit": Part("audit", WHO, "Who did what; check that nothing was altered."),
    "webhook": Part("webhook", WHO, "Have a URL told of what happens, signed."),
    "init": Part("init", SERVICE, "Make what a first start of the services needs."),
    "serve": Part("serve", SERVICE, "Run the services, or one of them."),
    "attest": Part("attest", EVIDENCE, "Weigh nodes: what each is, why, by what it is judged."),
    "airlock": Part("airlock", EVIDENCE, "Build the small system that a node runs while it is weighed."),
    "evidence": Part("evidence", EVIDENCE, "Check what a machine says of itself."),
    "reference": Part("reference", EVIDENCE, "Say what a machine should be: signed reference values."),
    "lab": Part("lab", LAB, "A rack of bare-metal machines on this computer: real firmware, TPMs, switch and BMCs."),
}


class Parts(TyperGroup):
    """The commands, each imported only when it is wanted: to show a log does not load a web client."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002 (the name is typer's)
        """Return their names, in the order to show them."""
        return list(PARTS)

    def get_command(self, ctx: object, cmd_name: str) -> TyperGroup | None:  # noqa: ARG002 (the name is typer's)
        """Return what stands for a command in lists of them."""
        part = PARTS.get(cmd_name)
        return None if part is None else TyperGroup(name=cmd_name, help=part.help, rich_help_panel=part.panel)

    def resolve_command(  # type: ignore[override]  # typer has no public name for the contexts that it gives
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, TyperCommand | TyperGroup, list[str]]:
        """Return the command that is to be run, imported."""
        self.commands = {name: TyperGroup(name=name) for name in PARTS}  # for its "Did you mean"
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(args[0]), rest


def load(name: str) -> TyperCommand | TyperGroup:
    """Return a command as its module makes it."""
    app: typer.Typer = import_module(f"steelyard.cli.{PARTS[name].module}").app
    command = typer.main.get_command(app)
    if not isinstance(command, TyperCommand | TyperGroup):
        raise TypeError(name)
    return command


app = typer.Typer(
    name="steelyard",
    cls=Parts,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Weigh bare-metal machines before you trust them, and keep each tenant's machines apart.\n\n"
        "Exit codes: 0 good, 2 wrong use, 3 malformed input, 4 evidence rejected, 5 not ready to start,\n"
        "6 failed or not reached, 7 refused by the service, 8 a device failed."
    ),
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 (typer calls it so)
    if wanted:
        show_lines(f"steelyard {metadata.version('steelyard')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command line; the one place where an error becomes an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of letters that the terminal's encoding does not have
    try:
        app()
    except SteelyardError as error:
        show_error(error)
        if "--json" in sys.argv:
            with suppress(WrongUse):
                show_json(error_document(error))
        sys.exit(error.exit_code)
