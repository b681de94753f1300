"""Webhooks to test with: a database whose clock the test sets, callers, and a receiver that is a real server."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from prometheus_client import CollectorRegistry

from steelyard.client.webhooks import TOLERANCE, Notice, verify_notice
from steelyard.model.secret import Secret
from steelyard.service import leases, webhooks
from steelyard.service.authority import Caller, Office, Right, Role
from steelyard.service.database import Database
from steelyard.service.delivering import Deliverer, Deliveries, Done
from steelyard.service.journal import Entry, read_entries, record
from steelyard.service.outbound import Outbound, verification
from steelyard.service.sealing import Sealer
from steelyard.service.webhooks import Filter, Webhook, WebhookSettings
from tests.fakes.receiver import Receiver, Sent

SEALER: Final = Sealer({b"key1": Secret(bytes(32))})
SETTINGS: Final = WebhookSettings(allow=("127.0.0.0/8",), seconds=10, tries=4, hours=24)
QUICK: Final = WebhookSettings(allow=("127.0.0.0/8",), seconds=1, tries=4, hours=24)
RIGHTS: Final = frozenset(Right)
PROVIDER: Final = Caller("pia", Office.PROVIDER, {}, RIGHTS)
ADMIN: Final = Caller("ann", None, {"red": Role.ADMIN}, RIGHTS)
MEMBER: Final = Caller("mel", None, {"red": Role.MEMBER}, RIGHTS)
STRANGER: Final = Caller("sam", None, {"blue": Role.ADMIN}, RIGHTS)
EVERYTHING: Final = Filter(("*",), ("*",))
START: Final = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


class Clock:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def make_deliverer(
    database: Database, settings: WebhookSettings = SETTINGS, registry: CollectorRegistry | None = None
) -> Deliverer:
    """Return what makes tries, as in a process of its own."""
    outbound = Outbound(settings.reach(), verification(settings.ca))
    return Deliverer(database, outbound, SEALER, settings, registry or CollectorRegistry())


@dataclass
class World:
    """The database, and verbs in words short enough for tests."""

    database: Database
    clock: Clock
    settings: WebhookSettings = SETTINGS
    secrets: dict[str, Secret] = field(default_factory=dict)

    def hook(
        self,
        receiver: Receiver | str,
        name: str = "alarms",
        *,
        project: str | None = "red",
        wanted: Filter = EVERYTHING,
        caller: Caller = PROVIDER,
    ) -> str:
        """Make a webhook; return its id."""
        url = receiver if isinstance(receiver, str) else f"http://127.0.0.1:{receiver.port}/hook"
        with self.database.writing() as tx:
            made, secret = webhooks.make_webhook(
                tx, caller, SEALER, self.settings, project=project, name=name, url=url, wanted=wanted
            )
        self.secrets[made.id] = secret
        return made.id

    def happen(self, subject: str, project: str | None = "red", verb: str = "node.moved") -> int:
        """Write an entry of the journal; return its number."""
        with self.database.writing() as tx:
            return record(tx, actor="ann", verb=verb, subject=subject, project=project, detail={"why": "a test"})

    def read(self, identifier: str) -> Webhook:
        with self.database.reading() as connection:
            return webhooks.load(connection, identifier)

    def letters(self, identifier: str) -> list[webhooks.DeadLetter]:
        with self.database.reading() as connection:
            return list(webhooks.read_letters(connection, PROVIDER, identifier, after=0, limit=100))

    def entries(self, verb: str) -> list[Entry]:
        """Return the journal's entries of a verb."""
        with self.database.reading() as connection:
            return [one for one in read_entries(connection, PROVIDER, after=0, limit=1000) if one.verb == verb]

    def redeliver(self, identifier: str, number: int) -> None:
        with self.database.writing() as tx:
            webhooks.redeliver(tx, PROVIDER, identifier, number)

    def work(self, identifier: str) -> Done:
        """Make one pass."""
        return make_deliverer(self.database, self.settings).work(identifier)

    def wait(self, identifier: str) -> timedelta:
        """Let the time come at which the receiver is tried again; return how long that took."""
        before, until = self.clock.now, self.read(identifier).not_before
        assert until is not None
        self.clock.now = until
        return until - before

    def verify(self, sent: Sent, identifier: str) -> Notice:
        """Return what a request tells, verified as a receiver does it, at once."""
        now = datetime.fromtimestamp(int(sent.headers["webhook-timestamp"]), UTC)
        return verify_notice(
            self.secrets[identifier], sent.headers, sent.body, now=now, tolerance=TOLERANCE, seen=frozenset()
        )

    def subjects(self, receiver: Receiver, identifier: str) -> list[str]:
        """Return what the receiver was told of, in the order in which it was."""
        return [self.verify(sent, identifier).event.subject for sent in list(receiver.sent)]


@contextmanager
def clocked(database: Database) -> Iterator[World]:
    """Give a world on this database, in which time goes when told."""
    clock = Clock()
    again = Database(database.url.render_as_string(hide_password=False), clock=clock)
    yield World(again, clock)
    again.close()


def make_deliveries(database: Database, settings: WebhookSettings = QUICK) -> Deliveries:
    """Return the threads, not begun."""
    return Deliveries(database, Outbound(settings.reach(), verification(None)), SEALER, settings, CollectorRegistry())


@contextmanager
def delivering(database: Database, settings: WebhookSettings = QUICK) -> Iterator[None]:
    """Deliver within."""
    deliveries = make_deliveries(database, settings)
    deliveries.start()
    try:
        yield
    finally:
        deliveries.stop()


def start_process(database: Database) -> "subprocess.Popen[str]":
    """Start a process that delivers until its input ends; return when it has begun."""
    url = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.unit.service.hooks", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def main(url: str) -> None:
    """Be a process that delivers, the only one on its database if that is SQLite."""
    database = Database(url)
    if database.embedded:
        with database.writing() as tx:
            leases.end_all(tx)
    deliveries = make_deliveries(database)
    deliveries.start()
    print("begun", flush=True)  # noqa: T201
    sys.stdin.read()
    deliveries.stop()
    database.close()


if __name__ == "__main__":
    main(sys.argv[1])
