"""`steelyard enclave`: machines from the free pool into a tenant's wall, and back."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from steelyard.cli.files import read_file
from steelyard.cli.output import show_bad, show_good, show_json, show_lines, show_table
from steelyard.cli.service import AsJson, completing, connected, own_project, place_of, show_thing, show_things
from steelyard.client import enclave
from steelyard.client.call import Call
from steelyard.client.codec import encode
from steelyard.client.connection import Client
from steelyard.client.enclave_objects import Enclave, Place
from steelyard.enclave.file import parse_file, schema
from steelyard.model.errors import MalformedEnclave, NotEnough, NotPassed
from steelyard.model.limits import ENCLAVE_FILE_BYTES
from steelyard.model.text import printable

LOOK_SECONDS: Final = 1
"""How often progress is asked for while somebody watches."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Enclaves: your machines behind your wall.")

File = Annotated[Path, typer.Option("--file", "-f", metavar="FILE", help="The enclave file, YAML or JSON.")]
Project = Annotated[str | None, typer.Option(help="Whose; your only project, if you are in just one.")]
Name = Annotated[
    str,
    typer.Argument(
        metavar="[PROJECT/]NAME",
        help="The enclave.",
        autocompletion=completing(enclave.list_enclaves, lambda each: f"{each.project}/{each.name}"),
    ),
]
PlaceId = Annotated[str | None, typer.Option("--place", metavar="ID", help="Only this place.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once; `steelyard enclave show` tells how it goes.")]


