"""The journal: every change, in order, who made it, and a chain of hashes that shows if one was altered or taken out.

It is the audit log and the event stream in one: what is not written here did not happen, and who follows it misses
nothing. A reader who may not see an entry is given its digest, so that everyone can check the whole chain; the salt in
each entry keeps the digest from telling what is in it.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, MetaData, String, Table, insert, select

from steelyard.service.columns import UtcTime
from steelyard.service.database import Transaction

Detail = Mapping[str, str | int | bool | list[str] | None]

TOPIC: Final = "journal"
START: Final = bytes(32)
"""What the first entry is chained to."""
SALT_BYTES: Final = 16

metadata: Final = MetaData()
journal: Final = Table(
    "journal",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("actor", String, nullable=False),
    Column("verb", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("project", String),
    Column("detail", JSON, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    Index("ix_journal_project", "project", "number"),
    Index("ix_journal_subject", "subject", "number"),
)


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

    def digest(self) -> bytes:
        """Return the SHA-256 of the entry's one form: JSON, keys sorted, no spaces, ASCII."""
        form = {
            "actor": self.actor,
            "at": self.at.isoformat(timespec="microseconds"),
            "detail": self.detail,
            "number": self.number,
            "project": self.project,
            "salt": self.salt.hex(),
            "subject": self.subject,
            "verb": self.verb,
        }
        return hashlib.sha256(json.dumps(form, sort_keys=True, separators=(",", ":")).encode("ascii")).digest()


def chained(before: bytes, digest: bytes) -> bytes:
    """Return the chain's value after an entry: SHA-256 of the value before it and the entry's digest."""
    return hashlib.sha256(before + digest).digest()


def record(
    transaction: Transaction, *, actor: str, verb: str, subject: str, project: str | None, detail: Detail
) -> int:
    """Write an entry, as part of the transaction that makes the change; return its number."""
    last = transaction.connection.execute(
        select(journal.c.number, journal.c.chain).order_by(journal.c.number.desc()).limit(1)
    ).one_or_none()
    number, before = (last.number, last.chain) if last is not None else (0, START)
    entry = Entry(number + 1, transaction.now, actor, verb, subject, project, detail, secrets.token_bytes(SALT_BYTES))
    digest = entry.digest()
    transaction.connection.execute(
        insert(journal).values(
            number=entry.number,
            at=entry.at,
            actor=actor,
            verb=verb,
            subject=subject,
            project=project,
            detail=dict(detail),
            salt=entry.salt,
            digest=digest,
            chain=chained(before, digest),
        )
    )
    transaction.wake(TOPIC)
    return entry.number
