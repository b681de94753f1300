"""The database: SQLite in a file, or PostgreSQL; the same tables and the same rule on both.

The rule: one writer at a time. A write transaction holds the database's one write lock from its first statement, so
that whatever it reads stays true until it commits: to check and then to act is safe, and the journal has one order
(docs/decisions/0030). Nobody talks to a device while holding it.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from steelyard.model.errors import Unavailable
from steelyard.service.wakeups import Wakeups

WRITE_LOCK: Final = 0x5374656C79617264
"""Number of PostgreSQL's advisory lock of the one writer: "Stelyard"."""
CHANNEL: Final = "steelyard"
"""PostgreSQL's name for where topics that were woken are told to other processes."""
LOCK_SECONDS: Final = 20
"""How long a writer waits for its turn; write transactions take milliseconds."""
READERS: Final = 32
"""How many can read at the same time in one process; more than it has threads that answer requests."""

# Whatever the server's own choice is: with a snapshot from before it had its turn, a writer would decide by what was.
_WRITING: Final = (
    rf"-c default_transaction_isolation=read\ committed -c lock_timeout={LOCK_SECONDS}s"
    f" -c idle_in_transaction_session_timeout={LOCK_SECONDS}s"
)
_READING: Final = r"-c default_transaction_read_only=on -c default_transaction_isolation=repeatable\ read"

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time, aware, UTC."""
    return datetime.now(UTC)


def local_seconds() -> float:
    """Return the seconds of this computer's life, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class Transaction:
    """A write transaction: the only way to change anything.

    now     when it began, by the clock that all processes share; every time that it writes is this one.
    began   the same moment or one before it, by this computer's own clock (`local_seconds`).
    topics  who is to be woken when it has been committed.
    """

    connection: Connection
    now: datetime
    began: float
    topics: set[str] = field(default_factory=set)

    def wake(self, topic: str) -> None:
        """Wake whoever waits for `topic`, in any process, once this is committed."""
        self.topics.add(topic)


class Database:
    """All of a service's memory. Threads and processes share it.

    clock  what tells the time of transactions; None: the clock that all processes on this database share, which is the
           computer's with SQLite, and the server's with PostgreSQL.
    """

    def __init__(self, url: str, *, clock: Clock | None = None, wakeups: Wakeups | None = None) -> None:
        self.url: URL = make_url(url)
        self.wakeups = wakeups if wakeups is not None else Wakeups()
        self._clock = clock
        self._turn = threading.Lock()
        self.engine, self._readers = (_open_sqlite if self.embedded else _open_postgresql)(self.url)

    @property
    def embedded(self) -> bool:
        """Whether it is SQLite, which processes of one computer alone can share."""
        return self.url.get_backend_name() == "sqlite"

    def clock(self) -> datetime:
        """Return about what the time is; what is decided by it is decided in a transaction, by its `now`."""
        return utc_now() if self._clock is None else self._clock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a view of one instant; nothing can be changed by it. Raises Unavailable."""
        with _available("reading the database"), self._readers.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Give the one write transaction; commit at the end, undo all of it on an error, then wake who waits.

        Raises Unavailable; if that comes of the commit, it may have been done: what is done again must be idempotent.
        """
        # Threads take turns here rather than in the database, where waiting means trying again and again.
        with self._turn, _available("writing to the database"), self.engine.begin() as connection:
            began = local_seconds()
            transaction = Transaction(connection, self._now(connection), began)
            yield transaction
            if transaction.topics and not self.embedded:
                connection.execute(
                    text("SELECT pg_notify(:channel, topic) FROM unnest(CAST(:topics AS text[])) AS topic"),
                    {"channel": CHANNEL, "topics": sorted(transaction.topics)},
                )
        self.wakeups.ring(transaction.topics)

    def close(self) -> None:
        """Give up the connections."""
        self.engine.dispose()
        self._readers.dispose()

    def _now(self, connection: Connection) -> datetime:
        if self._clock is not None or self.embedded:
            return self.clock()
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now.astimezone(UTC)


@contextmanager
def _available(doing: str) -> Iterator[None]:
    try:
        yield
    except NoConnectionLeft as cause:
        raise Unavailable(doing, expected="a free connection", found=f"none for {LOCK_SECONDS} s") from cause
    except (OperationalError, InterfaceError) as cause:
        if getattr(cause.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            raise  # a statement that is wrong: SQLite sorts these among the others
        # Its words are not told, as they may hold values of the statement.
        kind = type(cause.orig).__name__
        raise Unavailable(doing, expected="a database that answers", found=kind) from cause


def _open_sqlite(url: URL) -> tuple[Engine, Engine]:
    """Return the engine that writes and the one that reads."""
    engines = []
    # No BEGIN of the driver's own, as it would come late, and be another.
    for begin, settings, size in (
        ("BEGIN IMMEDIATE", ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"), 1),
        ("BEGIN", ("query_only=ON",), READERS),
    ):
        engine = create_engine(
            url,
            pool_size=size,
            max_overflow=0,
            pool_timeout=LOCK_SECONDS,
            connect_args={"timeout": LOCK_SECONDS, "check_same_thread": False, "isolation_level": None},
        )
        _on_connection(engine, settings)
        _on_begin(engine, begin)
        engines.append(engine)
    return engines[0], engines[1]


def _open_postgresql(url: URL) -> tuple[Engine, Engine]:
    """Return the engine that writes and the one that reads. Raises ValueError for another kind of database."""
    if url.get_backend_name() != "postgresql":
        raise ValueError(url.get_backend_name())
    engines = []
    for options, size in ((_WRITING, 1), (_READING, READERS)):
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=size,
            max_overflow=0,
            pool_timeout=LOCK_SECONDS,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": 5,
                "tcp_user_timeout": LOCK_SECONDS * 1000,
                "options": f"{options} -c timezone=UTC",
            },
        )
        engines.append(engine)
    _on_begin(engines[0], f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
    return engines[0], engines[1]


def _on_connection(engine: Engine, settings: tuple[str, ...]) -> None:
    def set_up(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        for setting in settings:
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    event.listen(engine, "connect", set_up)


def _on_begin(engine: Engine, statement: str) -> None:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    event.listen(engine, "begin", begin)