def _read(path: Path) -> tuple[str, str]:
    """Return the text of a file, and the enclave that it is of. Raises WrongUse, TooLarge, MalformedEnclave."""
    data = read_file(path, ENCLAVE_FILE_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as cause:
        raise MalformedEnclave(f"reading {path}", expected="UTF-8", found="something else") from cause
    spec, _document = parse_file(text)
    return text, spec.name


@app.command()
def apply(file: File, *, project: Project = None, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Have an enclave be as its file says: again after a failure, with more machines or fewer, with another image.

    Example: `steelyard enclave apply -f enclave.yaml`
    """
    text, name = _read(file)
    with connected() as client:
        owner = own_project(client, project)
        _begin(client, enclave.apply(owner, name, text), no_wait=no_wait, as_json=as_json)


@app.command()
def plan(file: File, *, project: Project = None, as_json: AsJson = False) -> None:
    """Show what applying a file would change, and change nothing.

    Example: `steelyard enclave plan -f enclave.yaml`
    """
    text, name = _read(file)
    with connected() as client:
        show_thing(client.ask(enclave.plan(own_project(client, project), name, text)), as_json=as_json)


@app.command()
def show(
    name: Name,
    *,
    project: Project = None,
    receipts: Annotated[bool, typer.Option("--receipts", help="Those that are over, with their receipts.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until nothing is under way.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show an enclave's machines: how far each is, since when and why.

    Example: `steelyard enclave show lab`
    """
    with connected() as client:
        owner, short = place_of(client, name, project)
        if watch:
            _follow(client, client.ask(enclave.read(owner, short)))
        found = client.ask(enclave.read(owner, short))
        _show(found, list(client.every(enclave.list_places(owner, short, over=receipts))), as_json=as_json)


@app.command("list")
def list_enclaves(
    *, project: Annotated[str | None, typer.Option(help="Only this project's.")] = None, as_json: AsJson = False
) -> None:
    """List enclaves.

    Example: `steelyard enclave list`
    """
    with connected() as client:
        columns = ("enclave", "trust", "wanted", "states", "settled")
        show_things(client.every(enclave.list_enclaves(project=project)), columns, _enclave_row, as_json=as_json)


@app.command()
def delete(name: Name, *, project: Project = None, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Give every machine of an enclave back, and print a receipt for each.

    Example: `steelyard enclave delete lab`
    """
    with connected() as client:
        owner, short = place_of(client, name, project)
        _begin(client, enclave.delete(owner, short), no_wait=no_wait, as_json=as_json, receipts=True)


@app.command()
def cancel(
    name: Name, *, place: PlaceId = None, project: Project = None, no_wait: NoWait = False, as_json: AsJson = False
) -> None:
    """Give up what is on its way, and give those machines back; that many fewer are wanted from now on.

    Example: `steelyard enclave cancel lab`
    """
    with connected() as client:
        owner, short = place_of(client, name, project)
        _begin(client, enclave.cancel(owner, short, place=place), no_wait=no_wait, as_json=as_json)


@app.command()
def retry(
    name: Name, *, place: PlaceId = None, project: Project = None, no_wait: NoWait = False, as_json: AsJson = False
) -> None:
    """Give machines that are held back, and try others; try again what was given up.

    Example: `steelyard enclave retry lab`
    """
    with connected() as client:
        owner, short = place_of(client, name, project)
        _begin(client, enclave.retry(owner, short, place=place), no_wait=no_wait, as_json=as_json)


@app.command("schema")
def show_schema() -> None:
    """Print the JSON schema of an enclave file.

    Example: `steelyard enclave schema`
    """
    show_json(schema())


# -- following ---------------------------------------------------------------------------------------------------------


def _begin(client: Client, call: Call[Enclave], *, no_wait: bool, as_json: bool, receipts: bool = False) -> None:
    begun = client.ask(call)
    if not no_wait:
        begun = _follow(client, begun)
    places = list(client.every(enclave.list_places(begun.project, begun.name, over=receipts)))
    _show(begun, places, as_json=as_json)
    if not no_wait and begun.settled and (begun.short or begun.states.get("held")):
        doing = f"bringing enclave {begun.project}/{begun.name} up"
        found = ", ".join(f"{count} {state}" for state, count in begun.states.items()) or "none"
        kind = NotPassed if begun.states.get("held") else NotEnough
        raise kind(doing, expected=f"{begun.count} machines that run", found=found)


def _follow(client: Client, begun: Enclave) -> Enclave:
    """Return the enclave when nothing is under way any more; show how it goes on standard error meanwhile."""
    console = Console(stderr=True, highlight=False, markup=False)
    last: dict[str, str] = {}
    with Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else _Lines(console) as live:
        while not begun.settled:
            places = list(client.every(enclave.list_places(begun.project, begun.name)))
            if isinstance(live, Live):
                live.update(_bars(places), refresh=True)
            else:
                live.tell(places, last)
            begun = client.ask(enclave.read(begun.project, begun.name, wait_seconds=LOOK_SECONDS))
    return begun


class _Lines:
    """Says where there is no terminal what changes, a line for each."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, places: Iterable[Place], last: dict[str, str]) -> None:
        for place in places:
            words = f"{place.number} {place.node or '-'}: {place.state}"
            if last.get(place.id) != words:
                last[place.id] = words
                self._console.print(printable(f"{words}, {place.why}"), soft_wrap=True)

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _bars(places: Sequence[Place]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "node", "state", "", "for", ""):
        table.add_column(column)
    for place in sorted(places, key=lambda each: each.number):
        seconds = max(0, int(time.time() - place.since.timestamp()))
        bar = ProgressBar(total=100, completed=place.percent, width=20)
        words = Text(printable(_telling(place), 60))
        table.add_row(str(place.number), place.node or "-", place.state, bar, f"{seconds} s", words)
    return table


def _show(found: Enclave, places: Sequence[Place], *, as_json: bool) -> None:
    if as_json:
        show_json({"enclave": encode(found), "places": [_document(place) for place in places]})
        return
    rows = [_row(place) for place in sorted(places, key=lambda each: (each.number, each.id))]
    if rows:
        show_table(("", "node", "state", "since", "why"), rows)
    line = f"{found.project}/{found.name}: " + (
        ", ".join(f"{count} {state}" for state, count in found.states.items()) or "no machines"
    )
    if found.gone:
        show_good(f"{line}; deleted")
    elif found.settled and not found.short and not found.states.get("held"):
        show_good(line)
    elif found.settled:
        show_bad(f"{line}; {found.short} short of {found.count}; `steelyard enclave retry {found.name}` tries again")
    else:
        show_lines(line)


def _document(place: Place) -> dict[str, object]:
    said = {name: encode(getattr(place, name)) for name in Place.__dataclass_fields__ if name != "receipt"}
    return {**said, "receipt": None if place.receipt is None else dict(place.receipt)}


def _row(place: Place) -> Sequence[str]:
    receipt = place.receipt
    why = place.why if receipt is None else ", ".join(f"{name}: {value}" for name, value in receipt.items() if value)
    since = place.since.isoformat(timespec="seconds")
    return str(place.number), place.node or "-", place.state, since, _telling(place) if receipt is None else why


def _telling(place: Place) -> str:
    """Return what is to be known of a place now: what is done about it, or why nothing is."""
    return place.why if place.state == "held" else place.words or place.why


def _enclave_row(found: Enclave) -> Sequence[str]:
    states = ", ".join(f"{count} {state}" for state, count in found.states.items()) or "none"
    return f"{found.project}/{found.name}", found.trust, str(found.count), states, "yes" if found.settled else "no"
