"""What the commands that speak to a service share: the way there, what they take and show, how they wait."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from steelyard.cli.output import show_error, show_json, show_lines, show_table
from steelyard.client import accounts, isolation
from steelyard.client.call import Call, Page
from steelyard.client.codec import encode
from steelyard.client.connection import Client, Service
from steelyard.client.imaging_objects import ImagingOperation
from steelyard.client.objects import Attachment
from steelyard.client.operations import AnyWork, Work, must_be_done
from steelyard.client.settings import read_private_file, read_settings, read_token
from steelyard.model.errors import SteelyardError, WrongUse
from steelyard.model.limits import CREDENTIALS_FILE_BYTES
from steelyard.model.secret import Secret
from steelyard.model.text import printable

T = TypeVar("T")

LOOK_SECONDS: Final = 2
"""How often progress is asked for while somebody watches; the end is told at once."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once; `steelyard operation wait ID` goes on.")]
Seconds = Annotated[
    int, typer.Option("--seconds", metavar="N", help="How long it may take before it counts as failed.")
]


def chosen_service() -> Service:
    """Return the service that the user signed in to, and the user's token. Raises WrongUse."""
    settings = read_settings(os.environ)
    return Service(settings.url, settings.ca, read_token(settings.token_file))


@contextmanager
def connected() -> Iterator[Client]:
    """Give that service. Raises WrongUse."""
    with Client(chosen_service()) as client:
        yield client


def _name(thing: Any) -> str:
    return str(getattr(thing, "name", "") or thing.id)


def completing(
    list_all: Callable[[], Call[Page[Any]]], name: Callable[[Any], str] = _name
) -> Callable[[str], list[str]]:
    """Return what completes names in a shell by asking the service; nothing where that does not work."""

    def complete(incomplete: str) -> list[str]:
        try:
            with connected() as client:
                names = map(name, client.every(list_all()))
                return [name for name in names if name.startswith(incomplete)]
        except SteelyardError:
            return []

    return complete


def own_project(client: Client, named: str | None) -> str:
    """Return the project that was named, or else the caller's only one. Raises WrongUse."""
    if named is not None:
        return named
    session = client.ask(accounts.read_session())
    projects = [session.project] if session.project is not None else sorted(session.roles)
    if len(projects) != 1:
        expected = "--project, or PROJECT/NAME, as you are not in just one project"
        raise WrongUse("choosing a project", expected=expected, found=", ".join(projects) or "none")
    return projects[0]


def place_of(client: Client, reference: str, project: str | None) -> tuple[str, str]:
    """Return the project and the name that [PROJECT/]NAME means. Raises WrongUse."""
    owner, slash, name = reference.rpartition("/")
    if slash and project not in (None, owner):
        raise WrongUse("choosing a project", expected=f"{owner}, as in {reference}, or none", found=f"{project}")
    return own_project(client, owner if slash else project), name


# -- what many commands take -------------------------------------------------------------------------------------------

NodeName = Annotated[
    str, typer.Argument(metavar="NODE", help="The node.", autocompletion=completing(isolation.list_nodes))
]
NodeNames = Annotated[
    list[str],
    typer.Argument(metavar="NODE...", help="The nodes, one or more.", autocompletion=completing(isolation.list_nodes)),
]
ProjectName = Annotated[
    str, typer.Argument(metavar="PROJECT", help="The project.", autocompletion=completing(isolation.list_projects))
]
NetworkName = Annotated[
    str, typer.Argument(metavar="NETWORK", help="The network.", autocompletion=completing(isolation.list_networks))
]
SwitchName = Annotated[
    str, typer.Argument(metavar="SWITCH", help="The switch.", autocompletion=completing(isolation.list_switches))
]


# -- showing -----------------------------------------------------------------------------------------------------------


def show_thing(thing: object, *, as_json: bool) -> None:
    """Print one thing: a line for each of its facts."""
    document = encode(thing)
    if not isinstance(document, dict):
        raise TypeError(type(thing).__name__)
    if as_json:
        show_json(document)
        return
    width = max(map(len, document))
    show_lines(*(f"{name.replace('_', ' '):{width}}  {in_words(value)}" for name, value in document.items()))


def show_things(
    things: Iterable[T], columns: Sequence[str], row: Callable[[T], Sequence[str | None]], *, as_json: bool
) -> None:
    """Print a list: a table with a row for each."""
    if as_json:
        show_json({"items": [encode(thing) for thing in things]})
        return
    show_table(columns, ([cell or "-" for cell in row(thing)] for thing in things))


