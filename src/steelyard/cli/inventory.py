"""`steelyard inventory`: a whole rack at once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli.service import AsJson, connected, show_things
from steelyard.client import isolation
from steelyard.client.objects import Node
from steelyard.client.settings import read_private_file
from steelyard.model.errors import WrongUse
from steelyard.model.limits import INVENTORY_BYTES

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Register a whole rack from a file (provider).")


@app.callback()
def _group() -> None:
    pass


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="What `steelyard lab up` wrote. Passwords are in it: yours alone.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Register everything in a rack's inventory, all or nothing: switch, ports, nodes, NICs.

    Twice is as good as once. The nodes begin in maintenance: `steelyard node release` makes them free.

    Example: `steelyard inventory import /var/lib/steelyard/lab/inventory.json`
    """
    try:
        document = json.loads(read_private_file(file, INVENTORY_BYTES))
    except (ValueError, RecursionError) as cause:
        raise WrongUse(f"reading {file}", expected="JSON", found="something else") from cause
    with connected() as client:
        nodes = client.ask(isolation.import_inventory(document)).nodes
    show_things(nodes, ("node", "state", "NICs"), _row, as_json=as_json)


def _row(node: Node) -> tuple[str, ...]:
    return node.name, node.state, ", ".join(nic.name for nic in node.nics)
