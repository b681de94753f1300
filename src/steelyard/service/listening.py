"""Brings what other processes woke to this one's waiters, by PostgreSQL's LISTEN.

With SQLite there is nothing to listen to: other processes' changes are found when a wait is over.
"""

import threading
from typing import Final

import psycopg
import structlog

from steelyard.service.database import CHANNEL, Database

LOOK_SECONDS: Final = 0.5
"""How soon it notices that it is to end."""
RETRY_SECONDS: Final = 1.0

_log = structlog.get_logger()


class Listener:
    """A thread with a connection of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin, where there is something to listen to."""
        if not self._database.embedded:
            self._thread.start()

    def stop(self) -> None:
        """End; return when it has."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self._listen()
            except psycopg.Error as failure:
                _log.warning("database.unheard", found=type(failure).__name__)
                self._end.wait(RETRY_SECONDS)

    def _listen(self) -> None:
        url = self._database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True, connect_timeout=5, tcp_user_timeout=20_000) as connection:
            connection.execute(f"LISTEN {CHANNEL}".encode())
            # What was called while nobody listened is lost.
            self._database.wakeups.ring_all()
            while not self._end.is_set():
                self._database.wakeups.ring([heard.payload for heard in connection.notifies(timeout=LOOK_SECONDS)])
