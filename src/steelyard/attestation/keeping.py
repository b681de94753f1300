"""What comes by itself: passes lapse, silence fails, what was kept long enough goes. Any process does it, any may die.

Nothing rests on its being done in time: a pass that has expired is shown as none, written so or not (`rules`).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Column, delete, select

from steelyard.attestation import archive, store, verdicts
from steelyard.attestation.life import Event, State
from steelyard.attestation.objects import Node
from steelyard.attestation.tables import nodes, registrations
from steelyard.service.database import Database, Transaction

AT_ONCE: Final = 200
"""How much is done in one transaction, so that others have their turn."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Retention:
    """How long appraisals are kept, and how often is looked for what is older."""

    kept: timedelta
    every: timedelta


class Keeping:
    """A thread that looks after what time changes."""

    def __init__(self, database: Database, retention: Retention, check: timedelta, registry: CollectorRegistry) -> None:
        self._database = database
        self._retention = retention
        self._check = check
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attestation-keeping")
        self._moved = Counter(
            "steelyard_attestation_silent", "Nodes that lapsed or failed by silence.", ["state"], registry=registry
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; return when it has."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        left = 0.0
        while not self._stop.wait(self._check.total_seconds()):
            self._guarded(self.look)
            left -= self._check.total_seconds()
            if left <= 0:
                left = self._retention.every.total_seconds()
                self._guarded(self.tidy)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            # The thread's edge: no error ends the timer; what was not done is done the next time.
            _log.exception("keeping.bug")

    def look(self) -> int:
        """Let passes lapse, and fail who was silent too long; return how many nodes moved."""
        moved = 0
        for before, event, column, why in (
            (State.PASSED, Event.LAPSE, nodes.c.expires, "it did not report in time"),
            (State.OVERDUE, Event.GIVE_UP, nodes.c.fails, "it was silent for too long"),
        ):
            while due := self._due(before, column):
                with self._database.writing() as tx:
                    for name in due:
                        moved += self._move(tx, name, before, event, why)
                if len(due) < AT_ONCE:
                    break
        return moved

    def _due(self, state: State, column: Column[Any]) -> list[str]:
        query = (
            select(nodes.c.name)
            .where(nodes.c.state == state.value, column <= self._database.clock())
            .order_by(column)
            .limit(AT_ONCE)
        )
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def _move(self, tx: Transaction, name: str, before: State, event: Event, why: str) -> int:
        node = store.find_node(tx.connection, name)
        # It may have reported, or somebody may have seen to it, since it was looked for.
        if node is None or node.state is not before or not _is_due(node, event, tx):
            return 0
        values = {"expires": None, "fails": None} if event is Event.GIVE_UP else {}
        state = store.move(tx, node, event, actor="attestation", why=why, values=values, detail={})
        self._moved.labels(state.value).inc()
        return 1

    def tidy(self) -> None:
        """Forget what is of no use any more, a little at a time."""
        with self._database.writing() as tx:
            tx.connection.execute(delete(registrations).where(registrations.c.expires <= tx.now))
            verdicts.forget_old(tx)
        for work in (archive.forget, archive.sweep):
            while not self._stop.is_set():
                with self._database.writing() as tx:
                    gone = work(tx, before=tx.now - self._retention.kept, at_most=AT_ONCE)
                if gone < AT_ONCE:
                    break


def _is_due(node: Node, event: Event, tx: Transaction) -> bool:
    until = node.expires if event is Event.LAPSE else node.fails
    return until is not None and until <= tx.now
