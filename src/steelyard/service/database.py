"""The database: SQLite in a file, or PostgreSQL; the same tables and the same rule on both.

The rule: one writer at a time. A write transaction holds the database's one write lock from its first statement, so
that whatever it reads stays true until it commits: to check and then to act is safe, and the journal has one order
(docs/decisions/0030). Nobody talks to a device while holding it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection

from steelyard.service.wakeups import Wakeups

WRITE_LOCK: Final = 0x5374656C79617264
"""Number of PostgreSQL's advisory lock of the one writer: "Stelyard"."""
LOCK_SECONDS: Final = 20
"""How long a writer waits for its turn; write transactions take milliseconds."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time, aware, UTC."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Transaction:
    """A write transaction: the only way to change anything.

    now     when it began; every time that it writes is this one.
    topics  who is to be woken when it has been committed.
    """

    connection: Connection
    now: datetime
    topics: set[str] = field(default_factory=set)

    def wake(self, topic: str) -> None:
        """Wake whoever waits for `topic`, in any process, once this is committed."""
        self.topics.add(topic)


class Database:
    """All of a service's memory. Threads and processes share it."""

    def __init__(self, url: str, *, clock: Clock = utc_now, wakeups: Wakeups | None = None) -> None:
        self.url: URL = make_url(url)
        self.clock = clock
        self.wakeups = wakeups if wakeups is not None else Wakeups()
        self._turn = threading.Lock()
        self.engine = _engine(self.url)

    @property
    def embedded(self) -> bool:
        """Whether it is SQLite, which processes of one computer alone can share."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a view of one instant; nothing can be changed by it."""
        with self.engine.connect() as connection:
            if not self.embedded:
                connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Give the one write transaction; commit at the end, undo all of it on an error, then wake who waits."""
        with self._turn, self.engine.connect() as connection:
            # Threads take turns here rather than in the database, where waiting means trying again and again.
            if self.embedded:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": WRITE_LOCK})
            transaction = Transaction(connection, self.clock())
            yield transaction
            if not self.embedded:
                for topic in sorted(transaction.topics):
                    connection.execute(text("SELECT pg_notify('steelyard', :topic)"), {"topic": topic})
            connection.commit()
        self.wakeups.ring(transaction.topics)

    def close(self) -> None:
        """Give up the connections."""
        self.engine.dispose()


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False})
        event.listen(engine, "connect", _set_up_sqlite)
        return engine
    if url.get_backend_name() == "postgresql":
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=16,
            max_overflow=16,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5, "options": f"-c lock_timeout={LOCK_SECONDS}s -c timezone=UTC"},
        )
    raise ValueError(url.get_backend_name())


def _set_up_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # No BEGIN of the driver's own: `writing` says when, and how.
    connection.isolation_level = None
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()