def show_attachments(attachments: Iterable[Attachment], *, as_json: bool) -> None:
    """Print what is on which network."""
    columns = ("node", "nic", "network", "frames", "state", "since")
    show_things(attachments, columns, _attachment_row, as_json=as_json)


def _attachment_row(attachment: Attachment) -> Sequence[str | None]:
    state = "being taken off" if not attachment.wanted else "on" if attachment.applied_at else "being put on"
    frames = "tagged" if attachment.tagged else "untagged"
    since = attachment.since.isoformat(timespec="seconds")
    return attachment.node, attachment.nic, attachment.network, frames, state, since


def in_words(value: object) -> str:
    """Return a value of a document on one line."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={in_words(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(in_words(inner) for inner in value)
    first, *rest = str(value).splitlines()
    return f"{first} ... ({len(rest)} more lines: --json)" if rest else first


# -- reading -----------------------------------------------------------------------------------------------------------


def pairs(words: Iterable[str], what: str) -> dict[str, str]:
    """Return NAME=VALUE words as a mapping. Raises WrongUse."""
    mapping: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or name in mapping:
            raise WrongUse(f"reading a {what}", expected="NAME=VALUE, each name once", found=word)
        mapping[name] = value
    return mapping


def read_credentials(path: Path | None) -> dict[str, Secret] | None:
    """Return the credentials in a file: a line NAME=VALUE for each. None: no file was named. Raises WrongUse."""
    if path is None:
        return None
    text = read_private_file(path, CREDENTIALS_FILE_BYTES)
    mapping: dict[str, Secret] = {}
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        name, equals, value = line.partition("=")
        if not equals or not name or name in mapping:
            # Not shown: it may be a password.
            raise WrongUse(f"reading line {number} of {path}", expected="NAME=VALUE, each name once", found="another")
        mapping[name] = Secret(value.encode())
    return mapping


# -- operations --------------------------------------------------------------------------------------------------------


def run_operations(calls: Sequence[Call[AnyWork]], *, no_wait: bool, as_json: bool) -> None:
    """Begin operations, follow them to their ends, print what came of each. Raises what ended the first that failed."""
    with connected() as client:
        operations = [client.ask(call) for call in calls]
        if not no_wait:
            operations = follow(client, operations)
    show_operations(operations, as_json=as_json)
    if not no_wait:
        raise_failures(operations)


def follow(client: Client, operations: Sequence[AnyWork]) -> list[AnyWork]:
    """Return operations that are over, having shown how they went on: live on a terminal, as lines elsewhere."""
    ended = []
    with _Progress() as progress:
        for begun in operations:
            last = begun
            for seen in client.watch(begun, look_seconds=LOOK_SECONDS):
                progress.show(seen)
                last = seen
            ended.append(last)
    return ended


def show_operations(operations: Iterable[AnyWork], *, as_json: bool) -> None:
    """Print operations, a row for each."""
    columns = ("operation", "what", "on", "project", "state", "progress")
    show_things(operations, columns, _operation_row, as_json=as_json)


def raise_failures(operations: Sequence[Work]) -> None:
    """Raise what ended the first operation that was not done, having told of the others."""
    failures = []
    for operation in operations:
        try:
            must_be_done(operation)
        except SteelyardError as failure:
            failures.append(failure)
    for other in failures[1:]:
        show_error(other)
    if failures:
        raise failures[0]


def _operation_row(operation: Work) -> Sequence[str | None]:
    failure = operation.failure or {}
    progress = failure.get("found") or operation.progress
    return operation.id, operation.verb, operation.about, operation.project, operation.state, progress


class _Progress:
    """Says on standard error how an operation goes on, and nothing twice."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._status = Status("", console=self._console) if self._console.is_terminal else None
        self._last = ""

    def show(self, operation: Work) -> None:
        progress = f", {operation.progress}" if operation.progress else ""
        # Every percent is a line where nothing is written over.
        share = _share(operation, 1 if self._status is not None else 10)
        words = printable(f"{operation.verb} {operation.about}: {operation.state}{progress}{share}")
        if words == self._last:
            return
        self._last = words
        if self._status is None:
            self._console.print(words)
        else:
            self._status.update(Text(words))

    def __enter__(self) -> "_Progress":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def _share(operation: Work, step: int) -> str:
    """Return how much of the work is done, in steps of so many percent, where that can be said."""
    if not isinstance(operation, ImagingOperation) or not operation.total_bytes or operation.done_bytes is None:
        return ""
    return f" ({100 * operation.done_bytes // operation.total_bytes // step * step} %)"
