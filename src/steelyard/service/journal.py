"""The journal: every change, in order, who made it, and a chain of hashes that shows if one was altered or taken out.

It is the audit log and the event stream in one: what is not written here did not happen, and who follows it misses
nothing (docs/decisions/0031). A reader who may not see an entry is given its digest, so that everyone can check the
whole chain; the salt in each entry keeps the digest from telling what is in it.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Row, bindparam, insert, select

from steelyard.model.errors import AuditRejected
from steelyard.service.authority import Caller
from steelyard.service.database import Transaction
from steelyard.service.tables import journal

Detail = Mapping[str, str | int | bool | list[str] | None]

TOPIC: Final = "journal"
START: Final = bytes(32)
"""What the first entry is chained to."""
SALT_BYTES: Final = 16

# Made once, as every change says these.
_HEAD: Final = select(journal.c.number, journal.c.chain).order_by(journal.c.number.desc()).limit(1)
_HEADINGS: Final = (
    select(journal.c.number, journal.c.project, journal.c.verb, journal.c.subject)
    .where(journal.c.number > bindparam("after"))
    .order_by(journal.c.number)
    .limit(bindparam("at_most"))
)
_INSERT: Final = insert(journal)


@dataclass(frozen=True, slots=True)
class Entry:
    """A change. `project` None: the provider's own affair. `subject` as "node/n1"."""

    number: int
    at: datetime
    actor: str
    verb: str
    subject: str
    project: str | None
    detail: Detail
    salt: bytes

    def form(self) -> dict[str, object]:
        """Return the entry as it is told, and hashed."""
        return {
            "actor": self.actor,
            "at": self.at.isoformat(timespec="microseconds"),
            "detail": self.detail,
            "number": self.number,
            "project": self.project,
            "salt": self.salt.hex(),
            "subject": self.subject,
            "verb": self.verb,
        }

    def digest(self) -> bytes:
        """Return the SHA-256 of the entry's one form: JSON, keys sorted, no spaces, ASCII."""
        return hashlib.sha256(json.dumps(self.form(), sort_keys=True, separators=(",", ":")).encode("ascii")).digest()


@dataclass(frozen=True, slots=True)
class Heading:
    """What an entry is about."""

    number: int
    project: str | None
    verb: str
    subject: str


@dataclass(frozen=True, slots=True)
class Head:
    """How far the journal is: its last entry's number, and the chain's value after it."""

    number: int
    chain: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """An entry's place in the chain; `entry` None: not for this reader's eyes."""

    number: int
    digest: bytes
    chain: bytes
    entry: Entry | None


NOTHING: Final = Head(0, START)
"""The head of an empty journal."""


def chained(before: bytes, digest: bytes) -> bytes:
    """Return the chain's value after an entry: SHA-256 of the value before it and the entry's digest."""
    return hashlib.sha256(before + digest).digest()


def check(links: Iterable[Link], head: Head) -> Head:
    """Return the head after these entries, which follow the given one. Raises AuditRejected.

    An entry is what its digest says, each digest is chained to what was before it, and no number is left out.
    """
    doing = "checking the journal"
    for link in links:
        if link.number != head.number + 1:
            raise AuditRejected(doing, expected=f"entry {head.number + 1}", found=f"entry {link.number}")
        if link.entry is not None and (link.entry.number != link.number or link.entry.digest() != link.digest):
            raise AuditRejected(doing, expected=f"entry {link.number} as it was written", found="another")
        head = Head(link.number, chained(head.chain, link.digest))
        if head.chain != link.chain:
            raise AuditRejected(
                doing, expected=f"chain {head.chain.hex()} after entry {link.number}", found=link.chain.hex()
            )
    return head


def read_head(connection: Connection) -> Head:
    """Return how far the journal is."""
    last = connection.execute(_HEAD).one_or_none()
    return NOTHING if last is None else Head(last.number, last.chain)


def read_links(connection: Connection, caller: Caller, *, after: int, limit: int) -> tuple[Link, ...]:
    """Return the chain after an entry, with those entries that the caller may see."""
    rows = connection.execute(select(journal).where(journal.c.number > after).order_by(journal.c.number).limit(limit))
    return tuple(
        Link(row.number, row.digest, row.chain, _entry(row) if caller.sees(row.project) else None) for row in rows
    )


def read_entries(
    connection: Connection, caller: Caller, *, after: int, limit: int, until: int | None = None
) -> tuple[Entry, ...]:
    """Return the entries after one (and up to another) that the caller may see, the oldest first."""
    wanted = select(journal).where(journal.c.number > after).order_by(journal.c.number).limit(limit)
    if until is not None:
        wanted = wanted.where(journal.c.number <= until)
    if not caller.sees_all():
        wanted = wanted.where(journal.c.project.in_([project for project in caller.roles if caller.sees(project)]))
    return tuple(map(_entry, connection.execute(wanted)))


def read_headings(connection: Connection, *, project: str | None, after: int, limit: int) -> tuple[Heading, ...]:
    """Return what the entries after one are about, the oldest first; those of a project, or (None) all."""
    wanted = _HEADINGS if project is None else _HEADINGS.where(journal.c.project == project)
    rows = connection.execute(wanted, {"after": after, "at_most": limit})
    return tuple(Heading(row.number, row.project, row.verb, row.subject) for row in rows)


def read_entry(connection: Connection, number: int) -> Entry:
    """Return an entry that there is."""
    return _entry(connection.execute(select(journal).where(journal.c.number == number)).one())


def read_origin(connection: Connection) -> str:
    """Return the name of this journal, a URN: no other has its first entry, for that entry's salt."""
    first = connection.execute(select(journal.c.digest).where(journal.c.number == 1)).scalar_one()
    return f"urn:steelyard:journal:{first.hex()[:32]}"


def record(
    transaction: Transaction, *, actor: str, verb: str, subject: str, project: str | None, detail: Detail
) -> int:
    """Write an entry, as part of the transaction that makes the change; return its number."""
    head = read_head(transaction.connection)
    salt = secrets.token_bytes(SALT_BYTES)
    entry = Entry(head.number + 1, transaction.now, actor, verb, subject, project, detail, salt)
    digest = entry.digest()
    transaction.connection.execute(
        _INSERT,
        {
            "number": entry.number,
            "at": entry.at,
            "actor": actor,
            "verb": verb,
            "subject": subject,
            "project": project,
            "detail": dict(detail),
            "salt": salt,
            "digest": digest,
            "chain": chained(head.chain, digest),
        },
    )
    transaction.wake(TOPIC)
    return entry.number


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    return Entry(row.number, row.at, row.actor, row.verb, row.subject, row.project, row.detail, row.salt)
