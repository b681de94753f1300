"""`steelyard audit`: who did what."""

import json
import os
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from steelyard.cli.output import show_good, show_json, show_lines
from steelyard.cli.service import AsJson, connected, show_things
from steelyard.client import isolation
from steelyard.client.audit import START, Chain
from steelyard.client.codec import decode, encode
from steelyard.client.objects import AuditEntry, AuditHead, Event
from steelyard.client.settings import read_own_file, state_path, write_own_file
from steelyard.model.errors import MalformedAnswer, WrongUse

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="The audit log: every change, who made it, and a chain that shows if one was altered or taken out.",
)

PAGE: Final = 1000


@app.command("list")
def list_entries(
    *,
    after: Annotated[int, typer.Option(metavar="N", help="Only entries after this one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """List what was done, the oldest first; others' affairs are only counted.

    Example: `steelyard audit list --after 4000`
    """
    with connected() as client:
        entries = client.every(isolation.list_audit(after=after, limit=PAGE))
        columns = ("entry", "when", "who", "what", "on", "project", "detail")
        show_things(entries, columns, _row, as_json=as_json)


def _row(entry: AuditEntry) -> tuple[str | None, ...]:
    seen: Mapping[str, object] = entry.entry or {}
    words = tuple(_word(seen.get(name)) for name in ("at", "actor", "verb", "subject", "project"))
    return str(entry.number), *words, _word(seen.get("detail") or None)


def _word(value: object) -> str | None:
    return value if isinstance(value, str | None) else json.dumps(value)


@app.command()
def check(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Only what is new since the last check.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that nothing in the log was altered, and that nothing is missing that was there at the last check.

    Every link is computed here, the service is not believed. Where the log ends is kept in
    ~/.local/state/steelyard/audit.json: keep that file, it is what a provider who cuts the log short is caught by.

    Example: `steelyard audit check`
    """
    remembered = _read_heads()
    with connected() as client:
        url = client.service.url
        before = remembered.get(url, START)
        chain = Chain(before if quick else START, (before, client.ask(isolation.read_audit_head())))
        for entry in client.every(isolation.list_audit(after=chain.head.number, limit=PAGE)):
            chain.follow(entry)
        chain.must_be_whole()
    _write_heads({**remembered, url: chain.head})
    if as_json:
        show_json({"number": chain.head.number, "chain": chain.head.chain})
        return
    show_good(f"{chain.head.number} entries, none altered; {before.number} of them were there at the last check")
    show_lines(f"chain {chain.head.chain}")


@app.command()
def follow(
    *,
    after: Annotated[int | None, typer.Option(metavar="N", help="From this entry on; without it, from now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on each line.")] = False,
) -> None:
    """Print what happens, as it happens, until interrupted.

    Example: `steelyard audit follow`
    """
    with connected() as client, client.events(after) as events:
        for event in events:
            show_lines(json.dumps(encode(event)) if as_json else _line(event))


def _line(event: Event) -> str:
    detail = f" {json.dumps(event.detail)}" if event.detail else ""
    return f"{event.number} {event.at.isoformat(timespec='seconds')} {event.actor} {event.verb} {event.subject}{detail}"


def _read_heads() -> dict[str, AuditHead]:
    """Return where the logs ended at the last check, by the service's URL. Raises WrongUse."""
    path = state_path(os.environ)
    data = read_own_file(path)
    if data is None:
        return {}
    try:
        return {url: decode(AuditHead, head, f"reading {path}") for url, head in json.loads(data).items()}
    except (ValueError, AttributeError, MalformedAnswer) as cause:
        raise WrongUse(f"reading {path}", expected="what the last check wrote", found=str(cause)) from cause


def _write_heads(heads: Mapping[str, AuditHead]) -> None:
    document = {url: encode(head) for url, head in heads.items()}
    write_own_file(state_path(os.environ), json.dumps(document, indent=2).encode())
